"""Scripts that are killed again and again, in processes of their own, on tiny NIfTI.

tests/killed.py sends the signal at a step or a file, so that nothing depends on timing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import data, files, io, manifest, runs, spec
from tests import nifti
from tests.test_runs import shown

ROOT = Path(__file__).parents[1]
SHAPE = (160, 160, 6)
SIZE = 64  # of the stand-ins


def run(points, script, *flags):
    """Runs a script once to each of the points of tests/killed.py.

    Returns:
        Exit codes, minus the signal where one killed it; and all that was said.
    """
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",  # or --deterministic would begin once more
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "tests/killed.py", ",".join(points), script, *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codes = done.stdout.rpartition("ended: ")[2].split()
    return [int(code) for code in codes], done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        nifti.write_subject(folder, f"s{number}", SHAPE, number, labels=(2, 4))
    return folder


def losses(run_dir):
    lines = map(json.loads, (run_dir / "losses.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def events(run_dir):
    """{step: losses} of TensorBoard's files; a tag that a step has twice fails."""
    found = {}
    for step, tag, value in shown(run_dir, tags=True):
        assert tag not in found.setdefault(step, {}), (step, tag)
        found[step][tag] = value
    return found


@pytest.mark.once
def test_a_run_that_is_killed_ten_times_is_bit_by_bit_one_that_is_not(folder, tmp_path):
    steps = 40
    flags = [
        f"--data_dir={folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        *("--image_size=32", "--width=2", "--batch_size=2", "--slices=1:5"),
        *("--nocheck", "--scheme=four_channel", "--deterministic"),
        f"--iterations={steps}",
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codes, said = run(["end"], "eval_segmentation.py", f"--run_dir={whole}", *flags)
    assert codes == [0], said[-3000:]

    rng = np.random.default_rng(0)
    kills = np.sort(rng.choice(np.arange(1, steps - 2), 10, replace=False))
    kinds = ("step", "step", "save")
    points = [f"{kinds[i % 3]}:{step}:SIGKILL" for i, step in enumerate(kills)]
    points += [f"step:{steps - 2}:SIGINT", "end"]
    codes, said = run(points, "eval_segmentation.py", f"--run_dir={parts}", *flags)
    assert codes == [-signal.SIGKILL] * 10 + [130, 0], said[-3000:]
    assert f"SIGINT after step {steps - 1} of {steps}, with a checkpoint" in said
    assert "start the same command again" in said
    assert said.count("is damaged") >= 2

    assert losses(parts) == losses(whole)
    assert [line["step"] for line in losses(whole)] == list(range(1, steps + 1))
    assert events(parts) == events(whole)
    results = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    one, other = ({k: line[k] for k in ("by_slice", "by_subject")} for line in results)
    assert one == other


@pytest.mark.once
@pytest.mark.parametrize("script", ["train_structural.py", "train_multimodal.py"])
def test_a_stage_that_is_killed_goes_on_bit_by_bit(folder, tmp_path, script):
    flags = [
        f"--data_dir={folder}",
        *("--image_size=32", "--width=2", "--batch_size=1", "--slices=1:5"),
        *("--nocheck", "--steps=9", "--deterministic"),
    ]
    # The uninterrupted one ends by a kill too: what follows is not looked at.
    for name, kills in (("whole", [8]), ("parts", [4, 8])):
        points = [f"step:{step}:SIGKILL" for step in kills]
        codes, said = run(points, script, f"--run_dir={tmp_path / name}", *flags)
        assert codes == [-signal.SIGKILL] * len(kills), said[-3000:]
    assert len(losses(tmp_path / "whole")) == 8
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def arrays(run_dir):
    """All arrays of the newest checkpoint, by name."""
    newest = tf.train.load_checkpoint(str(run_dir / "checkpoints"))
    names = newest.get_variable_to_shape_map().keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return {name: newest.get_tensor(name) for name in names if "counter" not in name}


@pytest.mark.once
def test_a_finished_run_whose_steps_are_raised_is_bit_by_bit_one_of_so_many(
    folder, tmp_path
):
    flags = [
        f"--data_dir={folder}",
        *("--image_size=32", "--width=2", "--batch_size=1", "--slices=1:5"),
        *("--nocheck", "--deterministic"),
    ]
    command = ("train_structural.py", f"--run_dir={tmp_path / 'raised'}", *flags)
    whole = ("train_structural.py", f"--run_dir={tmp_path / 'whole'}", *flags)
    codes, said = run(["end"], *command, "--steps=2")
    assert codes == [0], said[-3000:]
    export = tmp_path / "raised/export/structure.json"
    assert '"--steps=2"' in export.read_text()
    # The rate is at its peak for the first half: steps 0 and 1 of 2 are those of 4.
    codes, said = run(["end"], *command, "--steps=4")
    assert codes == [0], said[-3000:]
    assert "4 steps in all, no longer 2; 2 are done" in said
    codes, _ = run(["end"], *whole, "--steps=4")
    assert losses(tmp_path / "raised") == losses(tmp_path / "whole")
    one, other = (arrays(tmp_path / name) for name in ("raised", "whole"))
    assert one.keys() == other.keys()
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []
    assert '"--steps=4"' in export.read_text()

    before = contents(tmp_path / "raised")
    assert b"--steps=4" in before["flags.txt"]
    codes, said = run(["end"], *command, "--steps=3")
    assert codes == [runs.EXIT_BAD_INPUT] and "--steps=4 or more" in said
    assert contents(tmp_path / "raised") == before


@pytest.mark.once
def test_the_first_phase_keeps_its_length_when_steps_are_raised(folder, tmp_path):
    command = [
        "train_multimodal.py",
        f"--run_dir={tmp_path / 'run'}",
        f"--data_dir={folder}",
        *("--image_size=32", "--width=2", "--batch_size=1", "--slices=1:5"),
        *("--nocheck", "--precision=float32", "--first_phase=0.5"),
    ]
    for steps in (2, 4):  # of 4 steps half would be two
        codes, said = run(["end"], *command, f"--steps={steps}")
        assert codes == [0], said[-3000:]
    judged = ["d_real" in line for line in losses(tmp_path / "run")]
    assert judged == [False, True, True, True]


def disc(radius):
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return (np.hypot(y, x) <= radius).astype(np.float32)


class Maps(tf.Module):
    """A ring for every code, open where the code's first number is below 0."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def generate(self, code):
        ring = disc(26) - disc(24)
        gap = np.zeros_like(ring)
        gap[: SIZE // 2, 26:38] = 1
        is_open = tf.cast(code[:, 0] < 0, tf.float32)[:, None, None]
        background = tf.zeros_like(is_open) + (1 - disc(27))
        structure = ring * (1 - gap * is_open)
        return {"structure": structure[..., None], "background": background[..., None]}


class Generator(tf.Module):
    """The label in the intensities of all four, and f."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, SIZE, SIZE, 1]),
            tf.TensorSpec([None, SIZE, SIZE], tf.int32),
        ]
    )
    def generate(self, structure, label):
        image = 0.1 + 0.2 * tf.cast(label, tf.float32)[..., None] + 0.05 * structure
        return {name: image for name in spec.BRATS.modalities}


