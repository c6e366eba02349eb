"""Curves of losses as small drawings within a page, and what they say in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from brats_gan import files, runs

WIDTH, HEIGHT = 240, 90
_POINTS = 1200  # of all curves of a panel
_NOT_LOSSES = ("step", "seconds")


class Panel(NamedTuple):
    """One loss: a curve of each run."""

    name: str
    said: str  # in words
    lines: list[str]  # points of each run, for SVG; empty where it has none
    low: str
    high: str
    steps: str
    last: str  # value of a single run; else ""
    width: int = WIDTH
    height: int = HEIGHT


class Log(NamedTuple):
    """What a losses.jsonl says."""

    values: dict[str, list[tuple[float, float]]]  # loss -> (step, value), in order
    steps: int  # of the last line
    problem: str  # what is wrong with the file, a sentence; else ""
    seconds: float = 0.0  # of all processes that took part


def read(path: str | Path) -> Log:
    """Reads a losses.jsonl; what is wrong with it is said, and no error."""
    path = Path(path)
    try:
        lines = files.read_lines(path)
        written = len(path.read_bytes().splitlines()) if path.exists() else 0
    except (files.DataError, OSError) as error:
        return Log({}, 0, str(error).replace(str(path), path.name))
    problem = ""
    if written > len(lines):
        problem = (
            f"{written - len(lines)} of {written} lines of {path.name} cannot be read "
            "and are left out: they were cut off or changed."
        )
    values: dict[str, list[tuple[float, float]]] = {}
    last, clock = 0, []
    for line in lines:
        try:
            numbers = {name: float(value) for name, value in line.items()}
        except OverflowError:  # JSON has whole numbers of any length
            continue
        if not math.isfinite(numbers["step"]):
            continue
        last = int(numbers["step"])
        clock.append(numbers)
        for name, value in numbers.items():
            if name not in _NOT_LOSSES and math.isfinite(value):
                values.setdefault(name, []).append((numbers["step"], value))
    return Log(values, last, problem, runs.seconds_of(clock))


def shown(logs: Sequence[Log]) -> list[str]:
    """Names of the losses that are not 0 throughout, in order."""
    names = {
        name
        for log in logs
        for name, points in log.values.items()
        if any(value for _, value in points)
    }
    return sorted(names)


def panels(logs: Sequence[Log], names: Sequence[str]) -> list[Panel]:
    """A panel of each loss, with the curves of several runs over each other.

    Args:
        logs: of the runs.
        names: of losses, of `shown`.
    """
    return [_panel(logs, name) for name in names]


def _panel(logs, name):
    curves = [log.values.get(name, []) for log in logs]
    steps = [step for curve in curves for step, _ in curve]
    values = [value for curve in curves for _, value in curve]
    low, high = min(values), max(values)
    begin, end = min(steps), max(steps)
    most = max(20, _POINTS // len(logs))

    def at(point):
        step, value = point
        x = WIDTH * (step - begin) / (end - begin) if end > begin else WIDTH / 2
        y = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
        return f"{x:.1f},{(HEIGHT - 4) * (1 - y) + 2:.1f}"

    lines = []
    for curve in curves:
        kept = _thinned(curve, most)
        if len(kept) == 1:  # a line without length is not seen
            x, y = map(float, at(kept[0]).split(","))
            lines.append(f"{x - 3:.1f},{y:.1f} {x + 3:.1f},{y:.1f}")
        else:
            lines.append(" ".join(map(at, kept)))
    ends = ", ".join(f"{curve[-1][1]:.4g}" for curve in curves if curve)
    said = f"{name}: from {low:.4g} to {high:.4g}; in the end {ends}"
    span = f"steps {begin:g} to {end:g}" if end > begin else f"step {end:g}"
    last = ends if len(logs) == 1 else ""
    return Panel(name, said, lines, f"{low:.3g}", f"{high:.3g}", span, last)


def _thinned(curve, most):
    """At most about `most` points: of each part, the lowest and the highest."""
    if len(curve) <= most:
        return curve
    kept, parts = [], max(1, most // 2)
    for part in range(parts):
        begin, end = (len(curve) * n // parts for n in (part, part + 1))
        of_part = curve[begin:end]
        ends = {min(of_part, key=_value), max(of_part, key=_value)}
        kept += sorted(ends)
    return kept


def _value(point):
    return point[1]


def last_values(
    logs: Mapping[str, Log], names: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of a table: where each loss of each run began, was least and ended.

    Args:
        logs: {name of the run: Log}; of several, only where each ended.
        names: of losses.
    """
    if len(logs) > 1:
        head = ["loss", *logs]
        rows = [
            [name, *(_ended(log.values.get(name)) for log in logs.values())]
            for name in names
        ]
        return head, rows
    (log,) = logs.values()
    rows = []
    for name in names:
        values = [value for _, value in log.values[name]]
        shown = values[0], min(values), max(values), values[-1]
        rows.append([name, *(f"{value:.4g}" for value in shown)])
    return ["loss", "first", "least", "most", "last"], rows


def _ended(points):
    return f"{points[-1][1]:.4g}" if points else ""
