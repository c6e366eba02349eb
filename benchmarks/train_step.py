"""Seconds a sample of the training steps, beside loops and beside PyTorch.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.train_step
    python -m benchmarks.train_step --quick    # without PyTorch

A sample is a set of four slices. All contenders train the same networks (the default
scheme, lesion components of the same width) on the same batch, in one process:

brats_gan   multimodal.make_train_step
bfloat16    the same under mixed_bfloat16
loops       the same arithmetic as the authors run it (benchmarks/loops.py): a call for
            each image, modality and pair, and the layers of tensorflow-addons and Keras
loops, our layers
            the same with this project's layers and optimizer
torch       benchmarks/torch_step.py: eager and torch.compile, float32 and bfloat16
            autocast, channels first and last

First it checks that losses are equal, from equal weights and draws, between brats_gan,
loops and PyTorch, and that networks in PyTorch have as many weights. Rounds are
interleaved; figures are medians over rounds. Tracing is the time of building the graph;
the first step is all until one step is done (torch.compile compiles in it).

A ratio over several configurations is the smallest of them. All of TensorFlow shares
the cores as train_multimodal.py does (runs.share_cores); PyTorch has all cores for each
of its operations. Stages 1 and 4 have a row each, for the record. Prints tables and,
last, a line of JSON.
"""

import contextlib
import functools
import json
import time
from importlib import util

import tensorflow as tf
from absl import app, flags, logging

from benchmarks import loops, rig
from brats_gan import lesion_components, multimodal, runs, segmentation, structural

_QUICK = flags.DEFINE_bool("quick", False, "Width 16, size 64, three rounds, no torch.")
_WIDTHS = flags.DEFINE_list("widths", ["16", "32"], "Base widths.")
_SIZES = flags.DEFINE_list("sizes", ["64", "96"], "Pixels a side, multiples of 32.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Interleaved rounds.", 1)
_BATCH = flags.DEFINE_integer(
    "batch_size", 1, "Samples a step; loops take one after the other.", 1
)
_STAGE_BATCH = flags.DEFINE_integer("stage_batch_size", 8, "Of stages 1 and 4.", 1)
_PAIRS = flags.DEFINE_bool("all_pairs", False, "Every translation each step (D18).")
_TORCH = flags.DEFINE_bool("torch", True, "Beside PyTorch, where it is installed.")
_COMPILE = flags.DEFINE_bool("compile", True, "And beside torch.compile.")

SEED = (0, 1)
# Columns that say what a PyTorch contender is: name -> arguments of its step.
TORCH = {
    "torch": {"channels_last": False},
    "torch, channels last": {},
    "torch, channels last, bfloat16": {"bfloat16": True},
    "torch, compiled": {"compiled": True},
    "torch, compiled, bfloat16": {"compiled": True, "bfloat16": True},
}


def traced(make_step, batch, seed):
    """A step without arguments, and the seconds of its tracing and its first call."""
    begin = time.perf_counter()
    train_step = make_step()
    train_step.get_concrete_function(batch, seed)
    tracing = time.perf_counter() - begin
    step = functools.partial(train_step, batch, seed)
    step()
    return step, {"tracing": tracing, "first": time.perf_counter() - begin}


def stage_2(
    size, width, batch, options, looped=False, plain=False, precision="float32"
):
    """(step, seconds of its start) of one way to train stage 2."""
    with loops.plain_layers() if plain else contextlib.nullcontext():
        nets, optimizers = rig.multimodal_networks(size, width, precision)
    seed = tf.constant(SEED, tf.int32)
    if not looped:
        return traced(
            lambda: multimodal.make_train_step(nets, optimizers, options=options),
            batch,
            seed,
        )
    # Batch 1: one example after the other.
    singles = [{k: v[b : b + 1] for k, v in batch.items()} for b in range(_BATCH.value)]
    one, start = traced(
        lambda: loops.make_train_step(nets, optimizers, options), singles[0], seed
    )

    def step():
        for single in singles:
            one.func(single, seed)

    return step, start


def torch_contenders(size, width, batch, options):
    """name -> (step, seconds of its start) of every way to do it in PyTorch."""
    from benchmarks import torch_step

    made = {}
    for name, arguments in TORCH.items():
        if arguments.get("compiled") and not _COMPILE.value:
            continue
        begin = time.perf_counter()
        step = torch_step.make_train_step(width, size, batch, options, **arguments)
        step()
        made[name] = step, {"tracing": None, "first": time.perf_counter() - begin}
    return made


