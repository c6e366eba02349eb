"""Phantom subjects: BraTS-like MRI with lesions, simulated from the MNI152 tissue maps.

A subject is the average anatomy that nilearn ships, warped, folded and given lesions
and look-alikes of lesions, then imaged four times by the MR signal equations with the
settings of one visit. docs/phantom.md lists what is simulated, from which source, and
how near to real scans it comes. TensorFlow is not imported: workers start fast.

Arrays are [X, Y, Z] of a slab of the BRATS grid, 1 mm: x to the left, y to the back, z
up.
"""

from brats_gan.phantom.anatomy import Scene, Warp, build_anatomy, sample_pose
from brats_gan.phantom.grid import (
    AFFINE,
    SLICES,
    Box,
    slab,
    smooth_noise,
    spline_upsample,
)
from brats_gan.phantom.imaging import sample_visit, tissue_signal
from brats_gan.phantom.lesions import (
    ENHANCING,
    NECROSIS,
    OEDEMA,
    Lesion,
    add_hyperintensities,
    add_lesion,
    add_vessels,
    ellipsoid_distance,
    sample_lesions,
)
from brats_gan.phantom.subjects import (
    classes_of,
    simulate_subject,
    write_subject,
    write_subjects,
    write_volumes,
)
from brats_gan.phantom.tissues import TISSUES, UPTAKE, Tissue

__all__ = [
    "AFFINE",
    "ENHANCING",
    "NECROSIS",
    "OEDEMA",
    "SLICES",
    "TISSUES",
    "UPTAKE",
    "Box",
    "Lesion",
    "Scene",
    "Tissue",
    "Warp",
    "add_hyperintensities",
    "add_lesion",
    "add_vessels",
    "build_anatomy",
    "classes_of",
    "ellipsoid_distance",
    "sample_lesions",
    "sample_pose",
    "sample_visit",
    "simulate_subject",
    "slab",
    "smooth_noise",
    "spline_upsample",
    "tissue_signal",
    "write_subject",
    "write_subjects",
    "write_volumes",
]
