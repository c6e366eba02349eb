"""Flags that several scripts have, and how they become settings of a stage.

absl knows a flag as that of the module that defines it, and flags.txt has the flags of
the script. So these are functions: the flag is defined as a script calls one, and is
the script's, because this module disclaims it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from absl import flags

from brats_gan import data, flag_parsers, io, losses, runs, structural_map, weights
from brats_gan import precision as precisions
from brats_gan import spec as specs

flags.disclaim_key_flags()

T = TypeVar("T")

DETERMINISTIC = (
    "Losses are equal to the last bit when a run is repeated or resumed, on the same "
    "machine and versions. A step takes 1.6 times as long in float32, 24 times in "
    "mixed_bfloat16 (docs/performance.md)."
)
STEPS_PER_CALL = (
    "Steps in one call of TensorFlow: a number, or auto, which runs several short ones "
    "together. Batches and random numbers stay the same, but sums may be in another "
    "order, so with --deterministic it is one."
)


# Bounds of numbers. The upper ones are far beyond what is of use, and below what a seed
# of TensorFlow (int32, of step and run) or the memory of any machine can hold.
MOST_STEPS = 2_000_000_000
MOST_SEED = 2_000_000_000
MOST_SLICES = 65536  # of a batch
MOST_WIDTH = 4096
MOST_PIXELS = 4096
MOST_WEIGHT = 1e6
MOST_EPOCHS = 1e6


def number(
    name: str, default: float | None, help: str, lowest: float, highest: float
) -> flags.FlagHolder:
    """A flag for a number from `lowest` to `highest`; absl's would take nan for one."""
    return flags.DEFINE(
        flag_parsers.Number(lowest, highest),
        name,
        default,
        help,
        serializer=flags.ArgumentSerializer(),
    )


def count(
    name: str, default: int | None, help: str, highest: int, lowest: int = 1
) -> flags.FlagHolder:
    """A flag for a whole number from `lowest` to `highest`."""
    return flags.DEFINE_integer(name, default, help, lowest, highest)


# --- Data -----------------------------------------------------------------------------


def path(name: str, help: str) -> flags.FlagHolder[str | None]:
    """A flag whose value is a path, without a default."""
    serializer = flags.ArgumentSerializer()
    return flags.DEFINE(
        flag_parsers.FolderParser(), name, None, help, serializer=serializer
    )


def data_dir(
    help: str = "BraTS folder, see data/README.md.",
) -> flags.FlagHolder[str | None]:
    return path("data_dir", help)


def layout() -> flags.FlagHolder[str | None]:
    return flags.DEFINE_string(
        "layout", None, "Layout of data_dir. Detected from file names if unset."
    )


def patient_pattern() -> flags.FlagHolder[str | None]:
    return flags.DEFINE(
        flag_parsers.PatternParser(),
        "patient_pattern",
        None,
        "Regular expression whose one group is the patient in the name of a subject, "
        "so that all visits of a patient are on one side of the split. Names of known "
        "collections need none (data/README.md).",
        serializer=flags.ArgumentSerializer(),
    )


def labels() -> None:
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


def split(default: str = "drawn from --split_seed") -> flags.FlagHolder[str | None]:
    return path("split", f"A split.json to keep to; default: {default}.")


def split_seed() -> flags.FlagHolder[int]:
    # random.Random takes -1 for 1.
    return count("split_seed", 0, "Seeds the split by patient.", MOST_SEED, 0)


def held_out() -> flags.FlagHolder[float]:
    return number("held_out", 0.1, "Share of the patients to hold out.", 0, 1)


def slices() -> flags.FlagHolder[str]:
    default = ":".join(map(str, specs.BRATS.slices))
    return flags.DEFINE_string(
        "slices",
        default,
        "Axial slices, half-open (D15). If unset, --spec may name others.",
    )


def spec() -> flags.FlagHolder[specs.Spec | None]:
    """A flag whose value is a spec.Spec, or None for that of BraTS."""
    return flags.DEFINE(
        flag_parsers.SpecParser(),
        "spec",
        None,
        "JSON file of the modalities, labels and regions of data that is not BraTS' "
        "(docs/how_to.md).",
        serializer=flags.ArgumentSerializer(),
    )


def cache_dir() -> flags.FlagHolder[str | None]:
    return path(
        "cache_dir",
        "Folder that keeps decoded slices for later runs. If unset, $BRATS_GAN_CACHE, "
        "or brats_gan in the user's folder for caches.",
    )


def check(
    help: str = "Check the data before the first step.",
) -> flags.FlagHolder[bool]:
    return flags.DEFINE_bool("check", True, help)


# --- Training -------------------------------------------------------------------------


def run_dir() -> flags.FlagHolder[str | None]:
    return path("run_dir", "Folder of this run; resumed if it exists.")


def init_from(of: str = "") -> flags.FlagHolder[str | None]:
    return path("init_from", f"{of}{weights.INIT_FROM}")


def image_size(multiple: int) -> flags.FlagHolder[int]:
    """A flag for the side of slices, which the networks need to be a multiple."""
    return flags.DEFINE(
        flag_parsers.Multiple(multiple, MOST_PIXELS),
        "image_size",
        192,
        f"Pixels per side of a slice, a multiple of {multiple}.",
        serializer=flags.ArgumentSerializer(),
    )


def steps() -> flags.FlagHolder[int | None]:
    return count("steps", None, "Training steps; by --epochs if unset.", MOST_STEPS)


def epochs(
    default: float, help: str = "Passes over the training slices, if --steps is unset."
) -> flags.FlagHolder[float]:
    return number("epochs", default, help, 1e-3, MOST_EPOCHS)


