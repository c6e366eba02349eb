"""Stage 4 as a function: segmentors trained and scored (Sections 2.7, 3)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
    cluster,
    data,
    io,
    lesion_components,
    precision,
    runs,
    segmentation,
    synthetic_dataset,
    weights,
)
from brats_gan.data import records
from brats_gan.experiments import mixing, runner, segmentors, tables
from brats_gan.spec import Spec
from brats_gan.stages import beginning, inputs, repeats, sheets
from brats_gan.stages.repeats import wanted

SCRIPT = "eval_segmentation.py"
WHO = ("workers", "scheduler")  # of the repeats of tables: they are the same
# Flags that may differ when a command is started again: what to run, not how.
FREE = (
    "table",
    "experiment",
    "repeats",
    "synthetic_dirs",
    "keep_checkpoints",
    "results",
    *WHO,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What stage 4 chooses; fields are named and explained as flags are."""

    table: tuple[str, ...] = ()
    experiment: tuple[str, ...] = ()
    repeats: int = 4
    synthetic_dir: str | None = None
    synthetic_dirs: tuple[str, ...] = ()
    train_on: str = "both"
    scheme: str = "multiple"
    iterations: int | None = None
    epochs: float = 100.0
    batch_size: int = 1
    image_size: int = 192
    width: int = 64
    learning_rate: float = 1e-4
    final_rate: float = 1.0
    beta_1: float = 0.5
    dropout: float = segmentation.INPUT_DROPOUT
    output_norm: bool = False
    initialization: str = "he_normal"
    leaky_relu: bool = True
    label_loss: str = "weighted"
    init_from: str | None = None
    enhanced: bool = False
    precision: str = precision.AUTO
    seed: int = 0
    deterministic: bool | None = None  # None: no, as a flag that is not given
    checkpoint_seconds: float = runs.CHECKPOINT_SECONDS
    steps_per_call: int | str = "auto"
    strategy: str = runs.NONE
    replicas: int | None = None
    keep_checkpoints: bool = False
    results: str | None = None
    workers: int | None = None  # processes of Dask here that run repeats of tables
    scheduler: str | None = None  # tcp://HOST:PORT of Dask, whose workers do

    def __post_init__(self) -> None:
        beginning.settle_types(self)
        beginning.require_size(self.image_size, 4)
        for name in ("table", "experiment", "synthetic_dirs"):
            object.__setattr__(self, name, tuple(map(str, getattr(self, name))))
        object.__setattr__(self, "deterministic", self.deterministic or None)

    def test_sets(self) -> dict[str, str]:
        """{scheme: folder} of synthetic_dirs."""
        pairs = (pair.partition(":")[::2] for pair in self.synthetic_dirs)
        return {scheme: os.path.expanduser(folder) for scheme, folder in pairs}

    def training(self, spec: Spec) -> segmentors.Training:
        """How every segmentor is trained."""
        alike = {f.name for f in dataclasses.fields(self)} & {
            *segmentors.Training._fields
        }
        as_they_are = {name: getattr(self, name) for name in alike}
        settled = {
            "rate": self.learning_rate,
            "deterministic": bool(self.deterministic),
            "steps_per_call": runs.per_call(self.steps_per_call, self.deterministic),
            "spec": spec,
        }
        return segmentors.Training(**{**as_they_are, **settled})

    def iterations_of(self, real_count: int) -> int:
        """Steps of a run, by the number of real training slices (Section 3.4)."""
        by_epochs = round(self.epochs * real_count / self.batch_size)
        return self.iterations or by_epochs


class Scored(NamedTuple):
    """What stage 4 leaves."""

    run_dir: Path
    results: Path  # lines of JSON
    line: dict | None  # of a single run
    tables: list[Path]  # files of the tables, where some are asked for


