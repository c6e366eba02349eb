"""Collections: which files of a folder are one subject, wherever its files lie.

Most collections have a folder for each subject. In others one folder holds the files of
many, each modality has a folder of its own, or the labels are somewhere else.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from brats_gan.io import bids, names, patients
from brats_gan.spec import Spec

DEPTH = 6  # folders below the one that is named

_SEQUENCES_2015 = {
    "mr_t1": "t1",
    "mr_t2": "t2",
    "mr_t1c": "t1ce",
    "mr_flair": "flair",
    "ot": "seg",
}


class Seen(NamedTuple):
    """All that is below a folder."""

    files: list[Path]  # none that are hidden
    folders: list[Path]
    too_deep: list[Path]  # folders that were not looked into


class File(NamedTuple):
    """An image or a label, and what it says of itself."""

    path: Path
    kind: str  # a layout; "" where the name is of no certain one
    folder: Path  # of the subject
    prefix: str
    role: str
    rank: int  # see names


class Group(NamedTuple):
    """Files that are one subject's."""

    kind: str
    folder: Path
    prefix: str  # "" where the folder is the subject's own
    roles: dict[str, list[Path]]  # the best of each role; one file, or it is a problem
    prefixes: frozenset[str]  # of its files, in lower case
    certain: bool  # whether any file has the name of a modality and of a subject


def walk(data_dir: Path) -> Seen:
    """Files down to DEPTH folders below, in a fixed order.

    Links are followed, but for those that lead back up.
    """
    seen = Seen([], [], [])
    for folder, folders, files in os.walk(data_dir, followlinks=True):
        below = len(Path(folder).relative_to(data_dir).parts)
        here = Path(folder).resolve()
        folders[:] = sorted(
            f
            for f in folders
            if f[0] != "." and Path(folder, f).resolve() not in (here, *here.parents)
        )
        if below == DEPTH:
            seen.too_deep.extend(Path(folder, f) for f in folders)
            folders.clear()
        seen.folders.extend(Path(folder, f) for f in folders)
        seen.files.extend(Path(folder, f) for f in sorted(files) if f[0] != ".")
    return seen


# --- What each file is ----------------------------------------------------------------


def classify(
    paths: Iterable[Path], layout: str | None, spec: Spec
) -> tuple[list[File], list[Path]]:
    """What each file is, and those that are nothing here.

    Args:
        paths: files.
        layout: the one that is asked for, or None.
        spec: of the data.
    """
    by_folder = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    known, unknown = [], []
    for folder, files in by_folder.items():
        stems = [(path, names.stem(path.name)) for path in files]
        as_bids = layout in (None, "bids") and bids.is_bids(
            folder, (stem for _, stem in stems if stem)
        )
        for path, stem in stems:
            file = None
            if stem is not None:
                file = _as_bids(path, stem, spec) if as_bids else None
                file = file or _as_2015(path, stem, spec) or _as_named(path, stem, spec)
            if file is None:
                unknown.append(path)
                continue
            if layout in ("brats2018", "brats2023") and file.kind != "brats2015":
                file = file._replace(kind=layout)  # files that were renamed, too
            if layout in (None, file.kind) or file.kind == "":
                known.append(file)
    return known, unknown


def _as_bids(path, stem, spec):
    named = bids.role_of(stem, spec)
    if named is None:
        return None
    folder = bids.subject_folder(path)
    return File(path, "bids", folder, named.prefix, named.role, named.rank)


def _as_2015(path, stem, spec):
    sequence = re.search(
        r"^vsd\..*\.o\.(mr_t1c|mr_t1|mr_t2|mr_flair|ot)(?![a-z0-9])", stem.lower()
    )
    role = sequence and _SEQUENCES_2015[sequence[1]]
    if role not in (*spec.modalities, "seg"):
        return None
    # As distributed, each sequence has a folder named as its file.
    alone = path.parent.name.lower().startswith("vsd.")
    folder = path.parent.parent if alone else path.parent
    return File(path, "brats2015", folder, "", role, names.NAMED)


def _as_named(path, stem, spec):
    """A file by its name; by that of its folder, where that is named as a file, or as a
    modality."""
    folder, named = path.parent, names.role_of(stem, spec)
    outer = names.stem(folder.name)
    outer = names.role_of(outer, spec) if outer else None
    if outer and outer.prefix:
        if named and named.role != outer.role:
            return None
        named, folder = outer, folder.parent
    of_folder = names.role_of_folder(folder.name, spec)
    if of_folder and (named is None or named.role == of_folder):
        named = named or names.Named(stem, "", of_folder, names.BY_FOLDER)
        folder = folder.parent
    if named is None:
        return None
    kind = {"_": "brats2018", "-": "brats2023", "": ""}[named.separator]
    return File(path, kind, folder, named.prefix, named.role, named.rank)


# --- Which are one subject's ----------------------------------------------------------


def groups(files: Iterable[File]) -> tuple[list[Group], list[File]]:
    """Subjects, of which any image is there, and labels that lie elsewhere."""
    by_folder = {}
    for file in files:
        at = file.prefix.lower() if file.kind == "bids" else file.folder
        by_folder.setdefault(at, []).append(file)
    found, labels = [], []
    for together in by_folder.values():
        kinds = sorted({file.kind for file in together} - {""}) or ["brats2018"]
        for number, kind in enumerate(kinds):
            # A name that is of no certain layout is of that of the files beside it.
            extra = ("",) if number == 0 else ()
            own = [file for file in together if file.kind in (kind, *extra)]
            images = [file for file in own if file.role != "seg"]
            if images:
                found += _split(kind, own)
            else:
                labels += own
    return found, labels


