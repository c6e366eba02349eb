"""Stage 4: what synthetic data is worth for lesion segmentation (Sections 2.7, 3).

Trains segmentors on real subjects, on synthetic ones, or on both, and scores them on
the real subjects that no stage has seen: one run, or the rows of Tables 1 and 2. Start
the same command again to continue.
"""

import json
from pathlib import Path

import numpy as np
from absl import flags, logging

from brats_gan import (
    common_flags,
    data,
    figures,
    io,
    lesion_components,
    runs,
    segmentation,
    spec,
    synthetic_dataset,
    weights,
)
from brats_gan.experiments import mixing, runner, tables
from brats_gan.lazy import tf

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

# What may differ when a command is started again: what to run, not how.
FREE = (
    "table",
    "experiment",
    "repeats",
    "synthetic_dirs",
    "keep_checkpoints",
    "results",
)
SHOWN = 6  # rows of segmentation.png


def draw(nets, slices, path):
    """The held-out slices with the largest lesions: images, label, what was found."""
    lesion = [np.count_nonzero(slices.labels([row])) for row in range(len(slices))]
    rows = sorted(np.argsort(lesion)[-40::7])[:SHOWN]
    x = slices.intensities(rows)
    found = lesion_components.segment(nets, tf.constant(x[..., None]))
    found = np.argmax(found, -1)[:, -1]
    label = slices.labels(rows)
    cells = [[*x[i], label[i], found[i]] for i in range(len(rows))]
    titles = [*spec.MODALITIES, "label", "found"]
    figures.sheet(cells, titles, path, label_columns=("label", "found"))


def as_slices(subjects):
    """data.Slices of some subjects, by the flags."""
    return data.Slices(
        subjects,
        _SIZE.value,
        io.parse_slices(_SLICES.value),
        cache_dir=_CACHE.value,
    )


def single_run(training, run_dir, results, real, held_out):
    """One run on everything there is, with a sheet and an export."""
    key = (None, run_dir.name, 0)
    train_on = _TRAIN_ON.value if _SYNTHETIC.value else "real"
    sources = real if train_on != "synthetic" else []
    if train_on != "real":
        sources = sources + synthetic_dataset.verified_subjects(
            _SYNTHETIC.value, held_out
        )
    slices = as_slices(sources)
    held_out_slices = as_slices(held_out)
    if train_on == "synthetic":
        real_count = len(as_slices(real))
    else:  # real subjects come first in `sources`, and are decoded already
        real_count = np.count_nonzero(slices.index[:, 0] < len(real))
    iterations = runs.total_steps(
        *(run_dir, _ITERATIONS, _EPOCHS, real_count, _BATCH.value),
        *(_RATE.value, _FINAL_RATE.value),
    )
    items = np.stack([np.arange(len(slices)), np.zeros(len(slices), int)], 1)
    plan = [mixing.Phase((train_on,), items, iterations)]
    segmentors = runner.Segmentors(training, iterations, _ENHANCED.value)

    def begin():
        return weights.begin(
            run_dir,
            "segmentation",
            segmentors.build,
            segmentors.nets,
            _INIT_FROM.value,
            [subject.name for subject in held_out],
        )

    begun = segmentors.train(run_dir, slices, plan, _SEED.value, begin)
    scores = segmentation.score(segmentors.find, held_out_slices)
    nets = segmentors.nets
    draw(nets, held_out_slices, run_dir / "segmentation.png")
    description = {
        **data.preprocessing(_SIZE.value, io.parse_slices(_SLICES.value)),
        "training_subjects": [subject.name for subject in real],
        "data_fingerprint": slices.fingerprint,
        "initialised_from": begun["initialised_from"],
        "scheme": _SCHEME.value,
    }
    runs.export(
        run_dir,
        "segmentor",
        list(nets.values()),
        {"segment": lesion_components.endpoint(nets, _SIZE.value)},
        description,
    )
    weights.finish(run_dir, nets, description, iterations)
    line = {
        **runner.result(key, training.scheme, run_dir, _SEED.value, plan, scores),
        "train_on": train_on,
        "held_out": [subject.name for subject in held_out],
    }
    tables.record(results, line)
    shown = ("experiment", "train_on", "iterations", "mse", "dice_index", "dice_whole")
    print(json.dumps({name: line[name] for name in shown}))
    print(f"scores: {results}\nsheet: {run_dir / 'segmentation.png'}")


