"""Where the codes of training maps lie, step by step (D25)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

KEPT = 512  # codes of training maps from which new ones are drawn


class Codes(tf.Module):
    """The codes of the last training maps, and new ones of their Gaussian (D25).

    What D_f judges must be drawn as maps will be drawn, and the codes of one batch are
    too few to know how: these are kept from step to step, and in the checkpoint.
    """

    def __init__(self, code_dim: int, kept: int = KEPT) -> None:
        super().__init__()
        self.kept = kept
        self.codes = tf.Variable(tf.zeros([kept, code_dim]), trainable=False)
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False)

    def add(self, codes: tf.Tensor) -> None:
        """Takes in [B, code_dim]; the oldest give way."""
        rows = self.count + tf.range(tf.shape(codes)[0], dtype=tf.int64)
        self.codes.scatter_nd_update((rows % self.kept)[:, None], codes)
        self.count.assign_add(tf.shape(codes, tf.int64)[0])

    def sample(
        self, batch_size: int | tf.Tensor, seed: tf.Tensor | Sequence[int]
    ) -> tf.Tensor:
        """[batch_size, code_dim] of the Gaussian with the mean and covariance of those
        kept: the mean, and a random sum of all deviations from it."""
        known = tf.cast(tf.range(self.kept, dtype=tf.int64) < self.count, tf.float32)
        total = tf.reduce_sum(known)
        codes = tf.convert_to_tensor(self.codes)
        mean = tf.reduce_sum(codes, 0, keepdims=True) / total
        deviations = (codes - mean) * known[:, None]
        shares = tf.random.stateless_normal([batch_size, self.kept], seed)
        return mean + tf.matmul(shares, deviations) / tf.sqrt(total)
