"""Stage 2: four registered slices from a map and a label (Sections 2.4 to 2.6).

Stage 2a reconstructs and translates real, unregistered slices; stage 2b generates from
fused maps. Both run in one step. Modalities ride on the batch axis: row b * 4 + i of a
merged tensor is modality i of example b. Instance norm makes that equal to a call for
each modality (tests/test_multimodal.py).
"""

from __future__ import annotations

from typing import NamedTuple

from brats_gan import (
    addons,
    fusion,
    losses,
    networks,
    runs,
    segmentation,
    spec,
    structure,
    styles,
)
from brats_gan.lazy import tf

NUM_MODALITIES = len(spec.MODALITIES)

# What a lesion map is where it is not 0. Adam moves a weight by about its rate a step,
# so a class seen in few steps reaches its contrast sooner on larger maps (D19).
LESION_LEVEL = 4.0

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
    "d_real": 1.0,
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

# Terms that compare generated images with one another, or with what a segmentor that is
# still learning says: of no use before there are images, so they are ramped up (D9).
RAMPED = ("registration", "code_translated", "code_generated", "code_pairs", "lesion")
RAMP = 0.1  # share of the full steps until they have their full weight

# Terms of the first phase: what a slice, its own map and its own label say of each
# other. A step of it costs about half of a full one and teaches twice as much (D34).
FIRST_PHASE_WEIGHTS = ("reconstruction", "self_reconstruction", "code_tie")
FIRST_PHASE = 0.6  # share of the steps
FULL_RATE = 0.5  # share of the peak rate that the full steps start with

GENERATOR_SIDE = ("EC_R", "EC", "DC")
DISCRIMINATOR_SIDE = ("D", "FD")


class Options(NamedTuple):
    """What a run chooses beside the weights; each is a flag of train_multimodal.py."""

    beta: float = structure.BETA
    all_pairs: bool = False  # D18: every ordered pair each step, or two drawn ones
    image_norm: str = "absolute"  # or "squared", see losses.image_distance (D9)
    category: str = "entropy"  # or "regression" (D10)
    label_loss: str = "weighted"  # or "squared" (D12)
    structure_weight: float = fusion.STRUCTURE_WEIGHT  # D8
    label_weight: float = fusion.LABEL_WEIGHT  # D8
    input_noise: float = 0.02  # sd of the noise on what D sees
    guidance_blur: bool = True  # random blur of what guides, against stripes
    lesion_removal: bool = (
        True  # f has no edges of its slice's lesion, nor in a new one
    )
    placement_test: bool = True  # inserted labels fit the brain
    label_modulation: bool = True  # D19, of DC by the label
    map_modulation: bool = True  # D32, of DC by f
    style: bool = True  # D33, DC is told brightness and contrast


