"""A scoreboard of finished runs: every figure beside its ceiling and its floor.

    python -m benchmarks.quality --data_dir=DIR --structural_run=RUN[,RUN...] \
        --multimodal_run=RUN[,RUN...] [--dataset_dir=DIR[,DIR...]]

Ceilings are held-out real slices of the same data; floors are untrained networks, and
real slices that were shuffled or shifted. Lesions are found by independent U-Nets
(benchmarks/judges.py), trained on real subjects with seeds of their own and kept in
--judges_dir; they neither guide nor filter. A judge needs more subjects than the
generator: --judge_data_dir names a larger folder of the same kind of data. Generated
sets are unfiltered: one code, one label of a training subject, four slices. Without
--structural_run the maps are those of held-out real slices, which shows stage 2 alone.

Of several runs, the same split with other seeds, it shows the mean. Prints a table, the
goals of this project beside what was reached, and, last, everything as one line of
JSON. Names in the table:

acceptance      share of maps that pass Algorithm 3
density         mean of f over all pixels
nearest Dice    of a map to the nearest map of a training slice
pairwise Dice   between two maps drawn at random
registration    Dice of the edges of two contrasts within one pixel, mean over pairs
mutual information  of two contrasts, normalised, 1 to 2, mean over pairs
contrast corr.  correlation, over the pairs of contrasts and image quantiles, of how
                one contrast looks where another is dark or bright: 1 if as in real sets
detail          high frequency inside lesions, share of real
"""

import csv
import itertools
import json
import pathlib
import time

import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from scipy import linalg, ndimage

from benchmarks import judges
from brats_gan import (
    brats,
    data,
    metrics,
    registration,
    runs,
    structural,
    structure,
    synthesis,
)

_DATA = flags.DEFINE_string("data_dir", None, "The real subjects, train and held-out.")
_STRUCTURAL = flags.DEFINE_list("structural_run", [], "Of train_structural.py.")
_MULTIMODAL = flags.DEFINE_list("multimodal_run", [], "Of train_multimodal.py.")
_DATASET = flags.DEFINE_list("dataset_dir", [], "Of build_dataset.py.")
_SAMPLES = flags.DEFINE_integer("samples", 200, "Generated maps and sets.")
_SEED = flags.DEFINE_integer("seed", 1000, "Of codes and labels.")
_CACHE = flags.DEFINE_string("cache_dir", None, "Decoded slices.")
_JUDGE_DATA = flags.DEFINE_string(
    "judge_data_dir", None, "Subjects the judges learn from; default: training ones."
)
_JUDGES = flags.DEFINE_string("judges_dir", None, "Keeps the judges for the next call.")
_JUDGE_SEED = flags.DEFINE_integer("judge_seed", 77, "Of the independent segmentors.")
_JUDGE_STEPS = flags.DEFINE_integer("judge_steps", 1000, "Of each of the five.")
_JUDGE_WIDTH = flags.DEFINE_integer("judge_width", 16, "Base width of the five.")
_INCEPTION = flags.DEFINE_string(
    "inception_weights",
    "~/.keras/models/inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
    "Weights of Keras' InceptionV3 without its top, for two more distances; left out "
    "where there is no such file.",
)
flags.mark_flag_as_required("data_dir")

ALL = tuple(range(len(brats.MODALITIES)))
SIGHTS = (ALL, *((i,) for i in ALL))  # of the judges: the four together, and each alone
QUANTILES = 8  # of a contrast, by which the others are described


# Row -> what of it is judged, and between what: its value, its share of the ceiling, or
# how far above the ceiling it is.
GOALS = {
    "stage 1: acceptance": ("value", 0.8, 1.0),
    "stage 1: density": ("share", 0.85, 1.15),
    "stage 1: nearest Dice": ("share", 0.95, np.inf),
    "stage 1: pairwise Dice": ("above", -np.inf, 0.05),
    "stage 1: MASK error": ("value", 0.0, 0.05),
    "whole Dice, four channels": ("share", 0.9, np.inf),
    "whole-lesion Dice, mean of the four": ("share", 0.9, np.inf),
    "core Dice, four channels": ("share", 0.85, np.inf),
    "enhancing Dice, four channels": ("share", 0.85, np.inf),
    "enhancing / brain, t1ce": ("share", 0.85, 1.15),
    "necrosis / brain, t1ce": ("share", 0.85, 1.15),
    **{f"detail in lesions, {m}": ("share", 0.6, 1.3) for m in brats.MODALITIES},
    "registration": ("above", -0.03, 0.03),
    "contrast corr.": ("value", 0.9, 1.0),
}


