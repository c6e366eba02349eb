"""How much alike samples are to each other, and to the slices they were learnt from."""

import numpy as np
import tensorflow as tf

from brats_gan import privacy

PAIRS = 300  # drawn at random
# Of the Gaussian window, pixels, at every scale: the usual 11 is wider than a slice of
# 64 is after three halvings.
FILTER = 7
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang, Simoncelli, Bovik


def scale_weights(side):
    """Weights of the scales at which a window of FILTER pixels fits, summing to 1.

    3 scales at 32 pixels, 4 at 64, 5 from 112 on.
    """
    count = int(np.clip(1 + np.floor(np.log2(side / FILTER)), 1, len(SCALE_WEIGHTS)))
    weights = np.array(SCALE_WEIGHTS[:count])
    return tuple(weights / weights.sum())


def ms_ssim(one, other, batch_size=100):
    """MS-SSIM of each pair of two [N, 4, H, W] in [0, 1]: [N, 4].

    Over the whole slice, with a window of FILTER pixels, at the scales that fit.
    """
    weights = scale_weights(one.shape[-1])
    values = []
    for start in range(0, len(one), batch_size):
        pair = [
            tf.constant(x[start : start + batch_size, ..., None], tf.float32)
            for x in (one, other)
        ]
        values.append(
            tf.image.ssim_multiscale(
                *pair, max_val=1.0, power_factors=weights, filter_size=FILTER
            ).numpy()
        )
    return np.concatenate(values)


def random_pairs(groups, count, seed):
    """[count, 2] positions, the two never of one group; groups is [N].

    A real slice is not paired with one of its own subject: two samples are never of one
    brain. Fewer where so few are found.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(groups), size=(50 * count, 2))
    apart = groups[drawn[:, 0]] != groups[drawn[:, 1]]
    return drawn[apart][:count]


def similarity(images, groups, seed=0):
    """Mean MS-SSIM of random pairs of [N, 4, H, W], a contrast: [4].

    nan where all are of one group.
    """
    pairs = random_pairs(groups, PAIRS, seed)
    if not len(pairs):
        return np.full(images.shape[1], np.nan)
    return ms_ssim(images[pairs[:, 0]], images[pairs[:, 1]]).mean(0)


def nearest_rows(made, real, known, images_of):
    """{name: (made, real)} about the nearest training slice of [N, 4, H, W] each.

    "correlation" is with the nearest, by normalised cross-correlation (privacy.py), and
    "MS-SSIM" to it, means over the sets; "above every real" is the share that is nearer
    to a training slice than any of `real` is.

    Args:
        made, real: generated sets, and real ones that were not trained on.
        known: [M, D] of privacy.describe, of all training slices.
        images_of: rows of `known` -> their images [N, 4, H, W].
    """
    sides = made, real
    found = [privacy.nearest(privacy.describe(x), known) for x in sides]
    highest = found[1].correlation.max()
    return {
        "MS-SSIM": tuple(
            ms_ssim(x, images_of(each.row)).mean()
            for x, each in zip(sides, found, strict=True)
        ),
        "correlation": tuple(each.correlation.mean() for each in found),
        "above every real": tuple(
            (each.correlation > highest).mean() for each in found
        ),
    }
