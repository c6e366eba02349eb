"""Structural maps and lesion labels: fusion, removal, placement (Section 2.5, 2.8)."""

from __future__ import annotations

import math

from brats_gan import addons, replicas
from brats_gan.lazy import tf
from brats_gan.spec import BRATS

STRUCTURE_WEIGHT = 0.8  # D8
LABEL_WEIGHT = 1.0  # D8: with the authors' 0.2 necrosis stays bright in T1c

# Random transforms of labels and of the enhanced set (Section 3.3). Narrower than the
# authors' full circle, which puts oedema where no brain has it.
MAX_ANGLE = math.radians(20.0)
SCALES = (0.8, 1.2)
MAX_SHIFT = 0.06  # of the image side


def fuse(
    f: tf.Tensor,
    label: tf.Tensor,
    structure_weight: float = STRUCTURE_WEIGHT,
    label_weight: float = LABEL_WEIGHT,
    num_labels: int = BRATS.num_labels,
) -> tf.Tensor:
    """The input of EC_R: channel c is a weighted sum of f and the one-hot label's c.

    [B, H, W, 1], [B, H, W] integers 0..L-1 -> [B, H, W, L].
    """
    onehot = tf.one_hot(tf.cast(label, tf.int32), num_labels, dtype=f.dtype)
    return structure_weight * f + label_weight * onehot


def remove_lesion(f: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
    """f * Alg2(label, p = 0): no edge is left where the image had a lesion.

    Lesions then come only from the label that is inserted later.
    [B, H, W, 1], [B, H, W] -> [B, H, W, 1].
    """
    return f * tf.cast(label == 0, f.dtype)[..., None]


def random_transforms(
    batch: int | tf.Tensor,
    size: tuple[int | tf.Tensor, int | tf.Tensor],
    seed: tf.Tensor,
) -> tf.Tensor:
    """Transforms [B, 8] of random scale, rotation, translation and flip.

    Args:
        batch: how many.
        size: (H, W).
        seed: [2] int32; equal seeds give equal transforms.
    """
    draws = replicas.uniform([5, batch], seed, -1.0, 1.0, axis=1)
    low, high = SCALES
    side = tf.cast(size[0], tf.float32)
    return addons.affine_transforms(
        size,
        angle=draws[0] * MAX_ANGLE,
        scale=(low + high) / 2.0 + draws[1] * (high - low) / 2.0,
        shift_y=draws[2] * MAX_SHIFT * side,
        shift_x=draws[3] * MAX_SHIFT * side,
        mirror=tf.cast(draws[4] > 0.0, tf.float32),
    )


def transform_label(label: tf.Tensor, transforms: tf.Tensor) -> tf.Tensor:
    """[B, H, W] uint8 moved by [B, 8]; nearest, so that no new class appears."""
    return addons.projective_transform(label[..., None], transforms, "nearest")[..., 0]


def transform_pair(
    images: tf.Tensor, label: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """One random transform for all modalities of an image and for its label.

    [B, H, W, C] float, [B, H, W] uint8 -> the same. The enhanced set of Section 3.3.
    """
    shape = tf.shape(images)
    transforms = random_transforms(shape[0], (shape[1], shape[2]), seed)
    moved = addons.projective_transform(images, transforms)
    return moved, transform_label(label, transforms)


def place_label(
    candidates: tf.Tensor, background: tf.Tensor, seed: tf.Tensor, move: bool = True
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Picks, for each brain, the first candidate label that fits after a random move.

    A label fits where background * label = 0 everywhere (Section 2.5). The tries are
    bounded: where none of the K candidates fits, the one that leaves least outside is
    cut to the brain.

    Args:
        candidates: [B, K, H, W] uint8 labels to try, in order.
        background: [B, H, W, 1], 1 outside the brain.
        seed: [2] int32.
        move: False: candidates are tried where they are.

    Returns:
        label [B, H, W] uint8, tries [B] int32 in 1..K, fitted [B] bool.
    """
    shape = tf.shape(candidates)
    batch, count, height, width = shape[0], shape[1], shape[2], shape[3]
    moved = candidates
    if move:
        flat = tf.reshape(candidates, [batch * count, height, width])
        transforms = random_transforms(batch * count, (height, width), seed)
        moved = transform_label(flat, transforms)
        moved = tf.reshape(moved, [batch, count, height, width])

    brain = background[:, None, :, :, 0] <= 0.5
    outside = tf.reduce_sum(
        tf.cast((moved > 0) & tf.logical_not(brain), tf.int32), [2, 3]
    )
    fitted = tf.reduce_any(outside == 0, 1)
    # argmin takes the first of equals, so the first that fits wherever one does.
    chosen = tf.argmin(outside, 1, tf.int32)
    label = tf.gather(moved, chosen, batch_dims=1)
    label = tf.where(brain[:, 0], label, tf.zeros_like(label))
    return label, tf.where(fitted, chosen + 1, count), fitted
