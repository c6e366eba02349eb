"""The cache of decoded slices: its place, and arrays that are read with checksums.

An array is a .npy file with a tail behind it: a CRC-32 of every item (what is read at a
time), the number of items, and a CRC-32 of the file's name, its header and the tail. So
a file that was cut, changed or put in another's place is never taken for whole, and no
more is read than is asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import math
import os
import re
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from absl import logging

from brats_gan import files
from brats_gan.io.streams import isal_zlib

VARIABLE = "BRATS_GAN_CACHE"
_ELSEWHERE = f"--cache_dir or the variable {VARIABLE} names another place for the cache"
_OURS = "slices-"  # a folder of what one version of the reader has decoded
# Files of versions that had no such folders and no checksums.
_BEFORE = re.compile(r"[0-9a-f]{32}\.(images|label|images\.(brain|style))\.npy")
_HEADER = 128  # bytes before the values of a .npy file, for headers of our length
_WORD = np.dtype("<u4")
_PACKAGE = Path(__file__).parents[1]
_READERS = ("spec.py", "styles.py", "io/*.py", "data/slices.py", "data/cache.py")


class Damaged(Exception):
    """An array that is not what was written; the message says what is wrong."""


# --- Its place ------------------------------------------------------------------------


def default_place() -> Path | None:
    """$BRATS_GAN_CACHE, else brats_gan in the user's folder for caches; None without.

    That is $XDG_CACHE_HOME, if absolute, or ~/.cache:
    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(caches, "brats_gan") if os.path.isabs(caches) else None


