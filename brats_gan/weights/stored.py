"""Weights in memory, and networks of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from brats_gan import (
    __version__,
    lesion_components,
    losses,
    multimodal,
    runs,
    structural,
)
from brats_gan.lazy import tf
from brats_gan.spec import of_description

BUILDERS = {
    "structural": structural.build,
    "multimodal": multimodal.build,
    "segmentation": lesion_components.build,
}
# What arguments of the builders must be, where a wrong one would build other networks.
_SWITCHES = """spectral code_game code_norm output_norm leaky_relu conditional_norm
full_size_norm label_modulation map_modulation style flow""".split()
KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_SWITCHES, lambda value: isinstance(value, bool)),
    "category": lambda value: value in losses.CATEGORY_LOSSES,
    "image_size": lambda value: type(value) is int and value > 0,
    "width": lambda value: type(value) is int and value > 0,
}
SHOWN = 3  # variables of a network that a message names


class Stored(NamedTuple):
    """Weights in memory, and what is known of them."""

    source: str  # what messages call them
    description: dict[
        str, Any
    ]  # weights.json: stage, build, steps, what it was trained on, ...
    arrays: dict[str, dict[str, np.ndarray]]  # {network: {variable: float32 array}}
    found: structural.Fit | None = None  # stage 1, once it is trained
    split: dict | None = None  # of data.load_split

    @property
    def training_subjects(self) -> list[str]:
        """Names of all subjects the weights have seen, in this run or before it."""
        own = self.description.get("training_subjects", [])
        return list(dict.fromkeys([*own, *inherited(self.description)]))


# What a run says of weights and synthetic data that were there before it: in each,
# "training_subjects", names of all that these have seen, and "inputs", their records.
BEFORE = ("initialised_from", "synthetic_from")


def inherited(description: Mapping[str, Any]) -> list[str]:
    """Names of the subjects that were seen by the weights which a run began from, and
    by the models that made the synthetic data it trained on."""
    before = [description.get(key) or {} for key in BEFORE]
    return [name for each in before for name in each.get("training_subjects", [])]


def seen(description: Mapping[str, Any]) -> list[dict]:
    """Records (data.records) of all that weights, or an export, have been trained on,
    in their run or before it; weights from before there were records have none."""
    own = description.get("inputs")
    found = [own] if isinstance(own, dict) else []
    for key in BEFORE:
        found += (description.get(key) or {}).get("inputs", [])
    return [each for n, each in enumerate(found) if each not in found[:n]]


def variables(net: tf.keras.Model) -> dict[str, tf.Variable]:
    """{name: variable} of a network, trained or not, with names for files."""
    found = {}

    def walk(layer, place):
        if isinstance(layer, tf.keras.Model):
            # Layers without weights are not counted: Keras 3 has others than Keras 2.
            inside = [each for each in layer.layers if each.weights]
            for position, each in enumerate(inside):
                walk(each, f"{place}{position}/")
            return
        for variable in layer.weights:
            role = variable.name.partition(":")[0].rpartition("/")[2]
            name, count = f"{place}{role}", 1
            while name in found:
                count += 1
                name = f"{place}{role}_{count}"
            found[name] = variable

    walk(net, "")
    return found


def arrays_of(
    nets: Mapping[str, tf.keras.Model],
) -> dict[str, dict[str, np.ndarray]]:
    """{network: {variable: float32 array}} of {network: Keras model}."""
    return {
        name: {key: np.float32(each.numpy()) for key, each in variables(net).items()}
        for name, net in nets.items()
    }


def mismatches(net: tf.keras.Model, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Lines that name each variable that one side lacks or has in another shape."""
    ours = {key: tuple(each.shape) for key, each in variables(net).items()}
    theirs = {key: value.shape for key, value in arrays.items()}
    return [
        f"variable {key} is {_shape(theirs.get(key))} there and "
        f"{_shape(ours.get(key))} here"
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    ]


def _shape(shape):
    return "missing" if shape is None else list(shape)


def first_of(lines: Sequence[str]) -> str:
    """The first SHOWN lines as one, with how many more there are."""
    more = len(lines) - SHOWN
    return "; ".join(lines[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def assign(net: tf.keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives a network its weights; `differences` has found none."""
    for key, variable in variables(net).items():
        variable.assign(arrays[key])


def networks(
    stored: Stored,
    needed: Collection[str] | Callable[[dict[str, tf.keras.Model]], Collection[str]],
) -> dict[str, tf.keras.Model]:
    """Networks built as `stored` says, with its weights.

    Args:
        stored: Stored.
        needed: names of the networks, or a function from all networks of the stage to
            those that are needed.

    Returns:
        {name: Keras model} of those that are needed.

    Raises:
        RunError: one of them is not there or has other shapes, or this version builds
            no such networks.
    """
    nets = build(stored)
    names = needed(nets) if callable(needed) else needed
    for name in names:
        problems = mismatches(nets[name], stored.arrays.get(name, {}))
        if problems:
            raise runs.RunError(
                f"{stored.source} does not fit this version of brats_gan: {name}: "
                f"{first_of(problems)}. Use {version(stored)}, or train anew"
            )
        assign(nets[name], stored.arrays[name])
    return {name: nets[name] for name in names}


def options(stored: Stored) -> multimodal.Options:
    """multimodal.Options of stored weights of stage 2.

    Raises:
        RunError: this version has no such options, or they are of another kind.
    """
    given = stored.description.get("options", {})
    unknown = sorted(given.keys() - multimodal.Options().as_dict().keys())
    if unknown:
        raise runs.RunError(
            f"{stored.source} was written by another version of brats_gan: it has the "
            f"options {', '.join(unknown)}. Use {version(stored)}"
        )
    ours = multimodal.Options().as_dict()
    wrong = [
        f"{name}={value!r}"
        for name, value in given.items()
        if isinstance(value, str | bool) != isinstance(ours[name], str | bool)
        or isinstance(value, bool) != isinstance(ours[name], bool)
    ]
    if wrong:
        raise runs.RunError(
            f"{stored.source} has an option that is none: {wrong[0]}. Use "
            f"{version(stored)}, or give other weights"
        )
    return multimodal.Options(**given, spec=of_description(stored.description))


def version(stored: Stored) -> str:
    """The version of brats_gan that wrote the weights, in words for a message."""
    version = stored.description.get("version")
    known = version and version != __version__
    return f"version {version}" if known else "the version that wrote it"


def build(stored: Stored) -> dict[str, tf.keras.Model]:
    """The networks that the weights belong to, with weights of their own.

    Raises:
        RunError: this version builds no such networks, or the description of them is
            damaged.
    """
    build = BUILDERS[stored.description["stage"]]
    arguments = stored.description["build"]
    unknown = sorted(arguments.keys() - inspect.signature(build).parameters.keys())
    if unknown:
        raise runs.RunError(
            f"{stored.source} was written by another version of brats_gan: its "
            f"networks have {', '.join(unknown)}. Use {version(stored)}"
        )
    if "spec" in inspect.signature(build).parameters:
        arguments = {**arguments, "spec": of_description(stored.description)}
    wrong = [
        f"{name}={value!r}"
        for name, value in arguments.items()
        if name in KINDS and not KINDS[name](value)
    ]
    try:
        if not wrong:
            return build(**arguments)
    except (TypeError, ValueError) as error:
        wrong = [str(error)]
    raise runs.RunError(
        f"{stored.source} does not say how its networks are built ({wrong[0]}). Use "
        f"{version(stored)}, or give other weights"
    )
