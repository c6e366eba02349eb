"""Processes: a script's start, signals, devices, precision and seeds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags, logging

from brats_gan import files, shipped
from brats_gan.lazy import tf

EXIT_BAD_INPUT = 1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # exit codes 130 and 143


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
    """

    def __init__(self, number: int, where: str = "") -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name}{where}; start the same command again to go on"
        )
        self.number = number


def main(run_script: Callable[[list[str]], None]) -> None:
    """Runs `run_script(argv)` under absl; expected errors become one clear message.

    SIGINT and SIGTERM end it with a message and exit code 130 or 143.
    """

    def guarded(argv):
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.use_absl_handler()
        for number in STOP_SIGNALS:
            signal.signal(number, _stop)
        try:
            run_script(argv)
        except (files.DataError, RunError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            sys.exit(128 + stopped.number)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(guarded, flags_parser=parse_flags)


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


@contextlib.contextmanager
def signals_held() -> Iterator[list[int]]:
    """Yields a list that gathers SIGINT and SIGTERM; a second one stops at once.

    In a thread beside the main one, which gets no signals, the list stays empty.
    """
    received = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def hold(number, frame):
        if received:
            _stop(number, frame)
        received.append(number)
        logging.warning(
            "%s: stopping after this step, with a checkpoint",
            signal.Signals(number).name,
        )

    before = {number: signal.signal(number, hold) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A write that fails becomes a RunError that names `path` and the remedy."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        # TensorFlow begins with the name of its operation, in double braces.
        reason = str(error).strip().splitlines()[0].rpartition("}} ")[2]
        raise RunError(
            f"{path} cannot be written: {reason}. Make room there, then start the same "
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
