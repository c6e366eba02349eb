"""Keras builders, one per network symbol of the paper; layer tables as the authors'.

`width` is the paper's base width n (64 there). Code maps are a quarter of the image's
side. Discriminators are PatchGANs. Output convolutions without normalisation, He-normal
weights and a true leaky ReLU in discriminators are D11. DC has conditional instance
normalisation (D16) but in its last blocks (D29), SPADE-style modulation by the label
(D19) and by the map (D32), and a style (D33); the discriminators' spectral norm is D31.
Output layers compute in float32 under any precision policy.
"""

from __future__ import annotations

import tensorflow as tf

from brats_gan.layers import (
    ResizeConv2D,
    SpectralConv2D,
    conditional_instance_norm,
    instance_norm,
)
from brats_gan.spec import BRATS, Spec

layers = tf.keras.layers


def _conv(
    x, filters, kernel=3, strides=1, bias=False, dtype=None, name=None, doubled=False
):
    options = {"kernel_initializer": "he_normal", "dtype": dtype, "name": name}
    if doubled:
        return ResizeConv2D(filters, use_bias=bias, **options)(x)
    return layers.Conv2D(filters, kernel, strides, "same", use_bias=bias, **options)(x)


def _block(x, filters, strides=1, norm=True, doubled=False):
    """Conv 3x3, instance norm, ReLU; doubled: the image is enlarged twofold first."""
    x = _conv(x, filters, strides=strides, bias=not norm, doubled=doubled)
    if norm:
        x = instance_norm()(x)
    return layers.ReLU()(x)


def _spectral_block(x, filters, kernel, strides):
    """Conv with spectral norm, LeakyReLU(0.2): this block keeps amplitude (D31)."""
    x = SpectralConv2D(filters, kernel, strides, kernel_initializer="he_normal")(x)
    return layers.LeakyReLU(0.2)(x)


def _leaky_block(x, filters, kernel, strides, norm=True):
    """Conv, instance norm, LeakyReLU(0.2): the block of the discriminators."""
    x = _conv(x, filters, kernel, strides, bias=not norm)
    if norm:
        x = instance_norm()(x)
    return layers.LeakyReLU(0.2)(x)


def _output(x, channels, activation=None, name=None):
    """The last convolution: bias, no norm, float32."""
    x = _conv(x, channels, bias=True, dtype="float32", name=name)
    if activation is None:
        return x
    return layers.Activation(activation, dtype="float32")(x)


