"""Splits by subject: found, drawn once for a run, written and read."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import logging

from brats_gan import files, io
from brats_gan.data import records
from brats_gan.io import checks
from brats_gan.spec import BRATS, Spec


def find_split(
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
) -> tuple[list[io.Subject], list[io.Subject], dict]:
    """Finds the subjects of a folder and splits them; writes nothing.

    The split is that of the run where it has one, else `given` (a file of another run),
    else drawn from `seed`.

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
        Subjects to train on, subjects held out: lists of io.Subject; and the split,
        for `save_split`.

    Raises:
        DataError: the folder is not usable, or the split names other subjects, or none
            to train on, or is not what the run began with.
    """
    subjects = io.find_subjects(data_dir, layout, spec, labelling)
    if check:
        checks.require_usable(data_dir, layout, slices, spec, labelling)
    path = run_dir / "split.json"
    own, split = own_split(run_dir), None
    if given and (own is None or Path(given).exists()):  # it may have been moved since
        split = given_split(given)
    if own is not None and split is not None and strict:
        _require_equal(own, split, path, given)
    if own is not None or given:
        source, split = (Path(given), split) if own is None else (path, own)
        by_name = {subject.name: subject for subject in subjects}
        missing = sorted({*split["train"], *split["test"]} - by_name.keys())
        other = missing or not split["test"]
        if other and not (strict or own is not None):
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
    if not split["train"]:
        raise files.DataError(
            f"{source}: names no subject to train on. Give another --split."
        )
    train, test = ([by_name[n] for n in split[side]] for side in ("train", "test"))
    return train, test, split


def split_subjects(
    data_dir: str | Path, run_dir: Path, **how: Any
) -> tuple[list[io.Subject], list[io.Subject]]:
    """`find_split`, once for a run: the split is written to RUN/split.json."""
    train, test, split = find_split(data_dir, run_dir, **how)
    save_split(run_dir / "split.json", split)
    return train, test


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


def own_split(run_dir: Path) -> dict | None:
    """The split of a run, None where it has not begun.

    What it has left has the last word: a split.json that is gone is written again by
    it, and one that says otherwise is refused.

    Raises:
        DataError: see load_split and records.require_true; or the run has begun, and
            its split is written nowhere.
    """
    path = Path(run_dir, "split.json")
    split = load_split(path) if path.exists() else None
    split = records.require_true(path, split)
    if split is None and records.is_begun(run_dir):
        raise files.DataError(
            f"{path}: is gone, and {run_dir} has begun with it. Put it back: another "
            "split would train on what the run holds out."
        )
    return split


def given_split(path: str | Path) -> dict:
    """The split of a file, which must be what those beside it were made with."""
    split = load_split(Path(path))
    if Path(path).name == "split.json":
        records.require_true(Path(path), split)
    return split


def _require_equal(own, split, path, given):
    for side in ("train", "test"):
        if {*own[side]} != {*split[side]}:
            differ = sorted({*own[side]}.symmetric_difference(split[side]))
            raise files.DataError(
                f"{given}: {differ[0]} is on another side than in {path}, with which "
                "the run began. Give that split, or begin anew in another folder."
            )


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
