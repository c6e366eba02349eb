"""Subjects on disk -> batches (Sections 3.1, 3.3).

Every volume is decoded once, cut, scaled and kept as raw slices in a cache folder, from
which batches are read; memory does not grow with the number of subjects. What step k
gets depends on the seed and k alone, so a resumed run sees the data of an uninterrupted
one.
"""

from brats_gan.data.batches import (
    CANDIDATES,
    LESION_FREE,
    in_order,
    multimodal_batches,
    sample_labels,
    segmentation_batches,
    shuffled,
    structural_batches,
)
from brats_gan.data.label_pool import LabelPool
from brats_gan.data.slices import LEVELS, Slices, preprocessing
from brats_gan.data.source import Source
from brats_gan.data.splits import (
    find_split,
    given_split,
    load_split,
    random_split,
    save_split,
    split_subjects,
)

__all__ = [
    "CANDIDATES",
    "LESION_FREE",
    "LEVELS",
    "LabelPool",
    "find_split",
    "Slices",
    "Source",
    "given_split",
    "in_order",
    "load_split",
    "multimodal_batches",
    "preprocessing",
    "random_split",
    "sample_labels",
    "save_split",
    "segmentation_batches",
    "shuffled",
    "split_subjects",
    "structural_batches",
]
