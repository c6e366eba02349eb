"""Stage 1: trains DC_f and MASK to make structural maps and brain masks from noise.

Section 2.3 and Figure 2 of the paper. Start the same command again to continue a run.
"""

from absl import flags

from brats_gan import common_flags, data, io, losses, runs, structural
from brats_gan.stages import structural as stage

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
_EPOCHS = flags.DEFINE_float("epochs", 150, "Passes over the slices, without --steps.")
_BATCH = flags.DEFINE_integer("batch_size", 16, "Slices a step.", 1)
_SIZE = common_flags.image_size(32)
_WIDTH = common_flags.width()
_MASK_WIDTH = flags.DEFINE_integer(
    "mask_width", None, "Base width of MASK; default: --width.", 1
)
_CODE = flags.DEFINE_integer(
    "code_channels", 4, "Numbers of the code for each 8 x 8 pixels (D26).", 1
)
_BETA = common_flags.beta()
_MAP_LOSS = flags.DEFINE_enum(
    "map_loss", "entropy", list(losses.MAP_LOSSES), "Loss of a rebuilt map (D27)."
)
_SOFT = flags.DEFINE_bool(
    "soft_maps", True, "DC_f and D_f learn from f before its threshold (D30)."
)
_SPECTRAL = flags.DEFINE_bool(
    "spectral_norm", True, "D_f has spectral norm, not instance norm (D31)."
)
_JUDGE_REBUILT = flags.DEFINE_bool(
    "judge_rebuilt", True, "D_f judges rebuilt maps too, not drawn ones alone (D30)."
)
_NOISE = flags.DEFINE_float(
    "input_noise", structural.Options().input_noise, "Noise on what D_f sees, sd."
)
_RATE = common_flags.learning_rate()
_PRECISION = common_flags.precision()
_SEED = common_flags.seed()
_DETERMINISTIC = common_flags.deterministic()
_CHECKPOINT_SECONDS = common_flags.checkpoint_seconds()
_STEPS_PER_CALL = common_flags.steps_per_call()
_WEIGHTS = common_flags.loss_weights(structural.WEIGHTS)
flags.mark_flags_as_required(["data_dir", "run_dir"])


def main(argv):
    del argv  # checked by runs.main
    settings = stage.Settings(
        init_from=_INIT_FROM.value,
        steps=_STEPS.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH.value,
        image_size=_SIZE.value,
        width=_WIDTH.value,
        mask_width=_MASK_WIDTH.value,
        code_channels=_CODE.value,
        beta=_BETA.value,
        map_loss=_MAP_LOSS.value,
        soft_maps=_SOFT.value,
        spectral_norm=_SPECTRAL.value,
        judge_rebuilt=_JUDGE_REBUILT.value,
        input_noise=_NOISE.value,
        learning_rate=_RATE.value,
        precision=_PRECISION.value,
        seed=_SEED.value,
        deterministic=_DETERMINISTIC.value,
        checkpoint_seconds=_CHECKPOINT_SECONDS.value,
        steps_per_call=_STEPS_PER_CALL.value,
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
    print(f"maps: {run_dir / 'maps.png'}\nexport: {run_dir / 'export' / 'structure'}")


if __name__ == "__main__":
    runs.main(main)
