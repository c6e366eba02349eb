"""What the timings share: networks and batches without files, rounds, memory."""

import contextlib
import os
import pathlib
import resource
import time

import numpy as np
import tensorflow as tf

from brats_gan import code_bank, data, multimodal, runs, spec, styles


def resident_mb():
    """Resident memory of this process, MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak_mb():
    """The highest resident memory this process had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def workers_of(process):
    """Processes of the workers of Dask that a client has started, in order."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            command = path.joinpath("cmdline").read_bytes()
            if int(parent) == process.pid and b"spawn_main" in command:
                found.append(int(path.name))
    return sorted(found)


def threads():
    """As many as TensorFlow has in an operation, for others; by default all cores."""
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0)) or os.cpu_count()


def adams(variables):
    """An optimizer for each side."""
    return {side: runs.adam(each, 5e-4, 10**6) for side, each in variables.items()}


def codes_of(nets):
    """An empty code bank for the networks of stage 1."""
    return code_bank.Codes(nets["DC_f"].inputs[0].shape[-1])


def multimodal_networks(size, width, precision="float32"):
    """(networks, optimizers) of stage 2 at its defaults; leaves the policy float32."""
    tf.keras.mixed_precision.set_global_policy(precision)
    nets = multimodal.build(size, width, code_game=True)
    optimizers = adams(multimodal.variables(nets))
    tf.keras.mixed_precision.set_global_policy("float32")
    return nets, optimizers


def _slices(rng, shape, size):
    """Grainy discs with a lesion of all classes: [*shape, H, W], and their labels."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    brain = np.hypot(y, x) < 0.42 * size
    images = brain * (0.2 + 0.8 * rng.random([*shape, size, size], np.float32))
    label = np.zeros([*shape, size, size], np.uint8)
    inside = slice(2 * size // 5, 3 * size // 5)
    lesion = label[..., inside, inside]
    lesion[...] = rng.integers(1, len(spec.BRATS.labels), lesion.shape)
    return images.astype(np.float32), label


def multimodal_batch(size, batch_size=1, seed=0):
    """What data.multimodal_batches yields, drawn: for time, not for learning."""
    rng = np.random.default_rng(seed)
    count = len(spec.BRATS.modalities)
    images, label = _slices(rng, (batch_size, count + 1), size)
    _, candidates = _slices(rng, (batch_size, data.CANDIDATES), size)
    return {
        "x": tf.constant(images[:, :count, ..., None]),
        "label": tf.constant(label[:, :count]),
        "source": tf.constant(images[:, count, ..., None]),
        "source_label": tf.constant(label[:, count]),
        "candidates": tf.constant(candidates),
        "style": tf.constant(
            rng.standard_normal([batch_size, count, len(styles.QUANTILES)]), tf.float32
        ),
    }


def structural_batch(size, batch_size, seed=0):
    """What data.structural_batches yields, drawn."""
    images, label = _slices(np.random.default_rng(seed), (batch_size,), size)
    return {"x": tf.constant(images[..., None]), "label": tf.constant(label)}


def segmentation_batch(size, batch_size, seed=0):
    """What data.segmentation_batches yields, drawn."""
    rng = np.random.default_rng(seed)
    images, label = _slices(rng, (batch_size, len(spec.BRATS.modalities)), size)
    return {"x": tf.constant(images[..., None]), "label": tf.constant(label[:, 0])}


def interleaved(contenders, rounds, warm=1):
    """Seconds of each call: every contender once a round, so that all see one machine.

    Args:
        contenders: name -> function without arguments that returns when it is done.
        rounds: timed calls of each.
        warm: calls of each before, not timed.

    Returns:
        name -> list of `rounds` seconds.
    """
    seconds = {name: [] for name in contenders}
    for turn in range(warm + rounds):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def medians(seconds):
    """name -> median of its seconds."""
    return {name: float(np.median(each)) for name, each in seconds.items()}
