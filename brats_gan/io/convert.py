"""Any layout to one that is written: BraTS 2018-21, nnU-Net or BIDS, geometry kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from brats_gan import files, io
from brats_gan.io import targets
from brats_gan.spec import BRATS, Spec


def convert(
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    layout: str | None = None,
    spec: Spec = BRATS,
    labelling: io.Labelling = io.AS_NAMED,
    to: str = "brats",
    dataset_id: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Writes the files of every subject as a format calls them, in LPS.

    Values are those of the source, scaling applied; labels are indices in spec.labels,
    in nnU-Net's format without a gap. Each file is read back and compared before it
    gets its name. Files that are there already are compared with their source and left
    alone if they are equal, so that the same call goes on where it was interrupted, and
    makes again what was damaged since. Of two calls at once the second waits. Several
    sources may go to one folder if one description is true of all of them.

    Args:
        data_dir, layout, spec, labelling: what is read, see io.find_subjects.
        output_dir: folder to write to.
        to: one of targets.FORMATS.
        dataset_id: of nnU-Net's format, 1 to 999.
        progress: called with (subjects done, subjects) now and then.

    Returns:
        Names of the subjects that are complete now, and a list of (name, message) for
        those that could not be converted.

    Raises:
        DataError: the folders do not go together, see io.find_subjects and
            targets.chosen too.
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
    written = targets.chosen(to, target, source.name, subjects, dataset_id)
    files.require_writable(target)
    with files.alone_in(target):  # two at once would take each other's files away
        written.join()
        written.describe()  # so that who comes after an interruption knows the labels
        found = _convert_all(subjects, written, target, progress)
        written.describe()
    return found


def _convert_all(subjects, written, target, progress):
    done, problems = [], []
    for number, subject in enumerate(subjects, 1):
        try:
            _convert_subject(subject, written, target)
        except files.DataError as error:
            problems.append((subject.name, str(error)))
        except OSError as error:
            message = f"{error}. Look for a full disk, or one that may not be written."
            problems.append((subject.name, message))
        else:
            done.append(subject.name)
        if progress:
            progress(number, len(subjects))
    return done, problems


def _convert_subject(subject, written, target):
    """All is read before anything is written: a subject that is there in part would
    spoil a folder of nnU-Net's as a whole."""
    grid, volumes = None, {}
    for path, wanted in io.images_by_file(subject).items():
        this = io.lps_grid(path, io.read_header(path))
        grid = grid or this
        io.require_same_grid(grid, this)
        loaded, _ = io.load_channels(path, [channel for _, channel in wanted])
        for (modality, _), volume in zip(wanted, loaded, strict=True):
            written.require_fitting(path, volume)
            volumes[modality] = volume
    if subject.label is not None:
        label = io.load_label(subject, None, grid).transpose(1, 2, 0)
        table = np.zeros(subject.spec.num_labels, np.uint8)
        table[list(written.stored)] = list(written.stored.values())
        volumes["seg"] = table[label]
    for role, volume in volumes.items():
        path = written.path(subject, role)
        folder = target
        for part in path.relative_to(target).parts[:-1]:
            folder = files.folder_within(folder, part)
        _write(path, volume, grid)


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
