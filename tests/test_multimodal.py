"""Stage 2: one batched step, against loops; what learns from what."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    fusion,
    lesion_components,
    losses,
    multimodal,
    runs,
    segmentation,
    structural_map,
)

SIZE, WIDTH, BATCH = 32, 4, 2
SEED = tf.constant([3, 4])
PLAIN = multimodal.Options(
    all_pairs=True, input_noise=0.0, input_gain=1.0, guidance_blur=False
)


def make_batch(seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    brain = (np.hypot(y, x) < 13).astype(np.float32)
    label = np.zeros([batch, 5, SIZE, SIZE], np.uint8)
    label[:, :, 12:18, 10:16] = rng.integers(1, 5, [batch, 5, 6, 6])
    images = brain * (0.2 + 0.8 * rng.random([batch, 5, SIZE, SIZE], np.float32))
    candidates = np.repeat(label[:, :1], 3, 1)
    return {
        "x": tf.constant(images[:, :4, ..., None]),
        "label": tf.constant(label[:, :4]),
        "source": tf.constant(images[:, 4, ..., None]),
        "source_label": tf.constant(label[:, 4]),
        "candidates": tf.constant(candidates),
        "style": tf.constant(rng.standard_normal([batch, 4, 5]), tf.float32),
        "subject": tf.zeros([batch, 5], tf.int64),
    }


def shaken(nets):
    """Moves every weight a little, so that no gain is 1 and no offset 0.

    Spectral norms are then known to the last: D may be called once a step or eight
    times.
    """
    rng = np.random.default_rng(0)
    for net in nets.values():
        for v in net.trainable_variables:
            v.assign_add(0.05 * rng.standard_normal(v.shape).astype(np.float32))
    for _ in range(200):
        nets["D"](tf.zeros([1, SIZE, SIZE, 1]), training=True)
    return nets


@pytest.fixture(scope="module")
def nets():
    tf.keras.utils.set_random_seed(1)
    return shaken(multimodal.build(SIZE, WIDTH, "shared_encoder", code_game=True))


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def looped_terms(nets, batch):
    """The equations as they are written: sums over i, j and k, a network call each."""
    EC, EC_R, DC, D, FD = (nets[name] for name in ("EC", "EC_R", "DC", "D", "FD"))
    four = range(4)
    named = {}

    def add(name, value, count):
        named[name] = named.get(name, 0.0) + value / count

    def decode(code, i, label, f):
        """DC, told the label, f and the style of the batch's slice of modality i."""
        index = tf.fill([BATCH], i)
        f = f * tf.cast(label == 0, tf.float32)[..., None]
        maps = tf.concat([multimodal.lesion_maps(label, index), f], -1)
        style = np.zeros([BATCH, 4, 5], np.float32)
        style[:, i] = batch["style"][:, i]
        return DC(
            [code, tf.one_hot(index, 4), maps, tf.reshape(style, [BATCH, 20])],
            training=True,
        )

    def categories(scores, i):
        return losses.category_entropy(scores, tf.fill([BATCH], i))

    x = [batch["x"][:, i] for i in four]
    labels = [batch["label"][:, i] for i in four]
    code = [EC(x[i], training=True) for i in four]
    f = structural_map.structural_map(batch["source"])
    f = f * tf.cast(batch["source_label"] == 0, tf.float32)[..., None]
    outside = 1.0 - tf.cast(batch["source"] > 0, tf.float32)
    place_seed = tf.random.experimental.stateless_split(SEED, 4)[0]
    placed, _, _ = fusion.place_label(batch["candidates"], outside, place_seed)
    source_label = batch["source_label"]
    not_placed = tf.cast(placed == 0, tf.float32)[..., None]
    no_lesion = not_placed * tf.cast(source_label == 0, tf.float32)[..., None]
    code_g = EC_R(fusion.fuse(f * not_placed, placed), training=True)
    add("d_code_generated", losses.squared(FD(code_g)), 1)
    add("code_adversarial", losses.squared(FD(code_g) - 1.0), 1)

    maps = [structural_map.structural_map(image) for image in x]
    for i in four:
        f_i = maps[i] * tf.cast(labels[i] == 0, tf.float32)[..., None]
        code_s = EC_R(fusion.fuse(f_i, labels[i]), training=True)
        add("code_tie", losses.difference(code_s, code[i]), 4)
        x_s = decode(code_s, i, labels[i], maps[i])
        distance = losses.image_distance(x[i], x_s, labels[i])
        add("self_reconstruction", distance, 4)

    x_g = [decode(code_g, i, placed, f) for i in four]
    code_gi = [EC(image, training=True) for image in x_g]
    for i in four:
        score, category = D(x[i])
        add("d_real", losses.squared(score - 1.0), 4)
        add("d_category_real", categories(category, i), 4)
        score, category = D(x_g[i])
        add("d_generated", losses.squared(score), 4)
        add("adversarial_generated", losses.squared(score - 1.0), 4)
        for name in ("d_category_generated", "category_generated"):
            add(name, categories(category, i), 4)
        add("d_code_real", losses.squared(FD(code[i]) - 1.0), 4)
        x_r = decode(code[i], i, labels[i], maps[i])
        add("reconstruction", losses.image_distance(x[i], x_r, labels[i]), 4)
        add("code_generated", losses.difference(code_g, code_gi[i]), 4)
        f_g = structural_map.structural_map(x_g[i])
        add("structure", losses.difference(f * no_lesion, f_g * no_lesion), 4)
        add("background", losses.squared(x_g[i] * outside), 4)

        back = {}
        for j in four:
            if j == i:
                continue
            x_t = decode(code[i], j, labels[i], maps[i])
            code_t = EC(x_t, training=True)
            score, category = D(x_t)
            add("d_translated", losses.squared(score), 12)
            add("adversarial_translated", losses.squared(score - 1.0), 12)
            for name in ("d_category_translated", "category_translated"):
                add(name, categories(category, j), 12)
            add("code_translated", losses.difference(code[i], code_t), 12)
            back[j] = decode(code_t, i, labels[i], maps[i])
            add("cycle", losses.image_distance(x[i], back[j], labels[i]), 12)
            x_gt = decode(code_gi[j], i, placed, f)
            add("registration", losses.image_distance(x_g[i], x_gt, placed), 12)
            add("code_pairs", losses.difference(code_gi[i], code_gi[j]), 12)
        for j in back:
            for k in back:
                if k != j:
                    pair = losses.image_distance(back[j], back[k], labels[i])
                    add("cycle_pairs", pair, 24)

    components = multimodal.lesion_nets(nets)
    for name, images, label in (
        ("lesion_component", x, tf.stack(labels, 1)),
        ("lesion", x_g, tf.stack([placed] * 4, 1)),
    ):
        found = [
            components[f"DC_l_{m}"](components["EC_l"](images[i]))
            for i, m in enumerate(("t1", "t2", "t1ce", "flair"))
        ]
        named[name] = losses.label_weighted(label, tf.stack(found, 1))
    return named


