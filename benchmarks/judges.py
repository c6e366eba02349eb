"""U-Nets that find lesions: trained on real slices, never part of a method measured.

The field's usual segmentor, and none of the networks of this project, with seeds of its
own. Benchmarks judge data by them. A *sight* is the tuple of modality indices that a
net sees as channels.
"""

import functools
import hashlib
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from brats_gan import data, files, layers, precision, runs, spec
from brats_gan.data import records
from brats_gan.io import patients

CLASS_WEIGHTS = (0.7, 5.0, 2.0, 8.0, 4.0)  # lesions are small, rims smallest
BATCH = 8  # slices a step, three of them with a lesion for certain
PEAK_RATE = 2e-3  # of Adam; falls along a cosine
CODE = "code"  # name of the bottleneck layer


@functools.cache
def precision_of(size, width):
    """What U-Nets of this size compute in: as the scripts', measured once a process."""
    side, filters = size // 2, 2 * width  # as heavy as those of the sides around it
    wanted = precision.by_variable()
    if wanted != precision.AUTO:
        return wanted
    shape = (BATCH, side, side, 3 * filters), (3, 3, 3 * filters, filters)
    choice = precision.choose(*shape)
    logging.info("judges: %s", choice)
    return choice.precision


def build_unet(size, channels, width):
    """A U-Net of three halvings, [B, size, size, channels] -> logits [..., 5].

    Computes in `precision_of`. The output of the layer named CODE is
    [B, size / 8, size / 8, 8 * width].
    """
    layers = tf.keras.layers
    mixed = {"dtype": tf.keras.mixed_precision.Policy(precision_of(size, width))}

    def block(x, filters, name=None):
        for last in (False, True):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False, **mixed)(x)
            x = layers.BatchNormalization(**mixed)(x)
            x = layers.ReLU(name=name if last else None, **mixed)(x)
        return x

    x = images = tf.keras.Input((size, size, channels))
    skipped = []
    for level in range(3):
        x = block(x, width * 2**level)
        skipped.append(x)
        x = layers.MaxPool2D(**mixed)(x)
    x = block(x, width * 8, CODE)
    for level in (2, 1, 0):
        x = layers.UpSampling2D(**mixed)(x)
        x = layers.Concatenate(**mixed)([x, skipped[level]])
        x = block(x, width * 2**level)
    logits = layers.Conv2D(len(spec.BRATS.labels), 1, dtype="float32")(x)
    return tf.keras.Model(images, logits)


def _loss(label, logits):
    """Cross-entropy, rare classes up, plus soft Dice of each lesion class and all."""
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits)
    entropy = tf.reduce_mean(entropy * tf.gather(CLASS_WEIGHTS, label))
    found, truth = tf.nn.softmax(logits), tf.one_hot(label, len(spec.BRATS.labels))
    # Instead of the background, its complement: the whole lesion.
    found, truth = (tf.concat([1 - x[..., :1], x[..., 1:]], -1) for x in (found, truth))
    axes = [0, 1, 2]
    total = tf.reduce_sum(found, axes) + tf.reduce_sum(truth, axes)
    dice = (2 * tf.reduce_sum(found * truth, axes) + 1) / (total + 1)
    return entropy + 1 - tf.reduce_mean(dice)


def _augment(x, label, rng):
    """Half of the batches mirrored; a gamma, gain and noise for every image."""
    if rng.random() < 0.5:
        x, label = x[:, :, ::-1], label[:, :, ::-1]
    each = (len(x), 1, 1, x.shape[-1])
    x = x ** np.exp(rng.normal(0, 0.25, each)) * np.exp(rng.normal(0, 0.1, each))
    noise = rng.normal(0, 1, x.shape) * rng.uniform(0, 0.04, (len(x), 1, 1, 1))
    return x + (x > 0) * noise, label


