"""Every repeat of the rows of Tables 1 and 2, by one process or by several."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
    data,
    files,
    progress,
    report,
    runs,
    segmentation,
    synthetic_dataset,
)
from brats_gan.experiments import mixing, tables
from brats_gan.experiments.segmentors import Segmentors, Training
from brats_gan.runs import claims


def result(
    key: tuple,
    training: Training,
    run_dir: Path,
    seed: int,
    plan: list[mixing.Phase],
    scores: dict,
    flags: dict[str, str],
    made_from: str | None = None,
    sets: dict[str, str] | None = None,
) -> dict:
    """A line of results.jsonl.

    `key` is by tables.KEY; `flags` are those of the command; `made_from` is a digest of
    what made it, `sets` are digests of the synthetic data in a row of a table.
    """
    of_subjects = (scores["by_subject"] or {}).get("mean", {})
    return {
        **dict(zip(tables.KEY, key, strict=True)),
        "scheme": training.scheme,
        "seed": seed,
        "iterations": sum(phase.steps for phase in plan),
        **{name: scores["by_slice"]["mean"][name] for name in ("mse", "dice_index")},
        **{
            f"{score}_{name}": of_subjects.get(f"{score}_{name}")
            for score in ("dice", "lesion_dice", "lesion_hausdorff95")
            for name in training.spec.regions
        },
        "phases": [
            {"sources": x.sources, "samples": len(x.items), "steps": x.steps}
            for x in plan
        ],
        "seconds": round(runs.seconds_logged(run_dir), 1),
        "revision": runs.revision(),
        "flags": flags,
        "made_from": made_from,
        **({} if sets is None else {"sets": sets}),
        **scores,
    }


class Rows(NamedTuple):
    """All that the repeats of rows are run with."""

    training: Training
    asked: list[tuple]  # [(table, row name)], in the order of the tables
    rows: dict  # row name -> tables.Row that it trains as
    plans: dict  # row name -> list of mixing.Phase
    slices: data.Slices  # to train on, real ones first
    scored_on: dict[str, data.Slices]  # "real", and the schemes of Table 1
    iterations: int
    seed: int  # of the first repeat
    keep_checkpoints: bool  # also of repeats that have finished
    origin: tables.Origin


class Unit(NamedTuple):
    """A repeat of a row: its lines are of one folder, so one process makes them."""

    row: int  # of Table 2; that of Table 1 is the first
    repeat: int
    names: tuple  # (table, row name) of its lines

    @property
    def folder(self) -> str:
        """Of it, in that of the run."""
        return f"row-{self.row:02d}/repeat-{self.repeat}"

    @property
    def piece(self) -> str:
        """Of runs.claims."""
        return self.folder.replace("/", "-")

    def __str__(self) -> str:
        return f"row {self.row}, repeat {self.repeat}"


def prepare(
    training: Training,
    asked: list[tuple],
    real: list,
    held_out: list,
    as_slices: Callable,
    iterations_of: Callable,
    synthetic_dir: str | None,
    test_sets: dict[str, str],
    seed: int,
    keep_checkpoints: bool,
    settle: Callable[[data.Slices, data.Slices, int], tables.Origin],
) -> Rows:
    """Reads all that the rows are trained and scored on; see `fill_tables`."""
    rows = {n: tables.TABLE2[1 if table == 1 else n] for table, n in asked}
    synthetic = []
    if any(row.synthetic for row in rows.values()):
        if not synthetic_dir:
            raise runs.RunError(
                "rows of Table 2 with synthetic data need --synthetic_dir, made by "
                "build_dataset.py --accepted_only"
            )
        synthetic = synthetic_dataset.verified_subjects(
            synthetic_dir, held_out, filtered=True, spec=training.spec
        )
    slices = as_slices(real + synthetic)
    in_real = np.flatnonzero(slices.index[:, 0] < len(real))
    usable = synthetic_dataset.accepted(synthetic_dir, slices) if synthetic else []
    iterations = iterations_of(len(in_real))
    patients, plans = mixing.patients_of(slices), {}
    for name, row in rows.items():  # all of them before the first step
        try:
            items = mixing.choose(row, patients, in_real, usable, seed)
        except files.DataError as error:
            raise files.DataError(
                f"--experiment={name}, {synthetic_dir}: {error}"
            ) from error
        plans[name] = mixing.phases(items, row.mode, iterations)
    scored_on = {"real": as_slices(held_out)}
    for scheme, folder in test_sets.items():
        if (1, scheme) in asked:
            scored_on[scheme] = as_slices(
                synthetic_dataset.verified_subjects(
                    *(folder, held_out, False, scheme, training.spec)
                )
            )
    origin = settle(slices, scored_on["real"], iterations)
    return Rows(
        *(training, asked, rows, plans, slices, scored_on, iterations, seed),
        *(keep_checkpoints, origin),
    )


def fill_tables(
    training: Training,
    asked: list[tuple],
    run_dir: Path,
    results: Path,
    real: list,
    held_out: list,
    as_slices: Callable,
    iterations_of: Callable,
    synthetic_dir: str | None,
    test_sets: dict[str, str],
    seed: int,
    repeats: int,
    keep_checkpoints: bool,
    settle: Callable[[data.Slices, data.Slices, int], tables.Origin],
    elsewhere: Callable[[list[Unit]], Iterator[tuple[Unit, list[dict]]]] | None = None,
    live: report.Live | None = None,
) -> list[Path]:
    """Runs every repeat of the rows that has no line yet; writes the tables.

    Several processes may be at it in one folder: each claims a repeat before it begins
    it (runs.claims), and leaves those of others that live.

    Args:
        training: Training.
        asked: [(table, row name)], in the order of the tables.
        run_dir: Path; of each repeat there is a folder in it.
        results: Path of results.jsonl.
        real: subjects to train on.
        held_out: subjects to score on.
        as_slices: subjects -> data.Slices.
        iterations_of: number of real training slices -> steps of a run.
        synthetic_dir: folder of the synthetic data that rows train on, or None.
        test_sets: {scheme: folder} of Table 1.
        seed: of the first repeat.
        repeats: of each row.
        keep_checkpoints: also of repeats that have finished.
        settle: called when nothing else is left that could be refused, with the slices
            to train on, real ones first, those held out, and the steps of a repeat; may
            raise. Returns the tables.Origin of the lines.
        elsewhere: makes units on other processes and yields each with its lines, in any
            order; without, this process does.
        live: report of the run, which tells how many repeats are done, and what ends
            them: it begins once nothing can be refused.

    Returns:
        The files of the tables that were written.

    Raises:
        RunError: a data set is missing or not the one that is asked for.
        DataError: there are fewer samples than a row asks for.
    """
    made_of = prepare(
        *(training, asked, real, held_out, as_slices, iterations_of, synthetic_dir),
        *(test_sets, seed, keep_checkpoints, settle),
    )
    written = {table: run_dir / f"table{table}.md" for table in sorted(dict(asked))}

    def gathered(only=None):
        lines = tables.gather(results, run_dir, made_of.origin)
        for table in written if only is None else only:
            tables.write(table, lines, run_dir)
        done = {tuple(x[n] for n in tables.KEY) for x in lines}
        if live is not None:
            live.seen(sum(key[:2] in asked and key[2] <= repeats for key in done))
        return done

    def open_units(done):
        units: dict[tuple, list] = {}
        for table, name in asked:
            for repeat in range(1, repeats + 1):
                if (table, name, repeat) not in done:
                    row = 1 if table == 1 else name
                    units.setdefault((row, repeat), []).append((table, name))
        return [Unit(*key, tuple(names)) for key, names in units.items()]

    with live or contextlib.nullcontext():
        todo = open_units(gathered(only=()))
        total, left = len(asked) * repeats, sum(len(unit.names) for unit in todo)
        logging.info("%d of %d repeats are done", total - left, total)
        said = progress.Line("tables", "repeat")
        if elsewhere is not None:
            for number, (unit, _) in enumerate(elsewhere(todo), 1):
                gathered(only={table for table, _ in unit.names})
                said(number, len(todo))
        else:
            segmentors = Segmentors(training, made_of.iterations)
            _share_out(made_of, segmentors, run_dir, todo, gathered, open_units)
        gathered()
    return [*written.values()]


def _share_out(made_of, segmentors, run_dir, todo, gathered, open_units):
    """Makes the units that no other process makes, until none is left."""
    started, number = time.monotonic(), 0
    seen = {}  # claims of others -> when they were last renewed, as first seen
    while todo:
        for unit in todo:
            with claims.claimed(run_dir, unit.piece) as claim:
                if claim is None:
                    continue
                # Another process may have made it since.
                still = {x.piece: x for x in open_units(gathered(only=()))}
                if unit.piece not in still:
                    continue
                passed = time.monotonic() - started
                left = passed / number * (len(todo) - number) if number else None
                logging.info(
                    "%s: %d to go%s",
                    unit,
                    max(len(todo) - number, 1),
                    "" if left is None else f", about {left / 60:.0f} minutes",
                )
                run_unit(made_of, segmentors, still[unit.piece], run_dir)
                number += 1
            gathered(only={table for table, _ in unit.names})
        todo = open_units(gathered(only=()))
        held = [claims.holder(run_dir, unit.piece) for unit in todo]
        if None in held or not todo:
            continue
        # A claim that is renewed is of a process that lives; others go stale.
        beats = {path: path.stat().st_mtime for path in held}
        # So does one that was stopped on this machine: it may go on any time.
        if all(
            seen.setdefault(path, beat) != beat or claims.silence(path) > claims.STALE
            for path, beat in beats.items()
        ):
            for unit, path in zip(todo, held, strict=True):
                logging.warning("%s is left to %s", unit, claims.said_by(path))
            return
        time.sleep(1)


def run_unit(
    made_of: Rows, segmentors: Segmentors, unit: Unit, run_dir: Path
) -> list[dict]:
    """Trains and scores a repeat of a row, or goes on with it; returns its lines."""
    training, origin = made_of.training, made_of.origin
    fixed = training._replace(checkpoint_seconds=0, steps_per_call=1)
    of_repeat = made_of.seed + unit.repeat - 1
    folder, lines = run_dir / unit.folder, []
    for table, name in unit.names:
        trained_on = ["synthetic"] if made_of.rows[name].synthetic else []
        begun = {
            "training": fixed,
            "row": unit.row,
            "made_from": origin.made_from,
            "sets": {each: origin.sets[each] for each in trained_on},
            **mixing.described(made_of.plans[name], made_of.slices),
        }
        segmentors.train(
            *(folder, made_of.slices, made_of.plans[name], of_repeat),
            lambda x=begun: x,
        )
        test_set = name if table == 1 else "real"
        scores = segmentation.score(
            segmentors.predict, made_of.scored_on[test_set], test_set == "real"
        )
        scored = [f"synthetic {name}"] if table == 1 else trained_on
        line = result(
            (table, name, unit.repeat),
            *(training, folder, of_repeat, made_of.plans[name], scores, origin.flags),
            origin.made_from,
            {each: origin.sets[each] for each in scored if each in origin.sets},
        )
        # At once: whoever ends before it is gathered, the repeat need not run again.
        tables.keep(folder, line)
        lines.append(line)
    if unit.row != 1 and not made_of.keep_checkpoints:
        shutil.rmtree(folder / "checkpoints")
    return lines
