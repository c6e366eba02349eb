"""The losses of stage 2 on a batch, and one update of each side."""

from __future__ import annotations

from collections.abc import Callable

from brats_gan import (
    addons,
    lesion_components,
    losses,
    replicas,
    runs,
    structural_map,
)
from brats_gan.lazy import tf
from brats_gan.multimodal.nets import lesion_nets, variables
from brats_gan.multimodal.passes import (
    Pass,
    all_modalities,
    decode,
    extract,
    forward,
    fuse,
    merge,
    seeds,
    split,
)
from brats_gan.multimodal.settings import (
    CODE_GAME,
    DISCRIMINATOR_WEIGHTS,
    FIRST_PHASE_WEIGHTS,
    GENERATOR_WEIGHTS,
    LESION_WEIGHTS,
    RAMPED,
    WEIGHTS,
    Options,
)
from brats_gan.parts import over_parts


def _random_blur(x, seed):
    """Each image of [N, H, W, 1] somewhere between itself and its 3 x 3 blur."""
    share = replicas.uniform([tf.shape(x)[0], 1, 1, 1], seed)
    return x + share * (addons.gaussian_blur(x) - x)


def adversarial_terms(
    nets: dict, p: Pass, noise_seed: tf.Tensor, options: Options
) -> dict:
    """What D and, where there is one, FD are asked for, and what is asked of them.

    D sees real, generated and translated images in one call, times input_gain: with
    spectral norm its scores differ by no more than its images do (D53).
    """

    # Real, generated, and for each way the translated.
    blocks = [p.x.shape[0], p.x_g.shape[0], *[p.x_t.shape[1]] * p.x_t.shape[0]]

    def judge(images):
        noise = replicas.normal(tf.shape(images), noise_seed, blocks)
        seen = options.input_gain * (images + options.input_noise * noise)
        return nets["D"](seen, training=True)

    judged = over_parts(
        judge, {"real": p.x, "generated": p.x_g, "translated": merge(p.x_t)}
    )
    modality = all_modalities(tf.shape(p.placed)[0], options.spec)
    category_loss = losses.CATEGORY_LOSSES[options.category]
    score, category = {}, {}
    for name, wanted in (
        ("real", modality),
        ("generated", modality),
        ("translated", tf.reshape(p.targets, [-1])),
    ):
        score[name], categories = judged[name]
        category[name] = category_loss(categories, wanted)
    code_score = dict.fromkeys(("real", "generated"))
    accuracy = {"accuracy_D": losses.accuracy(*score.values())}
    if "FD" in nets:
        code_score = over_parts(
            lambda codes: nets["FD"](codes, training=True),
            {"real": p.code, "generated": p.code_g},
        )
        accuracy["accuracy_FD"] = losses.accuracy(*code_score.values())
    return {
        **losses.generator_1(score["translated"], category["translated"]),
        **losses.generator_2(
            score["generated"], category["generated"], code_score["generated"]
        ),
        **losses.discriminator_1(
            score["translated"], category["translated"], code_score["real"]
        ),
        **losses.discriminator_2(
            *(score["real"], score["generated"]),
            *(category["real"], category["generated"]),
            code_score["generated"],
        ),
        **accuracy,
    }


def consistency_terms(p: Pass, options: Options) -> dict:
    """What was rebuilt, by any way round, against what it was made from."""
    count = options.spec.num_modalities
    how = options.image_norm, options.spec.image_weights

    def weighing(label):
        return label if options.image_class_weights else None

    # Where x_{g,j} was translated to i, it is compared with x_{g,i} of the same map.
    first_row = p.origin // count * count
    same_map = tf.gather(p.x_g, first_row[None] + p.targets)  # [J, R, H, W, 1]
    placed = tf.repeat(p.placed, count, 0)
    x_i, label_i = tf.gather(p.x, p.origin), weighing(tf.gather(p.label, p.origin))
    ways = p.targets.shape[0]
    return {
        **losses.reconstruction(x_i, p.x_r, label_i, *how),
        **losses.cycle(x_i, p.x_cr, label_i, *how),
        "self_reconstruction": losses.image_distance(
            p.x, p.x_s, weighing(p.label), *how
        ),
        **losses.registration(
            merge(same_map),
            merge(p.x_gt),
            weighing(tf.concat([tf.gather(placed, p.origin)] * ways, 0)),
            *how,
        ),
        **losses.code_1(tf.stack([p.code] * ways), p.code_t),
        **losses.code_2(p.code_g, split(p.code_gi, options.spec)),
        **losses.code_tie(p.code, p.code_s),
    }


def lesion_terms(nets: dict, p: Pass, blur_seed: tf.Tensor, options: Options) -> dict:
    """What x_g was made from, found in it again: the map, the outside of the brain, the
    lesion. And what the lesion components learn from real slices.
    """
    spec, count = options.spec, options.spec.num_modalities
    placed = tf.repeat(p.placed, count, 0)
    f = tf.repeat(p.f, count, 0)
    f_g = structural_map.structural_map(p.x_g, options.beta)
    if options.label_removal:
        # Neither where a lesion was inserted nor where the source had its own: f has no
        # edges there, and the image may.
        source_label = tf.repeat(tf.cast(p.source_label, tf.int32), count, 0)
        no_lesion = tf.logical_and(tf.cast(placed, tf.int32) == 0, source_label == 0)
        no_lesion = tf.cast(no_lesion, tf.float32)[..., None]
        f, f_g = f * no_lesion, f_g * no_lesion
    background = tf.repeat(p.background, count, 0)

    components = lesion_nets(nets)
    label_loss = losses.LABEL_LOSSES[options.label_loss]
    guided = _random_blur(p.x_g, blur_seed) if options.guidance_blur else p.x_g
    label_r, label_g = (
        lesion_components.logits(components, split(x, spec), True, spec)
        for x in (p.x, guided)
    )
    label_axes = label_g.shape[1]
    return {
        **losses.structure(f, f_g),
        "background": losses.squared(p.x_g * background),
        "lesion": label_loss(
            split(placed, spec)[:, :label_axes], label_g, spec.label_weights
        ),
        "lesion_component": label_loss(
            split(p.label, spec)[:, :label_axes], label_r, spec.label_weights
        ),
    }


