"""Run folders, the training loop, checkpoints and exports. Knows nothing of the method.

A run folder holds flags.txt, split.json, losses.jsonl, tensorboard/, checkpoints/ and
export/. Starting the same command again continues it. One process at a time: it holds a
lock on the folder until it ends, however it ends.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags, logging

import brats_gan
from brats_gan import addons, files, progress, schedules
from brats_gan.lazy import tf

# Flags that may differ when a run goes on: where things are, not what is computed.
PLACES = frozenset(
    {
        "run_dir",
        "data_dir",
        "cache_dir",
        "flagfile",
        "check",
        "checkpoint_seconds",
        "steps_per_call",
        "init_from",  # read before the first step only: then the checkpoint has all
    }
)

# Flags that say how long a run is: `total_steps` lets them be raised.
LENGTH = frozenset({"steps", "iterations", "epochs"})

EXIT_BAD_INPUT = 1
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # exit codes 130 and 143
CHECKPOINT_SECONDS = 300
CHECKPOINTS_KEPT = 2
CALL_SECONDS = 0.05  # of several steps in one call
LOCK = ".lock"
DETERMINISTIC = (
    "Equal losses to the last bit, run again or resumed, on the same machine and "
    "versions. A step takes 1.6 times as long in float32, 24 times in mixed_bfloat16 "
    "(docs/performance.md)."
)
STEPS_PER_CALL = (
    "Steps in one call of TensorFlow: a number, or auto, which puts short ones "
    "together. Batches and draws are the same; sums may be in another order, so with "
    "--deterministic it is one."
)
SHOWN_WHILE_TRAINING = (
    "generator",
    "discriminator",
    "lesion_component",
    "segmentation",
)


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says why and what to do."""


class StepsPerCall(flags.ArgumentParser):
    """What --steps_per_call takes: "auto", or a number above 0."""

    def parse(self, argument):
        if argument == "auto":
            return argument
        if not str(argument).isdecimal() or not int(argument):
            raise ValueError(f"{argument} is neither auto nor a number above 0")
        return int(argument)


def per_call(asked, deterministic):
    """`loop`'s steps_per_call by two flags.

    TensorFlow optimises the graph of a loop of steps otherwise than that of one, and in
    large networks the last bits differ.
    """
    return 1 if deterministic.value else asked.value


class Stopped(BaseException):
    """A signal asked the process to end; what was written is whole.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number, where=""):
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name}{where}; start the same command again to go on"
        )
        self.number = number


def main(run_script):
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


def parse_flags(argv):
    """For app.run: as absl does it, but to be asked for help is no failure."""
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # by --help and its kin, which absl ends with exit code 1
        sys.exit(0)
    except flags.Error:
        return app.parse_flags_with_usage(argv)  # says what is wrong, and ends


def _stop(number, frame):
    del frame
    raise Stopped(number)


@contextlib.contextmanager
def _signals_held():
    """Yields a list that gathers SIGINT and SIGTERM; a second one stops at once."""
    received = []

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
def _writing(path):
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


def set_up(precision, seed, deterministic=False):
    """Precision of the layers made from here on, all seeds, and the order of sums.

    Deterministic operations are not enough: those of oneDNN differ in the last bit from
    one process to the next, and are chosen for good as TensorFlow is imported. So a
    process that has them begins once more without.

    Args:
        precision: a Keras policy by name, or a function that returns it, called when
            devices are set up.
        seed: of everything that draws.
        deterministic: whether two runs are to be equal bit by bit.
    """
    if deterministic:
        if os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0":
            os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        tf.config.experimental.enable_op_determinism()
    if callable(precision):
        precision = precision()
    tf.keras.mixed_precision.set_global_policy(precision)
    tf.keras.utils.set_random_seed(seed)


def share_cores():
    """Lets TensorFlow work on two operations at a time, each on half of the cores.

    For steps of networks that do not wait for each other; the numbers are in
    docs/performance.md. Call it before the first operation. TF_NUM_INTRAOP_THREADS, the
    cores of one operation, has the last word.
    """
    if "TF_NUM_INTRAOP_THREADS" not in os.environ:
        half = max((os.cpu_count() or 2) // 2, 1)
        tf.config.threading.set_intra_op_parallelism_threads(half)


def key_flags():
    """The running script's own flags by name, as strings a flagfile takes."""
    own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return {flag.name: flag.serialize() for flag in own if flag.value is not None}


