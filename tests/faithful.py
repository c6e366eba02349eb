"""Flagfiles as the settings of a stage, without a process of its own for each."""

import dataclasses
import functools
from pathlib import Path

from brats_gan.stages import dataset, multimodal, segmentation, structural
from tests import scripts

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "structural": ("train_structural", structural.Settings),
    "multimodal": ("train_multimodal", multimodal.Settings),
    "dataset": ("build_dataset", dataset.Settings),
    "segmentation": ("eval_segmentation", segmentation.Settings),
}


@functools.cache
def flags_of(stage):
    """{name: flag} of a stage's script."""
    return scripts.flags_of(f"{SCRIPTS[stage][0]}.py")


def values(config, stage):
    """{flag: value} of the lines of a flagfile; the script must have every flag."""
    known, found = flags_of(stage), {}
    text = (ROOT / "configs" / config / f"{stage}.flags").read_text()
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, given, value = line.removeprefix("--").partition("=")
        if name not in known and not given:
            name, value = name.removeprefix("no"), "false"
        elif not given:
            value = "true"
        assert name in known, f"{config}/{stage}.flags: no flag {line}"
        assert name not in found, f"{config}/{stage}.flags: {name} is there twice"
        found[name] = known[name].parser.parse(value)
    return found


def settings(config, stage, **others):
    """The stage's Settings by a flagfile; `others` are fields that are not its own."""
    of_fields = {field.name for field in dataclasses.fields(SCRIPTS[stage][1])}
    given = values(config, stage)
    chosen = {name: value for name, value in given.items() if name in of_fields}
    weights = {
        name.removeprefix("weight_"): value
        for name, value in given.items()
        if name.startswith("weight_")
    }
    if "weights" in of_fields:
        chosen["weights"] = weights
    return SCRIPTS[stage][1](**{**chosen, **others})
