"""Stage 2: trains the generator of four registered slices from a map and a label.

Sections 2.4 to 2.7 of the paper. The training slices are not registered: each modality
is drawn from its own stream. Start the same command again to continue a run.
"""

from absl import flags

from brats_gan import (
    common_flags,
    fusion,
    lesion_components,
    losses,
    multimodal,
    runs,
)
from brats_gan.stages import beginning
from brats_gan.stages import multimodal as stage

common_flags.data_dir()
_RUN = common_flags.run_dir()
common_flags.layout()
common_flags.patient_pattern()
common_flags.labels()
common_flags.spec()
common_flags.split()
common_flags.split_seed()
common_flags.held_out()
common_flags.slices()
common_flags.cache_dir()
common_flags.check()
common_flags.init_from()
common_flags.steps()
common_flags.epochs(40)
common_flags.batch_size(1, "Sets of one slice per modality in a step.")
common_flags.image_size(32)
common_flags.width()
common_flags.width(
    "lesion_width", None, "Base width of the lesion components; --width if unset."
)
flags.DEFINE_enum(
    "scheme",
    "multiple",
    lesion_components.SCHEMES,
    "Lesion components (Section 2.7): multiple has one SEG per modality, single one "
    "SEG for all, shared_encoder one EC_l for all and one DC_l per modality.",
)
common_flags.beta()
common_flags.learning_rate()
common_flags.number(
    "discriminator_rate",
    multimodal.DISCRIMINATOR_RATE,
    "Learning rate of the discriminators, in those of the others (D53).",
    1e-3,
    1000,
)
common_flags.final_rate(beginning.FINAL_RATE)
common_flags.ema(beginning.EMA)
common_flags.precision()
common_flags.seed()
_DETERMINISTIC = common_flags.deterministic()
common_flags.checkpoint_seconds()
common_flags.steps_per_call()
common_flags.strategy()
flags.DEFINE_bool(
    "all_pairs", False, "Every translation in each step, not two sampled ones (D18)."
)
flags.DEFINE_enum(
    "image_norm", "absolute", ["absolute", "squared"], "Norm of image differences (D9)."
)
flags.DEFINE_bool(
    "image_class_weights",
    True,
    "Pixels of lesions count more in image differences; off, all alike, as in the "
    "paper (D9).",
)
flags.DEFINE_enum(
    "category",
    "entropy",
    list(losses.CATEGORY_LOSSES),
    "Loss of the modality that D predicts (D10).",
)
common_flags.label_loss()
flags.DEFINE_bool(
    "conditional_norm", True, "Conditional instance normalisation in DC (D16)."
)
flags.DEFINE_bool(
    "full_size_norm",
    False,
    "Instance norm in all blocks of DC, as in the paper; off, not in those of the "
    "image's size (D29).",
)
common_flags.of_layers()
flags.DEFINE_bool(
    "label_modulation", True, "SPADE-style modulation of DC by the label (D19)."
)
flags.DEFINE_bool(
    "map_modulation", True, "SPADE-style modulation of DC by the map f (D32)."
)
flags.DEFINE_bool(
    "style", True, "DC is given the brightness and contrast of the subject (D33)."
)
flags.DEFINE_bool(
    "spectral_norm", True, "Spectral norm in D in place of instance norm (D31)."
)
flags.DEFINE_bool(
    "code_game",
    False,
    "FD tells codes of maps from codes of slices, as in the paper; without, the code "
    "tie alone draws them together (D36).",
)
common_flags.number(
    "structure_weight",
    fusion.STRUCTURE_WEIGHT,
    "Weight of f in the fusion (D8).",
    0,
    1000,
)
common_flags.number(
    "label_weight",
    fusion.LABEL_WEIGHT,
    "Weight of the one-hot label in the fusion (D8).",
    0,
    1000,
)
common_flags.input_noise(0.02, "Noise on the input of D, sd.")
common_flags.number(
    "input_gain",
    multimodal.Options().input_gain,
    "Factor of the input of D, with its noise (D53).",
    1e-3,
    1000,
)
flags.DEFINE_bool("guidance_blur", True, "Blur the input of the segmentors at random.")
flags.DEFINE_bool(
    "lesion_removal", True, "Remove the edges of its own lesion from f (Section 2.5)."
)
flags.DEFINE_bool(
    "label_removal",
    True,
    "Remove the edges inside the label that f is fused with too, and compare maps "
    "outside of lesions only (D24). Nothing without --lesion_removal is removed.",
)
flags.DEFINE_bool(
    "placement_test", True, "Insert only labels that fit the brain (Section 2.5)."
)
flags.DEFINE_bool(
    "move_labels",
    True,
    "Move labels at random before they are inserted; off, as in Section 2.5 (D44).",
)
common_flags.all_labels()
common_flags.number(
    "first_phase",
    multimodal.FIRST_PHASE,
    "Share of the steps that only reconstruct slices, without discriminators and "
    "without cycle consistency (D34).",
    0,
    1,
)
common_flags.number(
    "ramp",
    multimodal.RAMP,
    "Share of the steps after the first phase over which the weights of late losses "
    "rise to their full value (D9).",
    0,
    1,
)
common_flags.loss_weights(multimodal.WEIGHTS)
flags.mark_flags_as_required(["data_dir", "run_dir"])


def main(argv):
    del argv  # checked by runs.main
    if not _DETERMINISTIC.value:
        runs.share_cores()
    settings = common_flags.chosen(stage.Settings)
    run_dir = stage.train(
        settings, common_flags.source(), _RUN.value, common_flags.record
    )
    print(f"sheets: {run_dir / 'generated.png'}, {run_dir / 'translations.png'}")
    print(f"exports: {run_dir / 'export'}/generator, segmentor")


if __name__ == "__main__":
    runs.main(main)
