"""Names: what the files of a modality, and of a label, are called by collections."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from brats_gan.spec import Spec

# What a name may end in, in lower case and with "_" between words. The name of the
# modality itself always counts. Sources: the releases of BraTS (t1ce, t1n, t2f), the
# Decathlon (T1w, T1gd), TCGA with the labels of BraTS 2017 (GlistrBoost), UCSF-PDGM
# (T1c, T1_bias, tumor_segmentation), UPENN-GBM (T1GD, segm), HD-GLIO (CT1).
_NAMES = {
    "t1": ("t1n", "t1w"),
    "t2": ("t2w",),
    "t1ce": ("t1c", "t1gd", "t1_ce", "t1_gd", "t1wce", "t1post", "t1_post", "ct1"),
    "flair": ("t2f", "fla", "t2_flair", "t2flair"),
    "seg": (
        "segm",
        "tumor_segmentation",
        "tumour_segmentation",
        "glistrboost_manuallycorrected",
    ),
}
# Taken only where none of the above is there.
_SECOND_NAMES = {
    "t1": ("t1_bias",),
    "t2": ("t2_bias",),
    "t1ce": ("t1c_bias", "t1gd_bias"),
    "flair": ("flair_bias",),
    "seg": (
        "glistrboost",
        "automated_approx_segm",
        "lesion_segmentation",
        "segmentation",
        "segmentations",
        "tumor_mask",
        "tumormask",
        "lesion_mask",
        "dseg",
        "label",
    ),
}
# Words before "seg" or "segmentation" that make it one of something else.
_NO_LESION = ("brain", "parenchyma", "tissue", "skull", "vessel", "wm", "gm")

# Folders of labels, by their names in lower case.
_LABEL_FOLDERS = (
    *("seg", "segm", "segs", "segmentation", "segmentations", "label", "labels"),
    *("labelstr", "images_segm", "automated_segm", "tumor_segmentation"),
)

# How far a name can be trusted, the lower the further.
NAMED, SECOND, BARE, BY_FOLDER = 0, 1, 2, 4


class Named(NamedTuple):
    """What a file says of itself."""

    prefix: str  # what is before the modality: "BraTS20_001" of BraTS20_001_t1.nii.gz
    separator: str  # before the modality: "_", "-", or "" where there is no prefix
    role: str  # a modality, or "seg"
    rank: int  # NAMED, SECOND, BARE, or a sum of these


def stem(name: str) -> str | None:
    """A file's name without the ending of an image; None where it has no such ending.

    An ending may be in any case: .nii, .nii.gz or .mha.
    """
    match = re.match(r"(.+?)(\.nii|\.nii\.gz|\.mha)$", name, re.IGNORECASE)
    return match[1] if match else None


def file_names(role: str) -> tuple[str, ...]:
    """What the name of a file of a role may end in, in lower case, best first."""
    return (role.lower(), *_NAMES.get(role, ()))


@functools.cache
def _roles(spec):
    """Ending of a name -> (role, rank)."""
    roles = (*spec.modalities, "seg")
    found = {role.lower(): (role, NAMED) for role in roles}
    for rank, table in ((NAMED, _NAMES), (SECOND, _SECOND_NAMES)):
        for role in roles:
            for name in table.get(role, ()):
                found.setdefault(name, (role, rank))
    return found


def role_of(name_stem: str, spec: Spec) -> Named | None:
    """What a file is by its own name, without ending; None where it does not say."""
    words = re.split("([_-])", name_stem)  # word, separator, word, ...
    for first in range(max(0, len(words) - 5), len(words), 2):  # three words at most
        ending = "".join(words[first:]).lower().replace("-", "_")
        if ending not in _roles(spec):
            continue
        role, rank = _roles(spec)[ending]
        before = words[first - 2].lower() if first else ""
        if role == "seg" and before in _NO_LESION:
            return None
        if not first:
            return Named("", "", role, rank + BARE)
        prefix = "".join(words[: first - 1])
        return Named(prefix, words[first - 1], role, rank) if prefix else None
    return None


def role_by_channel(name: str, spec: Spec) -> str | None:
    """The modality that dataset.json calls a channel; None where it is none."""
    word = re.sub("[ -]", "_", name.strip().lower())
    role, _ = _roles(spec).get(word, (None, None))
    return None if role == "seg" else role


def role_of_folder(name: str, spec: Spec) -> str | None:
    """The role of all files in a folder of that name; None where it has none."""
    if name.lower() in _LABEL_FOLDERS:
        return "seg"
    role, rank = _roles(spec).get(name.lower(), (None, NAMED))
    return role if rank == NAMED else None


def as_before(found: list[tuple], listed: object) -> list[tuple]:
    """(name, ...) of the subjects of a folder that was converted, as they were named.

    Args:
        found: tuples that begin with the name of a subject.
        listed: what the folder says of it, {name: name before}; anything else is none.
    """
    pairs = listed.items() if isinstance(listed, dict) else ()
    before = {str(new).lower(): old for new, old in pairs if isinstance(old, str)}
    return [(before.get(name.lower(), name), *rest) for name, *rest in found]


def is_of_2023(name: str) -> bool:
    """Whether a file or a subject is named as BraTS does since 2023.

    By then label 3 is the enhancing core, which it never was before.
    """
    modality = re.search(r"[_-](t1n|t2f)(\.|$)|^(t1n|t2f)\.", name, re.IGNORECASE)
    challenge = re.search(
        r"BraTS-(GLI|MET|MEN|PED|SSA|GoAT)-\d{5}", name, re.IGNORECASE
    )
    return bool(modality or challenge or re.search(r"-(t2w|t1c|seg)\.", name, re.I))


def is_paediatric(name: str) -> bool:
    """Whether a subject is of BraTS-PEDs."""
    return re.search(r"BraTS-?PEDs?-\d{3}", name, re.IGNORECASE) is not None