def train(slices, sights, seed, steps, width):
    """{sight: U-Net}, all trained side by side on the same batches of data.Slices.

    Side by side, because nets this small keep one core busy each and no more.
    """
    tf.keras.utils.set_random_seed(seed)
    half = precision_of(slices.image_size, width) == "mixed_float16"
    kind = layers.LossScaledAdam if half else tf.keras.optimizers.Adam
    nets, optimizers = {}, {}
    for sight in sights:
        nets[sight] = build_unet(slices.image_size, len(sight), width)
        rate = tf.keras.optimizers.schedules.CosineDecay(PEAK_RATE, steps, 0.02)
        optimizers[sight] = kind(rate)
        optimizers[sight].build(nets[sight].trainable_variables)

    @tf.function(autograph=False)
    def step(x, label):
        for sight, net in nets.items():
            with tf.GradientTape() as tape:
                logits = net(tf.gather(x, sight, axis=-1), training=True)
                value = _loss(label, logits)
            of_net = {sight: net.trainable_variables}
            runs.update(optimizers, tape, {sight: value}, of_net)

    rng = np.random.default_rng(seed)
    bar = tf.keras.utils.Progbar(steps, interval=10, unit_name="judging step")
    for done in range(steps):
        rows = np.concatenate(
            [rng.integers(len(slices), size=BATCH - 3), rng.choice(slices.lesions, 3)]
        )
        x = np.moveaxis(slices.images(rows), 1, -1) / data.LEVELS
        x, label = _augment(x, slices.labels(rows), rng)
        step(tf.constant(x, tf.float32), tf.constant(label, tf.int32))
        bar.update(done + 1)
    return nets


def require_unseen(subjects, where, held_out, split, read=None, in_range=None):
    """Refuses judges that would learn from a patient whom a run holds out.

    Args:
        subjects: io.Subject that the judges learn from.
        where: what messages call them.
        held_out: io.Subject that runs hold out, as far as they are at hand.
        split: {"test": names of all that are held out, "patient_pattern": or None}.
        read: subjects -> data.Slices, to know a subject again in files of another kind;
            None where files alone are to tell.
        in_range: the slices that it reads, half-open.

    Returns:
        The record (data.records) of `subjects`, all of them as trained on.

    Raises:
        DataError: names both subjects.
    """
    names = [subject.name for subject in subjects]
    ours = {"split": {**split, "train": []}, "subjects": records.of_files(held_out)}
    theirs = {"split": {"train": names, "test": []}, "subjects": {}}
    known = patients.shared(split["test"], names, *records.patterns(ours))
    if known:
        raise files.DataError(
            f"{where}: has {patients.described(known)}, whom the runs hold out: what "
            "judges find in them would say nothing of unseen patients. Name a folder "
            "without them."
        )
    theirs["subjects"] = records.of_files(subjects)
    records.require_unseen(ours, theirs, where, held_out)
    if read is not None:
        for record, of_side in ((theirs, subjects), (ours, held_out)):
            slices = read(of_side)
            record["subjects"] = records.of_slices(slices, of_side)
            record |= {"image_size": slices.image_size, "slices": list(in_range)}
        records.require_unseen(ours, theirs, where, held_out)
    return theirs


def trained(slices, sights, seed, steps, width, folder=None, made_from=None):
    """As `train`; kept in `folder` for the next call on the same slices.

    In the same precision: nets that were trained in another are others. `made_from`, a
    record of the subjects, is kept with them, sealed, as DIGEST.json.
    """
    if folder is None:
        return train(slices, sights, seed, steps, width)
    size = slices.image_size
    key = repr((slices.names, len(slices), size, seed, steps, width))
    key += precision_of(size, width) + slices.fingerprint
    digest = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    paths = {
        sight: pathlib.Path(folder, f"{digest}-{''.join(map(str, sight))}.weights.h5")
        for sight in sights
    }
    if all(path.exists() for path in paths.values()):
        nets = {
            sight: build_unet(slices.image_size, len(sight), width) for sight in sights
        }
        for sight, path in paths.items():
            nets[sight].load_weights(path)
        return nets
    nets = train(slices, sights, seed, steps, width)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for sight, path in paths.items():
        partial = path.with_name(f".part-{path.name}")
        nets[sight].save_weights(partial)
        partial.replace(path)
    if made_from is not None:
        digests = {path.name: records.digest(path) for path in paths.values()}
        whole = files.sealed({"inputs": made_from, "files": digests})
        files.write_json(pathlib.Path(folder, f"{digest}.json"), whole)
    return nets


def find(net, x, batch_size=50):
    """Labels found in [N, H, W, C]: [N, H, W] integers."""
    predict = tf.function(lambda part: tf.argmax(net(part, training=False), -1))
    parts = [
        predict(tf.constant(x[start : start + batch_size], tf.float32)).numpy()
        for start in range(0, len(x), batch_size)
    ]
    return np.concatenate(parts)


def features(net, x, batch_size=50):
    """Bottleneck features of [N, H, W, C], averaged over pixels: [N, 8 * width]."""
    encoder = tf.keras.Model(net.inputs, net.get_layer(CODE).output)
    parts = [
        tf.reduce_mean(
            tf.cast(
                encoder(x[start : start + batch_size].astype(np.float32)), tf.float32
            ),
            [1, 2],
        ).numpy()
        for start in range(0, len(x), batch_size)
    ]
    return np.concatenate(parts).astype(np.float64)
