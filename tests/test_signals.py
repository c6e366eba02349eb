"""Signals and readers that leave, in processes of their own, without TensorFlow."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from brats_gan import runs
from brats_gan.phantom import subjects
from tests import test_runs

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGUSR1"), reason="this system has other signals"
)
CODES = {
    "SIGINT": 130,
    "SIGTERM": 143,
    "SIGHUP": 129,
    "SIGPIPE": 141,
    "SIGUSR1": 85,
    "SIGUSR2": 85,
}
IGNORED = "import signal; signal.signal(signal.SIG{}, signal.SIG_IGN)\n"
HEAD = """
import os, signal, sys, time
from brats_gan import runs
def main(argv):
"""
TAIL = "\nruns.main(main, commands=True)\n"


def python(body, *arguments, before="", **options):
    """A process in which `body` is what runs.main is given, under default signals."""
    program = before + HEAD + "".join(f"    {x}\n" for x in body.splitlines()) + TAIL
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


@pytest.mark.parametrize("name", CODES)
def test_a_signal_ends_a_script_with_a_sentence_and_its_code(name):
    body = f"os.kill(os.getpid(), signal.{name})\ntime.sleep(60)"
    process = python(body)
    _, err = process.communicate(timeout=100)
    said = f"stopped by {name}; start the same command again to go on\n"
    assert (process.returncode, err) == (CODES[name], said)


@pytest.mark.parametrize("name", ["HUP", "INT"])
def test_a_signal_that_is_ignored_stays_so(name):
    # As under nohup, or in the background of a shell script.
    body = f"os.kill(os.getpid(), signal.SIG{name})\nprint('went on')"
    process = python(body, before=IGNORED.format(name))
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, "went on\n", "")


def without_a_reader():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    "body",
    ["print('said', flush=True)\ntime.sleep(60)", "print('said as it ends')"],
)
def test_a_reader_that_has_left_ends_a_script_as_sigpipe_does(body):
    process = python(body, stdout=without_a_reader())
    _, err = process.communicate(timeout=100)
    assert process.returncode == 141
    assert err == "stopped by SIGPIPE; start the same command again to go on\n"


def test_an_error_keeps_its_code_though_nobody_reads_it():
    nobody = without_a_reader()
    process = python("raise runs.RunError('x')", stdout=nobody, stderr=nobody)
    assert process.wait(timeout=100) == runs.EXIT_BAD_INPUT


TRAIN = """
from pathlib import Path
from tests import test_runs
test_runs.train(Path(argv[1]), 10**6, log_every=10**6, checkpoint_seconds=1e9)
"""


@pytest.mark.once
def test_training_whose_reader_has_left_stops_with_a_checkpoint(tmp_path):
    # The bar of the first step is the first that goes to stdout.
    process = python(TRAIN, tmp_path / "run", stdout=without_a_reader())
    _, err = process.communicate(timeout=300)
    assert process.returncode == 141 and "Traceback" not in err, err
    assert test_runs.checkpoints(tmp_path / "run") == ["ckpt-1"]


PHANTOMS = """
from brats_gan import phantom
phantom.write_subjects(argv[1], 3, slices=(82, 84))
"""


def wait_for(condition, process):
    limit = time.monotonic() + 300  # only what hangs takes so long
    while not condition():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children(pid):
    return [
        int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc to look at")
@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)]
)
def test_phantoms_that_are_stopped_leave_no_process(name, code, tmp_path):
    process = python(PHANTOMS, tmp_path / "out", start_new_session=True)
    # Two workers, and what Python starts beside them.
    wait_for(lambda: len(children(process.pid)) == 3, process)
    workers = children(process.pid)
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to them too
    else:
        process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=300)
    assert process.returncode == code
    assert name == "SIGKILL" or "Traceback" not in err, err
    limit = time.monotonic() + 300
    while any(map(is_alive, workers)):
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_that_another_thread_takes_waits_until_workers_have_started(name):
    class Arrived(Exception):
        pass

    def arrive(number, frame):
        raise Arrived(number)

    number = getattr(signal, name)
    go, others = threading.Event(), threading.Event()

    def take():
        go.wait()
        signal.pthread_kill(threading.get_ident(), number)
        others.set()

    thread = threading.Thread(target=take)
    thread.start()  # before signals are blocked, which threads begin with
    before, passed = signal.signal(number, arrive), []
    try:
        with pytest.raises(Arrived), subjects._signals_blocked():
            go.set()
            others.wait()
            time.sleep(0.05)  # its handler would run here
            passed.append("whole")
        assert signal.getsignal(number) is arrive
    finally:
        thread.join()
        signal.signal(number, before)
    assert passed == ["whole"]
