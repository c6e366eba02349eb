"""Stage 3 for whole brains: a synthetic data set of registered volumes."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
    cluster,
    data,
    figures,
    files,
    io,
    runs,
    synthesis,
    synthetic_dataset,
    trained_models,
    volume_dataset,
    volume_lesions,
    volume_reports,
    volume_synthesis,
)
from brats_gan.spec import Spec
from brats_gan.stages import beginning, ingredients, inputs, workers
from brats_gan.stages.dataset import Built, counter

SHEET = "volumes.png"
SCROLL = "volumes.gif"
PROFILE = "profile.json"
SHOWN = 4  # volumes of both
# What is of samples alone, by its default.
_OF_SAMPLES = {
    "accepted_only": False,
    "all_labels": False,
    "mask_images": True,
}


def lesions_of(slices: data.Slices, spec: Spec) -> volume_lesions.Pool:
    """The lesions of training subjects, in the voxels that networks see.

    Raises:
        DataError: none of them has one.
    """
    size = slices.image_size
    # All slices in range: without those that show no brain, lesions would be cut off,
    # or shorter, where none is.
    labels = [slices.volume(subject)[1] for subject in range(len(slices.names))]
    spacing = slices.slice_spacing, spec.crop / size, spec.crop / size
    try:
        return volume_lesions.pool(labels, slices.names, spacing)
    except ValueError as error:
        raise files.DataError(
            "no training subject has a lesion in the range of slices, so there is none "
            "to place; give data with labels"
        ) from error


def placement(
    settings: ingredients.Settings,
    slices: data.Slices,
    at: tuple[int, int],
    labelling: io.Labelling = io.AS_NAMED,
) -> volume_synthesis.Placement:
    """How lesions come into a brain: the one that is given, or those of `lesions_of`.

    Args:
        settings: as of `build`.
        slices: of the training subjects.
        at: slices of a volume, from the lowest in range: no more than some training
            subject has.
        labelling: of the lesion that is given.

    Raises:
        DataError: see io.load_lesion_map and `lesions_of`.
    """
    if not settings.lesion_map:
        pool = lesions_of(slices, slices.spec)
        return functools.partial(volume_lesions.place, pool)
    label = io.load_lesion_map(
        *(settings.lesion_map, at, slices.image_size, slices.spec, labelling),
        slices.slice_spacing,
    )
    return functools.partial(volume_lesions.keep, label)


def _require_not_held_out(settings, source, made):
    """RunError where the lesion that is given is that of a subject held out."""
    if not settings.lesion_map:
        return
    for subject in made.held_out:
        if subject.label is not None and io.same_label(
            settings.lesion_map, subject, made.models.spec, source.labelling
        ):
            raise runs.RunError(
                f"{settings.lesion_map} is the label of {subject.name}, who is held "
                "out: what is made with it could not be judged on that subject. Give "
                "another --lesion_map, or hold out others by --split"
            )


def limits_of(settings: ingredients.Settings) -> volume_synthesis.Limits:
    """What volumes must pass, by settings that are settled."""
    passing = settings.passing
    if passing is None:
        passing = volume_synthesis.PASSING
    return volume_synthesis.Limits(
        settings.mae_threshold if settings.filter else np.inf,
        passing if settings.filter else 0.0,
        settings.dice_threshold if settings.filter else -np.inf,
        settings.max_tries,
    )


def lesion_free_of(settings: ingredients.Settings) -> float:
    """Share of volumes without a lesion: none, where every one is given its own."""
    return 0.0 if settings.lesion_map else settings.lesion_free


def build(
    settings: ingredients.Settings,
    source: data.Source,
    output_dir: str | Path,
    record: beginning.Record | None = None,
) -> Built:
    """Makes a data set of `settings.volumes` volumes, or goes on with it.

    Args:
        settings, source, output_dir, record: as of `dataset.build`; lesions are those
            of `source`.

    Raises:
        RunError, DataError: see ingredients.gather, trained_models.load_stacks and
            volume_synthesis.volumes; or a setting is of samples alone.
    """
    for name, default in _OF_SAMPLES.items():
        if getattr(settings, name) != default:
            raise runs.RunError(
                f"--{name} is for samples, each a slice of its own, and --volumes asks "
                "for whole brains; leave one of the two out"
            )
    if not source.data_dir:
        raise runs.RunError(
            "--volumes needs --data_dir: lesions in three dimensions are taken from "
            "its label maps, and slices are as alike as those of its volumes; labels "
            "that come with weights are of single slices"
        )
    if settings.passing is None:
        settings = dataclasses.replace(settings, passing=volume_synthesis.PASSING)
    made = ingredients.gather(settings, source, output_dir, record)
    # After it, for of weights it has the networks: they are built once.
    stack, shape = trained_models.load_stacks(settings.structural_run)
    settings, spec, output_dir = made.settings, made.models.spec, Path(output_dir)
    slices, beta = tuple(made.of_maps["slices"]), float(made.of_maps["beta"])
    at = slices[0], slices[0] + shape[1]
    place = placement(settings, made.slices, at, source.labelling)
    _require_not_held_out(settings, source, made)
    others = None
    if settings.nearest_report:  # read now: what is wrong with it is found in time
        way = ingredients.as_trained(source, made.of_maps)
        others = way.read(made.held_out, made.slices.image_size)
    share = ingredients.share_of(made.shard)
    beginning.start(output_dir, made.split, made.by, ingredients.FREE, share)
    inputs.record(output_dir, made.fixed)
    origin = ingredients.digest_of(settings, made.fixed)

    whole = volume_dataset.whole_volumes(output_dir, settings.volumes, spec, origin)
    ids = volume_dataset.volume_ids(settings.volumes)
    own = [n for n in range(len(ids)) if made.shard is None or made.shard.has(n)]
    missing = [number for number in own if ids[number] not in whole]
    logging.info("%s: %d volumes to make", output_dir, len(missing))
    if missing:  # until they are made, nothing may say that it is finished
        (output_dir / synthetic_dataset.DESCRIPTION).unlink(missing_ok=True)

    slice_spacing = made.slices.slice_spacing

    def fitted():
        real = volume_reports.correlation(made.slices)
        return volume_synthesis.profile_of(
            *(made.models, stack, shape, real, settings.batch_size), slice_spacing
        )

    profile = _settled(output_dir, whole, origin, fitted)
    logging.info("each slice is a mean over neighbours, sd %g slices", profile)
    seen = counter(len(own), len(missing), "volume", pieces=2 * (settings.workers or 1))
    remote = cluster.place_of(settings.workers, settings.scheduler)
    if remote is None:
        work = Work(
            *(settings, made.models, stack, shape, place, profile, origin, at[0]),
            slice_spacing,
        )
        rows = ((n, make_volume(work, n, output_dir)) for n in missing)
    else:
        task = workers.task_of(made, source, origin, profile)
        rows = cluster.spread(remote, make_unit, task, missing, output_dir)
    for number, row in rows:
        whole[ids[number]] = row
        if made.shard is None:
            there = [whole[each] for each in ids if each in whole]
            volume_dataset.write(output_dir, there)
        seen()
    if made.shard is not None:  # who finishes the data set writes the rest
        runs.release(output_dir)
        return Built(output_dir, {}, [whole[ids[number]] for number in own])
    rows = [whole[each] for each in ids]
    volume_dataset.write(output_dir, rows)
    draw(output_dir, ids[:SHOWN], spec)

    summary = ingredients.summary_of(made, rows, real_data=True)
    summary |= {"Prepared": False, "Volumes": len(rows)}
    del summary["Samples"]
    # Finished, whatever becomes of the reports.
    synthetic_dataset.write_description(output_dir, summary)

    def as_made():
        size = made.slices.image_size
        return volume_reports.made(output_dir, ids, size, slices, spec)

    summary["Neighbours"] = volume_reports.neighbours_report(
        as_made(), made.slices, others, beta
    )
    summary["Registration"] = volume_reports.registration_report(
        as_made(), made.slices, beta
    )
    if others is not None:
        summary["NearestTraining"] = volume_reports.nearest_report(
            as_made(), ids, made.slices, others
        )
    synthetic_dataset.write_description(output_dir, summary)
    ingredients.tell(output_dir)
    runs.release(output_dir)
    return Built(output_dir, summary, rows)


class Work(NamedTuple):
    """What whole volumes are made with."""

    settings: ingredients.Settings  # as they were settled
    models: synthesis.Models
    stack: volume_synthesis.Stack
    shape: tuple[int, int, int]
    place: volume_synthesis.Placement
    profile: float
    origin: str
    below: int  # slice of the field at which those of a volume begin
    slice_spacing: float  # mm, that of the training volumes


def make_volume(work: Work, number: int, output_dir: Path) -> dict:
    """Makes and writes a volume, whoever makes the others; returns its row.

    Raises:
        DataError: see volume_synthesis.volumes.
    """
    settings, spec = work.settings, work.models.spec
    (volume,) = volume_synthesis.volumes(
        *(work.models, work.stack, work.shape, work.place, [number], settings.seed),
        *(limits_of(settings), lesion_free_of(settings)),
        *(settings.batch_size, work.profile, work.slice_spacing),
    )
    (volume_id,) = volume_dataset.volume_ids(number + 1)[-1:]
    volume_dataset.write_volume(
        *(output_dir, volume_id, volume, work.below, spec), work.slice_spacing
    )
    row = volume_dataset.row_of(volume, volume_id, settings.seed, work.profile)
    volume_dataset.record(output_dir, row, spec, work.origin)
    return row


def make_unit(task: workers.Task, number: int, folder: Path) -> dict:
    """`make_volume` for cluster.Job: on a worker, with what that has loaded."""
    return make_volume(_work_of(task), number, folder)


_works: dict[int, Work] = {}  # by what workers.here has loaded: the last one's


def _work_of(task):
    """Work of a Task, once for what `workers.here` has loaded."""
    loaded = workers.here(task)
    if id(loaded) not in _works:
        stack, shape = trained_models.load_stacks(task.settings.structural_run)
        first = loaded.of_maps["slices"][0]
        at = first, first + shape[1]
        labelling = task.source.labelling
        place = placement(task.settings, loaded.slices, at, labelling)
        _works.clear()
        _works[id(loaded)] = Work(
            *(task.settings, loaded.models, stack, shape, place),
            *(task.profile, task.origin, first, loaded.slices.slice_spacing),
        )
    return _works[id(loaded)]


def _settled(output_dir, whole, origin, fitted):
    """The profile of a data set, fitted by whoever comes first: what was begun goes on
    as it was, on whatever machine."""
    if whole:
        return float(next(iter(whole.values()))["profile"])
    path = output_dir / PROFILE
    with files.alone_in(output_dir):
        said = files.read_json(path) if path.exists() else {}
        if said.get("made_from") != origin:
            said = {"made_from": origin, "profile": fitted()}
            files.write_json(path, said)
    return float(said["profile"])


def draw(output_dir: Path, ids: list[str], spec: Spec) -> None:
    """Three planes of each contrast of some volumes, through the lesion, outlined; and
    all of their slices, one after the other."""
    shown = []
    for volume_id in ids:
        images, label = volume_dataset.read(output_dir, volume_id, spec)
        shown.append((volume_id, images, label))
    figures.planes(shown, spec.modalities, output_dir / SHEET)
    figures.scroll([each[1:] for each in shown], output_dir / SCROLL)
