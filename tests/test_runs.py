"""Run folders, checkpoints, the loop and exports, on a network of one weight."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import brats_gan
from brats_gan import figures, files, flag_parsers, runs, schedules
from tests import scripts

loop_overhead = scripts.module("benchmarks.loop_overhead")

python_calls = []  # of the step of `train`


def tiny():
    tf.keras.utils.set_random_seed(0)
    image = tf.keras.Input((2,))
    return tf.keras.Model(image, tf.keras.layers.Dense(1)(image))


def train(
    run_dir,
    steps,
    broken_at=None,
    poisoned_at=None,
    signal_at=None,
    count=1,
    traced=False,
    **options,
):
    """Runs the loop on random numbers; returns the final weights.

    Args:
        broken_at: step whose loss is not finite.
        poisoned_at: step after which the weights are not; needs single steps.
        signal_at: (step, number): a signal comes then; needs single steps.
        count: of losses.
        traced: whether the step is a tf.function, as those of the stages are.
    """
    net = tiny()
    adam = runs.adam(net.trainable_variables, 0.1, 20)

    def step(batch, seed):
        python_calls.append(None)
        if signal_at is not None and int(seed[1]) == signal_at[0]:
            signal.raise_signal(signal_at[1])
        noise = tf.random.stateless_normal([2], seed)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(net(batch["x"] + noise) - 1.0))
        gradients = tape.gradient(loss, net.trainable_variables)
        adam.apply_gradients(zip(gradients, net.trainable_variables, strict=True))
        if broken_at is not None:
            loss = tf.where(seed[1] == broken_at, float("nan"), loss)
        if poisoned_at is not None and int(seed[1]) == poisoned_at:
            net.set_weights([w * float("nan") for w in net.get_weights()])
        return {"generator": loss, **{f"loss_{i}": loss * i for i in range(1, count)}}

    def batches(first):
        def make(k):
            x = tf.random.stateless_normal([4, 2], tf.stack([1, tf.cast(k, tf.int32)]))
            return {"x": x, "subject": [[k % 2]]}

        return tf.data.Dataset.range(first, 10**6).map(make)

    run_dir.mkdir(exist_ok=True)
    objects = {"net": net, "adam": adam}
    options = {"log_every": 1, **options}
    if traced:
        step = tf.function(step, autograph=False)
    runs.loop(run_dir, step, batches, steps, objects, 7, ["a", "b"], **options)
    return np.concatenate([np.ravel(w) for w in net.get_weights()])


def logged(run_dir):
    lines = (run_dir / "losses.jsonl").read_text().splitlines()
    return [(line["step"], line["generator"]) for line in map(json.loads, lines)]


def shown(run_dir, tags=False):
    """(step, value), or (step, tag, value), of all scalars in TensorBoard's files."""
    values = []
    for path in (run_dir / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for each in event.summary.value:
                number = float(tf.make_ndarray(each.tensor))
                tag = (each.tag,) if tags else ()
                values.append((event.step, *tag, number))
    return sorted(values)


def checkpoints(run_dir, folder="checkpoints"):
    return sorted(path.stem for path in (run_dir / folder).glob("*.index"))


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


def test_events_written_after_the_last_checkpoint_are_not_shown_twice(tmp_path):
    train(tmp_path, 5)
    (path,) = (tmp_path / "tensorboard").iterdir()
    late = tf.compat.v1.Event(step=6)
    late.summary.value.add(tag="generator").tensor.CopyFrom(tf.make_tensor_proto(9.0))
    kept = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in [*kept, late.SerializeToString()]:
            writer.write(record)
    with path.open("ab") as file:
        file.write(b"killed within the next")
    train(tmp_path, 8)
    assert shown(tmp_path) == logged(tmp_path)
    assert [step for step, _ in shown(tmp_path)] == list(range(1, 9))


@pytest.mark.parametrize("made_by", [{"rate": 0.2}, {"rate": 0.1, "more": 1}, None])
def test_checkpoints_of_another_run_are_refused(made_by, tmp_path):
    train(tmp_path / "theirs", 5, made_by=made_by)
    train(tmp_path / "ours", 4, made_by={"rate": 0.1})
    for path in (tmp_path / "theirs/checkpoints").glob("ckpt-5.*"):
        shutil.copy(path, tmp_path / "ours/checkpoints")
    before = (tmp_path / "ours/losses.jsonl").read_bytes()
    with pytest.raises(runs.RunError, match="ckpt-5 is of another run"):
        train(tmp_path / "ours", 8, made_by={"rate": 0.1})
    assert (tmp_path / "ours/losses.jsonl").read_bytes() == before
    for path in (tmp_path / "ours/checkpoints").glob("ckpt-5.*"):
        path.unlink()
    train(tmp_path / "ours", 8, made_by={"rate": 0.1})


def test_checkpoints_of_versions_that_name_no_run_are_gone_on_from(
    tmp_path, monkeypatch
):
    whole = train(tmp_path / "whole", 8)

    def without(**objects):
        return Checkpoint(**{n: o for n, o in objects.items() if n != "run"})

    Checkpoint = tf.train.Checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(tf.train, "Checkpoint", without)
        train(tmp_path / "parts", 5)
    np.testing.assert_array_equal(train(tmp_path / "parts", 8), whole)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    weights = train(tmp_path, 5)
    before = (tmp_path / "losses.jsonl").read_text()
    np.testing.assert_array_equal(train(tmp_path, 5), weights)
    assert (tmp_path / "losses.jsonl").read_text() == before


def test_a_loss_that_is_not_finite_stops_and_names_term_and_subject(tmp_path):
    with pytest.raises(runs.RunError, match="step 3: generator is not finite.* b[.]"):
        train(tmp_path, 8, broken_at=3)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "The last checkpoint is from before"), (1e9, "There is no checkpoint yet")],
)
def test_where_a_run_that_is_not_finite_goes_on_from_is_true(tmp_path, seconds, said):
    with pytest.raises(runs.RunError, match=said):
        train(tmp_path, 8, broken_at=3, checkpoint_seconds=seconds)


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_loss_that_is_looked_at_later_is_named_with_its_own_step_and_subject(
    tmp_path, steps_per_call
):
    # Step 12, whose batch is of subject 0, is looked at with steps 10 to 19 at the end
    # of these; the losses after it are not finite either.
    options = {"log_every": 20, "steps_per_call": steps_per_call, "count": 2}
    with pytest.raises(
        runs.RunError, match="step 12: generator, loss_1 is not finite.* a[.]"
    ):
        train(tmp_path, 40, broken_at=12, **options)
    assert logged(tmp_path) == [] and checkpoints(tmp_path) == []


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(
    tmp_path, steps_per_call
):
    options = {"log_every": 20, "steps_per_call": steps_per_call}
    with pytest.raises(runs.RunError, match="step 13: generator is not finite"):
        train(tmp_path, 40, broken_at=13, checkpoint_seconds=0, **options)
    kept = {1: ["ckpt-12", "ckpt-13"], 5: ["ckpt-10", "ckpt-5"]}
    assert checkpoints(tmp_path) == kept[steps_per_call]


