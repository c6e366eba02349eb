"""Stage 1: trains DC_f and MASK to make structural maps and brain masks from noise.

Section 2.3 and Figure 2 of the paper. Start the same command again to continue a run.
"""

import numpy as np
from absl import flags, logging

from brats_gan import (
    code_bank,
    common_flags,
    data,
    figures,
    io,
    losses,
    networks,
    runs,
    structural,
    structure,
    weights,
)
from brats_gan.lazy import tf

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

SHOWN = 8  # rows of a sheet
# Real maps that the distribution of codes is fitted to: for a sheet, and at the end.
FITTED_SHEET, FITTED = 400, 2000


def known_maps(slices, beta, count):
    """`count` maps of training slices, [N, H, W, 1], for structural.fit."""
    some = data.structural_batches(slices, 50, seed=2).take(count // 50)
    return np.concatenate([structural.extract(batch, beta)[0] for batch in some])


def draw_sheet(nets, found, real, path=None):
    """Figure 8: real maps rebuilt beside generated ones with their masks."""
    f, background = structural.extract(real)
    rebuilt = structural.reconstruct(nets, f, found)
    z = tf.random.stateless_normal([f.shape[0], len(found.mean)], [8, 8])
    generated, mask = structural.generate(nets, z, found)
    filled = [structure.contour_background(each) for each in generated.numpy()[..., 0]]
    columns = [real["x"], f, rebuilt, background, generated, mask]
    columns = [np.asarray(column)[..., 0] for column in columns] + [filled]
    titles = ["x", "f", "f_r", "mask", "f_g", "mask_g", "m' (Alg. 3)"]
    return figures.sheet(list(zip(*columns, strict=True)), titles, path)


def main(argv):
    del argv  # checked by runs.main
    heaviest = structural.heaviest_convolution(
        _SIZE.value, _WIDTH.value, _BATCH.value, _MASK_WIDTH.value
    )
    common_flags.set_up(
        _PRECISION, _RUN.value, _DETERMINISTIC.value, _SEED.value, heaviest
    )
    run_dir = runs.start(_RUN.value, free=runs.LENGTH)
    logging.info("stage 1: %s, trained on %s", run_dir, _DATA.value)
    in_range = io.parse_slices(_SLICES.value)
    training, held_out = data.split_subjects(
        _DATA.value,
        run_dir,
        seed=_SPLIT_SEED.value,
        given=_SPLIT.value,
        layout=_LAYOUT.value,
        check=_CHECK.value,
        slices=in_range,
        held_out=_HELD_OUT.value,
    )
    slices = data.Slices(training, _SIZE.value, in_range, cache_dir=_CACHE.value)
    steps = runs.total_steps(
        run_dir, _STEPS, _EPOCHS, len(slices), _BATCH.value, _RATE.value
    )

    build = {
        "image_size": _SIZE.value,
        "width": _WIDTH.value,
        "code_channels": _CODE.value,
        "mask_width": _MASK_WIDTH.value,
        "spectral": _SPECTRAL.value,
    }
    nets = structural.build(**build)
    held_out = [subject.name for subject in held_out]
    begun = weights.begin(
        run_dir, "structural", build, nets, _INIT_FROM.value, held_out
    )
    codes = code_bank.Codes(networks.map_code_dim(_SIZE.value, _CODE.value))
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    optimizers = {
        side: runs.adam(structural.variables(nets, names), _RATE.value, steps)
        for side, names in sides.items()
    }
    train_step = structural.make_train_step(
        nets,
        optimizers,
        codes,
        {name: flag.value for name, flag in _WEIGHTS.items()},
        structural.Options(
            beta=_BETA.value,
            map_loss=_MAP_LOSS.value,
            soft_maps=_SOFT.value,
            input_noise=_NOISE.value,
            judge_rebuilt=_JUDGE_REBUILT.value,
        ),
    )

    def batches(first):
        return data.structural_batches(slices, _BATCH.value, _SEED.value, first)

    real = next(iter(data.structural_batches(slices, SHOWN, seed=1)))

    def sheet(step):
        del step
        found = structural.fit(nets, known_maps(slices, _BETA.value, FITTED_SHEET))
        return draw_sheet(nets, found, real)

    runs.loop(
        run_dir,
        train_step,
        batches,
        steps,
        {
            **nets,
            **{f"optimizer_{side}": each for side, each in optimizers.items()},
            "codes": codes,
        },
        _SEED.value,
        slices.names,
        sheet=sheet,
        checkpoint_seconds=_CHECKPOINT_SECONDS.value,
        steps_per_call=common_flags.per_call(_STEPS_PER_CALL, _DETERMINISTIC),
    )

    found = structural.fit(nets, known_maps(slices, _BETA.value, FITTED))
    draw_sheet(nets, found, real, run_dir / "maps.png")
    figures.loss_curves(run_dir / "losses.jsonl", run_dir / "losses.png")

    def generate(code):
        f, background = structural.generate(nets, code, found)
        return {"structure": f, "background": background}

    code_dim = len(found.mean)
    code = tf.TensorSpec([None, code_dim], tf.float32, name="code")
    description = {
        **data.preprocessing(_SIZE.value, in_range),
        "beta": _BETA.value,
        "code_dim": code_dim,
        "edge_threshold": found.threshold,
        "training_subjects": slices.names,
        "data_fingerprint": slices.fingerprint,
        "initialised_from": begun["initialised_from"],
    }
    runs.export(
        run_dir,
        "structure",
        [nets["DC_f"], nets["MASK"]],
        {"generate": (generate, [code])},
        description,
    )
    weights.finish(run_dir, nets, description, steps, found)
    print(f"maps: {run_dir / 'maps.png'}\nexport: {run_dir / 'export' / 'structure'}")


if __name__ == "__main__":
    runs.main(main)
