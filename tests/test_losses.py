"""Every loss against a value worked out in the comment beside it."""

import math

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import losses, spec


def column(*values):
    return tf.reshape(tf.constant(values, tf.float32), [-1, 1])


def maps(*values):
    """[N, 1, 1, 1]"""
    return tf.reshape(tf.constant(values, tf.float32), [-1, 1, 1, 1])


def check(named, expected):
    assert set(named) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(named[name], value, rtol=1e-6, err_msg=name)


def test_code_discriminator_f():
    # (0^2 + 0.5^2) / 2 = 0.125 from the prior, (0 + 2^2) / 2 = 2 from the code
    named = losses.code_discriminator_f(column(1.0, 0.5), column(0.0, 2.0))
    check(named, {"code_discriminator": 2.125})


def test_discriminator_f():
    # (0 + 1) / 2 = 0.5 from real patches, (0.25 + 0.25) / 2 from generated ones
    named = losses.discriminator_f(maps(1.0, 0.0), maps(0.5, -0.5))
    check(named, {"map_discriminator": 0.75})


def test_generator_f():
    # (0.5 - 1)^2 = 0.25; (3 - 1)^2 = 4
    named = losses.generator_f(column(0.5), maps(3.0))
    check(named, {"code_adversarial": 0.25, "map_adversarial": 4.0})


def test_normal():
    # Of one code: mean(mu) = (1 + 3) / 2 = 2, squared 4; sigma = exp(ln 2) = 2 and 1,
    # mean 1.5, (1.5 - 1)^2 = 0.25. Of two whose mu are 2 and -2 throughout, and sigma
    # 1: 4 each, though their mean is 0.
    mean, logvar = tf.constant([[1.0, 3.0]]), tf.constant([[2 * math.log(2.0), 0.0]])
    check(losses.normal(mean, logvar), {"normal": 4.25})
    apart = tf.constant([[2.0, 2.0], [-2.0, -2.0]])
    check(losses.normal(apart, tf.zeros([2, 2])), {"normal": 4.0})


def test_divergence():
    # 0.5 (mu^2 + sigma^2 - ln sigma^2 - 1): of N(0, 1) 0; of N(2, 1) 0.5 * 4 = 2
    named = losses.divergence(column(0.0, 2.0), column(0.0, 0.0))
    check(named, {"divergence": 1.0})


def test_reconstruction_f():
    # |f - f_r|^2: edge (1 - 0.5)^2 = 0.25, elsewhere 0.25^2 = 0.0625: mean 0.15625;
    # entropy: (ln 2 + ln 4/3) / 2. Outside: (0.25 * 1)^2 / 2 = 0.03125
    # sigmoid(0) = 0.5, sigmoid(-ln 3) = 1 / (1 + 3)
    f, logits, background = maps(1.0, 0.0), maps(0.0, -math.log(3)), maps(0.0, 1.0)
    named = losses.reconstruction_f(f, logits, background, "squared")
    check(named, {"reconstruction": 0.15625, "outside": 0.03125})
    named = losses.reconstruction_f(f, logits, background)
    check(named, {"reconstruction": math.log(8 / 3) / 2, "outside": 0.03125})


def test_feature_matching():
    # |1 - 0.5| = 0.5 and |0 - 2| = 2: mean 1.25; |3 - 3| = 0; mean of the two layers
    real, rebuilt = [maps(1.0, 0.0), maps(3.0)], [maps(0.5, 2.0), maps(3.0)]
    check(losses.feature_matching(real, rebuilt), {"feature": 0.625})


def test_accuracy_of_a_discriminator():
    # Of the real scores two of four are above one half; of the others, in one or two
    # parts, one of two is below: (0.5 + 0.5) / 2.
    real = maps(0.9, 0.6, 0.5, -1.0)
    assert float(losses.accuracy(real, maps(0.2, 0.7))) == 0.5
    assert float(losses.accuracy(real, maps(0.2), maps(0.7))) == 0.5
    assert float(losses.accuracy(maps(1.0), maps(0.0))) == 1.0


def test_the_code_tie_moves_the_code_of_the_map_alone():
    code, code_s = tf.Variable([[1.0, 2.0]]), tf.Variable([[0.0, 4.0]])
    with tf.GradientTape() as tape:
        named = losses.code_tie(code, code_s)
    check(named, {"code_tie": 2.5})  # (1 + 4) / 2
    of_code, of_code_s = tape.gradient(named["code_tie"], [code, code_s])
    assert of_code is None
    np.testing.assert_array_equal(of_code_s, [[-1.0, 2.0]])  # 2 (c_s - c) / 2


