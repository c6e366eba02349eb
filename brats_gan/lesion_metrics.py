"""Scores lesion by lesion, as the challenges of BraTS 2023 rank segmentations (D38).

One large lesion decides the Dice of a volume, however many small ones are missed. Here
every lesion of the reference counts alike, and so does every one that is not there.
Source: github.com/rachitsaluja/BraTS-2023-Metrics, BraTS-GLI; the distances are those
of github.com/google-deepmind/surface-distance, which it calls. tests/
test_lesion_metrics.py holds these to hand-worked cases.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from brats_gan import metrics
from brats_gan.lazy import ndimage
from brats_gan.spec import BRATS, Spec

DILATION = 3  # voxels by which lesions of the reference are grown, to join and to match
SMALLEST_MM3 = 50.0  # lesions of the reference up to this do not count
PENALTY_MM = 374.0  # the distance of a lesion that is missed, or is not there
_ACROSS_CORNERS = np.ones((3, 3, 3), bool)  # 26 neighbours: what is one lesion
_ACROSS_EDGES = _ACROSS_CORNERS.copy()  # 18 neighbours: what one step of growth adds
_ACROSS_EDGES[::2, ::2, ::2] = False


class LesionScores(NamedTuple):
    """Scores of one region of one volume."""

    dice: float  # mean over lesions: 0 for those missed and those that are not there
    hausdorff95: float  # mm, the same mean; PENALTY_MM for those
    found: int  # lesions of the reference that count, by whether anything touches them
    missed: int
    false: int  # predicted lesions, of any size, that touch none


def by_lesion(
    label: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float]
) -> LesionScores:
    """Compares two boolean masks [S, H, W] lesion by lesion.

    Lesions of the reference are its pieces once it is grown by DILATION voxels; growth
    only joins and matches, it is not scored. Each is compared with all predicted pieces
    that reach into its growth, whole. Nothing due and nothing false: Dice 1, 0 mm.

    Args:
        label: the reference.
        predicted: of the same shape.
        spacing_mm: between voxels, one number an axis.
    """
    pieces, count = ndimage.label(predicted, _ACROSS_CORNERS)
    boxes = ndimage.find_objects(pieces)
    touched = np.zeros(count + 1, bool)
    touched[0] = True  # what is no piece
    scores, found = [], 0
    for growth, box in _growths(label):
        near = np.unique(pieces[box][growth])
        near = near[near > 0]
        touched[near] = True
        size = np.count_nonzero(label[box] & growth)
        if size * np.prod(spacing_mm) <= SMALLEST_MM3:
            continue
        if not len(near):
            scores.append((0.0, PENALTY_MM))
            continue
        found += 1
        # The rest of the volume has no part in it, and would take most of the time.
        around = _union([box, *(boxes[number - 1] for number in near)])
        lesion = np.zeros([axis.stop - axis.start for axis in around], bool)
        inner = tuple(
            slice(own.start - outer.start, own.stop - outer.start)
            for own, outer in zip(box, around, strict=True)
        )
        lesion[inner] = label[box] & growth
        answer = np.isin(pieces[around], near)
        distance = surface_distance95(lesion, answer, spacing_mm)
        scores.append((metrics.dice(lesion, answer), distance))
    false = int(np.count_nonzero(~touched))
    missed = len(scores) - found
    scores += [(0.0, PENALTY_MM)] * false
    dice, distance = np.mean(scores, axis=0) if scores else (1.0, 0.0)
    return LesionScores(float(dice), float(distance), found, missed, false)


def _growths(label):
    """What each lesion of a mask grows to: a mask in a box of the volume, and the box.

    Lesions whose growths meet are one, so what a lesion grows to is a piece of what all
    of them grow to.
    """
    where = np.nonzero(label)
    if not len(where[0]):
        return
    whole = tuple(
        slice(max(0, int(axis.min()) - DILATION), int(axis.max()) + DILATION + 1)
        for axis in where
    )
    grown = ndimage.binary_dilation(label[whole], _ACROSS_EDGES, DILATION)
    numbers, _ = ndimage.label(grown, _ACROSS_CORNERS)
    for number, box in enumerate(ndimage.find_objects(numbers), 1):
        placed = tuple(
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(whole, box, strict=True)
        )
        yield numbers[box] == number, placed


def _union(boxes):
    """The smallest box around several."""
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis))
        for axis in zip(*boxes, strict=True)
    )


def scores(
    label: np.ndarray,
    predicted: np.ndarray,
    spacing_mm: Sequence[float],
    spec: Spec = BRATS,
) -> dict[str, float]:
    """Lesion-wise Dice and 95 % Hausdorff distance (mm) of each region of a volume.

    Args:
        label, predicted: integers 0..L-1, [S, H, W].
        spacing_mm: one number an axis.
        spec: whose regions are scored; of BraTS whole, core and enhancing.

    Returns:
        {"lesion_dice_REGION", "lesion_hausdorff95_REGION"}.
    """
    named = {}
    for region, classes in spec.regions.items():
        masks = np.isin(label, classes), np.isin(predicted, classes)
        of_region = by_lesion(*masks, spacing_mm)
        named[f"lesion_dice_{region}"] = of_region.dice
        named[f"lesion_hausdorff95_{region}"] = of_region.hausdorff95
    return named


def surface_distance95(
    one: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]
) -> float:
    """95 % Hausdorff distance in mm of two masks [S, H, W], neither of them empty.

    The larger of two percentiles, one a direction. `metrics.hausdorff95` counts border
    voxels alike; here the border goes between voxels and counts by its area, as the
    challenge has it.
    """
    where = np.nonzero(one | other)
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in where)
    areas = [_border(mask[box], tuple(map(float, spacing_mm))) for mask in (one, other)]
    to_one, to_other = (
        ndimage.distance_transform_edt(np.isnan(area), sampling=spacing_mm)
        for area in areas
    )
    return max(_percentile95(areas[0], to_other), _percentile95(areas[1], to_one))


def _border(mask, spacing_mm):
    """Area in mm2 of the border in every cube of eight voxels [S+1, H+1, W+1]; NaN
    where there is none."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], np.uint8)
    for bit, corner in enumerate(_CORNERS):
        part = tuple(
            slice(at, at + size) for at, size in zip(corner, codes.shape, strict=True)
        )
        codes |= padded[part] << bit
    return _areas(spacing_mm)[codes]


