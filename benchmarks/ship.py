"""Makes brats_gan/pretrained of finished runs: weights, labels, and numbers to expect.

    python -m benchmarks.ship --structural_run=RUN --multimodal_run=RUN --data_dir=DATA

Both runs must be of data that may be given away: weights and labels of training
subjects go out with the package. Weights become float16, except where that is too
coarse for a variable. What names this machine is left out. README.md there, the model
card, is written by hand.

Prints the size of every file and, last, their sum.
"""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags

from brats_gan import (
    data,
    files,
    io,
    lesion_components,
    multimodal,
    runs,
    spec,
    structural,
    synthesis,
    weights,
)
from brats_gan.stages import structural as structural_stage

_STRUCTURAL = flags.DEFINE_string("structural_run", None, "Finished run of stage 1.")
_MULTIMODAL = flags.DEFINE_string("multimodal_run", None, "Finished run of stage 2.")
_DATA = flags.DEFINE_string("data_dir", None, "The data both were trained on.")
_OUTPUT = flags.DEFINE_string("output_dir", str(weights.PRETRAINED), "Folder to fill.")
_LABELS = flags.DEFINE_integer("labels", 400, "Labels with a lesion.", 1)
_DICE = flags.DEFINE_float(
    "dice_threshold",
    0.7,
    "What build_dataset.py asks of samples of these weights, unless it is told.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds the choice of labels.")
_CACHE = flags.DEFINE_string("cache_dir", None, "Keeps decoded slices for later runs.")

# What of weights.json concerns the machine that trained.
PRIVATE = ("flags", "revision", "script")
SAMPLES = 2  # of which numbers are kept


def public(stored):
    """Stored without what names the machine it was made on."""
    kept = {k: v for k, v in stored.description.items() if k not in PRIVATE}
    begun = kept.get("initialised_from")
    if begun:
        kept["initialised_from"] = {**begun, "source": Path(begun["source"]).name}
    return stored._replace(description=kept)


def with_stacks(maps, subjects):
    """Stored of stage 1, also fitted to the volumes of its training subjects."""
    said, nets = maps.description, weights.networks(maps, structural.drawing)
    read = said["image_size"], tuple(said["slices"])
    slices = data.Slices(subjects, *read, cache_dir=_CACHE.value)
    found = structural_stage.with_stacks(maps.found, nets, slices, said["beta"])
    return maps._replace(found=found)


def label_pool(subjects, slices, count, seed):
    """The arrays of data.LabelPool: `count` labels, or all that there are."""
    pool = data.Slices(subjects, spec.BRATS.crop, slices, cache_dir=_CACHE.value)
    order = np.random.default_rng(seed).permutation(pool.lesions)
    rows = np.sort(order[:count])
    where = pool.index[rows]
    return {
        "label": pool.labels(rows),
        "subject": np.array([pool.names[subject] for subject in where[:, 0]]),
        "slice": (where[:, 1] + slices[0]).astype(np.int16),
    }


def expected(folder):
    """Numbers that the weights in `folder` give on any stack, by name, for JSON.

    Of a drawn code the map's probability, and of a drawn map, label and style the four
    images and the label found: the mean and the values along a diagonal.
    """
    maps = weights.read(weights.folder_of(folder, "structural"))
    slices = weights.read(weights.folder_of(folder, "multimodal"))
    nets = weights.networks(maps, structural.drawing)
    rng = np.random.default_rng(0)
    code = rng.standard_normal([SAMPLES, len(maps.found.mean)], np.float32)
    moved = structural.moved(code, maps.found)
    origin = structural.origin_of(nets, tf.constant(code), maps.found)
    size = maps.description["image_size"]
    f = (rng.random([SAMPLES, size, size, 1]) < 0.1).astype(np.float32)
    label = np.zeros([SAMPLES, size, size], np.int32)
    middle = slice(size // 4, size // 2)
    label[:, middle, middle] = rng.integers(5, size=[SAMPLES, 1, 1])
    made = {
        "structure": structural.decode(nets, moved, maps.found, origin),
        "background": nets["MASK"](f, training=False),
    }
    generator = weights.networks(slices, multimodal.GENERATOR_SIDE)
    options = weights.options(slices)
    fitted = synthesis.styles_of(slices.description)
    style = fitted.sample(rng.standard_normal((SAMPLES, fitted.mean.size), np.float32))
    images = multimodal.generate(generator, f, label, style, options)
    for index, name in enumerate(spec.BRATS.modalities):
        made[name] = images[:, index]
    components = weights.networks(slices, multimodal.lesion_nets)
    made["segment"] = lesion_components.segment(components, images)[..., 0]
    return {name: _few(np.asarray(value)) for name, value in made.items()}


def _few(value):
    flat = value.reshape(SAMPLES, -1).astype(float)
    picked = flat[:, :: max(flat.shape[1] // 16, 1) + 1]
    return {"mean": round(flat.mean(), 6), "values": np.round(picked, 5).tolist()}


def main(argv):
    del argv  # checked by runs.main
    tf.keras.mixed_precision.set_global_policy("float32")
    output = Path(_OUTPUT.value)
    stored = {
        "structural": weights.find(_STRUCTURAL.value, "structural"),
        "multimodal": weights.find(_MULTIMODAL.value, "multimodal"),
    }
    maps = stored["structural"]
    if maps.found is None:
        raise runs.RunError(f"{maps.source}: the run has not finished; finish it first")
    for each in stored.values():
        for key in ("image_size", "slices", "beta", "training_subjects"):
            if each.description.get(key) != maps.description[key]:
                raise runs.RunError(
                    f"{each.source} and {maps.source} do not go together: they differ "
                    f"in {key}; train both with the same"
                )
    stored["multimodal"].description["dice_threshold"] = _DICE.value
    names = maps.description["training_subjects"]
    by_name = {subject.name: subject for subject in io.find_subjects(_DATA.value)}
    if missing := sorted(set(names) - by_name.keys()):
        raise files.DataError(
            f"{_DATA.value} has no {', '.join(missing[:5])}, which {maps.source} was "
            "trained on; give the folder it was trained on"
        )
    subjects = [by_name[name] for name in names]
    if maps.found.stacks is None:  # trained by a version that drew single slices
        stored["structural"] = with_stacks(maps, subjects)
    for name, each in stored.items():
        weights.write(output / name, public(each), np.float16)
    pool = label_pool(
        subjects,
        tuple(maps.description["slices"]),
        _LABELS.value,
        _SEED.value,
    )
    content = BytesIO()
    np.savez_compressed(content, **pool)
    files.write_atomically(output / weights.LABELS, content.getvalue())
    files.write_json(output / "expected.json", expected(output))
    sizes = {
        str(path.relative_to(output)): path.stat().st_size
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }
    for name, size in sizes.items():
        print(f"{size / 1e6:8.3f} MB  {name}")
    print(json.dumps({"labels": len(pool["label"]), "bytes": sum(sizes.values())}))


if __name__ == "__main__":
    flags.mark_flags_as_required(["structural_run", "multimodal_run", "data_dir"])
    runs.main(main)
