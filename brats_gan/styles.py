"""Styles: the brightness and contrast that a scanner gives each modality (D33).

A style is a few quantiles of the intensities of a volume. It is measured on the
training volumes, given to DC beside the modality, and sampled from its distribution
over the training subjects when slices are made, once for all modalities of a set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# A typical intensity and spread, so that the numbers are of the order of 1.
CENTRE, SPREAD = 0.4, 0.15
LIMIT = 2.0  # of the standard normal numbers that a style is sampled by
SHRINKAGE = 0.1  # of the covariance of styles towards its diagonal


def measure(volume: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Measures the style of one modality of one subject.

    Args:
        volume: [...], intensities in [0, 1], 0 outside the brain.
        label: [...] integers of the same shape; lesions do not count.

    Returns:
        [len(QUANTILES)] float32; zeros where there is no brain outside of lesions.
    """
    tissue = volume[(volume > 0) & (label == 0)]
    if not tissue.size:
        return np.zeros(len(QUANTILES), np.float32)
    quantiles = np.quantile(tissue, QUANTILES)
    return ((quantiles - CENTRE) / SPREAD).astype(np.float32)


class Styles(NamedTuple):
    """The Gaussian of the styles of sets, M modalities of K numbers each."""

    mean: np.ndarray  # [M, K]
    factor: np.ndarray  # [M * K, M * K], lower triangular, of the covariance

    def sample(self, z: np.ndarray) -> np.ndarray:
        """Styles [B, M, K] of standard normal numbers z [B, M * K]."""
        z = np.clip(z, -LIMIT, LIMIT)
        drawn = self.mean.ravel() + z @ self.factor.T
        # Quantiles must not cross, whatever was sampled.
        return np.sort(drawn.reshape(-1, *self.mean.shape), -1).astype(np.float32)


def from_json(fitted: Mapping[str, Sequence[Sequence[float]]]) -> Styles:
    """Reads Styles from the lists in an export's JSON."""
    return Styles(
        np.asarray(fitted["mean"], np.float32), np.asarray(fitted["factor"], np.float32)
    )


def fit(styles: np.ndarray) -> Styles:
    """Fits the Gaussian to the styles of the training subjects: [N, M, K] -> Styles.

    It is one for all modalities of a subject, which depend on each other. The
    covariance is shrunk towards its diagonal, since subjects are few.
    """
    count = len(styles)
    flat = np.asarray(styles, np.float64).reshape(count, -1)
    deviations = flat - flat.mean(0)
    covariance = deviations.T @ deviations / max(count - 1, 1)
    independent = np.diag(np.diag(covariance))
    covariance += SHRINKAGE * (independent - covariance)
    factor = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(covariance)))
    return Styles(
        flat.mean(0).reshape(styles.shape[1:]).astype(np.float32),
        factor.astype(np.float32),
    )
