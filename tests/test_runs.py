"""Run folders, checkpoints, the loop and exports, on a network of one weight."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from brats_gan import figures, runs


def tiny():
    tf.keras.utils.set_random_seed(0)
    image = tf.keras.Input((2,))
    return tf.keras.Model(image, tf.keras.layers.Dense(1)(image))


def train(run_dir, steps, broken_at=None, **options):
    """Runs the loop on random numbers; returns the final weights."""
    net = tiny()
    adam = runs.adam(net.trainable_variables, 0.1, 20)

    def step(batch, seed):
        noise = tf.random.stateless_normal([2], seed)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(net(batch["x"] + noise) - 1.0))
        gradients = tape.gradient(loss, net.trainable_variables)
        adam.apply_gradients(zip(gradients, net.trainable_variables, strict=True))
        if broken_at is not None and int(seed[1]) == broken_at:
            loss = loss * float("nan")
        return {"generator": loss}

    def batches(first):
        def make(k):
            x = tf.random.stateless_normal([4, 2], tf.stack([1, tf.cast(k, tf.int32)]))
            return {"x": x, "subject": tf.constant([[1]])}

        return tf.data.Dataset.range(first, 10**6).map(make)

    run_dir.mkdir(exist_ok=True)
    objects = {"net": net, "adam": adam}
    runs.loop(
        run_dir, step, batches, steps, objects, 7, ["a", "b"], log_every=1, **options
    )
    return np.concatenate([np.ravel(w) for w in net.get_weights()])


def logged(run_dir):
    lines = (run_dir / "losses.jsonl").read_text().splitlines()
    return [(line["step"], line["generator"]) for line in map(json.loads, lines)]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "parts", 5)
    np.testing.assert_array_equal(train(tmp_path / "parts", 12), whole)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")


def test_lines_logged_after_the_last_checkpoint_are_not_repeated(tmp_path):
    train(tmp_path, 5)
    with (tmp_path / "losses.jsonl").open("a") as log:
        log.write('{"step": 6, "generator": 0.0}\n{"step": 7, "gen')  # killed here
    train(tmp_path, 8)
    assert [step for step, _ in logged(tmp_path)] == list(range(1, 9))


def test_a_finished_run_is_left_as_it_is(tmp_path):
    weights = train(tmp_path, 5)
    before = (tmp_path / "losses.jsonl").read_text()
    np.testing.assert_array_equal(train(tmp_path, 5), weights)
    assert (tmp_path / "losses.jsonl").read_text() == before


def test_a_loss_that_is_not_finite_stops_and_names_term_and_subject(tmp_path):
    with pytest.raises(runs.RunError, match="step 3: generator is not finite.* b[.]"):
        train(tmp_path, 8, broken_at=3)


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    train(tmp_path, 2)
    other = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(1)])
    checkpoint = tf.train.Checkpoint(net=other)
    with pytest.raises((runs.RunError, ValueError)):
        runs.restore(checkpoint, tmp_path / "checkpoints")


def test_sheets_reach_tensorboard(tmp_path):
    drawn = []

    def sheet(step):
        drawn.append(step)
        return np.zeros([4, 4, 3], np.uint8)

    train(tmp_path, 6, sheet=sheet, sheet_every=4)
    assert drawn == [4, 6]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_learning_rate_is_constant_then_falls_to_a_twentieth():
    rate = runs.ConstantThenLinear(1.0, 100)
    # Half way from 50 to 100 it has lost half of the 95 % it loses.
    expected = {0: 1.0, 50: 1.0, 75: 0.525, 100: 0.05, 200: 0.05}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-6)


@pytest.fixture
def script(monkeypatch):
    """Makes the flags of a script `train.py`: --rate, --on, --run_dir."""
    values = flags.FlagValues()
    for name, value in (("rate", 0.5), ("run_dir", "x")):
        define = flags.DEFINE_float if name == "rate" else flags.DEFINE_string
        define(name, value, "", flag_values=values)
    flags.DEFINE_bool("on", True, "", flag_values=values)
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    monkeypatch.setattr(
        runs,
        "key_flags",
        lambda: {f.name: f.serialize() for f in map(values.__getitem__, values)},
    )

    def parse(*arguments):
        values.unparse_flags()
        values(["train.py", *arguments])

    return parse


def test_a_run_keeps_its_flags_as_a_flagfile(script, tmp_path):
    script("--rate=0.25", "--noon")
    runs.start(tmp_path / "run")
    lines = (tmp_path / "run" / "flags.txt").read_text().splitlines()
    assert lines == ["# train.py", "--noon", "--rate=0.25", "--run_dir=x"]


def test_the_same_flags_enter_again_and_places_may_change(script, tmp_path):
    script("--noon")
    runs.start(tmp_path)
    script("--noon", "--run_dir=y")
    assert runs.start(tmp_path) == tmp_path


def test_other_flags_are_refused_with_the_difference(script, tmp_path):
    script("--rate=0.25")
    runs.start(tmp_path)
    script("--rate=0.5", "--noon")
    with pytest.raises(runs.RunError) as error:
        runs.start(tmp_path)
    assert "--rate=0.25  ->  --rate=0.5" in str(error.value)
    assert "--on  ->  --noon" in str(error.value)


def test_a_run_of_another_script_is_refused(script, tmp_path, monkeypatch):
    script()
    runs.start(tmp_path)
    monkeypatch.setattr(sys, "argv", ["other.py"])
    with pytest.raises(runs.RunError, match="run of train.py, not of other.py"):
        runs.start(tmp_path)


def test_a_folder_that_is_no_run_is_refused(script, tmp_path):
    script()
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(runs.RunError, match="not a run folder"):
        runs.start(tmp_path)


def test_an_export_gives_the_numbers_of_the_live_model(tmp_path):
    net = tiny()
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    runs.export(
        tmp_path, "net", [net], {"answer": (lambda x: {"y": net(x)}, [spec])}, {"k": 3}
    )
    loaded, description = runs.load_export(tmp_path, "net")
    x = tf.constant([[1.0, 2.0]])
    np.testing.assert_array_equal(loaded.answer(x)["y"], net(x))
    assert description == {"k": 3}


def test_an_export_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(runs.RunError, match="has not finished training"):
        runs.load_export(tmp_path, "net")


def test_sheets_and_curves_are_written(tmp_path):
    rows = [[np.eye(8), np.full([8, 8], 4), None]]
    pixels = figures.sheet(
        rows, ["x", "label", "none"], tmp_path / "a.png", label_columns=("label",)
    )
    assert pixels.dtype == np.uint8 and pixels.ndim == 3
    # The one colour of the picture is label 4's.
    assert any((pixels == (50, 205, 50)).all(-1).ravel())
    log = tmp_path / "losses.jsonl"
    log.write_text('{"step": 1, "seconds": 0, "a": 2.0}\n')
    figures.loss_curves(log, tmp_path / "losses.png")
    for name in ("a.png", "losses.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