def _read_flags(path):
    """(script, {flag name: line}) of a flags.txt."""
    first, *lines = path.read_text().splitlines()
    by_name = {}
    for line in lines:
        name = line.removeprefix("--").partition("=")[0]
        boolean_off = "=" not in line and name.startswith("no")
        by_name[name.removeprefix("no") if boolean_off else name] = line
    return first.removeprefix("# "), by_name


def settings(run_dir):
    """{flag name: text} of the flags of a run that have a value; of a switch, "true" or
    "false"."""
    _, lines = _read_flags(Path(run_dir, "flags.txt"))

    def text(name, line):
        if "=" in line:
            return line.partition("=")[2]
        return "true" if line == f"--{name}" else "false"

    return {name: text(name, line) for name, line in lines.items()}


def start(run_dir, free=()):
    """Makes or re-enters a run folder; writes flags.txt.

    Args:
        run_dir: folder.
        free: names of flags that may differ when the run goes on, besides PLACES. Those
            of LENGTH stay in flags.txt as they were, until `total_steps` has agreed.

    Returns:
        The folder, a Path.

    Raises:
        RunError: the folder belongs to a run with other flags (the difference is
            shown), holds something that is not a run, or is in use by another process.
    """
    run_dir = Path(run_dir)
    path = run_dir / "flags.txt"
    _require_run_or_empty(run_dir)
    _lock(run_dir)
    script = Path(sys.argv[0]).name
    now = lines = key_flags()
    if path.exists():
        other, before = _read_flags(path)
        if other != script:
            raise RunError(
                f"{run_dir} is a run of {other}, not of {script}; choose another folder"
            )
        changed = [
            f"  {before.get(name, '(not set)')}  ->  {now.get(name, '(not set)')}"
            for name in sorted(before.keys() | now.keys())
            if name not in PLACES.union(free) and before.get(name) != now.get(name)
        ]
        if changed:
            remedy = f"Repeat it with --flagfile={path}, or choose another folder."
            if any("(not set)  ->" in line for line in changed):
                remedy += (
                    " What is not set there may have come with a newer version: a run "
                    "that began before can be used, but not trained on."
                )
            raise RunError(
                f"{run_dir} holds a run made with other flags:\n"
                + "\n".join([*changed, remedy])
            )
        length = LENGTH.intersection(free)
        lines = {name: line for name, line in now.items() if name not in length}
        lines |= {name: before[name] for name in length & before.keys()}
    for part in run_dir.rglob(files.PARTS):  # of a process that was killed
        part.unlink()
    _write_flags(run_dir, lines)
    return run_dir


def _write_flags(run_dir, by_name):
    script = Path(sys.argv[0]).name
    lines = [f"# {script}"] + [by_name[name] for name in sorted(by_name)]
    files.write_atomically(run_dir / "flags.txt", ("\n".join(lines) + "\n").encode())


