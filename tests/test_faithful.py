"""The paper to the letter: what configs/faithful says, builds, computes and trains."""

import json
import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    code_bank,
    data,
    fusion,
    losses,
    multimodal,
    networks,
    runs,
    structural,
    structural_map,
    trained_models,
    weights,
)
from brats_gan.spec import BRATS
from brats_gan.stages import ingredients
from tests import faithful, nifti, test_multimodal

ROOT = faithful.ROOT
STAGES = tuple(faithful.SCRIPTS)

# --- Departures -----------------------------------------------------------------------

TRAINED = ("structural", "multimodal")
LAYERED = (*TRAINED, "segmentation")


def in_all(stages, *flags):
    return [(stage, name, value) for stage in stages for name, value in flags]


def unplayed(stage, *names):
    return [(stage, f"weight_{name}", 0.0) for name in names]


# Number of a departure -> (stage, flag, value that is the paper's). Weights of losses
# that the paper has are in PAPER_WEIGHTS.
FLAGS = {
    "D8": [
        ("multimodal", "structure_weight", 0.8),
        ("multimodal", "label_weight", 0.2),
    ],
    "D9": [
        ("multimodal", "image_norm", "squared"),
        ("multimodal", "image_class_weights", False),
        ("multimodal", "ramp", 0.0),
    ],
    "D10": [("multimodal", "category", "regression")],
    "D11": in_all(
        LAYERED,
        ("output_norm", True),
        ("initialization", "mean_filter"),
        ("leaky_relu", False),
    ),
    "D12": in_all(("multimodal", "segmentation"), ("label_loss", "squared_sigmoid")),
    "D15": in_all(LAYERED, ("slices", "55:105")),
    "D16": [("multimodal", "conditional_norm", False)],
    "D17": [
        ("structural", "code_norm", True),
        *unplayed("structural", "divergence"),
    ],
    "D18": [("multimodal", "all_pairs", True)],
    "D19": [("multimodal", "label_modulation", False)],
    "D21": unplayed("multimodal", "self_reconstruction"),
    "D23": in_all(("multimodal", "dataset"), ("all_labels", True)),
    "D24": [
        ("multimodal", "label_removal", False),
        ("multimodal", "lesion_removal", True),
    ],
    "D25": [("structural", "code_fit", False)],
    "D26": [("structural", "code_dim", 4096)],
    "D27": [("structural", "map_loss", "squared")],
    "D29": [("multimodal", "full_size_norm", True)],
    "D30": [
        ("structural", "soft_maps", False),
        ("structural", "judge_rebuilt", False),
        ("structural", "input_noise", 0.0),
        *unplayed("structural", "feature"),
    ],
    "D31": in_all(TRAINED, ("spectral_norm", False)),
    "D32": [("multimodal", "map_modulation", False)],
    "D33": [("multimodal", "style", False)],
    "D34": [
        ("multimodal", "first_phase", 0.0),
        *unplayed("multimodal", "code_tie"),
    ],
    "D36": in_all(TRAINED, ("code_game", True)),
    "D39": in_all(LAYERED, ("final_rate", 1.0)),
    "D40": [("dataset", "mask_images", False)],
    "D42": unplayed("multimodal", "background"),
    "D43": [
        ("multimodal", "input_noise", 0.0),
        ("multimodal", "guidance_blur", False),
    ],
    "D44": [("multimodal", "move_labels", False)],
    "D51": in_all(TRAINED, ("ema", 0.0)),
    "D52": [("structural", "flow_steps", 0)],
    "D53": [
        ("multimodal", "input_gain", 1.0),
        ("multimodal", "discriminator_rate", 1.0),
    ],
}

# Departures that no flag undoes, and why there is none.
NO_FLAG = {
    "D1": "the paper says `standardised` alone",
    "D2": "a constant factor, which the weights absorb",
    "D3": "as the authors' code; the paper's beta is not printed",
    "D4": "forward it is the paper's threshold",
    "D5": "the equations have f_g and f_r themselves; an argmax would train nothing",
    "D6": "the paper does not say about which point; its code rounds to one side",
    "D7": "as the text of Section 2.8, which its Algorithm 3 contradicts",
    "D13": "the paper's scores are reported beside the others",
    "D14": "the tables give the paper's best run beside the mean",
    "D20": "equal numbers",
    "D22": "--dropout of stage 4 is the paper's; stages 1 and 2 have none, as its code",
    "D28": "the paper does not say what is halved; its text on steps is kept to",
    "D35": "BraTS is not touched",
    "D37": "the paper says 9:1 of scans; by patient nothing of a patient leaks",
    "D38": "reported beside the paper's scores",
    "D41": "--segmentor_run, a folder that only the user can name",
    "D45": "the paper gives no ranges",
    "D46": "the crop and side are not printed; --image_size may be any",
    "D47": "the equations have one map; the authors' code two sigmoids of it",
    "D48": "1e-7 or 1e-8; the paper does not say",
    "D49": "--volumes, which makes what the paper does not; samples are as before",
    "D50": "of --volumes, too",
    "D54": "of --volumes, too",
}

