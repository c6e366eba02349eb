"""Lesion-wise scores worked out by hand, by the rules of BraTS 2023's own evaluation.

Every number agrees with its code too, run with surface-distance 0.1 on 300 random
volumes: the largest difference was 6e-14.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from brats_gan import data, lesion_metrics, segmentation, spec

MM = (1.0, 1.0, 1.0)
PENALTY = 374.0


def volume(*blocks, shape=(12, 12, 40)):
    """A mask with blocks of 4 x 4 x 4 voxels: 64 mm3, more than the 50 that count."""
    mask = np.zeros(shape, bool)
    for z, y, x in blocks:
        mask[z : z + 4, y : y + 4, x : x + 4] = True
    return mask


def test_a_lesion_that_is_missed_counts_as_much_as_one_that_is_found():
    scored = lesion_metrics.by_lesion(
        volume((0, 0, 0), (0, 0, 20)), volume((0, 0, 0)), MM
    )
    assert (scored.found, scored.missed, scored.false) == (1, 1, 0)
    assert scored.dice == (1 + 0) / 2
    assert scored.hausdorff95 == (0 + PENALTY) / 2


def test_a_lesion_that_is_not_there_counts_as_much_however_small():
    predicted = volume((0, 0, 0))
    predicted[6, 6, 30] = True
    scored = lesion_metrics.by_lesion(volume((0, 0, 0)), predicted, MM)
    assert (scored.found, scored.missed, scored.false) == (1, 0, 1)
    assert (scored.dice, scored.hausdorff95) == (1 / 2, PENALTY / 2)


@pytest.mark.parametrize("spacing", [MM, (1.0, 0.5, 2.0)])
def test_a_lesion_of_50_mm3_does_not_count_and_one_of_51_does(spacing):
    label = np.zeros((12, 12, 40), bool)
    label[0:2, 0:5, 0:5] = True
    small = lesion_metrics.by_lesion(label, np.zeros_like(label), spacing)
    assert small == (1.0, 0.0, 0, 0, 0)
    label[2, 0, 0] = True
    large = lesion_metrics.by_lesion(label, np.zeros_like(label), spacing)
    assert large == (0.0, PENALTY, 0, 1, 0)


def test_what_touches_a_lesion_too_small_to_count_is_not_false():
    label = np.zeros((12, 12, 40), bool)
    label[0:2, 0:5, 0:5] = True
    assert lesion_metrics.by_lesion(label, label, MM) == (1.0, 0.0, 0, 0, 0)


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_lesions_whose_growths_of_three_voxels_meet_are_one(gap, lesions):
    label = volume((0, 0, 0), (0, 0, 4 + gap))
    scored = lesion_metrics.by_lesion(label, np.zeros_like(label), MM)
    assert scored.missed == lesions


def test_a_lesion_is_compared_with_the_whole_of_what_reaches_into_its_growth():
    label = volume((0, 0, 0))
    predicted = volume((0, 0, 0), (0, 0, 4), (0, 0, 8))
    # 2 x 64 / (64 + 192).
    assert lesion_metrics.by_lesion(label, predicted, MM).dice == 0.5


def test_what_reaches_into_the_growth_without_overlap_has_a_distance_and_no_dice():
    scored = lesion_metrics.by_lesion(volume((0, 0, 0)), volume((0, 0, 6)), MM)
    # The far face is more than 5 % of the border, and 6 mm from the near one.
    assert scored == (0.0, 6.0, 1, 0, 0)


@pytest.mark.parametrize(("offset", "false"), [((3, 3, 0), 0), ((3, 3, 1), 1)])
def test_growth_goes_across_edges_and_not_across_corners(offset, false):
    label = volume((0, 0, 0))
    predicted = label.copy()
    predicted[tuple(3 + step for step in offset)] = True
    assert lesion_metrics.by_lesion(label, predicted, MM).false == false


def test_voxels_that_share_a_corner_are_one_lesion():
    predicted = np.zeros((12, 12, 40), bool)
    predicted[1, 1, 1] = predicted[2, 2, 2] = True
    label = np.zeros_like(predicted)
    assert lesion_metrics.by_lesion(label, predicted, MM) == (0, PENALTY, 0, 0, 1)


def test_the_distance_counts_the_border_by_its_area():
    plate = np.zeros((12, 12, 12), bool)
    plate[0, 1:11, 1:11] = True
    for height, expected in ((4, 0.0), (6, 2.0)):
        spiked = plate.copy()
        spiked[1 : 1 + height, 5, 5] = True
        # A point at a spike's edge has sqrt(2) / 2 mm2, one at its tip sqrt(3) / 8, of
        # about 215 in all: 9.4 of a spike of 4 are below 5 %; of 6, 15.0 are above, and
        # 5 % is reached in the row that is 2 mm from the plate. By the number of points
        # it were 1 and 3.
        for masks in ((plate, spiked), (spiked, plate)):
            assert lesion_metrics.surface_distance95(*masks, MM) == expected


def test_the_distance_is_in_mm():
    one, other = volume((0, 0, 0)), volume((6, 0, 0))
    distance = lesion_metrics.surface_distance95(one, other, (3.0, 1.0, 2.0))
    assert distance == 18.0


def test_the_area_of_a_cubes_border_is_that_of_a_cube_with_its_edges_cut():
    # Six faces of 2 x 2, twelve edges of 2 x sqrt(2) / 2, eight corners of sqrt(3) / 8.
    area = lesion_metrics._border(np.ones((3, 3, 3), bool), MM)
    expected = 6 * 4 + 12 * 2 * np.sqrt(0.5) + 8 * np.sqrt(3) / 8
    assert np.nansum(area) == pytest.approx(expected)


def test_every_cube_that_has_a_border_has_an_area():
    areas = lesion_metrics._areas(MM)
    assert np.flatnonzero(np.isnan(areas)).tolist() == [0, 255]


def test_nothing_due_and_nothing_predicted_agree():
    empty = np.zeros((3, 4, 5), bool)
    assert lesion_metrics.by_lesion(empty, empty, MM) == (1.0, 0.0, 0, 0, 0)


def test_regions_are_those_of_the_specification():
    label = np.where(volume((0, 0, 0)), 2, 0) + np.where(volume((0, 0, 20)), 4, 0)
    predicted = np.where(label == 2, 2, 0)
    scored = lesion_metrics.scores(label, predicted, MM)
    assert scored == {
        "lesion_dice_whole": 0.5,
        "lesion_hausdorff95_whole": PENALTY / 2,
        "lesion_dice_core": 0.0,
        "lesion_hausdorff95_core": PENALTY,
        "lesion_dice_enhancing": 0.0,
        "lesion_hausdorff95_enhancing": PENALTY,
    }
    other = spec.Spec(("a", "b"), ("none", "plaque"))
    one = (label > 0).astype(int)
    assert lesion_metrics.scores(one, one, MM, other) == {
        "lesion_dice_whole": 1.0,
        "lesion_hausdorff95_whole": 0.0,
    }


@pytest.mark.parametrize(("pixels", "dice"), [(12, 1.0), (13, 0.0)])
def test_stage_4_scores_the_slices_of_a_subject_as_one_volume_in_mm(
    pixels, dice, monkeypatch
):
    # At 96 pixels for 192 mm and slices of 1 mm a voxel has 4 mm3: 12 of them, 6 in
    # each of two slices, are 48 mm3, which does not count; 13 are 52, which are missed.
    labels = np.zeros((2, 96, 96), np.uint8)
    labels[0, 40, : pixels - 6] = labels[1, 40, :6] = 2
    batch = np.zeros((2, 4, 96, 96, 1), np.float32), labels, np.array([0, 0])
    monkeypatch.setattr(data, "in_order", lambda slices, size: [batch])
    slices = SimpleNamespace(spec=spec.BRATS, image_size=96)
    answers = SimpleNamespace(numpy=lambda: np.zeros((2, 4, 96, 96), np.int64))
    scored = segmentation.score(lambda x: answers, slices)
    assert scored["by_subject"]["t1"]["lesion_dice_whole"] == dice
    assert scored["by_subject"]["mean"]["lesion_dice_whole"] == dice
    assert "lesion_dice_whole" not in scored["by_slice"]["mean"]
