"""Maps of whole volumes: stage 1 fitted to stacks of slices, and drawn from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from brats_gan import data, stacks, structural
from brats_gan.lazy import tf

DRAWN = 4  # stacks that the threshold is chosen on
AT_ONCE = 50  # maps


def encode(nets: dict, slices: data.Slices, beta: float) -> tuple[np.ndarray, list]:
    """The codes of all slices of all subjects, as stacks.

    Args:
        nets: of structural.build.
        slices: of the training subjects.
        beta: of Algorithm 1.

    Returns:
        [N, S, D], a stack a subject and modality, NaN where a slice shows no brain;
        and whose subject's each is, [N] integers.
    """
    count = int(slices.index[:, 1].max()) + 1
    found, subjects = [], []
    for subject in range(len(slices.names)):
        rows = np.flatnonzero(slices.index[:, 0] == subject)
        images, labels = slices.intensities(rows), slices.labels(rows)
        for modality in range(images.shape[1]):
            batch = {
                "x": tf.constant(images[:, modality, ..., None]),
                "label": tf.constant(labels),
            }
            f, _ = structural.extract(batch, beta)
            codes = np.concatenate(
                [
                    nets["EC_f"](f[start : start + AT_ONCE], training=False)[0].numpy()
                    for start in range(0, len(rows), AT_ONCE)
                ]
            )
            stack = np.full((count, codes.shape[1]), np.nan, np.float32)
            stack[slices.index[rows, 1]] = codes
            found.append(stack)
            subjects.append(subject)
    return np.stack(found), subjects


def fit(
    nets: dict, slices: data.Slices, beta: float, density: float, seed: int = 0
) -> stacks.Stacks:
    """Fits stacks.Stacks to the training volumes.

    Args:
        nets, slices, beta: as of `encode`; of two subjects or more.
        density: mean of f over the training maps, which drawn stacks shall have.
        seed: of the stacks that the threshold is chosen on.
    """
    found = stacks.fit(*encode(nets, slices, beta))
    rng = np.random.default_rng(seed)
    subject = rng.standard_normal((DRAWN, found.subject_dim), np.float32)
    detail = rng.standard_normal((DRAWN, *found.mean.shape), np.float32)
    drawn = _decode(nets, found, subject, detail).numpy()
    threshold = float(np.quantile(drawn, 1.0 - density))
    return found._replace(threshold=min(max(threshold, 0.01), 0.99))


def _decode(nets, found, subject, detail):
    """[B, K], [B, S, D] -> probability of an edge [B, S, H, W, 1]."""
    codes = stacks.codes_of(found, subject, detail)
    flat = tf.reshape(codes, [-1, codes.shape[-1]])
    edge = tf.sigmoid(nets["DC_f"](flat, training=False))
    return tf.reshape(edge, [-1, len(found.mean), *edge.shape[1:]])


def generate(
    nets: dict, found: stacks.Stacks, subject: tf.Tensor, detail: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """f_g and its background of all slices of volumes, as hard maps.

    Args:
        nets: of structural.build.
        found: of `fit`.
        subject: [B, K] of N(0, 1), which brain it is.
        detail: [B, S, D] of N(0, 1), how its slices differ from what that says.

    Returns:
        Two of [B, S, H, W, 1] in {0, 1}.
    """
    f = tf.cast(_decode(nets, found, subject, detail) > found.threshold, tf.float32)
    flat = tf.reshape(f, [-1, *f.shape[2:]])
    background = tf.cast(nets["MASK"](flat, training=False) > 0.5, tf.float32)
    return f, tf.reshape(background, tf.shape(f))


def by_export(export: object) -> Callable:
    """volume_synthesis.Stack of the loaded export `structure`."""

    def stack(subject, detail):
        made = export.volume(subject, detail)
        return made["structure"][0], made["background"][0]

    return stack


def by_weights(nets: dict, found: stacks.Stacks) -> Callable:
    """volume_synthesis.Stack of the networks of stage 1 and their stacks.Stacks."""

    @tf.function(autograph=False)
    def stack(subject, detail):
        f, background = generate(nets, found, subject, detail)
        return f[0], background[0]

    return stack
