"""Image files that are there twice, found without decoding any."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from brats_gan.io.layouts import Subject, images_by_file

_MIDDLE = 2**16  # bytes; plain NIfTI of one grid are all of one size, and begin alike


class _Image(NamedTuple):
    path: Path
    subject: str
    modalities: str  # those in the file, for a message


def twins(subjects: Iterable[Subject]) -> list[tuple[str, str]]:
    """[(subject, message)] of image files with the bytes of another, copied or linked.

    Files of one size are compared by their middle, and only those that are alike there
    as a whole, so of a good folder hardly anything is read. Labels may be equal: many
    are empty. What cannot be read is left to the other checks.
    """
    images = [
        _Image(path, subject.name, ", ".join(modality for modality, _ in wanted))
        for subject in subjects
        for path, wanted in images_by_file(subject).items()
    ]
    found: dict[tuple, list] = {}  # (subject, the other) -> [(image, its twin)]
    for alike in _alike(images, _size):
        for alike_too in _alike(alike, _middle):
            for first, *others in _alike(alike_too, _whole):
                for other in others:
                    pair = (other.subject, first.subject)
                    found.setdefault(pair, []).append((other, first))
    return [(pair[0], _message(pairs)) for pair, pairs in found.items()]


def _message(pairs):
    (image, twin), *more = pairs
    also = f" So are {len(more)} more of its files." if more else ""
    return (
        f"{image.path}: {image.modalities} of {image.subject} is the same file as "
        f"{twin.modalities} of {twin.subject}, {twin.path}.{also} Put the right file "
        "in its place, or remove the copy."
    )


def _alike(images: list[_Image], key: Callable) -> list[list[_Image]]:
    """Groups of two and more with the same key, in the order of `images`."""
    groups: dict = {}
    for image in images:
        try:
            groups.setdefault(key(image.path), []).append(image)
        except OSError:
            continue
    groups.pop(None, None)
    return [group for group in groups.values() if len(group) > 1]


def _size(path):
    """Bytes of a file; None for what is none, or is empty."""
    found = os.stat(path)
    return found.st_size or None if stat.S_ISREG(found.st_mode) else None


def _middle(path):
    with open(path, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _MIDDLE, 0) // 2)
        return file.read(_MIDDLE)


def _whole(path):
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
