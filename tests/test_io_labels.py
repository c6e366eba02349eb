"""Labels of every year, to ours and back."""

import json

import numpy as np
import pytest

from brats_gan import files, io
from brats_gan.io import conventions
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


def _named(tmp_path, labels):
    """What labels of nnU-Net mean whose dataset.json has this text."""
    (tmp_path / "dataset.json").write_text(f'{{"labels": {labels}}}')
    label = tmp_path / "labelsTr/A.nii.gz"
    return io.label_map(io.Subject("A", "nnunet", {}, label))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ('{"edema": 1, "enhancing": 1}', "label 1 is named twice, as .* and .*Leave"),
        ('{"1": "edema", "enhancing": 1}', "label 1 is named twice"),
        ('{"edema": 1, "edema": 2}', "'edema' is there twice"),
        ('{"edema": 0, "enhancing": 1}', "label 0 is named .* is the background"),
        ('{"whole tumor": [0, 1], "tumor core": [1]}', "label 0 is named"),
        ('{"whole tumor": [1, 2], "tumor core": [2, 1]}', "is named twice"),
    ],
)
def test_labels_whose_names_leave_them_open_are_refused(labels, message, tmp_path):
    with pytest.raises(files.DataError, match=message) as caught:
        _named(tmp_path, labels)
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_a_label_is_what_is_in_its_smallest_region_alone(tmp_path):
    regions = """{"background": 0, "whole tumor": [1, 2, 3, 4], "tumor core": [2, 3, 4],
        "enhancing tumor core": [3], "non-enhancing": [4]}"""
    assert _named(tmp_path, regions) == {0: 0, 1: 2, 2: 1, 3: 4, 4: 3}


@pytest.mark.parametrize(
    "name", ["non \u2013 enhancing", "nonenhancing", "Not Enhancing"]
)
def test_what_does_not_enhance_is_told_from_what_does(name):
    assert conventions.ours_by_name(name) == 3
    assert conventions.ours_by_name("Gadolinium-enhancing") == 4


def _table(tmp_path, text):
    """What labels of BIDS mean, by the bytes of dseg.tsv."""
    (tmp_path / "dseg.tsv").write_bytes(text)
    return io.label_map(io.Subject("A", "bids", {}, tmp_path / "sub-A_dseg.nii.gz"))


@pytest.mark.parametrize(
    "rows",
    [
        b'1\t"enhancing\n2\tedema',  # a quote that is left open
        b'1\t"enhancing\n2\tedema"',  # or closed by the next row
        b"1\tedema\n1\tenhancing",
        b"1\tedema\n2",
        b"1\t" + b"x" * 200_000,  # more than the csv module takes for a field
        b"1\tedema\n" * 140_000,
        b"0\tedema",
    ],
)
def test_a_table_of_labels_that_is_not_clear_is_refused(rows, tmp_path):
    with pytest.raises(files.DataError, match="dseg.tsv: .*\\. (Restore|Correct)"):
        _table(tmp_path, b"index\tname\n" + rows)


def test_a_table_of_labels_may_begin_with_a_mark_of_utf_8(tmp_path):
    text = b'\xef\xbb\xbfname\tindex\n"edema, mild"\t1\n\nenhancing\t2\n'
    assert _table(tmp_path, text) == {0: 0, 1: 2, 2: 4}
