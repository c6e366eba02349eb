"""The comparisons of `leaks.py`: what folders say, with each other and the data."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks import leaks_anew
from benchmarks.leaks_folders import Folder, place_of
from benchmarks.leaks_reader import LEAK, OK, UNPROVEN, Line, Reader, shortened, way_of
from brats_gan import data, files, weights
from brats_gan.data import records
from brats_gan.io import patients


def lines(folders: list[Folder], data_dirs, scratch) -> Iterator[Line]:
    """All comparisons."""
    reader = Reader(list(data_dirs), scratch)
    held = [
        (folder, claim)
        for folder in folders
        if folder.given
        for claim in folder.claims
        if not claim.seen
    ]
    for folder in folders:

        def line(verdict, what, detail, folder=folder):
            return Line(verdict, folder.path, what, detail)

        yield from _seals(folder, line)
        yield from _sides(folder, line)
        if folder.given:
            yield from _split(folder, folders, line)
        yield from _held_out(folder, held, reader, line)
        as_recorded = []
        yield from _content(folder, folders, reader, line, as_recorded)
        if folder.kind in ("stage 1", "stage 2"):
            yield from leaks_anew.statistics(folder, reader, line, bool(as_recorded))
        if folder.kind in ("stage 1", "stage 2", "stage 4"):
            yield from leaks_anew.exports(folder, line)
        yield from _before(folder, folders, line)
        if folder.kind == "data set":
            yield from leaks_anew.made_by(folder, reader, line)
        if folder.kind == "stage 4":
            yield from leaks_anew.sets(folder, folders, line)
            yield from leaks_anew.results(folder, line)
        if folder.kind in ("stage 1", "stage 2", "stage 4"):
            yield from leaks_anew.cached(folder, reader, line)


def _seals(folder, line):
    if folder.broken:
        detail = f"{shortened(folder.broken)} was changed since, or is not readable"
        yield line(UNPROVEN, "seals", detail)
    else:
        yield line(OK, "seals", f"{len(folder.described)} files are as they were made")


def _sides(folder, line):
    by_side = [
        {each.name: each.file for each in folder.claims if each.seen == seen}
        for seen in (True, False)
    ]
    both = by_side[0].keys() & by_side[1].keys()
    for name in sorted(both):
        yield line(
            LEAK,
            "sides",
            f"{name} was seen by {by_side[0][name]} and held out by {by_side[1][name]}",
        )
    if not any(by_side):
        yield line(UNPROVEN, "sides", "no file says whom it has seen or held out")
    elif not both:
        seen, held = map(len, by_side)
        yield line(OK, "sides", f"all files have {seen} seen and {held} held out")


def _sides_of(split):
    return {side: frozenset(split.get(side) or []) for side in ("train", "test")}


def _own_split(folder):
    return _split_of(folder.path / "split.json")


def _split_of(path):
    """What a split.json says; None where it is not there, or damaged."""
    try:
        return data.load_split(Path(path), apart=False) if path.exists() else None
    except files.DataError:
        return None


def _split(folder, folders, line):
    if folder.kind in ("weights", "judges"):
        return
    split = _own_split(folder)
    if split is None:
        yield line(UNPROVEN, "split", "split.json is missing or damaged")
        return
    sides = _sides_of(split)
    given = folder.flags.get("split")
    for name in ("structural_run", "synthetic_dir"):
        if given is None and folder.flags.get(name):
            given = f"{folder.flags[name]}/split.json"
    share = float(folder.flags.get("held_out", 0.1))
    try:
        drawn = data.random_split(
            sides["train"] | sides["test"],
            split.get("seed"),
            share,
            split.get("patient_pattern"),
        )
    except (files.DataError, TypeError):
        drawn = {}
    asked = folder.flags.get("split_seed")
    if _sides_of(drawn) == sides and asked in (None, str(split.get("seed"))):
        yield line(OK, "split", f"is what seed {split['seed']} draws")
        return
    if given is None:
        moved = sides["train"] & _sides_of(drawn)["test"]
        detail = (
            f"is not what seed {split.get('seed')} draws; moved: {shortened(moved)}"
        )
        yield line(LEAK, "split", detail)
        return
    theirs = _split_of(Path(given))
    if theirs is not None:
        theirs = _sides_of(theirs)
        if theirs == sides:
            yield line(OK, "split", f"is that of {given}, which was given")
        else:
            moved = sides["train"] & theirs["test"] or sides["test"] ^ theirs["test"]
            detail = f"is not that of {given}, which was given: {shortened(moved)}"
            yield line(LEAK, "split", detail)
        return
    for other in folders:
        split = None if other is folder else _own_split(other)
        if split is not None and _sides_of(split) == sides:
            yield line(OK, "split", f"was given, and is that of {other.path}")
            return
    yield line(UNPROVEN, "split", f"{given}, which was given, is not at hand")


def _held_out(folder, held, reader, line):
    seen = [claim for claim in folder.claims if claim.seen]
    names, held_names = (
        {each.name for each in some} for some in (seen, [claim for _, claim in held])
    )
    leaks = {}
    where = {each.name: each.file for each in seen}
    of_patterns = {each.pattern for each in [*seen, *(c for _, c in held)]} - {None}
    for one, other in patients.shared(sorted(held_names), sorted(names), *of_patterns):
        how = "is the same" if one == other else "is another visit of the patient"
        leaks[one, other] = f"{how} ({where[other]})"
    way = way_of(folder)
    known = {}  # digest -> name of who is held out
    for of_folder in {id(f): f for f, _ in held}.values():
        there = reader.subjects(of_folder)
        some = [there[n] for n in sorted(of_folder.names(False)) if n in there]
        for name, identity in reader.identities(some, way).items():
            known |= dict.fromkeys(_digests(identity, way, way), name)
    for _, claim in held:
        known |= dict.fromkeys(_digests(claim.identity, claim.way, way), claim.name)
    there = reader.subjects(folder)
    read = reader.identities([there[n] for n in sorted(names & there.keys())], way)
    found = [(claim.name, claim.identity, claim.way, claim.file) for claim in seen]
    found += [(name, each, way, "its data folder") for name, each in read.items()]
    for name, identity, taken, file in found:
        for digest in _digests(identity, taken, way):
            twin = known.get(digest)
            if twin is not None:
                leaks.setdefault((twin, name), f"has the same content ({file})")
    for (one, other), how in leaks.items():
        yield line(LEAK, "held out", f"{one} is held out, and {other}, seen, {how}")
    missing = names - read.keys() - _synthetic(folder)
    count = f"{len(names)} seen with {len(held_names)} held out"
    if not names or not held_names:
        of = "it has seen" if held_names else "any of them holds out"
        detail = f"{count}: no file says whom {of}"
        yield line(UNPROVEN, "held out", detail)
    elif missing and folder.record is not None and not leaks:
        detail = f"{count}, by name; the data of {shortened(missing)} is not at hand"
        yield line(UNPROVEN, "held out", detail)
    elif not leaks:
        by = "by name, patient and content" if read else "by name and patient"
        yield line(OK, "held out", f"{count}, {by}")


def _digests(identity, way, own):
    """What a subject is known by: its images, and its label where it has a lesion.

    What networks see is compared where it was taken the same `way` as our `own`.
    """
    if not identity:
        return set()
    found = {x for role, x in identity["files"].items() if role != records.LABEL}
    if way == own:
        seen = {identity["images"], identity.get("label")}
        found |= seen - {None, _of_no_lesion(way)}
    return found


@functools.cache
def _of_no_lesion(way):
    """The digest of labels without a lesion, which many subjects may share."""
    size, slices = way
    if not size or len(slices) != 2:
        return None
    empty = bytes(size * size * max(slices[1] - slices[0], 0))
    return hashlib.blake2b(empty, digest_size=16).hexdigest()


def _synthetic(folder):
    """Names of synthetic volumes, which are no subjects."""
    sets = (folder.record or {}).get("sets", {})
    return {name for volumes in sets.values() for name in volumes}


def _content(folder, folders, reader, line, as_recorded):
    """Recorded subjects against the data; adds to `as_recorded` if all are the same."""
    recorded = (folder.record or {}).get("subjects", {})
    if not recorded:
        if folder.kind not in ("weights", "data set"):
            yield line(UNPROVEN, "content", "there is no record of its subjects")
        return
    there, way = reader.subjects(folder), way_of(folder)
    read = reader.identities([there[n] for n in recorded if n in there], way)
    missing = recorded.keys() - read.keys()
    differ = {
        name for name, identity in read.items() if not _same(recorded[name], identity)
    }
    held_out = {}
    for other in folders:
        if other.given and other.names(False):
            theirs = reader.subjects(other)
            some = [theirs[n] for n in other.names(False) if n in theirs]
            for name, identity in reader.identities(some, way).items():
                held_out |= dict.fromkeys(_digests(identity, way, way), name)
    for name in sorted(differ):
        twins = {held_out.get(x) for x in _digests(recorded[name], way, way)} - {
            None,
            name,
        }
        if twins:
            detail = f"{name} was, when it was read, {twins.pop()}, which is held out"
            yield line(LEAK, "content", detail)
    if differ:
        detail = f"{shortened(differ)} in the data folder is not what was recorded"
        yield line(UNPROVEN, "content", detail)
    elif missing:
        yield line(
            UNPROVEN, "content", f"the data of {shortened(missing)} is not at hand"
        )
    else:
        as_recorded.append(folder)
        detail = f"{len(recorded)} subjects are in the data folder as recorded"
        yield line(OK, "content", detail)


def _same(recorded, read):
    """Whether a record is of what was read; what was not looked at does not count."""
    if recorded.get("images") and read.get("images"):
        same = recorded["images"] == read["images"]
        return same and recorded["label"] == read["label"]
    return recorded["files"] == read["files"]


def _before(folder, folders, line):
    at_hand = {each.path.resolve(): each for each in folders}
    said = [told.get("initialised_from") for told in folder.described.values()]
    if folder.flags.get("init_from") and not any(said):
        detail = "flags.txt has --init_from, of which no other file knows"
        yield line(UNPROVEN, "before", detail)
    for what, place in folder.before:
        path = place_of(folder, what, place)
        other = at_hand.get(path.resolve()) if path is not None else None
        if other is None:
            yield line(UNPROVEN, "before", f"{what}: {place} is not at hand")
        elif other.record is not None:
            yield line(OK, "before", f"{what}: {place} is at hand, see there")
        elif path.parent in (weights.PRETRAINED, weights.PRETRAINED_64):
            detail = f"{what}: weights of the package, of simulated subjects by name"
            yield line(OK, "before", detail)
        else:
            detail = f"{what}: {place} has no record of its subjects, names alone"
            yield line(UNPROVEN, "before", detail)
