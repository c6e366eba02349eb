"""Scores counted by hand."""

import numpy as np
import pytest
from scipy import ndimage

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
    scores = metrics.all_scores(label, found, 1.0)
    # whole: 4 true, 4 found, 3 shared. core {1,3,4}: 3 true, 2 found, 1 shared.
    # enhancing: 1 true, 1 found elsewhere.
    assert scores["dice_whole"] == pytest.approx(6 / 8)
    assert scores["dice_core"] == pytest.approx(2 / 5)
    assert scores["dice_enhancing"] == 0.0


def test_dice_of_empty_masks():
    empty, some = np.zeros(3, bool), np.array([True, False, False])
    assert metrics.dice(empty, empty) == 1.0
    assert metrics.dice(empty, some) == metrics.dice(some, empty) == 0.0


def masks(*drawn):
    return [np.array([[c == "#" for c in line] for line in d.split()]) for d in drawn]


def test_sensitivity_and_precision_by_hand():
    # 4 true, 3 found, 2 shared.
    label, found = masks("##.. ##..", ".##. .#..")
    assert metrics.sensitivity(label, found) == pytest.approx(2 / 4)
    assert metrics.precision(label, found) == pytest.approx(2 / 3)


def test_two_empty_masks_agree_and_one_empty_mask_scores_worst():
    empty, some = masks("... ...", "#.. ...")
    for score in (metrics.dice, metrics.sensitivity, metrics.precision):
        assert score(empty, empty) == 1.0
        assert score(empty, some) == score(some, empty) == 0.0
    assert metrics.hausdorff95(empty, empty, 1.0) == 0.0
    # The diagonal of 2 x 3 pixels of 3 x 4 mm: 6 and 12 mm.
    worst = np.hypot(6.0, 12.0)
    assert metrics.hausdorff95(empty, some, (3.0, 4.0)) == pytest.approx(worst)
    assert metrics.hausdorff95(some, empty, (3.0, 4.0)) == pytest.approx(worst)


def test_hausdorff95_is_a_distance_in_mm():
    one, other = masks("#..... ......", "...... ...#..")
    # 1 row of 2 mm down, 3 columns of 0.5 mm across.
    expected = np.hypot(2.0, 1.5)
    assert metrics.hausdorff95(one, other, (2.0, 0.5)) == pytest.approx(expected)
    assert metrics.hausdorff95(one, one, (2.0, 0.5)) == 0.0


def test_hausdorff95_takes_the_worse_of_the_two_directions():
    one, other = masks("##........", "#........#")
    # From one: 0 and 1 pixel, 95th percentile 0.95. From other: 0 and 8, so 7.6.
    assert metrics.hausdorff95(one, other, 1.0) == pytest.approx(7.6)
    assert metrics.hausdorff95(other, one, 1.0) == pytest.approx(7.6)


def test_hausdorff95_measures_from_borders_not_from_within():
    # A full 5 x 5 square and its middle pixel: that lies 2 pixels from the border,
    # whose corners lie sqrt(8) from it.
    one = np.zeros((9, 9), bool)
    one[2:7, 2:7] = True
    other = np.zeros((9, 9), bool)
    other[4, 4] = True
    # From the 16 border pixels: four corners at sqrt(8), so the 95th percentile is it.
    assert metrics.hausdorff95(one, other, 1.0) == pytest.approx(np.sqrt(8))


def test_hausdorff95_of_volumes_counts_the_distance_between_slices():
    one, other = np.zeros((2, 4, 2, 2), bool)
    one[0, 0, 0] = other[3, 0, 0] = True
    assert metrics.hausdorff95(one, other, (5.0, 1.0, 1.0)) == 15.0


def test_all_scores_by_hand():
    label = np.array([[0, 1, 2, 0]])
    found = np.array([[0, 1, 4, 0]])
    scores = metrics.all_scores(label, found, (1.0, 1.0))
    assert scores["mse"] == pytest.approx(4 / 4)  # (4 - 2)^2 over 4 pixels
    # 2 (1 + 8) over (1 + 4) + (1 + 16)
    assert scores["dice_index"] == pytest.approx(18 / 22, abs=1e-5)
    assert scores["dice_whole"] == 1.0 and scores["hausdorff95_whole"] == 0.0
    assert scores["dice_core"] == pytest.approx(2 / 3)  # {1} against {1, 4}
    assert scores["sensitivity_core"] == 1.0
    assert scores["precision_core"] == pytest.approx(1 / 2)
    assert scores["dice_necrosis"] == 1.0 and scores["dice_oedema"] == 0.0
    assert scores["dice_non-enhancing"] == 1.0  # of neither
    assert scores["precision_enhancing"] == 0.0


def test_mean_scores_by_hand():
    assert metrics.mean_scores([{"mse": 1.0}, {"mse": 4.0}]) == {"mse": 2.5}


def test_scores_equal_those_of_monai():
    monai = pytest.importorskip("monai.metrics", reason="pip install monai torch")
    import torch

    rng = np.random.default_rng(0)
    for _ in range(5):
        blobs = [ndimage.gaussian_filter(rng.random((6, 24, 24)), 2) for _ in range(2)]
        one, other = (blob > np.quantile(blob, 0.7) for blob in blobs)
        pair = [torch.tensor(m[None, None].astype(np.float32)) for m in (other, one)]
        spacing = (1.0, 3.0, 3.0)
        theirs = monai.compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)
        ours = metrics.hausdorff95(one, other, spacing)
        assert ours == pytest.approx(float(theirs), rel=1e-4)
        theirs = monai.compute_dice(*pair)
        assert metrics.dice(one, other) == pytest.approx(float(theirs), rel=1e-5)


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


def test_mutual_information_by_hand():
    def score(one, other):
        return metrics.normalised_mutual_information(np.array(one), other, bins=2)

    half = [0.0, 0.0, 1.0, 1.0]
    assert score(half, [3.0, 3.0, 7.0, 7.0]) == pytest.approx(2)
    assert score(half, [1.0, 1.0, 0.0, 0.0]) == pytest.approx(2)  # inverted
    assert score(half, [0.0, 1.0, 0.0, 1.0]) == pytest.approx(1)
    # In bits: H(A) = 1, H(B) = 2 - 3/4 log2(3), and the joint, of shares 1/2, 1/4 and
    # 1/4, has 3/2.
    expected = (1 + 2 - 0.75 * np.log2(3)) / 1.5
    assert score(half, [0.0, 0.0, 0.0, 1.0]) == pytest.approx(expected)


def test_a_constant_image_tells_nothing():
    constant, other = np.ones((4, 4)), np.arange(16.0).reshape(4, 4)
    assert metrics.normalised_mutual_information(constant, constant) == 1
    assert metrics.normalised_mutual_information(constant, other) == pytest.approx(1)


def test_edge_agreement_of_empty_maps():
    empty, full = np.zeros((4, 4)), np.ones((4, 4))
    assert metrics.edge_agreement(empty, empty) == 1
    assert metrics.edge_agreement(empty, full) == 0
