"""Leaks that are planted as an adversary would, and that `leaks` must find.

Files are edited consistently, and sealed anew by the project's own functions, so that
what is left to tell is the data itself.
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import leaks_anew, leaks_checks, leaks_reader, leaks_volumes
from brats_gan import (
    data,
    files,
    io,
    manifest,
    trained_models,
    volume_dataset,
    weights,
)
from brats_gan import structural as structural_maps
from brats_gan.data import cache, records
from brats_gan.data.slices import content_key
from brats_gan.stages import dataset, multimodal, segmentation, structural, volumes
from tests import nifti, scripts

leaks = scripts.module("benchmarks.leaks")
ROOT = Path(__file__).parents[1]
SHAPE = (160, 160, 4)
TINY = {"image_size": 32, "width": 2, "batch_size": 2, "precision": "float32"}
STAGES = ("structural", "multimodal", "synthetic", "segmentation")
SAMPLES = 3


def source(root, **more):
    cached = str(root / "cache")
    return data.Source(str(root / "data"), slices=(0, 4), cache_dir=cached, **more)


def stage_3(root, **more):
    of_runs = str(root / "structural"), str(root / "multimodal")
    return dataset.Settings(
        *of_runs, samples=SAMPLES, max_tries=2, batch_size=4, **more
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A chain of all four stages, a step each; its folder is where it stays."""
    root = tmp_path_factory.mktemp("leaks")
    for number in range(3):
        nifti.write_subject(root / "data", f"s{number}", SHAPE, number)
    first = structural.Settings(**TINY, steps=1, code_channels=1, flow_steps=0)
    structural.train(first, source(root), root / "structural")
    second = multimodal.Settings(**TINY, steps=1, first_phase=1.0, scheme="single")
    given = str(root / "structural/split.json")
    multimodal.train(second, source(root, split=given), root / "multimodal")
    dataset.build(stage_3(root), source(root), root / "synthetic")
    whole = stage_3(root, volumes=2, filter=False, lesion_free=0.0)
    volumes.build(whole, source(root), root / "volumes")
    fourth = segmentation.Settings(
        **TINY,
        iterations=1,
        synthetic_dir=str(root / "synthetic"),
        scheme="four_channel",
    )
    segmentation.score(fourth, source(root), root / "segmentation")
    return root


@pytest.fixture
def root(made, tmp_path):
    """The chain, which is put back afterwards: its files name its own place."""
    shutil.copytree(made, tmp_path / "kept")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


def examined(root, *names, data_dirs=()):
    said = []
    paths = [root / name for name in names]
    found = leaks.examine(paths, [str(x) for x in data_dirs], say=said.append)
    assert found == said
    return found


def leaked(found):
    """{(folder, what): details} of the leaks."""
    told = {}
    for line in found:
        if line.verdict == "LEAK":
            told.setdefault((line.folder.name, line.what), []).append(line.detail)
    return told


def sides(root):
    split = data.load_split(root / "structural/split.json")
    return split["train"], split["test"][0]


def resealed(path, change):
    """Edits a JSON file as who knows the program would: its seal is made anew."""
    content = json.loads(path.read_text())
    was_sealed = "digest" in content
    content.pop("digest", None)
    change(content)
    files.write_json(path, files.sealed(content) if was_sealed else content)


def everywhere(folder, change):
    """`change` of every record of a folder, and its digest in networks.json."""
    for path in (
        *folder.glob("export/*.json"),
        folder / "weights/weights.json",
        folder / "inputs.json",
    ):

        def each(content):
            record = content.get("inputs", content)
            change(content, record)

        if path.exists():
            resealed(path, each)
    record = records.read(folder)
    for path in (folder / "split.json", folder / "weights/split.json"):
        data.save_split(path, record["split"])
    resealed(
        folder / "networks.json",
        lambda content: content.update(inputs=records.fingerprint(record)),
    )


# --- What is clean --------------------------------------------------------------------


