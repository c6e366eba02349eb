"""Stage 4: what synthetic data is worth for lesion segmentation (Sections 2.7, 3).

Trains a segmentor on real subjects, on synthetic ones, or on both, scores it on the
real subjects that no stage has seen, and appends a line to results.jsonl.
"""

import json
import os
import time

import numpy as np
import tensorflow as tf
from absl import flags

from brats_gan import brats, data, figures, losses, metrics, runs, segmentation

_DATA = flags.DEFINE_string("data_dir", None, "Real BraTS folder, see data/README.md.")
_RUN = flags.DEFINE_string("run_dir", None, "Folder of this run; resumed if it exists.")
_LAYOUT = flags.DEFINE_string("layout", None, "Layout of data_dir; default: look.")
_SYNTHETIC = flags.DEFINE_string("synthetic_dir", None, "Output of build_dataset.py.")
_TRAIN_ON = flags.DEFINE_enum(
    "train_on", "both", ["real", "synthetic", "both"], "Without --synthetic_dir: real."
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "A split.json to keep to; default: that of --synthetic_dir, or drawn.",
)
_SPLIT_SEED = flags.DEFINE_integer("split_seed", 0, "Seeds the split by subject.")
_HELD_OUT = flags.DEFINE_float("held_out", 0.1, "Share of subjects held out.", 0, 1)
_SLICES = flags.DEFINE_string("slices", "55:105", "Axial slices, half-open (D15).")
_CACHE = flags.DEFINE_string("cache_dir", None, "Keeps decoded slices for later runs.")
_CHECK = flags.DEFINE_bool("check", True, "Check the data before the first step.")
_SCHEME = flags.DEFINE_enum(
    "scheme",
    "multiple",
    [*segmentation.SCHEMES, "four_channel"],
    "Section 2.7; four_channel sees the four registered modalities at once.",
)
_STEPS = flags.DEFINE_integer("steps", None, "Training steps; default: by --epochs.")
_EPOCHS = flags.DEFINE_float(
    "epochs",
    100,
    "Passes over the real training slices, without --steps (Section 3.4).",
)
_BATCH = flags.DEFINE_integer("batch_size", 1, "Slices a step (Section 3.4).", 1)
_SIZE = flags.DEFINE_integer("image_size", 192, "Pixels a side, a multiple of 4.", 4)
_WIDTH = flags.DEFINE_integer("width", 64, "Base width n of the networks.", 1)
_RATE = flags.DEFINE_float("learning_rate", 1e-4, "Adam's peak rate (Section 3.4).")
_DROPOUT = flags.DEFINE_float(
    "dropout", segmentation.INPUT_DROPOUT, "Of the input (Section 3.4)."
)
_LABEL_LOSS = flags.DEFINE_enum(
    "label_loss", "weighted", list(losses.LABEL_LOSSES), "Lesion loss (D12)."
)
_ENHANCED = flags.DEFINE_bool(
    "enhanced", False, "Randomly scale, rotate, move and flip each slice (Section 3.3)."
)
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16"], "Of the convolutions."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds weights, noise and the order of slices.")
_RESULTS = flags.DEFINE_string(
    "results", None, "File to append to; default: results.jsonl beside run_dir."
)
flags.mark_flags_as_required(["data_dir", "run_dir"])

SHOWN = 6  # rows of segmentation.png


def synthetic_subjects(folder, held_out):
    """The subjects of a synthetic data set that has not seen `held_out`.

    Raises:
        RunError: its models were trained on a subject that is to be scored.
    """
    described = os.path.join(folder, "dataset_description.json")
    if not os.path.exists(described):
        raise runs.RunError(
            f"{folder} is not a finished synthetic data set: it has no "
            "dataset_description.json; start its build_dataset.py command again"
        )
    with open(described) as file:
        seen = set(json.load(file)["TrainingSubjects"])
    leaked = sorted(seen & {subject.name for subject in held_out})
    if leaked:
        raise runs.RunError(
            f"{folder} was made by models trained on {', '.join(leaked)}, which "
            f"this run holds out; give --split={folder}/split.json"
        )
    return brats.find_subjects(folder)


