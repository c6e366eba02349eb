"""BIDS: sub-*/[ses-*/]anat/ with a suffix that says what a file is.

As in the Brain Imaging Data Structure 1.9: `_T1w`, `_T2w`, `_FLAIR`, an entity `ce-`
for contrast agent, `_dseg` for a label, and a table `dseg.tsv` that names its numbers.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from brats_gan.files import DataError
from brats_gan.io.conventions import ours_by_name
from brats_gan.io.names import NAMED, SECOND, Named
from brats_gan.io.streams import reading
from brats_gan.spec import Spec

# Without a table: the numbers of BraTS 2017 to 2021. Whose label 3 is which, none says.
LABELS = {0: 0, 1: 1, 2: 2, 4: 4}

_SUFFIXES = {"t1w": "t1", "t2w": "t2", "flair": "flair", "dseg": "seg"}
_OTHER_LABELS = re.compile("(lesion|tumou?r)(seg)?", re.IGNORECASE)
_MAX_TABLE = 2**20  # bytes


def is_bids(folder: Path, stems: Iterable[str]) -> bool:
    """Whether a folder's files are named by BIDS: sub-01_T1w in it, or it is anat/."""
    stems = [stem.lower() for stem in stems if stem.lower().startswith("sub-")]
    modal = [re.search(r"_(t[12]w|dseg)$|_ce-[a-z0-9]+_", stem) for stem in stems]
    return any(modal) or bool(stems) and folder.name.lower() == "anat"


def role_of(stem: str, spec: Spec) -> Named | None:
    """What a file is by its entities and suffix; its prefix is sub-01[_ses-02]."""
    entity = "[a-z0-9]+-[a-z0-9+.]+"
    match = re.fullmatch(f"(sub-[^_]+)((?:_{entity})*)_([a-z0-9]+)", stem, re.I)
    if not match:
        return None
    entities = dict(each.split("-", 1) for each in match[2].lower().split("_")[1:])
    suffix = match[3].lower()
    role = next((m for m in spec.modalities if m.lower() == suffix), None)
    role, rank = role or _SUFFIXES.get(suffix), NAMED
    if role == "t1" and "ce" in entities:
        role = "t1ce"
    if suffix in ("mask", "roi") and _OTHER_LABELS.search(entities.get("label", "")):
        role, rank = "seg", SECOND
    if role == "seg" and ("atlas" in entities or "brain" in entities.get("desc", "")):
        return None  # of anatomy
    if role not in (*spec.modalities, "seg"):
        return None
    session = f"_ses-{entities['ses']}" if "ses" in entities else ""
    return Named(f"{match[1]}{session}", "_", role, rank)


def subject_folder(path: Path) -> Path:
    """The folder of a subject, or of a session of it, that holds a file."""
    inner = path.parent.name.lower() in ("anat", "dwi", "perf")
    return path.parent.parent if inner else path.parent


def label_names(label: Path) -> tuple[Path, dict[str, str]] | None:
    """The table that names the numbers of a label file: its path, {number: name}.

    Looked for beside the label as ID_dseg.tsv, then as dseg.tsv in its folder and in
    those above, up to that of the data set. None where there is none.
    """
    stem = re.sub(r"\.nii(\.gz)?$", "", label.name, flags=re.IGNORECASE)
    tables = [label.with_name(f"{stem}.tsv")]
    for folder in list(label.parents)[:5]:
        tables.append(folder / "dseg.tsv")
        if (folder / "dataset_description.json").exists():
            break
    table = next((path for path in tables if path.is_file()), None)
    if table is None:
        return None
    with reading(table):
        with table.open("rb") as file:
            content = file.read(_MAX_TABLE + 1)
    if len(content) > _MAX_TABLE:
        raise DataError(f"{table}: more than {_MAX_TABLE} bytes. Restore the file.")
    lines = content.decode("utf-8-sig", "replace").splitlines(keepends=True)
    try:
        # Strict, as a quote that is not closed would take in the lines that follow.
        header, *rows = csv.reader(lines, delimiter="\t", strict=True)
        places = [header.index(column) for column in ("index", "name")]
    except (csv.Error, ValueError) as error:
        raise DataError(
            f'{table}: no table with columns "index" and "name" ({error}). Restore the '
            "file."
        ) from error
    return table, _rows(table, [row for row in rows if row], places)


def _rows(table, rows, places):
    """{index: name} of a table; DataError where a row does not say both, or two rows
    have one index."""
    named = {}
    for row in rows:
        if len(row) <= max(places):
            raise DataError(
                f"{table}: a row without index or name: {row!a:.40}. Restore the file."
            )
        index, name = (row[place] for place in places)
        if "\n" in name or named.setdefault(index, name) != name:
            raise DataError(
                f"{table}: the row of index {index!a:.40} runs into the next, or is "
                "there twice. Restore the file."
            )
    return named


def is_of_lesions(names: dict[str, str]) -> bool:
    """Whether a table names lesions as BraTS does, and not parts of the brain."""
    return any(ours_by_name(name) for name in names.values())
