"""What a data specification accepts, and how it is read and written."""

import dataclasses
import json
import pickle

import pytest

from brats_gan import files, spec

# As data of multiple sclerosis has it: three modalities, one kind of lesion.
SCLEROSIS = {"modalities": ["t1", "t2", "flair"], "labels": ["background", "lesion"]}


def test_the_built_in_one_is_of_brats():
    assert spec.BRATS.modalities == ("t1", "t2", "t1ce", "flair")
    assert spec.BRATS.labels[4] == "enhancing"
    assert (spec.BRATS.num_modalities, spec.BRATS.num_labels) == (4, 5)


def test_a_specification_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.BRATS.crop = 100


def test_what_is_left_out_is_as_in_brats_and_the_whole_lesion_is_always_scored():
    read = spec.from_dict(SCLEROSIS)
    assert (read.num_modalities, read.num_labels) == (3, 2)
    assert (read.slices, read.crop, read.field) == ((55, 105), 192, 240)
    assert read.regions == {"whole": (1,)}
    assert read.label_weights == (0.7, 4.0) and read.image_weights == (1.0, 4.0)


def test_regions_are_named_by_labels_in_files():
    labels = ["background", "oedema", "core"]
    read = spec.from_dict(
        {**SCLEROSIS, "labels": labels, "regions": {"solid": ["core"]}}
    )
    assert read.regions == {"whole": (1, 2), "solid": (2,)}
    assert read.as_dict()["regions"] == {"whole": ["oedema", "core"], "solid": ["core"]}


@pytest.mark.parametrize("given", [spec.BRATS, spec.from_dict(SCLEROSIS)])
def test_a_specification_is_the_same_after_json_and_after_pickling(given):
    assert spec.parse(str(given)) == given
    assert pickle.loads(pickle.dumps(given)) == given
    assert hash(spec.parse(str(given))) == hash(given)


def test_a_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "sclerosis.json"
    path.write_text(json.dumps(SCLEROSIS))
    assert spec.parse(path) == spec.from_dict(SCLEROSIS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"modalities": ["t1", "T1"]}, "modalities: a name comes twice"),
        ({"modalities": ["t1"]}, "modalities: 2 or more are due, not 1"),
        ({"modalities": ["t1", "t2_w"]}, "'t2_w' is no name of letters and digits"),
        ({"modalities": ["t1", "seg"]}, "seg is taken"),
        ({"modalities": ["t1", 2]}, "2 is no name"),
        ({"modalities": "t1"}, "modalities: a list is due, not 't1'"),
        ({"labels": ["background"]}, "labels: 2 or more are due, not 1"),
        ({"labels": ["background", "../x"]}, "labels: '../x' is no name"),
        ({"regions": {"core": ["rim"]}}, "'rim' is not in list"),
        ({"regions": {"core": []}}, r"core: \[\] are not all of the labels"),
        ({"regions": {"core": ["background"]}}, r"core: \[0\] are not all"),
        ({"regions": ["core"]}, "regions: an object is due"),
        ({"slices": [9, 9]}, r"slices: \[9, 9\] are no two rising numbers"),
        ({"slices": [1, 5.5]}, "no two rising numbers"),
        ({"crop": 300}, "crop: 300 of a field of 240"),
        ({"zero_background": "no"}, "zero_background: no is no true or false"),
        ({"label_weights": [1, 2, 3]}, "are no 2 numbers above 0"),
        ({"image_weights": [1, float("nan")]}, "are no 2 numbers above 0"),
        ({"organ": "liver"}, "organ: not one of modalities, labels"),
    ],
)
def test_what_does_not_fit_together_is_an_error_that_says_what(change, message):
    with pytest.raises(ValueError, match=message):
        spec.from_dict({**SCLEROSIS, **change})


def test_a_region_may_not_have_the_name_of_another_label():
    labels = ["background", "oedema", "core"]
    with pytest.raises(ValueError, match="core is a label, and of that label alone"):
        spec.from_dict({**SCLEROSIS, "labels": labels, "regions": {"core": ["oedema"]}})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\xff\xfe{}", "other.json: "),
        (b"[1]", "other.json: an object with modalities and labels is due"),
        (b'{"modalities": ["a", "b"]}', "other.json: labels are missing"),
        (b"{", "other.json: "),
    ],
)
def test_a_file_that_holds_no_specification_is_named(tmp_path, content, message):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        spec.parse(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.json: No such file"):
        spec.parse(tmp_path / "none.json")


def test_what_says_nothing_is_of_brats_and_a_damaged_one_is_named():
    assert spec.of_description({}) == spec.BRATS
    with pytest.raises(files.DataError, match="DIR: .* damaged"):
        spec.of_description({"spec": {"modalities": 3}}, "DIR")


def test_only_modalities_and_labels_make_two_specifications_differ():
    one = spec.from_dict(SCLEROSIS)
    assert spec.differences(one, dataclasses.replace(one, slices=(1, 5), crop=64)) == ""
    swapped = dataclasses.replace(one, modalities=("t2", "t1", "flair"))
    assert spec.differences(one, swapped) == (
        "modalities t1, t2, flair against t2, t1, flair"
    )
