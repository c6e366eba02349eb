"""What stage 3 makes sets of: trained models, labels, and a record of both."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import NamedTuple

from absl import logging

from brats_gan import (
    cluster,
    data,
    report,
    runs,
    structural_map,
    synthesis,
    synthetic_dataset,
    trained_models,
    weights,
)
from brats_gan.data import records
from brats_gan.io import patients
from brats_gan.spec import of_description
from brats_gan.stages import beginning, inputs

SCRIPT = "build_dataset.py"
# Flags that may differ when a data set is gone on with.
FREE = ("nearest_report", "shard", "workers", "scheduler")
# Of these, who makes the data set: it is the same, and says nothing of them.
WHO = ("shard", "workers", "scheduler")


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
    volumes: int | None = None  # None: samples, each a slice of its own
    passing: float | None = None  # of volumes; None: volume_synthesis.PASSING
    lesion_map: str | None = None  # of volumes; None: lesions of training subjects
    shard: str | None = None  # "I/N", the part of the volumes to make; None: all
    workers: int | None = None  # processes of Dask here that make them; None: this one
    scheduler: str | None = None  # tcp://HOST:PORT of Dask, whose workers do

    def __post_init__(self) -> None:
        beginning.settle_types(self)


class Shard(NamedTuple):
    """One part of several of the volumes of a data set."""

    number: int  # 1..count
    count: int

    @property
    def name(self) -> str:
        """Of its lock."""
        return f"{self.number}-of-{self.count}"

    def has(self, position: int) -> bool:
        """Whether the volume at that position, from 0, is of it."""
        return position % self.count == self.number - 1


def shard_of(settings: Settings) -> Shard | None:
    """The part of the volumes that settings ask for.

    Raises:
        RunError: --shard is not I/N with I from 1 to N.
    """
    if settings.shard is None:
        return None
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", settings.shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise runs.RunError(
            f"--shard={settings.shard}: give the number of a part and how many there "
            "are, from 1/8 to 8/8"
        )
    return Shard(int(match[1]), int(match[2]))


def share_of(shard: Shard | None) -> str | None:
    """What its lock is called, see runs.locks."""
    return None if shard is None else shard.name


class Ingredients(NamedTuple):
    """All that a data set is made of, once nothing of it could be refused."""

    settings: Settings  # as they were settled
    by: runs.Command
    models: synthesis.Models
    of_maps: dict  # description of the export `structure`
    scheme: str  # that guided the generator
    seen: list[str]  # names of all subjects that any of the models has seen
    slices: data.Slices | data.LabelPool  # labels are of them
    held_out: list  # io.Subject
    split: dict
    known: list  # records of what the models were trained on, see records_of
    fixed: dict  # inputs.json
    shard: Shard | None


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


def gather(
    settings: Settings,
    source: data.Source,
    output_dir: str | Path,
    record: beginning.Record | None = None,
) -> Ingredients:
    """Loads and compares all that a data set is made of; writes nothing.

    Args:
        settings, source, output_dir, record: as of `dataset.build`.

    Raises:
        RunError, DataError: see trained_models.load_models, find_labels and inputs.fix.
    """
    shard = shard_of(settings)
    if shard and cluster.place_of(settings.workers, settings.scheduler):
        raise runs.RunError(
            "--shard is a part that this process makes, and --workers and --scheduler "
            "let others make all of them; leave one of the two out"
        )
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
    by = by._replace(flags={k: v for k, v in by.flags.items() if k not in WHO})
    output_dir = Path(output_dir)
    share = share_of(shard)
    beginning.require_startable(output_dir, source, by, FREE, "output_dir", share)
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
    return Ingredients(
        *(settings, by, models, of_maps, scheme, seen, slices, sides[1], split),
        *(known, fixed, shard),
    )


def digest_of(settings: Settings, fixed: dict) -> str:
    """Of all that decides the samples of a data set: in the record of each volume.

    Args:
        settings: Settings; where its runs lie plays no part, nor do reports.
        fixed: of `inputs.fix`, which has what the runs hold.
    """
    places = ("structural_run", "multimodal_run", "segmentor_run", "nearest_report")
    places += WHO
    chosen = dataclasses.asdict(settings)
    chosen = {
        name: value
        for name, value in chosen.items()
        if name not in places and value is not None
    }
    if settings.lesion_map:  # where it lies plays no part, either
        chosen["lesion_map"] = records.digest(Path(settings.lesion_map))
    return inputs.digest({"inputs": fixed, "settings": chosen})


def summary_of(made: Ingredients, rows: list[dict], real_data: bool) -> dict:
    """dataset_description.json of a finished data set, its reports left out.

    Args:
        made: Ingredients.
        rows: of its manifest.
        real_data: whether labels are of real subjects.
    """
    of_maps, fixed = made.of_maps, made.fixed
    of_models = of_maps.get("inputs")
    summary = synthetic_dataset.description(
        of_maps,
        made.scheme,
        rows,
        made.split,
        made.seen,
        real_data,
        made.settings.filter,
        made.by.flags,
    )
    summary["Inputs"] = fixed
    summary["MadeFrom"] = digest_of(made.settings, fixed)
    if of_models:
        summary["ModelInputs"] = of_models
    beside = [record for _, record in made.known if record != of_models]
    if beside:  # of the other models, and of weights that any of them began from
        summary["SeenInputs"] = [
            each for n, each in enumerate(beside) if each not in beside[:n]
        ]
    return summary


def tell(output_dir: Path) -> None:
    """Writes the card of a finished data set, README.md, and its report."""
    report.finish(output_dir, SCRIPT, beginning.defaults(SCRIPT, Settings("", "")))
