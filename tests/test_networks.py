"""Shapes, sizes and gradients of every network."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import layers, networks

# name: (builder, input shapes, output shapes, parameters). Counted from the layer
# tables: a 3 x 3 block of a inputs and b outputs has 9ab + 2b, without norm 9ab + b.
CASES = {
    "EC": (
        lambda: networks.build_encoder(32, 4),
        [(32, 32, 1)],
        [(8, 8, 32)],
        # 1-4 44, 4-4 152, 4-8 304, 8-16 1184, 16-16 2336, 16-32 4672, 32-32 9280
        44 + 152 + 304 + 1184 + 2336 + 4672 + 9280,
    ),
    "DC_l": (
        lambda: networks.build_decoder(8, 4, 5),
        [(8, 8, 32)],
        [(32, 32, 5)],
        # 32-32, 32-16, 16-16 twice, 16-8, 8-8 twice, 8-4, and 4-5 with bias 185
        9280 + 4640 + 2 * 2336 + 1168 + 2 * 592 + 296 + 185,
    ),
    "SEG": (
        lambda: networks.build_segmentor(32, 4),
        [(32, 32, 1)],
        [(32, 32, 5)],
        None,
    ),
    "MASK": (lambda: networks.build_mask(32, 4), [(32, 32, 1)], [(32, 32, 1)], None),
    "EC_f": (
        lambda: networks.build_map_encoder(64, 4, 2),
        [(64, 64, 1)],
        [(128,), (128,)],
        None,
    ),
    "DC_f": (
        lambda: networks.build_map_decoder(64, 4, 2),
        [(128,)],
        [(64, 64, 1)],
        None,
    ),
    "D_f": (
        lambda: networks.build_map_discriminator(64, 4),
        [(64, 64, 1)],
        [(4, 4, 1), (32, 32, 8), (16, 16, 16), (8, 8, 32)],
        # 4x4 1-8: 16 * 8 + 8 and a direction of 8, and so on: 8-16 2080, 16-32 8256,
        # 32-32 16448; 3x3 32-16 4640, 16-1 146
        144 + 2080 + 8256 + 16448 + 4640 + 146,
    ),
    "D_f as the authors'": (
        lambda: networks.build_map_discriminator(64, 4, spectral=False, name="D_f"),
        [(64, 64, 1)],
        [(4, 4, 1), (32, 32, 8), (16, 16, 16), (8, 8, 32)],
        # 5x5 1-8 216, 3x3 8-16 1184, 16-32 4672, 32-32 9280, 32-16 4640, 16-1 145
        216 + 1184 + 4672 + 9280 + 4640 + 145,
    ),
    "FD_f": (
        lambda: networks.build_map_code_discriminator(64, 4, 1),
        [(64,)],
        [(4, 4, 1)],
        None,
    ),
    "DC": (
        lambda: networks.build_conditional_decoder(8, 4, style_numbers=2),
        [(8, 8, 32), (4,), (32, 32, 17), (8,)],
        [(32, 32, 1)],
        None,
    ),
    "DC as the paper's": (
        lambda: networks.build_conditional_decoder(
            8, 4, False, label_modulation=False, map_modulation=False
        ),
        [(8, 8, 32), (4,)],
        [(32, 32, 1)],
        None,
    ),
    "D": (
        lambda: networks.build_discriminator(64, 4),
        [(64, 64, 1)],
        [(8, 8, 1), (8, 8, 4)],
        # 4x4 1-4 72, 4-8 528, 8-16 2080; 3x3 16-16 2336; score 16-4 584, 4-1 38;
        # category 16-4 584, 4-4 148
        72 + 528 + 2080 + 2336 + 584 + 38 + 584 + 148,
    ),
    "D as the authors'": (
        lambda: networks.build_discriminator(64, 4, spectral=False),
        [(64, 64, 1)],
        [(4, 4, 1), (4, 4, 4)],
        None,
    ),
    "FD": (
        lambda: networks.build_code_discriminator(16, 4),
        [(16, 16, 32)],
        [(4, 4, 1)],
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_network(name):
    builder, inputs, outputs, parameters = CASES[name]
    net = builder()
    assert net.name == name.split()[0]
    if parameters is not None:
        assert net.count_params() == parameters
    batch = [tf.random.stateless_uniform([2, *shape], [1, 2]) for shape in inputs]
    with tf.GradientTape() as tape:
        made = tf.nest.flatten(
            net(batch if len(batch) > 1 else batch[0], training=True)
        )
        # A fixed random direction: a plain mean cancels behind a norm layer.
        loss = tf.add_n(
            [
                tf.reduce_sum(y * tf.random.stateless_normal(y.shape, [3, 4]))
                for y in made
            ]
        )
    assert [tuple(y.shape[1:]) for y in made] == outputs
    gradients = tape.gradient(loss, net.trainable_variables)
    for variable, gradient in zip(net.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
        assert np.all(np.isfinite(gradient)), variable.name


def test_the_paper_sizes_have_the_paper_parameter_counts():
    # authors_facts of the layer tables at n = 64: 4.54 M for an encoder (conv biases
    # included there, none here), 5.4 M for a decoder.
    assert networks.build_encoder(32, 64).count_params() == pytest.approx(
        4.54e6, rel=0.01
    )
    decoder = networks.build_decoder(8, 64, 5)
    assert decoder.count_params() == pytest.approx(5.4e6, rel=0.01)


@pytest.mark.parametrize(
    ("conditional_norm", "label_modulation"),
    [(True, True), (True, False), (False, True), (False, False)],
)
def test_the_modality_changes_the_image(conditional_norm, label_modulation):
    net = networks.build_conditional_decoder(8, 4, conditional_norm, label_modulation)
    code = tf.random.stateless_normal([1, 8, 8, 32], [1, 2])
    maps = tf.zeros([1, 32, 32, 17 if label_modulation else 1])
    one, other = (
        net([code, tf.one_hot([modality], 4), maps]).numpy() for modality in (0, 1)
    )
    if conditional_norm:  # at the start its gains are 1 for all: train one offset apart
        kernel = next(v for v in net.trainable_variables if v.shape == (4, 4))
        kernel.assign_add(tf.one_hot([1] * 4, 4, axis=0) * 0.5)
        other = net([code, tf.one_hot([1], 4), maps]).numpy()
    assert np.abs(one - other).max() > 1e-4


def test_unlearnt_maps_leave_the_image_alone():
    net = networks.build_conditional_decoder(8, 4)
    code = tf.random.stateless_normal([1, 8, 8, 32], [1, 2])
    condition = tf.one_hot([0], 4)
    images = [net([code, condition, tf.fill([1, 32, 32, 17], v)]) for v in (0.0, 1.0)]
    np.testing.assert_array_equal(*images)


def test_an_unlearnt_style_leaves_the_image_alone():
    net = networks.build_conditional_decoder(
        8, 4, label_modulation=False, map_modulation=False, style_numbers=3
    )
    code = tf.random.stateless_normal([1, 8, 8, 32], [1, 2])
    condition = tf.one_hot([0], 4)
    images = [net([code, condition, tf.fill([1, 12], v)]) for v in (0.0, 1.0)]
    np.testing.assert_array_equal(*images)


def spectral(kernel):
    """A layer of this 1 x 1 kernel [inputs, filters] on one pixel."""
    layer = layers.SpectralConv2D(kernel.shape[1], 1, use_bias=False)
    pixel = np.ones([1, 1, 1, kernel.shape[0]], np.float32)
    layer(pixel)
    layer.kernel.assign(kernel[None, None])
    return layer, pixel


def test_a_spectral_convolution_is_divided_by_its_largest_singular_value():
    # diag(3, 1) has the norm 3: ones go to (1, 1/3).
    layer, pixel = spectral(np.diag([3.0, 1.0]).astype(np.float32))
    for _ in range(30):
        y = layer(pixel, training=True)
    np.testing.assert_allclose(np.ravel(y), [1.0, 1.0 / 3.0], rtol=1e-4)


def test_a_spectral_convolution_has_no_gradient_along_its_own_kernel():
    """Twice the kernel is the same layer, which the gradient must know."""
    rng = np.random.default_rng(0)
    layer, pixel = spectral(rng.standard_normal((3, 2)).astype(np.float32))
    for _ in range(100):
        layer(pixel, training=True)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(pixel))
    kernel = layer.trainable_variables[0]
    gradient = tape.gradient(y, kernel)
    assert float(tf.reduce_max(tf.abs(gradient))) > 1e-3
    assert abs(float(tf.reduce_sum(gradient * tf.convert_to_tensor(kernel)))) < 1e-4


def test_a_spectral_convolution_learns_its_direction_only_in_training():
    layer, pixel = spectral(np.diag([3.0, 1.0]).astype(np.float32))
    before = np.array(layer.direction)
    layer(pixel)
    np.testing.assert_array_equal(layer.direction, before)
    layer(pixel, training=True)
    assert np.any(np.array(layer.direction) != before)


def test_a_discriminator_with_spectral_norm_sees_amplitude_and_one_without_does_not():
    x = tf.random.stateless_uniform([1, 64, 64, 1], [1, 2])
    for norm in (True, False):
        net = networks.build_discriminator(64, 4, spectral=norm)
        one, half = (net(share * x)[0].numpy() for share in (1.0, 0.5))
        assert np.allclose(one, half, atol=1e-3) == (not norm)


def test_a_cell_of_the_code_draws_its_own_part_of_the_map():
    decoder = networks.build_map_decoder(64, 4, code_channels=2)
    code = np.random.default_rng(0).standard_normal([1, 8, 8, 2]).astype(np.float32)
    other = code.copy()
    other[:, 0, 0] += 3.0
    maps = [decoder(each.reshape(1, -1)).numpy()[0, ..., 0] for each in (code, other)]
    moved = maps[0] != maps[1]
    assert moved[:16, :16].any()
    assert not moved[40:, 40:].any()


@pytest.mark.parametrize("name", CASES)
def test_scores_and_images_are_float32_in_bfloat16(name):
    builder, inputs, _, _ = CASES[name]
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        net = builder()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    batch = [tf.random.stateless_uniform([1, *shape], [1, 2]) for shape in inputs]
    made = net(batch if len(batch) > 1 else batch[0], training=True)
    for each in tf.nest.flatten(made):
        if net.name != "EC":  # its code goes on in bfloat16
            assert each.dtype == tf.float32
        assert np.isfinite(tf.cast(each, tf.float32)).all()


@pytest.mark.parametrize("bias", [False, True])
def test_a_resize_convolution_is_upsampling_and_a_convolution(bias):
    image = tf.keras.Input((3, 5, 2))
    one = layers.ResizeConv2D(4, use_bias=bias)
    other = tf.keras.layers.Conv2D(4, 3, padding="same", use_bias=bias)
    short = tf.keras.Model(image, one(image))
    long = tf.keras.Model(image, other(tf.keras.layers.UpSampling2D(2)(image)))
    assert tuple(short.output.shape) == (None, 6, 10, 4)
    weights = [tf.random.stateless_normal([3, 3, 2, 4], [1, 2]), tf.range(4.0)]
    for layer in (one, other):
        layer.set_weights(weights[: len(layer.weights)])
    x = tf.random.stateless_normal([2, 3, 5, 2], [3, 4])
    up = tf.random.stateless_normal([2, 6, 10, 4], [5, 6])

    def results(model):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
        return y, *tape.gradient(y, [x, *model.trainable_weights], up)

    for ours, keras_own in zip(results(short), results(long), strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-5, atol=1e-5)
