"""Tables 1 and 2: the paper's numbers as data, and ours beside them.

Knows nothing of the method: what it shows is what results.jsonl holds. A row that has
not run stays blank.
"""

from __future__ import annotations

import csv
import json
import numbers
import os
from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brats_gan import figures, files

KEY = ("table", "experiment", "repeat")  # of a line in results.jsonl


class Row(NamedTuple):
    """A row of Table 2. Amounts are relative to the real training set."""

    real: float
    synthetic: float
    enhanced: float
    mode: str  # "", "random", "real first" or "synthetic first"
    mse: float  # the paper's
    dice: float


TABLE2 = {
    1: Row(1, 0, 0, "", 0.026, 0.915),
    2: Row(0.5, 0, 0, "", 0.032, 0.902),
    3: Row(0, 1, 0, "", 0.205, 0.708),
    4: Row(0, 2, 0, "random", 0.206, 0.736),
    5: Row(0, 3, 0, "random", 0.205, 0.754),
    6: Row(0.1, 1, 0, "synthetic first", 0.031, 0.908),
    7: Row(0.1, 2, 0, "synthetic first", 0.028, 0.907),
    8: Row(0.1, 3, 0, "synthetic first", 0.030, 0.907),
    9: Row(0.2, 0.8, 0, "random", 0.041, 0.850),
    10: Row(0.5, 0.5, 0, "random", 0.031, 0.904),
    11: Row(0.8, 0.2, 0, "random", 0.024, 0.935),
    12: Row(1, 0.2, 0, "random", 0.025, 0.921),
    13: Row(1, 0.5, 0, "random", 0.023, 0.939),
    14: Row(1, 0.8, 0, "random", 0.026, 0.916),
    15: Row(1, 1, 0, "random", 0.027, 0.913),
    16: Row(1, 2, 0, "random", 0.033, 0.901),
    17: Row(1, 3, 0, "random", 0.034, 0.897),
    18: Row(1, 0, 0.2, "random", 0.027, 0.911),
    19: Row(1, 0, 0.5, "random", 0.025, 0.927),
    20: Row(1, 0, 0.8, "random", 0.026, 0.920),
    21: Row(1, 0, 1, "random", 0.026, 0.915),
    22: Row(1, 0, 2, "random", 0.032, 0.898),
    23: Row(1, 0, 3, "random", 0.036, 0.885),
    24: Row(1, 1, 0, "real first", 0.195, 0.795),
    25: Row(1, 1, 0, "synthetic first", 0.021, 0.940),
}

# Scored by the segmentors of row 1 of Table 2: (guidance, test set, MSE, Dice).
TABLE1 = {
    "real": ("4 SEG", "real", 0.026, 0.915),
    "single": ("1 SEG", "synthetic", 0.053, 0.741),
    "shared_encoder": ("1 EC_l + 4 DC_l", "synthetic", 0.055, 0.808),
    "multiple": ("4 SEG", "synthetic", 0.043, 0.838),
}


class Origin(NamedTuple):
    """What decides the lines of a run's tables beside their rows."""

    flags: dict[str, str]  # name -> line of a flagfile
    free: frozenset[str]  # names of flags that may differ
    made_from: str  # digest of its subjects and their split
    sets: dict[str, str]  # name -> digest of a synthetic data set that was read
    iterations: int  # steps of every repeat


_HEADS = {
    1: ("guidance", "test set"),
    2: ("no", "real", "synthetic", "enhanced", "mixing"),
}
# Of a line of results.jsonl, what a table shows.
_SHOWN = ("mse", "dice_index", "dice_whole", "iterations", "seconds")
_COLUMNS = (
    "paper MSE",
    "paper Dice",
    "best MSE",
    "best Dice",
    "MSE",
    "MSE sd",
    "Dice",
    "Dice sd",
    "whole-lesion Dice",
    "whole-lesion Dice sd",
    "repeats",
    "iterations",
    "seconds",
    "lesion-wise Dice",
    "lesion-wise Dice sd",
    "lesion-wise HD95",
    "lesion-wise HD95 sd",
)


