"""Slices of subjects, each decoded once and kept raw in a cache folder."""

import atexit
import concurrent.futures
import functools
import hashlib
import math
import os
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from absl import logging

from brats_gan import files, io, styles
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec

LEVELS = 65535  # a cached intensity of 1.0, as uint16
_NPY_HEADER = 128  # bytes before the values of a .npy file, for headers of our length


def preprocessing(image_size, slices=None, spec: Spec = BRATS):
    """What an export must say for its input to be made the same way (D1, D15)."""
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
        index: [N, 2] int, (subject, slice) of every slice that shows brain.
        lesions: positions in `index` whose label is not empty.
        image_size: side of a slice.
        spec: the Spec of the subjects.
        fingerprint: hex digest of the subjects' files and of how they are prepared.
    """

    def __init__(
        self,
        subjects,
        image_size=None,
        slices=None,
        cache_dir=None,
    ):
        """Decodes what the cache does not hold yet, with a progress bar.

        Args:
            subjects: list of io.Subject.
            image_size: side of a slice after crop and resize; None: the crop's.
            slices: half-open range; None: that of the subjects' Spec.
            cache_dir: kept for the next run; None: a temporary folder.

        Raises:
            DataError: see io.read_subject; a subject has no label file; no slice
                shows any brain.
        """
        self.names = [subject.name for subject in subjects]
        self.spec = subjects[0].spec if subjects else BRATS
        self.image_size = image_size = image_size or self.spec.crop
        slices = slices or self.spec.slices
        if cache_dir is None:
            cache_dir = tempfile.mkdtemp(prefix="brats_gan-")
            atexit.register(shutil.rmtree, cache_dir, ignore_errors=True)
        self._folder = Path(cache_dir)
        self._folder.mkdir(parents=True, exist_ok=True)

        bar = tf.keras.utils.Progbar(len(subjects), unit_name="subject", interval=2)
        self._files = []
        prepare = functools.partial(self._cached, image_size=image_size, slices=slices)
        # Decompression and resizing leave Python's lock, so threads are enough.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for paths in pool.map(prepare, subjects):
                self._files.append(paths)
                bar.add(1)

        keys = "".join(images.name for images, _ in self._files)
        self.fingerprint = hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()

        index, lesions = [], []
        blank = 0
        for subject, (images, label) in enumerate(self._files):
            shows_brain = np.load(images.with_suffix(".brain.npy"))
            has_lesion = np.load(label).any((1, 2))
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

    def __len__(self):
        return len(self.index)

    def _cached(self, subject, image_size, slices):
        """(images.npy, label.npy) of a subject; decodes it if need be."""
        key = _content_key(subject, image_size, slices)
        images_path = self._folder / f"{key}.images.npy"
        label_path = self._folder / f"{key}.label.npy"
        if subject.label is None:
            raise files.DataError(
                f"{subject.name} has no label file, and labels are needed here; add "
                "the file or move the subject out of the folder"
            )
        if not images_path.exists():  # written last
            images, label = io.read_subject(subject, slices, image_size)
            _save(label_path, label)
            _save(images_path.with_suffix(".brain.npy"), images.any((1, 2, 3)))
            # Modality before rows: one modality of one slice is one run of bytes.
            scaled = np.round(np.moveaxis(images, -1, 1) * LEVELS).astype(np.uint16)
            _save(images_path, scaled)
        return images_path, label_path

    @functools.cached_property
    def styles(self):
        """[subjects, M, K] float32: the style of each modality of each (D33)."""
        return np.stack([_style(*paths) for paths in self._files])

    def images(self, positions, modalities=None):
        """[N, M, H, W] uint16 of some slices; [N, H, W] given a modality for each."""
        size, count = self.image_size, self.spec.num_modalities
        if modalities is None:
            images = _empty((len(positions), count, size, size), np.uint16)
            for position, image in zip(positions, images, strict=True):
                subject, number = self.index[position]
                _read_into(image, self._files[subject][0], number)
            return images
        images = _empty((len(positions), size, size), np.uint16)
        for position, modality, image in zip(
            positions, modalities, images, strict=True
        ):
            subject, number = self.index[position]
            _read_into(image, self._files[subject][0], number * count + modality)
        return images

    def intensities(self, positions, modalities=None):
        """`images` as float32 in [0, 1]."""
        return self.images(positions, modalities).astype(np.float32) / LEVELS

    def labels(self, positions):
        """[N, H, W] uint8 of some slices."""
        labels = _empty((len(positions), *[self.image_size] * 2), np.uint8)
        for position, label in zip(positions, labels, strict=True):
            subject, number = self.index[position]
            _read_into(label, self._files[subject][1], number)
        return labels


def _style(images_path, label_path):
    """Styles [M, K] of a cached subject; measured once, and kept beside it."""
    path = images_path.with_suffix(".style.npy")
    if not path.exists():
        label = np.load(label_path)  # [S, H, W]
        images = np.load(images_path, mmap_mode="r")  # [S, M, H, W]
        measured = [
            styles.measure(images[:, i] / np.float32(LEVELS), label)
            for i in range(images.shape[1])
        ]
        _save(path, np.stack(measured))
    return np.load(path)


def _empty(shape, dtype):
    """np.empty on a boundary of 64 bytes: TensorFlow copies all others once more."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def _read_into(item, path, number):
    """Fills one item of a batch from a cached array, whose items are all of its size.

    One read of a few hundred kB, without Python's lock: a memory map costs more to set
    up, and its pages would count as memory of this process.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(_NPY_HEADER + int(number) * item.nbytes)
        if file.readinto(item) != item.nbytes:
            raise files.DataError(
                f"{path}: cut off; delete it, and the slices are decoded again"
            )


def _save(path, array):
    content = BytesIO()
    np.save(content, np.ascontiguousarray(array))
    assert len(content.getbuffer()) == _NPY_HEADER + array.nbytes
    files.write_atomically(path, content.getbuffer())


def _content_key(subject, image_size, slices):
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
        with io.reading(path), path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
