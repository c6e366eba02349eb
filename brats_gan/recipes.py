"""Recipes: all that one painted set is made of, as JSON that makes it again.

A recipe has the code itself beside the seed that it was drawn from, so that it means
the same to every version of NumPy's generators.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from brats_gan import files, structural_map
from brats_gan.spec import BRATS, Spec

NAME = "recipe.json"  # beside a set
FORMAT = 1
MOST_SEED = 2_000_000_000
THRESHOLDS = ("mae_threshold", "dice_threshold")


class Code(NamedTuple):
    """The noise that one set is drawn from, of N(0, 1), and its style."""

    subject: np.ndarray  # [K], which brain; of no numbers where maps are single slices
    detail: np.ndarray  # [D], how the slice differs from what that says
    height: int | None  # 0..S-1, from below; None where maps are single slices
    style: np.ndarray  # [M, L], brightness and contrast (D33); [0] where there is none


@dataclass(frozen=True)
class Recipe:
    """A set: what draws its map, its style, its label, and the models that drew it."""

    seed: int  # of the code
    code: Code
    label: np.ndarray  # [H, W] uint8 0..L-1
    models: Mapping[str, str]  # see trained_models.fingerprints
    mask_images: bool = True  # see synthesis.masked
    # Of the filters, by which a set says whether it is accepted (Section 2.8).
    mae_threshold: float = structural_map.MAE_THRESHOLD
    dice_threshold: float = 0.95

    def as_json(self) -> bytes:
        """The recipe as a file has it; the same recipe gives the same bytes."""
        code = self.code
        content = {
            "format": FORMAT,
            "seed": self.seed,
            "models": dict(self.models),
            "mask_images": self.mask_images,
            "thresholds": {name: float(getattr(self, name)) for name in THRESHOLDS},
            "code": {
                "subject": _listed(code.subject),
                "detail": _listed(code.detail),
                "height": code.height,
                "style": _listed(code.style),
            },
            "label": {"size": len(self.label), "runs": runs_of(self.label)},
        }
        return (json.dumps(content, sort_keys=True) + "\n").encode()


def _listed(array):
    # A float32 is exactly its float64, and JSON has that to the last digit.
    return np.asarray(array, np.float32).astype(float).tolist()


def runs_of(label: np.ndarray) -> list[list[int]]:
    """[H, W] -> [[value, how often], ...] along the rows, one after the other."""
    flat = label.ravel()
    starts = np.flatnonzero(np.diff(flat)) + 1
    bounds = [0, *starts.tolist(), flat.size]
    return [
        [int(flat[start]), end - start]
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def label_of_runs(runs: Any, size: int, spec: Spec = BRATS) -> np.ndarray:
    """The inverse of `runs_of`: [size, size] uint8.

    Raises:
        ValueError: they are not runs of labels that fill it.
    """
    whole = isinstance(runs, Sequence) and all(
        isinstance(run, list) and len(run) == 2 and all(type(n) is int for n in run)
        for run in runs
    )
    if not whole:
        raise ValueError("label.runs: a list of [value, how often] is due")
    if not all(0 <= value < spec.num_labels and often > 0 for value, often in runs):
        raise ValueError(f"label.runs: values are 0 to {spec.num_labels - 1}")
    if sum(often for _, often in runs) != size * size:
        raise ValueError(f"label.runs: they do not fill {size} x {size} pixels")
    values, often = zip(*runs, strict=True)
    return np.repeat(np.array(values, np.uint8), often).reshape(size, size)


def parse(content: Any, size: int, spec: Spec = BRATS) -> Recipe:
    """A recipe out of the JSON that `Recipe.as_json` writes.

    Args:
        content: parsed JSON.
        size: pixels a side of the slices that the models make.
        spec: of the models.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'it is no recipe: "format" is not {FORMAT}')
    try:
        code, label = content["code"], content["label"]
        seed, models, masked = (
            content[name] for name in ("seed", "models", "mask_images")
        )
        height, side = code["height"], label["size"]
        noise = {name: _array(name, code[name]) for name in _NOISE}
        runs = label["runs"]
        thresholds = {name: content["thresholds"][name] for name in THRESHOLDS}
    except (KeyError, TypeError) as error:
        raise ValueError(f"it is no recipe: {error} is missing") from error
    if type(seed) is not int or not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed: {seed!r:.40} is not a number from 0 to {MOST_SEED}")
    if height is not None and (type(height) is not int or height < 0):
        raise ValueError(f"height: {height!r:.40} is not a whole number from 0")
    if type(masked) is not bool:
        raise ValueError(f"mask_images: {masked!r:.40} is neither true nor false")
    if not isinstance(models, dict) or not all(map(_is_text, models.items())):
        raise ValueError("models: names and fingerprints are due")
    for name, value in thresholds.items():
        require_number(name, value, 0, 1)
    if side != size:
        raise ValueError(
            f"it is of slices of {side!r:.40} pixels a side, the models make {size}"
        )
    return Recipe(
        seed,
        Code(noise["subject"], noise["detail"], height, noise["style"]),
        label_of_runs(runs, size, spec),
        models,
        masked,
        **thresholds,
    )


_NOISE = ("subject", "detail", "style")


def _is_text(pair):
    return all(isinstance(each, str) for each in pair)


def _array(name, given):
    """float32 of nested lists of finite numbers."""
    try:
        array = np.array(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"code.{name}: numbers are due") from error
    limit = np.finfo(np.float32).max
    if array.dtype.kind != "f" or not (np.abs(array) <= limit).all():
        raise ValueError(f"code.{name}: finite numbers are due")
    return array.astype(np.float32)


def read(path: str | os.PathLike, size: int, spec: Spec = BRATS) -> Recipe:
    """The recipe in a file.

    Raises:
        DataError: it is not there or no recipe; names the file.
    """
    try:
        return parse(files.read_json(path), size, spec)
    except files.DataError:
        raise
    except ValueError as error:
        raise files.DataError(
            f"{path}: {error}. Give the recipe.json of a set that explore.py made."
        ) from error


def require_number(name: str, given: Any, low: float, high: float) -> float:
    """A finite number in a range; ValueError otherwise."""
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not math.isfinite(given) or not low <= given <= high:
        raise ValueError(f"{name}: {given!r:.40} is no number from {low} to {high}")
    return given
