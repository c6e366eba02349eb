"""Run folders: flags.txt, and how many steps a run has."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from brats_gan import files
from brats_gan.data import records
from brats_gan.runs import locks
from brats_gan.runs.checkpoints import has_begun
from brats_gan.runs.process import RunError, require_plain
from brats_gan.spec import BRATS

# Flags that may differ when a run goes on: where things are, not what is computed.
PLACES = frozenset(
    {
        "run_dir",
        "data_dir",
        "cache_dir",
        "flagfile",
        "check",
        "checkpoint_seconds",
        "steps_per_call",
        "strategy",
        "replicas",
        "init_from",  # read before the first step only: then the checkpoint has all
    }
)

# Those whose content is compared by inputs.json of a run, wherever it has moved to.
COMPARED = frozenset(
    {
        "output_dir",
        "structural_run",
        "multimodal_run",
        "segmentor_run",
        "split",
        "synthetic_dir",
    }
)

# Flags that say how long a run is: `total_steps` lets them be raised.
LENGTH = frozenset({"steps", "iterations", "epochs"})


class Command(NamedTuple):
    """What makes a run: flags.txt holds it, and exports name it."""

    script: str
    flags: dict[str, str]  # name -> line of a flagfile


def key_flags() -> dict[str, str]:
    """The running script's own flags by name, as strings a flagfile takes."""
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return {flag.name: flag.serialize() for flag in own if flag.value is not None}


def command() -> Command:
    """That of this process: the running script with its own flags."""
    return Command(Path(sys.argv[0]).name, key_flags())


def command_by(
    script: str, *chosen: Any, without: Iterable[str] = (), **places: str | Path
) -> Command:
    """The command of a script that chooses the same as some frozen dataclasses.

    So a run that was begun from Python is continued by the script, and the other way.

    Args:
        script: name of it.
        chosen: dataclasses whose fields are named as flags are. What is None has no
            line; (1, 5) is written "1:5", other tuples as lists of flags are; of a
            dict `weights` each item is the flag weight_NAME.
        without: fields that the script has no flag for.
        places: other flags of it, folders.
    """
    lines = {name: f"--{name}={path}" for name, path in places.items()}
    for each in chosen:
        for field in dataclasses.fields(each):
            value = getattr(each, field.name)
            is_brats = value == BRATS  # which no flag says
            if field.name in without or value is None or is_brats:
                continue
            if isinstance(value, Mapping):
                prefix = field.name.removesuffix("s")
                for name, number in value.items():
                    lines[f"{prefix}_{name}"] = f"--{prefix}_{name}={float(number)}"
            else:
                if str(field.type).startswith("float"):
                    value = float(value)  # 150.0, as absl writes a 150
                lines[field.name] = _line(field.name, value)
    return Command(script, lines)


def _line(name, value):
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    if isinstance(value, tuple):
        if value and all(isinstance(each, int) for each in value):
            value = ":".join(map(str, value))
        else:
            value = flags.CsvListSerializer(",").serialize(list(map(str, value)))
    return f"--{name}={value}"


def lasting(by: Command, free: Iterable[str] = ()) -> dict[str, str]:
    """The flags of a command that a run keeps for as long as it goes on.

    Args:
        by: Command.
        free: as of `start`.
    """
    may_change = {*PLACES, *COMPARED, *LENGTH, *free}
    return {name: line for name, line in by.flags.items() if name not in may_change}


# Folders that this process has started -> their Command.
_commands: dict[Path, Command] = {}


def command_of(run_dir: str | Path) -> Command:
    """What a folder was started with by this process; else the process's own."""
    return _commands.get(Path(run_dir).resolve()) or command()


