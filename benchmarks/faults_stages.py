"""Commands of tiny runs, and what they leave, as far as it is always the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults_process import BEGIN, END, STEPS, TRAINED


class Stage(NamedTuple):
    """A command of a tiny run; {} in a flag is the place of all folders."""

    script: str
    flags: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()
    stops: tuple[str, ...] = (END,)

    def flags_in(self, place: Path) -> list[str]:
        return [flag.replace("{}", str(place)) for flag in self.flags]


_DATA = ("--data_dir={}/data", "--cache_dir={}/cache")
_TINY = (
    *_DATA,
    *("--image_size=32", "--width=2", "--slices=1:5", "--precision=float32"),
    *("--deterministic", "--held_out=0.3", "--checkpoint_seconds=0"),
)
_STAGE1 = (*_TINY, f"--steps={STEPS}", "--batch_size=2")
_MODELS = ("--structural_run={}/structural", "--multimodal_run={}/multimodal")
_FEW = ("--samples=3", "--batch_size=2", "--max_tries=2")
STAGES = {
    "structural": Stage(
        "train_structural.py",
        (*_STAGE1, "--run_dir={}/structural"),
        ("data", "cache"),
        ("structural",),
        (BEGIN, TRAINED, END),
    ),
    "multimodal": Stage(
        "train_multimodal.py",
        (
            *(*_TINY, f"--steps={STEPS}", "--first_phase=0.34"),
            *("--split={}/structural/split.json", "--run_dir={}/multimodal"),
        ),
        ("data", "cache", "structural"),
        ("multimodal",),
        (BEGIN, TRAINED, END),
    ),
    "dataset": Stage(
        "build_dataset.py",
        (*_DATA, *_MODELS, *_FEW, "--output_dir={}/synthetic"),
        ("data", "cache", "structural", "multimodal"),
        ("synthetic",),
        (BEGIN, END),
    ),
    "segmentation": Stage(
        "eval_segmentation.py",
        (
            *(*_TINY, f"--iterations={STEPS}", "--scheme=four_channel"),
            *("--synthetic_dir={}/synthetic", "--run_dir={}/segmentation"),
        ),
        ("data", "cache", "synthetic"),
        ("segmentation", "results.jsonl"),
        (BEGIN, TRAINED, END),
    ),
    "convert": Stage(
        "prepare_data.py",
        ("convert", "--data_dir={}/data", "--output_dir={}/converted"),
        ("data",),
        ("converted",),
    ),
    "check": Stage(
        "prepare_data.py",
        ("check", "--data_dir={}/data", "--slices=1:5", "--json"),
        ("data",),
    ),
    "cache": Stage("prepare_data.py", ("cache", "--cache_dir={}/cache"), ("cache",)),
    "phantom": Stage(
        "prepare_data.py",
        ("phantom", "--output_dir={}/phantom", "--subjects=1", "--spec={}/thin.json"),
        ("thin.json",),
        ("phantom",),
    ),
    "begun": Stage(
        "train_structural.py",
        (*_STAGE1, "--run_dir={}/begun", "--init_from={}/structural/weights"),
        ("data", "cache", "structural"),
        ("begun",),
        (BEGIN,),
    ),
    "dataset of weights": Stage(
        "build_dataset.py",
        (
            *(*_DATA, *_FEW, "--output_dir={}/other"),
            "--structural_run={}/structural/weights",
            "--multimodal_run={}/multimodal/weights",
        ),
        ("data", "cache", "structural", "multimodal"),
        ("other",),
        (BEGIN,),
    ),
}
# Those whose results are kept from the beginning, in the order they are made in.
MADE = ("structural", "multimodal", "dataset", "segmentation", "convert")
THIN = {
    "modalities": ["t1", "flair"],
    "labels": ["background", "lesion"],
    "slices": [80, 82],
}

# --- What is left ---------------------------------------------------------------------

_NOT_COMPARED = {
    *("flags", "Flags", "revision", "Revision", "seconds", "version", "script"),
    *("digest", "files"),  # of all of it, and of SavedModels
}


def needed(stages: Iterable[str]) -> set[str]:
    """The stages whose results these stages read or damage, themselves included."""
    maker = {top: stage for stage in MADE for top in STAGES[stage].writes}
    found, left = set(), list(stages)
    while left:
        stage = left.pop()
        found.add(stage)
        left += {maker[top] for top in STAGES[stage].reads if top in maker} - found
    return found


def copy(whole: Path, place: Path, names: Iterable[str]) -> None:
    """Copies what there is of some folders and files."""
    for name in names:
        if (whole / name).is_dir():
            shutil.copytree(whole / name, place / name, symlinks=True)
        elif (whole / name).exists():
            shutil.copy2(whole / name, place / name)


# What tells of a folder: its lock and flags, and reports, which have times.
_TOLD = (".lock", "flags.txt", "report.html", "progress.json", "sheet.png")


def state(place: Path, writes: Iterable[str]) -> dict[str, object]:
    """What a command left, as far as it is always the same: {name: content}."""
    found = {}
    for top in writes:
        paths = [place / top]
        if paths[0].is_dir():
            paths = sorted(p for p in (place / top).rglob("*") if p.is_file())
        for path in paths:
            name = path.relative_to(place).as_posix()
            if not path.exists() or path.name in _TOLD:
                continue
            if "/tensorboard/" in name or "/checkpoints/" in name:
                continue
            found[name] = _content(path, place)
    return found


def _content(path, place):
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = [content] if path.suffix == ".json" else content.splitlines()
        text = [x.replace(str(place).encode(), b"") for x in lines]
        try:
            return _without([json.loads(each) for each in text])
        except ValueError:
            return text
    if path.suffix == ".gz" and "synth-" not in path.name:
        content = gzip.decompress(content)  # the same, whatever its head says
    drawn = path.suffix == ".png" and path.name != "samples.png"
    if drawn or path.suffix in (".pb", ".index") or ".data-" in path.name:
        return ""  # numbered or drawn anew each time
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _without(value):
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _NOT_COMPARED}
    return [_without(v) for v in value] if isinstance(value, list) else value


def differences(one: dict, other: dict) -> list[str]:
    """Names of what is not alike."""
    names = one.keys() | other.keys()
    return sorted(n for n in names if one.get(n) != other.get(n))
