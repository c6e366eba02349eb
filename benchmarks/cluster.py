"""What it costs to share a data set and tables out, and what it survives.

    python -m benchmarks.cluster                      # all of it
    python -m benchmarks.cluster --only=overhead,simulation

efficiency  two workers with a core each against one worker with one: samples per second
            of `pretrained-64`, once models are loaded
tables      the same of repeats of a table's row, per hour, on data of --data_dir
overhead    units of nothing on one worker: what the engine takes of each
simulation  units that sleep on 1000 workers in one process: does the scheduler keep up?
faults      five workers and the client are killed; then the bytes are compared

Cores are those of this process, as taskset gives them. Prints lines of JSON.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging

from benchmarks import rig
from brats_gan import cluster, data
from brats_gan.stages import dataset, ingredients, workers

_ALL = ["efficiency", "tables", "overhead", "simulation", "faults"]
_ONLY = flags.DEFINE_list("only", _ALL, "Which.")
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Timed units of a worker.", 1)
_FAKE = flags.DEFINE_integer("fake_workers", 1000, "Of the simulation.", 1)
_SLEEP = flags.DEFINE_float("unit_seconds", 30.0, "A unit of the simulation.")
_DATA = flags.DEFINE_string("data_dir", None, "Data for tables, and for faults.")
_RUNS = flags.DEFINE_list(
    "runs", ["pretrained-64", "pretrained-64"], "Structural and multimodal run."
)
_SAMPLES = flags.DEFINE_integer("samples", 800, "Of the set that is killed.")
_REPEATS = flags.DEFINE_integer("repeats", 4, "Of a row of a table.", 2)
_FLAGS = flags.DEFINE_list("flags", [], "More flags of the tables or the set.")
_THREADS = 50  # units at once of a worker of Dask in the simulation
ROOT = Path(__file__).parents[1]


def nothing(task, unit, folder):
    """A unit that costs nothing."""
    return [unit]


def timed(count, make, task, units, folder):
    """(seconds after the start at which a unit was done, its result), on `count`
    workers."""
    began = time.perf_counter()
    for _, result in cluster.spread(cluster.Place(count), make, task, units, folder):
        yield time.perf_counter() - began, result


def clocked(task, unit, folder):
    """A unit of a data set: (process, when it began, ended, seconds of processor)."""
    began, used = time.time(), time.process_time()
    dataset.make_unit(task, unit, folder)
    return os.getpid(), began, time.time(), time.process_time() - used


@contextlib.contextmanager
def on_cores(count):
    """As many workers as cores: those that are started have no more."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def task_of(folder, samples):
    """Task of a data set of `pretrained-64`, as dataset.build has it."""
    settings = dataset.Settings("pretrained-64", "pretrained-64", samples=samples)
    source = data.Source(None)
    made = ingredients.gather(settings, source, folder)
    origin = ingredients.digest_of(made.settings, made.fixed)
    return workers.task_of(made, source, origin)


def efficiency(folder):
    """Of each worker from the end of its first unit, which loads and traces, to that of
    its last; so neither starts count nor that one ends before the other."""
    found = {}
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    for count in (1, 2):
        units = [*range(count * (1 + _ROUNDS.value))]
        out = folder / f"efficiency-{count}"
        task = task_of(out, 50 * len(units))
        of, began = {}, time.time()
        with on_cores(count):
            for _, (process, *clock) in timed(count, clocked, task, units, out):
                of.setdefault(process, []).append(clock)
        of = {process: sorted(clocks) for process, clocks in of.items()}
        later = [clock for clocks in of.values() for clock in clocks[1:]]
        found[count] = {
            "samples_per_second": round(
                sum(
                    50 * (len(clocks) - 1) / (clocks[-1][1] - clocks[0][1])
                    for clocks in of.values()
                ),
                3,
            ),
            "units": [len(clocks) for clocks in of.values()],
            "first_unit_done": round(max(x[0][1] for x in of.values()) - began, 1),
            "unit_seconds": [round(ended - start, 1) for start, ended, _ in later],
            # Of which: what is beyond them, a worker waited for the core.
            "processor_seconds": [round(used, 1) for *_, used in later],
        }
    one, two = (found[count]["samples_per_second"] for count in (1, 2))
    return {"workers": found, "ratio": round(two / one, 3)}


