"""Checkpoints of a run: written, found whole, restored."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from brats_gan.lazy import tf
from brats_gan.runs.process import RunError, require_plain, writing

CHECKPOINTS_KEPT = 2
IDENTITY = "run"  # in a checkpoint: of what made the run


def restore(
    objects: Mapping[str, Any], folder: str | Path, run: Mapping[str, Any]
) -> tf.train.CheckpointManager:
    """Continues from the newest whole checkpoint in `folder`; returns the manager.

    One that is damaged is set aside, with a warning.

    Args:
        objects: name -> network, optimiser or variable; what a checkpoint holds.
        folder: of the checkpoints.
        run: what makes the run and never changes, JSON. Its digest is in each
            checkpoint, so that one of another run is not taken for its own; those of
            versions that wrote none are taken as they are.

    Raises:
        RunError: there are checkpoints, but none is whole; or a variable of this run
            is not in the newest, or that is of another run.
    """
    ours = digest_of(run)
    own = tf.Variable(ours, dtype=tf.int64, trainable=False)
    checkpoint = tf.train.Checkpoint(**objects, **{IDENTITY: own})
    require_plain(folder)
    folder = Path(folder)
    _remove_half_written(folder)
    damaged = []
    for newest in all_checkpoints(folder):
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
        remedy = f"delete {folder} to start from the first step"
        theirs = require_of(newest, run, remedy)
        try:
            holds = objects if theirs is None else {**objects, IDENTITY: own}
            status = tf.train.Checkpoint(**holds).restore(str(newest))
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


def digest_of(run: Mapping[str, Any]) -> int:
    """Of what makes a run, see `restore`: 64 bits with a sign."""
    text = json.dumps(run, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def require_of(path: Path, run: Mapping[str, Any], remedy: str) -> int | None:
    """The digest of the run that wrote a checkpoint; None of one without.

    Args:
        path: of the checkpoint, as TensorFlow names it.
        run: as of `restore`.
        remedy: what else than putting it back can be done, for the message.

    Raises:
        RunError: it is that of another run.
    """
    theirs = identity(path)
    if theirs not in (None, digest_of(run)):
        raise RunError(
            f"{path} is of another run: of other flags, seed or data than "
            f"{path.parent.parent} was begun with. Put the checkpoints of this run "
            f"back from a copy, or {remedy}"
        )
    return theirs


def identity(path: Path) -> int | None:
    """The digest of the run that wrote a checkpoint; None of one without."""
    reader = tf.train.load_checkpoint(str(path))
    name = f"{IDENTITY}/.ATTRIBUTES/VARIABLE_VALUE"
    return int(reader.get_tensor(name)) if reader.has_tensor(name) else None


def all_checkpoints(folder: Path) -> list[Path]:
    """Paths of the checkpoints that have an index, which is written last; newest first.

    As TensorFlow names them: without the endings of their files.
    """
    names = [path.stem[len("ckpt-") :] for path in folder.glob("ckpt-*.index")]
    steps = [int(name) for name in names if name.isdecimal() and name == str(int(name))]
    return [folder / f"ckpt-{step}" for step in sorted(steps, reverse=True)]


def has_begun(run_dir: str | Path) -> bool:
    """Whether a run has a checkpoint to go on from."""
    return bool(all_checkpoints(Path(run_dir, "checkpoints")))


def newest_checkpoint(run_dir: str | Path) -> tuple[Path, int] | None:
    """(path as TensorFlow names it, step) of a run's newest whole checkpoint, or None.

    Nothing is moved or removed: another process may be at work in the folder. RunError
    if TensorFlow would not find its files by its name.
    """
    require_plain(run_dir)
    for path in all_checkpoints(Path(run_dir, "checkpoints")):
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


def save(manager: tf.train.CheckpointManager, step: int) -> None:
    """Writes the checkpoint of a step; the older ones go once it is there.

    Raises:
        RunError: there is no room. The older ones are left as they were.
    """
    folder = Path(manager.directory)
    try:
        with writing(folder / f"ckpt-{step}"):
            manager.save(step)
    except RunError:
        with contextlib.suppress(OSError):
            for file in _files(folder / f"ckpt-{step}"):
                file.unlink()
            _remove_half_written(folder)
        raise
    for old in all_checkpoints(folder)[CHECKPOINTS_KEPT:]:
        for file in _files(old):
            file.unlink()
