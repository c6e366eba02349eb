"""Reports on a data set of volumes: neighbouring slices, registration, nearest ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from brats_gan import (
    data,
    neighbours,
    privacy,
    reports,
    structural,
    volume_dataset,
)
from brats_gan.lazy import tf
from brats_gan.spec import Spec

MOST = 20  # real volumes that neighbouring slices are measured on
PER_VOLUME = 10  # slices of a volume that registration is measured on


def _some(slices):
    """At most MOST of the subjects, evenly."""
    return reports.spread(len(slices.names), MOST)


def correlation(slices: data.Slices) -> list[float]:
    """Mean neighbours.correlation of real volumes, of each contrast; NaN where no
    two slices of a subject can be compared."""
    found = [neighbours.correlation(slices.volume(n)[0]) for n in _some(slices)]
    return [_mean(column) for column in np.array(found).T]


def _mean(values):
    """Of what is finite; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _real(slices, beta):
    """Yields what neighbours.scores takes, of real volumes: maps of each contrast."""
    for number in _some(slices):
        images, label = _shown(*slices.volume(number))
        maps = [
            structural.extract(
                {"x": tf.constant(x[..., None]), "label": tf.constant(label)}, beta
            )[0].numpy()[..., 0]
            for x in images
        ]
        yield np.stack(maps), images, label


def _shown(images, label, *more):
    """Without the slices that show no brain, which lie at the ends of the range: none
    of them is like its neighbour, and they have no maps."""
    shows = images.any((0, 2, 3))
    return images[:, shows], label[shows], *(each[shows] for each in more)


def made(
    output_dir: Path,
    ids: Iterable[str],
    image_size: int,
    slices: tuple[int, int],
    spec: Spec,
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields volume_dataset.as_made of the volumes `ids`."""
    for volume_id in ids:
        yield volume_dataset.as_made(output_dir, volume_id, image_size, slices, spec)


def neighbours_report(
    volumes: Iterable[tuple],
    training: data.Slices,
    held_out: data.Slices | None,
    beta: float,
) -> dict[str, dict[str, float | None]]:
    """neighbours.scores of generated volumes beside those of real ones, for JSON.

    Args:
        volumes: of `made`.
        training: of the training subjects.
        held_out: of those held out, or None.
        beta: of Algorithm 1.
    """
    modalities = training.spec.modalities

    def drawn():
        for each, *rest in volumes:
            images, label, maps = _shown(*rest, each)
            yield maps, images, label

    found = {
        "generated": neighbours.scores(drawn(), modalities),
        "training": neighbours.scores(_real(training, beta), modalities),
    }
    if held_out is not None:
        found["held-out"] = neighbours.scores(_real(held_out, beta), modalities)
    return found


def registration_report(
    volumes: Iterable[tuple], training: data.Slices, beta: float
) -> dict:
    """reports.registration_report of slices of volumes."""
    sets = []
    for _, images, _ in volumes:
        by_slice = np.moveaxis(images, 1, 0)
        by_slice = by_slice[by_slice.any((1, 2, 3))]
        sets.append(by_slice[reports.spread(len(by_slice), PER_VOLUME)])
        if sum(map(len, sets)) >= reports.MEASURED:
            break
    return reports.of_registration(np.concatenate(sets), training, beta)


def nearest_report(
    volumes: Iterable[tuple],
    ids: Sequence[str],
    training: data.Slices,
    held_out: data.Slices,
) -> dict:
    """The nearest training subject of every volume, beside those of held-out ones."""

    def described(slices):
        count = len(slices.names)
        return np.stack(
            [privacy.describe_volume(slices.volume(n)[0]) for n in range(count)]
        )

    known = described(training)
    vectors = np.stack([privacy.describe_volume(images) for _, images, _ in volumes])
    found = privacy.nearest(vectors, known)
    real = privacy.nearest(described(held_out), known)
    closest = [
        {
            "id": ids[position],
            "training_subject": training.names[found.row[position]],
            "training_patient": training.patients[found.row[position]],
            "correlation": round(float(found.correlation[position]), 4),
        }
        for position in privacy.closest(found)
    ]
    return {**privacy.summary(found, real, "volumes"), "closest": closest}
