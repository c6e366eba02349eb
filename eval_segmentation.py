"""Stage 4: what synthetic data is worth for lesion segmentation (Sections 2.7, 3).

Trains segmentors on real subjects, on synthetic ones, or on both, and scores them on
the real subjects that no stage has seen: one run, or the rows of Tables 1 and 2. Start
the same command again to continue.
"""

import json

from absl import flags

from brats_gan import (
    common_flags,
    lesion_components,
    runs,
    segmentation,
)
from brats_gan.stages import segmentation as stage

common_flags.data_dir("Real BraTS folder, see data/README.md.")
_RUN = common_flags.run_dir()
flags.DEFINE_list("table", [], "Tables of the paper to fill: 1, 2, or 1,2.")
flags.DEFINE_list(
    "experiment",
    [],
    "Rows of Table 2 to fill: numbers of 1 to 25, or all; with --table=2 these alone.",
)
common_flags.count(
    "repeats",
    4,
    "Runs of each row, with seeds from --seed on (Section 3.4).",
    1_000_000,
)
common_flags.workers("repeats of tables")
common_flags.layout()
common_flags.patient_pattern()
common_flags.labels()
common_flags.spec()
common_flags.path("synthetic_dir", "Output of build_dataset.py.")
flags.DEFINE_list(
    "synthetic_dirs",
    [],
    "Table 1: SCHEME:DIR for each guidance scheme, made by build_dataset.py --nofilter "
    "of a generator trained with that --scheme.",
)
flags.DEFINE_enum(
    "train_on",
    "both",
    ["real", "synthetic", "both"],
    "Training data of a single run; without --synthetic_dir it is real.",
)
common_flags.split("that of --synthetic_dir, or drawn")
common_flags.split_seed()
common_flags.held_out()
common_flags.slices()
common_flags.cache_dir()
common_flags.check()
flags.DEFINE_enum(
    "scheme",
    "multiple",
    [*lesion_components.SCHEMES, "four_channel"],
    "Segmentors as in train_multimodal.py (Section 2.7); four_channel is one SEG with "
    "the registered modalities as channels.",
)
common_flags.count(
    "iterations",
    None,
    "Training steps of every run; by --epochs if unset.",
    common_flags.MOST_STEPS,
)
common_flags.epochs(
    100,
    "Passes over the real training slices, if --iterations is unset (Section 3.4).",
)
common_flags.batch_size(1, "Slices per step (Section 3.4).")
common_flags.image_size(4)
common_flags.width()
common_flags.learning_rate(1e-4, "Learning rate of Adam (Section 3.4).")
common_flags.final_rate(1.0)
common_flags.number("beta_1", 0.5, "beta_1 of Adam (Section 3.4).", 0, 0.9999)
common_flags.number(
    "dropout",
    segmentation.INPUT_DROPOUT,
    "Dropout of the input (Section 3.4).",
    0,
    0.99,
)
common_flags.of_layers()
common_flags.label_loss()
common_flags.init_from("For a single run. ")
flags.DEFINE_bool(
    "enhanced",
    False,
    "In a single run, transform each slice at random every time it is used.",
)
common_flags.precision()
common_flags.seed("Seeds weights, noise, and the choice and order of slices.")
common_flags.deterministic()
common_flags.checkpoint_seconds()
common_flags.steps_per_call()
common_flags.strategy()
flags.DEFINE_bool(
    "keep_checkpoints",
    False,
    "Keep the weights of finished repeats; those of row 1 are kept for Table 1.",
)
common_flags.path(
    "results",
    "File of results. If unset, results.jsonl: for tables in run_dir, for a single run "
    "beside it.",
)
flags.mark_flags_as_required(["data_dir", "run_dir"])


def main(argv):
    del argv  # checked by runs.main
    settings = common_flags.chosen(stage.Settings)
    scored = stage.score(
        settings, common_flags.source(), _RUN.value, common_flags.record
    )
    if scored.line is None:
        for table in scored.tables:
            print(table.read_text())
        print(f"results: {scored.results}")
    else:
        shown = ("experiment", "train_on", "iterations", "mse")
        shown += ("dice_index", "dice_whole")
        print(json.dumps({name: scored.line[name] for name in shown}))
        sheet = scored.run_dir / "segmentation.png"
        print(f"scores: {scored.results}\nsheet: {sheet}")


if __name__ == "__main__":
    runs.main(main)
