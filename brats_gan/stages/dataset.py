"""Stage 3 as a function: a synthetic data set of registered slices (Section 2.8)."""

from __future__ import annotations

import dataclasses
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
    structural_map,
    synthesis,
    synthetic_dataset,
    trained_models,
    weights,
)
from brats_gan.data import records
from brats_gan.io import patients
from brats_gan.lazy import tf
from brats_gan.spec import Spec, of_description
from brats_gan.stages import beginning, inputs

SCRIPT = "build_dataset.py"
SHEET = "samples.png"
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
    all_labels: bool = False
    mask_images: bool = True
    batch_size: int = 16
    seed: int = 0
    nearest_report: bool = False

    def __post_init__(self) -> None:
        beginning.settle_types(self)


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
) -> tuple[data.Slices | data.LabelPool, list, dict]:
    """Where labels come from: subjects of --data_dir, or a pool beside the weights.

    Returns:
        data.Slices or data.LabelPool; the subjects to train on and those held out; and
        the split.

    Raises:
        RunError: there are no labels, or the models were trained on what is held out.
    """
    folder = weights.folder_of(settings.structural_run, "structural")
    of_run = Path(folder or settings.structural_run, "split.json")
    if not source.data_dir:
        if source.split:
            raise runs.RunError("--split is of --data_dir, which is not given")
        if settings.all_labels:
            raise runs.RunError(
                "--all_labels needs --data_dir: the labels that come with weights all "
                "have a lesion"
            )
        pool = weights.labels_of(settings.structural_run)
        if pool is None or settings.nearest_report:
            raise runs.RunError(
                "--data_dir is needed: labels and --nearest_report are of its "
                "training subjects; only --structural_run=pretrained brings labels"
            )
        split = {"seed": None, "train": seen, "test": []}
        if of_run.exists():
            split = data.given_split(of_run)
        return data.LabelPool(pool, of_maps["image_size"]), ([], []), split
    if folder is not None and not of_run.exists():
        of_run = None
    read = as_trained(source, of_maps)
    training, held_out, split = dataclasses.replace(
        read, split=source.split or of_run
    ).subjects(output_dir, strict=bool(source.split) or folder is None)
    leaked = patients.shared(
        [subject.name for subject in held_out],
        seen,
        *records.patterns({"split": split}, of_maps.get("inputs")),
    )
    if leaked:
        raise runs.RunError(
            f"the split holds out {patients.described(leaked)}, which the models have "
            "seen: they, or the weights they started from (--init_from), were trained "
            "on subjects of that name, or of that patient. Give by --split the split "
            "of their run, or start them from other weights"
        )
    return read.read(training, of_maps["image_size"]), (training, held_out), split


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
    of_runs = (
        settings.structural_run,
        settings.multimodal_run,
        settings.segmentor_run or settings.multimodal_run,
    )
    exports = trained_models.fingerprints(*of_runs)
    models, of_maps, scheme, seen = trained_models.load_models(*of_runs)
    if settings.dice_threshold is None:  # what flags.txt and the description will say
        reached = trained_models.dice_threshold(settings.multimodal_run)
        settings = dataclasses.replace(settings, dice_threshold=reached)
    without = ("split_seed", "held_out", "slices", "spec")
    by = beginning.command(
        record, SCRIPT, settings, source, without=without, output_dir=output_dir
    )
    output_dir, free = Path(output_dir), ("nearest_report",)
    beginning.require_startable(output_dir, source, by, free, "output_dir")
    labels = source.data_dir or settings.structural_run
    logging.info("stage 3: %s, with labels of %s", output_dir, labels)
    slices, sides, split = find_labels(settings, source, output_dir, of_maps, seen)
    of_models = of_maps.get("inputs")
    of_models_at = [(settings.structural_run, of_models)] if of_models else []
    known = trained_models.records_of(*of_runs)
    is_run = weights.folder_of(settings.structural_run, "structural") is None
    fixed = inputs.fix(
        output_dir,
        as_trained(source, of_maps),
        split,
        sides,
        slices if source.data_dir else None,
        image_size=of_maps["image_size"],
        against=of_models_at if is_run else [],
        apart_from=known,
        exports=exports,
    )
    if trained_models.fingerprints(*of_runs) != exports:
        raise runs.RunError(
            "what the runs export was written anew while it was read: one of them goes "
            "on training. Start this command again once it has finished"
        )
    if settings.nearest_report:  # read now: what is wrong with it is found in time
        others = as_trained(source, of_maps).read(sides[1], of_maps["image_size"])
    beginning.start(output_dir, split, by, free)
    inputs.record(output_dir, fixed)
    origin = digest_of(settings, fixed)
    rows = make_samples(settings, models, slices, output_dir, origin)

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
    summary["Inputs"] = fixed
    summary["MadeFrom"] = origin
    if of_models:
        summary["ModelInputs"] = of_models
    beside = [record for _, record in known if record != of_models]
    if beside:  # of the other models, and of weights that any of them began from
        summary["SeenInputs"] = [
            each for n, each in enumerate(beside) if each not in beside[:n]
        ]
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
    runs.release(output_dir)
    return Built(output_dir, summary, rows)


def digest_of(settings: Settings, fixed: dict) -> str:
    """Of all that decides the samples of a data set: in the record of each volume.

    Args:
        settings: Settings; where its runs lie plays no part, nor do reports.
        fixed: of `inputs.fix`, which has what the runs hold.
    """
    places = ("structural_run", "multimodal_run", "segmentor_run", "nearest_report")
    chosen = dataclasses.asdict(settings)
    chosen = {name: value for name, value in chosen.items() if name not in places}
    return inputs.digest({"inputs": fixed, "settings": chosen})


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
    on_terminal = sys.stdout.isatty()
    bar = tf.keras.utils.Progbar(
        settings.samples,
        unit_name="sample",
        interval=5 if on_terminal else progress.EVERY,
    )
    pace = progress.Pace(pieces=2 * settings.batch_size)  # they come in groups
    progressed = 0

    def seen():
        nonlocal progressed
        progressed += 1
        bar.update(settings.samples - left + progressed)
        if pace.seen(progressed, time.monotonic()):
            if on_terminal:
                print()  # below the bar
            ahead = progress.forecast(left - progressed, pace.seconds, "sample")
            logging.info(ahead)

    bar.update(settings.samples - left)
    rows, made, following = [], None, None  # the number of the next one made
    for volume_id, count in manifest.volume_ids(settings.samples).items():
        new = whole.get(volume_id)
        if new is None or int(new[0]["number"]) != len(rows):
            if following != len(rows):
                made = made_from(settings, models, slices, len(rows))
            group, new = fill(settings, made, volume_id, count, rows, output_dir, seen)
            synthetic_dataset.write_volume(output_dir, volume_id, group, models.spec)
            if not rows:
                draw(group, output_dir / SHEET, models.spec)
            manifest.write_record(output_dir, volume_id, new, models.spec, origin)
            following = len(rows) + len(new)
            manifest.write(output_dir, rows + new)
        rows += new
    manifest.bring_in_line(output_dir, rows)
    return rows


def made_from(
    settings: Settings,
    models: synthesis.Models,
    slices: data.Slices | data.LabelPool,
    first: int,
) -> Iterator[synthesis.Sample]:
    """The samples from number `first` on."""
    endless = settings.accepted_only
    return synthesis.samples(
        models,
        slices,
        itertools.count(first) if endless else range(first, settings.samples),
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
