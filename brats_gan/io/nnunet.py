"""Folders with a dataset.json: the Medical Decathlon's, and nnU-Net's raw data.

The Decathlon has one 4-D file a subject. nnU-Net has one file a channel, CASE_0000 and
on, and may name regions, lists of labels, in place of labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brats_gan.files import DataError, read_json
from brats_gan.io import names
from brats_gan.io.conventions import ours_by_name
from brats_gan.io.streams import reading
from brats_gan.io.volumes import read_header
from brats_gan.spec import BRATS, Spec

_ENDINGS = (".nii.gz", ".nii", ".mha")
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")

# (name, modality -> (file, channel or None), label or None)
Found = tuple[str, dict[str, tuple[Path, int | None]], Path | None]


def folder_of(data_dir: Path) -> Path | None:
    """The folder with dataset.json and imagesTr: data_dir itself or right below it."""
    below = sorted(data_dir.glob("*/dataset.json"))
    for path in (data_dir / "dataset.json", *below):
        if path.is_file() and (path.parent / "imagesTr").is_dir():
            return path.parent
    return None


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file is one of those that dataset.json of a folder is about."""
    return any(folder / name in path.parents for name in _FOLDERS)


def survey(
    folder: Path, spec: Spec, layout: str | None = None
) -> tuple[str, list[Found], list[tuple[str, str]]]:
    """Subjects of a folder with dataset.json, and problems: (subject, message) each.

    Args:
        folder: see `folder_of`.
        spec: whose modalities are looked for among the channels.
        layout: "msd" or "nnunet", None to look.

    Raises:
        DataError: the folder is wrong as a whole.
    """
    channels = _channels(folder / "dataset.json", spec)
    with reading(folder / "imagesTr"):
        found = sorted((folder / "imagesTr").iterdir())
    files = [
        (path, stem)
        for path in found
        if path.name[0] != "." and (stem := names.stem(path.name))
    ]
    if not files:
        raise DataError(
            f"{folder / 'imagesTr'}: no .nii or .nii.gz file. Unpack again."
        )
    by_channel = _is_by_channel(files)
    kind = layout or ("nnunet" if by_channel else "msd")
    if by_channel != (kind == "nnunet"):
        what = "one file a channel (_0000)" if by_channel else "no _0000 in their names"
        raise DataError(
            f"{folder / 'imagesTr'}: the images, such as {files[0][0].name}, are "
            f"{what}. Leave --layout away, or say "
            f"--layout={'nnunet' if by_channel else 'msd'}."
        )
    find = _one_file_a_channel if by_channel else _one_file_a_subject
    subjects, problems = find(files, channels)
    found = [(n, i, _label(folder, n)) for n, i in subjects]
    before = read_json(folder / "dataset.json").get("source_names")
    return kind, names.as_before(found, before), problems


def is_prepared(folder: Path) -> bool:
    """Whether the subjects of a folder were converted from a data set of this project's
    own, see layouts.Subject."""
    return read_json(folder / "dataset.json").get("prepared") is True


def _channels(description, spec):
    """Modality -> channel, by the names in dataset.json."""
    content = read_json(description)
    named = content.get("modality") or content.get("channel_names")
    if not isinstance(named, dict):
        raise DataError(f'{description}: no "modality". Restore the original file.')
    channels = {}
    for modality in spec.modalities:
        matches = [
            small_number(description, channel)
            for channel, name in named.items()
            if names.role_by_channel(str(name), spec) == modality
        ]
        if len(matches) != 1:
            raise DataError(
                f"{description}: {len(matches)} channels for {modality} among "
                f"{', '.join(map(str, named.values()))}; looked for one of "
                f"{', '.join(names.file_names(modality))}. Restore the original file."
            )
        channels[modality] = matches[0]
    return channels


def _is_by_channel(files):
    """Whether images are one a channel. Names of the Decathlon could end in four
    digits too, but its files are 4-D."""
    if not all(re.search(r"._\d{4}$", stem) for _, stem in files):
        return False
    try:
        return read_header(files[0][0]).shape[3] == 1
    except DataError:  # a damaged file: its name is all there is
        return True


def _one_file_a_subject(files, channels):
    by_name = {}
    for path, stem in files:
        by_name.setdefault(stem, []).append(path)
    subjects, problems = [], []
    for name, paths in by_name.items():
        if len(paths) > 1:
            shown = ", ".join(path.name for path in paths)
            message = f"{paths[0].parent}: two files for {name}: {shown}. Keep one."
            problems.append((name, message))
            continue
        subjects.append((name, {m: (paths[0], c) for m, c in channels.items()}))
    return subjects, problems


def _one_file_a_channel(files, channels):
    by_name = {}
    for path, stem in files:
        name, _, number = stem.rpartition("_")
        by_name.setdefault(name, {}).setdefault(int(number), []).append(path)
    subjects, problems = [], []
    for name, numbered in by_name.items():
        wrong = []
        for modality, channel in channels.items():
            paths = numbered.get(channel, [])
            if len(paths) != 1:
                wrong.append(f"{len(paths)} files {name}_{channel:04d} for {modality}")
        if wrong:
            folder = files[0][0].parent
            message = f"{folder}: {', '.join(wrong)}; one is due. Restore the files."
            problems.append((name, message))
            continue
        images = {m: (numbered[c][0], None) for m, c in channels.items()}
        subjects.append((name, images))
    return subjects, problems


