"""The four scripts, as a user runs them: in processes of their own, on tiny NIfTI."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    data,
    files,
    io,
    lesion_components,
    manifest,
    multimodal,
    runs,
    spec,
    structural,
    structural_map,
    styles,
    weights,
)
from brats_gan.experiments import tables
from brats_gan.stages import flows
from brats_gan.stages import structural as stage_1
from tests import nifti

ROOT = Path(__file__).parents[1]
SHAPE = (160, 160, 6)
TINY = ["--image_size=32", "--width=4", "--batch_size=2", "--steps=2", "--slices=1:5"]
TINY_SEGMENTATION = [flag.replace("--steps", "--iterations") for flag in TINY]


# Filters that let everything through: the networks have learnt nothing.
OPEN_FILTERS = ["--mae_threshold=1", "--dice_threshold=0"]
# A Python of the other stack, with this package installed: make test-latest names it.
OTHER = os.environ.get("BRATS_GAN_OTHER_PYTHON")


def start(script, *flags, python=sys.executable):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [python, ROOT / script, *map(str, flags)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script, *flags, code=0, python=sys.executable):
    process = start(script, *flags, python=python)
    out, err = process.communicate(timeout=900)  # only what hangs takes so long
    assert process.returncode == code, err[-3000:]
    return out + err


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """All four scripts once; the folder they left, and what each printed.

    Each script reads the same three patients from a folder of another layout.
    """
    root = tmp_path_factory.mktemp("chain")
    for layout in io.LAYOUTS:
        for number in range(3):
            # Labels that every layout has.
            nifti.write_subject(
                root / layout, f"s{number}", SHAPE, number, layout, labels=(2, 4)
            )
    data = {layout: f"--data_dir={root / layout}" for layout in io.LAYOUTS}
    said = {}
    stages = [
        start("train_structural.py", data["brats2015"], "--code_channels=1",
              f"--run_dir={root / 'structural'}", *TINY),
        start("train_multimodal.py", data["brats2023"], "--layout=brats2023",
              f"--run_dir={root / 'multimodal'}", *TINY),
    ]  # fmt: skip
    for name, process in zip(("structural", "multimodal"), stages, strict=True):
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err[-3000:]
        said[name] = out
    dataset_flags = [
        data["msd"],
        f"--structural_run={root / 'structural'}",
        f"--multimodal_run={root / 'multimodal'}",
        f"--output_dir={root / 'synthetic'}",
        "--max_tries=2",
        "--batch_size=4",
        "--samples=7",
    ]
    said["dataset"] = run("build_dataset.py", *dataset_flags)
    said["segmentation"] = run(
        "eval_segmentation.py",
        data["brats2018"],
        f"--run_dir={root / 'segmentation'}",
        f"--synthetic_dir={root / 'synthetic'}",
        "--scheme=four_channel",
        *TINY_SEGMENTATION,
    )
    for name, more in (
        (
            "accepted",
            ["--accepted_only", "--lesion_free=0.9", "--seed=4", *OPEN_FILTERS],
        ),
        ("unfiltered", ["--nofilter"]),
    ):
        output = f"--output_dir={root / name}"
        said[name] = run(
            "build_dataset.py", *dataset_flags, output, "--samples=9", *more
        )
    return root, said


@pytest.mark.parametrize("name", ["structural", "multimodal", "segmentation"])
def test_a_run_leaves_the_files_that_are_promised(chain, name):
    root, _ = chain
    for path in ("flags.txt", "split.json", "losses.jsonl", "tensorboard"):
        assert (root / name / path).exists(), path
    assert tf.train.latest_checkpoint(root / name / "checkpoints").endswith("ckpt-2")
    assert "Finished: 2 steps." in (root / name / "report.html").read_text()


def test_the_sheets_are_pictures(chain):
    root, _ = chain
    for path in (
        "structural/maps.png",
        "structural/losses.png",
        "multimodal/generated.png",
        "multimodal/translations.png",
        "synthetic/samples.png",
        "segmentation/segmentation.png",
    ):
        assert (root / path).read_bytes().startswith(b"\x89PNG"), path


LOAD = """
import sys, numpy as np, tensorflow as tf
path, signature, output, *inputs = sys.argv[1:]
tensors = {name: tf.constant(np.load(file))
           for name, file in (each.split("=") for each in inputs)}
made = tf.saved_model.load(path).signatures[signature](**tensors)
np.savez(output, **{name: value.numpy() for name, value in made.items()})
"""


def load_elsewhere(tmp_path, path, signature, python=sys.executable, **inputs):
    """Calls a SavedModel in a fresh process that knows TensorFlow only."""
    arguments = []
    for name, value in inputs.items():
        np.save(tmp_path / f"{name}.npy", value)
        arguments.append(f"{name}={tmp_path / name}.npy")
    output = tmp_path / "made.npz"
    command = [python, "-c", LOAD, path, signature, output, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(output)


def restored(run_dir, nets):
    """The networks with the weights of a run's checkpoint."""
    checkpoint = tf.train.Checkpoint(**nets)
    latest = tf.train.latest_checkpoint(run_dir / "checkpoints")
    checkpoint.restore(latest).expect_partial().assert_existing_objects_matched()
    return nets


