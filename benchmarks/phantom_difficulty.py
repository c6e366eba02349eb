"""How hard the phantom is to learn from, and how far it stands for real scans.

    python -m benchmarks.phantom_difficulty --real_dir=DIR

Trains a small four-channel U-Net on 1, 4 and 16 phantom subjects for equally many steps
and scores it on 8 others, and on real subjects, of which it never sees one. More data
should help: where one subject is enough, no synthetic data could. Whole-lesion Dice,
over all slices of a subject as one volume; subjects without a lesion are left out.

Prints a line a training run and, last, everything as one line of JSON.
"""

import json
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from brats_gan import brats, data, metrics, phantom

_REAL = flags.DEFINE_string("real_dir", None, "In any layout; no real scores if unset.")
_PHANTOM = flags.DEFINE_string(
    "phantom_dir", None, "Made in a scratch folder if unset."
)
_COUNTS = flags.DEFINE_list("counts", ["1", "4", "16"], "Subjects trained on.")
_TEST = flags.DEFINE_integer("test_subjects", 8, "The first ones, to score on.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs a count; each on other subjects.")
_STEPS = flags.DEFINE_integer("steps", 800, "Of every run.")
_WIDTH = flags.DEFINE_integer("width", 12, "Base width of the U-Net.")
_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels a side.")
_RATE = flags.DEFINE_float("learning_rate", 2e-3, "Of Adam; falls along a cosine.")


def build_unet(size, width):
    """A U-Net of three halvings: [B, size, size, 4] -> logits [B, size, size, 5].

    The field's usual segmentor, and none of the networks of this project.
    """
    layers = tf.keras.layers

    def block(x, filters):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    x = images = tf.keras.Input((size, size, len(brats.MODALITIES)))
    skipped = []
    for level in range(3):
        x = block(x, width * 2**level)
        skipped.append(x)
        x = layers.MaxPool2D()(x)
    x = block(x, width * 8)
    for level in (2, 1, 0):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skipped[level]])
        x = block(x, width * 2**level)
    return tf.keras.Model(images, layers.Conv2D(len(brats.LABELS), 1)(x))


def loss(label, logits):
    """Cross-entropy, rare classes up, plus soft Dice of the whole lesion."""
    weights = tf.constant([0.7, 5.0, 2.0, 8.0, 4.0])
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    entropy = tf.reduce_mean(entropy * tf.gather(weights, label))
    found = 1 - tf.nn.softmax(logits)[..., 0]
    truth = tf.cast(label > 0, tf.float32)
    total = tf.reduce_sum(found) + tf.reduce_sum(truth)
    return entropy + 1 - (2 * tf.reduce_sum(found * truth) + 1) / (total + 1)


def augment(x, label, rng):
    """Half of the batches mirrored; a gamma and gain of its own for every image."""
    if rng.random() < 0.5:
        x, label = x[:, :, ::-1], label[:, :, ::-1]
    each = (len(x), 1, 1, x.shape[-1])
    x = x ** np.exp(rng.normal(0, 0.25, each)) * np.exp(rng.normal(0, 0.1, each))
    noise = rng.normal(0, 1, x.shape) * rng.uniform(0, 0.04, (len(x), 1, 1, 1))
    return x + (x > 0) * noise, label


def train(slices, seed):
    """A U-Net after --steps steps; three slices in eight show a lesion."""
    tf.keras.utils.set_random_seed(seed)
    net = build_unet(_SIZE.value, _WIDTH.value)
    rate = tf.keras.optimizers.schedules.CosineDecay(_RATE.value, _STEPS.value, 0.02)
    optimizer = tf.keras.optimizers.Adam(rate)
    optimizer.build(net.trainable_variables)

    @tf.function
    def step(x, label):
        with tf.GradientTape() as tape:
            value = loss(label, net(x, training=True))
        gradients = tape.gradient(value, net.trainable_variables)
        optimizer.apply_gradients(zip(gradients, net.trainable_variables, strict=True))

    rng = np.random.default_rng(seed)
    for _ in range(_STEPS.value):
        rows = np.concatenate(
            [rng.integers(len(slices), size=5), rng.choice(slices.lesions, 3)]
        )
        x = np.moveaxis(slices.images(rows), 1, -1) / data.LEVELS
        x, label = augment(x, slices.labels(rows), rng)
        step(tf.constant(x, tf.float32), tf.constant(label, tf.int32))
    return net


