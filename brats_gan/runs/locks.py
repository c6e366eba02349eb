"""Who is at work in a run folder: one process, or several with a share each."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

from absl import logging

from brats_gan import files
from brats_gan.runs.process import RunError, writing

LOCK = ".lock"  # that of a share has its name behind it

# Folder -> (open files, what `take` returned): locks end with their process, however
# that ends.
_locks = {}


def take(run_dir: Path, share: str | None = None) -> bool:
    """Takes the folder for this process, until it ends or calls `release`.

    Args:
        run_dir: folder; it is made.
        share: name of a part of the work. Processes with other shares may be at work in
            it, too, and one without a share may not. "" is of those that settle by
            claims who does what (runs.claims).

    Returns:
        Whether nobody can be, or have been, at work in it: it was free, and there are
        locks.

    Raises:
        RunError: the folder, or the share, is another process' now.
    """
    folder = run_dir.resolve()
    if folder in _locks:
        return _locks[folder][1]
    if not files.HAS_LOCKS:
        return False
    names = [(LOCK, share is not None)]
    if share:
        names.append((f"{LOCK}-{share}", False))
    opened, alone = [], share is None
    for name, shared in names:
        with writing(run_dir / name):
            run_dir.mkdir(parents=True, exist_ok=True)
            file = (run_dir / name).open("a+")
        opened.append(file)
        try:
            files.lock(file, wait=False, shared=shared)
        except BlockingIOError as error:
            holder = _holder(run_dir, file)
            for each in opened:
                each.close()
            what = run_dir if name == LOCK else f"share {share} of {run_dir}"
            raise RunError(
                f"{what} is in use by another process ({holder}); wait for it, stop "
                "it, or choose another folder"
            ) from error
        except OSError as error:  # some network file systems have no locks
            logging.warning("%s: cannot be locked (%s)", run_dir, error.strerror)
            alone = False
        if not shared:
            with contextlib.suppress(OSError):  # no room: it holds without a name
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}")
                file.flush()
        elif os.stat(file.fileno()).st_size:
            with contextlib.suppress(OSError):
                file.truncate(0)  # of one who has left
    _locks[folder] = opened, alone
    return alone


def _holder(run_dir, file):
    """Who says in a lock file, or in those of shares, that it is theirs."""
    file.seek(0)
    said = [file.read()]
    if not said[0]:
        for path in sorted(run_dir.glob(f"{LOCK}-*")):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                said.append(path.read_text())
    return ", ".join(each for each in said if each) or "not named yet"


def release(run_dir: str | Path) -> None:
    """Lets other processes have a folder that `take` took, before this one ends."""
    opened, _ = _locks.pop(Path(run_dir).resolve(), ((), False))
    for file in opened:
        file.close()
