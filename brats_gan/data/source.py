"""Which real data a stage reads, and how it is split, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brats_gan import io
from brats_gan.data.slices import Slices
from brats_gan.data.splits import find_split
from brats_gan.spec import BRATS, Spec


@dataclass(frozen=True)
class Source:
    """A folder of subjects, and how it is read. Fields are named as flags are."""

    data_dir: str | None  # see data/README.md
    layout: str | None = None  # one of io.LAYOUTS; None: by file names
    split: str | None = None  # a split.json to use
    split_seed: int = 0
    held_out: float = 0.1  # share of the patients, if the split is drawn
    slices: tuple[int, int] | None = None  # half-open (D15); None: that of the spec
    cache_dir: str | None = None  # None: that of the user, see data.cache
    check: bool = True  # whether to check all headers and labels first
    spec: Spec = BRATS
    labels: str | None = None  # one of io.CONVENTIONS; None: by names of files
    merge_labels: str | None = None  # see io.labelling
    drop_labels: str | None = None
    patient_pattern: str | None = None  # see patients.patient_of; None: by names

    def __post_init__(self) -> None:
        object.__setattr__(self, "spec", self.spec or BRATS)
        # Plain numbers, as flags give: a split and a record are written as JSON.
        settled = {
            "slices": tuple(map(int, self.slices or self.spec.slices)),
            "split_seed": int(self.split_seed),
            "held_out": float(self.held_out),
            "check": bool(self.check),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    @property
    def labelling(self) -> io.Labelling:
        """How the labels are to be read; DataError names what cannot be understood."""
        return io.labelling(self.labels, self.merge_labels, self.drop_labels)

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
            spec=self.spec,
            labelling=self.labelling,
            patient_pattern=self.patient_pattern,
        )

    def read(self, subjects: list[io.Subject], image_size: int) -> Slices:
        """The slices in range of some of its subjects."""
        return Slices(subjects, image_size, self.slices, cache_dir=self.cache_dir)
