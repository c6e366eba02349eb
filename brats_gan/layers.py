"""Layers of this project, and its Adam: Keras' numbers in fewer passes or operations.

They are written in what Keras 2 and 3 have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from brats_gan import replicas

EPSILON = 1e-5  # of the instance norm (the authors' value)


# The two halves of the norm are functions of their own, so that each is traced once for
# a shape and not once for a layer: a fifth of the time until a step is traced.
@tf.function(autograph=False)
def _normalised(x, gamma, beta):
    """(x - mean) / sd * gamma + beta, and what the gradient needs of it."""
    mean = tf.reduce_mean(x, [1, 2], keepdims=True)
    variance = tf.reduce_mean(tf.square(x), [1, 2], keepdims=True) - tf.square(mean)
    # Rounding can take the difference below 0 where a channel is constant.
    inverse = tf.math.rsqrt(tf.maximum(variance, 0.0) + EPSILON)
    gain = inverse * gamma
    return x * gain + (beta - mean * gain), mean, inverse, gain


@tf.function(autograph=False)
def _normalised_gradient(dy, x, mean, inverse, gain):
    """Gradients of x, and of gamma and beta for each image."""
    pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], x.dtype)
    of_offset = tf.reduce_sum(dy, [1, 2], keepdims=True)
    # Along the normalised image: sum of dy * (x - mean) / sd.
    of_gain = tf.reduce_sum(dy * x, [1, 2], keepdims=True) - mean * of_offset
    of_gain *= inverse
    slope = gain * inverse * of_gain / pixels
    dx = dy * gain - x * slope + (mean * slope - gain * of_offset / pixels)
    return dx, of_gain, of_offset


@tf.custom_gradient
def _normalise(x, gamma, beta):
    """(x - mean) / sd * gamma + beta, over the pixels of each channel and image.

    x: [B, H, W, C]; gamma, beta: [C] or [B, 1, 1, C].

    Everything but one product and one sum a pixel is done on [B, 1, 1, C]; the gradient
    is written out because the derived one takes three more passes over the pixels.
    """
    # Without stop_gradient a tape would have the first function derived as well.
    y, *parts = _normalised(*(tf.stop_gradient(t) for t in (x, gamma, beta)))

    def gradient(dy):
        dx, of_gain, of_offset = _normalised_gradient(dy, x, *parts)
        if gamma.shape.rank == 1:
            return dx, *(tf.reduce_sum(t, [0, 1, 2]) for t in (of_gain, of_offset))
        return dx, of_gain, of_offset

    return y, gradient


class InstanceNormalization(tf.keras.layers.Layer):
    """tensorflow-addons' layer of this name in fewer passes over the pixels.

    Equal numbers, and the stage-2 step takes half the time (docs/deviations.md, D20).
    """

    def __init__(self, gamma_initializer: Any = "ones", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma_initializer = tf.keras.initializers.get(gamma_initializer)

    def build(self, input_shape: tf.TensorShape | tuple[int | None, ...]) -> None:
        channels = (input_shape[-1],)
        self.gamma = self.add_weight(
            name="gamma", shape=channels, initializer=self.gamma_initializer
        )
        self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gamma, beta = (tf.convert_to_tensor(v) for v in (self.gamma, self.beta))
        return _normalise(x, gamma, beta)


class ConditionalInstanceNormalization(tf.keras.layers.Layer):
    """Conditional instance normalisation (D16): gain and offset come with the image.

    Called on [x, gain, offset]: [B, H, W, C], [B, C], [B, C] -> [B, H, W, C].
    """

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        x, gain, offset = inputs
        return _normalise(x, gain[:, None, None], offset[:, None, None])


def instance_norm(
    name: str | None = None, gamma_initializer: Any = "ones"
) -> InstanceNormalization:
    """Layer: every channel of every image to mean 0, variance 1 over its pixels.

    [B, H, W, C] -> [B, H, W, C], then a learnt gain and offset a channel. Computed
    in float32, also where the convolutions around it run in bfloat16.
    """
    return InstanceNormalization(gamma_initializer, name=name, dtype="float32")


def conditional_instance_norm(
    name: str | None = None,
) -> ConditionalInstanceNormalization:
    """Layer on [x, gain, offset]: conditional instance normalisation, in float32."""
    return ConditionalInstanceNormalization(name=name, dtype="float32")


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam with one operation a variable, where Keras 2 and 3 have thirty.

    Equal numbers (tests/test_addons.py); the graph of a stage-2 step has a third fewer
    operations and is there in half the time (docs/performance.md). For gradients that
    are dense, without amsgrad.

    With use_ema it keeps Keras' moving averages of the variables, from their values at
    `build` on in both versions of Keras, each beside the update of its variable: a
    variable without a gradient in a step would shift Keras 3's list of averages.
    """

    def build(self, variables: Sequence[tf.Variable]) -> None:
        super().build(variables)
        if self.use_ema and not hasattr(self, "_index_dict"):  # Keras 3: at 0
            averages = self._model_variables_moving_average
            for variable, average in zip(variables, averages, strict=True):
                average.assign(variable)

    def restart(self) -> None:
        """Back to the state of the first step, in the same variables.

        Of an optimizer without averages.
        """
        for variable in (self.iterations, *self._momentums, *self._velocities):
            variable.assign(0 * variable)

    def _update_model_variables_moving_average(self, variables):
        """Nothing: `update_step` has done it."""

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[tf.Tensor, tf.Variable]], **kwargs: Any
    ) -> tf.Variable:
        step = tf.cast(self.iterations, tf.float32) + 1.0
        # Made once for all variables: a graph has three operations for each otherwise.
        self._shared = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        if replicas.several():
            return self._move_own_copies(grads_and_vars)
        return super().apply_gradients(grads_and_vars, **kwargs)

    def _move_own_copies(self, grads_and_vars):
        """In one of several replicas: all move by the same numbers, see replicas.py."""
        rate = self._learning_rate
        rate = rate(self.iterations) if callable(rate) else rate
        for gradient, variable in grads_and_vars:
            if gradient is not None:
                self.update_step(gradient, variable, rate)
        replicas.assign(self.iterations, self.iterations + 1)

    def update_step(
        self,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor | None = None,
    ) -> None:
        if learning_rate is None:  # Keras 2
            learning_rate = self.learning_rate
        if hasattr(self, "_index_dict"):  # Keras 2
            index = self._index_dict[self._var_key(variable)]
        else:
            index = self._get_variable_index(variable)
        var, m, v = (
            replicas.own_copy(each)
            for each in (variable, self._momentums[index], self._velocities[index])
        )
        tf.raw_ops.ResourceApplyAdam(
            var=var.handle,
            m=m.handle,
            v=v.handle,
            lr=tf.cast(learning_rate, var.dtype),
            grad=gradient,
            **self._shared,
        )
        if self.use_ema:
            average = replicas.own_copy(self._model_variables_moving_average[index])
            average.assign_sub((1.0 - self.ema_momentum) * (average - var))