def _label(folder, name):
    labels = (folder / "labelsTr" / f"{name}{end}" for end in _ENDINGS)
    return next((path for path in labels if path.is_file()), None)


def label_map(label: Path, spec: Spec, edited: set[int]) -> dict[int, int] | None:
    """Label in a file -> index in spec.labels, by names in dataset.json.

    Args:
        label: the file, in labelsTr.
        spec: where it is not that of BraTS, names count if all are among its own.
        edited: labels that need no name, as the user says what they are.

    Returns:
        None where dataset.json names none.

    Raises:
        DataError: a label goes by a name that is none of BRATS.labels.
    """
    description = label.parent.parent / "dataset.json"
    named = read_json(description).get("labels")
    if not isinstance(named, dict):
        return None
    if any(isinstance(value, list) for value in named.values()):
        return _by_regions(description, named, edited) if spec == BRATS else None
    return by_names(description, numbered(named), spec, edited)


def numbered(named: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(number, name) of each label: {"1": "edema"} in the Decathlon's own files,
    {"edema": 1} in nnU-Net's."""
    return [(k, v) if k.isdecimal() else (v, k) for k, v in named.items()]


def by_names(
    source: Path, pairs: list[tuple[Any, Any]], spec: Spec, edited: set[int]
) -> dict[int, int] | None:
    """As `label_map`, of (number, name) pairs from any file."""
    if spec.labels != BRATS.labels:
        ours = {name.lower(): index for index, name in enumerate(spec.labels)}
        ours.setdefault("background", 0)  # nnU-Net has no other name for it
        if not all(str(name).lower() in ours for _, name in pairs):
            return None
        found = {}
        for number, name in pairs:
            value = small_number(source, number)
            _add(source, found, value, ours[str(name).lower()], spec.labels)
        return found
    mapping = {}
    for number, name in pairs:
        ours = ours_by_name(str(name))
        value = small_number(source, number)
        if ours is None and value not in edited:
            raise DataError(
                f"{source}: label {number!a:.40}: {name!a:.40} is not one of "
                f"{', '.join(BRATS.labels)}. Name it as one of them, or say what it "
                f"is: --merge_labels={value}:N reads it as label N, "
                f"--drop_labels={value} as background."
            )
        if ours is not None:
            if value in edited:
                mapping[value] = ours
            else:
                _add(source, mapping, value, ours)
    if not mapping:
        raise DataError(f'{source}: no label in "labels". Restore the file.')
    return {0: 0} | mapping


def _add(source, mapping, value, ours, labels=BRATS.labels):
    """Puts a label into a mapping; DataError where it has another meaning already, or
    is 0, which is the background in all collections, and of lesions here."""
    if mapping.setdefault(value, ours) != ours:
        both = " and ".join(labels[index] for index in (mapping[value], ours))
        raise DataError(
            f"{source}: label {value} is named twice, as {both}. Leave one of the "
            "names out."
        )
    if value == 0 and ours != 0:
        raise DataError(
            f"{source}: label 0 is named {labels[ours]}, and is the background. "
            "Correct the number."
        )


def _by_regions(source, named, edited):
    """Regions such as {"whole tumor": [1, 2, 3], "enhancing": [3]} -> labels.

    A label is what the smallest of its regions leaves: oedema is in the whole alone.
    """
    mapping, sizes = {}, {}
    for name, listed in named.items():
        members = listed if isinstance(listed, list) else [listed]
        members = [small_number(source, each) for each in members]
        region = _region(str(name))
        if region is None and not edited.issuperset(members):
            raise DataError(
                f"{source}: region {name!a:.40} is none of whole tumor, tumor core "
                "and enhancing tumor. Name it as one of them."
            )
        if region is None:
            continue
        size = len({*members})
        for value in members:
            if size < sizes.get(value, 1 << 16):
                mapping.pop(value, None)
                sizes[value] = size
            if size == sizes[value] or value == 0:
                _add(source, mapping, value, region)
    return {0: 0} | mapping


def _region(name):
    """What of a region no smaller one has, as index in BRATS.labels; None: unknown."""
    if "whole" in name.lower():
        return ours_by_name("edema")
    # Before "core": there is an enhancing tumour core, too.
    own = ours_by_name(name)
    return ours_by_name("necrosis") if own is None and "core" in name.lower() else own


def small_number(path: Path, text: object) -> int:
    """0 to 255 from a JSON file; DataError names the file."""
    whole = isinstance(text, int | str) and re.fullmatch("[0-9]{1,3}", str(text))
    if not whole or int(text) > 255:
        raise DataError(f"{path}: {text!a:.40} where 0 to 255 is due. Restore it.")
    return int(text)
