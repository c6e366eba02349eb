"""Reports on a synthetic data set: its registration, and the nearest real slices."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from brats_gan import data, figures, privacy, registration, synthetic_dataset

MEASURED = 200  # sets whose registration is measured, and as many real ones


def spread(count: int, most: int = MEASURED) -> np.ndarray:
    """At most `most` of so many positions, evenly, in order."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def registration_report(
    output_dir: Path, count: int, training: data.Slices | data.LabelPool, beta: float
) -> dict:
    """How well `count` generated sets are registered, beside real ones, for JSON.

    `training` are data.Slices, or data.LabelPool where there are no real ones.
    """
    picked = set(spread(count))
    sets = synthetic_dataset.volumes(output_dir, training.image_size, training.spec)
    made = itertools.chain.from_iterable(images for _, images in sets)
    made = np.stack([x for position, x in enumerate(made) if position in picked])
    return of_registration(made, training, beta)


def of_registration(
    made: np.ndarray, training: data.Slices | data.LabelPool, beta: float
) -> dict:
    """The same of sets [N, M, H, W] in [0, 1]."""
    real = None
    reference = "none: made without --data_dir; read the scores beside those of the "
    reference += "generated sets with their contrasts shifted"
    if isinstance(training, data.Slices):
        real = training.intensities(spread(len(training)))
        reference = "slices of training subjects; they must be registered for this to "
        reference += "mean anything"
    return {
        "GeneratedSets": len(made),
        "RealSlices": 0 if real is None else len(real),
        "Reference": reference,
        "Scores": registration.compare(made, real, beta),
    }


def nearest_report(
    output_dir: Path, training: data.Slices, held_out: data.Slices, first_slice: int
) -> dict:
    """The nearest training slice of all that was made, for JSON; draws nearest.png."""
    places, vectors = [], []
    for volume_id, images in synthetic_dataset.volumes(
        output_dir, training.image_size, training.spec
    ):
        places += [(volume_id, position) for position in range(len(images))]
        vectors.append(privacy.describe(images))
    known = privacy.describe_slices(training)
    made = privacy.nearest(np.concatenate(vectors), known)
    real = privacy.nearest(privacy.describe_slices(held_out), known)
    order, closest = privacy.closest(made), []
    for position in order:
        subject, number = training.index[made.row[position]]
        closest.append(
            {
                "id": places[position][0],
                "slice": places[position][1],
                "training_subject": training.names[subject],
                "training_patient": training.patients[subject],
                "training_slice": int(number) + first_slice,
                "correlation": round(float(made.correlation[position]), 4),
            }
        )
    shown = {(pair["id"], pair["slice"]): None for pair in closest}
    for volume_id, images in synthetic_dataset.volumes(
        output_dir, training.image_size, training.spec
    ):
        for place in shown:
            if place[0] == volume_id:
                shown[place] = images[place[1]]
    partners = training.intensities(made.row[order])
    figures.sheet(
        [[*x, *y] for x, y in zip(shown.values(), partners, strict=True)],
        [
            *training.spec.modalities,
            *(f"training {m}" for m in training.spec.modalities),
        ],
        output_dir / "nearest.png",
        row_titles=[f"{pair['correlation']:.3f}" for pair in closest],
    )
    near = made.correlation > real.correlation.max()
    nearest_to = training.index[made.row[near], 0]
    return {
        **privacy.summary(made, real),
        "patients": {
            "training": len({*training.patients}),
            "held-out": len({*held_out.patients}),
            # Of those counted above: how many it is that may have been copied.
            "training, of generated nearer than any held-out": len(
                {training.patients[subject] for subject in nearest_to}
            ),
        },
        "closest": closest,
    }
