"""Slices made from the maps and labels of held-out slices, against those slices.

The generator has seen neither, so how near it comes is how well it knows its contrasts.
Needs no judge and nothing random.
"""

import numpy as np
import tensorflow as tf

from brats_gan import fusion, spec, structural_map, synthesis

WINDOW = 7  # pixels, of the Gaussian window of the SSIM
SOURCE = spec.BRATS.modalities.index("t1")  # the contrast that the maps are taken from


def made_from(generate, images, labels, styles, beta, batch_size=16):
    """What `generate` makes of the T1 maps and the labels of slices, in given styles.

    As stage 3 does it: the map loses the edges of the slice's own lesion, and outside
    the brain, Algorithm 2 grown and shrunk again, all is 0.

    Args:
        generate: f [B, H, W, 1], label [B, H, W], style -> [B, 4, H, W, 1].
        images: [N, 4, H, W] in [0, 1].
        labels: [N, H, W].
        styles: [N, 4, K], of brats_gan.styles.
        beta: of Algorithm 1.

    Returns:
        [N, 4, H, W].
    """
    parts = []
    given = images[:, SOURCE, ..., None], labels, styles
    for count, (x, label, style) in batches(given, batch_size):
        f = fusion.remove_lesion(structural_map.structural_map(x, beta), label)
        parts.append(finished(generate(f, label, style).numpy()[..., 0], x)[:count])
    return np.concatenate(parts)


def batches(given, batch_size):
    """Yields (count, tensors) of images, labels and styles [N, ...], all of one shape,
    so that a function of them is traced once: of the last, only `count` are new."""
    for start in range(0, len(given[0]), batch_size):
        parts = [each[start : start + batch_size] for each in given]
        count = len(parts[0])
        x, label, style = (
            np.concatenate([each, np.repeat(each[-1:], batch_size - count, 0)])
            for each in parts
        )
        x, style = tf.constant(x, tf.float32), tf.constant(style, tf.float32)
        yield count, (x, tf.constant(label, tf.int32), style)


def finished(made, x):
    """Slices [B, M, H, W] as stage 3 writes them: 0 where they are faint, and outside
    the brain of x [B, H, W, 1], Algorithm 2 grown and shrunk again."""
    outside = structural_map.resize_background(
        structural_map.background(x), -structural_map.GROWTH
    )
    brain = outside.numpy()[:, None, ..., 0] < 0.5
    return np.where(brain & (made >= synthesis.FAINT), made, 0.0).astype(np.float32)


def ssim(one, other, batch_size=200):
    """SSIM over the whole slice of two [N, 4, H, W] in [0, 1]: [N, 4]."""
    return np.concatenate(
        [
            tf.image.ssim(
                tf.constant(one[start : start + batch_size, ..., None], tf.float32),
                tf.constant(other[start : start + batch_size, ..., None], tf.float32),
                max_val=1.0,
                filter_size=WINDOW,
            ).numpy()
            for start in range(0, len(one), batch_size)
        ]
    )


def scores(made, real):
    """{"SSIM", "correlation", "L1"}: [4] each, means over slices, of [N, 4, H, W].

    Correlation and L1 are of the pixels inside the real slice's brain; a contrast that
    is constant there correlates with nothing, 0.
    """
    correlation, error = [], []
    for one, other in zip(made, real, strict=True):
        inside = (other > 0).any(0)
        one, other = one[:, inside].astype(float), other[:, inside].astype(float)
        error.append(np.abs(one - other).mean(1))
        one, other = (x - x.mean(1, keepdims=True) for x in (one, other))
        size = np.sqrt((one**2).sum(1) * (other**2).sum(1))
        correlation.append((one * other).sum(1) / np.maximum(size, 1e-9))
    return {
        "SSIM": ssim(made, real).mean(0),
        "correlation": np.mean(correlation, 0),
        "L1": np.mean(error, 0),
    }
