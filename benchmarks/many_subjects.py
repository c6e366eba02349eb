"""Seconds a subject and memory of `prepare_data.py check`, by the number of subjects.

    python -m benchmarks.many_subjects [--subjects=N] [--before=CHECKOUT]

Makes N tiny subjects of BraTS 2023, three visits a patient, and checks 100, 300, ... N
of them, with --report and without, in a process each. With --before another checkout's
script checks the same folders in turn. Where one subject in ten has a problem (its T2
is a copy of its FLAIR, which is there twice then), the page has pictures. The start of
Python is part of the time. Prints a table and, last, a line of JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from absl import app, flags

from brats_gan import spec

_SUBJECTS = flags.DEFINE_integer("subjects", 1000, "The most.", lower_bound=1)
_BEFORE = flags.DEFINE_string("before", None, "Checkout to compare with.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each.", lower_bound=1)

SHAPE = (24, 24, 12)
VISITS = 3  # of a patient
_FILES = {"t1": "t1n", "t2": "t2w", "t1ce": "t1c", "flair": "t2f"}


def write_subject(folder, number, spoiled=False):
    """Writes one visit: an ellipsoid with noise of its own, and a lesion in it."""
    name = f"BraTS-GLI-{number // VISITS:05d}-{number % VISITS:03d}"
    rng = np.random.default_rng(number)
    axes = (np.linspace(-1, 1, size) for size in SHAPE)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = (x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 2) ** 2 < 1
    lesion = ((x - 0.2) / 0.3) ** 2 + (y / 0.3) ** 2 + (z / 2) ** 2 < 1
    images = {
        modality: np.where(inside, rng.integers(300, 900, SHAPE), 0).astype(np.int16)
        for modality in spec.BRATS.modalities
    }
    if spoiled:
        images["t2"] = images["flair"]
    volumes = {end: images[modality] for modality, end in _FILES.items()}
    volumes["seg"] = (2 * lesion).astype(np.uint8)
    (folder / name).mkdir()
    placed = np.diag([-1.0, -1.0, 1.0, 1.0])
    for end, volume in volumes.items():
        image = nib.Nifti1Image(volume, placed)
        nib.save(image, folder / name / f"{name}-{end}.nii.gz")


def checked(checkout, folder, *more):
    """(seconds, CPU seconds, peak MB) of a check, and its exit code."""
    command = [sys.executable, "prepare_data.py", "check", f"--data_dir={folder}"]
    command += [f"--slices=0:{SHAPE[2]}", *more]
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)  # of this child alone
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    cpu = usage.ru_utime + usage.ru_stime
    return (seconds, cpu, usage.ru_maxrss / 2**10), process.returncode


def contenders(scratch):
    """{name: (checkout, further flags, whether the folder has problems)}."""
    here = Path(__file__).resolve().parents[1]
    page = f"--report={scratch}/page.html"
    found = {
        "check": (here, (), False),
        "check --report": (here, (page,), False),
        "check --report, problems": (here, (page,), True),
    }
    if _BEFORE.value:
        before = Path(_BEFORE.value).resolve()
        found = {"before": (before, (), False), **found}
    return found


def measured(scratch, count):
    """{name: medians of `checked`} of a number of subjects, interleaved."""
    folders = {}
    for spoiled in (False, True):
        folders[spoiled] = scratch / f"{count}-{'spoiled' if spoiled else 'good'}"
        folders[spoiled].mkdir()
        for number in range(count):
            write_subject(folders[spoiled], number, spoiled and number % 10 == 0)
    rounds = {name: [] for name in contenders(scratch)}
    for _ in range(_ROUNDS.value):
        for name, (checkout, more, spoiled) in contenders(scratch).items():
            used, code = checked(checkout, folders[spoiled], *more)
            if code != spoiled:
                raise SystemExit(f"{name}, {count} subjects: exit code {code}")
            rounds[name].append(used)
    return {
        name: [statistics.median(each) for each in zip(*used, strict=True)]
        for name, used in rounds.items()
    }


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    counts = [n for n in (100, 300) if n < _SUBJECTS.value] + [_SUBJECTS.value]
    figures = {}
    print(
        "| subjects | | ms a subject | CPU, ms | highest, MB |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            figures[count] = measured(Path(scratch), count)
            for name, (seconds, cpu, peak) in figures[count].items():
                each = f"{1e3 * seconds / count:.1f} | {1e3 * cpu / count:.1f}"
                print(f"| {count} | {name} | {each} | {peak:.0f} |", flush=True)
    most = figures[counts[-1]]
    summary = {"subjects": figures}
    if _BEFORE.value:
        summary["cpu_ratio"] = round(most["check"][1] / most["before"][1], 2)
    print(json.dumps(summary))


if __name__ == "__main__":
    app.run(main)
