"""A pool of lesion labels, for use without real subjects."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from brats_gan import files, io
from brats_gan.spec import BRATS


class LabelPool:
    """Lesion labels that come with weights, for use without real subjects.

    It has the part of a `Slices` that synthesis.samples needs: `names`, `index`,
    `lesions`, `spec`, `image_size` and `labels`; every label has a lesion.
    """

    spec = BRATS

    def __init__(self, path: str | os.PathLike, image_size: int = BRATS.crop) -> None:
        """Reads an .npz: "label" [N, H, H] uint8, and "subject" and "slice" [N] that
        each comes from.

        Raises:
            DataError: the file is damaged or holds something else.
        """
        remedy = "Install brats_gan again, or give --data_dir."
        try:
            with np.load(path) as file:
                label, subject, number = (
                    file[n] for n in ("label", "subject", "slice")
                )
        except (OSError, LookupError, TypeError, ValueError, EOFError) as error:
            raise files.DataError(
                f"{path}: no pool of labels ({error}). {remedy}"
            ) from error
        except (zipfile.BadZipFile, zlib.error) as error:
            raise files.DataError(f"{path}: damaged ({error}). {remedy}") from error
        usable = (
            label.dtype == np.uint8
            and label.ndim == 3
            and label.shape[1] == label.shape[2]
            and subject.shape == number.shape == label.shape[:1]
            and label.max(initial=0) < BRATS.num_labels
        )
        label = io.resize_nearest(label, image_size) if usable else label
        if not usable or not label.any((1, 2)).any():
            raise files.DataError(f"{path}: holds no lesion labels. {remedy}")
        shows = label.any((1, 2))  # a small lesion may be lost in resizing
        self._label = label[shows]
        self.names = sorted({str(name) for name in subject})
        rows = [self.names.index(str(name)) for name in subject[shows]]
        self.index = np.stack([rows, number[shows]], 1)
        self.lesions = np.arange(len(rows))
        self.image_size = image_size

    def labels(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """[N, H, W] uint8 of some labels."""
        return self._label[np.asarray(positions)]