def score(
    settings: Settings,
    source: data.Source,
    run_dir: str | Path,
    record: beginning.Record | None = None,
) -> Scored:
    """Trains and scores a single run, or every repeat of rows of Tables 1 and 2.

    Args:
        settings: Settings.
        source: data.Source of real subjects. Where it names no split, that of
            settings.synthetic_dir is kept to.
        run_dir: folder of the run; one that exists is continued.
        record: of a script, see beginning.Record; by default flags.txt has the flags
            of the script that would choose the same.

    Raises:
        RunError, DataError: see wanted, runs.loop, runner.fill_tables and data.Source.
    """
    sizes = settings.image_size, settings.width, settings.batch_size
    heaviest = lesion_components.heaviest_convolution(
        settings.scheme, *sizes, source.spec
    )
    settings, team = beginning.set_up(settings, run_dir, heaviest, record is not None)
    if settings.train_on == "synthetic" and not settings.synthetic_dir:
        raise runs.RunError("--train_on=synthetic needs --synthetic_dir")
    asked = wanted(settings)
    for flag, given, why in (
        ("init_from", settings.init_from, "begin from nothing, so that they compare"),
        ("strategy", settings.strategy != runs.NONE, "are shared out by repeats"),
    ):
        if asked and given:
            raise runs.RunError(
                f"--{flag} is for a single run: rows of the tables {why}; leave out "
                f"--table and --experiment, or --{flag}"
            )
    place = cluster.place_of(settings.workers, settings.scheduler)
    if place and not asked:
        raise runs.RunError(
            "--workers and --scheduler share out repeats of tables: leave them out"
        )
    by = beginning.command(record, SCRIPT, settings, source, run_dir=run_dir)
    by = by._replace(flags={k: v for k, v in by.flags.items() if k not in WHO})
    # Several processes may fill a table, and settle by claims who runs which repeat.
    share = "" if asked and place is None else None
    # The repeats of a table must all be of one length; a single run may be made longer.
    free = {*FREE, *(() if asked else runs.LENGTH)}
    whole, synthetic = Path(run_dir), settings.synthetic_dir
    run_dir = team.place(whole)
    beside = run_dir if asked else run_dir.parent
    results = Path(settings.results or beside / "results.jsonl")
    read = {
        "synthetic_dir": synthetic,
        **{f"synthetic_dirs of {k}": v for k, v in settings.test_sets().items()},
    }
    beginning.require_startable(run_dir, source, by, free, share=share, read=read)
    tables.require_writable(results, {"data_dir": source.data_dir, **read})
    logging.info(
        "stage 4: %s, scored on held-out subjects of %s", run_dir, source.data_dir
    )
    given = source.split or (synthetic and f"{synthetic}/split.json")
    strict = bool(source.split) or not synthetic_dataset.made_without_data(
        synthetic or ""
    )
    source = dataclasses.replace(source, split=given)
    real, held_out, split = source.subjects(run_dir, strict)

    def start(fixed):
        beginning.start(run_dir, split, by, free, share)
        inputs.record(run_dir, fixed)

    if not asked:
        sides = real, held_out
        line = single_run(
            settings, source, run_dir, results, split, sides, start, by, team
        )
        runs.release(run_dir)
        team.end()
        return Scored(whole, results, line, [])
    # A row without synthetic data needs none; one that has some must find the same.
    used = {"synthetic": synthetic} if synthetic else {}
    used |= {f"synthetic {k}": v for k, v in settings.test_sets().items()}

    def settle(slices, held_out_slices, iterations):
        fixed = fix_inputs(
            *(settings, source, run_dir, split, (real, held_out)),
            *(slices, held_out_slices, used),
        )
        origin = tables.Origin(
            by.flags,
            frozenset({*runs.PLACES, *runs.COMPARED, *runs.LENGTH, *FREE}),
            records.sides_fingerprint(fixed),
            {k: records.fingerprint(found) for k, found in fixed["sets"].items()},
            iterations,
        )
        tables.require_own(results, {table for table, _ in asked}, origin)
        start(fixed)
        told["read"] = slices.fingerprint, held_out_slices.fingerprint
        told["origin"] = origin
        return origin

    told: dict = {}

    def elsewhere(units):
        task = repeats.Task(settings, source, split, tuple(asked), **told)
        plain = {"TF_ENABLE_ONEDNN_OPTS": "0"} if settings.deterministic else None
        return cluster.spread(place, repeats.make_unit, task, units, run_dir, plain)

    count = len(asked) * settings.repeats
    live = beginning.live(run_dir, SCRIPT, Settings(), count, "repeat")
    written = runner.fill_tables(
        settings.training(source.spec),
        asked,
        run_dir,
        results,
        real,
        held_out,
        lambda subjects: source.read(subjects, settings.image_size),
        settings.iterations_of,
        synthetic,
        settings.test_sets(),
        settings.seed,
        settings.repeats,
        settings.keep_checkpoints,
        settle,
        None if place is None else elsewhere,
        live,
    )
    live.finish()
    runs.release(run_dir)
    return Scored(run_dir, results, None, written)