def whole_dice(net, slices):
    """Subject name -> whole-lesion Dice of its volume; only where there is a lesion."""
    found, truth = {}, {}
    segment = tf.function(lambda x: tf.argmax(net(x, training=False), -1))
    for x, label, subjects in data.in_order(slices, 25):
        answers = segment(np.moveaxis(x[..., 0], 1, -1)).numpy()
        for subject, one, answer in zip(subjects, label, answers, strict=True):
            truth.setdefault(slices.names[subject], []).append(one > 0)
            found.setdefault(slices.names[subject], []).append(answer > 0)
    return {
        name: metrics.dice(np.stack(truth[name]), np.stack(found[name]))
        for name in truth
        if np.any(truth[name])
    }


def selection(subjects, with_lesion, count, seed):
    """`count` subjects to train on: a seed's own, with lesions where it has a choice.

    A run on one subject without a lesion could learn nothing.
    """
    if count >= len(subjects):
        return subjects
    chosen = [s for s in subjects if s.name in with_lesion]
    chosen = chosen[seed * count % len(chosen) :] + chosen
    return chosen[:count]


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    counts = [int(count) for count in _COUNTS.value]
    with tempfile.TemporaryDirectory() as scratch:
        folder = _PHANTOM.value or scratch
        if not _PHANTOM.value:
            phantom.write_subjects(folder, _TEST.value + max(counts))
        cache = pathlib.Path(scratch, "cache")
        subjects = brats.find_subjects(folder)
        test, pool = subjects[: _TEST.value], subjects[_TEST.value :]
        if len(pool) < max(counts):
            raise brats.DataError(
                f"{folder}: {len(subjects)} subjects, but {_TEST.value + max(counts)} "
                "are needed; make more or lower --counts"
            )
        held_out = {"phantom": data.Slices(test, _SIZE.value, cache_dir=cache)}
        if _REAL.value:
            real = brats.find_subjects(_REAL.value)
            held_out["real"] = data.Slices(real, _SIZE.value, cache_dir=cache)
        everything = data.Slices(pool, _SIZE.value, cache_dir=cache)
        rows = everything.index[everything.lesions, 0]
        with_lesion = {everything.names[row] for row in set(rows)}

        means = {}
        for count in counts:
            for seed in range(_SEEDS.value):
                chosen = selection(pool, with_lesion, count, seed)
                net = train(data.Slices(chosen, _SIZE.value, cache_dir=cache), seed)
                for side, slices in held_out.items():
                    scores = whole_dice(net, slices)
                    shown = "  ".join(f"{value:.2f}" for value in scores.values())
                    mean = float(np.mean(list(scores.values())))
                    means.setdefault((side, count), []).append(mean)
                    print(
                        f"{count:3} subjects, seed {seed}, on {side}: {mean:.3f} "
                        f"({shown})",
                        flush=True,
                    )
    rows = [
        {
            "scored_on": side,
            "subjects": count,
            "dice_whole": round(float(np.mean(values)), 4),
            "by_seed": [round(value, 4) for value in values],
        }
        for (side, count), values in means.items()
    ]
    print("\n| scored on | trained on | whole-lesion Dice | by seed |")
    print("|---|---|---|---|")
    for row in rows:
        by_seed = ", ".join(f"{value:.3f}" for value in row["by_seed"])
        print(
            f"| {row['scored_on']} | {row['subjects']} phantoms | "
            f"{row['dice_whole']:.3f} | {by_seed} |"
        )
    print(json.dumps({"steps": _STEPS.value, "width": _WIDTH.value, "rows": rows}))


if __name__ == "__main__":
    app.run(main)
