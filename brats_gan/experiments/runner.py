"""Runs of stage 4: segmentors trained on a plan, and every repeat of a table's rows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
    data,
    files,
    lesion_components,
    runs,
    segmentation,
    synthetic_dataset,
)
from brats_gan.experiments import mixing, tables
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec


class Training(NamedTuple):
    """How segmentors are trained, alike in every run of an experiment."""

    scheme: str  # one of lesion_components.SCHEMES, or "four_channel"
    image_size: int
    width: int
    batch_size: int
    rate: float  # Adam's
    beta_1: float
    final_rate: float  # share of the rate at the last step
    label_loss: str  # a name in losses.LABEL_LOSSES
    dropout: float  # of the input
    precision: str  # a Keras policy
    deterministic: bool
    checkpoint_seconds: float
    steps_per_call: int | str  # see runs.loop
    spec: Spec = BRATS
    output_norm: bool = False  # D11, see blocks.Make
    initialization: str = "he_normal"
    leaky_relu: bool = True


class Segmentors:
    """The networks of a scheme with their step; one trace serves all repeats.

    Attributes:
        nets: networks by name.
        predict: x [b, M, H, W, 1] -> labels [b, N, H, W], as segmentation.score asks.
    """

    def __init__(
        self,
        training: Training,
        iterations: int,
        augment: bool = False,
        team: runs.Team | None = None,
    ) -> None:
        self.training, self.iterations = training, iterations
        self.team = team or runs.Team()
        self.build = {
            "scheme": training.scheme,
            "image_size": training.image_size,
            "width": training.width,
            "output_norm": training.output_norm,
            "initialization": training.initialization,
            "leaky_relu": training.leaky_relu,
        }
        rates = training.rate, iterations, training.beta_1, training.final_rate
        with self.team.scope():
            self.nets = lesion_components.build(**self.build, spec=training.spec)
            variables = [
                v for net in self.nets.values() for v in net.trainable_variables
            ]
            self._adam = runs.adam(variables, *rates)
        self._train_step = segmentation.make_train_step(
            self.nets,
            {"segmentation": self._adam},
            training.label_loss,
            training.dropout,
            augment,
            training.spec,
        )
        self.predict = tf.function(
            lambda x: tf.argmax(
                lesion_components.segment(self.nets, x, spec=training.spec), -1
            ),
            autograph=False,
        )

    def train(
        self,
        run_dir: Path,
        slices: data.Slices,
        plan: list[mixing.Phase],
        seed: int,
        begin: Callable[[], dict],
    ) -> dict:
        """Trains from fresh weights, or the run's checkpoint, on mixing.Phase.

        `begin` is called between and may put others in place of the fresh ones. It
        returns what makes the run and never changes, which is returned.
        """
        training = self.training
        runs.set_up(training.precision, seed, training.deterministic)
        fresh = lesion_components.build(**self.build, spec=training.spec)
        for name, net in self.nets.items():
            net.set_weights(fresh[name].get_weights())
        self._adam.restart()
        drawn = mixing.sampler(plan, training.batch_size, seed)
        run_dir.mkdir(parents=True, exist_ok=True)
        begun = begin()
        files.write_json(run_dir / "samples.json", mixing.described(plan, slices))
        runs.loop(
            run_dir,
            self._train_step,
            lambda first: data.segmentation_batches(
                slices, training.batch_size, seed, first, drawn
            ),
            self.iterations,
            {**self.nets, "optimizer": self._adam},
            seed,
            slices.names,
            checkpoint_seconds=training.checkpoint_seconds,
            steps_per_call=training.steps_per_call,
            made_by=begun,
            team=self.team,
        )
        return begun


def result(
    key: tuple,
    training: Training,
    run_dir: Path,
    seed: int,
    plan: list[mixing.Phase],
    scores: dict,
    started: Path,
    made_from: str | None = None,
    sets: dict[str, str] | None = None,
) -> dict:
    """A line of results.jsonl.

    `key` is by tables.KEY; `started` is the folder that the command was given, in which
    `run_dir` may be that of one repeat; `made_from` is a digest of what made it, `sets`
    are digests of the synthetic data in a row of a table.
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
        "flags": runs.command_of(started).flags,
        "made_from": made_from,
        **({} if sets is None else {"sets": sets}),
        **scores,
    }


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
    seen: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """Runs every repeat of the rows that has no line yet; writes the tables.

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
        seen: called with the number of repeats that are done, before the first and
            after each.

    Returns:
        The files of the tables that were written.

    Raises:
        RunError: a data set is missing or not the one that is asked for.
        DataError: there are fewer samples than a row asks for.
    """
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
    done = {tuple(x[n] for n in tables.KEY) for x in tables.read(results)}
    jobs = [(*row, k) for row in asked for k in range(1, repeats + 1)]
    open_jobs = [job for job in jobs if job not in done]
    logging.info("%d of %d repeats are done", len(jobs) - len(open_jobs), len(jobs))
    seen(len(jobs) - len(open_jobs))
    segmentors = Segmentors(training, iterations)
    fixed = training._replace(checkpoint_seconds=0, steps_per_call=1)
    started = time.monotonic()
    for number, (table, name, repeat) in enumerate(open_jobs):
        passed = time.monotonic() - started
        left = passed / number * (len(open_jobs) - number) if number else None
        logging.info(
            "table %d, row %s, repeat %d: %d to go%s",
            table,
            name,
            repeat,
            len(open_jobs) - number,
            "" if left is None else f", about {left / 60:.0f} minutes",
        )
        of_repeat = seed + repeat - 1
        row = 1 if table == 1 else name
        folder = run_dir / f"row-{row:02d}" / f"repeat-{repeat}"
        trained_on = ["synthetic"] if rows[name].synthetic else []
        begun = {
            "training": fixed,
            "row": row,
            "made_from": origin.made_from,
            "sets": {each: origin.sets[each] for each in trained_on},
            **mixing.described(plans[name], slices),
        }
        segmentors.train(folder, slices, plans[name], of_repeat, lambda x=begun: x)
        test_set = name if table == 1 else "real"
        scores = segmentation.score(
            segmentors.predict, scored_on[test_set], test_set == "real"
        )
        scored = [f"synthetic {name}"] if table == 1 else trained_on
        line = result(
            (table, name, repeat),
            *(training, folder, of_repeat, plans[name], scores, run_dir),
            origin.made_from,
            {each: origin.sets[each] for each in scored if each in origin.sets},
        )
        tables.record(results, line, origin)
        if row != 1 and not keep_checkpoints:
            shutil.rmtree(folder / "checkpoints")
        tables.write(table, tables.read(results), run_dir)
        seen(len(jobs) - len(open_jobs) + number + 1)
    for table in sorted({table for table, _ in asked}):
        tables.write(table, tables.read(results), run_dir)
    return [run_dir / f"table{table}.md" for table in sorted({t for t, _ in asked})]
