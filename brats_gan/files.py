"""Files: errors that name them, writing whole or not at all, JSON, and one lock."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
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


def require_writable(folder: str | Path) -> None:
    """Finds out whether files can be made in a folder that need not exist yet.

    Leaves nothing: the file that is tried has no name, or loses it at once.

    Raises:
        DataError: they cannot, or the path is not text.
    """
    folder = Path(folder)
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{str(folder)!a}: this path is not UTF-8. Name another folder."
        ) from error
    try:
        there = folder.absolute()
        while not there.exists() and there != there.parent:
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror}). {remedy(error)}, then "
            "start the same command again."
        ) from error


def require_apart(
    written: Mapping[str, str | os.PathLike | None],
    read: Mapping[str, str | os.PathLike | None],
) -> None:
    """Refuses to write to a folder that is read, into one, or around one.

    What is written would be found among what is read, and neither could be used.

    Args:
        written, read: flag -> path, or None where it is not given.

    Raises:
        DataError: names both.
    """
    for flag, path in written.items():
        for other_flag, other in read.items():
            if not path or not other:
                continue
            one, two = Path(path).resolve(), Path(other).resolve()
            if one == two:
                relation = "is the same as"
            elif two in one.parents:
                relation = "is inside"
            elif one in two.parents:
                relation = "holds"
            else:
                continue
            raise DataError(
                f"--{flag} ({path}) {relation} --{other_flag} ({other}). Name another "
                "place to write to, beside it for instance."
            )


def is_file_name(name: str) -> bool:
    """Whether a name from elsewhere can be part of a path without leading away."""
    return (
        name.isprintable()
        and name not in ("", ".", "..")
        and not set(name) & set("/\\")
        and len(name.encode()) <= MAX_NAME
    )


def require_regular(path: str | os.PathLike) -> None:
    """OSError where a path is a pipe or a device, for which reading might wait for
    ever; what is missing, or a folder, is for the reader to say."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON object from a file; DataError says which file is not one."""
    path = Path(path)
    try:
        require_regular(path)
        if path.is_file() and path.stat().st_size > _MAX_JSON:
            raise ValueError(f"{path.stat().st_size} bytes")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_unambiguous)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also of JSON
        raise DataError(
            f"{path}: not readable as JSON ({error}). Restore it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: a JSON object is expected. Restore it.")
    return content


def _unambiguous(pairs):
    """A JSON object as a dictionary; ValueError where a name is there twice, of which
    Python would take the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!a:.40} is there twice")
    return found


def read_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The whole lines of a losses.jsonl; what was cut off or changed is passed over.

    Raises:
        DataError: it is a folder, or may not be read.
    """
    try:
        require_regular(path)
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). {remedy(error, 'read')}."
        ) from error
    return [line for line in map(_line, lines) if line is not None]


def _line(text):
    """A dict of numbers, among them a step and seconds; None for anything else."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(line, dict) and {"step", "seconds"} <= line.keys()
    numbers = whole and all(type(each) in (int, float) for each in line.values())
    return line if numbers else None


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
PART_AGE = 3600  # seconds after which it is nobody's: a write changes its time

# Why a write failed -> what to do, by the number of the error.
_ROOM = "Make room there"
_RIGHTS = "You may not {} there: choose another place, or have its rights changed"
_FILE = "A file is where a folder is due: choose another place, or move the file away"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Make room for larger files there (ulimit -f)",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "That file system is read-only: choose another place",
    errno.ENAMETOOLONG: "Choose a shorter path",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EISDIR: "A folder is where a file is due: move the folder away",
}


def remedy(error: OSError | str, doing: str = "write") -> str:
    """What to do about what failed in the file system, as the beginning of a sentence.

    Args:
        error: an OSError, or the text of another library that names its cause.
        doing: what was tried, a verb.
    """
    if isinstance(error, OSError):
        number = error.errno
    else:
        said = error.lower()
        number = next((n for n in _REMEDIES if os.strerror(n).lower() in said), None)
    return _REMEDIES.get(number, "See what is wrong there").format(doing)


def temporary_beside(path: str | Path) -> Path:
    """A name for what is to be renamed to `path` once it is whole; of PARTS.

    At random: processes in two containers may have the same number.
    """
    path = Path(path)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def remove_parts(folder: str | Path, age: float = PART_AGE) -> None:
    """Removes what killed processes left of PARTS, anywhere in a folder.

    Args:
        folder: that only this process has, if `age` is 0.
        age: seconds since it was last written to.
    """
    now = time.time()
    for part in Path(folder).rglob(PARTS):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if age <= 0 or now - part.stat().st_mtime > age:
                part.unlink()


def write_atomically(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Writes bytes under a temporary name beside the file, then renames it.

    Raises:
        DataError: there is no room, or it may not be written. What was there is left.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}). {remedy(error)}, then "
            "start the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: object) -> None:
    """Writes JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


_SEAL = "digest"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a digest of all the rest of it, for `unsealed`."""
    content = json.loads(json.dumps({k: v for k, v in value.items() if k != _SEAL}))
    return {**content, _SEAL: _digest(content)}


def unsealed(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `sealed` was given; None where it is another. What has no digest is taken
    as it is: versions before there were any wrote none."""
    content = {k: v for k, v in value.items() if k != _SEAL}
    return content if value.get(_SEAL, _digest(content)) == _digest(content) else None


def _digest(content):
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def lock(file: IO | int, wait: bool = True, shared: bool = False) -> None:
    """Takes an open file, or a folder, for this process until it is closed.

    Where there are no locks (Windows), it does nothing.

    Args:
        file: an open file, or the descriptor of a file or folder.
        wait: until the process that has it lets it go.
        shared: with others that share it; only one that does not waits for them.

    Raises:
        BlockingIOError: another process has it, and `wait` is False.
        OSError: the file system has no locks, as some network file systems.
    """
    if HAS_LOCKS:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))


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
