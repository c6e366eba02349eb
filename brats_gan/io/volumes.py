"""Volumes out of files: [H, W, S] in LPS, no more decoded than is asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from nibabel import orientations

from brats_gan.files import DataError
from brats_gan.io.headers import (
    Grid,
    Header,
    lps_grid,
    require_channel,
    require_slices,
    voxel_bytes,
)
from brats_gan.io.metaimage import read_mha
from brats_gan.io.nifti import nifti_header
from brats_gan.io.streams import igzip, reading

_MAX_BEHIND = 2**26  # bytes behind the voxels
_MAX_RATIO = 1040  # of sizes, unpacked to packed: deflate reaches 1032


def read_header(path: str | os.PathLike) -> Header:
    """Header of a .nii, .nii.gz or .mha file.

    DataError where it makes no sense, or the file is shorter than it says.
    """
    with _opened(path) as (header, file):
        _check_length(path, file, header)
        return header


def load_volume(
    path: str | os.PathLike,
    channel: int | None = None,
    slices: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one 3-D volume in LPS, decoding no further than the last slice asked for.

    Args:
        path: .nii, .nii.gz or .mha file.
        channel: which volume of a 4-D file; None for a 3-D file.
        slices: half-open range of axial slices, None for all.

    Returns:
        Array [H, W, S], of the stored dtype where the header sets no scaling (float64
        becomes float32), and the affine [4, 4] of the *whole* volume in LPS, in
        nibabel's axis order: (column, row, slice, 1) -> RAS mm.
    """
    volumes, grid = load_channels(path, [channel], slices)
    return volumes[0], grid.affine


def load_channels(
    path: str | os.PathLike,
    channels: Sequence[int | None],
    slices: tuple[int, int] | None = None,
) -> tuple[list[np.ndarray], Grid]:
    """As `load_volume` for a list of channels, in one pass over the file.

    Returns:
        A list of arrays [H, W, S], and the `Grid` of the whole file.
    """
    with _opened(path) as (header, file):
        picked = [require_channel(path, header, channel) for channel in channels]
        start, stop = _stored_slices(path, header, slices)
        x, y, z, _ = header.shape
        plane = x * y * header.dtype.itemsize
        stored = {}
        for channel in sorted(set(picked)):  # ascending: a stream only goes forward
            file.seek(header.offset + (channel * z + start) * plane)
            volume = np.empty((stop - start, y, x), header.dtype)
            if file.readinto(volume.reshape(-1).view(np.uint8)) != volume.nbytes:
                raise EOFError("voxels are missing at the end")
            stored[channel] = volume
        if slices is None:
            _read_to_end(path, file, header)  # where gzip compares its checksum
        else:
            _check_length(path, file, header)
    volumes = [_finish(stored[channel], header, slices) for channel in picked]
    return volumes, lps_grid(path, header)


@contextlib.contextmanager
def _opened(path):
    """Yields the header of a file and a byte stream, decompressed, of its voxels.

    A file is taken as gzip if it is, whatever its name says.
    """
    with reading(path):
        if Path(path).suffix.lower() == ".mha":
            header, voxels = read_mha(path)
            yield header, BytesIO(voxels)
            return
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with igzip.open(path, "rb") if compressed else open(path, "rb") as file:
            header = nifti_header(path, file)
            most = Path(path).stat().st_size * (_MAX_RATIO if compressed else 1)
            if header.offset + voxel_bytes(header) > most:  # before it is allocated
                raise EOFError("voxels are missing at the end")
            yield header, file


def _stored_slices(path, header, slices):
    """Range of the slowest stored axis that holds the axial slices asked for."""
    axis = int(np.flatnonzero(header.to_lps[:, 0] == 2)[0])
    depth = header.shape[axis]
    require_slices(path, depth, slices)
    if slices is None or axis != 2:  # not stored slice by slice: all of it is needed
        return 0, header.shape[2]
    flipped = header.to_lps[2, 1] < 0
    return (depth - slices[1], depth - slices[0]) if flipped else tuple(slices)


def _check_length(path, file, header):
    """Notices a file cut off behind the slices that were decoded.

    A gzip file ends with the length of its content, so this costs four bytes; only if
    they disagree (several members, or cut off) is the rest decoded to see.
    """
    end = header.offset + voxel_bytes(header)
    if isinstance(file, igzip.GzipFile):
        with open(path, "rb") as raw:
            raw.seek(-4, os.SEEK_END)
            if int.from_bytes(raw.read(4), "little") == end % 2**32:
                return
    file.seek(end - 1)
    if not file.read(1):
        raise EOFError("voxels are missing at the end")
    # What is cut off may also be the end of the stream.
    _read_to_end(path, file, header)


def _read_to_end(path, file, header):
    """Reads what is left, if there is not far too much of it."""
    limit = header.offset + voxel_bytes(header) + _MAX_BEHIND
    while file.tell() <= limit:
        if not file.read(1 << 20):
            return
    raise DataError(
        f"{path}: goes on for more than {_MAX_BEHIND >> 20} MB behind its voxels. The "
        "header is damaged, or the file was made to fill the memory: download it again."
    )


def _finish(volume, header, slices):
    """Stored voxels [z, y, x] -> [H, W, S]: native, scaled, LPS, slices cut."""
    if not volume.dtype.isnative:
        volume = volume.astype(volume.dtype.newbyteorder("="))
    if volume.dtype.kind == "f" and volume.dtype.itemsize != 4:
        volume = volume.astype(np.float32)
    if (header.slope, header.inter) != (1.0, 0.0):
        volume = volume.astype(np.float32)
        volume *= np.float32(header.slope)
        volume += np.float32(header.inter)
    volume = volume.transpose(2, 1, 0)
    volume = orientations.apply_orientation(volume, header.to_lps)
    if slices is not None and volume.shape[2] != slices[1] - slices[0]:
        volume = volume[:, :, slices[0] : slices[1]]
    return volume.transpose(1, 0, 2)
