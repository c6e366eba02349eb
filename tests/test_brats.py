"""Facts, layouts, geometry, intensities, writing and splitting, worked out by hand."""

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brats_gan import data, files, io, spec
from tests import nifti

ROOT = Path(__file__).parent.parent
REAL = Path(
    os.environ.get(
        "BRATS_GAN_REAL_DATA", ROOT.parent / "shared" / "data" / "brats-real"
    )
)
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"real subjects are not at {REAL}"
)
SHAPE = (32, 28, 8)  # H, W, S: no two alike
SLICES = (2, 7)


def _write_four(folder, volume, name="A", label=None):
    """A subject whose modalities are all `volume` [H, W, S]; returns it."""
    for modality in spec.MODALITIES:
        nifti.write_volume(folder / name / f"{name}_{modality}.nii.gz", volume)
    if label is not None:
        nifti.write_volume(folder / name / f"{name}_seg.nii.gz", label)
    return next(s for s in io.find_subjects(folder) if s.name == name)


# --- Finding subjects -----------------------------------------------------------------


@pytest.mark.parametrize("layout", io.LAYOUTS)
def test_each_layout_is_recognised_and_sorted_by_name(layout, tmp_path):
    nifti.write_subject(tmp_path, "B", SHAPE, 1, layout)
    files = nifti.write_subject(tmp_path, "A", SHAPE, 0, layout)
    subjects = io.find_subjects(tmp_path)
    assert [subject.name for subject in subjects] == ["A", "B"]
    assert subjects[0].layout == layout
    assert {m: path for m, (path, _) in subjects[0].images.items()} == {
        m: files[m] for m in spec.MODALITIES
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
        m: files[m] for m in spec.MODALITIES
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
    with pytest.raises(files.DataError, match="'brats2099' is not known"):
        io.find_subjects(tmp_path, "brats2099")


# --- Labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", io.LAYOUTS)
def test_labels_of_every_year_survive_the_round_trip(layout):
    mapping = io.LABEL_MAPS[layout]
    stored = np.array(sorted(mapping), np.uint8)
    ours = io.to_ours(stored, mapping)
    assert ours.tolist() == [mapping[v] for v in stored]
    np.testing.assert_array_equal(io.from_ours(ours, mapping), stored)


@pytest.mark.parametrize(
    ("layout", "stored", "ours"),
    [
        ("brats2015", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("brats2018", [1, 2, 4], [1, 2, 4]),
        ("brats2023", [1, 2, 3], [1, 2, 4]),
        ("msd", [1, 2, 3], [2, 3, 4]),
    ],
)
def test_the_enhancing_core_is_4_whatever_the_year(layout, stored, ours):
    mapping = io.LABEL_MAPS[layout]
    assert io.to_ours(np.array(stored), mapping).tolist() == ours


def test_a_label_that_a_layout_does_not_have_cannot_be_written_in_it():
    with pytest.raises(files.DataError, match="no label for non-enhancing"):
        io.from_ours(np.array([0, 3]), io.LABEL_MAPS["brats2023"])


@pytest.mark.parametrize(
    "named",
    [
        {
            "0": "background",
            "1": "enhancing tumour",
            "2": "edema",
            "3": "non-enhancing",
        },
        {"background": 0, "Enhancing Tumor": 1, "Oedema": 2, "Non Enhancing": 3},
    ],
    ids=["as published", "as nnU-Net"],
)
def test_decathlon_labels_are_found_by_name(named, tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE, layout="msd")
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["labels"] = named
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (subject,) = io.find_subjects(tmp_path)
    assert io.label_map(subject) == {0: 0, 1: 4, 2: 2, 3: 3}


def test_whole_numbers_stored_as_floats_are_labels():
    stored = np.array([[0.0, 4.0]], np.float64)
    ours = io.to_ours(stored, io.LABEL_MAPS["brats2018"])
    assert (ours.tolist(), ours.dtype) == ([[0, 4]], np.uint8)


# --- Geometry -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes", ["LPS", "RAS", "LAI", "SPL", "AIR", "PSR"], ids=lambda axes: axes
)
def test_rows_run_front_to_back_and_columns_right_to_left(axes, tmp_path):
    # One marked voxel, 1 mm towards the left, 2 mm backwards and 3 mm up from the
    # corner that lies right, in front and below: row 2, column 1, slice 3.
    lps = np.zeros((3, 4, 5), np.int16)  # x, y, z
    lps[1, 2, 3] = 7
    image = nib.Nifti1Image(lps, np.diag([-1.0, -1.0, 1.0, 1.0]))
    there = nib.orientations.axcodes2ornt(tuple(axes))
    here = nib.orientations.io_orientation(image.affine)
    turned = image.as_reoriented(nib.orientations.ornt_transform(here, there))
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    nib.save(turned, tmp_path / "a.nii.gz")
    volume, affine = io.load_volume(tmp_path / "a.nii.gz")
    assert volume.shape == (4, 3, 5)  # H, W, S
    assert np.argwhere(volume).tolist() == [[2, 1, 3]]
    np.testing.assert_allclose(affine, np.diag([-1, -1, 1, 1]), atol=1e-6)
    part, _ = io.load_volume(tmp_path / "a.nii.gz", slices=(2, 5))
    np.testing.assert_array_equal(part, volume[:, :, 2:5])


@pytest.mark.parametrize("compressed", [True, False])
def test_mha_agrees_with_simpleitk_in_every_direction(compressed, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    stored = np.arange(60, dtype=np.float32).reshape(3, 4, 5)  # z, y, x
    image = sitk.GetImageFromArray(stored)
    # x runs up, y to the right, z to the front; LPS world, so columns are axes.
    direction = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], float)
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing((2.0, 3.0, 4.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    sitk.WriteImage(image, str(tmp_path / "a.mha"), useCompression=compressed)
    volume, affine = io.load_volume(tmp_path / "a.mha")
    lps = sitk.DICOMOrient(image, "LPS")
    expected = sitk.GetArrayFromImage(lps)  # [S, H, W]
    np.testing.assert_array_equal(volume, expected.transpose(1, 2, 0))
    for index in ((0, 0, 0), (1, 2, 3)):
        x, y, z = lps.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(affine @ (*index, 1), (-x, -y, z, 1))


def test_a_header_without_orientation_is_taken_as_stored_by_brats(tmp_path):
    volume = nifti.brain(SHAPE)[0]["t1"]
    nib.save(nib.Nifti1Image(volume.swapaxes(0, 1), None), tmp_path / "a.nii.gz")
    again, affine = io.load_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(again, volume)
    np.testing.assert_array_equal(affine, io.lps_affine(32))


@pytest.mark.parametrize(
    "how",
    [
        {"axes": "RAS"},
        {"extension": ".nii"},
        {"extension": ".NII.GZ"},
        {"dtype": np.float32},
        {"dtype": np.float64, "axes": "RAS"},
        {"dtype": ">i2"},
        {"layout": "brats2015"},
        {"layout": "brats2015", "axes": "RAS"},
        {"layout": "brats2015", "extension": ".nii.gz"},
        {"layout": "brats2023"},
        {"layout": "brats2023", "extension": ".nii", "axes": "RAS"},
        {"layout": "msd"},
        {"layout": "msd", "axes": "RAS", "channels": ("t1", "t2", "flair", "t1ce")},
    ],
    ids=lambda how: " ".join(str(v) for v in how.values()),
)
def test_one_brain_gives_equal_tensors_from_every_layout(how, tmp_path):
    drawn = (2, 4)  # what every layout has
    nifti.write_subject(tmp_path / "a", "A", SHAPE, labels=drawn)
    if how.get("extension") == ".NII.GZ":
        files = nifti.write_subject(tmp_path / "b", "A", SHAPE, labels=drawn)
        for path in files.values():
            path.rename(path.with_name(path.name.upper()))
    else:
        nifti.write_subject(tmp_path / "b", "A", SHAPE, labels=drawn, **how)
    (one,), (other,) = (io.find_subjects(tmp_path / side) for side in "ab")
    for image_size in (192, 64):
        images, labels = io.read_subject(one, SLICES, image_size)
        other_images, other_labels = io.read_subject(other, SLICES, image_size)
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)
    assert set(np.unique(labels)) == {0, 2, 4}


# --- Reading files --------------------------------------------------------------------


def test_only_the_slices_asked_for_are_decoded(tmp_path):
    # Damage behind the range goes unseen, as the file is not decoded so far.
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 30000, (64, 64, 40)).astype(np.int16)
    path = nifti.write_volume(tmp_path / "a.nii.gz", volume)
    content = bytearray(path.read_bytes())
    content[int(0.9 * len(content))] ^= 255
    path.write_bytes(content)
    part, _ = io.load_volume(path, slices=(3, 10))
    np.testing.assert_array_equal(part, volume[:, :, 3:10])
    with pytest.raises(files.DataError, match="damaged"):
        io.load_volume(path)


