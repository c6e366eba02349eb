"""Weights of trained networks as files that belong to no version of TensorFlow.

A folder of weights holds

    weights.json   what builds the networks, and what they were trained on
    NAME.npz       the variables of one network, float32 or float16
    fit.npz        stage 1: how noise becomes a map (structural.Fit)
    split.json     of the run, if it had one

A checkpoint goes on in the same program; these files can be read by either generation
of Keras, by another image size, and by NumPy alone. A variable is named by the place of
its layer and its role there ("3/kernel"; "0/3/kernel" in a model within a model), since
Keras' own names differ between its generations.
"""

from brats_gan.weights.beginnings import (
    INIT_FROM,
    begin,
    find,
    finish,
    initialise,
    require_fitting,
)
from brats_gan.weights.folders import (
    LABELS,
    PRETRAINED,
    PRETRAINED_64,
    fingerprint,
    folder_of,
    labels_of,
    read,
    write,
)
from brats_gan.weights.networks_file import begun, record
from brats_gan.weights.stored import (
    Stored,
    arrays_of,
    inherited,
    networks,
    options,
    seen,
    variables,
)

__all__ = [
    "INIT_FROM",
    "LABELS",
    "PRETRAINED",
    "PRETRAINED_64",
    "Stored",
    "arrays_of",
    "begin",
    "begun",
    "find",
    "fingerprint",
    "finish",
    "folder_of",
    "inherited",
    "initialise",
    "labels_of",
    "networks",
    "options",
    "read",
    "record",
    "require_fitting",
    "seen",
    "variables",
    "write",
]
