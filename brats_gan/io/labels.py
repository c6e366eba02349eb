"""Labels: how each year of BraTS numbers them, to ours and back."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from brats_gan.files import DataError, read_json
from brats_gan.io.layouts import Subject, small_number
from brats_gan.spec import BRATS, Spec

# Label in the file -> index in BRATS.labels. From 2017 on, label 1 is necrosis together
# with the non-enhancing core. Label 3 went out of use that year, but files written by
# this project have it; 2023 gave the number to the enhancing core.
LABEL_MAPS = {
    "brats2015": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    "brats2018": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    "brats2023": {0: 0, 1: 1, 2: 2, 3: 4},
    "msd": {0: 0, 1: 2, 2: 3, 3: 4},  # where dataset.json does not say otherwise
}

# Words of a label name in dataset.json, looked for in this order: "non-enhancing" also
# contains "enhancing".
_MSD_LABELS = (
    ("background", 0),
    ("necro", 1),
    ("edema", 2),
    ("oedema", 2),
    ("non-enhancing", 3),
    ("enhancing", 4),
)


def label_map(subject: Subject) -> dict[int, int]:
    """Label in the subject's file -> index in its spec.labels; for MSD by dataset.json.

    The years of BraTS number their labels in ways of their own. Labels of another Spec
    are numbered in the files as they are there.
    """
    if subject.spec.labels != BRATS.labels:
        return {value: value for value in range(subject.spec.num_labels)}
    if subject.layout != "msd" or subject.label is None:
        return LABEL_MAPS[subject.layout]
    description = subject.label.parent.parent / "dataset.json"
    named = read_json(description).get("labels")
    if not isinstance(named, dict):
        return LABEL_MAPS["msd"]
    mapping = {}
    for key, value in named.items():
        # {"1": "edema"} in the Decathlon's own files, {"edema": 1} in nnU-Net's.
        number, name = (key, value) if key.isdecimal() else (value, key)
        words = str(name).lower().replace("non enhancing", "non-enhancing")
        ours = next((index for word, index in _MSD_LABELS if word in words), None)
        if ours is None:
            raise DataError(
                f"{description}: label {number!a:.40}: {name!a:.40} is not one of "
                f"{', '.join(BRATS.labels)}. Name it as one of them."
            )
        mapping[small_number(description, number)] = ours
    if not mapping:
        raise DataError(f'{description}: no label in "labels". Restore the file.')
    return mapping


def to_ours(
    stored: np.ndarray,
    mapping: Mapping[int, int],
    source: str | os.PathLike = "labels",
) -> np.ndarray:
    """Labels as stored, of any dtype and shape -> indices in spec.labels, uint8.

    `source` is the file an error names.
    """
    stored = np.asarray(stored)
    if stored.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = (stored == np.rint(stored)) & np.isfinite(stored)
        if not whole.all():
            raise DataError(
                f"{source}: labels that are not whole numbers, such as "
                f"{stored[~whole].flat[0]:g}. It was resampled with interpolation, or "
                "is not a segmentation: take the original, or resample with nearest."
            )
    known = max(mapping)
    unknown = stored.size and (stored.min() < 0 or stored.max() > known)
    if not unknown:
        table = np.full(known + 1, 255, np.uint8)
        table[list(mapping)] = list(mapping.values())
        ours = table[stored.astype(np.uint8, copy=False)]
        unknown = ours.max(initial=0) == 255
    if unknown:
        values = sorted({int(v) for v in np.unique(stored)} - set(mapping))
        raise DataError(
            f"{source}: unknown label{'s' * (len(values) > 1)} "
            f"{', '.join(map(str, values[:8]))}{', ...' * (len(values) > 8)}; this "
            f"layout has {', '.join(map(str, sorted(mapping)))}. If the files follow "
            "another year's convention, name it with --layout."
        )
    return ours


def from_ours(
    labels: np.ndarray,
    mapping: Mapping[int, int],
    source: str | os.PathLike = "labels",
    spec: Spec = BRATS,
) -> np.ndarray:
    """The inverse of `to_ours`: indices in spec.labels -> labels of a layout, uint8."""
    inverse = {ours: stored for stored, ours in mapping.items()}
    missing = sorted({int(v) for v in np.unique(labels)} - set(inverse))
    if missing:
        named = dict(enumerate(spec.labels))
        names = ", ".join(named.get(v, str(v)) for v in missing)
        raise DataError(f"{source}: this layout has no label for {names}.")
    table = np.zeros(spec.num_labels, np.uint8)
    table[list(inverse)] = list(inverse.values())
    return table[labels]