def test_the_batched_step_equals_plain_loops_over_modalities(nets, batch):
    batched = multimodal.terms(nets, batch, SEED, PLAIN)
    looped = looped_terms(nets, batch)
    assert set(looped) == set(multimodal.WEIGHTS)
    assert set(batched) == {*looped, *multimodal.SHOWN}
    for name in looped:
        np.testing.assert_allclose(
            batched[name], looped[name], rtol=2e-4, atol=1e-6, err_msg=name
        )


def test_f_keeps_the_edges_of_its_lesion_only_without_lesion_removal(nets, batch):
    inside = np.asarray(batch["source_label"]) > 0
    with_it, without = (
        multimodal.forward(nets, batch, SEED, PLAIN._replace(lesion_removal=each)).f
        for each in (True, False)
    )
    assert np.all(np.asarray(with_it)[inside] == 0)
    assert np.any(np.asarray(without)[inside] == 1)


def test_labels_leave_the_brain_only_without_the_placement_test(nets, batch):
    everywhere = {**batch, "candidates": tf.fill(batch["candidates"].shape, 2)}
    everywhere["candidates"] = tf.cast(everywhere["candidates"], tf.uint8)
    outside = np.asarray(batch["source"])[..., 0] == 0
    with_it, without = (
        multimodal.forward(
            nets, everywhere, SEED, PLAIN._replace(placement_test=each)
        ).placed
        for each in (True, False)
    )
    assert np.all(np.asarray(with_it)[outside] == 0)
    assert np.any(np.asarray(without)[outside] == 2)


