"""tf.data pipelines: subjects on disk -> batches (Sections 3.1, 3.3).

Every volume is decoded once, cut, scaled and kept as raw slices in a cache folder, from
which batches are read; memory does not grow with the number of subjects. What step k
gets depends on the seed and k alone, so a resumed run sees the data of an uninterrupted
one.
"""

import atexit
import concurrent.futures
import functools
import hashlib
import io
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from absl import logging

from brats_gan import brats, checks, files, fusion, styles
from brats_gan.lazy import tf

LEVELS = 65535  # a cached intensity of 1.0, as uint16
_NPY_HEADER = 128  # bytes before the values of a .npy file, for headers of our length
CANDIDATES = 8  # labels offered for placement at each training step
LESION_FREE = 0.1  # share of label draws that are empty: healthy slices are real too


def split_subjects(
    data_dir,
    run_dir,
    seed=0,
    given=None,
    layout=None,
    check=True,
    slices=brats.SLICES,
    held_out=0.1,
    strict=True,
):
    """Finds the subjects of a folder and splits them, once for a run.

    The split is RUN/split.json where that exists, else `given` (a file of another run),
    else drawn from `seed`; and it is written to RUN/split.json.

    Args:
        data_dir: BraTS folder.
        run_dir: Path.
        seed: of the split.
        given: path of a split.json, or None.
        layout: see brats.find_subjects.
        check: look at all headers and labels first.
        slices: the range that must be there, half-open.
        held_out: share of the subjects to hold out, where the split is drawn.
        strict: False draws a split where `given` is of other subjects.

    Returns:
        Subjects to train on, subjects held out: lists of brats.Subject.

    Raises:
        DataError: the folder is not usable, or the split names other subjects.
    """
    subjects = brats.find_subjects(data_dir, layout)
    if check:
        checks.require_usable(data_dir, layout, slices)
    path = run_dir / "split.json"
    if path.exists() or given:
        source = path if path.exists() else Path(given)
        split = brats.load_split(source)
        by_name = {subject.name: subject for subject in subjects}
        missing = sorted({*split["train"], *split["test"]} - by_name.keys())
        other = missing or not split["test"]
        if other and not (strict or path.exists()):
            logging.info("%s is of other subjects: a split is drawn", source)
            split = brats.split_subjects(by_name, seed, held_out)
        elif missing:
            raise files.DataError(
                f"{source} names subjects that {data_dir} does not have: "
                f"{', '.join(missing[:5])}; give the folder it was made for"
            )
    else:
        by_name = {subject.name: subject for subject in subjects}
        split = brats.split_subjects(by_name, seed, held_out)
    brats.save_split(path, split)
    return [by_name[n] for n in split["train"]], [by_name[n] for n in split["test"]]


def preprocessing(image_size, slices=brats.SLICES):
    """What an export must say for its input to be made the same way (D1, D15)."""
    return {
        "modalities": brats.MODALITIES,
        "labels": brats.LABELS,
        "orientation": "LPS, [H, W] rows anterior to posterior, columns right to left",
        "slices": list(slices),
        "crop": brats.CROP,
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
        fingerprint: hex digest of the subjects' files and of how they are prepared.
    """

    def __init__(
        self,
        subjects,
        image_size=brats.CROP,
        slices=brats.SLICES,
        cache_dir=None,
    ):
        """Decodes what the cache does not hold yet, with a progress bar.

        Args:
            subjects: list of brats.Subject.
            image_size: side of a slice after crop and resize.
            slices: half-open range.
            cache_dir: kept for the next run; None: a temporary folder.

        Raises:
            DataError: see brats.read_subject; a subject has no label file; no slice
                shows any brain.
        """
        self.names = [subject.name for subject in subjects]
        self.image_size = image_size
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
            images, label = brats.read_subject(subject, slices, image_size)
            _save(label_path, label)
            _save(images_path.with_suffix(".brain.npy"), images.any((1, 2, 3)))
            # Modality before rows: one modality of one slice is one run of bytes.
            scaled = np.round(np.moveaxis(images, -1, 1) * LEVELS).astype(np.uint16)
            _save(images_path, scaled)
        return images_path, label_path

    @functools.cached_property
    def styles(self):
        """[subjects, 4, K] float32: the style of each modality of each (D33)."""
        return np.stack([_style(images, label) for images, label in self._files])

    def images(self, positions, modalities=None):
        """[N, 4, H, W] uint16 of some slices; [N, H, W] given a modality for each."""
        size, count = self.image_size, len(brats.MODALITIES)
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
    """Styles [4, K] of a cached subject; measured once, and kept beside it."""
    path = images_path.with_suffix(".style.npy")
    if not path.exists():
        label = np.load(label_path)  # [S, H, W]
        images = np.load(images_path, mmap_mode="r")  # [S, 4, H, W]
        measured = [
            styles.measure(images[:, i] / np.float32(LEVELS), label)
            for i in range(len(brats.MODALITIES))
        ]
        _save(path, np.stack(measured))
    return np.load(path)


class LabelPool:
    """Lesion labels that come with weights, where there are no subjects with any.

    Of a `Slices` what synthesis.samples asks: `names`, `index`, `lesions`, `image_size`
    and `labels`; every label has a lesion.
    """

    def __init__(self, path, image_size=brats.CROP):
        """Reads an .npz: "label" [N, H, H] uint8, and "subject" and "slice" [N], where
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
            and label.max(initial=0) < len(brats.LABELS)
        )
        label = brats.resize_nearest(label, image_size) if usable else label
        if not usable or not label.any((1, 2)).any():
            raise files.DataError(f"{path}: holds no lesion labels. {remedy}")
        shows = label.any((1, 2))  # a speck may be lost where it is made smaller
        self._label = label[shows]
        self.names = sorted({str(name) for name in subject})
        rows = [self.names.index(str(name)) for name in subject[shows]]
        self.index = np.stack([rows, number[shows]], 1)
        self.lesions = np.arange(len(rows))
        self.image_size = image_size

    def labels(self, positions):
        """[N, H, W] uint8 of some labels."""
        return self._label[np.asarray(positions)]


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
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array))
    assert len(content.getbuffer()) == _NPY_HEADER + array.nbytes
    files.write_atomically(path, content.getbuffer())


