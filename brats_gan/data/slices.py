"""Slices of subjects, each decoded once and kept raw in a cache folder."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from brats_gan import files, io, styles
from brats_gan.data import cache, records
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec

LEVELS = 65535  # a cached intensity of 1.0, as uint16


def preprocessing(
    image_size: int | None, slices: Sequence[int] | None = None, spec: Spec = BRATS
) -> dict[str, Any]:
    """The preparation of input, which an export has to name (D1, D15)."""
    return {
        "modalities": spec.modalities,
        "labels": spec.labels,
        "orientation": "LPS, [H, W] rows anterior to posterior, columns right to left",
        "slices": list(spec.slices if slices is None else slices),
        "crop": spec.crop,
        "image_size": image_size,
        "scaling": "negative to 0, divided by the 99.9 percentile of the positive "
        "voxels of the slices in range, clipped to [0, 1]",
    }


class Slices:
    """All slices in range of some subjects, read one at a time from a cache folder.

    Attributes:
        names: subject names.
        patients: whose visit each subject is.
        index: [N, 2] int, (subject, slice) of every slice that shows brain.
        lesions: positions in `index` whose label is not empty.
        image_size: side of a slice.
        spec: the Spec of the subjects.
        fingerprint: hex digest of the subjects' files and of how they are prepared.
    """

    def __init__(
        self,
        subjects: Sequence[io.Subject],
        image_size: int | None = None,
        slices: tuple[int, int] | None = None,
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        """Decodes what the cache does not hold yet, with a progress bar.

        Args:
            subjects: list of io.Subject.
            image_size: side of a slice after crop and resize; None: the crop's.
            slices: half-open range; None: that of the subjects' Spec.
            cache_dir: kept for the next run; None: that of the user, see data.cache.

        Raises:
            DataError: see io.read_subject and cache.folder_in; there is no subject; one
                has no label file; no slice shows any brain.
        """
        if not subjects:
            raise files.DataError(
                "no subject is left to read: the split has none on this side. Give "
                "another --split."
            )
        self.names = [subject.name for subject in subjects]
        self.patients = [subject.patient for subject in subjects]
        self.spec = subjects[0].spec
        self.image_size = image_size = image_size or self.spec.crop
        slices = tuple(slices or self.spec.slices)
        self._subjects, self._range = subjects, slices
        self._mending = threading.Lock()
        values = image_size**2 * (slices[1] - slices[0]) * len(subjects)
        needed = values * (2 * self.spec.num_modalities + 1)  # uint16, and labels
        self._folder = cache.folder_in(cache_dir, needed)

        bar = tf.keras.utils.Progbar(len(subjects), unit_name="subject", interval=2)
        self._keys, self._arrays = [], []  # of each subject; {part: cache.Array}
        # Decompression and resizing leave Python's lock, so threads are enough.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for key, arrays in pool.map(self._prepared, subjects):
                self._keys.append(key)
                self._arrays.append(arrays)
                bar.add(1)

        # What tells one data set from another since the first version: keys as files.
        keys = "".join(f"{key}.images.npy" for key in self._keys)
        self.fingerprint = hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()

        index, lesions = [], []
        blank = 0
        for subject in range(len(subjects)):
            shows_brain = self._whole(subject, "brain")
            has_lesion = self._whole(subject, "label").any((1, 2))
            for position in np.flatnonzero(shows_brain):
                if has_lesion[position]:
                    lesions.append(len(index))
                index.append((subject, position))
            blank += int(np.sum(~shows_brain))
        if blank:
            logging.info("%d slices in range show no brain and are left out", blank)
        if not index:
            raise files.DataError(
                f"no slice of {', '.join(self.names)} shows any brain in range "
                f"{slices}; check the slice range"
            )
        self.index = np.array(index)
        self.lesions = np.array(lesions, int)

    def __len__(self) -> int:
        return len(self.index)

    @functools.cached_property
    def slice_spacing(self) -> float:
        """The median over the subjects of the mm between slices, by their headers."""
        found = []
        for subject in self._subjects:
            path, _ = next(iter(subject.images.values()))
            step = io.lps_grid(path, io.read_header(path)).affine[:3, 2]
            found.append(float(np.linalg.norm(step)))
        return round(float(np.median(found)), 3)

    def _prepared(self, subject):
        """(key, {part: cache.Array}) of a subject; decodes it if need be."""
        if subject.label is None:
            raise files.DataError(
                f"{subject.name} has no label file, and labels are needed here; add "
                "the file or move the subject out of the folder"
            )
        key = content_key(subject, self.image_size, self._range)
        if self._path(key, "images").exists():  # written last
            try:
                return key, self._opened(key)
            except cache.Damaged as error:
                _warn(error)
        return key, self._decoded(subject, key)

    def _path(self, key, part):
        return self._folder / f"{key}.{part}.npy"

    def _opened(self, key):
        """{part: cache.Array} of a subject; Damaged names the one that is not whole."""
        plane = (self.image_size, self.image_size)
        arrays, count = {}, None
        for part, shape, dtype in (
            ("images", (self.spec.num_modalities, *plane), np.uint16),
            ("label", plane, np.uint8),
            ("brain", (), bool),
        ):
            path = self._path(key, part)
            try:
                arrays[part] = cache.open_array(path, (count, *shape), dtype)
            except cache.Damaged as error:
                raise _named(path, error) from error
            count = arrays[part].shape[0]
        return arrays

    def _decoded(self, subject, key):
        """The same, out of the subject's files; what was in the cache is replaced."""
        images, label = io.read_subject(subject, self._range, self.image_size)
        # Modality before rows: one modality of one slice is one run of bytes.
        scaled = np.round(np.moveaxis(images, -1, 1) * LEVELS).astype(np.uint16)
        cache.write(self._path(key, "label"), label, axes=1)
        cache.write(self._path(key, "brain"), images.any((1, 2, 3)), axes=0)
        cache.write(self._path(key, "images"), scaled, axes=2)
        return self._opened(key)

    def _mend(self, subject, damage):
        """Decodes a subject again whose cached arrays are not what was written.

        Raises:
            DataError: its files are no longer what was decoded at the start.
        """
        with self._mending:
            key = self._keys[subject]
            try:  # another thread, or another process, may have done it
                arrays = self._opened(key)
                for array in arrays.values():
                    array.load()
            except cache.Damaged:
                source = self._subjects[subject]
                if content_key(source, self.image_size, self._range) != key:
                    raise files.DataError(
                        f"{damage}, and the files of {source.name} are no longer those "
                        "that it was made of; put them back"
                    ) from damage
                _warn(damage)
                arrays = self._decoded(source, key)
            self._arrays[subject] = arrays

    def _read_into(self, target, subject, part, first):
        """Fills an array with items of a part, which is mended if need be."""
        array = self._arrays[subject][part]
        try:
            array.read_into(target, first)
        except cache.Damaged as error:
            self._mend(subject, _named(array.path, error))
            self._arrays[subject][part].read_into(target, first)

    def _whole(self, subject, part):
        array = self._arrays[subject][part]
        target = np.empty(array.shape, array.dtype)
        self._read_into(target, subject, part, 0)
        return target

    @functools.cached_property
    def styles(self) -> np.ndarray:
        """[subjects, M, K] float32: the style of each modality of each (D33)."""
        return np.stack([self._style(subject) for subject in range(len(self.names))])

    def _style(self, subject):
        """Styles [M, K] of a subject; measured once, and kept with its slices."""
        path = self._path(self._keys[subject], "style")
        if path.exists():
            shape = (self.spec.num_modalities, len(styles.QUANTILES))
            try:
                return cache.open_array(path, shape, np.float32).load()
            except cache.Damaged as error:
                _warn(_named(path, error))
        label = self._whole(subject, "label")  # [S, H, W]
        images = self._whole(subject, "images")  # [S, M, H, W]
        measured = [
            styles.measure(images[:, i] / np.float32(LEVELS), label)
            for i in range(self.spec.num_modalities)
        ]
        cache.write(path, np.stack(measured), axes=0)
        return np.stack(measured)

    def images(
        self,
        positions: Sequence[int] | np.ndarray,
        modalities: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """[N, M, H, W] uint16 of some slices; [N, H, W] given a modality for each."""
        size, count = self.image_size, self.spec.num_modalities
        if modalities is None:
            images = _empty((len(positions), count, size, size), np.uint16)
            for position, image in zip(positions, images, strict=True):
                subject, number = self.index[position]
                self._read_into(image, subject, "images", number * count)
            return images
        images = _empty((len(positions), size, size), np.uint16)
        for position, modality, image in zip(
            positions, modalities, images, strict=True
        ):
            subject, number = self.index[position]
            self._read_into(image, subject, "images", number * count + modality)
        return images

    def intensities(
        self,
        positions: Sequence[int] | np.ndarray,
        modalities: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """`images` as float32 in [0, 1]."""
        return self.images(positions, modalities).astype(np.float32) / LEVELS

    def labels(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """[N, H, W] uint8 of some slices."""
        labels = _empty((len(positions), *[self.image_size] * 2), np.uint8)
        for position, label in zip(positions, labels, strict=True):
            subject, number = self.index[position]
            self._read_into(label, subject, "label", number)
        return labels

    def volume(self, subject: int) -> tuple[np.ndarray, np.ndarray]:
        """All slices in range of a subject, also those without brain, from below.

        Returns:
            Images [M, S, H, W] float32 in [0, 1], and label [S, H, W] uint8.
        """
        images = self._whole(subject, "images").astype(np.float32) / LEVELS
        shape = (-1, self.spec.num_modalities, *images.shape[-2:])
        return images.reshape(shape).swapaxes(0, 1), self._whole(subject, "label")


def _named(path, damage):
    return cache.Damaged(f"{path}: {damage}")


def _warn(damage):
    logging.warning("%s; it is made again", damage)


def _empty(shape, dtype):
    """np.empty on a boundary of 64 bytes: TensorFlow copies all others once more."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def content_key(subject: io.Subject, image_size: int, slices: tuple[int, int]) -> str:
    """By which a subject's slices are in the cache: of its files, and how they are
    read."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((image_size, tuple(slices), subject.layout)).encode())
    spec = subject.spec
    digest.update(repr((subject.prepared, spec.crop)).encode())
    if not spec.zero_background or spec.labels != BRATS.labels:
        digest.update(repr((spec.zero_background, spec.labels)).encode())
    if subject.labelling != io.AS_NAMED:
        digest.update(repr(subject.labelling).encode())
    sources = [subject.images[name] for name in spec.modalities]
    if subject.label is not None:
        sources.append((subject.label, None))
    for path, channel in sources:
        digest.update(repr((path.name, channel)).encode())
        with io.reading(path):
            for block in records.blocks(path):
                digest.update(block)
    return digest.hexdigest()
