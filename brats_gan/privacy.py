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
DEPTH = 25  # slices that volumes are reduced to
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
    return _standardised(small).reshape(len(images), -1) / np.float32(
        np.sqrt(images.shape[1])
    )


def _standardised(vectors):
    """[N, D] -> the same, each of mean 0 and length 1; 0 where it is constant."""
    vectors = vectors - vectors.mean(1, keepdims=True)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors * np.where(length > 1e-6, 1 / np.maximum(length, 1e-6), 0)


def describe_slices(slices: data.Slices) -> np.ndarray:
    """`describe` of all of a data.Slices, read a block at a time."""
    starts = range(0, len(slices), 256)
    rows = [range(start, min(start + 256, len(slices))) for start in starts]
    return np.concatenate([describe(slices.images(each)) for each in rows])


def describe_volume(images: np.ndarray) -> np.ndarray:
    """A volume [M, S, H, W] as one vector, as `describe` does with a slice.

    Slices are averaged until DEPTH are left, if there are more.
    """
    side = min(SIDE, images.shape[-1])
    shape = images.shape[1], min(DEPTH, images.shape[1])
    # Of each, how much of every slice it has: slices of one thickness.
    edges = [np.linspace(0.0, 1.0, count + 1) for count in shape]
    upper = np.minimum(edges[0][1:], edges[1][1:, None])
    lower = np.maximum(edges[0][:-1], edges[1][:-1, None])
    share = np.maximum(upper - lower, 0.0) * shape[1]
    small = np.stack(
        [
            [
                cv2.resize(each, (side, side), interpolation=cv2.INTER_AREA)
                for each in modality
            ]
            for modality in images.astype(np.float32)
        ]
    )
    vectors = np.einsum("ts,mshw->mthw", share, small).reshape(len(images), -1)
    vectors = _standardised(vectors.astype(np.float32)).ravel()
    return vectors / np.float32(np.sqrt(len(images)))


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


def summary(
    made: Nearest, held_out: Nearest, unit: str = "slices"
) -> dict[str, dict[str, float] | int]:
    """Both distributions of correlation, and how many are nearer than any held-out.

    Args:
        made, held_out: `Nearest` of generated and of held-out real slices.
        unit: what they are of.

    Returns:
        A dict of floats and ints, for JSON.
    """
    percentiles = (5, 25, 50, 75, 95, 100)
    result = {
        name: {
            unit: len(found.correlation),
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
