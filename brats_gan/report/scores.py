"""What a run reached: results.jsonl, Tables 1 and 2, and the scoreboard with goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brats_gan import files
from brats_gan.experiments import tables
from brats_gan.report.blocks import Section, Table, Text, by_row, number
from brats_gan.report.sections import picture, problem, read_json

SCOREBOARD = "quality.json"  # of python -m benchmarks.quality --json=RUN/quality.json
_KEYS = {
    "mse": "MSE of the label map, mean over slices",
    "dice_index": "index Dice, mean over slices",
}


def results_of(folder: Path, flags: dict[str, str]) -> Path:
    """Where the results.jsonl of a run of stage 4 is.

    Args:
        folder: of the run.
        flags: {name: text}, of runs.settings.
    """
    if flags.get("results"):
        return Path(flags["results"])
    is_table = flags.get("table") or flags.get("experiment")
    return (folder if is_table else folder.parent) / "results.jsonl"


def lines_of(folder: Path, flags: dict[str, str]) -> list[dict]:
    """Its lines of a single run, or of the tables.

    Raises:
        DataError: see tables.read.
    """
    lines = tables.read(results_of(folder, flags))
    if flags.get("table") or flags.get("experiment"):
        return [line for line in lines if line["table"] in (1, 2)]
    return [
        line
        for line in lines
        if line["table"] is None and line["experiment"] == folder.name
    ]


def of_results(folder: Path, flags: dict[str, str]) -> list[Section]:
    """Sections of a run of stage 4: its scores, or its tables with their figures."""
    try:
        lines = lines_of(folder, flags)
    except files.DataError as error:
        wrong = problem(error, results_of(folder, flags).parent)
        return [Section("Scores on held-out subjects", [wrong])]
    if not lines:
        said = "Nothing is scored yet: results.jsonl has no line of this run."
        return [Section("Scores on held-out subjects", [Text(said)])]
    sections = []
    for table in (1, 2):
        of_table = [line for line in lines if line["table"] == table]
        if of_table:
            sections.append(_of_table(folder, table, of_table))
    for line in lines:
        if line["table"] is None:
            sections.append(Section("Scores on held-out subjects", scored(line)))
    return sections


def scored(line: dict) -> list[Any]:
    """Blocks of the line of a single run."""
    values = {said: line.get(name) for name, said in _KEYS.items()}
    for score, said in (
        ("dice", "Dice of the {}, mean over subjects"),
        ("lesion_dice", "lesion-wise Dice of the {}"),
        ("lesion_hausdorff95", "lesion-wise HD95 of the {}, in mm"),
    ):
        for name, value in line.items():
            if name.startswith(f"{score}_") and name != "dice_index":
                values[said.format(name.removeprefix(f"{score}_"))] = value
    shown = {k: v for k, v in values.items() if isinstance(v, int | float)}
    blocks: list[Any] = [by_row("Means", shown, "score")]
    subjects = line.get("by_subject")
    if isinstance(subjects, dict):
        spread = {
            name: {each: of.get(name) for each, of in subjects.items()}
            for name in subjects.get("mean") or {}
            if all(isinstance(of, dict) for of in subjects.values())
        }
        if spread:
            blocks.append(by_row("Over subjects", spread, "score", True))
    return blocks


def _of_table(folder, table, lines):
    cells = tables.rows(table, lines)
    heads = [name for name in cells[0] if not name.endswith(" sd")]
    rows = [
        [tables.cell(row, name) for name in heads]
        for row in cells
        if row["repeats"] is not None
    ]
    left = len(cells) - len(rows)
    more = f"; {left} rows of the paper's have not run" if left else ""
    caption = f"Ours beside the paper's; mean ± standard deviation over repeats{more}"
    drawn = folder / f"table{table}.png"
    said = "; ".join(
        f"row {row[0]}: Dice {tables.cell(of, 'Dice') or 'none'}, paper "
        f"{tables.cell(of, 'paper Dice')}"
        for row, of in zip(
            rows, (of for of in cells if of["repeats"] is not None), strict=True
        )
    )
    blocks: list[Any] = [Table(caption, heads, rows)]
    blocks += picture(drawn, f"Table {table} as a figure", f"MSE and Dice. {said}")
    return Section(f"Table {table}", blocks)


def of_scoreboard(folder: Path) -> Section:
    """The goals of this project beside what was reached, where that was measured."""
    found, blocks = read_json(folder / SCOREBOARD)
    title = "Scoreboard with goals"
    if found is None:
        return Section(title, blocks)
    goals = found.get("goals")
    if isinstance(goals, list) and all(isinstance(each, dict) for each in goals):
        reached = sum(each.get("passes") is True for each in goals)
        blocks.append(Text(f"{reached} of {len(goals)} goals are reached."))
        rows = [
            [
                number(each.get("name")),
                number(each.get("judged")),
                number(each.get("reached")),
                number(each.get("goal")),
                "yes" if each.get("passes") is True else "no",
            ]
            for each in goals
        ]
        head = ["", "judged", "reached", "goal", "passes"]
        blocks.append(Table("Goals", head, rows))
    measured = found.get("rows")
    if isinstance(measured, dict) and measured:
        caption = "All that was measured, beside real data (ceiling) and none (floor)"
        blocks.append(by_row(caption, measured, "score", True))
    if not blocks:
        blocks.append(Text(f"{SCOREBOARD} has no goals and no rows.", True))
    alt = "Spectra, histograms, maps and slices of what was made beside real ones"
    blocks += picture(folder / "quality.png", "What was measured, drawn", alt)
    return Section(title, blocks)
