"""Whole volumes of a data set, made anew of the models and labels that it names."""

import csv
from pathlib import Path

import numpy as np

from brats_gan import (
    data,
    files,
    io,
    synthesis,
    synthetic_dataset,
    trained_models,
    volume_dataset,
    volume_synthesis,
)
from brats_gan.spec import of_description
from brats_gan.stages import dataset, volumes

SUBJECTS = "label_subjects"  # the column that says whose lesions a volume has


def are_in(folder: Path) -> bool:
    """Whether a data set is one of volumes."""
    return (folder / volume_dataset.MANIFEST).exists()


def rows_of(folder: Path) -> list[dict]:
    """The rows of volumes.csv, as written.

    Raises:
        DataError: it is not readable.
    """
    path = folder / volume_dataset.MANIFEST
    with io.reading(path), path.open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    if not rows or SUBJECTS not in rows[0] or any(None in x.values() for x in rows):
        raise files.DataError(f"{path}: it was cut off or changed")
    return rows


def require_whole(folder: Path) -> None:
    """Verifies that volumes, records and volumes.csv of a data set agree.

    Raises:
        DataError, RunError: they do not.
    """
    said, rows = synthetic_dataset.read_description(folder), rows_of(folder)
    whole = volume_dataset.whole_volumes(
        folder, said["Volumes"], of_description(said), said.get("MadeFrom")
    )
    if [whole.get(row["id"]) for row in rows] != rows or len(rows) != said["Volumes"]:
        raise files.DataError(f"{folder} is not as it was made")


def made_anew(
    folder: Path,
    settings: dataset.Settings,
    models: synthesis.Models,
    slices: data.Slices,
    at_once: tuple[int, int],
) -> tuple[int, int]:
    """(volumes that are the same, volumes that were made anew): the one that took the
    fewest attempts.

    Args:
        folder: of the data set.
        settings: that it was made with.
        models: that it names.
        slices: of its training subjects.
        at_once: the range of slices.
    """
    stack, shape = trained_models.load_stacks(settings.structural_run)
    at = at_once[0], at_once[0] + shape[1]
    place = volumes.placement(settings, slices, at)
    row = min(rows_of(folder), key=lambda each: int(each["tries"]))
    again = next(
        volume_synthesis.volumes(
            *(models, stack, shape, place, [int(row["number"])], settings.seed),
            *(volumes.limits_of(settings), volumes.lesion_free_of(settings)),
            *(settings.batch_size, float(row["profile"]), slices.slice_spacing),
        )
    )
    told = volume_dataset.row_of(again, row["id"], settings.seed, float(row["profile"]))
    same = all(told[name] == row[name] for name in (SUBJECTS, "lesion_voxels", "tries"))
    if same:
        _, images, label = volume_dataset.as_made(
            folder, row["id"], slices.image_size, at_once, models.spec
        )
        same = is_same(again, images, label)
    return int(same), 1


def is_same(volume: volume_synthesis.Volume, images: np.ndarray, label: np.ndarray):
    """Whether a volume made anew is the one that was written, but for last bits."""
    apart = np.abs(images - volume.images)
    return np.array_equal(label, volume.label) and float(apart.mean()) < 1e-3
