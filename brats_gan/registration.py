"""How well the modalities of one slice are registered, as Section 2.8 promises.

Two figures, each a mean over the pairs of modalities and over slices: Dice within one
pixel of the edges that Algorithm 1 finds, and normalised mutual information. They mean
little alone: read them beside those of real slices, which need training or held-out
subjects that are registered, and of the same slices shifted. Shapes have M for the
modalities of a set.
"""

from __future__ import annotations

import itertools

import numpy as np

from brats_gan import metrics, structural_map
from brats_gan.lazy import tf

SHIFTS = (1, 2, 4)  # pixels


def edges(images: np.ndarray, beta: float) -> np.ndarray:
    """Algorithm 1 of every modality: [N, M, H, W] in [0, 1] -> the same in {0, 1}."""
    flat = tf.constant(images.reshape(-1, *images.shape[2:], 1), tf.float32)
    return structural_map.structural_map(flat, beta).numpy().reshape(images.shape)


def agreement(maps: np.ndarray) -> float:
    """Mean metrics.edge_agreement of each two modalities of edges [N, M, H, W]."""
    return _mean_of_pairs(metrics.edge_agreement, maps)


def information(images: np.ndarray) -> float:
    """Mean metrics.normalised_mutual_information of each two modalities.

    [N, M, H, W] in [0, 1]; of each slice only the pixels where any modality shows
    brain: otherwise the background, which all share, would count most.
    """
    inside = [image[:, image.any(0)] for image in images]
    return _mean_of_pairs(metrics.normalised_mutual_information, inside)


def _mean_of_pairs(score, sets):
    pairs = list(itertools.combinations(range(len(sets[0])), 2))
    return float(np.mean([score(each[i], each[j]) for each in sets for i, j in pairs]))


def shifted(sets: np.ndarray, pixels: int) -> np.ndarray:
    """[N, M, H, W] with modality i moved by i x `pixels` columns, round the border.

    Two modalities that follow each other are then `pixels` apart.
    """
    moved = [np.roll(sets[:, i], pixels * i, -1) for i in range(sets.shape[1])]
    return np.stack(moved, 1)


def scores(images: np.ndarray, beta: float) -> dict[str, float]:
    """{"edge_dice", "mutual_information"} of sets [N, M, H, W] in [0, 1]."""
    return {
        "edge_dice": round(agreement(edges(images, beta)), 4),
        "mutual_information": round(information(images), 4),
    }


def compare(
    made: np.ndarray, real: np.ndarray | None, beta: float
) -> dict[str, dict[str, float]]:
    """Scores of generated sets beside those of real ones, as they are and shifted.

    Args:
        made: [N, M, H, W] in [0, 1].
        real: the same, or None: then the generated sets themselves are shifted.
        beta: threshold of Algorithm 1.

    Returns:
        {"generated", "real", "real shifted by 1", ...}, each of `scores`; without
        `real` {"generated", "generated shifted by 1", ...}.
    """
    name, reference = ("generated", made) if real is None else ("real", real)
    found = {"generated": scores(made, beta)}
    if real is not None:
        found["real"] = scores(real, beta)
    for pixels in SHIFTS:
        found[f"{name} shifted by {pixels}"] = scores(shifted(reference, pixels), beta)
    return found