def read_flags(path: Path) -> Command:
    """What a flags.txt holds: the script, and {flag name: line}.

    Raises:
        RunError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if not first.startswith("# "):
            raise ValueError("no script named in its first line")
    except ValueError as error:  # UnicodeDecodeError, and of an empty file, are such
        raise RunError(
            f"{path} is damaged: it is empty or no list of flags. Put it back from a "
            "copy, or choose another folder"
        ) from error
    by_name = {}
    for line in lines:
        name = line.removeprefix("--").partition("=")[0]
        boolean_off = "=" not in line and name.startswith("no")
        by_name[name.removeprefix("no") if boolean_off else name] = line
    return Command(first.removeprefix("# "), by_name)


def settings(run_dir: str | Path) -> dict[str, str]:
    """{flag name: text} of the flags of a run that have a value; of a switch, "true" or
    "false"."""
    _, lines = read_flags(Path(run_dir, "flags.txt"))

    def text(name, line):
        if "=" in line:
            return line.partition("=")[2]
        return "true" if line == f"--{name}" else "false"

    return {name: text(name, line) for name, line in lines.items()}


# Folders that `require_startable` has found to be so, and that are not started yet.
_startable: set[Path] = set()


def require_startable(
    run_dir: str | Path,
    free: Iterable[str] = (),
    by: Command | None = None,
    share: str | None = None,
) -> None:
    """Refuses what `start` would refuse, and writes nothing.

    So that data, weights and all else can be looked at before a run begins, and a
    mistake leaves no folder that then refuses the right command. A run that is there
    is locked from here on.

    Args:
        run_dir, free, by, share: as of `start`.

    Raises:
        RunError, DataError: see `start`.
    """
    run_dir = Path(run_dir)
    files.require_writable(run_dir)
    _require_run_or_empty(run_dir)
    _require_outside_runs(run_dir)
    if (run_dir / locks.LOCK).exists():
        locks.take(run_dir, share)
    _require_same(run_dir, free, by or command())
    _startable.add(run_dir.resolve())


def start(
    run_dir: str | Path,
    free: Iterable[str] = (),
    by: Command | None = None,
    share: str | None = None,
) -> Path:
    """Makes or re-enters a run folder; writes flags.txt.

    Call it once nothing is left that could be refused, see `require_startable`.

    Args:
        run_dir: folder.
        free: names of flags that may differ when the run goes on, besides PLACES and,
            where the run has recorded what was in them, COMPARED. Of LENGTH,
            `total_steps` must have agreed.
        by: what makes the run; by default the running script with its flags.
        share: see locks.take.

    Returns:
        The folder, a Path.

    Raises:
        RunError: TensorFlow would not find its files by its name; the folder belongs to
            a run with other flags (the difference is shown), holds something that is
            not a run, is inside another run, or is in use by another process.
        DataError: it cannot be written to.
    """
    require_plain(run_dir)
    run_dir = Path(run_dir)
    by = by or command()
    if run_dir.resolve() not in _startable:
        require_startable(run_dir, free, by, share)
    _startable.discard(run_dir.resolve())
    alone = locks.take(run_dir, share)
    _require_same(run_dir, free, by)  # it may have been started since
    by = _as_begun(run_dir, by)
    files.remove_parts(run_dir, 0 if alone else files.PART_AGE)
    _write_flags(run_dir, *by)
    _commands[run_dir.resolve()] = by
    return run_dir


def _require_same(run_dir, free, by):
    """RunError where a run is there that another script made, or with other flags."""
    path = run_dir / "flags.txt"
    script, now = by
    if path.exists():
        other, before = read_flags(path)
        if other != script:
            raise RunError(
                f"{run_dir} is a run of {other}, not of {script}; choose another folder"
            )
        places = PLACES.union(free)
        if records.read(run_dir) is not None or not records.is_begun(run_dir):
            places |= COMPARED
        changed = [
            f"  {before.get(name, '(not set)')}  ->  {now.get(name, '(not set)')}"
            for name in sorted(before.keys() | now.keys())
            if name not in places and before.get(name) != now.get(name)
        ]
        if changed:
            remedy = f"Repeat it with --flagfile={path}, or choose another folder."
            if any("(not set)  ->" in line for line in changed):
                remedy += (
                    " What is not set there may have come with a newer version: a run "
                    "that began before can be used, but not trained on."
                )
            raise RunError(
                f"{run_dir} holds a run made with other flags:\n"
                + "\n".join([*changed, remedy])
            )


def _as_begun(run_dir, by):
    """The command with the --init_from that was read: a run that goes on reads none."""
    if not (run_dir / "flags.txt").exists() or not has_begun(run_dir):
        return by
    began = read_flags(run_dir / "flags.txt")[1].get("init_from")
    others = {name: line for name, line in by.flags.items() if name != "init_from"}
    return Command(by.script, others | ({"init_from": began} if began else {}))


def _write_flags(run_dir, script, by_name):
    lines = [f"# {script}"] + [by_name[name] for name in sorted(by_name)]
    files.write_atomically(run_dir / "flags.txt", ("\n".join(lines) + "\n").encode())


def _require_run_or_empty(run_dir):
    if not run_dir.is_dir() or (run_dir / "flags.txt").exists():
        return
    # A process that was killed at once leaves a lock, and perhaps half of flags.txt.
    ours = {
        path.name
        for pattern in (f"{locks.LOCK}*", files.PARTS)
        for path in run_dir.glob(pattern)
    }
    if any(path.name not in ours for path in run_dir.iterdir()):
        raise RunError(
            f"{run_dir} is not empty and not a run folder (no flags.txt); choose "
            "another folder"
        )


def _require_outside_runs(run_dir):
    for above in run_dir.resolve().parents:
        if (above / "flags.txt").exists():
            raise RunError(
                f"{run_dir} is inside the run {above}, whose files would be mixed with "
                "its own; choose another folder"
            )
