"""Units of work on the workers of Dask: here, or wherever a scheduler has them.

A unit writes files into a folder, alike wherever it runs. Where a worker sees the
folder, it writes them there, each whole or absent; where it does not, they come back
with its result, and the client writes them. Knows nothing of the method.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging as standard_logging
import os
import platform
import secrets
import tempfile
import threading
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

import brats_gan
from brats_gan import files, runs

# Workers that a unit may lose before the command ends: that many do not die by chance.
MOST_LOST = 20
MOST_STARTS = 3  # of workers here
_LOGS = ("distributed", "tornado")
_LOGS += tuple(f"distributed.{name}" for name in ("client", "nanny", "worker"))
_INSTALL = 'pip install "brats_gan[cluster]"'


class SchedulerLost(runs.RunError):
    """The scheduler is gone; what was made is whole.

    Its exit code asks for a new start, as that of a job whose time is up.
    """

    exit_code = runs.EXIT_START_AGAIN


class Place(NamedTuple):
    """Where units run: `workers` processes here, or those of a scheduler."""

    workers: int | None = None
    scheduler: str | None = None  # tcp://HOST:PORT


def place_of(workers: int | None, scheduler: str | None) -> Place | None:
    """The Place that the flags --workers and --scheduler name; None for this process.

    Raises:
        RunError: both are given.
    """
    if workers and scheduler:
        raise runs.RunError(
            "--workers starts workers here, and --scheduler asks for those of one that "
            "runs; leave one of the two out"
        )
    return Place(workers, scheduler) if workers or scheduler else None


class Job(NamedTuple):
    """What all units of a command have in common; goes to every worker.

    Attributes:
        make: of a module, (task, unit, folder) -> result: makes a unit, whose files
            it writes into the folder.
        task: of what it makes them.
        folder: that the files belong in.
        token: path of a file there, by which a worker finds out whether it sees it.
        said: what is in that file.
        about: what the client says of itself, see `about`.
        sharing: how many workers share the cores of this machine; 0: they are not
            started here, and have what they have.
    """

    make: Callable[[Any, Hashable, Path], Any]
    task: Any
    folder: str
    token: str
    said: str
    about: dict[str, str | None]
    sharing: int = 0


class _Made(NamedTuple):
    """What comes back of a unit."""

    result: Any
    contents: dict[str, bytes]  # of files, by path, where the client is to write them
    error: tuple[str, str, str] | None  # name of its type, message, traceback
    where: str  # host and process
    processor: str | None


def about() -> dict[str, str | None]:
    """What must be alike, and should be, where the same bytes are to come out."""
    return {
        "brats_gan": brats_gan.__version__,
        "tensorflow": importlib.metadata.version("tensorflow"),
        "processor": _processor(),
    }


def _processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _difference(theirs, ours, where):
    """Why a worker is refused, as a sentence; None where it is not.

    Other versions may draw, compute and write otherwise, so that a set would have two
    kinds of volumes, and nobody could tell which is which.
    """
    for name in ("brats_gan", "tensorflow"):
        if theirs[name] != ours[name]:
            return (
                f"the worker {where} has {name} {theirs[name]}, and this command "
                f"{ours[name]}: what they make differs; install the same there"
            )
    return None


# Units of one process come one after the other, however many threads Dask gives it:
# models are loaded once, and TensorFlow has threads of its own.
_one_at_a_time = threading.Lock()


def run_unit(job: Job, unit: Hashable) -> _Made:
    """Makes a unit, on a worker; what went wrong is in what it returns."""
    where = f"{platform.node()}, process {os.getpid()}"
    ours = about()
    # The client has the only bar.
    with _one_at_a_time, open(os.devnull, "w") as nowhere:
        try:
            refused = _difference(ours, job.about, where)
            if refused:
                raise runs.RunError(refused)
            if job.sharing:
                _hold_to_cores(job.sharing)
            with contextlib.redirect_stdout(nowhere):
                result, contents = _made_here(job, unit)
        except Exception as error:
            told = type(error).__name__, str(error), traceback.format_exc()
            return _Made(None, {}, told, where, ours["processor"])
    return _Made(result, contents, None, where, ours["processor"])


@functools.cache  # once in a process, which has fewer cores then
def _hold_to_cores(workers):
    """Before TensorFlow's threads begin, which have the cores of who begins them."""
    from distributed import get_worker

    runs.hold_to_cores(int(get_worker().name), workers)


