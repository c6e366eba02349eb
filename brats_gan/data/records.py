"""Which subjects something was made from, by content and by side of the split.

A *record* is fixed before a run's first step, and is in all it leaves: its inputs.json,
its exports and weights, the description of a data set. It is a dict of JSON:

    {"image_size": 192, "slices": [55, 105],
     "split": {"seed": 0, "train": [NAME, ...], "test": [NAME, ...],
               "patient_pattern": REGEX, where one was given},
     "subjects": {NAME: {"files": {"t1": DIGEST, ..., "seg": DIGEST},
                         "images": DIGEST, "label": DIGEST}}}

`files` are digests of files as they are on disk, `images` and `label` of what the
networks see of them at that size and in that range, which is the same whatever layout
the files are in; None where it was not looked at. So a subject is known again by what
is in its files, not by its name or place.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brats_gan import files, io
from brats_gan.data import record_forms
from brats_gan.io import patients

NAME = "inputs.json"
LABEL = "seg"  # beside the modalities, in "files"
_BLOCK = 1 << 20  # bytes
_TOGETHER = 16  # slices read at a time

# --- The content of files -------------------------------------------------------------

_digests: dict[tuple, str] = {}  # of files read by this process


def _stamp(path):
    found = os.stat(path)
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece; `digest` then knows it without reading."""
    stamp, known = _stamp(path), hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            known.update(block)
            yield block
    _digests[stamp] = known.hexdigest()


def digest(path: Path) -> str:
    """Of a file's content, hex; DataError where it cannot be read."""
    with io.reading(path):
        if _stamp(path) not in _digests:
            for _ in blocks(path):
                pass
        return _digests[_stamp(path)]


def paths(subject: io.Subject) -> dict[str, Path]:
    """{modality or LABEL: file} of a subject."""
    found = {modality: path for modality, (path, _) in subject.images.items()}
    return found if subject.label is None else {**found, LABEL: subject.label}


def of_files(subjects: Iterable[io.Subject]) -> dict[str, dict]:
    """{name: identity} of subjects by their files alone."""

    def one(subject):
        found = {role: digest(path) for role, path in paths(subject).items()}
        return subject.name, {"files": found, "images": None, "label": None}

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(one, subjects))


def of_slices(
    slices: Any, subjects: list[io.Subject], known: Iterable[dict] = ()
) -> dict[str, dict]:
    """{name: identity} of subjects, by their files and by what networks see of them.

    Args:
        slices: data.Slices, which may hold others behind them.
        subjects: the first subjects of `slices`.
        known: records of the same size and range: what they say of the same files is
            taken from there, and nothing is read.
    """
    found = of_files(subjects)

    def look(number):
        name = slices.names[number]
        for record in known:
            before = record["subjects"].get(name)
            if before and before["images"] and before["files"] == found[name]["files"]:
                return name, before
        rows = np.flatnonzero(slices.index[:, 0] == number)
        images, label = (hashlib.blake2b(digest_size=16) for _ in range(2))
        for start in range(0, len(rows), _TOGETHER):
            some = rows[start : start + _TOGETHER]
            images.update(slices.images(some))
            label.update(slices.labels(some))
        seen = {"images": images.hexdigest(), "label": label.hexdigest()}
        return name, {**found[name], **(seen if len(rows) else {})}

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(pool.map(look, range(len(subjects))))


def sides_fingerprint(record: dict) -> str:
    """Of whom a record has on either side, for the lines of tables."""
    return fingerprint({key: record.get(key) for key in ("split", "subjects")})