def test_a_file_cut_off_behind_the_slices_is_noticed_all_the_same(tmp_path):
    volume = np.random.default_rng(0).integers(0, 30000, (64, 64, 40)).astype(np.int16)
    path = nifti.write_volume(tmp_path / "a.nii.gz", volume)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(files.DataError, match="incomplete"):
        io.load_volume(path, slices=(3, 10))


def test_gzip_of_several_members_is_read(tmp_path):
    path = nifti.write_volume(tmp_path / "a.nii.gz", nifti.brain(SHAPE)[0]["t1"])
    content = gzip.decompress(path.read_bytes())
    whole = io.load_volume(path, slices=SLICES)[0]
    halves = (content[:5000], content[5000:])
    path.write_bytes(b"".join(gzip.compress(half) for half in halves))
    np.testing.assert_array_equal(io.load_volume(path, slices=SLICES)[0], whole)


def test_a_file_named_gz_that_is_not_compressed_is_read(tmp_path):
    path = nifti.write_volume(tmp_path / "a.nii.gz", nifti.brain(SHAPE)[0]["t1"])
    whole = io.load_volume(path)[0]
    path.write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(io.load_volume(path)[0], whole)


@pytest.mark.parametrize(
    ("slope", "inter", "expected"),
    [(0.5, 10.0, 13.0), (np.nan, 0.0, 6.0), (0.0, 0.0, 6.0), (np.nan, np.nan, 6.0)],
    ids=["scaled", "NaN", "zero", "both NaN"],
)
def test_the_scaling_of_the_header_is_applied_where_there_is_one(
    slope, inter, expected, tmp_path
):
    volume = np.full((3, 4, 5), 6, np.int16)  # 0.5 x 6 + 10 = 13
    path = nifti.write_volume(tmp_path / "a.nii.gz", volume)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    assert (io.load_volume(path)[0] == expected).all()


