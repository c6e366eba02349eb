"""A data set of volumes on disk: a BraTS folder, volumes.csv, and a record of each.

Volumes lie in the field, the depth and the place of real ones, with their intensities
in [0, 1], so that whatever reads BraTS reads them.
"""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import numpy as np
from absl import logging

from brats_gan import (
    files,
    io,
    manifest,
    synthesis,
    synthetic_dataset,
    volume_synthesis,
)
from brats_gan.spec import BRATS, Spec

MANIFEST = "volumes.csv"  # one row a volume
DEPTH = 155  # slices of a BraTS volume
_BETWEEN = ";"  # names of subjects, which may have spaces


def volume_ids(count: int) -> list[str]:
    """Names of the volumes of a data set, by their numbers."""
    return [f"synth-{number:05d}" for number in range(1, count + 1)]


def row_of(
    volume: volume_synthesis.Volume, volume_id: str, seed: int, profile: float
) -> dict:
    """One line of volumes.csv, as text; `profile` is that of its slices."""
    row = {
        "id": volume_id,
        "number": volume.number,
        "seed": seed,
        "label_subjects": _BETWEEN.join(volume.label_subjects),
        "profile": f"{profile:g}",
        "lesion_voxels": int(np.count_nonzero(volume.label)),
        "tries": volume.tries,
        "mae": f"{volume.mae:.5f}",
        "passing": f"{volume.passing:.5f}",
        "dice": f"{volume.dice:.5f}",
        "accepted": int(volume.accepted),
        **{f"rejected_{name}": volume.rejected[name] for name in synthesis.REASONS},
    }
    return {name: str(value) for name, value in row.items()}


def subjects_of(text: str) -> list[str]:
    """The names in `label_subjects` of a row."""
    return [each for each in text.split(_BETWEEN) if each]


def write_volume(
    output_dir: Path,
    volume_id: str,
    volume: volume_synthesis.Volume,
    first: int,
    spec: Spec = BRATS,
    slice_spacing: float = 1.0,
) -> None:
    """Writes a volume in the BraTS 2018-21 layout, each file whole or absent.

    Args:
        output_dir: of the data set.
        volume_id: of it.
        volume: of S slices.
        first: slice of the field at which they begin; others are empty.
        spec: of the data.
        slice_spacing: mm between slices, for the headers.
    """
    content = dict(zip(spec.modalities, volume.images, strict=True))
    for name in ("structure", "background", "label"):
        content[name] = getattr(volume, name)
    synthetic_dataset.write_stacks(
        *(output_dir, volume_id, content, spec),
        below=first,
        depth=DEPTH,
        slice_spacing=slice_spacing,
    )


def write(folder: Path, rows: list[dict]) -> None:
    """Writes volumes.csv anew, whole or not at all."""
    table = StringIO()
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files.write_atomically(Path(folder, MANIFEST), table.getvalue().encode())


def whole_volumes(
    output_dir: Path, count: int, spec: Spec = BRATS, made_from: str | None = None
) -> dict[str, dict]:
    """{id: row} of the volumes that are there as they were made.

    The others are to be made again; what was damaged is named in a warning.

    Args:
        output_dir: of a data set of `count` volumes, begun or not.
        spec: of the data set.
        made_from: digest of what decides it, see manifest.write_record.

    Raises:
        DataError: there are volumes that are not of this data set.
    """
    manifest.require_no_others(output_dir, volume_ids(count), spec)
    whole = {}
    for volume_id in volume_ids(count):
        try:
            rows = manifest.recorded(output_dir, volume_id, made_from)
        except files.DataError as error:
            logging.warning("%s; %s is made again", str(error).rstrip("."), volume_id)
            continue
        if rows is not None:
            (whole[volume_id],) = rows
    return whole


def record(
    output_dir: Path, row: dict, spec: Spec = BRATS, made_from: str | None = None
) -> None:
    """Writes what a volume must be, once its files are there; see `whole_volumes`."""
    manifest.write_record(output_dir, row["id"], [row], spec, made_from)


def read(
    output_dir: Path, volume_id: str, spec: Spec = BRATS
) -> tuple[np.ndarray, np.ndarray]:
    """Images [M, S, H, W] in [0, 1] and label [S, H, W] of a volume, as written."""
    found = [_volume(output_dir, volume_id, name) for name in spec.modalities]
    return np.stack(found), _volume(output_dir, volume_id, "seg")


def as_made(
    output_dir: Path,
    volume_id: str,
    image_size: int,
    slices: tuple[int, int],
    spec: Spec = BRATS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map [S, H, W] in {0, 1}, images [M, S, H, W] in [0, 1] and label [S, H, W] of a
    volume, in the range and of the size that they were made in."""
    paths = {
        name: Path(output_dir, volume_id, f"{volume_id}_{name}.nii.gz")
        for name in (*spec.modalities, "seg")
    }
    subject = io.Subject(
        volume_id,
        "brats2018",
        {name: (paths[name], None) for name in spec.modalities},
        paths["seg"],
        prepared=True,
        spec=spec,
    )
    images, label = io.read_subject(subject, image_size=image_size)
    start = (spec.field - spec.crop) // 2
    inside = slice(start, start + spec.crop)
    maps = _volume(output_dir, volume_id, "structure")[:, inside, inside]
    kept = slice(*slices)
    return (
        io.resize_nearest(maps[kept], image_size),
        np.moveaxis(images, -1, 0)[:, kept],
        label[kept],
    )


def _volume(output_dir, volume_id, name):
    path = Path(output_dir, volume_id, f"{volume_id}_{name}.nii.gz")
    return np.moveaxis(io.load_volume(path)[0], -1, 0)