class LossScaledAdam(Adam):
    """Adam on gradients that are `loss_scale` times too large, for float16.

    Small gradients would be 0 in float16, so those of a scaled loss are taken
    (runs.update) and scaled back here, in float32. A step whose gradients are not
    finite is skipped, moments and step count too, and the scale is halved; after
    GROWTH_STEPS finite ones in a row it is doubled. This is what Keras'
    LossScaleOptimizer does, whose interface Keras 2 and 3 do not share. The scale is
    part of a checkpoint, but not of `variables`.
    """

    INITIAL_SCALE = 2.0**15  # as Keras
    GROWTH_STEPS = 2000

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.loss_scale = tf.Variable(self.INITIAL_SCALE, trainable=False)
        # In a row, since the scale changed. int64: others are copied to and from a GPU.
        self.finite_steps = tf.Variable(0, trainable=False, dtype=tf.int64)

    def restart(self) -> None:
        super().restart()
        self.loss_scale.assign(self.INITIAL_SCALE)
        self.finite_steps.assign(0)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[tf.Tensor | None, tf.Variable]],
        **kwargs: Any,
    ) -> tf.Tensor:
        pairs = [(g, v) for g, v in grads_and_vars if g is not None]
        # A power of two: but for what was too small or too large, nothing is rounded.
        pairs = [(g / tf.cast(self.loss_scale, g.dtype), v) for g, v in pairs]
        finite = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(gradient)) for gradient, _ in pairs]
        )

        def move():
            super(LossScaledAdam, self).apply_gradients(pairs, **kwargs)
            steps = self.finite_steps + 1
            grown = steps >= self.GROWTH_STEPS
            replicas.assign(
                self.finite_steps, tf.where(grown, tf.zeros_like(steps), steps)
            )
            scale = self.loss_scale * tf.where(grown, 2.0, 1.0)
            replicas.assign(self.loss_scale, scale)
            return True

        def skip():
            replicas.assign(self.finite_steps, tf.zeros_like(self.finite_steps))
            scale = tf.maximum(self.loss_scale / 2.0, 1.0)
            replicas.assign(self.loss_scale, scale)
            return False

        return tf.cond(finite, move, skip)


