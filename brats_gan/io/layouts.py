"""Folder layouts: how each year of BraTS names the files of a subject."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from brats_gan.files import MAX_NAME, DataError, is_file_name, read_json
from brats_gan.io.streams import reading
from brats_gan.spec import BRATS, Spec

LAYOUTS = ("brats2015", "brats2018", "brats2023", "msd")

# What a file may be called, in lower case, after the last "_" (2018) or "-" (2023);
# a modality that is not named here, as itself.
_SUFFIXES = {
    "t1": ("t1", "t1n"),
    "t2": ("t2", "t2w"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "flair": ("flair", "t2f"),
    "seg": ("seg", "segm"),
}

_SEQUENCES_2015 = {
    "mr_t1": "t1",
    "mr_t2": "t2",
    "mr_t1c": "t1ce",
    "mr_flair": "flair",
    "ot": "seg",
}

_MSD_CHANNELS = {
    "t1": ("t1w", "t1"),
    "t2": ("t2w", "t2"),
    "t1ce": ("t1gd", "t1ce", "t1c"),
    "flair": ("flair", "t2f"),
}


class Subject(NamedTuple):
    """One patient on disk.

    `prepared` marks a data set this project wrote: its intensities are in [0, 1], its
    brains centred and its slices cut to the range already, so it is read as it is.
    """

    name: str
    layout: str
    # Of each modality the file, and the channel where that is 4-D.
    images: dict[str, tuple[Path, int | None]]
    label: Path | None
    prepared: bool = False
    spec: Spec = BRATS


def find_subjects(
    data_dir: str | os.PathLike, layout: str | None = None, spec: Spec = BRATS
) -> list[Subject]:
    """Lists the subjects below a folder, sorted by name.

    Args:
        data_dir: folder in one of LAYOUTS (data/README.md shows the trees).
        layout: one of LAYOUTS, or None to recognise it by the names of the files.
        spec: whose modalities are looked for.

    Returns:
        A list of `Subject`, never empty. Raises `DataError` naming every bad subject.
    """
    subjects, problems = survey(data_dir, layout, spec)
    if problems:
        raise DataError(first_of(problems))
    return subjects


def first_of(problems: Sequence[tuple[str, str]], limit: int = 20) -> str:
    """Messages of the first (subject, message) pairs, one a line; each names a file."""
    lines = [message for _, message in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"... and {len(problems) - limit} more")
    return "\n".join(lines)


def survey(
    data_dir: str | os.PathLike, layout: str | None = None, spec: Spec = BRATS
) -> tuple[list[Subject], list[tuple[str, str]]]:
    """As `find_subjects`, but only a folder that is wrong as a whole raises.

    Returns:
        A sorted list of `Subject`, and a list of (subject name, message).
    """
    data_dir = Path(data_dir)
    if layout is not None and layout not in LAYOUTS:
        raise DataError(
            f"Layout {layout!r} is not known: choose of {', '.join(LAYOUTS)}."
        )
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder. Check the path.")

    found = {}  # (layout, subject folder) -> role -> list of files
    ignored = []
    for path in _walk(data_dir):
        kind, role, folder = _classify(path, layout, spec)
        if kind is None:
            ignored.append(path)
        elif layout in (None, kind):
            roles = found.setdefault((kind, folder), {})
            roles.setdefault(role, []).append(path)
    kinds = sorted({kind for kind, _ in found})
    msd_dir = _msd_folder(data_dir) if layout in (None, "msd") else None
    if msd_dir is not None:
        kinds.append("msd")

    if len(kinds) > 1:
        examples = {kind: folder for kind, folder in found}
        shown = [f"{kind} ({examples.get(kind, msd_dir)})" for kind in kinds]
        raise DataError(
            f"{data_dir}: holds more than one layout: {', '.join(shown)}. Put each in "
            "a folder of its own, or choose one with --layout."
        )
    if not kinds:
        seen = ""
        if ignored:
            seen = f" Of {len(ignored)} files seen, the first is {ignored[0]}."
        raise DataError(
            f"{data_dir}: no subject of layout {layout or ' or '.join(LAYOUTS)} found."
            f"{seen} data/README.md shows the folder trees that are read."
        )
    if kinds == ["msd"]:
        subjects, problems = _msd_subjects(msd_dir, spec)
    else:
        prepared = _is_prepared(data_dir)
        subjects, problems = [], []
        for name, (kind, folder), roles in _named(found):
            wrong = _role_problems(kind, folder, roles, spec)
            problems += [(name, message) for message in wrong]
            if not wrong:
                images = {m: (roles[m][0], None) for m in spec.modalities}
                label = roles.get("seg", [None])[0]
                subjects.append(Subject(name, kind, images, label, prepared, spec))
    subjects, misnamed = _well_named(subjects)
    problems += misnamed
    return sorted(subjects, key=lambda subject: subject.name), sorted(problems)


def _walk(data_dir, depth=4):
    """Files down to HGG/subject/sequence/file, in a fixed order, no hidden ones.

    Links are followed, but for those that lead back up.
    """
    for folder, folders, files in os.walk(data_dir, followlinks=True):
        below = len(Path(folder).relative_to(data_dir).parts)
        here = Path(folder).resolve()
        folders[:] = sorted(
            f
            for f in folders
            if f[0] != "."
            and below < depth - 1
            and Path(folder, f).resolve() not in (here, *here.parents)
        )
        yield from (Path(folder, f) for f in sorted(files) if f[0] != ".")


def _suffixes(spec):
    """Role -> what its files are called, in lower case."""
    roles = (*spec.modalities, "seg")
    return {role: _SUFFIXES.get(role, (role.lower(),)) for role in roles}


def _classify(path, layout, spec):
    """File -> (layout, modality or "seg", subject folder), or three times None."""
    name = path.name.lower()
    match = re.match(r"(.+?)(\.nii|\.nii\.gz|\.mha)$", name)
    if not match:
        return None, None, None
    stem, extension = match.groups()

    if stem.startswith("vsd."):
        sequence = re.search(r"\.o\.(mr_t1c|mr_t1|mr_t2|mr_flair|ot)(?![a-z0-9])", stem)
        if sequence and _SEQUENCES_2015[sequence[1]] in (*spec.modalities, "seg"):
            # As distributed, each sequence has a folder named as its file.
            alone = path.parent.name.lower().startswith("vsd.")
            folder = path.parent.parent if alone else path.parent
            return "brats2015", _SEQUENCES_2015[sequence[1]], folder

    suffix = re.search(r"([_-])([a-z0-9]+)$", stem)
    if suffix and extension != ".mha":
        for role, names in _suffixes(spec).items():
            if suffix[2] in names:
                kind = {"_": "brats2018", "-": "brats2023"}[suffix[1]]
                if layout in ("brats2018", "brats2023"):
                    kind = layout  # forced: files that were renamed are taken too
                return kind, role, path.parent
    return None, None, None


def _named(found):
    """Yields (subject name, key, roles); two folders of one name get their parent's."""
    names = [_folder_name(folder) for _, folder in found]
    for (key, roles), name in zip(found.items(), names, strict=True):
        unique = names.count(name) == 1  # 2015 has subjects of one name in HGG and LGG
        yield name if unique else f"{_folder_name(key[1].parent)}_{name}", key, roles


