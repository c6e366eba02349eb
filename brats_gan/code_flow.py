"""CF_f: carries codes drawn from a Gaussian to where codes of maps lie (D52).

Codes of training maps have a mean and a covariance, and a Gaussian with both (D25) is
where drawn codes begin. But they do not fill it: an outline that lies here in one
brain and there in another is, half way between their codes, in neither place, and is
drawn open. CF_f is a flow: trained by rectified flow, it says at each time in [0, 1]
in which direction a drawn code lies from there that belongs to a map. At time 0 the
code is the Gaussian's, at time 1 it is as those of maps are. Untrained it says 0, and
codes stay where they were drawn.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from brats_gan import runs

layers = tf.keras.layers

WIDTH = 48  # channels at full size of the grid, twice and four times as many below
GROUPS = 8  # of channels that are normalised together
OF_TIME = 64  # sines and cosines that tell CF_f the time
FASTEST = 1000.0  # radians a unit of time
JUMPS = 8  # from time 0 to 1, of equal length
BATCH = 24  # codes a step
RATE = 5e-4


class TimeFeatures(layers.Layer):
    """Sines and cosines of times: [B] in [0, 1] -> [B, OF_TIME]."""

    def call(self, time: tf.Tensor) -> tf.Tensor:
        rates = np.exp(np.linspace(0.0, math.log(FASTEST), OF_TIME // 2))
        angles = tf.cast(time, tf.float32)[:, None] * rates.astype(np.float32)
        return tf.concat([tf.sin(angles), tf.cos(angles)], -1)


class Places(layers.Layer):
    """Adds what is learnt of each place: [B, h, w, C] -> the same shape.

    Brains lie alike, so CF_f may know where it is.
    """

    def build(self, input_shape: tf.TensorShape | tuple[int | None, ...]) -> None:
        shape = (1, *input_shape[1:])
        self.place = self.add_weight(name="place", shape=shape, initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(tf.convert_to_tensor(self.place), x.dtype)


def build(side: int, channels: int, width: int = WIDTH) -> tf.keras.Model:
    """Builds CF_f: codes at a time -> their direction, [B, D] and [B] -> [B, D].

    Args:
        side: of the grid of the code, a multiple of 4; D is side * side * channels.
        channels: of a cell of the grid.
        width: channels of the first convolution, a multiple of GROUPS.
    """
    code = tf.keras.Input((side * side * channels,), name="code")
    time = tf.keras.Input((), name="time")
    when = TimeFeatures(dtype="float32")(time)
    for _ in range(2):
        when = layers.Dense(2 * width, activation="silu")(when)

    def normalised(x):
        return layers.GroupNormalization(GROUPS, dtype="float32")(x)

    def block(x, filters):
        if x.shape[-1] != filters:
            x = layers.Conv2D(filters, 1)(x)
        y = layers.Activation("silu")(normalised(x))
        y = normalised(layers.Conv2D(filters, 3, padding="same")(y))
        gain, offset = (
            layers.Reshape((1, 1, filters))(
                layers.Dense(filters, kernel_initializer="zeros")(when)
            )
            for _ in range(2)
        )
        y = layers.Add()([y, layers.Multiply()([y, gain]), offset])
        y = layers.Activation("silu")(y)
        # Zeros: a block begins as the identity.
        y = layers.Conv2D(filters, 3, padding="same", kernel_initializer="zeros")(y)
        return layers.Add()([x, y])

    def halved(x, filters):
        return Places()(layers.Conv2D(filters, 3, strides=2, padding="same")(x))

    x = layers.Reshape((side, side, channels))(code)
    first = Places()(layers.Conv2D(width, 3, padding="same")(x))
    full = block(first, width)
    half = block(halved(full, 2 * width), 2 * width)
    x = halved(half, 4 * width)
    for _ in range(3):
        x = block(x, 4 * width)
    x = layers.Concatenate()([layers.UpSampling2D()(x), half])
    for _ in range(2):
        x = block(x, 2 * width)
    x = block(layers.Concatenate()([layers.UpSampling2D()(x), full]), width)
    x = block(layers.Concatenate()([x, first]), width)
    x = layers.Activation("silu")(normalised(x))
    x = layers.Conv2D(
        channels, 3, padding="same", kernel_initializer="zeros", dtype="float32"
    )(x)
    direction = layers.Reshape((side * side * channels,), dtype="float32")(x)
    return tf.keras.Model([code, time], direction, name="CF_f")


def carry(net: tf.keras.Model, code: tf.Tensor) -> tf.Tensor:
    """Codes of the Gaussian to where codes of maps lie, in JUMPS jumps.

    [B, D] in units in which every number has mean 0 and variance 1, float32 -> the
    same.
    """
    if net not in _CARRIES:
        _CARRIES[net] = _traced(weakref.ref(net), code.shape[-1])
    return _CARRIES[net](code)


# Of each CF_f, traced once, for an eager jump takes longer than its arithmetic and an
# export has three endpoints; gone with the network.
_CARRIES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _traced(net, dim):
    """`carry` of the network that a weak reference is of, as a function of codes."""

    def jump(k, code):
        time = tf.fill([tf.shape(code)[0]], tf.cast(k, tf.float32) / JUMPS)
        direction = net()([code, time], training=False)
        return k + 1, code + tf.cast(direction, tf.float32) / JUMPS

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, dim])])
    def all_jumps(code):
        begun = tf.constant(0), code
        return tf.while_loop(lambda k, _: k < JUMPS, jump, begun)[1]

    return all_jumps


def scale(factor: np.ndarray) -> np.ndarray:
    """Sd of each number of a code, [D], by the factor [D, D] of their covariance."""
    return np.sqrt(np.square(factor).sum(1)).astype(np.float32)


def make_train_step(
    net: tf.keras.Model,
    optimizer: tf.keras.optimizers.Optimizer,
    means: np.ndarray,
    sds: np.ndarray,
    mean: np.ndarray,
    factor: np.ndarray,
    batch_size: int = BATCH,
) -> Callable:
    """Returns step(batch, seed) -> {"flow": scalar}, one update of CF_f.

    The loss is |CF_f((1 - t) g + t c, t) - (c - g)|^2 with g of the Gaussian and c a
    code of a training map, paired at random (rectified flow).

    Args:
        net: CF_f.
        optimizer: built for its variables.
        means, sds: [N, D], of the codes of N training maps.
        mean, factor: [D] and [D, D], of the Gaussian, see structural.Fit.
        batch_size: codes a step; which they are is drawn by the seed alone.
    """
    unit = scale(factor)
    centred, spread = tf.constant((means - mean) / unit), tf.constant(sds / unit)
    whitened = tf.constant((factor / unit[:, None]).T)
    count, dim = centred.shape

    @tf.function(autograph=False)
    def step(batch, seed):
        del batch  # of numbers of steps; the codes are here
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        rows = tf.random.stateless_uniform([batch_size], seeds[0], 0, count, tf.int32)
        shape = [batch_size, dim]
        noise = tf.random.stateless_normal(shape, seeds[1])
        end = tf.gather(centred, rows) + tf.gather(spread, rows) * noise
        start = tf.matmul(tf.random.stateless_normal(shape, seeds[2]), whitened)
        # Most times near the middle, where directions are hardest to tell.
        time = tf.sigmoid(tf.random.stateless_normal([batch_size], seeds[3]))
        part = time[:, None]
        with tf.GradientTape(persistent=True) as tape:
            said = net([(1.0 - part) * start + part * end, time], training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(said, tf.float32) - (end - start)))
        variables = net.trainable_variables
        return runs.update(
            {"flow": optimizer}, tape, {"flow": loss}, {"flow": variables}
        )

    return step
