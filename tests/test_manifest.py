"""Manifest and volumes are verified against each other; what was damaged comes back."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest

from brats_gan import files, io, manifest, runs, synthetic_dataset
from brats_gan.stages import dataset as stage
from brats_gan.stages import ingredients
from tests.test_synthesis import slices, stand_ins  # noqa: F401 - a fixture

SAMPLES = 5
FIRST, SECOND, THIRD = "synth-00001", "synth-00002", "synth-00003"


@pytest.fixture(autouse=True)
def _two_samples_a_volume(monkeypatch):
    monkeypatch.setattr(manifest, "PER_VOLUME", 2)


def build(slices, folder, made_from="ours"):  # noqa: F811
    """A data set of which some samples were left out, or what is missing of it."""
    settings = stage.Settings(
        "", "", samples=SAMPLES, max_tries=2, batch_size=4, dice_threshold=0.95
    )
    settings = dataclasses.replace(settings, accepted_only=True, seed=13)
    models = stand_ins(open_when=lambda code: code < 0)
    return stage.make_samples(settings, models, slices, folder, made_from)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(slices, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("whole") / "out"
    before, manifest.PER_VOLUME = manifest.PER_VOLUME, 2
    try:
        rows = build(slices, folder)
    finally:
        manifest.PER_VOLUME = before
    assert sum(not row["id"] for row in rows) > 1  # some of them between volumes
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def lines(folder):
    return (folder / "manifest.csv").read_bytes().splitlines(keepends=True)


def keep_lines(number):
    def damage(folder):
        (folder / "manifest.csv").write_bytes(b"".join(lines(folder)[:number]))

    return damage


def half_a_line(folder):
    path = folder / "manifest.csv"
    path.write_bytes(path.read_bytes()[:-12])


def no_last_end(folder):
    path = folder / "manifest.csv"
    path.write_bytes(path.read_bytes()[:-2])  # it could have lost digits as well


def no_header(folder):
    (folder / "manifest.csv").write_bytes(b"".join(lines(folder)[1:]))


def no_text(folder):
    (folder / "manifest.csv").write_bytes(b"\xff\x00\xfe")


def a_line_of_another(folder):
    changed = [line.replace(b"synth-00002,", b"synth-00003,") for line in lines(folder)]
    (folder / "manifest.csv").write_bytes(b"".join(changed))


def no_manifest(folder):
    (folder / "manifest.csv").unlink()


def no_folder(folder):
    shutil.rmtree(folder / SECOND)


def no_label(folder):
    (folder / SECOND / f"{SECOND}_seg.nii.gz").unlink()


def edited_label(folder):
    path = folder / SECOND / f"{SECOND}_seg.nii.gz"
    label = np.array(io.load_volume(path)[0])
    label[100, 100, 1] = 4
    io.write_nifti(path, label, np.uint8)


def another_size(folder):
    path = folder / SECOND / f"{SECOND}_t1.nii.gz"
    io.write_nifti(path, np.zeros([240, 240, 3]), np.int16, slope=io.IMAGE_SLOPE)


def cut_volume(folder):
    path = folder / SECOND / f"{SECOND}_background.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])


def swapped_volumes(folder):
    one, other = (folder / f"{name}/{name}_flair.nii.gz" for name in (FIRST, SECOND))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def cut_record(folder):
    path = folder / SECOND / f"{SECOND}_samples.json"
    path.write_bytes(path.read_bytes()[:-40])


def edited_record(folder):
    path = folder / SECOND / f"{SECOND}_samples.json"
    content = json.loads(path.read_text())
    content["rows"][0][content["columns"].index("dice")] = "1.00000"
    content["rows"][0][content["columns"].index("tries")] = "77"
    path.write_text(json.dumps(content))


def no_sheet(folder):
    (folder / "samples.png").unlink()


@pytest.mark.parametrize(
    ("damage", "said", "made"),
    [
        (keep_lines(2), "does not; it is written anew", 0),
        (half_a_line, "cut off or changed", 0),
        (no_last_end, "it ends within this line", 0),
        (no_header, "line 1: it was cut off or changed (its header is missing)", 0),
        (no_text, "cut off or changed", 0),
        (a_line_of_another, "it is written anew", 0),
        (no_manifest, "", 0),
        (no_folder, f"{SECOND}_samples.json: is gone", 2),
        (no_label, f"{SECOND}_seg.nii.gz: No such file", 2),
        (edited_label, f"{SECOND}_seg.nii.gz: it has changed since it was made", 2),
        (another_size, f"{SECOND}_t1.nii.gz: it has changed since it was made", 2),
        (cut_volume, f"{SECOND}_background.nii.gz: it has changed", 2),
        (swapped_volumes, f"{FIRST}_flair.nii.gz: it has changed", 4),
        (cut_record, f"{SECOND}_samples.json: it is damaged", 2),
        (edited_record, f"{SECOND}_samples.json: it has changed", 2),
        (no_sheet, "samples.png is missing", 2),
    ],
)
def test_what_was_damaged_is_named_and_comes_back_to_the_same_bytes(
    whole,
    copy,
    slices,  # noqa: F811
    caplog,
    damage,
    said,
    made,
):
    damage(copy)
    with caplog.at_level(logging.INFO):
        build(slices, copy)
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert said in "\n".join(warned) and bool(warned) == bool(said)
    assert f"{made} samples to make" in caplog.text
    assert contents(copy) == contents(whole)


def test_a_finished_data_set_is_left_as_it_is(whole, copy, slices, caplog):  # noqa: F811
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with caplog.at_level(logging.WARNING):
        build(slices, copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    assert not caplog.text


def test_a_volume_that_lost_its_record_is_made_again_for_it_may_be_anothers(
    whole,
    copy,
    tmp_path,
    slices,  # noqa: F811
    caplog,
):
    other = tmp_path / "other"
    build(slices, other, "theirs")
    shutil.rmtree(copy / SECOND)
    shutil.copytree(other / SECOND, copy / SECOND)
    (copy / SECOND / f"{SECOND}_samples.json").unlink()
    with caplog.at_level(logging.INFO):
        build(slices, copy)
    said = f"{SECOND}_samples.json: is gone; {SECOND} is made again"
    assert said in caplog.text and "2 samples to make" in caplog.text
    assert contents(copy) == contents(whole)


def test_stage_4_refuses_a_volume_that_lost_its_record(copy):
    (copy / SECOND / f"{SECOND}_samples.json").unlink()
    finish(copy)  # of before there were records: all that can be said is in the files
    synthetic_dataset.verified_subjects(copy, [])
    finish(copy, MadeFrom="ours")
    with pytest.raises(runs.RunError, match=f"{SECOND}_samples.json: it is missing"):
        synthetic_dataset.verified_subjects(copy, [])


def test_a_volume_that_another_data_set_made_is_made_again(
    whole,
    copy,
    tmp_path,
    slices,  # noqa: F811
    caplog,
):
    other = tmp_path / "other"
    build(slices, other, "theirs")
    for name in (SECOND, "manifest.csv"):  # which then agree with each other
        shutil.rmtree(copy / name) if name == SECOND else (copy / name).unlink()
        (shutil.copytree if name == SECOND else shutil.copy)(other / name, copy / name)
    with caplog.at_level(logging.WARNING):
        build(slices, copy)
    assert f"{SECOND}_samples.json: it is of another data set" in caplog.text
    assert contents(copy) == contents(whole)


def test_stage_4_refuses_the_volumes_of_another_data_set(copy):
    finish(copy, MadeFrom="theirs")
    with pytest.raises(runs.RunError, match="it is of another data set"):
        synthetic_dataset.verified_subjects(copy, [])


def test_what_a_volume_is_made_from_is_models_data_and_flags_not_places():
    settings = stage.Settings("runs/1", "runs/2", dice_threshold=0.9)

    def digest(exports=("weights",), **changed):
        fixed = {"exports": exports}
        return ingredients.digest_of(dataclasses.replace(settings, **changed), fixed)

    assert digest() == digest(structural_run="moved/1", nearest_report=True)
    others = digest(("others",)), digest(seed=1), digest(filter=False)
    assert len({digest(), *others}) == 4


def test_a_volume_of_another_data_set_is_named(copy, slices):  # noqa: F811
    shutil.copytree(copy / SECOND, copy / "synth-00009")
    before = contents(copy)
    with pytest.raises(files.DataError, match="synth-00009.*move it out of the folder"):
        build(slices, copy)
    assert contents(copy) == before


def finish(folder, samples=SAMPLES, **more):
    synthetic_dataset.write_description(
        folder,
        {"TrainingSubjects": ["s0"], "Samples": samples, "Prepared": True, **more},
    )


def test_a_finished_data_set_is_read_by_stage_4(copy):
    finish(copy)
    names = [subject.name for subject in synthetic_dataset.verified_subjects(copy, [])]
    assert names == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (keep_lines(3), "samples, and 5 were made"),
        (half_a_line, "cut off or changed"),
        (no_header, "its header is missing"),
        (no_manifest, "No such file"),
        (no_folder, f"{SECOND}_t1.nii.gz: it is missing"),
        (no_label, f"{SECOND}_seg.nii.gz: it is missing"),
        (edited_label, f"{SECOND}_seg.nii.gz: it has changed"),
        (another_size, f"{SECOND}_t1.nii.gz: it has changed"),
        (cut_record, f"{SECOND}_samples.json: it is damaged"),
    ],
)
def test_stage_4_refuses_a_damaged_data_set_in_a_sentence(copy, damage, said):
    finish(copy)
    damage(copy)
    with pytest.raises(runs.RunError) as caught:
        synthetic_dataset.verified_subjects(copy, [])
    assert said in str(caught.value)
    assert str(caught.value).endswith(
        "start its build_dataset.py command again, which makes it anew"
    )


def test_stage_4_refuses_what_the_manifest_says_otherwise_than_the_record(copy):
    finish(copy)
    path = copy / "manifest.csv"
    rows = manifest.read(copy)
    row = next(row for row in rows if row["id"] == SECOND)
    row["dice"] = "0.12345"
    manifest.write(copy, rows)
    with pytest.raises(runs.RunError, match=f"{path.name}: it says of {SECOND}"):
        synthetic_dataset.verified_subjects(copy, [])


def test_stage_4_refuses_a_volume_that_the_manifest_does_not_name(copy):
    finish(copy)
    shutil.copytree(copy / SECOND, copy / "synth-00009")
    with pytest.raises(runs.RunError, match="synth-00009.*move it out of the folder"):
        synthetic_dataset.verified_subjects(copy, [])