def default_iterations(real_count):
    """Steps of --epochs passes over so many real training slices (Section 3.4)."""
    return round(_EPOCHS.value * real_count / _BATCH.value)


def wanted():
    """What the flags ask for: [(table, row name)], in the order of the tables.

    Raises:
        RunError: a flag names a table, row or scheme that there is not.
    """
    known = {"1": tables.TABLE1, "2": tables.TABLE2}
    names = [str(number) for number in tables.TABLE2]
    for flag, values, allowed in (
        ("table", _TABLE.value, [*known]),
        ("experiment", _EXPERIMENT.value, [*names, "all"]),
        ("synthetic_dirs", [*test_sets()], lesion_components.SCHEMES),
    ):
        for value in values:
            if value not in allowed:
                raise runs.RunError(
                    f"--{flag}: {value!r} is none of {', '.join(allowed)}"
                )
    rows = [int(name) for name in names if name in _EXPERIMENT.value]
    if "2" in _TABLE.value or "all" in _EXPERIMENT.value:
        rows = [*tables.TABLE2]
    asked = [(2, row) for row in rows]
    if "1" in _TABLE.value:
        asked += [(1, row) for row in tables.TABLE1 if row in ("real", *test_sets())]
    return asked


def test_sets():
    """{scheme: folder} of --synthetic_dirs."""
    return dict(pair.partition(":")[::2] for pair in _SYNTHETIC_DIRS.value)


def main(argv):
    del argv  # checked by runs.main
    heaviest = lesion_components.heaviest_convolution(
        _SCHEME.value, _SIZE.value, _WIDTH.value, _BATCH.value
    )
    common_flags.set_up(
        _PRECISION, _RUN.value, _DETERMINISTIC.value, _SEED.value, heaviest
    )
    asked = wanted()
    if asked and _INIT_FROM.value:
        raise runs.RunError(
            "--init_from is for a single run: rows of the tables begin from nothing, "
            "so that they compare; leave out --table and --experiment, or --init_from"
        )
    # The repeats of a table must all be of one length; a single run may be made longer.
    run_dir = runs.start(_RUN.value, {*FREE, *(() if asked else runs.LENGTH)})
    logging.info("stage 4: %s, scored on held-out subjects of %s", run_dir, _DATA.value)
    given = _SPLIT.value or (_SYNTHETIC.value and f"{_SYNTHETIC.value}/split.json")
    real, held_out = data.split_subjects(
        _DATA.value,
        run_dir,
        seed=_SPLIT_SEED.value,
        given=given,
        layout=_LAYOUT.value,
        check=_CHECK.value,
        slices=io.parse_slices(_SLICES.value),
        held_out=_HELD_OUT.value,
        strict=bool(_SPLIT.value)
        or not synthetic_dataset.made_without_data(_SYNTHETIC.value or ""),
    )
    beside = run_dir if asked else run_dir.parent
    results = Path(_RESULTS.value or beside / "results.jsonl")
    training = runner.Training(
        scheme=_SCHEME.value,
        image_size=_SIZE.value,
        width=_WIDTH.value,
        batch_size=_BATCH.value,
        rate=_RATE.value,
        beta_1=_BETA_1.value,
        final_rate=_FINAL_RATE.value,
        label_loss=_LABEL_LOSS.value,
        dropout=_DROPOUT.value,
        precision=_PRECISION.value,
        deterministic=bool(_DETERMINISTIC.value),
        checkpoint_seconds=_CHECKPOINT_SECONDS.value,
        steps_per_call=common_flags.per_call(_STEPS_PER_CALL, _DETERMINISTIC),
    )
    if asked:
        runner.fill_tables(
            training,
            asked,
            run_dir,
            results,
            real,
            held_out,
            as_slices,
            lambda count: _ITERATIONS.value or default_iterations(count),
            _SYNTHETIC.value,
            test_sets(),
            _SEED.value,
            _REPEATS.value,
            _KEEP.value,
        )
    else:
        single_run(training, run_dir, results, real, held_out)


if __name__ == "__main__":
    runs.main(main)
