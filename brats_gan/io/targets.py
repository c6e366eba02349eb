"""Formats that subjects are converted to: names of files, numbers of labels.

Each is a layout that is read too, and says what reading needs to have modalities,
labels and names back: in dataset.json, or in dataset_description.json and dseg.tsv.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import brats_gan
from brats_gan import files, io
from brats_gan.io import bids, names

ENDING = ".nii.gz"
IDS = range(1, 1000)  # of an nnU-Net data set: three digits
_NAMED_SUFFIXES = {"t1": "T1w", "t2": "T2w", "t1ce": "ce-gadolinium_T1w"}
# Suffixes of images in BIDS 1.9, anatomy and others, that a modality may be named as.
_SUFFIXES = (
    *("T1w", "T2w", "PDw", "T2starw", "FLAIR", "angio", "T1rho", "T2star", "FLASH"),
    *("PD", "PDT2", "inplaneT1", "inplaneT2", "UNIT1", "T1map", "T2map", "T2starmap"),
    *("R1map", "R2map", "R2starmap", "PDmap", "MTRmap", "MTsat", "MWFmap", "Chimap"),
)


class Brats:
    """BraTS 2018-21: ID/ID_MODALITY, labels as they are here."""

    described_by = "dataset_description.json"
    source_names = "SourceNames"  # in it: {name: what it was in the source}

    def __init__(
        self, folder: Path, source: str, subjects: Sequence[io.Subject]
    ) -> None:
        self.folder, self.source, self.subjects = folder, source, subjects
        self.spec, self.prepared = subjects[0].spec, subjects[0].prepared
        self.names = {subject.name: subject.name for subject in subjects}
        self.stored = {ours: ours for ours in range(self.spec.num_labels)}
        self.joined: dict[str, str] = {}  # source names of what other sources left

    def join(self) -> None:
        """Finds what other sources left in the folder, so that it is still read right.

        One description holds for all that is in a folder.

        Raises:
            DataError: what is there was not written by `convert`, or has other labels
                or channels, or holds a subject of this source by another name.
        """
        own = {self.path(s, r) for s in self.subjects for r in (*s.images, "seg")}
        files_there = self.folder.rglob(f"*{ENDING}")
        other = next(
            (p for p in files_there if p not in own and p.name[0] != "."), None
        )
        path = self.folder / self.described_by
        if other is None:
            return
        there = files.read_json(path) if path.exists() else {}
        ours = json.loads(json.dumps(self._common()))  # numbers become texts
        unlike = [key for key, value in ours.items() if there.get(key) != value]
        if unlike:
            raise files.DataError(
                f"{other}: is no file of {self.source}, and {path} does not say of it "
                f"what it would have to say of both ({', '.join(unlike)}). Name "
                "another output folder, or remove what is there."
            )
        before = there.get(self.source_names)
        before = before if isinstance(before, dict) else {}
        for name, old in before.items():
            if self.names.get(old, name) != name:
                raise files.DataError(
                    f"{path}: {old} is there as {name}, and would now be "
                    f"{self.names[old]}. Name another output folder, or remove it."
                )
        taken = {*self.names.values()}
        self.joined = {n: old for n, old in before.items() if n not in taken}

    def _common(self):
        """What holds for all subjects of a folder, as its description has it."""
        return {
            "Labels": dict(enumerate(self.spec.labels)),
            "Prepared": self.prepared,
        }

    def _changed(self):
        """{name: what it was in the source}, where it was another."""
        changed = {new: old for old, new in self.names.items() if new != old}
        return {**self.joined, **changed}

    def path(self, subject: io.Subject, role: str) -> Path:
        """The file of a modality, or of "seg"."""
        name = self.names[subject.name]
        return self.folder / name / f"{name}_{role}{ENDING}"

    def require_fitting(self, path: Path, volume: np.ndarray) -> None:
        """DataError where a volume that was read from a file does not fit."""

    def describe(self) -> None:
        """Writes what the folder says of itself, once its subjects are there."""
        self._describe(f"{self.source}, as BraTS 2018-21")

    def _describe(self, title, **more):
        description = {
            "Name": title,
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "brats_gan", "Version": brats_gan.__version__}],
            "SourceLayout": self.subjects[0].layout,
            **self._common(),
            **more,
        }
        files.write_json(self.folder / self.described_by, description)


class Bids(Brats):
    """BIDS 1.9: sub-ID/[ses-ID/]anat/sub-ID_[ses-ID_]SUFFIX, labels as they are here.

    Raises:
        DataError: BIDS has no suffix for a modality.
    """

    def __init__(
        self, folder: Path, source: str, subjects: Sequence[io.Subject]
    ) -> None:
        super().__init__(folder, source, subjects)
        self.suffixes = {m: _bids_suffix(m, self.spec) for m in self.spec.modalities}
        self.suffixes["seg"] = "dseg"
        self.names = _apart({name: _bids_name(name) for name in self.names}, "sub-")

    def path(self, subject: io.Subject, role: str) -> Path:
        name = self.names[subject.name]
        parts = name.split("_")  # sub-ID, and ses-ID where there is one
        file = f"{name}_{self.suffixes[role]}{ENDING}"
        return self.folder.joinpath(*parts, "anat", file)

    def describe(self) -> None:
        self._describe(self.source, **{self.source_names: self._changed()})
        rows = ("index\tname", *(f"{i}\t{n}" for i, n in enumerate(self.spec.labels)))
        _write_table(self.folder / "dseg.tsv", rows)
        people = {name.split("_")[0] for name in self.names.values()}
        people |= {path.name for path in self.folder.glob("sub-*") if path.is_dir()}
        people = sorted(people)
        _write_table(self.folder / "participants.tsv", ("participant_id", *people))
        text = f"Converted from {self.source} by brats_gan {brats_gan.__version__}.\n"
        files.write_atomically(self.folder / "README", text.encode())


class NnUNet(Brats):
    """nnU-Net's raw data: imagesTr/CASE_0000, labelsTr/CASE, labels without a gap.

    Labels are those that the source can have, in their order here. Subjects without a
    label go to imagesTs, where nnU-Net has its test cases.

    Raises:
        DataError: no subject has a label, nnU-Net has another use for the name of one,
            or the folder holds another data set of that number.
    """

    described_by = "dataset.json"
    source_names = "source_names"

    def __init__(
        self,
        folder: Path,
        source: str,
        subjects: Sequence[io.Subject],
        number: int = 1,
    ) -> None:
        name = f"Dataset{number:03d}_{re.sub('[^A-Za-z0-9]+', '', source) or 'Brain'}"
        super().__init__(folder / name, source, subjects)
        if not any(subject.label for subject in subjects):
            raise files.DataError(
                f"{source}: no subject has a label, and nnU-Net trains on labels. "
                "Convert --to=brats or --to=bids, or add the labels."
            )
        self._require_free(folder, number)
        self.labels = _nnunet_labels(self.spec)
        used = {0}
        for subject in subjects:
            if subject.label is not None:
                used.update(io.label_map(subject).values())
        self.stored = {ours: number for number, ours in enumerate(sorted(used))}
        self.names = _apart({n: re.sub(r"[^\w.-]|^[.-]", "-", n, flags=re.A)
                             for n in self.names})  # fmt: skip
        modalities = self.spec.modalities
        self.channels = {m: f"_{i:04d}" for i, m in enumerate(modalities)} | {"seg": ""}

    def _require_free(self, folder, number):
        others = sorted(folder.glob(f"Dataset{number:03d}_*"))
        taken = [path.name for path in others if path.name != self.folder.name]
        if taken:
            raise files.DataError(
                f"{folder / taken[0]}: has number {number} already. Name another one "
                "with --dataset_id."
            )

    def path(self, subject: io.Subject, role: str) -> Path:
        kind = "labels" if role == "seg" else "images"
        side = "Tr" if subject.label is not None else "Ts"
        file = f"{self.names[subject.name]}{self.channels[role]}{ENDING}"
        return self.folder / f"{kind}{side}" / file

    def require_fitting(self, path: Path, volume: np.ndarray) -> None:
        if volume.dtype.kind == "f" and np.isnan(volume).any():
            raise files.DataError(
                f"{path}: voxels that are no number (NaN), which nnU-Net refuses. "
                "Export it again."
            )

    def describe(self) -> None:
        images = (self.folder / "imagesTr").glob(f"*_0000{ENDING}")
        description = {
            "name": self.folder.name,
            "description": f"{self.source}, by brats_gan {brats_gan.__version__}",
            **self._common(),
            "numTraining": sum(path.name[0] != "." for path in images),
            self.source_names: self._changed(),
        }
        files.write_json(self.folder / self.described_by, description)

    def _common(self):
        return {
            "channel_names": dict(enumerate(self.spec.modalities)),
            "labels": {self.labels[i]: number for i, number in self.stored.items()},
            "file_ending": ENDING,
            "prepared": self.prepared,
        }


FORMATS = {"brats": Brats, "nnunet": NnUNet, "bids": Bids}


def chosen(
    to: str,
    folder: Path,
    source: str,
    subjects: Sequence[io.Subject],
    dataset_id: int = 1,
) -> Brats:
    """The format that subjects are written in, by its name in FORMATS.

    Args:
        to: one of FORMATS.
        folder: to write to.
        source: what the data is called.
        subjects: all of them, so that none gets the name of another.
        dataset_id: of nnU-Net, one of IDS.

    Raises:
        DataError: the format has no place for something of these subjects.
    """
    if to not in FORMATS:
        raise files.DataError(
            f"--to={to} is not known: choose of {', '.join(FORMATS)}."
        )
    if to == "nnunet":
        if dataset_id not in IDS:
            raise files.DataError(f"--dataset_id={dataset_id}: 1 to 999 is due.")
        return NnUNet(folder, source, subjects, dataset_id)
    return FORMATS[to](folder, source, subjects)


def _apart(wanted: dict[str, str], prefix: str = "") -> dict[str, str]:
    """Name -> name of a format, where those that would be equal get something more.

    Equal are names that differ in case alone, as they are in many file systems. What is
    added depends on the name itself, so that it is the same in the next call.
    """
    counts: dict[str, int] = {}
    for new in wanted.values():
        counts[new.lower()] = counts.get(new.lower(), 0) + 1
    settled = {}
    for old, new in wanted.items():
        if new in ("", prefix) or counts[new.lower()] > 1 and new != old:
            digest = hashlib.blake2b(old.encode(), digest_size=4).hexdigest()
            first, *session = new.split("_ses-") if prefix else (new,)
            new = "_ses-".join([first + digest, *session])
        settled[old] = new
    if len({new.lower() for new in settled.values()}) < len(settled):
        same = [o for o, n in settled.items() if counts[wanted[o].lower()] > 1]
        raise files.DataError(
            f"{' and '.join(same[:2])} would have one name. Rename one of them."
        )
    return settled


def _bids_name(name):
    """sub-ID[_ses-ID], of letters and digits alone."""
    visit = re.fullmatch("sub-(.+?)_ses-(.+)", name) or re.fullmatch(
        r"(BraTS-\w+-\d{5})-(\d{3})",
        name,  # since 2023, one folder a visit
    )
    parts = visit.groups() if visit else (name.removeprefix("sub-"),)
    parts = [re.sub("[^A-Za-z0-9]", "", part) for part in parts]
    return "_ses-".join([f"sub-{parts[0]}", *filter(None, parts[1:])])


def _bids_suffix(modality, spec):
    """The end of a file's name, by which the reader knows the modality again."""
    by_name = {suffix.lower(): suffix for suffix in _SUFFIXES}
    suffix = _NAMED_SUFFIXES.get(modality.lower()) or by_name.get(modality.lower())
    read = suffix and bids.role_of(f"sub-1_{suffix}", spec)
    if not read or read.role != modality:
        raise files.DataError(
            f"BIDS has no name for images of {modality} that is read as {modality} "
            f"again. Convert --to=nnunet, or name it in the specification as one of "
            f"{', '.join((*_NAMED_SUFFIXES, *_SUFFIXES))}."
        )
    return suffix


def _nnunet_labels(spec):
    """Names of labels in dataset.json, where 0 has to be background."""
    labels = ("background", *spec.labels[1:])
    for label in labels[1:]:
        if label.isdecimal() or label.lower() in ("background", "ignore"):
            raise files.DataError(
                f"label {label}: nnU-Net takes background for 0, ignore for what is "
                "not scored, and a number for no name. Name it in words in the "
                "specification."
            )
    for modality in spec.modalities:
        if names.role_by_channel(modality, spec) != modality:
            raise files.DataError(
                f"modality {modality}: would be read as another. Rename it in the "
                "specification."
            )
    return labels


def _write_table(path: Path, lines: Iterable[Any]) -> None:
    files.write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