def test_a_deterministic_run_has_one_step_a_call():
    assert (runs.per_call(7, True), runs.per_call(7, None)) == (1, 7)


@pytest.mark.parametrize("steps_per_call", [2, 5, 100])
def test_several_steps_in_a_call_are_bit_by_bit_single_ones(tmp_path, steps_per_call):
    drawn = []

    def sheet(step):
        drawn.append(step)
        return np.zeros([4, 4, 3], np.uint8)

    options = {"log_every": 6, "sheet_every": 10, "sheet": sheet, "traced": True}
    whole = train(tmp_path / "single", 20, **options)
    python_calls.clear()
    options["steps_per_call"] = steps_per_call
    np.testing.assert_array_equal(train(tmp_path / "calls", 20, **options), whole)
    assert len(python_calls) == 1  # traced once, for all
    assert logged(tmp_path / "calls") == logged(tmp_path / "single")
    assert [step for step, _ in logged(tmp_path / "calls")] == [6, 12, 18, 20]
    assert drawn == [10, 20, 10, 20]


@pytest.mark.parametrize(("seconds", "traced"), [(0.01, True), (0.2, False)])
def test_auto_puts_only_short_steps_together_and_says_how_long_it_takes(
    tmp_path, monkeypatch, caplog, seconds, traced
):
    clock = itertools.count()
    monkeypatch.setattr(
        runs.training,
        "time",
        types.SimpleNamespace(monotonic=lambda: next(clock) * seconds),
    )
    python_calls.clear()
    options = {"log_every": 100, "steps_per_call": "auto"}
    with caplog.at_level("INFO", logger="absl"):
        train(tmp_path, 61, **options)
    # 11 single ones, of which ten are measured; then 50 in calls of 5, or single ones.
    assert len(python_calls) == (12 if traced else 61)
    said = {0.01: "0.01 s/step: about 0 seconds", 0.2: "0.2 s/step: about 10 seconds"}[
        seconds
    ]
    assert f"50 steps at {said}" in caplog.messages


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "some"])
def test_steps_per_call_is_auto_or_a_number_above_0(text):
    parser = flag_parsers.StepsPerCall()
    assert parser.parse("auto") == "auto" and parser.parse("12") == 12
    with pytest.raises(ValueError, match="neither auto nor a number above 0"):
        parser.parse(text)


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_what_a_step_fetches_to_the_host_is_one_copy_a_logged_line(
    tmp_path, monkeypatch, steps_per_call
):
    # TensorBoard is given numbers, of which it makes tensors on the host.
    monkeypatch.setattr(tf.summary, "scalar", lambda *arguments, **options: None)
    options = {"log_every": 20, "steps_per_call": steps_per_call, "count": 25}
    options |= {"checkpoint_seconds": float("inf"), "traced": True}
    counted = []
    for steps in (40, 80):  # start and end of a run fetch as well
        with loop_overhead.fetches() as found:
            train(tmp_path / f"{steps}", steps, **options)
        counted.append(sum(found.values()))
    # Two lines more, each of 25 losses; before, each of 40 steps fetched 25 losses.
    assert counted[1] - counted[0] == 2