def test_edges_inside_the_label_make_no_difference_to_what_is_generated(nets, batch):
    f = structural_map.structural_map(batch["source"])
    label = batch["source_label"]
    inside = tf.cast(label > 0, tf.float32)[..., None]
    one, other = (
        multimodal.generate(nets, each, label, batch["style"], PLAIN)
        for each in (f * (1 - inside), tf.maximum(f, inside))
    )
    np.testing.assert_array_equal(one, other)
    kept = PLAIN._replace(lesion_removal=False)
    other = multimodal.generate(
        nets, tf.maximum(f, inside), label, batch["style"], kept
    )
    assert np.any(other != one)


GENERATORS = {"EC_R", "EC", "DC"}
SIDES = ("generator", "discriminator", "lesion_component")
# Which networks each generator-side term trains.
TRAINS = {
    "reconstruction": {"EC", "DC"},
    "cycle": {"EC", "DC"},
    "cycle_pairs": {"EC", "DC"},
    "self_reconstruction": {"EC_R", "DC"},
    "registration": GENERATORS,
    "code_translated": {"EC", "DC"},
    "code_generated": GENERATORS,
    "code_pairs": GENERATORS,
    "code_tie": {"EC_R"},
    "code_adversarial": {"EC_R"},
    "adversarial_generated": {"EC_R", "DC"},
    "adversarial_translated": {"EC", "DC"},
    "category_generated": {"EC_R", "DC"},
    "category_translated": {"EC", "DC"},
    "structure": {"EC_R", "DC"},
    "background": {"EC_R", "DC"},
    "lesion": {"EC_R", "DC"},
}


def test_the_table_names_every_generator_term():
    assert set(TRAINS) == set(multimodal.GENERATOR_WEIGHTS)


@pytest.fixture(scope="module")
def gradients(nets):
    """{term: {network: sum of absolute gradients}} over all networks of the stage."""
    with tf.GradientTape(persistent=True) as tape:
        named = multimodal.terms(nets, make_batch(batch=1), SEED, PLAIN)
    found = {}
    for term in multimodal.WEIGHTS:
        by_net = tape.gradient(
            named[term], {name: net.trainable_variables for name, net in nets.items()}
        )
        found[term] = {
            name: sum(float(tf.reduce_sum(tf.abs(g))) for g in each if g is not None)
            for name, each in by_net.items()
        }
    return found


@pytest.mark.parametrize("term", TRAINS)
def test_a_term_trains_its_networks_and_no_other_generator(gradients, term):
    moved = {name for name in GENERATORS if gradients[term][name] > 0}
    assert moved == TRAINS[term]


def test_discriminator_terms_reach_the_discriminators(gradients):
    for term in multimodal.DISCRIMINATOR_WEIGHTS:
        reached = {name for name in ("D", "FD") if gradients[term][name] > 0}
        assert reached == {"FD" if "code" in term else "D"}, term


def test_discriminators_see_their_input_times_the_gain(nets):
    def as_score(images, training):
        return images, tf.zeros([*images.shape[:3], 4])

    batch = make_batch()
    options = PLAIN._replace(input_gain=3.0)
    found = multimodal.terms(nets | {"D": as_score}, batch, SEED, options)
    wanted = np.mean((3 * batch["x"].numpy() - 1) ** 2)  # a real slice is to score 1
    assert float(found["d_real"]) == pytest.approx(wanted, rel=1e-5)


def test_the_lesion_loss_of_real_images_reaches_the_lesion_components(gradients, nets):
    reached = gradients["lesion_component"]
    for name in multimodal.lesion_nets(nets):
        assert reached[name] > 0
    assert not any(reached[name] for name in (*GENERATORS, "D", "FD"))


def optimizers(nets, rates):
    return {
        side: runs.adam(of_side, rates[side], 10)
        for side, of_side in multimodal.variables(nets).items()
    }


def weights_of(nets):
    """The trainable ones: a spectral norm's direction goes along with either side."""
    return {
        name: [variable.numpy() for variable in net.trainable_variables]
        for name, net in nets.items()
    }


