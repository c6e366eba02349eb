"""Several runs or data sets side by side: what differs, curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brats_gan import files, runs, synthetic_dataset
from brats_gan.report import curves, made, scores, trained
from brats_gan.report import sections as shared
from brats_gan.report.blocks import (
    Curves,
    Picture,
    Section,
    Side,
    Table,
    Text,
    number,
)

_NO_FOLDERS = ("output_dir", "run_dir")


def names_of(folders: Sequence[Path]) -> list[str]:
    """What each folder is called on the page: as much of its path as tells them apart.

    Raises:
        RunError: a folder is given twice.
    """
    whole = [folder.resolve().parts for folder in folders]
    for folder, parts in zip(folders, whole, strict=True):
        if whole.count(parts) > 1:
            raise runs.RunError(f"{folder} is given twice; name each folder once")
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len({*names}) == len(names):
            break
    return names


def content(
    folders: Sequence[Path], defaults: Mapping[str, Mapping[str, str]]
) -> tuple[str, list[Any], list[Section]]:
    """(title, lead, sections) of a page of several folders.

    Args:
        folders: of runs and data sets.
        defaults: {script: {flag: line}}.

    Raises:
        RunError, DataError: a folder is given twice, or what it says is damaged.
    """
    names = names_of(folders)
    commands = {
        name: runs.read_flags(folder / "flags.txt")
        for name, folder in zip(names, folders, strict=True)
    }
    sets = {
        name: folder
        for name, folder in zip(names, folders, strict=True)
        if commands[name].script == "build_dataset.py"
    }
    trainings = {
        name: trained.read(folder)
        for name, folder in zip(names, folders, strict=True)
        if name not in sets
    }
    states = [[name, run.what, run.state] for name, run in trainings.items()]
    states += [
        [
            name,
            "Stage 3",
            "a data set" + ("" if _finished(folder) else ", not finished"),
        ]
        for name, folder in sets.items()
    ]
    lead: list[Any] = [Table("What is compared", ["", "stage", "state"], states)]
    lead += [
        Text(f"{name}: {said}", True)
        for name, run in trainings.items()
        for said in trained.warnings(run)
    ]
    sections = [
        Section("What differs", differences(commands, defaults)),
        Section("Scores on held-out subjects", _scores(trainings)),
        Section("Loss curves", _curves(trainings)),
        Section("Filters and registration", _sets(sets)),
        Section("Sheets", _sheets(trainings, sets)),
        Section("Time and memory", _costs(trainings)),
        *shared.of_use(),
    ]
    return f"{len(folders)} side by side", lead, sections


def differences(
    commands: Mapping[str, runs.Command], defaults: Mapping[str, Mapping[str, str]]
) -> list[Any]:
    """Flags that folders of one stage do not share, those that decide what is computed
    first."""
    blocks: list[Any] = []
    for script in dict.fromkeys(each.script for each in commands.values()):
        alike = {n: each for n, each in commands.items() if each.script == script}
        if len(alike) > 1:
            blocks += _of_script(script, alike, defaults.get(script, {}))
    return blocks or [Text("Each is of another stage; flags compare within one.")]


def _of_script(script, commands, defaults):
    own, places = [], []
    every = {flag for each in commands.values() for flag in each.flags}
    for flag in sorted(every - {*_NO_FOLDERS}):
        lines = [each.flags.get(flag) for each in commands.values()]
        if len({*lines}) == 1:
            continue
        row = [flag, *map(shared.text_of, lines)]
        if flag in runs.PLACES or flag in runs.COMPARED:
            places.append(row)
        else:
            own.append([*row, shared.text_of(defaults.get(flag))])
    head = ["flag", *commands]
    blocks: list[Any] = [
        Table(f"Flags of {script}", [*head, "by default"], own)
        if own
        else Text(f"No flag of {script} that decides what is computed differs.")
    ]
    if places:
        blocks.append(Table(f"Folders that {script} was given", head, places, True))
    return blocks


def _finished(folder):
    return (folder / synthetic_dataset.DESCRIPTION).exists()


def _scores(trainings):
    """A row a score, a column a run; the tables of runs that have some."""
    found: dict[str, dict[str, str]] = {}
    blocks: list[Any] = []
    for name, run in trainings.items():
        if run.script != "eval_segmentation.py":
            continue
        try:
            lines = scores.lines_of(run.folder, run.flags)
        except files.DataError as error:
            where = scores.results_of(run.folder, run.flags).parent
            blocks.append(shared.problem(error, where))
            continue
        for line in lines:
            for table in scores.scored(line)[:1]:
                of_row = "" if line["table"] is None else _row_of(line)
                for score, value in table.rows:
                    found.setdefault(f"{of_row}{score}", {})[name] = value
    columns = [n for n in trainings if any(n in row for row in found.values())]
    rows = [[score, *(row.get(n, "") for n in columns)] for score, row in found.items()]
    if rows:
        blocks.insert(0, Table("Means", ["score", *columns], rows))
    return blocks


def _row_of(line):
    return f"table {line['table']}, row {line['experiment']}, {line['repeat']}: "


def _curves(trainings):
    logs = {name: run.log for name, run in trainings.items() if run.log.values}
    names = curves.shown(list(logs.values()))
    if not names:
        return []
    head, rows = curves.last_values(logs, names)
    if len(logs) == 1:
        head = [*head[:1], *(f"{n}: {each}" for n in logs for each in head[1:])]
    return [
        Curves(curves.panels(list(logs.values()), names), list(logs)),
        Table("Where they ended", head, rows, True),
    ]


def _sets(sets):
    described = {
        name: synthetic_dataset.read_description(folder)
        for name, folder in sets.items()
        if _finished(folder)
    }
    blocks: list[Any] = []
    for caption, find in (
        ("Samples and attempts", made.filters),
        ("Registration", made.registration),
    ):
        found: dict[str, dict[str, str]] = {}
        for name, said in described.items():
            for table in find(said)[:1]:
                for row in table.rows:
                    for column, value in zip(table.head[1:], row[1:], strict=True):
                        shown = row[0] if column == "value" else f"{row[0]}, {column}"
                        found.setdefault(shown, {})[name] = number(value)
        rows = [[k, *(row.get(n, "") for n in described)] for k, row in found.items()]
        if rows:
            blocks.append(Table(caption, ["", *described], rows))
    return blocks


def _sheets(trainings, sets):
    """Pictures of one kind beside each other."""
    by_kind: dict[str, list[Any]] = {}
    found = {name: trained.sheets(run) for name, run in trainings.items()}
    found |= {name: made.sheets(folder) for name, folder in sets.items()}
    for name, blocks in found.items():
        for block in blocks:
            if isinstance(block, Picture):
                named = Picture(
                    f"{name}: {block.caption}", f"{name}: {block.alt}", block.content
                )
                by_kind.setdefault(block.caption, []).append(named)
            else:
                by_kind.setdefault(name, []).append(block)
    return [Side(blocks) for blocks in by_kind.values()]


def _costs(trainings):
    rows = {
        name: dict(row for table in trained.cost(run) for row in table.rows)
        for name, run in trainings.items()
    }
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    if not columns:
        return []
    shown = [[n, *(row.get(c, "") for c in columns)] for n, row in rows.items()]
    return [Table("By the clock of losses.jsonl", ["", *columns], shown)]