class Table:
    """Rows of name, generated, ceiling, floor; None where there is none."""

    def __init__(self):
        self.rows = {}

    def add(self, name, made, ceiling=None, floor=None):
        values = {"made": made, "ceiling": ceiling, "floor": floor}
        self.rows[name] = {
            key: None if value is None else round(float(value), 4)
            for key, value in values.items()
        }

    def __str__(self):
        def cell(value):
            return "" if value is None else f"{value:.3f}"

        lines = ["| | made | ceiling | of it | floor |", "|---|---|---|---|---|"]
        for name, row in self.rows.items():
            made, ceiling, floor = row["made"], row["ceiling"], row["floor"]
            share = made / ceiling if made is not None and ceiling else None
            cells = " | ".join(map(cell, (made, ceiling, share, floor)))
            lines.append(f"| {name} | {cells} |")
        return "\n".join(lines)

    def goals(self):
        """The table of GOALS, those that have a row, and whether each was reached."""
        lines = ["| | judged | reached | goal | |", "|---|---|---|---|---|"]
        for name, (what, low, high) in GOALS.items():
            row = self.rows.get(name)
            if row is None or row["made"] is None:
                continue
            made, ceiling = row["made"], row["ceiling"]
            if what == "share":
                value = made / ceiling if ceiling else np.inf
            else:
                value = made - ceiling if what == "above" else made
            bounds = [f">= {low}"] * (low > -np.inf) + [f"<= {high}"] * (high < np.inf)
            verdict = "yes" if low <= value <= high else "**no**"
            goal = ", ".join(bounds)
            lines.append(f"| {name} | {what} | {value:.3f} | {goal} | {verdict} |")
        return "\n".join(lines)


def mean_of(tables):
    """The table of means; a row or value that a table lacks is left out of the mean."""
    mean = Table()
    for name in dict.fromkeys(name for table in tables for name in table.rows):
        rows = [table.rows[name] for table in tables if name in table.rows]
        values = ([row[key] for row in rows] for key in ("made", "ceiling", "floor"))
        known = ([v for v in each if v is not None] for each in values)
        mean.add(name, *(np.mean(each) if each else None for each in known))
    return mean


# --- Stage 1 --------------------------------------------------------------------------


def dice_of_maps(one, other):
    """Dice of every map of [N, P] with every map of [M, P], all in {0, 1}: [N, M]."""
    overlap = one.astype(np.float32) @ other.astype(np.float32).T
    return 2 * overlap / np.maximum(one.sum(1)[:, None] + other.sum(1)[None], 1)


def dice_of_pairs(one, other):
    """Dice of the maps [..., H, W] of one with those of the other, pair by pair."""
    total = (one + other).sum((-2, -1))
    return 2 * (one * other).sum((-2, -1)) / np.maximum(total, 1)


def pairwise(maps):
    """Mean Dice of two different maps of [N, P]."""
    dice = dice_of_maps(maps, maps)
    return (dice.sum() - np.trace(dice)) / (len(maps) * (len(maps) - 1))


def real_maps(slices, count, beta, seed):
    """f and Algorithm 2's mask of `count` random slices and modalities."""
    batch = next(iter(data.structural_batches(slices, count, seed)))
    f, background = structural.extract(batch, beta)
    return f.numpy(), background.numpy()


