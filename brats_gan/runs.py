"""Run folders, the training loop, checkpoints and exports. Knows nothing of the method.

A run folder holds flags.txt, split.json, losses.jsonl, tensorboard/, checkpoints/ and
export/. Starting the same command again continues it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from brats_gan import brats

# Flags that may differ when a run goes on: where things are, not what is computed.
PLACES = frozenset({"run_dir", "data_dir", "cache_dir", "flagfile", "check"})

EXIT_BAD_INPUT = 1
SHOWN_WHILE_TRAINING = (
    "generator",
    "discriminator",
    "lesion_component",
    "segmentation",
)


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says why and what to do."""


def main(run_script):
    """Runs `run_script(argv)` under absl; expected errors become one clear message."""

    def guarded(argv):
        if argv[1:]:
            raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        logging.use_absl_handler()
        try:
            run_script(argv)
        except (brats.DataError, RunError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(guarded)


def set_up(precision, seed):
    """Precision of the layers made from here on, and all seeds."""
    tf.keras.mixed_precision.set_global_policy(precision)
    tf.keras.utils.set_random_seed(seed)


def write_json(path, value):
    """Writes JSON, whole or not at all."""
    brats.write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


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
    """{flag name: text} of the flags of a run that have a value."""
    _, lines = _read_flags(Path(run_dir, "flags.txt"))
    return {name: line.partition("=")[2] for name, line in lines.items()}


def start(run_dir, free=()):
    """Makes or re-enters a run folder; writes flags.txt.

    Args:
        run_dir: folder.
        free: names of flags that may differ when the run goes on, besides PLACES.

    Returns:
        The folder, a Path.

    Raises:
        RunError: the folder belongs to a run with other flags (the difference is
            shown), or holds something that is not a run.
    """
    run_dir = Path(run_dir)
    path = run_dir / "flags.txt"
    script = Path(sys.argv[0]).name
    now = key_flags()
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
            raise RunError(
                f"{run_dir} holds a run made with other flags:\n"
                + "\n".join(changed)
                + f"\nRepeat it with --flagfile={path}, or choose another folder."
            )
    elif run_dir.is_dir() and any(run_dir.iterdir()):
        raise RunError(
            f"{run_dir} is not empty and not a run folder (no flags.txt); choose "
            "another folder"
        )
    lines = [f"# {script}"] + [now[name] for name in sorted(now)]
    brats.write_atomically(path, ("\n".join(lines) + "\n").encode())
    return run_dir


class ConstantThenLinear(tf.keras.optimizers.schedules.LearningRateSchedule):
    """`peak` for a share of the steps, then linear down to a share of the peak."""

    def __init__(self, peak, steps, constant=0.5, final=0.05):
        super().__init__()
        self.peak, self.steps = peak, steps
        self.constant, self.final = constant, final

    def __call__(self, step):
        done = tf.cast(step, tf.float32) / max(self.steps, 1)
        fallen = tf.clip_by_value(
            (done - self.constant) / (1.0 - self.constant), 0.0, 1.0
        )
        return self.peak * (1.0 - (1.0 - self.final) * fallen)

    def get_config(self):
        names = ("peak", "steps", "constant", "final")
        return {name: getattr(self, name) for name in names}


def adam(variables, peak, steps, beta_1=0.5, final=0.05):
    """Adam (Section 3.4) with its slots made at once, so that a restore finds them.

    `final` is the share of the peak rate at the last step; 1 keeps it constant.
    """
    rate = ConstantThenLinear(peak, steps, final=final)
    optimizer = tf.keras.optimizers.Adam(rate, beta_1=beta_1)
    optimizer.build(variables)
    return optimizer


def update(optimizers, tape, totals, variables):
    """One step of each side on its own total and its own variables.

    Args:
        optimizers, totals, variables: by side.
        tape: persistent, has seen the totals. All gradients are taken before any
            variable moves.
    """
    gradients = {side: tape.gradient(totals[side], variables[side]) for side in totals}
    for side, values in gradients.items():
        optimizers[side].apply_gradients(zip(values, variables[side], strict=True))


def restore(checkpoint, folder):
    """Continues from the newest checkpoint in `folder`; returns the manager.

    Every variable must be found, or it is a RunError.
    """
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=2)
    if manager.latest_checkpoint:
        try:
            status = checkpoint.restore(manager.latest_checkpoint)
            status.assert_existing_objects_matched()
        except (AssertionError, tf.errors.OpError) as error:
            raise RunError(
                f"{manager.latest_checkpoint} does not fit this run: {error}"
            ) from error
    return manager


