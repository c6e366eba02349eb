"""Maps of whole volumes: stage 1 fitted to stacks of slices, and drawn from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from absl import logging

from brats_gan import code_flow, data, neighbours, progress, stacks, structural
from brats_gan.lazy import tf

DRAWN = 4  # stacks that threshold and smoothing are chosen on
SMOOTHINGS = np.linspace(0.0, 2.0, 11)  # sd in slices, of which the best is kept


def encode(
    nets: dict, slices: data.Slices, beta: float
) -> tuple[np.ndarray, list[int], float]:
    """The codes of all slices of all subjects, as stacks.

    Args:
        nets: of structural.build.
        slices: of the training subjects.
        beta: of Algorithm 1.

    Returns:
        [N, S, D], a stack a subject and modality, NaN where a slice shows no brain;
        whose subject's each is, [N] integers; and the mean overlap of their maps.
    """
    count = int(slices.index[:, 1].max()) + 1
    found, subjects, overlaps = [], [], []
    logging.info("fitting stage 1 to the volumes of %d subjects", len(slices.names))
    bar = tf.keras.utils.Progbar(
        len(slices.names), unit_name="subject", interval=progress.EVERY
    )
    for subject in range(len(slices.names)):
        rows = np.flatnonzero(slices.index[:, 0] == subject)
        images, labels = slices.intensities(rows), slices.labels(rows)
        for modality in range(images.shape[1]):
            batch = {
                "x": tf.constant(images[:, modality, ..., None]),
                "label": tf.constant(labels),
            }
            f, _ = structural.extract(batch, beta)
            codes, _ = structural.encode(nets, f)
            stack = np.full((count, codes.shape[1]), np.nan, np.float32)
            stack[slices.index[rows, 1]] = codes
            found.append(stack)
            subjects.append(subject)
            overlaps.append(neighbours.map_overlap(f.numpy()[..., 0]))
        bar.update(subject + 1)
    return np.stack(found), subjects, float(np.mean(overlaps))


def fit(
    nets: dict,
    found: structural.Fit,
    slices: data.Slices,
    beta: float,
    density: float,
    seed: int = 0,
) -> structural.Fit:
    """The fit to slices, with stacks.Stacks of the training volumes (D49).

    Drawn slices are decoded each from its own code, and lines flicker from one to the
    next more than in a brain: DC_f's probability is smoothed between slices until
    neighbouring maps overlap as real ones do.

    Args:
        nets, slices, beta: as of `encode`; of two subjects or more.
        found: of structural.fit.
        density: mean of f over the training maps, which drawn stacks shall have.
        seed: of the stacks that the threshold is chosen on.
    """
    codes, subjects, real = encode(nets, slices, beta)
    of_volumes = stacks.fit(codes, subjects)
    found = found._replace(stacks=of_volumes)
    rng = np.random.default_rng(seed)
    subject = rng.standard_normal((DRAWN, of_volumes.subject_dim), np.float32)
    detail = rng.standard_normal((DRAWN, *of_volumes.mean.shape), np.float32)
    edge, tried = _decode(nets, found, subject, detail), []
    for sd in SMOOTHINGS:
        drawn = _smoothed(edge, float(sd)).numpy()[..., 0]
        threshold = structural.as_dense(drawn, density)
        tried.append(
            (
                abs(neighbours.map_overlap(drawn > threshold) - real),
                float(sd),
                threshold,
            )
        )
    _, smoothing, threshold = min(tried)
    return found._replace(
        stacks=of_volumes._replace(threshold=threshold, smoothing=smoothing)
    )


def _decode(nets, found, subject, detail):
    """[B, K], [B, S, D] -> probability of an edge [B, S, H, W, 1]."""
    codes = stacks.codes_of(found.stacks, subject, detail)
    count = codes.shape[1]
    height = tf.tile(tf.range(count), [tf.shape(codes)[0]])
    origin = _origin(nets, found, height, tf.repeat(subject, count, axis=0))
    flat = tf.reshape(codes, [-1, codes.shape[-1]])
    edge = structural.decode(nets, flat, found, origin)
    return tf.reshape(edge, [-1, count, *edge.shape[1:]])


def _origin(nets, found, height, subject):
    """code_flow.Origin of slices of volumes: all of one are of one contrast, which the
    noise of its subject says. [B] integers, [B, K]; None without CF_f."""
    if found.heights is None:
        return None
    # By the least of its directions, so that the greatest change brains alone.
    contrast = code_flow.among(
        code_flow.normal_share(subject[:, -1]),
        code_flow.num_modalities_of(nets[structural.FLOW]),
    )
    height = code_flow.heights_of(height, len(found.heights))
    return code_flow.Origin(height, contrast)


def _smoothed(edge, sd):
    """[B, S, H, W, 1] -> the same, smoothed between slices."""
    return tf.einsum("st,bthwc->bshwc", neighbours.smoother(edge.shape[1], sd), edge)


def generate(
    nets: dict, found: structural.Fit, subject: tf.Tensor, detail: tf.Tensor
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
    drawn = found.stacks
    edge = _smoothed(_decode(nets, found, subject, detail), drawn.smoothing)
    f = tf.cast(edge > drawn.threshold, tf.float32)
    background = _background(nets, tf.reshape(f, [-1, *f.shape[2:]]))
    return f, tf.reshape(background, tf.shape(f))


def generate_at(
    nets: dict,
    found: structural.Fit,
    height: tf.Tensor,
    subject: tf.Tensor,
    detail: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The same of single slices, each at a height: of a volume, but not smoothed, as
    its neighbours are not drawn.

    Args:
        nets, found: as of `generate`.
        height: [B] integers 0..S-1, from below.
        subject: [B, K] of N(0, 1).
        detail: [B, D] of N(0, 1).

    Returns:
        Two of [B, H, W, 1] in {0, 1}.
    """
    codes = stacks.codes_at(found.stacks, height, subject, detail)
    origin = _origin(nets, found, height, tf.convert_to_tensor(subject))
    edge = structural.decode(nets, codes, found, origin)
    f = tf.cast(edge > found.stacks.threshold, tf.float32)
    return f, _background(nets, f)


def _background(nets, f):
    return tf.cast(nets["MASK"](f, training=False) > 0.5, tf.float32)


def by_export(export: object) -> Callable:
    """volume_synthesis.Stack of the loaded export `structure`."""

    def stack(subject, detail):
        made = export.volume(subject, detail)
        return made["structure"][0], made["background"][0]

    return stack


def by_weights(nets: dict, found: structural.Fit) -> Callable:
    """volume_synthesis.Stack of the networks of stage 1 and their structural.Fit."""

    @tf.function(autograph=False)
    def stack(subject, detail):
        f, background = generate(nets, found, subject, detail)
        return f[0], background[0]

    return stack
