"""The BRATS grid: boxes of it, and smooth random fields on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SHAPE = (240, 240, 155)  # BRATS: voxels of 1 mm
AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
SLICES = (50, 110)  # half-open; a margin about the 55:105 that training reads
BRAIN_BOX = ((32, 206), (30, 230))  # x and y that tissue is evaluated in
MARGIN = 6  # slices evaluated beyond the slab, for blur through plane


class Box(NamedTuple):
    """A box of the BRATS grid: first voxel and shape."""

    start: tuple[float, float, float]  # whole, but for the atlas in mm
    shape: tuple[int, int, int]

    def axis(self, dim: int) -> np.ndarray:
        """Coordinates of the voxels along one axis."""
        return np.arange(self.start[dim], self.start[dim] + self.shape[dim])

    def offsets(self, centre: Sequence[float] | np.ndarray) -> list[np.ndarray]:
        """Three arrays that broadcast to [X, Y, Z]: voxel minus `centre`, float32."""
        shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
        return [
            (self.axis(d) - centre[d]).astype(np.float32).reshape(shape)
            for d, shape in enumerate(shapes)
        ]

    def around(
        self, centre: Sequence[float] | np.ndarray, reach: float
    ) -> tuple[tuple[slice, slice, slice], Box]:
        """Index of the box within `reach` voxels of `centre`, and its grid."""
        box = []
        for c, s, n in zip(centre, self.start, self.shape, strict=True):
            first = int(np.clip(c - reach - s, 0, n - 1))
            box.append(slice(first, int(np.clip(c + reach + 2 - s, first + 1, n))))
        start = tuple(s + b.start for s, b in zip(self.start, box, strict=True))
        return tuple(box), Box(start, tuple(b.stop - b.start for b in box))


def slab(slices: tuple[int, int]) -> Box:
    """The grid of slices [first, last) with the margin that blur needs."""
    first = max(slices[0] - MARGIN, 0)
    last = min(slices[1] + MARGIN, SHAPE[2])
    (x0, x1), (y0, y1) = BRAIN_BOX
    return Box((x0, y0, first), (x1 - x0, y1 - y0, last - first))


def spline_upsample(control: np.ndarray, positions: Sequence[np.ndarray]) -> np.ndarray:
    """Cubic B-spline of a small array, evaluated at one list of positions per axis.

    Summed tap by tap instead of by a matrix product, whose last bits depend on the
    number of threads: files have to be equal byte for byte.
    """
    for dim in (2, 1, 0):  # the largest copies last, along the axis cheapest to gather
        at = np.asarray(positions[dim], np.float64)
        base = np.floor(at).astype(int)
        t = (at - base).astype(np.float32)
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        column = [-1 if d == dim else 1 for d in range(3)]
        last = control.shape[dim] - 1
        control = sum(
            control.take(np.clip(base + tap, 0, last), dim) * weight.reshape(column)
            for tap, weight in zip((-1, 0, 1, 2), weights, strict=True)
        )
    return control


def smooth_noise(rng: np.random.Generator, grid: Box, spacing: float) -> np.ndarray:
    """Gaussian field on the grid, mean 0, deviation 1, smooth over `spacing` voxels."""
    counts = [int(n / spacing) + 5 for n in grid.shape]
    control = rng.standard_normal(counts, dtype=np.float32)
    # A cubic B-spline of unit white noise has variance 151 / 315 per axis.
    control *= np.float32((315 / 151) ** 1.5)
    return spline_upsample(control, [np.arange(n) / spacing + 1.5 for n in grid.shape])


def ramp(
    x: np.ndarray,
    low: float | np.floating | np.ndarray,
    high: float | np.floating | np.ndarray,
) -> np.ndarray:
    """0 at `low`, 1 at `high`, linear between; `low` may be the larger."""
    return np.clip((x - low) / (high - low), 0, 1)
