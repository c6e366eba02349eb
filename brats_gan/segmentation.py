"""Lesion components: three ways to find the label in a slice (Section 2.7, Fig. 6).

They guide stage 2 and are trained on their own in stage 4.
"""

import numpy as np

from brats_gan import data, fusion, losses, metrics, networks, runs, spec
from brats_gan.lazy import tf

SCHEMES = ("single", "shared_encoder", "multiple")
NUM_MODALITIES = len(spec.MODALITIES)

INPUT_DROPOUT = 0.1  # Section 3.4


def build(scheme, image_size, width=64):
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
        return {"SEG": networks.build_segmentor(image_size, width, NUM_MODALITIES)}
    raise ValueError(f"unknown scheme {scheme!r}; one of {SCHEMES} or 'four_channel'")


def heaviest_convolution(scheme, image_size, width, batch_size):
    """(images, kernel), shapes of the heaviest convolution of a step.

    Where modalities share a network, it sees four images an example.
    """
    images = NUM_MODALITIES if scheme in ("single", "shared_encoder") else 1
    return networks.heaviest_convolution(image_size, width, images * batch_size)


def segment(nets, x, training=False):
    """label_r: class probabilities of every pixel.

    Args:
        nets: of `build`; the names tell the scheme.
        x: [B, 4, H, W, 1] in [0, 1], in the order of spec.MODALITIES. Only
            four_channel asks that the four show the same slice.

    Returns:
        [B, 4, H, W, 5] float32: a result a modality; [B, 1, H, W, 5] for four_channel.
    """
    shape = tf.shape(x)
    merged = [shape[0] * NUM_MODALITIES, *x.shape[2:4], 1]
    apart = [shape[0], NUM_MODALITIES, *x.shape[2:4], len(spec.LABELS)]
    if "EC_l" in nets:
        code = nets["EC_l"](tf.reshape(x, merged), training=training)
        code = tf.reshape(code, [shape[0], NUM_MODALITIES, *code.shape[1:]])
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
    elif nets["SEG"].inputs[0].shape[-1] == NUM_MODALITIES:
        channels = tf.concat(tf.unstack(x, axis=1), -1)
        logits = nets["SEG"](channels, training=training)[:, None]
    else:
        logits = nets["SEG"](tf.reshape(x, merged), training=training)
        logits = tf.reshape(logits, apart)
    return tf.nn.softmax(logits)


def make_train_step(
    nets, optimizers, label_loss="weighted", dropout=INPUT_DROPOUT, augment=False
):
    """Returns step(batch, seed) -> {"segmentation": scalar}: L_seg (Section 2.7).

    Args:
        nets: of `build`.
        optimizers: {"segmentation": ...}, built.
        label_loss: a name in losses.LABEL_LOSSES (D12).
        dropout: share of input pixels set to 0.
        augment: random scale, rotation, translation and flip (Section 3.3).
    """
    variables = [v for net in nets.values() for v in net.trainable_variables]
    loss = losses.LABEL_LOSSES[label_loss]

    @tf.function(autograph=False)  # half the time of tracing
    def train_step(batch, seed):
        x, label = batch["x"], batch["label"]
        move_seed, drop_seed = tf.unstack(
            tf.random.experimental.stateless_split(seed, 2)
        )
        if augment:
            channels = tf.concat(tf.unstack(x, axis=1), -1)
            channels, label = fusion.transform_pair(channels, label, move_seed)
            x = tf.stack(tf.split(channels, NUM_MODALITIES, -1), 1)
        if dropout:
            x = tf.nn.experimental.stateless_dropout(x, dropout, drop_seed)
        with tf.GradientTape(persistent=True) as tape:
            probabilities = segment(nets, x, training=True)
            shape = tf.shape(probabilities)[:-1]
            label = tf.broadcast_to(label[:, None], shape)
            named = {"segmentation": loss(label, probabilities)}
        runs.update(optimizers, tape, named, {"segmentation": variables})
        return named

    return train_step


def score(find, slices, whole_subjects=True):
    """Scores of every slice, as the paper, and of every subject, as the field (D13).

    Args:
        find: x [b, 4, H, W, 1] -> labels [b, M, H, W], M as in `segment`.
        slices: data.Slices to score on.
        whole_subjects: False where the slices of a volume do not belong together.

    Returns:
        {"by_slice": scores, "by_subject": scores or None}. Scores are means over slices
        or subjects of metrics.all_scores, {modality: {name: value}}, and under "mean"
        their mean over the modalities. four_channel has one answer, "all".
    """
    # BraTS is at 1 mm, and a slice shows spec.CROP of them.
    pixel = spec.CROP / slices.image_size
    by_slice, volumes = [], {}
    for x, labels, subjects in data.in_order(slices, 16):
        found = find(x).numpy()  # [b, M, H, W]
        for label, answers, subject in zip(labels, found, subjects, strict=True):
            by_slice.append(_scores(label, answers, (pixel, pixel)))
            volumes.setdefault(int(subject), []).append((label, answers))
    scores = {"by_slice": _mean(by_slice), "by_subject": None}
    if whole_subjects:
        by_subject = []
        for pairs in volumes.values():
            label = np.stack([pair[0] for pair in pairs])  # [S, H, W]
            answers = np.stack([pair[1] for pair in pairs], 1)  # [M, S, H, W]
            by_subject.append(_scores(label, answers, (1.0, pixel, pixel)))
        scores["by_subject"] = _mean(by_subject)
    return scores


def _scores(label, answers, spacing_mm):
    names = spec.MODALITIES if len(answers) == NUM_MODALITIES else ("all",)
    return {
        name: metrics.all_scores(label, answer, spacing_mm)
        for name, answer in zip(names, answers, strict=True)
    }


def _mean(listed):
    """Means over a list of {modality: scores}, and over the modalities."""
    means = {name: metrics.mean_scores([s[name] for s in listed]) for name in listed[0]}
    return {**means, "mean": metrics.mean_scores(list(means.values()))}


def endpoint(nets, image_size):
    """(function, signature) of the SavedModel's `segment`.

    images [B, H, W, 4] in [0, 1] -> label [B, M, H, W] int32 and probabilities
    [B, M, H, W, 5]; M as in `segment`.
    """

    def segment_images(images):
        x = tf.stack(tf.split(images, NUM_MODALITIES, -1), 1)
        probabilities = segment(nets, x)
        label = tf.argmax(probabilities, -1, tf.int32)
        return {"label": label, "probabilities": probabilities}

    shape = [None, image_size, image_size, NUM_MODALITIES]
    return segment_images, [tf.TensorSpec(shape, tf.float32, name="images")]
