"""Whether a change of the code left flags, files and numbers as they were.

    python -m benchmarks.before_and_after BEFORE AFTER [--work_dir=DIR] [--fast]

BEFORE and AFTER are two checkouts, AFTER "." for instance. Every command is run twice,
in processes of their own, each from its checkout, with one Python. One line a
comparison; exit code 1 where one differs. Compared, to the last bit or byte:

* two phantom subjects of one seed;
* 20 deterministic float32 steps of stages 1, 2 and 4, at tiny size on tiny NIfTI:
  losses, exported arrays, split.json and flags.txt;
* 20 samples of the weights that come with the package: volumes, manifest.csv,
  flags.txt;
* --help of every script, by the text;

and what BEFORE began, AFTER goes on with and reads:

* runs of which BEFORE did 10 steps, 10 more by AFTER: the losses of 20 by BEFORE;
* samples by AFTER of the exports of BEFORE;
* a run begun with other flags is refused by AFTER with the words of BEFORE.

--fast leaves out the pretrained weights.
"""

import filecmp
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from absl import app, flags

_WORK = flags.DEFINE_string("work_dir", None, "Keeps what is made; default: nothing.")
_FAST = flags.DEFINE_bool("fast", False, "Leave out the pretrained weights.")

SCRIPTS = (
    "prepare_data.py",
    "train_structural.py",
    "train_multimodal.py",
    "build_dataset.py",
    "eval_segmentation.py",
)
STEPS = 20
TINY = (
    "--image_size=32",
    "--width=4",
    "--batch_size=2",
    "--slices=1:5",
    "--precision=float32",
    "--deterministic",
)
# Runs a script with a line of losses for every step.
EVERY_STEP = """
import runpy, sys
from brats_gan import runs
loop = runs.loop
runs.loop = lambda *given, **named: loop(*given, **{**named, "log_every": 1})
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Of no two runs the same.
SECONDS = re.compile(rb'"seconds": [0-9.e-]+')
STAGES = {
    "structural": ("train_structural.py", "steps", "--code_channels=1"),
    "multimodal": ("train_multimodal.py", "steps", "--first_phase=0.5"),
    "segmentation": ("eval_segmentation.py", "iterations", "--scheme=multiple"),
}


class Comparison:
    """Prints a line a comparison and remembers whether all were equal."""

    def __init__(self):
        self.equal = True

    def __call__(self, what, same, detail=""):
        self.equal &= bool(same)
        verdict = "equal" if same else "DIFFERS"
        print(f"{verdict:8}{what}{f': {detail}' if detail else ''}", flush=True)


def call(checkout, script, *given, code=0, by=()):
    """Runs a script of a checkout; returns what it printed. `code` is due.

    `by` are arguments of Python that run it.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["TF_ENABLE_ONEDNN_OPTS"] = "0"  # or --deterministic starts it twice
    environment["PYTHONPATH"] = str(checkout)
    done = subprocess.run(
        [sys.executable, *by, str(checkout / script), *map(str, given)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != code:
        raise SystemExit(
            f"{checkout / script} ended with {done.returncode}, where {code} is due:\n"
            f"{done.stderr[-3000:]}"
        )
    return done.stdout + done.stderr


def write_subjects(checkout, folder):
    """Three tiny subjects, by the tests of one checkout."""
    code = (
        "import sys; from pathlib import Path; from tests import nifti\n"
        "for number in range(3):\n"
        "    nifti.write_subject(Path(sys.argv[1]), f's{number}', (160, 160, 6),"
        " number)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    subprocess.run(command, cwd=checkout, check=True)


def contents(folder, pattern="*"):
    """{path below the folder: bytes} of its files."""
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def differing(one, other):
    """Names that only one of two dicts has, or whose values are not the same."""
    return sorted(
        name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
    )


def losses(run_dir):
    """losses.jsonl without its clock, as bytes: numbers to their last digit."""
    return SECONDS.sub(b'"seconds": 0', (run_dir / "losses.jsonl").read_bytes())


def arrays(run_dir):
    """{"NETWORK/variable": bytes} of RUN/weights."""
    found = {}
    for path in sorted((run_dir / "weights").glob("*.npz")):
        with np.load(path) as file:
            for key in file.files:
                found[f"{path.stem}/{key}"] = file[key].tobytes()
    return found


def without(text, *places):
    """A text without the folders it names."""
    for place in places:
        text = text.replace(str(place), "FOLDER")
    return text


def stage(checkout, name, data_dir, run_dir, steps=STEPS, more=(), code=0):
    """Some steps of a stage."""
    script, length, own = STAGES[name]
    folders = (f"--data_dir={data_dir}", f"--run_dir={run_dir}")
    own = (*TINY, own, f"--{length}={steps}")
    by = ("-c", EVERY_STEP)
    return call(checkout, script, *folders, *own, *more, code=code, by=by)


def compare_help(compare, before, after):
    for script in SCRIPTS:
        one, other = (
            without(call(checkout, script, "--help"), checkout)
            for checkout in (before, after)
        )
        compare(f"{script} --help", one == other)


def compare_phantoms(compare, before, after, work):
    made = []
    for name, checkout in (("before", before), ("after", after)):
        folder = work / name / "phantom"
        given = (f"--output_dir={folder}", "--subjects=2", "--seed=7")
        call(checkout, "prepare_data.py", "phantom", *given)
        made.append(contents(folder))
    wrong = differing(*made)
    compare(f"two phantom subjects, {len(made[0])} files", not wrong, ", ".join(wrong))


def compare_stages(compare, before, after, work, data_dir):
    for name in STAGES:
        folders = [work / side / name for side in ("before", "after")]
        for checkout, folder in zip((before, after), folders, strict=True):
            # The same name of the folder for both: flags.txt names it.
            stage(checkout, name, data_dir, work / name)
            folder.parent.mkdir(parents=True, exist_ok=True)
            (work / name).rename(folder)
        one, other = (losses(folder) for folder in folders)
        compare(f"{name}: losses of {STEPS} steps", one == other)
        wrong = differing(*(arrays(folder) for folder in folders))
        compare(f"{name}: weights", not wrong, ", ".join(wrong[:5]))
        for file in ("flags.txt", "split.json"):
            same = filecmp.cmp(*(folder / file for folder in folders), shallow=False)
            compare(f"{name}: {file}", same)


def compare_resumed(compare, before, after, work, data_dir):
    for name in STAGES:
        # Each half by another checkout, and both by BEFORE: the length of a run is part
        # of its schedule, so one of 20 steps at once would be another run.
        halves = {"whole": (before, before), "resumed": (before, after)}
        kept = {}
        for what, checkouts in halves.items():
            run_dir = work / "halves" / name
            for checkout, steps in zip(checkouts, (STEPS // 2, STEPS), strict=True):
                stage(checkout, name, data_dir, run_dir, steps)
            kept[what] = work / what / name
            kept[what].parent.mkdir(parents=True, exist_ok=True)
            run_dir.rename(kept[what])
        one, other = (losses(folder) for folder in kept.values())
        compare(f"{name}: begun before, resumed after", one == other)
        wrong = differing(*(arrays(folder) for folder in kept.values()))
        compare(f"{name}: weights of it", not wrong, ", ".join(wrong[:5]))
        said = [
            stage(checkout, name, data_dir, kept["resumed"], more=["--seed=5"], code=1)
            for checkout in (before, after)
        ]
        said = [text.partition("error: ")[2] for text in said]
        compare(f"{name}: other flags are refused", said[0] == said[1] != "")


def samples(checkout, output_dir, *given):
    call(
        checkout,
        "build_dataset.py",
        f"--output_dir={output_dir}",
        "--samples=20",
        "--max_tries=2",
        "--batch_size=4",
        *given,
    )


def compare_samples(compare, sides, work, what, *given):
    """Data sets of 20 samples, each made by one of two checkouts."""
    made = []
    for name, checkout in sides:
        folder = work / "samples"
        samples(checkout, folder, *given)
        kept = work / name / what.replace(" ", "-")
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(kept)
        made.append(kept)
    for kind, pattern in (
        ("manifest", "manifest.csv"),
        ("volumes", "*.nii.gz"),
        ("flags.txt", "flags.txt"),
        ("split", "split.json"),
    ):
        found = [contents(folder, pattern) for folder in made]
        wrong = differing(*found)
        compare(
            f"{what}: {kind}, {len(found[0])} files",
            not wrong and found[0],
            ", ".join(wrong[:5]),
        )
    # The description names the code that wrote it.
    described = [
        json.loads((folder / "dataset_description.json").read_text()) for folder in made
    ]
    for each in described:
        each.pop("GeneratedBy")
    wrong = differing(*described)
    compare(f"{what}: description", not wrong, ", ".join(wrong))


def compare_all(compare, before, after, work):
    data_dir = work / "data"
    write_subjects(before, data_dir)
    compare_help(compare, before, after)
    compare_phantoms(compare, before, after, work)
    compare_stages(compare, before, after, work, data_dir)
    sides = (("before", before), ("after", after))
    exports = (
        f"--data_dir={data_dir}",
        f"--structural_run={work / 'before/structural'}",
        f"--multimodal_run={work / 'before/multimodal'}",
    )
    compare_samples(compare, sides, work, "samples of exports made before", *exports)
    compare_resumed(compare, before, after, work, data_dir)
    if not _FAST.value:
        weights = ("--structural_run=pretrained", "--multimodal_run=pretrained")
        compare_samples(compare, sides, work, "samples of pretrained weights", *weights)


def main(argv):
    if len(argv) != 3:
        raise app.UsageError("two checkouts are due, BEFORE and AFTER.")
    before, after = (Path(each).resolve() for each in argv[1:])
    for checkout in (before, after):
        if not (checkout / "train_structural.py").exists():
            raise app.UsageError(f"{checkout} is no checkout of brats_gan.")
    compare = Comparison()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(_WORK.value or temporary).resolve()
        compare_all(compare, before, after, work)
    print("all equal" if compare.equal else "not all equal")
    return 0 if compare.equal else 1


if __name__ == "__main__":
    app.run(main)
