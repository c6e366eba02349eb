"""The stage-2 step as the authors run it: one example, Python loops, a call an image.

The same networks, losses and draws as brats_gan.multimodal, so that every loss is equal
(`largest_difference`); only the modalities do not ride on the batch axis. Within
`plain_layers` the networks are of the layers that the authors have, too.
"""

import contextlib
from unittest import mock

import tensorflow as tf

from brats_gan import (
    addons,
    blocks,
    fusion,
    layers,
    losses,
    multimodal,
    networks,
    runs,
    spec,
    structural_map,
)

FOUR = range(spec.BRATS.num_modalities)


def terms(nets, batch, seed, options=multimodal.Options()):  # noqa: B008 - immutable
    """Every loss of the stage on a batch of one, by name; arguments as multimodal's."""
    assert batch["x"].shape[0] == 1, "one example a step"
    EC, EC_R, D, FD = (nets[name] for name in ("EC", "EC_R", "D", "FD"))
    norm = options.image_norm
    category_loss = losses.CATEGORY_LOSSES[options.category]
    label_loss = losses.LABEL_LOSSES[options.label_loss]
    # The project's own draws, so that both ways see the same.
    place_seed, pair_seed, noise_seed, blur_seed = multimodal.seeds(seed)
    origin, targets = multimodal.translations(1, options.all_pairs, pair_seed)
    ways, translated = targets.shape
    side = batch["x"].shape[2]
    images_seen = 2 * len(FOUR) + ways * translated
    noise = options.input_noise * tf.random.stateless_normal(
        [images_seen, side, side, 1], noise_seed
    )
    blur = tf.random.stateless_uniform([len(FOUR), 1, 1, 1], blur_seed)
    parts = {}  # of each mean

    def add(name, value):
        parts.setdefault(name, []).append(value)

    def judged(image, number, modality):
        """Score and category loss of the image that D sees as its `number`-th."""
        seen = options.input_gain * (image + noise[number : number + 1])
        score, category = D(seen, training=True)
        return score, category_loss(category, modality)

    def decode(code, modality, label, f):
        style = tf.gather(batch["style"][0], modality)
        return multimodal.decode(nets, code, modality, label, f, style, options)

    x = [batch["x"][:, i] for i in FOUR]
    label = [batch["label"][:, i] for i in FOUR]
    index = [tf.fill([1], i) for i in FOUR]

    # Stage 2b: a map and a label that fits.
    source = batch["source"]
    f = tf.stop_gradient(structural_map.structural_map(source, options.beta))
    if options.lesion_removal:
        f = fusion.remove_lesion(f, batch["source_label"])
    background = structural_map.background(source, 0)
    outside = background if options.placement_test else tf.zeros_like(background)
    placed, _, _ = fusion.place_label(batch["candidates"], outside, place_seed)
    no_lesion = tf.logical_and(placed == 0, batch["source_label"] == 0)
    no_lesion = tf.cast(no_lesion, tf.float32)[..., None]
    code_g = EC_R(multimodal.fuse(f, placed, options), training=True)
    score = FD(code_g, training=True)
    add("d_code_generated", losses.squared(score))
    add("code_adversarial", losses.taken_as_real(score))

    x_g = [decode(code_g, index[i], placed, f) for i in FOUR]
    code_gi = [EC(x_g[i], training=True) for i in FOUR]
    maps, codes_s = [], []
    for i in FOUR:
        f_i = tf.stop_gradient(structural_map.structural_map(x[i], options.beta))
        code_s = EC_R(multimodal.fuse(f_i, label[i], options), training=True)
        x_s = decode(code_s, index[i], label[i], f_i)
        maps.append(f_i)
        codes_s.append(code_s)
        add(
            "self_reconstruction",
            losses.image_distance(x[i], x_s, label[i], norm),
        )
        score, category = judged(x[i], i, index[i])
        add("d_real", losses.taken_as_real(score))
        add("d_category_real", category)
        score, category = judged(x_g[i], len(FOUR) + i, index[i])
        add("d_generated", losses.squared(score))
        add("adversarial_generated", losses.taken_as_real(score))
        add("d_category_generated", category)
        add("category_generated", category)
        add("code_generated", losses.difference(code_g, code_gi[i]))
        f_g = structural_map.structural_map(x_g[i], options.beta)
        add("structure", losses.difference(f * no_lesion, f_g * no_lesion))
        add("background", losses.squared(x_g[i] * background))
        for j in FOUR:
            if j != i:
                add("code_pairs", losses.difference(code_gi[i], code_gi[j]))

    # Stage 2a: rebuilt, translated, and back; the rows and targets may be drawn.
    for r in range(translated):
        i = origin[r : r + 1]  # [1], the modality: row and modality are one here
        x_i, label_i, f_i, code_s = (
            tf.gather(tf.concat(each, 0), i) for each in (x, label, maps, codes_s)
        )
        code_i = EC(x_i, training=True)
        add("d_code_real", losses.taken_as_real(FD(code_i, training=True)))
        add("code_tie", losses.code_tie(code_i, code_s)["code_tie"])
        x_r = decode(code_i, i, label_i, f_i)
        add("reconstruction", losses.image_distance(x_i, x_r, label_i, norm))
        code_gj = tf.gather(tf.concat(code_gi, 0), i)
        back = []
        for way in range(ways):
            j = targets[way, r : r + 1]
            x_t = decode(code_i, j, label_i, f_i)
            number = 2 * len(FOUR) + way * translated + r
            score, category = judged(x_t, number, j)
            add("d_translated", losses.squared(score))
            add("adversarial_translated", losses.taken_as_real(score))
            add("d_category_translated", category)
            add("category_translated", category)
            code_t = EC(x_t, training=True)
            add("code_translated", losses.difference(code_i, code_t))
            back.append(decode(code_t, i, label_i, f_i))
            add("cycle", losses.image_distance(x_i, back[-1], label_i, norm))
            x_gt = decode(code_gj, j, placed, f)
            same_map = tf.gather(tf.concat(x_g, 0), j)
            add("registration", losses.image_distance(same_map, x_gt, placed, norm))
        add("cycle_pairs", tf.zeros([]))
        pairs = [
            losses.image_distance(back[j], back[k], label_i, norm)
            for j in range(ways)
            for k in range(j + 1, ways)
        ]
        if pairs:
            parts["cycle_pairs"][-1] = tf.add_n(pairs) / len(pairs)

    components = multimodal.lesion_nets(nets)
    labels = {
        "lesion_component": (x, label),
        "lesion": ([_blurred(x_g[i], blur[i], options) for i in FOUR], [placed] * 4),
    }
    for name, (images, truth) in labels.items():
        found = [_segment(components, images[i], i) for i in FOUR]
        # Its Dice is over all images at once, so this one is no mean of four.
        add(name, label_loss(tf.stack(truth, 1), tf.stack(found, 1)))
    return {name: tf.add_n(each) / len(each) for name, each in parts.items()}


