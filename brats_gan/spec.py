"""What a data set is: modalities, labels, lesion regions, slices and crop.

The paper's method is bound to no body part, lesion or number of modalities (Section 2),
so nothing else in the package is: a `Spec` goes with the data through networks, losses,
exports, manifest and tables. BRATS is the one that is built in; others come from JSON
files by --spec (docs/how_to.md). Decisions of the project are cited as D15
(docs/deviations.md).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from brats_gan.files import DataError, require_regular

MOST_LABELS = 256  # labels are stored as uint8
WHOLE = "whole"  # the region of all lesion labels, which every data set has


@dataclass(frozen=True)
class Spec:
    """A data specification: what differs from one collection of data to the next.

    Raises:
        ValueError: a name comes twice or cannot be part of a file name, a region names
            unknown labels, or a number is out of range.
    """

    modalities: tuple[str, ...]  # in the order of the channels; index = category
    labels: tuple[str, ...]  # index = value; 0 is no lesion
    # Of the lesion, as the field scores them: name -> labels. WHOLE is always there.
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    slices: tuple[int, int] = (55, 105)  # half-open, of axial slices (D15)
    crop: int = 192  # pixels a side, around the brain
    field: int = 240  # pixels a side of a slice as it is stored
    # False: there is noise around the head, which is removed (D35).
    zero_background: bool = True
    # Weights of a pixel by its label in image and in lesion losses (D9, D12); lesions
    # fill few pixels. Empty: LESION_WEIGHT each.
    image_weights: tuple[float, ...] = ()
    label_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        def settle(name, value):
            object.__setattr__(self, name, value)

        for name in ("modalities", "labels", "slices"):
            settle(name, tuple(getattr(self, name)))
        lesions = tuple(range(1, len(self.labels)))
        regions = {WHOLE: lesions} | {k: tuple(v) for k, v in self.regions.items()}
        settle("regions", regions)
        for name, background in (("image_weights", 1.0), ("label_weights", 0.7)):
            given = tuple(map(float, getattr(self, name)))
            settle(name, given or (background, *(LESION_WEIGHT for _ in lesions)))
        self._require_names()
        self._require_numbers(lesions)

    def _require_names(self):
        for what, names, least in (
            ("modalities", self.modalities, 2),
            ("labels", self.labels, 2),
            ("regions", tuple(self.regions), 1),
        ):
            if len(names) < least:
                raise ValueError(f"{what}: {least} or more are due, not {len(names)}")
            for name in names:
                # A name is part of file names, of layers' names, of columns.
                if not isinstance(name, str) or not _NAMES[what].fullmatch(name):
                    raise ValueError(f"{what}: {name!r} is no name of {_NAMED[what]}")
            if len({name.lower() for name in names}) < len(names):
                raise ValueError(f"{what}: a name comes twice in {', '.join(names)}")
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"labels: {MOST_LABELS} at most, not {len(self.labels)}")
        taken = {*_RESERVED}.intersection(self.modalities)
        if taken:
            raise ValueError(f"modalities: {', '.join(sorted(taken))} is taken")

    def _require_numbers(self, lesions):
        for name, values in self.regions.items():
            if not values or not {*values} <= {*lesions}:
                raise ValueError(
                    f"regions: {name}: {list(values)} are not all of the labels 1 to "
                    f"{len(lesions)}"
                )
            if name in self.labels and values != (self.labels.index(name),):
                raise ValueError(f"regions: {name} is a label, and of that label alone")
        if self.regions[WHOLE] != lesions:
            raise ValueError(f"regions: {WHOLE} is of all lesion labels, or left out")
        whole = all(type(each) is int for each in (*self.slices, self.crop, self.field))
        if (
            not whole
            or len(self.slices) != 2
            or not 0 <= self.slices[0] < self.slices[1]
        ):
            raise ValueError(f"slices: {list(self.slices)} are no two rising numbers")
        if not 0 < self.crop <= self.field:
            raise ValueError(f"crop: {self.crop} of a field of {self.field} pixels")
        if type(self.zero_background) is not bool:
            raise ValueError(
                f"zero_background: {self.zero_background} is no true or false"
            )
        for name in ("image_weights", "label_weights"):
            weights = getattr(self, name)
            if len(weights) != len(self.labels) or not all(
                0 < each < float("inf") for each in weights
            ):
                raise ValueError(
                    f"{name}: {list(weights)} are no {len(self.labels)} numbers above 0"
                )

    def __hash__(self) -> int:  # equal ones have equal names; a dict has no hash
        return hash((self.modalities, self.labels, self.slices, self.crop, self.field))

    @property
    def num_modalities(self) -> int:
        return len(self.modalities)

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: lists in place of tuples, regions by the names of their labels."""
        regions = {
            name: [self.labels[value] for value in values]
            for name, values in self.regions.items()
        }
        listed = {
            each.name: list(value) if isinstance(value, tuple) else value
            for each in fields(self)
            for value in [getattr(self, each.name)]
        }
        return {**listed, "regions": regions}

    def __str__(self) -> str:
        """As the flag --spec takes it, in one line; `parse` reads it."""
        return json.dumps(self.as_dict())


