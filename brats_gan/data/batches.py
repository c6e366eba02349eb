"""tf.data pipelines: slices -> batches of each stage (Sections 3.1, 3.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from brats_gan import fusion, styles
from brats_gan.data.slices import LEVELS, Slices
from brats_gan.lazy import tf

CANDIDATES = 8  # labels offered for placement in each example
LESION_FREE = 0.1  # share of sampled labels that are empty, as of healthy slices


_OF_STEPS = 2**32 - 1  # a stream beside those of `shuffled`


def _of_step(seed, step):
    """Generator of what one step draws beside the order of its slices.

    Not [seed, step], which NumPy takes for [seed, step, 0]: of a stream's first pass.
    """
    return np.random.default_rng([seed, _OF_STEPS, step])


@functools.lru_cache(maxsize=64)
def _order(count, seed, stream, epoch):
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def shuffled(count: int, seed: int, stream: int, first: int, length: int) -> np.ndarray:
    """Positions first .. first + length of an endless stream of shuffled passes.

    Each pass over `count` items has an order of its own, from (seed, stream, pass), and
    has every item once, whatever the batch size. Any position is computed directly.
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


def structural_batches(
    slices: Slices, batch_size: int, seed: int, first: int = 0
) -> tf.data.Dataset:
    """Stage 1: slices, each of a random modality, with their labels.

    Yields {"x": [B, H, W, 1] in [0, 1], "label": [B, H, W] uint8, "subject": [B],
    "slice": [B], "modality": [B]}.
    """

    def fetch(step):
        rows = shuffled(len(slices), seed, 0, step * batch_size, batch_size)
        modalities = _of_step(seed, step).integers(
            slices.spec.num_modalities, size=batch_size
        )
        return {
            "x": slices.images(rows, modalities)[..., None],
            "label": slices.labels(rows),
            "subject": slices.index[rows, 0],
            "slice": slices.index[rows, 1],
            "modality": modalities,
        }

    size = slices.image_size
    return _batches(
        fetch,
        {
            "x": tf.TensorSpec([batch_size, size, size, 1], tf.uint16),
            "label": tf.TensorSpec([batch_size, size, size], tf.uint8),
            "subject": tf.TensorSpec([batch_size], tf.int64),
            "slice": tf.TensorSpec([batch_size], tf.int64),
            "modality": tf.TensorSpec([batch_size], tf.int64),
        },
        first,
    )


def sample_labels(
    slices: Slices, rng: np.random.Generator, count: int, all_labels: bool = False
) -> np.ndarray:
    """Samples labels of slices, [count, H, W] uint8; LESION_FREE of them are empty.

    all_labels: of all slices alike, as the paper; as many are empty as there are (D23).
    """
    if all_labels:
        return slices.labels(rng.integers(len(slices), size=count))
    size = slices.image_size
    drawn = np.zeros([count, size, size], np.uint8)
    if len(slices.lesions):
        for target in drawn:
            if rng.random() >= LESION_FREE:
                target[:] = slices.labels([rng.choice(slices.lesions)])[0]
    return drawn