class Segmentor(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 4])])
    def segment(self, images):
        found = tf.round((tf.transpose(images, [0, 3, 1, 2]) - 0.12) / 0.2)
        return {"label": tf.cast(tf.maximum(found, 0), tf.int32)}


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Flags of build_dataset.py for two finished runs of stand-ins for the networks."""
    root = tmp_path_factory.mktemp("runs")
    names = ["s0", "s1"]
    data.save_split(
        root / "structural/split.json", {"seed": 0, "train": names, "test": ["s2"]}
    )
    described = {**data.preprocessing(SIZE, (1, 5)), "training_subjects": names}
    for path, module, more in (
        ("structural/export/structure", Maps(), {"beta": 0.07, "code_dim": 4}),
        ("multimodal/export/generator", Generator(), {"beta": 0.07}),
        ("multimodal/export/segmentor", Segmentor(), {"scheme": "multiple"}),
    ):
        tf.saved_model.save(module, str(root / path))
        files.write_json(root / f"{path}.json", {**described, **more})
    return root, [
        f"--data_dir={folder}",
        f"--structural_run={root / 'structural'}",
        f"--multimodal_run={root / 'multimodal'}",
        f"--cache_dir={root / 'cache'}",
        *("--nocheck", "--samples=5", "--batch_size=4", "--max_tries=1"),
        *("--accepted_only", "--lesion_free=0.4", "--seed=1"),
    ]


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != runs.LOCK
    }


@pytest.mark.once
def test_a_data_set_that_is_killed_again_and_again_has_the_bytes_of_one_that_is_not(
    trained, tmp_path
):
    out = tmp_path / "out"
    command = ("build_dataset.py", *trained[1], f"--output_dir={out}")
    codes, said = run(["end"], *command)
    assert codes == [0], said[-3000:]
    out.rename(tmp_path / "whole")

    # Two files are opened and renamed before the first volume, then eight a volume, the
    # sheet and the manifest.
    numbers = np.random.default_rng(0).integers(5, 24, 5)
    points = [f"file:{number}:SIGKILL:{out}" for number in numbers]
    points[2] = points[2].replace("SIGKILL", "SIGTERM")
    codes, said = run([*points, "end"], *command)
    assert codes == [-9, -9, 143, -9, -9, 0], said[-3000:]
    assert "stopped by SIGTERM; start the same command again" in said

    whole, parts = contents(tmp_path / "whole"), contents(out)
    assert sorted(parts) == sorted(whole)
    assert [name for name in whole if parts[name] != whole[name]] == []
    assert sum(name.endswith("_seg.nii.gz") for name in whole) == 3
    rows = whole["manifest.csv"].decode().splitlines()[1:]

    # Finished, then damaged: a line and a half of the manifest, a folder, a label.
    path = out / "manifest.csv"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
    shutil.rmtree(out / "synth-00002")
    label = out / "synth-00003/synth-00003_seg.nii.gz"
    io.write_nifti(label, np.zeros([240, 240, 1]), np.uint8)
    codes, said = run(["end"], *command)
    assert codes == [0] and "3 samples to make" in said, said[-3000:]
    assert "manifest.csv" in said and f"{label}: it has changed" in said
    assert contents(out) == whole
    # Each volume has numbers of its own, one after the other.
    of_volumes = [divmod(int(row.split(",")[2]), manifest.NUMBERS) for row in rows]
    counts = [sum(volume == k for volume, _ in of_volumes) for k in range(3)]
    assert of_volumes == [
        (k, n) for k, count in enumerate(counts) for n in range(count)
    ]
    assert sum(not row.startswith(",") for row in rows) == 5 < len(rows)


@pytest.mark.parametrize(
    ("export", "key", "value", "shown"),
    [
        ("multimodal/export/generator", "labels", ["background", "lesion"], "'lesion'"),
        ("multimodal/export/segmentor", "crop", 160, "crop: 160  instead of  192"),
        ("structural/export/structure", "scaling", None, "scaling: None  instead of"),
        ("multimodal/export/generator", "beta", 0.2, "beta: 0.2  instead of  0.07"),
    ],
)
def test_an_export_with_other_preprocessing_is_refused_with_the_difference(
    trained, export, key, value, shown
):
    root, _ = trained
    path = root / f"{export}.json"
    before = path.read_text()
    files.write_json(path, {**json.loads(before), key: value})
    load = "import sys; from brats_gan import trained_models; "
    load += "trained_models.load_models(*sys.argv[1:])"
    arguments = [root / "structural", *[root / "multimodal"] * 2]
    try:
        done = subprocess.run(
            [sys.executable, "-c", load, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        path.write_text(before)
    last = done.stderr[done.stderr.rindex("RunError: ") :]
    assert shown in last and str(root / export.split("/")[0]) in last