def _folder_name(folder):
    """Name of a folder, also of one that was given as "." or "..": never those."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _well_named(subjects):
    """The subjects whose name can be that of a file, and no one else's; problems."""
    good, problems = {}, []
    for subject in subjects:
        name, path = subject.name, next(iter(subject.images.values()))[0]
        if name in good:
            other = next(iter(good[name].images.values()))[0]
            message = (
                f"{path}: its subject would have the name {name}, as that of {other}. "
                "Rename one of the folders."
            )
        elif not is_file_name(name):
            message = (
                f"{str(path)!a}: {name!a} cannot be the name of files. Rename it: "
                f"printable, no more than {MAX_NAME} bytes, no / or \\."
            )
        else:
            good[name] = subject
            continue
        problems.append((name if name.isprintable() else ascii(name), message))
    return list(good.values()), problems


def _role_problems(kind, folder, roles, spec):
    """Messages about one subject folder: modalities missing or there twice."""
    problems = []
    for role in (*spec.modalities, "seg"):
        files = roles.get(role, [])
        if len(files) > 1:
            problems.append(
                f"{folder}: {len(files)} files for {role}: "
                f"{', '.join(str(f.relative_to(folder)) for f in files)}. "
                "Keep one, and one folder for each subject."
            )
        elif not files and role != "seg":
            problems.append(
                f"{folder}: no {role} image. Looked for "
                f"{_looked_for(kind, role, spec)}. Add the file, "
                "or take the subject out of the folder."
            )
    return problems


