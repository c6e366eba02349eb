"""Which real data a stage reads, and how it is split, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brats_gan import io, spec
from brats_gan.data.slices import Slices
from brats_gan.data.splits import find_split


@dataclass(frozen=True)
class Source:
    """A folder of subjects, and how it is read. Fields are named as flags are."""

    data_dir: str | None  # see data/README.md
    layout: str | None = None  # one of io.LAYOUTS; None: look
    split: str | None = None  # a split.json to keep to
    split_seed: int = 0
    held_out: float = 0.1  # share of the subjects, where the split is drawn
    slices: tuple[int, int] = spec.SLICES  # half-open (D15)
    cache_dir: str | None = None  # keeps decoded slices for later runs
    check: bool = True  # all headers and labels first

    def __post_init__(self):
        object.__setattr__(self, "slices", tuple(self.slices))

    def subjects(
        self, run_dir: Path, strict: bool = True
    ) -> tuple[list[io.Subject], list[io.Subject], dict]:
        """Subjects to train on, those held out, and the split, see `find_split`."""
        return find_split(
            self.data_dir,
            run_dir,
            seed=self.split_seed,
            given=self.split,
            layout=self.layout,
            check=self.check,
            slices=self.slices,
            held_out=self.held_out,
            strict=strict,
        )

    def read(self, subjects: list[io.Subject], image_size: int) -> Slices:
        """The slices in range of some of its subjects."""
        return Slices(subjects, image_size, self.slices, cache_dir=self.cache_dir)
