"""What a data specification accepts."""

import dataclasses

import pytest

from brats_gan import spec


def test_the_built_in_one_is_of_brats():
    assert spec.BRATS.modalities == ("t1", "t2", "t1ce", "flair")
    assert spec.BRATS.labels[4] == "enhancing"
    assert (spec.BRATS.num_modalities, spec.BRATS.num_labels) == (4, 5)


def test_a_specification_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.BRATS.crop = 100


def test_a_collection_of_three_modalities_and_one_lesion_class_is_accepted():
    other = dataclasses.replace(
        spec.BRATS,
        modalities=("t1", "t2", "flair"),
        labels=("background", "lesion"),
        regions={"whole": (1,)},
    )
    assert (other.num_modalities, other.num_labels) == (3, 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"modalities": ("t1", "t1")}, "modalities: a name comes twice"),
        ({"modalities": ("t1",), "labels": ("none", "lesion")}, "two modalities"),
        ({"labels": ("background", "lesion")}, "region whole: .* labels 1 to 1"),
        ({"regions": {"empty": ()}}, "region empty"),
        ({"slices": (9, 9)}, "slices"),
        ({"crop": 300}, "crop: 300 of 240"),
    ],
)
def test_what_does_not_fit_together_is_an_error_that_says_what(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec.BRATS, **change)
