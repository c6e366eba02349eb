"""Volumes from noise: a stack of maps, lesions in three dimensions, four contrasts.

A volume is drawn as a sample of Section 2.8 is, slice by slice by the same networks,
but the codes of its slices are one draw (`stacks`), its lesions are placed in three
dimensions (`volume_lesions`), its style is one (D33), its slices are means over a
thickness as those of real volumes are (`neighbours`, D50), and both filters judge it as
a whole. Volume n is drawn from (seed, n, attempt) and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from brats_gan import (
    data,
    files,
    metrics,
    neighbours,
    structural_map,
    synthesis,
)
from brats_gan.lazy import ndimage, tf

PASSING = 0.9  # share of the slices with brain that must pass Algorithm 3
REACH = 4  # sds of a profile, beyond which a slice is not felt
PROFILED = 4  # volumes that the profile of slices is chosen on
# sd, in mm, over which outlines are smoothed between slices: MASK sees each alone. With
# less they are frayed, with more they cut what real ones have (D54).
OUTLINE = 1.5
_OF_VOLUMES = 2**32 - 2  # a stream beside those of single samples
_OF_PROFILES = 2**32 - 3


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
    dice: float  # mean over the segmentors of the index Dice of the volume, see _dice
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

# brain [S, H, W] bool, rng -> label [S, H, W] uint8, whose lesions, whether they fit.
Placement = Callable[
    [np.ndarray, np.random.Generator], tuple[np.ndarray, Sequence[str], bool]
]


def volumes(
    models: synthesis.Models,
    stack: Stack,
    shape: tuple[int, int, int],
    place: Placement,
    numbers: Iterable[int],
    seed: int,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    lesion_free: float = data.LESION_FREE,
    batch_size: int = 16,
    profile: float = 0.0,
    slice_spacing: float = 1.0,
) -> Iterator[Volume]:
    """Yields a Volume for each of `numbers`, in their order.

    Args:
        models: synthesis.Models; `structure` plays no part.
        stack: how noise becomes maps.
        shape: (K, S, D) of that noise.
        place: Placement of lesions, such as volume_lesions.place of a pool.
        numbers: of the volumes, whole numbers from 0; may be endless.
        seed: of the data set.
        limits: Limits. After `max_tries` the best attempt is kept and marked as not
            accepted (D7).
        lesion_free: share of volumes without a lesion.
        batch_size: slices at once.
        profile: sd, in slices, of what each slice is a mean over; see `profile_of`.
        slice_spacing: mm from the middle of a slice to that of the next.

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
                *(models, stack, shape, None if healthy else place, drawn),
                *(limits, batch_size, profile, slice_spacing),
                None if best is None else best[0],
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


def profile_of(
    models: synthesis.Models,
    stack: Stack,
    shape: tuple[int, int, int],
    real: Sequence[float],
    batch_size: int = 16,
    slice_spacing: float = 1.0,
) -> float:
    """The sd, in slices, of the profile with which neighbouring slices of volumes are
    as alike as real ones (D50).

    Chosen on PROFILED brains without a lesion, the same ones whatever is made later.

    Args:
        models, stack, shape, batch_size, slice_spacing: as of `volumes`.
        real: neighbours.correlation of real volumes, a mean for each contrast.
    """
    drawn = []
    for number in range(PROFILED):
        rng = np.random.default_rng([number, _OF_PROFILES])
        f, background, _ = _brain(stack, shape, rng, slice_spacing)
        style = synthesis.draw_style(models.styles, rng)
        label = np.zeros(f.shape, np.uint8)
        images = _images(models, f, background, label, style, batch_size)
        if images is not None:
            drawn.append((images, background < 0.5))
    return neighbours.profile(drawn, real) if drawn else 0.0


def _brain(stack, shape, rng, slice_spacing=1.0):
    """f and background [S, H, W], and the error of Algorithm 3 of each slice.

    The error is that of MASK's own background, before it is smoothed between slices.
    """
    subject_dim, count, code_dim = shape
    subject = rng.standard_normal((1, subject_dim), np.float32)
    detail = rng.standard_normal((1, count, code_dim), np.float32)
    f, background = (each.numpy()[..., 0] for each in stack(subject, detail))
    errors = [
        structural_map.filter_error(*each) for each in zip(f, background, strict=True)
    ]
    # Beyond the ends lies what is at the ends: they would have the outlines of their
    # neighbours otherwise, and an empty one would be given a brain.
    sd = OUTLINE / slice_spacing  # in slices
    beyond = math.ceil(REACH * sd)
    smoother = neighbours.smoother(len(f) + 2 * beyond, sd)[beyond:-beyond]
    padded = np.pad(background, ((beyond, beyond), (0, 0), (0, 0)), mode="edge")
    outside = np.einsum("st,thw->shw", smoother, padded, optimize=True) > 0.5
    # A slice without a line has nothing to be drawn in; and a brain of so few slices
    # that nothing is left of it keeps its own outlines.
    drawn = f.any((1, 2), keepdims=True)
    if not (outside | ~drawn).all():
        background = np.where(drawn, outside, background).astype(np.float32)
    return f, _one_piece(background), np.array(errors)


