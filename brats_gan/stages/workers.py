"""What a worker on another machine makes volumes with: what the command has here."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from pathlib import Path
from typing import NamedTuple

from brats_gan import data, files, runs, trained_models
from brats_gan.stages import ingredients


class Task(NamedTuple):
    """What decides all volumes of a data set, small enough to be sent to workers.

    Attributes:
        settings: as they were settled.
        source: data.Source of the labels.
        split: of the data set.
        exports: fingerprints of the models.
        fingerprint: of the slices that labels are of; None: they came with weights.
        origin: see ingredients.digest_of.
        profile: of whole volumes, see volume_synthesis.profile_of.
    """

    settings: ingredients.Settings
    source: data.Source
    split: dict
    exports: dict[str, str]
    fingerprint: str | None
    origin: str
    profile: float = 0.0


class Here(NamedTuple):
    """What a worker has loaded."""

    models: trained_models.synthesis.Models
    of_maps: dict  # description of the export `structure`
    slices: data.Slices | data.LabelPool


def task_of(
    made: ingredients.Ingredients,
    source: data.Source,
    origin: str,
    profile: float = 0.0,
) -> Task:
    """The Task of a data set that is made of `made`."""
    fixed = made.fixed
    return Task(
        *(made.settings, source, made.split, fixed["exports"]),
        *(fixed["data_fingerprint"] if source.data_dir else None, origin, profile),
    )


_loaded: dict[str, Here] = {}  # one data set's, by its origin and places


def here(task: Task) -> Here:
    """Loads models and labels, once in a process.

    Raises:
        RunError, DataError: they are not at the places that the command names, or not
            what the command has there.
    """
    settings, source = task.settings, task.source
    key = f"{task.origin} {settings} {source}"
    if key in _loaded:
        return _loaded[key]
    runs.set_up("float32", settings.seed, begin_again=False)
    of_runs = (
        settings.structural_run,
        settings.multimodal_run,
        settings.segmentor_run or settings.multimodal_run,
    )
    if trained_models.fingerprints(*of_runs) != task.exports:
        raise runs.RunError(
            f"on {platform.node()} {', '.join(dict.fromkeys(of_runs))} hold other "
            "weights than where the command was started; copy them there"
        )
    models, of_maps, _, seen = trained_models.load_models(*of_runs)
    with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
        if source.data_dir:
            split = Path(folder, "given.json")
            data.save_split(split, task.split)
            # What it holds was checked where the command was started.
            source = dataclasses.replace(source, split=str(split), check=False)
        slices, _, _ = ingredients.find_labels(
            settings, source, Path(folder), of_maps, seen
        )
    if task.fingerprint is not None and slices.fingerprint != task.fingerprint:
        raise files.DataError(
            f"{source.data_dir} on {platform.node()} holds other subjects than where "
            "the command was started. Copy them there."
        )
    _loaded.clear()
    _loaded[key] = Here(models, of_maps, slices)
    return _loaded[key]
