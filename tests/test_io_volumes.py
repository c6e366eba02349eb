"""Volumes out of files: geometry, headers, what is damaged."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io
from tests import nifti

SHAPE = (32, 28, 8)  # H, W, S: no two alike
SLICES = (2, 7)


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
