"""How the stage-2 step grows with batch, image size, width, subjects, and steps.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --steps=2000    # does a long run grow?

Each point is a process of its own, which says how long a step takes (median) and how
much memory it ever had. Along an axis the other numbers keep their first value. The
number of subjects is of a process that decodes and streams them
(benchmarks/input_memory.py).

--steps runs that many steps in one process and throws the losses away; it compares the
seconds a step (medians of a hundred) around step 200 and at the end, and resident
memory. Prints a table and, last, a line of JSON.
"""

import json
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks import rig
from brats_gan import multimodal, runs

_BATCHES = flags.DEFINE_list("batches", ["1", "2", "4", "8"], "Samples a step.")
_SIZES = flags.DEFINE_list("sizes", ["64", "96", "128", "192"], "Pixels a side.")
_WIDTHS = flags.DEFINE_list("widths", ["16", "8", "32", "64"], "Base widths.")
_SUBJECTS = flags.DEFINE_list("subjects", ["10", "100"], "Streamed subjects.")
_PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16"], "Of the convolutions."
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed steps of a point.", 1)
_STEPS = flags.DEFINE_integer("steps", 0, "Only one long run, of this many steps.")
_POINT = flags.DEFINE_list("point", [], "Only this batch, size, width; here.")

EARLY, WINDOW = 200, 100  # steps


def build_step(batch_size, size, width):
    """A training step (seed -> losses) on one drawn batch."""
    networks = rig.multimodal_networks(size, width, _PRECISION.value)
    train_step = multimodal.make_train_step(*networks)
    batch = rig.multimodal_batch(size, batch_size)
    return lambda seed: train_step(batch, tf.constant([0, seed], tf.int32))


def point(batch_size, size, width):
    """One point, in this process."""
    step = build_step(batch_size, size, width)
    seconds = rig.interleaved({"step": lambda: step(1)}, _REPEATS.value)["step"]
    return {"seconds": float(np.median(seconds)), "peak_mb": rig.peak_mb()}


def module(name, *arguments):
    """Runs a benchmark in a process of its own; the JSON it ends with."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def point_apart(batch_size, size, width):
    return module(
        "scaling",
        f"--point={batch_size},{size},{width}",
        f"--precision={_PRECISION.value}",
        f"--repeats={_REPEATS.value}",
    )


def long_run(batch_size, size, width, steps):
    """Seconds a step and memory, early and late in one run."""
    step = build_step(batch_size, size, width)
    early = min(EARLY, steps // 2)
    window = max(min(WINDOW, early // 2), 1)
    seconds, memory = [], {}
    for number in range(steps):
        begin = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - begin)
        if number + 1 in (early, steps):
            memory[number + 1] = rig.resident_mb()
    at_early = float(np.median(seconds[early - window : early]))
    at_end = float(np.median(seconds[-window:]))
    return {
        "steps": steps,
        "early_step": early,
        "seconds_early": round(at_early, 5),
        "seconds_late": round(at_end, 5),
        "late_over_early": round(at_end / at_early, 4),
        "resident_mb_early": round(memory[early], 1),
        "resident_mb_late": round(memory[steps], 1),
    }


def axes():
    """(axis, value, batch, size, width) of every point."""
    batches, sizes, widths = (
        [int(each) for each in flag.value] for flag in (_BATCHES, _SIZES, _WIDTHS)
    )
    first = batches[0], sizes[0], widths[0]
    for place, (axis, values) in enumerate(
        (("batch", batches), ("image_size", sizes), ("width", widths))
    ):
        for value in values:
            yield axis, value, *first[:place], value, *first[place + 1 :]


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    runs.share_cores()
    if _POINT.value:
        print(json.dumps(point(*map(int, _POINT.value))))
        return
    if _STEPS.value:
        first = (int(f.value[0]) for f in (_BATCHES, _SIZES, _WIDTHS))
        grown = long_run(*first, _STEPS.value)
        print("| | |\n|---|---|")
        for name, value in grown.items():
            print(f"| {name} | {value} |")
        print(json.dumps(grown))
        return

    known, result = {}, {}
    print("| | | s a step | s a sample | highest memory, MB |\n|---|---|---|---|---|")
    for axis, value, *numbers in axes():
        key = tuple(numbers)
        if key not in known:
            known[key] = point_apart(*numbers)
        found = known[key]
        result.setdefault(axis, {})[value] = found
        print(
            f"| {axis} | {value} | {found['seconds']:.3f} | "
            f"{found['seconds'] / numbers[0]:.3f} | {found['peak_mb']:.0f} |",
            flush=True,
        )
    if _SUBJECTS.value:
        counts = f"--counts={','.join(_SUBJECTS.value)}"
        streamed = module("input_memory", counts)["subjects"]
        result["subjects"] = streamed
        for number, found in streamed.items():
            print(
                f"| subjects, streaming | {number} | | {found['seconds']:.5f} | "
                f"{found['peak_mb']:.0f} |"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
