"""Stage 3: noise, map, label, four registered slices, filtered twice (Section 2.8).

Sample n is drawn from (seed, n, attempt) and nothing else, so what it looks like does
not depend on how many samples are made, in which order, or whether the command was
killed.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from brats_gan import (
    data,
    files,
    fusion,
    lesion_components,
    metrics,
    multimodal,
    signatures,
    structural,
    structural_map,
    styles,
)
from brats_gan.spec import BRATS, Spec, of_description

LABEL_CANDIDATES = 8  # labels offered to each map before it is given up
FAINT = 0.02  # intensities below are no tissue: a sigmoid never says exactly 0


class Sample(NamedTuple):
    """One registered set. Images are [size, size], intensities in [0, 1]."""

    number: int
    structure: np.ndarray  # f_g in {0, 1}
    background: np.ndarray  # MASK(f_g) in {0, 1}, 1 outside the brain
    label: np.ndarray  # uint8 0..L-1
    images: np.ndarray  # [M, size, size]
    predicted: np.ndarray  # [N, size, size] uint8, labels, by the segmentors
    label_subject: str  # whose label it was before it was moved; "" for an empty one
    tries: int  # attempts, the one that is kept included
    mae: float  # of Algorithm 3
    dice: float  # mean over the segmentors of index Dice
    accepted: bool  # False: no attempt passed both filters and this was the best
    rejected_structure: int  # attempts that Algorithm 3 turned away
    rejected_label: int  # attempts in which no label fitted
    rejected_dice: int  # attempts that the segmentors turned away
    rejected_blank: int  # attempts with a slice that is constant or not finite


class _Attempt(NamedTuple):
    number: int
    attempt: int
    f: np.ndarray
    background: np.ndarray
    mae: float
    label: np.ndarray
    label_subject: str
    style: np.ndarray  # [M, K], or of no numbers where the generator asks for none
    passed: bool  # Algorithm 3 and the placement


class Models(NamedTuple):
    """The trained stages, as functions of batched tensors."""

    code_dim: int
    # code [B, code_dim] -> f, background [B, H, W, 1]
    structure: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    # f [B, H, W, 1], label [B, H, W], style -> [B, M, H, W, 1]
    images: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
    # [B, M, H, W, 1] -> labels [B, N, H, W], N is M or 1
    segment: Callable[[tf.Tensor], tf.Tensor]
    styles: styles.Styles | None = None  # to sample from; None: images needs none
    spec: Spec = BRATS


def maps_by(export: object) -> Callable:
    """Models.structure of the loaded export `structure`."""

    def structure(code):
        made = export.generate(code)
        return made["structure"], made["background"]

    return structure


def images_by(export: object, description: dict) -> Callable:
    """Models.images of the loaded export `generator` and its description.

    A generator without D33 makes slices of one style, whichever is asked for.
    """
    in_style = "style" in description
    modalities = of_description(description).modalities

    def images(f, label, style):
        if in_style:
            made = export.generate_in_style(f, label, style)
        else:
            made = export.generate(f, label)
        return tf.stack([made[name] for name in modalities], 1)

    return images


def styles_of(description: dict) -> styles.Styles | None:
    """Models.styles by the description of a generator's export or weights."""
    fitted = description.get("style")
    return None if fitted is None else styles.from_json(fitted)


def labels_by(export: object) -> Callable:
    """Models.segment of the loaded export `segmentor`."""

    def segment(images):
        # What is not finite is turned away by itself, and must not fail here.
        images = tf.clip_by_value(images, 0.0, 1.0)
        return export.segment(tf.concat(tf.unstack(images, axis=1), -1))["label"]

    return segment


def maps_of(nets: dict, found: structural.Fit) -> Callable:
    """Models.structure of the networks of stage 1 and their structural.Fit."""
    return signatures.traced(lambda code: structural.generate(nets, code, found))


def images_of(nets: dict, options: multimodal.Options) -> Callable:
    """Models.images of the generator's networks and its multimodal.Options."""
    return signatures.traced(
        lambda f, label, style: multimodal.generate(nets, f, label, style, options)
    )


def labels_of(nets: dict, spec: Spec = BRATS) -> Callable:
    """Models.segment of the networks of a lesion scheme."""
    return signatures.traced(
        lambda x: tf.argmax(lesion_components.segment(nets, x, spec=spec), -1, tf.int32)
    )


_OF_LESIONS = 2**32 - 1  # a stream beside those of the attempts


def _is_healthy(slices, number, seed, lesion_free):
    """Whether sample `number` is to have no lesion; it may if lesion_free is None.

    Settled once a sample: drawn anew at each attempt, empty labels would pass the last
    filter first and crowd the data set.
    """
    if lesion_free is None:
        return False
    # Not [seed, number], which NumPy takes for [seed, number, 0], the first attempt's.
    rng = np.random.default_rng([seed, number, _OF_LESIONS])
    return len(slices.lesions) == 0 or rng.random() < lesion_free