def terms(
    nets: dict,
    batch: dict,
    seed: tf.Tensor,
    options: Options = Options(),  # noqa: B008 - immutable
) -> dict:
    """Every loss of the stage on one batch, by name; arguments as `forward`."""
    p = forward(nets, batch, seed, options)
    *_, noise_seed, blur_seed = seeds(seed)
    # In this order: in another, gradients of x_g would be added up in another, and
    # --deterministic runs would differ in their last bits.
    return {
        **adversarial_terms(nets, p, noise_seed, options),
        **consistency_terms(p, options),
        **lesion_terms(nets, p, blur_seed, options),
    }


def first_terms(
    nets: dict,
    batch: dict,
    seed: tf.Tensor,
    options: Options = Options(),  # noqa: B008 - immutable
) -> dict:
    """The terms of the first phase (D34): every slice rebuilt from its own code, and
    from its own map and label; and what the lesion components learn.

    Arguments as `forward`; `seed` draws nothing here.
    """
    del seed
    x, label = merge(batch["x"]), merge(batch["label"])
    style = merge(batch["style"])
    spec = options.spec
    modality = all_modalities(x.shape[0] // spec.num_modalities, spec)
    f = extract(x, label, options)
    code_s = nets["EC_R"](fuse(f, label, options), training=True)
    code = nets["EC"](x, training=True)
    made = over_parts(
        lambda *given: decode(nets, *given, options),
        {
            "x_r": (code, modality, label, f, style),
            "x_s": (code_s, modality, label, f, style),
        },
    )
    components = lesion_nets(nets)
    label_r = lesion_components.logits(components, batch["x"], True, spec)
    label_loss = losses.LABEL_LOSSES[options.label_loss]
    weighing = label if options.image_class_weights else None
    how = weighing, options.image_norm, spec.image_weights
    return {
        **losses.reconstruction(x, made["x_r"], *how),
        "self_reconstruction": losses.image_distance(x, made["x_s"], *how),
        **losses.code_tie(code, code_s),
        "lesion_component": label_loss(
            batch["label"][:, : label_r.shape[1]], label_r, spec.label_weights
        ),
    }


def make_train_step(
    nets: dict,
    optimizers: dict,
    weights: dict | None = None,
    options: Options = Options(),  # noqa: B008 - an immutable tuple
    ramp_steps: int = 0,
    first_steps: int = 0,
) -> Callable:
    """Returns step(batch, seed) -> {name: scalar}, one update of each side.

    Args:
        nets: of `build`.
        optimizers: {"generator": ..., "discriminator": ..., "lesion_component": ...},
            built.
        weights: by the names of WEIGHTS.
        options: Options.
        ramp_steps: over how many steps the RAMPED weights grow from 0. seed[1] is the
            step.
        first_steps: after how many steps they begin to.
    """
    weights = WEIGHTS | (weights or {})
    left_out = () if "FD" in nets else CODE_GAME
    names = {
        side: [name for name in of_side if name not in left_out]
        for side, of_side in (
            ("generator", GENERATOR_WEIGHTS),
            ("discriminator", DISCRIMINATOR_WEIGHTS),
            ("lesion_component", LESION_WEIGHTS),
        )
    }
    of_side = variables(nets)

    @tf.function(autograph=False)  # half the time of tracing
    def train_step(batch, seed):
        batch = replicas.own_rows(batch)
        done = tf.cast(seed[1] - first_steps, tf.float32)
        grown = tf.clip_by_value(done / max(ramp_steps, 1), 0.0, 1.0)
        ramp = {name: grown if ramp_steps else 1.0 for name in RAMPED}
        now = {name: weight * ramp.get(name, 1.0) for name, weight in weights.items()}
        with tf.GradientTape(persistent=True) as tape:
            named = terms(nets, batch, seed, options)
            totals = {side: losses.total(named, now, names[side]) for side in names}
        # The lesion component has one term, so its total bears the same name.
        return runs.update(optimizers, tape, totals, of_side, named)

    return train_step


def make_first_step(
    nets: dict,
    optimizers: dict,
    weights: dict | None = None,
    options: Options = Options(),  # noqa: B008 - an immutable tuple
) -> Callable:
    """Returns step(batch, seed) -> {name: scalar} of the first phase (D34).

    The discriminators and FD take no part. Arguments as `make_train_step`.
    """
    weights = WEIGHTS | (weights or {})
    names = {"generator": FIRST_PHASE_WEIGHTS, "lesion_component": LESION_WEIGHTS}
    of_side = variables(nets)

    @tf.function(autograph=False)  # half the time of tracing
    def first_step(batch, seed):
        batch = replicas.own_rows(batch)
        with tf.GradientTape(persistent=True) as tape:
            named = first_terms(nets, batch, seed, options)
            totals = {side: losses.total(named, weights, names[side]) for side in names}
        moved = {side: of_side[side] for side in names}
        return runs.update(optimizers, tape, totals, moved, named)

    return first_step
