"""Modalities that do not fit each other, though their headers are in order."""

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io
from brats_gan.io import checks
from tests import nifti

SHAPE = (40, 36, 8)  # H, W, S: no two alike
SLICES = (2, 7)


def check(folder, edit):
    """Report on a subject whose volumes, {role: [H, W, S]}, went through `edit`."""
    for seed, name in enumerate("AB"):
        written = nifti.write_subject(folder, name, SHAPE, seed)
        images, _ = nifti.brain(SHAPE, seed)
        for role, volume in edit(dict(images)).items():
            nifti.write_volume(written[role], volume)
    return checks.check(folder, slices=SLICES)


def of_first(pairs):
    return [message for subject, message in pairs if subject == "A"]


@pytest.mark.parametrize("ending", ["front", "back", "right"])
def test_a_field_of_view_that_ends_inside_the_brain_is_a_note(ending, tmp_path):
    cut = {
        "front": np.s_[:14],
        "back": np.s_[26:],
        "right": np.s_[:, :14],
    }[ending]

    def edit(images):
        images["flair"][cut] = 0
        return {"flair": images["flair"]}

    report = check(tmp_path, edit)
    assert report.usable
    (note,) = of_first(report.notes)
    assert "flair covers only" in note and "field of view ends" in note


def test_slices_that_a_modality_lacks_are_a_note(tmp_path):
    def edit(images):
        images["t2"][:, :, 5:] = 0
        return {"t2": images["t2"]}

    report = check(tmp_path, edit)
    assert report.usable
    (note,) = of_first(report.notes)
    assert "t2 shows no brain in 2 of 5 slices in range" in note


def test_a_modality_that_is_shifted_is_a_problem_that_says_by_how_much(tmp_path):
    def edit(images):
        return {"t2": np.roll(images["t2"], 4, axis=1)}  # 4 pixels, of a brain of 23

    (problem,) = of_first(check(tmp_path, edit).problems)
    assert "the outline of t2 overlaps" in problem
    assert "its middle is 4.0 pixels from that of the others" in problem


def test_raw_scans_are_one_problem_that_shows_each_grid(tmp_path):
    written = nifti.write_subject(tmp_path, "A", SHAPE)
    for role, step in (("t2", 2), ("flair", 4)):
        volume = nifti.brain(SHAPE)[0][role][::step]
        placed = nifti.affine(volume.shape) @ np.diag([1, step, 1, 1])
        nifti.write_volume(written[role], volume, placed=placed)
    (problem,) = of_first(checks.check(tmp_path, slices=SLICES).problems)
    assert "t1 36 x 40 x 8 voxels of 1 x 1 x 1 mm" in problem
    assert "t2 36 x 20 x 8 voxels of 1 x 2 x 1 mm" in problem
    assert "flair 36 x 10 x 8 voxels of 1 x 4 x 1 mm" in problem


def z_scored(image):
    inside = image > 0
    scaled = np.zeros(image.shape, np.float32)
    scaled[inside] = (image[inside] - image[inside].mean()) / image[inside].std()
    return scaled


def to_one(image):
    return (2 * np.maximum(image, 0) / image.max() - 1).astype(np.float32)


@pytest.mark.parametrize("normalise", [z_scored, to_one])
def test_intensities_that_were_normalised_are_refused(normalise, tmp_path):
    report = check(tmp_path, lambda images: {"t2": normalise(images["t2"])})
    (problem,) = of_first(report.problems)
    assert "t2 is negative in" in problem and "were normalised (z-score" in problem
    with pytest.raises(files.DataError, match="were normalised"):
        io.read_subject(io.find_subjects(tmp_path)[0], SLICES)


def test_resampling_overshoot_is_no_sign_of_that(tmp_path):
    report = check(tmp_path, lambda images: {})
    assert (report.usable, report.notes) == (True, [])
    assert sum(report.subjects[0].negative.values()) > 0


@pytest.mark.parametrize(("scale", "offset"), [(0.5, 0), (1.7, 40), (-0.5, 800)])
def test_a_contrast_that_is_another_scaled_is_a_problem(scale, offset, tmp_path):
    def edit(images):
        copy = np.where(images["t1"] > 0, scale * images["t1"] + offset, 0)
        return {"t1ce": np.rint(copy).astype(np.int16)}

    (problem,) = of_first(check(tmp_path, edit).problems)
    assert "t1ce is t1 by a scale and an offset" in problem


def test_a_skull_or_noise_around_the_brain_is_a_note(tmp_path):
    def edit(images):
        noise = np.random.default_rng(0).integers(1, 30, SHAPE)
        return {
            role: np.where(image > 0, image, noise).astype(np.int16)
            for role, image in images.items()
        }

    report = check(tmp_path, edit)
    assert report.usable
    (note,) = of_first(report.notes)
    assert "almost no voxel of t1 around the brain is 0 (0% of all" in note


def mha(folder, *fields):
    """A subject of 2015 with lines of bytes put before those of the header of t2."""
    path = nifti.write_subject(folder, "A", SHAPE, layout="brats2015")["t2"]
    content = path.read_bytes()
    at = content.index(b"DimSize")
    path.write_bytes(b"".join([content[:at], *fields, content[at:]]))
    return path


@pytest.mark.parametrize(
    "field",
    [
        b"pixdim[1] = 1\n",
        b"0008|0060 = MR\n",
        "Comment = café, Müller\n".encode(),
        b"Comment = \xff\xfe\x00\n",
        b"Modality = MET_MOD_MR\r\n",
        b"ElementToIntensityFunctionSlope = 1\n",
    ],
)
def test_a_field_of_a_mha_that_says_nothing_of_the_voxels_is_read_over(field, tmp_path):
    volume, placed = io.load_volume(mha(tmp_path, field))
    np.testing.assert_array_equal(volume, nifti.brain(SHAPE)[0]["t2"])
    np.testing.assert_allclose(placed, nifti.affine(SHAPE))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b"ElementToIntensityFunctionSlope = 2\n", "ElementToIntensityFunctionSlope"),
        (b"HeaderSize = 10\n", "HeaderSize"),
        (b"Position = 1 2 3\n", "Position|Offset"),
    ],
)
def test_a_field_of_a_mha_that_changes_the_volume_is_refused_by_name(
    field, name, tmp_path
):
    with pytest.raises(files.DataError, match=name):
        io.load_volume(mha(tmp_path, field))


def test_the_orientation_of_a_mha_with_other_fields_is_kept(tmp_path):
    path = nifti.write_subject(
        tmp_path, "A", SHAPE, layout="brats2015", axes="RAS"
    )["t1"]  # fmt: skip
    content = path.read_bytes()
    path.write_bytes(content.replace(b"NDims = 3\n", b"NDims = 3\npixdim[0] = 1\n"))
    volume, _ = io.load_volume(path)
    np.testing.assert_array_equal(volume, nifti.brain(SHAPE)[0]["t1"])
    assert nib.aff2axcodes(io.read_header(path).affine) == ("R", "A", "S")
