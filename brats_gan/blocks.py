"""Convolution blocks that the networks are built of, and what is chosen about them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from brats_gan.layers import ResizeConv2D, SpectralConv2D, instance_norm

layers = tf.keras.layers

# How weights begin (D11), see `kernel_initializer`.
INITIALIZATIONS = ("he_normal", "mean_filter")


class Make(NamedTuple):
    """How the layers of all networks are made (D11); each is a flag."""

    output_norm: bool = False  # instance norm on output convolutions, as the authors'
    initialization: str = "he_normal"  # or "mean_filter", the authors'
    # LeakyReLU(0.2) in discriminators, ReLU elsewhere. False: ReLU up to 100 in all, as
    # what the authors' code comes to.
    leaky_relu: bool = True


MAKE = Make()


def kernel_initializer(
    make: Make, kernel: int, channels: int, judges: bool = False
) -> str | tf.keras.initializers.Initializer:
    """How a convolution's weights begin.

    "he_normal", or the authors': a mean over all that the filter sees, with noise of
    1e-6; in discriminators N(0, 0.02). The filters of a layer then begin alike, and
    only the gains of the norms, N(1, 0.02), tell its channels apart.

    Args:
        make: Make.
        kernel: side of the filter.
        channels: of the input.
        judges: whether it is a discriminator's.
    """
    if make.initialization == "he_normal":
        return "he_normal"
    if make.initialization != "mean_filter":
        raise ValueError(
            f"unknown initialization {make.initialization!r}; one of {INITIALIZATIONS}"
        )
    if judges:
        return tf.keras.initializers.RandomNormal(0.0, 0.02)
    return tf.keras.initializers.RandomNormal(1.0 / (kernel**2 * channels), 1e-6)


def norm_layer(make: Make = MAKE) -> tf.keras.layers.Layer:
    """Instance norm whose gains begin at 1, or as the authors' at N(1, 0.02)."""
    if make.initialization == "he_normal":
        return instance_norm()
    return instance_norm(
        gamma_initializer=tf.keras.initializers.RandomNormal(1.0, 0.02)
    )


def relu(make: Make = MAKE) -> tf.keras.layers.Layer:
    """The activation of all networks but discriminators."""
    return layers.ReLU() if make.leaky_relu else layers.ReLU(100.0)


def _judging(make):
    """The activation of discriminators."""
    return layers.LeakyReLU(0.2) if make.leaky_relu else layers.ReLU(100.0)


def conv(
    x: tf.Tensor,
    filters: int,
    kernel: int = 3,
    strides: int = 1,
    bias: bool = False,
    dtype: str | None = None,
    name: str | None = None,
    doubled: bool = False,
    make: Make = MAKE,
    judges: bool = False,
) -> tf.Tensor:
    """A convolution, [B, h, w, .] -> [B, h / strides, w / strides, filters].

    doubled: the image is enlarged twofold first, and the kernel is 3. A convolution
    before a norm needs no bias: the norm takes it away again.
    """
    options = {
        "kernel_initializer": kernel_initializer(make, kernel, x.shape[-1], judges),
        "dtype": dtype,
        "name": name,
    }
    if doubled:
        return ResizeConv2D(filters, use_bias=bias, **options)(x)
    return layers.Conv2D(filters, kernel, strides, "same", use_bias=bias, **options)(x)


def block(
    x: tf.Tensor,
    filters: int,
    strides: int = 1,
    norm: bool = True,
    doubled: bool = False,
    make: Make = MAKE,
) -> tf.Tensor:
    """Conv 3x3, instance norm, ReLU; doubled: the image is enlarged twofold first."""
    x = conv(x, filters, strides=strides, bias=not norm, doubled=doubled, make=make)
    if norm:
        x = norm_layer(make)(x)
    return relu(make)(x)


def spectral_block(
    x: tf.Tensor, filters: int, kernel: int, strides: int, make: Make = MAKE
) -> tf.Tensor:
    """Conv with spectral norm, LeakyReLU(0.2): this block keeps amplitude (D31)."""
    initializer = kernel_initializer(make, kernel, x.shape[-1], judges=True)
    x = SpectralConv2D(filters, kernel, strides, kernel_initializer=initializer)(x)
    return _judging(make)(x)


def leaky_block(
    x: tf.Tensor,
    filters: int,
    kernel: int,
    strides: int,
    norm: bool = True,
    make: Make = MAKE,
) -> tf.Tensor:
    """Conv, instance norm, LeakyReLU(0.2): the block of the discriminators."""
    x = conv(x, filters, kernel, strides, bias=not norm, make=make, judges=True)
    if norm:
        x = norm_layer(make)(x)
    return _judging(make)(x)


def output(
    x: tf.Tensor,
    channels: int,
    activation: str | None = None,
    make: Make = MAKE,
) -> tf.Tensor:
    """The last convolution of an image or a map, float32; Make.output_norm is of it."""
    norm = make.output_norm
    x = conv(x, channels, bias=not norm, dtype="float32", make=make)
    if norm:
        x = norm_layer(make)(x)
    if activation is None:
        return x
    return layers.Activation(activation, dtype="float32")(x)


def scores(
    x: tf.Tensor, channels: int, name: str | None = None, make: Make = MAKE
) -> tf.Tensor:
    """The last convolution of a discriminator: bias, no norm, float32."""
    return conv(
        x, channels, bias=True, dtype="float32", name=name, make=make, judges=True
    )