def test_batches_are_copied_to_a_gpu_and_left_as_they_are_without(monkeypatch):
    batches = tf.data.Dataset.range(3)
    assert runs.training._on_device(batches) is batches
    stand_in = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: stand_in)
    copied = runs.training._on_device(batches)
    assert copied is not batches
    assert [int(each) for each in copied] == [0, 1, 2]


def test_the_checkpoint_before_a_loss_that_is_not_finite_is_kept(tmp_path):
    with pytest.raises(runs.RunError):
        train(tmp_path / "run", 8, broken_at=5, checkpoint_seconds=0)
    assert checkpoints(tmp_path / "run") == ["ckpt-4", "ckpt-5"]
    whole = train(tmp_path / "whole", 8)
    np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)


def test_weights_that_are_not_finite_are_not_kept_though_no_loss_shows_them(tmp_path):
    with pytest.raises(runs.RunError, match="step 3: net is not finite.* b[.]"):
        train(tmp_path, 8, poisoned_at=3, checkpoint_seconds=0)
    assert checkpoints(tmp_path) == ["ckpt-2", "ckpt-3"]


def test_a_checkpoint_of_other_networks_is_refused(tmp_path):
    train(tmp_path, 2)
    other = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(1)])
    with pytest.raises(runs.RunError, match="ckpt-2 does not fit this run"):
        runs.restore({"net": other}, tmp_path / "checkpoints", {"seed": 7})


def damage_data(folder, step):
    path = folder / f"ckpt-{step}.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_index(folder, step):
    path = folder / f"ckpt-{step}.index"
    path.write_bytes(path.read_bytes()[:-9])


def turn_a_bit(folder, step):
    path = folder / f"ckpt-{step}.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[1] ^= 1
    path.write_bytes(content)


