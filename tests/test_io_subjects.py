"""Subjects as the networks see them: intensities and the crop, by hand."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io, spec
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
    for modality in spec.BRATS.modalities:
        nifti.write_volume(folder / name / f"{name}_{modality}.nii.gz", volume)
    if label is not None:
        nifti.write_volume(folder / name / f"{name}_seg.nii.gz", label)
    return next(s for s in io.find_subjects(folder) if s.name == name)


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
    assert io.parse_slices("55:105") == spec.BRATS.slices


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
    volume, affine = io.load_volume(path, slices=spec.BRATS.slices)
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
