"""Networks of stage 1 that know the code of a map: EC_f, DC_f, FD_f; and D_f.

The code is a grid of numbers, made by convolutions alone (D26), or with `code_dim` the
paper's: a vector behind dense layers, by the authors' layer tables.
"""

from __future__ import annotations

import math

import tensorflow as tf

from brats_gan import blocks
from brats_gan.blocks import MAKE, Make
from brats_gan.layers import SpectralConv2D

layers = tf.keras.layers

CODE_STRIDE = 8  # pixels of the map a cell of its code (D26)
DENSE_STRIDE = 32  # pixels of the map a cell of what becomes a dense code
MATCHED = 3  # layers of D_f that a rebuilt map is compared in (D30)


def map_code_dim(size: int, code_channels: int, code_dim: int | None = None) -> int:
    """Length of the flat code of a map of this size."""
    return code_dim or (size // CODE_STRIDE) ** 2 * code_channels


def _code_shape(size, code_channels, code_dim):
    """The code as FD_f sees it: the grid that it is, or a dense code as a square."""
    if code_dim is None:
        side = size // CODE_STRIDE
        return side, side, code_channels
    side = math.isqrt(code_dim)
    if side**2 != code_dim:
        raise ValueError(f"code_dim {code_dim} is not the square of a whole number")
    return side, side, 1


def build_map_encoder(
    size: int,
    width: int = 64,
    code_channels: int = 4,
    name: str = "EC_f",
    code_dim: int | None = None,
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds EC_f: map -> mean and log-variance of its code, both [B, D].

    [B, size, size, 1] in {0, 1}; size a multiple of CODE_STRIDE. The code is a grid,
    code_channels numbers in each cell, flattened (D26).

    code_dim: given, the authors' layers, with two more halvings (size a multiple of
    DENSE_STRIDE, at least twice it: the norm leaves nothing of a single pixel) and two
    dense heads of so many numbers.
    """
    x = f = tf.keras.Input((size, size, 1))
    x = blocks.block(x, width, make=make)
    stages = [(2, 2), (4, 3), (6, 2)] + ([(8, 2), (12, 1)] if code_dim else [])
    for filters, count in stages:
        x = blocks.block(x, filters * width, strides=2, make=make)
        for _ in range(count - 1):
            x = blocks.block(x, filters * width, make=make)
    flat = layers.Flatten(dtype="float32")
    if code_dim:
        x = flat(x)

    def head(name, initializer):
        options = {"dtype": "float32", "name": name, "kernel_initializer": initializer}
        if code_dim:
            return layers.Dense(code_dim, **options)(x)
        return layers.Conv2D(code_channels, 1, **options)(x)

    # Of every code the same variance at first, but for the authors' dense layers.
    even = "zeros" if make.initialization == "he_normal" else "glorot_uniform"
    mean, logvar = head("mean", "glorot_uniform"), head("logvar", even)
    if not code_dim:
        mean, logvar = flat(mean), flat(logvar)
    return tf.keras.Model(f, [mean, logvar], name=name)


def build_map_decoder(
    size: int,
    width: int = 64,
    code_channels: int = 4,
    name: str = "DC_f",
    code_dim: int | None = None,
    code_norm: bool = False,
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds DC_f: code -> logit of an edge at each pixel.

    [B, D] -> [B, size, size, 1]. code_dim as of build_map_encoder. code_norm: instance
    norm in every block, as the authors' (D17).
    """
    code = tf.keras.Input((map_code_dim(size, code_channels, code_dim),))
    if code_dim:
        side, filters = size // DENSE_STRIDE, 12
        x = layers.Dense(30 * width)(code)
        x = layers.Dense(side**2 * filters * width)(x)
        stages = [(8, 2), (6, 2), (6, 2), (4, 3), (2, 3)]
    else:
        side, filters = size // CODE_STRIDE, 8
        x, stages = code, [(6, 2), (4, 3), (2, 3)]
    x = layers.Reshape((side, side, filters * width if code_dim else code_channels))(x)
    options = {"norm": code_norm, "make": make}
    x = blocks.block(x, filters * width, **options)
    for filters, count in stages:
        for index in range(count):
            x = blocks.block(x, filters * width, doubled=index == 0, **options)
    x = blocks.block(x, width, **options)
    return tf.keras.Model(code, blocks.output(x, 1, make=make), name=name)


def build_map_discriminator(
    size: int,
    width: int = 64,
    spectral: bool = True,
    name: str = "D_f",
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds D_f, a PatchGAN: map -> patch scores [B, size / 16, size / 16, 1].

    The outputs of the first MATCHED blocks follow the scores, for feature matching
    (D30). spectral: spectral norm and 4 x 4 kernels (D31); False: the authors' layers,
    with instance normalisation, which removes amplitude.
    """
    x = f = tf.keras.Input((size, size, 1))
    features = []
    for index, filters in enumerate((2, 4, 8, 8)):
        if spectral:
            x = blocks.spectral_block(x, filters * width, 4, 2, make)
        else:
            kernel = 3 if index else 5
            x = blocks.leaky_block(x, filters * width, kernel, 2, make=make)
        features.append(layers.Activation("linear", dtype="float32")(x))
    if spectral:
        x = blocks.spectral_block(x, 4 * width, 3, 1, make)
        score = SpectralConv2D(1, 3, dtype="float32")(x)
    else:
        x = blocks.leaky_block(x, 4 * width, 3, 1, make=make)
        score = blocks.scores(x, 1, make=make)
    return tf.keras.Model(f, [score, *features[:MATCHED]], name=name)


def build_map_code_discriminator(
    size: int,
    width: int = 64,
    code_channels: int = 4,
    name: str = "FD_f",
    code_dim: int | None = None,
    code_norm: bool = False,
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds FD_f: code [B, D] -> patch scores, of the grid or the square it is.

    code_dim, code_norm: as of build_map_decoder.
    """
    code = tf.keras.Input((map_code_dim(size, code_channels, code_dim),))
    x = layers.Reshape(_code_shape(size, code_channels, code_dim))(code)
    for filters, kernel, strides in ((2, 7, 1), (2, 7, 1), (2, 5, 1), (4, 5, 2)):
        x = blocks.leaky_block(x, filters * width, kernel, strides, code_norm, make)
    x = blocks.leaky_block(x, 4 * width, 3, 1, code_norm, make)
    return tf.keras.Model(code, blocks.scores(x, 1, make=make), name=name)