def _keep_lines_until(path, step):
    """Drops what a killed run logged after its last checkpoint."""
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        brats.write_atomically(path, "".join(line + "\n" for line in kept).encode())


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
    checkpoint_seconds=300,
):
    """Trains from the newest checkpoint to `steps`.

    Args:
        run_dir: Path of the run folder.
        train_step: (batch, seed [2] int32) -> {loss name: scalar}.
        batches: first step -> dataset of batches from that step on. A batch may name
            the subjects it came from in "subject", integers into `subject_names`.
        steps: total steps of the run.
        objects: name -> network or optimiser; what a checkpoint holds.
        seed: of the run. Step k is given (seed, k), so that a resumed run draws the
            same numbers as an uninterrupted one.
        sheet: step -> [H, W, 3] uint8 for TensorBoard, or None.

    Raises:
        RunError: a loss is not finite. Names the term and the subjects of the batch.
    """
    step_variable = tf.Variable(0, dtype=tf.int64, trainable=False)
    checkpoint = tf.train.Checkpoint(step=step_variable, **objects)
    manager = restore(checkpoint, run_dir / "checkpoints")
    first = int(step_variable.numpy())
    if first >= steps:
        logging.info("%s: all %d steps are done", run_dir, steps)
        return
    if first:
        logging.info("%s: going on at step %d of %d", run_dir, first, steps)
    log_path = run_dir / "losses.jsonl"
    _keep_lines_until(log_path, first)
    writer = tf.summary.create_file_writer(str(run_dir / "tensorboard"))

    bar = None
    saved_at = started = time.monotonic()
    with log_path.open("a", buffering=1) as log, writer.as_default():
        for step, batch in zip(range(first, steps), batches(first), strict=False):
            losses = train_step(batch, tf.constant([seed, step], tf.int32))
            losses = {name: float(losses[name]) for name in sorted(losses)}
            _require_finite(losses, step, batch, subject_names)
            done = step + 1
            if bar is None:  # after the first step: tracing is not part of the rate
                bar = tf.keras.utils.Progbar(
                    steps - first,
                    stateful_metrics=SHOWN_WHILE_TRAINING,
                    interval=0.5 if sys.stdout.isatty() else 20,
                    unit_name="step",
                )
            shown = [(n, losses[n]) for n in SHOWN_WHILE_TRAINING if n in losses]
            bar.update(done - first, shown)
            if done % log_every == 0 or done == steps:
                seconds = round(time.monotonic() - started, 3)
                log.write(
                    json.dumps({"step": done, "seconds": seconds, **losses}) + "\n"
                )
                for name, value in losses.items():
                    tf.summary.scalar(name, value, step=done)
            if sheet is not None and (done % sheet_every == 0 or done == steps):
                tf.summary.image("sheet", sheet(done)[None], step=done)
            if time.monotonic() - saved_at > checkpoint_seconds or done == steps:
                step_variable.assign(done)
                manager.save(done)
                writer.flush()
                saved_at = time.monotonic()


def _require_finite(losses, step, batch, subject_names):
    broken = [name for name, value in losses.items() if not np.isfinite(value)]
    if not broken:
        return
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
        description: what a user must know to feed it; written as JSON.
    """
    target = Path(run_dir) / "export" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    archive = tf.keras.export.ExportArchive()
    for model in models:
        archive.track(model)
    for endpoint, (function, signature) in endpoints.items():
        archive.add_endpoint(endpoint, function, input_signature=list(signature))
    temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent))
    with _quiet():
        archive.write_out(str(temporary))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    write_json(target.with_suffix(".json"), description)


def export_description(run_dir, name):
    """RUN/export/NAME.json, without loading the model; errors as `load_export`."""
    target = Path(run_dir) / "export" / name
    if not target.is_dir():
        raise RunError(
            f"{target} does not exist: {run_dir} has not finished training; start its "
            "command again"
        )
    return json.loads(target.with_suffix(".json").read_text())


def load_export(run_dir, name):
    """Returns (signatures, description) of RUN/export/NAME.

    Raises:
        RunError: the run has no such export, so it has not finished.
    """
    description = export_description(run_dir, name)
    return tf.saved_model.load(str(Path(run_dir) / "export" / name)), description