def score_maps(table, run_dir, export, training, held_out):
    """Stage 1: rows about maps made from noise; export is of runs.load_export."""
    settings = runs.settings(run_dir)
    size = int(settings["image_size"])
    loaded, description = export
    code_dim = description["code_dim"]
    beta = float(settings["beta"])

    def build():
        return structural.build(
            size,
            int(settings["width"]),
            int(settings["code_channels"]),
            int(settings.get("mask_width", settings["width"])),
        )

    untrained, nets = build(), build()
    checkpoint = tf.train.Checkpoint(**nets)
    checkpoint.restore(
        tf.train.latest_checkpoint(str(pathlib.Path(run_dir, "checkpoints")))
    ).assert_existing_objects_matched().expect_partial()

    count = _SAMPLES.value
    z = tf.random.stateless_normal([count, code_dim], [_SEED.value, 1])
    made = loaded.generate(z)
    fitted = structural.Fit(0.0, np.eye(code_dim, dtype=np.float32), 0.5)
    real, mask = real_maps(held_out, count, beta, seed=_SEED.value)
    known, _ = real_maps(training, 2000, beta, seed=_SEED.value)
    known = known.reshape(len(known), -1)
    sides = {
        "made": [made["structure"].numpy(), made["background"].numpy()],
        "floor": [x.numpy() for x in structural.generate(untrained, z, fitted)],
        "ceiling": [
            real,
            (nets["MASK"](real, training=False).numpy() > 0.5).astype(np.float32),
        ],
    }
    rows = {}
    for side, (f, background) in sides.items():
        errors = [
            structure.filter_error(one[..., 0], other[..., 0])
            for one, other in zip(f, background, strict=True)
        ]
        flat = f.reshape(count, -1)
        rows[side] = {
            "acceptance": np.mean(np.array(errors) <= structure.MAE_THRESHOLD),
            "density": f.mean(),
            "nearest Dice": dice_of_maps(flat, known).max(1).mean(),
            "pairwise Dice": pairwise(flat),
        }
    for name in rows["made"]:
        table.add(
            f"stage 1: {name}", *(rows[s][name] for s in ("made", "ceiling", "floor"))
        )
    for side, members in (("made", nets), ("floor", untrained)):
        rebuilt = structural.reconstruct(
            members, real, fitted._replace(threshold=description["edge_threshold"])
        )
        found = members["MASK"](real, training=False).numpy()
        dice = dice_of_pairs(rebuilt.numpy()[..., 0], real[..., 0])
        rows[side]["reconstruction Dice"] = dice.mean()
        rows[side]["MASK error"] = np.abs(found - mask).mean()
    for name, ceiling in (("reconstruction Dice", 1.0), ("MASK error", None)):
        table.add(f"stage 1: {name}", rows["made"][name], ceiling, rows["floor"][name])


# --- Stage 2 --------------------------------------------------------------------------


def real_sets(slices):
    """Images [N, 4, H, W] float32 and labels [N, H, W] of the slices with a lesion."""
    rows = slices.lesions
    return slices.intensities(rows), slices.labels(rows)


def generated_sets(models, slices, count):
    """Samples of stage 3 with every filter off; those that have a lesion."""
    made = synthesis.samples(
        models,
        slices,
        range(count),
        _SEED.value,
        mae_threshold=1.0,
        dice_threshold=0.0,
        max_tries=1,
    )
    return [sample for sample in made if sample.label.any()]


def real_structure(slices, beta):
    """Stands in for stage 1: the map and mask of a held-out slice, chosen by z."""

    def maps(code):
        rows = np.abs(code.numpy()[:, 0] * 1e6).astype(int)
        x = tf.constant(slices.intensities(rows % len(slices), rows % 4)[..., None])
        label = slices.labels(rows % len(slices))
        f, background = structural.extract({"x": x, "label": label}, beta)
        return f, background

    return maps


def contrast_profile(images):
    """How each contrast looks where another is dark or bright.

    For each ordered pair of contrasts, the mean of the one within each of QUANTILES
    quantiles of the other, over the brain of all of [N, 4, H, W]; and every contrast's
    mean, so that it is about looks and not about brightness, is taken away.
    """
    brain = (images > 0).any(1)
    voxels = np.moveaxis(images, 1, 0)[:, brain]  # [4, voxels]
    voxels = voxels - voxels.mean(1, keepdims=True)
    profile = []
    for by in range(len(voxels)):
        order = np.argsort(voxels[by], kind="stable")
        for part in np.array_split(order, QUANTILES):
            profile += [voxels[i][part].mean() for i in range(len(voxels)) if i != by]
    return np.array(profile)


def detail(images, labels):
    """Mean size of what a 3 x 3 mean takes away, inside lesions: [4] a contrast."""
    smooth = ndimage.uniform_filter(images, (0, 0, 3, 3))
    inside = ndimage.binary_erosion(labels > 0, np.ones((1, 3, 3)))
    return np.abs(images - smooth).transpose(1, 0, 2, 3)[:, inside].mean(1)


def class_ratio(images, labels, index, channel):
    """Mean over slices of class intensity over that of the brain without lesion."""
    ratios = []
    for image, label in zip(images[:, channel], labels, strict=True):
        inside = label == index
        if inside.sum() >= 4:
            ratios.append(
                image[inside].mean() / image[(image > 0) & (label == 0)].mean()
            )
    return np.mean(ratios) if len(ratios) >= 3 else None


def pooled_dice(label, found, classes):
    """Dice of a region over all slices together."""
    return metrics.dice(np.isin(label, classes), np.isin(found, classes))


