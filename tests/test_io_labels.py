"""Labels of every year, to ours and back."""

import json

import numpy as np
import pytest

from brats_gan import files, io
from tests import nifti

SHAPE = (32, 28, 8)  # H, W, S: no two alike


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