def test_a_clean_chain_is_proven_line_by_line(made):
    found = examined(made, *STAGES, "volumes")
    assert [str(line) for line in found if line.verdict != "OK"] == []
    told = {(line.folder.name, line.what) for line in found}
    for name, whats in {
        "structural": ("split", "held out", "content", "fingerprint", "codes", "cache"),
        "multimodal": ("split", "held out", "content", "fingerprint", "style", "cache"),
        "synthetic": ("split", "held out", "content", "made by", "before"),
        "segmentation": ("split", "held out", "content", "made by", "weights"),
        "volumes": ("split", "held out", "content", "made by", "before"),
    }.items():
        assert {(name, what) for what in whats} <= told


def test_the_command_names_what_is_missing_and_ends_with_2(root):
    (root / "data").rename(root / "away")
    done = command(root / "structural")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "not provable" in done.stdout and "is not at hand" in done.stdout
    (root / "away").rename(root / "data")


def command(*paths):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.leaks", *paths],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


# --- The planted leaks ----------------------------------------------------------------


def test_a_held_out_subject_moved_into_training_afterwards_is_found(root):
    """In every file of the run, sealed anew; by the others, and by its own bytes."""
    train, held_out = sides(root)

    def move(content, record):
        record["split"] |= {"train": sorted([*train[1:], held_out]), "test": train[:1]}
        if "training_subjects" in content:
            content["training_subjects"] = record["split"]["train"]

    everywhere(root / "multimodal", move)
    told = leaked(examined(root, "structural", "multimodal"))
    assert f"{held_out} is held out" in told["multimodal", "held out"][0]
    told = leaked(examined(root, "multimodal"))
    assert ("multimodal", "split") in told
    assert train[0] in told["multimodal", "fingerprint"][0]
    assert ("multimodal", "style") in told


def test_a_copy_of_a_held_out_subject_among_the_training_data_is_found(root):
    """Packed anew under another name, and with digests of nobody in the records."""
    _, held_out = sides(root)
    for path in (root / f"data/{held_out}").iterdir():
        copy = root / "data/x" / path.name.replace(held_out, "x")
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    forged = {"files": {"t1": "0f"}, "images": "1f", "label": "2f"}

    def add(content, record):
        record["split"]["train"].append("x")
        record["subjects"]["x"] = forged
        content.get("training_subjects", []).append("x")

    everywhere(root / "structural", add)
    told = leaked(examined(root, "structural"))
    detail = f"{held_out} is held out, and x, seen, has the same content (its data fol"
    assert detail in told["structural", "held out"][0]


def test_a_second_visit_of_a_held_out_patient_is_found(root):
    _, held_out = sides(root)

    def add(content, record):
        record["split"]["train"].append(f"{held_out}_week-044")
        content.get("training_subjects", []).append(f"{held_out}_week-044")

    everywhere(root / "multimodal", add)
    told = leaked(examined(root, "multimodal"))
    assert "another visit of the patient" in told["multimodal", "held out"][0]


def make_anew(root, models, slices):
    """Replaces the volumes of the data set by others; records say what they said."""
    folder = root / "synthetic"
    origin = files.unsealed(files.read_json(folder / "dataset_description.json"))
    shutil.rmtree(folder / "synth-00001")
    for name in ("manifest.csv", "samples.png"):
        (folder / name).unlink()
    settings = stage_3(root, dice_threshold=trained_models.DICE_THRESHOLD)
    dataset.make_samples(settings, models, slices, folder, origin["MadeFrom"])


def slices_of(root, *names):
    subjects = {each.name: each for each in io.find_subjects(root / "data")}
    return data.Slices([subjects[n] for n in names], 32, (0, 4), root / "cache")


@pytest.fixture(scope="module")
def models(made):
    of_runs = made / "structural", made / "multimodal", made / "multimodal"
    return trained_models.load_models(*map(str, of_runs))[0]


