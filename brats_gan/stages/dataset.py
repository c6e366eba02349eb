"""Stage 3 as a function: a synthetic data set of registered slices (Section 2.8)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
    cluster,
    data,
    figures,
    manifest,
    progress,
    reports,
    runs,
    synthesis,
    synthetic_dataset,
)
from brats_gan.lazy import tf
from brats_gan.spec import Spec
from brats_gan.stages import beginning, ingredients, inputs, workers
from brats_gan.stages.ingredients import SCRIPT, Settings

__all__ = ["SCRIPT", "Built", "Settings", "build"]

SHEET = "samples.png"
SHOWN = 8  # rows of samples.png
HOPELESS = 50  # samples left out in a row before --accepted_only gives up


class Built(NamedTuple):
    """A finished data set."""

    output_dir: Path
    summary: dict  # dataset_description.json; empty, where only a part was made
    rows: list[dict]  # manifest.csv, or those of the part


def draw(group: list[synthesis.Sample], path: Path, spec: Spec) -> None:
    """Figure 9: map, mask, label, slices, and the label predicted in the last one."""
    rows = [
        [s.structure, s.background, s.label, *s.images, s.predicted[-1]]
        for s in group[:SHOWN]
    ]
    titles = ["f_g", "mask_g", "label", *spec.modalities, "predicted"]
    figures.sheet(rows, titles, path, label_columns=("label", "predicted"))


def build(
    settings: Settings,
    source: data.Source,
    output_dir: str | Path,
    record: beginning.Record | None = None,
) -> Built:
    """Makes a data set, or goes on with it.

    Args:
        settings: Settings.
        source: data.Source of the labels. Its data_dir is None where the weights bring
            labels; its range of slices is that of the models, and it is split as
            their run was.
        output_dir: folder of the data set; one that exists is continued.
        record: of a script, see beginning.Record; by default flags.txt has the flags
            of the script that would choose the same.

    Raises:
        RunError, DataError: see trained_models.load_models, find_labels, runs.start
            and synthesis.samples; or too many samples in a row do not pass.
    """
    for name in ("passing", "lesion_map"):
        if getattr(settings, name) is not None:
            raise runs.RunError(
                f"--{name} is for whole brains, and --volumes, which asks for them, is "
                "not given; give it too, or leave this one out"
            )
    made = ingredients.gather(settings, source, output_dir, record)
    settings, slices, of_maps = made.settings, made.slices, made.of_maps
    output_dir = Path(output_dir)
    if settings.nearest_report:  # read now: what is wrong with it is found in time
        way = ingredients.as_trained(source, of_maps)
        others = way.read(made.held_out, of_maps["image_size"])
    share = ingredients.share_of(made.shard)
    beginning.start(output_dir, made.split, made.by, ingredients.FREE, share)
    inputs.record(output_dir, made.fixed)
    origin = ingredients.digest_of(settings, made.fixed)
    place = cluster.place_of(settings.workers, settings.scheduler)
    if place is None:
        rows = make_samples(settings, made.models, slices, output_dir, origin)
    else:

        def elsewhere(positions):
            task = workers.task_of(made, source, origin)
            return cluster.spread(place, make_unit, task, positions, output_dir)

        rows = make_samples(
            settings, made.models, slices, output_dir, origin, elsewhere
        )
    if made.shard is not None:  # who finishes the data set writes the rest
        runs.release(output_dir)
        return Built(output_dir, {}, rows)

    summary = ingredients.summary_of(made, rows, bool(source.data_dir))
    # Finished, whatever becomes of the reports.
    synthetic_dataset.write_description(output_dir, summary)
    kept = sum(bool(row["id"]) for row in rows)
    summary["Registration"] = reports.registration_report(
        output_dir, kept, slices, float(of_maps["beta"])
    )
    if settings.nearest_report:
        summary["NearestTraining"] = reports.nearest_report(
            output_dir, slices, others, of_maps["slices"][0]
        )
    synthetic_dataset.write_description(output_dir, summary)
    ingredients.tell(output_dir)
    runs.release(output_dir)
    return Built(output_dir, summary, rows)


def counter(total: int, left: int, unit: str, pieces: int) -> Callable[[int], None]:
    """Shows a bar of what is made; returns a function to call after some pieces, with
    their number.

    Args:
        total: pieces of the whole.
        left: of them, still to be made.
        unit: name of one.
        pieces: that are measured before it says how long the rest takes.
    """
    on_terminal = sys.stdout.isatty()
    bar = tf.keras.utils.Progbar(
        total, unit_name=unit, interval=5 if on_terminal else progress.EVERY
    )
    bar.update(total - left)
    pace, done = progress.Pace(pieces), 0

    def seen(count=1):
        nonlocal done
        done += count
        bar.update(total - left + done)
        if pace.seen(done, time.monotonic()):
            if on_terminal:
                print()  # below the bar
            if left > done:
                logging.info(progress.forecast(left - done, pace.seconds, unit))

    return seen


class Work(NamedTuple):
    """What volumes of samples are made with."""

    settings: Settings  # as they were settled
    models: synthesis.Models
    slices: data.Slices | data.LabelPool
    origin: str | None = None  # see ingredients.digest_of


def make_samples(
    settings: Settings,
    models: synthesis.Models,
    slices: data.Slices | data.LabelPool,
    output_dir: Path,
    origin: str | None = None,
    elsewhere: Callable[[list[int]], Iterator[tuple[int, list[dict]]]] | None = None,
) -> list[dict]:
    """Writes the volumes and manifest.csv, a volume at a time; returns its rows.

    Volumes that are there already are taken if their record says `origin`. Of a part
    of the data set, the rows of its volumes are returned, and manifest.csv is left to
    the process that finishes the data set. `elsewhere` makes volumes at positions and
    yields each with its rows, in any order; without, this process does.
    """
    shard = ingredients.shard_of(settings)
    work = Work(settings, models, slices, origin)
    whole = manifest.whole_volumes(output_dir, settings.samples, models.spec, origin)
    ids = manifest.volume_ids(settings.samples)
    if settings.accepted_only:
        _require_quotas(output_dir, whole, [*ids])
    own = {
        volume_id: position
        for position, volume_id in enumerate(ids)
        if shard is None or shard.has(position)
    }
    (first,) = manifest.volume_ids(1)
    if first in whole and first in own and not (output_dir / SHEET).exists():
        logging.warning("%s is missing; %s is made again", output_dir / SHEET, first)
        del whole[first]
    total = sum(ids[volume_id] for volume_id in own)
    left = sum(ids[volume_id] for volume_id in own if volume_id not in whole)
    if left < total:
        logging.info("%s: going on after %d samples", output_dir, total - left)
    part = "" if shard is None else f", part {settings.shard}"
    logging.info("%s%s: %d samples to make", output_dir, part, left)
    pieces = 2 * settings.batch_size  # they come in groups
    if elsewhere is not None:
        pieces = manifest.PER_VOLUME * (settings.workers or 1)
    seen = counter(total, left, "sample", pieces)
    if elsewhere is not None:
        missing = [n for volume_id, n in own.items() if volume_id not in whole]
        for position, new in elsewhere(missing):
            whole[[*ids][position]] = new
            seen(sum(bool(row["id"]) for row in new))
    rows = []
    for volume_id, position in own.items():
        new = whole.get(volume_id)
        if new is None:
            new = make_volume(work, position, output_dir, seen)
            if shard is None:
                manifest.write(output_dir, rows + new)
        rows += new
    if shard is None:
        manifest.bring_in_line(output_dir, rows)
    return rows


def first_number(settings: Settings, position: int) -> int:
    """The number of the first sample of the volume at a position, from 0."""
    each = manifest.NUMBERS if settings.accepted_only else manifest.PER_VOLUME
    return position * each


def _require_quotas(output_dir, whole, ids):
    """RunError for a data set, begun and not finished, in which the samples that were
    left out moved the numbers of all volumes behind, as in a version before."""
    begins = {
        position: int(whole[volume_id][0]["number"])
        for position, volume_id in enumerate(ids)
        if volume_id in whole
    }
    moved = any(n != position * manifest.NUMBERS for position, n in begins.items())
    if moved and len(begins) < len(ids):
        raise runs.RunError(
            f"{output_dir} was begun by a version that counted accepted samples on "
            "from volume to volume, and is not finished: finish it by that version, "
            "or choose another folder"
        )


def make_volume(
    work: Work,
    position: int,
    output_dir: Path,
    seen: Callable[..., None] = lambda: None,
) -> list[dict]:
    """Makes and writes the volume at a position, whoever makes the others.

    Returns:
        Its rows of the manifest.

    Raises:
        RunError: see `fill`.
    """
    settings = work.settings
    volume_id, count = [*manifest.volume_ids(settings.samples).items()][position]
    first = first_number(settings, position)
    # Batches do not reach over volumes, so that whoever makes one makes the same.
    made = made_from(settings, work.models, work.slices, first, count)
    before = position * manifest.PER_VOLUME
    group, rows = fill(settings, made, volume_id, count, before, output_dir, seen)
    write_volume(output_dir, volume_id, group, rows, work.models.spec, work.origin)
    return rows


def make_unit(task: workers.Task, position: int, folder: Path) -> list[dict]:
    """`make_volume` for cluster.Job: on a worker, with what that has loaded."""
    loaded = workers.here(task)
    work = Work(task.settings, loaded.models, loaded.slices, task.origin)
    return make_volume(work, position, folder)


def write_volume(
    output_dir: Path,
    volume_id: str,
    group: list[synthesis.Sample],
    rows: list[dict],
    spec: Spec,
    origin: str | None,
) -> None:
    """Writes a volume, the sheet if it is the first one, and then its record."""
    synthetic_dataset.write_volume(output_dir, volume_id, group, spec)
    if [volume_id] == list(manifest.volume_ids(1)):
        draw(group, output_dir / SHEET, spec)
    manifest.write_record(output_dir, volume_id, rows, spec, origin)


def made_from(
    settings: Settings,
    models: synthesis.Models,
    slices: data.Slices | data.LabelPool,
    first: int,
    count: int = 1,
) -> Iterator[synthesis.Sample]:
    """`count` samples from number `first` on, or more where some are left out."""
    count = manifest.NUMBERS if settings.accepted_only else count
    return synthesis.samples(
        models,
        slices,
        range(first, first + count),
        settings.seed,
        settings.mae_threshold if settings.filter else np.inf,
        settings.dice_threshold if settings.filter else -np.inf,
        settings.max_tries,
        settings.batch_size,
        None if settings.all_labels else settings.lesion_free,
        settings.mask_images,
    )


def fill(
    settings: Settings,
    made: Iterator[synthesis.Sample],
    volume_id: str,
    count: int,
    before: int,
    output_dir: Path,
    seen: Callable[[], None],
) -> tuple[list[synthesis.Sample], list[dict]]:
    """The next `count` samples that are kept, and rows of these and those left out.

    With settings.accepted_only no more than a share settings.lesion_free of them have
    no lesion. It is a quota of each volume, by where it lies in the data set: all
    volumes up to any one have the share that they may have together.

    Args:
        before: places in the volumes before.
        seen: called after each that is kept.

    Raises:
        RunError: too many samples do not pass.
    """
    # Of 0.07 * 100 a float makes 7.000000000000001.
    most = [round(settings.lesion_free * (before + n), 6) for n in range(count + 1)]
    healthy = math.ceil(most[0])
    group, rows, hopeless = [], [], 0
    while len(group) < count:
        sample = None if hopeless == HOPELESS else next(made, None)
        if sample is None:
            raise runs.RunError(
                f"{output_dir}: {hopeless} samples of {volume_id} in a row did not "
                f"pass both filters in {settings.max_tries} attempts each; train "
                "longer, or give a higher --max_tries or --mae_threshold or a lower "
                "--dice_threshold"
            )
        # Samples without a lesion pass the filters more often: they must not crowd.
        is_healthy = not sample.label.any()
        crowds = is_healthy and healthy >= most[len(group) + 1]
        crowds &= not settings.all_labels
        if not settings.accepted_only or (sample.accepted and not crowds):
            place, hopeless = (volume_id, len(group)), 0
            group.append(sample)
            healthy += is_healthy
            seen()
        else:
            place = "", ""
            hopeless += not sample.accepted
        rows.append(manifest.row_of(sample, *place, settings.seed))
    return group, rows
