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
from brats_gan.stages import multimodal as stage

common_flags.data_dir()
_RUN = common_flags.run_dir()
common_flags.layout()
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
common_flags.batch_size(1, "Sets of four slices a step.")
common_flags.image_size(32)
common_flags.width()
common_flags.width(
    "lesion_width", None, "Base width of the lesion components; default: --width."
)
flags.DEFINE_enum(
    "scheme", "multiple", lesion_components.SCHEMES, "Lesion components (Section 2.7)."
)
common_flags.beta()
common_flags.learning_rate()
common_flags.precision()
common_flags.seed()
_DETERMINISTIC = common_flags.deterministic()
common_flags.checkpoint_seconds()
common_flags.steps_per_call()
flags.DEFINE_bool(
    "all_pairs", False, "Every translation each step, not two drawn ones (D18)."
)
flags.DEFINE_enum(
    "image_norm", "absolute", ["absolute", "squared"], "Of image differences (D9)."
)
flags.DEFINE_enum(
    "category", "entropy", list(losses.CATEGORY_LOSSES), "Modality loss of D (D10)."
)
common_flags.label_loss()
flags.DEFINE_bool(
    "conditional_norm", True, "The modality enters every norm of DC (D16)."
)
flags.DEFINE_bool(
    "label_modulation", True, "The label modulates DC at its last resolutions (D19)."
)
flags.DEFINE_bool(
    "map_modulation", True, "f modulates DC at its last resolutions (D32)."
)
flags.DEFINE_bool(
    "style", True, "DC is told the brightness and contrast of the subject (D33)."
)
flags.DEFINE_bool(
    "spectral_norm", True, "D has spectral norm, not instance norm (D31)."
)
flags.DEFINE_bool(
    "code_game",
    False,
    "FD tells codes of maps from codes of slices, as in the paper; without, the code "
    "tie alone draws them together (D36).",
)
common_flags.number(
    "structure_weight", fusion.STRUCTURE_WEIGHT, "Of f in the fusion (D8).", 0, 1000
)
common_flags.number(
    "label_weight",
    fusion.LABEL_WEIGHT,
    "Of the one-hot label in the fusion (D8).",
    0,
    1000,
)
common_flags.input_noise(0.02, "Noise on what D sees, sd.")
flags.DEFINE_bool("guidance_blur", True, "Random blur before the segmentors.")
flags.DEFINE_bool(
    "lesion_removal", True, "Take the edges of its own lesion out of f (Section 2.5)."
)
flags.DEFINE_bool(
    "placement_test", True, "Insert only labels that fit the brain (Section 2.5)."
)
common_flags.number(
    "first_phase",
    multimodal.FIRST_PHASE,
    "Share of the steps that rebuild slices only: no discriminator, no cycles (D34).",
    0,
    1,
)
common_flags.number(
    "ramp",
    multimodal.RAMP,
    "Share of the steps after the first phase until late terms weigh in fully (D9).",
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
