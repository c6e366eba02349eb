"""Scores of a predicted label against the true one (D13), and of two contrasts.

Labels are integers 0..L-1 as NumPy arrays of any equal shape: a slice [H, W] as in the
paper, or all slices of a subject [S, H, W] as in the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from brats_gan.lazy import ndimage
from brats_gan.spec import BRATS, Spec

SMOOTH = 1e-5  # the authors': two empty labels then agree, Dice 1


def parts(spec: Spec = BRATS) -> dict[str, tuple[int, ...]]:
    """What is scored: the regions of the field, and each class (of BraTS, enhancing is
    both): name -> labels."""
    classes = {name: (value,) for value, name in enumerate(spec.labels) if value}
    return {**spec.regions, **classes}


def index_dice(label: np.ndarray, predicted: np.ndarray) -> float:
    """The authors' Dice: (2 sum L P + 1e-5) / (sum L^2 + sum P^2 + 1e-5) on the
    indices.

    A wrong class costs little (4 predicted as 3 scores 24/25), any pixel predicted in
    an empty slice nearly all. For comparison with the paper's tables.
    """
    label = np.asarray(label, np.float64)
    predicted = np.asarray(predicted, np.float64)
    overlap = np.sum(label * predicted)
    total = np.sum(label**2) + np.sum(predicted**2)
    return float((2.0 * overlap + SMOOTH) / (total + SMOOTH))


def index_mse(label: np.ndarray, predicted: np.ndarray) -> float:
    """The authors' MSE: mean squared difference of the class indices."""
    difference = np.asarray(label, float) - np.asarray(predicted, float)
    return float(np.mean(difference**2))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """2 |A & B| / (|A| + |B|) of two boolean masks.

    Two empty masks agree: 1. One empty mask: 0. That is what BraTS' own scores do.
    """
    total = np.count_nonzero(one) + np.count_nonzero(other)
    if total == 0:
        return 1.0
    return float(2.0 * np.count_nonzero(one & other) / total)


def sensitivity(label: np.ndarray, predicted: np.ndarray) -> float:
    """|L & P| / |L|: the share of a lesion that is predicted, of two boolean masks.

    Two empty masks score 1; one empty mask 0, whichever it is.
    """
    if not label.any():
        return float(not predicted.any())
    return float(np.count_nonzero(label & predicted) / np.count_nonzero(label))


def precision(label: np.ndarray, predicted: np.ndarray) -> float:
    """|L & P| / |P|: the share of what is predicted that is lesion.

    Empty masks as in `sensitivity`.
    """
    return sensitivity(predicted, label)


def hausdorff95(
    one: np.ndarray, other: np.ndarray, spacing_mm: float | Sequence[float]
) -> float:
    """95 % Hausdorff distance in mm of two boolean masks [H, W] or [S, H, W].

    The larger of two 95th percentiles: of the distances from each border pixel of one
    mask to the nearest border pixel of the other, and the other way round, as BraTS
    and MONAI have it. A border pixel has a neighbour by edge (face) outside the mask or
    lies at the border of the array.

    Two empty masks: 0. One empty mask: the diagonal of the array, which no distance in
    it exceeds.

    Args:
        spacing_mm: between pixels, one number an axis.
    """
    shape, spacing = np.array(one.shape), np.broadcast_to(spacing_mm, one.ndim)
    where = np.nonzero(one | other)
    if not len(where[0]):
        return 0.0
    if not (one.any() and other.any()):
        return float(np.linalg.norm(shape * spacing))
    # Nothing beyond the box of both masks has a part in any distance.
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in where)
    borders = [each[box] & ~ndimage.binary_erosion(each[box]) for each in (one, other)]
    to_one, to_other = (
        ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders
    )
    distances = to_other[borders[0]], to_one[borders[1]]
    return float(max(np.percentile(each, 95) for each in distances))


def all_scores(
    label: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: float | Sequence[float],
    spec: Spec = BRATS,
) -> dict[str, float]:
    """Every score of one prediction, by name (D13).

    Args:
        label, predicted: integers 0..L-1, [H, W] or [S, H, W].
        spacing_mm: one number an axis.
        spec: whose `parts` are scored.

    Returns:
        {"mse", "dice_index"}, the paper's columns, and MEASURE_PART for dice,
        sensitivity, precision and hausdorff95 (mm) of each of `parts`.
    """
    scores = {
        "mse": index_mse(label, predicted),
        "dice_index": index_dice(label, predicted),
    }
    for part, classes in parts(spec).items():
        masks = np.isin(label, classes), np.isin(predicted, classes)
        scores[f"dice_{part}"] = dice(*masks)
        scores[f"sensitivity_{part}"] = sensitivity(*masks)
        scores[f"precision_{part}"] = precision(*masks)
        scores[f"hausdorff95_{part}"] = hausdorff95(*masks, spacing_mm)
    return scores


def mean_scores(listed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over a list of `all_scores`."""
    return {name: float(np.mean([s[name] for s in listed])) for name in listed[0]}


def edge_agreement(one: np.ndarray, other: np.ndarray) -> float:
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


def normalised_mutual_information(
    one: np.ndarray, other: np.ndarray, bins: int = 32
) -> float:
    """(H(A) + H(B)) / H(A, B) of two images of one shape: 1 to 2.

    2 where each is a function of the other, 1 where neither tells anything of the other
    (also of two constants). From a joint histogram of bins x bins over the range of
    each; few pixels for so many bins raise it, so compare only what is of one size.
    """
    counts, _, _ = np.histogram2d(np.ravel(one), np.ravel(other), bins)
    own = _entropy(counts.sum(1)) + _entropy(counts.sum(0))
    joint = _entropy(counts)
    return float(own / joint) if joint > 0 else 1.0


def _entropy(counts):
    share = counts[counts > 0] / counts.sum()
    return -np.sum(share * np.log(share))
