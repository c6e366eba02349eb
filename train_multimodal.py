"""Stage 2: trains the generator of four registered slices from a map and a label.

Sections 2.4 to 2.7 of the paper. The training slices are not registered: each modality
is drawn from its own stream. Start the same command again to continue a run.
"""

import time

import numpy as np
from absl import flags, logging

from brats_gan import (
    common_flags,
    data,
    figures,
    fusion,
    io,
    lesion_components,
    losses,
    multimodal,
    runs,
    spec,
    structure,
    styles,
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

SHOWN = 4  # rows of a sheet


def largest_first(candidates):
    """Labels to place [B, K, H, W], in the order of their lesions: a sheet is to show
    some."""
    area = tf.math.count_nonzero(candidates, [2, 3])
    order = tf.argsort(area, direction="DESCENDING")
    return tf.gather(candidates, order, batch_dims=1)


def draw_generated(nets, batch, options, path=None):
    """Figure 9 on maps of real slices: map, label, four modalities, label found."""
    p = multimodal.forward(nets, batch, tf.constant([9, 9]), options)
    images = multimodal.generate(nets, p.f, p.placed, batch["style"], options)
    found = lesion_components.segment(multimodal.lesion_nets(nets), images)
    found = np.argmax(found, -1)[:, -1]  # of FLAIR, where the whole lesion shows
    columns = [p.f[..., 0], p.placed, *(images[:, i, ..., 0] for i in range(4)), found]
    titles = ["f", "label", *spec.MODALITIES, "found"]
    rows = list(zip(*(np.asarray(c) for c in columns), strict=True))
    return figures.sheet(rows, titles, path, label_columns=("label", "found"))


def draw_translations(nets, batch, options, path=None):
    """Each real slice, rebuilt, translated to every modality, and back."""
    label = multimodal.merge(batch["label"][:1])
    x = multimodal.merge(batch["x"][:1])
    style = multimodal.merge(batch["style"][:1])
    f = structure.structural_map(x, options.beta)
    modality = multimodal.all_modalities(1)

    def decode(code, to, style):
        return multimodal.decode(
            nets, code, to, label, f, style, options, training=False
        )

    code = nets["EC"](x, training=False)
    columns, titles = [x, decode(code, modality, style)], ["x", "x_r"]
    for target, name in enumerate(spec.MODALITIES):
        to = tf.fill(modality.shape, target)
        translated = decode(code, to, tf.gather(style, to))
        columns.append(translated)
        titles.append(f"to {name}")
    columns.append(decode(nets["EC"](translated, training=False), modality, style))
    titles.append("and back")
    rows = list(zip(*(np.asarray(c)[..., 0] for c in columns), strict=True))
    return figures.sheet(rows, titles, path, row_titles=spec.MODALITIES)


def main(argv):
    del argv  # checked by runs.main
    if not _DETERMINISTIC.value:
        runs.share_cores()
    heaviest = multimodal.heaviest_convolution(
        _SIZE.value, _WIDTH.value, _BATCH.value, _PAIRS.value
    )
    common_flags.set_up(
        _PRECISION, _RUN.value, _DETERMINISTIC.value, _SEED.value, heaviest
    )
    run_dir = runs.start(_RUN.value, free=runs.LENGTH)
    logging.info("stage 2: %s, trained on %s", run_dir, _DATA.value)
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
    # The first phase keeps its length when --steps is raised.
    first_steps = weights.begun(run_dir).get("first_steps")
    steps = runs.total_steps(
        run_dir,
        _STEPS,
        _EPOCHS,
        len(slices),
        _BATCH.value,
        _RATE.value,
        first_steps=first_steps or 0,
        first_final=multimodal.FULL_RATE,
    )
    if first_steps is None:
        first_steps = round(_FIRST_PHASE.value * steps)
    first_steps = min(first_steps, steps)

    build = {
        "image_size": _SIZE.value,
        "width": _WIDTH.value,
        "scheme": _SCHEME.value,
        "conditional_norm": _CONDITIONAL.value,
        "label_modulation": _MODULATION.value,
        "category": _CATEGORY.value,
        "lesion_width": _LESION_WIDTH.value,
        "map_modulation": _MAP_MODULATION.value,
        "style": _STYLE.value,
        "spectral": _SPECTRAL.value,
    }
    nets = multimodal.build(**build)
    held_out = [subject.name for subject in held_out]
    begun = weights.begin(
        run_dir,
        "multimodal",
        build,
        nets,
        _INIT_FROM.value,
        held_out,
        first_steps=first_steps,
    )
    # The discriminators are first asked after the first phase.
    begins = {"generator": 0, "discriminator": first_steps, "lesion_component": 0}
    optimizers = {
        side: runs.adam(
            of_side,
            _RATE.value * (multimodal.FULL_RATE if begins[side] else 1.0),
            steps - begins[side],
            first_steps=first_steps - begins[side],
            first_final=multimodal.FULL_RATE,
        )
        for side, of_side in multimodal.variables(nets).items()
    }
    options = multimodal.Options(
        beta=_BETA.value,
        all_pairs=_PAIRS.value,
        image_norm=_NORM.value,
        category=_CATEGORY.value,
        label_loss=_LABEL_LOSS.value,
        structure_weight=_F_SHARE.value,
        label_weight=_L_SHARE.value,
        input_noise=_NOISE.value,
        guidance_blur=_BLUR.value,
        lesion_removal=_REMOVAL.value,
        placement_test=_PLACEMENT.value,
        label_modulation=_MODULATION.value,
        map_modulation=_MAP_MODULATION.value,
        style=_STYLE.value,
    )
    of_terms = {name: flag.value for name, flag in _WEIGHTS.items()}
    first_step = multimodal.make_first_step(nets, optimizers, of_terms, options)
    train_step = multimodal.make_train_step(
        nets,
        optimizers,
        of_terms,
        options,
        round(_RAMP.value * (steps - first_steps)),
        first_steps,
    )

    def batches(first):
        return data.multimodal_batches(slices, _BATCH.value, _SEED.value, first)

    shown = dict(next(iter(data.multimodal_batches(slices, SHOWN, seed=1))))
    shown["candidates"] = largest_first(shown["candidates"])
    phase = ""
    if 0 < first_steps < steps:
        left = steps - first_steps
        phase = f" of the first phase; {left} full steps of about twice the time follow"
    started = time.monotonic()
    for step, until, of_phase in (
        (first_step, first_steps, phase),
        (train_step, steps, ""),
    ):
        if until == 0:
            continue  # --first_phase=0
        runs.loop(
            run_dir,
            step,
            batches,
            until,
            {
                **nets,
                **{f"optimizer_{side}": each for side, each in optimizers.items()},
            },
            _SEED.value,
            slices.names,
            sheet=lambda step: draw_generated(nets, shown, options),
            checkpoint_seconds=_CHECKPOINT_SECONDS.value,
            steps_per_call=common_flags.per_call(_STEPS_PER_CALL, _DETERMINISTIC),
            phase=of_phase,
            started=started,
        )

    draw_generated(nets, shown, options, run_dir / "generated.png")
    draw_translations(nets, shown, options, run_dir / "translations.png")
    figures.loss_curves(run_dir / "losses.jsonl", run_dir / "losses.png")
    description = {
        **data.preprocessing(_SIZE.value, in_range),
        "training_subjects": slices.names,
        "data_fingerprint": slices.fingerprint,
        "initialised_from": begun["initialised_from"],
    }
    fitted = styles.fit(slices.styles)
    if options.style:
        description["style"] = {
            n: each.tolist() for n, each in fitted._asdict().items()
        }
    export(run_dir, nets, options, description, fitted)
    of_weights = {**description, "beta": options.beta, "options": options._asdict()}
    weights.finish(run_dir, nets, of_weights, steps)
    print(f"sheets: {run_dir / 'generated.png'}, {run_dir / 'translations.png'}")
    print(f"exports: {run_dir / 'export'}/generator, segmentor")


def export(run_dir, nets, options, description, fitted):
    """Writes export/generator and export/segmentor; `fitted` is styles.Styles."""
    size = description["image_size"]

    def generate_in_style(structure, label, style):
        images = multimodal.generate(nets, structure, label, style, options)
        return {name: images[:, i] for i, name in enumerate(spec.MODALITIES)}

    def generate(structure, label):
        style = tf.repeat(fitted.mean[None], tf.shape(label)[0], 0)
        return generate_in_style(structure, label, style)

    plane = [None, size, size]
    inputs = [
        tf.TensorSpec([*plane, 1], tf.float32, name="structure"),
        tf.TensorSpec(plane, tf.int32, name="label"),
    ]
    style = tf.TensorSpec([None, *fitted.mean.shape], tf.float32, name="style")
    runs.export(
        run_dir,
        "generator",
        [nets[name] for name in multimodal.GENERATOR_SIDE],
        {
            "generate": (generate, inputs),
            "generate_in_style": (generate_in_style, [*inputs, style]),
        },
        {**description, "beta": options.beta},
    )
    components = multimodal.lesion_nets(nets)
    runs.export(
        run_dir,
        "segmentor",
        list(components.values()),
        {"segment": lesion_components.endpoint(components, size)},
        {**description, "scheme": _SCHEME.value},
    )


if __name__ == "__main__":
    runs.main(main)