def fingerprint(record: dict) -> str:
    """Of a record, for the files that name it."""
    text = json.dumps(record, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# --- What is said beside a split ------------------------------------------------------


def _claim(content):
    """The record in JSON of something made, else what else it says of its subjects."""
    for key in ("inputs", "Inputs"):
        record = content.get(key)
        if isinstance(record, dict) and isinstance(record.get("split"), dict):
            return record
    if isinstance(content.get("training_subjects"), list):  # before there were records
        return {"split": {"train": content["training_subjects"]}}
    if isinstance(content.get("HeldOutSubjects"), list):
        return {"split": {"test": content["HeldOutSubjects"]}}
    return None


def read(folder: str | Path) -> dict | None:
    """FOLDER/inputs.json; None where there is none. DataError if it is damaged."""
    path = Path(folder, NAME)
    if not path.exists():
        return None
    content = files.read_json(path)
    if not record_forms.is_record(content):
        raise files.DataError(f"{path}: no record of subjects. Restore it.")
    return content


def is_begun(folder: str | Path) -> bool:
    """Whether something was made in a folder that its split decided."""
    folder = Path(folder)
    left = ("networks.json", "losses.jsonl", "manifest.csv", "volumes.csv")
    # Or a part of a data set, whose manifest is written last.
    patterns = "row-*", "*/*_samples.json"
    return any((folder / name).exists() for name in left) or any(
        any(folder.glob(pattern)) for pattern in patterns
    )


def beside(folder: str | Path) -> list[tuple[Path, dict]]:
    """[(path, record)] of all that was made in a folder, exports first.

    Older ones name the subjects of one side only. What is damaged is passed over: who
    needs it will say so.
    """
    folder, found = Path(folder), []
    made = sorted((folder / "export").glob("*.json"))
    made += [folder / "weights" / "weights.json", folder / "weights.json"]
    for path in [*made, folder / "dataset_description.json"]:
        with contextlib.suppress(files.DataError):
            content = files.read_json(path) if path.exists() else {}
            content = files.unsealed(content) or {}
            claim = None if record_forms.odd(content) else _claim(content)
            if claim is not None:
                found.append((path, claim))
    record = read(folder)
    return found if record is None else [*found, (folder / NAME, record)]


def of_split(split: str | Path | None) -> list[tuple[Path, dict]]:
    """[(path, record)] of who keeps to a split.json: of subjects, by content."""
    if split is None or Path(split).name != "split.json":
        return []
    found = [x for x in beside(Path(split).parent) if x[1].get("subjects")]
    return found[:1]  # they agree, see `require_true`


def require_true(path: Path, split: dict | None) -> dict | None:
    """What RUN/split.json must be, by all that was made in RUN.

    Args:
        path: of split.json.
        split: what it says, or None where it is not there.

    Returns:
        The split; where split.json is gone, as it is recorded.

    Raises:
        DataError: it says other than what was made, whose own word is believed: these
            subjects have been trained on, whatever the file says now.
    """
    for other, record in beside(path.parent):
        theirs = record["split"]
        if split is None:
            if theirs.keys() >= {"train", "test"}:
                split = {"seed": theirs.get("seed"), **theirs}
            continue
        for side, said in theirs.items():
            if side not in ("train", "test"):
                continue
            moved = sorted({*said}.symmetric_difference(split[side]))
            if moved:
                raise files.DataError(
                    f"{path}: {_some(moved)} {'is' if len(moved) == 1 else 'are'} not "
                    f"on the side that {other} was made with. It was changed since: "
                    "put back the file as it was, or begin anew in another folder."
                )
    return split


# --- Comparisons ----------------------------------------------------------------------


def _some(names):
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def comparable(ours: dict, theirs: dict) -> bool:
    """Whether what networks see was taken at the same size and in the same range."""
    keys = ("image_size", "slices")
    return all(ours.get(key) == theirs.get(key) for key in keys)


def require_same(
    ours: dict,
    theirs: dict,
    where: str | Path,
    subjects: Iterable[io.Subject] = (),
    again: Callable[[list[io.Subject], dict], dict] | None = None,
) -> None:
    """Refuses subjects of names that are in both records, but of other content.

    Args:
        ours, theirs: records.
        where: theirs is, for the message.
        subjects: those of `ours`, whose files are named.
        again: (subjects, theirs) -> identities of subjects read as theirs were; for
            those whose files differ, where the records are not comparable. Without it,
            these pass.

    Raises:
        DataError: names the file and the subject.
    """
    by_name = {subject.name: subject for subject in subjects}
    same_way, unknown, other = comparable(ours, theirs), [], []
    for name in ours["subjects"].keys() & theirs["subjects"].keys():
        one, two = ours["subjects"][name], theirs["subjects"][name]
        if one["files"] == two["files"] or not two["images"]:
            continue
        if not same_way or not one["images"]:
            unknown.append(name)
        elif _seen(one) != _seen(two):
            other.append(name)
    unknown = [by_name[name] for name in sorted(unknown) if name in by_name]
    if unknown and again is not None:
        found = again(unknown, theirs)
        other += [n for n in found if _seen(found[n]) != _seen(theirs["subjects"][n])]
    if other:
        name = min(other)
        one, two = ours["subjects"][name], theirs["subjects"][name]
        every = [*one["files"], *(r for r in two["files"] if r not in one["files"])]
        roles = [r for r in every if one["files"].get(r) != two["files"].get(r)]
        file = paths(by_name[name]).get(roles[0], name) if name in by_name else name
        raise files.DataError(
            f"{file}: {roles[0]} of {name} is not what it was for {where}, so {name} "
            f"is another subject, or was changed ({len(other)} such in all: "
            f"{_some(sorted(other))}). Give the files that it was made from."
        )


def _seen(identity):
    return identity["images"], identity["label"]


def require_unseen(
    ours: dict,
    theirs: dict,
    where: str | Path,
    subjects: Iterable[io.Subject] = (),
    again: Callable[[list[io.Subject], dict], dict] | None = None,
    same_names: bool = False,
) -> None:
    """Refuses what we hold out and they have trained on under another name, and who
    is held out here and trained on there at another visit.

    Args:
        ours, theirs, where, subjects: as of `require_same`.
        again: as of `require_same`; for those held out of whom it is not known what
            networks see of them their way. Without it, files alone tell.
        same_names: also refuse who has the same name there, and is known to be the
            same by content. By default names are compared where splits are.

    Raises:
        DataError: names both subjects, and the file.
    """
    by_name = {subject.name: subject for subject in subjects}

    def place(name):
        if name not in by_name:
            return name
        return next(iter(paths(by_name[name]).values())).parent

    same_way = comparable(ours, theirs)
    unknown = [] if again is None else _unknown(ours, theirs, by_name)
    read = again(unknown, theirs) if unknown else {}
    trained = {}
    for name in theirs["split"].get("train", []):
        for key in _keys(theirs["subjects"].get(name), same_way or bool(read)):
            trained[key] = name
    for name in ours["split"].get("test", []):
        known = _keys(ours["subjects"].get(name), same_way)
        for key in [*known, *_keys(read.get(name), True)]:
            twin = trained.get(key)
            if twin is not None and (twin != name or same_names or ours is theirs):
                raise files.DataError(
                    f"{place(name)}: {name}, which is held out, is the same subject as "
                    f"{twin}, which {where} trains on. Remove one of the two, or give "
                    "a --split that has both on one side."
                )
    sides = ours["split"].get("test", []), theirs["split"].get("train", [])
    for name, other in patients.shared(*sides, *patterns(ours, theirs)):
        if other != name:
            raise files.DataError(
                f"{place(name)}: {name}, which is held out, is a visit of the patient "
                f"of {other}, which {where} trains on. Give its split by --split, or "
                "one that has all visits of a patient on one side; where names only "
                "look alike, say by --patient_pattern what of them is the patient."
            )


def _unknown(ours, theirs, by_name):
    """Subjects we hold out, of whom the files do not tell whether they are in theirs,
    and of whom we have not what networks see their way."""
    if not any(each["images"] for each in theirs["subjects"].values()):
        return []
    same_way, found = comparable(ours, theirs), []
    for name in ours["split"].get("test", []):
        one, two = ours["subjects"].get(name), theirs["subjects"].get(name)
        looked_at = one and same_way and one["images"]
        told = looked_at or (one and two and one["files"] == two["files"])
        if not told and name in by_name and by_name[name].label is not None:
            found.append(by_name[name])
    return found


def patterns(*found: dict | None) -> list[str]:
    """Of records, the patterns that were given to tell patients; for patients.shared.

    Where none was, names alone tell; where one was, it has been told what they do not.
    """
    said = [each["split"].get("patient_pattern") for each in found if each]
    return [pattern for pattern in said if pattern]


def _keys(identity, same_way):
    """What a subject is known by: any of its images' files, and all that is seen."""
    if identity is None:
        return []
    known = {each for role, each in identity["files"].items() if role != LABEL}
    return [*known, *([identity["images"]] if same_way and identity["images"] else [])]