def _percentile95(area, distance):
    """The least distance that 95 % of a border's area does not exceed."""
    there = ~np.isnan(area)
    area, distance = area[there], distance[there]
    order = np.lexsort((area, distance))
    share = np.cumsum(area[order]) / np.sum(area)
    index = min(int(np.searchsorted(share, 0.95)), len(order) - 1)
    return float(distance[order][index])


_CORNERS = tuple(itertools.product((0, 1), repeat=3))  # of a cube; bits of a code
# Marching cubes with its vertices halfway along edges. Which corners are in the mask ->
# facets, by eight times the size of their area's projection on each axis. All other
# cases are these turned, mirrored, or with the inside out.
_FACETS = {
    ((1, 1, 1),): ((1, 1, 1),),
    ((1, 1, 0), (1, 1, 1)): ((2, 2, 0),) * 2,
    ((1, 0, 1), (1, 1, 0)): ((1, 1, 1),) * 2,
    ((0, 1, 1), (1, 0, 0)): ((1, 1, 1),) * 2,
    ((1, 0, 1), (1, 1, 0), (1, 1, 1)): ((4, 0, 0), (2, 2, 2), (1, 1, 1)),
    ((0, 1, 1), (1, 0, 1), (1, 1, 0)): ((1, 1, 1),) * 3,
    ((0, 1, 1), (1, 0, 0), (1, 1, 1)): ((0, 2, 2), (0, 2, 2), (1, 1, 1)),
    ((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)): ((4, 0, 0),) * 2,
    ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)): (
        *((1, 1, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    ),
    ((0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)): (
        *((1, 1, 1), (3, 3, 3), (0, 2, 2), (2, 0, 2)),
    ),
    ((0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)): (
        *((4, 0, 0), (1, 1, 1), (2, 2, 2), (1, 1, 1)),
    ),
    ((0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)): ((2, 2, 0),) * 4,
    ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)): ((1, 1, 1),) * 4,
}


@functools.cache
def _areas(spacing_mm):
    """Area in mm2 of the border in a cube, by which of its corners are in: [256].

    NaN where all or none are.
    """
    faces = np.prod(spacing_mm) / np.array(spacing_mm)  # of a voxel, across each axis
    areas = np.full(256, np.nan)
    for corners, facets in _FACETS.items():
        for axes in itertools.permutations(range(3)):
            turned = np.array(facets)[:, axes] / 8
            area = np.linalg.norm(turned * faces, axis=1).sum()
            for mirrored in _CORNERS:
                at = np.array(corners)[:, axes] ^ mirrored
                code = sum(1 << _CORNERS.index(tuple(each)) for each in at.tolist())
                areas[code] = areas[255 - code] = area
    return areas