def made_by(root, scratch, name="synthetic"):
    """The line of that comparison alone; the clean chain has the others."""
    folder = leaks.leaks_folders.load(root / name)
    reader = leaks_reader.Reader([], scratch / "scratch")

    def line(*said):
        return leaks_reader.Line(said[0], folder.path, *said[1:])

    return leaks_anew.made_by(folder, reader, line)


def test_labels_of_a_held_out_subject_in_a_data_set_are_found(root, models, tmp_path):
    """Under the name of one who was trained on."""
    train, held_out = sides(root)
    make_anew(root, models, slices_of(root, held_out))
    claims = leaks.leaks_folders.load(root / "synthetic").claims
    assert {x.name for x in claims if "label_subject" in x.file} == {held_out}
    folder, rows = root / "synthetic", manifest.read(root / "synthetic")
    for row in rows:
        row["label_subject"] = row["label_subject"] and train[0]
    said = files.unsealed(files.read_json(folder / "dataset_description.json"))
    manifest.write(folder, rows)
    manifest.write_record(folder, "synth-00001", rows, made_from=said["MadeFrom"])
    (told,) = made_by(root, tmp_path)
    assert told.verdict == "LEAK" and "made anew" in told.detail


def test_lesions_of_a_held_out_subject_in_volumes_are_found(root, tmp_path):
    """Under the name of one who was trained on."""
    train, held_out = sides(root)
    folder, first = root / "volumes", "synth-00001"
    said = files.unsealed(files.read_json(folder / "dataset_description.json"))
    slices = slices_of(root, held_out)
    path = folder / first / f"{first}_seg.nii.gz"
    planted, affine = io.load_volume(path)
    label = np.zeros_like(planted)
    start = (240 - 192) // 2
    own = np.repeat(np.repeat(slices.labels(range(4)), 6, 1), 6, 2)
    label[start:-start, start:-start, :4] = np.moveaxis(own, 0, -1)
    assert (label != planted).any()
    io.write_nifti(path, label, np.uint8)
    rows = leaks_volumes.rows_of(folder)
    rows[0]["tries"] = "1"
    volume_dataset.write(folder, rows)
    volume_dataset.record(folder, rows[0], made_from=said["MadeFrom"])
    (told,) = made_by(root, tmp_path, "volumes")
    assert told.verdict == "LEAK" and "made anew" in told.detail


def test_volumes_that_name_a_held_out_subject_are_found(root):
    _, held_out = sides(root)
    folder = root / "volumes"
    rows = leaks_volumes.rows_of(folder)
    rows[1]["label_subjects"] = f"{rows[1]['label_subjects']};{held_out}"
    volume_dataset.write(folder, rows)
    told = leaked(examined(root, "volumes"))
    assert any(held_out in each for each in told["volumes", "sides"])


