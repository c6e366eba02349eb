"""Exports of a run, with what made them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

import brats_gan
from brats_gan import files, shipped
from brats_gan.lazy import tf
from brats_gan.runs.folder import command_of
from brats_gan.runs.process import RunError, require_plain, writing


def revision() -> str | None:
    """The git revision of this code, "-dirty" where it was changed; None without.

    An installed package has none: a repository around its environment is another's.
    """
    if shipped.CHECKOUT is None or not (shipped.CHECKOUT / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command,
            cwd=shipped.CHECKOUT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


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


def export(
    run_dir: str | Path,
    name: str,
    models: Iterable[tf.keras.Model],
    endpoints: Mapping[str, tuple[Callable, Sequence[tf.TensorSpec]]],
    description: Mapping[str, Any],
) -> None:
    """Writes RUN/export/NAME, a SavedModel, and RUN/export/NAME.json beside it.

    Args:
        models: the Keras models the endpoints use.
        endpoints: signature name -> (function, a tf.TensorSpec an argument).
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
        with writing(target), _quiet():
            temporary.mkdir(parents=True)
            archive.write_out(str(temporary))
        files.write_json(
            target.with_suffix(".json"), {**description, **made_by(run_dir)}
        )
    except (RunError, files.DataError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def made_by(run_dir: str | Path) -> dict[str, Any]:
    """What wrote a file of a run, for its JSON: script, flags, version, revision."""
    script, flags = command_of(run_dir)
    return {
        "script": script,
        "flags": flags,
        "version": brats_gan.__version__,
        "revision": revision(),
    }


def export_description(run_dir: str | Path, name: str) -> dict[str, Any]:
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


def load_export(run_dir: str | Path, name: str) -> tuple[Any, dict[str, Any]]:
    """Returns (signatures, description) of RUN/export/NAME.

    Raises:
        RunError: the run has no such export, so it has not finished; or it is damaged.
    """
    require_plain(run_dir)
    description = export_description(run_dir, name)
    path = Path(run_dir) / "export" / name
    try:
        return tf.saved_model.load(str(path)), description
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); {_MAKE_AGAIN}") from error