@functools.cache
def version() -> str:
    """Of all that decides what a decoded slice is: a digest of the code that reads it.

    Slices that other code has decoded are thus never taken, and two versions of this
    package can have one cache.
    """
    digest = hashlib.blake2b(cv2.__version__.encode(), digest_size=6)
    for path in (p for of in _READERS for p in sorted(_PACKAGE.glob(of))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# What this process has opened -> a descriptor that tells others that it is in use.
_opened: dict[Path, int | None] = {}


@functools.cache
def _temporary_place():
    """A folder that is removed as this process ends."""
    folder = tempfile.mkdtemp(prefix="brats_gan-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def folder_in(place: str | Path | None, needed: int) -> Path:
    """The folder for what this version decodes, made if need be, in use from now on.

    The first time, its size is said, and what killed processes left is removed.

    Args:
        place: of the cache; None for that of the user. Where this one cannot be
            written, it is a temporary folder, with a warning.
        needed: bytes that are to be in it, for what is said.

    Raises:
        DataError: a place that was named cannot be made.
    """
    fallback = place is None and not os.environ.get(VARIABLE)
    place = default_place() if place is None else Path(place)
    try:
        if place is None:
            raise FileNotFoundError(0, "the user has no home")
        folder = place / f"{_OURS}{version()}"
        folder.mkdir(parents=True, exist_ok=True)
        if fallback and not os.access(folder, os.W_OK):
            raise PermissionError(0, "it may not be written")
    except OSError as error:
        if not fallback:
            raise files.DataError(
                f"{place}: decoded slices cannot be kept there ({error.strerror}). "
                f"{files.remedy(error)}; {_ELSEWHERE}."
            ) from error
        place = _temporary_place()
        logging.warning(
            "%s: decoded slices cannot be kept there (%s), and are decoded anew by "
            "each command; %s",
            *(default_place() or "~/.cache/brats_gan", error.strerror, _ELSEWHERE),
        )
        folder = place / f"{_OURS}{version()}"
        folder.mkdir(parents=True, exist_ok=True)
    if place.resolve() not in _opened:
        _opened[place.resolve()] = _shared(place)
        files.remove_parts(place)
        logging.info(
            "decoded slices are kept in %s: %s are there, these take about %s "
            "(prepare_data.py cache --clear empties it)",
            *(place, as_text(size(place)), as_text(needed)),
        )
    return folder


def _shared(place):
    """Locks a folder for reading; a descriptor to keep, or None without locks."""
    if not files.HAS_LOCKS:
        return None
    descriptor = os.open(place, os.O_RDONLY)
    with contextlib.suppress(OSError):  # being emptied, or a file system without locks
        files.lock(descriptor, wait=False, shared=True)
    return descriptor


def contents(place: str | Path) -> list[Path]:
    """All files of a cache, whichever version has written them; no others.

    Raises:
        DataError: it cannot be looked into.
    """
    place = Path(place)
    if not place.exists():
        return []
    try:
        found = [path for path in place.iterdir() if _BEFORE.fullmatch(path.name)]
        for folder in place.glob(f"{_OURS}*"):
            found += folder.iterdir()
        return found + list(place.glob(files.PARTS))
    except OSError as error:
        raise files.DataError(
            f"{place}: cannot be looked into ({error.strerror}). {_ELSEWHERE}."
        ) from error


def size(place: str | Path) -> int:
    """Bytes of `contents`."""
    total = 0
    for path in contents(place):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed since
            total += path.stat().st_size
    return total


def clear(place: str | Path) -> None:
    """Removes `contents`, and the folder if nothing else is in it.

    Raises:
        DataError: a command is at work with it, or it may not be written.
    """
    place = Path(place)
    if not place.exists():
        return
    descriptor = os.open(place, os.O_RDONLY) if files.HAS_LOCKS else None
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                _take(descriptor, place)
        for path in contents(place):
            path.unlink(missing_ok=True)
        for folder in [*place.glob(f"{_OURS}*"), place]:
            with contextlib.suppress(OSError):  # something else is in it
                folder.rmdir()
    except OSError as error:
        raise files.DataError(
            f"{place}: cannot be emptied ({error.strerror}). {files.remedy(error)}."
        ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _take(descriptor, place):
    try:
        files.lock(descriptor, wait=False)
    except BlockingIOError as error:
        raise files.DataError(
            f"{place}: a command is at work with it. Wait until it has ended."
        ) from error


def as_text(count: int) -> str:
    """Bytes as a person reads them: "3.6 GB"."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.0f} kB"


# --- Arrays in it ---------------------------------------------------------------------


def write(path: Path, array: np.ndarray, axes: int) -> None:
    """Writes an array with its checksums, whole or not at all.

    Args:
        path: of the file.
        array: of at least one value.
        axes: how many leading axes number its items.

    Raises:
        DataError: see files.write_atomically.
    """
    array = np.ascontiguousarray(array)
    content = BytesIO()
    np.save(content, array)
    assert len(content.getbuffer()) == _HEADER + array.nbytes
    items = array.reshape(math.prod(array.shape[:axes]), -1)
    sums = np.array([isal_zlib.crc32(item) for item in items], _WORD).tobytes()
    sums += np.array([len(items)], _WORD).tobytes()
    whole = _sum_of(path, content.getbuffer()[:_HEADER], sums)
    content.write(sums + np.array([whole], _WORD).tobytes())
    try:
        files.write_atomically(path, content.getbuffer())
    except files.DataError as error:
        raise files.DataError(f"{error} {_ELSEWHERE}.") from error


def _sum_of(path, header, sums):
    of_name = isal_zlib.crc32(path.name.encode())
    return isal_zlib.crc32(sums, isal_zlib.crc32(header, of_name))


class Array(NamedTuple):
    """An array in the cache, of which items are read."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    sums: list[int]  # CRC-32 of each item

    def read_into(self, target: np.ndarray, first: int) -> None:
        """Fills an array with as many items as it holds, from item `first` on.

        One read of a few hundred kB, without Python's lock: a memory map costs more to
        set up, and its pages would count as memory of this process.

        Raises:
            Damaged: they are not what was written.
        """
        size = math.prod(self.shape) * self.dtype.itemsize // len(self.sums)
        count = target.nbytes // size
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(_HEADER + first * size)
                got = file.readinto(target)
        except OSError as error:
            raise Damaged(error.strerror) from error
        if got != target.nbytes:
            raise Damaged("it was cut off")
        # Views of it: bytes in the order of the file.
        for item, known in zip(
            target.reshape(count, -1), self.sums[first : first + count], strict=True
        ):
            if isal_zlib.crc32(item) != known:
                raise Damaged("its content has changed")

    def load(self) -> np.ndarray:
        """All of it; Damaged as `read_into`."""
        array = np.empty(self.shape, self.dtype)
        self.read_into(array, 0)
        return array


def open_array(path: Path, shape: tuple[int | None, ...], dtype: type) -> Array:
    """An array that `write` wrote; its items are verified as they are read.

    Args:
        path: of the file.
        shape: it must have; None is any length of an axis.
        dtype: it must have.

    Raises:
        Damaged: it is not there, or not whole, or another.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(length - 2 * _WORD.itemsize, 0))
            tail = file.read()
            count = int.from_bytes(tail[: _WORD.itemsize], "little")
            start = length - (count + 2) * _WORD.itemsize
            if start < _HEADER:
                raise Damaged("it was cut off")
            file.seek(start)
            tail = file.read()
    except FileNotFoundError as error:
        raise Damaged("it is missing") from error
    except OSError as error:
        raise Damaged(error.strerror) from error
    sums, whole = tail[: -_WORD.itemsize], tail[-_WORD.itemsize :]
    if _sum_of(path, header, sums) != int.from_bytes(whole, "little"):
        raise Damaged("it was cut off, changed, or is another file under this name")
    stream = BytesIO(header)  # as it was written, so it can be parsed
    np.lib.format.read_magic(stream)
    found, _, of = np.lib.format.read_array_header_1_0(stream)
    fits = len(found) == len(shape) and all(
        wanted in (None, axis) for wanted, axis in zip(shape, found, strict=True)
    )
    if not fits or of != dtype:
        raise Damaged(f"it holds {found} {of}, not {shape} {np.dtype(dtype)}")
    if start != _HEADER + math.prod(found) * of.itemsize:
        raise Damaged("it was cut off")
    return Array(path, found, of, np.frombuffer(sums, _WORD)[:-1].tolist())
