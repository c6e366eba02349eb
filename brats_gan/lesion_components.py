"""Lesion components: three ways to find the label in a slice (Section 2.7, Fig. 6).

They guide stage 2 and are trained on their own in stage 4.
"""

from __future__ import annotations

from brats_gan import networks, signatures, spec
from brats_gan.lazy import tf

SCHEMES = ("single", "shared_encoder", "multiple")


def build(scheme: str, image_size: int, width: int = 64) -> dict:
    """The networks of a scheme, by name.

    single: one SEG for every modality. shared_encoder: one EC_l, a DC_l a modality.
    multiple: a SEG a modality. four_channel is none of the paper's text, but what its
    code ran for Table 2: one SEG that sees the four registered modalities at once.
    """
    names = spec.MODALITIES
    if scheme == "single":
        return {"SEG": networks.build_segmentor(image_size, width)}
    if scheme == "shared_encoder":
        decoders = {
            f"DC_l_{name}": networks.build_decoder(
                image_size // 4, width, len(spec.LABELS), name=f"DC_l_{name}"
            )
            for name in names
        }
        return {
            "EC_l": networks.build_encoder(image_size, width, name="EC_l"),
            **decoders,
        }
    if scheme == "multiple":
        return {
            f"SEG_{name}": networks.build_segmentor(
                image_size, width, name=f"SEG_{name}"
            )
            for name in names
        }
    if scheme == "four_channel":
        return {"SEG": networks.build_segmentor(image_size, width, spec.NUM_MODALITIES)}
    raise ValueError(f"unknown scheme {scheme!r}; one of {SCHEMES} or 'four_channel'")


def heaviest_convolution(
    scheme: str, image_size: int, width: int, batch_size: int
) -> tuple:
    """(images, kernel), shapes of the heaviest convolution of a step.

    Where modalities share a network, it sees four images an example.
    """
    images = spec.NUM_MODALITIES if scheme in ("single", "shared_encoder") else 1
    return networks.heaviest_convolution(image_size, width, images * batch_size)


def segment(nets: dict, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """label_r: class probabilities of every pixel.

    Args:
        nets: of `build`; the names tell the scheme.
        x: [B, 4, H, W, 1] in [0, 1], in the order of spec.MODALITIES. Only
            four_channel asks that the four show the same slice.

    Returns:
        [B, 4, H, W, 5] float32: a result a modality; [B, 1, H, W, 5] for four_channel.
    """
    shape = tf.shape(x)
    merged = [shape[0] * spec.NUM_MODALITIES, *x.shape[2:4], 1]
    apart = [shape[0], spec.NUM_MODALITIES, *x.shape[2:4], len(spec.LABELS)]
    if "EC_l" in nets:
        code = nets["EC_l"](tf.reshape(x, merged), training=training)
        code = tf.reshape(code, [shape[0], spec.NUM_MODALITIES, *code.shape[1:]])
        # Networks differ from here on, so there is nothing to batch.
        logits = [
            nets[f"DC_l_{name}"](code[:, i], training=training)
            for i, name in enumerate(spec.MODALITIES)
        ]
        logits = tf.stack(logits, 1)
    elif "SEG" not in nets:
        logits = [
            nets[f"SEG_{name}"](x[:, i], training=training)
            for i, name in enumerate(spec.MODALITIES)
        ]
        logits = tf.stack(logits, 1)
    elif nets["SEG"].inputs[0].shape[-1] == spec.NUM_MODALITIES:
        channels = tf.concat(tf.unstack(x, axis=1), -1)
        logits = nets["SEG"](channels, training=training)[:, None]
    else:
        logits = nets["SEG"](tf.reshape(x, merged), training=training)
        logits = tf.reshape(logits, apart)
    return tf.nn.softmax(logits)


def endpoint(nets: dict, image_size: int) -> tuple:
    """(function, signature) of the SavedModel's `segment`.

    images [B, H, W, 4] in [0, 1] -> label [B, M, H, W] int32 and probabilities
    [B, M, H, W, 5]; M as in `segment`. Other intensities fail.
    """

    def segment_images(images):
        images = signatures.intensities(images)
        x = tf.stack(tf.split(images, spec.NUM_MODALITIES, -1), 1)
        probabilities = segment(nets, x)
        label = tf.argmax(probabilities, -1, tf.int32)
        return {"label": label, "probabilities": probabilities}

    shape = [None, image_size, image_size, spec.NUM_MODALITIES]
    return segment_images, [tf.TensorSpec(shape, tf.float32, name="images")]
