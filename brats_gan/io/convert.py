"""Any layout to BraTS 2018-21 NIfTI with this project's labels, geometry kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from absl import logging

import brats_gan
from brats_gan import files, io
from brats_gan.spec import BRATS, Spec


def convert(
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    layout: str | None = None,
    spec: Spec = BRATS,
    labelling: io.Labelling = io.AS_NAMED,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Writes output_dir/ID/ID_{MODALITY,seg}.nii.gz for every subject, in LPS.

    Values are those of the source, scaling applied; labels are indices in spec.labels.
    Each file is read back and compared before it gets its name. Files that are there
    already are compared with their source and left alone if they are equal, so that the
    same call goes on where it was interrupted, and makes again what was damaged since.

    Returns:
        Names of the subjects that are complete now, and a list of (name, message) for
        those that could not be converted.
    """
    source, target = Path(data_dir).resolve(), Path(output_dir).resolve()
    if source == target or source in target.parents:
        raise files.DataError(
            f"{output_dir}: is inside the folder that is read. Name one beside it."
        )
    subjects = io.find_subjects(data_dir, layout, spec, labelling)
    for subject in subjects:
        for path in io.images_by_file(subject):
            if target in path.resolve().parents:
                raise files.DataError(
                    f"{path}: is a link into {output_dir}. Name another output folder."
                )
    done, problems = [], []
    for subject in subjects:
        try:
            _convert_subject(subject, files.folder_within(target, subject.name))
        except files.DataError as error:
            problems.append((subject.name, str(error)))
        except OSError as error:
            message = f"{error}. Look for a full disk, or one that may not be written."
            problems.append((subject.name, message))
        else:
            done.append(subject.name)
    _describe(target, source, subjects[0])
    return done, problems


def _convert_subject(subject, folder):
    grid = None
    for path, wanted in io.images_by_file(subject).items():
        targets = [folder / f"{subject.name}_{m}.nii.gz" for m, _ in wanted]
        this = io.lps_grid(path, io.read_header(path))
        grid = grid or this
        io.require_same_grid(grid, this)
        volumes, _ = io.load_channels(path, [channel for _, channel in wanted])
        for target, volume in zip(targets, volumes, strict=True):
            _write(target, volume, grid)
    target = folder / f"{subject.name}_seg.nii.gz"
    if subject.label is not None:
        label = io.load_label(subject, None, grid)
        _write(target, label.transpose(1, 2, 0), grid)


def _write(target, volume, grid):
    """Writes [H, W, S], unless it is there, and makes sure that it reads back so."""
    if target.exists():
        if _holds(target, volume, grid):
            return
        logging.warning("%s: it has changed since it was made; made again", target)
    unverified = target.with_name(f".unverified-{target.name}")
    io.write_nifti(unverified, volume, volume.dtype, affine=grid.affine)
    if not _holds(unverified, volume, grid):
        unverified.unlink()
        raise files.DataError(
            f"{target}: does not read back as written. Look for a full or failing disk."
        )
    unverified.replace(target)


def _holds(path, volume, grid):
    """Whether a file reads as [H, W, S] on a grid."""
    try:
        again, affine = io.load_volume(path)
    except files.DataError:
        return False
    same_place = np.allclose(affine, grid.affine, rtol=0, atol=1e-3)  # float32, mm
    equal_nan = again.dtype.kind == "f"
    return same_place and np.array_equal(again, volume, equal_nan=equal_nan)


def _describe(target, source, subject):
    """Writes dataset_description.json, in the manner of BIDS derivatives."""
    description = {
        "Name": f"{source.name}, as BraTS 2018-21",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brats_gan", "Version": brats_gan.__version__}],
        "SourceLayout": subject.layout,
        "Labels": dict(enumerate(subject.spec.labels)),
        "Prepared": subject.prepared,
    }
    files.write_json(target / "dataset_description.json", description)
