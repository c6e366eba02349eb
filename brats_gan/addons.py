"""The seam between two TensorFlow generations.

tensorflow-addons 0.23 exists for TensorFlow 2.13-2.15 only. Where it is installed its
image operations are used; elsewhere TensorFlow's own. Both give equal numbers
(tests/test_addons.py); no other module knows which one is at work.
"""

from __future__ import annotations

import warnings

import numpy as np
import tensorflow as tf


def _import_addons():
    """Returns tensorflow_addons, or None where it is missing or cannot work."""
    version = tuple(int(part) for part in tf.__version__.split(".")[:2])
    if version >= (2, 16):  # Keras 3, on which the import fails halfway
        return None
    with warnings.catch_warnings():
        # Its end-of-life notice is known: it is the reason for this module.
        warnings.simplefilter("ignore")
        try:
            import tensorflow_addons
        except ImportError:
            return None
    return tensorflow_addons


tfa = _import_addons()


def projective_transform(
    images: tf.Tensor | np.ndarray,
    transforms: tf.Tensor,
    interpolation: str = "bilinear",
    fill_value: float = 0.0,
) -> tf.Tensor:
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


def affine_transforms(
    size: tuple[int | tf.Tensor, int | tf.Tensor],
    angle: float | tf.Tensor = 0.0,
    scale: float | tf.Tensor = 1.0,
    shift_y: float | tf.Tensor = 0.0,
    shift_x: float | tf.Tensor = 0.0,
    mirror: float | tf.Tensor = 0.0,
) -> tf.Tensor:
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


def gaussian_blur(images: tf.Tensor, sigma: float = 0.8) -> tf.Tensor:
    """3 x 3 Gaussian blur of [B, H, W, C]; the border is reflected.

    sigma 0.8 pixels is what OpenCV takes for a 3 x 3 kernel.
    """
    if tfa is not None:
        # Its decorator has AutoGraph rewrite it, which takes a second and gains
        # nothing: there are no branches.
        blur = tfa.image.gaussian_filter2d.python_function
        return tf.autograph.experimental.do_not_convert(blur)(images, (3, 3), sigma)
    line = tf.nn.softmax(-(tf.constant([-1.0, 0.0, 1.0]) ** 2) / (2.0 * sigma**2))
    kernel = tf.tensordot(line, line, 0)[:, :, None, None]
    kernel = tf.tile(kernel, [1, 1, images.shape[-1], 1])
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
    return tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")