def batch_size(default: int, help: str) -> flags.FlagHolder[int]:
    return count("batch_size", default, help, MOST_SLICES)


def learning_rate(
    default: float = 5e-4, help: str = "Adam's peak rate."
) -> flags.FlagHolder[float]:
    return number("learning_rate", default, help, 1e-9, 1)


def width(
    name: str = "width",
    default: int | None = 64,
    help: str = "Base width n of the networks.",
) -> flags.FlagHolder[int | None]:
    return count(name, default, help, MOST_WIDTH)


def beta() -> flags.FlagHolder[float]:
    return number("beta", structural_map.BETA, "Threshold of Algorithm 1 (D3).", 0, 1)


def input_noise(default: float, help: str) -> flags.FlagHolder[float]:
    return number("input_noise", default, help, 0, 1)


def final_rate(default: float) -> flags.FlagHolder[float]:
    help = (
        "Share of the learning rate at the last step; it falls over the second half of "
        "the steps. 1 keeps it constant, as the paper (D39)."
    )
    return number("final_rate", default, help, 0, 1)


def ema(default: float) -> flags.FlagHolder[float]:
    help = "Share of the steps over which exported weights are averaged (D51)."
    return number("ema", default, help, 0, 1)


def of_layers() -> None:
    """The flags --output_norm, --initialization and --leaky_relu, of all networks."""
    flags.DEFINE_bool(
        "output_norm",
        False,
        "Instance norm on output convolutions too, as the authors' (D11).",
    )
    flags.DEFINE_enum(
        "initialization",
        "he_normal",
        ["he_normal", "mean_filter"],
        "How weights begin: mean_filter is the authors', in which every filter is a "
        "mean with noise of 1e-6 (D11).",
    )
    flags.DEFINE_bool(
        "leaky_relu",
        True,
        "LeakyReLU(0.2) in discriminators, ReLU elsewhere; off, ReLU up to 100 in all, "
        "as the authors' code comes to (D11).",
    )


def all_labels() -> flags.FlagHolder[bool]:
    return flags.DEFINE_bool(
        "all_labels",
        False,
        "Draw the labels that are inserted from all slices alike, as the paper; off, "
        "from slices with a lesion, and a share of them empty (D23).",
    )


def label_loss() -> flags.FlagHolder[str]:
    return flags.DEFINE_enum(
        "label_loss",
        "weighted",
        list(losses.LABEL_LOSSES),
        "Loss of predicted labels (D12): squared is the paper's, squared_sigmoid as in "
        "the authors' code, where a pixel may be of several classes.",
    )


def loss_weights(
    defaults: Mapping[str, float],
) -> dict[str, flags.FlagHolder[float]]:
    """{name: flag} of the weights of a stage's losses, {name: default}."""
    return {
        name: number(
            f"weight_{name}", value, f"Weight of the loss {name} (D9).", 0, MOST_WEIGHT
        )
        for name, value in defaults.items()
    }


def seed(
    help: str = "Seeds weights, noise and the order of slices.",
) -> flags.FlagHolder[int]:
    return count("seed", 0, help, MOST_SEED, 0)


def precision() -> flags.FlagHolder[str]:
    return flags.DEFINE_enum(
        "precision", precisions.AUTO, precisions.CHOICES, precisions.HELP
    )


def deterministic() -> flags.FlagHolder[bool | None]:
    # Not False: flags.txt of a run that is older than this flag would not agree.
    return flags.DEFINE_bool("deterministic", None, DETERMINISTIC)


def checkpoint_seconds() -> flags.FlagHolder[float]:
    return number(
        "checkpoint_seconds",
        runs.CHECKPOINT_SECONDS,
        "Seconds between checkpoints: what is lost at most when a run is killed.",
        0,
        1e9,
    )


def steps_per_call() -> flags.FlagHolder[str | int]:
    return flags.DEFINE(
        flag_parsers.StepsPerCall(),
        "steps_per_call",
        "auto",
        STEPS_PER_CALL,
        serializer=flags.ArgumentSerializer(),
    )


def strategy() -> None:
    """The flags --strategy and --replicas."""
    flags.DEFINE_enum(
        "strategy",
        runs.NONE,
        runs.STRATEGIES,
        "Replicas that share in every step: mirrored, on the GPUs of this machine; "
        "multi_worker, a process on each of several, which TF_CONFIG names. "
        "--batch_size is that of all of them (docs/cluster.md).",
    )
    count("replicas", None, "Of --strategy=mirrored; all GPUs if unset.", 1024)


def workers(units: str) -> None:
    """The flags --workers and --scheduler, of which `units` are made at once."""
    count(
        "workers",
        None,
        f"Processes that make {units} at once, on the cores of this machine; needs "
        "Dask (docs/cluster.md). If unset, this process makes them.",
        10_000,
    )
    flags.DEFINE_string(
        "scheduler",
        None,
        f"tcp://HOST:PORT of a Dask scheduler, whose workers make {units} "
        "(docs/cluster.md).",
    )


# --- From flags to settings -----------------------------------------------------------


def chosen(kind: type[T], **given: Any) -> T:
    """Fills a stage's Settings, or another dataclass, from flags of its fields' names.

    Call it in `main`. A field without a flag keeps its default; the flags weight_NAME
    are the items of a field `weights`.

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


# Settings whose values a stage chooses as it begins; `record` sets their flags.
SETTLED = ("precision", "dice_threshold")


def record(settings: Any) -> runs.Command:
    """The command that flags.txt and exports name, with the flags as they were settled.

    It is the argument `record` of the stages.
    """
    for name in SETTLED:
        if hasattr(settings, name):
            flags.FLAGS[name].value = getattr(settings, name)
    return runs.command()
