"""What synthetic volumes are worth to a segmentor in three dimensions.

    python -m benchmarks.segment_volumes --data_dir=REAL --split=RUN/split.json \\
        --synthetic_dir=runs/volumes --monai_python=PYTHON [--patients=DIR]

MONAI's SegResNet is trained for the same steps on as many real volumes as there are
synthetic ones, on the synthetic ones, and on both (with --sets on --few real ones too,
and on these with the synthetic ones, `few+`), --repeats times each. It is scored on the
held-out subjects of the split and on --patients: Dice over all voxels of a volume and
lesion by lesion, of each region. PYTHON is that of an environment of its own:

    python -m venv ENV; ENV/bin/pip install torch monai
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

from brats_gan import data, io, lesion_metrics, metrics, spec

_DATA = flags.DEFINE_string("data_dir", None, "Real data.", required=True)
_SPLIT = flags.DEFINE_string("split", None, "Of the data.", required=True)
_SYNTHETIC = flags.DEFINE_string(
    "synthetic_dir", None, "Of build_dataset.py --volumes.", required=True
)
_PATIENTS = flags.DEFINE_string("patients", None, "Other data to be scored on.")
_PYTHON = flags.DEFINE_string("monai_python", sys.executable, "Has torch and monai.")
_SIZE = flags.DEFINE_integer("image_size", 64, "Side of a slice.")
_SLICES = flags.DEFINE_string("slices", "56:104", "Range; a multiple of 8.")
_SETS = flags.DEFINE_list("sets", ["real", "synthetic", "both"], "And few and few+.")
_STEPS = flags.DEFINE_integer("steps", 400, "Of each training.")
_REPEATS = flags.DEFINE_integer("repeats", 2, "Seeds.")
_FEW = flags.DEFINE_integer("few", 2, "Real subjects of few and few+.")


def read(subjects, slices):
    """(images [N, M, S, H, W] float32, labels [N, S, H, W]) of subjects."""
    found = [io.read_subject(each, slices, _SIZE.value) for each in subjects]
    images, labels = (np.stack(each) for each in zip(*found, strict=True))
    return np.moveaxis(images, -1, 1), labels


def scores(labels, found):
    """{name: mean over the volumes} of Dice, over voxels and by lesion."""
    side = spec.BRATS.crop / _SIZE.value  # mm
    rows = []
    for label, predicted in zip(labels, found, strict=True):
        row = lesion_metrics.scores(label, predicted, (1.0, side, side))
        for part, classes in metrics.parts().items():
            row[f"dice_{part}"] = metrics.dice(
                np.isin(label, classes), np.isin(predicted, classes)
            )
        rows.append(row)
    return metrics.mean_scores(rows)


def main(argv):
    del argv
    slices = io.parse_slices(_SLICES.value)
    subjects = {each.name: each for each in io.find_subjects(_DATA.value)}
    split = data.given_split(Path(_SPLIT.value))
    synthetic = read(io.find_subjects(_SYNTHETIC.value), slices)
    real = [subjects[n] for n in split["train"] if n in subjects]
    real = read(real[: len(synthetic[0])], slices)
    tests = {"held-out": read([subjects[n] for n in split["test"]], slices)}
    if _PATIENTS.value:
        tests["patients"] = read(io.find_subjects(_PATIENTS.value), slices)
    few = tuple(each[: _FEW.value] for each in real)
    sets = {
        "few": few,
        "real": real,
        "synthetic": synthetic,
        "few+": tuple(map(np.concatenate, zip(few, synthetic, strict=True))),
        "both": tuple(map(np.concatenate, zip(real, synthetic, strict=True))),
    }
    sets = {name: sets[name] for name in _SETS.value}
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder, "test.npz")
        np.savez(test, images=np.concatenate([each[0] for each in tests.values()]))
        for name, (images, labels) in sets.items():
            training = Path(folder, "training.npz")
            np.savez(training, images=images, labels=labels)
            for seed in range(_REPEATS.value):
                print(f"{name}, {len(images)} volumes, seed {seed}", flush=True)
                found = Path(folder, "found.npz")
                script = Path(__file__).with_name("segresnet.py")
                numbers = map(str, (seed, _STEPS.value, spec.BRATS.num_labels))
                command = [_PYTHON.value, script, training, test, found, *numbers]
                subprocess.run(command, check=True)
                with np.load(found) as file:
                    predicted = file["labels"]
                start = 0
                for where, (_, known) in tests.items():
                    part = predicted[start : start + len(known)]
                    row = {"set": name, "seed": seed, "on": where}
                    row |= {k: round(v, 4) for k, v in scores(known, part).items()}
                    print(json.dumps(row), flush=True)
                    start += len(known)


if __name__ == "__main__":
    app.run(main)
