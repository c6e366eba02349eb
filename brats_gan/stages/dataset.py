"""Stage 3 as a function: a synthetic data set of registered slices (Section 2.8)."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
    data,
    figures,
    progress,
    reports,
    runs,
    structural_map,
    synthesis,
    synthetic_dataset,
    trained_models,
    weights,
)
from brats_gan.lazy import tf
from brats_gan.spec import Spec, of_description
from brats_gan.stages import beginning

SCRIPT = "build_dataset.py"
SHOWN = 8  # rows of samples.png
HOPELESS = 50  # samples left out in a row before --accepted_only gives up


@dataclasses.dataclass(frozen=True)
class Settings:
    """What stage 3 chooses; fields are named and explained as flags are."""

    structural_run: str
    multimodal_run: str
    segmentor_run: str | None = None
    samples: int = 1000
    mae_threshold: float = structural_map.MAE_THRESHOLD
    dice_threshold: float | None = None
    max_tries: int = 50
    filter: bool = True
    accepted_only: bool = False
    lesion_free: float = data.LESION_FREE
    batch_size: int = 16
    seed: int = 0
    nearest_report: bool = False


class Built(NamedTuple):
    """A finished data set."""

    output_dir: Path
    summary: dict  # dataset_description.json
    rows: list[dict]  # manifest.csv


def as_trained(source: data.Source, of_maps: dict) -> data.Source:
    """The source with the Spec and the range of slices that the models were trained on.

    Its own range, seed and share have no flags here, so they play no part.
    """
    default = data.Source(None)
    return dataclasses.replace(
        source,
        spec=of_description(of_maps),
        slices=tuple(of_maps["slices"]),
        split_seed=default.split_seed,
        held_out=default.held_out,
    )


def find_labels(
    settings: Settings, source: data.Source, output_dir: Path, of_maps: dict, seen: list
) -> tuple[data.Slices | data.LabelPool, list]:
    """Where labels come from: subjects of --data_dir, or a pool beside the weights.

    Writes OUT/split.json.

    Returns:
        data.Slices or data.LabelPool, and the subjects held out.

    Raises:
        RunError: there are no labels, or the models were trained on what is held out.
    """
    folder = weights.folder_of(settings.structural_run, "structural")
    of_run = Path(folder or settings.structural_run, "split.json")
    if not source.data_dir:
        if source.split:
            raise runs.RunError("--split is of --data_dir, which is not given")
        pool = weights.labels_of(settings.structural_run)
        if pool is None or settings.nearest_report:
            raise runs.RunError(
                "--data_dir is needed: labels and --nearest_report are of its "
                "training subjects; only --structural_run=pretrained brings labels"
            )
        split = {"seed": None, "train": seen, "test": []}
        if of_run.exists():
            split = data.load_split(of_run)
        data.save_split(output_dir / "split.json", split)
        return data.LabelPool(pool, of_maps["image_size"]), []
    if folder is not None and not of_run.exists():
        of_run = None
    read = as_trained(source, of_maps)
    training, held_out = dataclasses.replace(
        read, split=source.split or of_run
    ).subjects(output_dir, strict=bool(source.split) or folder is None)
    names = {subject.name for subject in held_out}
    leaked = sorted(names.intersection(seen))
    if leaked:
        raise runs.RunError(
            f"the split holds out {', '.join(leaked[:5])}, which the models have seen: "
            "they, or the weights they started from (--init_from), were trained on "
            "subjects of that name. Give by --split the split of their run, or start "
            "them from other weights"
        )
    return read.read(training, of_maps["image_size"]), held_out


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
    runs.set_up("float32", settings.seed)
    models, of_maps, scheme, seen = trained_models.load_models(
        settings.structural_run,
        settings.multimodal_run,
        settings.segmentor_run or settings.multimodal_run,
    )
    if settings.dice_threshold is None:  # what flags.txt and the description will say
        reached = trained_models.dice_threshold(settings.multimodal_run)
        settings = dataclasses.replace(settings, dice_threshold=reached)
    without = ("split_seed", "held_out", "slices", "spec")
    by = beginning.command(
        record, SCRIPT, settings, source, without=without, output_dir=output_dir
    )
    output_dir = runs.start(output_dir, free=("nearest_report",), by=by)
    labels = source.data_dir or settings.structural_run
    logging.info("stage 3: %s, with labels of %s", output_dir, labels)
    slices, held_out = find_labels(settings, source, output_dir, of_maps, seen)
    split = data.load_split(output_dir / "split.json")
    rows = make_samples(settings, models, slices, output_dir)

    summary = synthetic_dataset.description(
        of_maps,
        scheme,
        rows,
        split,
        seen,
        bool(source.data_dir),
        settings.filter,
        by.flags,
    )
    # Finished, whatever becomes of the reports.
    synthetic_dataset.write_description(output_dir, summary)
    kept = sum(bool(row["id"]) for row in rows)
    summary["Registration"] = reports.registration_report(
        output_dir, kept, slices, float(of_maps["beta"])
    )
    if settings.nearest_report:
        others = as_trained(source, of_maps).read(held_out, of_maps["image_size"])
        summary["NearestTraining"] = reports.nearest_report(
            output_dir, slices, others, of_maps["slices"][0]
        )
    synthetic_dataset.write_description(output_dir, summary)
    runs.release(output_dir)
    return Built(output_dir, summary, rows)


def make_samples(
    settings: Settings,
    models: synthesis.Models,
    slices: data.Slices | data.LabelPool,
    output_dir: Path,
) -> list[dict]:
    """Writes the volumes and manifest.csv, a volume at a time; returns its rows."""
    rows = synthetic_dataset.rows_so_far(output_dir)
    if rows:
        logging.info("%s: going on after %d samples", output_dir, len(rows))

    kept = sum(bool(row["id"]) for row in rows)
    healthy = sum(bool(row["id"]) and row["lesion_pixels"] == "0" for row in rows)
    logging.info("%s: %d samples to make", output_dir, max(settings.samples - kept, 0))
    on_terminal = sys.stdout.isatty()
    bar = tf.keras.utils.Progbar(
        settings.samples,
        unit_name="sample",
        interval=5 if on_terminal else progress.EVERY,
    )
    bar.update(kept)
    pace = progress.Pace(pieces=2 * settings.batch_size)  # they come in groups
    first = len(rows)
    endless = settings.accepted_only
    made = synthesis.samples(
        models,
        slices,
        itertools.count(first) if endless else range(first, settings.samples),
        settings.seed,
        settings.mae_threshold if settings.filter else np.inf,
        settings.dice_threshold if settings.filter else -np.inf,
        settings.max_tries,
        settings.batch_size,
        settings.lesion_free,
    )
    group, pending, hopeless = [], [], 0  # not yet written: samples, and all rows
    while kept + len(group) < settings.samples:
        sample = next(made)
        volume_id = f"synth-{kept // synthetic_dataset.PER_VOLUME + 1:05d}"
        # Samples without a lesion pass the filters more often: they must not crowd.
        is_healthy = not sample.label.any()
        at = kept + len(group) + 1
        crowds = is_healthy and healthy >= settings.lesion_free * at
        if not settings.accepted_only or (sample.accepted and not crowds):
            place, hopeless = (volume_id, len(group)), 0
            group.append(sample)
            healthy += is_healthy
            bar.update(at)
            if pace.seen(at, time.monotonic()):
                if on_terminal:
                    print()  # below the bar
                left = settings.samples - at
                logging.info(progress.forecast(left, pace.seconds, "sample"))
        else:
            place = "", ""
            hopeless += not sample.accepted
        pending.append(synthetic_dataset.manifest_row(sample, *place, settings.seed))
        if hopeless == HOPELESS:
            raise runs.RunError(
                f"{output_dir}: {HOPELESS} samples in a row did not pass both filters "
                f"in {settings.max_tries} attempts each; train longer, or give a "
                "higher --max_tries or --mae_threshold or a lower --dice_threshold"
            )
        if (
            len(group) < synthetic_dataset.PER_VOLUME
            and kept + len(group) < settings.samples
        ):
            continue
        synthetic_dataset.write_volume(output_dir, volume_id, group, models.spec)
        if not kept:
            draw(group, output_dir / "samples.png", models.spec)
        rows += pending
        kept += len(group)
        synthetic_dataset.write_manifest(output_dir, rows)
        group, pending = [], []
    return rows
