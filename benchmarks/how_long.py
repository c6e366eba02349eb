"""How long the trainings of a folder of flagfiles take on this machine, by a few steps.

    python -m benchmarks.how_long [--configs=configs/demo-scratch]

Times some steps of each stage at the sizes of its flagfile, on drawn data, and says
what all of them come to. Reading data, exports and stage 3 are not in it: a minute or
two.
"""

import itertools
import pathlib
import time

import tensorflow as tf
from absl import app, flags

from benchmarks import rig
from brats_gan import lesion_components, multimodal, runs, segmentation, structural

_CONFIGS = flags.DEFINE_string(
    "configs", "configs/demo-scratch", "Folder of structural, multimodal, segmentation."
)
_SECONDS = flags.DEFINE_float("seconds", 4.0, "To time each kind of step, at least.")


def options(path):
    """{name: text} of the flags of a flagfile that have a value."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = (line[2:].partition("=")[::2] for line in lines if line.startswith("--"))
    return dict(pairs)


def seconds_a_step(step, batch):
    """Of a traced step, its first call left out; the median of some."""
    seeds = (tf.constant([0, k], tf.int32) for k in itertools.count())

    def call():
        named = step(batch, next(seeds))
        next(iter(named.values())).numpy()

    call()
    rounds, begin = [], time.perf_counter()
    while len(rounds) < 3 or time.perf_counter() - begin < _SECONDS.value:
        rounds += rig.interleaved({"step": call}, 1, warm=0)["step"]
    return sorted(rounds)[len(rounds) // 2]


def of_structural(config):
    size, width = int(config["image_size"]), int(config["width"])
    batch = int(config["batch_size"])
    mask_width = int(config.get("mask_width", width))
    nets = structural.build(size, width, mask_width=mask_width)
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    adams = rig.adams({s: structural.variables(nets, n) for s, n in sides.items()})
    step = structural.make_train_step(nets, adams, rig.codes_of(nets))
    seconds = seconds_a_step(step, rig.structural_batch(size, batch))
    return {"stage 1": (int(config["steps"]), seconds)}


def of_multimodal(config):
    size, width = int(config["image_size"]), int(config["width"])
    steps, batch = int(config["steps"]), int(config["batch_size"])
    lesion_width = int(config.get("lesion_width", width))
    nets = multimodal.build(size, width, lesion_width=lesion_width)
    adams = rig.adams(multimodal.variables(nets))
    drawn = rig.multimodal_batch(size, batch)
    share = float(config.get("first_phase", multimodal.FIRST_PHASE))
    first = round(share * steps)
    found = {}
    if first:
        step = multimodal.make_first_step(nets, adams)
        found["stage 2, first phase"] = (first, seconds_a_step(step, drawn))
    if first < steps:
        step = multimodal.make_train_step(nets, adams)
        found["stage 2, full steps"] = (steps - first, seconds_a_step(step, drawn))
    return found


def of_segmentation(config):
    size, width = int(config["image_size"]), int(config["width"])
    nets = lesion_components.build(config["scheme"], size, width)
    variables = [v for net in nets.values() for v in net.trainable_variables]
    adams = rig.adams({"segmentation": variables})
    step = segmentation.make_train_step(nets, adams)
    batch = rig.segmentation_batch(size, int(config["batch_size"]))
    seconds = seconds_a_step(step, batch)
    return {"stage 4, twice": (2 * int(config["iterations"]), seconds)}


def main(argv):
    del argv
    folder = pathlib.Path(_CONFIGS.value)
    runs.share_cores()  # as stage 2 does
    print("timing a few steps of each stage on this machine", flush=True)
    total = 0.0
    for name, measure in (
        ("structural", of_structural),
        ("multimodal", of_multimodal),
        ("segmentation", of_segmentation),
    ):
        found = measure(options(folder / f"{name}.flags"))
        for stage, (steps, seconds) in found.items():
            total += steps * seconds
            minutes = steps * seconds / 60.0
            print(f"{stage}: {steps} steps of {seconds:.2f} s, {minutes:.0f} minutes")
    print(f"The trainings will take about {total / 60.0:.0f} minutes here.", flush=True)


if __name__ == "__main__":
    app.run(main)
