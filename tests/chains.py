"""Stages 1 and 2 on tiny NIfTI, a step each: what tests of later stages begin with."""

from pathlib import Path

from brats_gan import data
from brats_gan.stages import multimodal, structural
from tests import nifti

TINY = {"image_size": 32, "width": 2, "batch_size": 2, "precision": "float32"}


def train(root: Path, source: data.Source, shape: tuple[int, int, int]) -> Path:
    """Writes three subjects of `shape` to ROOT/data, and trains ROOT/structural and
    ROOT/multimodal on them; returns `root`."""
    for number in range(3):
        nifti.write_subject(root / "data", f"s{number}", shape, number)
    first = structural.Settings(**TINY, steps=1, code_channels=1, flow_steps=0)
    structural.train(first, source, root / "structural")
    second = multimodal.Settings(**TINY, steps=1, first_phase=1.0, scheme="single")
    multimodal.train(second, source, root / "multimodal")
    return root
