"""What explore.py begins with: models, labels to place and subjects to show."""

from __future__ import annotations

import importlib
import tempfile
import types
from pathlib import Path

from absl import logging

from brats_gan import data, io, painting, runs, weights
from brats_gan.app.answers import Answers
from brats_gan.stages import ingredients


def server() -> types.ModuleType:
    """The module app.server.

    Raises:
        RunError: the extra `app` is not installed.
    """
    try:
        return importlib.import_module("brats_gan.app.server")
    except ModuleNotFoundError as error:
        if (error.name or "brats_gan").startswith("brats_gan"):
            raise
        raise runs.RunError(
            f"{error.name} is missing, which the page needs; install it by "
            "pip install 'brats_gan[app]'"
        ) from error


def answers(settings: painting.Settings, source: data.Source) -> Answers:
    """Loads all that the page shows, and traces it.

    Raises:
        RunError, DataError: see painting.load, ingredients.find_labels and
            io.find_subjects.
    """
    logging.info("loading the models")
    studio = painting.load(settings)
    subjects = []
    if source.data_dir:
        subjects = io.find_subjects(
            source.data_dir,
            source.layout,
            studio.models.spec,
            source.labelling,
            source.patient_pattern,
        )
    found = Answers(studio, _pool(studio, source), subjects)
    logging.info("drawing once, so that the first stroke is as fast as the others")
    painting.warm_up(studio)
    return found


def _pool(studio, source):
    """Labels that can be placed, or None."""
    run = studio.settings.structural_run
    beside = weights.labels_of(run)
    if beside is not None:
        return data.LabelPool(beside, studio.size)
    if not source.data_dir:
        return None
    as_stage_3 = ingredients.Settings(run, studio.settings.multimodal_run)
    with tempfile.TemporaryDirectory(prefix="brats_gan-") as nowhere:
        pool, _, _ = ingredients.find_labels(
            as_stage_3, source, Path(nowhere), studio.of_maps, studio.seen
        )
    return pool if len(pool.lesions) else None
