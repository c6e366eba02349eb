"""Fusion, removal and placement on drawings worked out by hand."""

import numpy as np
import tensorflow as tf

from brats_gan import fusion


def test_fuse_by_hand():
    f = tf.constant([[0.0, 1.0]])[None, ..., None]  # [1, 1, 2, 1]
    label = tf.constant([[[0, 4]]], tf.uint8)
    fused = fusion.fuse(f, label, structure_weight=0.8, label_weight=0.2)
    # Channel c is 0.8 f + 0.2 [l = c].
    np.testing.assert_allclose(fused[0, 0, 0], [0.2, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(fused[0, 0, 1], [0.8, 0.8, 0.8, 0.8, 1.0], rtol=1e-6)


def test_remove_lesion_clears_the_map_under_the_label_only():
    f = tf.ones([1, 2, 2, 1])
    label = tf.constant([[[0, 1], [4, 0]]], tf.uint8)
    np.testing.assert_array_equal(
        fusion.remove_lesion(f, label)[0, ..., 0], [[1, 0], [0, 1]]
    )


def square(side, top, size, value=2):
    label = np.zeros([side, side], np.uint8)
    label[top : top + size, top : top + size] = value
    return label


def brain(side, radius):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return (np.hypot(y, x) > radius).astype(np.float32)[None, ..., None]


def test_the_first_candidate_that_fits_is_placed():
    too_large, small = square(32, 0, 32), square(32, 13, 6)
    candidates = tf.constant(np.stack([too_large, small, square(32, 14, 4, 3)])[None])
    label, tries, fitted = fusion.place_label(candidates, brain(32, 12), [1, 2])
    assert (int(tries[0]), bool(fitted[0])) == (2, True)
    assert set(np.unique(label)) == {0, 2}
    outside = np.asarray(brain(32, 12))[..., 0] > 0.5
    assert not np.any(np.asarray(label)[outside])


def test_where_none_fits_the_best_is_cut_to_the_brain():
    candidates = tf.constant(np.stack([square(32, 0, 32), square(32, 2, 28)])[None])
    label, tries, fitted = fusion.place_label(candidates, brain(32, 8), [1, 2])
    assert (int(tries[0]), bool(fitted[0])) == (2, False)
    np.testing.assert_array_equal(label[0] > 0, brain(32, 8)[0, ..., 0] == 0)


def test_an_empty_label_always_fits():
    candidates = tf.zeros([1, 1, 8, 8], tf.uint8)
    _, tries, fitted = fusion.place_label(candidates, tf.ones([1, 8, 8, 1]), [1, 2])
    assert (int(tries[0]), bool(fitted[0])) == (1, True)


def test_equal_seeds_place_alike_and_others_do_not():
    candidates = tf.constant(square(32, 12, 8)[None, None])
    a, b, c = (
        fusion.place_label(candidates, brain(32, 15), seed)[0].numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_transforms_make_no_new_class():
    label = np.zeros([4, 32, 32], np.uint8)
    label[:, 8:24, 8:24] = 1
    label[:, 12:20, 12:20] = 4
    transforms = fusion.random_transforms(4, (32, 32), [5, 6])
    moved = fusion.transform_label(tf.constant(label), transforms)
    assert set(np.unique(moved)) == {0, 1, 4}


def test_an_image_and_its_label_move_together():
    label = np.zeros([6, 32, 32], np.uint8)
    label[:, 10:22, 6:20] = 1
    images = np.repeat(label[..., None], 4, -1).astype(np.float32)
    moved, moved_label = fusion.transform_pair(
        tf.constant(images), tf.constant(label), [7, 8]
    )
    agreement = (moved.numpy() > 0.5) == (moved_label.numpy()[..., None] > 0)
    assert agreement.mean() > 0.98  # bilinear and nearest differ on the border alone
    assert np.any(moved_label.numpy() != label)


def test_random_transforms_stay_within_their_ranges():
    transforms = fusion.random_transforms(500, (64, 64), [1, 1]).numpy()
    a, b = transforms[:, 0], transforms[:, 3]
    scale = 1.0 / np.hypot(a, b)
    angle = np.arctan2(b, np.abs(a))
    low, high = fusion.SCALES
    assert low - 1e-4 <= scale.min() < 0.85 and 1.15 < scale.max() <= high + 1e-4
    assert 0.9 * fusion.MAX_ANGLE < np.abs(angle).max() <= fusion.MAX_ANGLE + 1e-4
    assert 0.3 < np.mean(a < 0) < 0.7  # about half are mirrored