def tables_per_hour(folder):
    """Of the whole command, its start left out: from the first line to the last."""
    rates = {}
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    for count in (1, 2):
        out = folder / f"tables-{count}"
        command = script("eval_segmentation.py", f"--run_dir={out}", "--experiment=1")
        command += [f"--data_dir={_DATA.value}", f"--workers={count}", *_FLAGS.value]
        repeats = _REPEATS.value * count
        with on_cores(count):
            subprocess.run(
                [*command, f"--repeats={repeats}"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        kept = sorted(p.stat().st_mtime for p in out.glob("row-*/*/table*.json"))
        rates[count] = 3600 * (repeats - count) / (kept[-1] - kept[count - 1])
    return {
        "repeats_per_hour": {k: round(v, 1) for k, v in rates.items()},
        "ratio": round(rates[2] / rates[1], 3),
    }


def overhead(folder):
    units = [*range(1000)]
    ends = [end for end, _ in timed(1, nothing, {}, units, folder / "overhead")]
    return {"milliseconds_a_unit": round(1e3 * (ends[-1] - ends[99]) / 900, 3)}


def simulation(folder):
    """Units that sleep, on workers without processes, by the client's own loop.

    Fifty to a worker of Dask: each has an own clock and monitor, and a thousand of
    these in one process keep it busy, as they would not a thousand machines. Units last
    from a half to one and a half of --unit_seconds, as on machines that differ, so that
    they do not all end at once. Whether the scheduler keeps up is how long a worker is
    without a unit between two.
    """
    from distributed import Client, LocalCluster

    count, seconds = _FAKE.value, _SLEEP.value

    processor = cluster._processor()  # which takes a while to be asked for
    lengths = np.random.default_rng(0).uniform(0.5, 1.5, 5 * count) * seconds

    def asleep(job, unit):
        begun = time.perf_counter()
        time.sleep(lengths[unit])
        result = [threading.get_ident(), begun, time.perf_counter()]
        return cluster._Made(result, {}, None, "here", processor)

    cluster.run_unit = asleep
    began = time.perf_counter()
    with (
        LocalCluster(
            n_workers=-(-count // _THREADS),
            threads_per_worker=min(count, _THREADS),
            processes=False,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as fake,
        Client(fake) as client,
    ):
        started = time.perf_counter()
        made = cluster.Job(nothing, {}, str(folder), "", "", cluster.about())
        units = [*range(len(lengths))]
        results = [result for _, result in cluster._gathered(client, made, units)]
        passed = time.perf_counter() - started
    spans = collections.defaultdict(list)
    for worker, *span in results:
        spans[worker].append(span)
    waits = [
        later[0] - earlier[1]
        for of_worker in spans.values()
        for earlier, later in itertools.pairwise(sorted(of_worker))
    ]
    firsts = [min(of_worker)[0] - started for of_worker in spans.values()]
    return {
        "workers": len(spans),
        "units": len(results),
        "seconds": round(passed, 1),
        "units_a_second": round(len(results) / passed, 1),
        "all_have_begun": round(max(firsts), 1),
        "wait_between_units": {
            "median": round(float(np.median(waits)), 3),
            "of 95 %": round(float(np.percentile(waits, 95)), 3),
        },
        "idle_between_units": round(sum(waits) / (sum(waits) + sum(lengths)), 4),
        "start_seconds": round(started - began, 1),
    }


def script(name, *more):
    return [sys.executable, str(ROOT / name), *more]


def digests(folder):
    left_out = ("flags.txt", "dataset_description.json", ".lock")
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in left_out
    }


def faults(folder):
    """The same set by one process, and by workers that are killed; then compared."""

    def command(name, *more):
        built = script("build_dataset.py", f"--output_dir={folder / name}", *more)
        first, second = _RUNS.value
        built += [f"--structural_run={first}", f"--multimodal_run={second}"]
        built += [f"--data_dir={_DATA.value}"] if _DATA.value else []
        return [*built, f"--samples={_SAMPLES.value}", "--nocheck", *_FLAGS.value]

    subprocess.run(command("one"), check=True, stdout=subprocess.DEVNULL)
    killed, log = [], (folder / "two.log").open("a")
    starts = 0

    def start():
        nonlocal starts
        starts += 1
        two = command("two", "--workers=2")
        return subprocess.Popen(two, stdout=log, stderr=subprocess.STDOUT)

    # The first is killed while it loads; the others, and the client, in the middle of a
    # unit: two seconds after the files of another one came.
    client, before, due = start(), 0, time.monotonic() + 20
    while client.poll() is None:
        time.sleep(0.02)
        there = len([*(folder / "two").glob("*/*.nii.gz")])
        alive = rig.workers_of(client)
        if due is None and there > before:
            due = time.monotonic() + 2
        if len(killed) >= 6 or not alive or due is None or time.monotonic() < due:
            continue
        before, due = there, None
        if len(killed) == 2:
            client.send_signal(signal.SIGKILL)
            client.wait()
            killed.append(f"client, {there} files there")
            client = start()
        elif alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(alive[len(killed) % len(alive)], signal.SIGKILL)
                killed.append(f"worker, {there} files there")
    one, two = digests(folder / "one"), digests(folder / "two")
    said = (folder / "two.log").read_text()
    return {
        "killed": killed,
        "starts": starts,
        "exit_code": client.returncode,
        "files": len(one),
        "same": one == two,
        "traceback": "Traceback" in said,
    }


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    functions = [efficiency, tables_per_hour, overhead, simulation, faults]
    with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
        for name, function in zip(_ALL, functions, strict=True):
            if name in _ONLY.value and (name != "tables" or _DATA.value):
                print(json.dumps({name: function(Path(folder))}), flush=True)


if __name__ == "__main__":
    app.run(main)