def total_steps(
    run_dir,
    steps,
    epochs,
    slices,
    batch_size,
    rate,
    final=0.05,
    first_steps=0,
    first_final=1.0,
):
    """Steps of a run, which may be others than when it was begun; updates flags.txt.

    Args:
        run_dir: of `start`, with LENGTH free.
        steps: the flag that gives them, or has the value None.
        epochs: the flag that gives them otherwise: passes over the slices.
        slices: how many there are to train on.
        batch_size: slices a step.
        rate, final: peak and final share of the learning rate, see `adam`.
        first_steps, first_final: of a first phase, see `adam`; 0 is none.

    Raises:
        RunError: more steps are done already.
    """

    def total(given, passes):
        return int(given or 0) or round(float(passes) * slices / batch_size)

    began_with = settings(run_dir)
    before = total(began_with.get(steps.name), began_with.get(epochs.name, 0))
    now = total(steps.value, epochs.value)
    newest = _checkpoints(run_dir / "checkpoints")[:1]
    done = int(newest[0].name[len("ckpt-") :]) if newest else 0
    if now < done:
        raise RunError(
            f"{run_dir} has done {done} of {before} steps, and {now} are fewer; give "
            f"--{steps.name}={done} or more, or choose another folder"
        )
    if now != before and done:
        first = {"first_steps": first_steps, "first_final": first_final}
        courses = {
            of: schedules.ConstantThenLinear(rate, of, final=final, **first)
            for of in (before, now)
        }
        rates = [float(courses[of](min(done, of))) for of in (before, now)]
        logging.info(
            "%s: %d steps in all, no longer %d; %d are done. The learning rate and all "
            "else that is a share of the steps go on as in a run of %d: the rate from "
            "%.3g (it was to be %.3g here) to %.3g at the end",
            *(run_dir, now, before, done, now, rates[1], rates[0]),
            float(courses[now](now)),
        )
    _write_flags(run_dir, key_flags())
    return now


def _require_run_or_empty(run_dir):
    if not run_dir.is_dir() or (run_dir / "flags.txt").exists():
        return
    # A process that was killed at once leaves a lock, and perhaps half of flags.txt.
    ours = {LOCK, *(part.name for part in run_dir.glob(files.PARTS))}
    if any(path.name not in ours for path in run_dir.iterdir()):
        raise RunError(
            f"{run_dir} is not empty and not a run folder (no flags.txt); choose "
            "another folder"
        )


_locks = {}  # folder -> open file: a lock ends with its process, however that ends


def _lock(run_dir):
    """Takes the folder for this process, until it ends."""
    folder = run_dir.resolve()
    if not files.HAS_LOCKS or folder in _locks:
        return
    with _writing(run_dir / LOCK):
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("a+")
    try:
        files.lock(file, wait=False)
    except BlockingIOError as error:
        with file:
            file.seek(0)
            holder = file.read() or "not named yet"
        raise RunError(
            f"{run_dir} is in use by another process ({holder}); wait for it, stop it, "
            "or choose another folder"
        ) from error
    except OSError as error:  # some network file systems have no locks
        logging.warning("%s: cannot be locked (%s)", run_dir, error.strerror)
    _locks[folder] = file
    with contextlib.suppress(OSError):  # no room: the lock holds without a name
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()


def adam(
    variables, peak, steps, beta_1=0.5, final=0.05, first_steps=0, first_final=1.0
):
    """Adam (Section 3.4) with its slots made at once, so that a restore finds them.

    `final` is the share of the peak rate at the last step; 1 keeps it constant.
    `first_steps` and `first_final`: see ConstantThenLinear. Where layers compute in
    float16 it scales its loss, see `update`.
    """
    rate = schedules.ConstantThenLinear(
        peak, steps, final=final, first_steps=first_steps, first_final=first_final
    )
    half = tf.keras.mixed_precision.global_policy().compute_dtype == "float16"
    kind = addons.LossScaledAdam if half else addons.Adam
    optimizer = kind(rate, beta_1=beta_1)
    optimizer.build(variables)
    return optimizer


def update(optimizers, tape, totals, variables):
    """One step of each side on its own total and its own variables.

    Args:
        optimizers, totals, variables: by side.
        tape: persistent, has seen the totals. All gradients are taken before any
            variable moves. An optimizer with a loss_scale is given gradients that are
            so many times as large.
    """
    gradients = {
        side: tape.gradient(
            totals[side],
            variables[side],
            output_gradients=getattr(optimizers[side], "loss_scale", None),
        )
        for side in totals
    }
    for side, values in gradients.items():
        optimizers[side].apply_gradients(zip(values, variables[side], strict=True))


