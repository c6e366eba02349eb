"""Files: errors that name them, writing whole or not at all, JSON, and one lock."""

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_LOCKS = fcntl is not None

_MAX_JSON = 2**24  # bytes; the dataset.json of the Decathlon has 2**16
MAX_NAME = 200  # bytes of a subject's name; file systems stop at 255, endings included


class DataError(ValueError):
    """Data that cannot be used: the message names the file and the remedy."""


_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_MISPLACED = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def remedy(error: OSError, doing: str = "write") -> str:
    """What to do about an error of the file system, by its number: a clause."""
    if error.errno in _NO_ROOM:
        return "Make room there"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"See that you may {doing} there"
    if error.errno == errno.EROFS:
        return "Name a folder that can be written to"
    if error.errno in _MISPLACED:
        return "A file is in the place of a folder, or the reverse: name another path"
    if error.errno == errno.ENAMETOOLONG:
        return "Name a shorter path"
    if error.errno == errno.ENOENT:
        return "Check the path"
    return "See what the file system there says"


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


def require_apart(written: dict, read: dict) -> None:
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


def is_file_name(name):
    """Whether a name from elsewhere can be part of a path without leading away."""
    return (
        name.isprintable()
        and name not in ("", ".", "..")
        and not set(name) & set("/\\")
        and len(name.encode()) <= MAX_NAME
    )


def read_json(path):
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


def folder_within(folder, name):
    """folder/name, for a name that came from elsewhere; DataError if it leads away."""
    path = Path(folder) / name
    if not is_file_name(name) or path.resolve() != Path(folder).resolve() / name:
        raise DataError(
            f"{str(path)!a}: leads out of {folder}. Rename the subject, or remove the "
            "link."
        )
    return path


PARTS = ".*.part"  # what a process leaves that is killed in write_atomically


def write_atomically(path, content):
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
            f"{path}: cannot be written ({error.strerror}). {remedy(error)}, then "
            "start the same command again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path, value):
    """Writes JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def lock(file, wait=True):
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
def alone_in(folder):
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
