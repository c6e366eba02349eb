"""CF_f: carries codes drawn from a Gaussian to where codes of maps lie (D52).

Codes of training maps have a mean and a covariance, and a Gaussian with both (D25) is
where drawn codes begin. But they do not fill it: an outline that lies here in one
brain and there in another is, half way between their codes, in neither place, and is
drawn open. CF_f is a flow: trained by rectified flow, it says at each time in [0, 1]
in which direction a drawn code lies from there that belongs to a map. At time 0 the
code is the Gaussian's, at time 1 it is as those of maps are. Untrained it says 0, and
codes stay where they were drawn.

CF_f is told which slice the map is of: its height in the brain and the contrast it was
taken from. Without that the front of a map comes from one height and its back from
another, and nothing is a ventricle.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from brats_gan import runs

layers = tf.keras.layers

WIDTH = 48  # channels at full size of the grid, twice and four times as many below
GROUPS = 8  # of channels that are normalised together
WAVES = 64  # sines and cosines that tell CF_f the time, and the height
OF_TIME, OF_HEIGHT = 1000.0, 100.0  # radians a unit of either, of the fastest wave
JUMPS = 8  # from time 0 to 1, of equal length
BATCH = 24  # codes a step
RATE = 5e-4


class Origin(NamedTuple):
    """Which slices maps are of."""

    height: tf.Tensor  # [B] float32, 0 for the lowest in range, 1 for the highest
    contrast: tf.Tensor  # [B] int32, the modality


class Codes(NamedTuple):
    """Codes of N training maps of S heights."""

    means: np.ndarray  # [N, D]
    sds: np.ndarray  # [N, D]
    heights: np.ndarray  # [N] integers 0..S-1
    contrasts: np.ndarray  # [N] integers


def heights_of(number: np.ndarray | tf.Tensor, count: int) -> tf.Tensor:
    """Integers 0..count-1 as Origin has them: in [0, 1], of a single one 0."""
    return tf.cast(number, tf.float32) / max(count - 1, 1)


def origin_of(noise: tf.Tensor, heights: np.ndarray, num_modalities: int) -> Origin:
    """Which slices maps of noise are of, so that noise alone says all of a map.

    Two directions of the noise, at right angles, say it: of N(0, 1), the share of
    the normal distribution below each is as likely anywhere in [0, 1].

    Args:
        noise: [B, D] of N(0, 1), D even.
        heights: [S], share of training maps at each height, in sum 1.
        num_modalities: each as likely.
    """
    dim = noise.shape[-1]
    sign = np.where(np.arange(dim) % 2, -1.0, 1.0).astype(np.float32)
    along = tf.reduce_sum(noise, 1), tf.reduce_sum(noise * sign, 1)
    share, other = (normal_share(each / math.sqrt(dim)) for each in along)
    below = np.cumsum(heights)[:-1].astype(np.float32)
    number = tf.searchsorted(tf.constant(below), share, side="right")
    return Origin(heights_of(number, len(heights)), among(other, num_modalities))


def normal_share(x: tf.Tensor) -> tf.Tensor:
    """Share of N(0, 1) below x, of any shape."""
    return 0.5 * (1.0 + tf.math.erf(x / math.sqrt(2.0)))


def among(share: tf.Tensor, count: int) -> tf.Tensor:
    """Numbers in [0, 1] -> int32 0..count-1, each as likely."""
    return tf.minimum(tf.cast(share * count, tf.int32), count - 1)


class Waves(layers.Layer):
    """Sines and cosines of numbers: [B] in [0, 1] -> [B, WAVES].

    fastest: radians a unit of the number; the slowest has 1.
    """

    def __init__(self, fastest: float, **of_layer: object) -> None:
        super().__init__(**of_layer)
        self.fastest = fastest

    def call(self, number: tf.Tensor) -> tf.Tensor:
        rates = np.exp(np.linspace(0.0, math.log(self.fastest), WAVES // 2))
        angles = tf.cast(number, tf.float32)[:, None] * rates.astype(np.float32)
        return tf.concat([tf.sin(angles), tf.cos(angles)], -1)

    def get_config(self) -> dict:
        return {**super().get_config(), "fastest": self.fastest}


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


def build(
    side: int, channels: int, num_modalities: int, width: int = WIDTH
) -> tf.keras.Model:
    """Builds CF_f: codes at a time -> their direction.

    Inputs: code [B, D]; time [B]; height [B] and contrast [B, M] one-hot, see Origin.
    Output: [B, D].

    Args:
        side: of the grid of the code, a multiple of 4; D is side * side * channels.
        channels: of a cell of the grid.
        num_modalities: M.
        width: channels of the first convolution, a multiple of GROUPS.
    """
    code = tf.keras.Input((side * side * channels,), name="code")
    time = tf.keras.Input((), name="time")
    height = tf.keras.Input((), name="height")
    contrast = tf.keras.Input((num_modalities,), name="contrast")
    when = layers.Dense(2 * width)(Waves(OF_TIME, dtype="float32")(time))
    of_slice = layers.Concatenate(dtype="float32")(
        [Waves(OF_HEIGHT, dtype="float32")(height), contrast]
    )
    of_slice = layers.Dense(2 * width, activation="silu")(of_slice)
    when = layers.Add()([when, layers.Dense(2 * width)(of_slice)])
    when = layers.Activation("silu")(when)
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
    return tf.keras.Model([code, time, height, contrast], direction, name="CF_f")


def num_modalities_of(net: tf.keras.Model) -> int:
    """M of `build`."""
    return net.inputs[-1].shape[-1]


def carry(net: tf.keras.Model, code: tf.Tensor, origin: Origin) -> tf.Tensor:
    """Codes of the Gaussian to where codes of maps lie, in JUMPS jumps.

    [B, D] in units in which every number has mean 0 and variance 1, float32, and the
    Origin of each -> the same.
    """
    if net not in _CARRIES:
        _CARRIES[net] = _traced(weakref.ref(net), code.shape[-1])
    return _CARRIES[net](code, *origin)


# Of each CF_f, traced once, for an eager jump takes longer than its arithmetic and an
# export has three endpoints; gone with the network.
_CARRIES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _traced(net, dim):
    """`carry` of the network that a weak reference is of, as a function of codes."""

    def all_jumps(code, height, contrast):
        one_hot = tf.one_hot(contrast, num_modalities_of(net()))

        def jump(k, code):
            time = tf.fill([tf.shape(code)[0]], tf.cast(k, tf.float32) / JUMPS)
            direction = net()([code, time, height, one_hot], training=False)
            return k + 1, code + tf.cast(direction, tf.float32) / JUMPS

        begun = tf.constant(0), code
        return tf.while_loop(lambda k, _: k < JUMPS, jump, begun)[1]

    given = tf.TensorSpec([None, dim]), tf.TensorSpec([None])
    signature = [*given, tf.TensorSpec([None], tf.int32)]
    return tf.function(all_jumps, autograph=False, input_signature=signature)


def scale(factor: np.ndarray) -> np.ndarray:
    """Sd of each number of a code, [D], by the factor [D, D] of their covariance."""
    return np.sqrt(np.square(factor).sum(1)).astype(np.float32)


def make_train_step(
    net: tf.keras.Model,
    optimizer: tf.keras.optimizers.Optimizer,
    codes: Codes,
    count_of_heights: int,
    mean: np.ndarray,
    factor: np.ndarray,
    batch_size: int = BATCH,
) -> Callable:
    """Returns step(batch, seed) -> {"flow": scalar}, one update of CF_f.

    The loss is |CF_f((1 - t) g + t c, t) - (c - g)|^2 with g of the Gaussian and c a
    code of a training map, paired at random (rectified flow); CF_f is told of which
    slice c is.

    Args:
        net: CF_f.
        optimizer: built for its variables.
        codes: of training maps.
        count_of_heights: S.
        mean, factor: [D] and [D, D], of the Gaussian, see structural.Fit.
        batch_size: codes a step; which they are is drawn by the seed alone.
    """
    unit = scale(factor)
    centred = tf.constant((codes.means - mean) / unit)
    spread = tf.constant(codes.sds / unit)
    heights = heights_of(codes.heights, count_of_heights)
    contrasts = tf.one_hot(codes.contrasts, num_modalities_of(net))
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
            at = (1.0 - part) * start + part * end
            of_slice = tf.gather(heights, rows), tf.gather(contrasts, rows)
            said = net([at, time, *of_slice], training=True)
            loss = tf.reduce_mean(tf.square(tf.cast(said, tf.float32) - (end - start)))
        variables = net.trainable_variables
        return runs.update(
            {"flow": optimizer}, tape, {"flow": loss}, {"flow": variables}
        )

    return step
