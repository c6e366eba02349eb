"""Steps a second of runs.loop at tiny size: several steps in one call, or one.

    python -m benchmarks.loop_overhead

The steps are those of stage 1 and of stage 4 with one segmentor (four_channel), on
drawn slices, so small that what surrounds them shows. Contenders train the same
networks in one process; each round lets every one of them train on for --steps steps,
and figures are medians over rounds. Counts, too, how often the value of a tensor is
fetched to the host, a step, by what Python calls to have one; that is of the whole
round, with the checkpoint at its end.

one         --steps_per_call=1
N           --steps_per_call=N
"""

import collections
import contextlib
import itertools
import json
import pathlib
import tempfile
from io import StringIO

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks import rig
from brats_gan import lesion_components, runs, segmentation, structural

_SIZE = flags.DEFINE_integer("image_size", 16, "Pixels a side.")
_WIDTH = flags.DEFINE_integer("width", 2, "Base width of the network.")
_STEPS = flags.DEFINE_integer("steps", 400, "Steps a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved rounds.")
_CALLS = flags.DEFINE_list("steps_per_call", ["5", "20"], "Steps a call.")

FETCHES = ("numpy", "__float__", "__int__", "__bool__", "__array__")


@contextlib.contextmanager
def fetches():
    """Yields a Counter of what fetched the value of an eager tensor."""
    tensor, counted = type(tf.constant(0)), collections.Counter()

    def counting(name, real):
        def fetch(self, *arguments, **options):
            counted[name] += 1
            return real(self, *arguments, **options)

        return fetch

    real = {name: getattr(tensor, name) for name in FETCHES}
    for name, method in real.items():
        setattr(tensor, name, counting(name, method))
    try:
        yield counted
    finally:
        for name, method in real.items():
            setattr(tensor, name, method)


def processor():
    """The name of the CPU, where the system says it."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return "unknown"


def stage_1():
    """(train step, objects, batch) of stage 1: 14 losses."""
    nets = structural.build(max(_SIZE.value, 32), _WIDTH.value)
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    adams = rig.adams({s: structural.variables(nets, n) for s, n in sides.items()})
    step = structural.make_train_step(nets, adams, rig.codes_of(nets))
    return step, nets | adams, rig.structural_batch(max(_SIZE.value, 32), 1)


def stage_4():
    """The same of one segmentor of four channels: one loss."""
    nets = lesion_components.build("four_channel", _SIZE.value, _WIDTH.value)
    adams = rig.adams({"segmentation": nets["SEG"].trainable_variables})
    step = segmentation.make_train_step(nets, adams)
    return step, nets | adams, rig.segmentation_batch(_SIZE.value, 1)


def contender(stage, folder, **options):
    """Returns train() -> steps a second: --steps more steps of a run of its own.

    From the first line of losses on, so without the start of the loop and its traces.
    """
    tf.keras.utils.set_random_seed(0)
    step, objects, batch = stage()
    batch["subject"] = tf.zeros([1], tf.int64)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    folder.mkdir()
    ends = itertools.count(_STEPS.value, _STEPS.value)

    def train():
        options_of_all = (next(ends), objects, 0, ["drawn"])
        runs.loop(folder, step, lambda first: batches, *options_of_all, **options)
        lines = (folder / "losses.jsonl").read_text().splitlines()
        first, *_, last = map(json.loads, lines[-(_STEPS.value // 20) :])
        return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])

    return train


def measure(stage, root):
    """name -> (steps a second, fetches a step), medians over rounds."""
    made = {"one": contender(stage, root / "one")}
    for count in _CALLS.value:
        more = {"steps_per_call": int(count)}
        made[count] = contender(stage, root / count, **more)
    rates, fetched = collections.defaultdict(list), {}
    for _ in range(_ROUNDS.value):
        for name, train in made.items():
            with contextlib.redirect_stdout(StringIO()), fetches() as found:
                rates[name].append(train())
            fetched[name] = sum(found.values()) / _STEPS.value
    return {name: (float(np.median(rates[name])), fetched[name]) for name in made}


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    print(f"{processor()}, TensorFlow {tf.__version__}\n")
    print("| | steps a second | fetched to the host a step |")
    print("|---|---|---|")
    found = {}
    for name, stage in {"stage 1": stage_1, "stage 4": stage_4}.items():
        with tempfile.TemporaryDirectory() as root:
            found[name] = measure(stage, pathlib.Path(root))
        for contender_name, (rate, fetched) in found[name].items():
            print(f"| {name}, {contender_name} | {rate:.0f} | {fetched:.2f} |")
    print(json.dumps(found))


if __name__ == "__main__":
    app.run(main)
