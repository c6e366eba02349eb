"""Several replicas compute what one does; who takes part is refused or ends clearly."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorflow as tf

from brats_gan import runs
from brats_gan.runs import peers
from tests import nifti
from tests.scripts import ROOT

# Logical CPUs are made before TensorFlow's first operation: a process of its own.
TWO = """
import sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
shares = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, shares)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""


def run_python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", TWO + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_replicas_have_the_rows_and_draw_the_numbers_of_one():
    run_python("""
from brats_gan import replicas
batch = {"x": tf.reshape(tf.range(12.0), [6, 2])}
seed = tf.constant([1, 2])

def drawn():
    return {
        "rows": replicas.own_rows(batch)["x"],
        "normal": replicas.normal([3 if replicas.several() else 6, 2], seed),
        "uniform": replicas.uniform([2, 3 if replicas.several() else 6], seed, axis=1),
        # Two blocks of four rows and one of two, dealt one by one.
        "blocks": replicas.normal(
            *(([5], seed, [2, 2, 1]) if replicas.several() else ([10], seed, [4, 4, 2]))
        ),
    }

alone = drawn()
first, second = (
    {name: two.experimental_local_results(x)[k] for name, x in found.items()}
    for found in [two.run(drawn)] for k in range(2)
)
for name in ("rows", "normal"):
    both = tf.concat([first[name], second[name]], 0)
    np.testing.assert_array_equal(both, alone[name])
along = tf.concat([first["uniform"], second["uniform"]], 1)
np.testing.assert_array_equal(along, alone["uniform"])
one, other = first["blocks"], second["blocks"]
whole = [one[0:2], other[0:2], one[2:4], other[2:4], one[4:], other[4:]]
np.testing.assert_array_equal(tf.concat(whole, 0), alone["blocks"])
""")


def test_sums_and_means_are_over_replicas_and_gradients_go_through_sums():
    run_python("""
from brats_gan import replicas
with two.scope():
    w = tf.Variable(3.0)

@tf.function
def step(x):
    x = replicas.own_rows({"x": x})["x"]
    with tf.GradientTape() as tape:
        # (w * sum of x)^2 over the whole batch, as a term that no mean of parts is.
        value = replicas.summed(w * tf.reduce_sum(x)) ** 2
    gradient, half = replicas.averaged([tape.gradient(value, w), tf.reduce_mean(x)])
    replicas.assign(w, w - 0.5 * gradient)
    return value, gradient, half, replicas.gathered(x)

x = tf.constant([1.0, 2.0, 3.0, 5.0])

@tf.function
def of_all(x):
    return two.run(step.python_function, (x,))

found = of_all(x)
for k in range(2):
    value, gradient, half, rows = (two.experimental_local_results(v)[k] for v in found)
    assert float(value) == (3 * 11) ** 2
    assert float(gradient) == 2 * 3 * 11**2
    assert float(half) == 11 / 4
    np.testing.assert_array_equal(rows, x)
    assert float(w.values[k]) == 3 - 0.5 * 2 * 3 * 11**2
""")