LESION_WEIGHT = 4.0
# A modality ends a file's name, after a _ or a -.
_NAMES = dict.fromkeys(("labels", "regions"), re.compile(r"[A-Za-z0-9][A-Za-z0-9 .-]*"))
_NAMES["modalities"] = re.compile(r"[A-Za-z0-9]+")
_NAMED = dict.fromkeys(_NAMES, "letters, digits, spaces, - and .")
_NAMED["modalities"] = "letters and digits"
# Files of a data set, columns of its tables and outputs of its exports have these.
_RESERVED = ("seg", "structure", "background", "label", "mean", "all")

BRATS = Spec(
    modalities=("t1", "t2", "t1ce", "flair"),
    labels=("background", "necrosis", "oedema", "non-enhancing", "enhancing"),
    regions={"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)},
    # Lesions fill few pixels, necrosis and rims fewest; measured in small trials.
    image_weights=(1.0, 4.0, 1.9, 4.0, 4.0),
    label_weights=(0.7, 5.0, 2.0, 8.0, 4.0),
)


def from_dict(given: Any) -> Spec:
    """The inverse of Spec.as_dict; what is left out keeps its default.

    Raises:
        ValueError: names what is wrong.
    """
    if not isinstance(given, dict):
        raise ValueError("an object with modalities and labels is due")
    known = [each.name for each in fields(Spec)]
    unknown = sorted(given.keys() - {*known})
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    for name in ("modalities", "labels"):
        if name not in given:
            raise ValueError(f"{name} are missing")
    for name, value in given.items():
        if name in _LISTS and not isinstance(value, list | tuple):
            raise ValueError(f"{name}: a list is due, not {value!r}")
    regions = given.get("regions", {})
    if not isinstance(regions, dict):
        raise ValueError(f"regions: an object is due, not {regions!r}")
    labels = list(given["labels"])
    try:
        regions = {
            name: tuple(labels.index(each) for each in names)
            for name, names in regions.items()
        }
        return Spec(**{**given, "regions": regions})
    except TypeError as error:  # a list of lists, a number in place of names
        raise ValueError(str(error)) from error


_LISTS = ("modalities", "labels", "slices", "image_weights", "label_weights")


def parse(text: str | os.PathLike | None) -> Spec:
    """What --spec says: a JSON file, or JSON itself; None is BRATS.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    if text is None:
        return BRATS
    if str(text).lstrip().startswith("{"):
        return from_dict(json.loads(str(text)))
    try:
        path = Path(text).expanduser()
        require_regular(path)
        return from_dict(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ValueError(f"{text}: {error.strerror}") from error
    except ValueError as error:  # of JSON, of UTF-8 too
        raise ValueError(f"{text}: {error}") from error


def of_description(described: Mapping[str, Any], source: str = "weights") -> Spec:
    """The specification in the description of an export, of weights or of a data set.

    A description without one is older than specifications, and is of BRATS.

    Raises:
        DataError: it is damaged; `source` is what the message names.
    """
    try:
        return from_dict(described["spec"]) if "spec" in described else BRATS
    except ValueError as error:
        raise DataError(
            f"{source}: the specification in it is damaged ({error}). Copy it again."
        ) from error


def differences(one: Spec, other: Spec) -> str:
    """How two differ, so that networks of one are of no use to the other; "" if not."""
    return "; ".join(
        f"{name} {', '.join(getattr(one, name))} against "
        f"{', '.join(getattr(other, name))}"
        for name in ("modalities", "labels")
        if getattr(one, name) != getattr(other, name)
    )
