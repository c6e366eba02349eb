"""One run on several replicas: GPUs of a machine, or machines (tf.distribute).

`--strategy=mirrored` has a replica on every GPU of this machine, `multi_worker` one
process a machine, which find each other by the variable TF_CONFIG. What a step does
with its share is in replicas.py; here is who takes part, where each writes, and how all
end together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from brats_gan.lazy import tf
from brats_gan.runs.peers import Watch
from brats_gan.runs.process import EXIT_START_AGAIN, RunError, handled_by

NONE = "none"
STRATEGIES = (NONE, "mirrored", "multi_worker")
VARIABLE = "TF_CONFIG"
# Of a run, what a worker beside the chief needs in a folder of its own.
NEEDED = ("*.json", "*.jsonl", "flags.txt", "checkpoints/*", "weights/*")


# What TensorFlow says where the fault is not of this process, whatever the error.
_OF_OTHERS = re.compile(
    r"collective|coordination|heartbeat|/task:\d+ |peer|socket|connection", re.I
)


class WorkerLost(RunError):
    """Another worker is gone; the last checkpoint is whole.

    Its exit code asks for a new start, as that of a job whose time is up.
    """

    exit_code = EXIT_START_AGAIN


class Team:
    """The replicas of a run, as the process sees them that made it.

    Attributes:
        strategy: tf.distribute.Strategy; None: a single replica, and nothing of this.
        is_chief: whether this process writes the run.
        several_processes: whether there are others.
    """

    def __init__(self, strategy: Any = None) -> None:
        self.strategy = strategy
        resolver = getattr(strategy, "cluster_resolver", None)
        cluster = resolver.cluster_spec().as_dict() if resolver else {}
        workers = cluster.get("worker", [])
        self.several_processes = len(workers) > 1
        self._peers = [w for k, w in enumerate(workers) if k != resolver.task_id]
        self.name = f"worker {resolver.task_id}" if resolver else "this process"
        self.is_chief = not self.several_processes or resolver.task_id == 0
        self._aside = self._sum = self._watch = None

    @property
    def count(self) -> int:
        """How many replicas there are."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Variables that are made within it are those of all replicas."""
        with self.strategy.scope() if self.strategy else contextlib.nullcontext():
            # Those of the chief are sent to the others.
            with self._signals_after(), self.at_work():
                yield

    def require_rows(self, batch_size: int) -> None:
        """RunError unless every replica gets as many rows of a batch."""
        if batch_size % self.count:
            near = max(1, round(batch_size / self.count)) * self.count
            raise RunError(
                f"--batch_size={batch_size}: the batch is that of all {self.count} "
                f"replicas, and each takes as many rows; give {near}"
            )

    def traced(self, step: Callable) -> Callable:
        """A step of one replica as one of all: (batch, seed) -> {name: scalar}.

        The batch is the whole one, the same in every process.
        """
        if self.strategy is None:
            return step
        plain, strategy = step.python_function, self.strategy

        @tf.function(autograph=False)
        def of_all(batch, seed):
            named = strategy.run(plain, (batch, seed))
            # Means over replicas already, the same everywhere.
            return {
                name: strategy.experimental_local_results(value)[0]
                for name, value in named.items()
            }

        return of_all

    def place(self, run_dir: str | Path) -> Path:
        """Where this process writes: the run's folder, or one that is thrown away.

        A worker that is no chief has the latter. It begins with a copy of what the run
        has, so that it goes on from the same checkpoint; all must see the run's folder.
        """
        run_dir = Path(run_dir)
        if not self.several_processes:
            return run_dir
        self.wait()  # until all are there: the chief changes nothing before
        self._watch = Watch(self._peers, self._end_alone)
        if not self.is_chief:
            self._aside = tempfile.TemporaryDirectory(prefix="brats_gan-worker-")
            own = Path(self._aside.name, run_dir.name)
            for pattern in NEEDED:
                for path in run_dir.glob(pattern):
                    target = own / path.relative_to(run_dir)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)
            run_dir = own
        self.wait()
        return run_dir

    def require_alike(self, what: Any) -> None:
        """RunError unless all processes give the same JSON: flags, code, data."""
        if not self.several_processes:
            return
        text = json.dumps(what, sort_keys=True, default=str).encode()
        digest = int.from_bytes(hashlib.blake2b(text, digest_size=3).digest(), "big")
        if self._summed(digest) != self.count * digest:
            raise RunError(
                f"{self.name}: other flags, data, code or checkpoints than the others "
                "have. Start all workers with one command, from one version of the "
                "package, and with --data_dir and --run_dir on folders that all see"
            )

    def agreed(self, number: int) -> int:
        """The largest number of all processes: of a signal, or 0 without one."""
        if not self.several_processes:
            return number
        told = self._summed([float(k == number) for k in range(signal.NSIG)])
        largest = max(k for k, times in enumerate(told) if times)
        if largest:
            self._unwatch()  # all end, each in its own time
        return largest

    def wait(self) -> None:
        """Until all processes are here."""
        self.agreed(0)

    def _summed(self, numbers):
        """The sums of numbers, exact in float64, over all processes."""
        if self._sum is None:
            self._sum = _sum_over(self.strategy)
        with self._signals_after(), self.at_work():
            return self._sum(tf.constant(numbers, tf.float64)).numpy()

    def end(self) -> None:
        """After the last step: waits until the chief has written what a run leaves."""
        if self.several_processes:
            self.wait()
        self._unwatch()
        if self._aside is not None:
            self._aside.cleanup()

    def _unwatch(self):
        if self._watch is not None:
            self._watch.end()

    def _end_alone(self, address):
        """Ends this process, which may be where Python cannot raise anything."""
        said = self._lost(f"nobody listens at {address}")
        with contextlib.suppress(Exception):  # the disk of the log may be full
            print(said, file=sys.stderr, flush=True)
        if self._aside is not None:  # the run may be writing there
            shutil.rmtree(self._aside.name, ignore_errors=True)
        os._exit(EXIT_START_AGAIN)

    def _lost(self, reason):
        return (
            f"{self.name}: another worker has ended or cannot be reached ({reason}). "
            "Start the same command again on all workers to go on from the last "
            "checkpoint"
        )

    def _signals_after(self):
        """Where others are waited for, signals are obeyed after it."""
        return _signals_after() if self.several_processes else contextlib.nullcontext()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """What TensorFlow raises where another worker is gone becomes WorkerLost."""
        gone = (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.DeadlineExceededError,
        )
        try:
            yield
        except tf.errors.OpError as error:
            # Others may be of this machine alone, and would come again.
            lost = isinstance(error, gone) or _OF_OTHERS.search(str(error))
            if not (self.several_processes and lost):
                raise
            raise WorkerLost(self._lost(_reason(error))) from error