def moved_nets(before, nets):
    after = weights_of(nets)
    return {
        name
        for name, net in nets.items()
        if any(
            np.any(one != other)
            for one, other in zip(before[name], after[name], strict=True)
        )
    }


@pytest.mark.parametrize("side", ["generator", "discriminator", "lesion_component"])
def test_only_the_side_with_a_learning_rate_moves(nets, batch, eagerly, side):
    members = {
        "generator": GENERATORS,
        "discriminator": {"D", "FD"},
        "lesion_component": set(multimodal.lesion_nets(nets)),
    }
    adams = optimizers(nets, dict.fromkeys(members, 0.0) | {side: 1e-3})
    before = weights_of(nets)
    named = multimodal.make_train_step(nets, adams)(batch, SEED)
    assert moved_nets(before, nets) == members[side]
    totals = {"generator", "discriminator"}
    assert set(named) == {*multimodal.WEIGHTS, *multimodal.SHOWN, *totals}


def test_without_the_code_game_there_is_neither_fd_nor_its_terms(nets, batch, eagerly):
    without = {name: net for name, net in nets.items() if name != "FD"}
    assert {*multimodal.build(SIZE, WIDTH, "shared_encoder")} == {*without}
    adams = optimizers(
        without, dict.fromkeys(("generator", "discriminator", "lesion_component"), 0.0)
    )
    named = multimodal.make_train_step(without, adams)(batch, SEED)
    left = {*multimodal.WEIGHTS, *multimodal.SHOWN, "generator", "discriminator"}
    assert set(named) == left - {*multimodal.CODE_GAME, "accuracy_FD"}
    both = multimodal.terms(nets, batch, SEED)
    for name in left - {*multimodal.CODE_GAME, "accuracy_FD", "generator"}:
        if name != "discriminator":
            np.testing.assert_allclose(named[name], both[name], 1e-4, err_msg=name)


def test_the_first_phase_trains_the_generator_and_the_lesion_components_alone(
    nets, batch, eagerly
):
    adams = optimizers(nets, dict.fromkeys(SIDES, 1e-3))
    before = weights_of(nets)
    named = multimodal.make_first_step(nets, adams)(batch, SEED)
    assert moved_nets(before, nets) == GENERATORS | set(multimodal.lesion_nets(nets))
    first = {*multimodal.FIRST_PHASE_WEIGHTS, *multimodal.LESION_WEIGHTS}
    assert set(named) == {*first, "generator"}


def test_the_first_phase_rebuilds_as_the_full_step_does(nets, batch):
    """With all pairs every slice goes through stage 2a, as in the first phase."""
    first = multimodal.first_terms(nets, batch, SEED, PLAIN)
    full = multimodal.terms(nets, batch, SEED, PLAIN)
    for name in first:
        np.testing.assert_allclose(first[name], full[name], rtol=1e-4, err_msg=name)


def test_late_terms_grow_from_the_end_of_the_first_phase(nets, batch, eagerly):
    def total(step):
        """Of the generator with one ramped term, registration, alone."""
        weights = dict.fromkeys(multimodal.WEIGHTS, 0.0) | {"registration": 1.0}
        adams = optimizers(nets, dict.fromkeys(SIDES, 0.0))
        train_step = multimodal.make_train_step(nets, adams, weights, PLAIN, 10, 20)
        named = train_step(batch, tf.constant([3, step]))
        return float(named["generator"]) / float(named["registration"])

    # Grows over 10 steps after 20 of the first phase.
    assert [round(total(step), 3) for step in (20, 25, 30, 40)] == [0.0, 0.5, 1.0, 1.0]


def test_l_f_is_blind_where_a_lesion_was_inserted_and_where_the_source_had_one(nets):
    one = make_batch(batch=1)
    mask = np.zeros([1, SIZE, SIZE], np.uint8)
    mask[0] = 2  # the whole source is a lesion: nothing is left to compare
    everywhere = {**one, "source_label": tf.constant(mask)}
    named = multimodal.terms(nets, everywhere, SEED, PLAIN)
    assert float(named["structure"]) == 0.0