@tf.function(autograph=False)
def fitting(candidates: tf.Tensor, background: tf.Tensor, seed: tf.Tensor) -> tuple:
    """fusion.place_label, within a brain that MASK has drawn.

    MASK learnt a brain grown by p; the label must fit the brain itself (D6). Traced:
    operation by operation it takes a fifth of a small sample's time.
    """
    brain = structural_map.resize_background(background, -structural_map.GROWTH)
    return fusion.place_label(candidates, brain, seed)


def _place(slices, background, rng, healthy, among):
    """A label of slices `among` all, moved until it fits: (label, subject, fitted)."""
    size = slices.image_size
    if healthy:
        return np.zeros([size, size], np.uint8), "", True
    rows = rng.choice(among, LABEL_CANDIDATES)
    candidates = slices.labels(rows)
    seed = rng.integers(2**31, size=2, dtype=np.int32)
    label, tries, fitted = fitting(candidates[None], background[None, ..., None], seed)
    row = rows[int(tries[0]) - 1]
    return label[0].numpy(), slices.names[slices.index[row, 0]], bool(fitted[0])


class _Limits(NamedTuple):
    """What an attempt must pass, see `samples`."""

    mae_threshold: float
    dice_threshold: float
    max_tries: int


# Why an attempt is turned away, in the order of the tests; Sample counts each.
REASONS = ("structure", "label", "blank", "dice")


def _reason(attempt, images, dice, limits):
    """The first test that an attempt fails, one of REASONS; None if it passes all."""
    if attempt.mae > limits.mae_threshold:
        return "structure"
    if not attempt.passed:
        return "label"
    if images is None:
        return "blank"
    return None if dice >= limits.dice_threshold else "dice"


class _Begun:
    """A sample of which attempts are made: how many failed and why, and the best.

    Attributes:
        sample: Sample, once there is one.
    """

    def __init__(self):
        self.sample = None
        self._rejected = dict.fromkeys(REASONS, 0)
        self._best = None  # (rank, attempt, images, predicted, dice)

    def consider(self, attempt, images, predicted, limits):
        """Takes note of an attempt; returns whether it was the last that is needed.

        Raises:
            DataError: it was the last, and none can be kept.
        """
        dice = float(np.mean([metrics.index_dice(attempt.label, x) for x in predicted]))
        reason = _reason(attempt, images, dice, limits)
        accepted = reason is None
        if not accepted:
            self._rejected[reason] += 1
        rank = (accepted, attempt.mae <= limits.mae_threshold, attempt.passed, dice)
        better = self._best is None or rank > self._best[0]
        if images is not None and better:
            self._best = (rank, attempt, images, predicted, dice)
        tries = attempt.attempt + 1
        if not accepted and tries < limits.max_tries:
            return False
        if self._best is None:
            raise files.DataError(
                f"sample {attempt.number}: all {limits.max_tries} attempts have a "
                "slice that is constant or not finite, so the generator has learnt "
                "nothing or has diverged; look at its losses.jsonl, and train it "
                "longer or anew"
            )
        _, kept, images, predicted, dice = self._best
        self.sample = Sample(
            number=kept.number,
            structure=kept.f,
            background=kept.background,
            label=kept.label,
            images=images,
            predicted=predicted,
            label_subject=kept.label_subject,
            tries=tries,
            mae=kept.mae,
            dice=dice,
            accepted=accepted,
            **{f"rejected_{name}": n for name, n in self._rejected.items()},
        )
        return True