def read(path: Path) -> list[dict]:
    """The lines of a results.jsonl as dicts; none where there is no file.

    Raises:
        DataError: it is a folder or may not be read, or a line is none of results.
    """
    try:
        files.require_regular(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.DataError(
            f"{path}: cannot be read ({error.strerror}). "
            f"{files.remedy(error, 'read')}, or name another file by --results."
        ) from error
    except UnicodeDecodeError as error:
        raise files.DataError(
            f"{path}: not text. Restore it, or name another file by --results."
        ) from error
    return [_result(path, *each) for each in enumerate(lines, 1)]


def _result(path, number, text):
    """The dict of a line; what `rows` shows of it is there."""
    try:
        line = json.loads(text)
        missing = [name for name in (*KEY, *_SHOWN) if name not in line]
    except (ValueError, TypeError, RecursionError):
        line, missing = None, []
    odd = [] if missing or not isinstance(line, dict) else _odd(line)
    if not isinstance(line, dict) or missing or odd:
        what = f"has no {', '.join(missing)}" if missing else "is cut off or no result"
        what = f"has a {odd[0]} that no run has written" if odd else what
        raise files.DataError(
            f"{path}: line {number} {what}. Remove the line, and its run is scored "
            "again, or name another file by --results."
        )
    return line


def _odd(line):
    """Names of what a line says in another form than any version has written."""
    of_kind = {
        **dict.fromkeys(_SHOWN, numbers.Real),
        "dice_whole": numbers.Real | None,  # none of synthetic slices
        "table": int | None,
        "experiment": int | str,
        "repeat": int,
        "flags": dict | None,
        "sets": dict | None,
        "made_from": str | None,
    }
    return [n for n, kind in of_kind.items() if not isinstance(line.get(n), kind)]


def require_writable(
    results: Path, apart_from: Mapping[str, str | os.PathLike | None]
) -> None:
    """Refuses a file that a line could not be added to, before hours of training.

    Args:
        results: path of it.
        apart_from: flag -> folder that is read, and must not hold it.

    Raises:
        DataError: it cannot be written, is no list of results, or would be among data.
    """
    files.require_apart({"results": results}, apart_from)
    files.require_writable(results.parent)
    read(results)


def record(path: Path, line: dict, origin: Origin | None = None) -> None:
    """Adds a line, in place of one of the same run, so that none is ever there twice.

    A run is told by KEY and by "made_from", where both lines say one: two runs whose
    folders have one name keep a line each. The file is replaced as a whole: a kill
    leaves the old one or the new one. Runs that share it wait for each other.

    Args:
        path: of results.jsonl.
        line: of a run.
        origin: of a line of a table.

    Raises:
        DataError: see `read`; or another run has added lines to the table since
            `require_own` was called.
    """

    def is_other(x):
        origins = x.get("made_from"), line.get("made_from")
        return (None not in origins and len({*origins}) > 1) or any(
            x[name] != line[name] for name in KEY
        )

    with files.alone_in(path.parent):
        if origin is not None:
            require_own(path, {line["table"]}, origin)
        kept = [x for x in read(path) if is_other(x)]
        text = "".join(json.dumps(each) + "\n" for each in [*kept, line])
        files.write_atomically(path, text.encode())


def keep(folder: Path, line: dict) -> None:
    """Writes a line into the folder of its repeat, for `gather`."""
    name = f"table{line['table']}-{line['experiment']}.json"
    files.write_json(folder / name, line)


def gather(path: Path, run_dir: Path, origin: Origin) -> list[dict]:
    """Adds the lines that `keep` has written and the file lacks; returns all lines.

    Several processes may do so at once, also where there are no locks: each looks,
    after it has replaced the file, whether another one has taken a line away again.

    Args:
        path: of results.jsonl.
        run_dir: in which there are folders of repeats.
        origin: of the run.

    Raises:
        DataError: see `record`.
    """

    def key(line):
        return tuple(line[name] for name in KEY)

    while True:
        found = sorted(Path(run_dir).glob("row-*/repeat-*/table*-*.json"))
        # Those of before, of a test set that is another now for instance, stay apart.
        kept = [
            line
            for line in map(files.read_json, found)
            if _difference(line, origin) is None
        ]
        with files.alone_in(path.parent):
            there = read(path)
            known = {
                key(x) for x in there if x.get("made_from") in (None, origin.made_from)
            }
            new = [line for line in kept if key(line) not in known]
            if not new:
                return there
            require_own(path, {line["table"] for line in new}, origin)
            text = "".join(json.dumps(each) + "\n" for each in [*there, *new])
            files.write_atomically(path, text.encode())


def require_own(path: Path, asked: Collection[int], origin: Origin) -> None:
    """Refuses a results.jsonl of which a table would show lines of other runs.

    Lines of before there were flags or digests are taken as they are.

    Args:
        path: of it.
        asked: tables that are to be written of it.
        origin: Origin of the run.

    Raises:
        DataError: a line is of other settings, subjects, samples or steps; names it.
    """
    for number, line in enumerate(read(path), 1):
        differ = _difference(line, origin) if line["table"] in asked else None
        if differ:
            raise files.DataError(
                f"{path}, line {number}: is of a run with {differ}, so one table "
                "cannot hold both. Name another file by --results."
            )


def _difference(line, origin):
    """What a line is of that the run is not, in words for a message; or None."""
    theirs, ours = line.get("flags") or {}, origin.flags
    names = theirs.keys() | ours.keys()
    if "sets" not in line:  # of a version before; what it lacks may have come since
        names = theirs.keys() & ours.keys()
    for name in sorted(names - origin.free):
        if theirs.get(name) != ours.get(name):
            said, here = (x.get(name, f"no --{name}") for x in (theirs, ours))
            return f"{said}, and this run has {here}"
    if line.get("made_from") not in (None, origin.made_from):
        return "other subjects, or the same with another split"
    if line["iterations"] != origin.iterations:
        return f"{line['iterations']} steps, and this run has {origin.iterations}"
    for name, digest in (line.get("sets") or {}).items():
        if origin.sets.get(name, digest) != digest:
            return f"other {name} data"
    return None


def rows(table: int, lines: list[dict]) -> list[dict]:
    """The cells of a table, row by row; None where nothing has run.

    "best" is the repeat of the highest index Dice, as the paper keeps it (D14); sd is
    over the repeats, with n - 1; seconds are the mean of a repeat. Lesion-wise scores
    (D38) are of the whole lesion, HD95 in mm; lines from before there were any lack
    them.
    """
    known = TABLE1 if table == 1 else TABLE2
    cells = []
    for name, known_row in known.items():
        head = known_row[:2] if table == 1 else (name, *known_row[:4])
        ran = [x for x in lines if x["table"] == table and x["experiment"] == name]
        ours = [None] * (len(_COLUMNS) - 2)
        if ran:
            best = max(ran, key=lambda line: line["dice_index"])
            ours = [
                best["mse"],
                best["dice_index"],
                *_mean_sd(ran, "mse"),
                *_mean_sd(ran, "dice_index"),
                *_mean_sd(ran, "dice_whole"),
                len(ran),
                ran[0]["iterations"],
                round(float(np.mean([line["seconds"] for line in ran]))),
                *_mean_sd(ran, "lesion_dice_whole"),
                *_mean_sd(ran, "lesion_hausdorff95_whole"),
            ]
        values = (*known_row[-2:], *ours)
        cells.append(
            dict(zip((*_HEADS[table], *_COLUMNS), (*head, *values), strict=True))
        )
    return cells


def _mean_sd(lines, name):
    """(mean, sd); None for what cannot be said."""
    values = [line[name] for line in lines if line.get(name) is not None]
    if not values:
        return None, None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), sd