STEPS = """
from benchmarks import rig
from brats_gan import code_bank, lesion_components, multimodal, runs, segmentation
from brats_gan import structural

SIZE = 32
stage, loss = sys.argv[1:]

def made():
    if stage == "1":
        nets = structural.build(SIZE, 2, code_channels=1, code_game=True)
        sides = {
            "generator": structural.GENERATOR_SIDE,
            "discriminator": structural.DISCRIMINATOR_SIDE,
        }
        variables = {s: structural.variables(nets, who) for s, who in sides.items()}
        codes = code_bank.Codes(nets["DC_f"].inputs[0].shape[-1])
        extra = (codes,)
        make = structural.make_train_step
    elif stage == "2":
        nets = multimodal.build(SIZE, 2, "single")
        variables, extra = multimodal.variables(nets), (None,)
        extra += (multimodal.Options(label_loss=loss),)
        make = multimodal.make_train_step
    else:
        nets = lesion_components.build("multiple", SIZE, 2)
        found = [v for net in nets.values() for v in net.trainable_variables]
        variables, extra = {"segmentation": found}, (loss, 0.1, True)
        make = segmentation.make_train_step
    adams = {side: runs.adam(each, 1e-6, 100) for side, each in variables.items()}
    return nets, adams, make(nets, adams, *extra)

tf.keras.utils.set_random_seed(1)
alone = made()
with two.scope():
    shared = made()
for name, net in alone[0].items():
    shared[0][name].set_weights(net.get_weights())
batch_of = {
    "1": lambda k: rig.structural_batch(SIZE, 4, k),
    "2": lambda k: rig.multimodal_batch(SIZE, 2, k),
    "4": lambda k: rig.segmentation_batch(SIZE, 4, k),
}[stage]
of_all = runs.Team(two).traced(shared[2])

def moments(adams):
    return [m.numpy() for each in adams.values() for m in each._momentums]

for step in range(20 if stage == "2" else 5):
    seed = tf.constant([3, step])
    one, both = alone[2](batch_of(step), seed), of_all(batch_of(step), seed)
    assert {*one} == {*both}
    for name in one:
        a, b = float(one[name]), float(both[name])
        # L_f is of maps behind a threshold, which a rounding error takes a pixel over.
        rounding = 1e-3 if name == "structure" else 1e-6
        assert abs(a - b) <= 1e-4 * abs(a) + rounding, (step, name, a, b)
    if step == 0:
        pairs = [*zip(moments(alone[1]), moments(shared[1]), strict=True)]
        errors = [np.abs(a - b).max() / (np.abs(a).max() + 1e-2) for a, b in pairs]
        # Of stage 2 some gradients turn by 0.05 where all weights are moved by 1e-7.
        found = np.median(errors) if stage == "2" else max(errors)
        assert found <= 0.02, found
for net in shared[0].values():  # and the copies have stayed alike
    for variable in net.variables:
        variable = getattr(variable, "value", variable)
        values = getattr(variable, "values", None)
        if values is not None and not callable(values):
            np.testing.assert_array_equal(values[0], values[1])
"""


def test_a_lost_worker_is_told_of_with_what_tensorflow_says_of_it():
    team = runs.Team()
    team.several_processes = True
    said = (
        "Graph execution error:\n\nDetected at node 'a' defined at (most recent call "
        'last):\n  File "b.py", line 1, in c\n\nCollective ops is aborted by: heartbeat'
    )
    with (
        pytest.raises(runs.WorkerLost, match=r"\(Collective ops is aborted by: heart"),
        team.at_work(),
    ):
        raise tf.errors.UnavailableError(None, None, said)


def test_a_signal_that_comes_while_others_are_waited_for_is_obeyed_after():
    def sum_over(numbers):
        os.kill(os.getpid(), signal.SIGUSR1)
        passed.append(True)  # the handler has not raised
        raise tf.errors.UnavailableError(None, None, "a peer is gone")

    def stop(number, frame):
        raise runs.Stopped(number)

    team, passed = runs.Team(), []
    team.several_processes, team._sum = True, sum_over
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(runs.Stopped) as told:
            team.wait()
        assert passed and told.value.exit_code == 85
        assert signal.getsignal(signal.SIGUSR1) is stop
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_peer_that_nobody_listens_for_is_told_of_once():
    with contextlib.ExitStack() as stack:
        listening = [
            stack.enter_context(socket.create_server(("localhost", 0)))
            for _ in range(2)
        ]
        addresses = [f"localhost:{each.getsockname()[1]}" for each in listening]
        told, ended = queue.Queue(), queue.Queue()
        peers.Watch(addresses, told.put, every=0.05, grace=0.2)
        watch = peers.Watch(addresses, ended.put, every=0.05, grace=0.2)
        with pytest.raises(queue.Empty):  # while all are there
            told.get(timeout=1)
        watch.end()
        listening[1].close()
        assert told.get(timeout=60) == addresses[1]
        listening[0].close()
        for each in (told, ended):  # one is enough, and none after the end
            with pytest.raises(queue.Empty):
                each.get(timeout=1)


