"""Stage 3: makes a synthetic data set of registered slices with lesions (Section 2.8).

Writes the BraTS 2018-21 layout, 50 samples a volume, with manifest.csv and
dataset_description.json. Start the same command again to continue.
"""

import csv
import io
import json

import numpy as np
import tensorflow as tf
from absl import flags, logging

import brats_gan
from brats_gan import brats, data, figures, runs, structure, synthesis

_DATA = flags.DEFINE_string("data_dir", None, "Real BraTS folder: labels come from it.")
_LAYOUT = flags.DEFINE_string("layout", None, "Layout of data_dir; default: look.")
_STRUCTURAL = flags.DEFINE_string("structural_run", None, "Run of train_structural.py.")
_MULTIMODAL = flags.DEFINE_string("multimodal_run", None, "Run of train_multimodal.py.")
_SEGMENTOR = flags.DEFINE_string(
    "segmentor_run", None, "Run whose segmentor filters; default: --multimodal_run."
)
_OUTPUT = flags.DEFINE_string("output_dir", None, "Folder of the data set.")
_SAMPLES = flags.DEFINE_integer("samples", 1000, "Sets of four slices to make.", 1)
_MAE = flags.DEFINE_float(
    "mae_threshold", structure.MAE_THRESHOLD, "Largest error of Algorithm 3."
)
_DICE = flags.DEFINE_float(
    "dice_threshold",
    0.95,
    "Smallest index Dice of the label found again (Section 2.8).",
)
_TRIES = flags.DEFINE_integer("max_tries", 50, "Attempts a sample, then the best.", 1)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Attempts in flight.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seeds codes and labels.")
_CACHE = flags.DEFINE_string("cache_dir", None, "Keeps decoded slices for later runs.")
_CHECK = flags.DEFINE_bool("check", True, "Check the data first.")
flags.mark_flags_as_required(
    ["data_dir", "structural_run", "multimodal_run", "output_dir"]
)

PER_VOLUME = 50
SHOWN = 8  # rows of samples.png


def load_models(structural_run, multimodal_run, segmentor_run):
    """The exports of both stages as synthesis.Models, and their description.

    Raises:
        RunError: a run is not finished, or the runs do not go together.
    """
    maps, of_maps = runs.load_export(structural_run, "structure")
    generator, of_generator = runs.load_export(multimodal_run, "generator")
    segmentor, of_segmentor = runs.load_export(segmentor_run, "segmentor")
    for run, other in ((multimodal_run, of_generator), (segmentor_run, of_segmentor)):
        for key in (*data.preprocessing(0), "beta", "training_subjects"):
            if key in other and other[key] != of_maps[key]:
                raise runs.RunError(
                    f"{structural_run} and {run} do not go together: {key} is "
                    f"{of_maps[key]} in one and {other[key]} in the other; train both "
                    "with the same --image_size, --beta, data and split"
                )

    models = synthesis.Models(
        of_maps["code_dim"],
        synthesis.maps_by(maps),
        synthesis.images_by(generator),
        synthesis.labels_by(segmentor),
    )
    return models, of_maps


def description(of_maps, rows, split):
    """dataset_description.json, after the BIDS derivatives."""
    accepted = sum(int(row["accepted"]) for row in rows)
    attempts = sum(int(row["tries"]) for row in rows)
    rejected = {
        name: sum(int(row[f"rejected_{name}"]) for row in rows)
        for name in ("structure", "label", "dice")
    }
    return {
        "Name": "Synthetic registered multi-modal brain MRI with lesions",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brats_gan", "Version": brats_gan.__version__}],
        "Prepared": True,
        "Labels": dict(enumerate(brats.LABELS)),
        "ImageSize": of_maps["image_size"],
        "Flags": runs.key_flags(),
        "TrainingSubjects": split["train"],
        "HeldOutSubjects": split["test"],
        "Samples": len(rows),
        "Accepted": accepted,
        "Fallbacks": len(rows) - accepted,
        "Attempts": attempts,
        "Rejected": rejected,
    }


def draw(group, path):
    """Figure 9: map, mask, label, the four slices, and the label found in FLAIR."""
    rows = [
        [s.structure, s.background, s.label, *s.images, s.found[-1]]
        for s in group[:SHOWN]
    ]
    titles = ["f_g", "mask_g", "label", *brats.MODALITIES, "found"]
    figures.sheet(rows, titles, path, label_columns=("label", "found"))


def main(argv):
    del argv  # checked by runs.main
    runs.set_up("float32", _SEED.value)
    segmentor_run = _SEGMENTOR.value or _MULTIMODAL.value
    models, of_maps = load_models(_STRUCTURAL.value, _MULTIMODAL.value, segmentor_run)
    output_dir = runs.start(_OUTPUT.value)
    training, _ = data.split_subjects(
        _DATA.value,
        output_dir,
        given=f"{_STRUCTURAL.value}/split.json",
        layout=_LAYOUT.value,
        check=_CHECK.value,
        slices=tuple(of_maps["slices"]),
    )
    split = brats.load_split(output_dir / "split.json")
    slices = data.Slices(
        training,
        of_maps["image_size"],
        tuple(of_maps["slices"]),
        cache_dir=_CACHE.value,
    )

    manifest = output_dir / "manifest.csv"
    rows = []
    if manifest.exists():
        with manifest.open(newline="") as file:
            rows = list(csv.DictReader(file))
        logging.info("%s: going on after %d samples", output_dir, len(rows))

    bar = tf.keras.utils.Progbar(_SAMPLES.value, unit_name="sample", interval=5)
    bar.update(len(rows))
    made = synthesis.samples(
        models,
        slices,
        range(len(rows), _SAMPLES.value),
        _SEED.value,
        _MAE.value,
        _DICE.value,
        _TRIES.value,
        _BATCH.value,
    )
    group = []
    for sample in made:
        group.append(sample)
        bar.update(sample.number + 1)
        if len(group) < PER_VOLUME and sample.number + 1 < _SAMPLES.value:
            continue
        volume_id = f"synth-{sample.number // PER_VOLUME + 1:05d}"
        synthesis.write_volume(output_dir, volume_id, group)
        rows += [
            synthesis.manifest_row(each, volume_id, position, _SEED.value)
            for position, each in enumerate(group)
        ]
        table = io.StringIO()
        writer = csv.DictWriter(table, synthesis.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        brats.write_atomically(manifest, table.getvalue().encode())
        if volume_id == "synth-00001":
            draw(group, output_dir / "samples.png")
        group = []

    summary = description(of_maps, rows, split)
    runs.write_json(output_dir / "dataset_description.json", summary)
    shown = ("Samples", "Accepted", "Fallbacks", "Attempts", "Rejected")
    print(json.dumps({key: summary[key] for key in shown}))
    dice = np.array([float(row["dice"]) for row in rows])
    print(f"index Dice of the labels found again: mean {dice.mean():.3f}")
    print(f"sheet: {output_dir / 'samples.png'}")


if __name__ == "__main__":
    runs.main(main)
