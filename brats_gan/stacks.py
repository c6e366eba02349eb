"""Stacks: the codes of all slices of a brain, drawn together from noise.

The Gaussian of `structural.fit` draws a slice alone, and fifty of its draws are fifty
brains. Here the codes of all slices of a training volume are one long vector, and the
distribution of these vectors is fitted: their mean at each height, the principal
subspace in which subjects differ, and what is left, which changes from slice to slice
as a first-order process. All of it is affine in the noise, so a volume is drawn from
N(0, I), as a slice is in Section 2.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from brats_gan.lazy import tf

DIRECTIONS = 60  # of the subspace of subjects, where there are as many
FOLDS = 4  # of subjects, to see what the subspace of some does not say of others
LARGEST = 0.98  # correlation of what is left between neighbours


class Stacks(NamedTuple):
    """How noise becomes the codes of a stack of S slices, D numbers each."""

    mean: np.ndarray  # [S, D], at each height
    directions: np.ndarray  # [K, S, D], of the subspace, times the sd in each
    spread: np.ndarray  # [D], sd of what the subspace leaves
    correlation: float  # of that between neighbouring slices
    threshold: float  # of DC_f's probability, so that drawn maps are as dense as real
    smoothing: float = 0.0  # sd, in slices, of a Gaussian over that probability

    @property
    def subject_dim(self) -> int:
        """K, how many numbers of N(0, 1) are the code of a subject."""
        return len(self.directions)


def fit(codes: np.ndarray, subjects: Sequence[int], most: int = DIRECTIONS) -> Stacks:
    """Fits Stacks to the codes of training volumes, but for threshold and smoothing.

    What the subspace leaves is measured on subjects that the subspace was not fitted
    to, or it would be too small; the subspace then has what is left of the variance.

    Args:
        codes: [N, S, D], a stack a subject and modality; NaN where a slice shows no
            brain, which counts as the mean.
        subjects: [N], whose stack each is.
        most: directions that are kept.

    Raises:
        ValueError: fewer than two subjects.
    """
    subjects = np.asarray(subjects)
    known = np.unique(subjects)
    if len(known) < 2:
        raise ValueError("a subspace of subjects needs two of them")
    shape = codes.shape[1:]
    present = np.isfinite(codes)
    count = np.maximum(present.sum(0), 1)
    mean = np.where(present, codes, 0).sum(0, dtype=np.float64) / count
    deviations = np.where(present, codes - mean, 0).astype(np.float32)
    flat = deviations.reshape(len(codes), -1)

    left = np.empty_like(flat)
    fold_of = {subject: i % min(FOLDS, len(known)) for i, subject in enumerate(known)}
    folds = np.array([fold_of[subject] for subject in subjects])
    for fold in np.unique(folds):
        others, own = flat[folds != fold], folds == fold
        directions, _ = _principal(others, most)
        left[own] = flat[own] - (flat[own] @ directions.T) @ directions
    left = left.reshape(deviations.shape)
    variance = (left.astype(np.float64) ** 2).mean((0, 1))
    pairs = (left[:, 1:] * left[:, :-1]).mean(dtype=np.float64)
    before_and_after = (left[:, 1:] ** 2 + left[:, :-1] ** 2).mean(dtype=np.float64) / 2
    correlation = pairs / before_and_after if before_and_after > 0 else 0.0

    directions, sd = _principal(flat, most)
    in_all = float((flat.astype(np.float64) ** 2).mean())
    in_subspace = float((sd**2).sum()) / flat.shape[1]
    share = max(in_all - float(variance.mean()), 0.0) / max(in_subspace, 1e-12)
    scaled = directions * (sd * np.sqrt(min(share, 1.0)))[:, None]
    return Stacks(
        mean.astype(np.float32),
        scaled.reshape(-1, *shape).astype(np.float32),
        np.sqrt(variance).astype(np.float32),
        float(np.clip(correlation, 0.0, LARGEST)),
        0.5,
    )


def _principal(flat, most):
    """Principal directions [K, dim] of rows of mean 0, and the sd along each [K]."""
    # Rows are few and long: their products with each other say the same.
    values, vectors = np.linalg.eigh(flat.astype(np.float64) @ flat.T)
    kept = np.argsort(values)[::-1][:most]
    kept = kept[values[kept] > 1e-9 * max(values.max(), 1e-30)]
    roots = np.sqrt(values[kept])
    directions = (vectors[:, kept].T / roots[:, None]) @ flat
    return directions.astype(np.float32), roots / np.sqrt(len(flat))


def _process(count, correlation):
    """[S, S]: noise of S slices -> a first-order process of variance 1 along them."""
    steps = np.arange(count)
    lags = steps[:, None] - steps[None]
    weights = np.where(lags >= 0, correlation ** np.maximum(lags, 0), 0.0)
    weights[:, 1:] *= np.sqrt(1.0 - correlation**2)
    return weights.astype(np.float32)


def codes_of(stacks: Stacks, subject: tf.Tensor, detail: tf.Tensor) -> tf.Tensor:
    """Codes [B, S, D] of stacks, of noise.

    Args:
        stacks: Stacks.
        subject: [B, K] of N(0, 1), which brain it is.
        detail: [B, S, D] of N(0, 1), how its slices differ from what that says.
    """
    process = _process(len(stacks.mean), stacks.correlation)
    detail = tf.einsum("st,btd->bsd", process, detail)
    brain = tf.einsum("bk,ksd->bsd", subject, stacks.directions)
    return stacks.mean + brain + detail * stacks.spread


def codes_at(
    stacks: Stacks, height: tf.Tensor, subject: tf.Tensor, detail: tf.Tensor
) -> tf.Tensor:
    """Codes [B, D] of single slices, each as it lies in a stack.

    Args:
        stacks: Stacks.
        height: [B] integers 0..S-1.
        subject: [B, K] of N(0, 1).
        detail: [B, D] of N(0, 1).
    """
    directions = tf.gather(stacks.directions, height, axis=1)  # [K, B, D]
    brain = tf.einsum("bk,kbd->bd", subject, directions)
    return tf.gather(stacks.mean, height) + brain + detail * stacks.spread