def test_an_edge_that_is_thought_impossible_still_has_a_gradient():
    logit = tf.constant([[[[-20.0]]]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logit)
        made = {
            name: loss(tf.ones_like(logit), logit)
            for name, loss in losses.MAP_LOSSES.items()
        }
    pull = {name: -tape.gradient(made[name], logit).numpy().item() for name in made}
    assert pull["entropy"] == pytest.approx(1.0, abs=0.01)
    assert pull["squared"] < 1e-7


def test_reconstruction_mask():
    # |mask - mask_r|^2 = (0.5^2 + 0) / 2; edges: (1 * 0.5)^2 / 2 + 0 + (1 * 1)^2 / 2
    named = losses.reconstruction_mask(
        background=maps(1.0, 0.0),
        background_r=maps(0.5, 0.0),
        background_g=maps(1.0, 1.0),
        f=maps(1.0, 1.0),
        f_r=maps(0.0, 1.0),
        f_g=maps(1.0, 0.0),
    )
    check(named, {"mask": 0.125, "mask_edges": 0.125 + 0.0 + 0.5})


def test_category_entropy():
    # Equal scores: ln 4. Score ln 3 for the right one of four: -ln(3 / 6) = ln 2.
    scores = tf.constant([[0.0, 0, 0, 0], [math.log(3.0), 0, 0, 0]])[:, None, None]
    loss = losses.category_entropy(scores, tf.constant([2, 0]))
    np.testing.assert_allclose(loss, (math.log(4.0) + math.log(2.0)) / 2, rtol=1e-6)


def test_category_regression():
    # (3 - 2)^2 and (0.5 - 0)^2: mean 0.625
    loss = losses.category_regression(maps(3.0, 0.5), tf.constant([2, 0]))
    np.testing.assert_allclose(loss, 0.625)


def test_discriminator_1():
    # 2^2 = 4; the category as given; (0 - 1)^2 = 1
    named = losses.discriminator_1(maps(2.0), tf.constant(0.7), maps(0.0))
    check(
        named,
        {"d_translated": 4.0, "d_category_translated": 0.7, "d_code_real": 1.0},
    )


def test_generator_1():
    named = losses.generator_1(maps(2.0), tf.constant(0.7))  # (2 - 1)^2
    check(named, {"adversarial_translated": 1.0, "category_translated": 0.7})


def test_discriminator_2():
    named = losses.discriminator_2(
        maps(0.0), maps(3.0), tf.constant(0.1), tf.constant(0.2), maps(0.5)
    )
    check(
        named,
        {
            "d_real": 1.0,  # (0 - 1)^2
            "d_generated": 9.0,  # 3^2
            "d_category_real": 0.1,
            "d_category_generated": 0.2,
            "d_code_generated": 0.25,  # 0.5^2
        },
    )


def test_generator_2():
    named = losses.generator_2(maps(3.0), tf.constant(0.2), maps(0.5))
    check(
        named,
        {
            "adversarial_generated": 4.0,  # (3 - 1)^2
            "category_generated": 0.2,
            "code_adversarial": 0.25,  # (0.5 - 1)^2
        },
    )


def test_reconstruction_in_both_norms_and_by_class():
    x, x_r = maps(1.0, 0.0), maps(0.5, 0.25)
    # absolute: (0.5 + 0.25) / 2; squared: (0.25 + 0.0625) / 2
    check(losses.reconstruction(x, x_r), {"reconstruction": 0.375})
    check(losses.reconstruction(x, x_r, norm="squared"), {"reconstruction": 0.15625})
    label = tf.constant([[[4]], [[2]]], tf.uint8)  # weights 4 and 1.9
    weighted = (4 * 0.5 + 1.9 * 0.25) / 2
    check(losses.reconstruction(x, x_r, label), {"reconstruction": weighted})


def test_cycle_over_two_ways():
    # To x: |1 - 0| = 1 and |1 - 0.5| = 0.5, mean 0.75. Between the two ways: 0.5.
    named = losses.cycle(maps(1.0), tf.stack([maps(0.0), maps(0.5)]))
    check(named, {"cycle": 0.75, "cycle_pairs": 0.5})


def test_cycle_over_one_way_has_no_pair():
    named = losses.cycle(maps(1.0), tf.stack([maps(0.25)]))
    check(named, {"cycle": 0.75, "cycle_pairs": 0.0})


def test_code_1():
    named = losses.code_1(maps(1.0, 2.0), maps(1.0, 0.0))  # (0 + 4) / 2
    check(named, {"code_translated": 2.0})


def test_code_2_equals_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    code_g = rng.random([2, 3, 3, 5]).astype(np.float32)
    code_gi = rng.random([2, 4, 3, 3, 5]).astype(np.float32)
    to_g = np.mean([(code_g - code_gi[:, i]) ** 2 for i in range(4)])
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    between = np.mean([(code_gi[:, i] - code_gi[:, j]) ** 2 for i, j in pairs])
    named = losses.code_2(tf.constant(code_g), tf.constant(code_gi))
    check(named, {"code_generated": to_g, "code_pairs": between})


def test_structure():
    check(losses.structure(maps(1.0, 0.0), maps(0.0, 0.0)), {"structure": 0.5})


def test_registration():
    check(losses.registration(maps(1.0), maps(0.25)), {"registration": 0.75})


def logits_of(probabilities):
    return tf.math.log(tf.constant(probabilities) + 1e-30)


def test_label_squared():
    # One-hot (1, 0, 0, 0, 0) against (0.5, 0.5, 0, 0, 0): (0.25 + 0.25) / 5
    logits = logits_of([[[[0.5, 0.5, 0, 0, 0]]]])
    loss = losses.label_squared(tf.zeros([1, 1, 1], tf.uint8), logits)
    np.testing.assert_allclose(loss, 0.1, rtol=1e-6)


def test_label_squared_of_each_class_by_itself():
    # One-hot (1, 0, 0, 0, 0) against (0.5, 0.8, 0, 0, 0): (0.25 + 0.64) / 5
    logits = tf.constant([[[[0.0, math.log(4.0), -50.0, -50.0, -50.0]]]])
    loss = losses.LABEL_LOSSES["squared_sigmoid"]
    found = loss(tf.zeros([1, 1, 1], tf.uint8), logits, (1.0,) * 5)
    np.testing.assert_allclose(found, 0.178, rtol=1e-6)


def test_label_weighted():
    # Two pixels, labels 0 and 1, each with probability 0.5 for either.
    # Entropy: (0.7 ln 2 + 5 ln 2) / 2. Dice of class 1: (2 * 0.5 + 1) / (1 + 1 + 1)
    # = 2/3; of classes 2 to 4, nowhere and not found: 1. Mean Dice: (2/3 + 3) / 4.
    logits = logits_of([[[[0.5, 0.5, 0, 0, 0]], [[0.5, 0.5, 0, 0, 0]]]])
    label = tf.constant([[[0], [1]]], tf.uint8)
    expected = 2.85 * math.log(2.0) + 1 - (2 / 3 + 3) / 4
    loss = losses.label_weighted(label, logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_who_is_sure_and_wrong_has_a_gradient_of_the_weighted_label_loss():
    logits = tf.constant([[[[100.0, 0, 0, 0, 0]]]])  # background, beyond any doubt
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.label_weighted(tf.constant([[[3]]], tf.uint8), logits)
    # Of the entropy: its class weight times (p - onehot).
    weight = spec.BRATS.label_weights[3]
    gradient = tape.gradient(loss, logits)[0, 0, 0]
    np.testing.assert_allclose(gradient, [weight, 0, 0, -weight, 0], atol=1e-5)


def test_label_losses_are_least_for_the_right_answer():
    label = tf.constant([[[0, 1], [2, 4]]], tf.uint8)
    right = 200.0 * tf.one_hot(tf.cast(label, tf.int32), 5) - 100.0
    for loss in losses.LABEL_LOSSES.values():
        np.testing.assert_allclose(loss(label, right), 0.0, atol=1e-6)
        assert float(loss(label, tf.reverse(right, [-1]))) > 0.1


@pytest.mark.parametrize("loss", [losses.difference, losses.image_distance])
def test_shapes_that_differ_are_an_error_not_a_broadcast(loss):
    with pytest.raises(ValueError):
        loss(tf.ones([4, 1, 1, 1]), tf.ones([1, 1, 1, 1]))


def test_total_is_the_weighted_sum_of_the_named_terms():
    named = {"a": tf.constant(2.0), "b": tf.constant(3.0), "c": tf.constant(100.0)}
    total = losses.total(named, {"a": 10.0, "b": 0.5, "c": 1.0}, ["a", "b"])
    np.testing.assert_allclose(total, 21.5)


def test_a_term_without_weight_is_an_error():
    with pytest.raises(KeyError):
        losses.total({"a": tf.constant(1.0)}, {}, ["a"])
