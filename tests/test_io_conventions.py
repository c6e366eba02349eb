"""What each collection means by its labels, and what a user says that they mean."""

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io
from brats_gan.io import checks
from brats_gan.spec import BRATS
from tests import nifti

SHAPE = (32, 28, 8)  # H, W, S: no two alike
SLICES = (2, 7)
NECROSIS, OEDEMA, NON_ENHANCING, ENHANCING = (1, 2, 3, 4)


def write(folder, name, values, layout="brats2018"):
    """A subject whose label file has `values` in place of 1, 2, 3, 4."""
    written = nifti.write_subject(folder, name, SHAPE, layout=layout)
    table = np.array([0, *values], np.int32)
    nifti.write_volume(written["seg"], table[nifti.brain(SHAPE)[1]])
    return written


def read(folder, layout=None, **asked):
    """The labels of the one subject of a folder, [S, H, W] of ours."""
    (subject,) = io.find_subjects(folder, layout, BRATS, io.labelling(**asked))
    return io.read_subject(subject, SLICES)[1]


def expected(values):
    """Labels of `brain` in range with `values` in place of 1, 2, 3, 4, as counts."""
    label = nifti.brain(SHAPE)[1][:, :, slice(*SLICES)]
    return np.bincount(np.array([0, *values])[label].ravel(), minlength=5)[1:].tolist()


def counted(label):
    return np.bincount(label.ravel(), minlength=5)[1:].tolist()


@pytest.mark.parametrize(
    ("convention", "drop", "ours"),
    [
        ("brats2015", None, (NECROSIS, OEDEMA, NON_ENHANCING, ENHANCING)),
        ("brats2024", "4", (NECROSIS, OEDEMA, ENHANCING, 0)),
        ("peds2023", "4", (NECROSIS, OEDEMA, ENHANCING, 0)),
        ("peds2024", None, (ENHANCING, NON_ENHANCING, NECROSIS, OEDEMA)),
    ],
)
def test_labels_are_read_by_the_convention_that_is_named(
    convention, drop, ours, tmp_path
):
    write(tmp_path, "BraTS-PED-00001-000", (1, 2, 3, 4), "brats2023")
    assert counted(read(tmp_path, convention=convention, drop=drop)) == expected(ours)


def test_the_resection_cavity_is_named_and_no_other_layout(tmp_path):
    write(tmp_path, "BraTS-GLI-00001-100", (1, 2, 3, 4), "brats2023")
    with pytest.raises(files.DataError) as caught:
        read(tmp_path)
    assert "4 is the resection cavity of 2024 (or oedema in" in str(caught.value)
    assert "--layout" not in str(caught.value)
    with pytest.raises(files.DataError, match="cavity, which has no counterpart"):
        read(tmp_path, convention="brats2024")


@pytest.mark.parametrize("renamed", [False, True])
def test_files_of_2023_are_not_read_as_those_of_before(renamed, tmp_path):
    written = write(tmp_path, "A", (1, 2, 3, 4), "brats2023")
    for path in written.values():
        if renamed:
            path.rename(path.with_name(path.name.replace("-", "_")))
    with pytest.raises(files.DataError, match="unknown label 3; .*--labels=brats2023"):
        read(tmp_path, "brats2018")
    assert counted(read(tmp_path, "brats2018", convention="brats2015")) == expected(
        (1, 2, 3, 4)
    )


def test_paediatric_labels_are_one_question_for_all_subjects(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, f"BraTS-PED-0000{number}-000", (1, 2, 3, 3), "brats2023")
    subjects, ((name, message),) = io.survey(tmp_path)
    assert (subjects, name) == ([], "")
    assert "--labels=peds2024 or --labels=peds2023 (3 subjects)" in message


def test_labels_may_be_merged_and_dropped_by_their_numbers_in_the_file(tmp_path):
    write(tmp_path, "A", (1, 255, 7, 4))
    assert counted(read(tmp_path, merge="255:2", drop="7, 4")) == expected((1, 2, 0, 0))


def test_a_mask_saved_as_a_picture_is_named(tmp_path):
    write(tmp_path, "A", (255, 255, 255, 255))
    with pytest.raises(files.DataError, match="255 is that of a mask saved as a pic"):
        read(tmp_path)


def test_a_label_of_one_number_is_asked_about(tmp_path):
    for name in "AB":
        write(tmp_path, name, (1, 1, 1, 1))
    notes = [note for _, note in checks.check(tmp_path, slices=SLICES).notes]
    assert any("a mask of whole lesions would be read as necrosis" in n for n in notes)


@pytest.mark.parametrize(
    ("merge", "drop", "message"),
    [
        ("3", None, "pairs of numbers are due"),
        (None, "x", "numbers are due"),
        (None, "1,,2", "numbers are due"),
        ("3:1,", None, "pairs of numbers are due"),
        ("3:1", "3", "a label is named twice"),
        ("70000:1", None, "pairs of numbers are due"),
    ],
)
def test_what_cannot_be_understood_is_refused(merge, drop, message):
    with pytest.raises(files.DataError, match=message):
        io.labelling(None, merge, drop)


def test_merging_with_a_label_that_is_not_there_is_refused(tmp_path):
    write(tmp_path, "A", (1, 2, 3, 4))
    with pytest.raises(files.DataError, match="no label 9 in this collection"):
        read(tmp_path, merge="3:9")


def scaled(path, dtype, slope):
    """Saves the label in a file as dtype x slope, as software does with float data."""
    image = nib.load(path)
    stored = np.rint(np.asarray(image.dataobj) / slope).astype(dtype)
    again = nib.Nifti1Image(stored, image.affine)
    again.header.set_slope_inter(slope, 0)
    nib.save(again, path)
    content = nib.load(path)
    assert float(content.dataobj.slope) == pytest.approx(slope)


@pytest.mark.parametrize(
    ("dtype", "slope"), [(np.uint8, 4 / 255), (np.int16, 4 / 32767)]
)
def test_labels_that_went_through_a_slope_are_whole_again(dtype, slope, tmp_path):
    # 1 is stored as 64 of 255 and read back as 64 * 4 / 255 = 1.0039.
    scaled(write(tmp_path, "A", (1, 2, 3, 4))["seg"], dtype, slope)
    assert counted(read(tmp_path)) == expected((1, 2, 3, 4))


def test_labels_that_a_slope_does_not_explain_name_it(tmp_path):
    # 2 / 3 = 0.667 is far from a whole number by any slope of the kind.
    path = write(tmp_path, "A", (1, 2, 3, 4))["seg"]
    image = nib.load(path)
    again = nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine)
    again.header.set_slope_inter(1 / 3, 0)
    nib.save(again, path)
    with pytest.raises(files.DataError, match=r"scl_slope 0.333.*as integers"):
        read(tmp_path)


def test_a_label_that_is_the_whole_brain_is_refused(tmp_path):
    for name in "AB":
        written = nifti.write_subject(tmp_path, name, SHAPE, seed=name == "B")
        brain = nifti.brain(SHAPE, int(name == "B"))[0]["t1"] > 0
        nifti.write_volume(written["seg"], brain.astype(np.uint8))
    problems = checks.check(tmp_path, slices=SLICES).problems
    assert len(problems) == 2
    assert all("100% of the brain" in message for _, message in problems)
    with pytest.raises(files.DataError, match="a mask of the brain"):
        io.read_subject(io.find_subjects(tmp_path)[0], SLICES)