def _reason(error):
    """What TensorFlow says in an error, behind where in a graph it was."""
    lines = str(error).strip().splitlines()
    where = ("Graph execution error", "Detected at node", "File ", "<", " ", "\t")
    said = [line for line in lines if line and not line.startswith(where)]
    return (said or lines or [type(error).__name__])[0][:200]


def _sum_over(strategy):
    """A function that sums numbers over replicas; traced, which costs less a call."""

    def of_one(numbers):
        context = tf.distribute.get_replica_context()
        # The identity is on the device of the replica; what is given is on none.
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(numbers))

    @tf.function(autograph=False)
    def total(numbers):
        found = strategy.run(of_one, (numbers,))
        return strategy.experimental_local_results(found)[0]

    return total


def gather(kind: str, replicas: int | None, batch_size: int) -> Team:
    """The team of a run. Call it before TensorFlow's first operation.

    Args:
        kind: one of STRATEGIES.
        replicas: of mirrored, how many; None: every GPU. Where there is no GPU, so many
            shares of the processor, which is for trials.
        batch_size: of all replicas.

    Raises:
        RunError: there are not so many GPUs, TF_CONFIG is missing or none, or the batch
            cannot be dealt.
    """
    if replicas is not None and kind != "mirrored":
        raise RunError("--replicas is for --strategy=mirrored alone")
    if kind == NONE:
        return Team()
    team = Team(_mirrored(replicas) if kind == "mirrored" else _multi_worker())
    team.require_rows(batch_size)
    logging.info("strategy: %s, %d replicas; %s", kind, team.count, _of(team))
    # A replica alone shares nothing, and Keras 2 would look for others in a step of
    # float16, where it may not.
    return team if team.count > 1 else Team()


def _of(team):
    if not team.several_processes:
        return "one process"
    return f"this is {team.name}{', the chief' if team.is_chief else ''}"


def _mirrored(replicas):
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        wanted = replicas or len(gpus)
        if wanted > len(gpus):
            raise RunError(
                f"--replicas={replicas}: there are {len(gpus)} GPUs; give {len(gpus)} "
                "or fewer"
            )
        return tf.distribute.MirroredStrategy([f"GPU:{k}" for k in range(wanted)])
    wanted = replicas or 1
    cpu = tf.config.list_physical_devices("CPU")[0]
    shares = [tf.config.LogicalDeviceConfiguration()] * wanted
    try:
        if len(tf.config.get_logical_device_configuration(cpu) or [None]) < wanted:
            tf.config.set_logical_device_configuration(cpu, shares)
    except RuntimeError as error:
        raise RunError(
            "--strategy=mirrored must begin before TensorFlow's first operation: start "
            "it in a process of its own"
        ) from error
    return tf.distribute.MirroredStrategy([f"CPU:{k}" for k in range(wanted)])


@contextlib.contextmanager
def _signals_after():
    """A signal is obeyed once TensorFlow returns: what its handler raises where
    TensorFlow makes an error of its own would be lost in that."""
    received = []

    def gather(number, frame):
        if received:  # a second one does not wait
            before[number](number, frame)
        received.append(number)

    try:
        with handled_by(gather, callable) as before:
            yield
    finally:
        if received:
            before[received[0]](received[0], None)


def _multi_worker():
    example = (
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        told = json.loads(os.environ.get(VARIABLE, ""))
        workers, task = told["cluster"]["worker"], told["task"]
        index = int(task["index"])
        whole = task["type"] == "worker" and 0 <= index < len(workers)
        whole = whole and {*told["cluster"]} == {"worker"}
        whole = whole and isinstance(workers, list) and len({*workers}) == len(workers)
        whole = whole and all(isinstance(each, str) for each in workers)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise RunError(
            f"--strategy=multi_worker: the variable {VARIABLE} must name all workers "
            f"and which this is, as {example} (docs/cluster.md)"
        )
    logging.info("worker %d waits until all are there: %s", index, ", ".join(workers))
    try:
        # Signals end the process at once: while TensorFlow waits in its own code,
        # Python would not hear of them, and there is nothing yet to be saved.
        with handled_by(signal.SIG_DFL):
            return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError) as error:
        raise RunError(
            f"--strategy=multi_worker: worker {index} cannot begin: "
            f"{str(error).strip().splitlines()[0]}. See that {workers[index]} is free "
            "and that all workers of TF_CONFIG are started"
        ) from error
