"""Exports of a run, with what made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from absl import logging

import brats_gan
from brats_gan import files, shipped
from brats_gan.data import record_forms, records
from brats_gan.lazy import tf
from brats_gan.runs.folder import command_of
from brats_gan.runs.process import RunError, require_plain, writing


def revision() -> str | None:
    """The git revision of this code, "-dirty" where it was changed; None without.

    Only of this project's own repository, whose root has our setup.py and which has
    this package under version control: a repository around an environment, or one into
    which the package was copied, is another's. What the environment says of a
    repository (GIT_DIR, as within a hook) is of another's too.
    """
    root = shipped.CHECKOUT
    if root is None or not (root / ".git").exists() or not _is_ours(root):
        return None
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "setup.py", "brats_gan/__init__.py")
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _is_ours(root):
    """Whether the setup.py of a folder is that of brats_gan."""
    try:
        text = (root / "setup.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return re.search(r"""\bname=["']brats_gan["']""", text) is not None


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
        whole = {**description, **made_by(run_dir), _FILES: _digests(temporary)}
        files.write_json(target.with_suffix(".json"), files.sealed(whole))
    except (RunError, files.DataError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


_MADE_BY = ("script", "flags", "version", "revision")
_FILES = "files"  # {name: digest} of the SavedModel


def _digests(folder):
    """{name: digest of its content} of all files of a SavedModel."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): records.digest(p) for p in paths}


def _require_as_written(path, description):
    """RunError where the files of a SavedModel are not those it was written with."""
    known = description.get(_FILES)
    if known is None:  # by a version that wrote none
        return
    now = _digests(path)
    differ = [name for name, digest in known.items() if now.get(name) != digest]
    if differ:
        raise RunError(
            f"{path / differ[0]} is not what was written there: it is damaged or "
            f"missing; {_MAKE_AGAIN}"
        )


def made_by(run_dir: str | Path) -> dict[str, Any]:
    """What wrote a file of a run, for its JSON: script, flags, version, revision."""
    script, flags = command_of(run_dir)
    values = (script, flags, brats_gan.__version__, revision())
    return dict(zip(_MADE_BY, values, strict=True))


def export_fingerprint(run_dir: str | Path, name: str) -> str:
    """Of RUN/export/NAME, wherever it lies: its weights and what it says of itself.

    Not of its graph, nor of its files: TensorFlow numbers both anew each time they are
    written, as a finished run does that is started again. Errors as `load_export`.
    """
    described = export_description(run_dir, name)
    told = {k: v for k, v in described.items() if k not in (*_MADE_BY, _FILES)}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16)
    path = Path(run_dir) / "export" / name
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        for key in sorted(reader.get_variable_to_shape_map()):
            if key != "_CHECKPOINTABLE_OBJECT_GRAPH":
                digest.update(key.encode() + reader.get_tensor(key).tobytes())
    except (LookupError, ValueError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); {_MAKE_AGAIN}") from error
    return digest.hexdigest()


def export_description(
    run_dir: str | Path, name: str, needed: Mapping[str, type] = MappingProxyType({})
) -> dict[str, Any]:
    """RUN/export/NAME.json, without loading the model; errors as `load_export`.

    Args:
        run_dir, name: of the export.
        needed: key -> type of what must be in it.
    """
    target = Path(run_dir) / "export" / name
    path = target.with_suffix(".json")
    try:
        os.stat(target)  # unlike exists(), it tells what is missing from what is closed
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{target} does not exist: {run_dir} has not finished training; start its "
            "command again"
        ) from error
    except OSError as error:
        raise RunError(
            f"{target} cannot be read: {error.strerror}. {files.remedy(error, 'read')}"
        ) from error
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); {_MAKE_AGAIN}") from error
    if not isinstance(described, dict):
        raise RunError(f"{path} is damaged (no JSON object); {_MAKE_AGAIN}")
    described = files.unsealed(described)
    if described is None:
        raise RunError(f"{path} was changed since it was written; {_MAKE_AGAIN}")
    wrong = [
        key for key, of in needed.items() if not isinstance(described.get(key), of)
    ]
    wrong += filter(None, [record_forms.odd(described)])
    if wrong:
        raise RunError(
            f"{path} does not say {', '.join(wrong)} of the export, or not as it "
            f"should; {_MAKE_AGAIN}"
        )
    return described


_MAKE_AGAIN = "start the command of its run again, which writes it anew"


def load_export(
    run_dir: str | Path, name: str, needed: Mapping[str, type] = MappingProxyType({})
) -> tuple[Any, dict[str, Any]]:
    """Returns (signatures, description) of RUN/export/NAME.

    Args:
        run_dir, name: of the export.
        needed: key -> type of what the description must have.

    Raises:
        RunError: the run has no such export, so it has not finished; or it is damaged.
    """
    require_plain(run_dir)
    description = export_description(run_dir, name, needed)
    path = Path(run_dir) / "export" / name
    _require_as_written(path, description)
    try:
        return tf.saved_model.load(str(path)), description
    except Exception as error:  # of a damaged file TensorFlow raises errors of any kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} is damaged ({reason}); {_MAKE_AGAIN}") from error


def require_endpoint(
    export: object,
    path: str | Path,
    name: str,
    inputs: Mapping[str, tf.TensorSpec],
    outputs: Mapping[str, list],
) -> None:
    """Refuses a SavedModel that does not take or give what its description says.

    One that was put in the place of another, of another image size for instance, would
    else fail, or be believed, where it is first called.

    Args:
        export: as loaded.
        path: of it, for the message.
        name: of the endpoint.
        inputs: name -> tf.TensorSpec, in order.
        outputs: name -> shape, None where any size will do.
    """
    problem, given = None, {}
    try:
        function = getattr(export, name).get_concrete_function(*inputs.values())
        given = function.structured_outputs
    except (AttributeError, TypeError, ValueError) as error:
        problem = f"no endpoint {name} of {_shapes(inputs)}: {type(error).__name__}"
    for key, shape in outputs.items():
        if problem is None and key not in given:
            problem = f"{name} gives no {key}"
        elif problem is None and not given[key].shape.is_compatible_with(shape):
            problem = f"{name} gives {key} as {list(given[key].shape)}, not {shape}"
    if problem:
        raise RunError(
            f"{path} is not the export that its description beside it is of "
            f"({problem}); {_MAKE_AGAIN}"
        )


def _shapes(specs):
    return ", ".join(f"{key} {list(each.shape)}" for key, each in specs.items())