def _blurred(image, share, options):
    if not options.guidance_blur:
        return image
    return image + share * (addons.gaussian_blur(image) - image)


def _segment(components, image, i):
    """Logits [1, H, W, 5] of the classes of one image of modality i."""
    name = spec.BRATS.modalities[i]
    if "EC_l" in components:
        code = components["EC_l"](image, training=True)
        return components[f"DC_l_{name}"](code, training=True)
    net = components.get("SEG") or components[f"SEG_{name}"]
    return net(image, training=True)


def make_train_step(nets, optimizers, options=multimodal.Options()):  # noqa: B008
    """multimodal.make_train_step, of the terms above."""
    names = {
        "generator": multimodal.GENERATOR_WEIGHTS,
        "discriminator": multimodal.DISCRIMINATOR_WEIGHTS,
        "lesion_component": multimodal.LESION_WEIGHTS,
    }
    of_side = multimodal.variables(nets)

    @tf.function
    def train_step(batch, seed):
        with tf.GradientTape(persistent=True) as tape:
            named = terms(nets, batch, seed, options)
            totals = {
                side: losses.total(named, multimodal.WEIGHTS, names[side])
                for side in names
            }
        runs.update(optimizers, tape, totals, of_side)
        return {**named, **totals}

    return train_step


@contextlib.contextmanager
def plain_layers():
    """Within it, networks and optimizers are of what others have on the shelf.

    Instance norm of tensorflow-addons, upsampling before a convolution, Keras' Adam: of
    the same weights the same numbers. Where there is no tensorflow-addons, Keras'
    GroupNormalization.
    """

    def norm(**options):
        options |= {"epsilon": layers.EPSILON, "dtype": "float32"}
        if addons.tfa is None:
            return tf.keras.layers.GroupNormalization(groups=-1, **options)
        return addons.tfa.layers.InstanceNormalization(**options)

    def conditional_norm():
        plain = norm(center=False, scale=False)

        def apply(inputs):
            x, gain, offset = inputs
            return plain(x) * gain[:, None, None] + offset[:, None, None]

        # One layer, so that those around it keep their order, and their weights.
        return tf.keras.layers.Lambda(apply, dtype="float32")

    def resize_convolution(filters, **options):
        convolution = tf.keras.layers.Conv2D(filters, 3, padding="same", **options)
        return lambda x: convolution(tf.keras.layers.UpSampling2D(2)(x))

    with (
        mock.patch.multiple(
            blocks, ResizeConv2D=resize_convolution, instance_norm=norm
        ),
        mock.patch.object(networks, "conditional_instance_norm", conditional_norm),
        mock.patch.object(layers, "Adam", tf.keras.optimizers.Adam),
    ):
        yield