def restore(checkpoint, folder):
    """Continues from the newest whole checkpoint in `folder`; returns the manager.

    One that is damaged is set aside, with a warning.

    Raises:
        RunError: there are checkpoints, but none is whole; or a variable of this run
            is not in the newest.
    """
    folder = Path(folder)
    _remove_half_written(folder)
    damaged = []
    for newest in _checkpoints(folder):
        problem = _damage(newest)
        if problem is None:
            break
        damaged.append((newest, problem))
    else:
        newest = None
    shown = "; ".join(f"{path} is damaged ({problem})" for path, problem in damaged)
    if damaged and newest is None:
        raise RunError(
            f"{shown}. No other checkpoint is there: put one back from a copy, or "
            f"delete {folder} to start from the first step"
        )
    if damaged:
        logging.warning("%s. Going on from %s, the last whole one", shown, newest)
        for path, _ in damaged:
            for file in _files(path):
                file.rename(file.with_name(f"damaged-{file.name}"))
    if newest is not None:
        try:
            status = checkpoint.restore(str(newest))
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise RunError(f"{newest} does not fit this run: {error}") from error
    # Which are there was seen by their names: the file in which TensorFlow lists them
    # is for others, and may itself have been cut off.
    try:
        return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None)
    except ValueError:
        (folder / "checkpoint").unlink()
        return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None)


def _checkpoints(folder):
    """Paths of the checkpoints that have an index, which is written last; newest first.

    As TensorFlow names them: without the endings of their files.
    """
    steps = [int(path.stem[len("ckpt-") :]) for path in folder.glob("ckpt-*.index")]
    return [folder / f"ckpt-{step}" for step in sorted(steps, reverse=True)]


def has_begun(run_dir):
    """Whether a run has a checkpoint to go on from."""
    return bool(_checkpoints(Path(run_dir, "checkpoints")))


def newest_checkpoint(run_dir):
    """(path as TensorFlow names it, step) of a run's newest whole checkpoint, or None.

    Nothing is moved or removed: another process may be at work in the folder.
    """
    for path in _checkpoints(Path(run_dir, "checkpoints")):
        if _damage(path) is None:
            return path, int(path.name.rpartition("-")[2])
    return None


def _files(path):
    return list(path.parent.glob(f"{path.name}.*"))


def _damage(path):
    """Why a checkpoint cannot be read to its end, with checksums; None if it can."""
    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, LookupError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    return None


def _remove_half_written(folder):
    """Removes what a process left that ended while it wrote a checkpoint."""
    for path in folder.glob("ckpt-*_temp"):
        shutil.rmtree(path)
    for path in folder.glob("ckpt-*.data-*"):
        if not path.with_name(f"{path.name.partition('.')[0]}.index").exists():
            path.unlink()
    for path in folder.glob("checkpoint.tmp*"):
        path.unlink()


def save(manager, step):
    """Writes the checkpoint of a step; the older ones go once it is there.

    Raises:
        RunError: there is no room. The older ones are left as they were.
    """
    folder = Path(manager.directory)
    try:
        with _writing(folder / f"ckpt-{step}"):
            manager.save(step)
    except RunError:
        with contextlib.suppress(OSError):
            for file in _files(folder / f"ckpt-{step}"):
                file.unlink()
            _remove_half_written(folder)
        raise
    for old in _checkpoints(folder)[CHECKPOINTS_KEPT:]:
        for file in _files(old):
            file.unlink()


def _keep_lines_until(path, step):
    """Drops what a killed run logged after its last checkpoint."""
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        files.write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _keep_events_until(folder, step):
    """The same for TensorBoard, whose newer readers know of no other way.

    A file may be cut off within an event; what comes before is kept.
    """
    for path in folder.glob("*.tfevents.*"):
        kept, dropped = [], False
        records = iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        while True:
            try:
                record = next(records)
            except StopIteration:
                break
            except tf.errors.DataLossError:
                dropped = True
                break
            if tf.compat.v1.Event.FromString(record).step <= step:
                kept.append(record)
            else:
                dropped = True
        if dropped:
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            with _writing(path), tf.io.TFRecordWriter(str(part)) as writer:
                for record in kept:
                    writer.write(record)
            part.replace(path)


