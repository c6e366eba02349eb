"""Stage 4: what synthetic data is worth for lesion segmentation (Sections 2.7, 3).

Trains segmentors on real subjects, on synthetic ones, or on both, and scores them on
the real subjects that no stage has seen: one run, or the rows of Tables 1 and 2. Start
the same command again to continue.
"""

import json

from absl import flags

from brats_gan import (
    common_flags,
    data,
    io,
    lesion_components,
    runs,
    segmentation,
)
from brats_gan.stages import segmentation as stage

_DATA = common_flags.data_dir("Real BraTS folder, see data/README.md.")
_RUN = common_flags.run_dir()
_TABLE = flags.DEFINE_list("table", [], "Tables of the paper to fill: 1, 2, or 1,2.")
_EXPERIMENT = flags.DEFINE_list(
    "experiment", [], "Rows of Table 2 to fill: numbers of 1 to 25, or all."
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 4, "Runs of each row, seeds --seed and up (Section 3.4).", 1
)
_LAYOUT = common_flags.layout()
_SYNTHETIC = flags.DEFINE_string("synthetic_dir", None, "Output of build_dataset.py.")
_SYNTHETIC_DIRS = flags.DEFINE_list(
    "synthetic_dirs",
    [],
    "Table 1: SCHEME:DIR for each guidance scheme, made by build_dataset.py --nofilter "
    "of a generator trained with that --scheme.",
)
_TRAIN_ON = flags.DEFINE_enum(
    "train_on",
    "both",
    ["real", "synthetic", "both"],
    "Of a single run, no table; without --synthetic_dir: real.",
)
_SPLIT = common_flags.split("that of --synthetic_dir, or drawn")
_SPLIT_SEED = common_flags.split_seed()
_HELD_OUT = common_flags.held_out()
_SLICES = common_flags.slices()
_CACHE = common_flags.cache_dir()
_CHECK = common_flags.check()
_SCHEME = flags.DEFINE_enum(
    "scheme",
    "multiple",
    [*lesion_components.SCHEMES, "four_channel"],
    "Section 2.7; four_channel sees the four registered modalities at once.",
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", None, "Training steps of every run; default: by --epochs.", 1
)
_EPOCHS = flags.DEFINE_float(
    "epochs",
    100,
    "Passes over the real training slices, without --iterations (Section 3.4).",
)
_BATCH = flags.DEFINE_integer("batch_size", 1, "Slices a step (Section 3.4).", 1)
_SIZE = common_flags.image_size(4)
_WIDTH = common_flags.width()
_RATE = flags.DEFINE_float("learning_rate", 1e-4, "Adam's (Section 3.4).")
_FINAL_RATE = flags.DEFINE_float(
    "final_rate",
    1.0,
    "Share of the rate at the last step, falling over the second half; 1: constant.",
)
_BETA_1 = flags.DEFINE_float("beta_1", 0.5, "Adam's (Section 3.4).")
_DROPOUT = flags.DEFINE_float(
    "dropout", segmentation.INPUT_DROPOUT, "Of the input (Section 3.4)."
)
_LABEL_LOSS = common_flags.label_loss()
_INIT_FROM = common_flags.init_from("Of a single run. ")
_ENHANCED = flags.DEFINE_bool(
    "enhanced", False, "Of a single run: move every slice anew each time it is seen."
)
_PRECISION = common_flags.precision()
_SEED = common_flags.seed("Seeds weights, noise, choice and order.")
_DETERMINISTIC = common_flags.deterministic()
_CHECKPOINT_SECONDS = common_flags.checkpoint_seconds()
_STEPS_PER_CALL = common_flags.steps_per_call()
_KEEP = flags.DEFINE_bool(
    "keep_checkpoints",
    False,
    "Keep the weights of finished repeats; those of row 1 are kept for Table 1.",
)
_RESULTS = flags.DEFINE_string(
    "results",
    None,
    "File of results; default: results.jsonl, in run_dir for tables, else beside it.",
)
flags.mark_flags_as_required(["data_dir", "run_dir"])


def main(argv):
    del argv  # checked by runs.main
    settings = stage.Settings(
        table=tuple(_TABLE.value),
        experiment=tuple(_EXPERIMENT.value),
        repeats=_REPEATS.value,
        synthetic_dir=_SYNTHETIC.value,
        synthetic_dirs=tuple(_SYNTHETIC_DIRS.value),
        train_on=_TRAIN_ON.value,
        scheme=_SCHEME.value,
        iterations=_ITERATIONS.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH.value,
        image_size=_SIZE.value,
        width=_WIDTH.value,
        learning_rate=_RATE.value,
        final_rate=_FINAL_RATE.value,
        beta_1=_BETA_1.value,
        dropout=_DROPOUT.value,
        label_loss=_LABEL_LOSS.value,
        init_from=_INIT_FROM.value,
        enhanced=_ENHANCED.value,
        precision=_PRECISION.value,
        seed=_SEED.value,
        deterministic=_DETERMINISTIC.value,
        checkpoint_seconds=_CHECKPOINT_SECONDS.value,
        steps_per_call=_STEPS_PER_CALL.value,
        keep_checkpoints=_KEEP.value,
        results=_RESULTS.value,
    )
    source = data.Source(
        data_dir=_DATA.value,
        layout=_LAYOUT.value,
        split=_SPLIT.value,
        split_seed=_SPLIT_SEED.value,
        held_out=_HELD_OUT.value,
        slices=io.parse_slices(_SLICES.value),
        cache_dir=_CACHE.value,
        check=_CHECK.value,
    )
    scored = stage.score(settings, source, _RUN.value, common_flags.record)
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
