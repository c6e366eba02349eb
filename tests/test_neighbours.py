"""How alike neighbouring slices are, by hand, and images as means over a thickness."""

import numpy as np
import pytest

from brats_gan import neighbours


def test_a_slice_is_the_mean_of_its_neighbours_by_hand():
    # exp(-1/2) = 0.6065 of a slice beside, exp(-2) = 0.1353 of the next.
    rows = neighbours.smoother(3, 1.0)
    np.testing.assert_allclose(rows[1], np.array([0.6065, 1, 0.6065]) / 2.2131, 1e-3)
    np.testing.assert_allclose(rows[0], np.array([1, 0.6065, 0.1353]) / 1.7418, 1e-3)
    np.testing.assert_array_equal(neighbours.smoother(2, 0.0), np.eye(2))


def test_the_rim_of_a_brain_that_ends_above_does_not_darken():
    images = np.zeros((1, 3, 1, 2))
    images[0, :, 0, 0] = 0.2, 0.5, 0.8
    images[0, :2, 0, 1] = 0.6  # the second pixel is no brain in the third slice
    brain = images[0] > 0
    made = neighbours.means(images, brain, 1.0)
    weights = neighbours.smoother(3, 1.0)
    np.testing.assert_allclose(made[0, :, 0, 0], weights @ [0.2, 0.5, 0.8], rtol=1e-5)
    np.testing.assert_allclose(made[0, :, 0, 1], [0.6, 0.6, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(
        neighbours.thickened(images, brain, 0.0), images.astype(np.float32)
    )


def test_patches_are_means_over_more_slices_than_lines():
    whole = np.ones((5, 50, 50), bool)
    rows, columns = np.indices((50, 50))
    lines = 0.1 * (-1.0) ** (rows + columns)  # their mean over a patch is 0
    upwards = np.array([0.5, 0.3, 0.6, 0.5, 0.4])
    patches = upwards[None, :, None, None] * whole
    signs = np.array([1, -1, 1, -1, 1])[None, :, None, None]
    made = neighbours.thickened(patches, whole, 0.7)
    expected = neighbours.smoother(5, neighbours.PATCHES) @ upwards
    np.testing.assert_allclose(made[0, :, 25, 25], expected, rtol=2e-2)
    made = neighbours.thickened(0.5 * whole[None] + signs * lines, whole, 0.7)
    weights = neighbours.smoother(5, 0.7)
    expected = 0.5 + 0.1 * weights @ signs.ravel()
    np.testing.assert_allclose(made[0, :, 25, 25], expected, rtol=2e-3)


def test_a_lesion_does_not_shine_into_slices_that_are_far_from_it():
    whole, label = np.ones((9, 50, 50), bool), np.zeros((9, 50, 50), np.uint8)
    label[:2, 10:40, 10:40] = 2
    images = np.where(label > 0, 0.9, 0.5)[None]
    made = neighbours.thickened(images, whole, 0.7, label)
    # exp(-((5 - 1) / 0.7)^2 / 2) is less than 1e-6 of the lesion.
    np.testing.assert_allclose(made[0, 5:], 0.5, atol=1e-5)
    assert neighbours.thickened(images, whole, 0.7)[0, 5, 25, 25] > 0.505


def test_contrasts_that_are_alike_stay_alike():
    rng = np.random.default_rng(0)
    one = rng.random((1, 6, 8, 8))
    brain = rng.random((6, 8, 8)) < 0.7
    images = np.concatenate([one * brain, 0.5 * one * brain])
    made = neighbours.thickened(images, brain, 0.8)
    np.testing.assert_allclose(made[1], 0.5 * made[0], atol=1e-6)


def test_the_overlap_of_labels_leaves_out_slices_without_a_lesion_on_either_side():
    label = np.zeros((5, 2, 2), np.uint8)
    label[1, 0], label[2, 0, 0] = 2, 3
    # Slices 0 and 1: 0; 1 and 2: 2 * 1 / 3; 2 and 3: 0; 3 and 4 have none.
    assert neighbours.label_overlap(label) == pytest.approx(2 / 9)
    assert np.isnan(neighbours.label_overlap(np.zeros((5, 2, 2))))


def test_slices_that_repeat_correlate_by_1_and_those_turned_round_by_minus_1():
    plane = np.linspace(0.1, 0.9, 100).reshape(10, 10)
    images = np.stack([[plane, plane, plane], [plane, 1 - plane, plane]])
    assert neighbours.correlation(images) == pytest.approx([1.0, -1.0])


def test_slices_with_less_brain_than_is_due_say_nothing():
    images = np.zeros((2, 3, 10, 10))
    images[:, :, :4, :10] = np.random.default_rng(0).random((2, 3, 4, 10)) + 0.1
    assert np.isnan(neighbours.correlation(images)).all()


def test_a_constant_slice_correlates_with_nothing():
    images = np.ones((1, 2, 10, 10))
    images[0, 1] = np.linspace(0.1, 1, 100).reshape(10, 10)
    assert neighbours.correlation(images) == [0.0]


def test_the_profile_that_slices_were_made_with_is_found_again():
    rng = np.random.default_rng(1)
    brain = np.ones((30, 12, 12), bool)
    raw = rng.random((4, 2, 30, 12, 12)) + 0.1
    for sd in (0.0, 0.6, 1.2):
        thick = [neighbours.thickened(each, brain, sd) for each in raw[:2]]
        real = np.mean([neighbours.correlation(each) for each in thick], 0)
        drawn = [(each, brain) for each in raw[2:]]
        assert neighbours.profile(drawn, real) == pytest.approx(sd, abs=0.101)


def test_without_real_neighbours_slices_are_left_as_they_are():
    drawn = [(np.ones((1, 3, 10, 10)), np.ones((3, 10, 10), bool))]
    assert neighbours.profile(drawn, [float("nan")]) == 0.0


def test_frays_are_pixels_of_one_slice_alone_in_those_of_its_outline():
    brain = np.zeros((3, 8, 8), bool)
    brain[:, 2:6, 2:6] = True  # an outline of 16 sides
    assert neighbours.frays(brain) == 0.0
    brain[1, 6, 3] = True  # a tooth, which adds two sides
    assert neighbours.frays(brain) == pytest.approx(1 / 18)
    brain[2, 6, 3] = True  # a step: its neighbour above has it too
    assert neighbours.frays(brain) == 0.0
    assert np.isnan(neighbours.frays(brain[:2]))


def test_scores_leave_out_what_a_volume_cannot_say():
    plane = np.linspace(0.1, 0.9, 100).reshape(10, 10)
    images = np.stack([[plane, plane]])
    maps = np.stack([plane > 0.5, plane > 0.5])
    empty, full = np.zeros((2, 10, 10)), np.ones((2, 10, 10))
    found = neighbours.scores([(maps, images, empty), (maps, images, full)], ["t1"])
    assert found == {"maps": 1.0, "t1": 1.0, "labels": 1.0, "frays": None}
    assert neighbours.scores([(maps, images, empty)], ["t1"])["labels"] is None
