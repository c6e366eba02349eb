"""Stage 3: makes a synthetic data set of registered slices with lesions (Section 2.8).

Writes the BraTS 2018-21 layout, 50 samples a volume, with manifest.csv and
dataset_description.json. Start the same command again to continue.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags, logging

from brats_gan import (
    common_flags,
    data,
    figures,
    progress,
    reports,
    runs,
    spec,
    structure,
    synthesis,
    synthetic_dataset,
    trained_models,
    weights,
)
from brats_gan.lazy import tf

_DATA = common_flags.data_dir(
    "Real BraTS folder: labels come from it. Not needed with --structural_run="
    "pretrained, which brings labels."
)
_LAYOUT = common_flags.layout()
_SPLIT = common_flags.split("that of --structural_run")
_STRUCTURAL = flags.DEFINE_string(
    "structural_run",
    None,
    "Run of train_structural.py, or a folder of weights, or `pretrained`.",
)
_MULTIMODAL = flags.DEFINE_string(
    "multimodal_run",
    None,
    "Run of train_multimodal.py, or a folder of weights, or `pretrained`.",
)
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
    None,
    "Smallest index Dice of the label found again; default: what the weights say that "
    "they reach, as those that come with the package do, else 0.95 (Section 2.8).",
)
_TRIES = flags.DEFINE_integer("max_tries", 50, "Attempts a sample, then the best.", 1)
_FILTER = flags.DEFINE_bool(
    "filter", True, "Both filters; Table 1 asks for data without (Section 3.5)."
)
_ACCEPTED_ONLY = flags.DEFINE_bool(
    "accepted_only",
    False,
    "Leave out samples of which no attempt passed both filters, and those beyond "
    "--lesion_free, and make others until there are --samples.",
)
_LESION_FREE = flags.DEFINE_float(
    "lesion_free",
    data.LESION_FREE,
    "Share of samples without a lesion; with --accepted_only the largest share.",
    0,
    1,
)
_BATCH = flags.DEFINE_integer("batch_size", 16, "Attempts in flight.", 1)
_SEED = common_flags.seed("Seeds codes and labels.")
_CACHE = common_flags.cache_dir()
_CHECK = common_flags.check("Check the data first.")
_NEAREST = flags.DEFINE_bool(
    "nearest_report",
    False,
    "Look for the nearest training slice of every sample and every held-out slice.",
)
flags.mark_flags_as_required(["structural_run", "multimodal_run", "output_dir"])

SHOWN = 8  # rows of samples.png
HOPELESS = 50  # samples left out in a row before --accepted_only gives up


def find_labels(output_dir, of_maps, seen):
    """Where labels come from: subjects of --data_dir, or a pool beside the weights.

    Writes OUT/split.json.

    Returns:
        data.Slices or data.LabelPool, and the subjects held out.

    Raises:
        RunError: there are no labels, or the models were trained on what is held out.
    """
    folder = weights.folder_of(_STRUCTURAL.value, "structural")
    of_run = Path(folder or _STRUCTURAL.value, "split.json")
    if not _DATA.value:
        if _SPLIT.value:
            raise runs.RunError("--split is of --data_dir, which is not given")
        pool = weights.labels_of(_STRUCTURAL.value)
        if pool is None or _NEAREST.value:
            raise runs.RunError(
                "--data_dir is needed: labels and --nearest_report are of its "
                "training subjects; only --structural_run=pretrained brings labels"
            )
        split = {"seed": None, "train": seen, "test": []}
        if of_run.exists():
            split = data.load_split(of_run)
        data.save_split(output_dir / "split.json", split)
        return data.LabelPool(pool, of_maps["image_size"]), []
    if folder is not None and not of_run.exists():
        of_run = None
    training, held_out = data.split_subjects(
        _DATA.value,
        output_dir,
        given=_SPLIT.value or of_run,
        layout=_LAYOUT.value,
        check=_CHECK.value,
        slices=tuple(of_maps["slices"]),
        strict=bool(_SPLIT.value) or folder is None,
    )
    names = {subject.name for subject in held_out}
    leaked = sorted(names.intersection(seen))
    if leaked:
        raise runs.RunError(
            f"the split holds out {', '.join(leaked[:5])}, which the models have seen: "
            "they, or the weights they started from (--init_from), were trained on "
            "subjects of that name. Give by --split the split of their run, or start "
            "them from other weights"
        )
    slices = data.Slices(
        training,
        of_maps["image_size"],
        tuple(of_maps["slices"]),
        cache_dir=_CACHE.value,
    )
    return slices, held_out


def draw(group, path):
    """Figure 9: map, mask, label, the four slices, and the label found in FLAIR."""
    rows = [
        [s.structure, s.background, s.label, *s.images, s.found[-1]]
        for s in group[:SHOWN]
    ]
    titles = ["f_g", "mask_g", "label", *spec.MODALITIES, "found"]
    figures.sheet(rows, titles, path, label_columns=("label", "found"))


def main(argv):
    del argv  # checked by runs.main
    runs.set_up("float32", _SEED.value)
    segmentor_run = _SEGMENTOR.value or _MULTIMODAL.value
    models, of_maps, scheme, seen = trained_models.load_models(
        _STRUCTURAL.value, _MULTIMODAL.value, segmentor_run
    )
    if _DICE.value is None:  # what flags.txt and the description will say
        flags.FLAGS[_DICE.name].value = trained_models.dice_threshold(_MULTIMODAL.value)
    output_dir = runs.start(_OUTPUT.value, free=("nearest_report",))
    labels = _DATA.value or _STRUCTURAL.value
    logging.info("stage 3: %s, with labels of %s", output_dir, labels)
    slices, held_out = find_labels(output_dir, of_maps, seen)
    split = data.load_split(output_dir / "split.json")

    rows = synthetic_dataset.rows_so_far(output_dir)
    if rows:
        logging.info("%s: going on after %d samples", output_dir, len(rows))

    kept = sum(bool(row["id"]) for row in rows)
    healthy = sum(bool(row["id"]) and row["lesion_pixels"] == "0" for row in rows)
    logging.info("%s: %d samples to make", output_dir, max(_SAMPLES.value - kept, 0))
    on_terminal = sys.stdout.isatty()
    bar = tf.keras.utils.Progbar(
        _SAMPLES.value,
        unit_name="sample",
        interval=5 if on_terminal else progress.EVERY,
    )
    bar.update(kept)
    pace = progress.Pace(pieces=2 * _BATCH.value)  # they come in groups
    first = len(rows)
    endless = _ACCEPTED_ONLY.value
    made = synthesis.samples(
        models,
        slices,
        itertools.count(first) if endless else range(first, _SAMPLES.value),
        _SEED.value,
        _MAE.value if _FILTER.value else np.inf,
        _DICE.value if _FILTER.value else -np.inf,
        _TRIES.value,
        _BATCH.value,
        _LESION_FREE.value,
    )
    group, pending, hopeless = [], [], 0  # not yet written: samples, and all rows
    while kept + len(group) < _SAMPLES.value:
        sample = next(made)
        volume_id = f"synth-{kept // synthetic_dataset.PER_VOLUME + 1:05d}"
        # Samples without a lesion pass the filters more often: they must not crowd.
        is_healthy = not sample.label.any()
        crowds = is_healthy and healthy >= _LESION_FREE.value * (kept + len(group) + 1)
        if not _ACCEPTED_ONLY.value or (sample.accepted and not crowds):
            place, hopeless = (volume_id, len(group)), 0
            group.append(sample)
            healthy += is_healthy
            at = kept + len(group)
            bar.update(at)
            if pace.seen(at, time.monotonic()):
                if on_terminal:
                    print()  # below the bar
                left = _SAMPLES.value - at
                logging.info(progress.forecast(left, pace.seconds, "sample"))
        else:
            place = "", ""
            hopeless += not sample.accepted
        pending.append(synthetic_dataset.manifest_row(sample, *place, _SEED.value))
        if hopeless == HOPELESS:
            raise runs.RunError(
                f"{output_dir}: {HOPELESS} samples in a row did not pass both filters "
                f"in {_TRIES.value} attempts each; train longer, or give a higher "
                "--max_tries or --mae_threshold or a lower --dice_threshold"
            )
        if (
            len(group) < synthetic_dataset.PER_VOLUME
            and kept + len(group) < _SAMPLES.value
        ):
            continue
        synthetic_dataset.write_volume(output_dir, volume_id, group)
        if not kept:
            draw(group, output_dir / "samples.png")
        rows += pending
        kept += len(group)
        synthetic_dataset.write_manifest(output_dir, rows)
        group, pending = [], []

    summary = synthetic_dataset.description(
        of_maps, scheme, rows, split, seen, bool(_DATA.value), _FILTER.value
    )
    # Finished, whatever becomes of the reports.
    synthetic_dataset.write_description(output_dir, summary)
    summary["Registration"] = reports.registration_report(
        output_dir, kept, slices, float(of_maps["beta"])
    )
    if _NEAREST.value:
        others = data.Slices(
            held_out,
            of_maps["image_size"],
            tuple(of_maps["slices"]),
            cache_dir=_CACHE.value,
        )
        summary["NearestTraining"] = reports.nearest_report(
            output_dir, slices, others, of_maps["slices"][0]
        )
    synthetic_dataset.write_description(output_dir, summary)
    shown = ("Samples", "Accepted", "Fallbacks", "LeftOut", "Attempts", "Rejected")
    print(json.dumps({key: summary[key] for key in shown}))
    dice = np.array([float(row["dice"]) for row in rows if row["id"]])
    print(f"index Dice of the labels found again: mean {dice.mean():.3f}")
    print(f"sheet: {output_dir / 'samples.png'}")
    beside = (
        "slices of registered training subjects" if _DATA.value else "no real slices"
    )
    print(f"registration, beside {beside}:")
    for name, scores in summary["Registration"]["Scores"].items():
        print(f"  {name}: {json.dumps(scores)}")
    if _NEAREST.value:
        found = summary["NearestTraining"]
        print("correlation with the nearest training slice:")
        for name in ("generated", "held-out"):
            print(f"  {name}: {json.dumps(found[name])}")
        print(f"closest pairs: {output_dir / 'nearest.png'}")


if __name__ == "__main__":
    runs.main(main)