# {loss: (the authors' weight of one term, how many such terms there are)}, of the
# tables of their code. Those of D on categories that the paper has and their code has
# not are the generator's; the lesion's is the mean of ten times 0.5, 5, 25, 25 and 25,
# times 4 modalities and 5 classes.
PAPER_WEIGHTS = {
    "structural": {
        "reconstruction": (50, 1),
        "outside": (5, 1),
        "code_adversarial": (0.1, 1),
        "normal": (0.1, 1),
        "map_adversarial": (100, 1),
        "mask": (25, 1),
        "mask_edges": (5, 1),
        "code_discriminator": (0.1, 1),
        "map_discriminator": (0.01, 1),
    },
    "multimodal": {
        "reconstruction": (5, 4),
        "cycle": (10, 12),
        "cycle_pairs": (2, 12),
        "registration": (2, 12),
        "code_translated": (5, 12),
        "code_generated": (1, 4),
        "code_pairs": (0.2, 6),
        "code_adversarial": (4, 1),
        "adversarial_generated": (35, 4),
        "adversarial_translated": (5, 12),
        "category_generated": (50, 4),
        "category_translated": (50, 12),
        "structure": (15, 4),
        "lesion": (10 * (0.5 + 5 + 3 * 25) / 5, 4 * 5),
        "lesion_component": (10 * (0.5 + 5 + 3 * 25) / 5, 4 * 5),
        "d_real": (50, 4),
        "d_generated": (35, 4),
        "d_translated": (5, 12),
        "d_category_real": (50, 4),
        "d_category_generated": (50, 4),
        "d_category_translated": (50, 12),
        "d_code_real": (1, 4),
        "d_code_generated": (4, 1),
    },
}
# What their code did otherwise than the equations: terms without a gradient, of D on
# categories of what is made; and one more.
ONLY_FAITHFUL = {
    "structural": ("outside", "map_adversarial", "mask_edges"),
    "multimodal": ("structure", "d_category_generated", "d_category_translated"),
}

# The paper's settings, and the authors' where it has none, that are no departure.
SETTINGS = {
    "structural": {
        "image_size": 192,
        "width": 64,
        "batch_size": 1,
        "epochs": 150.0,
        "learning_rate": 1e-4,
        "beta": 0.07,
    },
    "multimodal": {
        "image_size": 192,
        "width": 64,
        "scheme": "multiple",
        "batch_size": 1,
        "epochs": 40.0,
        "learning_rate": 1e-4,
        "beta": 0.07,
        "placement_test": True,
    },
    "dataset": {
        "samples": 3 * 50 * 247,  # 50 slices of nine tenths of 274 scans
        "accepted_only": True,
        "filter": True,
        "mae_threshold": 0.05,
        "dice_threshold": 0.95,
        "max_tries": 50,
    },
    "segmentation": {
        "image_size": 192,
        "width": 64,
        "scheme": "multiple",
        "batch_size": 1,
        "epochs": 100.0,
        "learning_rate": 1e-4,
        "beta_1": 0.5,
        "dropout": 0.1,
        "held_out": 0.1,
        "repeats": 4,
    },
}
# Flags of data, folders, machines and chance, and those that the flags above replace.
ELSEWHERE = set(
    """
    data_dir run_dir layout patient_pattern labels merge_labels drop_labels spec split
    split_seed held_out cache_dir check init_from steps iterations precision seed
    deterministic checkpoint_seconds steps_per_call strategy replicas mask_width
    lesion_width code_channels batch_size structural_run multimodal_run segmentor_run
    output_dir
    lesion_free nearest_report table experiment synthetic_dir synthetic_dirs train_on
    enhanced keep_checkpoints results volumes passing lesion_map shard
    workers scheduler from_json
    """.split()
)


def expected(stage):
    """{flag: the paper's value} of a stage."""
    wanted = dict(SETTINGS[stage])
    for rows in FLAGS.values():
        wanted |= {name: value for of, name, value in rows if of == stage}
    for name, (weight, count) in PAPER_WEIGHTS.get(stage, {}).items():
        wanted[f"weight_{name}"] = weight * count
    return wanted


