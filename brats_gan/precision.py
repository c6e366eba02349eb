"""Compute precision of a run's convolutions: as asked for, as begun, or measured.

Which is fastest depends on the machine: bfloat16 halves the time of a step where the
processor multiplies it, and takes ten times as long where it is emulated. So the
heaviest convolution of a stage is timed as a run begins (docs/performance.md).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import runs
from brats_gan.lazy import tf

AUTO = "auto"
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")  # Keras' policies
CHOICES = (AUTO, *PRECISIONS)
VARIABLE = "BRATS_GAN_PRECISION"
HELP = (
    "Compute precision of convolutions; norms and outputs stay float32. auto: what is "
    "fastest on this machine, measured as a run begins and kept by it, unless the "
    f"environment variable {VARIABLE} names one."
)

# Convolutions are about five sixths of a step (docs/performance.md), so 1.15 times as
# fast makes 1.12 of the step. Less is within what two medians of one and the same
# precision differ by on a busy machine, and not worth a coarser arithmetic.
MARGIN = 1.15
# The part of the convolution that is timed has at most so many products and sums,
# forward and gradients: 10 ms on two cores; on a GPU enough to outweigh the launch of
# its kernels.
CPU_OPERATIONS = 3e8
GPU_OPERATIONS = 5e10
ROUNDS, LEAST_ROUNDS = 9, 3
SECONDS = 0.3  # after which the rounds end
# A precision that takes so many times as long as float32 in one of the first two rounds
# is not timed again: one that is emulated would take seconds.
HOPELESS = 3.0


Shape = tuple[int, int, int, int]  # of images or of a kernel


class Choice(NamedTuple):
    """What was measured and chosen.

    Attributes:
        precision: one of PRECISIONS.
        seconds: precision -> median seconds of the convolution and its gradients; only
            of those that this machine has.
        images, kernel: shapes of the convolution that was timed.
    """

    precision: str
    seconds: dict[str, float]
    images: Shape
    kernel: Shape

    def __str__(self) -> str:
        times = ", ".join(f"{1e3 * s:.1f} ms in {n}" for n, s in self.seconds.items())
        return (
            f"{self.precision}, measured: a convolution of {list(self.images)} by "
            f"{list(self.kernel)} with its gradients takes {times}"
        )


def settle(
    asked: str,
    run_dir: str | Path,
    deterministic: bool,
    convolution: tuple[Shape, Shape],
    shared: bool = False,
) -> str:
    """The precision of this run.

    It is the first that one of these names: the flag; the run in `run_dir`, which goes
    on as it began; the environment variable; float32 for a deterministic run, since a
    measurement may choose otherwise the next time, and for one that several machines
    share, on each of which it may; the measurement. Call it once the
    devices are set up and before layers are made.

    Args:
        asked: one of CHOICES.
        run_dir: folder of the run, which need not exist.
        deterministic: whether the run is to be repeated bit by bit.
        convolution: (images, kernel), see `choose`.
        shared: whether other processes take part in each step.

    Returns:
        One of PRECISIONS.

    Raises:
        RunError: the run or the variable names something else.
    """
    found, why = asked, None
    if found == AUTO:
        found, why = _known(run_dir)
    if found == AUTO and deterministic:
        found, why = "float32", "float32, not measured: the run is deterministic"
    if found == AUTO and shared:
        found, why = "float32", "float32, not measured: other machines take part"
    if found == AUTO:
        choice = choose(*convolution)
        found, why = choice.precision, str(choice)
    if why:
        logging.info("precision: %s", why)
    return found


def _known(run_dir):
    """(precision, why) of a run that was begun, or of the variable; (AUTO, None)."""
    path = Path(run_dir, "flags.txt")
    if path.exists():
        begun = _checked(runs.settings(run_dir).get("precision", AUTO), path)
        if begun != AUTO:
            return begun, f"{begun}, as {run_dir} began"
    wanted = by_variable()
    return wanted, None if wanted == AUTO else f"{wanted}, as {VARIABLE} says"


def by_variable() -> str:
    """The precision that VARIABLE names, or AUTO; RunError if there is none such."""
    return _checked(os.environ.get(VARIABLE) or AUTO, f"The variable {VARIABLE}")


def _checked(value, source):
    if value not in CHOICES:
        raise runs.RunError(
            f"{source} names the precision {value!r}; it must be one of "
            f"{', '.join(CHOICES)}"
        )
    return value


def choose(images: Shape, kernel: Shape) -> Choice:
    """The precision in which a convolution and its gradients are fastest here.

    A coarser one must be MARGIN times as fast as those before it in PRECISIONS, which
    stand in the order of what they need: float16 also needs loss scaling, and a GPU.
    It takes some tenths of a second on the device that TensorFlow chooses.

    Args:
        images: [B, H, W, C] of the heaviest convolution of a step; a part of it is
            timed if it is large.
        kernel: [h, w, C, filters].

    Returns:
        Choice.
    """
    gpu = has_gpu()
    part = part_of(images, kernel, GPU_OPERATIONS if gpu else CPU_OPERATIONS)
    seconds = measure(PRECISIONS if gpu else PRECISIONS[:2], *part)
    seconds = {name: float(np.median(each)) for name, each in seconds.items()}
    chosen = "float32"
    for name in PRECISIONS:
        if seconds.get(name, math.inf) * MARGIN <= seconds[chosen]:
            chosen = name
    return Choice(chosen, seconds, *part)


def has_gpu() -> bool:
    """Whether TensorFlow uses a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def measure(
    precisions: Iterable[str], images: Shape, kernel: Shape
) -> dict[str, list[float]]:
    """Times a convolution and its gradients by precision, of which float32 is first.

    Calls are interleaved, so that all precisions meet the same load. Those of the first
    round, which also compile kernels, count only where there are no others. The rounds
    end early after SECONDS.

    Returns:
        precision -> list of seconds. Those that the device refuses are left out.
    """
    calls = {name: convolution(name, images, kernel) for name in precisions}
    seconds = {name: [] for name in precisions}
    running = list(precisions)
    started = time.perf_counter()
    for turn in range(1 + ROUNDS):
        for name in list(running):
            begin = time.perf_counter()
            try:
                calls[name]()
            except tf.errors.OpError:  # a GPU of before bfloat16, for instance
                if name == "float32":
                    raise
                running.remove(name)
                del seconds[name]
                continue
            seconds[name].append(time.perf_counter() - begin)
            if turn < 2 and seconds[name][-1] > HOPELESS * seconds["float32"][-1]:
                running.remove(name)
        enough = turn >= LEAST_ROUNDS and time.perf_counter() - started > SECONDS
        if enough or running == ["float32"]:
            break
    return {name: each[1:] or each for name, each in seconds.items()}


