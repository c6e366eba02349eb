"""Stage 3: makes a synthetic data set of registered slices with lesions (Section 2.8).

Writes the BraTS 2018-21 layout, 50 samples a volume, with manifest.csv and
dataset_description.json. Start the same command again to continue.
"""

import json

import numpy as np
from absl import flags

from brats_gan import common_flags, data, painting, runs, structural_map
from brats_gan.stages import dataset as stage
from brats_gan.stages import painted, volumes

_DATA = common_flags.data_dir(
    "Real BraTS folder: labels come from it. Not needed with --structural_run="
    "pretrained, which brings labels."
)
common_flags.layout()
common_flags.patient_pattern()
common_flags.labels()
common_flags.split("that of --structural_run")
common_flags.path(
    "structural_run",
    "Run of train_structural.py, or a folder of weights, or `pretrained`.",
)
common_flags.path(
    "multimodal_run",
    "Run of train_multimodal.py, or a folder of weights, or `pretrained`.",
)
common_flags.path(
    "segmentor_run", "Run whose segmentors filter samples; --multimodal_run if unset."
)
_OUTPUT = common_flags.path("output_dir", "Folder of the data set.")
common_flags.count(
    "volumes",
    None,
    "Make so many registered volumes instead of samples, each a whole brain of 240 x "
    "240 x 155 voxels with lesions in three dimensions.",
    99_999,
)
common_flags.number(
    "passing",
    None,
    "Share of the slices of a volume that Algorithm 3 must accept; 0.9 if unset.",
    0,
    1,
)
flags.DEFINE_string(
    "shard",
    None,
    "Make part I of N of the volumes, as I/N; several processes, on whatever machines "
    "see the folder, make one each. Then the command without it finishes the data set.",
)
common_flags.workers("volumes (of 50 samples, or of --volumes)")
common_flags.path(
    "lesion_map",
    "Label map in the field of the volumes, 240 x 240 pixels: the lesion of every "
    "volume, where it is. Without it, lesions of training subjects are placed.",
)
# 50 samples a volume, whose number has five digits.
common_flags.count("samples", 1000, "Sets of registered slices to make.", 4_999_950)
common_flags.number(
    "mae_threshold",
    structural_map.MAE_THRESHOLD,
    "Largest error that Algorithm 3 accepts.",
    0,
    1,
)
common_flags.number(
    "dice_threshold",
    None,
    "Smallest mean index Dice of the predicted labels (Section 2.8). If unset, what "
    "the weights say that they reach, as those that come with the package do, or 0.95.",
    0,
    1,
)
common_flags.count(
    "max_tries", 50, "Attempts per sample; after these, the best is kept.", 1_000_000
)
flags.DEFINE_bool(
    "filter", True, "Apply both filters; Table 1 needs data without them (Section 3.5)."
)
flags.DEFINE_bool(
    "accepted_only",
    False,
    "Leave out samples of which no attempt passed both filters, and those beyond "
    "--lesion_free, and make others until there are --samples.",
)
common_flags.number(
    "lesion_free",
    data.LESION_FREE,
    "Share of samples without a lesion; with --accepted_only the largest share.",
    0,
    1,
)
common_flags.all_labels()
flags.DEFINE_bool(
    "mask_images",
    True,
    "Set slices to 0 outside the mask and below 0.02, and fill holes of the mask; off, "
    "keep them as they are generated, as in the paper (D40).",
)
common_flags.batch_size(16, "Attempts that are made at once.")
common_flags.seed("Seeds codes and labels.")
common_flags.cache_dir()
common_flags.check("Check the data first.")
flags.DEFINE_bool(
    "nearest_report",
    False,
    "Report the nearest training slice of every sample and of every held-out slice; of "
    "volumes, the nearest subjects.",
)
_FROM_JSON = common_flags.path(
    "from_json",
    "recipe.json of a set that was painted in explore.py: make that set again, to the "
    "byte, and nothing else. It says seed, code and label; of the flags, only runs, "
    "thresholds and --output_dir count.",
)
flags.mark_flags_as_required(["structural_run", "multimodal_run", "output_dir"])


def main(argv):
    del argv  # checked by runs.main
    if _FROM_JSON.value:
        chosen = common_flags.chosen(painting.Settings)
        show_painted(painted.build(chosen, _FROM_JSON.value, _OUTPUT.value))
        return
    settings = common_flags.chosen(stage.Settings)
    if settings.volumes:
        built = volumes.build(
            settings, common_flags.source(), _OUTPUT.value, common_flags.record
        )
    else:
        built = stage.build(
            settings, common_flags.source(), _OUTPUT.value, common_flags.record
        )
    if settings.shard:
        unit = "volumes" if settings.volumes else "samples"
        print(f"part {settings.shard}: its {len(built.rows)} {unit} are made")
        print("once all parts are, start the command without --shard to finish the set")
    elif settings.volumes:
        show_volumes(built)
    else:
        registered = "slices of registered training subjects"
        show_samples(built, registered if _DATA.value else "no real slices")


def show_painted(row):
    """Prints what a painted set was found to be."""
    said = "passes both filters" if row["accepted"] else "does not pass both filters"
    print(f"error of Algorithm 3: {row['mae']}, index Dice: {row['dice']}: it {said}")
    print("set: samples.png shows it")


def show_samples(built, beside):
    """Prints what a data set of samples has, `beside` what its registration is."""
    output_dir, summary, rows = built
    shown = ("Samples", "Accepted", "Fallbacks", "LeftOut", "Attempts", "Rejected")
    print(json.dumps({key: summary[key] for key in shown}))
    dice = np.array([float(row["dice"]) for row in rows if row["id"]])
    print(f"index Dice of the predicted labels: mean {dice.mean():.3f}")
    print(f"sheet: {output_dir / 'samples.png'}")
    show_registration(summary, beside)
    if "NearestTraining" in summary:
        show_nearest(summary, "slice")
        found = summary["NearestTraining"]
        print(f"  patients: {json.dumps(found['patients'])}")
        print(f"closest pairs: {output_dir / 'nearest.png'}")


def show_registration(summary, beside):
    """Prints how well contrasts lie on each other, beside real ones."""
    print(f"registration, beside {beside}:")
    for name, scores in summary["Registration"]["Scores"].items():
        print(f"  {name}: {json.dumps(scores)}")


def show_nearest(summary, unit):
    """Prints how near what was made is to what the models were trained on."""
    found = summary["NearestTraining"]
    print(f"correlation with the nearest training {unit}:")
    for name in ("generated", "held-out"):
        print(f"  {name}: {json.dumps(found[name])}")


def show_volumes(built):
    """Prints what a data set of volumes has."""
    shown = ("Volumes", "Accepted", "Fallbacks", "Attempts", "Rejected")
    print(json.dumps({key: built.summary[key] for key in shown}))
    for name in ("dice", "passing"):
        print(f"{name}: mean {np.mean([float(row[name]) for row in built.rows]):.3f}")
    print(f"sheet: {built.output_dir / volumes.SHEET}")
    print(f"slice by slice: {built.output_dir / volumes.SCROLL}")
    print(
        "neighbouring slices, overlap of maps and labels, correlation of images, "
        "frays of outlines:"
    )
    for name, scores in built.summary["Neighbours"].items():
        print(f"  {name}: {json.dumps(scores)}")
    show_registration(built.summary, "slices of registered training subjects")
    if "NearestTraining" in built.summary:
        show_nearest(built.summary, "subject")


if __name__ == "__main__":
    runs.main(main)
