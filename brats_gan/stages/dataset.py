"""Stage 3 as a function: a synthetic data set of registered slices (Section 2.8)."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
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
from brats_gan.stages import beginning, ingredients, inputs
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
    if made.shard is not None:
        rows = make_share(settings, made.models, slices, output_dir, origin, made.shard)
        runs.release(output_dir)
        return Built(output_dir, {}, rows)
    rows = make_samples(settings, made.models, slices, output_dir, origin)

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


def counter(total: int, left: int, unit: str, pieces: int) -> Callable[[], None]:
    """Shows a bar of what is made; returns a function to call after each piece.

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

    def seen():
        nonlocal done
        done += 1
        bar.update(total - left + done)
        if pace.seen(done, time.monotonic()):
            if on_terminal:
                print()  # below the bar
            if left > done:
                logging.info(progress.forecast(left - done, pace.seconds, unit))

    return seen


def make_samples(
    settings: Settings,
    models: synthesis.Models,
    slices: data.Slices | data.LabelPool,
    output_dir: Path,
    origin: str | None = None,
) -> list[dict]:
    """Writes the volumes and manifest.csv, a volume at a time; returns its rows.

    Volumes that are there already are taken if their record says `origin`.
    """
    whole = manifest.whole_volumes(output_dir, settings.samples, models.spec, origin)
    (first,) = manifest.volume_ids(1)
    if first in whole and not (output_dir / SHEET).exists():
        logging.warning("%s is missing; %s is made again", output_dir / SHEET, first)
        del whole[first]
    left = settings.samples - sum(
        bool(row["id"]) for rows in whole.values() for row in rows
    )
    if whole:
        done = settings.samples - left
        logging.info("%s: going on after %d samples", output_dir, done)
    logging.info("%s: %d samples to make", output_dir, left)
    pieces = 2 * settings.batch_size  # they come in groups
    seen = counter(settings.samples, left, "sample", pieces)
    rows, made, following = [], None, None  # the number of the next one made
    for volume_id, count in manifest.volume_ids(settings.samples).items():
        new = whole.get(volume_id)
        if new is None or int(new[0]["number"]) != len(rows):
            # Batches do not reach over volumes, so that whoever makes one makes the
            # same; but where it is not known which samples are left out.
            if following != len(rows) or not settings.accepted_only:
                made = made_from(settings, models, slices, len(rows), count)
            group, new = fill(settings, made, volume_id, count, rows, output_dir, seen)
            write_volume(output_dir, volume_id, group, new, models.spec, origin)
            following = len(rows) + len(new)
            manifest.write(output_dir, rows + new)
        rows += new
    manifest.bring_in_line(output_dir, rows)
    return rows


def make_share(
    settings: Settings,
    models: synthesis.Models,
    slices: data.Slices | data.LabelPool,
    output_dir: Path,
    origin: str,
    shard: ingredients.Shard,
) -> list[dict]:
    """Writes the volumes of one part of the data set; returns their rows.

    manifest.csv is written by the process that finishes the data set.
    """
    whole = manifest.whole_volumes(output_dir, settings.samples, models.spec, origin)
    ids = manifest.volume_ids(settings.samples)
    own = {
        volume_id: position * manifest.PER_VOLUME
        for position, volume_id in enumerate(ids)
        if shard.has(position)
    }
    total = sum(ids[volume_id] for volume_id in own)
    left = sum(ids[volume_id] for volume_id in own if volume_id not in whole)
    logging.info("%s, part %s: %d samples to make", output_dir, shard.name, left)
    seen = counter(total, left, "sample", pieces=2 * settings.batch_size)
    rows = []
    for volume_id, first in own.items():
        new = whole.get(volume_id)
        if new is None:
            count = ids[volume_id]
            made = made_from(settings, models, slices, first, count)
            group, new = fill(settings, made, volume_id, count, [], output_dir, seen)
            write_volume(output_dir, volume_id, group, new, models.spec, origin)
        rows += new
    return rows


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
    """`count` samples from number `first` on; without end where some are left out."""
    endless = settings.accepted_only
    return synthesis.samples(
        models,
        slices,
        itertools.count(first) if endless else range(first, first + count),
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
    before: list[dict],
    output_dir: Path,
    seen: Callable[[], None],
) -> tuple[list[synthesis.Sample], list[dict]]:
    """The next `count` samples that are kept, and rows of these and those left out.

    Args:
        before: rows of the volumes before.
        seen: called after each that is kept.

    Raises:
        RunError: too many samples in a row do not pass.
    """
    kept = sum(bool(row["id"]) for row in before)
    healthy = sum(
        bool(row["id"]) and str(row["lesion_pixels"]) == "0" for row in before
    )
    group, rows, hopeless = [], [], 0
    while len(group) < count:
        sample = next(made)
        # Samples without a lesion pass the filters more often: they must not crowd.
        is_healthy = not sample.label.any()
        at = kept + len(group) + 1
        crowds = is_healthy and healthy >= settings.lesion_free * at
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
        if hopeless == HOPELESS:
            raise runs.RunError(
                f"{output_dir}: {HOPELESS} samples in a row did not pass both filters "
                f"in {settings.max_tries} attempts each; train longer, or give a "
                "higher --max_tries or --mae_threshold or a lower --dice_threshold"
            )
    return group, rows