def convolution(
    precision: str, images: Shape, kernel: Shape
) -> Callable[[], np.float32]:
    """Returns a function that computes the convolution and its gradients, and waits.

    It is that of a step under that policy: weights, and the norms before and after, are
    float32, so the casts are part of it. It needs no random numbers.
    """
    dtype = tf.as_dtype(precision.removeprefix("mixed_"))
    x = tf.fill(images, 0.5)
    weights = tf.fill(kernel, 0.01)

    def call():
        with tf.GradientTape() as tape:
            tape.watch([x, weights])
            y = tf.nn.conv2d(tf.cast(x, dtype), tf.cast(weights, dtype), 1, "SAME")
            y = tf.cast(y, tf.float32)
        _, gradient = tape.gradient(y, [x, weights])
        return gradient[0, 0, 0, 0].numpy()  # which waits for all that was begun

    return call


def part_of(images: Shape, kernel: Shape, operations: float) -> tuple[Shape, Shape]:
    """Takes fewer images, then a smaller square, until there are few operations.

    Never less than 8 x 8 pixels, or all there are. (images, kernel) -> the same.
    """
    count, height, width, channels = images
    # Two for each product, forward and for the gradients of image and kernel.
    of_pixel = 6 * math.prod(kernel)
    count = max(min(count, int(operations / (of_pixel * height * width))), 1)
    if count * height * width * of_pixel > operations:
        side = max(int(math.sqrt(operations / of_pixel)), 8)
        height, width = min(height, side), min(width, side)
    return (count, height, width, channels), tuple(kernel)
