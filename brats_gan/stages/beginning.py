"""How every stage begins: precision, seeds, the losses' weights."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brats_gan import __version__, data, files, networks, precision, report, runs

T = TypeVar("T")

LEAST_CODE = 16  # numbers of a dense code: FD_f halves its side, and norms what is left
FINAL_RATE = 0.05  # share of the peak rate at the last step of stages 1 and 2 (D39)
EMA = 0.02  # share of the steps over which what they export is averaged (D51)

# Settings as they were settled -> what flags.txt and exports name.
Record = Callable[[Any], runs.Command]


def set_up(
    settings: T, run_dir: str | Path, heaviest: tuple, is_script: bool
) -> tuple[T, runs.Team]:
    """`runs.set_up` with the precision that `precision.settle` finds, and the team.

    Args:
        settings: of a stage; has precision, deterministic, seed, batch_size, strategy
            and replicas.
        run_dir: folder of the run, which need not exist.
        heaviest: (images, kernel) of the heaviest convolution of a step.
        is_script: whether the process may begin once more, see `runs.set_up`.

    Returns:
        The settings with the precision that was found; the replicas of the run.
    """
    settled, team = settings, None

    def settle():
        nonlocal settled, team
        team = runs.gather(settings.strategy, settings.replicas, settings.batch_size)
        asked, deterministic = settings.precision, bool(settings.deterministic)
        shared = team.several_processes
        found = precision.settle(asked, run_dir, deterministic, heaviest, shared)
        settled = dataclasses.replace(settings, precision=found)
        return found

    runs.set_up(settle, settings.seed, bool(settings.deterministic), is_script)
    return settled, team


def require_startable(
    run_dir: str | Path,
    source: data.Source,
    by: runs.Command,
    free: tuple[str, ...] = (),
    flag: str = "run_dir",
    share: str | None = None,
    read: dict[str, str | None] | None = None,
) -> None:
    """`runs.require_startable`, and the folder is apart from those that are read.

    Args:
        run_dir, by, free, share: as of `runs.start`.
        source: whose folder is read.
        flag: that names `run_dir`.
        read: flag -> what else is read, or None where it is not given.

    Raises:
        RunError, DataError: nothing has been written then.
    """
    files.require_apart({flag: run_dir}, {"data_dir": source.data_dir, **(read or {})})
    runs.require_startable(run_dir, free, by, share)


def require_alike(team: runs.Team, by: runs.Command, fixed: dict) -> None:
    """RunError unless all processes of a team have the same flags, data and version.

    `fixed` is of inputs.fix. Of checkpoints, `runs.loop` sees to it.
    """
    team.require_alike([runs.lasting(by), fixed, __version__])


def start(
    run_dir: str | Path,
    split: dict,
    by: runs.Command,
    free: tuple[str, ...] = (),
    share: str | None = None,
) -> Path:
    """`runs.start`, and the run's split.json: the first that a stage writes."""
    run_dir = runs.start(run_dir, free, by, share)
    data.save_split(run_dir / "split.json", split)
    return run_dir


def command(
    record: Record | None,
    script: str,
    settings: Any,
    source: data.Source,
    without: tuple[str, ...] = (),
    **places: Any,
) -> runs.Command:
    """What flags.txt and exports name: by the script's `record`, or without a script
    the flags of it that would choose the same, see `runs.command_by`."""
    if record is not None:
        return record(settings)
    return runs.command_by(script, settings, source, without=without, **places)


def defaults(script: str, settings: Any) -> dict[str, str]:
    """{flag: line of a flagfile} of a script that chooses nothing, for reports.

    Args:
        script: name of it.
        settings: of its stage, as they are by default.
    """
    return runs.command_by(script, settings, data.Source(None)).flags


def live(
    run_dir: Path, script: str, settings: Any, total: int, unit: str = "step"
) -> report.Live:
    """The report of a run that is about to begin.

    Args:
        run_dir, total, unit: as of report.Live.
        script, settings: as of `defaults`.
    """
    return report.Live(run_dir, script, defaults(script, settings), total, unit)


def settle_types(settings: Any) -> None:
    """Makes numbers and paths of frozen settings what their fields say they are.

    Digests of settings are of their text, in which 0 and 0.0 differ, and a NumPy
    number or a Path is none of JSON; flags have one text for each value.
    """
    for each in dataclasses.fields(settings):
        value, kind = getattr(settings, each.name), str(each.type)
        if isinstance(value, bool | np.bool_):
            value = bool(value)
        elif kind.startswith("bool") and value in (0, 1):
            value = bool(value)
        elif kind.startswith("int") and isinstance(value, numbers.Real):
            if not float(value).is_integer():
                raise runs.RunError(f"{each.name}={value}: is not a whole number")
            value = int(value)
        elif kind.startswith("float") and value is not None:
            value = float(value)
        elif isinstance(value, numbers.Integral):
            value = int(value)
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        object.__setattr__(settings, each.name, value)


def require_size(image_size: int, multiple: int) -> None:
    """RunError where the networks cannot halve a slice of this side as they must."""
    if image_size < multiple or image_size % multiple:
        raise runs.RunError(
            f"--image_size={image_size}: the networks of this stage need a multiple of "
            f"{multiple}; give {max(1, round(image_size / multiple)) * multiple}"
        )


def require_code_dim(code_dim: int, image_size: int) -> None:
    """RunError where a dense code (D26) has no square, or its layers no room."""
    if code_dim < LEAST_CODE or math.isqrt(code_dim) ** 2 != code_dim:
        near = max(LEAST_CODE, round(math.sqrt(max(code_dim, 0))) ** 2)
        raise runs.RunError(
            f"--code_dim={code_dim}: FD_f sees the code as a square, so it must be the "
            f"square of a whole number, and {LEAST_CODE} or more; give {near}"
        )
    least = 2 * networks.DENSE_STRIDE
    if image_size < least:
        raise runs.RunError(
            f"--image_size={image_size} is too small for --code_dim: its layers halve "
            f"a map until a pixel is left, which the norm makes 0; give {least} or "
            "more, or leave --code_dim out"
        )


def all_weights(given: dict[str, float], defaults: dict[str, float]) -> dict:
    """Weights of all losses, those that are not given by default.

    Raises:
        RunError: there is no loss of that name.
    """
    unknown = sorted(given.keys() - defaults.keys())
    if unknown:
        raise runs.RunError(
            f"weights: {', '.join(unknown)}: no such loss; there are "
            f"{', '.join(defaults)}"
        )
    return {name: float(given.get(name, value)) for name, value in defaults.items()}
