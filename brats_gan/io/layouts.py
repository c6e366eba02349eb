"""Folder layouts: the subjects below a folder, as BraTS and others lay them.

What files are called is in names, which of them are one subject in collections; bids
and nnunet have the layouts of those names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from brats_gan.files import MAX_NAME, DataError, is_file_name, read_json
from brats_gan.io import collections, names, nnunet, patients
from brats_gan.io.conventions import AS_NAMED, Labelling
from brats_gan.spec import BRATS, Spec

LAYOUTS = ("brats2015", "brats2018", "brats2023", "msd", "nnunet", "bids")


class Subject(NamedTuple):
    """One visit of a patient, on disk.

    `prepared` marks a data set this project wrote: its intensities are in [0, 1], its
    brains centred and its slices cut to the range already, so it is read as it is.
    """

    name: str
    layout: str
    images: dict[str, tuple[Path, int | None]]  # modality -> file, channel if it is 4-D
    label: Path | None
    prepared: bool = False
    spec: Spec = BRATS
    labelling: Labelling = AS_NAMED
    patient_pattern: str | None = None  # see patients.patient_of

    @property
    def patient(self) -> str:
        """Whose visit it is."""
        return patients.patient_of(self.name, self.patient_pattern)


class Findings(NamedTuple):
    """What is below a folder."""

    subjects: list[Subject]  # sorted by name
    # Of (subject name, message); the name is empty where all of the folder is meant.
    problems: list[tuple[str, str]]
    notes: list[tuple[str, str]]


def find_subjects(
    data_dir: str | os.PathLike,
    layout: str | None = None,
    spec: Spec = BRATS,
    labelling: Labelling = AS_NAMED,
    patient_pattern: str | None = None,
) -> list[Subject]:
    """Lists the subjects below a folder, sorted by name.

    Args:
        data_dir: folder in one of LAYOUTS (data/README.md shows the trees).
        layout: one of LAYOUTS, or None to recognise it by the names of the files.
        spec: whose modalities are looked for.
        labelling: how the labels are to be read.
        patient_pattern: see patients.patient_of; it must fit one of the names.

    Returns:
        A list of `Subject`, never empty. Raises `DataError` naming every bad subject.
    """
    subjects, problems, _ = explore(data_dir, layout, spec, labelling, patient_pattern)
    if problems:
        raise DataError(first_of(problems))
    return subjects


def first_of(problems: Sequence[tuple[str, str]], limit: int = 20) -> str:
    """Messages of the first (subject, message) pairs, a line each, which name files."""
    lines = [message for _, message in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"... and {len(problems) - limit} more")
    return "\n".join(lines)


def survey(
    data_dir: str | os.PathLike, layout: str | None = None, spec: Spec = BRATS
) -> tuple[list[Subject], list[tuple[str, str]]]:
    """As `find_subjects`, but raises only where the folder as a whole is wrong: the
    subjects, and (subject name, message) of what is wrong."""
    subjects, problems, _ = explore(data_dir, layout, spec)
    return subjects, problems


def explore(
    data_dir: str | os.PathLike,
    layout: str | None = None,
    spec: Spec = BRATS,
    labelling: Labelling = AS_NAMED,
    patient_pattern: str | None = None,
) -> Findings:
    """As `survey`, with notes: what is odd, and need not be wrong."""
    data_dir = Path(data_dir).expanduser()
    if layout is not None and layout not in LAYOUTS:
        raise DataError(
            f"--layout={layout} is not known: choose of {', '.join(LAYOUTS)}."
        )
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder. Check the path.")

    seen = collections.walk(data_dir)
    channels_in = nnunet.folder_of(data_dir)
    paths = seen.files
    if channels_in is not None:
        paths = [path for path in paths if not nnunet.is_inside(path, channels_in)]
    files, unknown = collections.classify(paths, layout, spec)
    groups, labels = collections.groups(files)
    # A lone t1.nii.gz is no subject where others are whole.
    whole = any({*spec.modalities} <= group.roles.keys() for group in groups)
    odd = [g for g in groups if not g.certain and _missing(g, spec)]
    if whole or channels_in is not None:
        groups = [group for group in groups if group not in odd]
    kinds = sorted({group.kind for group in groups})
    if channels_in is not None and layout in (None, "msd", "nnunet"):
        kinds.append("dataset.json")
    if len(kinds) > 1:
        raise DataError(_several(data_dir, kinds, groups, channels_in))
    if not kinds:
        raise DataError(_nothing(data_dir, layout, spec, seen, unknown, labels))

    notes = []
    if kinds == ["dataset.json"]:
        kind, found, problems = nnunet.survey(
            channels_in, spec, layout and ("msd" if layout == "msd" else "nnunet")
        )
        whole = nnunet.is_prepared(channels_in)
        subjects = [
            Subject(name, kind, images, label, whole, spec, labelling)
            for name, images, label in found
        ]
    else:
        if _is_ours(data_dir) and labelling.convention is None:
            labelling = labelling._replace(convention="brats2015")
        own = [*collections.named(groups, data_dir)]
        pairs, lost = collections.with_labels(own, labels)
        pairs = names.as_before(pairs, _description(data_dir).get("SourceNames"))
        subjects, problems = _subjects(pairs, _is_prepared(data_dir), spec, labelling)
        problems += _lost(lost)
        notes += _unlabelled(subjects, unknown)
        folders = [group.folder for group in groups]
        notes += _empty(collections.without_images(seen, folders))
    notes += _deep(seen.too_deep)
    subjects, misnamed = _well_named(subjects)
    subjects, unclear = _of_clear_convention(subjects)
    problems += misnamed + unclear
    subjects = sorted(subjects, key=lambda subject: subject.name)
    patients.require_fitting(patient_pattern, [subject.name for subject in subjects])
    subjects = [s._replace(patient_pattern=patient_pattern) for s in subjects]
    return Findings(subjects, sorted(problems), notes)


def _several(data_dir, kinds, groups, channels_in):
    examples = {group.kind: group.folder for group in groups}
    shown = [
        f"msd or nnunet ({channels_in})"
        if kind == "dataset.json"
        else f"{kind} ({examples[kind]})"
        for kind in kinds
    ]
    return (
        f"{data_dir}: holds more than one layout: {', '.join(shown)}. Put each in "
        "a folder of its own, or choose one with --layout."
    )


def _nothing(data_dir, layout, spec, seen, unknown, labels):
    """One message on a folder without subjects: what is there, what is expected."""
    message = (
        f"{data_dir}: no subject of layout {layout or ' or '.join(LAYOUTS)} found."
    )
    others = unknown or [file.path for file in labels] or seen.files
    images = [path for path in others if names.stem(path.name)]
    first = (images or others or [None])[0]
    if first is not None:
        beside = [path for path in others if path.parent == first.parent]
        message += (
            f" Of {len(seen.files)} files seen, the first is {first}; in its folder: "
            f"{collections.shown(beside)}."
        )
    elif seen.too_deep:
        message += (
            f" Folders more than {collections.DEPTH} deep, such as "
            f"{seen.too_deep[0]}, are not looked into: name one further down."
        )
    elif seen.folders:
        message += f" {len(seen.folders)} folders are there, and no file in them."
    if any(re.search(r"._\d{4}$", names.stem(path.name) or "") for path in images):
        return (
            f"{message} Names that end in _0000 are nnU-Net's, one file a channel: put "
            "them in imagesTr, with a dataset.json beside it that names the channels "
            f'("channel_names": {{"0": "{spec.modalities[0]}", ...}}), or name the '
            f"files {collections.expected(spec)}."
        )
    if any(path.suffix.lower() in (".dcm", ".ima") for path in others):
        message += " DICOM is not read: convert it to NIfTI, such as with dcm2niix."
    return (
        f"{message} Expected is a folder for each subject ID, with "
        f"{collections.expected(spec)}. data/README.md shows the folder trees that "
        "are read."
    )


def _missing(group, spec):
    return tuple(m for m in spec.modalities if m not in group.roles)


def _subjects(pairs, prepared, spec, labelling):
    """Subjects that are whole, and problems of the others."""
    subjects, problems, incomplete = [], [], {}
    for name, group in pairs:
        missing = _missing(group, spec)
        twice = _twice(group, spec)
        problems += [(name, message) for message in twice]
        if missing:
            incomplete.setdefault((group.kind, missing), []).append((name, group))
        if missing or twice:
            continue
        images = {m: (group.roles[m][0], None) for m in spec.modalities}
        label = group.roles.get("seg", [None])[0]
        subjects.append(
            Subject(name, group.kind, images, label, prepared, spec, labelling)
        )
    for (kind, missing), same in incomplete.items():
        if not subjects and len(same) > 1:
            # Of all files in the folder: their names are of another kind.
            problems.append(("", _none_has(kind, missing, same, spec)))
            continue
        for name, group in same:
            where = f"{group.folder}{group.prefix and f'/{group.prefix}*'}"
            problems += [
                (
                    name,
                    f"{where}: no {role} image. Looked for "
                    f"{collections.looked_for(kind, role, spec)}. Add the file, "
                    "or take the subject out of the folder.",
                )
                for role in missing
            ]
    return subjects, problems


def _none_has(kind, missing, same, spec):
    _, group = same[0]
    files = [path for paths in group.roles.values() for path in paths]
    with_others = sorted(
        path for path in files[0].parent.iterdir() if path.name[0] != "."
    )
    lacking = " and ".join(f"no {role} image" for role in missing)
    due = "; ".join(collections.looked_for(kind, role, spec) for role in missing)
    return (
        f"{group.folder}: {lacking}, as in all of {len(same)} subjects. There are "
        f"{collections.shown(with_others, 8)}. Looked for {due}. Add the files, or "
        "rename those that are meant."
    )


def _twice(group, spec):
    """Messages on roles that more than one file of a subject has."""
    return [
        f"{group.folder}: {len(files)} files for {role}: "
        f"{', '.join(_below(path, group.folder) for path in files)}. "
        "Keep one, and one folder for each subject."
        for role in (*spec.modalities, "seg")
        if len(files := group.roles.get(role, [])) > 1
    ]


def _below(path, folder):
    return str(path.relative_to(folder) if folder in path.parents else path)


def _lost(labels):
    if not labels:
        return []
    return [
        (
            "",
            f"{labels[0].path}: {len(labels)} label file{'s' * (len(labels) > 1)} "
            "without images of the same name, such as this. Add the images, name both "
            "alike (ID_t1.nii.gz, ID_seg.nii.gz), or take the labels out.",
        )
    ]


def _unlabelled(subjects, unknown):
    """Which other images lie beside those of a subject that has no label."""
    beside = {}
    for path in unknown:
        if names.stem(path.name):
            beside.setdefault(path.parent, []).append(path)
    notes = []
    for subject in subjects:
        if subject.label is None:
            folders = {path.parent for path, _ in subject.images.values()}
            others = [path for folder in folders for path in beside.get(folder, [])]
            if others:
                message = (
                    f"no label file among {collections.shown(others)}; the name of a "
                    "label ends in _seg."
                )
                notes.append((subject.name, message))
    return notes


def _empty(folders):
    if not folders:
        return []
    one = len(folders) == 1
    message = (
        f"{len(folders)} folder{'s' * (not one)} beside the subjects "
        f"hold{'s' * one} no image, such as {folders[0].name}: an incomplete download?"
    )
    return [("", message)]


def _deep(folders):
    where = f"folders more than {collections.DEPTH} deep are not looked into"
    return [("", f"{where}, such as {folders[0]}.")] if folders else []


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


def _of_clear_convention(subjects):
    """Those whose names do not leave open what their labels mean; one problem of the
    others."""
    unclear = [
        subject
        for subject in subjects
        if subject.label is not None
        and subject.labelling.convention is None
        and subject.layout in ("brats2018", "brats2023")
        and subject.spec.labels == BRATS.labels
        and names.is_paediatric(subject.label.name)
    ]
    if not unclear:
        return subjects, []
    message = (
        f"{unclear[0].label}: labels of BraTS-PEDs, whose numbers have changed: 1 is "
        "the enhancing core since 2024, and was the non-enhancing one in 2023. Say "
        f"--labels=peds2024 or --labels=peds2023 ({len(unclear)} subjects)."
    )
    left_out = {subject.name for subject in unclear}
    return [s for s in subjects if s.name not in left_out], [("", message)]


def _description(data_dir):
    path = data_dir / "dataset_description.json"
    return read_json(path) if path.is_file() else {}


def _is_prepared(data_dir):
    return _description(data_dir).get("Prepared") is True


def _is_ours(data_dir):
    """Whether `convert` or stage 3 wrote the folder: its labels are ours, whatever its
    subjects are called."""
    made = _description(data_dir).get("GeneratedBy")
    made = made if isinstance(made, list) else []
    return any(isinstance(m, dict) and m.get("Name") == "brats_gan" for m in made)


def images_by_file(subject: Subject) -> dict[Path, list[tuple[str, int | None]]]:
    """File -> list of the (modality, channel) in it, so that each is decoded once."""
    files = {}
    for modality, (path, channel) in subject.images.items():
        files.setdefault(path, []).append((modality, channel))
    return files
