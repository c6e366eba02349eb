"""Subjects found in every layout of folders."""

import gzip
import shutil
import tracemalloc

import numpy as np
import pytest

from brats_gan import files, io, spec
from tests import nifti

SHAPE = (32, 28, 8)  # H, W, S: no two alike
SLICES = (2, 7)


@pytest.mark.parametrize("layout", io.LAYOUTS)
def test_each_layout_is_recognised_and_sorted_by_name(layout, tmp_path):
    nifti.write_subject(tmp_path, "B", SHAPE, 1, layout)
    files = nifti.write_subject(tmp_path, "A", SHAPE, 0, layout)
    subjects = io.find_subjects(tmp_path)
    before = "sub-" * (layout == "bids")
    assert [subject.name for subject in subjects] == [f"{before}A", f"{before}B"]
    assert subjects[0].layout == layout
    assert {m: path for m, (path, _) in subjects[0].images.items()} == {
        m: files[m] for m in spec.BRATS.modalities
    }
    assert subjects[0].label == files["seg"]
    assert io.find_subjects(tmp_path, layout) == subjects


@pytest.mark.parametrize("grade", ["HGG", "LGG", "a/b"])
def test_subjects_are_found_below_grade_folders(grade, tmp_path):
    nifti.write_subject(tmp_path / grade, "A", SHAPE)
    assert [s.name for s in io.find_subjects(tmp_path)] == ["A"]


@pytest.mark.parametrize(
    "names",
    [
        ("t1", "t2", "t1ce", "flair", "seg"),
        ("T1", "T2", "T1CE", "FLAIR", "SEG"),
        ("t1n", "t2w", "t1c", "t2f", "seg"),
        ("t1", "t2", "t1Gd", "Flair", "Segm"),
    ],
)
def test_a_modality_may_go_by_another_name_in_any_case(names, tmp_path):
    files = nifti.write_subject(tmp_path, "A", SHAPE)
    for (role, path), name in zip(files.items(), names, strict=True):
        files[role] = path.rename(path.with_name(f"A_{name}.nii.gz"))
    (subject,) = io.find_subjects(tmp_path)
    assert {m: path for m, (path, _) in subject.images.items()} == {
        m: files[m] for m in spec.BRATS.modalities
    }
    assert subject.label == files["seg"]


def test_other_files_are_ignored(tmp_path):
    files = nifti.write_subject(tmp_path, "A", SHAPE)
    for other in (
        "A_structure.nii.gz",
        "A_background.nii.gz",
        "._A_t1.nii.gz",
        "A.csv",
    ):
        shutil.copy(files["t1"], files["t1"].with_name(other))
    (tmp_path / "manifest.csv").write_text("id\n")
    nifti.write_subject(tmp_path / ".cache", "B", SHAPE)
    assert [s.name for s in io.find_subjects(tmp_path)] == ["A"]


def test_a_subject_without_a_label_is_found(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE, label=False)
    (subject,) = io.find_subjects(tmp_path)
    images, labels = io.read_subject(subject, SLICES)
    assert subject.label is None
    assert labels is None
    assert images.shape == (5, 192, 192, 4)


def test_every_missing_modality_is_named_at_once(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE)["t1ce"].unlink()
    nifti.write_subject(tmp_path, "B", SHAPE, 1)["flair"].unlink()
    with pytest.raises(files.DataError) as caught:
        io.find_subjects(tmp_path)
    first, second = str(caught.value).splitlines()
    assert f"{tmp_path / 'A'}: no t1ce image. Looked for *_t1ce.nii.gz" in first
    assert f"{tmp_path / 'B'}: no flair image" in second


def test_two_folders_that_cannot_be_told_apart_are_a_problem(tmp_path):
    for centre in ("x", "y"):
        nifti.write_subject(tmp_path / centre / "HGG", "A")
    subjects, ((name, message),) = io.survey(tmp_path)
    assert [subject.name for subject in subjects] == ["HGG_A"] == [name]
    assert all(str(tmp_path / each / "HGG/A") in message for each in ("x", "y"))


@pytest.mark.parametrize("name", ["new\nline", "back\\slash", "x" * 201, "\udcff"])
def test_a_name_that_cannot_be_that_of_a_file_is_a_problem(name, tmp_path):
    nifti.write_subject(tmp_path, "A")
    (tmp_path / "A").rename(tmp_path / name)
    subjects, ((_, message),) = io.survey(tmp_path)
    assert not subjects and "cannot be the name of files" in message
    message.encode()