def shake(nets):
    """Moves every weight a little: new networks ignore labels and modalities.

    Spectral norms are then known to the last, as they are after some steps: a way that
    calls D more often a step does not know them better.
    """
    for number, net in enumerate(nets.values()):
        for index, variable in enumerate(net.trainable_variables):
            step = tf.random.stateless_normal(variable.shape, [number, index])
            variable.assign_add(0.05 * step)
    blank = tf.zeros([1, *nets["D"].input_shape[1:]])
    for _ in range(200):
        nets["D"](blank, training=True)


def largest_difference(batch, seed, options, scheme="multiple"):
    """The largest relative difference of a loss between the ways, loops of both layers.

    On networks of width 4, away from their start. The names must be the same.
    """
    nets = multimodal.build(batch["x"].shape[2], 4, scheme, code_game=True)
    shake(nets)
    with plain_layers():
        plain = multimodal.build(batch["x"].shape[2], 4, scheme, code_game=True)
    for name, net in plain.items():
        net.set_weights(nets[name].get_weights())
    batched = multimodal.terms(nets, batch, seed, options)
    differences = []
    for each in (nets, plain):
        looped = terms(each, batch, seed, options)
        assert set(looped) == set(multimodal.WEIGHTS)
        differences += [
            abs(float(batched[name]) - float(looped[name]))
            / max(abs(float(batched[name])), 1e-6)
            for name in looped
        ]
    return max(differences)


def require_equal(batch, tolerance=1e-3):
    """Raises unless both ways give equal losses, by default and with all pairs.

    Returns:
        The largest relative difference.
    """
    found = {
        all_pairs: largest_difference(
            batch, tf.constant([3, 4]), multimodal.Options(all_pairs=all_pairs)
        )
        for all_pairs in (False, True)
    }
    worst = max(found.values())
    if not worst <= tolerance:
        raise AssertionError(f"losses differ by {worst:.2g} of their value: {found}")
    return worst
