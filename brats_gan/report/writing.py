"""Which report a folder has, and writing it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from brats_gan import files, recipes, runs, synthetic_dataset
from brats_gan.report import blocks, made, several, trained

NAME = "report.html"
_DATASET = "build_dataset.py"


def require_folder(folder: Path) -> None:
    """Refuses what has no report.

    Raises:
        RunError: it is no run and no data set, or not there.
    """
    if not folder.is_dir():
        raise runs.RunError(f"{folder} is not a folder; name a run or a data set")
    if not (folder / "flags.txt").is_file() and not _is_painted(folder):
        raise runs.RunError(
            f"{folder} is no run and no data set of this project: it has no flags.txt; "
            "name the folder that a --run_dir or an --output_dir was"
        )


def _is_painted(folder):
    """Whether a folder is a painted set, which is of a recipe and not of flags."""
    return (folder / recipes.NAME).is_file() and (
        folder / synthetic_dataset.DESCRIPTION
    ).is_file()


def _script_of(folder):
    if _is_painted(folder):
        return _DATASET
    return runs.read_flags(folder / "flags.txt").script


def write(
    folders: Sequence[str | Path],
    path: str | Path,
    defaults: Mapping[str, Mapping[str, str]],
) -> None:
    """Writes the report of a folder, or of several side by side, whole or not at all.

    Args:
        folders: of runs and data sets.
        path: of the page.
        defaults: {script: {flag: line of a flagfile}} of commands that choose nothing.

    Raises:
        RunError, DataError: a folder has no report, or what it says is damaged; or the
            page cannot be written.
    """
    for folder in folders:
        require_folder(Path(folder))
    # "." has no name, by which results.jsonl knows a run, and no parent.
    found = [Path(os.path.abspath(folder)) for folder in folders]
    if len(found) > 1:
        told = several.content(found, defaults)
    else:
        (folder,) = found
        script = _script_of(folder)
        of_script = defaults.get(script, {})
        if script == _DATASET:
            told = made.content(folder, of_script)
        else:
            told = trained.content(trained.read(folder), of_script)
    files.write_atomically(path, blocks.page(*told))
