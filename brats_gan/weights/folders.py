"""Folders of weights: written whole, read with checksums, and found by name."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np

from brats_gan import data, files, runs, structural
from brats_gan.data import record_forms
from brats_gan.stacks import Stacks
from brats_gan.weights.stored import BUILDERS, Stored

FORMAT = 1
_FIT = ("mean", "factor", "heights")  # of structural.Fit, which are arrays
_STACKS = (
    "correlation",
    "threshold",
    "smoothing",
)  # of stacks.Stacks, which are no arrays

# What the name `pretrained` stands for, and `pretrained-64`: smaller, for 64 x 64.
PRETRAINED = Path(__file__).parents[1] / "pretrained"
PRETRAINED_64 = PRETRAINED.with_name("pretrained_64")
LABELS = "labels.npz"  # in it, see data.LabelPool

_COPY_AGAIN = (
    "copy the folder again, or start the command of its run again, which writes it anew"
)


def write(folder: Path, stored: Stored, dtype: type[np.floating] = np.float32) -> None:
    """Writes a folder of weights, whole or not at all.

    Args:
        folder: Path; an older one is replaced once the new one is whole.
        stored: Stored.
        dtype: float32, or float16; a variable that float16 does not hold to a
            thousandth of its largest value stays float32.
    """
    temporary, old = (
        folder.with_name(f".{folder.name}.{end}") for end in ("new", "old")
    )
    for left in (temporary, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    parts = dict(stored.arrays)
    description = {"format": FORMAT, **stored.description}
    if stored.found is not None:
        numbers = stored.found._asdict()
        parts["fit"] = {n: numbers[n] for n in _FIT if numbers[n] is not None}
        description["edge_threshold"] = float(stored.found.threshold)
        if stored.found.stacks is not None:
            arrays = stored.found.stacks._asdict()
            numbers = {name: arrays.pop(name) for name in _STACKS}
            parts["stacks"], description["stacks"] = arrays, numbers
    digests = {}
    try:
        for name, arrays in parts.items():
            content = _packed(arrays, dtype)
            digests[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
            files.write_atomically(temporary / f"{name}.npz", content)
        if stored.split is not None:
            data.save_split(temporary / "split.json", stored.split)
        whole = files.sealed({**description, "files": digests})
        files.write_json(temporary / "weights.json", whole)
    except files.DataError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _packed(arrays, dtype):
    """The bytes of an .npz file."""
    content = BytesIO()
    if dtype == np.float16:  # what ships is small: half of a factor is zeros
        np.savez_compressed(content, **{k: _halved(v) for k, v in arrays.items()})
    else:
        np.savez(content, **arrays)
    return content.getvalue()


def _halved(value):
    """As float16, unless that overflows or is too coarse."""
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
        error = np.abs(half.astype(np.float32) - value).max(initial=0)
    fits = error <= 1e-3 * np.abs(value).max(initial=0)
    return half if fits else value


def read(folder: str | Path) -> Stored:
    """Stored of a folder of weights.

    Raises:
        RunError: a file is missing, damaged or of other weights, or a newer version
            wrote it.
        DataError: weights.json or split.json is not readable.
    """
    folder = Path(folder)
    path = folder / "weights.json"
    description = files.read_json(path)
    version = description.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise runs.RunError(
            f"{path} was written by a newer version of brats_gan "
            f"({description.get('version')}); install that"
        )
    description = files.unsealed(description)
    if description is None:
        raise runs.RunError(f"{path} was changed since it was written; {_COPY_AGAIN}")
    digests = description.pop("files", None)
    if (
        version != FORMAT
        or description.get("stage") not in [*BUILDERS]
        or not isinstance(description.get("build"), dict)
        or not isinstance(description.get("steps"), int)
        or not isinstance(digests, dict)
        or any(Path(name).name != name for name in digests)
        or record_forms.odd(description)
    ):
        raise runs.RunError(f"{path} does not describe weights; {_COPY_AGAIN}")
    arrays = {name: _read_npz(folder, name, digests[name]) for name in digests}
    found = None
    if "flow" in description:
        # Of a version whose CF_f was not told which slice a map is of: no map can be
        # drawn with that, but a run can start from the other networks.
        for name in ("fit", "stacks"):
            arrays.pop(name, None)
    if "fit" in arrays:
        fit, threshold = arrays.pop("fit"), description.get("edge_threshold")
        if not {"mean", "factor"} <= fit.keys() <= {*_FIT} or not isinstance(
            threshold, float
        ):
            raise runs.RunError(f"{path} and fit.npz hold no fit; {_COPY_AGAIN}")
        if "heights" in fit and structural.FLOW not in arrays:
            raise runs.RunError(
                f"{path} says that {structural.FLOW} carries codes, and there is none; "
                f"{_COPY_AGAIN}"
            )
        found = structural.Fit(**fit, threshold=threshold)
    if "stacks" in arrays:
        numbers, fit = description.get("stacks"), arrays.pop("stacks")
        try:
            numbers = {name: float(numbers[name]) for name in _STACKS}
            found = found._replace(stacks=Stacks(**fit, **numbers))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise runs.RunError(
                f"{path} and stacks.npz hold no stacks; {_COPY_AGAIN}"
            ) from error
    split = folder / "split.json"
    split = data.load_split(split, apart=False) if split.exists() else None
    return Stored(str(folder), description, arrays, found, split)


def _read_npz(folder, name, digest):
    """{key: float32 array} of folder/NAME.npz."""
    path = folder / f"{name}.npz"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise runs.RunError(
            f"{path} is missing, but weights.json names it; {_COPY_AGAIN}"
        ) from error
    except OSError as error:
        raise runs.RunError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
        raise runs.RunError(
            f"{path} is damaged or of other weights: weights.json beside it was "
            f"written with other content; {_COPY_AGAIN}"
        )
    try:
        with np.load(BytesIO(content)) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise runs.RunError(f"{path} holds no arrays; {_COPY_AGAIN}") from error
    if any(value.dtype not in (np.float32, np.float16) for value in arrays.values()):
        raise runs.RunError(f"{path} holds something else than weights; {_COPY_AGAIN}")
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def _packaged(source):
    """The folder in the package that a name stands for; None if it is no such name."""
    return {"pretrained": PRETRAINED, "pretrained-64": PRETRAINED_64}.get(str(source))


def folder_of(source: str | Path, stage: str) -> Path | None:
    """The folder of weights that `source` stands for; None if it is a run, or nothing.

    Args:
        source: `pretrained` or `pretrained-64`, a folder of weights, or one that has
            such folders by the names of the stages, as brats_gan/pretrained does.
        stage: "structural", "multimodal" or "segmentation", which takes the lesion
            components of "multimodal" where there is no folder of its own.

    Raises:
        RunError: one of these names, and this installation came without weights.
    """
    packaged = _packaged(source)
    above = packaged or Path(source)
    stages = [stage, "multimodal"] if stage == "segmentation" else [stage]
    for folder in (above, *(above / each for each in stages)):
        if (folder / "weights.json").exists():
            return folder
    if packaged:
        raise runs.RunError(
            f"{packaged} has no weights of stage {stage}: this copy of brats_gan "
            "came without; install it from a release, or give a run"
        )
    return None


def fingerprint(folder: Path) -> str:
    """Of the weights in a folder, wherever it lies: by the digests of its files."""
    described = files.read_json(Path(folder, "weights.json"))
    told = {key: described.get(key) for key in ("stage", "edge_threshold", "files")}
    text = json.dumps(told, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def labels_of(source: str | Path) -> Path | None:
    """Path of the labels that come with weights, or None."""
    path = (_packaged(source) or Path(source)) / LABELS
    return path if path.exists() else None