def build_encoder(
    size: int, width: int = 64, channels: int = 1, name: str = "EC"
) -> tf.keras.Model:
    """Builds EC, EC_R, EC_l and the encoder of MASK: image -> code.

    [B, size, size, channels] -> [B, size / 4, size / 4, 8 * width].
    """
    x = image = tf.keras.Input((size, size, channels))
    x = _block(x, width)
    x = _block(x, width)
    x = _block(x, 2 * width, strides=2)  # size / 2
    x = _block(x, 4 * width)
    x = _block(x, 4 * width)
    x = _block(x, 8 * width, strides=2)  # size / 4
    x = _block(x, 8 * width)
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
) -> tf.keras.Model:
    """Builds DC_l and the decoder of MASK: code -> maps of `channels` channels.

    [B, code_size, code_size, 8 * width] -> [B, 4 * code_size, 4 * code_size, channels].
    """
    code = tf.keras.Input((code_size, code_size, 8 * width))

    def block(x, filters, level, first, last):
        return _block(x, filters, doubled=first)

    x = _decoder_trunk(code, width, block)
    return tf.keras.Model(code, _output(x, channels, activation), name=name)


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
) -> tf.keras.Model:
    """Builds SEG of EC_l and DC_l: [B, size, size, channels] -> logits [..., L]."""
    image = tf.keras.Input((size, size, channels))
    code = build_encoder(size, width, channels, name="EC_l")(image)
    logits = build_decoder(size // 4, width, labels)(code)
    return tf.keras.Model(image, logits, name=name)


def build_mask(size: int, width: int = 64, name: str = "MASK") -> tf.keras.Model:
    """Builds MASK: map -> probability of being outside the brain.

    [B, size, size, 1] -> [B, size, size, 1] in [0, 1].
    """
    f = tf.keras.Input((size, size, 1))
    code = build_encoder(size, width, 1, name="EC_MASK")(f)
    background = build_decoder(size // 4, width, 1, "sigmoid", name="DC_MASK")(code)
    return tf.keras.Model(f, background, name=name)


CODE_STRIDE = 8  # pixels of the map a cell of its code (D26)


def map_code_dim(size: int, code_channels: int) -> int:
    """Length of the flat code of a map of this size."""
    return (size // CODE_STRIDE) ** 2 * code_channels


def build_map_encoder(
    size: int, width: int = 64, code_channels: int = 4, name: str = "EC_f"
) -> tf.keras.Model:
    """Builds EC_f: map -> mean and log-variance of its code, both [B, code_dim].

    [B, size, size, 1] in {0, 1}; size a multiple of CODE_STRIDE. The code is a grid,
    code_channels numbers in each cell, flattened (D26).
    """
    x = f = tf.keras.Input((size, size, 1))
    x = _block(x, width)
    for filters, blocks in ((2, 2), (4, 3), (6, 2)):
        x = _block(x, filters * width, strides=2)
        for _ in range(blocks - 1):
            x = _block(x, filters * width)

    def head(name, initializer):
        return layers.Conv2D(
            code_channels, 1, dtype="float32", name=name, kernel_initializer=initializer
        )(x)

    flat = layers.Flatten(dtype="float32")
    mean, logvar = flat(head("mean", "glorot_uniform")), flat(head("logvar", "zeros"))
    return tf.keras.Model(f, [mean, logvar], name=name)


def build_map_decoder(
    size: int, width: int = 64, code_channels: int = 4, name: str = "DC_f"
) -> tf.keras.Model:
    """Builds DC_f: code -> logit of an edge at each pixel. No norm layers (D17).

    [B, code_dim] -> [B, size, size, 1].
    """
    side = size // CODE_STRIDE
    code = tf.keras.Input((map_code_dim(size, code_channels),))
    x = layers.Reshape((side, side, code_channels))(code)
    x = _block(x, 8 * width, norm=False)
    for filters, blocks in ((6, 2), (4, 3), (2, 3)):
        for index in range(blocks):
            x = _block(x, filters * width, norm=False, doubled=index == 0)
    x = _block(x, width, norm=False)
    return tf.keras.Model(code, _output(x, 1), name=name)


MATCHED = 3  # layers of D_f that a rebuilt map is compared in (D30)


def build_map_discriminator(
    size: int, width: int = 64, spectral: bool = True, name: str = "D_f"
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
            x = _spectral_block(x, filters * width, 4, 2)
        else:
            x = _leaky_block(x, filters * width, 3 if index else 5, 2)
        features.append(layers.Activation("linear", dtype="float32")(x))
    if spectral:
        x = _spectral_block(x, 4 * width, 3, 1)
        score = SpectralConv2D(1, 3, dtype="float32")(x)
    else:
        score = _output(_leaky_block(x, 4 * width, 3, 1), 1)
    return tf.keras.Model(f, [score, *features[:MATCHED]], name=name)


def build_map_code_discriminator(
    size: int, width: int = 64, code_channels: int = 4, name: str = "FD_f"
) -> tf.keras.Model:
    """Builds FD_f: code [B, code_dim], as the grid that it is -> patch scores."""
    side = size // CODE_STRIDE
    code = tf.keras.Input((map_code_dim(size, code_channels),))
    x = layers.Reshape((side, side, code_channels))(code)
    for filters, kernel, strides in ((2, 7, 1), (2, 7, 1), (2, 5, 1), (4, 5, 2)):
        x = _leaky_block(x, filters * width, kernel, strides, norm=False)
    x = _leaky_block(x, 4 * width, 3, 1, norm=False)
    return tf.keras.Model(code, _output(x, 1), name=name)


def _conditional_block(
    x, filters, condition, maps, norm=True, doubled=False, style=None
):
    """Conv 3x3, conditional instance normalisation (D16), SPADE-style modulation, ReLU.

    condition: [B, M] one-hot, or None for a gain and offset that all modalities share.
    maps: [B, h, w, .] or None; of these, 3x3 convolutions compute a gain and offset for
    every pixel (D19).
    style: [B, .] or None; given, it adds to gain and offset of the image (D33).
    norm: False leaves the instance norm out (D29).
    doubled: the image is enlarged twofold before the convolution.
    """
    x = _conv(x, filters, bias=condition is None and not norm, doubled=doubled)
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
        x = instance_norm()(x)
    if maps is not None:
        # Zero weights at the start: maps change nothing until this is trained.
        by_pixel = {"padding": "same", "kernel_initializer": "zeros"}
        gain = layers.Conv2D(filters, 3, **by_pixel)(maps)
        offset = layers.Conv2D(filters, 3, **by_pixel)(maps)
        scaled = layers.Multiply(dtype="float32")([x, gain])
        x = layers.Add(dtype="float32")([x, scaled, offset])
    return layers.ReLU()(x)


def build_conditional_decoder(
    code_size: int,
    width: int = 64,
    conditional_norm: bool = True,
    label_modulation: bool = True,
    map_modulation: bool = True,
    style_numbers: int = 0,
    name: str = "DC",
    spec: Spec = BRATS,
) -> tf.keras.Model:
    """Builds DC: code, modality and maps -> MRI slice of that modality.

    The modality enters as a one-hot map beside the code (the paper) and by conditional
    instance normalisation in every block (D16); the maps of the lesion (D19) and the
    structural map (D32) by SPADE-style modulation in the last block of the last two
    resolutions and at the output; the style in every block (D33). Blocks at the image's
    size have no norm (D29).

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
        return _conditional_block(
            x, filters, of_modality, modulation, level < 2, doubled=first, style=style
        )

    beside = layers.Reshape((1, 1, spec.num_modalities))(condition)
    beside = layers.UpSampling2D(code_size)(beside)
    x = layers.Concatenate()([code, beside])
    x = _decoder_trunk(x, width, block)
    logits = _output(x, 1)
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
            x = _spectral_block(x, filters * width, 4, 2)
        x = _spectral_block(x, 4 * width, 3, 1)
        y = _spectral_block(x, width, 3, 1)
        score = SpectralConv2D(1, 3, dtype="float32", name="score")(y)
    else:
        for filters, kernel in ((1, 5), (1, 5), (2, 3), (2, 3)):
            x = _leaky_block(x, filters * width, kernel, 2)
        score = _output(_leaky_block(x, width, 3, 1), 1, name="score")
    category = _output(_leaky_block(x, width, 3, 1), categories, name="category")
    return tf.keras.Model(image, [score, category], name=name)


def build_code_discriminator(
    code_size: int, width: int = 64, name: str = "FD"
) -> tf.keras.Model:
    """Builds FD: code [B, code_size, code_size, 8 * width] -> patch scores."""
    x = code = tf.keras.Input((code_size, code_size, 8 * width))
    for kernel, strides in ((7, 2), (5, 2), (3, 1), (3, 1)):
        x = _leaky_block(x, width, kernel, strides)
    return tf.keras.Model(code, _output(x, 1), name=name)
