"""The codes of recent training maps, and the Gaussian that they follow (D25)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from brats_gan import replicas

KEPT = 512  # codes of training maps, to which the Gaussian is fitted


class Codes(tf.Module):
    """A bank of the codes of the last training maps; samples their Gaussian (D25).

    The maps that D_f judges must be sampled as maps will be sampled after training, and
    one batch has too few codes to estimate a Gaussian. So codes are kept from step to
    step, and in the checkpoint.
    """

    def __init__(self, code_dim: int, kept: int = KEPT) -> None:
        super().__init__()
        self.kept = kept
        self.codes = tf.Variable(tf.zeros([kept, code_dim]), trainable=False)
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False)

    def add(self, codes: tf.Tensor) -> None:
        """Stores codes [B, code_dim], of all replicas, in place of the oldest."""
        codes = replicas.gathered(codes)
        rows = self.count + tf.range(tf.shape(codes)[0], dtype=tf.int64)
        places = (rows % self.kept)[:, None]
        kept = tf.tensor_scatter_nd_update(self.codes, places, codes)
        replicas.assign(self.codes, kept)
        replicas.assign(self.count, self.count + tf.shape(codes, tf.int64)[0])

    def sample(
        self, batch_size: int | tf.Tensor, seed: tf.Tensor | Sequence[int]
    ) -> tf.Tensor:
        """Samples [batch_size, code_dim] from the Gaussian with the mean and covariance
        of the codes kept, as their mean and a random sum of all deviations from it."""
        known = tf.cast(tf.range(self.kept, dtype=tf.int64) < self.count, tf.float32)
        total = tf.reduce_sum(known)
        codes = tf.convert_to_tensor(self.codes)
        mean = tf.reduce_sum(codes, 0, keepdims=True) / total
        deviations = (codes - mean) * known[:, None]
        shares = replicas.normal([batch_size, self.kept], seed)
        return mean + tf.matmul(shares, deviations) / tf.sqrt(total)