def test_the_structure_export_gives_the_numbers_of_the_live_model(chain, tmp_path):
    root, _ = chain
    stored = weights.find(root / "structural", "structural")
    nets = weights.networks(stored, structural.drawing)
    code = np.random.default_rng(0).standard_normal([3, 16]).astype(np.float32)
    made = load_elsewhere(
        tmp_path, root / "structural/export/structure", "generate", code=code
    )
    split = data.load_split(root / "structural/split.json")
    subjects = {s.name: s for s in io.find_subjects(root / "brats2015")}
    slices = data.Slices([subjects[name] for name in split["train"]], 32, (1, 5))
    known = flows.known_maps(slices, structural_map.BETA, stage_1.FITTED)
    found = structural.fit(nets, known)
    np.testing.assert_array_equal(stored.found.mean, found.mean)
    np.testing.assert_array_equal(stored.found.factor, found.factor)
    assert stored.found.heights is not None  # D52
    f, background = structural.generate(nets, tf.constant(code), stored.found)
    np.testing.assert_array_equal(made["structure"], f)
    np.testing.assert_array_equal(made["background"], background)


def test_the_generator_export_gives_the_numbers_of_the_live_model(chain, tmp_path):
    root, _ = chain
    nets = restored(root / "multimodal", multimodal.build(32, 4))
    rng = np.random.default_rng(0)
    f = rng.integers(2, size=[2, 32, 32, 1]).astype(np.float32)
    label = rng.integers(5, size=[2, 32, 32]).astype(np.int32)
    made = load_elsewhere(
        tmp_path,
        root / "multimodal/export/generator",
        "generate",
        structure=f,
        label=label,
    )
    described = files.read_json(root / "multimodal/export/generator.json")
    style = tf.constant([styles.from_json(described["style"]).mean] * 2)
    live = multimodal.generate(nets, tf.constant(f), tf.constant(label), style).numpy()
    assert set(made.files) == set(spec.BRATS.modalities)
    for i, name in enumerate(spec.BRATS.modalities):
        np.testing.assert_allclose(made[name], live[:, i], atol=1e-5)


@pytest.mark.parametrize(
    ("run_name", "scheme"),
    [("multimodal", "multiple"), ("segmentation", "four_channel")],
)
def test_a_segmentor_export_gives_the_numbers_of_the_live_model(
    chain, tmp_path, run_name, scheme
):
    root, _ = chain
    nets = restored(root / run_name, lesion_components.build(scheme, 32, 4))
    images = np.random.default_rng(0).random([2, 32, 32, 4], np.float32)
    made = load_elsewhere(
        tmp_path, root / run_name / "export/segmentor", "segment", images=images
    )
    x = tf.constant(np.moveaxis(images, -1, 1)[..., None])
    live = lesion_components.segment(nets, x).numpy()
    np.testing.assert_allclose(made["probabilities"], live, atol=1e-5)
    assert made["label"].shape == live.shape[:-1]


@pytest.fixture(scope="session")
def made_by(chain):
    """Python -> runs of stages 1 and 2 that it trained and exported, two steps each."""
    root, _ = chain
    other = root / "other"
    flags = [f"--data_dir={root / 'brats2018'}", *TINY]
    for stage, more in (("structural", ["--code_channels=1"]), ("multimodal", [])):
        run_dir = f"--run_dir={other / stage}"
        run(f"train_{stage}.py", *flags, run_dir, *more, python=OTHER)
    return {sys.executable: root, OTHER: other}


@pytest.mark.skipif(not OTHER, reason="one stack only: see make test-latest")
@pytest.mark.parametrize("of", ["this", "other"])
def test_an_export_of_one_stack_gives_equal_numbers_on_the_other(made_by, tmp_path, of):
    rng = np.random.default_rng(0)
    exports = {
        "structural/export/structure": (
            "generate",
            {"code": rng.standard_normal([3, 16]).astype(np.float32)},
        ),
        "multimodal/export/generator": (
            "generate",
            {
                "structure": rng.integers(2, size=[2, 32, 32, 1]).astype(np.float32),
                "label": rng.integers(5, size=[2, 32, 32]).astype(np.int32),
            },
        ),
        "multimodal/export/segmentor": (
            "segment",
            {"images": rng.random([2, 32, 32, 4], np.float32)},
        ),
    }
    root = made_by[{"this": sys.executable, "other": OTHER}[of]]
    for name, (signature, inputs) in exports.items():
        one, other = (
            dict(load_elsewhere(tmp_path, root / name, signature, python, **inputs))
            for python in made_by
        )
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value.shape == other[key].shape and value.dtype == other[key].dtype
            if key in ("structure", "background", "label"):
                # Behind a threshold or an argmax: rounding may turn a pixel.
                assert np.mean(value == other[key]) > 0.999, (name, key)
            else:
                np.testing.assert_allclose(value, other[key], atol=1e-4, err_msg=name)


def test_preprocessing_constants_lie_beside_the_exports(chain):
    root, _ = chain
    described = json.loads((root / "multimodal/export/generator.json").read_text())
    assert described["image_size"] == 32 and described["slices"] == [1, 5]
    assert described["modalities"] == list(spec.BRATS.modalities)
    split = data.load_split(root / "multimodal/split.json")
    assert described["training_subjects"] == split["train"]


