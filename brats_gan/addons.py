"""The seam between two TensorFlow generations.

tensorflow-addons 0.23 exists for TensorFlow 2.13-2.15 only. Where it is installed its
image operations are used; elsewhere TensorFlow's own. Both give equal numbers, and so
does the instance norm here beside tensorflow-addons' (tests/test_addons.py); no other
module knows which one is at work.
"""

import warnings

import tensorflow as tf

EPSILON = 1e-5  # of the instance norm (the authors' value)


def _import_addons():
    """Returns tensorflow_addons, or None where it is missing or cannot work."""
    version = tuple(int(part) for part in tf.__version__.split(".")[:2])
    if version >= (2, 16):  # Keras 3, on which the import fails halfway
        return None
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the end-of-life notice: known, hence this file
        try:
            import tensorflow_addons
        except ImportError:
            return None
    return tensorflow_addons


tfa = _import_addons()


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

    def build(self, input_shape):
        channels = (input_shape[-1],)
        self.gamma = self.add_weight(name="gamma", shape=channels, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=channels, initializer="zeros")
        super().build(input_shape)

    def call(self, x):
        gamma, beta = (tf.convert_to_tensor(v) for v in (self.gamma, self.beta))
        return _normalise(x, gamma, beta)


class ConditionalInstanceNormalization(tf.keras.layers.Layer):
    """Instance norm whose gain and offset come with the image.

    Called on [x, gain, offset]: [B, H, W, C], [B, C], [B, C] -> [B, H, W, C].
    """

    def call(self, inputs):
        x, gain, offset = inputs
        return _normalise(x, gain[:, None, None], offset[:, None, None])


def instance_norm(name=None):
    """Layer: every channel of every image to mean 0, variance 1 over its pixels.

    [B, H, W, C] -> [B, H, W, C], then a learnt gain and offset a channel. Computed
    in float32, also where the convolutions around it run in bfloat16.
    """
    return InstanceNormalization(name=name, dtype="float32")


def conditional_instance_norm(name=None):
    """Layer on [x, gain, offset]: instance norm with a gain and offset an image."""
    return ConditionalInstanceNormalization(name=name, dtype="float32")


class Adam(tf.keras.optimizers.Adam):
    """Keras' Adam with one operation a variable, where Keras of both kinds has thirty.

    Equal numbers (tests/test_addons.py); the graph of a stage-2 step has a third fewer
    operations and is there in half the time (docs/performance.md). For gradients that
    are dense, without amsgrad.
    """

    def restart(self):
        """Back to the state of the first step, in the same variables."""
        for variable in (self.iterations, *self._momentums, *self._velocities):
            variable.assign(0 * variable)

    def apply_gradients(self, grads_and_vars, **kwargs):
        step = tf.cast(self.iterations, tf.float32) + 1.0
        # Made once for all variables: a graph has three operations for each otherwise.
        self._shared = {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }
        return super().apply_gradients(grads_and_vars, **kwargs)

    def update_step(self, gradient, variable, learning_rate=None):
        if learning_rate is None:  # Keras 2
            learning_rate = self.learning_rate
            index = self._index_dict[self._var_key(variable)]
        else:
            index = self._get_variable_index(variable)
        var, m, v = (
            each if isinstance(each, tf.Variable) else each.value
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


class LossScaledAdam(Adam):
    """Adam on gradients that are `loss_scale` times too large, for float16.

    Small gradients would be 0 in float16, so those of a scaled loss are taken
    (runs.update) and scaled back here, in float32. A step whose gradients are not
    finite is skipped, moments and step count too, and the scale is halved; after
    GROWTH_STEPS finite ones in a row it is doubled. What Keras' LossScaleOptimizer
    does, whose interface Keras 2 and 3 do not share. The scale is part of a checkpoint,
    but not of `variables`.
    """

    INITIAL_SCALE = 2.0**15  # as Keras
    GROWTH_STEPS = 2000

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.loss_scale = tf.Variable(self.INITIAL_SCALE, trainable=False)
        # In a row, since the scale changed. int64: others are copied to and from a GPU.
        self.finite_steps = tf.Variable(0, trainable=False, dtype=tf.int64)

    def restart(self):
        super().restart()
        self.loss_scale.assign(self.INITIAL_SCALE)
        self.finite_steps.assign(0)

    def apply_gradients(self, grads_and_vars, **kwargs):
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
            self.finite_steps.assign(tf.where(grown, tf.zeros_like(steps), steps))
            self.loss_scale.assign(self.loss_scale * tf.where(grown, 2.0, 1.0))
            return True

        def skip():
            self.finite_steps.assign(0)
            self.loss_scale.assign(tf.maximum(self.loss_scale / 2.0, 1.0))
            return False

        return tf.cond(finite, move, skip)


def projective_transform(images, transforms, interpolation="bilinear", fill_value=0.0):
    """Moves each image by its own projective transform.

    Args:
        images: [B, H, W, C], float or uint8.
        transforms: [B, 8], the output-to-input map (a0, a1, a2, b0, b1, b2, c0, c1):
            output pixel (x, y) shows the input at (a0 x + a1 y + a2, b0 x + b1 y + b2).
        interpolation: "bilinear", or "nearest" for labels and masks.
        fill_value: what lies outside the input.
    """
    if tfa is not None:
        return tfa.image.transform(
            images, transforms, interpolation=interpolation, fill_value=fill_value
        )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        interpolation=interpolation.upper(),
        fill_mode="CONSTANT",
        fill_value=fill_value,
    )


