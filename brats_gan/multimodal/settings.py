"""What a run of stage 2 chooses: weights of the losses, phases, options."""

from __future__ import annotations

from typing import NamedTuple

from brats_gan import fusion, structural_map
from brats_gan.spec import BRATS, Spec

# Weights of the terms each side is trained on, by their names in losses.py (D9).
GENERATOR_WEIGHTS = {
    "reconstruction": 10.0,
    "cycle": 10.0,
    "cycle_pairs": 1.0,
    "self_reconstruction": 10.0,
    "registration": 5.0,
    "code_translated": 1.0,
    "code_generated": 1.0,
    "code_pairs": 0.5,
    "code_tie": 1.0,
    "code_adversarial": 0.5,
    "adversarial_generated": 2.0,
    "adversarial_translated": 0.5,
    "category_generated": 1.0,
    "category_translated": 1.0,
    "structure": 5.0,
    "background": 5.0,
    "lesion": 0.5,
}
DISCRIMINATOR_WEIGHTS = {
    # As all made ones, in the authors' weights too (200 = 140 + 60): where made ones
    # weigh more, D may answer a constant below one half and be right about them (D53).
    "d_real": 1.5,
    "d_generated": 1.0,
    "d_translated": 0.5,
    "d_category_real": 1.0,
    "d_category_generated": 0.1,
    "d_category_translated": 0.1,
    "d_code_real": 0.5,
    "d_code_generated": 0.5,
}
LESION_WEIGHTS = {"lesion_component": 1.0}
WEIGHTS = GENERATOR_WEIGHTS | DISCRIMINATOR_WEIGHTS | LESION_WEIGHTS
SHOWN = ("accuracy_D", "accuracy_FD")  # of the games, logged beside the losses
# Terms of FD (D36).
CODE_GAME = ("code_adversarial", "d_code_real", "d_code_generated")

# Terms that compare generated images with one another, or with what a segmentor that is
# still learning says: of no use before there are images, so they are ramped up (D9).
RAMPED = ("registration", "code_translated", "code_generated", "code_pairs", "lesion")
RAMP = 0.1  # share of the full steps until they have their full weight

# Terms of the first phase: what a slice, its own map and its own label say of each
# other. A step of it costs about half of a full one and teaches twice as much (D34).
FIRST_PHASE_WEIGHTS = ("reconstruction", "self_reconstruction", "code_tie")
FIRST_PHASE = 0.6  # share of the steps
FULL_RATE = 0.5  # share of the peak rate that the full steps start with
DISCRIMINATOR_RATE = 6.0  # D53: the discriminators' rate in those of the generator

GENERATOR_SIDE = ("EC_R", "EC", "DC")
DISCRIMINATOR_SIDE = ("D", "FD")


class Options(NamedTuple):
    """What a run chooses beside the weights; each is a flag of train_multimodal.py.

    All but `spec`, which is the data's.
    """

    beta: float = structural_map.BETA
    all_pairs: bool = False  # D18: every ordered pair each step, or two drawn ones
    image_norm: str = "absolute"  # or "squared", see losses.image_distance (D9)
    image_class_weights: bool = True  # D9: its pixels count by their class
    category: str = "entropy"  # or "regression" (D10)
    label_loss: str = "weighted"  # a name in losses.LABEL_LOSSES (D12)
    structure_weight: float = fusion.STRUCTURE_WEIGHT  # D8
    label_weight: float = fusion.LABEL_WEIGHT  # D8
    input_noise: float = 0.02  # sd of the noise on what D sees
    input_gain: float = 6.0  # D53: of what D sees, with the noise
    guidance_blur: bool = True  # random blur of what guides, against stripes
    lesion_removal: bool = True  # f has no edges of its slice's lesion (Section 2.5)
    # D24: nor of what is inside the label it is fused with, and L_f looks at neither.
    # Without lesion_removal f has all its edges.
    label_removal: bool = True
    placement_test: bool = True  # inserted labels fit the brain
    move_labels: bool = True  # D44: they are moved at random first
    label_modulation: bool = True  # D19, of DC by the label
    map_modulation: bool = True  # D32, of DC by f
    style: bool = True  # D33, DC is told brightness and contrast
    spec: Spec = BRATS

    def as_dict(self) -> dict:
        """For JSON, without the specification, which is kept beside it."""
        return {k: v for k, v in self._asdict().items() if k != "spec"}
