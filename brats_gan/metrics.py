"""Scores of a label that was found against the true one (D13).

Labels are integers 0..4 as NumPy arrays of any equal shape: a slice [H, W] as in the
paper, or all slices of a subject [S, H, W] as in the field.
"""

import numpy as np
from scipy import ndimage

from brats_gan import brats

SMOOTH = 1e-5  # the authors': two empty labels then agree, Dice 1


def index_dice(label, found):
    """The authors' Dice: (2 sum L P + 1e-5) / (sum L^2 + sum P^2 + 1e-5) on the
    indices.

    A wrong class costs little (4 found as 3 scores 24/25), any pixel found in an empty
    slice nearly all. For comparison with the paper's tables.
    """
    label, found = np.asarray(label, np.float64), np.asarray(found, np.float64)
    overlap = np.sum(label * found)
    total = np.sum(label**2) + np.sum(found**2)
    return float((2.0 * overlap + SMOOTH) / (total + SMOOTH))


def index_mse(label, found):
    """The authors' MSE: mean squared difference of the class indices."""
    return float(np.mean((np.asarray(label, float) - np.asarray(found, float)) ** 2))


def dice(one, other):
    """2 |A & B| / (|A| + |B|) of two boolean masks.

    Two empty masks agree: 1. One empty mask: 0. That is what BraTS' own scores do.
    """
    total = np.count_nonzero(one) + np.count_nonzero(other)
    if total == 0:
        return 1.0
    return float(2.0 * np.count_nonzero(one & other) / total)


def region_dice(label, found):
    """{"dice_whole", "dice_core", "dice_enhancing"} of the lesion regions in brats."""
    return {
        f"dice_{region}": dice(np.isin(label, classes), np.isin(found, classes))
        for region, classes in brats.REGIONS.items()
    }


def edge_agreement(one, other):
    """Dice of two edge maps within one pixel: how well two contrasts are registered.

    An edge pixel agrees if the other map has an edge within the 3 x 3 pixels about it;
    the score is the share that agrees of all edge pixels of both. Two maps [H, W] in
    {0, 1}; two empty ones agree.
    """
    one, other = np.asarray(one) > 0.5, np.asarray(other) > 0.5
    total = np.count_nonzero(one) + np.count_nonzero(other)
    if total == 0:
        return 1.0
    around = np.ones((3, 3), bool)
    near_one = ndimage.binary_dilation(one, around)
    near_other = ndimage.binary_dilation(other, around)
    agreeing = np.count_nonzero(one & near_other) + np.count_nonzero(other & near_one)
    return float(agreeing / total)
