"""The card of a data set: README.md, as the Hugging Face Hub and BIDS read it.

It names no folder of the machine, and no time: who passes a set on passes it on too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from brats_gan import files, synthetic_dataset
from brats_gan.report import sections
from brats_gan.report.blocks import number

CARD = "README.md"
# By which a card of ours is known.
_ANEW = (
    "This card is written anew whenever the command that made the set is started again"
)
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_TAGS = ("medical", "mri", "brain", "tumor", "lesion", "synthetic", "nifti", "brats")


def write_card(folder: str | Path) -> None:
    """Writes README.md of a finished data set; one that is no card of ours is left.

    Raises:
        RunError, DataError: its description is damaged, or there is no room.
    """
    said, path = synthetic_dataset.read_description(folder), Path(folder, CARD)
    if path.is_file() and _ANEW.encode() not in path.read_bytes():
        logging.warning(
            "%s: was written by somebody else and is left as it is; rename it, and "
            "start the same command again, to have the card of this data set",
            path,
        )
        return
    files.write_atomically(path, card(said).encode())


def card(said: Mapping[str, Any]) -> str:
    """README.md by a dataset_description.json.

    The front matter is JSON within YAML, which has all of JSON, so that no name in it
    can become something else.
    """
    is_volumes = "Volumes" in said
    count = said["Volumes" if is_volumes else "Samples"]
    front = {
        "license": "other",
        "license_name": "as-the-training-data",
        "pretty_name": said["Name"],
        "task_categories": ["image-segmentation", "image-to-image"],
        "tags": [*_TAGS],
        "size_categories": [next((n for most, n in _SIZES if count < most), "n>10M")],
    }
    head = "".join(f"{name}: {json.dumps(value)}\n" for name, value in front.items())
    parts = [
        f"---\n{head}---\n",
        f"# {_plain(said['Name'])}\n",
        _what(said, count, is_volumes),
        "## Files\n",
        _files(said, is_volumes),
        "## How it was made\n",
        _how(said, is_volumes),
        *_measured(said),
        "## What it must not be used for\n",
        "".join(f"- {each}\n" for each in sections.NOT_FOR),
        "## Licence\n",
        _licence(said),
        "## How to cite\n",
        f"- {sections.AUTHORS}: {sections.PAPER}.\n"
        f"- brats_gan {_plain(said['GeneratedBy'][0]['Version'])}, software under "
        "Apache-2.0.\n",
        f"{_ANEW}; write what you add to it into another file.\n",
    ]
    return "\n".join(parts)


def _what(said, count, is_volumes):
    modalities = ", ".join(map(_plain, said["spec"]["modalities"]))
    size = said["ImageSize"]
    unit = "whole volumes" if is_volumes else "sets of registered axial slices"
    return (
        f"{count} {unit} of the contrasts {modalities}, each with the label of its "
        f"lesions, made from noise by networks that work at {size} x {size} pixels. "
        "Every image is generated: no voxel was measured.\n"
    )


def _files(said, is_volumes):
    if is_volumes:
        inside = "a folder for each volume, a slice of the brain a slice of the file"
        table = "`volumes.csv`"
    else:
        inside = "a folder for 50 samples, each a slice of the files in it"
        table = "`manifest.csv`"
    labels = ", ".join(f"{n} {_plain(name)}" for n, name in said["Labels"].items())
    return (
        f"NIfTI in the layout of BraTS 2018 to 2021: {inside}. Beside the contrasts, "
        "`structure` is the map that was drawn, `background` what is outside the "
        f"brain, `seg` the label: {labels}. {table} has a row for each, with seed, "
        "attempts and scores; `dataset_description.json` is after the BIDS "
        "derivatives; `report.html` shows it all.\n"
    )


def _how(said, is_volumes):
    rejected = ", ".join(
        f"{_plain(name)} {number(n)}" for name, n in said["Rejected"].items()
    )
    source = "of real subjects" if said["RealData"] else "that come with the weights"
    filters = "on" if said["Filtered"] else "off"
    subjects = len(said["TrainingSubjects"])
    held_out = len(said["HeldOutSubjects"])
    return (
        f"Networks trained on {subjects} subjects, with {held_out} held out; labels "
        f"are {source}. Filters were {filters}: of {said['Attempts']} attempts, "
        f"{said['Accepted']} {'volumes' if is_volumes else 'samples'} passed and are "
        f"kept, {said['Fallbacks']} kept are the best of those that did not pass "
        f"(column `accepted`). Rejected were, by filter: {rejected}.\n"
    )


def _measured(said):
    """Tables of registration and of the nearest training slices."""
    found = []
    registration = said.get("Registration")
    if registration:
        found += [
            "## Registration\n",
            "How well contrasts lie on each other, beside sets that were shifted by so "
            "many pixels.\n",
            _table("sets", registration["Scores"]),
        ]
    nearest = said.get("NearestTraining")
    found.append("## Nearest training slices\n")
    if nearest:
        sides = {side: nearest[side] for side in ("generated", "held-out")}
        above = nearest["generated nearer than any held-out"]
        found += [
            "Correlation with the nearest training slice: a generator that learnt "
            "rather than copied is no nearer than real slices that it never saw.\n",
            _table("of", sides),
            f"Nearer to a training slice than any held-out one: {above}.\n",
        ]
    else:
        found.append(
            "Not measured. Start the same command with `--nearest_report` before the "
            "set is passed on.\n"
        )
    return found


def _table(first, rows):
    columns = list(next(iter(rows.values())))
    head = f"| {first} | {' | '.join(map(_plain, columns))} |\n"
    line = "|---" * (len(columns) + 1) + "|\n"
    body = "".join(
        f"| {_plain(name)} | {' | '.join(number(row.get(c)) for c in columns)} |\n"
        for name, row in rows.items()
    )
    return head + line + body


def _licence(said):
    if said["RealData"]:
        return (
            "The terms of the data that the networks were trained on hold for what "
            "they make, as far as its owners say so: read them, and name the licence "
            "at the top of this card, before the set is passed on.\n"
        )
    return (
        "Made without a folder of real data. Where the networks are those that come "
        "with brats_gan, trained on phantoms, the set may be used as the software, "
        "under Apache-2.0; of other networks the terms of their training data hold. "
        "Name the licence at the top of this card before the set is passed on.\n"
    )


def _plain(text):
    """A name as text of Markdown: nothing in it is markup."""
    text = " ".join(str(text).split())
    for mark in "\\`*_{}[]<>#|!":
        text = text.replace(mark, f"\\{mark}")
    return text
