"""Slices a second from BraTS files on disk, beside MONAI and TorchIO.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.input_pipeline

Every contender reads the same `.nii.gz` files, four modalities and the label, in one
process, and hands out what a network is fed: float32 in [0, 1] and the label. MONAI
(`LoadImaged`, `ScaleIntensityd`) and TorchIO (`RescaleIntensity`) read whole volumes;
counted are the slices in range. Rounds are interleaved, so that all see the same
machine; figures are medians over rounds. Files are in the page cache.

cold        io.read_subject, one subject after the other, no other thread
cold, pool  the same in as many threads as the pipeline uses
first pass  data.Slices with an empty cache folder, then one pass of batches
cached      one pass of batches from the cache, as training reads them

Prints a table and, last, the same as one line of JSON.
"""

import concurrent.futures
import itertools
import json
import os
import tempfile
import time
from importlib import util

import numpy as np
from absl import app, flags, logging

from brats_gan import data, io, phantom, spec

_DATA = flags.DEFINE_string("data_dir", None, "BraTS folder; a phantom if unset.")
_SUBJECTS = flags.DEFINE_integer("subjects", 6, "Of the phantom, or at most.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Interleaved repeats.")
_BATCH = flags.DEFINE_integer("batch_size", 8, "Slices of four modalities a batch.")


def read_cold(subjects):
    for subject in subjects:
        images, label = io.read_subject(subject)
        assert images.shape[:3] == label.shape


def read_cold_in_pool(subjects):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for images, label in pool.map(io.read_subject, subjects):
            assert images.shape[:3] == label.shape


def one_pass(slices):
    batches = data.segmentation_batches(slices, _BATCH.value, seed=0)
    for batch in batches.take(len(slices) // _BATCH.value):
        assert batch["x"].shape[0] == _BATCH.value  # a tensor in memory, not a promise


def first_pass(subjects):
    with tempfile.TemporaryDirectory() as cache:
        one_pass(data.Slices(subjects, cache_dir=cache))


def monai_reader(subjects):
    """None where MONAI is not installed."""
    if util.find_spec("monai") is None:
        return None
    from monai import data as monai_data
    from monai import transforms

    files = [
        {
            **{m: str(path) for m, (path, _) in subject.images.items()},
            "label": str(subject.label),
        }
        for subject in subjects
    ]
    transform = transforms.Compose(
        [
            transforms.LoadImaged(keys=[*spec.BRATS.modalities, "label"]),
            transforms.ScaleIntensityd(keys=spec.BRATS.modalities),
        ]
    )

    def read(subjects):
        del subjects  # the same ones
        for sample in monai_data.Dataset(files, transform):
            np.asarray(sample["t1"])

    return read


def torchio_reader(subjects):
    """None where TorchIO is not installed."""
    if util.find_spec("torchio") is None:
        return None
    import torchio

    described = [
        torchio.Subject(
            **{m: torchio.ScalarImage(path) for m, (path, _) in s.images.items()},
            label=torchio.LabelMap(s.label),
        )
        for s in subjects
    ]
    rescale = torchio.RescaleIntensity((0, 1))

    def read(subjects):
        del subjects
        for sample in torchio.SubjectsDataset(described, transform=rescale):
            sample["t1"].data.numpy()
            sample["label"].data.numpy()

    return read


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        if not _DATA.value:
            phantom.write_subjects(f"{scratch}/phantom", _SUBJECTS.value)
        folder = _DATA.value or f"{scratch}/phantom"
        subjects = io.find_subjects(folder)[: _SUBJECTS.value]
        cached = data.Slices(subjects, cache_dir=f"{scratch}/cache")
        contenders = {
            "cold": read_cold,
            "cold, pool": read_cold_in_pool,
            "first pass": first_pass,
            "cached": lambda subjects: one_pass(cached),
            "MONAI": monai_reader(subjects),
            "TorchIO": torchio_reader(subjects),
        }
        contenders = {name: read for name, read in contenders.items() if read}
        in_range = spec.BRATS.slices[1] - spec.BRATS.slices[0]
        counts = dict.fromkeys(contenders, len(subjects) * in_range)
        counts["cached"] = len(cached) // _BATCH.value * _BATCH.value
        seconds = {name: [] for name in contenders}
        for read in contenders.values():
            read(subjects)  # warm: imports, page cache, tracing
        for _, (name, read) in itertools.product(
            range(_ROUNDS.value), contenders.items()
        ):
            begin = time.perf_counter()
            read(subjects)
            seconds[name].append(time.perf_counter() - begin)

    rates = {name: counts[name] / np.median(seconds[name]) for name in contenders}
    print(f"\n{len(subjects)} subjects, {_ROUNDS.value} rounds")
    print("\n| | slices a second | of cold |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / rates['cold']:.2f} |")
    result = {name: round(float(rate), 1) for name, rate in rates.items()}
    for peer in ("MONAI", "TorchIO"):
        if peer in rates:
            ratio = float(rates["cold"] / rates[peer])
            result[f"cold_over_{peer.lower()}"] = round(ratio, 2)
    result["cached_over_cold"] = round(float(rates["cached"] / rates["cold"]), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
