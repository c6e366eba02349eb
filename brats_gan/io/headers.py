"""Headers: shape, type and place of a volume before a voxel is decoded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nibabel import orientations

from brats_gan.files import DataError

# What no BraTS file comes near: beyond, a file is damaged, or made to fill the memory.
MAX_BYTES = 2**31  # of a volume as float32; one 4-D MSD file is 143 MB
_MAX_DEPTH = 2**10  # axial slices
_MAX_SHIFT_MM = 1.0  # between the modalities of one subject


class Header(NamedTuple):
    """What is known of a volume before a voxel is decoded."""

    shape: tuple[int, int, int, int]  # (x, y, z, channels) as stored, x fastest
    dtype: np.dtype  # as stored, byte order included
    slope: float
    inter: float
    offset: int  # of the first voxel, in bytes
    affine: np.ndarray  # [4, 4], stored voxel -> RAS mm
    to_lps: np.ndarray  # how the stored axes become L, P, S, as nibabel's orientations
    oriented: bool  # False: the file does not say, and is taken as LPS


class Grid(NamedTuple):
    """Where the voxels of a file are, once it is in LPS."""

    path: str | os.PathLike
    shape: tuple[int, int, int]  # (W, H, S)
    affine: np.ndarray  # [4, 4], (column, row, slice, 1) -> RAS mm


def lps_grid(path: str | os.PathLike, header: Header) -> Grid:
    """Grid of a file from its header."""
    shape = np.empty(3, int)
    shape[header.to_lps[:, 0].astype(int)] = header.shape[:3]
    back = orientations.inv_ornt_aff(header.to_lps, header.shape[:3])
    return Grid(path, tuple(int(n) for n in shape), header.affine @ back)


def checked_affine(
    path: str | os.PathLike, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Affine -> itself, and how its axes become L, P, S."""
    sizes = np.abs(affine[np.isfinite(affine)])
    if sizes.size == 16 and sizes.max() < 1e6:
        if abs(np.linalg.det(affine[:3, :3])) > 1e-6:
            stored = orientations.io_orientation(affine)
            if np.isfinite(stored).all():
                lps = orientations.axcodes2ornt(("L", "P", "S"))
                to_lps = orientations.ornt_transform(stored, lps)
                # Halfway between two axes, what was turned could be turned again.
                turned = affine @ orientations.inv_ornt_aff(to_lps, (1, 1, 1))
                if np.array_equal(orientations.io_orientation(turned), lps):
                    return affine, to_lps
    raise DataError(
        f"{path}: the affine in the header is not invertible, or its axes are nearest "
        "to no one axis of the body. Restore the geometry from the original file."
    )


def checked_shape(
    path: str | os.PathLike, sizes: list[int], dtype: np.dtype
) -> tuple[int, int, int, int]:
    """Sizes in the header -> (x, y, z, channels), before anything is allocated."""
    volume = sizes + [1] * (4 - len(sizes))
    if min(volume, default=0) < 1 or not sizes:
        raise DataError(f"{path}: sizes {sizes} in the header. Download it again.")
    while len(volume) > 4 and volume[-1] == 1:
        volume.pop()
    if len(volume) > 4 or len(sizes) < 3:
        raise DataError(
            f"{path}: {len(sizes)}-D, {' x '.join(map(str, sizes))}. A volume is due: "
            "3-D, or 4-D in the MSD layout."
        )
    size = np.prod(volume, dtype=object) * max(dtype.itemsize, 4)
    if size > MAX_BYTES:
        raise DataError(
            f"{path}: the header asks for {size / 2**30:.1f} GB ({volume}, {dtype}), "
            f"more than {MAX_BYTES / 2**30:.0f} GB. The header is damaged, or this is "
            "no BraTS volume."
        )
    return tuple(volume)


def require_channel(
    path: str | os.PathLike, header: Header, channel: int | None
) -> int:
    """Index of the channel asked for; DataError where the file does not have it."""
    count = header.shape[3]
    if channel is None and count > 1:
        raise DataError(
            f"{path}: 4-D with {count} channels where a 3-D volume is due. Split it, "
            "or use the MSD layout with its dataset.json."
        )
    if channel is not None and channel >= count:
        raise DataError(
            f"{path}: has {count} channel{'s' * (count > 1)}, channel {channel} is due "
            "by dataset.json. Restore the original file."
        )
    return channel or 0


def require_slices(
    path: str | os.PathLike, depth: int, slices: tuple[int, int] | None
) -> None:
    """DataError unless a volume of `depth` axial slices has those asked for."""
    if depth > _MAX_DEPTH:
        raise DataError(
            f"{path}: {depth} axial slices, more than {_MAX_DEPTH}. The header is "
            "damaged, or this is no BraTS volume."
        )
    if slices is not None and not 0 <= slices[0] < slices[1] <= depth:
        raise DataError(
            f"{path}: {depth} axial slices, but {slices[0]}:{slices[1]} are due. "
            "Choose the range with --slices."
        )


def voxel_bytes(header: Header) -> int:
    """Bytes of the voxels as stored, of all channels."""
    return int(np.prod(header.shape)) * header.dtype.itemsize


def require_same_grid(one: Grid, other: Grid) -> None:
    """DataError naming `other` unless two volumes lie on one grid."""
    if one.shape != other.shape:
        sizes = [" x ".join(map(str, grid.shape)) for grid in (one, other)]
        raise DataError(
            f"{other.path}: {sizes[1]} voxels, but {one.path} has {sizes[0]}. Resample "
            "both to one grid (a label with nearest)."
        )
    shift = _largest_shift(one.shape, one.affine, other.affine)
    if shift > _MAX_SHIFT_MM:
        raise DataError(
            f"{other.path}: its affine places it up to {shift:.1f} mm away from "
            f"{one.path}. Register them, or restore the affine."
        )


def _largest_shift(shape, affine, other):
    """Most mm between where two affines put a corner of (W, H, S) voxels."""
    if np.array_equal(affine, other):
        return 0.0
    corners = itertools.product(*((0, size - 1) for size in shape), (1,))
    moved = np.array(list(corners)) @ (affine - other).T
    return float(np.linalg.norm(moved[:, :3], axis=1).max())


def lps_affine(height: int, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Affine of a BraTS volume: LPS, the last row at y = 0."""
    dx, dy, dz = spacing
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[1, 3] = (height - 1) * dy
    return affine
