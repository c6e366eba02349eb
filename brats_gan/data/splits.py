"""Splits by subject: found, drawn once for a run, written and read."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from absl import logging

from brats_gan import files, io
from brats_gan.io import checks
from brats_gan.spec import BRATS, Spec


def split_subjects(
    data_dir: str | Path,
    run_dir: Path,
    seed: int = 0,
    given: str | Path | None = None,
    layout: str | None = None,
    check: bool = True,
    slices: tuple[int, int] | None = None,
    held_out: float = 0.1,
    strict: bool = True,
    spec: Spec = BRATS,
    labelling: io.Labelling = io.AS_NAMED,
) -> tuple[list[io.Subject], list[io.Subject]]:
    """Finds the subjects of a folder and splits them, once for a run.

    The split is RUN/split.json where that exists, else `given` (a file of another run),
    else drawn from `seed`; and it is written to RUN/split.json.

    Args:
        data_dir: BraTS folder.
        run_dir: Path.
        seed: of the split.
        given: path of a split.json, or None.
        layout: see io.find_subjects.
        check: look at all headers and labels first.
        slices: the range that must be there, half-open.
        held_out: share of the subjects to hold out, where the split is drawn.
        strict: False draws a split where `given` is of other subjects.
        spec: of the data.
        labelling: how the labels are to be read.

    Returns:
        Subjects to train on, subjects held out: lists of io.Subject.

    Raises:
        DataError: the folder is not usable, or the split names other subjects.
    """
    subjects = io.find_subjects(data_dir, layout, spec, labelling)
    if check:
        checks.require_usable(data_dir, layout, slices, spec, labelling)
    path = run_dir / "split.json"
    if path.exists() or given:
        source = path if path.exists() else Path(given)
        split = load_split(source)
        by_name = {subject.name: subject for subject in subjects}
        missing = sorted({*split["train"], *split["test"]} - by_name.keys())
        other = missing or not split["test"]
        if other and not (strict or path.exists()):
            logging.info("%s is of other subjects: a split is drawn", source)
            split = random_split(by_name, seed, held_out)
        elif missing:
            raise files.DataError(
                f"{source} names subjects that {data_dir} does not have: "
                f"{', '.join(missing[:5])}; give the folder it was made for"
            )
    else:
        by_name = {subject.name: subject for subject in subjects}
        split = random_split(by_name, seed, held_out)
    save_split(path, split)
    return [by_name[n] for n in split["train"]], [by_name[n] for n in split["test"]]


def random_split(names: Iterable[str], seed: int, held_out: float = 0.1) -> dict:
    """Splits by subject: {"seed", "train", "test"}, the same whatever the order given.

    At least one subject is held out, and at least one is left to train on.
    """
    names = sorted(names)
    if len(names) < 2:
        raise files.DataError(
            f"{len(names)} subject{'s' * (len(names) != 1)} found, but a split needs "
            "two or more. Add subjects to the data folder."
        )
    if len(set(names)) < len(names):
        raise files.DataError("Two subjects have the same name. Rename one of them.")
    count = min(max(1, round(held_out * len(names))), len(names) - 1)
    shuffled = names.copy()
    random.Random(seed).shuffle(shuffled)
    train, test = sorted(shuffled[count:]), sorted(shuffled[:count])
    return {"seed": seed, "train": train, "test": test}


def save_split(path: Path, split: dict) -> None:
    """Writes a split as JSON."""
    files.write_json(path, split)


def load_split(path: Path) -> dict:
    """Reads what `save_split` wrote; DataError if a subject is on both sides."""
    split = files.read_json(path)
    sides = [split.get(side) for side in ("train", "test")]
    lists = all(isinstance(side, list) for side in sides)
    if "seed" not in split or not lists or not _are_texts(sides[0] + sides[1]):
        raise files.DataError(
            f'{path}: no "seed", "train" and "test". Delete it to split anew.'
        )
    both = sorted(set(sides[0]) & set(sides[1]))
    if both:
        raise files.DataError(
            f"{path}: on both sides: {', '.join(both)}. Delete the file to split anew."
        )
    return split


def _are_texts(values):
    return all(isinstance(value, str) for value in values)
