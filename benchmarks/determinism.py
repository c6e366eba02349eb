"""What --deterministic costs: CPU seconds of a step of stage 1, with it and without.

    python -m benchmarks.determinism

Every figure is of a process of its own, and the processes of a round run one after the
other. CPU seconds of all threads are counted, so that other work on the machine weighs
little.
"""

import statistics
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import rig
from brats_gan import common_flags, runs, structural

_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels a side.")
_WIDTH = flags.DEFINE_integer("width", 12, "Base width of the networks.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Slices a step.")
_STEPS = flags.DEFINE_integer(
    "steps", 20, "Steps that are timed, after two that are not."
)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds; the median is shown.")
_ALONE = flags.DEFINE_bool("alone", False, "Time one process: what a round calls.")
_PRECISION = flags.DEFINE_string("precision", "float32", "Of the convolutions.")
_DETERMINISTIC = common_flags.deterministic()


def timed():
    """CPU seconds of a step on a random batch."""
    runs.set_up(_PRECISION.value, 0, _DETERMINISTIC.value)
    nets = structural.build(_SIZE.value, _WIDTH.value, 4)
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    optimizers = {
        side: runs.adam(structural.variables(nets, names), 1e-4, 100)
        for side, names in sides.items()
    }
    train_step = structural.make_train_step(nets, optimizers, rig.codes_of(nets))
    plane = [_BATCH.value, _SIZE.value, _SIZE.value]
    rng = np.random.default_rng(0)
    batch = {
        "x": tf.constant(rng.random([*plane, 1], np.float32)),
        "label": tf.constant(rng.integers(5, size=plane).astype(np.uint8)),
    }
    for step in range(_STEPS.value + 2):
        if step == 2:
            started = time.process_time()
        float(train_step(batch, tf.constant([0, step]))["generator"])
    return (time.process_time() - started) / _STEPS.value


def main(argv):
    del argv
    if _ALONE.value:
        print(timed())
        return
    print("| convolutions | without | with | ratio |\n|---|---|---|---|")
    for precision in ("float32", "mixed_bfloat16"):
        seconds = {"--nodeterministic": [], "--deterministic": []}
        for _ in range(_ROUNDS.value):
            for flag, values in seconds.items():
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.determinism",
                    *sys.argv[1:],
                ]
                command += ["--alone", f"--precision={precision}", flag]
                said = subprocess.run(command, capture_output=True, text=True).stdout
                values.append(float(said.split()[-1]))
        without, with_it = map(statistics.median, seconds.values())
        ratio = f"{with_it / without:.2f}"
        print(f"| {precision} | {without:.3f} | {with_it:.3f} | {ratio} |", flush=True)


if __name__ == "__main__":
    app.run(main)
