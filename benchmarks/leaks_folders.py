"""What finished runs, data sets and judges say of whom they have seen and held out.

Every file of a folder that names subjects makes *claims*; `leaks.py` holds them against
each other and against the data.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from pathlib import Path
from typing import NamedTuple

from brats_gan import (
    data,
    files,
    io,
    manifest,
    runs,
    synthetic_dataset,
    volume_dataset,
    weights,
)
from brats_gan.data import records
from brats_gan.experiments import tables
from brats_gan.spec import of_description

KINDS = {
    "train_structural.py": "stage 1",
    "train_multimodal.py": "stage 2",
    "build_dataset.py": "data set",
    "eval_segmentation.py": "stage 4",
}
STAGES = {"stage 1": "structural", "stage 2": "multimodal", "stage 4": "segmentation"}


class Claim(NamedTuple):
    """That a subject was seen, or held out."""

    file: str  # that says so
    name: str
    seen: bool
    identity: dict | None = None  # of data.records
    way: tuple | None = None  # (image size, slices) at which `identity` was taken
    pattern: str | None = None  # that tells its patient


@dataclasses.dataclass
class Folder:
    """A folder and what its files say.

    Attributes:
        path: of it.
        kind: of KINDS' values, "weights" or "judges".
        given: whether the user named it; else it was followed from one that he did, and
            whom it held out itself plays no part.
        flags: of its command, {} without.
        claims: of all its files.
        broken: files that are not as they were written, or not readable.
        before: (what, place) of what it began from or was made by.
        record: inputs.json, or what weights or judges have in its place.
        described: by file, what those say that are sealed.
        scored: (where, line) of the lines of tables in results.jsonl.
    """

    path: Path
    kind: str
    given: bool = True
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    claims: list[Claim] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    before: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    record: dict | None = None
    described: dict[str, dict] = dataclasses.field(default_factory=dict)
    scored: list[tuple[str, dict]] = dataclasses.field(default_factory=list)

    def names(self, seen: bool) -> list[str]:
        """Of subjects that any file says were seen, or held out."""
        return sorted({each.name for each in self.claims if each.seen == seen})


def kind_of(path: Path) -> str:
    """Which kind of folder it is; RunError where it is none."""
    if (path / "flags.txt").exists():
        with (path / "flags.txt").open(encoding="utf-8", errors="replace") as file:
            script = file.readline().removeprefix("# ").strip()
        if script in KINDS:
            return KINDS[script]
    if (path / "weights.json").exists():
        return "weights"
    if any(path.glob("*.weights.h5")):
        return "judges"
    raise runs.RunError(
        f"{path}: neither a run, nor a data set, weights or judges (no flags.txt, "
        "weights.json or *.weights.h5); check the path"
    )


def load(path: str | Path, given: bool = True) -> Folder:
    """A folder with all its claims.

    Raises:
        RunError: it is of no kind that is known.
    """
    path = Path(path)
    folder = Folder(path, kind_of(path), given)
    if (path / "flags.txt").exists():
        folder.flags = runs.settings(path)
    jsons = [*sorted(path.glob("export/*.json")), path / "weights/weights.json"]
    jsons += [path / name for name in ("weights.json", "networks.json")]
    jsons += [path / synthetic_dataset.DESCRIPTION]
    if folder.kind == "judges":
        jsons += sorted(path.glob("*.json"))
        # Each set of judges is DIGEST-SIGHT.weights.h5 with DIGEST.json beside.
        sets = {each.name.partition("-")[0] for each in path.glob("*.weights.h5")}
        alone = (name for name in sorted(sets) if not (path / f"{name}.json").exists())
        folder.broken += [f"{name}.json" for name in alone]
    for file in filter(Path.exists, jsons):
        with _noting(folder, file):
            _described(folder, file)
    splits = path / "split.json", path / "weights/split.json"
    for file in filter(Path.exists, splits):
        with _noting(folder, file):
            name = file.relative_to(path).as_posix()
            _claim_record(folder, name, {"split": _read(folder, file)})
    if (path / records.NAME).exists():
        with _noting(folder, path / records.NAME):
            record = records.read(path)
            _claim_record(folder, records.NAME, record)
            folder.record = record if _is_record(record) else None
    else:
        said = [each.get("inputs") for each in folder.described.values()]
        folder.record = next(filter(_is_record, said), None)
    with _noting(folder, path):
        if folder.kind == "data set":
            _of_manifest(folder)
        if folder.kind == "stage 4":
            _of_samples(folder)
            _of_results(folder)
    _sources(folder)
    return folder


@contextlib.contextmanager
def _noting(folder, file):
    """Notes a file that has something else in it than this program writes."""
    try:
        yield
    except (files.DataError, AttributeError, LookupError, TypeError, ValueError):
        folder.broken.append(file.relative_to(folder.path).as_posix())


def _read(folder, file):
    """A JSON object; {} where it is damaged, and the file is noted."""
    try:
        return files.read_json(file)
    except files.DataError:
        folder.broken.append(file.relative_to(folder.path).as_posix())
        return {}


def _is_record(value):
    """Whether it is a record of data.records, as far as the comparisons need it."""
    if not isinstance(value, dict):
        return False
    split, subjects = value.get("split"), value.get("subjects")
    return (
        isinstance(split, dict)
        and all(isinstance(split.get(side), list) for side in ("train", "test"))
        and isinstance(subjects, dict)
        and all({"files", "images"} <= {*each} for each in subjects.values())
    )


def _described(folder, file):
    """The claims of a sealed file."""
    name = file.relative_to(folder.path).as_posix()
    content = _read(folder, file)
    told = files.unsealed(content)
    if told is None:
        folder.broken.append(name)
        told = content  # what it says is held against the rest all the same
    folder.described[name] = told
    for key in ("inputs", "Inputs", "ModelInputs"):
        if isinstance(told.get(key), dict):
            models = key == "ModelInputs"
            _claim_record(folder, f"{name}, {key}", told[key], held_out=not models)
    for record in told.get("SeenInputs", []):
        _claim_record(folder, f"{name}, SeenInputs", record, held_out=False)
    for key in ("training_subjects", "TrainingSubjects"):
        _claim_names(folder, f"{name}, {key}", told.get(key), True)
    _claim_names(folder, f"{name}, HeldOutSubjects", told.get("HeldOutSubjects"), False)
    for key in ("initialised_from", "synthetic_from"):
        before = told.get(key) or {}
        where = f"{name}, {key}"
        _claim_names(folder, where, before.get("training_subjects"), True)
        for record in before.get("inputs", []):
            _claim_record(folder, where, record, held_out=False)


def _claim_names(folder, where, names, seen):
    folder.claims += [Claim(where, name, seen) for name in names or []]


def _claim_record(folder, where, record, held_out=True):
    """Claims of a record; of whom others held out, nothing is claimed."""
    if not isinstance(record, dict) or not isinstance(record.get("split"), dict):
        return
    split, subjects = record["split"], record.get("subjects", {})
    way = record.get("image_size"), tuple(record.get("slices") or ())
    for side, seen in (("train", True), ("test", False)):
        if not seen and not held_out:
            continue
        folder.claims += [
            Claim(where, n, seen, subjects.get(n), way, split.get("patient_pattern"))
            for n in split.get(side) or []
        ]


def _of_manifest(folder):
    """Whose labels a data set has, by its manifest and by the records of volumes."""
    if "volumes" in folder.flags:  # lesions of several subjects in one
        name, column = volume_dataset.MANIFEST, "label_subjects"
    else:
        name, column = manifest.MANIFEST, "label_subject"
    try:
        if "volumes" in folder.flags:
            with (folder.path / name).open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
        else:
            rows = manifest.read(folder.path)
        told = [row[column] for row in rows]
        _claim_names(folder, f"{name}, {column}", _names_in(told, column), True)
    except (files.DataError, OSError, ValueError, LookupError, csv.Error):
        folder.broken.append(name)
    for file in sorted(folder.path.glob(f"*/*_{manifest.RECORD}")):
        said = _read(folder, file)
        columns = said.get("columns", [])
        if column in columns:
            at = columns.index(column)
            told = [row[at] for row in said.get("rows", [])]
            where = f"{file.relative_to(folder.path).as_posix()}, {column}"
            _claim_names(folder, where, _names_in(told, column), True)


def _names_in(told, column):
    """Of subjects, in the fields of a column that has one, or several, of each."""
    if column == "label_subject":
        return sorted({*told} - {""})
    return sorted({name for text in told for name in text.split()})


def _of_samples(folder):
    """Whose slices the segmentors of a run, or of its repeats, were trained on."""
    for file in sorted(folder.path.rglob("samples.json")):
        for phase in _read(folder, file).get("phases", []):
            where = file.relative_to(folder.path).as_posix()
            _claim_names(folder, where, sorted(phase.get("taken", {})), True)


def _of_results(folder):
    """Whom lines of results.jsonl that are of this run were scored on."""
    places = (folder.path, folder.path.parent)
    paths = [place / "results.jsonl" for place in places]
    if folder.flags.get("results"):
        paths = [Path(folder.flags["results"])]
    for path in paths:
        try:
            lines = tables.read(path)
        except files.DataError:
            folder.broken.append(path.name)
            continue
        for number, line in enumerate(lines, 1):
            if line["table"] is None and line["experiment"] == folder.path.name:
                where = f"{path.name}, line {number}"
                _claim_names(folder, where, line.get("held_out"), False)
            elif line["table"] is not None and path == paths[0]:
                folder.scored.append((f"{path.name}, line {number}", line))


def _sources(folder):
    """What a folder began from or was made by, as its flags and its files say."""
    names = ("init_from", "structural_run", "multimodal_run", "segmentor_run")
    found = [(name, folder.flags.get(name)) for name in (*names, "synthetic_dir")]
    for pair in filter(None, folder.flags.get("synthetic_dirs", "").split(",")):
        found.append(("synthetic_dirs", pair.partition(":")[2]))
    for told in folder.described.values():
        before = told.get("initialised_from")
        if isinstance(before, dict):
            found.append(("init_from", before.get("source")))
    folder.before = list(dict.fromkeys(each for each in found if each[1]))


def source_of(folder: Folder, data_dir: str | None = None) -> data.Source | None:
    """How the folder's command read its subjects; None where the data is not at hand.

    Args:
        folder: Folder.
        data_dir: where they are; None: where the command had them.
    """
    flags = folder.flags
    place = data_dir or flags.get("data_dir")
    if not place or not Path(place).is_dir() or not folder.record:
        return None
    told = next(iter(folder.described.values()), {})
    same = data_dir is None or data_dir == flags.get("data_dir")
    return data.Source(
        place,
        layout=flags.get("layout") if same else None,
        slices=tuple(folder.record["slices"]) if folder.record.get("slices") else None,
        spec=of_description(told),
        labels=flags.get("labels"),
        merge_labels=flags.get("merge_labels"),
        drop_labels=flags.get("drop_labels"),
    )


def subjects_of(source: data.Source) -> dict[str, io.Subject]:
    """{name: subject} of a source."""
    found = io.find_subjects(
        source.data_dir, source.layout, source.spec, source.labelling
    )
    return {subject.name: subject for subject in found}


def weights_of(folder: Folder) -> Path | None:
    """Where a run, or a folder of weights, has its weights as arrays."""
    for path in (folder.path / "weights", folder.path):
        if (path / "weights.json").exists():
            return path
    return None


def place_of(folder: Folder, what: str, place: str) -> Path | None:
    """The folder that a command named, where it is at hand: a run, or weights."""
    stage = {"structural_run": "structural", "multimodal_run": "multimodal"}.get(what)
    stage = stage or STAGES.get(folder.kind, "segmentation")
    if what in ("init_from", "structural_run", "multimodal_run", "segmentor_run"):
        try:
            found = weights.folder_of(place, stage)
        except runs.RunError:
            found = None
        if found is not None:
            return found
    path = Path(place)
    return path if (path / "flags.txt").exists() else None
