"""The choice of a compute precision, by patched times; and scripts that make it."""

import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tensorflow as tf
from absl import flags

from benchmarks import rig
from brats_gan import (
    common_flags,
    layers,
    lesion_components,
    multimodal,
    precision,
    runs,
    structural,
)
from tests import nifti

ROOT = Path(__file__).parents[1]
CONVOLUTION = ((2, 16, 16, 8), (3, 3, 8, 8))


@pytest.fixture
def times(monkeypatch):
    """Sets the seconds of a call in each precision, and whether there is a GPU.

    Time passes in calls only. Returns the names of the calls, in their order.
    """
    clock, called = [0.0], []

    def set_times(gpu=False, **seconds):
        monkeypatch.setattr(precision, "has_gpu", lambda: gpu)
        monkeypatch.setattr(precision.time, "perf_counter", lambda: clock[0])

        def convolution(name, images, kernel):
            def call():
                called.append(name)
                if seconds[name] is None:
                    raise tf.errors.UnimplementedError(None, None, "no kernel")
                clock[0] += seconds[name]

            return call

        monkeypatch.setattr(precision, "convolution", convolution)
        return called

    return set_times


@pytest.fixture
def no_measurement(monkeypatch):
    def measure(*arguments):
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "measure", measure)


@pytest.mark.parametrize(
    ("bfloat16", "chosen"),
    [
        (0.005, "mixed_bfloat16"),
        (0.0095, "float32"),  # 5 % faster: not by a clear margin
        (0.07, "float32"),
    ],
)
def test_what_is_faster_by_a_clear_margin_is_taken(times, bfloat16, chosen):
    times(float32=0.01, mixed_bfloat16=bfloat16)
    choice = precision.choose(*CONVOLUTION)
    assert choice.precision == chosen
    assert choice.seconds["float32"] == pytest.approx(0.01)
    assert choice.seconds["mixed_bfloat16"] == pytest.approx(bfloat16)


def test_the_choice_says_what_was_measured(times):
    times(float32=0.01, mixed_bfloat16=0.005)
    assert str(precision.choose(*CONVOLUTION)) == (
        "mixed_bfloat16, measured: a convolution of [2, 16, 16, 8] by [3, 3, 8, 8] "
        "with its gradients takes 10.0 ms in float32, 5.0 ms in mixed_bfloat16"
    )


@pytest.mark.parametrize(
    ("float16", "chosen"),
    [
        (0.004, "mixed_float16"),
        (0.0048, "mixed_bfloat16"),  # about equal, and it needs no loss scaling
    ],
)
def test_float16_is_a_candidate_on_a_gpu(times, float16, chosen):
    times(gpu=True, float32=0.01, mixed_bfloat16=0.005, mixed_float16=float16)
    assert precision.choose(*CONVOLUTION).precision == chosen


def test_float16_is_not_timed_without_a_gpu(times):
    called = times(float32=0.01, mixed_bfloat16=0.01, mixed_float16=0.0)
    assert precision.choose(*CONVOLUTION).precision == "float32"
    assert set(called) == {"float32", "mixed_bfloat16"}


def test_what_the_device_refuses_is_left_out(times):
    times(gpu=True, float32=0.01, mixed_bfloat16=None, mixed_float16=0.005)
    choice = precision.choose(*CONVOLUTION)
    assert choice.precision == "mixed_float16"
    assert choice.seconds.keys() == {"float32", "mixed_float16"}


def test_what_is_hopeless_is_called_once(times):
    called = times(float32=0.01, mixed_bfloat16=0.1)
    assert precision.choose(*CONVOLUTION).precision == "float32"
    assert called == ["float32", "mixed_bfloat16"]


def test_rounds_are_interleaved_and_end_when_the_time_is_over(times):
    called = times(float32=0.06, mixed_bfloat16=0.06)
    precision.choose(*CONVOLUTION)
    # A first round and three that count take 0.48 s.
    assert called == ["float32", "mixed_bfloat16"] * 4


def test_the_part_that_is_timed_by_hand():
    # A pixel of 3 x 3 x 8 x 8 takes 6 * 576 = 3456 operations, an image of 16 x 16
    # 884 736 of them.
    images, kernel = (5, 16, 16, 8), (3, 3, 8, 8)
    assert precision.part_of(images, kernel, 1e9) == (images, kernel)
    assert precision.part_of(images, kernel, 2e6)[0] == (2, 16, 16, 8)
    assert precision.part_of(images, kernel, 6e5)[0] == (1, 13, 13, 8)
    assert precision.part_of(images, kernel, 1)[0] == (1, 8, 8, 8)


