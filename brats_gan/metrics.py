"""Scores of a label that was found against the true one (D13).

Labels are integers 0..4 as NumPy arrays of any equal shape: a slice [H, W] as in the
paper, or all slices of a subject [S, H, W] as in the field.
"""

import numpy as np

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
