"""Processes: a script's start, signals, devices, precision and seeds."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from brats_gan import files, shipped
from brats_gan.lazy import tf

EXIT_BAD_INPUT = 1
# ERESTART of Linux: "start me again". Slurm sends such a signal before the time is up,
# and a job script asks for this code to put the job into the queue once more.
EXIT_START_AGAIN = 85
_WARNINGS = ("SIGUSR1", "SIGUSR2")
# The others end with 128 and their number: 130 for SIGINT, 143 for SIGTERM. Windows has
# two of them.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", *_WARNINGS)
    if hasattr(signal, name)
)
_SIGPIPE = getattr(signal, "SIGPIPE", None)


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says why and what to do."""


# What TensorFlow takes as a pattern where it looks for the files of a checkpoint.
_PATTERN = "[]*?" + ("\\" if os.sep == "/" else "")


def require_plain(folder: str | os.PathLike) -> None:
    """RunError if TensorFlow would not find files in a folder because of its name."""
    name = str(folder)
    if {*name} & {*_PATTERN}:
        raise RunError(
            f"{name} has one of {' '.join(_PATTERN)} in its name, which TensorFlow "
            "reads as a pattern; choose another name, or move the folder to one"
        )
    if name.startswith("~"):
        raise RunError(f"{name} begins with ~; write the home folder in full")


class Stopped(BaseException):
    """A signal asked the process to end; what was written is whole.

    Attributes:
        number: of the signal.
        exit_code: of a process that it ends.
    """

    def __init__(self, number: int, where: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name}{where}; start the same command again to go on"
        )
        self.number = number
        self.exit_code = EXIT_START_AGAIN if name in _WARNINGS else 128 + number


class _Stream:
    """stdout or stderr, whose reader may leave: what it would have read is dropped.

    That it left comes as a signal, SIGPIPE, or SIGHUP where it was a terminal.
    """

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        with self._losing():
            return self._stream.write(text)
        return len(text)

    def flush(self):
        with self._losing():
            self._stream.flush()

    @contextlib.contextmanager
    def _losing(self):
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def main(run_script: Callable[[list[str]], int | None], commands: bool = False) -> None:
    """Runs `run_script(argv)` under absl; expected errors become one clear message.

    What it returns is the exit code. A signal of STOP_SIGNALS ends it with a message
    and an exit code that says which; one that is ignored, as nohup has SIGHUP ignored,
    stays so. A reader of its output who leaves is SIGPIPE.

    Args:
        run_script: of a script.
        commands: whether it takes arguments that are no flags.
    """

    def guarded(argv):
        if argv[1:] and not commands:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.use_absl_handler()
        for number in STOP_SIGNALS:
            # Python itself ignores SIGPIPE: what it began with is not known.
            if number == _SIGPIPE or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _stop)
        sys.stdout, sys.stderr = _Stream(sys.stdout), _Stream(sys.stderr)
        try:
            if not commands:
                _require_text()
            code = run_script(argv)
            sys.stdout.flush()
            return code
        except (files.DataError, RunError) as error:
            code = getattr(error, "exit_code", EXIT_BAD_INPUT)
            return _say(f"error: {error}", code)
        except OSError as error:  # where no message of its own is at hand
            path = error.filename if error.filename is not None else "a file"
            return _say(
                f"error: {path}: {error.strerror or error}. "
                f"{files.remedy(error, 'read and write')}, then start the same command "
                "again.",
                EXIT_BAD_INPUT,
            )
        except Stopped as stopped:
            return _say(stopped, stopped.exit_code)
        except Exception as error:
            said = _raised_in_a_pipeline(error)
            if said is None:
                raise
            return _say(f"error: {said}", EXIT_BAD_INPUT)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(guarded, flags_parser=parse_flags)


def _raised_in_a_pipeline(error):
    """What a DataError said that came through tf.data, which hands on its text."""
    # At the end of a traceback; before it there may be those of its causes.
    found = re.findall(
        r"^\S*DataError: (.*?)\n\n", f"{error}\n\n", re.DOTALL | re.MULTILINE
    )
    return found[-1] if found else None


def _say(message, code):
    """Prints the last words to stderr, whether or not somebody reads them."""
    if _SIGPIPE is not None:
        signal.signal(_SIGPIPE, signal.SIG_IGN)
    print(message, file=sys.stderr)
    sys.stdout.flush()
    return code


