"""Both sides of the seam give equal numbers, and the numbers are right."""

import math

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import addons, layers

needs_tfa = pytest.mark.skipif(
    addons.tfa is None, reason="tensorflow-addons exists for Python 3.10 and 3.11 only"
)


@pytest.fixture
def images():
    return tf.random.stateless_normal([3, 8, 8, 4], [1, 2]) * 3.0 + 5.0


@needs_tfa
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_instance_norm_and_transforms_agree_with_tensorflow_addons(
    images, interpolation, monkeypatch
):
    transforms = addons.affine_transforms(
        (8, 8), [0.3, -1.0, 0.0], [1.2, 0.7, 1.0], [1.0, 0.0, -2.5], 0.5, [0, 1, 0]
    )
    with_tfa = [
        addons.projective_transform(images, transforms, interpolation, 7.0),
        addons.gaussian_blur(images),
        addons.tfa.layers.InstanceNormalization(epsilon=layers.EPSILON)(images),
    ]
    monkeypatch.setattr(addons, "tfa", None)
    without = [
        addons.projective_transform(images, transforms, interpolation, 7.0),
        addons.gaussian_blur(images),
        layers.instance_norm()(images),
    ]
    for one, other in zip(with_tfa, without, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_instance_norm_agrees_with_keras_group_normalization(images):
    keras_own = tf.keras.layers.GroupNormalization(groups=-1, epsilon=layers.EPSILON)
    np.testing.assert_allclose(
        layers.instance_norm()(images), keras_own(images), atol=2e-5
    )


@pytest.mark.parametrize("beta_1", [0.0, 0.5])
def test_adam_takes_the_steps_of_keras_adam(beta_1):
    schedule = tf.keras.optimizers.schedules.PolynomialDecay(0.1, 8, 0.01)
    optimizers = [
        kind(schedule, beta_1=beta_1)
        for kind in (layers.Adam, tf.keras.optimizers.Adam)
    ]
    start = [tf.constant([[1.0, -2.0], [3.0, 0.5]]), tf.constant([0.25])]
    both = [[tf.Variable(each) for each in start] for _ in optimizers]
    for optimizer, variables in zip(optimizers, both, strict=True):
        optimizer.build(variables)

    @tf.function
    def step(seed):
        for optimizer, variables in zip(optimizers, both, strict=True):
            gradients = [
                tf.random.stateless_normal(each.shape, [seed, number])
                for number, each in enumerate(variables)
            ]
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

    for number in range(10):
        step(tf.constant(number))
        for one, other in zip(*both, strict=True):  # that moved by 0.1
            np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.abs(both[0][0] - start[0]).min() > 0.01  # and both have moved
    slots = [[v.numpy() for v in optimizer.variables] for optimizer in optimizers]
    for one, other in zip(*slots, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_adam_keeps_the_exponential_mean_of_every_variable_from_its_start_on():
    weights = [tf.Variable([1.0, -2.0]), tf.Variable([4.0])]
    adam = layers.Adam(0.1, use_ema=True, ema_momentum=0.75)
    adam.build(weights)
    expected = [each.numpy() for each in weights]
    for number in range(4):
        # The second has no gradient in one of the steps: neither moves.
        gradients = [tf.ones([2]) * (number - 1), None if number == 2 else tf.ones([1])]
        adam.apply_gradients(
            [(g, v) for g, v in zip(gradients, weights, strict=True) if g is not None]
        )
        for index, each in enumerate(weights):
            if gradients[index] is not None:
                expected[index] = 0.75 * expected[index] + 0.25 * each.numpy()
    last = [each.numpy() for each in weights]
    adam.finalize_variable_values(weights)
    for mean, each, before in zip(expected, weights, last, strict=True):
        np.testing.assert_allclose(each, mean, rtol=1e-6)
        assert np.abs(mean - before).min() > 0.01


def test_gradients_of_the_norms_are_those_that_tensorflow_derives(images):
    target = tf.random.stateless_normal(images.shape, [1, 2])
    gain = 1.0 + 0.3 * tf.random.stateless_normal([3, 4], [5, 6])
    offset = tf.random.stateless_normal([3, 4], [7, 8])

    def derived(x, gain, offset):
        mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
        x = (x - mean) * tf.math.rsqrt(variance + layers.EPSILON)
        return x * gain + offset

    def gradients(norm, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_mean(tf.square(norm(*inputs) - target))
        return tape.gradient(loss, inputs)

    layer = layers.instance_norm()
    layer.build(images.shape)
    layer.set_weights([gain[0], offset[0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(layer(images) - target))
    shared = tape.gradient(loss, layer.trainable_variables)
    expected = gradients(derived, images, gain[0], offset[0])[1:]
    for one, other in zip(shared, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)

    conditional = layers.conditional_instance_norm()
    for one, other in zip(
        gradients(lambda *inputs: conditional(list(inputs)), images, gain, offset),
        gradients(
            lambda x, g, o: derived(x, g[:, None, None], o[:, None, None]),
            images,
            gain,
            offset,
        ),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_norms_of_one_shape_share_a_trace():
    x = tf.random.stateless_normal([2, 3, 7, 5], [1, 2])  # a shape of no other test
    norms = [layers.instance_norm() for _ in range(3)]
    for norm in norms:
        norm.build(x.shape)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = norms[2](norms[1](norms[0](x)))
        return tape.gradient(y, x)

    halves = (layers._normalised, layers._normalised_gradient)
    before = [half.experimental_get_tracing_count() for half in halves]
    gradient.get_concrete_function(x)
    after = [half.experimental_get_tracing_count() for half in halves]
    assert after == [count + 1 for count in before]


def test_instance_norm_of_a_constant_channel_is_zero():
    x = tf.fill([1, 4, 4, 2], 1234.5)
    np.testing.assert_allclose(layers.instance_norm()(x), np.zeros([1, 4, 4, 2]))


def test_conditional_norm_is_the_plain_one_with_a_gain_and_offset_an_image(images):
    gain = tf.random.stateless_normal([3, 4], [5, 6])
    offset = tf.random.stateless_normal([3, 4], [7, 8])
    plain = layers.instance_norm()(images).numpy()
    expected = plain * gain[:, None, None] + offset[:, None, None]
    made = layers.conditional_instance_norm()([images, gain, offset])
    np.testing.assert_allclose(made, expected, atol=2e-5)


class FewSteps(layers.LossScaledAdam):
    INITIAL_SCALE = 8.0
    GROWTH_STEPS = 2


def scaled_adam(rate=0.1):
    weight = tf.Variable([1.0, -2.0])
    adam = FewSteps(rate, beta_1=0.5)
    adam.build([weight])
    return adam, weight


@pytest.mark.parametrize("traced", [False, True])
def test_the_loss_scale_grows_and_shrinks_as_by_hand(traced):
    adam, weight = scaled_adam()

    def step(gradient):
        adam.apply_gradients([(gradient, weight)])

    step = tf.function(step) if traced else step
    scales, counts = [], []
    inf, nan = float("inf"), float("nan")
    for value in (1.0, 1.0, inf, 1.0, nan, 1.0, 1.0, 1.0, inf, inf, inf, inf, inf, inf):
        step(tf.constant([value, 1.0]))
        scales.append(float(adam.loss_scale))
        counts.append(int(adam.iterations))
    # Two finite steps double it, others halve it and begin the count anew, down to 1.
    assert scales == [8, 16, 8, 8, 4, 4, 8, 8, 4, 2, 1, 1, 1, 1]
    assert counts == [1, 2, 2, 3, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6]


def test_a_step_that_is_not_finite_moves_nothing():
    adam, weight = scaled_adam()
    adam.apply_gradients([(tf.constant([1.0, 2.0]), weight)])
    before = [v.numpy() for v in (weight, *adam.variables)]
    adam.apply_gradients([(tf.constant([1.0, float("nan")]), weight)])
    after = [v.numpy() for v in (weight, *adam.variables)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.all(np.isfinite(weight))


def test_scaled_gradients_make_the_steps_of_adam():
    adam, weight = scaled_adam()
    plain, other = layers.Adam(0.1, beta_1=0.5), tf.Variable([1.0, -2.0])
    plain.build([other])
    for number in range(5):  # the scale is doubled on the way
        gradient = tf.random.stateless_normal([2], [3, number])
        adam.apply_gradients([(gradient * adam.loss_scale, weight)])
        plain.apply_gradients([(gradient, other)])
    assert float(adam.loss_scale) == 32
    np.testing.assert_array_equal(weight, other)


def test_the_loss_scale_is_part_of_a_checkpoint(tmp_path):
    adam, weight = scaled_adam()
    for _ in range(3):
        adam.apply_gradients([(tf.ones([2]), weight)])
    saved = tf.train.Checkpoint(optimizer=adam, weight=weight).save(tmp_path / "c")
    again, other = scaled_adam()
    status = tf.train.Checkpoint(optimizer=again, weight=other).restore(saved)
    status.assert_existing_objects_matched()
    assert (float(again.loss_scale), int(again.finite_steps)) == (16, 1)
    for one in (adam, again):
        one.apply_gradients([(tf.ones([2]), {adam: weight, again: other}[one])])
    assert float(again.loss_scale) == 32
    np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize("kind", [layers.Adam, FewSteps])
def test_an_optimizer_that_is_restarted_takes_its_first_steps_again(kind):
    weight = tf.Variable([1.0, -2.0])
    adam = kind(0.1, beta_1=0.5)
    adam.build([weight])

    def train():
        weight.assign([1.0, -2.0])
        for number in range(3):
            gradient = tf.random.stateless_normal([2], [3, number])
            scale = getattr(adam, "loss_scale", 1.0)
            adam.apply_gradients([(gradient * scale, weight)])
        return weight.numpy()

    first = train()
    adam.restart()
    np.testing.assert_array_equal(train(), first)


def test_instance_norm_computes_in_float32_under_bfloat16():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = layers.instance_norm()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert layer(tf.ones([1, 2, 2, 1], tf.bfloat16)).dtype == tf.float32


def moved(image, interpolation="nearest", **how):
    image = tf.constant(image, tf.float32)[None, ..., None]
    transforms = addons.affine_transforms(image.shape[1:3], **how)
    return addons.projective_transform(image, transforms, interpolation)[0, ..., 0]


CORNER = [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, CORNER),
        ({"shift_x": 1}, [[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ({"shift_y": 2}, [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        ({"mirror": 1}, [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        # A quarter turn counter-clockwise takes the top left to the bottom left.
        ({"angle": math.pi / 2}, [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        # Mirrored to the top right, turned to the top left, moved down.
        ({"mirror": 1, "angle": math.pi / 2, "shift_y": 1}, np.eye(3)[[1, 0, 2]] * 0),
    ],
    ids=["nothing", "right", "down", "mirror", "turn", "all"],
)
def test_affine_transforms_by_hand(how, expected):
    expected = np.array(expected, float)
    if len(how) == 3:
        expected[1, 0] = 1.0
    np.testing.assert_array_equal(moved(CORNER, **how), expected)


def test_magnification_by_two_shows_the_middle():
    ramp = np.tile(np.arange(5.0), (5, 1))
    # Column x shows 2 + (x - 2) / 2: 1, 1.5, 2, 2.5, 3.
    shown = moved(ramp, "bilinear", scale=2.0)
    np.testing.assert_allclose(shown, np.tile([1, 1.5, 2, 2.5, 3], (5, 1)))


def test_blur_keeps_a_constant_and_spreads_a_point_by_the_gaussian():
    point = np.zeros([1, 5, 5, 1], np.float32)
    point[0, 2, 2] = 1.0
    blurred = addons.gaussian_blur(tf.constant(point), sigma=0.8).numpy()[0, ..., 0]
    side = math.exp(-1 / (2 * 0.8**2))
    centre = 1 / (1 + 2 * side)
    np.testing.assert_allclose(blurred[2, 2], centre**2, rtol=1e-5)
    np.testing.assert_allclose(blurred[1, 2], side * centre**2, rtol=1e-5)
    constant = tf.ones([1, 5, 5, 2])
    np.testing.assert_allclose(addons.gaussian_blur(constant), constant, rtol=1e-5)
