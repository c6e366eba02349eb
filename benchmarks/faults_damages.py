"""What can become of a file: (path, random.Random, place of all folders) -> None."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path


def _cut(path, rng, place):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(len(content), 1))])


def _flip(path, rng, place):
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 4, 64))):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _swap(path, rng, place):
    """Exchanges it with another of the same ending, of the same folder or another."""
    within = path.parents[1] if place in path.parents[1].parents else path.parent
    if rng.random() < 0.3:
        within = place
    others = [
        other
        for other in sorted(within.rglob(f"*{path.suffix}"))
        if other.is_file()
        and other.read_bytes() != path.read_bytes()
        # What a command is given as real data is right, whatever it is.
        and (place / "data" in other.parents) == (place / "data" in path.parents)
    ]
    if others:
        other = rng.choice(others)
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)


def _a_folder(path, rng, place):
    path.unlink()
    path.mkdir()


def _dangling(path, rng, place):
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = {
    "cut": _cut,
    "flipped": _flip,
    "deleted": lambda path, rng, place: path.unlink(),
    "emptied": lambda path, rng, place: path.write_bytes(b""),
    "swapped": _swap,
    "of rubbish": lambda path, rng, place: path.write_bytes(rng.randbytes(300)),
    "a folder": _a_folder,
    "a dangling link": _dangling,
}
OFTEN = ("cut", "flipped", "deleted", "swapped")


def files_in(whole: Path, tops: Iterable[str]) -> Iterator[str]:
    """Names of all files in some of the folders."""
    for top in tops:
        path = whole / top
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file():
                yield each.relative_to(whole).as_posix()
