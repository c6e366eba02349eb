"""What a data set is: modalities, labels, lesion regions, slices and crop.

Everything else takes these from here; decisions of the project are cited as D15
(docs/deviations.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """A data specification: what differs from one collection of data to the next.

    Raises:
        ValueError: names are not unique, a region names labels that there are not, or
            a range is empty.
    """

    modalities: tuple[str, ...]  # in the order of the channels; index = category
    labels: tuple[str, ...]  # index = value; 0 is what is no lesion
    regions: dict[str, tuple[int, ...]]  # of the lesion, as the field scores them
    slices: tuple[int, int]  # half-open, of axial slices
    crop: int  # pixels a side, around the brain
    field: int  # pixels a side of a slice as it is stored

    def __post_init__(self):
        for what, names in (("modalities", self.modalities), ("labels", self.labels)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: a name comes twice in {', '.join(names)}")
        if len(self.modalities) < 2 or len(self.labels) < 2:
            raise ValueError("two modalities and one lesion label are due, or more")
        lesions = range(1, len(self.labels))
        for name, values in self.regions.items():
            if not values or not {*values} <= {*lesions}:
                raise ValueError(
                    f"region {name}: {values} are not all of the labels 1 to "
                    f"{len(self.labels) - 1}"
                )
        if not 0 <= self.slices[0] < self.slices[1]:
            raise ValueError(f"slices: {self.slices} is no range")
        if not 0 < self.crop <= self.field:
            raise ValueError(f"crop: {self.crop} of {self.field} pixels")

    @property
    def num_modalities(self) -> int:
        return len(self.modalities)

    @property
    def num_labels(self) -> int:
        return len(self.labels)


BRATS = Spec(
    modalities=("t1", "t2", "t1ce", "flair"),
    labels=("background", "necrosis", "oedema", "non-enhancing", "enhancing"),
    regions={"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)},
    slices=(55, 105),  # D15
    crop=192,
    field=240,
)

MODALITIES = BRATS.modalities
NUM_MODALITIES = BRATS.num_modalities
LABELS = BRATS.labels
NUM_LABELS = BRATS.num_labels
REGIONS = BRATS.regions
SLICES = BRATS.slices
CROP = BRATS.crop
FIELD = BRATS.field
