"""Algorithms 1, 2 and 3 on drawings small enough to work out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import structural_map


def image(rows):
    return tf.constant(rows, tf.float32)[None, ..., None]


@pytest.mark.parametrize("row", [[0, 0, 1, 1], [1, 1, 0, 0]], ids=["rise", "fall"])
def test_structural_map_marks_both_sides_of_a_step(row):
    # Sobel along the row is +4 (rise) or -4 (fall) in columns 1 and 2 and 0 elsewhere;
    # scaled to [0, 1] (D3) its mean is 1/2, and only columns 1 and 2 lie beyond it, by
    # 1/2 > beta.
    f = structural_map.structural_map(image([row] * 4))
    np.testing.assert_array_equal(f[0, :, :, 0], [[0, 1, 1, 0]] * 4)


def test_structural_map_does_not_depend_on_contrast():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random([2, 16, 16, 1]), tf.float32)
    np.testing.assert_array_equal(
        structural_map.structural_map(x), structural_map.structural_map(0.2 * x + 0.3)
    )


def test_each_image_of_a_batch_is_scaled_by_itself():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random([2, 16, 16, 1]) * [[[[1.0]]], [[[9.0]]]], tf.float32)
    alone = [structural_map.structural_map(x[i : i + 1]) for i in range(2)]
    np.testing.assert_array_equal(structural_map.structural_map(x), tf.concat(alone, 0))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_blank_slice_gives_a_blank_map_and_a_finite_gradient(value):
    x = tf.fill([1, 8, 8, 1], value)
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = structural_map.structural_map(x)
        loss = tf.reduce_sum(f)
    np.testing.assert_array_equal(f, np.zeros([1, 8, 8, 1]))
    assert np.all(np.isfinite(tape.gradient(loss, x)))


def test_structural_map_is_binary_forward_and_has_a_slope_backward():
    x = tf.random.stateless_uniform([1, 16, 16, 1], [3, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        f = structural_map.structural_map(x)
        loss = tf.reduce_mean(f * x)
    assert set(np.unique(f)) == {0.0, 1.0}
    assert np.count_nonzero(tape.gradient(loss, x) - f / 256.0) > 100


def test_structural_map_runs_inside_dataset_map():
    x = tf.random.stateless_uniform([2, 16, 16, 1], [3, 4])
    mapped = tf.data.Dataset.from_tensors(x).map(structural_map.structural_map)
    np.testing.assert_array_equal(next(iter(mapped)), structural_map.structural_map(x))


def disc(side, radius):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return (np.hypot(y, x) <= radius).astype(np.float32)


def test_background_without_growth_is_where_the_image_is_zero():
    outside = structural_map.background(image([[0, 0.1], [0.9, 0]]), 0)
    np.testing.assert_array_equal(outside[0, ..., 0], [[1, 0], [0, 1]])


@pytest.mark.parametrize("side", [64, 96, 192])
def test_background_grows_the_brain_alike_on_all_four_sides(side):
    radius = 0.4 * side
    brain = disc(side, radius)
    grown = 1.0 - structural_map.background(image(brain)).numpy()[0, ..., 0]
    np.testing.assert_array_equal(grown, grown[::-1])
    np.testing.assert_array_equal(grown, grown[:, ::-1])
    # Stretched by (side + 5) / side about the centre: the radius grows by 5 * 0.4 = 2.
    rows = np.flatnonzero(grown.any(1))
    before = np.flatnonzero(brain.any(1))
    assert before[0] - rows[0] in (1, 2, 3)
    assert np.all(grown >= brain)


def test_shrinking_takes_back_what_growing_added():
    outside = structural_map.background(image(disc(64, 25)), 5)
    back = structural_map.resize_background(outside, -5).numpy()[0, ..., 0]
    difference = np.count_nonzero(back - (1 - disc(64, 25)))
    assert difference <= 0.03 * np.count_nonzero(disc(64, 25))


def ring(side, radius, gap=0):
    outline = disc(side, radius) - disc(side, radius - 2)
    outline[: side // 2, side // 2 - gap // 2 : side // 2 + gap // 2] = 0
    return outline


def test_a_closed_outline_is_filled():
    # The 3 x 3 blur adds one pixel around before the contour is looked for.
    filled = 1 - structural_map.contour_background(ring(64, 20))
    assert np.all(filled[disc(64, 20) > 0] == 1)
    assert np.all(filled[disc(64, 22) == 0] == 0)


def test_an_open_outline_is_not_filled():
    filled = 1 - structural_map.contour_background(ring(64, 20, gap=10))
    assert filled[32, 32] == 0


def test_a_gap_that_the_blur_closes_is_filled():
    filled = 1 - structural_map.contour_background(ring(64, 20, gap=2))
    assert filled[32, 32] == 1


def test_filter_error_is_low_for_a_closed_outline_and_high_for_an_open_one():
    background = 1 - disc(64, 21)
    assert (
        structural_map.filter_error(ring(64, 20), background)
        < structural_map.MAE_THRESHOLD
    )
    # Open, m' is the line alone: wrong on nearly the whole disc, 1257 of 4096 pixels.
    assert structural_map.filter_error(ring(64, 20, gap=10), background) > 0.2


def test_an_empty_map_is_never_accepted():
    nothing = np.zeros([8, 8], np.float32)
    assert structural_map.filter_error(nothing, nothing) == 1.0
    assert structural_map.filter_error(nothing, 1 - nothing) == 1.0


def test_holes_of_a_brain_are_filled_and_bays_are_not():
    background = np.ones((7, 7), np.float32)
    background[1:6, 1:6] = 0  # brain
    background[3, 3] = 1  # a hole in it
    background[5, 2] = 1  # a bay, open to the outside below
    expected = background.copy()
    expected[3, 3] = 0
    np.testing.assert_array_equal(structural_map.without_islands(background), expected)


def test_the_graph_fills_the_islands_that_scipy_does():
    rng = np.random.default_rng(0)
    masks = (rng.random([40, 9, 12]) < 0.45).astype(np.float32)
    expected = np.stack([structural_map.without_islands(mask) for mask in masks])
    assert (expected != masks).any((1, 2)).sum() > 20  # with islands to fill
    fill = tf.function(structural_map.fill_islands)
    np.testing.assert_array_equal(fill(masks[..., None])[..., 0], expected)


def test_the_soft_map_is_above_one_half_where_the_map_is_an_edge():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random([1, 16, 16, 1]), tf.float32)
    f, soft = structural_map.structural_map(x), structural_map.soft_structural_map(x)
    np.testing.assert_array_equal(f > 0.5, soft > 0.5)
    assert 0.0 < float(tf.reduce_min(soft)) and float(tf.reduce_max(soft)) < 1.0


def test_a_stronger_edge_is_nearer_to_one_in_the_soft_map():
    """Steps of 0.3 and of 0.7 in one image."""
    x = tf.reshape(
        tf.constant([[0.1, 0.1, 0.4, 0.4, 1.1, 1.1]] * 4) / 1.1, [1, 4, 6, 1]
    )
    soft = structural_map.soft_structural_map(x)[0, 2, :, 0].numpy()
    assert soft[3] > soft[1] > 0.0


def test_the_soft_map_is_zero_where_there_is_no_brain():
    x = np.zeros([1, 12, 12, 1], np.float32)
    x[0, 4:8, 4:8] = 1.0
    soft = structural_map.soft_structural_map(tf.constant(x)).numpy()
    assert not soft[0, :2].any() and not soft[0, :, 10:].any()
    assert soft[0, 4, 5] > 0.5
