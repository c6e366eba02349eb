"""Labels that somebody opens in the page: bytes of NIfTI or PNG, never a path."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from brats_gan import files, io
from brats_gan.spec import BRATS, Spec

MOST_BYTES = 2**25
MOST_VOXELS = 2**26
MOST_PIXELS = 2**24
_PNG = b"\x89PNG\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_NIFTI = tuple(n.to_bytes(4, order) for n in (348, 540) for order in ("little", "big"))


class Opened(NamedTuple):
    """A label, and what was done to it."""

    label: np.ndarray  # [size, size] uint8
    said: str


def label_of(content: bytes, size: int, spec: Spec = BRATS) -> Opened:
    """Reads a label map.

    Of a volume the slice with most lesion is taken. What is larger than the crop is cut
    about its middle, where `io.place_back` puts slices; the rest is by nearest.

    Args:
        content: of a file, NIfTI (also gzipped) or PNG with a number a pixel.
        size: pixels a side that are due.
        spec: of the models.

    Raises:
        ValueError: says why it cannot be used.
    """
    if content.startswith(_PNG):
        stored, said = _png(content), "Opened the picture"
    elif content.startswith(_GZIP) or content.startswith(_NIFTI):
        stored, said = _nifti(content, spec)
    else:
        raise ValueError("The file is neither NIfTI nor PNG.")
    beyond = np.setdiff1d(np.unique(stored), np.arange(spec.num_labels))
    if beyond.size:
        raise ValueError(
            f"The label has the value {beyond[0]:g}; values are 0 to "
            f"{spec.num_labels - 1} ({', '.join(spec.labels)})."
        )
    square = _squared(stored.astype(np.uint8), spec.crop)
    label = io.resize_nearest(square[None], size)[0]
    lost = bool(stored.any()) and not label.any()
    if lost:
        raise ValueError("Nothing of its lesion is left in the slice that is made.")
    return Opened(np.ascontiguousarray(label), f"{said}, as {size} x {size} pixels.")


def _png(content):
    """[h, w] integers of a PNG whose pixels are numbers or places in a palette."""
    try:
        with PIL.Image.open(BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"The picture has more than {MOST_PIXELS} pixels.")
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ValueError(
                    f"The picture has colours ({image.mode}); save it with one number "
                    "a pixel, 0 to 4."
                )
            return np.array(image).astype(np.int64)
    except (OSError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise ValueError("The PNG is damaged.") from error


def _nifti(content, spec):
    """([h, w], sentence): the slice of a NIfTI file with most lesion."""
    # The reader of this project, which is tried with spoiled files, takes paths.
    ending = ".nii.gz" if content.startswith(_GZIP) else ".nii"
    with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
        path = Path(folder, f"label{ending}")
        path.write_bytes(content)
        try:
            shape = io.read_header(path).shape
            if np.prod(np.array(shape, np.float64)) > MOST_VOXELS:
                raise ValueError(f"The volume has more than {MOST_VOXELS} voxels.")
            volume, _ = io.load_volume(path)
        except files.DataError as error:
            said = str(error).replace(f"{path}: ", "").replace(str(path), "the file")
            raise ValueError(f"The label cannot be read: {said}") from error
    if not np.isfinite(volume).all() or (volume != np.rint(volume)).any():
        raise ValueError("The label has numbers that are not whole.")
    lesion = np.count_nonzero(volume, axis=(0, 1))
    number = int(lesion.argmax())
    return volume[..., number], f"Opened slice {number}, which has most lesion"


def _squared(label, crop):
    """[h, w] -> [side, side]: padded, or the crop in the middle of what is larger."""
    side = crop if max(label.shape) >= crop else max(label.shape)
    for axis in (0, 1):
        length = label.shape[axis]
        if length >= side:
            start = (length - side) // 2
            label = np.take(label, np.arange(start, start + side), axis)
        else:
            before = (side - length) // 2
            pad = [(0, 0), (0, 0)]
            pad[axis] = (before, side - length - before)
            label = np.pad(label, pad)
    return label
