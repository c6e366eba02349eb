"""Volumes from noise: a stack of maps, lesions in three dimensions, four contrasts.

A volume is drawn as a sample of Section 2.8 is, slice by slice by the same networks,
but the codes of its slices are one draw (`stacks`), its lesions are placed in three
dimensions (`volume_lesions`), its style is one (D33), and both filters judge it as a
whole. Volume n is drawn from (seed, n, attempt) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from brats_gan import (
    data,
    files,
    metrics,
    structural_map,
    synthesis,
    volume_lesions,
)
from brats_gan.lazy import ndimage, tf

PASSING = 0.9  # share of the slices with brain that must pass Algorithm 3
_OF_VOLUMES = 2**32 - 2  # a stream beside those of single samples


class Volume(NamedTuple):
    """One registered set of volumes. [S, H, W] each, intensities in [0, 1]."""

    number: int
    structure: np.ndarray  # f_g in {0, 1}
    background: np.ndarray  # MASK(f_g) in {0, 1}, 1 outside the brain
    label: np.ndarray  # uint8 0..L-1
    images: np.ndarray  # [M, S, H, W]
    predicted: np.ndarray  # [N, S, H, W] uint8, by the segmentors
    label_subjects: tuple[str, ...]  # whose lesions they were before they were moved
    tries: int  # attempts, the one that is kept included
    mae: float  # mean error of Algorithm 3
    passing: float  # share of the slices that pass it
    dice: float  # mean over the segmentors of the index Dice of the volume
    accepted: bool  # False: no attempt passed both filters and this was the best
    rejected: dict[str, int]  # attempts turned away, by synthesis.REASONS


class Limits(NamedTuple):
    """What a volume must pass."""

    mae_threshold: float = structural_map.MAE_THRESHOLD  # of a slice
    passing: float = PASSING
    dice_threshold: float = 0.95
    max_tries: int = 20


# subject [1, K], detail [1, S, D] -> f, background [S, H, W, 1]. (Tensors are not named
# here: that would import TensorFlow with this module.)
Stack = Callable[[Any, Any], tuple[Any, Any]]


def volumes(
    models: synthesis.Models,
    stack: Stack,
    shape: tuple[int, int, int],
    lesions: volume_lesions.Pool,
    numbers: Iterable[int],
    seed: int,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    lesion_free: float = data.LESION_FREE,
    batch_size: int = 16,
) -> Iterator[Volume]:
    """Yields a Volume for each of `numbers`, in their order.

    Args:
        models: synthesis.Models; `structure` plays no part.
        stack: how noise becomes maps.
        shape: (K, S, D) of that noise.
        lesions: to place.
        numbers: of the volumes, whole numbers from 0; may be endless.
        seed: of the data set.
        limits: Limits. After `max_tries` the best attempt is kept and marked as not
            accepted (D7).
        lesion_free: share of volumes without a lesion.
        batch_size: slices at once.

    Raises:
        DataError: every attempt of a volume had a slice that is constant or not finite.
    """
    for number in numbers:
        rng = np.random.default_rng([seed, number, _OF_VOLUMES])
        healthy = rng.random() < lesion_free
        rejected = dict.fromkeys(synthesis.REASONS, 0)
        best = None
        for attempt in range(limits.max_tries):
            drawn = np.random.default_rng([seed, number, attempt, _OF_VOLUMES])
            made = _attempt(
                models, stack, shape, lesions, healthy, drawn, limits, batch_size
            )
            rank, reason, volume = made
            if reason is not None:
                rejected[reason] += 1
            if volume is not None and (best is None or rank > best[0]):
                best = rank, volume
            if reason is None:
                break
        if best is None:
            raise files.DataError(
                f"volume {number}: all {limits.max_tries} attempts have a slice that "
                "is constant or not finite, so the generator has learnt nothing or has "
                "diverged; look at its losses.jsonl, and train it longer or anew"
            )
        yield best[1]._replace(
            number=number,
            tries=attempt + 1,
            accepted=reason is None,
            rejected=rejected,
        )


def _attempt(models, stack, shape, lesions, healthy, rng, limits, batch_size):
    """(rank, the first test that fails or None, Volume or None) of one attempt."""
    subject_dim, count, code_dim = shape
    subject = rng.standard_normal((1, subject_dim), np.float32)
    detail = rng.standard_normal((1, count, code_dim), np.float32)
    f, background = (each.numpy()[..., 0] for each in stack(subject, detail))
    errors = np.array(
        [structural_map.filter_error(*each) for each in zip(f, background, strict=True)]
    )
    background = _one_piece(background)
    passing = float(np.mean(errors <= limits.mae_threshold))
    label, subjects, fitted = np.zeros(f.shape, np.uint8), [], True
    if not healthy:
        brain = structural_map.resize_background(
            tf.constant(background[..., None]), -structural_map.GROWTH
        )
        brain = brain.numpy()[..., 0] < 0.5
        label, subjects, fitted = volume_lesions.place(lesions, brain, rng)
    style = synthesis.draw_style(models.styles, rng)
    images, predicted = _render(models, f, background, label, style, batch_size)
    if images is None:
        return None, "blank", None
    dice = float(np.mean([metrics.index_dice(label, each) for each in predicted]))
    reason = None
    if passing < limits.passing:
        reason = "structure"
    elif not fitted:
        reason = "label"
    elif dice < limits.dice_threshold:
        reason = "dice"
    volume = Volume(
        *(-1, f, background, label, images, predicted, tuple(subjects), 0),
        *(float(errors.mean()), passing, dice, False, {}),
    )
    rank = reason is None, passing >= limits.passing, fitted, dice
    return rank, reason, volume


def _one_piece(background):
    """The largest connected brain of a stack; 1 elsewhere, and within it 0."""
    pieces, count = ndimage.label(background < 0.5)
    if count:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        background = (pieces != sizes.argmax()).astype(np.float32)
    return np.stack([structural_map.without_islands(each) for each in background])


def _render(models, f, background, label, style, batch_size):
    """images [M, S, H, W], predicted [N, S, H, W]; None, None where one is blank."""
    images, predicted = [], []
    for start in range(0, len(f), batch_size):
        part = slice(start, start + batch_size)
        left = batch_size - len(f[part])  # one shape, so one trace
        f_, background_, label_ = (
            np.concatenate([each[part], np.repeat(each[part][-1:], left, 0)])
            for each in (f, background, label)
        )
        styles = np.repeat(style[None], batch_size, 0)
        made = models.images(
            tf.constant(f_[..., None]), tf.constant(label_, tf.int32), styles
        )
        masked = synthesis.masked(made, tf.constant(background_[..., None]))
        found = models.segment(masked).numpy()
        keep = slice(0, batch_size - left)
        if not np.isfinite(made.numpy()[keep]).all():
            return None, None
        images.append(masked.numpy()[keep, ..., 0])
        predicted.append(found[keep])
    images = np.moveaxis(np.concatenate(images), 1, 0).astype(np.float32)
    shows_brain = (background < 0.5).any((1, 2))
    if (
        not shows_brain.any()
        or (np.ptp(images[:, shows_brain], axis=(2, 3)) == 0).any()
    ):
        return None, None
    return images, np.moveaxis(np.concatenate(predicted), 1, 0).astype(np.uint8)