def other_stages(size, width):
    """name -> step of stage 1 and of four segmentors, float32."""
    count, seed = _STAGE_BATCH.value, tf.constant(SEED, tf.int32)
    maps = structural.build(size, width)
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    optimizers = rig.adams({s: structural.variables(maps, n) for s, n in sides.items()})
    stage_1 = structural.make_train_step(maps, optimizers, rig.codes_of(maps))
    nets = lesion_components.build("multiple", size, width)
    of_nets = [v for net in nets.values() for v in net.trainable_variables]
    stage_4 = segmentation.make_train_step(nets, rig.adams({"segmentation": of_nets}))
    return {
        "stage 1": functools.partial(stage_1, rig.structural_batch(size, count), seed),
        "stage 4": functools.partial(
            stage_4, rig.segmentation_batch(size, count), seed
        ),
    }


def measure(width, size, with_torch):
    """One configuration: name -> {"seconds" a sample, "tracing", "first"}."""
    options = multimodal.Options(all_pairs=_PAIRS.value)
    batch = rig.multimodal_batch(size, _BATCH.value)
    started = {
        "brats_gan": stage_2(size, width, batch, options),
        "loops": stage_2(size, width, batch, options, looped=True, plain=True),
        "loops, our layers": stage_2(size, width, batch, options, looped=True),
        "bfloat16": stage_2(size, width, batch, options, precision="mixed_bfloat16"),
    }
    if with_torch:
        started |= torch_contenders(size, width, batch, options)
    rounds = 3 if _QUICK.value else _REPEATS.value
    seconds = rig.medians(
        rig.interleaved({name: step for name, (step, _) in started.items()}, rounds)
    )
    found = {
        name: {"seconds": seconds[name] / _BATCH.value, **start}
        for name, (_, start) in started.items()
    }
    if not _QUICK.value:
        others = rig.medians(rig.interleaved(other_stages(size, width), rounds))
        for name, each in others.items():
            found[name] = {"seconds": each / _STAGE_BATCH.value}
    return found


def ratios(found):
    """Every ratio of one configuration that can be taken."""

    def best(bfloat16):
        listed = [
            each["seconds"]
            for name, each in found.items()
            if name.startswith("torch") and name.endswith("bfloat16") == bfloat16
        ]
        return min(listed, default=None)

    ours = {name: each["seconds"] for name, each in found.items()}
    result = {
        "speedup_over_loops": ours["loops"] / ours["brats_gan"],
        "speedup_over_loops_of_our_layers": (
            ours["loops, our layers"] / ours["brats_gan"]
        ),
        "tracing_speedup": found["loops"]["tracing"] / found["brats_gan"]["tracing"],
        "bfloat16_gain": ours["brats_gan"] / ours["bfloat16"],
    }
    if best(False):
        result["speedup_over_torch"] = best(False) / ours["brats_gan"]
        result["bfloat16_over_torch"] = best(True) / ours["bfloat16"]
    return {name: round(value, 3) for name, value in result.items()}


def show(width, size, found):
    print(f"\nwidth {width}, {size} x {size}, {_BATCH.value} samples a step\n")
    print("| | s a sample | of brats_gan | tracing, s | first step, s |")
    print("|---|---|---|---|---|")
    for name, each in found.items():
        is_stage_2 = "first" in each
        ratio = each["seconds"] / found["brats_gan"]["seconds"]
        shown = [f"{ratio:.2f}" if is_stage_2 else ""]
        for part in ("tracing", "first"):
            value = each.get(part)
            shown.append("" if value is None else f"{value:.1f}")
        print(f"| {name} | {each['seconds']:.4f} | {' | '.join(shown)} |", flush=True)


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    runs.share_cores()
    with_torch = _TORCH.value and not _QUICK.value and bool(util.find_spec("torch"))
    equal = {"loops": loops.require_equal(rig.multimodal_batch(32))}
    if with_torch:
        import torch

        from benchmarks import torch_step

        torch.set_num_threads(rig.threads())
        equal["torch"] = torch_step.require_equal(rig.multimodal_batch(32, 2))
    for name, difference in equal.items():
        print(f"{name}: losses equal, largest relative difference {difference:.1e}")

    by_configuration = {}
    widths = ["16"] if _QUICK.value else _WIDTHS.value
    sizes = ["64"] if _QUICK.value else _SIZES.value
    for width in map(int, widths):
        for size in map(int, sizes):
            tf.keras.backend.clear_session()
            found = measure(width, size, with_torch)
            show(width, size, found)
            seconds = {name: round(each["seconds"], 5) for name, each in found.items()}
            by_configuration[f"{width}x{size}"] = {**ratios(found), "seconds": seconds}
    result = {
        name: min(each[name] for each in by_configuration.values())
        for name in next(iter(by_configuration.values()))
        if name != "seconds"
    }
    print(json.dumps({**result, "by_configuration": by_configuration}))


if __name__ == "__main__":
    app.run(main)