def test_lesion_components_do_not_learn_from_generated_images(nets, batch):
    components = multimodal.variables(nets)["lesion_component"]
    gradients = []
    for candidates in (batch["candidates"], tf.zeros_like(batch["candidates"])):
        with tf.GradientTape() as tape:
            named = multimodal.terms(nets, {**batch, "candidates": candidates}, SEED)
            total = losses.total(named, multimodal.WEIGHTS, multimodal.LESION_WEIGHTS)
        gradients.append(tape.gradient(total, components))
    # Other labels, so other generated images; what is learnt must be the same.
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_step_of_one_drawn_translation_is_the_same_in_expectation(nets, batch):
    one = multimodal.Options(input_noise=0.0, guidance_blur=False)
    draws = [
        float(multimodal.terms(nets, batch, tf.constant([0, k]), one)["cycle"])
        for k in range(12)
    ]
    every = float(multimodal.terms(nets, batch, SEED, PLAIN)["cycle"])
    assert np.mean(draws) == pytest.approx(every, rel=0.05)


def test_lesion_maps_by_hand():
    label = tf.constant([[[0, 4]]], tf.uint8)
    maps = multimodal.lesion_maps(label, tf.constant([2])).numpy()[0, 0]
    # Class 4 of modality 2: map (4 - 1) * 4 + 2 = 14.
    assert not maps[0].any()
    np.testing.assert_array_equal(np.flatnonzero(maps[1]), [14])


def test_merge_and_split_are_inverse_and_put_modalities_side_by_side():
    x = tf.reshape(tf.range(2 * 4 * 3), [2, 4, 3])
    np.testing.assert_array_equal(multimodal.split(multimodal.merge(x)), x)
    np.testing.assert_array_equal(multimodal.merge(x)[5], x[1, 1])
    np.testing.assert_array_equal(multimodal.all_modalities(2), [0, 1, 2, 3] * 2)


def test_generated_images_depend_on_the_label(nets, batch):
    f = structural_map.structural_map(batch["source"])
    label, style = batch["source_label"], batch["style"]
    with_lesion = multimodal.generate(nets, f, label, style)
    without = multimodal.generate(nets, f, tf.zeros_like(label), style)
    assert with_lesion.shape == (BATCH, 4, SIZE, SIZE, 1)
    assert np.abs(with_lesion - without).max() > 1e-4


def test_generated_images_depend_on_the_style_of_their_own_modality_only(nets, batch):
    f = structural_map.structural_map(batch["source"])
    style = batch["style"].numpy()
    one = multimodal.generate(nets, f, batch["source_label"], tf.constant(style))
    style[:, 2] += 1.0
    other = multimodal.generate(nets, f, batch["source_label"], tf.constant(style))
    differs = np.abs(one - other).max((0, 2, 3, 4)) > 1e-4
    assert differs.tolist() == [False, False, True, False]


@pytest.mark.parametrize("scheme", [*lesion_components.SCHEMES, "four_channel"])
def test_a_segmentation_step_lowers_its_loss(scheme, eagerly):
    tf.keras.utils.set_random_seed(2)
    nets = lesion_components.build(scheme, SIZE, WIDTH)
    variables = [v for net in nets.values() for v in net.trainable_variables]
    adam = {"segmentation": runs.adam(variables, 3e-3, 1000)}
    step = segmentation.make_train_step(nets, adam, dropout=0.0)
    data = make_batch()
    batch = {"x": data["x"], "label": data["source_label"]}
    values = [float(step(batch, SEED)["segmentation"]) for _ in range(5)]
    assert values[-1] < values[0]
    made = lesion_components.segment(nets, batch["x"])
    assert made.shape == (BATCH, 1 if scheme == "four_channel" else 4, SIZE, SIZE, 5)
    np.testing.assert_allclose(
        tf.reduce_sum(made, -1), np.ones(made.shape[:-1]), rtol=1e-5
    )


def test_schemes_share_what_they_say_they_share():
    counts = {
        scheme: sum(
            net.count_params()
            for net in lesion_components.build(scheme, SIZE, WIDTH).values()
        )
        for scheme in lesion_components.SCHEMES
    }
    one_encoder = lesion_components.build("shared_encoder", SIZE, WIDTH)[
        "EC_l"
    ].count_params()
    decoder = counts["single"] - one_encoder
    assert counts["shared_encoder"] == one_encoder + 4 * decoder
    assert counts["multiple"] == 4 * counts["single"]


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="one of"):
        lesion_components.build("double", SIZE, WIDTH)