def test_nifti_2_is_read(tmp_path):
    volume = nifti.brain(SHAPE)[0]["t1"]
    stored = np.ascontiguousarray(volume.swapaxes(0, 1))
    nib.save(nib.Nifti2Image(stored, nifti.affine(SHAPE)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(io.load_volume(tmp_path / "a.nii.gz")[0], volume)


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", path)

    path = nifti.write_volume(tmp_path / "a.nii.gz", nifti.brain(SHAPE)[0]["t1"])
    monkeypatch.setattr(io.volumes, "open", refuse, raising=False)
    with pytest.raises(files.DataError, match="a.nii.gz: permission denied"):
        io.load_volume(path)


def test_each_file_is_decoded_once(tmp_path, monkeypatch):
    nifti.write_subject(tmp_path, "A", SHAPE, layout="msd")
    (subject,) = io.find_subjects(tmp_path)
    opened = []
    load_channels = io.load_channels

    def counting(path, *args):
        opened.append(path.parent.name)
        return load_channels(path, *args)

    monkeypatch.setattr(io.subjects, "load_channels", counting)
    io.read_subject(subject, SLICES)
    assert opened == ["imagesTr", "labelsTr"]


# --- Intensities and the crop ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.int32])
@pytest.mark.parametrize(("rows", "ceiling"), [(40, 1998), (30, 1499)])
def test_intensity_is_scaled_by_the_99_9_percentile_of_positive_voxels(
    dtype, rows, ceiling, tmp_path
):
    # Positive voxels 1 ... 2000: 99.9 % are 1998 of them, so the ceiling is 1998; of
    # 1 ... 1500 they are 1498.5, and 1498 voxels would be fewer than that.
    count = 50 * rows
    volume = np.zeros((rows, 30, 4), dtype)
    volume[:, :25, 1:3] = 1 + np.arange(count).reshape(rows, 25, 2)
    volume[0, 29, 1] = -50
    images, _ = io.read_subject(_write_four(tmp_path, volume), (0, 4))
    expected = np.clip(np.arange(1, count + 1) / np.float32(ceiling), 0, 1)
    np.testing.assert_allclose(np.sort(images[images > 0])[::4], expected, rtol=1e-6)
    assert images.max() == 1
    assert images.min() == 0
    assert np.count_nonzero(images) == 4 * count  # the negative voxel is background


def test_the_percentile_is_taken_over_the_slices_in_range(tmp_path):
    volume = np.zeros((4, 4, 3), np.int16)
    volume[1:3, 1:3, 1] = 10
    volume[1:3, 1:3, 0] = 5
    volume[1:3, 1:3, 2] = 1000  # out of range
    images, _ = io.read_subject(_write_four(tmp_path, volume), (0, 2))
    assert images[1].max() == 1
    assert images[0].max() == 0.5


def test_the_crop_is_centred_on_the_brain(tmp_path):
    # Rows 10 to 29 and columns 200 to 230 of 240 hold the union of the modalities.
    subject = _write_four(tmp_path, np.zeros((240, 240, 2), np.int16))
    for modality, rows, columns in (
        ("t1", (10, 20), (200, 231)),
        ("t2", (15, 30), (200, 210)),
        ("t1ce", (15, 16), (210, 220)),
        ("flair", (15, 16), (210, 220)),
    ):
        volume = np.zeros((240, 240, 2), np.int16)
        volume[slice(*rows), slice(*columns)] = 100
        nifti.write_volume(subject.images[modality][0], volume)
    images, _ = io.read_subject(subject, (0, 2))
    # 20 rows in the middle of 192 begin at 86; 31 columns at 80.5, taken as 81.
    rows, columns = np.nonzero(images[0].any(axis=-1))
    assert (rows.min(), rows.max()) == (86, 105)
    assert (columns.min(), columns.max()) == (81, 111)
    t1_rows = np.flatnonzero(images[0, :, :, 0].any(axis=1))
    assert (t1_rows.min(), t1_rows.max()) == (86, 95)


def test_a_brain_larger_than_the_crop_is_cut_evenly(tmp_path):
    volume = np.full((200, 10, 2), 100, np.int16)
    volume[:, 0] = 0
    images, _ = io.read_subject(_write_four(tmp_path, volume), (0, 2))
    assert np.count_nonzero(images[0, :, :, 0]) == 192 * 9


def test_images_shrink_by_area_and_labels_by_nearest(tmp_path):
    volume = np.zeros((192, 192, 2), np.int16)
    volume[[0, -1], :] = volume[:, [0, -1]] = (
        8  # a frame, so that the crop is the field
    )
    volume[2:4, 2:4] = np.array([[2, 4], [8, 0]])[:, :, None]
    label = np.zeros((192, 192, 2), np.uint8)
    label[2:4, 2:4] = np.array([[1, 1], [1, 4]])[:, :, None]
    subject = _write_four(tmp_path, volume, label=label)
    images, labels = io.read_subject(subject, (0, 2), image_size=96)
    # (2 + 4 + 8 + 0) / 4 = 3.5, over the ceiling 8.
    assert images[0, 1, 1].tolist() == [3.5 / 8] * 4
    assert labels[0, 1, 1] == 4  # the pixel at the centre, not a mean
    assert set(np.unique(labels)) == {0, 4}
    assert images[0, 2:-1, 2:-1].max() == 0


@pytest.mark.parametrize("image_size", [32, 80, 100, 192, 256])
def test_background_is_exactly_zero_at_every_size(image_size, tmp_path):
    nifti.write_subject(tmp_path, "A", (160, 140, 4))
    (subject,) = io.find_subjects(tmp_path)
    images, labels = io.read_subject(subject, (0, 4), image_size)
    assert images.shape == (4, image_size, image_size, 4)
    assert images.dtype == np.float32
    assert labels.shape == (4, image_size, image_size)
    assert images.min() == 0
    assert 0.9 < images.max() <= 1
    assert not images[:, 0].any()
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
    assert (images[labels > 0] > 0).all()


def test_labels_can_be_left_out(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE)
    (subject,) = io.find_subjects(tmp_path)
    assert io.read_subject(subject, SLICES, labels=False)[1] is None


@pytest.mark.parametrize("text", ["55", "55:", "105:55", "5:5", "a:b", "-1:5"])
def test_a_range_of_slices_has_to_rise(text):
    with pytest.raises(files.DataError, match="--slices="):
        io.parse_slices(text)


def test_a_range_of_slices_is_read():
    assert io.parse_slices("55:105") == spec.SLICES


# --- Writing --------------------------------------------------------------------------


def _prepared(folder, images, labels, name="synth-00001"):
    """Writes [S, size, size, 4] and [S, size, size] as a prepared data set."""
    for index, modality in enumerate(spec.MODALITIES):
        volume = io.place_back(images[..., index]).transpose(1, 2, 0)
        path = folder / name / f"{name}_{modality}.nii.gz"
        io.write_nifti(path, volume, np.int16, slope=io.IMAGE_SLOPE)
    volume = io.place_back(labels, label=True).transpose(1, 2, 0)
    io.write_nifti(folder / name / f"{name}_seg.nii.gz", volume, np.uint8)
    (folder / "dataset_description.json").write_text('{"Prepared": true}')


@pytest.mark.parametrize("size", [16, 32, 48, 64, 96, 192])
def test_what_this_project_writes_is_read_back_as_it_was(size, tmp_path):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 32768, (3, size, size, 4))
    images = levels.astype(np.float32) * np.float32(io.IMAGE_SLOPE)
    labels = rng.integers(0, 5, (3, size, size)).astype(np.uint8)
    _prepared(tmp_path, images, labels)
    (subject,) = io.find_subjects(tmp_path)
    assert subject.prepared
    again, again_labels = io.read_subject(subject, image_size=size)
    np.testing.assert_array_equal(again, np.minimum(images, 1))
    np.testing.assert_array_equal(again_labels, labels)


def test_any_image_in_0_to_1_is_read_back_within_half_a_level(tmp_path):
    images = np.random.default_rng(0).random((2, 96, 96, 4), np.float32)
    images[0, 0, 0] = (0, 1, 1e-9, 0.5)
    _prepared(tmp_path, images, np.zeros((2, 96, 96), np.uint8))
    (subject,) = io.find_subjects(tmp_path)
    again, _ = io.read_subject(subject, image_size=96)
    assert np.abs(again - images).max() <= 1 / 65534 + 1e-7
    assert again[0, 0, 0, :2].tolist() == [0, 1]


@pytest.mark.parametrize("size", [100, 256])
def test_a_size_that_does_not_divide_the_crop_is_placed_back_too(size):
    slices = np.ones((2, size, size), np.float32)
    placed = io.place_back(slices)
    assert placed.shape == (2, 240, 240)
    assert placed[:, 24:216, 24:216].min() == pytest.approx(1)
    assert np.count_nonzero(placed) == 2 * 192 * 192
    labels = io.place_back(np.full((2, size, size), 4, np.uint8), label=True)
    assert set(np.unique(labels)) == {0, 4}


def test_place_back_repeats_pixels_around_the_centre():
    placed = io.place_back(np.array([[[1, 2], [3, 4]]]), field=6, crop=4)
    assert placed[0].tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 2, 2, 0],
        [0, 1, 1, 2, 2, 0],
        [0, 3, 3, 4, 4, 0],
        [0, 3, 3, 4, 4, 0],
        [0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_nibabel_reads_what_is_written(name, tmp_path):
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # H, W, S
    io.write_nifti(tmp_path / name, volume, np.int16)
    image = nib.load(tmp_path / name)
    np.testing.assert_array_equal(image.get_fdata(), volume.swapaxes(0, 1))
    expected = [[-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    for affine, code in (
        image.header.get_sform(coded=True),
        image.header.get_qform(coded=True),
    ):
        assert code == 1
        np.testing.assert_allclose(affine, expected)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


def test_an_affine_that_is_given_is_kept(tmp_path):
    affine = np.array([[0, -2, 0, 5], [-1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    volume = np.ones((2, 3, 4), np.uint8)
    io.write_nifti(tmp_path / "a.nii.gz", volume, np.uint8, affine=affine)
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii.gz").affine, affine)


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    volume = nifti.brain(SHAPE)[0]["t1"]
    for name in ("a.nii.gz", "other.nii.gz"):
        io.write_nifti(tmp_path / name, volume, np.int16)
    first, second = (tmp_path / name for name in ("a.nii.gz", "other.nii.gz"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[3:8] == bytes(5)  # gzip's flags and time of writing: none


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    io.write_nifti(path, np.ones((2, 3, 4), np.uint8), np.uint8)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(files.DataError, match="a.nii.gz: .*No space left on device"):
        io.write_nifti(path, np.zeros((2, 3, 4), np.uint8), np.uint8)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- Splitting ------------------------------------------------------------------------


def test_one_subject_in_ten_is_held_out():
    names = [f"S{i:02}" for i in range(30)]
    split = data.random_split(names, seed=0)
    assert len(split["test"]) == 3
    assert sorted(split["train"] + split["test"]) == names


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    names = [f"S{i:02}" for i in range(20)]
    split = data.random_split(names, seed=3)
    assert data.random_split(reversed(names), seed=3) == split
    others = [data.random_split(names, seed=seed)["test"] for seed in range(20)]
    assert len({tuple(other) for other in others}) > 10


@pytest.mark.parametrize(("count", "held_out", "test"), [(2, 0.1, 1), (3, 0.9, 2)])
def test_each_side_of_a_split_has_a_subject(count, held_out, test):
    names = [str(i) for i in range(count)]
    split = data.random_split(names, 0, held_out)
    assert (len(split["train"]), len(split["test"])) == (count - test, test)


@pytest.mark.parametrize("names", [[], ["A"]])
def test_fewer_than_two_subjects_cannot_be_split(names):
    with pytest.raises(files.DataError, match="needs two"):
        data.random_split(names, 0)


def test_a_split_is_read_as_it_was_saved(tmp_path):
    split = data.random_split(["A", "B", "C"], seed=5)
    data.save_split(tmp_path / "run" / "split.json", split)
    assert data.load_split(tmp_path / "run" / "split.json") == split
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"seed": 0, "train": ["A"], "test": ["A", "B"]}', "on both sides: A"),
        ('{"train": ["A"], "test": ["B"]}', 'no "seed"'),
        ('["A"]', "JSON object"),
        ('{"seed": 0', "not readable as JSON"),
    ],
)
def test_a_split_that_cannot_be_right_is_refused(content, message, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(files.DataError, match=message) as caught:
        data.load_split(path)
    assert str(path) in str(caught.value)


# --- The real subjects, and what is imported ------------------------------------------


@needs_real_data
def test_the_real_subjects_are_read_whole():
    subjects = io.find_subjects(REAL)
    assert [s.name for s in subjects] == ["TCGA-DU-7294", "TCGA-FG-6692"]
    for subject, lesion_slices in zip(subjects, (12, 44), strict=True):
        images, labels = io.read_subject(subject)
        assert images.shape == (50, 192, 192, 4)
        assert (images.min(), images.max()) == (0, 1)
        for border in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
            assert not border.any()  # the brain touches no side of the crop
        assert np.count_nonzero(labels.any((1, 2))) == lesion_slices
        assert 0.3 < images[images > 0].mean() < 0.6


@needs_real_data
def test_the_partial_read_equals_nibabel():
    (path, _) = io.find_subjects(REAL)[0].images["t2"]
    volume, affine = io.load_volume(path, slices=spec.SLICES)
    image = nib.load(path)
    expected = np.asanyarray(image.dataobj)[:, :, 55:105].swapaxes(0, 1)
    np.testing.assert_array_equal(volume, expected)
    np.testing.assert_array_equal(affine, image.affine)


def test_reading_and_checking_need_no_tensorflow():
    code = (
        "import sys, prepare_data; from brats_gan.io import checks, convert; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