def _require_text():
    """RunError for a flag that flags.txt and TensorFlow, both UTF-8, could not name."""
    for name, value in flags.FLAGS.flag_values_dict().items():
        for each in value if isinstance(value, list) else [value]:
            try:
                str(each).encode()
            except UnicodeEncodeError as error:
                raise RunError(
                    f"--{name}={each!a} is not UTF-8. Name a path that is, a link for "
                    "instance"
                ) from error


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags for app.run as absl does, but ends with 0 when asked for help.

    --flagfile also takes the name of a flagfile that comes with the package.
    """
    argv = shipped.with_flagfiles(argv)
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # by --help and its kin, which absl ends with exit code 1
        if not any(each.lstrip("-").startswith("helpxml") for each in argv):
            print(f"\n{shipped.flagfiles_help()}")
        sys.exit(0)
    except flags.Error:
        return app.parse_flags_with_usage(argv)  # says what is wrong, and ends


def _stop(number, frame):
    del frame
    raise Stopped(number)


def _not_ignored(handler):
    # None: a handler that is not Python's, and could not be put back.
    return handler not in (signal.SIG_IGN, None)


@contextlib.contextmanager
def handled_by(
    handler: Any, replacing: Callable[[Any], bool] = _not_ignored
) -> Iterator[dict[int, Any]]:
    """Gives STOP_SIGNALS a handler, and yields those that it takes the place of.

    Those that are ignored stay so. In a thread beside the main one, which gets no
    signals, nothing is done.

    Args:
        handler: as of signal.signal.
        replacing: of the handler there is, whether it is to be replaced.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, handler)
            for number in STOP_SIGNALS
            if replacing(signal.getsignal(number))
        }
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Yields a list that gathers STOP_SIGNALS; a second one stops at once.

    See handled_by of those that are ignored, and of threads.
    """
    received = []

    def hold(number, frame):
        if received and number == _SIGPIPE:
            return  # of the message about the first one
        if received:
            _stop(number, frame)
        received.append(number)
        logging.warning(
            "%s: stopping after this step, with a checkpoint",
            signal.Signals(number).name,
        )

    with handled_by(hold):
        yield received


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A write that fails becomes a RunError that names `path` and the remedy."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow begins with the name of its operation, in double braces.
        reason = str(error).strip().splitlines()[0].rpartition("}} ")[2]
        cause = files.remedy(error if isinstance(error, OSError) else reason)
        raise RunError(
            f"{path} cannot be written: {reason}. {cause}, then start the same "
            "command again; what was written before is whole"
        ) from error


def set_up(
    precision: str | Callable[[], str],
    seed: int,
    deterministic: bool = False,
    begin_again: bool = True,
) -> None:
    """Precision of the layers made from here on, all seeds, and the order of sums.

    Deterministic operations are not enough, for three reasons.
    - Those of oneDNN differ in the last bit from one process to the next, and are
      chosen for good as TensorFlow is imported, so a script that has them starts itself
      again without.
    - TensorFlow's graph optimiser does not rewrite a graph alike in every process (of
      16, nine had one kind of stage-2 step and seven another): it is left out.
    - Where several operations run at a time, a sum of gradients begins with whichever
      of them nobody reads any more, and who is ready first decides that: it is one
      operation at a time, on all cores.

    Args:
        precision: a Keras policy by name, or a function that returns it, called when
            devices are set up.
        seed: of everything that draws.
        deterministic: whether two runs are to be equal bit by bit; the process stays
            so until it ends.
        begin_again: whether the process may start itself again, as a notebook or a
            worker must not.

    Raises:
        RunError: the process would have to start itself again, and may not; or it is
            too late for a deterministic run.
    """
    if deterministic:
        if os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0":
            if not begin_again:
                raise RunError(
                    "a deterministic run needs a process without oneDNN: set the "
                    "variable TF_ENABLE_ONEDNN_OPTS=0 before Python is started"
                )
            os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        try:  # first: where it is refused, nothing has been changed
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise RunError(
                "a deterministic run must begin before TensorFlow's first operation: "
                "start it in a process of its own"
            ) from error
        tf.config.experimental.enable_op_determinism()
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    if callable(precision):
        precision = precision()
    tf.keras.mixed_precision.set_global_policy(precision)
    tf.keras.utils.set_random_seed(seed)


def share_cores() -> None:
    """Lets TensorFlow work on two operations at a time, each on half of the cores.

    For steps of networks that do not wait for each other; the numbers are in
    docs/performance.md. Call it before the first operation. TF_NUM_INTRAOP_THREADS, the
    cores of one operation, has the last word.
    """
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        half = max((os.cpu_count() or 2) // 2, 1)
        tf.config.threading.set_intra_op_parallelism_threads(half)


def threads_of_share(workers: int) -> dict[str, str]:
    """The environment by which so many processes share the cores of this machine."""
    each = str(max(len(_cores()) // workers, 1))
    own = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {name: os.environ.get(name, each) for name in own}


def _cores():
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return [*range(os.cpu_count() or 1)]


def cores_of(worker: int, workers: int, cores: list[int]) -> list[int]:
    """Those of `cores` that number `worker` of so many processes is to have."""
    if workers >= len(cores):
        return [cores[worker % len(cores)]]
    each = len(cores) // workers
    return cores[worker * each : (worker + 1) * each]


def hold_to_cores(worker: int, workers: int) -> None:
    """Leaves this thread, and those that it begins, with `cores_of`; nothing where the
    system cannot."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # cores may be taken away meanwhile
            os.sched_setaffinity(0, cores_of(worker, workers, _cores()))