def _split(kind, files):
    """One subject, or where a folder holds several, one for each prefix."""
    by_prefix = {}
    for file in files:
        by_prefix.setdefault(file.prefix.lower(), []).append(file)
    best = _best(files)
    several = any(len({f.prefix.lower() for f in same}) > 1 for same in best.values())
    imaged = [len({f.role for f in own} - {"seg"}) for own in by_prefix.values()]
    if kind == "bids" or not several or sum(count > 1 for count in imaged) < 2:
        folder = min((f.folder for f in files), key=lambda path: len(path.parts))
        yield _group(kind, folder, files[0].prefix if kind == "bids" else "", files)
        return
    for own in by_prefix.values():
        if any(file.role != "seg" for file in own):
            yield _group(kind, own[0].folder, own[0].prefix, own)


def _best(files):
    """Role -> the files whose names can be trusted furthest."""
    best = {}
    for file in files:
        same = best.get(file.role, [])
        if not same or file.rank < same[0].rank:
            best[file.role] = [file]
        elif file.rank == same[0].rank:
            same.append(file)
    return best


def _group(kind, folder, prefix, files):
    roles = {role: [f.path for f in same] for role, same in _best(files).items()}
    prefixes = frozenset(file.prefix.lower() for file in files) - {""}
    certain = any(file.rank < names.BARE for file in files)
    return Group(kind, folder, prefix, roles, prefixes, certain)


def named(found: list[Group], data_dir: Path) -> Iterator[tuple[str, Group]]:
    """(subject name, group); two folders of one name get their parents' before it.

    So do folders that are named by the visit alone, in one of the patient, for all but
    the first folder of all, whose name may change.
    """
    own = [_name(group) for group in found]
    times = Counter(own)
    for group, name in zip(found, own, strict=True):
        # 2015 has subjects of one name in HGG and LGG; RHUH-GBM calls visits 0, 1, 2.
        above = group.folder if group.prefix else group.folder.parent
        joined = f"{folder_name(above)}_{name}"
        is_visit = patients.is_known(joined) and not patients.is_known(name)
        within = above != data_dir and data_dir in above.parents
        yield joined if times[name] > 1 or (is_visit and within) else name, group


def _name(group):
    return group.prefix or folder_name(group.folder).removesuffix("_nifti")  # UCSF-PDGM


def folder_name(folder: Path) -> str:
    """Name of a folder, also of one that was given as "." or "..": never those."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def with_labels(
    subjects: list[tuple[str, Group]], labels: list[File]
) -> tuple[list[tuple[str, Group]], list[File]]:
    """Subjects with labels that lie in other folders, and those that are no one's.

    A label is a subject's if what is before _seg in its name, or the name of its
    folder, is the subject's name, or what is before _t1 in that of its images.
    """
    by_key = {}
    for file in labels:
        key = file.prefix or folder_name(file.folder)
        by_key.setdefault(key.lower(), []).append(file)
    taken, result = set(), []
    for name, group in subjects:
        keys = {name.lower(), folder_name(group.folder).lower(), *group.prefixes}
        matching = [file for key in keys for file in by_key.get(key, [])]
        taken |= {file.path for file in matching}
        if matching and "seg" not in group.roles:
            paths = [file.path for file in _best(matching)["seg"]]
            group = group._replace(roles={**group.roles, "seg": sorted(paths)})
        result.append((name, group))
    return result, [file for file in labels if file.path not in taken]


# --- What to say ----------------------------------------------------------------------


def looked_for(kind: str, role: str, spec: Spec) -> str:
    """What a file of a role would be called in a layout, for messages."""
    if kind == "brats2015":
        by_role = {role: name for name, role in _SEQUENCES_2015.items()}
        sequence = by_role.get(role, f"mr_{role}")
        return f"VSD.Brain.XX.O.{sequence.upper()}.*.mha (or .nii, .nii.gz)"
    if kind == "bids":
        return f"{_bids_name(role)} (or .nii)"
    separator = "-" if kind == "brats2023" else "_"
    every = [f"*{separator}{name}.nii.gz" for name in names.file_names(role)]
    return f"{', '.join(every)} (or .nii, in any case)"


def _bids_name(role):
    known = {"t1": "T1w", "t2": "T2w", "t1ce": "ce-gadolinium_T1w", "flair": "FLAIR"}
    return f"sub-*_{known.get(role, 'dseg' if role == 'seg' else role)}.nii.gz"


def expected(spec: Spec) -> str:
    """Names that are read, for messages."""
    roles = (*spec.modalities, "seg")
    return ", ".join(f"ID_{role}.nii.gz" for role in roles)


def shown(paths: list[Path], most: int = 4) -> str:
    """Names of the first few files, for messages."""
    listed = ", ".join(path.name for path in paths[:most])
    return f"{listed}, ..." if len(paths) > most else listed


def without_images(seen: Seen, subject_folders: Iterable[Path]) -> list[Path]:
    """Folders beside those of subjects that hold no image at any depth.

    One with other files in it, such as tables, counts only if it is named as a
    subject's folder is, but for the digits.
    """
    subject_folders = {*subject_folders}
    beside = {folder.parent for folder in subject_folders}
    shapes = {re.sub(r"\d+", "0", folder.name) for folder in subject_folders}
    filled = {parent for folder in seen.too_deep for parent in folder.parents}
    used = set()
    for path in seen.files:
        used.update(path.parents)
        if names.stem(path.name):
            filled.update(path.parents)
    return [
        folder
        for folder in seen.folders
        if folder.parent in beside
        and folder not in filled
        and (folder not in used or re.sub(r"\d+", "0", folder.name) in shapes)
    ]
