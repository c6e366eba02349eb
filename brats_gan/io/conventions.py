"""Conventions: what each collection means by the numbers in its label files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from brats_gan.files import DataError

# Number in the file -> what it is there, and the index in BRATS.labels that it is read
# as; None where it has no counterpart. From 2017 on, label 1 is necrosis together with
# the non-enhancing core. Label 3 went out of use that year, but files written by this
# project have it; 2023 gave the number to the enhancing core, 2024 gave 4 to the
# resection cavity. BraTS-PEDs numbers in two other ways (arXiv 2305.17033, 2404.15009).
CONVENTIONS: Mapping[str, Mapping[int, tuple[str, int | None]]] = {
    "brats2015": {
        1: ("necrosis", 1),
        2: ("oedema", 2),
        3: ("the non-enhancing core", 3),
        4: ("the enhancing core", 4),
    },
    "brats2018": {
        1: ("necrosis with the non-enhancing core", 1),
        2: ("oedema", 2),
        3: ("the non-enhancing core", 3),
        4: ("the enhancing core", 4),
    },
    "brats2023": {
        1: ("the non-enhancing core", 1),
        2: ("oedema", 2),
        3: ("the enhancing core", 4),
    },
    "brats2024": {
        1: ("the non-enhancing core", 1),
        2: ("oedema", 2),
        3: ("the enhancing core", 4),
        4: ("the resection cavity", None),
    },
    "peds2023": {
        1: ("the non-enhancing core, with cysts and necrosis", 1),
        2: ("oedema", 2),
        3: ("the enhancing core", 4),
    },
    "peds2024": {
        1: ("the enhancing core", 4),
        2: ("the non-enhancing core", 3),
        3: ("cysts", 1),
        4: ("oedema", 2),
    },
    "msd": {
        1: ("oedema", 2),
        2: ("the non-enhancing core with necrosis", 3),
        3: ("the enhancing core", 4),
    },
}

_MOST = 65535  # a stored label


class Labelling(NamedTuple):
    """How a user asks for labels to be read. All values are those stored in files."""

    convention: str | None = None  # one of CONVENTIONS; None: by names of files
    merge: tuple[tuple[int, int], ...] = ()  # (value, value that it is read as)
    drop: tuple[int, ...] = ()  # read as background


AS_NAMED = Labelling()  # what the names of files say


def _parts(flag):
    """What commas part; a part may not be empty, but the whole flag may."""
    text = (flag or "").replace(" ", "")
    return text.split(",") if text else []


def labelling(
    convention: str | None = None, merge: str | None = None, drop: str | None = None
) -> Labelling:
    """What the flags --labels, --merge_labels and --drop_labels say.

    Args:
        convention: one of CONVENTIONS, or None.
        merge: pairs such as "3:1,255:1"; each first value is read as the second.
        drop: values such as "4,5", read as background.

    Raises:
        DataError: names the flag that cannot be understood.
    """
    if convention and convention not in CONVENTIONS:
        raise DataError(
            f"--labels={convention} is not known: choose of {', '.join(CONVENTIONS)}."
        )
    pairs = []
    for text in _parts(merge):
        match = re.fullmatch("([0-9]{1,5}):([0-9]{1,5})", text)
        if not match or int(match[1]) > _MOST:
            raise DataError(
                f"--merge_labels={merge}: pairs of numbers are due, such as 3:1,255:1."
            )
        pairs.append((int(match[1]), int(match[2])))
    dropped = []
    for text in _parts(drop):
        if not re.fullmatch("[0-9]{1,5}", text) or int(text) > _MOST:
            raise DataError(
                f"--drop_labels={drop}: numbers are due, such as 4 or 4,255."
            )
        dropped.append(int(text))
    twice = {first for first, _ in pairs} & {*dropped}
    if twice or len({first for first, _ in pairs}) < len(pairs):
        raise DataError(
            f"--merge_labels={merge}, --drop_labels={drop}: a label is named twice. "
            "Leave one out."
        )
    return Labelling(convention or None, tuple(pairs), tuple(dropped))


def values(convention: str) -> dict[int, int]:
    """Label in the file -> index in BRATS.labels, of those that have a counterpart."""
    named = CONVENTIONS[convention].items()
    return {0: 0} | {value: ours for value, (_, ours) in named if ours is not None}


def without_counterpart(convention: str) -> dict[int, str]:
    """Label in the file that has no counterpart here -> what to do about it."""
    named = CONVENTIONS[convention].items()
    return {
        value: f"{value} is {what}, which has no counterpart here: set it to 0 "
        f"(--drop_labels={value} does), or leave those subjects out"
        for value, (what, ours) in named
        if ours is None
    }


def edited(
    mapping: Mapping[int, int], wanted: Labelling, source: object = "labels"
) -> dict[int, int]:
    """A mapping with the labels merged and dropped that a user asks for.

    Raises:
        DataError: a label is to be merged with one that the mapping does not have.
    """
    result = dict(mapping)
    for value, target in wanted.merge:
        if target not in mapping:
            raise DataError(
                f"{source}: --merge_labels={value}:{target}, but there is no label "
                f"{target} in this collection. Choose of "
                f"{', '.join(map(str, sorted(mapping)))}."
            )
        result[value] = mapping[target]
    return result | dict.fromkeys(wanted.drop, 0)


# Words of the name of a label, looked for in this order: "non-enhancing" also contains
# "enhancing".
_WORDS = (
    ("background", 0),
    ("necro", 1),
    ("cyst", 1),
    ("edema", 2),
    ("oedema", 2),
    ("non-enhancing", 3),
    ("enhancing", 4),
)


def ours_by_name(name: str) -> int | None:
    """Index in BRATS.labels of a label by its name in a file; None where unknown."""
    words = re.sub(r"(non|not|un)[\W_]*enhancing", "non-enhancing", name.lower())
    return next((index for word, index in _WORDS if word in words), None)
