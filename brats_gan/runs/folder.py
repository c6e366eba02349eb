"""Run folders: flags.txt and its lock, and how many steps a run has."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging

from brats_gan import files, schedules
from brats_gan.runs.checkpoints import all_checkpoints
from brats_gan.runs.process import RunError, require_plain, writing
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
        "init_from",  # read before the first step only: then the checkpoint has all
    }
)

# Flags that say how long a run is: `total_steps` lets them be raised.
LENGTH = frozenset({"steps", "iterations", "epochs"})
LOCK = ".lock"


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


# Folders that this process has started -> their Command.
_commands: dict[Path, Command] = {}


def command_of(run_dir: str | Path) -> Command:
    """What a folder was started with by this process; else the process's own."""
    return _commands.get(Path(run_dir).resolve()) or command()


def _read_flags(path):
    """(script, {flag name: line}) of a flags.txt."""
    first, *lines = path.read_text().splitlines()
    by_name = {}
    for line in lines:
        name = line.removeprefix("--").partition("=")[0]
        boolean_off = "=" not in line and name.startswith("no")
        by_name[name.removeprefix("no") if boolean_off else name] = line
    return first.removeprefix("# "), by_name


def settings(run_dir: str | Path) -> dict[str, str]:
    """{flag name: text} of the flags of a run that have a value; of a switch, "true" or
    "false"."""
    _, lines = _read_flags(Path(run_dir, "flags.txt"))

    def text(name, line):
        if "=" in line:
            return line.partition("=")[2]
        return "true" if line == f"--{name}" else "false"

    return {name: text(name, line) for name, line in lines.items()}


def start(
    run_dir: str | Path, free: Iterable[str] = (), by: Command | None = None
) -> Path:
    """Makes or re-enters a run folder; writes flags.txt.

    Args:
        run_dir: folder.
        free: names of flags that may differ when the run goes on, besides PLACES. Those
            of LENGTH stay in flags.txt as they were, until `total_steps` has agreed.
        by: what makes the run; by default the running script with its flags.

    Returns:
        The folder, a Path.

    Raises:
        RunError: TensorFlow would not find its files by its name; the folder belongs to
            a run with other flags (the difference is shown), holds something that is
            not a run, or is in use by another process.
    """
    require_plain(run_dir)
    run_dir = Path(run_dir)
    path = run_dir / "flags.txt"
    _require_run_or_empty(run_dir)
    _lock(run_dir)
    by = by or command()
    script, now = by
    lines = now
    if path.exists():
        other, before = _read_flags(path)
        if other != script:
            raise RunError(
                f"{run_dir} is a run of {other}, not of {script}; choose another folder"
            )
        changed = [
            f"  {before.get(name, '(not set)')}  ->  {now.get(name, '(not set)')}"
            for name in sorted(before.keys() | now.keys())
            if name not in PLACES.union(free) and before.get(name) != now.get(name)
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
        length = LENGTH.intersection(free)
        lines = {name: line for name, line in now.items() if name not in length}
        lines |= {name: before[name] for name in length & before.keys()}
    for part in run_dir.rglob(files.PARTS):  # of a process that was killed
        part.unlink()
    _write_flags(run_dir, script, lines)
    _commands[run_dir.resolve()] = by
    return run_dir


def _write_flags(run_dir, script, by_name):
    lines = [f"# {script}"] + [by_name[name] for name in sorted(by_name)]
    files.write_atomically(run_dir / "flags.txt", ("\n".join(lines) + "\n").encode())


def total_steps(
    run_dir: Path,
    steps: int | None,
    epochs: float,
    slices: int,
    batch_size: int,
    rate: float,
    final: float = 0.05,
    first_steps: int = 0,
    first_final: float = 1.0,
    name: str = "steps",
) -> int:
    """Steps of a run, which may be others than when it was begun; updates flags.txt.

    Args:
        run_dir: of `start`, with LENGTH free.
        steps: as many are asked for, or None.
        epochs: passes over the slices, which give the steps otherwise.
        slices: how many there are to train on.
        batch_size: slices a step.
        rate, final: peak and final share of the learning rate, see `adam`.
        first_steps, first_final: of a first phase, see `adam`; 0 is none.
        name: of the flag of the steps; that of the passes is "epochs".

    Raises:
        RunError: more steps are done already.
    """

    def total(given, passes):
        return int(given or 0) or round(float(passes) * slices / batch_size)

    began_with = settings(run_dir)
    before = total(began_with.get(name), began_with.get("epochs", 0))
    now = total(steps, epochs)
    newest = all_checkpoints(run_dir / "checkpoints")[:1]
    done = int(newest[0].name[len("ckpt-") :]) if newest else 0
    if now < done:
        raise RunError(
            f"{run_dir} has done {done} of {before} steps, and {now} are fewer; give "
            f"--{name}={done} or more, or choose another folder"
        )
    if now != before and done:
        first = {"first_steps": first_steps, "first_final": first_final}
        courses = {
            of: schedules.ConstantThenLinear(rate, of, final=final, **first)
            for of in (before, now)
        }
        rates = [float(courses[of](min(done, of))) for of in (before, now)]
        logging.info(
            "%s: %d steps in all, no longer %d; %d are done. The learning rate and all "
            "else that is a share of the steps go on as in a run of %d: the rate from "
            "%.3g (it was to be %.3g here) to %.3g at the end",
            *(run_dir, now, before, done, now, rates[1], rates[0]),
            float(courses[now](now)),
        )
    _write_flags(run_dir, *command_of(run_dir))
    return now


def _require_run_or_empty(run_dir):
    if not run_dir.is_dir() or (run_dir / "flags.txt").exists():
        return
    # A process that was killed at once leaves a lock, and perhaps half of flags.txt.
    ours = {LOCK, *(part.name for part in run_dir.glob(files.PARTS))}
    if any(path.name not in ours for path in run_dir.iterdir()):
        raise RunError(
            f"{run_dir} is not empty and not a run folder (no flags.txt); choose "
            "another folder"
        )


_locks = {}  # folder -> open file: a lock ends with its process, however that ends


def _lock(run_dir):
    """Takes the folder for this process, until it ends or calls `release`."""
    folder = run_dir.resolve()
    if not files.HAS_LOCKS or folder in _locks:
        return
    with writing(run_dir / LOCK):
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("a+")
    try:
        files.lock(file, wait=False)
    except BlockingIOError as error:
        with file:
            file.seek(0)
            holder = file.read() or "not named yet"
        raise RunError(
            f"{run_dir} is in use by another process ({holder}); wait for it, stop it, "
            "or choose another folder"
        ) from error
    except OSError as error:  # some network file systems have no locks
        logging.warning("%s: cannot be locked (%s)", run_dir, error.strerror)
    _locks[folder] = file
    with contextlib.suppress(OSError):  # no room: the lock holds without a name
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()


def release(run_dir: str | Path) -> None:
    """Lets other processes have a folder that `start` took, before this one ends."""
    file = _locks.pop(Path(run_dir).resolve(), None)
    if file is not None:
        file.close()