def build(
    image_size,
    width=64,
    scheme="multiple",
    conditional_norm=True,
    label_modulation=True,
    category="entropy",
    lesion_width=None,
    map_modulation=True,
    style=True,
    spectral=True,
):
    """The networks of the stage, by the paper's names.

    Those of the lesion scheme come along under the names segmentation.build gives them.
    conditional_norm is D16, label_modulation D19, category D10, map_modulation D32,
    style D33, spectral D31. lesion_width is the base width of the lesion components: a
    lesion is easier found than drawn, and they work on eight images a step. None: as
    `width`.
    """
    categories = NUM_MODALITIES if category == "entropy" else 1
    return {
        "EC_R": networks.build_encoder(image_size, width, len(spec.LABELS), "EC_R"),
        "EC": networks.build_encoder(image_size, width, 1, "EC"),
        "DC": networks.build_conditional_decoder(
            image_size // 4,
            width,
            conditional_norm,
            label_modulation,
            map_modulation,
            len(styles.QUANTILES) if style else 0,
        ),
        "D": networks.build_discriminator(image_size, width, categories, spectral),
        "FD": networks.build_code_discriminator(image_size // 4, width),
        **segmentation.build(scheme, image_size, lesion_width or width),
    }


def heaviest_convolution(image_size, width, batch_size, all_pairs=False):
    """(images, kernel), shapes of the heaviest convolution of a step.

    DC's in its first call, see `forward`: x_r, x_t, x_s and x_g. The lesion components
    see a third as many images or fewer, and are narrower.
    """
    rebuilt, ways = (NUM_MODALITIES, NUM_MODALITIES - 1) if all_pairs else (2, 1)
    images = rebuilt * (1 + ways) + 2 * NUM_MODALITIES
    return networks.heaviest_convolution(image_size, width, images * batch_size)


def lesion_nets(nets):
    """The lesion components among the networks of the stage."""
    others = GENERATOR_SIDE + DISCRIMINATOR_SIDE
    return {name: net for name, net in nets.items() if name not in others}


def variables(nets):
    """Trainable variables by side: generator, discriminator, lesion_component."""
    sides = {
        "generator": [nets[name] for name in GENERATOR_SIDE],
        "discriminator": [nets[name] for name in DISCRIMINATOR_SIDE],
        "lesion_component": lesion_nets(nets).values(),
    }
    return {
        side: [v for net in members for v in net.trainable_variables]
        for side, members in sides.items()
    }


def merge(x):
    """[B, 4, ...] -> [4B, ...]."""
    return tf.reshape(x, [-1, *x.shape[2:]])


def split(x):
    """[4B, ...] -> [B, 4, ...]."""
    return tf.reshape(x, [-1, NUM_MODALITIES, *x.shape[1:]])


def all_modalities(batch):
    """[4 * batch] int32: 0, 1, 2, 3, 0, 1, ...; the modality of each merged row."""
    return tf.tile(tf.range(NUM_MODALITIES), [batch])


def lesion_maps(label, modality):
    """What modulates DC (D19): a map for each pair of lesion class and modality.

    [N, H, W] integers, [N] -> [N, H, W, 16]; only the 4 maps of the row's modality are
    not 0 but LESION_LEVEL, so that each modality learns its own look of each class.
    """
    lesion = tf.one_hot(tf.cast(label, tf.int32), len(spec.LABELS))[..., 1:]
    which = tf.one_hot(modality, NUM_MODALITIES)[:, None, None, None, :]
    maps = LESION_LEVEL * lesion[..., None] * which
    return tf.reshape(maps, [-1, *label.shape[1:], networks.NUM_LESION_MAPS])


def decode(nets, code, modality, label, f, style, options, training=True):
    """DC(code, i), told the label's lesion (D19), the map (D32) and the style (D33).

    Args:
        nets: of `build`.
        code: [N, h, w, C].
        modality: [N] integers, i.
        label: [N, H, W] integers.
        f: [N, H, W, 1] in {0, 1}.
        style: [N, K] of the image that is to be made, see styles.measure.
        options: Options.

    Returns:
        [N, H, W, 1] in [0, 1].
    """
    condition = tf.one_hot(modality, NUM_MODALITIES)
    inputs, maps = [code, condition], []
    if options.label_modulation:
        maps.append(lesion_maps(label, modality))
    if options.map_modulation:
        maps.append(fusion.remove_lesion(f, label) if options.lesion_removal else f)
    if maps:
        inputs.append(tf.concat(maps, -1))
    if options.style:
        # Each modality learns its own use of each number.
        by_modality = condition[:, :, None] * style[:, None, :]
        inputs.append(tf.reshape(by_modality, [-1, NUM_MODALITIES * style.shape[-1]]))
    return nets["DC"](inputs, training=training)


def fuse(f, label, options):
    """What EC_R reads: f without edges inside the lesion (D24), and the lesion (D8).

    [B, H, W, 1] in {0, 1}, [B, H, W] integers -> [B, H, W, 5].
    """
    if options.lesion_removal:
        f = fusion.remove_lesion(f, label)
    return fusion.fuse(f, label, options.structure_weight, options.label_weight)


class Pass(NamedTuple):
    """All tensors of one step.

    N = 4B merged rows, R of them go through stage 2a, each translated J times.
    """

    origin: tf.Tensor  # [R], which of the N rows
    targets: tf.Tensor  # [J, R], j of x_{t,i->j}
    label: tf.Tensor  # [N, H, W], of x
    placed: tf.Tensor  # [B, H, W], l of x_g
    source_label: tf.Tensor  # [B, H, W], of the slice f comes from
    f: tf.Tensor  # [B, H, W, 1], of the source
    background: tf.Tensor  # [B, H, W, 1], outside the brain f comes from
    x: tf.Tensor  # [N, H, W, 1]
    x_r: tf.Tensor  # [R, H, W, 1]
    x_t: tf.Tensor  # [J, R, H, W, 1]
    x_cr: tf.Tensor  # [J, R, H, W, 1]
    x_s: tf.Tensor  # [N, H, W, 1], x rebuilt from its own map and label (D21)
    x_g: tf.Tensor  # [N, H, W, 1]
    x_gt: tf.Tensor  # [J, R, H, W, 1], row (j, r): x_g[origin[r]] to targets[j, r]
    code: tf.Tensor  # [R, h, w, C]
    code_t: tf.Tensor  # [J, R, h, w, C]
    code_s: tf.Tensor  # [R, h, w, C], of the map and label of x, as x_s
    code_g: tf.Tensor  # [B, h, w, C]
    code_gi: tf.Tensor  # [N, h, w, C]


def seeds(seed):
    """Of placement, drawn pairs, noise and blur of one step."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, 4))


def translations(batch_size, all_pairs, seed):
    """Which rows are translated, [R], and to what, [J, R] (D18).

    Every row to the three other modalities, or two rows an example, drawn, to one drawn
    modality each.
    """
    rows = NUM_MODALITIES * batch_size
    if all_pairs:
        origin = tf.range(rows)
        offsets = tf.range(1, NUM_MODALITIES)[:, None] + tf.zeros([1, rows], tf.int32)
    else:
        drawn = tf.random.stateless_uniform([batch_size, NUM_MODALITIES], seed)
        drawn = (
            tf.argsort(drawn)[:, :2] + NUM_MODALITIES * tf.range(batch_size)[:, None]
        )
        origin = tf.reshape(drawn, [2 * batch_size])
        offsets = tf.random.stateless_uniform(
            [1, 2 * batch_size], seed, 1, NUM_MODALITIES, tf.int32
        )
    return origin, (origin[None] + offsets) % NUM_MODALITIES


def forward(nets, batch, seed, options=Options()):  # noqa: B008 - an immutable tuple
    """Stages 2a and 2b on one batch: two calls each of EC and DC, whatever J.

    Args:
        nets: of `build`.
        batch: of data.multimodal_batches.
        seed: [2] int32.
        options: Options.
    """
    x, label = merge(batch["x"]), merge(batch["label"])
    rows = x.shape[0]
    batch_size = rows // NUM_MODALITIES
    place_seed, pair_seed, *_ = seeds(seed)
    modality = all_modalities(batch_size)
    origin, targets = translations(batch_size, options.all_pairs, pair_seed)
    from_modality = origin % NUM_MODALITIES
    ways, translated = targets.shape

    # Section 2.5: f of a real slice without its lesion, and a label that fits its
    # brain.
    source = batch["source"]
    f = structure.structural_map(tf.concat([source, x], 0), options.beta)
    f, f_x = tf.split(tf.stop_gradient(f), [batch_size, rows])
    if options.lesion_removal:
        f = fusion.remove_lesion(f, batch["source_label"])
    background = structure.background(source, 0)
    # Where there is no outside, the first candidate fits, wherever it lands.
    outside = background if options.placement_test else tf.zeros_like(background)
    placed, _, _ = fusion.place_label(batch["candidates"], outside, place_seed)
    fused = fuse(tf.concat([f, f_x], 0), tf.concat([placed, label], 0), options)
    code_g, code_s = tf.split(nets["EC_R"](fused, training=True), [batch_size, rows])

    code = nets["EC"](tf.gather(x, origin), training=True)

    def each_way(t):  # [R, ...] -> [J * R, ...]
        return tf.concat([t] * ways, 0)

    def by_way(t):  # [J * R, ...] -> [J, R, ...]
        return tf.reshape(t, [ways, translated, *t.shape[1:]])

    label_t, f_t = tf.gather(label, origin), tf.gather(f_x, origin)
    placed_rows, f_rows = (tf.repeat(t, NUM_MODALITIES, 0) for t in (placed, f))
    to_modality = tf.reshape(targets, [-1])
    # A translation is to look as the batch's own slice of that modality does.
    first_row = origin // NUM_MODALITIES * NUM_MODALITIES
    style = merge(batch["style"])
    style_r = tf.gather(style, origin)
    style_t = tf.gather(style, tf.reshape(first_row[None] + targets, [-1]))
    images = decode(
        nets,
        tf.concat(
            [code, each_way(code), code_s, tf.repeat(code_g, NUM_MODALITIES, 0)], 0
        ),
        tf.concat([from_modality, to_modality, modality, modality], 0),
        tf.concat([label_t, each_way(label_t), label, placed_rows], 0),
        tf.concat([f_t, each_way(f_t), f_x, f_rows], 0),
        tf.concat([style_r, style_t, style, style], 0),
        options,
    )
    x_r, x_t, x_s, x_g = tf.split(images, [translated, ways * translated, rows, rows])

    codes = nets["EC"](tf.concat([x_t, x_g], 0), training=True)
    code_t, code_gi = tf.split(codes, [ways * translated, rows])
    images = decode(
        nets,
        tf.concat([code_t, each_way(tf.gather(code_gi, origin))], 0),
        tf.concat([each_way(from_modality), to_modality], 0),
        tf.concat([each_way(label_t), each_way(tf.gather(placed_rows, origin))], 0),
        tf.concat([each_way(f_t), each_way(tf.gather(f_rows, origin))], 0),
        tf.concat([each_way(style_r), style_t], 0),
        options,
    )
    x_cr, x_gt = tf.split(images, 2)

    return Pass(
        origin=origin,
        targets=targets,
        label=label,
        placed=placed,
        source_label=batch["source_label"],
        f=f,
        background=background,
        x=x,
        x_r=x_r,
        x_t=by_way(x_t),
        x_cr=by_way(x_cr),
        x_s=x_s,
        x_g=x_g,
        x_gt=by_way(x_gt),
        code=code,
        code_t=by_way(code_t),
        code_s=tf.gather(code_s, origin),
        code_g=code_g,
        code_gi=code_gi,
    )


def _random_blur(x, seed):
    """Each image of [N, H, W, 1] somewhere between itself and its 3 x 3 blur."""
    share = tf.random.stateless_uniform([tf.shape(x)[0], 1, 1, 1], seed)
    return x + share * (addons.gaussian_blur(x) - x)


def terms(nets, batch, seed, options=Options()):  # noqa: B008 - an immutable tuple
    """Every loss of the stage on one batch, by name; arguments as `forward`."""
    p = forward(nets, batch, seed, options)
    rows, batch_size = tf.shape(p.x)[0], tf.shape(p.placed)[0]
    ways, translated = p.targets.shape
    *_, noise_seed, blur_seed = seeds(seed)
    norm = options.image_norm
    modality = all_modalities(batch_size)
    flat = [ways * translated, *p.x.shape[1:]]

    # D sees real, generated and translated images in one call.
    seen = tf.concat([p.x, p.x_g, tf.reshape(p.x_t, flat)], 0)
    noise = options.input_noise * tf.random.stateless_normal(tf.shape(seen), noise_seed)
    scores, categories = nets["D"](seen + noise, training=True)
    parts = [rows, rows, ways * translated]
    real_score, generated_score, translated_score = tf.split(scores, parts)
    category_loss = losses.CATEGORY_LOSSES[options.category]
    wanted = (modality, modality, tf.reshape(p.targets, [-1]))
    real_category, generated_category, translated_category = (
        category_loss(part, index)
        for part, index in zip(tf.split(categories, parts), wanted, strict=True)
    )
    code_score, code_g_score = tf.split(
        nets["FD"](tf.concat([p.code, p.code_g], 0), training=True),
        [translated, batch_size],
    )

    # Where x_{g,j} was translated to i, it is compared with x_{g,i} of the same map.
    first_row = p.origin // NUM_MODALITIES * NUM_MODALITIES
    same_map = tf.gather(p.x_g, first_row[None] + p.targets)  # [J, R, H, W, 1]
    placed = tf.repeat(p.placed, NUM_MODALITIES, 0)
    x_i, label_i = tf.gather(p.x, p.origin), tf.gather(p.label, p.origin)
    # Neither where a lesion was inserted nor where the source had its own: f has no
    # edges there, and the image may.
    source_label = tf.repeat(tf.cast(p.source_label, tf.int32), NUM_MODALITIES, 0)
    no_lesion = tf.logical_and(tf.cast(placed, tf.int32) == 0, source_label == 0)
    no_lesion = tf.cast(no_lesion, tf.float32)[..., None]
    f = tf.repeat(p.f, NUM_MODALITIES, 0)
    f_g = structure.structural_map(p.x_g, options.beta)
    background = tf.repeat(p.background, NUM_MODALITIES, 0)

    components = lesion_nets(nets)
    label_loss = losses.LABEL_LOSSES[options.label_loss]
    guided = _random_blur(p.x_g, blur_seed) if options.guidance_blur else p.x_g
    label_r = segmentation.segment(components, split(p.x), training=True)
    label_g = segmentation.segment(components, split(guided), training=True)
    label_axes = label_g.shape[1]

    return {
        **losses.reconstruction(x_i, p.x_r, label_i, norm),
        **losses.cycle(x_i, p.x_cr, label_i, norm),
        "self_reconstruction": losses.image_distance(p.x, p.x_s, p.label, norm),
        **losses.registration(
            tf.reshape(same_map, flat),
            tf.reshape(p.x_gt, flat),
            tf.concat([tf.gather(placed, p.origin)] * ways, 0),
            norm,
        ),
        **losses.code_1(tf.stack([p.code] * ways), p.code_t),
        **losses.code_2(p.code_g, split(p.code_gi)),
        **losses.code_tie(p.code, p.code_s),
        **losses.structure(f * no_lesion, f_g * no_lesion),
        "background": losses.squared(p.x_g * background),
        **losses.generator_1(translated_score, translated_category),
        **losses.generator_2(generated_score, generated_category, code_g_score),
        "lesion": label_loss(split(placed)[:, :label_axes], label_g),
        "lesion_component": label_loss(split(p.label)[:, :label_axes], label_r),
        **losses.discriminator_1(translated_score, translated_category, code_score),
        **losses.discriminator_2(
            real_score, generated_score, real_category, generated_category, code_g_score
        ),
        "accuracy_D": losses.accuracy(real_score, generated_score, translated_score),
        "accuracy_FD": losses.accuracy(code_score, code_g_score),
    }


def first_terms(nets, batch, seed, options=Options()):  # noqa: B008 - immutable
    """The terms of the first phase (D34): every slice rebuilt from its own code, and
    from its own map and label; and what the lesion components learn.

    Arguments as `forward`; `seed` draws nothing here.
    """
    del seed
    x, label = merge(batch["x"]), merge(batch["label"])
    modality = all_modalities(x.shape[0] // NUM_MODALITIES)
    f = tf.stop_gradient(structure.structural_map(x, options.beta))
    code_s = nets["EC_R"](fuse(f, label, options), training=True)
    code = nets["EC"](x, training=True)
    style = merge(batch["style"])
    images = decode(
        nets,
        *(tf.concat(t, 0) for t in ([code, code_s], [modality] * 2, [label] * 2)),
        *(tf.concat([t] * 2, 0) for t in (f, style)),
        options,
    )
    x_r, x_s = tf.split(images, 2)
    components = lesion_nets(nets)
    label_r = segmentation.segment(components, batch["x"], training=True)
    label_loss = losses.LABEL_LOSSES[options.label_loss]
    norm = options.image_norm
    return {
        **losses.reconstruction(x, x_r, label, norm),
        "self_reconstruction": losses.image_distance(x, x_s, label, norm),
        **losses.code_tie(code, code_s),
        "lesion_component": label_loss(batch["label"][:, : label_r.shape[1]], label_r),
    }


def make_train_step(
    nets,
    optimizers,
    weights=None,
    options=Options(),  # noqa: B008 - an immutable tuple
    ramp_steps=0,
    first_steps=0,
):
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
    names = {
        "generator": GENERATOR_WEIGHTS,
        "discriminator": DISCRIMINATOR_WEIGHTS,
        "lesion_component": LESION_WEIGHTS,
    }
    of_side = variables(nets)

    @tf.function(autograph=False)  # half the time of tracing
    def train_step(batch, seed):
        done = tf.cast(seed[1] - first_steps, tf.float32)
        grown = tf.clip_by_value(done / max(ramp_steps, 1), 0.0, 1.0)
        ramp = {name: grown if ramp_steps else 1.0 for name in RAMPED}
        now = {name: weight * ramp.get(name, 1.0) for name, weight in weights.items()}
        with tf.GradientTape(persistent=True) as tape:
            named = terms(nets, batch, seed, options)
            totals = {side: losses.total(named, now, names[side]) for side in names}
        runs.update(optimizers, tape, totals, of_side)
        # The lesion component has one term, so its total bears the same name.
        return {**named, **totals}

    return train_step


def make_first_step(
    nets,
    optimizers,
    weights=None,
    options=Options(),  # noqa: B008 - an immutable tuple
):
    """Returns step(batch, seed) -> {name: scalar} of the first phase (D34).

    The discriminators and FD take no part. Arguments as `make_train_step`.
    """
    weights = WEIGHTS | (weights or {})
    names = {"generator": FIRST_PHASE_WEIGHTS, "lesion_component": LESION_WEIGHTS}
    of_side = variables(nets)

    @tf.function(autograph=False)  # half the time of tracing
    def first_step(batch, seed):
        with tf.GradientTape(persistent=True) as tape:
            named = first_terms(nets, batch, seed, options)
            totals = {side: losses.total(named, weights, names[side]) for side in names}
        runs.update(optimizers, tape, totals, {side: of_side[side] for side in names})
        return {**named, **totals}

    return first_step


def generate(nets, f, label, style, options=Options()):  # noqa: B008 - immutable
    """x_{g,i} for all i from one map and label each: the four are registered.

    [B, H, W, 1] in {0, 1}, [B, H, W] integers, [B, 4, K] (see styles.measure) ->
    [B, 4, H, W, 1] in [0, 1].
    """
    fused = fuse(f, label, options)
    code_g = nets["EC_R"](fused, training=False)
    modality = all_modalities(tf.shape(f)[0])
    code_rows, label_rows, f_rows = (
        tf.repeat(t, NUM_MODALITIES, 0) for t in (code_g, label, f)
    )
    images = decode(
        nets,
        code_rows,
        modality,
        label_rows,
        f_rows,
        merge(style),
        options,
        training=False,
    )
    return split(images)