def write(table: int, lines: list[dict], folder: Path) -> None:
    """Writes tableN.md, tableN.csv and tableN.png of the lines of a results.jsonl."""
    cells = rows(table, lines)
    stem = folder / f"table{table}"

    text = StringIO()
    writer = csv.DictWriter(text, list(cells[0]))
    writer.writeheader()
    writer.writerows(cells)
    files.write_atomically(stem.with_suffix(".csv"), text.getvalue().encode())

    names = [name for name in cells[0] if not name.endswith(" sd")]
    shown = [names, ["---"] * len(names)]
    shown += [[cell(row, name) for name in names] for row in cells]
    markdown = "".join(f"| {' | '.join(line)} |\n" for line in shown)
    files.write_atomically(stem.with_suffix(".md"), markdown.encode())

    heads = {1: _HEADS[1], 2: ("no",)}[table]
    labels = ["\n".join(str(row[name]) for name in heads) for row in cells]
    figures.comparison(cells, labels, ("MSE", "Dice"), stem.with_suffix(".png"))


def cell(row: Mapping[str, Any], name: str) -> str:
    """A cell of a table that is shown, by a row of `rows` and its name; a mean with its
    standard deviation."""
    value = row[name]
    if value is None:
        return ""
    if name in ("real", "synthetic", "enhanced"):
        return "0" if value == 0 else f"x{value:g}"
    if not isinstance(value, float):
        return str(value)
    sd = row.get(f"{name} sd")
    return f"{value:.3f}" if sd is None else f"{value:.3f} ± {sd:.3f}"
