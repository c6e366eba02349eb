"""Slices placed back and volumes written: equal bytes, whole or not at all."""

import errno

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io, spec
from tests import nifti

SHAPE = (32, 28, 8)  # H, W, S: no two alike


def _prepared(folder, images, labels, name="synth-00001"):
    """Writes [S, size, size, 4] and [S, size, size] as a prepared data set."""
    for index, modality in enumerate(spec.BRATS.modalities):
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
