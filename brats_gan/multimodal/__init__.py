"""Stage 2: four registered slices from a map and a label (Sections 2.4 to 2.6).

Stage 2a reconstructs and translates real, unregistered slices; stage 2b generates from
fused maps. Both run in one step. The M modalities ride on the batch axis: row b * M + i
of a merged tensor is modality i of example b. Instance norm makes that equal to a call
for each modality (tests/test_multimodal.py).
"""

from brats_gan.multimodal.nets import (
    build,
    heaviest_convolution,
    lesion_nets,
    variables,
)
from brats_gan.multimodal.passes import (
    LESION_LEVEL,
    Pass,
    all_modalities,
    decode,
    extract,
    forward,
    fuse,
    generate,
    lesion_maps,
    merge,
    seeds,
    split,
    translations,
)
from brats_gan.multimodal.settings import (
    CODE_GAME,
    DISCRIMINATOR_RATE,
    DISCRIMINATOR_SIDE,
    DISCRIMINATOR_WEIGHTS,
    FIRST_PHASE,
    FIRST_PHASE_WEIGHTS,
    FULL_RATE,
    GENERATOR_SIDE,
    GENERATOR_WEIGHTS,
    LESION_WEIGHTS,
    RAMP,
    RAMPED,
    SHOWN,
    WEIGHTS,
    Options,
)
from brats_gan.multimodal.steps import (
    adversarial_terms,
    consistency_terms,
    first_terms,
    lesion_terms,
    make_first_step,
    make_train_step,
    terms,
)

__all__ = [
    "CODE_GAME",
    "DISCRIMINATOR_RATE",
    "DISCRIMINATOR_SIDE",
    "DISCRIMINATOR_WEIGHTS",
    "FIRST_PHASE",
    "FIRST_PHASE_WEIGHTS",
    "FULL_RATE",
    "GENERATOR_SIDE",
    "GENERATOR_WEIGHTS",
    "LESION_LEVEL",
    "LESION_WEIGHTS",
    "RAMP",
    "RAMPED",
    "SHOWN",
    "WEIGHTS",
    "Options",
    "Pass",
    "adversarial_terms",
    "all_modalities",
    "build",
    "consistency_terms",
    "decode",
    "extract",
    "first_terms",
    "forward",
    "fuse",
    "generate",
    "heaviest_convolution",
    "lesion_maps",
    "lesion_nets",
    "lesion_terms",
    "make_first_step",
    "make_train_step",
    "merge",
    "seeds",
    "split",
    "terms",
    "translations",
    "variables",
]
