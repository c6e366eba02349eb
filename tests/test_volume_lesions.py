"""Lesions in three dimensions, on label maps small enough to see through."""

import numpy as np
import pytest
from scipy import ndimage

from brats_gan import volume_lesions

SPACING = (1.0, 2.0, 2.0)


def ball(shape, centre, radius, spacing=SPACING, core=None):
    """A label map with a ball of oedema (2), and a core of 1 inside it."""
    z, y, x = np.indices(shape)
    distance = np.sqrt(
        sum(
            ((grid - c) * s) ** 2
            for grid, c, s in zip((z, y, x), centre, spacing, strict=True)
        )
    )
    label = np.where(distance <= radius, 2, 0)
    return np.where(distance <= (core or radius / 2), 1, label).astype(np.uint8)


SHAPE = (20, 24, 24)


@pytest.fixture
def one():
    label = ball(SHAPE, (10, 12, 12), 6)
    return volume_lesions.pool([label], ["a"], SPACING)


def test_lesions_are_connected_pieces_and_specks_are_none():
    label = np.maximum(ball(SHAPE, (6, 6, 6), 5), ball(SHAPE, (14, 18, 18), 5))
    label[0, 20, 2] = 1  # 4 mm3
    none = np.zeros(SHAPE, np.uint8)
    found = volume_lesions.pool([label, none], ["a", "b"], SPACING)
    assert found.counts == [2, 0]
    assert [lesion.subject for lesion in found.lesions] == ["a", "a"]


def test_a_lesion_at_the_end_of_the_range_is_known_as_cut_off():
    label = ball(SHAPE, (0, 12, 12), 6)
    (lesion,) = volume_lesions.pool([label], ["a"], SPACING).lesions
    assert (lesion.cut_below, lesion.cut_above) == (True, False)


def test_labels_without_a_lesion_are_refused():
    with pytest.raises(ValueError, match="no lesion|no label map"):
        volume_lesions.pool([np.zeros(SHAPE, np.uint8)], ["a"], SPACING)


@pytest.mark.parametrize("seed", range(5))
def test_a_moved_lesion_has_its_classes_and_about_its_size(one, seed):
    (lesion,) = one.lesions
    rng = np.random.default_rng(seed)
    moved = volume_lesions.transformed(lesion, SPACING, rng)
    assert set(np.unique(moved)) <= {0, 1, 2} and (moved == 1).any()
    ratio = (moved > 0).sum() / (lesion.label > 0).sum()
    assert 0.8**3 * 0.8 < ratio < 1.2**3 * 1.2
    # Still round: as long in mm along every axis.
    extent = np.ptp(np.argwhere(moved > 0), axis=0) * SPACING
    assert extent.max() - extent.min() <= 4.0


def test_what_is_inside_stays_inside(one):
    (lesion,) = one.lesions
    moved = volume_lesions.transformed(lesion, SPACING, np.random.default_rng(1))
    rim = ndimage.binary_dilation(moved == 1) & (moved != 1)
    assert (moved[rim] == 2).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_placed_lesion_lies_inside_the_brain_and_not_at_the_ends(one, seed):
    brain = ball((40, 40, 40), (20, 20, 20), 18, (1, 1, 1)) > 0
    label, subjects, fitted = volume_lesions.place(
        one, brain, np.random.default_rng(seed)
    )
    assert fitted and subjects == ["a"]
    assert (label > 0).any() and not (label[~brain] > 0).any()
    assert not label[[0, -1]].any()


def test_several_lesions_do_not_touch(one):
    brain = np.ones((40, 60, 60), bool)
    rng = np.random.default_rng(0)
    label, subjects, fitted = volume_lesions.place(one, brain, rng, count=3)
    assert fitted and subjects == ["a"] * 3
    assert ndimage.label(label > 0, volume_lesions.NEIGHBOURS)[1] == 3


def test_a_lesion_that_was_cut_off_is_cut_off_at_the_same_end():
    label = ball(SHAPE, (19, 12, 12), 6)
    lesions = volume_lesions.pool([label], ["a"], SPACING)
    brain = np.ones((30, 40, 40), bool)
    placed, _, fitted = volume_lesions.place(lesions, brain, np.random.default_rng(0))
    assert fitted and placed[-1].any() and not placed[:20].any()
    # And shows there what it showed.
    np.testing.assert_array_equal(
        np.unique(placed[-1]), np.unique(lesions.lesions[0].label[-1])
    )


def test_a_brain_that_is_too_small_is_given_up(one):
    brain = ball((30, 30, 30), (15, 15, 15), 3, (1, 1, 1)) > 0
    label, subjects, fitted = volume_lesions.place(one, brain, np.random.default_rng(0))
    assert not fitted and not subjects and not label.any()


def test_the_same_numbers_place_the_same_lesions(one):
    brain = np.ones((40, 40, 40), bool)
    first, second = (
        volume_lesions.place(one, brain, np.random.default_rng(7))[0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
