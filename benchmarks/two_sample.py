"""Classifier two-sample test: can a small network tell generated from real?

It learns from half of the real and half of the generated and is asked about the other
halves; the subjects of real slices are on one side or the other. The AUC is reported as
it is: .5 is no better than guessing, 1 is told apart at once, and below .5 is chance
too. Beside it stands what the same test says of two sets of real subjects (Lopez-Paz
and Oquab, Revisiting Classifier Two-Sample Tests, 2017).
"""

import functools

import numpy as np
import tensorflow as tf
from scipy import ndimage, stats

from brats_gan import spec

SEEDS = 3  # of weights and of what is in which half
EPOCHS = 12
BATCH = 16  # half of it real
WIDTHS = (8, 16, 32, 32)
RATE = 1e-3
LOOK = (0.5, 0.15)  # mean and sd of a normalised slice inside the brain


def auc(negative, positive):
    """Share of pairs of which the positive has the higher score; ties count half."""
    ranks = stats.rankdata(np.concatenate([negative, positive]))
    above = ranks[len(negative) :].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(negative) * len(positive)))


def halves(groups, rng):
    """Positions of the items [N] in two halves, no group in both: two of int.

    Raises:
        ValueError: there is one group only.
    """
    names = rng.permutation(np.unique(groups))
    if len(names) < 2:
        raise ValueError("one group cannot be divided into two halves")
    return [np.flatnonzero(np.isin(groups, names[start::2])) for start in (0, 1)]


def _classifier(side, channels):
    """[B, side, side, channels] -> [B] logits; float32, which is fast on any CPU."""
    layers = tf.keras.layers
    x = images = tf.keras.Input((side, side, channels), dtype="float32")
    for level, width in enumerate(WIDTHS):
        x = layers.Conv2D(width, 4, 2, "same", dtype="float32")(x)
        if level:  # not before the first: a norm there hides how bright a slice is
            x = layers.LayerNormalization(dtype="float32")(x)
        x = layers.LeakyReLU(0.2, dtype="float32")(x)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    logits = layers.Dense(1, dtype="float32")(x)
    return tf.keras.Model(images, layers.Reshape((), dtype="float32")(logits))


class _Team:
    """SEEDS classifiers that learn side by side, each from its own halves.

    Side by side, because one so small does not keep the cores busy; and made once for
    all the tests of one shape, because tracing takes longer than learning.
    """

    def __init__(self, side, channels):
        self.nets = [_classifier(side, channels) for _ in range(SEEDS)]
        self.variables = [v for net in self.nets for v in net.trainable_variables]
        self.optimizer = tf.keras.optimizers.Adam(RATE)
        self.optimizer.build(self.variables)
        self.start = [
            (v, v.numpy()) for v in [*self.variables, *self.optimizer.variables]
        ]
        shape = (None, side, side, channels)
        signature = [tf.TensorSpec((SEEDS, *shape), tf.float32)]
        self.step = tf.function(
            self._step, signature + [tf.TensorSpec([None], tf.float32)]
        )
        self.score = [
            tf.function(
                functools.partial(net, training=False),
                [tf.TensorSpec(shape, tf.float32)],
            )
            for net in self.nets
        ]

    def _step(self, x, truth):
        with tf.GradientTape() as tape:
            losses = [
                tf.nn.sigmoid_cross_entropy_with_logits(truth, net(each, training=True))
                for net, each in zip(self.nets, tf.unstack(x), strict=True)
            ]
            total = tf.add_n([tf.reduce_mean(loss) for loss in losses])
        gradients = tape.gradient(total, self.variables)
        self.optimizer.apply_gradients(zip(gradients, self.variables, strict=True))

    def restart(self, seed):
        """New weights (He), and an optimiser that remembers nothing."""
        rng = np.random.default_rng(seed)
        for variable, first in self.start:
            variable.assign(first)
        for variable in self.variables:
            shape = tuple(variable.shape)
            if len(shape) > 1:  # not of a bias or a norm
                spread = np.sqrt(2.0 / np.prod(shape[:-1]))
                variable.assign(spread * rng.standard_normal(shape))


_team = functools.lru_cache(maxsize=4)(_Team)


def told_apart(one, other, groups_one, groups_other, seed=0):
    """AUC of telling `other` from `one`, of each of SEEDS classifiers: a list.

    Args:
        one, other: [N, H, W, C] and [M, H, W, C].
        groups_one, groups_other: [N] and [M], what must not be divided: the subject of
            a real slice, the number of a generated one.
        seed: of everything.

    Raises:
        ValueError: a side is of one group only.
    """
    sides = [np.asarray(side, np.float32) for side in (one, other)]
    groups = groups_one, groups_other
    rng = np.random.default_rng(seed)
    team = _team(sides[0].shape[1], sides[0].shape[-1])
    team.restart(seed)
    learnt, asked = [], []  # of each seed: positions of one side and of the other
    for _ in range(SEEDS):
        parts = [halves(each, rng) for each in groups]
        learnt.append([part[0] for part in parts])
        asked.append([part[1] for part in parts])
    seen = np.concatenate([side.reshape(-1, side.shape[-1]) for side in sides])
    centre, spread = seen.mean(0), np.maximum(seen.std(0), 1e-6)
    sides = [(side - centre) / spread for side in sides]
    count = sum(len(each) for each in learnt[0])
    truth = tf.constant(np.repeat([0.0, 1.0], BATCH // 2), tf.float32)
    for _ in range(max(EPOCHS * count // BATCH, 1)):
        batch = [
            np.concatenate(
                [
                    side[rng.choice(each, BATCH // 2)]
                    for side, each in zip(sides, positions, strict=True)
                ]
            )
            for positions in learnt
        ]
        team.step(tf.constant(np.stack(batch)), truth)
    found = []
    for score, positions in zip(team.score, asked, strict=True):
        scores = [
            np.concatenate(
                [
                    score(tf.constant(side[part])).numpy()
                    for part in np.array_split(each, -(-len(each) // 200))
                ]
            )
            for side, each in zip(sides, positions, strict=True)
        ]
        found.append(auc(*scores))
    return found


# --- Copies that say what gives the generated away ------------------------------------


def normalised(images):
    """Every contrast of every slice brought to the mean and sd of LOOK in the brain.

    [N, 4, H, W] -> the same shape; 0 outside the brain, as before. What is left is
    neither the brightness nor the contrast of a scan.
    """
    inside = (images > 0).any(1, keepdims=True)
    count = np.maximum(inside.sum((-2, -1), keepdims=True), 1)
    mean = (images * inside).sum((-2, -1), keepdims=True) / count
    off = (images - mean) * inside
    spread = np.sqrt((off**2).sum((-2, -1), keepdims=True) / count)
    scaled = LOOK[0] + LOOK[1] * off / np.maximum(spread, 1e-6)
    return (scaled * inside).astype(np.float32)


def blurred(images, pixels=1.0):
    """[N, 4, H, W] after a Gaussian blur of that sd: no fine texture is left."""
    return ndimage.gaussian_filter(images, (0, 0, pixels, pixels))


def copies(images):
    """{name: [N, H, W, C]} of sets [N, 4, H, W], as they are shown to the classifier.

    "" is the set itself; then what takes one clue away each, and each contrast alone.
    """
    even = normalised(images)
    shown = {"": images, "normalised": even, "blurred": blurred(images)}
    for channel, name in enumerate(spec.BRATS.modalities):
        shown[f"{name} alone, normalised"] = even[:, channel : channel + 1]
    return {name: np.moveaxis(each, 1, -1) for name, each in shown.items()}