def fix_inputs(
    settings: Settings,
    source: data.Source,
    run_dir: Path,
    split: dict,
    sides: tuple,
    slices: data.Slices | None,
    held_out_slices: data.Slices,
    used: dict,
    fingerprint: str | None = None,
) -> dict:
    """`inputs.fix`, also against what data sets in use, name -> folder, say."""
    folders = [folder for folder in used.values() if folder]
    return inputs.fix(
        run_dir,
        source,
        split,
        sides,
        slices,
        held_out_slices,
        settings.image_size,
        inputs.of_data_sets(folders, "Inputs"),
        inputs.of_models_of(folders),
        sets=used,
        fingerprint=fingerprint,
    )


def single_run(
    settings: Settings,
    source: data.Source,
    run_dir: Path,
    results: Path,
    split: dict,
    sides: tuple[list[io.Subject], list[io.Subject]],
    start: Callable[[dict], None],
    by: runs.Command,
    team: runs.Team,
) -> dict | None:
    """One run on everything there is, with a sheet and an export.

    `start` is called with what `inputs.fix` returned, when nothing is left that could
    be refused.

    Returns:
        Its line of results; None in a worker beside the chief.
    """
    real, held_out = sides
    key = (None, run_dir.name, 0)
    train_on = settings.train_on if settings.synthetic_dir else "real"
    sources = real if train_on != "synthetic" else []
    before = None
    if train_on != "real":
        sources = sources + synthetic_dataset.verified_subjects(
            settings.synthetic_dir, held_out, spec=source.spec
        )
        before = synthetic_dataset.seen_by(settings.synthetic_dir)
    slices = source.read(sources, settings.image_size)
    held_out_slices = source.read(held_out, settings.image_size)
    real_slices = slices
    if train_on == "synthetic":
        real_slices = source.read(real, settings.image_size)
        real_count = len(real_slices)
    else:  # real subjects come first in `sources`, and are decoded already
        real_count = np.count_nonzero(slices.index[:, 0] < len(real))
    fixed = fix_inputs(
        settings,
        source,
        run_dir,
        split,
        sides,
        real_slices,
        held_out_slices,
        {"synthetic": settings.synthetic_dir if train_on != "real" else None},
        slices.fingerprint,
    )
    length = settings.iterations, settings.epochs, real_count, settings.batch_size
    rates = settings.learning_rate, settings.final_rate
    iterations = runs.total_steps(run_dir, *length, *rates, name="iterations")
    items = np.stack([np.arange(len(slices)), np.zeros(len(slices), int)], 1)
    plan = [mixing.Phase((train_on,), items, iterations)]
    training = settings.training(source.spec)
    beginning.require_alike(team, by, fixed)
    networks = segmentors.Segmentors(training, iterations, settings.enhanced, team)
    of_run = inputs.of_run(fixed, source, sides)
    if settings.init_from and not runs.has_begun(run_dir):
        first = settings.init_from, "segmentation"
        weights.require_fitting(networks.nets, *first, networks.build, **of_run)
    start(fixed)
    live = beginning.live(run_dir, SCRIPT, Settings(), iterations)

    def begin():
        begun = weights.begin(
            run_dir,
            "segmentation",
            networks.build,
            networks.nets,
            settings.init_from,
            [subject.name for subject in held_out],
            spec=source.spec,
            patient_pattern=split.get("patient_pattern"),
            settings=runs.lasting(runs.command_of(run_dir), FREE),
            synthetic_from=before,
            **of_run,
        )
        weights.record(run_dir, begun)
        return begun

    with live:
        begun = networks.train(run_dir, slices, plan, settings.seed, begin)
    if not team.is_chief:
        return None
    scores = segmentation.score(networks.predict, held_out_slices)
    nets, size, spec = networks.nets, settings.image_size, source.spec
    sheets.draw_segmentation(nets, held_out_slices, run_dir / "segmentation.png")
    description = {
        **data.preprocessing(size, source.slices, spec),
        "spec": spec.as_dict(),
        "training_subjects": [subject.name for subject in real],
        **inputs.of_export(fixed),
        "initialised_from": begun["initialised_from"],
        "synthetic_from": before,
        "scheme": settings.scheme,
    }
    runs.export(
        run_dir,
        "segmentor",
        list(nets.values()),
        {"segment": lesion_components.endpoint(nets, size, spec, settings.label_loss)},
        description,
    )
    weights.finish(run_dir, nets, description, iterations)
    line = {
        **runner.result(
            *(key, training, run_dir, settings.seed, plan, scores),
            runs.command_of(run_dir).flags,
            inputs.digest(begun),
        ),
        "train_on": train_on,
        "held_out": [subject.name for subject in held_out],
    }
    tables.record(results, line)
    live.finish()
    return line