def _looked_for(kind, role, spec):
    if kind == "brats2015":
        by_role = {role: name for name, role in _SEQUENCES_2015.items()}
        sequence = by_role.get(role, f"mr_{role}")
        return f"VSD.Brain.XX.O.{sequence.upper()}.*.mha (or .nii, .nii.gz)"
    separator = {"brats2018": "_", "brats2023": "-"}[kind]
    names = [f"*{separator}{suffix}.nii.gz" for suffix in _suffixes(spec)[role]]
    return f"{', '.join(names)} (or .nii, in any case)"


def _is_prepared(data_dir):
    path = data_dir / "dataset_description.json"
    return path.is_file() and read_json(path).get("Prepared") is True


def _msd_folder(data_dir):
    """The folder with dataset.json and imagesTr: data_dir itself or right below it."""
    below = sorted(data_dir.glob("*/dataset.json"))
    for path in (data_dir / "dataset.json", *below):
        if path.is_file() and (path.parent / "imagesTr").is_dir():
            return path.parent
    return None


def _msd_subjects(folder, spec):
    description = folder / "dataset.json"
    content = read_json(description)
    named = content.get("modality") or content.get("channel_names")
    if not isinstance(named, dict):
        raise DataError(f'{description}: no "modality". Restore the original file.')
    channels = {}
    for modality in spec.modalities:
        aliases = _MSD_CHANNELS.get(modality, (modality.lower(),))
        matches = [
            small_number(description, channel)
            for channel, name in named.items()
            if str(name).lower() in aliases
        ]
        if len(matches) != 1:
            raise DataError(
                f"{description}: {len(matches)} channels for {modality} among "
                f"{', '.join(map(str, named.values()))}; looked for one of "
                f"{', '.join(aliases)}. Restore the original file."
            )
        channels[modality] = matches[0]

    files = {}  # subject name -> files of that name
    with reading(folder / "imagesTr"):
        found = sorted((folder / "imagesTr").iterdir())
    for path in found:
        match = re.match(r"([^.].*?)\.nii(\.gz)?$", path.name, re.IGNORECASE)
        if match:
            files.setdefault(match[1], []).append(path)
    if not files:
        raise DataError(
            f"{folder / 'imagesTr'}: no .nii or .nii.gz file. Unpack again."
        )
    subjects, problems = [], []
    for name, paths in files.items():
        if len(paths) > 1:
            shown = ", ".join(path.name for path in paths)
            message = f"{paths[0].parent}: two files for {name}: {shown}. Keep one."
            problems.append((name, message))
            continue
        labels = [folder / "labelsTr" / f"{name}{end}" for end in (".nii.gz", ".nii")]
        label = next((path for path in labels if path.is_file()), None)
        images = {m: (paths[0], channels[m]) for m in spec.modalities}
        subjects.append(Subject(name, "msd", images, label, spec=spec))
    return subjects, problems


def small_number(path: str | os.PathLike, text: object) -> int:
    """0 to 255 from a JSON file; DataError names the file."""
    whole = isinstance(text, int | str) and re.fullmatch("[0-9]{1,3}", str(text))
    if not whole or int(text) > 255:
        raise DataError(f"{path}: {text!a:.40} where 0 to 255 is due. Restore it.")
    return int(text)


def images_by_file(subject: Subject) -> dict[Path, list[tuple[str, int | None]]]:
    """File -> list of (modality, channel) it holds, so that each is decoded once."""
    files = {}
    for modality, (path, channel) in subject.images.items():
        files.setdefault(path, []).append((modality, channel))
    return files
