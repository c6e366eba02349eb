"""The training loop: batches, losses, logs, checkpoints."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from brats_gan import files, progress
from brats_gan.lazy import tf
from brats_gan.runs.checkpoints import has_begun, restore, save
from brats_gan.runs.games import Games
from brats_gan.runs.process import RunError, Stopped, signals_held, writing
from brats_gan.runs.strategies import Team

CHECKPOINT_SECONDS = 300
CALL_SECONDS = 0.05  # of several steps in one call
SHOWN_WHILE_TRAINING = (
    "generator",
    "discriminator",
    "lesion_component",
    "segmentation",
)


def _keep_lines_until(path, step):
    """Drops what a killed run logged after its last checkpoint."""
    if not path.exists():
        return
    kept = [line for line in files.read_lines(path) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept).encode()
    if text != path.read_bytes():
        files.write_atomically(path, text)


def _keep_events_until(folder, step):
    """The same for TensorBoard, whose newer readers know of no other way.

    A file may be cut off within an event; what comes before is kept.
    """
    from google.protobuf.message import DecodeError

    for path in folder.glob("*.tfevents.*"):
        if not path.is_file():
            continue
        kept, dropped = [], False
        records = iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        while True:
            try:
                record = next(records)
            except StopIteration:
                break
            except tf.errors.OpError:
                dropped = True
                break
            try:
                fits = tf.compat.v1.Event.FromString(record).step <= step
            except DecodeError:
                fits = False
            if fits:
                kept.append(record)
            else:
                dropped = True
        if dropped:
            part = files.temporary_beside(path)
            with writing(path), tf.io.TFRecordWriter(str(part)) as writer:
                for record in kept:
                    writer.write(record)
            part.replace(path)


def seconds_logged(run_dir: str | Path) -> float:
    """Seconds that a run trained, over all processes that took part.

    The clock of losses.jsonl starts anew with each of them.
    """
    return seconds_of(files.read_lines(Path(run_dir, "losses.jsonl")))


def seconds_of(lines: Sequence[Mapping[str, float]]) -> float:
    """The same of the lines of a losses.jsonl."""
    clock = np.array([0.0, *(line["seconds"] for line in lines)])
    passed = np.diff(clock)
    return float(np.sum(np.where(passed < 0, clock[1:], passed)))


def per_call(asked: int | str, deterministic: bool | None) -> int | str:
    """`loop`'s steps_per_call: what is asked for, or 1 for a deterministic run.

    TensorFlow optimises the graph of a loop of steps otherwise than that of one, and in
    large networks the last bits differ.
    """
    return 1 if deterministic else asked


def loop(
    run_dir: Path,
    train_step: Callable[[Any, tf.Tensor], dict[str, tf.Tensor]],
    batches: Callable[[int], tf.data.Dataset],
    steps: int,
    objects: Mapping[str, Any],
    seed: int,
    subject_names: Sequence[str],
    sheet: Callable[[int], np.ndarray] | None = None,
    log_every: int = 20,
    sheet_every: int = 500,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    steps_per_call: int | str = 1,
    phase: str = "",
    started: float | None = None,
    made_by: Mapping[str, Any] | None = None,
    team: Team | None = None,
    remedy: str = "try a smaller --learning_rate",
) -> None:
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
        phase: for messages, which part of a run these steps are, if others follow.
        started: time.monotonic() of this process's first step, where that was in
            another phase; the clock of losses.jsonl.
        made_by: what makes the run beside its seed and never changes, JSON: checkpoints
            of a run of which it differs are refused.
        team: the replicas that share in every step; None: this process alone. Of
            several processes all make the same calls, so a call is one step unless
            `steps_per_call` is a number, and all stop where one is told to.
        remedy: for the message, where a loss is not finite.

    Raises:
        RunError: a loss or a weight is not finite (names it, the step and the subjects
            of the batch), no checkpoint is whole, or there is no room to write.
        Stopped: a signal of STOP_SIGNALS came, to this process or another of the team.
            The call was finished and a checkpoint written.
        WorkerLost: another process of the team is gone.
    """
    team = team or Team()
    train_step = team.traced(train_step)
    if team.several_processes and steps_per_call == "auto":
        steps_per_call = 1
    step_variable = tf.Variable(0, dtype=tf.int64, trainable=False)
    manager = restore(
        {"step": step_variable, **objects},
        run_dir / "checkpoints",
        {"seed": seed, **(made_by or {})},
    )
    first = int(step_variable.numpy())
    # One that made fewer steps, or more in a call, would let the others wait for ever.
    rhythm = steps, steps_per_call, log_every, sheet is None or sheet_every
    team.require_alike([first, seed, rhythm, made_by])
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
    with writing(events):
        writer = tf.summary.create_file_writer(str(events))

    def refuse(broken, step):
        # A batch can be had again, so none need be kept until its losses are looked at.
        if broken:
            kept = has_begun(run_dir)
            batch = next(iter(batches(step)))
            _refuse(broken, step, batch, subject_names, kept, remedy)

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
        signals_held() as received,
        _below_the_bar(),
        team.at_work(),
    ):
        given = batches(first)
        # Replicas copy their own rows.
        iterator = iter(_on_device(given) if team.strategy is None else given)
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
                with writing(log_path):
                    log.write(json.dumps(line) + "\n")
                with writing(events):
                    for name, value in latest.items():
                        tf.summary.scalar(name, value, step=done)
            if sheet is not None and (done % sheet_every == 0 or done == steps):
                picture = sheet(done)[None]
                with writing(events):
                    tf.summary.image("sheet", picture, step=done)
            due = now - saved_at > checkpoint_seconds
            stopped = team.agreed(received[0] if received else 0)
            if due or done == steps or stopped:
                losses.look()
                # What the last step's update broke no loss has seen yet.
                refuse([n for n, o in objects.items() if not _is_finite(o)], done - 1)
                with writing(events):
                    writer.flush()  # first: what a checkpoint has passed is on disk
                step_variable.assign(done)
                save(manager, done)
                saved_at = time.monotonic()
            if done == steps and received:
                # One may have come while the last step was agreed on, or written.
                stopped = stopped or received[0]
            if stopped:
                where = f" after step {done} of {steps}, with a checkpoint"
                raise Stopped(stopped, where)


@contextlib.contextmanager
def _below_the_bar():
    """Ends the line of a bar that goes no further, for an error is said next."""
    try:
        yield
    except (Exception, Stopped):
        with contextlib.suppress(OSError, Stopped):  # of a stdout that nobody reads
            print(flush=True)
        raise


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
        self._games = Games()
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
                self._games.see(step, self._names, row)
            self._latest = dict(zip(self._names, values[-1].tolist(), strict=True))
        return self._latest


def _is_finite(part):
    """Whether all variables of a network or an optimiser are; one copy to the host."""
    values = [tf.convert_to_tensor(variable) for variable in part.variables]
    finite = [tf.math.is_finite(v) for v in values if v.dtype.is_floating]
    return bool(tf.reduce_all([tf.reduce_all(each) for each in finite]))


def _refuse(broken, step, batch, subject_names, has_checkpoint, remedy):
    """Ends the run: `broken` names losses, networks or optimisers."""
    rows = np.unique(np.asarray(batch["subject"]))
    subjects = ", ".join(subject_names[row] for row in rows)
    raise RunError(
        f"step {step}: {', '.join(broken)} is not finite. "
        + (f"Subjects of the batch: {subjects}. " if subjects else "")
        + (
            "The last checkpoint is from before this step"
            if has_checkpoint
            else "There is no checkpoint yet: the run begins anew"
        )
        + f"; {remedy}."
    )