# Row and column of each of the four pixels that come of one.
PIXELS = ((0, 0), (0, 1), (1, 0), (1, 1))

# Which of three taps of a larger image each of two taps of the small one stands for, by
# pixel: the first sees its neighbour by one tap and itself by two, the second the other
# way round. [pixel of two, tap of two, tap of three]
ALONG = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])

# Along both sides: [tap, tap, pixel, pixel, tap of three, tap of three].
TAPS = np.einsum("atu,bsv->tsabuv", ALONG, ALONG)


@tf.custom_gradient
def _interleave(x):
    """Four images as one of twice the size: [B, h + 1, w + 1, 4C] -> [B, 2h, 2w, C].

    Pixel (2y + a, 2x + b) is pixel (y + a, x + b) of image 2a + b. The gradient is
    written out because the derived one adds up four images of zeros and a part each.
    """
    height, width = x.shape[1] - 1, x.shape[2] - 1
    images = [
        image[:, a : a + height, b : b + width]
        for image, (a, b) in zip(tf.split(x, 4, -1), PIXELS, strict=True)
    ]

    def gradient(dy):
        parts = tf.split(tf.nn.space_to_depth(dy, 2), 4, -1)
        return tf.concat(
            [
                tf.pad(part, [[0, 0], [a, 1 - a], [b, 1 - b], [0, 0]])
                for part, (a, b) in zip(parts, PIXELS, strict=True)
            ],
            -1,
        )

    return tf.nn.depth_to_space(tf.concat(images, -1), 2), gradient


class ResizeConv2D(tf.keras.layers.Conv2D):
    """A 3x3 convolution of an image made twice as large by repeating pixels.

    [B, h, w, C] -> [B, 2h, 2w, filters], the numbers of UpSampling2D(2) and Conv2D with
    padding "same". Three by three pixels of the larger image are two by two of the
    small one, so each of the four pixels that come of one is a 2x2 convolution with
    weights added up: 16 products where there are 36, and no larger image in between.
    """

    def __init__(self, filters: int, **kwargs: Any) -> None:
        super().__init__(filters, 3, padding="same", **kwargs)

    def compute_output_shape(
        self, input_shape: tf.TensorShape | tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        return (batch, 2 * height, 2 * width, self.filters)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        _, height, width, channels = x.shape
        kernel = tf.convert_to_tensor(self.kernel)
        taps = tf.constant(TAPS, kernel.dtype)
        kernel = tf.einsum("tsabuv,uvio->tsiabo", taps, kernel)
        kernel = tf.reshape(kernel, [2, 2, channels, 4 * self.filters])
        around = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
        y = tf.nn.conv2d(around, kernel, 1, "VALID")  # [B, h + 1, w + 1, 4 * filters]
        y = _interleave(y)
        return y if self.bias is None else y + self.bias


class SpectralConv2D(tf.keras.layers.Conv2D):
    """A convolution divided by its spectral norm (Miyato et al., 2018).

    The norm of the kernel as a matrix [all inputs, filters], by one step of power
    iteration a training call. Only discriminators have this layer: it keeps the scale
    of what it sees, which instance normalisation would take away, and it bounds the
    slope of the scores (D31). Keras' SpectralNormalization writes the divided kernel
    back, so that its gradient leaves the norm out.

    [B, h, w, C] -> [B, h / strides, w / strides, filters]; padding "same".
    """

    def __init__(
        self, filters: int, kernel_size: int, strides: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(filters, kernel_size, strides, padding="same", **kwargs)

    def build(self, input_shape: tf.TensorShape | tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.direction = self.add_weight(
            name="direction",
            shape=(1, self.filters),
            initializer="random_normal",
            trainable=False,
            dtype="float32",
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), tf.float32)
        matrix = tf.reshape(kernel, [-1, self.filters])
        fixed = tf.stop_gradient(matrix)
        # Keras reads variables in the compute precision, whatever theirs is.
        u = tf.cast(tf.convert_to_tensor(self.direction), tf.float32)
        v = tf.math.l2_normalize(tf.matmul(u, fixed, transpose_b=True))
        if training:
            u = tf.math.l2_normalize(tf.matmul(v, fixed))
            replicas.assign(self.direction, u)
        norm = tf.reduce_sum(tf.matmul(v, matrix) * u)
        kernel = tf.cast(kernel / norm, x.dtype)
        y = tf.nn.conv2d(x, kernel, self.strides, "SAME")
        return y if self.bias is None else y + tf.cast(self.bias, y.dtype)
