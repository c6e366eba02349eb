"""Scores counted by hand."""

import numpy as np
import pytest

from brats_gan import metrics


def test_index_dice_by_hand():
    # 2 (1*1 + 4*3 + 0*2) = 26 over (1 + 16) + (1 + 9 + 4) = 31
    score = metrics.index_dice(np.array([1, 4, 0]), np.array([1, 3, 2]))
    assert score == pytest.approx(26 / 31, abs=1e-5)


def test_a_wrong_class_costs_little_in_index_dice():
    score = metrics.index_dice(np.array([4]), np.array([3]))
    assert score == pytest.approx(24 / 25, abs=1e-5)


def test_index_dice_of_empty_labels():
    nothing, one = np.zeros(4), np.array([0, 0, 0, 1])
    assert metrics.index_dice(nothing, nothing) == 1.0
    assert metrics.index_dice(nothing, one) < 1e-4


def test_index_mse_by_hand():
    # (0 + 1 + 4) / 3
    assert metrics.index_mse([1, 4, 0], [1, 3, 2]) == pytest.approx(5 / 3)


def test_index_mse_of_bytes_does_not_wrap():
    label, found = np.array([0], np.uint8), np.array([3], np.uint8)
    assert metrics.index_mse(label, found) == 9.0


def test_region_dice_by_hand():
    label = np.array([[0, 1, 2], [3, 4, 0]])
    found = np.array([[0, 1, 2], [2, 0, 4]])
    scores = metrics.region_dice(label, found)
    # whole: 4 true, 4 found, 3 shared. core {1,3,4}: 3 true, 2 found, 1 shared.
    # enhancing: 1 true, 1 found elsewhere.
    assert scores["dice_whole"] == pytest.approx(6 / 8)
    assert scores["dice_core"] == pytest.approx(2 / 5)
    assert scores["dice_enhancing"] == 0.0


def test_dice_of_empty_masks():
    empty, some = np.zeros(3, bool), np.array([True, False, False])
    assert metrics.dice(empty, empty) == 1.0
    assert metrics.dice(empty, some) == metrics.dice(some, empty) == 0.0


def test_edge_agreement_by_hand():
    # Three pixels in a column; one column to the right all three agree, two columns to
    # the right none does. Of a line twice as long, 4 of 6 lie within a pixel.
    line = np.zeros((9, 9))
    line[3:6, 3] = 1
    assert metrics.edge_agreement(line, line) == 1
    assert metrics.edge_agreement(line, np.roll(line, 1, 1)) == 1
    assert metrics.edge_agreement(line, np.roll(line, 2, 1)) == 0
    longer = np.zeros((9, 9))
    longer[3:9, 3] = 1
    assert metrics.edge_agreement(line, longer) == pytest.approx((3 + 4) / (3 + 6))


def test_edge_agreement_of_empty_maps():
    empty, full = np.zeros((4, 4)), np.ones((4, 4))
    assert metrics.edge_agreement(empty, empty) == 1
    assert metrics.edge_agreement(empty, full) == 0