def _made_here(job, unit):
    """(result, contents of files that the client is to write)."""
    if _sees(job):
        return job.make(job.task, unit, Path(job.folder)), {}
    with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
        result = job.make(job.task, unit, Path(folder))
        return result, _contents(Path(folder))


def _sees(job):
    """Whether the folder of the client is seen from here, and may be written to."""
    try:
        same = Path(job.token).read_text() == job.said
    except OSError:
        return False
    return same and os.access(job.folder, os.W_OK)


def _contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _write(folder, contents):
    """Writes what a worker could not: records, which are JSON, at last."""
    for name in sorted(contents, key=lambda name: (name.endswith(".json"), name)):
        path = Path(folder, name)
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise files.DataError(f"{path}: a worker sent a file out of {folder}.")
        files.write_atomically(path, contents[name])


def spread(
    place: Place,
    make: Callable[[Any, Hashable, Path], Any],
    task: Any,
    units: Sequence[Hashable],
    folder: str | Path,
    variables: Mapping[str, str] | None = None,
) -> Iterator[tuple[Hashable, Any]]:
    """Yields (unit, result) as units are made, in any order.

    A worker that is lost costs its unit, which is made again elsewhere.

    Args:
        place: Place.
        make, task: see Job.
        units: of them.
        folder: in which they are due.
        variables: of the environment of workers that are started here.

    Raises:
        RunError, DataError: as a unit raised it; or a worker is of another version, the
            scheduler cannot be reached or is lost, or units take down every worker.
    """
    if not units:
        return
    folder = Path(folder).absolute()
    said, token = secrets.token_hex(16), files.temporary_beside(folder / "cluster")
    files.write_atomically(token, said.encode())
    sharing = min(place.workers or 0, len(units))
    job = Job(make, task, str(folder), str(token), said, about(), sharing)
    try:
        with _connected(place, sharing, variables or {}) as client:
            yield from _gathered(client, job, units)
    except SchedulerLost as error:
        where = f"the scheduler {place.scheduler}" if place.scheduler else "its own"
        raise SchedulerLost(
            f"{where} has ended or cannot be reached any more ({error}). What was made "
            f"is in {folder}; see that a scheduler and its workers are there, then "
            "start the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            token.unlink(missing_ok=True)


def _gathered(client, job, units):
    from distributed import KilledWorker, as_completed

    lost, warned = dict.fromkeys(units, 0), set()
    _require_alike(client, job)

    def submitted(these):
        # All at once: the scheduler then hands each out as a worker is free for it.
        return client.map(run_unit, [job] * len(these), these, pure=False)

    of = dict(zip(submitted(units), units, strict=True))
    # Results are fetched beside each other: one after the other each takes a round
    # trip of some 10 ms, and 1000 workers would wait for them.
    running = as_completed(list(of), with_results=True, raise_errors=False)
    for future, made in running:
        unit = of.pop(future)
        if future.cancelled():  # this command cancels none
            raise SchedulerLost(f"while {1 + len(of)} of its units were to be made")
        error = None if isinstance(made, _Made) else future.exception()
        if isinstance(error, KilledWorker):
            lost[unit] += 1
            if lost[unit] == MOST_LOST:
                raise runs.RunError(
                    f"{unit}: {MOST_LOST} times all workers that began it have died; "
                    "see in their logs why, whether they lack memory for instance"
                ) from error
            (again,) = submitted([unit])
            of[again] = unit
            running.add(again)
            continue
        if error is not None:  # of Dask: units say theirs in what they return
            raise runs.RunError(
                f"{unit}: the scheduler, or its workers, could not run it "
                f"({type(error).__name__}: {error}); see that they are there and have "
                f"the same versions ({_INSTALL}), then start the same command again"
            ) from error
        del future  # and what came with it
        _require_made(unit, made)
        if made.processor not in (job.about["processor"], *warned):
            warned.add(made.processor)
            _warn_of(made.where, made.processor, job)
        _write(job.folder, made.contents)
        yield unit, made.result


def _require_made(unit, made):
    if made.error is None:
        return
    kind, message, trace = made.error
    logging.debug("%s on %s:\n%s", unit, made.where, trace)
    if kind == "DataError":
        raise files.DataError(message)
    if kind == "RunError":
        raise runs.RunError(message)
    logging.error("%s", trace)
    raise runs.RunError(f"{unit} failed on {made.where}: {kind}: {message}")


def _warn_of(where, processor, job):
    logging.warning(
        "the worker %s has another processor (%s) than this one (%s): what it makes is "
        "as good, but may have other last bits than a single machine's",
        *(where, processor, job.about["processor"]),
    )


def _require_alike(client, job):
    """Refuses workers of other versions that are there already: before anything is
    made. Those that come later are told by their first unit."""
    try:
        answers = client.run(about, on_error="return")
    except OSError as error:
        raise SchedulerLost(str(error) or type(error).__name__) from error
    for where, theirs in answers.items():
        if isinstance(theirs, Exception):
            raise runs.RunError(
                f"the worker {where} cannot be asked for its version "
                f"({type(theirs).__name__}: {theirs}); install the same there: "
                f"{_INSTALL}"
            )
        refused = _difference(theirs, job.about, where)
        if refused:
            raise runs.RunError(refused)


@contextlib.contextmanager
def _connected(place, number, variables):
    """A client of the scheduler; of one of its own, where `number` workers are started
    here."""
    # Workers inherit it: before distributed is imported.
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise runs.RunError(
            f"--workers and --scheduler need Dask distributed: {_INSTALL}"
        ) from error
    for name in _LOGS:
        standard_logging.getLogger(name).setLevel(standard_logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        address = place.scheduler
        if not address:
            logging.info("starting %d workers", number)
            # A unit takes longer than it is on its way: none waits for a worker that
            # is at another.
            saturation = {"distributed.scheduler.worker-saturation": 1.0}
            stack.enter_context(dask.config.set(saturation))
            address = stack.enter_context(_started(LocalCluster, number, variables))
        try:
            client = stack.enter_context(Client(address, timeout="30s"))
        except (OSError, ValueError) as error:
            raise runs.RunError(
                f"--scheduler={place.scheduler}: no scheduler answers there ({error}); "
                "start one by `dask scheduler`, which says its address"
            ) from error
        if not client.scheduler_info()["workers"]:
            logging.warning(
                "%s has no workers yet; waiting for them: dask worker %s --nthreads=1",
                *(place.scheduler, place.scheduler),
            )
        yield client


def _started(local_cluster, number, variables):
    """Workers here. One that dies while it starts takes Dask's cluster down with it,
    which is begun again."""
    for left in reversed(range(MOST_STARTS)):
        try:
            return local_cluster(
                n_workers=number,
                threads_per_worker=1,
                processes=True,
                memory_limit=None,  # TensorFlow's is not Dask's to judge
                dashboard_address="127.0.0.1:0",  # 8787 may be in use
                silence_logs=standard_logging.CRITICAL,
                env={
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    **runs.threads_of_share(number),
                    **variables,
                },
            )
        except RuntimeError as error:
            if not left:
                raise runs.RunError(
                    f"--workers: {MOST_STARTS} times a worker died while it started "
                    f"({error}); see whether the machine lacks memory, or give fewer"
                ) from error
            logging.warning("a worker died while it started; starting them again")