def _content_key(subject, image_size, slices):
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((image_size, tuple(slices), subject.layout)).encode())
    digest.update(repr((subject.prepared, brats.CROP)).encode())
    sources = [subject.images[name] for name in brats.MODALITIES]
    if subject.label is not None:
        sources.append((subject.label, None))
    for path, channel in sources:
        digest.update(repr((path.name, channel)).encode())
        with brats.reading(path), path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _order(count, seed, stream, epoch):
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def shuffled(count, seed, stream, first, length):
    """Positions first .. first + length of an endless stream of shuffled passes.

    Each pass over `count` items has an order of its own, drawn from (seed, stream,
    pass): every item once a pass, whatever the batch size, and any position without a
    replay.
    """
    return np.array(
        [
            _order(count, seed, stream, position // count)[position % count]
            for position in range(first, first + length)
        ]
    )


def _batches(fetch, signature, first):
    """Dataset of fetch(step) for step = first, first + 1, ...; endless."""
    names = list(signature)

    def load(step):
        values = fetch(int(step))
        return [values[name] for name in names]

    def typed(step):
        arrays = tf.numpy_function(
            load, [step], [signature[name].dtype for name in names]
        )
        batch = {}
        for name, array in zip(names, arrays, strict=True):
            array.set_shape(signature[name].shape)
            if array.dtype == tf.uint16:
                array = tf.cast(array, tf.float32) / LEVELS
            batch[name] = array
        return batch

    steps = tf.data.Dataset.range(first, tf.int64.max)
    return steps.map(typed, num_parallel_calls=4, deterministic=True).prefetch(4)


def structural_batches(slices, batch_size, seed, first=0):
    """Stage 1: slices of a random modality each, with their labels.

    Yields {"x": [B, H, W, 1] in [0, 1], "label": [B, H, W] uint8, "subject": [B]}.
    """

    def fetch(step):
        rows = shuffled(len(slices), seed, 0, step * batch_size, batch_size)
        modalities = np.random.default_rng([seed, step]).integers(4, size=batch_size)
        return {
            "x": slices.images(rows, modalities)[..., None],
            "label": slices.labels(rows),
            "subject": slices.index[rows, 0],
        }

    size = slices.image_size
    return _batches(
        fetch,
        {
            "x": tf.TensorSpec([batch_size, size, size, 1], tf.uint16),
            "label": tf.TensorSpec([batch_size, size, size], tf.uint8),
            "subject": tf.TensorSpec([batch_size], tf.int64),
        },
        first,
    )


def draw_labels(slices, rng, count):
    """[count, H, W] uint8: labels of random slices, LESION_FREE of them empty."""
    size = slices.image_size
    drawn = np.zeros([count, size, size], np.uint8)
    if len(slices.lesions):
        for target in drawn:
            if rng.random() >= LESION_FREE:
                target[:] = slices.labels([rng.choice(slices.lesions)])[0]
    return drawn


def multimodal_batches(slices, batch_size, seed, first=0):
    """Stage 2: each modality from a stream of its own, so nothing is registered.

    No example holds a slice twice, where there are enough.

    Yields a dict:
        x: [B, 4, H, W, 1], slice i of every row is modality i of its own subject.
        label: [B, 4, H, W] uint8, of the same slices.
        source: [B, H, W, 1], a fifth stream, of which f is taken.
        source_label: [B, H, W] uint8.
        candidates: [B, CANDIDATES, H, W] uint8, lesion labels to place.
        style: [B, 4, K], of each subject and modality of x, see styles.measure.
        subject: [B, 5] and slice: [B, 5], where x and source come from.
    """

    plane = (slices.image_size, slices.image_size)

    def fetch(step):
        streams = np.stack(
            [
                shuffled(len(slices), seed, stream, step * batch_size, batch_size)
                for stream in range(5)
            ]
        )
        rng = np.random.default_rng([seed, step])
        modality = rng.integers(4, size=batch_size)
        if len(slices) >= len(streams):
            for of_example in streams.T:  # a view: no slice twice in an example
                while len(set(of_example)) < len(streams):
                    again = rng.integers(len(streams))
                    of_example[again] = rng.integers(len(slices))
        where = slices.index[np.stack(streams, 1)]
        rows = np.stack(streams[:4], 1).ravel()
        x = slices.images(rows, np.tile(np.arange(4), batch_size))
        candidates = draw_labels(slices, rng, batch_size * CANDIDATES)
        return {
            "x": x.reshape(batch_size, 4, *plane, 1),
            "label": slices.labels(rows).reshape(batch_size, 4, *plane),
            "source": slices.images(streams[4], modality)[..., None],
            "source_label": slices.labels(streams[4]),
            "candidates": candidates.reshape(batch_size, CANDIDATES, *plane),
            "style": slices.styles[where[:, :4, 0], np.arange(4)],
            "subject": where[..., 0],
            "slice": where[..., 1],
        }

    return _batches(
        fetch,
        {
            "x": tf.TensorSpec([batch_size, 4, *plane, 1], tf.uint16),
            "label": tf.TensorSpec([batch_size, 4, *plane], tf.uint8),
            "source": tf.TensorSpec([batch_size, *plane, 1], tf.uint16),
            "source_label": tf.TensorSpec([batch_size, *plane], tf.uint8),
            "candidates": tf.TensorSpec([batch_size, CANDIDATES, *plane], tf.uint8),
            "style": tf.TensorSpec([batch_size, 4, len(styles.QUANTILES)], tf.float32),
            "subject": tf.TensorSpec([batch_size, 5], tf.int64),
            "slice": tf.TensorSpec([batch_size, 5], tf.int64),
        },
        first,
    )


def segmentation_batches(slices, batch_size, seed, first=0, draw=None):
    """Stage 4: the four registered modalities of a slice and their one label.

    Yields {"x": [B, 4, H, W, 1], "label": [B, H, W] uint8, "subject": [B]}. Real and
    synthetic subjects mix at random when `slices` was made of both.

    Args:
        draw: step -> items [B, 2] of that step (mixing.drawer), where an item with a
            move is scaled, turned, shifted and mirrored by it (Section 3.3); None:
            every slice as it is, once a pass.
    """

    def fetch(step):
        if draw is None:
            rows = shuffled(len(slices), seed, 0, step * batch_size, batch_size)
            moves = np.zeros_like(rows)
        else:
            rows, moves = draw(step).T
        return {
            "x": slices.images(rows)[..., None],
            "label": slices.labels(rows),
            "subject": slices.index[rows, 0],
            "move": moves,
        }

    size = slices.image_size
    batches = _batches(
        fetch,
        {
            "x": tf.TensorSpec([batch_size, 4, size, size, 1], tf.uint16),
            "label": tf.TensorSpec([batch_size, size, size], tf.uint8),
            "subject": tf.TensorSpec([batch_size], tf.int64),
            "move": tf.TensorSpec([batch_size], tf.int64),
        },
        first,
    )
    return batches.map(_without_moves if draw is None else _moved)


def _without_moves(batch):
    return {name: batch[name] for name in ("x", "label", "subject")}


def _moved(batch):
    """Carries out the moves of a batch."""

    def move_one(item):
        x, label, move = item
        seed = tf.cast(tf.stack([0, move]), tf.int32)
        channels = tf.transpose(x, [3, 1, 2, 0])  # [1, H, W, 4]
        channels, label = fusion.transform_pair(channels, label[None], seed)
        return tf.transpose(channels, [3, 1, 2, 0]), label[0]

    x, label = tf.map_fn(
        lambda item: tf.cond(item[2] > 0, lambda: move_one(item), lambda: item[:2]),
        (batch["x"], batch["label"], batch["move"]),
        fn_output_signature=(tf.float32, tf.uint8),
    )
    x.set_shape(batch["x"].shape)
    label.set_shape(batch["label"].shape)
    return {"x": x, "label": label, "subject": batch["subject"]}


def in_order(slices, batch_size):
    """All slices once, in order, as NumPy: for scoring.

    Yields x [b, 4, H, W, 1] float32, label [b, H, W] uint8, subject [b], b <=
    batch_size.
    """
    for start in range(0, len(slices), batch_size):
        rows = range(start, min(start + batch_size, len(slices)))
        x = slices.intensities(rows)[..., None]
        yield x, slices.labels(rows), slices.index[list(rows), 0]
