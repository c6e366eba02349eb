"""Lesion components: three schemes that segment lesions in slices (Sec. 2.7, Fig. 6).

They guide stage 2 and are trained on their own in stage 4.
"""

from __future__ import annotations

from brats_gan import networks, signatures
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec

SCHEMES = ("single", "shared_encoder", "multiple")


def build(
    scheme: str,
    image_size: int,
    width: int = 64,
    spec: Spec = BRATS,
    output_norm: bool = False,
    initialization: str = "he_normal",
    leaky_relu: bool = True,
) -> dict:
    """The networks of a scheme, by name.

    single: one SEG for all modalities. shared_encoder: one EC_l, and one DC_l per
    modality. multiple: one SEG per modality. four_channel is not in the paper's text,
    but its code ran it for Table 2: one SEG with the registered modalities as channels.
    output_norm, initialization and leaky_relu are D11, see blocks.Make.
    """
    make = networks.Make(output_norm, initialization, leaky_relu)
    options = {"labels": spec.num_labels, "make": make}
    names, labels = spec.modalities, spec.num_labels
    if scheme == "single":
        return {"SEG": networks.build_segmentor(image_size, width, **options)}
    if scheme == "shared_encoder":
        decoders = {
            f"DC_l_{name}": networks.build_decoder(
                image_size // 4, width, labels, name=f"DC_l_{name}", make=make
            )
            for name in names
        }
        return {
            "EC_l": networks.build_encoder(image_size, width, name="EC_l", make=make),
            **decoders,
        }
    if scheme == "multiple":
        return {
            f"SEG_{name}": networks.build_segmentor(
                image_size, width, name=f"SEG_{name}", **options
            )
            for name in names
        }
    if scheme == "four_channel":
        channels = spec.num_modalities
        segmentor = networks.build_segmentor(image_size, width, channels, **options)
        return {"SEG": segmentor}
    raise ValueError(f"unknown scheme {scheme!r}; one of {SCHEMES} or 'four_channel'")


def heaviest_convolution(
    scheme: str, image_size: int, width: int, batch_size: int, spec: Spec = BRATS
) -> tuple:
    """(images, kernel), shapes of the heaviest convolution of a step.

    Where modalities share a network, each example has as many images.
    """
    images = spec.num_modalities if scheme in ("single", "shared_encoder") else 1
    return networks.heaviest_convolution(image_size, width, images * batch_size)


def segment(nets: dict, x: tf.Tensor, spec: Spec = BRATS) -> tf.Tensor:
    """label_r: class probabilities of every pixel, of trained networks.

    Arguments and shapes as `logits`.
    """
    return tf.nn.softmax(logits(nets, x, spec=spec))


def logits(
    nets: dict, x: tf.Tensor, training: bool = False, spec: Spec = BRATS
) -> tf.Tensor:
    """What the softmax of label_r is taken of, as losses.LABEL_LOSSES want it.

    Args:
        nets: of `build`; the names tell the scheme.
        x: [B, M, H, W, 1] in [0, 1], in the order of spec.modalities. Only
            four_channel needs them to be registered.

    Returns:
        [B, M, H, W, L] float32, one per modality; [B, 1, H, W, L] for four_channel.
    """
    shape = tf.shape(x)
    count = spec.num_modalities
    merged = [shape[0] * count, *x.shape[2:4], 1]
    apart = [shape[0], count, *x.shape[2:4], spec.num_labels]
    if "EC_l" in nets:
        code = nets["EC_l"](tf.reshape(x, merged), training=training)
        code = tf.reshape(code, [shape[0], count, *code.shape[1:]])
        # Networks differ from here on, so there is nothing to batch.
        by_modality = [
            nets[f"DC_l_{name}"](code[:, i], training=training)
            for i, name in enumerate(spec.modalities)
        ]
        return _beside(by_modality)
    if "SEG" not in nets:
        by_modality = [
            nets[f"SEG_{name}"](x[:, i], training=training)
            for i, name in enumerate(spec.modalities)
        ]
        return _beside(by_modality)
    if nets["SEG"].inputs[0].shape[-1] == count:
        channels = tf.concat(tf.unstack(x, axis=1), -1)
        return nets["SEG"](channels, training=training)[:, None]
    return tf.reshape(nets["SEG"](tf.reshape(x, merged), training=training), apart)


def _beside(by_modality):
    """tf.stack(by_modality, 1), each [B, H, W, L], whose gradients go apart.

    With oneDNN, TensorFlow's layout pass joins the gradients of the filters and of the
    bias of a convolution where both come from one operation, whichever of its outputs
    they take. The gradient of tf.stack is one operation with an output a modality: each
    bias would be given the gradient of another's.
    """
    return tf.concat([x[:, None] for x in by_modality], 1)


def endpoint(
    nets: dict, image_size: int, spec: Spec = BRATS, label_loss: str = "weighted"
) -> tuple:
    """(function, signature) of the SavedModel's `segment`.

    images [B, H, W, M] in [0, 1] -> label [B, N, H, W] int32 and probabilities
    [B, N, H, W, L]; N is M, or 1 for four_channel. Other intensities fail. Where
    label_loss trained each class by itself, probabilities of a pixel do not sum to 1.
    """

    def segment_images(images):
        images = signatures.intensities(images)
        x = tf.stack(tf.split(images, spec.num_modalities, -1), 1)
        label_r = logits(nets, x, spec=spec)
        by_class = label_loss == "squared_sigmoid"
        probabilities = (tf.sigmoid if by_class else tf.nn.softmax)(label_r)
        label = tf.argmax(probabilities, -1, tf.int32)
        return {"label": label, "probabilities": probabilities}

    shape = [None, image_size, image_size, spec.num_modalities]
    return segment_images, [tf.TensorSpec(shape, tf.float32, name="images")]
