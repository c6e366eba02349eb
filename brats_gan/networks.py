"""Keras builders, one per network symbol of the paper; layer tables as the authors'.

`width` is the paper's base width n (64 there). Code maps are a quarter of the image's
side. Discriminators are PatchGANs. `make` is how layers are made (D11). DC has
conditional instance normalisation (D16) but in its last blocks (D29), SPADE-style
modulation by the label (D19) and by the map (D32), and a style (D33); the
discriminators' spectral norm is D31. Output layers compute in float32 under any
precision policy. The networks of codes of maps are in map_networks.
"""

from __future__ import annotations

import tensorflow as tf

from brats_gan import blocks
from brats_gan.blocks import MAKE, Make
from brats_gan.layers import SpectralConv2D, conditional_instance_norm
from brats_gan.map_networks import (
    CODE_STRIDE,
    DENSE_STRIDE,
    MATCHED,
    build_map_code_discriminator,
    build_map_decoder,
    build_map_discriminator,
    build_map_encoder,
    map_code_dim,
)
from brats_gan.spec import BRATS, Spec

__all__ = [
    "CODE_STRIDE",
    "DENSE_STRIDE",
    "MAKE",
    "MATCHED",
    "Make",
    "build_code_discriminator",
    "build_conditional_decoder",
    "build_decoder",
    "build_discriminator",
    "build_encoder",
    "build_map_code_discriminator",
    "build_map_decoder",
    "build_map_discriminator",
    "build_map_encoder",
    "build_mask",
    "build_segmentor",
    "heaviest_convolution",
    "map_code_dim",
    "num_lesion_maps",
    "num_maps",
]

layers = tf.keras.layers


def build_encoder(
    size: int, width: int = 64, channels: int = 1, name: str = "EC", make: Make = MAKE
) -> tf.keras.Model:
    """Builds EC, EC_R, EC_l and the encoder of MASK: image -> code.

    [B, size, size, channels] -> [B, size / 4, size / 4, 8 * width].
    """
    x = image = tf.keras.Input((size, size, channels))
    x = blocks.block(x, width, make=make)
    x = blocks.block(x, width, make=make)
    x = blocks.block(x, 2 * width, strides=2, make=make)  # size / 2
    x = blocks.block(x, 4 * width, make=make)
    x = blocks.block(x, 4 * width, make=make)
    x = blocks.block(x, 8 * width, strides=2, make=make)  # size / 4
    x = blocks.block(x, 8 * width, make=make)
    return tf.keras.Model(image, x, name=name)


def _decoder_trunk(x, width, block):
    """From a code [B, h, w, .] to features [B, 4h, 4w, width].

    `block(x, filters, level, first, last)` is the convolution block; level counts the
    doublings so far, `first` marks the block that doubles, `last` the last one at its
    resolution.
    """
    x = block(x, 8 * width, 0, False, True)
    for index in range(3):
        x = block(x, 4 * width, 1, index == 0, index == 2)
    for index in range(3):
        x = block(x, 2 * width, 2, index == 0, False)
    return block(x, width, 2, False, True)