def test_a_decathlon_file_whose_name_leads_elsewhere_is_a_problem(tmp_path):
    nifti.write_subject(tmp_path, "A", layout="msd")
    (tmp_path / "imagesTr/A.nii.gz").rename(tmp_path / "imagesTr/a\\..\\A.nii.gz")
    subjects, ((_, message),) = io.survey(tmp_path)
    assert not subjects and "cannot be the name of files" in message


def test_a_folder_given_as_its_parent_has_a_name_of_its_own(tmp_path):
    nifti.write_subject(tmp_path, "A")
    (tmp_path / "A/below").mkdir()
    (subject,) = io.find_subjects(tmp_path / "A/below/..")
    assert subject.name == "A"


def test_a_link_that_leads_back_up_is_not_followed(tmp_path):
    nifti.write_subject(tmp_path / "data", "A")
    (tmp_path / "data/again").symlink_to(tmp_path / "data")
    (subject,) = io.find_subjects(tmp_path / "data")
    assert subject.name == "A"


def test_a_link_to_a_subject_elsewhere_is_read(tmp_path):
    nifti.write_subject(tmp_path / "elsewhere", "A")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere/A")
    (subject,) = io.find_subjects(tmp_path / "data")
    assert subject.name == "linked"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../a", "/etc", "a\\b", "a\0b"])
def test_no_name_leads_out_of_a_folder(name, tmp_path):
    with pytest.raises(files.DataError, match="leads out of"):
        files.folder_within(tmp_path, name)


def test_a_header_that_asks_for_more_than_the_file_holds_allocates_nothing(tmp_path):
    path = nifti.write_subject(tmp_path, "A")["t1"]
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = np.array([1000, 1000, 500], "<i2").tobytes()  # 1 GB as int16
    path.write_bytes(gzip.compress(bytes(content)))
    tracemalloc.start()
    with pytest.raises(files.DataError, match="damaged or incomplete"):
        io.load_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_subjects_of_one_name_are_told_apart_by_their_grade(tmp_path):
    # As brats_2013_pat0001_1 of 2015, which is there with either grade.
    for grade in ("HGG", "LGG"):
        nifti.write_subject(tmp_path / grade, "pat1", SHAPE)
    assert [s.name for s in io.find_subjects(tmp_path)] == ["HGG_pat1", "LGG_pat1"]


def test_2015_files_may_lie_in_the_folder_of_the_subject(tmp_path):
    files = nifti.write_subject(tmp_path, "A", SHAPE, layout="brats2015")
    for path in files.values():
        path.rename(path.parent.parent / path.name)
        path.parent.rmdir()
    (subject,) = io.find_subjects(tmp_path)
    assert (subject.name, subject.layout) == ("A", "brats2015")


def test_the_decathlon_folder_may_be_below_and_hold_hidden_files(tmp_path):
    files = nifti.write_subject(
        tmp_path / "Task01_BrainTumour", "A", SHAPE, layout="msd"
    )
    files["t1"].with_name("._A.nii.gz").write_bytes(b"from a Macintosh")
    (subject,) = io.find_subjects(tmp_path)
    assert (subject.name, subject.layout) == ("A", "msd")


def test_decathlon_channels_are_found_by_name(tmp_path):
    order = ("t2", "flair", "t1ce", "t1")
    nifti.write_subject(tmp_path, "A", SHAPE, layout="msd", channels=order)
    (subject,) = io.find_subjects(tmp_path)
    channels = {modality: channel for modality, (_, channel) in subject.images.items()}
    assert channels == {"t2": 0, "flair": 1, "t1ce": 2, "t1": 3}


def test_a_layout_that_is_named_ignores_the_files_of_others(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE, layout="brats2018")
    nifti.write_subject(tmp_path, "B", SHAPE, layout="msd")
    assert [s.name for s in io.find_subjects(tmp_path, "msd")] == ["B"]
    assert [s.name for s in io.find_subjects(tmp_path, "brats2018")] == ["A"]


def test_files_of_2023_that_were_renamed_keep_their_labels_by_flag(tmp_path):
    files = nifti.write_subject(tmp_path, "A", SHAPE, layout="brats2023")
    for path in files.values():
        path.rename(path.with_name(path.name.replace("-", "_")))
    (guessed,) = io.find_subjects(tmp_path)
    (named,) = io.find_subjects(tmp_path, "brats2023")
    assert (guessed.layout, named.layout) == ("brats2018", "brats2023")
    assert set(np.unique(io.read_subject(named, SLICES)[1])) == {0, 1, 2, 4}


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(files.DataError, match="--layout=brats2099 is not known"):
        io.find_subjects(tmp_path, "brats2099")
