"""Comparisons of `leaks.py` that compute anew what a run has left.

Statistics of the training subjects, weights of exports, samples of data sets, and what
a cache serves.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import leaks_volumes
from benchmarks.leaks_folders import weights_of
from benchmarks.leaks_reader import LEAK, OK, UNPROVEN, shortened, way_of
from brats_gan import (
    data,
    files,
    io,
    manifest,
    runs,
    stacks,
    structural,
    styles,
    synthetic_dataset,
    trained_models,
    volume_maps,
    weights,
)
from brats_gan.data import cache, records
from brats_gan.data.slices import content_key
from brats_gan.spec import of_description
from brats_gan.stages import dataset, flows
from brats_gan.stages import structural as stage_1

MADE_ANEW = 3  # samples of a data set
APART = 0.05  # of [0, 1]: intensities that are not the same but for last bits
# Largest shift of the codes' Gaussian that another order of sums may give, in sd; and
# what another compute precision may.
SHIFT, SHIFT_HALF = 0.02, 0.2

# --- Statistics and weights -----------------------------------------------------------


def statistics(folder, reader, line, as_recorded):
    names, there = folder.record["split"]["train"] if folder.record else [], {}
    if as_recorded:
        there = reader.subjects(folder)
    kinds = ["fingerprint", "codes" if folder.kind == "stage 1" else "style"]
    if not names or not {*names} <= there.keys():
        for what in kinds:
            yield line(
                UNPROVEN, what, "the training subjects are not at hand as recorded"
            )
        return
    training = [there[name] for name in names]
    slices = reader.slices(training, way_of(folder))
    yield from _fingerprint(folder, slices, reader, line)
    if folder.kind == "stage 1":
        yield from _codes(folder, slices, line)
    else:
        yield from _style(folder, slices, line)


def _fingerprint(folder, slices, reader, line):
    said = {
        name: told["data_fingerprint"]
        for name, told in folder.described.items()
        if told.get("data_fingerprint")
    }
    if folder.record.get("data_fingerprint"):
        said[records.NAME] = folder.record["data_fingerprint"]
    others = [name for name, each in said.items() if each != slices.fingerprint]
    if not others:
        yield line(OK, "fingerprint", f"that of {len(slices.names)} training subjects")
        return
    there, way = reader.subjects(folder), way_of(folder)
    held_out = [n for n in folder.names(False) if n in there]
    keys = {name: content_key(there[name], *way) for name in [*slices.names, *held_out]}
    for name in held_out:  # whether it is that of a set with one of them
        sets = [sorted([*slices.names, name])]
        sets += [sorted({*slices.names, name} - {each}) for each in slices.names]
        for some in sets:
            text = "".join(f"{keys[each]}.images.npy" for each in some)
            if hashlib.blake2b(text.encode(), digest_size=16).hexdigest() in {
                *said.values()
            }:
                detail = f"{others[0]} has that of a training set with {name}"
                yield line(LEAK, "fingerprint", detail)
                return
    detail = f"{shortened(others)} has that of another training set, or of other files"
    yield line(UNPROVEN, "fingerprint", detail)


def _style(folder, slices, line):
    said = {n: x["style"] for n, x in folder.described.items() if x.get("style")}
    if not said:
        yield line(OK, "style", "it has none")
        return
    fitted = styles.fit(slices.styles)
    wrong = []
    for name, each in said.items():
        theirs = styles.from_json(each)
        close = [
            one.shape == two.shape and np.allclose(one, two, rtol=1e-3, atol=1e-4)
            for one, two in zip(theirs, fitted, strict=True)
        ]
        if not all(close):
            wrong.append(name)
    if wrong:
        detail = f"that of {shortened(wrong)} is not that of the training subjects"
        yield line(LEAK, "style", detail)
    else:
        yield line(OK, "style", f"fitted to {len(slices.names)} subjects, it is that")


def _codes(folder, slices, line):
    try:
        stored = weights.read(weights_of(folder) or folder.path)
        nets = weights.networks(stored, structural.GENERATOR_SIDE)
    except (runs.RunError, files.DataError) as error:
        yield line(UNPROVEN, "codes", str(error))
        return
    if stored.found is None:
        yield line(UNPROVEN, "codes", "weights/ has no fit.npz")
        return
    if stored.found.factor.ndim == 1:  # --nocode_fit
        plain = structural.unfitted(len(stored.found.mean))
        is_plain = all(map(np.array_equal, stored.found[:3], plain[:3]))
        detail = "nothing was fitted to anybody (--nocode_fit)"
        if not is_plain:
            detail = "the fit is not that of --nocode_fit, nor of any subjects"
        yield line(OK if is_plain else LEAK, "codes", detail)
        return
    beta = float(stored.description["beta"])
    found = structural.fit(nets, flows.known_maps(slices, beta, stage_1.FITTED))
    theirs = stored.found
    if theirs.mean.shape != found.mean.shape:
        yield line(LEAK, "codes", "the fit is of other networks")
        return
    if theirs.heights is not None:  # which CF_f is told (D52)
        ours = flows.heights(slices)
        if not (
            ours.shape == theirs.heights.shape
            and np.allclose(ours, theirs.heights, atol=1e-3 * ours.max())
        ):
            yield line(LEAK, "codes", "heights are not those of the training slices")
            return
    off = [
        _off(
            *(theirs.mean, found.mean),
            *(np.sqrt(np.square(each.factor).sum(1)) for each in (theirs, found)),
        )
    ]
    if theirs.stacks is not None:  # of volumes (D49)
        codes, subjects, _ = volume_maps.encode(nets, slices, beta)
        ours = stacks.fit(codes, subjects)
        if theirs.stacks.mean.shape != ours.mean.shape:
            yield line(LEAK, "codes", "the fit to volumes is of other networks")
            return
        each = theirs.stacks.mean, ours.mean, theirs.stacks.spread, ours.spread
        off.append(_off(*each))
    most = max(off)
    half = folder.flags.get("precision", "float32") != "float32"
    if most > (SHIFT_HALF if half else SHIFT):
        detail = "the fit is not that of the codes of the training subjects"
        yield line(LEAK, "codes", f"{detail} (off by {most:.2g} sd)")
    else:
        yield line(
            OK, "codes", f"fitted to {len(slices.names)} subjects, they are those"
        )


def _off(theirs, ours, spread_there, spread):
    """The largest shift of a mean, in sd, or ratio of sds, as its logarithm."""
    known = spread > 0
    shift = np.abs(theirs - ours)[..., known] / spread[known]
    return float(max(shift.max(), np.abs(np.log(spread_there / spread)[known]).max()))


def exports(folder, line):
    """Exports against weights/: each exported array is one of those."""
    place = weights_of(folder)
    exports = sorted(folder.path.glob("export/*.json"))
    if place is None or not exports:
        if not any(folder.path.glob("row-*")):  # tables leave neither
            yield line(UNPROVEN, "weights", "there are no weights/ or no export")
        return
    try:
        arrays = weights.read(place).arrays
    except (runs.RunError, files.DataError) as error:
        yield line(UNPROVEN, "weights", str(error))
        return
    known = {_digest(x) for of_net in arrays.values() for x in of_net.values()}
    for path in exports:
        variables = path.with_suffix("") / "variables/variables"
        try:
            reader = tf.train.load_checkpoint(str(variables))
            found = [
                _digest(reader.get_tensor(key))
                for key in reader.get_variable_to_shape_map()
                if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
            ]
        except (LookupError, ValueError, tf.errors.OpError):
            yield line(UNPROVEN, "weights", f"{path.stem}: cannot be read")
            continue
        strange = sum(each not in known for each in found)
        if strange:
            detail = (
                f"{strange} of {len(found)} arrays of {path.stem} are of other weights"
            )
            yield line(LEAK, "weights", detail)
        else:
            detail = f"{len(found)} arrays of {path.stem} are those of weights/"
            yield line(OK, "weights", detail)


def _digest(array):
    array = np.ascontiguousarray(array, np.float32)
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


# --- Synthetic data sets and results --------------------------------------------------


def made_by(folder, reader, line):
    settings = _settings(folder)
    of_runs = (
        settings.structural_run,
        settings.multimodal_run,
        settings.segmentor_run or settings.multimodal_run,
    )
    try:
        whole = leaks_volumes.are_in(folder.path)
        if whole:
            leaks_volumes.require_whole(folder.path)
        else:
            synthetic_dataset.verified_subjects(folder.path, [])
        said = (folder.record or {}).get("exports")
        now = trained_models.fingerprints(*of_runs)
        differ = [name for name in now if said and said.get(name) != now[name]]
        if differ:
            detail = f"{shortened(differ)} is not of the runs that flags.txt names, "
            detail += "or these went on since"
            yield line(LEAK, "made by", detail)
            return
        models = trained_models.load_models(*of_runs)[0]
        slices = _labels(folder, settings, reader)
        if slices is None:
            yield line(
                UNPROVEN, "made by", "the subjects of its labels are not at hand"
            )
            return
        if whole:
            runs.set_up("float32", settings.seed)
            at_once = tuple(folder.record["slices"])
            same, tried = leaks_volumes.made_anew(
                folder.path, settings, models, slices, at_once
            )
        else:
            same, tried = _made_anew(folder, settings, models, slices)
    except (runs.RunError, files.DataError) as error:
        yield line(UNPROVEN, "made by", str(error))
        return
    made = "volumes" if whole else "samples"
    if same == tried:
        detail = f"its models are those; {tried} {made}, made anew, are the same"
        yield line(OK, "made by", detail)
    else:
        detail = (
            f"{tried - same} of {tried} {made}, made anew of the models and labels "
        )
        detail += "that it names, are others"
        yield line(UNPROVEN if same else LEAK, "made by", detail)


def _settings(folder):
    """dataset.Settings by flags.txt."""
    chosen = {}
    for field in dataclasses.fields(dataset.Settings):
        text = folder.flags.get(field.name)
        if text is not None:
            kind = str(field.type).partition(" ")[0]
            of = {"int": int, "float": float, "bool": lambda x: x == "true"}
            chosen[field.name] = of.get(kind, str)(text)
    return dataset.Settings(**chosen)


def _labels(folder, settings, reader):
    """Where the labels came from; None where that is not at hand."""
    if not folder.flags.get("data_dir"):
        pool = weights.labels_of(settings.structural_run)
        size = (folder.record or {}).get("image_size")
        return None if pool is None or not size else data.LabelPool(pool, size)
    there = reader.subjects(folder)
    names = folder.record["split"]["train"] if folder.record else []
    if not names or not {*names} <= there.keys():
        return None
    return reader.slices([there[name] for name in names], way_of(folder))


def _made_anew(folder, settings, models, slices):
    """(samples that are the same, samples that were made anew)."""
    rows = manifest.read(folder.path)
    # From all of the set: the first ones alone would leave room behind them.
    chosen = sorted({*np.linspace(0, len(rows) - 1, MADE_ANEW).round().astype(int)})
    runs.set_up("float32", settings.seed)
    same = 0
    for row in (rows[n] for n in chosen):
        number = int(row["number"])
        sample = next(dataset.made_from(settings, models, slices, number))
        again = manifest.row_of(sample, row["id"], row["slice"], settings.seed)
        told = ("label_subject", "lesion_pixels", "tries", "accepted")
        equal = all(str(again[name]) == row[name] for name in told)
        if row["id"] and equal:
            written = _written(folder, row, slices.image_size, models.spec)
            equal = _is_same(sample, *written)
        same += equal
    return same, len(chosen)


def _written(folder, row, size, spec):
    """Images [M, H, W] and label [H, W] of a sample, as they are in its volume."""
    subjects = io.find_subjects(folder.path, "brats2018", spec)
    (subject,) = (each for each in subjects if each.name == row["id"])
    images, label = io.read_subject(subject._replace(prepared=True), image_size=size)
    return np.moveaxis(images[int(row["slice"])], -1, 0), label[int(row["slice"])]


def _is_same(sample, images, label):
    """Whether a sample made anew is the one that was written, but for last bits."""
    apart = np.abs(images - sample.images)
    return (
        np.array_equal(label, sample.label)
        and float(np.mean(apart)) < 1e-3
        and float(np.mean(apart > APART)) < 1e-3  # no part of it is another's
    )


def sets(folder, folders, line):
    """Data sets that a run of stage 4 used, against those that are at hand."""
    sets = (folder.record or {}).get("sets", {})
    for name, recorded in sets.items():
        if not recorded:
            continue
        for other in folders:
            if other.kind != "data set":
                continue
            spec = of_description(next(iter(other.described.values()), {}))
            found = io.find_subjects(other.path, spec=spec)
            now = {n: x["files"] for n, x in records.of_files(found).items()}
            if now == recorded:
                yield line(OK, "made by", f"its {name} data is {other.path}, see there")
                break
        else:
            detail = f"its {name} data is of no data set that is at hand"
            yield line(UNPROVEN, "made by", detail)


def results(folder, line):
    """Lines of tables, by the digest of the subjects they were made from."""
    if not folder.scored:
        return
    now = records.sides_fingerprint(folder.record or {})
    unsaid = [where for where, each in folder.scored if not each.get("made_from")]
    others = [
        where
        for where, each in folder.scored
        if each.get("made_from") not in (None, now)
    ]
    if others:
        detail = f"{shortened(others)} was scored with another split, or other subjects"
        yield line(LEAK, "results", detail)
    elif unsaid:
        detail = f"{shortened(unsaid)} does not say with which subjects it was scored"
        yield line(UNPROVEN, "results", detail)
    else:
        detail = f"{len(folder.scored)} lines of tables are of the recorded subjects"
        yield line(OK, "results", detail)


# --- Caches ---------------------------------------------------------------------------


def cached(folder, reader, line):
    """What the cache serves under each subject's key, against the files."""
    place = folder.flags.get("cache_dir") or cache.default_place()
    there, way = reader.subjects(folder), way_of(folder)
    some = [there[n] for n in folder.names(True) if n in there]
    some = [each for each in some if each.label is not None]
    if not some or not all(way):
        return
    slices = reader.slices(some, way)
    decoded = cache.folder_in(reader.scratch, 0)
    served, wrong = 0, []
    for subject in some:
        key = content_key(subject, *way)
        for path in decoded.glob(f"{key}.*.npy"):
            kept = Path(place, decoded.name, path.name) if place else None
            if kept is None or not kept.exists():
                continue
            served += 1
            if kept.read_bytes() != path.read_bytes():
                wrong.append(subject.name)
    if wrong:
        detail = (
            f"{place} serves other slices as {shortened({*wrong})} than its files hold"
        )
        yield line(LEAK, "cache", detail)
    elif served:
        detail = (
            f"{place}: {served} arrays of {len(slices.names)} subjects, as the files"
        )
        yield line(OK, "cache", detail)
    elif _looked_at(folder):
        detail = "has none of these slices now; what it served is recorded, see content"
        yield line(OK, "cache", detail)
    else:
        yield line(UNPROVEN, "cache", f"{place} has none of these slices")


def _looked_at(folder):
    subjects = (folder.record or {}).get("subjects", {})
    return all(
        subjects.get(n, {}).get("images") for n in folder.record["split"]["train"]
    )