def lose_the_data(folder, step):
    (folder / f"ckpt-{step}.data-00000-of-00001").unlink()


@pytest.mark.parametrize("harm", [damage_data, damage_index, turn_a_bit, lose_the_data])
def test_a_damaged_checkpoint_is_passed_over_for_the_last_whole_one(
    tmp_path, harm, caplog
):
    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "run", 5, checkpoint_seconds=0)  # keeps those of steps 4 and 5
    harm(tmp_path / "run/checkpoints", 5)
    with caplog.at_level("WARNING"):
        np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)
    (said,) = [each for each in caplog.messages if "damaged" in each]
    assert "ckpt-5 is damaged" in said and "Going on from" in said and "ckpt-4" in said
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    assert shown(tmp_path / "run") == logged(tmp_path / "whole")


def test_a_run_without_a_whole_checkpoint_stops_and_is_left_as_it_is(tmp_path):
    train(tmp_path, 5, checkpoint_seconds=0)
    for step in (4, 5):
        damage_data(tmp_path / "checkpoints", step)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(runs.RunError, match="ckpt-5 is damaged.*ckpt-4 is damaged"):
        train(tmp_path, 8)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("listed", ["", "model_check", None])
def test_checkpoints_are_found_though_their_list_was_cut_off(tmp_path, listed):
    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "run", 5)
    path = tmp_path / "run/checkpoints/checkpoint"
    path.unlink() if listed is None else path.write_text(listed)
    np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)


def test_what_a_kill_leaves_of_a_checkpoint_is_removed(tmp_path):
    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "run", 5)
    folder = tmp_path / "run/checkpoints"
    (folder / "ckpt-6_temp").mkdir()
    (folder / "ckpt-6_temp/part-00000-of-00001.index").write_bytes(b"half")
    (folder / "ckpt-7.data-00000-of-00001").write_bytes(b"data without an index")
    (folder / "checkpoint.tmp0123").write_bytes(b"half")
    np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)
    assert {path.name.partition(".")[0] for path in folder.iterdir()} == {
        "checkpoint",
        "ckpt-5",
        "ckpt-8",
    }


