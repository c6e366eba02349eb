"""What weights of a smaller image size are worth: stage 2 from them and from nothing.

    python -m benchmarks.growing --data_dir=DIR --split=split.json --init_from=RUN \
        [--image_size=128] [--steps=200]

Trains the first phase of stage 2 twice on the same batches, from the weights and from
nothing, and prints at a row of steps the self-reconstruction error (D21) of slices of
the training subjects that are the same for both, and the SSIM of slices made from the
T1 maps of held-out ones. Last, the first of these steps at which the one is as good as
the other is at the end.
"""

import pathlib
import time

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks import paired
from brats_gan import data, io, multimodal, runs, weights

_DATA = flags.DEFINE_string("data_dir", None, "Subjects.", required=True)
_SPLIT = flags.DEFINE_string(
    "split", None, "Which of them are held out.", required=True
)
_INIT_FROM = flags.DEFINE_string("init_from", "pretrained", weights.INIT_FROM)
_SIZE = flags.DEFINE_integer("image_size", 128, "Pixels a side.")
_STEPS = flags.DEFINE_integer("steps", 200, "From nothing.")
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's peak, from nothing.")
_GROWN_RATE = flags.DEFINE_float("grown_rate", 5e-4, "Adam's peak, from the weights.")
_CACHE = flags.DEFINE_string("cache_dir", None, "Decoded slices.")

# Shares of --steps at which both are looked at.
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SEEN, HELD_OUT = 8, 48  # examples of four slices; slices
SEED = 0


def main(argv):
    del argv
    run = weights.find(_INIT_FROM.value, "multimodal")
    build = {**run.description["build"], "image_size": _SIZE.value}
    options = weights.options(run)
    found = {s.name: s for s in io.find_subjects(_DATA.value)}
    split = data.load_split(pathlib.Path(_SPLIT.value))
    training, held_out = (
        data.Slices(
            [found[name] for name in split[side]], _SIZE.value, cache_dir=_CACHE.value
        )
        for side in ("train", "test")
    )
    known = next(iter(data.multimodal_batches(training, SEEN, seed=99)))
    rows = np.random.default_rng(SEED).permutation(len(held_out))[:HELD_OUT]
    images, labels = held_out.intensities(rows), held_out.labels(rows)
    styles = held_out.styles[held_out.index[rows, 0]]
    looks = sorted({round(share * _STEPS.value) for share in SHARES})

    courses = {}
    for name in ("from the weights", "from nothing"):
        tf.keras.utils.set_random_seed(SEED)
        nets = multimodal.build(**build)
        rate = _RATE.value
        if name == "from the weights":
            weights.initialise(nets, run, "multimodal", build)
            rate = _GROWN_RATE.value
        courses[name] = course(
            nets, options, rate, training, looks, known, (images, labels, styles)
        )

    print("| steps | " + " | ".join(f"{n}: self, SSIM" for n in courses) + " |")
    print("|---|" + "---|" * len(courses))
    for step in looks:
        cells = (courses[name][step] for name in courses)
        print(f"| {step} | " + " | ".join(f"{e:.4f}, {s:.3f}" for e, s in cells) + " |")
    grown, new = courses.values()
    goal = new[_STEPS.value][0]
    reached = next((step for step in looks if grown[step][0] <= goal), None)
    print(
        f"error of {goal:.4f} after {_STEPS.value} steps from nothing; from the",
        end=" ",
    )
    print(f"weights of {run.source} after {reached} or fewer")


def course(nets, options, rate, training, looks, known, held_out):
    """{step: (self-reconstruction error, mean SSIM)} at the steps `looks`."""
    optimizers = {
        side: runs.adam(each, rate, max(looks), final=0.2)
        for side, each in multimodal.variables(nets).items()
    }
    step = multimodal.make_first_step(nets, optimizers, options=options)
    error = tf.function(
        lambda: multimodal.first_terms(nets, known, [0, 0], options)[
            "self_reconstruction"
        ],
        autograph=False,
    )
    make = tf.function(
        lambda f, label, style: multimodal.generate(nets, f, label, style, options),
        autograph=False,
    )
    images, labels, styles = held_out
    found = {}
    batches = iter(data.multimodal_batches(training, 1, SEED))
    begun = time.monotonic()
    for done in range(max(looks) + 1):
        if done in looks:
            made = paired.made_from(make, images, labels, styles, options.beta)
            ssim = paired.ssim(made, images).mean()
            found[done] = float(error()), float(ssim)
            passed = time.monotonic() - begun
            logging.info("step %d, %.0f s: %.4f, %.3f", done, passed, *found[done])
        if done < max(looks):
            step(next(batches), tf.constant([SEED, done], tf.int32))
    return found


if __name__ == "__main__":
    app.run(main)
