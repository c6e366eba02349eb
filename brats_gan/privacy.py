"""Is a generated slice a copy of one the models were trained on?

The nearest training slice of each, by normalised cross-correlation after downsampling,
beside the nearest training slice of real slices that no model saw: a generator that
learnt rather than copied is no nearer to its training slices than those are. It finds
copies, also blurred, noisy or darker; not those that were moved or turned, and it
proves nothing about what else the weights remember.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from brats_gan import data
from brats_gan.lazy import tf

SIDE = 32  # pixels that slices are reduced to: 6 mm each
BLOCK = 2048  # slices a matrix product


class Nearest(NamedTuple):
    """The nearest known slice of each of N."""

    row: np.ndarray  # [N] int, of the known slices
    correlation: np.ndarray  # [N] float32 in [-1, 1]


def describe(images: np.ndarray) -> np.ndarray:
    """Slices as vectors whose product is their normalised cross-correlation.

    [N, M, H, W] -> [N, M * SIDE * SIDE] float32: each modality downsampled by area, its
    mean subtracted, and of length 1 / sqrt(M), so that the product of two is the mean
    of their correlations over the M modalities. A constant modality is 0.
    """
    side = min(SIDE, images.shape[-1])
    small = np.stack(
        [
            cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA).ravel()
            for each in images.reshape(-1, *images.shape[2:]).astype(np.float32)
        ]
    )
    small -= small.mean(1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    small *= np.where(length > 1e-6, 1 / np.maximum(length, 1e-6), 0)
    return small.reshape(len(images), -1) / np.float32(np.sqrt(images.shape[1]))


def describe_slices(slices: data.Slices) -> np.ndarray:
    """`describe` of all of a data.Slices, read a block at a time."""
    starts = range(0, len(slices), 256)
    rows = [range(start, min(start + 256, len(slices))) for start in starts]
    return np.concatenate([describe(slices.images(each)) for each in rows])


def nearest(vectors: np.ndarray, known: np.ndarray) -> Nearest:
    """Nearest of [N, D] among [K, D], both of `describe`, a block of each at a time."""
    row = np.zeros(len(vectors), int)
    correlation = np.full(len(vectors), -np.inf, np.float32)
    for start in range(0, len(vectors), BLOCK):
        part = slice(start, start + BLOCK)
        for first in range(0, len(known), BLOCK):
            block = known[first : first + BLOCK]
            product = tf.matmul(vectors[part], block, transpose_b=True)
            best = tf.argmax(product, 1).numpy()
            value = tf.reduce_max(product, 1).numpy()
            closer = value > correlation[part]
            row[part] = np.where(closer, first + best, row[part])
            correlation[part] = np.where(closer, value, correlation[part])
    return Nearest(row, correlation)


def summary(made: Nearest, held_out: Nearest) -> dict[str, dict[str, float] | int]:
    """Both distributions of correlation, and how many are nearer than any held-out.

    Args:
        made, held_out: `Nearest` of generated and of held-out real slices.

    Returns:
        A dict of floats and ints, for JSON.
    """
    percentiles = (5, 25, 50, 75, 95, 100)
    result = {
        name: {
            "slices": len(found.correlation),
            **{
                f"percentile {p}": round(float(np.percentile(found.correlation, p)), 4)
                for p in percentiles
            },
        }
        for name, found in (("generated", made), ("held-out", held_out))
    }
    highest = held_out.correlation.max()
    result["generated nearer than any held-out"] = int(
        np.count_nonzero(made.correlation > highest)
    )
    return result


def closest(made: Nearest, count: int = 10) -> np.ndarray:
    """Positions of the `count` generated slices nearest to a training slice."""
    return np.argsort(-made.correlation, kind="stable")[:count]