def _attempt(
    models,
    stack,
    shape,
    place,
    rng,
    limits,
    batch_size,
    profile,
    slice_spacing,
    to_beat,
):
    """(rank, the first test that fails or None, Volume or None) of one attempt.

    Most fail by the Dice filter, so the slices with a lesion are made first: in the
    others segmentors can only find what is not there. An attempt that can neither pass
    nor beat the rank `to_beat` is left at that, without a Volume.
    """
    f, background, errors = _brain(stack, shape, rng, slice_spacing)
    brain, passing = background < 0.5, float(np.mean(errors <= limits.mae_threshold))
    label, subjects, fitted = np.zeros(f.shape, np.uint8), [], True
    if place is not None:
        inner = structural_map.resize_background(
            tf.constant(background[..., None]), -structural_map.GROWTH
        )
        label, subjects, fitted = place(inner.numpy()[..., 0] < 0.5, rng)
    style = synthesis.draw_style(models.styles, rng)

    def judged(dice):
        """(rank, reason) with that Dice."""
        tests = {
            "structure": passing >= limits.passing,
            "label": fitted,
            "dice": dice >= limits.dice_threshold,
        }
        failed = [name for name, passed in tests.items() if not passed]
        rank = not failed, tests["structure"], fitted, dice
        return rank, failed[0] if failed else None

    def is_beaten(dice):
        rank, reason = judged(dice)
        return reason is not None and to_beat is not None and rank <= to_beat

    if is_beaten(1.0):
        return *judged(1.0), None
    lesion = (label > 0).any((1, 2))
    near = lesion  # and the slices that come into the means of these
    if lesion.any():
        felt = max(profile, neighbours.PATCHES) if profile else 0.0
        near = ndimage.binary_dilation(lesion, iterations=1 + math.ceil(REACH * felt))
    if not brain.any():
        return None, "blank", None
    images = np.zeros((models.spec.num_modalities, *f.shape), np.float32)
    predicted = np.zeros((0, *f.shape), np.uint8)
    for some, judging in ((near, lesion), (~near, ~lesion)):
        if some.any():
            given = f[some], background[some], label[some]
            made = _images(models, *given, style, batch_size)
            if made is None:
                return None, "blank", None
            images[:, some] = made
        if not judging.any():
            continue
        # In slices with a lesion these are the final ones: all that they are means
        # over has been made.
        means = neighbours.thickened(images, brain, profile, label)[:, judging]
        found = _segmented(models, means, batch_size)
        if not len(predicted):
            predicted = np.zeros((len(found), *f.shape), np.uint8)
        predicted[:, judging] = found
        if judging is lesion:
            most = _dice(label[lesion], found)
            if is_beaten(most):
                return *judged(most), None
    images = neighbours.thickened(images, brain, profile, label)
    dice = _dice(label, predicted)
    rank, reason = judged(dice)
    volume = Volume(
        *(-1, f, background, label, images, predicted, tuple(subjects), 0),
        *(float(errors.mean()), passing, dice, False, {}),
    )
    return rank, reason, volume


def _dice(label, predicted):
    """Mean over the segmentors of the index Dice of a volume.

    Without a lesion it would be 0 for a single voxel in any of the slices: then it is
    the mean over the slices, of which those with a voxel are 0.
    """
    if label.any():
        return float(np.mean([metrics.index_dice(label, each) for each in predicted]))
    return float(1.0 - np.mean((predicted > 0).any((-2, -1))))


def _one_piece(background):
    """The largest connected brain of a stack; 1 elsewhere, and within it 0."""
    pieces, count = ndimage.label(background < 0.5)
    if count:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        background = (pieces != sizes.argmax()).astype(np.float32)
    return np.stack([structural_map.without_islands(each) for each in background])


def _batches(batch_size, *arrays):
    """Yields batches of each array, no more than are needed and as even as can be, so
    that networks see no slice twice."""
    number = math.ceil(len(arrays[0]) / batch_size)
    return zip(*(np.array_split(each, number) for each in arrays), strict=True)


def _images(models, f, background, label, style, batch_size):
    """Images [M, S, H, W] of all slices; None where one is blank or not finite."""
    images = []
    for f_, background_, label_ in _batches(batch_size, f, background, label):
        styles = np.repeat(style[None], len(f_), 0)
        made = models.images(
            tf.constant(f_[..., None]), tf.constant(label_, tf.int32), styles
        )
        if not np.isfinite(made.numpy()).all():
            return None
        masked = synthesis.masked(made, tf.constant(background_[..., None]))
        images.append(masked.numpy()[..., 0])
    images = np.moveaxis(np.concatenate(images), 1, 0).astype(np.float32)
    shows_brain = (background < 0.5).any((1, 2))
    is_blank = (np.ptp(images[:, shows_brain], axis=(2, 3)) == 0).any()
    return None if is_blank else images


def _segmented(models, images, batch_size):
    """Labels [N, S, H, W] that the segmentors find in images [M, S, H, W]."""
    by_slice, found = np.moveaxis(images, 0, 1), []
    for (batch,) in _batches(batch_size, by_slice):
        found.append(models.segment(tf.constant(batch[..., None])).numpy())
    return np.moveaxis(np.concatenate(found), 1, 0).astype(np.uint8)
