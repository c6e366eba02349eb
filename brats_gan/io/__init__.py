"""Volumes in and out of files: how BraTS is distributed, year by year.

How each year names and numbers its files and labels is in layouts and labels; whose
visit a subject is, in patients; how one on disk becomes two arrays, in subjects.
Decisions of the project are cited as D1, D15 (docs/deviations.md). checks and convert
stand on this and are imported by name.

Axes: a volume is [H, W, S] in LPS, so rows run anterior to posterior, columns right to
left and slices foot to head, as in the raw BraTS arrays.
"""

from brats_gan.io.conventions import AS_NAMED, CONVENTIONS, Labelling, labelling
from brats_gan.io.headers import (
    Grid,
    Header,
    lps_affine,
    lps_grid,
    require_channel,
    require_same_grid,
    require_slices,
)
from brats_gan.io.labels import (
    LABEL_MAPS,
    ambiguities,
    from_ours,
    label_map,
    to_ours,
)
from brats_gan.io.layouts import (
    LAYOUTS,
    Subject,
    explore,
    find_subjects,
    first_of,
    images_by_file,
    survey,
)
from brats_gan.io.nifti import IMAGE_SLOPE, nifti_bytes, write_nifti
from brats_gan.io.streams import reading
from brats_gan.io.subjects import (
    load_label,
    load_lesion_map,
    parse_slices,
    place_back,
    read_subject,
    require_lesions,
    resize_nearest,
    same_label,
    silhouette,
)
from brats_gan.io.volumes import load_channels, load_volume, read_header

__all__ = [
    "AS_NAMED",
    "CONVENTIONS",
    "IMAGE_SLOPE",
    "LABEL_MAPS",
    "LAYOUTS",
    "Grid",
    "Header",
    "Labelling",
    "Subject",
    "ambiguities",
    "explore",
    "find_subjects",
    "first_of",
    "from_ours",
    "images_by_file",
    "label_map",
    "labelling",
    "load_channels",
    "load_label",
    "load_lesion_map",
    "load_volume",
    "lps_affine",
    "lps_grid",
    "nifti_bytes",
    "parse_slices",
    "place_back",
    "read_header",
    "read_subject",
    "reading",
    "require_channel",
    "require_lesions",
    "require_same_grid",
    "require_slices",
    "resize_nearest",
    "same_label",
    "silhouette",
    "survey",
    "to_ours",
    "write_nifti",
]
