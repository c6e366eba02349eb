"""Who does which piece of a run's work, where several processes are at it.

A claim is a file that a process makes for a piece before it begins it, and whose time
it renews while it lives. It needs no lock: of several processes that make one file only
one succeeds, on network file systems too. None is ever renamed or removed: who takes
over a piece makes the claim of the next number, so that no two take over one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from brats_gan import files
from brats_gan.runs.process import EXIT_START_AGAIN, writing

FOLDER = "claims"
BEAT = 15.0  # seconds between signs of life
# Seconds without one, after which a piece is anybody's; network file systems may show
# a time that is a minute old.
STALE = 180.0
_RELEASED = "released"


class Claim:
    """A piece that is this process' until `release`, or until it ends.

    Attributes:
        path: of its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self):
        began = time.monotonic()
        while not self._over.wait(BEAT):
            passed, began = time.monotonic() - began, time.monotonic()
            if not self.is_held():
                # Another process is at work in the same folder: not one more byte.
                print(
                    f"{self.path}: this process stood still for {passed:.0f} seconds, "
                    "and another has taken its work over; start the same command again",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_START_AGAIN)
            with contextlib.suppress(OSError):
                os.utime(self.path)  # the time of the file system, not of this machine

    def is_held(self) -> bool:
        """Whether nobody has taken the piece over."""
        return _newest(self.path.parent, _piece(self.path)) in (None, self.path)

    def release(self) -> None:
        """Lets others have the piece."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(files.DataError):
            files.write_atomically(self.path, json.dumps({_RELEASED: True}).encode())


def take(run_dir: str | Path, piece: str) -> Claim | None:
    """Claims a piece of a run's work; None while another process has it.

    Args:
        run_dir: of the run.
        piece: name of it, which is part of a file name.

    Raises:
        RunError: the claim cannot be written.
    """
    folder = Path(run_dir, FOLDER)
    newest = _newest(folder, piece)
    if newest is not None and is_alive(newest):
        return None
    number = 1 if newest is None else _number(newest) + 1
    path = folder / f"{piece}.{number}"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        return Claim(path) if _make(path) else None


@contextlib.contextmanager
def claimed(
    run_dir: str | Path, piece: str, wait: bool = False
) -> Iterator[Claim | None]:
    """`take`, and a release however the block ends.

    Args:
        run_dir, piece: as of `take`.
        wait: until who has it lets it go, or is gone.
    """
    claim = take(run_dir, piece)
    while wait and claim is None:
        time.sleep(1)
        claim = take(run_dir, piece)
    try:
        yield claim
    finally:
        if claim is not None:
            claim.release()


def _make(path):
    """Makes a claim, whole at once; False where another process has made it."""
    temporary = files.temporary_beside(path)
    try:
        with temporary.open("x") as file:
            json.dump(_me(), file)
        try:
            os.link(temporary, path)  # fails where there is one
        except FileExistsError:
            # Also where the answer of a network file system was lost, and it was asked
            # again: then the one that is there is this one.
            return os.path.samefile(temporary, path)
        except OSError:  # a file system without hard links
            try:
                with path.open("x") as file:
                    json.dump(_me(), file)
            except FileExistsError:
                return False
        return True
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def holder(run_dir: str | Path, piece: str) -> Path | None:
    """The claim of a process that has a piece now; None where it is free."""
    newest = _newest(Path(run_dir, FOLDER), piece)
    return newest if newest is not None and is_alive(newest) else None


def is_alive(path: Path) -> bool:
    """Whether the process of a claim may still be at work: it has neither let the
    piece go nor ended, as far as can be seen from here, nor been silent for STALE."""
    try:
        said = json.loads(path.read_text() or "{}")
    except (OSError, ValueError):
        said = {}
    if said.get(_RELEASED):
        return False
    me = _me()
    if said and said.get("system") == me["system"] is not None:
        return _begun(said["process"]) == said["begun"]
    return silence(path) < STALE


def silence(path: Path) -> float:
    """Seconds since a claim was renewed, by the clock of the file system."""
    beside = files.temporary_beside(path)
    try:
        beside.touch()
        return beside.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def said_by(path: Path) -> str:
    """Whose a claim is, in words."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        said = json.loads(path.read_text())
        return f"process {said['process']} on {said['host']}"
    return "a process that is not named"


def _piece(path):
    return path.name.rpartition(".")[0]


def _number(path):
    return int(path.name.rpartition(".")[2])


def _newest(folder, piece):
    pattern = re.compile(re.escape(piece) + r"\.\d+")
    with contextlib.suppress(OSError):
        found = [p for p in folder.iterdir() if pattern.fullmatch(p.name)]
        return max(found, key=_number, default=None)
    return None


def _me():
    return {
        "host": platform.node(),
        "process": os.getpid(),
        "system": _system(),
        "begun": _begun(os.getpid()),
    }


def _system():
    """What has the same numbers of processes as this one: a boot of a machine, or of a
    container on it; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _begun(process):
    """When a process began, by its system; None where there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]
