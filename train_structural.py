"""Stage 1: trains DC_f and MASK to make structural maps and brain masks from noise.

Section 2.3 and Figure 2 of the paper. Start the same command again to continue a run.
"""

from absl import flags

from brats_gan import common_flags, losses, runs, structural
from brats_gan.stages import beginning
from brats_gan.stages import structural as stage

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
common_flags.epochs(150)
common_flags.batch_size(16, "Slices per step.")
common_flags.image_size(32)
common_flags.width()
common_flags.width("mask_width", None, "Base width of MASK; --width if unset.")
common_flags.count(
    "code_channels", 4, "Channels of the code for each 8 x 8 pixels (D26).", 1024
)
common_flags.count(
    "code_dim",
    None,
    "Length of a code behind dense layers, as in the paper, in place of "
    "--code_channels; a square, the authors' is 4096 (D26).",
    65536,
    beginning.LEAST_CODE,
)
common_flags.beta()
flags.DEFINE_enum(
    "map_loss", "entropy", list(losses.MAP_LOSSES), "Loss of a reconstructed map (D27)."
)
flags.DEFINE_bool(
    "soft_maps", True, "Train DC_f and D_f on f before its threshold (D30)."
)
flags.DEFINE_bool(
    "spectral_norm", True, "Spectral norm in D_f in place of instance norm (D31)."
)
flags.DEFINE_bool(
    "code_norm", False, "Instance norm in DC_f and FD_f, as the authors' (D17)."
)
common_flags.of_layers()
flags.DEFINE_bool(
    "code_fit",
    True,
    "Maps are of codes as training maps have, and as dense as these; off, of z itself, "
    "with an edge above one half, as in the paper (D25).",
)
common_flags.count(
    "flow_steps",
    None,
    "Steps of CF_f, which carries drawn codes to where codes of maps lie, after all "
    f"others; as many as these, but {stage.FLOW_STEPS} at most, if unset; 0: there is "
    "none, as with --nocode_fit or --code_dim (D52). May be raised on a run that has "
    "begun or finished.",
    10**7,
    0,
)
flags.DEFINE_bool(
    "judge_rebuilt", True, "D_f judges reconstructed maps beside generated ones (D30)."
)
flags.DEFINE_bool(
    "code_game",
    False,
    "FD_f tells codes from noise, as in the paper; without, the moments and KL alone "
    "keep codes near it (D36).",
)
common_flags.input_noise(
    structural.Options().input_noise, "Noise on the input of D_f, sd."
)
common_flags.learning_rate()
common_flags.final_rate(beginning.FINAL_RATE)
common_flags.ema(beginning.EMA)
common_flags.precision()
common_flags.seed()
common_flags.deterministic()
common_flags.checkpoint_seconds()
common_flags.steps_per_call()
common_flags.strategy()
common_flags.loss_weights(structural.WEIGHTS)
flags.mark_flags_as_required(["data_dir", "run_dir"])


def main(argv):
    del argv  # checked by runs.main
    settings = common_flags.chosen(stage.Settings)
    run_dir = stage.train(
        settings, common_flags.source(), _RUN.value, common_flags.record
    )
    print(f"maps: {run_dir / 'maps.png'}\nexport: {run_dir / 'export' / 'structure'}")


if __name__ == "__main__":
    runs.main(main)
