"""Repeats of the rows of Tables 1 and 2: which are asked for, and a worker's share."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from brats_gan import data, lesion_components, runs
from brats_gan.experiments import runner, segmentors, tables
from brats_gan.runs import claims


def wanted(settings: Any) -> list[tuple]:
    """What is asked for: [(table, row name)], in the order of the tables.

    Rows that are named are those of Table 2 that run, whether or not it is named too.

    Raises:
        RunError: a flag names a table, row or scheme that there is not.
    """
    known = {"1": tables.TABLE1, "2": tables.TABLE2}
    names = [str(number) for number in tables.TABLE2]
    for flag, values, allowed in (
        ("table", settings.table, [*known]),
        ("experiment", settings.experiment, [*names, "all"]),
        ("synthetic_dirs", [*settings.test_sets()], lesion_components.SCHEMES),
    ):
        for value in values:
            if value not in allowed:
                raise runs.RunError(
                    f"--{flag}: {value!r} is none of {', '.join(allowed)}"
                )
    for scheme, folder in settings.test_sets().items():
        if not folder:
            raise runs.RunError(f"--synthetic_dirs: {scheme} names no folder")
    rows = [int(name) for name in names if name in settings.experiment]
    whole_table = "2" in settings.table and not rows
    if whole_table or "all" in settings.experiment:
        rows = [*tables.TABLE2]
    asked = [(2, row) for row in rows]
    if "1" in settings.table:
        sets = ("real", *settings.test_sets())
        asked += [(1, row) for row in tables.TABLE1 if row in sets]
    return asked


class Task(NamedTuple):
    """What decides the repeats of tables, small enough to be sent to workers."""

    settings: Any  # as they were settled
    source: data.Source
    split: dict
    asked: tuple[tuple, ...]  # (table, row name)
    read: tuple[str, str]  # fingerprints of the slices to train on, and held out
    origin: tables.Origin


_loaded: dict[str, tuple[runner.Rows, segmentors.Segmentors]] = {}  # the last Task's


def _here(task):
    """Reads data and builds segmentors on a worker, once in a process."""
    settings = task.settings
    key = f"{task}"
    if key in _loaded:
        return _loaded[key]

    def settle(*given):
        if tuple(slices.fingerprint for slices in given[:2]) != task.read:
            raise runs.RunError(
                f"{task.source.data_dir}, or the synthetic data, on {platform.node()} "
                "is not what it is where the command was started; copy it there"
            )
        return task.origin

    with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
        split = Path(folder, "given.json")
        data.save_split(split, task.split)
        # What it holds was checked where the command was started.
        source = dataclasses.replace(task.source, split=str(split), check=False)
        real, held_out, _ = source.subjects(Path(folder))
    training = settings.training(source.spec)
    rows = runner.prepare(
        *(training, [*task.asked], real, held_out),
        lambda subjects: source.read(subjects, settings.image_size),
        *(settings.iterations_of, settings.synthetic_dir, settings.test_sets()),
        *(settings.seed, settings.keep_checkpoints, settle),
    )
    _loaded.clear()
    _loaded[key] = rows, segmentors.Segmentors(training, rows.iterations)
    return _loaded[key]


def make_unit(task: Task, unit: runner.Unit, folder: Path) -> list[dict]:
    """runner.run_unit for cluster.Job: on a worker, with what that has loaded.

    A repeat that a worker of a command that was killed is still at is waited for.
    """
    settings = task.settings
    asked = settings.precision, settings.seed, bool(settings.deterministic)
    runs.set_up(*asked, begin_again=False)
    rows, networks = _here(task)
    with claims.claimed(folder, unit.piece, wait=True):
        return runner.run_unit(rows, networks, unit, folder)
