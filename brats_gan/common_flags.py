"""Flags that several scripts have, and how they become settings of a stage.

absl knows a flag as that of the module that defines it, and flags.txt has the flags of
the script. So these are functions: the flag is defined as a script calls one, and is
the script's, because this module disclaims it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, TypeVar

from absl import flags

from brats_gan import data, io, losses, runs, structure, weights
from brats_gan import precision as precisions
from brats_gan import spec as specs

flags.disclaim_key_flags()

T = TypeVar("T")

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


class StepsPerCall(flags.ArgumentParser):
    """What --steps_per_call takes: "auto", or a number above 0."""

    def parse(self, argument):
        if argument == "auto":
            return argument
        if not str(argument).isdecimal() or not int(argument):
            raise ValueError(f"{argument} is neither auto nor a number above 0")
        return int(argument)


# --- Data -----------------------------------------------------------------------------


class FolderParser(flags.ArgumentParser):
    """What flags of folders and files take: a path, whose ~ is the home folder.

    A shell leaves it alone behind the = of a flag.
    """

    def parse(self, argument):
        return os.path.expanduser(argument) if argument else argument

    def flag_type(self):
        return "path"


def path(name, help):
    """A flag whose value is a path, without a default."""
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE(FolderParser(), name, None, help, serializer=serializer)


def data_dir(help="BraTS folder, see data/README.md."):
    return path("data_dir", help)


def layout():
    return flags.DEFINE_string("layout", None, "Layout of data_dir; default: look.")


def labels():
    """The flags --labels, --merge_labels and --drop_labels."""
    flags.DEFINE_string(
        "labels",
        None,
        f"What the numbers in label files mean: {', '.join(io.CONVENTIONS)}; default: "
        "by names of files (data/README.md).",
    )
    flags.DEFINE_string(
        "merge_labels", None, "Read labels in files as others: 3:1,255:1."
    )
    flags.DEFINE_string("drop_labels", None, "Read labels in files as 0: 4,5.")


def split(default="drawn from --split_seed"):
    return path("split", f"A split.json to keep to; default: {default}.")


def split_seed():
    return flags.DEFINE_integer("split_seed", 0, "Seeds the split by subject.")


def held_out():
    return flags.DEFINE_float("held_out", 0.1, "Share of subjects held out.", 0, 1)


def slices():
    default = ":".join(map(str, specs.BRATS.slices))
    return flags.DEFINE_string(
        "slices", default, "Axial slices, half-open (D15); with --spec: those it names."
    )


class SpecParser(flags.ArgumentParser):
    """What --spec takes: a JSON file, or JSON; flags.txt has the JSON."""

    def parse(self, argument):
        if isinstance(argument, specs.Spec):
            return argument
        return specs.parse(argument)

    def flag_type(self):
        return "data specification"


def spec():
    """A flag whose value is a spec.Spec, or None for that of BraTS."""
    return flags.DEFINE(
        SpecParser(),
        "spec",
        None,
        "JSON file of the modalities, labels and regions of data that is not BraTS' "
        "(docs/how_to.md).",
        serializer=flags.ArgumentSerializer(),
    )


def cache_dir():
    return path("cache_dir", "Keeps decoded slices for later runs.")


def check(help="Check the data before the first step."):
    return flags.DEFINE_bool("check", True, help)


# --- Training -------------------------------------------------------------------------


def run_dir():
    return path("run_dir", "Folder of this run; resumed if it exists.")


def init_from(of=""):
    return path("init_from", f"{of}{weights.INIT_FROM}")


def image_size(multiple):
    """A flag for the side of slices, of which networks ask that it is a multiple."""
    return flags.DEFINE_integer(
        "image_size", 192, f"Pixels a side, a multiple of {multiple}.", multiple
    )


def steps():
    return flags.DEFINE_integer("steps", None, "Training steps; default: by --epochs.")


def learning_rate():
    return flags.DEFINE_float("learning_rate", 5e-4, "Adam's peak rate.")


def width():
    return flags.DEFINE_integer("width", 64, "Base width n of the networks.", 1)


def beta():
    return flags.DEFINE_float("beta", structure.BETA, "Threshold of Algorithm 1 (D3).")


def label_loss():
    return flags.DEFINE_enum(
        "label_loss", "weighted", list(losses.LABEL_LOSSES), "Lesion loss (D12)."
    )


def loss_weights(defaults):
    """{name: flag} of the weights of a stage's losses, {name: default}."""
    return {
        name: flags.DEFINE_float(
            f"weight_{name}", value, f"Weight of the loss {name} (D9)."
        )
        for name, value in defaults.items()
    }


def seed(help="Seeds weights, noise and the order of slices."):
    return flags.DEFINE_integer("seed", 0, help)


def precision():
    return flags.DEFINE_enum(
        "precision", precisions.AUTO, precisions.CHOICES, precisions.HELP
    )


def deterministic():
    # Not False, or flags.txt of a run from before there was this flag would not fit.
    return flags.DEFINE_bool("deterministic", None, DETERMINISTIC)


def checkpoint_seconds():
    return flags.DEFINE_float(
        "checkpoint_seconds",
        runs.CHECKPOINT_SECONDS,
        "Between checkpoints; a kill costs no more.",
    )


def steps_per_call():
    return flags.DEFINE(
        StepsPerCall(),
        "steps_per_call",
        "auto",
        STEPS_PER_CALL,
        serializer=flags.ArgumentSerializer(),
    )


# --- From flags to settings -----------------------------------------------------------


def chosen(kind: type[T], **given: Any) -> T:
    """A stage's Settings, or what else has fields named as flags are, by the flags.

    Call it in `main`. A field that the script has no flag for keeps its default; of a
    field `weights` each flag weight_NAME is an item.

    Args:
        kind: a dataclass.
        given: fields that are not their flag's value.
    """
    values = flags.FLAGS.flag_values_dict()
    values["weights"] = {
        name.removeprefix("weight_"): value
        for name, value in values.items()
        if name.startswith("weight_")
    }
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{**{n: values[n] for n in names & values.keys()}, **given})


def source() -> data.Source:
    """The real data that the flags name."""
    if "slices" not in flags.FLAGS:
        return chosen(data.Source)
    named = flags.FLAGS["slices"]
    if flags.FLAGS["spec"].value is not None and named.using_default_value:
        named.value = ":".join(map(str, flags.FLAGS["spec"].value.slices))
    return chosen(data.Source, slices=io.parse_slices(named.value))


# Settings that a stage finds out as it begins; their flags say so from then on.
SETTLED = ("precision", "dice_threshold")


def record(settings: Any) -> runs.Command:
    """The command that flags.txt and exports name: the flags, as they were settled.

    For the argument `record` of the stages.
    """
    for name in SETTLED:
        if hasattr(settings, name):
            flags.FLAGS[name].value = getattr(settings, name)
    return runs.command()
