"""Stage 1: what learns from what."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import code_bank, runs, structural

SIZE, WIDTH, CODE = 32, 4, 16  # a number for each 8 x 8 pixels
SEED = tf.constant([3, 4])


@pytest.fixture(scope="module")
def nets():
    tf.keras.utils.set_random_seed(1)
    return structural.build(SIZE, WIDTH, code_channels=1, code_game=True)


@pytest.fixture
def codes():
    return code_bank.Codes(CODE, kept=4)


@pytest.fixture(scope="module")
def batch():
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    brain = (np.hypot(y, x) < 12)[None, ..., None]
    texture = np.random.default_rng(0).random([2, SIZE, SIZE, 1])
    label = np.zeros([2, SIZE, SIZE], np.uint8)
    label[0, 14:18, 10:14] = 2
    x = tf.constant(brain * (0.3 + 0.7 * texture), tf.float32)
    return {"x": x, "label": tf.constant(label)}


# Which networks each term trains; all others must not move.
TRAINS = {
    "reconstruction": {"EC_f", "DC_f"},
    "outside": {"EC_f", "DC_f"},
    "code_adversarial": {"EC_f"},
    "normal": {"EC_f"},
    "divergence": {"EC_f"},
    "map_adversarial": {"EC_f", "DC_f"},  # by the rebuilt maps, which it judges too
    "feature": {"EC_f", "DC_f"},
    "mask": {"MASK"},
    "mask_edges": {"MASK"},
    "code_discriminator": {"FD_f"},
    "map_discriminator": {"D_f"},
}


def test_every_term_is_weighted_and_trains_somebody():
    assert set(TRAINS) == set(structural.WEIGHTS)


@pytest.fixture(scope="module")
def gradients(nets, batch):
    """{term: {network: sum of absolute gradients}} within the side of the term."""
    with tf.GradientTape(persistent=True) as tape:
        named = structural.terms(nets, batch, SEED, code_bank.Codes(CODE))
    found = {}
    for term in TRAINS:
        generates = term in structural.GENERATOR_WEIGHTS
        side = structural.GENERATOR_SIDE if generates else structural.DISCRIMINATOR_SIDE
        by_net = tape.gradient(
            named[term], {name: nets[name].trainable_variables for name in side}
        )
        found[term] = {
            name: sum(float(tf.reduce_sum(tf.abs(g))) for g in each if g is not None)
            for name, each in by_net.items()
        }
    return found


@pytest.mark.parametrize("term", TRAINS)
def test_a_term_trains_its_networks_and_no_other(gradients, term):
    moved = {name for name, size in gradients[term].items() if size > 0}
    assert moved == TRAINS[term]


def optimizers(nets, rates):
    return {
        side: runs.adam(structural.variables(nets, names), rates[side], 10)
        for side, names in (
            ("generator", structural.GENERATOR_SIDE),
            ("discriminator", structural.DISCRIMINATOR_SIDE),
        )
    }


def weights_of(net):
    return [variable.numpy() for variable in net.trainable_variables]


SIDES = ("generator", "discriminator")


def test_without_the_code_game_there_is_neither_fd_f_nor_its_terms(
    nets, batch, codes, eagerly
):
    without = {name: net for name, net in nets.items() if name != "FD_f"}
    assert {*structural.build(SIZE, WIDTH, code_channels=1)} == {*without}
    adams = optimizers(without, dict.fromkeys(SIDES, 0.0))
    losses = structural.make_train_step(without, adams, codes)(batch, SEED)
    left_out = {*structural.CODE_GAME, "accuracy_FD_f"}
    assert set(losses) == {*structural.WEIGHTS, *structural.SHOWN, *SIDES} - left_out


@pytest.mark.parametrize("still", SIDES)
def test_with_one_rate_at_zero_only_the_other_side_moves(
    nets, batch, codes, eagerly, still
):
    rates = {"generator": 1e-3, "discriminator": 1e-3, still: 0.0}
    # Of the trainable ones: a spectral norm's direction goes along with either side.
    before = {name: weights_of(net) for name, net in nets.items()}
    step = structural.make_train_step(nets, optimizers(nets, rates), codes)
    losses = step(batch, SEED)
    assert set(losses) == {*structural.WEIGHTS, *structural.SHOWN, *SIDES}
    frozen = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }[still]
    for name, net in nets.items():
        moved = any(
            np.any(one != other)
            for one, other in zip(before[name], weights_of(net), strict=True)
        )
        assert moved == (name not in frozen), name


def test_a_blank_slice_gives_finite_losses(nets, batch, codes):
    blank = {key: tf.zeros_like(value) for key, value in batch.items()}
    named = structural.terms(nets, blank, SEED, codes)
    assert all(np.isfinite(value) for value in named.values())


def test_equal_seeds_give_equal_losses(nets, batch):
    one, same, other = (
        float(
            structural.terms(nets, batch, seed, code_bank.Codes(CODE))["reconstruction"]
        )
        for seed in (SEED, SEED, tf.constant([3, 5]))
    )
    assert one == same != other


def test_the_map_to_learn_has_no_edge_in_the_lesion(batch):
    f, background = structural.extract(batch)
    assert np.all(np.asarray(f)[0, 14:18, 10:14] == 0)
    assert np.count_nonzero(f) > 0
    # Algorithm 2 with p = 5 leaves a rim outside: the brain reaches to radius 12 * 37 /
    # 32.
    assert float(background[0, 16, 16, 0]) == 0 and float(background[0, 0, 0, 0]) == 1


def test_drawn_codes_have_the_mean_and_covariance_of_those_kept():
    rng = np.random.default_rng(0)
    code = rng.standard_normal((400, 3)) @ np.diag([1.0, 2.0, 0.5]) + [0, 5, -1]
    code = code.astype(np.float32)
    codes = code_bank.Codes(3, kept=512)  # not all of it is filled
    codes.add(code[:250])
    codes.add(code[250:])
    drawn = codes.sample(20000, SEED).numpy()
    np.testing.assert_allclose(drawn.mean(0), code.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(code.T), atol=0.1)


def test_of_the_codes_the_newest_are_kept():
    codes = code_bank.Codes(1, kept=3)
    for value in (1.0, 2.0, 3.0, 4.0):
        codes.add(tf.constant([[value]]))
    assert sorted(codes.codes.numpy().ravel()) == [2.0, 3.0, 4.0]


def test_from_a_single_code_only_itself_is_drawn():
    codes = code_bank.Codes(2, kept=8)
    codes.add(tf.constant([[1.0, -2.0]]))
    np.testing.assert_allclose(codes.sample(3, SEED), [[1.0, -2.0]] * 3)


def test_without_soft_maps_what_is_learnt_is_the_hard_map(nets, batch):
    """An image of one step: its soft map is not hard, so the losses differ."""
    soft, hard = (
        structural.terms(
            nets,
            batch,
            SEED,
            code_bank.Codes(CODE),
            structural.Options(soft_maps=each),
        )
        for each in (True, False)
    )
    assert float(soft["reconstruction"]) != float(hard["reconstruction"])
    assert float(soft["divergence"]) == float(hard["divergence"])


class _Known:
    """An encoder whose codes are the first two pixels, and a decoder of two pixels."""

    def __init__(self, apply):
        self.apply = apply

    def __call__(self, x, training):
        return self.apply(x)


def test_the_fit_is_the_gaussian_of_the_codes_and_matches_the_density():
    rng = np.random.default_rng(0)
    f = (rng.random([3000, 1, 10, 1]) < 0.2).astype(np.float32)
    nets = {
        # Codes a and a + b of pixels a, b: variances pq, 2 pq and covariance pq, with
        # pq = 0.16; the encoder is sure to 0.04.
        "EC_f": _Known(
            lambda f: (
                tf.stack([f[:, 0, 0, 0], f[:, 0, 0, 0] + f[:, 0, 1, 0]], 1),
                tf.math.log(tf.fill([len(f), 2], 0.04)),
            )
        ),
        "DC_f": _Known(lambda code: code[:, None, :, None]),
        "MASK": _Known(tf.zeros_like),
    }
    found = structural.fit(nets, f)
    np.testing.assert_allclose(found.mean, [0.2, 0.4], atol=0.03)
    np.testing.assert_allclose(
        found.factor @ found.factor.T, [[0.2, 0.16], [0.16, 0.36]], atol=0.03
    )
    z = np.random.default_rng(1).standard_normal((2000, 2)).astype(np.float32)
    drawn, _ = structural.generate(nets, z, found)
    assert np.mean(drawn) == pytest.approx(0.2, abs=0.04)


def test_generated_maps_are_hard(nets):
    found = structural.Fit(0.0, np.eye(CODE, dtype=np.float32), 0.5)
    f, background = structural.generate(nets, tf.zeros([2, CODE]), found)
    assert f.shape == background.shape == (2, SIZE, SIZE, 1)
    assert set(np.unique(f)) | set(np.unique(background)) <= {0.0, 1.0}
