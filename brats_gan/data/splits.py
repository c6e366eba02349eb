"""Splits by patient: found, drawn once for a run, written and read."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import logging

from brats_gan import files, io
from brats_gan.data import record_forms, records
from brats_gan.io import checks, patients
from brats_gan.spec import BRATS, Spec

PATTERN = "patient_pattern"  # in a split that was drawn with one


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
    patient_pattern: str | None = None,
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
        held_out: share of the patients to hold out, where the split is drawn.
        strict: False draws a split where `given` is of other subjects.
        spec: of the data.
        labelling: how the labels are to be read.
        patient_pattern: see patients.patient_of; None: that of the split.

    Returns:
        Subjects to train on, subjects held out: lists of io.Subject; and the split,
        for `save_split`.

    Raises:
        DataError: the folder is not usable, or the split names other subjects, or none
            to train on, or has a patient on both sides, or is not what the run began
            with.
    """
    pattern = patient_pattern
    subjects = io.find_subjects(data_dir, layout, spec, labelling, pattern)
    if check:
        checks.require_usable(data_dir, layout, slices, spec, labelling)
    path = run_dir / "split.json"
    own, split = own_split(run_dir, pattern), None
    if given and (own is None or Path(given).exists()):  # it may have been moved since
        split = given_split(given, pattern)
    if own is not None and split is not None and strict:
        _require_equal(own, split, path, given)
    if own is not None or given:
        source, split = (Path(given), split) if own is None else (path, own)
        by_name = {subject.name: subject for subject in subjects}
        missing = sorted({*split["train"], *split["test"]} - by_name.keys())
        other = missing or not split["test"]
        if other and not (strict or own is not None):
            logging.info("%s is of other subjects: a split is drawn", source)
            split = random_split(by_name, seed, held_out, pattern)
        elif missing:
            raise files.DataError(
                f"{source} names subjects that {data_dir} does not have: "
                f"{', '.join(missing[:5])}; give the folder it was made for"
            )
    else:
        by_name = {subject.name: subject for subject in subjects}
        split = random_split(by_name, seed, held_out, pattern)
    if not split["train"]:
        raise files.DataError(
            f"{source}: names no subject to train on. Give another --split."
        )
    if pattern:
        split = {**split, PATTERN: pattern}
    train, test = (
        [by_name[n]._replace(patient_pattern=split.get(PATTERN)) for n in split[side]]
        for side in ("train", "test")
    )
    return train, test, split


def split_subjects(
    data_dir: str | Path, run_dir: Path, **how: Any
) -> tuple[list[io.Subject], list[io.Subject]]:
    """`find_split`, once for a run: the split is written to RUN/split.json."""
    train, test, split = find_split(data_dir, run_dir, **how)
    save_split(run_dir / "split.json", split)
    return train, test


def random_split(
    names: Iterable[str],
    seed: int,
    held_out: float = 0.1,
    patient_pattern: str | None = None,
) -> dict:
    """Splits by patient: {"seed", "train", "test"}, the same whatever the order given.

    All visits of a patient are on one side. At least one patient is held out, and at
    least one is left to train on.

    Args:
        names: of the subjects.
        seed: of the order of the patients.
        held_out: share of the patients.
        patient_pattern: see patients.patient_of; the split has it where it is given.
    """
    names = sorted(names)
    if len(set(names)) < len(names):
        raise files.DataError("Two subjects have the same name. Rename one of them.")
    groups = [*patients.by_patient(names, patient_pattern).values()]
    if len(groups) < 2:
        found = f"{len(names)} subject{'s' * (len(names) != 1)}"
        of_one = f" of one patient ({', '.join(names[:3])})" if len(names) > 1 else ""
        other = (
            f" If they are not one, --patient_pattern='{patients.ONE_EACH}' takes each "
            "for a patient of its own."
        )
        raise files.DataError(
            f"{found}{of_one} found, but a split needs two or more patients. Add some "
            f"to the data folder.{other if of_one else ''}"
        )
    count = min(max(1, round(held_out * len(groups))), len(groups) - 1)
    random.Random(seed).shuffle(groups)
    train, test = (sorted(sum(side, [])) for side in (groups[count:], groups[:count]))
    if len(groups) < len(names):
        logging.info(
            "%d subjects are of %d patients; %d of these are held out",
            *(len(names), len(groups), count),
        )
    split = {"seed": seed, "train": train, "test": test}
    return split | ({PATTERN: patient_pattern} if patient_pattern else {})


def save_split(path: Path, split: dict) -> None:
    """Writes a split as JSON."""
    files.write_json(path, split)


def own_split(run_dir: Path, patient_pattern: str | None = None) -> dict | None:
    """The split of a run, None where it has not begun.

    What it has left has the last word: a split.json that is gone is written again by
    it, and one that says otherwise is refused.

    Raises:
        DataError: see load_split and records.require_true; or the run has begun, and
            its split is written nowhere.
    """
    path = Path(run_dir, "split.json")
    split = load_split(path, patient_pattern) if path.exists() else None
    split = records.require_true(path, split)
    if split is None and records.is_begun(run_dir):
        raise files.DataError(
            f"{path}: is gone, and {run_dir} has begun with it. Put it back: another "
            "split would train on what the run holds out."
        )
    return split


def given_split(path: str | Path, patient_pattern: str | None = None) -> dict:
    """The split of a file, which must be what those beside it were made with."""
    split = load_split(Path(path), patient_pattern)
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


def load_split(
    path: Path, patient_pattern: str | None = None, apart: bool = True
) -> dict:
    """Reads what `save_split` wrote.

    Args:
        path: of the split.
        patient_pattern: see patients.patient_of; None: that of the split.
        apart: refuse a patient on both sides. False is for what has been trained so.

    Raises:
        DataError: it is no split, or a subject or a patient is on both sides, or a
            subject twice on one.
    """
    split = files.read_json(path)
    sides = [split.get(side) for side in ("train", "test")]
    if "seed" not in split or not all(map(record_forms.is_names, sides)):
        raise files.DataError(
            f'{path}: no "seed", "train" and "test". Delete it to split anew.'
        )
    both = sorted(set(sides[0]) & set(sides[1]))
    if both:
        raise files.DataError(
            f"{path}: on both sides: {', '.join(both)}. Delete the file to split anew."
        )
    for side in sides:
        twice = next((name for name in side if side.count(name) > 1), None)
        if twice is not None:
            raise files.DataError(
                f"{path}: {twice} is there twice on one side, and would count twice. "
                "Remove one."
            )
    pattern = split.get(PATTERN)
    if pattern is not None:
        if not isinstance(pattern, str):
            raise files.DataError(
                f'{path}: "{PATTERN}" is no text. Delete the file to split anew.'
            )
        try:
            patients.compiled(pattern)
        except files.DataError as error:
            raise files.DataError(f"{path}: {error}") from error
    both = patients.shared(*sides[::-1], patient_pattern or pattern) if apart else []
    if both:
        raise files.DataError(
            f"{path}: visits of one patient are on both sides: {len(both)} held out, "
            f"such as {both[0][0]}, whose patient is trained on by {both[0][1]}. What "
            "was trained with it has seen the patients it is scored on: split anew in "
            "a new folder, without that file. If these are not one patient, "
            f"--patient_pattern='{patients.ONE_EACH}' takes each subject for one."
        )
    return split