def _step_of(line):
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off by a kill
        return float("inf")


def seconds_logged(run_dir):
    """Seconds that a run trained, over all processes that took part.

    The clock of losses.jsonl starts anew with each of them.
    """
    lines = Path(run_dir, "losses.jsonl").read_text().splitlines()
    clock = np.array([0.0, *(json.loads(line)["seconds"] for line in lines)])
    passed = np.diff(clock)
    return float(np.sum(np.where(passed < 0, clock[1:], passed)))


def revision():
    """The git revision of this code, "-dirty" where it was changed; None without."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def loop(
    run_dir,
    train_step,
    batches,
    steps,
    objects,
    seed,
    subject_names,
    sheet=None,
    log_every=20,
    sheet_every=500,
    checkpoint_seconds=CHECKPOINT_SECONDS,
    steps_per_call=1,
    phase="",
    started=None,
    wait=False,
):
    """Trains from the newest checkpoint to `steps`.

    Losses stay on the device until they are shown or logged, so that no step waits for
    the host. A loss that is not finite is therefore found when they are looked at, up
    to `log_every` steps later, but before anything is written.

    Args:
        run_dir: Path of the run folder.
        train_step: (batch, seed [2] int32) -> {loss name: scalar}.
        batches: first step -> dataset of batches from that step on, always the same. A
            batch may name the subjects it came from in "subject", integers into
            `subject_names`.
        steps: total steps of the run.
        objects: name -> network or optimiser; what a checkpoint holds.
        seed: of the run. Step k is given (seed, k), so that a resumed run draws the
            same numbers as an uninterrupted one.
        sheet: step -> [H, W, 3] uint8 for TensorBoard, or None.
        checkpoint_seconds: between checkpoints.
        steps_per_call: a number, or "auto": as many as take CALL_SECONDS. More than one
            step is a loop within one traced function, so `train_step` must be one that
            TensorFlow can trace; a call ends where something is to be logged or shown.
        phase: what these steps are of a run that has others after them, for messages.
        started: time.monotonic() of this process's first step, where that was in
            another phase; the clock of losses.jsonl.
        wait: look at the losses after every call, as a deterministic run must: without,
            the last bits of stage 2 were seen to differ from one run to the next.

    Raises:
        RunError: a loss or a weight is not finite (names it, the step and the subjects
            of the batch), no checkpoint is whole, or there is no room to write.
        Stopped: SIGINT or SIGTERM came. The call was finished and a checkpoint written.
    """
    step_variable = tf.Variable(0, dtype=tf.int64, trainable=False)
    checkpoint = tf.train.Checkpoint(step=step_variable, **objects)
    manager = restore(checkpoint, run_dir / "checkpoints")
    first = int(step_variable.numpy())
    if first >= steps:
        if not phase:
            logging.info("%s: all %d steps are done", run_dir, steps)
        return
    if first:
        logging.info("%s: going on at step %d of %d%s", run_dir, first, steps, phase)
    else:
        logging.info("%s: training for %d steps%s", run_dir, steps, phase)
    log_path = run_dir / "losses.jsonl"
    _keep_lines_until(log_path, first)
    events = run_dir / "tensorboard"
    _keep_events_until(events, first)
    with _writing(events):
        writer = tf.summary.create_file_writer(str(events))

    def refuse(broken, step):
        # A batch can be had again, so none need be kept until its losses are looked at.
        if broken:
            _refuse(broken, step, next(iter(batches(step))), subject_names)

    bar, shown_at = None, -np.inf
    interval = 0.5 if sys.stdout.isatty() else progress.EVERY
    pace = progress.Pace()
    losses = _Losses(refuse)
    several = _several(train_step, seed)
    per_call = 1 if steps_per_call == "auto" else steps_per_call
    saved_at = time.monotonic()
    started = saved_at if started is None else started
    with (
        log_path.open("a", buffering=1) as log,
        writer.as_default(),
        _signals_held() as received,
    ):
        iterator = iter(_on_device(batches(first)))
        done, calls = first, 0
        while done < steps:
            ends = [steps, _next_multiple(done, log_every)]
            if sheet is not None:
                ends.append(_next_multiple(done, sheet_every))
            count = min(per_call, min(ends) - done)
            if count == 1:
                step_seed = tf.constant([seed, done], tf.int32)
                losses.add(done, *_row(train_step(next(iterator), step_seed)))
            else:
                losses.add(done, *several(iterator, done, count))
            done, calls = done + count, calls + 1
            if wait:
                losses.look()
            measured = pace.seconds is None and (calls in (1, 3) or calls > pace.pieces)
            if measured:
                losses.look()  # waits until it is done
            now = time.monotonic()
            if measured and pace.seen(done, now):
                if steps_per_call == "auto":
                    per_call = max(round(CALL_SECONDS / max(pace.seconds, 1e-9)), 1)
                if done < steps:
                    if sys.stdout.isatty():
                        print()  # below the bar
                    ahead = progress.forecast(steps - done, pace.seconds, "step")
                    logging.info("%s%s", ahead, phase)
            if bar is None:  # after the first step: tracing is not part of the rate
                bar = tf.keras.utils.Progbar(
                    steps - first,
                    stateful_metrics=SHOWN_WHILE_TRAINING,
                    interval=0,
                    unit_name="step",
                )
            if done == steps or now - shown_at >= interval:
                latest = losses.look()
                shown = [(n, latest[n]) for n in SHOWN_WHILE_TRAINING if n in latest]
                bar.update(done - first, shown)
                shown_at = now
            if done % log_every == 0 or done == steps:
                latest = losses.look()
                seconds = round(time.monotonic() - started, 3)
                line = {"step": done, "seconds": seconds, **latest}
                with _writing(log_path):
                    log.write(json.dumps(line) + "\n")
                with _writing(events):
                    for name, value in latest.items():
                        tf.summary.scalar(name, value, step=done)
            if sheet is not None and (done % sheet_every == 0 or done == steps):
                picture = sheet(done)[None]
                with _writing(events):
                    tf.summary.image("sheet", picture, step=done)
            due = now - saved_at > checkpoint_seconds
            if due or done == steps or received:
                losses.look()
                # What the last step's update broke no loss has seen yet.
                refuse([n for n, o in objects.items() if not _is_finite(o)], done - 1)
                with _writing(events):
                    writer.flush()  # first: what a checkpoint has passed is on disk
                step_variable.assign(done)
                save(manager, done)
                saved_at = time.monotonic()
            if received:
                where = f" after step {done} of {steps}, with a checkpoint"
                raise Stopped(received[0], where)


def _next_multiple(step, of):
    return (step // of + 1) * of


def _on_device(batches):
    """Copies batches to the GPU, if there is one, while the step before them runs."""
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        return batches
    copied = tf.data.experimental.prefetch_to_device(gpus[0].name, buffer_size=2)
    return batches.apply(copied)


def _several(train_step, seed):
    """Returns call(iterator, first, count) -> (loss names, [count, losses] float32).

    The steps `first` to `first + count - 1`, in one call of one trace, whatever the
    count.
    """
    names = []

    @tf.function(autograph=False)
    def traced(iterator, first, count):
        def step(k, rows):
            named = train_step(next(iterator), tf.stack([seed, first + k]))
            names[:], row = _row(named)
            return k + 1, rows.write(k, tf.stack(row))

        rows = tf.TensorArray(tf.float32, count)
        _, rows = tf.while_loop(
            lambda k, _: k < count, step, [0, rows], parallel_iterations=1
        )
        return rows.stack()

    def call(iterator, first, count):
        rows = traced(iterator, *(tf.constant(n, tf.int32) for n in (first, count)))
        return list(names), rows

    return call


def _row(named):
    """{name: scalar} as (names, [scalar, ...]), float32, in the order of the names."""
    return sorted(named), [tf.cast(named[name], tf.float32) for name in sorted(named)]


class _Losses:
    """Losses that stay on the device until they are looked at: one copy a look."""

    def __init__(self, refuse):
        """refuse(names, step) is called with what is not finite; it raises."""
        self._refuse = refuse
        self._pending = []  # (first step, [k, losses])
        self._names = self._latest = None

    def add(self, first, names, rows):
        """Losses of the steps from `first` on: [k, names], or a list of one step's."""
        self._names = names
        self._pending.append((first, rows))

    def look(self):
        """{name: value} of the last step; what came before is finite as well."""
        if self._pending:
            first = self._pending[0][0]
            shape = [-1, len(self._names)]
            parts = [tf.reshape(tf.stack(rows), shape) for _, rows in self._pending]
            values = tf.concat(parts, 0).numpy()
            self._pending.clear()
            for step, row in enumerate(values, first):
                broken = ~np.isfinite(row)
                if broken.any():
                    names = np.array(self._names)[broken]
                    self._refuse(names.tolist(), step)
            self._latest = dict(zip(self._names, values[-1].tolist(), strict=True))
        return self._latest