def test_the_convolution_that_is_timed_runs_in_every_precision():
    for name in precision.PRECISIONS:
        # One image of 0.5 in two channels, weights 0.01: the gradient of the first
        # weight, which sees all but a row and a column of 4 x 4 pixels, is 0.5 * 9.
        call = precision.convolution(name, (1, 4, 4, 2), (3, 3, 2, 2))
        assert call() == 4.5


# --- The heaviest convolution of each stage -------------------------------------------


def products(net):
    """Of each convolution of one image; ResizeConv2D has four 2x2 kernels."""
    for layer in net.layers:
        if hasattr(layer, "layers"):
            yield from products(layer)
        elif isinstance(layer, tf.keras.layers.Conv2D):
            _, *pixels, channels = layer.input.shape
            _, *made, filters = layer.output.shape
            taps = math.prod(layer.kernel_size)
            if isinstance(layer, layers.ResizeConv2D):
                made, taps, filters = [side + 1 for side in pixels], 4, 4 * filters
            yield math.prod(made) * taps * channels * filters


def images_decoded(all_pairs):
    """How many images DC makes in its first call, for one example."""
    batch = rig.multimodal_batch(32)
    code = [8, 8, 4]
    counts = []

    def decoder(inputs, training):
        counts.append(inputs[0].shape[0])
        return tf.zeros([counts[-1], 32, 32, 1])

    def encoder(x, training):
        return tf.zeros([x.shape[0], *code])

    nets = {"EC": encoder, "EC_R": encoder, "DC": decoder}
    options = multimodal.Options(all_pairs=all_pairs)
    multimodal.forward(nets, batch, tf.constant([0, 0]), options)
    return counts[0]


@pytest.mark.parametrize(
    ("nets", "images", "convolution"),
    [
        (
            lambda: structural.build(64, 16, 4, 8),
            {"EC_f": 1, "DC_f": 2, "MASK": 2, "D_f": 2, "FD_f": 2},
            structural.heaviest_convolution(64, 16, 1, 8),
        ),
        (
            lambda: structural.build(64, 4, 4, 16),
            {"EC_f": 1, "DC_f": 2, "MASK": 2, "D_f": 2, "FD_f": 2},
            structural.heaviest_convolution(64, 4, 1, 16),
        ),
        (
            lambda: multimodal.build(64, 16, "single"),
            {"EC_R": 5, "EC": 6, "DC": None, "D": 10, "FD": 3, "SEG": 4},
            multimodal.heaviest_convolution(64, 16, 1),
        ),
        (
            lambda: lesion_components.build("four_channel", 64, 16),
            {"SEG": 1},
            lesion_components.heaviest_convolution("four_channel", 64, 16, 1),
        ),
        (
            lambda: lesion_components.build("single", 64, 16),
            {"SEG": 4},
            lesion_components.heaviest_convolution("single", 64, 16, 1),
        ),
    ],
)
def test_no_convolution_of_the_stage_is_heavier_than_the_one_timed(
    nets, images, convolution
):
    (count, height, width, _), kernel = convolution
    timed = count * height * width * math.prod(kernel)
    all_products = [
        (images[name] or images_decoded(False)) * each
        for name, net in nets().items()
        for each in products(net)
    ]
    assert timed in all_products
    # DC's first has 8n + 4 channels instead of 8n: 1/32 more at n = 16. Doublings of
    # 16 x 16 pixels work on 17 x 17, which is 1/300 more.
    assert max(all_products) <= timed * 33 / 32


def test_the_images_of_all_pairs_are_counted():
    ((images, *_), _) = multimodal.heaviest_convolution(32, 1, 1, all_pairs=True)
    assert images == images_decoded(True)


