"""Content: whether the modalities of one subject fit each other and the method.

Headers can be in order where voxels are not: a modality cut off, shifted, copied from
another, or a skull left on. Each function gives a message on what it finds, or None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from brats_gan.io.headers import Grid

_MIN_OVERLAP = 0.9  # Dice of two silhouettes; 0.83 for a brain with its axes swapped
_MIN_INSIDE = 0.98  # part of an outline that is cut off which lies inside the others'
_MAX_SHIFT = 3.0  # pixels between the middles of outlines that overlap well
_MIN_ZERO = 0.05  # of the voxels; skull-stripped images have about 0.8
_MAX_CORNERS = 0.5  # of the voxels in the corners of slices that are not 0
# Of two modalities of one brain: 0.90 at most in two real subjects. A copy that was
# scaled and rounded to whole numbers has 0.995 where 12 of these are left.
_MAX_CORRELATION = 0.99
_FEWEST = 50  # voxels that a correlation is taken of
_EVERY = (1, 3, 3)  # voxel of a volume is kept for comparison


class Voxels(NamedTuple):
    """What is kept of a modality, so that memory does not grow with the volumes."""

    outline: np.ndarray  # [H, W] bool, where any slice in range is positive
    shows: np.ndarray  # [S] positive voxels of each slice
    thinned: np.ndarray  # [S, h, w] float32, some of its voxels
    zero: float  # share of voxels that are not positive
    corners: float  # share of voxels in the corners of slices that are positive


def unregistered(grids: Sequence[tuple[str, Grid]]) -> str:
    """The problem of a subject whose modalities are of other shapes than the first."""
    described = "; ".join(
        f"{modality} {_times(grid.shape)} voxels of "
        f"{_times(np.linalg.norm(grid.affine[:3, :3], axis=0).round(2))} mm"
        for modality, grid in grids
    )
    return (
        f"{grids[-1][1].path}: the modalities are not on one grid, as scanners leave "
        f"them: {described}. Register them to one of them, resample to 1 mm, and strip "
        "the skull."
    )


def _times(numbers):
    return " x ".join(f"{number:g}" for number in numbers)


def kept(volume: np.ndarray, outline: np.ndarray) -> Voxels:
    """What to keep of [S, H, W] in range, whose silhouette is `outline`."""
    positive = volume > 0
    shows = np.count_nonzero(positive, axis=(1, 2))
    high, wide = (max(1, side // 16) for side in volume.shape[1:])
    corners = [
        positive[:, rows, columns]
        for rows in (slice(high), slice(-high, None))
        for columns in (slice(wide), slice(-wide, None))
    ]
    thin = tuple(slice(None, None, step) for step in _EVERY)
    return Voxels(
        outline,
        shows,
        volume[thin].astype(np.float32),
        1 - float(positive.mean()),
        float(np.mean([corner.mean() for corner in corners])),
    )


def not_stripped(voxels: Mapping[str, Voxels]) -> str | None:
    """A note where a skull, or noise in the air, is around the brain."""
    for modality, of in voxels.items():
        if of.zero < _MIN_ZERO or of.corners > _MAX_CORNERS:
            return (
                f"almost no voxel of {modality} around the brain is 0 ({of.zero:.0%} "
                "of all; skull-stripped images have about 80%): strip the skull first, "
                'or set the background to 0; or say "zero_background": false in '
                "--spec, for noise around a brain that is stripped."
            )
    return None


def outlines(voxels: Mapping[str, Voxels]) -> list[tuple[str, str, bool]]:
    """(modality, message, whether it is a problem) of outlines that do not fit.

    One that is cut off lies inside that of the others. One that is flipped, swapped or
    shifted leaves it on the other side.
    """
    shown = np.stack([of.outline for of in voxels.values()])
    most = 2 * shown.sum(axis=0) >= len(shown)
    found = []
    for modality, of in voxels.items():
        both = np.count_nonzero(of.outline & most)
        inside = both / np.count_nonzero(of.outline)
        covered = both / np.count_nonzero(most)
        overlap = 2 / (1 / inside + 1 / covered) if both else 0.0
        down, right = _middle(of.outline) - _middle(most)
        shift = f"{np.hypot(down, right):.1f} pixels from that of the others"
        if overlap >= _MIN_OVERLAP:
            if np.hypot(down, right) > _MAX_SHIFT and inside < _MIN_INSIDE:
                message = f"the middle of {modality} is {shift}: not registered?"
                found.append((modality, message, False))
        elif inside >= _MIN_INSIDE:
            message = (
                f"{modality} covers only {covered:.0%} of the outline of the others: "
                "its field of view ends inside the brain."
            )
            found.append((modality, message, False))
        else:
            message = (
                f"the outline of {modality} overlaps with that of the others by "
                f"{overlap:.2f} (Dice; {_MIN_OVERLAP} is due), and its middle is "
                f"{shift}. Look for swapped or flipped axes, or register it."
            )
            found.append((modality, message, True))
    return found


def _middle(outline):
    """(row, column) of the centre of gravity of [H, W] bool."""
    rows, columns = np.nonzero(outline)
    return np.array([rows.mean(), columns.mean()])


def slices_missing(voxels: Mapping[str, Voxels]) -> list[tuple[str, str]]:
    """(modality, note) where slices that show brain in the others show none."""
    counts = np.stack([of.shows for of in voxels.values()])
    most = 2 * np.count_nonzero(counts > 0, axis=0) > len(counts)
    found = []
    for modality, of in voxels.items():
        lacking = np.count_nonzero(most & (of.shows == 0))
        if lacking:
            message = (
                f"{modality} shows no brain in {lacking} of {np.count_nonzero(most)} "
                "slices in range where the others do: its field of view ends inside "
                "the brain."
            )
            found.append((modality, message))
    return found


def copies(voxels: Mapping[str, Voxels]) -> list[tuple[str, str]]:
    """(modality, problem) where one is another by a scale and an offset.

    That is how a contrast that was not acquired is filled in now and then.
    """
    names = list(voxels)
    brain = np.logical_and.reduce([of.thinned > 0 for of in voxels.values()])
    if np.count_nonzero(brain) < _FEWEST:
        return []
    inside = np.stack([of.thinned[brain] for of in voxels.values()]).astype(float)
    varied = inside.std(axis=1) > 0
    found = []
    for second in range(len(names)):
        for first in range(second):
            if not (varied[first] and varied[second]):
                continue
            alike = abs(np.corrcoef(inside[first], inside[second])[0, 1])
            if alike > _MAX_CORRELATION:
                message = (
                    f"{names[second]} is {names[first]} by a scale and an offset "
                    f"(correlation {alike:.4f} in the brain): a copy, no contrast of "
                    "its own. Put the right file in its place, or leave the subject "
                    "out."
                )
                found.append((names[second], message))
                break
    return found
