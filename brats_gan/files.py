"""Files: errors that name them, writing whole or not at all, JSON, and one lock."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_LOCKS = fcntl is not None

_MAX_JSON = 2**24  # bytes; the dataset.json of the Decathlon has 2**16
MAX_NAME = 200  # bytes of a subject's name; file systems stop at 255, endings included


class DataError(ValueError):
    """Data that cannot be used: the message names the file and the remedy."""


def is_file_name(name: str) -> bool:
    """Whether a name from elsewhere can be part of a path without leading away."""
    return (
        name.isprintable()
        and name not in ("", ".", "..")
        and not set(name) & set("/\\")
        and len(name.encode()) <= MAX_NAME
    )


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON object from a file; DataError says which file is not one."""
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > _MAX_JSON:
            raise ValueError(f"{path.stat().st_size} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also of JSON
        raise DataError(
            f"{path}: not readable as JSON ({error}). Restore it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON object is expected. Restore it.")
    return content


def folder_within(folder: str | os.PathLike, name: str) -> Path:
    """folder/name, for a name that came from elsewhere; DataError if it leads away."""
    path = Path(folder) / name
    if not is_file_name(name) or path.resolve() != Path(folder).resolve() / name:
        raise DataError(
            f"{str(path)!a}: leads out of {folder}. Rename the subject, or remove the "
            "link."
        )
    return path


PARTS = ".*.part"  # what a process leaves that is killed in write_atomically


def write_atomically(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Writes bytes under a temporary name beside the file, then renames it.

    Raises:
        DataError: there is no room, or it may not be written. What was there is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}). Make room there, or see "
            "that you may write there, then start the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def lock(file: IO | int, wait: bool = True) -> None:
    """Takes an open file, or a folder, for this process until it is closed.

    Where there are no locks (Windows), it does nothing.

    Args:
        file: an open file, or the descriptor of a file or folder.
        wait: until the process that has it lets it go.

    Raises:
        BlockingIOError: another process has it, and `wait` is False.
        OSError: the file system has no locks, as some network file systems.
    """
    if HAS_LOCKS:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process at a time in a folder, where the file system has locks."""
    if not HAS_LOCKS:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            lock(descriptor)
        yield
    finally:
        os.close(descriptor)