def affine_transforms(size, angle=0.0, scale=1.0, shift_y=0.0, shift_x=0.0, mirror=0.0):
    """Transforms [B, 8] that mirror, scale, rotate and translate, in this order.

    Args:
        size: (H, W); everything turns about the centre of the image.
        angle: radians, positive turns the picture counter-clockwise.
        scale: above 1 magnifies.
        shift_y: pixels downwards.
        shift_x: pixels to the right.
        mirror: 1 exchanges left and right, 0 does not.

    Each of the last five is a scalar or [B]; scalars hold for the whole batch.
    """
    angle, scale, shift_y, shift_x, mirror = (
        tf.reshape(tf.cast(value, tf.float32), [-1])
        for value in (angle, scale, shift_y, shift_x, mirror)
    )
    sign = 1.0 - 2.0 * mirror
    a0 = sign * tf.cos(angle) / scale
    a1 = -sign * tf.sin(angle) / scale
    b0 = tf.sin(angle) / scale
    b1 = tf.cos(angle) / scale
    centre_y, centre_x = ((tf.cast(side, tf.float32) - 1.0) / 2.0 for side in size)
    a2 = centre_x - a0 * (centre_x + shift_x) - a1 * (centre_y + shift_y)
    b2 = centre_y - b0 * (centre_x + shift_x) - b1 * (centre_y + shift_y)
    rows = tf.zeros_like(a2 + b2)  # [B], or [1] where all were scalars
    return tf.stack([part + rows for part in (a0, a1, a2, b0, b1, b2, 0.0, 0.0)], 1)


def gaussian_blur(images, sigma=0.8):
    """3 x 3 Gaussian blur of [B, H, W, C]; the border is reflected.

    sigma 0.8 pixels is what OpenCV takes for a 3 x 3 kernel.
    """
    if tfa is not None:
        # Its decorator would have AutoGraph rewrite it: a second, for no branch.
        blur = tfa.image.gaussian_filter2d.python_function
        return tf.autograph.experimental.do_not_convert(blur)(images, (3, 3), sigma)
    line = tf.nn.softmax(-(tf.constant([-1.0, 0.0, 1.0]) ** 2) / (2.0 * sigma**2))
    kernel = tf.tensordot(line, line, 0)[:, :, None, None]
    kernel = tf.tile(kernel, [1, 1, images.shape[-1], 1])
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
    return tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")
