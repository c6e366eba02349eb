"""Lesions in three dimensions: taken from training subjects, moved, placed in a brain.

A lesion is a connected piece of a label map. It is scaled, turned, mirrored and moved
by one transform, nearest, so that its classes stay as they lie to each other; it fits
where all of it is inside the brain (Section 2.4's rule, in three dimensions). A volume
has as many lesions as some training subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from brats_gan import fusion
from brats_gan.lazy import ndimage

SMALLEST = 50.0  # mm3; smaller pieces are no lesions of their own (D38)
TILT = 0.15  # rad, the largest turn out of the plane of a slice
CANDIDATES = 8  # lesions that are tried before a brain is given up
TRIES = 200  # places for each
NEIGHBOURS = np.ones((3, 3, 3), bool)


class Lesion(NamedTuple):
    """One lesion of a training subject."""

    label: np.ndarray  # [d, h, w] uint8, its box; 0 where it is not
    subject: str
    cut_below: bool  # it goes on below the slices in range
    cut_above: bool


class Pool(NamedTuple):
    """The lesions of training subjects."""

    lesions: list[Lesion]
    counts: list[int]  # of each subject
    spacing: tuple[float, float, float]  # mm, between slices, rows and columns


def pool(
    labels: Sequence[np.ndarray],
    names: Sequence[str],
    spacing: tuple[float, float, float],
) -> Pool:
    """Takes the lesions out of label maps.

    Args:
        labels: [S, H, W] integers of each subject, its slices in range in order.
        names: of the subjects.
        spacing: mm between slices, rows and columns.

    Raises:
        ValueError: there is no lesion.
    """
    smallest = SMALLEST / float(np.prod(spacing))
    lesions, counts = [], []
    for label, name in zip(labels, names, strict=True):
        pieces, count = ndimage.label(label > 0, NEIGHBOURS)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        found = []
        for number, box in enumerate(ndimage.find_objects(pieces), 1):
            if sizes[number] < smallest:
                continue
            own = np.where(pieces[box] == number, label[box], 0).astype(np.uint8)
            ends = box[0].start == 0, box[0].stop == len(label)
            found.append(Lesion(own, name, *ends))
        lesions += found
        counts.append(len(found))
    if not lesions:
        raise ValueError("no label map has a lesion to take")
    return Pool(lesions, counts, spacing)


def transformed(
    lesion: Lesion, spacing: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """The label of a lesion after a random scale, turn and mirroring, in a box of its
    own: [d, h, w] uint8.

    One that is cut off by the range of slices keeps its height, so that it can be cut
    off there again.
    """
    is_cut = lesion.cut_below or lesion.cut_above
    low, high = fusion.SCALES
    scale = rng.uniform(low, high)
    angle = rng.uniform(-fusion.MAX_ANGLE, fusion.MAX_ANGLE)
    tilts = rng.uniform(-TILT, TILT, 2) * (not is_cut)
    mirrored = rng.random() < 0.5
    turn = _rotation(0, angle) @ _rotation(1, tilts[0]) @ _rotation(2, tilts[1])
    forward = turn @ np.diag([1.0 if is_cut else scale, scale, scale])
    forward = forward @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0])
    # In voxels: of the source, for each of the target.
    voxel = np.diag(spacing)
    back = np.linalg.inv(voxel) @ np.linalg.inv(forward) @ voxel
    corners = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1)
    corners = np.linalg.inv(back) @ (corners * np.array(lesion.label.shape)[:, None])
    shape = 2 * np.ceil(np.abs(corners).max(1)).astype(int) + 1
    if is_cut:
        shape[0] = lesion.label.shape[0]
    centres = [(np.array(s) - 1) / 2 for s in (lesion.label.shape, shape)]
    offset = centres[0] - back @ centres[1]
    moved = ndimage.affine_transform(
        lesion.label, back, offset, tuple(shape), order=0, mode="constant"
    )
    (box,) = ndimage.find_objects(moved > 0, 1) or [None]
    return moved if box is None or is_cut else moved[box]


def _rotation(axis, angle):
    """[3, 3], about an axis of (slices, rows, columns)."""
    one, other = (i for i in range(3) if i != axis)
    turn = np.eye(3)
    turn[one, one] = turn[other, other] = np.cos(angle)
    turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
    return turn


def place(
    lesions: Pool, brain: np.ndarray, rng: np.random.Generator, count: int | None = None
) -> tuple[np.ndarray, list[str], bool]:
    """Places lesions in a brain, each inside it and apart from the others.

    Args:
        lesions: Pool.
        brain: [S, H, W] bool.
        rng: of everything that is drawn.
        count: how many; None: as many as a subject of the pool has that has any.

    Returns:
        label [S, H, W] uint8; of each lesion that was placed whose it was; whether all
        of them were.
    """
    label = np.zeros(brain.shape, np.uint8)
    if count is None:
        count = int(rng.choice([n for n in lesions.counts if n]))
    free, subjects = brain.copy(), []
    for _ in range(count):
        for pick in rng.integers(len(lesions.lesions), size=CANDIDATES):
            lesion = lesions.lesions[pick]
            moved = transformed(lesion, lesions.spacing, rng)
            corner = _fitting_corner(lesion, moved, free, rng)
            if corner is not None:
                break
        else:
            return label, subjects, False
        inside = np.argwhere(moved > 0)
        where = tuple((inside + corner).T)
        label[where] = moved[tuple(inside.T)]
        subjects.append(lesion.subject)
        # The next one does not touch it, or the two would be one.
        free &= ~ndimage.binary_dilation(label > 0, NEIGHBOURS)
    return label, subjects, True


def keep(
    label: np.ndarray, brain: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[str], bool]:
    """What `place` returns, of a label map that stays where it is.

    Args:
        label: [S, H, W] uint8.
        brain: [S, H, W] bool.
        rng: of nothing here.
    """
    del rng
    return label.copy(), [], bool(brain[label > 0].all())


def _fitting_corner(lesion, moved, free, rng):
    """Where the box of a moved lesion may begin, [3] int; None where none was found."""
    voxels = np.argwhere(moved > 0)
    room = np.array(free.shape) - moved.shape
    if not len(voxels) or room[0] < 0:
        return None
    targets = np.argwhere(free)
    if not len(targets):
        return None
    # The middle of the lesion comes to lie on a voxel of the brain, at random.
    middle = voxels[np.argmin(((voxels - voxels.mean(0)) ** 2).sum(1))]
    corners = targets[rng.integers(len(targets), size=TRIES)] - middle
    if lesion.cut_below or lesion.cut_above:
        at_end = 0 if lesion.cut_below else room[0]
        if lesion.cut_below and lesion.cut_above and room[0] != 0:
            return None
        corners[:, 0] = at_end
    elif room[0] < 2:
        return None  # it would be cut off, or end where the slices do
    for corner in corners:
        where = voxels + corner
        if (where < 0).any() or (where >= free.shape).any():
            continue
        if not (lesion.cut_below or lesion.cut_above):
            low, high = where[:, 0].min(), where[:, 0].max()
            if low == 0 or high == free.shape[0] - 1:
                continue
        if free[tuple(where.T)].all():
            return corner
    return None
