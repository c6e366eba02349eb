"""Sections that all reports have: flags, subjects, what not to do, how to cite."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import brats_gan
from brats_gan import files, runs
from brats_gan.data import record_forms
from brats_gan.io import patients
from brats_gan.report.blocks import Names, Picture, Section, Table, Text

PAPER = "Synthesis of Registered Multimodal Brain MRI with Lesions"  # as CITATION.cff
AUTHORS = (
    "Yili Qu, Wanqi Su, Chufu Deng, Ying Wang, Yutong Lu, Zhiguang Chen and Nong Xiao"
)
NOT_FOR = (
    "Not for diagnosis, treatment or any other clinical purpose: networks of this "
    "project are no medical device, and nobody has validated them as one.",
    "Not as a stand-in for scans of patients where something is scored: what a "
    "segmentor reaches on generated images says little of what it reaches on others.",
    "Not to say how often lesions occur, where, or how large they are: what is made "
    "follows the labels that were drawn and the filters that were set.",
    "Not as anonymous because it is synthetic: a generator can remember whom it was "
    "trained on. Make the report of the nearest training slices (build_dataset.py "
    "--nearest_report), and read it, before anything is passed on; the terms of the "
    "real data go on applying.",
)
# Pictures larger than this are none that this project draws.
_MOST_PICTURE = 30_000_000  # bytes


def said(error: BaseException, folder: Path) -> str:
    """What went wrong, without where the folder lies."""
    text = str(getattr(error, "strerror", None) or error or type(error).__name__)
    if folder.name in ("", ".."):  # "." is in every sentence
        return text
    # Whole names alone: a folder "a" is not the end of "data".
    whole = rf"(?<![^\s'\"(=]){re.escape(str(folder))}"
    text = re.sub(f"{whole}/", "", text)
    return re.sub(rf"{whole}(?![\w/-])", lambda _: folder.name, text)


def problem(error: Exception, folder: Path) -> Text:
    """The same as a paragraph."""
    return Text(said(error, folder), True)


def read_json(path: Path) -> tuple[dict | None, list[Text]]:
    """(what a JSON file of the folder says, what is wrong with it); None: it is not
    there, or damaged."""
    if not path.exists():
        return None, []
    try:
        return files.read_json(path), []
    except files.DataError as error:
        return None, [problem(error, path.parent)]


def picture(path: Path, caption: str, alt: str) -> list[Any]:
    """The picture of a file, where it is there and can be read."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_PICTURE:
            return []
        return [Picture(f"{caption} ({path.name})", alt, path.read_bytes())]
    except OSError as error:
        return [problem(error, path.parent)]


def text_of(line: str | None) -> str:
    """The value in a line of a flagfile: of a switch, yes or no."""
    if line is None:
        return "not set"
    if "=" in line:
        return line.partition("=")[2] or "not set"
    return "no" if line.startswith("--no") else "yes"


def of_flags(
    chosen: Mapping[str, str],
    defaults: Mapping[str, str],
    without: Collection[str] = (),
) -> Section:
    """The flags of a command, those that differ from their defaults first.

    Args:
        chosen: {name: line of a flagfile}.
        defaults: the same, of a command that chooses nothing.
        without: names that are not shown.
    """
    names = [name for name in sorted(chosen) if name not in without]
    places = [n for n in names if n in runs.PLACES or n in runs.COMPARED]
    own = [
        [n, text_of(chosen[n]), text_of(defaults.get(n))]
        for n in names
        if n not in places and chosen[n] != defaults.get(n)
    ]
    rest = [
        [n, text_of(chosen[n])]
        for n in names
        if n not in places and chosen[n] == defaults.get(n)
    ]
    where = [[n, text_of(chosen[n])] for n in places]
    blocks: list[Any] = []
    if own:
        head = ["flag", "here", "by default"]
        blocks.append(Table("Chosen for this one", head, own))
    elif names:
        blocks.append(Text("All flags are as they are by default."))
    for caption, rows in (
        (f"{len(rest)} flags as they are by default", rest),
        ("Folders and files, and what does not change what is computed", where),
    ):
        if rows:
            blocks.append(Table(caption, ["flag", "value"], rows, True))
    return Section("Flags", blocks)


def of_subjects(folder: Path) -> Section:
    """How many subjects and patients are on each side of split.json, and which."""
    split, blocks = read_json(folder / "split.json")
    if split is None:
        return Section("Data", blocks)
    sides = {"trained on": split.get("train"), "held out": split.get("test")}
    if not all(map(record_forms.is_names, sides.values())):
        wrong = "split.json has no lists of subjects: it was changed."
        return Section("Data", [Text(wrong, True)])
    pattern = split.get("patient_pattern")
    rows = []
    for side, names in sides.items():
        try:
            count = str(len(patients.by_patient(names, pattern)))
        except (files.DataError, TypeError, ValueError):
            count = "not known"
        rows.append([side, str(len(names)), count])
    blocks.append(
        Table("The split, by patient", ["side", "subjects", "patients"], rows)
    )
    record, wrong = read_json(folder / "inputs.json")
    blocks += wrong
    if record is not None and record_forms.is_record(record):
        first, stop = record["slices"]
        size = record["image_size"]
        blocks.append(
            Text(
                f"Axial slices {first} to {stop - 1}, as {size} x {size} pixels. "
                "inputs.json has digests of all files, by which later stages tell "
                "whether they see the same subjects."
            )
        )
    for side, names in sides.items():
        caption = f"{len(names)} subjects {side}"
        blocks.append(Names(caption, names, "split.json"))
    return Section("Data", blocks)


def of_use() -> list[Section]:
    """What it must not be used for, and how to cite."""
    version = brats_gan.__version__
    cite = (
        f"{AUTHORS}: {PAPER}. The method.",
        f"The brats_gan developers: brats_gan {version}, software under Apache-2.0. "
        "CITATION.cff in its repository has both for reference managers.",
    )
    return [
        Section("What it must not be used for", [Text(each) for each in NOT_FOR]),
        Section("How to cite", [Text(each) for each in cite]),
    ]