@contextlib.contextmanager
def disk_with(size):
    """No file may grow beyond `size` bytes: what a full disk looks like to a writer."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [64, 900])  # as the run goes on, and a little later
def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, size):
    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "run", 5)
    folder = tmp_path / "run/checkpoints"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with disk_with(size):
        with pytest.raises(runs.RunError, match="cannot be written.*Make room"):
            train(tmp_path / "run", 8)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")
    assert shown(tmp_path / "run") == logged(tmp_path / "whole")


def test_a_checkpoint_that_finds_no_room_is_named_and_removed(tmp_path):
    manager = runs.restore({"weight": tf.Variable(tf.zeros([1000]))}, tmp_path, {})
    runs.save(manager, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with disk_with(1000):
        with pytest.raises(runs.RunError, match="ckpt-2 cannot be written.*Make room"):
            runs.save(manager, 2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    runs.save(manager, 2)
    assert checkpoints(tmp_path.parent, tmp_path.name) == ["ckpt-1", "ckpt-2"]


def test_a_full_disk_leaves_the_export_that_was_there(tmp_path):
    net = tiny()
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    answer = {"answer": (lambda x: {"y": net(x)}, [spec])}
    runs.export(tmp_path, "net", [net], answer, {"k": 3})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with disk_with(100):
        with pytest.raises(runs.RunError, match="net cannot be written.*Make room"):
            runs.export(tmp_path, "net", [net], answer, {"k": 4})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path):
    files.write_atomically(tmp_path / "a.json", b"old")
    with disk_with(100):
        with pytest.raises(files.DataError, match="a.json: cannot be written.*room"):
            files.write_atomically(tmp_path / "a.json", b"new" * 100)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.fixture
def handled():
    """Signals as runs.main has them: none ignored, as Python has SIGPIPE ignored."""
    before = {number: signal.getsignal(number) for number in runs.process.STOP_SIGNALS}
    for number in before:
        signal.signal(number, runs.process._stop)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", runs.process.STOP_SIGNALS)
def test_a_signal_stops_after_its_step_with_a_checkpoint(tmp_path, number, handled):
    whole = train(tmp_path / "whole", 8)
    before = signal.getsignal(number)
    with pytest.raises(runs.Stopped, match=f"{number.name} after step 4 of 8"):
        train(tmp_path / "run", 8, signal_at=(3, number))
    assert signal.getsignal(number) == before
    assert checkpoints(tmp_path / "run") == ["ckpt-4"]
    np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)
    assert shown(tmp_path / "run") == logged(tmp_path / "whole")


def test_a_signal_that_comes_while_the_last_step_is_written_is_obeyed(
    tmp_path, monkeypatch, handled
):
    real = runs.training.save

    def save(*arguments):
        signal.raise_signal(signal.SIGTERM)
        real(*arguments)

    monkeypatch.setattr(runs.training, "save", save)
    with pytest.raises(runs.Stopped, match="SIGTERM after step 3 of 3"):
        train(tmp_path, 3)
    assert checkpoints(tmp_path) == ["ckpt-3"]


def test_training_goes_on_over_a_signal_that_is_ignored(tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        train(tmp_path, 5, signal_at=(3, signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert checkpoints(tmp_path) == ["ckpt-5"]


def test_a_signal_stops_after_its_call_with_a_checkpoint(
    tmp_path, monkeypatch, handled
):
    whole = train(tmp_path / "whole", 20, log_every=10, traced=True)
    real = runs.training._several

    def several(*arguments):
        call = real(*arguments)

        def signalled(iterator, first, count):
            if first == 5:
                signal.raise_signal(signal.SIGTERM)
            return call(iterator, first, count)

        return signalled

    monkeypatch.setattr(runs.training, "_several", several)
    options = {"log_every": 10, "steps_per_call": 5, "traced": True}
    with pytest.raises(runs.Stopped, match="SIGTERM after step 10 of 20"):
        train(tmp_path / "run", 20, **options)
    assert checkpoints(tmp_path / "run") == ["ckpt-10"]
    monkeypatch.undo()
    np.testing.assert_array_equal(train(tmp_path / "run", 20, **options), whole)
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


BEGIN = """
import os, sys
from brats_gan import runs
print("begun with", *sys.argv[1:], flush=True)
runs.set_up("float32", 0, True)
print("oneDNN", os.environ["TF_ENABLE_ONEDNN_OPTS"])
import tensorflow as tf
print("at a time", tf.config.threading.get_inter_op_parallelism_threads())
print(tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"])
"""


def test_a_deterministic_run_has_neither_onednn_nor_another_order_of_operations():
    known = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    command = [sys.executable, "-c", BEGIN, "--flag=a b"]
    said = subprocess.run(command, env=known, capture_output=True, text=True).stdout
    assert said.splitlines() == ["begun with --flag=a b"] * 2 + [
        "oneDNN 0",
        "at a time 1",
        "True",
    ]


START = """
import sys
from brats_gan import runs
runs.folder.key_flags = dict
run_dir = runs.start(sys.argv[1])
if sys.argv[2] == "released":
    runs.release(run_dir)
print(sys.argv[2], flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def other_process(run_dir, state, monkeypatch):
    """A process that has started a run folder, "held" or "released", and goes on."""
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setattr(runs.folder, "key_flags", dict)
    command = [sys.executable, "-c", START, run_dir, state]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == f"{state}\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_gone(
    script, tmp_path, monkeypatch
):
    with other_process(tmp_path / "run", "held", monkeypatch) as first:
        with pytest.raises(runs.RunError, match=f"in use by .*process {first.pid} on"):
            runs.start(tmp_path / "run")
    assert runs.start(tmp_path / "run") == tmp_path / "run"


def test_a_folder_that_was_released_is_free_while_its_process_lives(
    script, tmp_path, monkeypatch
):
    with other_process(tmp_path / "run", "released", monkeypatch):
        assert runs.start(tmp_path / "run") == tmp_path / "run"


@pytest.fixture
def in_float16():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


def test_gradients_too_small_for_float16_train_by_their_loss_scale(in_float16):
    image = tf.keras.Input((4, 4, 1))
    ones = {"kernel_initializer": "ones", "use_bias": False}
    hidden = tf.keras.layers.Conv2D(1, 1, **ones)(image)
    net = tf.keras.Model(image, tf.keras.layers.Conv2D(1, 1, **ones)(hidden))
    optimizer = runs.adam(net.trainable_variables, 0.1, 10)
    x = tf.ones([1, 4, 4, 1])

    def gradients(scale):
        with tf.GradientTape() as tape:
            # Of a pixel 1e-8, less than half of the smallest of float16, 6e-8.
            loss = 1e-8 * tf.reduce_sum(tf.cast(net(x), tf.float32))
        return tape.gradient(loss, net.trainable_variables, output_gradients=scale)

    assert all(float(tf.reduce_sum(tf.abs(g))) == 0 for g in gradients(None))
    for gradient in gradients(optimizer.loss_scale):
        # 16 pixels of 1e-8, and float16 has 11 bits.
        found = float(tf.reduce_sum(gradient)) / float(optimizer.loss_scale)
        assert found == pytest.approx(16e-8, rel=2**-10)

    with tf.GradientTape(persistent=True) as tape:
        loss = 1e-8 * tf.reduce_sum(tf.cast(net(x), tf.float32))
    of_side = {"side": net.trainable_variables}
    runs.update({"side": optimizer}, tape, {"side": loss}, of_side)
    for variable in net.trainable_variables:
        # Adam's first step is rate * g / (|g| + epsilon / sqrt(1 - beta_2)), here
        # 0.1 * 16e-8 / (16e-8 + 1e-7 / sqrt(0.001)) = 0.1 * 0.16 / (0.16 + 3.162).
        moved = 1 - float(tf.reduce_sum(variable))
        assert moved == pytest.approx(0.1 * 0.16 / 3.322, rel=1e-2)


def test_only_float16_needs_a_loss_scale():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        optimizer = runs.adam([tf.Variable(1.0)], 0.1, 10)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert not hasattr(optimizer, "loss_scale")


def test_a_precision_may_be_a_function_called_as_the_run_is_set_up():
    try:
        runs.set_up(lambda: "mixed_bfloat16", 0)
        assert tf.keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    finally:
        runs.set_up("float32", 0)


def test_sheets_reach_tensorboard(tmp_path):
    drawn = []

    def sheet(step):
        drawn.append(step)
        return np.zeros([4, 4, 3], np.uint8)

    train(tmp_path, 6, sheet=sheet, sheet_every=4)
    assert drawn == [4, 6]
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_learning_rate_is_constant_then_falls_to_a_twentieth():
    rate = schedules.ConstantThenLinear(1.0, 100)
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
        runs.folder,
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


@pytest.mark.parametrize("began", [None, "--init_from=first"])
def test_a_run_that_goes_on_names_the_weights_it_began_from(began, tmp_path):
    def start(line):
        lines = {"rate": "--rate=0.5"} | ({"init_from": line} if line else {})
        runs.start(tmp_path, by=runs.Command("train.py", lines))
        written = (tmp_path / "flags.txt").read_text().splitlines()
        assert written[1:] == sorted(runs.command_of(tmp_path).flags.values())
        return runs.command_of(tmp_path).flags.get("init_from")

    assert start("--init_from=other") == "--init_from=other"  # no step is done
    assert start(began) == began
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/ckpt-2.index").touch()
    for typed in ("--init_from=other", None, began):
        assert start(typed) == began


def test_other_flags_are_refused_with_the_difference(script, tmp_path):
    script("--rate=0.25")
    runs.start(tmp_path)
    script("--rate=0.5", "--noon")
    with pytest.raises(runs.RunError) as error:
        runs.start(tmp_path)
    assert "--rate=0.25  ->  --rate=0.5" in str(error.value)
    assert "--on  ->  --noon" in str(error.value)


@pytest.fixture
def length(script, tmp_path):
    """Sets --steps and --epochs of a run in tmp_path; returns its steps."""
    values = flags.FlagValues()
    flags.DEFINE_integer("steps", None, "", flag_values=values)
    flags.DEFINE_float("epochs", 2, "", flag_values=values)
    script()

    def total(*arguments):
        for name in ("steps", "epochs"):
            values[name].unparse()
        values(["train.py", *arguments])
        given = [flag for flag in (values["steps"], values["epochs"]) if flag.value]
        runs.folder.key_flags = lambda: {flag.name: flag.serialize() for flag in given}
        runs.require_startable(tmp_path, free=runs.LENGTH)
        asked = values["steps"].value, values["epochs"].value
        steps = runs.total_steps(tmp_path, *asked, 50, 10, 1.0)
        runs.start(tmp_path, free=runs.LENGTH)
        return steps

    return total


def done(run_dir, steps):
    """Makes it look as if so many steps were done."""
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    (run_dir / f"checkpoints/ckpt-{steps}.index").touch()


def test_steps_are_those_of_the_flag_or_of_the_epochs(length):
    assert length("--epochs=3") == 15  # of 50 slices, ten a step
    assert length("--steps=7") == 7


def test_steps_may_be_raised_and_the_schedule_says_how_it_goes_on(
    length, tmp_path, caplog
):
    length("--steps=100")
    done(tmp_path, 75)
    with caplog.at_level("INFO", logger="absl"):
        assert length("--steps=300") == 300
    # Constant until 150; of 100 steps it would have fallen half of the way to 0.05.
    (said,) = caplog.messages
    assert "300 steps in all, no longer 100; 75 are done" in said
    assert "the rate from 1 (it was to be 0.525 here) to 0.05 at the end" in said
    assert settings_of(tmp_path)["steps"] == "300"


def settings_of(run_dir):
    return {k: v for k, v in runs.settings(run_dir).items() if k in runs.LENGTH}


def test_more_epochs_raise_the_steps(length, tmp_path, caplog):
    assert length() == 10
    done(tmp_path, 10)
    with caplog.at_level("INFO", logger="absl"):
        assert length("--epochs=4") == 20
    assert "20 steps in all, no longer 10" in caplog.text
    assert settings_of(tmp_path) == {"epochs": "4.0"}


def test_the_same_steps_otherwise_given_are_no_change(length, tmp_path, caplog):
    length()
    done(tmp_path, 10)
    with caplog.at_level("INFO", logger="absl"):
        assert length("--steps=10") == 10
    assert not caplog.messages


def test_fewer_steps_than_are_done_are_refused_and_the_run_is_left_as_it_is(
    length, tmp_path
):
    length("--steps=100")
    done(tmp_path, 75)
    before = (tmp_path / "flags.txt").read_text()
    with pytest.raises(runs.RunError, match="done 75 of 100 .*--steps=75 or more"):
        length("--steps=74")
    assert (tmp_path / "flags.txt").read_text() == before
    assert length("--steps=75") == 75


def test_a_run_whose_length_is_not_free_keeps_it(length, tmp_path):
    length("--steps=100")
    runs.folder.key_flags = lambda: {"steps": "--steps=200"}
    with pytest.raises(runs.RunError, match="--steps=100  ->  --steps=200"):
        runs.start(tmp_path)


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
    made_by = {"script", "flags", "version", "revision", "files"}
    assert description.pop("k") == 3 and set(description) == made_by
    assert description["version"] == brats_gan.__version__


def test_curves_show_losses_that_only_a_later_phase_has(tmp_path, monkeypatch):
    log = tmp_path / "losses.jsonl"
    lines = [{"step": 1, "seconds": 0, "a": 2.0}, {"step": 2, "seconds": 1, "b": 3.0}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    figures.loss_curves(log, tmp_path / "losses.png")
    titled = {axis.get_title(): axis for axis in drawn[0].axes if axis.get_title()}
    assert titled.keys() == {"a", "b"}
    (curve,) = titled["b"].get_lines()
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([2], [3.0])


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