def samples(
    models: Models,
    slices: data.Slices | data.LabelPool,
    numbers: Iterable[int],
    seed: int,
    mae_threshold: float = structural_map.MAE_THRESHOLD,
    dice_threshold: float = 0.95,
    max_tries: int = 50,
    batch_size: int = 16,
    lesion_free: float | None = data.LESION_FREE,
    mask_images: bool = True,
) -> Iterator[Sample]:
    """Yields a Sample for each of `numbers`, in their order.

    An attempt draws a code, keeps its map if Algorithm 3 does, places a label,
    generates, and keeps the set if the segmentors find the label again. After
    `max_tries` the best attempt is kept and marked as not accepted (D7). A set with a
    slice that is constant or not finite is never kept.

    Args:
        models: Models.
        slices: data.Slices of the training subjects, the pool of labels; or
            data.LabelPool.
        numbers: sample numbers, whole numbers from 0; may be endless.
        seed: of the data set.
        mae_threshold: of Algorithm 3.
        dice_threshold: mean index Dice over the segmentors (Section 2.8).
        max_tries: attempts a sample.
        batch_size: attempts in flight.
        lesion_free: share of samples without a lesion; None: labels are of all slices
            alike (D23), and not of a pool.
        mask_images: see `masked`; holes of the mask are filled then too (D40).

    Raises:
        DataError: every attempt of a sample was constant or not finite.
    """
    numbers = iter(numbers)
    limits = _Limits(mae_threshold, dice_threshold, max_tries)
    begun = {}  # number -> _Begun, in the order of the numbers
    again = collections.deque()  # (number, attempt)
    while True:
        batch = [again.popleft() for _ in range(min(batch_size, len(again)))]
        for number in itertools.islice(numbers, batch_size - len(batch)):
            begun[number] = _Begun()
            batch.append((number, 0))
        if not batch:
            return
        how = batch_size, mae_threshold, lesion_free, mask_images
        attempts = _attempt(models, slices, batch, seed, *how)
        made = _render(models, attempts, batch_size, mask_images)
        for attempt, images, predicted in made:
            if not begun[attempt.number].consider(attempt, images, predicted, limits):
                # At the front: early samples are finished, and written, before late
                # ones are begun.
                again.appendleft((attempt.number, attempt.attempt + 1))
        while begun and (done := next(iter(begun.values()))).sample is not None:
            del begun[done.sample.number]
            yield done.sample


def _padded(arrays, batch_size):
    """Stacks, and repeats the last up to `batch_size`: one shape, so one trace."""
    stacked = np.stack(arrays)
    return np.concatenate([stacked] + [stacked[-1:]] * (batch_size - len(stacked)))


def _attempt(
    models, slices, batch, seed, batch_size, mae_threshold, lesion_free, mask_images
):
    """Draws a map and a label for each (number, attempt) of the batch."""
    generators = [np.random.default_rng([seed, *each]) for each in batch]
    codes = [rng.standard_normal(models.code_dim, np.float32) for rng in generators]
    among = np.arange(len(slices)) if lesion_free is None else slices.lesions
    maps, backgrounds = models.structure(tf.constant(_padded(codes, batch_size)))
    attempts = []
    for (number, attempt), rng, f, background in zip(
        batch, generators, maps.numpy(), backgrounds.numpy(), strict=False
    ):
        f, background = f[..., 0], background[..., 0]
        mae = structural_map.filter_error(f, background)
        if mask_images:
            background = structural_map.without_islands(background)
        healthy = _is_healthy(slices, number, seed, lesion_free)
        label, subject, fitted = _place(slices, background, rng, healthy, among)
        passed = mae <= mae_threshold and fitted
        style = draw_style(models.styles, rng)
        attempts.append(
            _Attempt(number, attempt, f, background, mae, label, subject, style, passed)
        )
    return attempts


def draw_style(fitted: styles.Styles | None, rng: np.random.Generator) -> np.ndarray:
    """One draw of styles.Styles for the modalities of a set (D33)."""
    if fitted is None:
        return np.zeros(0, np.float32)
    return fitted.sample(rng.standard_normal((1, fitted.mean.size), np.float32))[0]


def masked(images: tf.Tensor, background: tf.Tensor) -> tf.Tensor:
    """Generated slices as a data set has them: 0 outside the brain, and where faint.

    Args:
        images: [B, M, H, W, 1].
        background: [B, H, W, 1] in {0, 1} of MASK, without islands. MASK learnt a brain
            grown by p, which is taken back (D6).
    """
    brain = structural_map.resize_background(background, -structural_map.GROWTH) < 0.5
    shown = brain[:, None] & (images >= FAINT)
    return tf.where(shown, images, tf.zeros_like(images))


def _render(models, attempts, batch_size, mask_images=True):
    """Generates and segments; yields (attempt, images [M, H, W], predicted [N, H, W]).

    The images are None where one of them is constant or not finite.
    """
    f = tf.constant(_padded([each.f for each in attempts], batch_size)[..., None])
    label = tf.constant(_padded([each.label for each in attempts], batch_size))
    style = tf.constant(_padded([each.style for each in attempts], batch_size))
    images = made = models.images(f, tf.cast(label, tf.int32), style)
    if mask_images:
        outside = _padded([each.background for each in attempts], batch_size)
        images = masked(made, tf.constant(outside[..., None]))
    predicted = models.segment(images).numpy()
    made, images = made.numpy(), images.numpy()
    for attempt, raw, image, label in zip(
        attempts, made, images, predicted, strict=False
    ):
        whole = np.isfinite(raw).all() and (np.ptp(image, axis=(1, 2)) > 0).all()
        image = image[..., 0].astype(np.float32) if whole else None
        yield attempt, image, label.astype(np.uint8)