def test_weights_that_began_from_who_is_held_out_under_another_name_are_found(
    root, tmp_path
):
    """The first weights are at hand; their records, and what is said of them, are of
    nobody: only the data they were trained on tells."""
    _, held_out = sides(root)
    shutil.copytree(root / "multimodal", tmp_path / "first")
    for path in (root / f"data/{held_out}").iterdir():
        for name in ("y1", "y2"):
            copy = tmp_path / "data" / name / path.name.replace(held_out, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    forged = {"files": {"t1": "0f"}, "images": "1f", "label": "2f"}

    def rename(content, record):
        split = {"train": ["y1"], "test": ["y2"]}
        record["split"] = {"seed": 0, **split}
        record["subjects"] = dict.fromkeys(("y1", "y2"), forged)
        if "training_subjects" in content:
            content["training_subjects"] = ["y1"]

    everywhere(tmp_path / "first", rename)
    flags = tmp_path / "first/flags.txt"
    lines = [
        f"--data_dir={tmp_path / 'data'}" if line.startswith("--data_dir") else line
        for line in flags.read_text().splitlines()
    ]
    flags.write_text("\n".join(lines) + "\n")
    flags = root / "multimodal/flags.txt"
    flags.write_text(f"{flags.read_text()}--init_from={tmp_path / 'first'}\n")
    told = leaked(examined(root, "multimodal"))
    detail = f"{held_out} is held out, and y1, seen, has the same content"
    assert detail in told["first", "held out"][0]


def test_a_judge_that_learnt_from_who_is_held_out_is_found(root, tmp_path):
    """By its record; and by its data, where the record has digests of nobody."""
    _, held_out = sides(root)
    for path in (root / f"data/{held_out}").iterdir():
        copy = tmp_path / "more/z" / path.name.replace(held_out, "z")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    kept = tmp_path / "judges"
    kept.mkdir()
    (kept / "ab-0123.weights.h5").write_bytes(b"weights")
    (subject,) = io.find_subjects(tmp_path / "more")
    record = {"split": {"train": ["z"], "test": []}, "image_size": 32}
    record |= {"slices": [0, 4], "subjects": records.of_files([subject])}
    for forged in (False, True):
        if forged:
            record["subjects"]["z"]["files"] = {"t1": "0f"}
        files.write_json(kept / "ab.json", files.sealed({"inputs": record}))
        folders = [root / "multimodal", kept]
        more = [str(tmp_path / "more")] if forged else []
        told = leaked(leaks.examine(folders, more, say=str))
        assert f"{held_out} is held out, and z" in told["judges", "held out"][0]


def test_a_data_set_of_models_of_another_split_is_found(root, models, tmp_path):
    """Made by others, and it says that it was made by these."""
    other = models._replace(images=lambda *given: 1 - models.images(*given))
    make_anew(root, other, slices_of(root, *sides(root)[0]))
    (told,) = made_by(root, tmp_path)
    assert told.verdict == "LEAK" and "made anew" in told.detail


def test_statistics_of_another_run_are_found(root):
    """Styles in every description; codes in the weights."""

    def swap(content, record):
        if "style" in content:
            moved = np.asarray(content["style"]["mean"]) + 0.1
            content["style"]["mean"] = moved.tolist()

    everywhere(root / "multimodal", swap)
    folder = root / "structural/weights"
    stored = weights.read(folder)
    mean = stored.found.mean + 0.1 * np.sqrt(np.square(stored.found.factor).sum(1))
    mean = mean.astype(np.float32)
    weights.write(folder, stored._replace(found=stored.found._replace(mean=mean)))
    told = leaked(examined(root, "structural", "multimodal"))
    assert [*told] == [("structural", "codes"), ("multimodal", "style")]


def test_a_fit_to_other_volumes_is_found(root):
    folder = root / "structural/weights"
    stored = weights.read(folder)
    of_volumes = stored.found.stacks
    moved = of_volumes._replace(mean=of_volumes.mean + 0.1 * of_volumes.spread)
    found = stored.found._replace(stacks=moved)
    weights.write(folder, stored._replace(found=found))
    told = leaked(examined(root, "structural"))
    assert [*told] == [("structural", "codes")]


@pytest.mark.parametrize("code", [0.0, 0.1])
def test_what_was_fitted_to_nobody_is_told_from_what_only_says_so(root, code):
    folder = root / "structural/weights"
    stored = weights.read(folder)
    plain = structural_maps.unfitted(len(stored.found.mean))
    found = plain._replace(mean=plain.mean + np.float32(code))
    weights.write(folder, stored._replace(found=found))
    told = [x for x in examined(root, "structural") if x.what == "codes"]
    assert [x.verdict for x in told] == ["LEAK" if code else "OK"]


def test_a_part_of_a_sample_that_is_anothers_is_found():
    shown = SimpleNamespace(
        images=np.zeros([4, 32, 32]), label=np.zeros([32, 32], np.uint8)
    )
    images, label = shown.images + 1e-4, shown.label.copy()
    assert leaks_anew._is_same(shown, images, label)
    planted = images.copy()
    planted[0, :3, :3] = 0.4  # on the mean no more than a thousandth
    assert np.mean(planted) < 1e-3 and not leaks_anew._is_same(shown, planted, label)
    label[3, 3] = 1
    assert not leaks_anew._is_same(shown, images, label)


def test_a_label_of_who_is_held_out_under_the_images_of_another_is_found(root):
    train, held_out = sides(root)
    scored = records.read(root / "segmentation")["subjects"]

    def lend(content, record):
        record["subjects"][train[0]]["label"] = scored[held_out]["label"]

    assert scored[held_out]["label"] != scored[train[0]]["label"]
    everywhere(root / "structural", lend)
    told = leaked(examined(root, "structural"))
    detail = f"{held_out} is held out, and {train[0]}, seen, has the same content"
    assert detail in told["structural", "held out"][0]


def test_labels_without_a_lesion_are_nobodys():
    way = (2, (0, 3))
    empty = hashlib.blake2b(np.zeros([3, 2, 2], np.uint8), digest_size=16).hexdigest()
    identity = {"files": {}, "images": None, "label": empty}
    assert leaks_checks._digests(identity, way, way) == set()
    assert leaks_checks._digests({**identity, "label": "0f"}, way, way) == {"0f"}


def test_judges_without_a_record_beside_others_are_named(root, tmp_path):
    kept = tmp_path / "judges"
    kept.mkdir()
    record = {"split": {"train": [], "test": []}, "image_size": 32, "slices": [0, 4]}
    sealed = files.sealed({"inputs": {**record, "subjects": {}}})
    files.write_json(kept / "ab.json", sealed)
    for name in ("ab", "cd"):
        (kept / f"{name}-0123.weights.h5").write_bytes(b"weights")
    (told,) = (x for x in leaks.examine([kept], [], say=str) if x.what == "seals")
    assert told.verdict == leaks_reader.UNPROVEN and "cd.json" in told.detail


def test_a_cache_that_serves_another_subject_under_a_name_is_found(root):
    """With good checksums."""
    train, held_out = sides(root)
    subjects = {each.name: each for each in io.find_subjects(root / "data")}
    keys = [content_key(subjects[n], 32, (0, 4)) for n in (train[0], held_out)]
    slices_of(root, held_out)  # who is in the cache from here on
    (folder,) = (root / "cache").glob("slices-*")
    shape = (None, 4, 32, 32)
    other = cache.open_array(folder / f"{keys[1]}.images.npy", shape, np.uint16).load()
    cache.write(folder / f"{keys[0]}.images.npy", other, axes=2)
    told = leaked(examined(root, "multimodal"))
    assert [*told] == [("multimodal", "cache")]
    assert train[0] in told["multimodal", "cache"][0]


def test_an_export_of_other_weights_is_found(root):
    folder = root / "multimodal/weights"
    stored = weights.read(folder)
    arrays = {n: {k: v + 1 for k, v in x.items()} for n, x in stored.arrays.items()}
    weights.write(folder, stored._replace(arrays=arrays))
    told = leaked(examined(root, "multimodal"))
    assert ("multimodal", "weights") in told


def test_files_of_which_something_else_is_left_prove_nothing_and_are_named(root):
    folder = root / "structural"
    wrong = {"inputs": 3, "split": {"train": 1}, "initialised_from": 7, "style": []}
    for path in [*folder.rglob("*.json")]:
        files.write_json(path, wrong)
    found = examined(root, "structural")
    said = {line.what: line for line in found}
    assert {line.verdict for line in found} == {"not provable"}
    assert "export/structure.json" in said["seals"].detail


def test_the_command_ends_with_1_where_there_is_a_leak(root):
    _, held_out = sides(root)

    def add(content, record):
        record["split"]["train"].append(f"{held_out}_week-044")

    everywhere(root / "multimodal", add)
    done = command(root / "multimodal")
    assert done.returncode == 1, done.stderr[-2000:]
    assert "another visit of the patient" in done.stdout