def build_decoder(
    code_size: int,
    width: int = 64,
    channels: int = 1,
    activation: str | None = None,
    name: str = "DC_l",
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds DC_l and the decoder of MASK: code -> maps of `channels` channels.

    [B, code_size, code_size, 8 * width] -> [B, 4 * code_size, 4 * code_size, channels].
    """
    code = tf.keras.Input((code_size, code_size, 8 * width))

    def block(x, filters, level, first, last):
        return blocks.block(x, filters, doubled=first, make=make)

    x = _decoder_trunk(code, width, block)
    maps = blocks.output(x, channels, activation, make)
    return tf.keras.Model(code, maps, name=name)


def heaviest_convolution(
    size: int, width: int, images: int
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """(images, kernel), shapes of the heaviest convolution of encoder and decoder.

    It is the one of 4n channels at half of the size, 3x3, which DC_f has too. Blocks of
    2n channels at full size and of 8n at a quarter take as many products, but there are
    fewer; those that double take 8/9 as many. The first of DC has M channels more than
    8n: a little heavier, but no shape to judge a machine by.
    """
    side, channels = size // 2, 4 * width
    return (images, side, side, channels), (3, 3, channels, channels)


def build_segmentor(
    size: int,
    width: int = 64,
    channels: int = 1,
    name: str = "SEG",
    labels: int = BRATS.num_labels,
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds SEG of EC_l and DC_l: [B, size, size, channels] -> logits [..., L]."""
    image = tf.keras.Input((size, size, channels))
    code = build_encoder(size, width, channels, name="EC_l", make=make)(image)
    logits = build_decoder(size // 4, width, labels, make=make)(code)
    return tf.keras.Model(image, logits, name=name)


def build_mask(
    size: int, width: int = 64, name: str = "MASK", make: Make = MAKE
) -> tf.keras.Model:
    """Builds MASK: map -> probability of being outside the brain.

    [B, size, size, 1] -> [B, size, size, 1] in [0, 1].
    """
    f = tf.keras.Input((size, size, 1))
    code = build_encoder(size, width, 1, name="EC_MASK", make=make)(f)
    decoder = build_decoder(size // 4, width, 1, "sigmoid", name="DC_MASK", make=make)
    background = decoder(code)
    return tf.keras.Model(f, background, name=name)


def _conditional_block(
    x, filters, condition, maps, norm=True, doubled=False, style=None, make=MAKE
):
    """Conv 3x3, conditional instance normalisation (D16), SPADE-style modulation, ReLU.

    condition: [B, M] one-hot, or None for a gain and offset that all modalities share.
    maps: [B, h, w, .] or None; of these, 3x3 convolutions compute a gain and offset for
    every pixel (D19).
    style: [B, .] or None; given, it adds to gain and offset of the image (D33).
    norm: False leaves the instance norm out (D29).
    doubled: the image is enlarged twofold before the convolution.
    """
    bias = condition is None and not norm
    x = blocks.conv(x, filters, bias=bias, doubled=doubled, make=make)
    if condition is not None:
        per_modality = {"use_bias": False, "dtype": "float32"}
        gain = layers.Dense(filters, kernel_initializer="ones", **per_modality)
        offset = layers.Dense(filters, kernel_initializer="zeros", **per_modality)
        gain, offset = gain(condition), offset(condition)
        if style is not None:
            # Zero weights at the start, as for the maps below.
            by_style = {"kernel_initializer": "zeros", **per_modality}
            more_gain = layers.Dense(filters, **by_style)(style)
            gain = layers.Add(dtype="float32")([gain, more_gain])
            more_offset = layers.Dense(filters, **by_style)(style)
            offset = layers.Add(dtype="float32")([offset, more_offset])
        if norm:
            x = conditional_instance_norm()([x, gain, offset])
        else:
            everywhere = layers.Reshape((1, 1, filters), dtype="float32")
            x = layers.Multiply()([x, everywhere(gain)])
            x = layers.Add()([x, everywhere(offset)])
    elif norm:
        x = blocks.norm_layer(make)(x)
    if maps is not None:
        # Zero weights at the start: maps change nothing until this is trained.
        by_pixel = {"padding": "same", "kernel_initializer": "zeros"}
        gain = layers.Conv2D(filters, 3, **by_pixel)(maps)
        offset = layers.Conv2D(filters, 3, **by_pixel)(maps)
        scaled = layers.Multiply(dtype="float32")([x, gain])
        x = layers.Add(dtype="float32")([x, scaled, offset])
    return blocks.relu(make)(x)


def build_conditional_decoder(
    code_size: int,
    width: int = 64,
    conditional_norm: bool = True,
    label_modulation: bool = True,
    map_modulation: bool = True,
    style_numbers: int = 0,
    name: str = "DC",
    spec: Spec = BRATS,
    full_size_norm: bool = False,
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds DC: code, modality and maps -> MRI slice of that modality.

    The modality enters as a one-hot map beside the code (the paper) and by conditional
    instance normalisation in every block (D16); the maps of the lesion (D19) and the
    structural map (D32) by SPADE-style modulation in the last block of the last two
    resolutions and at the output; the style in every block (D33). Blocks at the image's
    size have no norm (D29), unless full_size_norm.

    Inputs: code [B, code_size, code_size, 8 * width]; condition [B, M] one-hot; maps
    [B, size, size, N], where size = 4 * code_size and N is num_maps of the two
    switches; style [B, M * style_numbers], where that is not 0 (see multimodal.decode).
    Output: [B, size, size, 1] in [0, 1].
    """
    size = 4 * code_size
    code = tf.keras.Input((code_size, code_size, 8 * width), name="code")
    condition = tf.keras.Input((spec.num_modalities,), name="condition")
    inputs = [code, condition]
    count = num_maps(label_modulation, map_modulation, spec)
    by_level, style = {}, None
    if count:
        maps = tf.keras.Input((size, size, count), name="maps")
        by_level = {1: layers.AveragePooling2D(2)(maps), 2: maps}
        inputs.append(maps)
    if style_numbers:
        style = tf.keras.Input((spec.num_modalities * style_numbers,), name="style")
        inputs.append(style)

    def block(x, filters, level, first, last):
        of_modality = condition if conditional_norm else None
        modulation = by_level.get(level) if last else None
        norm = full_size_norm or level < 2
        return _conditional_block(
            x, filters, of_modality, modulation, norm, first, style, make
        )

    beside = layers.Reshape((1, 1, spec.num_modalities))(condition)
    beside = layers.UpSampling2D(code_size)(beside)
    x = layers.Concatenate()([code, beside])
    x = _decoder_trunk(x, width, block)
    logits = blocks.output(x, 1, make=make)
    if count:
        # A 1x1 convolution adds the intensity of each class to the output; it takes the
        # pixel alone, since rims are one or two pixels from what they enclose.
        straight = layers.Conv2D(1, 1, kernel_initializer="zeros", dtype="float32")
        logits = layers.Add(dtype="float32")([logits, straight(maps)])
    image = layers.Activation("sigmoid", dtype="float32")(logits)
    return tf.keras.Model(inputs, image, name=name)


def num_lesion_maps(spec: Spec = BRATS) -> int:
    """How many maps the lesion has: one for each class and modality (D19)."""
    return (spec.num_labels - 1) * spec.num_modalities


def num_maps(label_modulation: bool, map_modulation: bool, spec: Spec = BRATS) -> int:
    """How many maps modulate DC: those of the lesion (D19) and f (D32)."""
    return num_lesion_maps(spec) * bool(label_modulation) + bool(map_modulation)


def build_discriminator(
    size: int,
    width: int = 64,
    categories: int = BRATS.num_modalities,
    spectral: bool = True,
    name: str = "D",
    make: Make = MAKE,
) -> tf.keras.Model:
    """Builds D, a PatchGAN: slice -> real/fake scores and category scores of patches.

    [B, size, size, 1] -> [B, size / s, size / s, 1], [B, size / s, size / s,
    categories]. categories is 1 for the paper's regression (D10).

    spectral: spectral norm in the trunk and the score, 4 x 4 kernels at stride 2, which
    cover all pixels alike, and s = 8 (D31); False: the authors' layers, s = 16, each
    with instance normalisation.
    """
    x = image = tf.keras.Input((size, size, 1))
    if spectral:
        for filters in (1, 2, 4):
            x = blocks.spectral_block(x, filters * width, 4, 2, make)
        x = blocks.spectral_block(x, 4 * width, 3, 1, make)
        y = blocks.spectral_block(x, width, 3, 1, make)
        score = SpectralConv2D(1, 3, dtype="float32", name="score")(y)
    else:
        for filters, kernel in ((1, 5), (1, 5), (2, 3), (2, 3)):
            x = blocks.leaky_block(x, filters * width, kernel, 2, make=make)
        y = blocks.leaky_block(x, width, 3, 1, make=make)
        score = blocks.scores(y, 1, "score", make)
    y = blocks.leaky_block(x, width, 3, 1, make=make)
    category = blocks.scores(y, categories, "category", make)
    return tf.keras.Model(image, [score, category], name=name)


def build_code_discriminator(
    code_size: int, width: int = 64, name: str = "FD", make: Make = MAKE
) -> tf.keras.Model:
    """Builds FD: code [B, code_size, code_size, 8 * width] -> patch scores."""
    x = code = tf.keras.Input((code_size, code_size, 8 * width))
    for kernel, strides in ((7, 2), (5, 2), (3, 1), (3, 1)):
        x = blocks.leaky_block(x, width, kernel, strides, make=make)
    return tf.keras.Model(code, blocks.scores(x, 1, make=make), name=name)
