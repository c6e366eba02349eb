"""Translations of held-out slices to other contrasts, against the real ones.

Stage 2 learns to translate from slices that are not registered. Where those that are
held out are, a translation can be judged: what it should be is there.
"""

import numpy as np
import tensorflow as tf

from benchmarks import paired
from brats_gan import multimodal, styles

MEASURES = ("SSIM", "correlation", "L1")  # of paired.scores


def translator(nets, options):
    """x [B, H, W, 1], label [B, H, W], style [B, M, K] -> [B, M, H, W, 1].

    Every slice, of whichever contrast it is, as each of the M contrasts in the style
    that it has in the subject: x_t of Section 2.4, and x_r where the contrast is its
    own.

    Args:
        nets: of multimodal.build; EC and DC.
        options: multimodal.Options.
    """
    count = options.spec.num_modalities

    @tf.function(autograph=False)
    def translate(x, label, style):
        f = multimodal.extract(x, label, options)
        code = nets["EC"](x, training=False)
        code, label, f = (tf.repeat(each, count, 0) for each in (code, label, f))
        to = multimodal.all_modalities(tf.shape(x)[0], options.spec)
        given = code, to, label, f, multimodal.merge(style)
        made = multimodal.decode(nets, *given, options, training=False)
        return multimodal.split(made, options.spec)

    return translate


def made_from(translate, images, labels, styles, batch_size=16):
    """Every contrast of slices as every contrast, finished as by paired.finished.

    Args:
        translate: as of `translator`.
        images: [N, M, H, W] in [0, 1].
        labels: [N, H, W].
        styles: [N, M, K], of brats_gan.styles.

    Returns:
        [N, M, M, H, W]; [:, i, j] are slices of contrast i as contrast j.
    """
    ways = []
    for origin in range(images.shape[1]):
        given = images[:, origin, ..., None], labels, styles
        parts = [
            paired.finished(translate(*batch).numpy()[..., 0], batch[0])[:count]
            for count, batch in paired.batches(given, batch_size)
        ]
        ways.append(np.concatenate(parts))
    return np.stack(ways, 1)


def untranslated(images):
    """As of `made_from`, where an input is taken for its translation: a floor."""
    return np.repeat(images[:, :, None], images.shape[1], 2)


def in_brightness(images, of_subject):
    """As of `made_from`, a floor that is told as much of brightness as DC: a slice with
    the quantiles of its contrast moved to those of another, linearly between them.

    Args:
        images: [N, M, H, W] in [0, 1], 0 outside the brain, which stays 0.
        of_subject: [N, M, K] styles of the subject.
    """
    made = untranslated(images)
    quantiles = np.clip(of_subject * styles.SPREAD + styles.CENTRE, 0.0, 1.0)
    ends = [(0, 0), (0, 0), (1, 1)]
    quantiles = np.pad(quantiles, ends, constant_values=[(0, 0), (0, 0), (0, 1)])
    for row, origin, target in np.ndindex(*made.shape[:3]):
        known, wanted = quantiles[row, [origin, target]]
        x = images[row, origin]
        made[row, origin, target] = np.where(x > 0, np.interp(x, known, wanted), 0.0)
    return made


def scores(made, real):
    """{"SSIM", "correlation", "L1"}: [M, M] each, from a contrast (row) to another.

    Args:
        made: [N, M, M, H, W], as of `made_from`.
        real: [N, M, H, W].
    """
    rows = [paired.scores(made[:, origin], real) for origin in range(real.shape[1])]
    return {name: np.stack([row[name] for row in rows]) for name in MEASURES}


def to_each(square):
    """[M]: means of the columns of [M, M] without the diagonal."""
    square = np.asarray(square, float)
    apart = ~np.eye(len(square), dtype=bool)
    return np.array([square[apart[:, j], j].mean() for j in range(len(square))])


def at_heights(images, heights, wanted):
    """[N, M, H, W]: of a subject's slices, those nearest in height to `wanted`.

    Args:
        images: [S, M, H, W] of one subject.
        heights: [S], of these.
        wanted: [N].
    """
    apart = np.abs(np.asarray(heights)[None] - np.asarray(wanted)[:, None])
    return images[np.argmin(apart, 1)]


def in_brain_of(made, real):
    """`made` [N or 1, M, H, W] in the brain of real T1 slices [N, M, H, W], 0 outside,
    so that floors know the outline as what is made does."""
    x = tf.constant(real[:, paired.SOURCE, ..., None], tf.float32)
    return paired.finished(np.broadcast_to(made, real.shape), x)
