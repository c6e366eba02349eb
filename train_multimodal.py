"""Stage 2: trains the generator of four registered slices from a map and a label.

Sections 2.4 to 2.7 of the paper. The training slices are not registered: each modality
is drawn from its own stream. Start the same command again to continue a run.
"""

from absl import flags

from brats_gan import (
    common_flags,
    data,
    fusion,
    io,
    lesion_components,
    losses,
    multimodal,
    runs,
)
from brats_gan.stages import multimodal as stage

_DATA = common_flags.data_dir()
_RUN = common_flags.run_dir()
_LAYOUT = common_flags.layout()
_SPLIT = common_flags.split()
_SPLIT_SEED = common_flags.split_seed()
_HELD_OUT = common_flags.held_out()
_SLICES = common_flags.slices()
_CACHE = common_flags.cache_dir()
_CHECK = common_flags.check()
_INIT_FROM = common_flags.init_from()
_STEPS = common_flags.steps()
_EPOCHS = flags.DEFINE_float("epochs", 40, "Passes over the slices, without --steps.")
_BATCH = flags.DEFINE_integer("batch_size", 1, "Sets of four slices a step.", 1)
_SIZE = common_flags.image_size(32)
_WIDTH = common_flags.width()
_LESION_WIDTH = flags.DEFINE_integer(
    "lesion_width", None, "Base width of the lesion components; default: --width.", 1
)
_SCHEME = flags.DEFINE_enum(
    "scheme", "multiple", lesion_components.SCHEMES, "Lesion components (Section 2.7)."
)
_BETA = common_flags.beta()
_RATE = common_flags.learning_rate()
_PRECISION = common_flags.precision()
_SEED = common_flags.seed()
_DETERMINISTIC = common_flags.deterministic()
_CHECKPOINT_SECONDS = common_flags.checkpoint_seconds()
_STEPS_PER_CALL = common_flags.steps_per_call()
_PAIRS = flags.DEFINE_bool(
    "all_pairs", False, "Every translation each step, not two drawn ones (D18)."
)
_NORM = flags.DEFINE_enum(
    "image_norm", "absolute", ["absolute", "squared"], "Of image differences (D9)."
)
_CATEGORY = flags.DEFINE_enum(
    "category", "entropy", list(losses.CATEGORY_LOSSES), "Modality loss of D (D10)."
)
_LABEL_LOSS = common_flags.label_loss()
_CONDITIONAL = flags.DEFINE_bool(
    "conditional_norm", True, "The modality enters every norm of DC (D16)."
)
_MODULATION = flags.DEFINE_bool(
    "label_modulation", True, "The label modulates DC at its last resolutions (D19)."
)
_MAP_MODULATION = flags.DEFINE_bool(
    "map_modulation", True, "f modulates DC at its last resolutions (D32)."
)
_STYLE = flags.DEFINE_bool(
    "style", True, "DC is told the brightness and contrast of the subject (D33)."
)
_SPECTRAL = flags.DEFINE_bool(
    "spectral_norm", True, "D has spectral norm, not instance norm (D31)."
)
_F_SHARE = flags.DEFINE_float(
    "structure_weight", fusion.STRUCTURE_WEIGHT, "Of f in the fusion (D8)."
)
_L_SHARE = flags.DEFINE_float(
    "label_weight", fusion.LABEL_WEIGHT, "Of the one-hot label in the fusion (D8)."
)
_NOISE = flags.DEFINE_float("input_noise", 0.02, "Noise on what D sees, sd.")
_BLUR = flags.DEFINE_bool("guidance_blur", True, "Random blur before the segmentors.")
_REMOVAL = flags.DEFINE_bool(
    "lesion_removal", True, "Take the edges of its own lesion out of f (Section 2.5)."
)
_PLACEMENT = flags.DEFINE_bool(
    "placement_test", True, "Insert only labels that fit the brain (Section 2.5)."
)
_FIRST_PHASE = flags.DEFINE_float(
    "first_phase",
    multimodal.FIRST_PHASE,
    "Share of the steps that rebuild slices only: no discriminator, no cycles (D34).",
    0,
    1,
)
_RAMP = flags.DEFINE_float(
    "ramp",
    multimodal.RAMP,
    "Share of the steps after the first phase until late terms weigh in fully (D9).",
)
_WEIGHTS = common_flags.loss_weights(multimodal.WEIGHTS)
flags.mark_flags_as_required(["data_dir", "run_dir"])


def main(argv):
    del argv  # checked by runs.main
    if not _DETERMINISTIC.value:
        runs.share_cores()
    settings = stage.Settings(
        init_from=_INIT_FROM.value,
        steps=_STEPS.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH.value,
        image_size=_SIZE.value,
        width=_WIDTH.value,
        lesion_width=_LESION_WIDTH.value,
        scheme=_SCHEME.value,
        beta=_BETA.value,
        learning_rate=_RATE.value,
        precision=_PRECISION.value,
        seed=_SEED.value,
        deterministic=_DETERMINISTIC.value,
        checkpoint_seconds=_CHECKPOINT_SECONDS.value,
        steps_per_call=_STEPS_PER_CALL.value,
        all_pairs=_PAIRS.value,
        image_norm=_NORM.value,
        category=_CATEGORY.value,
        label_loss=_LABEL_LOSS.value,
        conditional_norm=_CONDITIONAL.value,
        label_modulation=_MODULATION.value,
        map_modulation=_MAP_MODULATION.value,
        style=_STYLE.value,
        spectral_norm=_SPECTRAL.value,
        structure_weight=_F_SHARE.value,
        label_weight=_L_SHARE.value,
        input_noise=_NOISE.value,
        guidance_blur=_BLUR.value,
        lesion_removal=_REMOVAL.value,
        placement_test=_PLACEMENT.value,
        first_phase=_FIRST_PHASE.value,
        ramp=_RAMP.value,
        weights={name: flag.value for name, flag in _WEIGHTS.items()},
    )
    source = data.Source(
        data_dir=_DATA.value,
        layout=_LAYOUT.value,
        split=_SPLIT.value,
        split_seed=_SPLIT_SEED.value,
        held_out=_HELD_OUT.value,
        slices=io.parse_slices(_SLICES.value),
        cache_dir=_CACHE.value,
        check=_CHECK.value,
    )
    run_dir = stage.train(settings, source, _RUN.value, common_flags.record)
    print(f"sheets: {run_dir / 'generated.png'}, {run_dir / 'translations.png'}")
    print(f"exports: {run_dir / 'export'}/generator, segmentor")


if __name__ == "__main__":
    runs.main(main)