def test_a_worker_whose_last_words_nobody_can_take_ends_all_the_same(tmp_path):
    script = """
import os, sys, tempfile, threading
from brats_gan import runs

class Full:
    def write(self, text):
        raise OSError(28, "No space left on device")
    flush = write

def keep_writing(folder):
    for k in range(10**9):
        try:
            open(os.path.join(folder, str(k)), "w").close()
        except OSError:
            pass

sys.stderr = Full()
team = runs.Team()
team._aside = tempfile.TemporaryDirectory(dir=sys.argv[1])
threading.Thread(target=keep_writing, args=[team._aside.name], daemon=True).start()
team._end_alone("localhost:1")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, timeout=120
    )
    assert done.returncode == 85


def test_a_peer_is_there_while_names_cannot_be_looked_up(monkeypatch):
    looked_up, told, failing = socket.getaddrinfo, queue.Queue(), []

    def look_up(host, *arguments):
        if failing and host == "localhost":
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return looked_up(host, *arguments)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with socket.create_server(("localhost", 0)) as listening:
        address = f"localhost:{listening.getsockname()[1]}"
        watch = peers.Watch([address], told.put, every=0.05, grace=0.5)
        listening.accept()[0].close()  # it was reached once
        time.sleep(0.2)
        failing.append(True)
        with pytest.raises(queue.Empty):
            told.get(timeout=2)
    assert told.get(timeout=60) == address  # and gone, it is missed
    watch.end()


def test_a_replica_alone_shares_nothing_and_so_can_learn_in_float16():
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            """
from brats_gan import runs
team = runs.gather("mirrored", None, 3)
assert team.count == 1 and team.strategy is None and team.is_chief
assert team.traced(len) is len
""",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("stage", "loss"), [("1", "weighted"), ("2", "squared"), ("4", "weighted")]
)
def test_a_step_of_two_replicas_is_that_of_one_with_the_same_batch(stage, loss):
    run_python(STEPS, stage, loss)


# --- Scripts --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas") / "data"
    for number in range(3):
        nifti.write_subject(folder, f"s{number}", seed=number)
    return folder


def command(data_dir, run_dir, *flags):
    return [
        *(sys.executable, "train_multimodal.py", f"--data_dir={data_dir}"),
        *(f"--run_dir={run_dir}", "--slices=1:5", "--image_size=32", "--width=2"),
        *("--batch_size=2", "--steps=60", "--first_phase=0", "--held_out=0.34"),
        *("--scheme=single", "--label_loss=squared", "--learning_rate=1e-7"),
        *("--checkpoint_seconds=0", *flags),
    ]


def environment(**more):
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **more}


def losses(run_dir):
    lines = (run_dir / "losses.jsonl").read_text().splitlines()
    return {
        name: value
        for name, value in json.loads(lines[-1]).items()
        if name != "seconds"
    }


def free_ports(count):
    taken = [socket.socket() for _ in range(count)]
    for each in taken:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def start_workers(data_dir, run_dir, logs, flags=((), ())):
    """Two processes of one run; returns them."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    started = []
    for index in range(2):
        told = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        arguments = command(data_dir, run_dir, "--strategy=multi_worker", *flags[index])
        with (logs / f"{index}.log").open("w") as log:
            process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(TF_CONFIG=json.dumps(told)),
            )
        started.append(process)
    return started


