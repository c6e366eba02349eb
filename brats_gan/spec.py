"""What a data set is: modalities, labels, lesion regions, slices and crop.

Everything else takes these from here; decisions of the project are cited as D15
(docs/deviations.md).
"""

MODALITIES = ("t1", "t2", "t1ce", "flair")
NUM_MODALITIES = len(MODALITIES)
LABELS = ("background", "necrosis", "oedema", "non-enhancing", "enhancing")
NUM_LABELS = len(LABELS)
REGIONS = {"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)}
SLICES = (55, 105)  # half-open, D15
CROP = 192  # pixels a side, around the brain
FIELD = 240  # pixels a side of a BraTS slice