@pytest.mark.parametrize("stage", STAGES)
def test_no_flag_of_a_faithful_flagfile_is_left_at_a_departure(stage):
    assert faithful.values("faithful", stage) == pytest.approx(expected(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_every_flag_of_a_script_has_a_faithful_value_or_is_no_choice_of_method(stage):
    wanted = expected(stage).keys()
    left = faithful.flags_of(stage).keys() - wanted - ELSEWHERE
    assert not left


def test_every_departure_has_a_flag_or_a_reason_to_have_none():
    text = (ROOT / "docs" / "deviations.md").read_text()
    numbers = re.findall(r"^\| (D\d+) \|", text, re.M)
    assert numbers == [f"D{i}" for i in range(1, len(numbers) + 1)]
    assert not FLAGS.keys() & NO_FLAG.keys()
    assert {*numbers} == FLAGS.keys() | NO_FLAG.keys()


def test_every_departure_is_a_row_of_the_document_of_fidelity():
    text = (ROOT / "docs" / "fidelity.md").read_text()
    assert {*re.findall(r"\bD\d+\b", text)} == FLAGS.keys() | NO_FLAG.keys()


@pytest.mark.parametrize("stage", TRAINED)
def test_the_authors_weights_are_those_of_their_terms_that_acted(stage):
    given = faithful.values("authors", stage)
    for name, (weight, count) in PAPER_WEIGHTS[stage].items():
        acts = name not in ONLY_FAITHFUL[stage]
        assert given[f"weight_{name}"] == pytest.approx(acts * weight * count), name
    # 4 terms of 1.5 that the paper has not.
    if stage == "multimodal":
        assert given["weight_background"] == 6


def test_the_authors_choices_are_the_faithful_ones_but_for_weights_and_size():
    for stage in TRAINED:
        theirs = faithful.values("authors", stage)
        ours = faithful.values("faithful", stage)
        differ = {name for name in theirs if theirs[name] != ours[name]}
        wanted = {f"weight_{name}" for name in ONLY_FAITHFUL[stage]}
        assert differ == wanted | ({"weight_background"} & differ)
        chosen = {
            name
            for rows in FLAGS.values()
            for of, name, _ in rows
            if of == stage and name != "slices"
        } | ({"learning_rate", "final_rate", "beta", "scheme"} & SETTINGS[stage].keys())
        # What is at its default need not be said.
        known = faithful.flags_of(stage)
        missing = {n for n in chosen - theirs.keys() if known[n].default != ours[n]}
        assert not missing


@pytest.mark.parametrize("config", ["faithful", "authors"])
def test_both_stages_have_one_beta_without_which_stage_3_refuses_them(config):
    first, second = (faithful.settings(config, stage).beta for stage in TRAINED)
    assert first == second


# --- Networks, at width 64 ------------------------------------------------------------

N = 64
ENCODER = (N, N, 2 * N, 4 * N, 4 * N, 8 * N, 8 * N)
DECODER = (8 * N, *[4 * N] * 3, *[2 * N] * 3, N)
MAP_ENCODER = (1, 2, 2, 4, 4, 4, 6, 6, 8, 8, 12)
MAP_DECODER = (12, 8, 8, 6, 6, 6, 6, 4, 4, 4, 2, 2, 2, 1)


def convolutions(channels, *layers):
    """Shapes of kernels: (side, filters) or filters of 3 x 3, one after the other."""
    shapes = []
    for layer in layers:
        side, filters = layer if isinstance(layer, tuple) else (3, layer)
        shapes.append((side, side, channels, filters))
        channels = filters
    return shapes


def counted(shapes, unnormed):
    """Parameters: kernels, and gain and offset of a norm; the unnormed have a bias."""
    kernels = sum(int(np.prod(shape)) for shape in shapes)
    return kernels + sum(s[-1] * (1 if s in unnormed else 2) for s in shapes)


HEADS = convolutions(2 * N, N, 1)
# network -> (kernels in order, those without a norm, millions of parameters that the
# authors' code has, with a bias before each norm)
TABLES = {
    "MASK": (convolutions(1, *ENCODER) + convolutions(8 * N, *DECODER, 1), [], "9.9"),
    "EC_f": (convolutions(1, *(i * N for i in MAP_ENCODER)), [], "11.6"),
    "DC_f": (convolutions(12 * N, *(i * N for i in MAP_DECODER), 1), [], "19.7"),
    "D_f": (
        convolutions(1, (5, 2 * N), 4 * N, 8 * N, 8 * N, 4 * N, 1),
        [(3, 3, 4 * N, 1)],
        "5.0",
    ),
    "FD_f": (
        convolutions(1, (7, 2 * N), (7, 2 * N), (5, 2 * N), (5, 4 * N), 4 * N, 1),
        [(3, 3, 4 * N, 1)],
        "2.6",
    ),
    "EC_R": (convolutions(5, *ENCODER), [], "4.54"),
    "EC": (convolutions(1, *ENCODER), [], "4.54"),
    "DC": (convolutions(8 * N + 4, *DECODER, 1), [], "5.4"),
    "D": (
        convolutions(1, (5, N), (5, N), 2 * N, 2 * N) + HEADS + HEADS,
        [(3, 3, N, 1)],
        "0.5",
    ),
    "FD": (
        convolutions(8 * N, (7, N), (5, N), N, N, 1),
        [(3, 3, N, 1)],
        "1.8",
    ),
    "SEG_t1": (
        convolutions(1, *ENCODER) + convolutions(8 * N, *DECODER, 5),
        [],
        "9.9",
    ),
}
# Of images of 64 pixels: inputs -> outputs.
SHAPES = {
    "MASK": ([(64, 64, 1)], [(64, 64, 1)]),
    "EC_f": ([(64, 64, 1)], [(4096,), (4096,)]),
    "DC_f": ([(4096,)], [(64, 64, 1)]),
    # The scores, a sixteenth of the side; and what is compared in D30.
    "D_f": ([(64, 64, 1)], [(4, 4, 1), (32, 32, 128), (16, 16, 256), (8, 8, 512)]),
    "FD_f": ([(4096,)], [(32, 32, 1)]),
    "EC_R": ([(64, 64, 5)], [(16, 16, 512)]),
    "EC": ([(64, 64, 1)], [(16, 16, 512)]),
    "DC": ([(16, 16, 512), (4,)], [(64, 64, 1)]),
    "D": ([(64, 64, 1)], [(4, 4, 1), (4, 4, 1)]),
    "FD": ([(16, 16, 512)], [(4, 4, 1)]),
    "SEG_t1": ([(64, 64, 1)], [(64, 64, 5)]),
}


@pytest.fixture(scope="module")
def paper_nets():
    first = faithful.settings("faithful", "structural", image_size=64).build()
    second = faithful.settings("faithful", "multimodal", image_size=64).build()
    # One lesion component is as the others.
    return {
        **structural.build(**first),
        **multimodal.build(**{**second, "lesion_width": 1}),
        "SEG_t1": networks.build_segmentor(
            64, 64, make=networks.Make(True, "mean_filter", False)
        ),
    }


@pytest.mark.parametrize("name", TABLES)
def test_a_network_has_the_layers_and_parameters_of_the_authors_tables(
    paper_nets, name
):
    net, (shapes, unnormed, millions) = paper_nets[name], TABLES[name]
    kernels = [tuple(v.shape) for v in net.trainable_variables if len(v.shape) == 4]
    # Heads of D may come in either order.
    assert sorted(kernels) == sorted(shapes) if name == "D" else kernels == shapes
    dense = sum(int(np.prod(v.shape)) for v in net.trainable_variables)
    dense -= counted(shapes, unnormed)
    # Two heads of 4096; two layers, of 30 n numbers and of 12 n in each of 2 x 2 cells.
    features = 4 * 12 * N
    assert dense == {
        "EC_f": 2 * (features + 1) * 4096,
        "DC_f": (4096 + 1) * 30 * N + (30 * N + 1) * features,
    }.get(name, 0)
    # To the last digit that is known. Theirs has a bias before each norm too.
    theirs = counted(shapes, unnormed)
    theirs += sum(shape[-1] for shape in shapes if shape not in unnormed)
    digits = len(millions.partition(".")[2])
    assert round(theirs / 1e6, digits) == float(millions)


@pytest.mark.parametrize("name", SHAPES)
def test_a_network_has_the_shapes_of_the_authors_tables(paper_nets, name):
    net, (inputs, outputs) = paper_nets[name], SHAPES[name]
    assert [tuple(x.shape[1:]) for x in net.inputs] == inputs
    assert [tuple(y.shape[1:]) for y in net.outputs] == outputs


def test_dense_layers_at_the_authors_size_are_as_large_as_theirs():
    # 184 x 144 pixels are 6 x 5 cells of 32, of 12 n numbers each.
    features = 6 * 5 * 12 * N
    assert 2 * (features + 1) * 4096 == pytest.approx(188.7e6, rel=0.001)
    second = (4096 + 1) * 30 * N + (30 * N + 1) * features
    assert second == pytest.approx(52.1e6, rel=0.01)


def test_weights_begin_as_the_authors(paper_nets):
    first, *others = (v.numpy() for v in paper_nets["EC"].trainable_variables)
    np.testing.assert_allclose(first, 1 / 9, atol=1e-5)  # of one channel
    kernels = [v for v in others if v.ndim == 4]
    np.testing.assert_allclose(kernels[0], 1 / (9 * N), atol=1e-5)
    gains = np.concatenate([v for v in others if v.ndim == 1])
    gains = gains[gains != 0]  # offsets begin at 0
    np.testing.assert_allclose([gains.mean(), gains.std()], [1, 0.02], atol=0.002)
    of_d = paper_nets["D"].trainable_variables[0].numpy()
    np.testing.assert_allclose([of_d.mean(), of_d.std()], [0, 0.02], atol=0.003)


def test_output_convolutions_are_normed_and_discriminators_cut_below_0(paper_nets):
    def logits(net):  # what the last activation is given
        last = [x for x in net.layers if isinstance(x, tf.keras.layers.Activation)][-1]
        return tf.keras.Model(net.inputs, last.input)

    code = tf.random.stateless_normal([2, 16, 16, 512], [1, 2])
    made = logits(paper_nets["DC"])([code, tf.one_hot([0, 3], 4)]).numpy()
    gain, offset = (v.numpy() for v in paper_nets["DC"].trainable_variables[-2:])
    np.testing.assert_allclose(made.mean((1, 2)), [offset, offset], atol=1e-4)
    np.testing.assert_allclose(made.std((1, 2)), [gain, gain], rtol=0.01)
    slopes = [
        layer
        for layer in paper_nets["D"].layers
        if isinstance(layer, tf.keras.layers.LeakyReLU)
    ]
    assert not slopes


# --- Losses, as NumPy has the equations -----------------------------------------------

RNG = np.random.default_rng(0)


def norm(x):
    """||x||^2, read as a mean (D2)."""
    return np.mean(np.square(x))


def drawn(*shape):
    return RNG.random(shape).astype(np.float32)


def total(named):
    return float(sum(float(value) for value in named.values()))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def of(function, *given, **how):
    """A loss of NumPy's arrays."""
    as_tensors = (tf.constant(x) if isinstance(x, np.ndarray) else x for x in given)
    return function(*as_tensors, **how)


def test_the_losses_of_stage_1_are_its_equations():
    score, other = drawn(2, 4, 4, 1), drawn(2, 4, 4, 1)
    f, logits = (drawn(2, 8, 8, 1) > 0.5).astype(np.float32), drawn(2, 8, 8, 1) - 0.5
    mask, mask_r, mask_g, f_g = (drawn(2, 8, 8, 1) for _ in range(4))
    f_r = sigmoid(logits)
    mu, logvar = drawn(3, 16), drawn(3, 16)
    one, sigma = norm(score - 1), np.exp(0.5 * logvar)
    map_loss = faithful.settings("faithful", "structural").map_loss
    for named, value in (
        (of(losses.code_discriminator_f, score, other), one + norm(other)),
        (of(losses.discriminator_f, score, other), one + norm(other)),
        (of(losses.generator_f, score, other), one + norm(other - 1)),
        (
            of(losses.normal, mu, logvar),
            np.mean(mu.mean(1) ** 2) + np.mean((sigma.mean(1) - 1) ** 2),
        ),
        (
            of(losses.reconstruction_f, f, logits, mask, map_loss),
            norm(f - f_r) + norm(f_r * mask),
        ),
        (
            of(losses.reconstruction_mask, mask, mask_r, mask_g, f, f_r, f_g),
            norm(mask - mask_r)
            + norm(f * mask_r)
            + norm(f_r * mask_r)
            + norm(f_g * mask_g),
        ),
    ):
        assert total(named) == pytest.approx(value, rel=1e-5), named.keys()


def test_the_losses_of_stage_2_are_its_equations():
    settings = faithful.settings("faithful", "multimodal")
    how = {"norm": settings.image_norm, "label": None}
    score, other = drawn(4, 4, 4, 1), drawn(4, 4, 4, 1)
    categories, of_made = (3 * drawn(4, 4, 4, 1) for _ in range(2))
    i = np.arange(4)
    code_score, code_g_score = drawn(4, 2, 2, 1), drawn(1, 2, 2, 1)
    category = losses.CATEGORY_LOSSES[settings.category]

    def wrong(c):
        return norm(c - i[:, None, None, None])

    c, c_made = (of(category, each, i) for each in (categories, of_made))
    x, x_r, x_g, x_gt = (drawn(4, 8, 8, 1) for _ in range(4))
    x_cr = drawn(3, 4, 8, 8, 1)  # [way, modality, ...]
    code, code_t, code_g, code_gi = (
        drawn(4, 2, 2, 8),
        drawn(4, 2, 2, 8),
        drawn(2, 2, 2, 8),
        drawn(2, 4, 2, 2, 8),
    )
    f, f_g = drawn(4, 8, 8, 1), drawn(4, 8, 8, 1)
    pairs = [(j, k) for j in range(3) for k in range(3) if j != k]
    codes = [(j, k) for j in range(4) for k in range(4) if j != k]
    label = RNG.integers(0, 5, [4, 8, 8]).astype(np.uint8)
    logits = 4 * drawn(4, 8, 8, 5) - 2
    label_loss = losses.LABEL_LOSSES[settings.label_loss]
    for named, value in (
        (
            of(losses.discriminator_1, score, c, code_score),
            norm(score) + wrong(categories) + norm(code_score - 1),
        ),
        (of(losses.generator_1, score, c), norm(score - 1) + wrong(categories)),
        (of(losses.reconstruction, x, x_r, **how), norm(x - x_r)),
        (
            of(losses.cycle, x, x_cr, **how),
            np.mean([norm(x - way) for way in x_cr])
            + np.mean([norm(x_cr[j] - x_cr[k]) for j, k in pairs]),
        ),
        (of(losses.code_1, code, code_t), norm(code - code_t)),
        (
            of(losses.discriminator_2, score, other, c, c_made, code_g_score),
            norm(score - 1)
            + norm(other)
            + wrong(categories)
            + wrong(of_made)
            + norm(code_g_score),
        ),
        (
            of(losses.generator_2, other, c_made, code_g_score),
            norm(other - 1) + wrong(of_made) + norm(code_g_score - 1),
        ),
        (of(losses.structure, f, f_g), norm(f - f_g)),
        (of(losses.registration, x_g, x_gt, **how), norm(x_g - x_gt)),
        (
            of(losses.code_2, code_g, code_gi),
            norm(code_g[:, None] - code_gi)
            + np.mean([norm(code_gi[:, j] - code_gi[:, k]) for j, k in codes]),
        ),
        (
            {"lesion": of(label_loss, label, logits, (9.0,) * 5)},
            norm(np.eye(5)[label] - sigmoid(logits)),
        ),
    ):
        assert total(named) == pytest.approx(value, rel=1e-5), named.keys()


# --- What learns from what ------------------------------------------------------------

# The paper's terms -> networks that each reaches: of the generator's side, or of the
# discriminators', or of the lesion components'.
REACHES_1 = {
    "reconstruction": {"EC_f", "DC_f"},
    "outside": {"EC_f", "DC_f"},
    "code_adversarial": {"EC_f"},
    "normal": {"EC_f"},
    "map_adversarial": {"DC_f"},  # of z, which no encoder has made
    "mask": {"MASK"},
    "mask_edges": {"MASK"},
    "code_discriminator": {"FD_f"},
    "map_discriminator": {"D_f"},
}
REACHES_2 = {
    "reconstruction": {"EC", "DC"},
    "cycle": {"EC", "DC"},
    "cycle_pairs": {"EC", "DC"},
    "registration": {"EC_R", "EC", "DC"},
    "code_translated": {"EC", "DC"},
    "code_generated": {"EC_R", "EC", "DC"},
    "code_pairs": {"EC_R", "EC", "DC"},
    "code_adversarial": {"EC_R"},
    "adversarial_generated": {"EC_R", "DC"},
    "adversarial_translated": {"EC", "DC"},
    "category_generated": {"EC_R", "DC"},
    "category_translated": {"EC", "DC"},
    "structure": {"EC_R", "DC"},
    "lesion": {"EC_R", "DC"},
    "lesion_component": {"SEG_t1", "SEG_t2", "SEG_t1ce", "SEG_flair"},
    "d_real": {"D"},
    "d_generated": {"D"},
    "d_translated": {"D"},
    "d_category_real": {"D"},
    "d_category_generated": {"D"},
    "d_category_translated": {"D"},
    "d_code_real": {"FD"},
    "d_code_generated": {"FD"},
}


def reached(tape, named, nets, sides):
    """{term: networks of its own side that it has a gradient in}."""
    found = {}
    for term, value in named.items():
        side = next(side for terms, side in sides if term in terms)
        gradients = tape.gradient(
            value, {name: nets[name].trainable_variables for name in side}
        )
        found[term] = {
            name
            for name, each in gradients.items()
            if any(g is not None and np.any(g.numpy() != 0) for g in each)
        }
    return found


@pytest.fixture(scope="module")
def stage_1():
    """Settings, networks, batch, terms and gradients of faithful stage 1, tiny."""
    tiny = {"image_size": 64, "width": 2, "code_dim": 16}
    settings = faithful.settings("faithful", "structural", **tiny)
    tf.keras.utils.set_random_seed(1)
    nets, bank = structural.build(**settings.build()), code_bank.Codes(16, kept=2)
    y, x = np.mgrid[:64, :64] - 31.5
    brain = (np.hypot(y, x) < 24)[None, ..., None]
    batch = {
        "x": tf.constant(brain * (0.3 + 0.7 * drawn(1, 64, 64, 1)), tf.float32),
        "label": tf.zeros([1, 64, 64], tf.uint8),
    }
    with tf.GradientTape(persistent=True) as tape:
        named = structural.terms(
            nets, batch, tf.constant([3, 4]), bank, settings.options()
        )
    kept = {name: named[name] for name in REACHES_1}
    sides = [
        (structural.GENERATOR_WEIGHTS, structural.GENERATOR_SIDE),
        (structural.DISCRIMINATOR_WEIGHTS, structural.DISCRIMINATOR_SIDE),
    ]
    return settings, nets, named, bank, reached(tape, kept, nets, sides)


def test_every_term_of_stage_1_reaches_the_networks_that_learn_from_it(stage_1):
    assert stage_1[-1] == REACHES_1


def test_faithful_maps_are_of_noise_itself_with_an_edge_above_one_half(stage_1):
    _, nets, _, bank, _ = stage_1
    assert int(bank.count) == 0  # no code was kept to draw others like it
    z = tf.random.stateless_normal([3, 16], [1, 2])
    f, _ = structural.generate(nets, z, structural.unfitted(16))
    edge = tf.sigmoid(nets["DC_f"](z, training=False))
    np.testing.assert_array_equal(f, tf.cast(edge > 0.5, tf.float32))


def test_the_terms_that_are_weighted_are_those_of_the_paper(stage_1):
    first = stage_1[0]
    second = faithful.settings("faithful", "multimodal")
    for settings, reaches in ((first, REACHES_1), (second, REACHES_2)):
        assert {n for n, weight in settings.weights.items() if weight} == {*reaches}


@pytest.fixture(scope="module")
def stage_2():
    """Networks, options, batch and gradients of faithful stage 2, tiny."""
    tiny = {"image_size": 32, "width": 2}
    settings = faithful.settings("faithful", "multimodal", **tiny)
    tf.keras.utils.set_random_seed(1)
    nets, options = multimodal.build(**settings.build()), settings.options(BRATS)
    batch = test_multimodal.make_batch(batch=1)
    with tf.GradientTape(persistent=True) as tape:
        named = multimodal.terms(nets, batch, tf.constant([3, 4]), options)
    kept = {name: named[name] for name in REACHES_2}
    sides = [
        (multimodal.GENERATOR_WEIGHTS, multimodal.GENERATOR_SIDE),
        (multimodal.DISCRIMINATOR_WEIGHTS, multimodal.DISCRIMINATOR_SIDE),
        (multimodal.LESION_WEIGHTS, tuple(multimodal.lesion_nets(nets))),
    ]
    return nets, options, batch, named, reached(tape, kept, nets, sides)


def test_every_term_of_stage_2_reaches_the_networks_that_learn_from_it(stage_2):
    assert stage_2[-1] == REACHES_2


def test_the_terms_of_stage_2_are_taken_of_all_pixels_alike(stage_2):
    nets, options, batch, named, _ = stage_2
    p = multimodal.forward(nets, batch, tf.constant([3, 4]), options)
    assert p.x_t.shape[:2] == (3, 4)  # every modality to three others
    np.testing.assert_allclose(named["reconstruction"], norm(p.x - p.x_r), rtol=1e-4)
    others = tf.gather(p.x_g, p.targets)
    np.testing.assert_allclose(named["registration"], norm(others - p.x_gt), rtol=1e-4)
    f_g = structural_map.structural_map(p.x_g, options.beta)
    np.testing.assert_allclose(named["structure"], norm(p.f - f_g), rtol=1e-4)


def test_f_keeps_its_edges_inside_an_inserted_label_and_none_inside_its_own(stage_2):
    _, options, batch, _, _ = stage_2
    f = multimodal.extract(batch["source"], batch["source_label"], options)
    own = np.asarray(batch["source_label"]) > 0
    assert np.all(np.asarray(f)[own] == 0)
    label = tf.ones([1, 32, 32], tf.uint8)  # all of it
    fused = multimodal.fuse(f, label, options)
    onehot = np.eye(5)[np.ones([1, 32, 32], int)]
    np.testing.assert_allclose(fused, 0.8 * np.asarray(f) + 0.2 * onehot, rtol=1e-6)
    plain = options._replace(label_removal=True)
    assert np.all(np.asarray(multimodal.fuse(f, label, plain))[..., 0] == 0)


def test_labels_that_are_not_moved_are_tried_where_they_are():
    candidates = np.zeros([1, 2, 16, 16], np.uint8)
    candidates[0, 0, 0, 0], candidates[0, 1, 8, 8] = 1, 2  # outside, inside
    outside = np.ones([1, 16, 16, 1], np.float32)
    outside[0, 4:12, 4:12] = 0
    label, tries, fitted = fusion.place_label(
        tf.constant(candidates), tf.constant(outside), [1, 2], move=False
    )
    np.testing.assert_array_equal(label[0], candidates[0, 1])
    assert (int(tries[0]), bool(fitted[0])) == (2, True)


def test_all_labels_are_drawn_as_often_as_they_are_there():
    class Slices:  # every second slice has a lesion
        image_size, lesions = 2, np.arange(1, 40, 2)

        def __len__(self):
            return 40

        def labels(self, rows):
            rows = np.asarray(rows)[:, None, None]
            return np.broadcast_to(rows % 2, [len(rows), 2, 2]).astype(np.uint8)

    rng = np.random.default_rng(0)
    empty = [
        1 - data.sample_labels(Slices(), rng, 400, each).any((1, 2)).mean()
        for each in (True, False)
    ]
    assert empty == pytest.approx([0.5, data.LESION_FREE], abs=0.06)


# --- Descriptions of networks, and sizes ----------------------------------------------


@pytest.mark.parametrize(
    ("stage", "build", "message"),
    [
        ("structural", {"output_norm": "yes"}, "output_norm='yes'"),
        ("structural", {"initialization": "mean"}, "unknown initialization 'mean'"),
        ("structural", {"code_dim": 15}, "15 is not the square"),
        ("structural", {"code_dims": 16}, "code_dims"),
        ("structural", {"image_size": None}, "image_size"),
        ("multimodal", {"full_size_norm": None}, "full_size_norm=None"),
        ("multimodal", {"category": "regresion"}, "category='regresion'"),
        ("multimodal", {"scheme": "singel"}, "singel"),
        ("segmentation", {"leaky_relu": "no"}, "leaky_relu='no'"),
    ],
)
def test_a_mistyped_or_missing_word_on_how_networks_are_built_is_a_clear_error(
    stage, build, message
):
    of_stage = {"image_size": 32, "width": 1}
    of_stage |= {"code_game": True} if stage == "structural" else {"scheme": "single"}
    given = {name: v for name, v in (of_stage | build).items() if v or name in build}
    if build == {"image_size": None}:
        del given["image_size"]
    stored = weights.Stored("RUN/weights", {"stage": stage, "build": given}, {})
    with pytest.raises(runs.RunError, match=message) as caught:
        weights.networks(stored, lambda nets: [])
    assert "RUN/weights" in str(caught.value)


@pytest.mark.parametrize(
    "given", [{"label_removal": "no"}, {"beta": "0.07"}, {"style": 1}]
)
def test_an_option_of_another_kind_is_a_clear_error(given):
    stored = weights.Stored(
        "RUN/weights", {"stage": "multimodal", "options": given}, {}
    )
    (name,) = given
    with pytest.raises(runs.RunError, match=f"RUN/weights has .*: {name}="):
        weights.options(stored)


@pytest.mark.parametrize("size", [33, 40, 50])
def test_a_size_that_the_networks_cannot_halve_is_refused_by_name(size):
    for stage in STAGES:
        if stage == "dataset" or (stage == "segmentation" and size % 4 == 0):
            continue
        with pytest.raises(runs.RunError, match=f"--image_size={size}.* multiple of"):
            faithful.SCRIPTS[stage][1](image_size=size)


def test_a_dense_code_needs_two_cells_a_side_and_a_square():
    kind = faithful.SCRIPTS["structural"][1]
    with pytest.raises(runs.RunError, match="--image_size=32 is too small"):
        kind(image_size=32, code_dim=16)
    for given, near in ((60, 64), (4, 16), (0, 16)):
        with pytest.raises(runs.RunError, match=f"--code_dim={given}:.*give {near}"):
            kind(image_size=64, code_dim=given)
    assert kind(image_size=64, code_dim=64).build()["code_dim"] == 64


# --- Two steps of every stage ---------------------------------------------------------

# One process for all: each would wait for TensorFlow.
CALLS = """
import sys
from pathlib import Path
from brats_gan import data, runs
from brats_gan.stages import dataset, multimodal, segmentation, structural
from tests import faithful

root = Path(sys.argv[1])
source = data.Source(str(root / "data"), slices=(1, 5))
tiny = {"image_size": 64, "width": 2, "precision": "float32"}
by = lambda stage, **own: faithful.settings("faithful", stage, **own)
adam, finals = runs.adam, []
runs.adam = lambda *given, **named: finals.append(
    named.get("final", given[4] if len(given) > 4 else None)
) or adam(*given, **named)
structural.train(by("structural", code_dim=16, steps=2, **tiny), source, root / "maps")
multimodal.train(by("multimodal", steps=2, **tiny), source, root / "images")
segmentation.score(by("segmentation", iterations=2, **tiny), source, root / "real")
print("finals", *finals)
third = by(
    "dataset",
    structural_run=str(root / "maps"),
    multimodal_run=str(root / "images"),
    segmentor_run=str(root / "real"),
    accepted_only=False,  # untrained networks pass nothing
    samples=3,
    max_tries=2,
    batch_size=4,
)
dataset.build(third, source, root / "synthetic")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run of each stage, and what they printed."""
    root = tmp_path_factory.mktemp("faithful")
    for number in range(3):
        nifti.write_subject(root / "data", f"s{number}", (160, 160, 6), number)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, str(root)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout


def test_all_faithful_stages_run_with_a_constant_rate(made):
    root, said = made
    line = next(each for each in said.splitlines() if each.startswith("finals"))
    assert line.split()[1:] == ["1.0"] * 6  # 2 sides, 3 sides, and the segmentors
    for run in ("maps", "images", "real"):
        last = (root / run / "losses.jsonl").read_text().splitlines()[-1]
        assert json.loads(last)["step"] == 2
    assert (root / "synthetic" / "dataset_description.json").exists()


def test_later_stages_build_the_same_networks_from_what_a_run_says_of_them(made):
    root, _ = made
    built = json.loads((root / "maps" / "networks.json").read_text())["build"]
    assert built == {
        **faithful.settings("faithful", "structural").build(),
        **{"image_size": 64, "width": 2, "code_dim": 16},
    }
    z = tf.random.stateless_normal([2, 16], [1, 2])
    ones, others = (
        trained_models.load_maps(str(root / "maps" / each))[0](z)
        for each in ("", "weights")
    )
    for one, other in zip(ones, others, strict=True):
        assert np.mean(np.asarray(one) != np.asarray(other)) < 0.001
    label = tf.ones([2, 64, 64], tf.int32)
    style = tf.zeros([2, 0])
    one, other = (
        trained_models.load_images(str(root / "images" / each))[0](
            ones[0], label, style
        )
        for each in ("", "weights")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_faithful_data_set_has_slices_as_they_were_generated(made):
    root, _ = made
    folder = root / "synthetic" / "synth-00001"
    (path,) = folder.glob("*_t1.nii*")
    image = nib.load(path).get_fdata()
    # A sigmoid is 0 nowhere; the slices lie in the middle of what is written.
    assert np.all(image[60:-60, 60:-60, :3] > 0)


def test_a_pool_of_lesions_cannot_stand_for_all_labels(tmp_path):
    settings = faithful.settings(
        "faithful", "dataset", structural_run="pretrained", multimodal_run="pretrained"
    )
    with pytest.raises(runs.RunError, match="--all_labels needs --data_dir"):
        ingredients.find_labels(
            settings, data.Source(None), tmp_path / "out", {"slices": [55, 105]}, []
        )