def wait_for(processes, seconds):
    """Exit codes; those that are left after so many seconds are killed, and fail."""
    try:
        ends = time.monotonic() + seconds
        return [p.wait(max(ends - time.monotonic(), 0.1)) for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def newest(run_dir):
    """Step of the newest checkpoint."""
    found = run_dir.glob("checkpoints/ckpt-*.index")
    return max((int(path.stem.partition("-")[2]) for path in found), default=0)


def end_one(data_dir, run_dir, logs, number):
    """Starts two workers and sends one a signal after some steps; exit codes."""
    began = newest(run_dir)
    workers = start_workers(data_dir, run_dir, logs)
    try:
        ends = time.monotonic() + 300
        while newest(run_dir) < began + 4:
            assert time.monotonic() < ends, (logs / "0.log").read_text()[-3000:]
            assert all(each.poll() is None for each in workers)
            time.sleep(0.05)
        workers[1].send_signal(number)
    except BaseException:
        wait_for(workers, 0)
        raise
    return wait_for(workers, 120)


@pytest.mark.once
def test_a_worker_ends_where_the_chief_is_killed_before_the_first_step(
    data_dir, tmp_path
):
    workers = start_workers(data_dir, tmp_path / "run", tmp_path)
    try:
        ends = time.monotonic() + 300
        while "training for 60 steps" not in (tmp_path / "1.log").read_text():
            assert time.monotonic() < ends, (tmp_path / "1.log").read_text()[-3000:]
            assert all(each.poll() is None for each in workers)
            time.sleep(0.05)
        workers[0].kill()
        killed = time.monotonic()
    except BaseException:
        wait_for(workers, 0)
        raise
    codes = wait_for(workers, 120)
    print(f"ended after {time.monotonic() - killed:.0f} s")
    said = (tmp_path / "1.log").read_text()
    assert codes == [-signal.SIGKILL, 85], said[-3000:]
    assert "worker 1: another worker has ended or cannot be reached" in said


@pytest.mark.once
def test_two_processes_train_as_one_also_where_one_is_killed(data_dir, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    subprocess.run(command(data_dir, alone), cwd=ROOT, check=True, env=environment())
    codes = end_one(data_dir, shared, tmp_path, signal.SIGKILL)
    said = (tmp_path / "0.log").read_text()
    assert codes == [85, -signal.SIGKILL], said[-3000:]
    assert "worker 0: another worker has ended or cannot be reached" in said
    # A warning that one of them is sent ends both, at one step.
    codes = end_one(data_dir, shared, tmp_path, signal.SIGUSR1)
    said = [(tmp_path / f"{k}.log").read_text() for k in range(2)]
    assert codes == [85, 85], said[0][-3000:]
    last = [
        re.findall(r"^stopped by SIGUSR1 after step .*$", each, re.M) for each in said
    ]
    assert last[0] == last[1] != []
    assert not (shared / "export").exists()

    codes = wait_for(start_workers(data_dir, shared, tmp_path), 300)
    assert codes == [0, 0], (tmp_path / "0.log").read_text()[-3000:]
    assert "going on at step" in (tmp_path / "1.log").read_text()
    assert (shared / "export" / "generator").is_dir()
    one, other = losses(alone), losses(shared)
    assert {*one} == {*other}
    for name, value in one.items():
        rounding = 1e-3 if name == "structure" else 1e-6
        assert abs(value - other[name]) <= 1e-4 * abs(value) + rounding, name


@pytest.mark.once
def test_a_run_of_two_replicas_goes_on_with_one_and_with_none(data_dir, tmp_path):
    """Stopped by a signal at each change, to the losses of an uninterrupted run."""
    # A rate at which rounding stays rounding, and steps enough to be stopped twice.
    run, alone = tmp_path / "run", tmp_path / "alone"
    subprocess.run(command(data_dir, alone), cwd=ROOT, check=True, env=environment())
    mirrored = "--strategy=mirrored"
    for flags in ((mirrored, "--replicas=2"), (mirrored, "--replicas=1")):
        began, ends = newest(run), time.monotonic() + 300
        log = tmp_path / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command(data_dir, run, *flags),
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(),
            )
        try:
            while newest(run) < began + 4:
                assert time.monotonic() < ends, log.read_text()[-3000:]
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.05)
            process.send_signal(signal.SIGUSR1)
        except BaseException:
            wait_for([process], 0)
            raise
        assert wait_for([process], 120) == [85], log.read_text()[-3000:]
        assert f"{flags[1][-1]} replicas; one process" in log.read_text()
    done = subprocess.run(
        command(data_dir, run), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on at step" in done.stderr
    one, other = losses(alone), losses(run)
    assert {*one} == {*other}
    for name, value in one.items():
        rounding = 1e-3 if name == "structure" else 1e-6
        assert abs(value - other[name]) <= 1e-4 * abs(value) + rounding, name


@pytest.mark.once
@pytest.mark.parametrize("flag", ["--seed=1", "--steps=61"])
def test_workers_with_other_flags_are_refused(data_dir, tmp_path, flag):
    other = ((), (flag,))
    codes = wait_for(start_workers(data_dir, tmp_path / "run", tmp_path, other), 120)
    said = "".join((tmp_path / f"{k}.log").read_text() for k in range(2))
    assert "other flags, data, code or checkpoints than the others" in said
    assert 1 in codes and 0 not in codes
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("flags", "config", "sentence"),
    [
        (["--strategy=multi_worker"], None, "TF_CONFIG must name all workers"),
        (["--strategy=multi_worker"], "{}", "TF_CONFIG must name all workers"),
        (["--strategy=multi_worker"], "[1", "TF_CONFIG must name all workers"),
        *(
            (
                ["--strategy=multi_worker"],
                json.dumps(
                    {"cluster": {"worker": x}, "task": {"type": "worker", "index": 0}}
                ),
                "TF_CONFIG must name all workers",
            )
            for x in ("localhost:1", ["localhost:1"] * 2, [1, 2], {"0": "a:1"})
        ),
        (["--replicas=2"], None, "--replicas is for --strategy=mirrored alone"),
        (
            ["--strategy=mirrored", "--replicas=3"],
            None,
            "--batch_size=2: the batch is that of all 3 replicas, and each takes as "
            "many rows; give 3",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_written(
    data_dir, tmp_path, flags, config, sentence
):
    told = {} if config is None else {"TF_CONFIG": config}
    done = subprocess.run(
        command(data_dir, tmp_path / "run", *flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment(**told),
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not (tmp_path / "run").exists()
