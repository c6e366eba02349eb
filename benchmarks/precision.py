"""What --precision=auto chose here, and seconds a step of each stage by precision.

    python -m benchmarks.precision
    ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.precision

At demo size (configs/demo), medians of steps that are interleaved: every precision once
a round. A stage has a process of its own, with the threads that its script has.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import tensorflow as tf
from absl import app, flags

from benchmarks import rig
from brats_gan import (
    lesion_components,
    multimodal,
    precision,
    runs,
    segmentation,
    structural,
)

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed steps of each precision.")
_STAGE = flags.DEFINE_enum("stage", None, ["1", "2", "4"], "What each process times.")

FLAGFILES = {"1": "structural", "2": "multimodal", "4": "segmentation"}
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")


def demo(stage):
    """{flag: text} of the demo's flagfile of a stage."""
    path = pathlib.Path("configs/demo", f"{FLAGFILES[stage]}.flags")
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    return dict(line[2:].split("=") for line in lines)


def build(stage):
    """(networks, variables by side, make_train_step, batch, heaviest convolution)."""
    given = demo(stage)
    size, width, batch = (int(given[n]) for n in ("image_size", "width", "batch_size"))
    if stage == "1":
        mask = int(given["mask_width"])
        nets = structural.build(size, width, mask_width=mask)
        variables = {
            "generator": structural.variables(nets, structural.GENERATOR_SIDE),
            "discriminator": structural.variables(nets, structural.DISCRIMINATOR_SIDE),
        }
        return (
            nets,
            variables,
            structural.make_train_step,
            rig.structural_batch(size, batch),
            structural.heaviest_convolution(size, width, batch, mask),
        )
    if stage == "2":
        nets = multimodal.build(size, width, lesion_width=int(given["lesion_width"]))
        return (
            nets,
            multimodal.variables(nets),
            multimodal.make_train_step,
            rig.multimodal_batch(size, batch),
            multimodal.heaviest_convolution(size, width, batch),
        )
    scheme = given["scheme"]
    nets = lesion_components.build(scheme, size, width)
    every = [v for net in nets.values() for v in net.trainable_variables]
    return (
        nets,
        {"segmentation": every},
        segmentation.make_train_step,
        rig.segmentation_batch(size, batch),
        lesion_components.heaviest_convolution(scheme, size, width, batch),
    )


def timed(stage):
    """{"chosen", "said", "choice_seconds", "seconds": {precision: of a step}}."""
    if stage == "2":
        runs.share_cores()
    tf.constant(0.0)  # what starts TensorFlow is not part of the choice
    *_, convolution = build(stage)
    begin = time.perf_counter()
    choice = precision.choose(*convolution)
    choice_seconds = time.perf_counter() - begin
    count = 3 if precision.has_gpu() else 2  # float16 has no instructions of a CPU
    steps = {}
    for name in precision.PRECISIONS[:count]:
        runs.set_up(name, 0)
        nets, variables, make_train_step, batch, _ = build(stage)
        more = (rig.codes_of(nets),) if stage == "1" else ()
        step = make_train_step(nets, rig.adams(variables), *more)

        def call(step=step, batch=batch):
            losses = step(batch, tf.constant([0, 0]))
            return [float(value) for value in losses.values()]

        steps[name] = call
    seconds = rig.medians(rig.interleaved(steps, _ROUNDS.value))
    return {
        "chosen": choice.precision,
        "said": str(choice),
        "choice_seconds": choice_seconds,
        "seconds": seconds,
    }


def processor():
    """Its name, and which of INSTRUCTIONS it has."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.exists():
        return "unknown processor"
    found = dict(
        tuple(part.strip() for part in line.split(":", 1))
        for line in path.read_text().splitlines()
        if ":" in line
    )
    has = set(found.get("flags", found.get("Features", "")).split())
    named = ", ".join(name for name in INSTRUCTIONS if name in has) or "none of these"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    held = f"; oneDNN held to {limit}" if limit else ""
    return (
        f"{found.get('model name', 'unknown')}, {os.cpu_count()} cores: {named}{held}"
    )


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    if _STAGE.value:
        print(json.dumps(timed(_STAGE.value)))
        return
    print(
        f"{processor()}\n\n| | auto chose | in, s | seconds a step |\n|---|---|---|---|"
    )
    results = {}
    for stage in FLAGFILES:
        command = [sys.executable, "-m", "benchmarks.precision", *sys.argv[1:]]
        said = subprocess.check_output([*command, f"--stage={stage}"], text=True)
        result = results[stage] = json.loads(said.splitlines()[-1])
        times = ", ".join(f"{n} {t:.3f}" for n, t in result["seconds"].items())
        took = f"{result['choice_seconds']:.2f}"
        print(f"| stage {stage} | {result['chosen']} | {took} | {times} |", flush=True)
    for stage, result in results.items():
        print(f"\nstage {stage}: {result['said']}")
    print(json.dumps(results))


if __name__ == "__main__":
    app.run(main)
