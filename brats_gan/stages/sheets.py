"""Sheets of pictures that stages 2 and 4 show and leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from brats_gan import data, figures, lesion_components, multimodal
from brats_gan.lazy import tf

SHOWN = 4  # rows of a sheet of stage 2
SEGMENTED = 6  # rows of segmentation.png


def largest_first(candidates: tf.Tensor) -> tf.Tensor:
    """Labels to place [B, K, H, W], largest lesions first, for a sheet to show some."""
    area = tf.math.count_nonzero(candidates, [2, 3])
    order = tf.argsort(area, direction="DESCENDING")
    return tf.gather(candidates, order, batch_dims=1)


def draw_generated(
    nets: dict, batch: dict, options: multimodal.Options, path: Path | None = None
) -> np.ndarray:
    """Figure 9 on maps of real slices: map, label, modalities, predicted label."""
    p = multimodal.forward(nets, batch, tf.constant([9, 9]), options)
    images = multimodal.generate(nets, p.f, p.placed, batch["style"], options)
    components = multimodal.lesion_nets(nets)
    predicted = lesion_components.segment(components, images, spec=options.spec)
    # In the last modality: of BraTS FLAIR, which shows all of a lesion.
    predicted = np.argmax(predicted, -1)[:, -1]
    of_modalities = tf.unstack(images[..., 0], axis=1)
    columns = [p.f[..., 0], p.placed, *of_modalities, predicted]
    titles = ["f", "label", *options.spec.modalities, "predicted"]
    rows = list(zip(*(np.asarray(c) for c in columns), strict=True))
    return figures.sheet(rows, titles, path, label_columns=("label", "predicted"))


def draw_translations(
    nets: dict, batch: dict, options: multimodal.Options, path: Path | None = None
) -> np.ndarray:
    """Real slices, reconstructed, translated to every modality, and back (cycle)."""
    label = multimodal.merge(batch["label"][:1])
    x = multimodal.merge(batch["x"][:1])
    style = multimodal.merge(batch["style"][:1])
    f = multimodal.extract(x, label, options)
    modality = multimodal.all_modalities(1, options.spec)

    def decode(code, to, style):
        return multimodal.decode(
            nets, code, to, label, f, style, options, training=False
        )

    code = nets["EC"](x, training=False)
    columns, titles = [x, decode(code, modality, style)], ["x", "x_r"]
    for target, name in enumerate(options.spec.modalities):
        to = tf.fill(modality.shape, target)
        translated = decode(code, to, tf.gather(style, to))
        columns.append(translated)
        titles.append(f"to {name}")
    columns.append(decode(nets["EC"](translated, training=False), modality, style))
    titles.append("and back")
    rows = list(zip(*(np.asarray(c)[..., 0] for c in columns), strict=True))
    return figures.sheet(rows, titles, path, row_titles=options.spec.modalities)


def shown_batch(slices: data.Slices, all_labels: bool = False) -> dict:
    """The batch of a sheet, its largest lesions first."""
    batches = data.multimodal_batches(slices, SHOWN, seed=1, all_labels=all_labels)
    shown = dict(next(iter(batches)))
    shown["candidates"] = largest_first(shown["candidates"])
    return shown


def draw_segmentation(nets: dict, slices: data.Slices, path: Path) -> None:
    """The held-out slices with the largest lesions: images, label, prediction."""
    lesion = [np.count_nonzero(slices.labels([row])) for row in range(len(slices))]
    rows = sorted(np.argsort(lesion)[-40::7])[:SEGMENTED]
    x = slices.intensities(rows)
    predicted = lesion_components.segment(
        nets, tf.constant(x[..., None]), spec=slices.spec
    )
    predicted = np.argmax(predicted, -1)[:, -1]
    label = slices.labels(rows)
    cells = [[*x[i], label[i], predicted[i]] for i in range(len(rows))]
    titles = [*slices.spec.modalities, "label", "predicted"]
    figures.sheet(cells, titles, path, label_columns=("label", "predicted"))
