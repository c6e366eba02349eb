"""Bounds of the flags of all scripts, read from the flags themselves."""

import pytest
from absl import flags

from brats_gan import flag_parsers
from tests import scripts

SCRIPTS = (
    "prepare_data",
    "train_structural",
    "train_multimodal",
    "build_dataset",
    "eval_segmentation",
)
NUMERIC = (flags.FloatParser, flags.IntegerParser, flag_parsers.StepsPerCall)


FLAGS = {script: scripts.flags_of(f"{script}.py") for script in SCRIPTS}
NUMBERS = [
    (script, name)
    for script, mine in FLAGS.items()
    for name, flag in sorted(mine.items())
    if isinstance(flag.parser, NUMERIC) or isinstance(flag.default, float | int)
    if not flag.boolean
]


def test_every_script_has_numbers():
    counts = {script: sum(s == script for s, _ in NUMBERS) for script in SCRIPTS}
    assert counts.pop("prepare_data") == 3
    assert min(counts.values()) >= 6


@pytest.mark.parametrize(("script", "name"), NUMBERS)
def test_a_number_has_bounds_and_what_is_beyond_them_is_refused(script, name):
    parser = FLAGS[script][name].parser
    lowest, highest = parser.lower_bound, parser.upper_bound
    assert lowest is not None and highest is not None and lowest < highest
    # The bounds belong to it, and the default lies within.
    parser.parse(str(lowest)), parser.parse(str(highest))
    if FLAGS[script][name].default is not None:
        parser.parse(str(FLAGS[script][name].default))
    for text in ("nan", "inf", "-inf", "1e999", str(lowest - 1), str(highest + 1), ""):
        with pytest.raises(ValueError):
            parser.parse(text)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("train_structural", "--epochs=nan"),
        ("train_structural", "--epochs=0"),
        ("train_multimodal", "--steps=-5"),
        ("train_multimodal", "--held_out=nan"),
        ("eval_segmentation", "--seed=-1"),
        ("build_dataset", "--dice_threshold=nan"),
        ("train_structural", "--image_size=33"),
        ("train_structural", "--image_size=50"),
        ("train_multimodal", "--image_size=40"),
        ("eval_segmentation", "--image_size=50"),
        ("eval_segmentation", "--learning_rate=-1e-4"),
        ("train_multimodal", "--weight_cycle=-1"),
        ("prepare_data", "--subjects=0"),
        ("prepare_data", "--seed=-1"),
    ],
)
def test_a_value_that_no_run_could_use_is_refused(script, text):
    name, _, value = text[2:].partition("=")
    with pytest.raises(ValueError, match=r"range|multiple"):
        FLAGS[script][name].parser.parse(value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_name_of_a_flag_begins_as_a_switch_that_is_off(script):
    # In flags.txt "--nocheck" is --check that is off.
    assert not [name for name in FLAGS[script] if name.startswith("no")]


def test_help_says_what_a_size_is_a_multiple_of():
    said = FLAGS["train_multimodal"]["image_size"].parser.syntactic_help
    assert said == "a multiple of 32 from 32 to 4096"
    said = FLAGS["eval_segmentation"]["image_size"].parser.syntactic_help
    assert said == "a multiple of 4 from 4 to 4096"


def test_seeds_of_all_repeats_are_numbers_of_32_bits():
    mine = FLAGS["eval_segmentation"]
    last = mine["seed"].parser.upper_bound + mine["repeats"].parser.upper_bound - 1
    assert last < 2**31