def test_all_stages_keep_to_one_split(chain):
    root, _ = chain
    names = ("structural", "multimodal", "synthetic", "segmentation")
    splits = [data.load_split(root / name / "split.json") for name in names]
    assert all(split == splits[0] for split in splits)


def test_the_data_set_is_described_and_read_by_the_same_reader(chain):
    root, _ = chain
    with (root / "synthetic/manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(7))
    described = json.loads((root / "synthetic/dataset_description.json").read_text())
    assert described["Samples"] == 7 == described["Accepted"] + described["Fallbacks"]
    assert described["DatasetType"] == "derivative"
    held_out = set(described["HeldOutSubjects"])
    assert not held_out & {row["label_subject"] for row in rows}
    (subject,) = io.find_subjects(root / "synthetic")
    images, labels = io.read_subject(subject, image_size=32)
    assert images.shape == (7, 32, 32, 4)
    lesion = np.count_nonzero(labels, axis=(1, 2))
    np.testing.assert_array_equal(lesion, [int(row["lesion_pixels"]) for row in rows])


def test_results_hold_a_line_with_scores_of_held_out_subjects(chain):
    root, _ = chain
    (line,) = map(json.loads, (root / "results.jsonl").read_text().splitlines())
    assert line["train_on"] == "both" and line["iterations"] == 2
    assert line["held_out"] == data.load_split(root / "structural/split.json")["test"]
    for name in ("dice_index", "mse", "dice_whole", "lesion_dice_enhancing"):
        assert line[name] >= 0


def test_a_finished_run_started_again_leaves_one_line(chain):
    root, _ = chain
    (before,) = (root / "results.jsonl").read_text().splitlines()
    run("eval_segmentation.py", f"--flagfile={root / 'segmentation/flags.txt'}")
    (after,) = (root / "results.jsonl").read_text().splitlines()
    assert json.loads(after) == json.loads(before)


def fill(root, run_dir, *flags):
    """Flags of eval_segmentation.py for the tables, on the data sets of the chain."""
    return (
        "eval_segmentation.py",
        f"--data_dir={root / 'brats2018'}",
        f"--run_dir={run_dir}",
        f"--synthetic_dir={root / 'accepted'}",
        *TINY_SEGMENTATION,
        "--width=2",
        *flags,
    )


@pytest.fixture(scope="session")
def filled(chain):
    """Table 1 and three rows of Table 2; the folder, and what was printed."""
    root, _ = chain
    said = run(
        *fill(
            root,
            root / "tables",
            "--table=1",
            "--experiment=1,18,25",
            f"--synthetic_dirs=multiple:{root / 'unfiltered'}",
            "--repeats=2",
            "--iterations=3",
        )
    )
    return root, said


def results(run_dir):
    return list(map(json.loads, (run_dir / "results.jsonl").read_text().splitlines()))


@pytest.mark.once
def test_every_repeat_is_a_line_with_all_that_was_asked(filled):
    root, _ = filled
    lines = results(root / "tables")
    keys = [(x["table"], x["experiment"], x["repeat"]) for x in lines]
    expected = [(2, n, k) for n in (1, 18, 25) for k in (1, 2)]
    expected += [(1, name, k) for name in ("real", "multiple") for k in (1, 2)]
    # In whatever order they were made.
    assert sorted(keys, key=str) == sorted(expected, key=str)
    for line in lines:
        assert line["seed"] == line["repeat"] - 1
        assert line["iterations"] == 3 == sum(x["steps"] for x in line["phases"])
        assert line["flags"]["dropout"] == "--dropout=0.1" and line["seconds"] > 0
        assert set(line["by_slice"]) == {*spec.BRATS.modalities, "mean"}
        mean = np.mean([line["by_slice"][m]["mse"] for m in spec.BRATS.modalities])
        assert line["mse"] == pytest.approx(mean) == line["by_slice"]["mean"]["mse"]
        trained = ["synthetic"] if line["experiment"] == 25 else []
        scored = ["synthetic multiple"] if line["experiment"] == "multiple" else []
        assert [*line["sets"]] == trained + scored
        # A volume of samples is no subject.
        assert (line["by_subject"] is None) == (line["experiment"] == "multiple")
        assert (line["dice_whole"] is None) == (line["experiment"] == "multiple")


@pytest.mark.once
def test_table_1_scores_the_segmentors_of_row_1_of_table_2(filled):
    root, _ = filled
    lines = {
        (x["table"], x["experiment"], x["repeat"]): x for x in results(root / "tables")
    }
    for repeat in (1, 2):
        assert lines[1, "real", repeat]["by_slice"] == lines[2, 1, repeat]["by_slice"]
        assert lines[1, "multiple", repeat]["mse"] != lines[2, 1, repeat]["mse"]
    assert lines[2, 1, 1]["mse"] != lines[2, 1, 2]["mse"]  # each its own seed


@pytest.mark.once
def test_the_tables_are_rendered_and_rows_that_did_not_run_are_blank(filled):
    root, said = filled
    for table, count, ran in ((1, 4, 2), (2, 25, 3)):
        with (root / f"tables/table{table}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        assert sum(row["repeats"] == "2" for row in rows) == ran
        assert sum(row["Dice"] == "" for row in rows) == count - ran
        assert (root / f"tables/table{table}.md").read_text() in said
        picture = (root / f"tables/table{table}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    page = (root / "tables/report.html").read_text()
    assert "Finished: 10 repeats." in page
    assert "<h2>Table 1</h2>" in page and "<h2>Table 2</h2>" in page


@pytest.mark.once
def test_held_out_subjects_are_seen_by_no_stage(filled):
    root, _ = filled
    stages = ("structural", "multimodal", "accepted", "unfiltered", "tables")
    splits = [data.load_split(root / name / "split.json") for name in stages]
    assert all(split == splits[0] for split in splits)
    held_out = set(splits[0]["test"])
    assert held_out
    for path in root.glob("*/export/*.json"):
        assert not held_out & set(json.loads(path.read_text())["training_subjects"])
    for name in ("accepted", "unfiltered"):
        with (root / name / "manifest.csv").open(newline="") as file:
            labels = {row["label_subject"] for row in csv.DictReader(file)}
        assert labels and not held_out & labels
    taken = [
        {name for phase in phases for name in phase["taken"]}
        for phases in (
            json.loads(path.read_text())["phases"]
            for path in sorted(root.glob("tables/row-*/repeat-*/samples.json"))
        )
    ]
    assert len(taken) == 6
    assert set.union(*taken) == {*splits[0]["train"], "synth-00001"}


@pytest.mark.once
def test_a_data_set_whose_generator_saw_the_held_out_is_refused(chain, tmp_path):
    root, _ = chain
    split = data.load_split(root / "structural/split.json")
    turned = {"seed": 0, "train": split["test"], "test": split["train"]}
    data.save_split(tmp_path / "split.json", turned)
    given = f"--split={tmp_path / 'split.json'}"
    for flags in (
        fill(root, tmp_path / "a", given, "--experiment=3"),
        fill(root, tmp_path / "b", given),
        fill(
            root,
            tmp_path / "c",
            given,
            "--table=1",
            f"--synthetic_dirs=multiple:{root / 'unfiltered'}",
        ),
    ):
        said = run(*flags, code=runs.EXIT_BAD_INPUT)
        assert "was made by models trained on" in said and split["train"][0] in said


@pytest.mark.once
def test_what_a_table_cannot_be_made_of_is_refused_before_any_training(chain, tmp_path):
    root, _ = chain
    unfiltered = root / "unfiltered"
    cases = (
        (["--experiment=4"], "--samples=16"),  # twice 8 slices, of 9 samples
        (["--experiment=26"], "--experiment: '26' is none of"),
        (["--experiment=3", f"--synthetic_dir={unfiltered}"], "without --nofilter"),
        (["--table=1", f"--synthetic_dirs=multiple:{root / 'accepted'}"], "--nofilter"),
        (["--table=1", f"--synthetic_dirs=single:{unfiltered}"], "--scheme=single"),
    )
    for number, (flags, remedy) in enumerate(cases):
        run_dir = tmp_path / str(number)
        said = run(*fill(root, run_dir, *flags), code=runs.EXIT_BAD_INPUT)
        assert remedy in said and "Traceback" not in said, said
        assert not list(run_dir.glob("row-*"))


@pytest.mark.once
def test_a_row_that_was_killed_goes_on_to_the_records_of_one_that_was_not(
    chain, tmp_path
):
    root, _ = chain
    flags = ["--experiment=25", "--repeats=2", "--iterations=20", "--dropout=0.3"]
    run(*fill(root, tmp_path / "whole", *flags))
    killed = fill(root, tmp_path / "killed", *flags, "--checkpoint_seconds=0")
    process = start(*killed)
    checkpoints = tmp_path / "killed/row-25/repeat-1/checkpoints"
    limit = time.monotonic() + 200
    while not tf.train.latest_checkpoint(checkpoints):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    process.kill()  # SIGKILL
    process.communicate()
    step = int(tf.train.latest_checkpoint(checkpoints).rpartition("-")[2])
    assert 0 < step < 20 and not (tmp_path / "killed/results.jsonl").exists()
    run(*killed)
    records = results(tmp_path / "killed")

    # Two processes add up in other orders, so numbers agree to some places only.
    for one, other in zip(records, results(tmp_path / "whole"), strict=True):
        assert list(one) == list(other)
        for name in (*tables.KEY, "scheme", "seed", "iterations", "phases"):
            assert one[name] == other[name]
        for name in ("mse", "dice_index"):
            assert one[name] == pytest.approx(other[name], rel=0.02)
    for path in ("row-25/repeat-1", "row-25/repeat-2"):
        whole, parts = (tmp_path / name / path for name in ("whole", "killed"))
        taken = [(each / "samples.json").read_text() for each in (whole, parts)]
        assert taken[0] == taken[1]
        logs = [
            [json.loads(x) for x in (each / "losses.jsonl").open()]
            for each in (whole, parts)
        ]
        for one, other in zip(*logs, strict=True):
            assert one["step"] == other["step"]
            assert one["segmentation"] == pytest.approx(other["segmentation"], rel=2e-3)
    before = (tmp_path / "killed/results.jsonl").read_bytes()
    assert "2 of 2 repeats are done" in run(*killed)
    assert (tmp_path / "killed/results.jsonl").read_bytes() == before


@pytest.fixture(scope="session")
def shipped(chain):
    """What benchmarks.ship makes of the chain, in the place of what really ships."""
    root, _ = chain
    said = run_module(
        "benchmarks.ship",
        f"--structural_run={root / 'structural'}",
        f"--multimodal_run={root / 'multimodal'}",
        f"--data_dir={root / 'brats2015'}",
        f"--output_dir={root / 'shipped'}",
    )
    return root, said


def run_module(name, *flags, pretrained=None, code=0):
    """Runs a module or script by its name; `pretrained` stands for what ships."""
    program = (
        "import runpy, sys\nfrom pathlib import Path\n"
        "from brats_gan.weights import folders\n"
        "name, pretrained, *flags = sys.argv[1:]\n"
        "if pretrained:\n    folders.PRETRAINED = Path(pretrained)\n"
        "sys.argv = [name, *flags]\n"
        "run = runpy.run_path if name.endswith('.py') else runpy.run_module\n"
        "run(name, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program, name, str(pretrained or "")]
    done = subprocess.run(
        [*command, *map(str, flags)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr + done.stdout  # whose last line some read


def test_what_ships_of_a_run_is_its_weights_as_float16_and_labels(shipped):
    root, said = shipped
    assert json.loads(said.splitlines()[-1])["labels"] == 8  # two subjects, four slices
    split = data.load_split(root / "structural/split.json")
    for stage in ("structural", "multimodal"):
        found = weights.read(root / "shipped" / stage)
        kept = weights.read(root / stage / "weights")
        assert found.split == split and found.description["steps"] == 2
        assert "flags" not in found.description and "flags" in kept.description
        for name, arrays in kept.arrays.items():
            for key, value in arrays.items():
                error = np.abs(found.arrays[name][key] - value).max()
                assert error <= 1e-3 * np.abs(value).max(), (name, key)
    pool = data.LabelPool(root / "shipped" / weights.LABELS, 32)
    assert pool.names == split["train"]
    subjects = {s.name: s for s in io.find_subjects(root / "brats2015")}
    slices = data.Slices([subjects[n] for n in pool.names], 32, (1, 5))
    for (subject, number), label in zip(
        pool.index, pool.labels(pool.lesions), strict=True
    ):
        (row,) = np.flatnonzero((slices.index == [subject, number - 1]).all(1))
        np.testing.assert_array_equal(label, slices.labels([row])[0])


def test_a_data_set_is_made_of_what_ships_without_any_data(shipped, tmp_path):
    root, _ = shipped
    said = run_module(
        "build_dataset.py",
        "--structural_run=pretrained",
        "--multimodal_run=pretrained",
        f"--output_dir={tmp_path / 'set'}",
        "--samples=5",
        "--max_tries=1",
        pretrained=root / "shipped",
    )
    assert "beside no real slices" in said
    described = json.loads((tmp_path / "set/dataset_description.json").read_text())
    split = data.load_split(root / "structural/split.json")
    assert data.load_split(tmp_path / "set/split.json") == split
    assert described["TrainingSubjects"] == split["train"]
    assert described["ImageSize"] == 32 and not described["RealData"]
    found = described["Registration"]
    assert found["Reference"].startswith("none") and found["RealSlices"] == 0
    assert list(found["Scores"])[:2] == ["generated", "generated shifted by 1"]
    # Stage 4 on the subjects of the weights keeps their split; on others it draws one.
    nifti.write_subject(tmp_path / "other", "x1", SHAPE, 5, labels=(2, 4))
    nifti.write_subject(tmp_path / "other", "x2", SHAPE, 6, labels=(2, 4))
    running = [
        start(
            "eval_segmentation.py",
            f"--data_dir={folder}",
            f"--run_dir={tmp_path / name}",
            f"--synthetic_dir={tmp_path / 'set'}",
            f"--init_from={root / 'shipped'}",
            *TINY_SEGMENTATION,
        )
        for name, folder in (("same", root / "brats2018"), ("o", tmp_path / "other"))
    ]
    for process in running:
        _, err = process.communicate(timeout=900)
        assert process.returncode == 0, err[-3000:]
    assert data.load_split(tmp_path / "same/split.json")["test"] == split["test"]
    names = data.load_split(tmp_path / "o/split.json")
    assert sorted(names["train"] + names["test"]) == ["x1", "x2"]
    assert len(weights.read(tmp_path / "o/weights").arrays) == 4
    # Held out by this split, but seen by the weights that made the data set.
    data.save_split(
        tmp_path / "turned.json",
        {**split, "train": split["test"], "test": split["train"]},
    )
    said = run(
        "eval_segmentation.py",
        f"--data_dir={root / 'brats2018'}",
        f"--run_dir={tmp_path / 'turned'}",
        f"--synthetic_dir={tmp_path / 'set'}",
        f"--split={tmp_path / 'turned.json'}",
        *TINY_SEGMENTATION,
        code=runs.EXIT_BAD_INPUT,
    )
    assert "was made by models trained on" in said


@pytest.mark.once
def test_what_ships_takes_labels_of_the_data_that_it_is_given(shipped, tmp_path):
    root, _ = shipped
    for number in range(2):
        nifti.write_subject(
            tmp_path / "own", f"x{number}", SHAPE, 5 + number, labels=(2, 4)
        )
    flags = [
        f"--structural_run={root / 'shipped/structural'}",
        f"--multimodal_run={root / 'multimodal'}",  # a run beside a folder
        "--samples=2",
        "--max_tries=1",
    ]
    run(
        "build_dataset.py",
        *flags,
        f"--data_dir={tmp_path / 'own'}",
        f"--output_dir={tmp_path / 'set'}",
    )
    described = json.loads((tmp_path / "set/dataset_description.json").read_text())
    own = data.load_split(tmp_path / "set/split.json")["train"]
    seen = data.load_split(root / "structural/split.json")["train"]
    assert described["TrainingSubjects"] == [*own, *seen] and described["RealData"]
    said = run(
        "build_dataset.py",
        *flags,
        f"--output_dir={tmp_path / 'none'}",
        code=runs.EXIT_BAD_INPUT,
    )
    assert "--data_dir is needed" in said and "Traceback" not in said
    said = run(
        "build_dataset.py",
        *flags,
        f"--structural_run={root / 'multimodal/weights'}",
        f"--output_dir={tmp_path / 'none'}",
        code=runs.EXIT_BAD_INPUT,
    )
    assert "weights of stage multimodal, where structural is asked for" in said


def test_stage_2_starts_from_the_weights_of_a_run_and_goes_on_without_them(
    chain, tmp_path
):
    root, _ = chain
    flags = (
        "train_multimodal.py",
        f"--data_dir={root / 'brats2018'}",
        f"--split={root / 'multimodal/split.json'}",
        f"--run_dir={tmp_path / 'run'}",
        *TINY,
        *("--steps=1", "--first_phase=0"),
    )
    said = run(*flags, f"--init_from={root / 'multimodal'}")
    assert "weights of EC_R, EC, DC" in said
    (line,) = map(json.loads, (tmp_path / "run/losses.jsonl").open())
    # The losses of the first step are those of the weights it started from.
    kept = weights.find(root / "multimodal", "multimodal")
    split = data.load_split(root / "multimodal/split.json")
    subjects = {s.name: s for s in io.find_subjects(root / "brats2018")}
    slices = data.Slices([subjects[n] for n in split["train"]], 32, (1, 5))
    batch = next(iter(data.multimodal_batches(slices, 2, 0)))
    seed = tf.constant([0, 0], tf.int32)
    nets = weights.networks(kept, lambda nets: list(nets))
    expected = multimodal.terms(nets, batch, seed)
    tf.keras.utils.set_random_seed(0)
    fresh = multimodal.terms(multimodal.build(32, 4), batch, seed)
    for name in ("reconstruction", "self_reconstruction", "d_real"):
        assert line[name] == pytest.approx(float(expected[name]), rel=1e-3)
        assert line[name] != pytest.approx(float(fresh[name]), rel=1e-3)
    said = run(*flags, "--init_from=/nowhere")
    assert "goes on from its checkpoint, not --init_from" in said
    again = json.loads((tmp_path / "run/networks.json").read_text())
    assert again["initialised_from"]["source"] == str(root / "multimodal")


def test_registration_is_in_the_description_beside_real_and_shifted_slices(chain):
    root, said = chain
    described = json.loads((root / "synthetic/dataset_description.json").read_text())
    found = described["Registration"]
    assert found["GeneratedSets"] == 7 and "training subjects" in found["Reference"]
    names = ["generated", "real", *(f"real shifted by {n}" for n in (1, 2, 4))]
    assert list(found["Scores"]) == names
    for scores in found["Scores"].values():
        assert 0 <= scores["edge_dice"] <= 1 <= scores["mutual_information"] <= 2
    assert "beside slices of registered training subjects" in said["dataset"]
    assert "NearestTraining" not in described


def test_a_training_slice_planted_in_a_data_set_is_found(chain, tmp_path):
    root, _ = chain
    shutil.copytree(root / "synthetic", tmp_path / "copy")
    flagfile = tmp_path / "copy/flags.txt"
    flagfile.write_text(
        flagfile.read_text().replace(str(root / "synthetic"), str(tmp_path / "copy"))
    )
    train = data.load_split(root / "structural/split.json")["train"]
    (planted,) = [s for s in io.find_subjects(root / "msd") if s.name == train[0]]
    images, _ = io.read_subject(planted, (1, 5), 32)
    for channel, modality in enumerate(spec.BRATS.modalities):
        path = tmp_path / f"copy/synth-00001/synth-00001_{modality}.nii.gz"
        volume, _ = io.load_volume(path)
        volume[:, :, 3] = io.place_back(images[2:3, ..., channel])[0]
        io.write_nifti(path, volume, np.int16, slope=io.IMAGE_SLOPE)
    # Or it would be found to have changed, and made again.
    rows = manifest.read(tmp_path / "copy")
    manifest.write_record(tmp_path / "copy", "synth-00001", rows)
    said = run("build_dataset.py", f"--flagfile={flagfile}", "--nearest_report")
    assert "correlation with the nearest training slice" in said
    described = json.loads((tmp_path / "copy/dataset_description.json").read_text())
    found = described["NearestTraining"]
    first = found["closest"][0]
    assert (first["id"], first["slice"]) == ("synth-00001", 3)
    assert (first["training_subject"], first["training_slice"]) == (train[0], 3)
    assert first["correlation"] > 0.99 and len(found["closest"]) == 7
    assert first["training_patient"] == first["training_subject"]
    assert found["patients"] == {
        "training": len(train),
        "held-out": 1,
        "training, of generated nearer than any held-out": 1,
    }
    assert found["generated"]["slices"] == 7 and found["held-out"]["slices"] == 4
    assert (tmp_path / "copy/nearest.png").read_bytes().startswith(b"\x89PNG")


def test_only_accepted_samples_are_kept_if_asked_for(chain):
    root, _ = chain
    described = json.loads((root / "accepted/dataset_description.json").read_text())
    with (root / "accepted/manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(len(rows)))
    kept = [row for row in rows if row["id"]]
    assert [row["slice"] for row in kept] == [str(place) for place in range(9)]
    assert all(row["accepted"] == "1" for row in kept)
    # No brain that an untrained network draws has room for a lesion.
    left_out = [row for row in rows if not row["id"]]
    assert left_out and all(row["accepted"] == "0" for row in left_out)
    assert described["Samples"] == described["Accepted"] == 9
    assert described["Fallbacks"] == 0 and described["LeftOut"] == len(left_out)
    assert described["Attempts"] == sum(int(row["tries"]) for row in rows)
    assert sum(described["Rejected"].values()) == described["Attempts"] - 9
    (subject,) = io.find_subjects(root / "accepted")
    assert io.read_subject(subject, image_size=32)[0].shape[0] == 9


def refused_set(root, output, *filters):
    """What a data set of accepted samples says that cannot be made of the chain."""
    return run(
        "build_dataset.py",
        f"--data_dir={root / 'msd'}",
        f"--structural_run={root / 'structural'}",
        f"--multimodal_run={root / 'multimodal'}",
        f"--output_dir={output}",
        "--max_tries=1",
        "--accepted_only",
        *filters,
        code=runs.EXIT_BAD_INPUT,
    )


@pytest.mark.once
def test_a_filter_that_nothing_passes_is_given_up(chain, tmp_path):
    root, _ = chain
    nothing = ["--mae_threshold=0", "--dice_threshold=1"]
    said = refused_set(root, tmp_path / "out", *nothing)
    assert "--dice_threshold" in said and "Traceback" not in said


@pytest.mark.once
def test_samples_without_a_lesion_do_not_crowd_a_set_of_accepted_ones(chain, tmp_path):
    root, _ = chain
    # Only samples without a lesion pass, and half of the set may be such.
    few = ["--lesion_free=0.5", "--samples=3"]
    said = refused_set(root, tmp_path / "out", *few, *OPEN_FILTERS)
    assert "did not pass both filters" in said


def test_data_without_filter_says_so(chain):
    root, _ = chain
    described = json.loads((root / "unfiltered/dataset_description.json").read_text())
    assert not described["Filtered"] and described["LesionScheme"] == "multiple"
    assert described["Rejected"]["structure"] == described["Rejected"]["dice"] == 0
    filtered = json.loads((root / "synthetic/dataset_description.json").read_text())
    assert filtered["Filtered"]
    assert filtered["Rejected"]["structure"] + filtered["Rejected"]["dice"] > 0


@pytest.mark.once
def test_flags_txt_repeats_the_run(chain, tmp_path):
    root, _ = chain
    flagfile = f"--flagfile={root / 'structural/flags.txt'}"
    run("train_structural.py", flagfile, f"--run_dir={tmp_path / 'again'}")

    def losses(run_dir):
        lines = (run_dir / "losses.jsonl").read_text().splitlines()
        return [
            {k: v for k, v in json.loads(x).items() if k != "seconds"} for x in lines
        ]

    for one, other in zip(
        losses(root / "structural"), losses(tmp_path / "again"), strict=True
    ):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_run_of_a_script_with_other_flags_is_refused(chain):
    root, _ = chain
    said = run(
        "train_structural.py",
        f"--data_dir={root / 'data'}",
        f"--run_dir={root / 'structural'}",
        "--code_channels=1",
        *TINY,
        "--beta=0.2",
        code=runs.EXIT_BAD_INPUT,
    )
    assert "--beta=0.07  ->  --beta=0.2" in said and "Traceback" not in said


def empty(folder):
    folder.mkdir()
    return str(folder)


def missing_modality(folder):
    nifti.write_subject(folder, "a", SHAPE)["t2"].unlink()
    return "a"


def truncated(folder):
    path = nifti.write_subject(folder, "a", SHAPE)["t1"]
    path.write_bytes(path.read_bytes()[:-2000])
    return "a_t1.nii.gz"


def other_shape(folder):
    path = nifti.write_subject(folder, "a", SHAPE)["flair"]
    nifti.write_volume(path, np.ones((160, 150, 6), np.int16))
    return "a_flair.nii.gz"


def label_of_seven(folder):
    path = nifti.write_subject(folder, "a", SHAPE)["seg"]
    label = np.zeros(SHAPE, np.uint8)
    label[60:70, 60:70] = 7
    nifti.write_volume(path, label)
    return "a_seg.nii.gz"


def all_zero(folder):
    path = nifti.write_subject(folder, "a", SHAPE)["t1ce"]
    nifti.write_volume(path, np.zeros(SHAPE, np.int16))
    return "a_t1ce.nii.gz"


def not_gzip(folder):
    path = nifti.write_subject(folder, "a", SHAPE)["t2"]
    path.write_bytes(gzip.compress(b"this is no image"))
    return "a_t2.nii.gz"


@pytest.mark.once
def test_bad_input_is_refused_with_the_name_of_the_file(tmp_path):
    cases = (
        empty,
        missing_modality,
        truncated,
        other_shape,
        label_of_seven,
        all_zero,
        not_gzip,
    )
    # The broken one must be trained on: held-out subjects are not decoded in training.
    seed = next(s for s in range(9) if "a" in data.random_split(["a", "b"], s)["train"])
    running = []
    for case in cases:
        folder = tmp_path / case.__name__
        named = case(folder)
        if case is not empty:
            nifti.write_subject(folder, "b", SHAPE, 1)
        script = ("train_structural.py", "train_multimodal.py")[len(running) % 2]
        flags = [
            f"--data_dir={folder}",
            f"--run_dir={tmp_path / 'run'}-{case.__name__}",
        ]
        running.append(
            (case, named, start(script, f"--split_seed={seed}", *flags, *TINY))
        )
    for case, named, process in running:
        out, err = process.communicate(timeout=200)
        assert process.returncode == runs.EXIT_BAD_INPUT, (case, out, err[-2000:])
        assert named in err, (case, err)
        assert "Traceback" not in err, (case, err)


@pytest.mark.once
def test_the_scoreboard_of_the_runs_has_a_row_for_every_stage(chain, tmp_path):
    root, _ = chain
    said = run(
        "benchmarks/quality.py",
        f"--data_dir={root / 'brats2018'}",
        f"--structural_run={root / 'structural'}",
        f"--multimodal_run={root / 'multimodal'}",
        f"--dataset_dir={root / 'synthetic'}",
        "--samples=12",
        "--judge_steps=2",
        "--judge_width=2",
        f"--json={tmp_path / 'quality.json'}",
    )
    rows = json.loads(said[said.index('{"structural_run"') :].splitlines()[0])["rows"]
    for name in (
        "stage 1: acceptance",
        "whole-lesion Dice, mean of the four",
        "enhancing Dice, four channels",
        "registration",
        "Fréchet distance",
        "stage 3: accepted",
        "classifier AUC, maps",
        "classifier AUC, slices",
        "stage 1: line depth",
        "spectrum error in dB, t1",
        "MS-SSIM among samples, flair",
        "kernel distance, random network",
        "paired SSIM, mean of the four",
    ):
        assert rows[name]["made"] is not None, name
    assert json.loads((tmp_path / "quality.json").read_text())["rows"] == rows
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
    # Nothing is registered, or found, better than it can be.
    for name, row in rows.items():
        if "Dice" in name or "registration" in name:
            values = [row[each] for each in ("made", "ceiling", "floor")]
            assert all(0 <= v <= 1 for v in values if v is not None), name


SCRIPTS = (
    "prepare_data.py",
    "train_structural.py",
    "train_multimodal.py",
    "build_dataset.py",
    "eval_segmentation.py",
)
ASK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
late = sorted({"tensorflow", "scipy.ndimage", "matplotlib"} & sys.modules.keys())
print(f"exit code {code}, imported {late}")
"""


@pytest.mark.parametrize(
    ("flag", "code", "said"),
    [
        ("--help", 0, "data_dir"),
        ("--helpfull", 0, "verbosity"),
        ("--helpshort", 0, "data_dir"),
        ("--thickness=3", 1, "Unknown command line flag 'thickness'"),
        ("--seed=three", 1, "flag --seed=three"),
    ],
)
def test_questions_and_mistakes_are_answered_before_tensorflow_is_imported(
    flag, code, said
):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, script, flag],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for script in SCRIPTS
    ]
    for script, process in zip(SCRIPTS, running, strict=True):
        out, _ = process.communicate(timeout=300)
        assert out.endswith(f"exit code {code}, imported []\n"), (script, out[-2000:])
        assert said in out, (script, out)


@pytest.mark.once
def test_the_scoreboard_names_the_subjects_it_lacks(chain, tmp_path):
    root, _ = chain
    nifti.write_subject(tmp_path, "s0", SHAPE, 0, labels=(2, 4))
    process = start(
        "benchmarks/quality.py",
        f"--data_dir={tmp_path}",
        f"--multimodal_run={root / 'multimodal'}",
    )
    _, err = process.communicate(timeout=200)
    assert process.returncode == runs.EXIT_BAD_INPUT
    assert "lacks s1, s2" in err and "Traceback" not in err


def test_help_names_every_flag_of_the_flagfiles():
    names = {
        "structural": "train_structural.py",
        "multimodal": "train_multimodal.py",
        "dataset": "build_dataset.py",
        "unfiltered": "build_dataset.py",
        "segmentation": "eval_segmentation.py",
    }
    running = {name: start(script, "--help") for name, script in names.items()}
    for name, process in running.items():
        said = "".join(process.communicate(timeout=100))
        paths = sorted(ROOT.glob(f"configs/*/{name}.flags"))
        assert len(paths) >= 2, name
        for path in paths:
            for line in path.read_text().splitlines():
                if line.startswith("--"):
                    flag = line[2:].split("=")[0]
                    switches = flag, flag.removeprefix("no")  # --norm_..., --nocheck
                    shown = [f"--{flag}:", *(f"--[no]{each}:" for each in switches)]
                    assert any(each in said for each in shown), line