def frechet(one, other):
    """Fréchet distance of Gaussians fitted to two [N, D] of features."""
    means = [x.mean(0) for x in (one, other)]
    # Shrunk a little: there are few images for so many features.
    covs = [np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (one, other)]
    root = linalg.sqrtm(covs[0] @ covs[1]).real
    return np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0] + covs[1] - 2 * root)


def kernel_distance(one, other):
    """Unbiased squared MMD with the cubic kernel of the kernel Inception distance."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = sum(
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
        for k in (kernel(one, one), kernel(other, other))
    )
    return own - 2 * kernel(one, other).mean()


def inception(weights):
    """InceptionV3 without its top, in float32 whatever the policy is."""
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float32")
    net = tf.keras.applications.InceptionV3(
        include_top=False, weights=str(weights), pooling="avg"
    )
    tf.keras.mixed_precision.set_global_policy(policy)
    return net


def inception_features(net, images):
    """[N, 4, H, W] -> [4N, 2048]: each contrast as a grey picture of 299 x 299."""
    grey = images.reshape(-1, *images.shape[2:], 1)
    features = []
    for part in np.array_split(grey, max(len(grey) // 16, 1)):
        large = tf.image.resize(part, (299, 299))
        colour = tf.image.grayscale_to_rgb(2.0 * large - 1.0)
        features.append(net(colour, training=False).numpy())
    return np.concatenate(features).astype(np.float64)


def distances(table, prefix, made, real, known):
    """Rows of the two distances between [N, D] features of sets."""
    for name, distance in (("Fréchet", frechet), ("kernel", kernel_distance)):
        title = f"{prefix} {name} distance".strip()
        table.add(title, distance(made, known), distance(real, known))


def score_sets(table, samples, beta, training, held_out, nets):
    """Stage 2: rows about unfiltered sets; nets are the judges by SIGHTS."""
    made = np.stack([s.images for s in samples]), np.stack([s.label for s in samples])
    f = np.stack([s.structure for s in samples])
    real = real_sets(held_out)
    known = real_sets(training)
    sides = {"made": made, "ceiling": real}

    def both(score):
        return (score(*sides[name]) for name in ("made", "ceiling"))

    def whole_by(channels):
        def score(images, labels):
            x = np.moveaxis(images[:, list(channels)], 1, -1)
            return pooled_dice(labels, judges.find(nets[channels], x), (1, 2, 3, 4))

        return score

    single = {}
    for i, name in enumerate(brats.MODALITIES):
        single[name] = list(both(whole_by((i,))))
        table.add(f"whole-lesion Dice, {name} alone", *single[name])
    table.add("whole-lesion Dice, mean of the four", *np.mean([*single.values()], 0))
    four = nets[ALL]
    found = {
        name: judges.find(four, np.moveaxis(images, 1, -1))
        for name, (images, _) in sides.items()
    }
    for region, classes in brats.REGIONS.items():
        dice = [pooled_dice(sides[n][1], found[n], classes) for n in sides]
        table.add(f"{region} Dice, four channels", *dice)

    for index in range(1, len(brats.LABELS)):
        for channel, name in enumerate(brats.MODALITIES):
            ratio = [class_ratio(*s, index, channel) for s in (made, known)]
            if None not in ratio:
                table.add(f"{brats.LABELS[index]} / brain, {name}", *ratio)
    for channel, name in enumerate(brats.MODALITIES):
        table.add(
            f"detail in lesions, {name}", *(detail(*s)[channel] for s in (made, known))
        )

    maps = {
        name: registration.edges(images, beta) for name, (images, _) in sides.items()
    }
    clear = (made[1] == 0)[:, None]
    own, wanted = maps["made"] * clear, f[:, None] * clear
    table.add("fidelity to f, Dice", dice_of_pairs(own, wanted).mean())
    rolled = {
        name: np.stack([np.roll(m[:, i], 7 * i, 0) for i in range(4)], 1)
        for name, m in maps.items()
    }
    table.add(
        "registration",
        registration.agreement(maps["made"]),
        registration.agreement(maps["ceiling"]),
        registration.agreement(rolled["ceiling"]),
    )
    table.add("registration, other codes", registration.agreement(rolled["made"]))
    table.add("mutual information", *both(lambda x, _: registration.information(x)))
    for pixels in registration.SHIFTS:
        agreement = registration.agreement(
            registration.shifted(maps["ceiling"], pixels)
        )
        table.add(f"registration, real shifted by {pixels}", None, agreement)
    profile = {name: contrast_profile(images) for name, (images, _) in sides.items()}
    reference = contrast_profile(known[0])
    table.add(
        "contrast corr.",
        *(np.corrcoef(profile[n], reference)[0, 1] for n in ("made", "ceiling")),
    )

    three = made[0], real[0], known[0]
    seen = (judges.features(four, np.moveaxis(images, 1, -1)) for images in three)
    distances(table, "", *seen)
    weights = pathlib.Path(_INCEPTION.value).expanduser()
    if weights.exists():
        net = inception(weights)
        # As many real as made: both distances depend on how many there are.
        seen = (inception_features(net, images[: len(made[0])]) for images in three)
        distances(table, "Inception", *seen)


# --- Stage 3 --------------------------------------------------------------------------


def score_dataset(table, folder):
    """Stage 3: what the filters did, from the manifest."""
    with pathlib.Path(folder, "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    dice = np.array([float(row["dice"]) for row in rows])
    table.add("stage 3: accepted", np.mean([row["accepted"] == "1" for row in rows]))
    table.add("stage 3: tries a sample", np.mean([int(row["tries"]) for row in rows]))
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95):
        table.add(f"stage 3: kept samples at {threshold}", np.mean(dice >= threshold))


def judges_of(training, in_range):
    """{sight: U-Net} by the flags."""
    subjects = training
    if _JUDGE_DATA.value:
        found = brats.find_subjects(_JUDGE_DATA.value)
        subjects = data.Slices(found, training.image_size, in_range, _CACHE.value)
    return judges.trained(
        subjects,
        SIGHTS,
        _JUDGE_SEED.value,
        _JUDGE_STEPS.value,
        _JUDGE_WIDTH.value,
        _JUDGES.value,
    )


def models_of(structural_export, multimodal_run, held_out, beta):
    """synthesis.Models of exports, without a segmentor: nothing is filtered.

    structural_export is of runs.load_export, or None for maps of held-out slices.
    """
    generator, _ = runs.load_export(multimodal_run, "generator")
    code_dim, maps = 1, real_structure(held_out, beta)
    if structural_export:
        stage_1, description = structural_export
        code_dim, maps = description["code_dim"], synthesis.maps_by(stage_1)

    def nothing(x):
        return tf.zeros([x.shape[0], 1, *x.shape[2:4]], tf.int32)

    return synthesis.Models(code_dim, maps, synthesis.images_by(generator), nothing)


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    begin = time.monotonic()
    if not (_STRUCTURAL.value or _MULTIMODAL.value):
        raise app.UsageError("--structural_run or --multimodal_run is needed.")
    run_dir = (_MULTIMODAL.value or _STRUCTURAL.value)[0]
    settings = runs.settings(run_dir)
    tf.keras.mixed_precision.set_global_policy(settings.get("precision", "float32"))
    size, beta = int(settings["image_size"]), float(settings["beta"])
    in_range = brats.parse_slices(settings["slices"])
    split = brats.load_split(pathlib.Path(run_dir, "split.json"))
    by_name = {subject.name: subject for subject in brats.find_subjects(_DATA.value)}
    training, held_out = (
        data.Slices(
            [by_name[name] for name in split[side]], size, in_range, _CACHE.value
        )
        for side in ("train", "test")
    )
    nets = judges_of(training, in_range) if _MULTIMODAL.value else None

    tables = []
    for structural_run, multimodal_run, dataset_dir in itertools.zip_longest(
        _STRUCTURAL.value, _MULTIMODAL.value, _DATASET.value
    ):
        table = Table()
        stage_1 = None
        if structural_run:
            stage_1 = runs.load_export(structural_run, "structure")
            score_maps(table, structural_run, stage_1, training, held_out)
        if multimodal_run:
            models = models_of(stage_1, multimodal_run, held_out, beta)
            samples = generated_sets(models, training, _SAMPLES.value)
            score_sets(table, samples, beta, training, held_out, nets)
        if dataset_dir:
            score_dataset(table, dataset_dir)
        tables.append(table)
    table = mean_of(tables)
    print(f"\n{table}\n\n{table.goals()}\n")
    result = {
        "structural_run": _STRUCTURAL.value,
        "multimodal_run": _MULTIMODAL.value,
        "seconds": round(time.monotonic() - begin),
        "rows": table.rows,
    }
    if len(tables) > 1:
        result["by_run"] = [each.rows for each in tables]
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