def score(nets, slices):
    """Scores on every slice, and on every subject's slices as one volume.

    The paper's figures are means over slices and modalities; the field's are means over
    subjects, here also averaged over the modalities the scheme answers for.
    """
    segment = tf.function(lambda x: tf.argmax(segmentation.segment(nets, x), -1))
    by_slice = {"index_dice": [], "index_mse": []}
    volumes = {}
    for x, label, subjects in data.in_order(slices, 16):
        found = segment(x).numpy()
        for one_label, one_found, subject in zip(label, found, subjects, strict=True):
            for answer in one_found:
                by_slice["index_dice"].append(metrics.index_dice(one_label, answer))
                by_slice["index_mse"].append(metrics.index_mse(one_label, answer))
            volumes.setdefault(int(subject), []).append((one_label, one_found))
    scores = {name: float(np.mean(values)) for name, values in by_slice.items()}
    regions = {}
    for pairs in volumes.values():
        label = np.stack([pair[0] for pair in pairs])  # [S, H, W]
        answers = np.stack([pair[1] for pair in pairs], 1)  # [M, S, H, W]
        for answer in answers:
            for name, value in metrics.region_dice(label, answer).items():
                regions.setdefault(name, []).append(value)
    scores.update({name: float(np.mean(values)) for name, values in regions.items()})
    return scores


def draw(nets, slices, path):
    """The held-out slices with the largest lesions: images, label, what was found."""
    lesion = [np.count_nonzero(slices.labels([row])) for row in range(len(slices))]
    rows = sorted(np.argsort(lesion)[-40::7])[:SHOWN]
    x = slices.images(rows).astype(np.float32) / data.LEVELS
    found = segmentation.segment(nets, tf.constant(x[..., None]))
    found = np.argmax(found, -1)[:, -1]
    label = slices.labels(rows)
    cells = [[*x[i], label[i], found[i]] for i in range(len(rows))]
    titles = [*brats.MODALITIES, "label", "found"]
    figures.sheet(cells, titles, path, label_columns=("label", "found"))


def main(argv):
    del argv  # checked by runs.main
    runs.set_up(_PRECISION.value, _SEED.value)
    run_dir = runs.start(_RUN.value)
    in_range = brats.parse_slices(_SLICES.value)
    synthetic_dir = _SYNTHETIC.value
    given = _SPLIT.value or (synthetic_dir and f"{synthetic_dir}/split.json")
    real, held_out = data.split_subjects(
        _DATA.value,
        run_dir,
        seed=_SPLIT_SEED.value,
        given=given,
        layout=_LAYOUT.value,
        check=_CHECK.value,
        slices=in_range,
        held_out=_HELD_OUT.value,
    )
    train_on = _TRAIN_ON.value if synthetic_dir else "real"
    sources = real if train_on != "synthetic" else []
    if train_on != "real":
        sources = sources + synthetic_subjects(synthetic_dir, held_out)
    slices = data.Slices(sources, _SIZE.value, in_range, cache_dir=_CACHE.value)
    held_out_slices = data.Slices(
        held_out, _SIZE.value, in_range, cache_dir=_CACHE.value
    )
    passed = len(real) * (in_range[1] - in_range[0])  # an epoch of real slices
    steps = _STEPS.value or round(_EPOCHS.value * passed / _BATCH.value)

    nets = segmentation.build(_SCHEME.value, _SIZE.value, _WIDTH.value)
    variables = [v for net in nets.values() for v in net.trainable_variables]
    optimizers = {"segmentation": runs.adam(variables, _RATE.value, steps)}
    train_step = segmentation.make_train_step(
        nets, optimizers, _LABEL_LOSS.value, _DROPOUT.value, _ENHANCED.value
    )

    def batches(first):
        return data.segmentation_batches(slices, _BATCH.value, _SEED.value, first)

    started = time.monotonic()
    runs.loop(
        run_dir,
        train_step,
        batches,
        steps,
        {**nets, "optimizer": optimizers["segmentation"]},
        _SEED.value,
        slices.names,
    )
    seconds = time.monotonic() - started

    scores = score(nets, held_out_slices)
    draw(nets, held_out_slices, run_dir / "segmentation.png")
    runs.export(
        run_dir,
        "segmentor",
        list(nets.values()),
        {"segment": segmentation.endpoint(nets, _SIZE.value)},
        {
            **data.preprocessing(_SIZE.value, in_range),
            "training_subjects": [subject.name for subject in real],
            "scheme": _SCHEME.value,
        },
    )
    line = {
        "run": run_dir.name,
        "train_on": train_on,
        "scheme": _SCHEME.value,
        "steps": steps,
        "seed": _SEED.value,
        "real_subjects": len(real) if train_on != "synthetic" else 0,
        "slices": len(slices),
        "held_out": [subject.name for subject in held_out],
        "seconds": round(seconds, 1),
        **{name: round(value, 5) for name, value in scores.items()},
    }
    results = _RESULTS.value or str(run_dir.parent / "results.jsonl")
    with open(results, "a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))
    print(f"scores: {results}\nsheet: {run_dir / 'segmentation.png'}")


if __name__ == "__main__":
    runs.main(main)
