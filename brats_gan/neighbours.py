"""How alike neighbouring slices of a volume are, and how to make them so.

Slices of a real volume are means over a thickness of tissue, and their neighbours share
some of it. Slices that networks make one at a time do not, so that lines flicker from
one to the next: combs, where a volume is seen from the front or the side. Shapes have S
for the slices of a volume, from below.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

FEWEST = 50  # pixels with brain, of two slices that are compared
# Sds, in slices, of the profile that slices are means over; the best is kept.
PROFILES = tuple(round(0.1 * n, 1) for n in range(16))
# Whether a patch of tissue is bright or dark is settled in each slice anew, which shows
# as streaks from the side: patches are means over more slices than lines are (D50).
PATCH = 0.04  # sd of a patch, as a share of the image's side
PATCHES = 2.0  # sd, in slices, of the means that patches are


def smoother(count: int, sd: float) -> np.ndarray:
    """[S, S]: slices -> their Gaussian mean over neighbours, `sd` slices wide."""
    if not sd:
        return np.eye(count, dtype=np.float32)
    steps = np.arange(count)
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None]) / sd) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def thickened(
    images: np.ndarray, brain: np.ndarray, sd: float, label: np.ndarray | None = None
) -> np.ndarray:
    """Images as means over a thickness, one profile for all contrasts.

    A mean is over what is brain in the neighbours, so that the rim does not darken;
    what is not brain stays 0. Patches of what has no lesion are means over more slices,
    see PATCHES. All contrasts are treated alike, so they stay registered.

    Args:
        images: [M, S, H, W], 0 outside the brain.
        brain: [S, H, W] bool.
        sd: of the Gaussian profile, in slices; 0 leaves images as they are.
        label: [S, H, W], 0 where there is no lesion; None: nowhere.

    Returns:
        [M, S, H, W] float32.
    """
    images = np.asarray(images, np.float32)
    if not sd:
        return images
    lines = means(images, brain, sd)
    tissue = brain if label is None else brain & (label == 0)
    # Where little tissue is near, as far inside a lesion, the gain becomes 1.
    least = 0.05 * _blurred(lines) + 1e-12
    wide = _blurred(means(images, tissue, PATCHES)) + least
    gain = wide / (_blurred(np.where(tissue, lines, 0.0)) + least)
    return np.minimum(lines * gain, 1.0).astype(np.float32)


def means(images: np.ndarray, among: np.ndarray, sd: float) -> np.ndarray:
    """[M, S, H, W] float32, means over those slices where `among` [S, H, W] holds."""
    weights = smoother(len(among), sd)
    share = np.einsum("st,thw->shw", weights, among.astype(np.float32), optimize=True)
    shown = np.where(among, images, 0.0).astype(np.float32)
    mean = np.einsum("st,mthw->mshw", weights, shown, optimize=True)
    return np.where(among, mean / np.maximum(share, 1e-6), 0.0).astype(np.float32)


def _blurred(stacks):
    """[M, S, H, W], each slice blurred over a patch; 0 lies around it."""
    sd, blurred = PATCH * stacks.shape[-1], np.empty(stacks.shape, np.float32)
    for at in np.ndindex(stacks.shape[:2]):
        plane = np.ascontiguousarray(stacks[at], np.float32)
        blurred[at] = cv2.GaussianBlur(
            plane, (0, 0), sd, borderType=cv2.BORDER_CONSTANT
        )
    return blurred


def map_overlap(maps: np.ndarray) -> float:
    """Mean Dice of what is drawn in neighbouring slices of [..., S, H, W] in {0, 1}.

    Two empty slices count as 0; NaN where there are no two slices.
    """
    lower, upper = maps[..., :-1, :, :] > 0, maps[..., 1:, :, :] > 0
    both = (lower & upper).sum((-2, -1))
    each = lower.sum((-2, -1)) + upper.sum((-2, -1))
    dice = 2.0 * both / np.maximum(each, 1)
    return float(np.mean(dice)) if dice.size else float("nan")


def frays(brain: np.ndarray) -> float:
    """How much of the outline of a brain [S, H, W] is in one slice only.

    Pixels that differ from those above and below, which are alike, in pixels of the
    outline of these slices: 0 where it runs smoothly upwards, NaN where there are no
    three slices with an outline.
    """
    brain = np.asarray(brain, bool)
    lower, middle, upper = brain[:-2], brain[1:-1], brain[2:]
    alone = (middle != lower) & (middle != upper)
    outline = sum(np.diff(middle, axis=axis).sum() for axis in (1, 2))
    return float(alone.sum() / outline) if outline else float("nan")


def label_overlap(label: np.ndarray) -> float:
    """Mean Dice of the lesion in neighbouring slices of a label map [S, H, W].

    Over pairs of which one has a lesion; NaN where there is none.
    """
    has = (label > 0).any((1, 2))
    pairs = [label[s : s + 2] for s in range(len(label) - 1) if has[s : s + 2].any()]
    return float(np.mean([map_overlap(pair) for pair in pairs])) if pairs else np.nan


def correlation(images: np.ndarray) -> list[float]:
    """Mean correlation of neighbouring slices of each contrast of [M, S, H, W].

    Of the pixels where one of the two, in any contrast, is not 0; pairs with fewer than
    FEWEST are left out, and NaN is said where all are.
    """
    found = []
    for lower, upper in zip(
        np.moveaxis(images, 1, 0)[:-1], np.moveaxis(images, 1, 0)[1:], strict=True
    ):
        shows = (lower != 0).any(0) | (upper != 0).any(0)
        if np.count_nonzero(shows) >= FEWEST:
            found.append(
                [
                    _pearson(one[shows], other[shows])
                    for one, other in zip(lower, upper, strict=True)
                ]
            )
    if not found:
        return [float("nan")] * len(images)
    return [float(value) for value in np.mean(found, 0)]


def _pearson(one, other):
    """Correlation of two vectors; 0 where one of them is constant."""
    one, other = (
        each.astype(np.float64) - each.mean(dtype=np.float64) for each in (one, other)
    )
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / size) if size > 1e-12 else 0.0


def profile(
    drawn: Sequence[tuple[np.ndarray, np.ndarray]], real: Sequence[float]
) -> float:
    """The sd of PROFILES with which drawn volumes are most like real ones.

    Args:
        drawn: (images [M, S, H, W], brain [S, H, W] bool) of some.
        real: `correlation` of real volumes, M numbers.
    """

    drawn = [each for each in drawn if np.isfinite(correlation(each[0])).all()]
    if not drawn or not np.isfinite(real).all():
        return 0.0  # there are no neighbours to be alike

    def off(sd):
        found = [correlation(thickened(*each, sd)) for each in drawn]
        return float(np.mean(np.abs(np.mean(found, 0) - np.asarray(real))))

    return min(PROFILES, key=lambda sd: (round(off(sd), 6), sd))


def scores(
    volumes: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
    modalities: Sequence[str],
) -> dict[str, float]:
    """How alike neighbouring slices of some volumes are, for JSON.

    Args:
        volumes: (maps [..., S, H, W] in {0, 1}, images [M, S, H, W], label [S, H, W])
            of each.
        modalities: names of the M contrasts.

    Returns:
        Means over the volumes of `map_overlap` as "maps", of `correlation` by the name
        of the contrast, of `label_overlap` as "labels", and of `frays` of what no
        contrast has as 0 as "frays"; None where there is none.
    """
    rows = [
        [
            map_overlap(maps),
            *correlation(images),
            label_overlap(label),
            frays((np.asarray(images) != 0).all(0)),
        ]
        for maps, images, label in volumes
    ]
    names = ("maps", *modalities, "labels", "frays")
    columns = np.array(rows, np.float64).reshape(-1, len(names)).T
    result = {}
    for name, column in zip(names, columns, strict=True):
        known = column[np.isfinite(column)]
        result[name] = round(float(known.mean()), 4) if len(known) else None
    return result
