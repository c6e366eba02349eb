"""Labels: how each collection numbers them, to ours and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from brats_gan.files import DataError
from brats_gan.io import bids, conventions, names, nnunet
from brats_gan.io.layouts import Subject
from brats_gan.spec import BRATS, Spec

# Label in the file -> index in BRATS.labels, of each layout where nothing else says it.
LABEL_MAPS = {
    "brats2015": conventions.values("brats2015"),
    "brats2018": conventions.values("brats2018"),
    "brats2023": conventions.values("brats2023"),
    "msd": conventions.values("msd"),  # where dataset.json does not say otherwise
    "nnunet": conventions.values("msd"),  # the same
    "bids": bids.LABELS,  # where no dseg.tsv says otherwise
}

# What a label may be that a layout does not have, and what to do about it.
_OF_2023_ON = (
    "4 is the resection cavity of 2024 (or oedema in BraTS-PEDs 2024, "
    "--labels=peds2024): set it to 0 (--labels=brats2024 --drop_labels=4 does), or "
    "leave those subjects out"
)
_THREE = (
    "3 is the enhancing core in files named as since 2023 (--labels=brats2023, or "
    "brats2024 if 4 is the resection cavity), and was the non-enhancing one before "
    "(--labels=brats2015)"
)
_MASK = (
    "255 is that of a mask saved as a picture, of one region: --merge_labels=255:1 "
    "reads it as label 1, and other numbers in place of 1 as those"
)
_ROUNDING = 4 * np.finfo(np.float32).eps  # of a label that was scaled


def label_map(subject: Subject) -> dict[int, int]:
    """Label in the subject's file -> index in its spec.labels.

    By --labels where that was given; else by names in dataset.json or dseg.tsv; else
    by the layout. Labels of another Spec than BraTS' are numbered in the files as they
    are there, where no names say otherwise.

    Raises:
        DataError: a name in such a file is none of a label here.
    """
    return conventions.edited(_unedited(subject), subject.labelling, subject.label)


def _unedited(subject):
    wanted, label, spec = subject.labelling, subject.label, subject.spec
    is_brats = spec.labels == BRATS.labels
    if is_brats and wanted.convention:
        return conventions.values(wanted.convention)
    edited = {*wanted.drop, *(value for value, _ in wanted.merge)}
    found = None
    if label is not None and subject.layout in ("msd", "nnunet"):
        found = nnunet.label_map(label, spec, edited)
    if label is not None and subject.layout == "bids":
        table = bids.label_names(label)
        if table is not None:
            found = nnunet.by_names(table[0], list(table[1].items()), spec, edited)
    if found is not None:
        return found
    if not is_brats:
        return {value: value for value in range(spec.num_labels)}
    mapping = LABEL_MAPS[subject.layout]
    if subject.layout == "brats2018" and _is_of_2023(subject):
        mapping = {value: ours for value, ours in mapping.items() if value != 3}
    return mapping


def _is_of_2023(subject):
    """Whether files that are read as of before are named as since 2023."""
    paths = [subject.label, *(path for path, _ in subject.images.values())]
    return any(path is not None and names.is_of_2023(path.name) for path in paths)


def remedies(subject: Subject) -> dict[int, str]:
    """Label that `label_map` does not have -> what it may be, and what to do."""
    hints = {255: _MASK}
    if subject.spec.labels != BRATS.labels:
        return hints
    if subject.labelling.convention:
        return hints | conventions.without_counterpart(subject.labelling.convention)
    if subject.layout == "brats2023":
        return hints | {4: _OF_2023_ON}
    return hints | {3: _THREE}


def ambiguities(layout: str | None, there: set[int]) -> list[str]:
    """What labels could mean other than what they are read as, of all subjects at once.

    `there` are the indices in BRATS.labels that any subject has.
    """
    found = []
    if there == {1}:
        found.append(
            "label 1 alone, of four: a mask of whole lesions would be read as "
            "necrosis. Name labels and modalities of data like that with --spec, or "
            "say what 1 is: --merge_labels=1:2 reads it as label 2."
        )
    if layout == "brats2018" and 3 in there and 4 not in there:
        found.append(
            "label 3 but never 4: files of 2023 or later that were renamed need "
            "--layout=brats2023, or their enhancing core is read as non-enhancing."
        )
    return found


def to_ours(
    stored: np.ndarray,
    mapping: Mapping[int, int],
    source: object = "labels",
    slope: float = 1.0,
    hints: Mapping[int, str] | None = None,
) -> np.ndarray:
    """Labels as stored, of any dtype and shape -> indices in spec.labels, uint8.

    Args:
        stored: labels, whole numbers.
        mapping: see `label_map`.
        source: the file an error names.
        slope: by which the file's header scaled them; they are whole within half of it.
        hints: see `remedies`.

    Raises:
        DataError: a label is no whole number, or one that the mapping does not have.
    """
    stored = np.asarray(stored)
    if stored.dtype.kind == "f":
        stored = _whole(stored, source, abs(slope))
    known = max(mapping)
    unknown = stored.size and (stored.min() < 0 or stored.max() > known)
    if not unknown:
        table = np.full(known + 1, -1, np.int16)
        table[list(mapping)] = list(mapping.values())
        ours = table[stored.astype(np.uint8 if known < 256 else np.uint16, copy=False)]
        unknown = ours.min(initial=0) < 0
    if unknown:
        values = sorted({int(v) for v in np.unique(stored)} - set(mapping))
        raise DataError(_unknown(source, values, mapping, hints or {}))
    return ours.astype(np.uint8)


def _whole(stored, source, slope):
    """Labels as float -> whole ones; within half a slope of one, where there is one."""
    nearest = np.rint(stored)
    with np.errstate(invalid="ignore"):
        apart = np.abs(stored - nearest)
    allowed = 0.0
    if slope != 1:
        # Beyond a tenth, anything would be near to some whole number.
        allowed = min(slope / 2 + _ROUNDING * np.abs(nearest).max(initial=0), 0.1)
    off = ~(apart <= allowed)  # NaN and infinity, too
    if not off.any():
        return nearest
    example = f"{source}: labels that are not whole numbers, such as {stored[off][0]:g}"
    if slope != 1:
        raise DataError(
            f"{example}; the header scales them (scl_slope {slope:.3g}). Save the "
            "label as integers, without scaling."
        )
    raise DataError(
        f"{example}. It was resampled with interpolation, or is not a segmentation: "
        "take the original, or resample with nearest."
    )


def _unknown(source, values, mapping, hints):
    said = [hints[value] for value in values if value in hints] or [
        "If the numbers are those of another collection, name it with --labels "
        f"({', '.join(conventions.CONVENTIONS)}); --merge_labels={values[0]}:N reads "
        f"{values[0]} as label N, --drop_labels={values[0]} as background"
    ]
    return (
        f"{source}: unknown label{'s' * (len(values) > 1)} "
        f"{', '.join(map(str, values[:8]))}{', ...' * (len(values) > 8)}; this "
        f"layout has {', '.join(map(str, sorted(mapping)))}. {'; '.join(said)}."
    )


def from_ours(
    labels: np.ndarray,
    mapping: Mapping[int, int],
    source: object = "labels",
    spec: Spec = BRATS,
) -> np.ndarray:
    """The inverse of `to_ours`: indices in spec.labels -> labels of a layout, uint8."""
    inverse = {ours: stored for stored, ours in mapping.items()}
    missing = sorted({int(v) for v in np.unique(labels)} - set(inverse))
    if missing:
        named = dict(enumerate(spec.labels))
        shown = ", ".join(named.get(v, str(v)) for v in missing)
        raise DataError(f"{source}: this layout has no label for {shown}.")
    table = np.zeros(spec.num_labels, np.uint8)
    table[list(inverse)] = list(inverse.values())
    return table[labels]
