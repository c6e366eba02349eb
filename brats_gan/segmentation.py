"""Stage 4: lesion components trained on their own, and scored (Section 2.7)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from brats_gan import (
    data,
    fusion,
    lesion_components,
    lesion_metrics,
    losses,
    metrics,
    replicas,
    runs,
)
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec

INPUT_DROPOUT = 0.1  # Section 3.4


def make_train_step(
    nets: dict,
    optimizers: dict,
    label_loss: str = "weighted",
    dropout: float = INPUT_DROPOUT,
    augment: bool = False,
    spec: Spec = BRATS,
) -> Callable:
    """Returns step(batch, seed) -> {"segmentation": scalar}: L_seg (Section 2.7).

    Args:
        nets: of lesion_components.build.
        optimizers: {"segmentation": ...}, built.
        label_loss: a name in losses.LABEL_LOSSES (D12).
        dropout: share of input pixels set to 0.
        augment: random scale, rotation, translation and flip (Section 3.3).
        spec: of the data.
    """
    variables = [v for net in nets.values() for v in net.trainable_variables]
    loss = losses.LABEL_LOSSES[label_loss]

    @tf.function(autograph=False)  # half the time of tracing
    def train_step(batch, seed):
        batch = replicas.own_rows(batch)
        x, label = batch["x"], batch["label"]
        move_seed, drop_seed = tf.unstack(
            tf.random.experimental.stateless_split(seed, 2)
        )
        if augment:
            channels = tf.concat(tf.unstack(x, axis=1), -1)
            channels, label = fusion.transform_pair(channels, label, move_seed)
            x = tf.stack(tf.split(channels, spec.num_modalities, -1), 1)
        if dropout:
            # tf.nn.experimental.stateless_dropout, of all replicas' rows.
            kept = replicas.uniform(tf.shape(x), drop_seed) >= dropout
            x = tf.where(kept, x / (1.0 - dropout), 0.0)
        with tf.GradientTape(persistent=True) as tape:
            logits = lesion_components.logits(nets, x, True, spec)
            label = tf.broadcast_to(label[:, None], tf.shape(logits)[:-1])
            named = {"segmentation": loss(label, logits, spec.label_weights)}
        return runs.update(optimizers, tape, named, {"segmentation": variables}, named)

    return train_step


def score(
    predict: Callable[[np.ndarray], tf.Tensor],
    slices: data.Slices,
    whole_subjects: bool = True,
) -> dict:
    """Scores of every slice, as the paper, and of every subject, as the field (D13).

    Args:
        predict: x [b, M, H, W, 1] -> labels [b, N, H, W], N is M or 1, as in
            lesion_components.segment.
        slices: data.Slices to score on.
        whole_subjects: False where the slices of a volume do not belong together.

    Returns:
        {"by_slice": scores, "by_subject": scores or None}. Scores are means over slices
        or subjects of metrics.all_scores, {modality: {name: value}}, and under "mean"
        their mean over the modalities. four_channel has one prediction, "all". Those of
        subjects have lesion_metrics.scores too, on the slices in range (D38).
    """
    # BraTS is at 1 mm, and a slice shows spec.crop of them.
    spec, pixel = slices.spec, slices.spec.crop / slices.image_size
    by_slice, volumes = [], {}
    for x, labels, subjects in data.in_order(slices, 16):
        predicted = predict(x).numpy()  # [b, N, H, W]
        for label, answers, subject in zip(labels, predicted, subjects, strict=True):
            by_slice.append(_scores(label, answers, (pixel, pixel), spec))
            volumes.setdefault(int(subject), []).append((label, answers))
    scores = {"by_slice": _mean(by_slice), "by_subject": None}
    if whole_subjects:
        by_subject = []
        for pairs in volumes.values():
            label = np.stack([pair[0] for pair in pairs])  # [S, H, W]
            answers = np.stack([pair[1] for pair in pairs], 1)  # [N, S, H, W]
            spacing = 1.0, pixel, pixel
            of_subject = _scores(label, answers, spacing, spec)
            for named, answer in zip(of_subject.values(), answers, strict=True):
                named.update(lesion_metrics.scores(label, answer, spacing, spec))
            by_subject.append(of_subject)
        scores["by_subject"] = _mean(by_subject)
    return scores


def _scores(label, answers, spacing_mm, spec):
    names = spec.modalities if len(answers) == spec.num_modalities else ("all",)
    return {
        name: metrics.all_scores(label, answer, spacing_mm, spec)
        for name, answer in zip(names, answers, strict=True)
    }


def _mean(listed):
    """Means over a list of {modality: scores}, and over the modalities."""
    means = {name: metrics.mean_scores([s[name] for s in listed]) for name in listed[0]}
    return {**means, "mean": metrics.mean_scores(list(means.values()))}
