"""SavedModels as somebody else feeds them: by their signatures alone."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    multimodal,
    networks,
    signatures,
    spec,
    structural,
    structural_map,
    styles,
    synthesis,
)
from brats_gan.stages import multimodal as stage_2
from brats_gan.stages import structural as stage_1

SIZE = 32


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """{name: signatures} of tiny networks, as both stages export them."""
    root = tmp_path_factory.mktemp("run")
    tf.keras.utils.set_random_seed(0)
    settings = stage_1.Settings(image_size=SIZE, width=2, code_channels=1)
    nets = structural.build(**settings.build())
    count = networks.map_code_dim(SIZE, 1)
    found = structural.Fit(np.zeros(count, np.float32), np.eye(count, dtype="f"), 0.5)
    stage_1.export(root, nets, found, {})
    settings = stage_2.Settings(image_size=SIZE, width=2, scheme="single")
    nets = multimodal.build(**settings.build())
    rng = np.random.default_rng(0)
    shape = [3, len(spec.BRATS.modalities), len(styles.QUANTILES)]
    fitted = styles.fit(rng.random(shape, np.float32))
    options = settings.options(spec.BRATS)
    stage_2.export(root, nets, settings, options, {}, fitted)
    return {
        name: tf.saved_model.load(str(root / "export" / name)).signatures
        for name in ("structure", "generator", "segmentor")
    }


@pytest.fixture
def inputs():
    """{signature: {input: value}} that are as they must be."""
    rng = np.random.default_rng(1)
    f = rng.integers(2, size=[2, SIZE, SIZE, 1]).astype(np.float32)
    label = rng.integers(len(spec.BRATS.labels), size=[2, SIZE, SIZE]).astype(np.int32)
    style = rng.random(
        [2, len(spec.BRATS.modalities), len(styles.QUANTILES)], np.float32
    )
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    background = (np.hypot(y, x) > 12).astype(np.float32)
    background[14:17, 14:17] = 1  # an island
    background = np.stack([background] * 2)[..., None]
    images = rng.random([2, SIZE, SIZE, len(spec.BRATS.modalities)], np.float32)
    given = {"structure": f, "label": label}
    return {
        "generate": given,
        "generate_in_style": {**given, "style": style},
        "generate_masked": {**given, "style": style, "background": background},
        "segment": {"images": images},
    }


def call(export, name, values):
    made = export[name](**{key: tf.constant(value) for key, value in values.items()})
    return {key: value.numpy() for key, value in made.items()}


OF = {
    "generate": "generator",
    "generate_in_style": "generator",
    "generate_masked": "generator",
    "segment": "segmentor",
}


def test_what_is_promised_passes(exports, inputs):
    for name, values in inputs.items():
        for value in call(exports[OF[name]], name, values).values():
            assert np.isfinite(value).all()


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("generate", "label", 9, "label: its values must be 0 to 4"),
        ("generate", "label", -1, "0 background, 1 necrosis"),
        ("generate", "structure", 0.5, "structure: its values must be 0 or 1"),
        ("generate_in_style", "label", 5, "convert them first"),
        ("generate_in_style", "style", np.nan, "style: its values must be finite"),
        ("generate_masked", "label", 9, "label: its values must be 0 to 4"),
        ("generate_masked", "background", 255, "background: its values must be 0 or 1"),
        ("segment", "images", 1.5, "images: intensities must be in [0, 1]"),
        ("segment", "images", -0.1, "images: intensities must be in [0, 1]"),
        ("segment", "images", np.nan, "images: intensities must be in [0, 1]"),
    ],
)
def test_one_value_that_is_not_promised_fails_in_a_sentence(
    exports, inputs, name, key, value, said
):
    values = inputs[name]
    values[key] = values[key].copy()
    values[key].flat[7] = value
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        call(exports[OF[name]], name, values)
    assert said in str(caught.value)


def test_a_code_that_is_not_finite_fails_in_a_sentence(exports):
    count = networks.map_code_dim(SIZE, 1)
    code = np.zeros([2, count], np.float32)
    assert call(exports["structure"], "generate", {"code": code})
    code[1, 0] = np.inf
    with pytest.raises(tf.errors.InvalidArgumentError, match="code: its values must"):
        call(exports["structure"], "generate", {"code": code})


def test_the_masked_slices_are_those_that_stage_3_writes(exports, inputs):
    values = inputs["generate_masked"]
    raw = call(exports["generator"], "generate_in_style", inputs["generate_in_style"])
    raw = np.stack([raw[name] for name in spec.BRATS.modalities], 1)
    filled = np.stack(
        [structural_map.without_islands(x[..., 0]) for x in values["background"]]
    )
    # By hand: a brain that is 2.5 pixels smaller on each side, and nothing faint.
    shrunk = structural_map.resize_background(
        filled[..., None], -structural_map.GROWTH
    ).numpy()
    expected = np.where((shrunk[:, None] < 0.5) & (raw >= 0.02), raw, 0)
    masked = call(exports["generator"], "generate_masked", values)
    masked = np.stack([masked[name] for name in spec.BRATS.modalities], 1)
    np.testing.assert_array_equal(masked, expected)
    assert (masked[:, :, 15, 15] > 0).all()  # within the island
    assert (masked[:, :, 0, 0] == 0).all() and (raw[:, :, 0, 0] > 0).any()


def test_faint_values_are_masked_and_others_kept():
    values = np.float32([0, 0.019, 0.021, 1])
    images = np.broadcast_to(values[:, None, None, None], [1, 4, SIZE, SIZE, 1])
    masked = synthesis.masked(tf.constant(images), tf.zeros([1, SIZE, SIZE, 1]))
    np.testing.assert_array_equal(masked[0, :, 15, 15, 0], [0, 0, values[2], 1])


def test_checks_hand_on_what_they_were_given():
    label, images = tf.constant([[0, 4]]), tf.constant([0.0, 1.0])
    np.testing.assert_array_equal(signatures.classes(label), label)
    np.testing.assert_array_equal(signatures.intensities(images), images)
    np.testing.assert_array_equal(signatures.binary(images, "x"), images)
    np.testing.assert_array_equal(signatures.finite(images, "x"), images)