def _is_finite(part):
    """Whether all variables of a network or an optimiser are; one copy to the host."""
    values = [tf.convert_to_tensor(variable) for variable in part.variables]
    finite = [tf.math.is_finite(v) for v in values if v.dtype.is_floating]
    return bool(tf.reduce_all([tf.reduce_all(each) for each in finite]))


def _refuse(broken, step, batch, subject_names):
    """Ends the run: `broken` names losses, networks or optimisers."""
    rows = np.unique(np.asarray(batch["subject"]))
    subjects = ", ".join(subject_names[row] for row in rows)
    raise RunError(
        f"step {step}: {', '.join(broken)} is not finite. Subjects of the batch: "
        f"{subjects}. The last checkpoint is from before this step; try a smaller "
        "--learning_rate."
    )


@contextlib.contextmanager
def _quiet():
    """Silences what TensorFlow says while it writes a SavedModel."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.set_verbosity(verbosity)


def export(run_dir, name, models, endpoints, description):
    """Writes RUN/export/NAME, a SavedModel, and RUN/export/NAME.json beside it.

    Args:
        models: the Keras models the endpoints use.
        endpoints: signature name -> (function, {input name: tf.TensorSpec}).
        description: what a user must know to feed it; written as JSON, with what made
            it: script, flags, version and git revision.

    Raises:
        RunError: there is no room. An older export is left as it was.
    """
    target = Path(run_dir) / "export" / name
    temporary, old = target.with_name(f".{name}.new"), target.with_name(f".{name}.old")
    for left in (temporary, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    archive = tf.keras.export.ExportArchive()
    for model in models:
        archive.track(model)
    for endpoint, (function, signature) in endpoints.items():
        archive.add_endpoint(endpoint, function, input_signature=list(signature))
    try:
        with _writing(target), _quiet():
            temporary.mkdir(parents=True)
            archive.write_out(str(temporary))
        files.write_json(target.with_suffix(".json"), {**description, **made_by()})
    except (RunError, files.DataError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def made_by():
    """What wrote a file, for its JSON: script, flags, version and git revision."""
    return {
        "script": Path(sys.argv[0]).name,
        "flags": key_flags(),
        "version": brats_gan.__version__,
        "revision": revision(),
    }


def export_description(run_dir, name):
    """RUN/export/NAME.json, without loading the model; errors as `load_export`."""
    target = Path(run_dir) / "export" / name
    path = target.with_suffix(".json")
    if not target.is_dir() or not path.exists():
        raise RunError(
            f"{target} does not exist: {run_dir} has not finished training; start its "
            "command again"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); {_MAKE_AGAIN}") from error


_MAKE_AGAIN = "start the command of its run again, which writes it anew"


def load_export(run_dir, name):
    """Returns (signatures, description) of RUN/export/NAME.

    Raises:
        RunError: the run has no such export, so it has not finished; or it is damaged.
    """
    description = export_description(run_dir, name)
    path = Path(run_dir) / "export" / name
    try:
        return tf.saved_model.load(str(path)), description
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); {_MAKE_AGAIN}") from error
