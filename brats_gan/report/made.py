"""The report of a synthetic data set: samples, or whole volumes.

It says nothing of when and where a set was made: the same set has the same report,
whoever made which part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brats_gan import manifest, recipes, runs, synthetic_dataset
from brats_gan.report import scores
from brats_gan.report import sections as shared
from brats_gan.report.blocks import Picture, Section, Table, Text, by_row, number

# Names of files that stages write into a set, beside its volumes.
SHEETS = (
    (
        "samples.png",
        "The first samples: from map and label to slices",
        "Rows of one sample each: the generated map f_g, its mask, the label, a slice "
        "in every contrast, and the label that a segmentor finds in the last of them",
    ),
    (
        "volumes.png",
        "The first volumes in three planes through their lesions",
        "An axial, a coronal and a sagittal plane of every contrast, the lesion "
        "outlined",
    ),
)
_NEAREST = (
    "nearest.png",
    "The generated slices nearest to a training slice, beside these",
    "Rows of pairs: a generated slice in every contrast, then the training slice that "
    "is nearest to it, with their correlation",
)
_REASONS = {
    "structure": "the contour of the map is not closed (Algorithm 3)",
    "label": "the label has no place in the map",
    "dice": "the segmentors do not find the label again",
    "blank": "a slice shows nothing",
}


def content(
    folder: Path, defaults: Mapping[str, str]
) -> tuple[str, list[Any], list[Section]]:
    """(title, lead, sections) of the report of a data set.

    Args:
        folder: of the data set.
        defaults: {flag: line} of the script's defaults.

    Raises:
        RunError, DataError: its flags.txt or its description is damaged.
    """
    title = "Stage 3: a synthetic data set"
    lead: list[Any] = [
        Text(
            "Registered slices of all contrasts with lesions, made from noise and a "
            "label (Section 2.8 of the paper). No voxel of it was measured."
        )
    ]
    path = folder / "flags.txt"
    if path.exists():
        _, lines = runs.read_flags(path)
        flags = shared.of_flags(lines, defaults, {"output_dir", *runs.PLACES})
    else:
        text = f"Painted in explore.py: {recipes.NAME} makes it again (--from_json)."
        flags = Section("Flags", [Text(text)])
    if not (folder / synthetic_dataset.DESCRIPTION).exists():
        lead.append(Text(unfinished(folder)))
        sections = [flags, shared.of_subjects(folder), *shared.of_use()]
        return title, lead, sections
    said = synthetic_dataset.read_description(folder)
    unit = "volumes" if "Volumes" in said else "samples"
    lead.append(Text(f"Finished: {number(said.get(unit.title()))} {unit}."))
    sections = [
        Section("Sheets", sheets(folder)),
        Section("Filters and rejections", filters(said)),
        Section("Registration", registration(said)),
        Section("Neighbouring slices", neighbours(said)),
        Section("Nearest training slices", nearest(said, folder)),
        scores.of_scoreboard(folder),
        flags,
        shared.of_subjects(folder),
        *shared.of_use(),
    ]
    return title, lead, sections


def unfinished(folder: Path) -> str:
    """What there is of a set without a description, and how to go on."""
    there = len([*folder.glob(f"*/*_{manifest.RECORD}")])
    return (
        f"Not finished: it has {there} whole volumes when this is written. Start the "
        "same command again to go on, or build_dataset.py --flagfile=flags.txt with "
        "the flags.txt of this folder."
    )


def sheets(folder: Path) -> list[Any]:
    """Pictures of what was made."""
    found = [x for each in SHEETS for x in shared.picture(folder / each[0], *each[1:])]
    path = folder / "volumes.gif"
    if path.is_file() and path.stat().st_size < 1_500_000:
        alt = "All slices of the first volumes from below, the lesion outlined"
        found.append(Picture("Slice by slice (volumes.gif)", alt, path.read_bytes()))
    return found


def filters(said: dict) -> list[Any]:
    """What was kept, and why attempts were not."""
    counts = {
        "samples kept": said.get("Samples"),
        "volumes kept": said.get("Volumes"),
        "of these, passed all filters": said.get("Accepted"),
        "of these, the best of those that did not": said.get("Fallbacks"),
        "left out": said.get("LeftOut"),
        "attempts": said.get("Attempts"),
    }
    counts = {k: v for k, v in counts.items() if isinstance(v, int)}
    blocks: list[Any] = [by_row("Samples and attempts", counts)]
    rejected = said.get("Rejected")
    if isinstance(rejected, dict):
        rows = [
            [str(name), number(count), _REASONS.get(name, "")]
            for name, count in rejected.items()
        ]
        head = ["filter", "attempts", "because"]
        blocks.append(Table("Attempts that were rejected", head, rows))
    if said.get("Filtered") is False:
        blocks.append(Text("The filters were off (--nofilter)."))
    return blocks


def registration(said: dict) -> list[Any]:
    """How well contrasts lie on each other, beside real ones and shifted ones."""
    found = said.get("Registration")
    if not isinstance(found, dict) or not isinstance(found.get("Scores"), dict):
        return []
    caption = (
        f"{number(found.get('GeneratedSets'))} generated sets; beside them "
        f"{number(found.get('RealSlices'))} real ones: {number(found.get('Reference'))}"
    )
    return [by_row(caption, found["Scores"], "sets")]


def neighbours(said: dict) -> list[Any]:
    """How alike neighbouring slices of volumes are."""
    found = said.get("Neighbours")
    if not isinstance(found, dict):
        return []
    caption = (
        "Overlap of maps and labels, correlation of images, of one slice and next; "
        "frays of outlines"
    )
    return [by_row(caption, found, "volumes")]


def nearest(said: dict, folder: Path) -> list[Any]:
    """Whether what was made is nearer to training subjects than held-out ones are."""
    found = said.get("NearestTraining")
    if not isinstance(found, dict):
        return [
            Text(
                "Not measured. Start the same command with --nearest_report before the "
                "set is passed on."
            )
        ]
    sides = {n: v for n, v in found.items() if n in ("generated", "held-out")}
    caption = "Correlation with the nearest training slice or subject"
    blocks: list[Any] = [by_row(caption, sides, "of")]
    above = found.get("generated nearer than any held-out")
    if isinstance(above, int):
        blocks.append(
            Text(
                f"{above} of them are nearer to a training slice than any held-out one "
                "is.",
                above > 0,
            )
        )
    pairs = found.get("closest")
    if isinstance(pairs, list) and all(isinstance(each, dict) for each in pairs):
        rows = {str(n): pair for n, pair in enumerate(pairs, 1)}
        blocks.append(by_row("The closest pairs", rows, "", True))
    return blocks + shared.picture(folder / _NEAREST[0], *_NEAREST[1:])