def multimodal_batches(
    slices: Slices,
    batch_size: int,
    seed: int,
    first: int = 0,
    all_labels: bool = False,
) -> tf.data.Dataset:
    """Stage 2: each modality from a stream of its own, so that none are registered.

    No example holds a slice twice, if there are enough slices.

    Yields a dict:
        x: [B, M, H, W, 1], slice i of every row is modality i of its own subject.
        label: [B, M, H, W] uint8, of the same slices.
        source: [B, H, W, 1], a stream of its own, from which f is computed.
        source_label: [B, H, W] uint8.
        candidates: [B, CANDIDATES, H, W] uint8, labels to place, see sample_labels.
        style: [B, M, K], of each subject and modality of x, see styles.measure.
        subject: [B, M + 1] and slice: [B, M + 1], where x and source come from.
    """

    plane = (slices.image_size, slices.image_size)
    count = slices.spec.num_modalities

    def fetch(step):
        streams = np.stack(
            [
                shuffled(len(slices), seed, stream, step * batch_size, batch_size)
                for stream in range(count + 1)
            ]
        )
        rng = _of_step(seed, step)
        modality = rng.integers(count, size=batch_size)
        if len(slices) >= len(streams):
            for of_example in streams.T:  # a view: no slice twice in an example
                while len(set(of_example)) < len(streams):
                    again = rng.integers(len(streams))
                    of_example[again] = rng.integers(len(slices))
        where = slices.index[np.stack(streams, 1)]
        rows = np.stack(streams[:count], 1).ravel()
        x = slices.images(rows, np.tile(np.arange(count), batch_size))
        candidates = sample_labels(slices, rng, batch_size * CANDIDATES, all_labels)
        return {
            "x": x.reshape(batch_size, count, *plane, 1),
            "label": slices.labels(rows).reshape(batch_size, count, *plane),
            "source": slices.images(streams[count], modality)[..., None],
            "source_label": slices.labels(streams[count]),
            "candidates": candidates.reshape(batch_size, CANDIDATES, *plane),
            "style": slices.styles[where[:, :count, 0], np.arange(count)],
            "subject": where[..., 0],
            "slice": where[..., 1],
        }

    of_modalities = [batch_size, count, len(styles.QUANTILES)]
    return _batches(
        fetch,
        {
            "x": tf.TensorSpec([batch_size, count, *plane, 1], tf.uint16),
            "label": tf.TensorSpec([batch_size, count, *plane], tf.uint8),
            "source": tf.TensorSpec([batch_size, *plane, 1], tf.uint16),
            "source_label": tf.TensorSpec([batch_size, *plane], tf.uint8),
            "candidates": tf.TensorSpec([batch_size, CANDIDATES, *plane], tf.uint8),
            "style": tf.TensorSpec(of_modalities, tf.float32),
            "subject": tf.TensorSpec([batch_size, count + 1], tf.int64),
            "slice": tf.TensorSpec([batch_size, count + 1], tf.int64),
        },
        first,
    )


def segmentation_batches(
    slices: Slices,
    batch_size: int,
    seed: int,
    first: int = 0,
    sample: Callable[[int], np.ndarray] | None = None,
) -> tf.data.Dataset:
    """Stage 4: the registered modalities of a slice and the label that they share.

    Yields {"x": [B, M, H, W, 1], "label": [B, H, W] uint8, "subject": [B]}. Real and
    synthetic subjects mix at random when `slices` was made of both.

    Args:
        sample: step -> items [B, 2] of that step (mixing.sampler), where an item with a
            move is scaled, rotated, translated and flipped by it (Section 3.3); None:
            every slice as it is, once in each pass.
    """

    def fetch(step):
        if sample is None:
            rows = shuffled(len(slices), seed, 0, step * batch_size, batch_size)
            moves = np.zeros_like(rows)
        else:
            rows, moves = sample(step).T
        return {
            "x": slices.images(rows)[..., None],
            "label": slices.labels(rows),
            "subject": slices.index[rows, 0],
            "move": moves,
        }

    size, count = slices.image_size, slices.spec.num_modalities
    batches = _batches(
        fetch,
        {
            "x": tf.TensorSpec([batch_size, count, size, size, 1], tf.uint16),
            "label": tf.TensorSpec([batch_size, size, size], tf.uint8),
            "subject": tf.TensorSpec([batch_size], tf.int64),
            "move": tf.TensorSpec([batch_size], tf.int64),
        },
        first,
    )
    return batches.map(_without_moves if sample is None else _moved)


def _without_moves(batch):
    return {name: batch[name] for name in ("x", "label", "subject")}


def _moved(batch):
    """Applies the moves of a batch."""

    def move_one(item):
        x, label, move = item
        seed = tf.cast(tf.stack([0, move]), tf.int32)
        channels = tf.transpose(x, [3, 1, 2, 0])  # [1, H, W, M]
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


def in_order(
    slices: Slices, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All slices once, in order, as NumPy: for scoring.

    Yields x [b, M, H, W, 1] float32, label [b, H, W] uint8, subject [b], b <=
    batch_size.
    """
    for start in range(0, len(slices), batch_size):
        rows = range(start, min(start + batch_size, len(slices)))
        x = slices.intensities(rows)[..., None]
        yield x, slices.labels(rows), slices.index[list(rows), 0]
