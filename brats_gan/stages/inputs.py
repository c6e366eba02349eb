"""What a run is made from, fixed before its first step in RUN/inputs.json.

A run that goes on must be given the same: subjects by what is in their files, the runs
and data sets it uses by theirs. Where these lie, and what they are called, may change.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from brats_gan import data, files, io, runs, synthetic_dataset, weights
from brats_gan.data import records

Against = tuple[str | Path, dict]  # where a record is, and the record


def fix(
    run_dir: Path,
    source: data.Source,
    split: dict,
    sides: tuple[list[io.Subject], list[io.Subject]],
    slices: data.Slices | None,
    held_out: data.Slices | None = None,
    image_size: int = 0,
    against: Iterable[Against] = (),
    apart_from: Iterable[Against] = (),
    exports: dict[str, str] | None = None,
    sets: dict[str, str | None] | None = None,
    fingerprint: str | None = None,
) -> dict:
    """Compares what a run is given with what it and others were made from.

    Writes nothing; `record` writes what it returns, once the run is started. That is
    never changed, but for data sets that a table asks for later.

    Args:
        run_dir: Path.
        source: data.Source of the subjects.
        split: of the run.
        sides: subjects to train on, and held out.
        slices: of the subjects to train on, and of others behind them; None where they
            are not read.
        held_out: the same of those held out.
        image_size: of both.
        against: what others were made from, beside the one whose split is kept to:
            subjects of one name are the same.
        apart_from: what others were made from, who may have other subjects.
        exports: name -> fingerprint of the exports that are used.
        sets: name -> folder of the synthetic data sets that are used, or None.
        fingerprint: of all that is trained on, where that is more than `slices`.

    Returns:
        inputs.json, with "data_fingerprint": that, when the run began.

    Raises:
        DataError: a subject is another than it was, or is held out here and trained on
            there; it names the file.
        RunError: exports or data sets are others than the run began with, or
            inputs.json is gone.
    """
    before = records.read(run_dir)
    training, others = sides
    subjects = [*training, *others]
    own = [each for each in records.beside(run_dir) if each[1].get("subjects")]
    against = [*own, *records.of_split(source.split), *against]
    now = {
        "image_size": image_size,
        "slices": list(source.slices),
        "split": split,
        "subjects": {},
    }
    known = [record for _, record in against if records.comparable(now, record)]
    for of_side, read in ((training, slices), (others, held_out)):
        found = (
            records.of_files(of_side)
            if read is None
            else records.of_slices(read, of_side, known)
        )
        now["subjects"].update(found)

    for where, record in against:
        records.require_same(now, record, where, subjects, again(source))
    records.require_unseen(now, now, "this run", subjects)
    for where, record in against:
        records.require_unseen(now, record, where, subjects)
    for where, record in apart_from:
        records.require_unseen(now, record, where, subjects, unseen(source))

    if fingerprint is None and slices is not None:
        fingerprint = slices.fingerprint
    now |= {
        "data_fingerprint": fingerprint,
        "exports": exports or {},
        "sets": {
            name: {n: x["files"] for n, x in records.of_files(found).items()}
            for name, found in _volumes(sets or {}, source.spec).items()
        },
    }
    path = run_dir / records.NAME
    if before is None:
        _require_new(run_dir, now)
        return now
    if weights.begun(run_dir).get("inputs", digest(before)) != digest(before):
        raise runs.RunError(
            f"{path} was changed since {run_dir} began; put it back from a copy, or "
            "begin anew in another folder"
        )
    _require_used(run_dir, before, now, sets or {})
    if now["sets"].keys() - before["sets"].keys():
        before = {**before, "sets": {**before["sets"], **now["sets"]}}
    return before


def again(source: data.Source) -> Callable[[list[io.Subject], dict], dict]:
    """For records.require_same: reads subjects of the source as a record had theirs."""

    def read(some, record):
        way = dataclasses.replace(source, slices=tuple(record["slices"]))
        return records.of_slices(way.read(some, record["image_size"]), some)

    return read


def unseen(source: data.Source) -> Callable[[list[io.Subject], dict], dict]:
    """For records.require_unseen: `again`, without those that cannot be read so, who
    are none that have been."""

    def read(some, record):
        found = {}
        for subject in some:
            with contextlib.suppress(files.DataError):
                found.update(again(source)([subject], record))
        return found

    return read


def record(run_dir: Path, fixed: dict) -> None:
    """Writes RUN/inputs.json: what `fix` returned."""
    if records.read(run_dir) != fixed:
        files.write_json(run_dir / records.NAME, fixed)


def of_export(fixed: dict) -> dict:
    """What an export says of the data of a run: entries of its description."""
    keys = ("image_size", "slices", "split", "subjects")
    return {
        "data_fingerprint": fixed["data_fingerprint"],
        "inputs": {key: fixed[key] for key in keys},
    }


def of_run(fixed: dict, source: data.Source, sides: tuple) -> dict:
    """What weights.begin compares of a run with what its first weights have seen."""
    subjects = [subject for side in sides for subject in side]
    return {"made_from": fixed, "subjects": subjects, "again": unseen(source)}


def digest(fixed: dict) -> str:
    """Of inputs.json, for the files that name it."""
    return records.fingerprint(fixed)


def of_data_sets(folders: Iterable[str | Path], key: str) -> list[Against]:
    """What synthetic data sets say that they ("Inputs") or their models
    ("ModelInputs") were made from."""
    found = [
        (folder, synthetic_dataset.read_description(folder).get(key))
        for folder in folders
    ]
    return [(folder, each) for folder, each in found if each and each.get("subjects")]


def of_models_of(folders: Iterable[str | Path]) -> list[Against]:
    """What the models of synthetic data sets have seen, also before their runs."""
    return [
        (folder, each)
        for folder in folders
        for each in synthetic_dataset.seen_by(folder)["inputs"]
    ]


def _volumes(sets, spec):
    """{name: subjects} of folders of synthetic data; no folder is no subjects."""
    return {
        name: io.find_subjects(folder, spec=spec) if folder else []
        for name, folder in sets.items()
    }


def _require_new(run_dir, now):
    """Refuses a run that has begun, and whose record is gone or tells of other data."""
    path = run_dir / records.NAME
    if weights.begun(run_dir).get("inputs"):
        raise runs.RunError(
            f"{path} is gone, which says what {run_dir} began with; put it back from a "
            "copy, or begin anew in another folder"
        )
    # Before there was a record, exports had a fingerprint of the files.
    for other in sorted((run_dir / "export").glob("*.json")):
        described = runs.export_description(run_dir, other.stem)
        theirs = described.get("data_fingerprint")
        if theirs not in (None, now["data_fingerprint"]):
            raise files.DataError(
                f"{other}: was trained on files of other content, though of the same "
                f"names ({theirs}, now {now['data_fingerprint']}). Give the files that "
                "it was trained on, or train in another folder."
            )


def _require_used(run_dir, before, now, sets):
    for name, fingerprint in now["exports"].items():
        if before["exports"].get(name) != fingerprint:
            raise runs.RunError(
                f"{run_dir} was begun with another {name} than that which is given "
                "now: its weights, or what it was trained on, differ; give the run "
                "that it was begun with, or choose another folder"
            )
    for name, now_there in now["sets"].items():
        there = before["sets"].get(name, now_there)
        differ = sorted(
            n
            for n in there.keys() | now_there.keys()
            if there.get(n) != now_there.get(n)
        )
        if differ:
            raise runs.RunError(
                f"{sets[name] or 'no data set'}: {', '.join(differ[:5])} is not what "
                f"{run_dir} was begun with as {name} data; give the data set that it "
                "was begun with, or choose another folder"
            )