# --- What is asked for, what a run began with, and what is measured -------------------


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """Settles as a script with some flags; returns the precision written by a run."""
    monkeypatch.delenv(precision.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def settle(*command, deterministic=False):
        values = flags.FlagValues()
        holder = flags.DEFINE_enum(
            "precision", precision.AUTO, precision.CHOICES, "", flag_values=values
        )
        values(["train.py", *command])
        name = "precision"
        monkeypatch.setattr(
            runs.folder,
            "key_flags",
            lambda: {f.name: f.serialize() for f in [values[name]]},
        )
        asked = holder.value
        found = precision.settle(asked, tmp_path / "run", deterministic, CONVOLUTION)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(flags, "FLAGS", values)
            common_flags.record(types.SimpleNamespace(precision=found))
        runs.start(tmp_path / "run")
        assert runs.settings(tmp_path / "run")["precision"] == found
        return found

    return settle


def begun(folder, *lines):
    (folder / "run").mkdir()
    (folder / "run/flags.txt").write_text("\n".join(("# train.py", *lines)) + "\n")


def test_auto_writes_what_was_measured_into_the_run(settled, times):
    times(float32=0.01, mixed_bfloat16=0.005)
    assert settled() == "mixed_bfloat16"


@pytest.mark.parametrize("command", [[], ["--precision=auto"]])
def test_a_run_keeps_what_it_began_with_where_another_would_be_faster(
    settled, times, command, no_measurement, tmp_path
):
    begun(tmp_path, "--precision=mixed_bfloat16")
    assert settled(*command) == "mixed_bfloat16"


def test_the_variable_does_not_change_a_run_that_was_begun(
    settled, no_measurement, monkeypatch, tmp_path
):
    begun(tmp_path, "--precision=float32")
    monkeypatch.setenv(precision.VARIABLE, "mixed_bfloat16")
    assert settled("--precision=auto") == "float32"


def test_another_precision_is_refused_for_a_run_that_was_begun(
    settled, no_measurement, tmp_path
):
    begun(tmp_path, "--precision=float32")
    with pytest.raises(runs.RunError, match="=float32  ->  --precision=mixed_bfloat16"):
        settled("--precision=mixed_bfloat16")


def test_a_flag_is_followed_before_the_variable(settled, no_measurement, monkeypatch):
    monkeypatch.setenv(precision.VARIABLE, "mixed_bfloat16")
    assert settled("--precision=mixed_float16") == "mixed_float16"


def test_a_variable_is_followed_without_a_measurement(
    settled, no_measurement, monkeypatch
):
    monkeypatch.setenv(precision.VARIABLE, "mixed_bfloat16")
    assert settled() == "mixed_bfloat16"


def test_an_empty_variable_is_none(settled, times, monkeypatch):
    times(float32=0.01, mixed_bfloat16=0.005)
    monkeypatch.setenv(precision.VARIABLE, "")
    assert settled() == "mixed_bfloat16"


def test_a_variable_that_names_no_precision_is_an_error_that_names_them(
    settled, no_measurement, monkeypatch
):
    monkeypatch.setenv(precision.VARIABLE, "bfloat16")
    with pytest.raises(
        runs.RunError, match="BRATS_GAN_PRECISION .*'bfloat16'.*mixed_b"
    ):
        settled()


def test_a_deterministic_run_is_float32_without_a_measurement(settled, no_measurement):
    assert settled(deterministic=True) == "float32"


# --- Scripts --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        nifti.write_subject(folder, f"s{number}", (160, 160, 6), number, labels=(2, 4))
    return folder


def run(script, folder, run_dir, *more, code=0, **variables):
    """What a script says, of two steps at a tiny size."""
    environment = {k: v for k, v in os.environ.items() if k != precision.VARIABLE}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **variables}
    steps = "iterations" if script == "eval_segmentation.py" else "steps"
    command = [f"--data_dir={folder}", f"--run_dir={run_dir}", "--image_size=32"]
    command += ["--width=2", "--batch_size=1", "--slices=1:5", f"--{steps}=2"]
    done = subprocess.run(
        [sys.executable, ROOT / script, *command, "--nocheck", *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_script_writes_what_it_measured_and_goes_on_with_it(folder, tmp_path):
    run_dir = tmp_path / "run"
    command = ("eval_segmentation.py", folder, run_dir, "--scheme=four_channel")
    said = run(*command)
    (line,) = [line for line in said.splitlines() if "precision: " in line]
    chosen = runs.settings(run_dir)["precision"]
    assert chosen in precision.PRECISIONS
    assert f"precision: {chosen}, measured: a convolution of [1, 16, 16, 8]" in line
    described = json.loads((run_dir / "export/segmentor.json").read_text())
    assert described["flags"]["precision"] == f"--precision={chosen}"

    (other,) = {"float32", "mixed_bfloat16"} - {chosen}
    said = run(*command, BRATS_GAN_PRECISION=other)
    assert f"precision: {chosen}, as {run_dir} began" in said
    assert f"--precision={other}" in run(*command, f"--precision={other}", code=1)


def test_a_deterministic_script_says_once_that_it_measures_nothing(folder, tmp_path):
    run_dir = tmp_path / "run"
    said = run("train_structural.py", folder, run_dir, "--deterministic")
    assert said.count("float32, not measured: the run is deterministic") == 1
    assert runs.settings(run_dir)["precision"] == "float32"


def test_a_stage_trains_in_float16(folder, tmp_path):
    # The one of the fewest convolutions: a CPU has no instructions for float16.
    more = ("--scheme=four_channel", "--precision=mixed_float16")
    run("eval_segmentation.py", folder, tmp_path / "run", *more)
    newest = tf.train.load_checkpoint(tmp_path / "run/checkpoints/ckpt-2")
    (name,) = [n for n in newest.get_variable_to_shape_map() if "/loss_scale/" in n]
    assert newest.get_tensor(name) > 2.0**13  # not both steps were skipped
    (line,) = (tmp_path / "run/losses.jsonl").read_text().splitlines()
    assert math.isfinite(json.loads(line)["segmentation"])
