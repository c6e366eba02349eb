"""NIfTI: its header parsed, and volumes written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from brats_gan.files import DataError, write_atomically
from brats_gan.io.headers import (
    MAX_BYTES,
    Header,
    checked_affine,
    checked_shape,
    lps_affine,
)
from brats_gan.io.streams import igzip

IMAGE_SLOPE = 1 / 32767  # [0, 1] as int16


def nifti_header(path: str | os.PathLike, file: BinaryIO) -> Header:
    """Parses the NIfTI-1 or NIfTI-2 header at the start of a stream."""
    block = file.read(540)
    kinds = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
    sizes = (int.from_bytes(block[:4], order) for order in ("little", "big"))
    size = next((size for size in sizes if size in kinds), None)
    if size is None or len(block) < size:
        raise DataError(
            f"{path}: not a NIfTI file. Convert it, or download it again; a web page "
            "saved in its place is a frequent cause."
        )
    header = kinds[size](block[:size], check=False)
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise DataError(
            f"{path}: wrong NIfTI magic {bytes(header['magic'])!r}. Save it as a "
            "single-file .nii or .nii.gz."
        )
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        dtype = None
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"{path}: data type code {int(header['datatype'])} is not a plain number. "
            "Save it as int16 or float32."
        )
    rank = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : rank + 1]] if 1 <= rank <= 7 else []
    affine, to_lps, oriented = _nifti_affine(path, header)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):  # 0 or NaN: the voxels are as stored
        slope, inter = 1.0, 0.0
    if not np.isfinite(inter):
        raise DataError(f"{path}: scl_inter is {inter}. Save it without scaling.")
    offset = float(header["vox_offset"]) or size + 4.0  # 0 is often written
    if not (size <= offset < MAX_BYTES and offset.is_integer()):
        raise DataError(
            f"{path}: the header places the voxels at byte {offset:g}. Save it as a "
            "single-file .nii or .nii.gz."
        )
    offset = int(offset)
    shape = checked_shape(path, sizes, dtype)
    return Header(shape, dtype, slope, inter, offset, affine, to_lps, oriented)


def _nifti_affine(path, header):
    """Affine of sform or qform; without either, LPS as BraTS stores its volumes."""
    oriented = bool(header["sform_code"] or header["qform_code"])
    if oriented:
        try:
            with np.errstate(all="ignore"):
                affine = header.get_best_affine()
        except (ValueError, nib.spatialimages.HeaderDataError):
            affine = np.full((4, 4), np.nan)
    else:
        spacing = [float(abs(step)) or 1.0 for step in header["pixdim"][1:4]]
        affine = lps_affine(int(header["dim"][2]), spacing)
    return *checked_affine(path, affine), oriented


def write_nifti(
    path: str | os.PathLike,
    volume_hws: np.ndarray,
    dtype: np.dtype | type[np.generic],
    slope: float | None = None,
    affine: np.ndarray | None = None,
) -> None:
    """Writes [H, W, S] in LPS as .nii or .nii.gz, whole or not at all.

    The same volume gives the same bytes. Images in [0, 1] are stored as int16 with
    slope 1/32767 (`slope=io.IMAGE_SLOPE`), and read back within 1/65534.

    Args:
        path: file name; its ending decides on compression.
        volume_hws: array [H, W, S].
        dtype: what to store.
        slope: voxels are stored as volume / slope, rounded; None stores them as is.
        affine: [4, 4] in nibabel's axis order, (column, row, slice, 1) -> RAS mm; by
            default 1 mm and the origin of BraTS.
    """
    content = nifti_bytes(volume_hws, dtype, slope, affine)
    if Path(path).suffix.lower() == ".gz":
        content = igzip.compress(content, 1, mtime=0)
    write_atomically(path, content)


def nifti_bytes(
    volume_hws: np.ndarray,
    dtype: np.dtype | type[np.generic],
    slope: float | None = None,
    affine: np.ndarray | None = None,
) -> bytes:
    """What `write_nifti` writes as .nii, of the same arguments."""
    volume = np.asarray(volume_hws)
    dtype = np.dtype(dtype)
    if slope is not None:
        volume = volume / slope
    if dtype.kind in "iu" and volume.dtype.kind == "f":
        limits = np.iinfo(dtype)
        volume = np.clip(np.rint(volume), limits.min, limits.max)
    affine = lps_affine(volume.shape[0]) if affine is None else affine
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((volume.shape[1], volume.shape[0], volume.shape[2]))
    header.set_slope_inter(1.0 if slope is None else slope, 0.0)
    header.set_xyzt_units("mm")
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    voxels = np.ascontiguousarray(volume.transpose(2, 0, 1), dtype)  # x fastest
    return header.binaryblock + bytes(4) + voxels.tobytes()
