"""What a run's maps and sets score, part by part, as rows of a table.

Every function adds rows to a quality.Table: what was made, its ceiling (real slices of
held-out subjects, or of those trained on where these are the reference), its floor, and
the same once more of the other real subjects, which says what chance alone does.
"""

import csv
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import (
    appearance,
    distances,
    judges,
    map_shape,
    paired,
    two_sample,
    variety,
)
from brats_gan import (
    fusion,
    metrics,
    privacy,
    registration,
    runs,
    spec,
    structural,
    structural_map,
    synthesis,
    weights,
)
from brats_gan.experiments import mixing

ALL = tuple(range(len(spec.BRATS.modalities)))
SIGHTS = (ALL, *((i,) for i in ALL))  # of the judges: the four together, and each alone
KNOWN = 1000  # real sets of a side, at most
KNOWN_MAPS = 2000  # maps of training slices that the nearest is looked for among
LAST = 0.1  # share of a run's log, its end, that says whether a game is alive


class Maps(NamedTuple):
    """Structural maps of slices, one contrast each."""

    f: np.ndarray  # [N, H, W] in {0, 1}
    background: np.ndarray  # [N, H, W] in {0, 1}, of Algorithm 2 or MASK
    groups: np.ndarray  # [N], the patient, or the number of a generated one


class Sets(NamedTuple):
    """Registered sets of four contrasts with their labels."""

    images: np.ndarray  # [N, 4, H, W] float32 in [0, 1]
    labels: np.ndarray  # [N, H, W]
    groups: np.ndarray  # [N], as of Maps


def batched(function, x, size=50):
    """function of [N, ...], a few at a time, put together as NumPy."""
    parts = [function(x[start : start + size]) for start in range(0, len(x), size)]
    return np.concatenate([np.asarray(part) for part in parts])


def groups_of(slices, rows):
    """What of real slices belongs together: the patient; of only one, its quarters.

    Quarters of neighbouring slices. It is one group where there is one slice.
    """
    patients, numbers = mixing.patients_of(slices)[rows], slices.index[rows, 1]
    if len(np.unique(patients)) > 1:
        return patients
    return 4 * (numbers - numbers.min()) // (np.ptp(numbers) + 1)


def told_apart(real, others):
    """Mean AUC of telling each of `others` from `real`, None where there are too few.

    Each is a pair of what is shown [N, H, W, C] and its groups [N].
    """
    means = []
    for shown, groups in others:
        if min(len(np.unique(each)) for each in (real[1], groups)) < 2:
            means.append(None)
        else:
            found = two_sample.told_apart(real[0], shown, real[1], groups)
            means.append(np.mean(found))
    return means


# --- Stage 1 --------------------------------------------------------------------------


def real_maps(slices, count, beta, seed):
    """Maps of `count` random slices, a random contrast each, without their lesions."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(slices), size=count)
    x = slices.intensities(rows, rng.integers(len(spec.BRATS.modalities), size=count))
    x, labels = x[..., None], slices.labels(rows)
    f = np.concatenate(
        [
            fusion.remove_lesion(
                structural_map.structural_map(tf.constant(x[part]), beta), labels[part]
            )
            for part in np.array_split(np.arange(count), -(-count // 200))
        ]
    )
    background = batched(structural_map.background, x, 200)
    return Maps(f[..., 0], background[..., 0], groups_of(slices, rows))


def generated_maps(export, count, seed):
    """Maps of `count` codes by the loaded export `structure`."""
    loaded, description = export
    z = tf.random.stateless_normal([count, description["code_dim"]], [seed, 1])
    made = [loaded.generate(z[i : i + 50]) for i in range(0, count, 50)]
    f, background = (
        np.concatenate([part[name].numpy() for part in made])[..., 0]
        for name in ("structure", "background")
    )
    return Maps(f, background, np.arange(count))


def score_maps(table, run_dir, export, made, real, known):
    """Rows about maps made from noise; made, real (held out) and known are Maps."""
    _, description = export
    code_dim = description["code_dim"]
    stored = weights.find(run_dir, "structural")
    nets = weights.networks(stored, structural.drawing)
    untrained = structural.build(**stored.description["build"])

    fitted = structural.unfitted(code_dim)
    z = np.random.default_rng(0).standard_normal((len(made.f), code_dim), np.float32)
    drawn = [
        structural.generate(untrained, z[i : i + 50], fitted)
        for i in range(0, len(z), 50)
    ]
    drawn = [np.concatenate([part[i] for part in drawn])[..., 0] for i in (0, 1)]
    pictures = real.f[..., None]
    found = batched(lambda f: nets["MASK"](f, training=False), pictures)[..., 0]
    sides = {
        "made": (made.f, made.background),
        "ceiling": (real.f, (found > 0.5).astype(np.float32)),
        "floor": drawn,
        "again": (known.f[: len(made.f)], None),
    }
    vectors = known.f.reshape(len(known.f), -1)
    rows = {}
    for side, (f, background) in sides.items():
        flat = f.reshape(len(f), -1)
        rows[side] = {
            "density": f.mean(),
            "pairwise Dice": map_shape.pairwise(flat),
            **map_shape.shape_rows(f),
        }
        if background is not None:
            errors = list(map(structural_map.filter_error, f, background))
            accepted = np.mean(np.array(errors) <= structural_map.MAE_THRESHOLD)
            nearest = map_shape.dice_of_maps(flat, vectors).max(1).mean()
            rows[side].update({"acceptance": accepted, "nearest Dice": nearest})
    for name in rows["made"]:
        table.add(f"stage 1: {name}", *(rows[side].get(name) for side in sides))
    for side, members in (("made", nets), ("floor", untrained)):
        threshold = fitted._replace(threshold=description["edge_threshold"])
        rebuilt = batched(
            lambda f, m=members, t=threshold: structural.reconstruct(m, f, t), pictures
        )[..., 0]
        found = batched(lambda f, m=members: m["MASK"](f, training=False), pictures)
        dice = map_shape.dice_of_pairs(rebuilt, real.f)
        rows[side]["reconstruction Dice"] = dice.mean()
        rows[side]["MASK error"] = np.abs(found[..., 0] - real.background).mean()
    for name, ceiling in (("reconstruction Dice", 1.0), ("MASK error", None)):
        table.add(f"stage 1: {name}", rows["made"][name], ceiling, rows["floor"][name])


def classify_maps(table, made, real, known):
    """Row of the classifier test of maps; all are Maps, `real` of held-out subjects."""
    shown = [
        (each.f[..., None], each.groups)
        for each in (real, made, Maps(*(x[: len(made.f)] for x in known)))
    ]
    table.add("classifier AUC, maps", *told_apart(shown[0], shown[1:]))


# --- Stage 2 --------------------------------------------------------------------------


def real_sets(slices, seed=0):
    """Sets of the slices with a lesion, in random order and at most KNOWN."""
    rows = np.random.default_rng(seed).permutation(slices.lesions)[:KNOWN]
    return Sets(slices.intensities(rows), slices.labels(rows), groups_of(slices, rows))


def generated_sets(models, slices, count, seed):
    """Sets of stage 3 with every filter off that have a lesion; their maps [N, H, W].

    Raises:
        RunError: none has one.
    """
    made = synthesis.samples(
        models,
        slices,
        range(count),
        seed,
        mae_threshold=1.0,
        dice_threshold=0.0,
        max_tries=1,
    )
    made = [sample for sample in made if sample.label.any()]
    if len(made) < 4:
        raise runs.RunError(
            f"{len(made)} of {count} generated sets have a lesion, too few to score; "
            "raise --samples"
        )
    images, labels, f = (
        np.stack([getattr(sample, name) for sample in made])
        for name in ("images", "label", "structure")
    )
    return Sets(images, labels, np.arange(len(made))), f


def real_structure(slices, beta):
    """Stands in for stage 1: the map and mask of a held-out slice, chosen by z."""

    def maps(code):
        rows = np.abs(code.numpy()[:, 0] * 1e6).astype(int)
        x = tf.constant(slices.intensities(rows % len(slices), rows % 4)[..., None])
        f = structural_map.structural_map(x, beta)
        f = fusion.remove_lesion(f, slices.labels(rows % len(slices)))
        return f, structural_map.background(x)

    return maps


def models_of(structural_export, multimodal_run, held_out, beta):
    """synthesis.Models of exports, without a segmentor: nothing is filtered.

    structural_export is of runs.load_export, or None for maps of held-out slices.
    """
    generator = runs.load_export(multimodal_run, "generator")
    code_dim, maps = 1, real_structure(held_out, beta)
    if structural_export:
        stage_1, description = structural_export
        code_dim, maps = description["code_dim"], synthesis.maps_by(stage_1)

    def nothing(x):
        return tf.zeros([x.shape[0], 1, *x.shape[2:4]], tf.int32)

    images = synthesis.images_by(*generator)
    fitted = synthesis.styles_of(generator[1])
    return synthesis.Models(code_dim, maps, images, nothing, fitted)


def add_each(table, title, made, ceiling=None, floor=None, again=None):
    """A row for each contrast, named `title` with {} for the contrast; all [4]."""
    columns = (made, ceiling, floor, again)
    for i, name in enumerate(spec.BRATS.modalities):
        values = (None if column is None else column[i] for column in columns)
        table.add(title.format(name), *values)


def classify_sets(table, made, real, known):
    """Rows of the classifier test of four-channel slices and of copies of them."""
    copies = [two_sample.copies(each.images) for each in (real, made, known)]
    of_real, of_made, of_known = copies
    count = len(made.images)
    for name in of_real:
        against = (
            (of_made[name], made.groups),
            (of_known[name][:count], known.groups[:count]),
        )
        title = f"classifier AUC, slices, {name}".removesuffix(", ")
        table.add(title, *told_apart((of_real[name], real.groups), against))


def pooled_dice(label, found, classes):
    """Dice of a region over all slices together."""
    return metrics.dice(np.isin(label, classes), np.isin(found, classes))


def score_lesions(table, made, real, nets):
    """Rows about lesions, as independent judges find them (nets by SIGHTS)."""
    sides = made, real

    def whole_by(channels, side):
        x = np.moveaxis(side.images[:, list(channels)], 1, -1)
        found = judges.find(nets[channels], x)
        return pooled_dice(side.labels, found, (1, 2, 3, 4))

    single = [[whole_by((i,), side) for i in ALL] for side in sides]
    add_each(table, "whole-lesion Dice, {} alone", *single)
    table.add("whole-lesion Dice, mean of the four", *np.mean(single, 1))
    found = [judges.find(nets[ALL], np.moveaxis(x.images, 1, -1)) for x in sides]
    for region, classes in spec.BRATS.regions.items():
        pairs = zip(sides, found, strict=True)
        dice = [pooled_dice(side.labels, answer, classes) for side, answer in pairs]
        table.add(f"{region} Dice, four channels", *dice)


def score_appearance(table, made, real, known):
    """Rows about how sets look, by no judge: `known` is what they should look like."""
    for index in range(1, len(spec.BRATS.labels)):
        for channel, name in enumerate(spec.BRATS.modalities):
            ours, ceiling, again = (
                appearance.class_ratio(side.images, side.labels, index, channel)
                for side in (made, known, real)
            )
            if None not in (ours, ceiling):
                title = f"{spec.BRATS.labels[index]} / brain, {name}"
                table.add(title, ours, ceiling, again=again)
    detail = (appearance.detail(s.images, s.labels) for s in (made, known, real))
    ours, ceiling, again = detail
    add_each(table, "detail in lesions, {}", ours, ceiling, again=again)
    ratios = [appearance.tissue_ratios(s.images, s.labels) for s in (made, known, real)]
    for tissue in ("grey", "fluid"):
        for name in spec.BRATS.modalities:
            ours, ceiling, again = (each.get((tissue, name)) for each in ratios)
            if None not in (ours, ceiling):
                table.add(f"{tissue} / white, {name}", ours, ceiling, again=again)
    for title, measure in (
        ("spectrum error in dB, {}", appearance.spectrum_error),
        ("histogram distance, {}", appearance.histogram_distance),
    ):
        add_each(table, title, *(measure(s.images, known.images) for s in (made, real)))
    reference = appearance.contrast_profile(known.images)
    profiles = [appearance.contrast_profile(s.images) for s in (made, real)]
    correlations = [np.corrcoef(each, reference)[0, 1] for each in profiles]
    table.add("contrast corr.", *correlations)


def score_registration(table, made, f, real, beta):
    """Rows about how well the four contrasts lie on each other, and on the map f."""
    maps = {
        name: registration.edges(each.images, beta)
        for name, each in (("made", made), ("ceiling", real))
    }
    clear = (made.labels == 0)[:, None]
    own, wanted = maps["made"] * clear, f[:, None] * clear
    table.add("fidelity to f, Dice", map_shape.dice_of_pairs(own, wanted).mean())
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
    information = (registration.information(each.images) for each in (made, real))
    table.add("mutual information", *information)
    for pixels in registration.SHIFTS:
        agreement = registration.agreement(
            registration.shifted(maps["ceiling"], pixels)
        )
        table.add(f"registration, real shifted by {pixels}", None, agreement)


def score_variety(table, made, real, known, training):
    """Rows about samples being alike, or copies; training is the data.Slices of it."""
    alike = [variety.similarity(s.images, s.groups) for s in (made, real, known)]
    ours, ceiling, again = alike
    add_each(table, "MS-SSIM among samples, {}", ours, ceiling, again=again)
    found = variety.nearest_rows(
        made.images,
        real.images,
        privacy.describe_slices(training),
        training.intensities,
    )
    for name, values in found.items():
        table.add(f"nearest training slice, {name}", *values)


def score_distances(table, made, real, known, judge, inception_weights):
    """Rows of distances by features of sets; judge is the net that sees the four.

    inception_weights is the path of the file; left out where there is none.
    """
    sides = [each.images for each in (made, real, known)]
    seen = [judges.features(judge, np.moveaxis(x, 1, -1)) for x in sides]
    found = {f"{k} distance": v for k, v in distances.rows(*seen).items()}
    seen = [distances.random_features(x) for x in sides]
    seen = [distances.standardised(x, seen[-1]) for x in seen]
    found["kernel distance, random network"] = distances.rows(*seen)["kernel"]
    weights = pathlib.Path(inception_weights).expanduser()
    if weights.exists():
        net = distances.inception(weights)
        seen = [distances.inception_features(net, x[: len(sides[0])]) for x in sides]
        rows = distances.rows(*seen)
        found.update({f"Inception {k} distance": v for k, v in rows.items()})
    for name, values in found.items():
        table.add(name, *values)


def score_paired(table, multimodal_run, held_out, count, beta, seed):
    """Rows about slices made from the maps, labels and styles of held-out slices, and,
    named "typical", in the mean style of the training subjects."""
    export, description = runs.load_export(multimodal_run, "generator")
    generate = synthesis.images_by(export, description)
    fitted = synthesis.styles_of(description)
    rows = np.random.default_rng(seed).permutation(len(held_out))[:count]
    images, labels = held_out.intensities(rows), held_out.labels(rows)
    styles = held_out.styles[held_out.index[rows, 0]]
    made = paired.made_from(generate, images, labels, styles, beta)
    if fitted is not None:
        typical = np.repeat(fitted.mean[None], len(rows), 0)
        ssim = paired.ssim(
            paired.made_from(generate, images, labels, typical, beta), images
        )
        table.add("paired SSIM, typical style, mean of the four", ssim.mean())
    scores = paired.scores(made, images)
    floor = paired.scores(np.roll(made, 1, 0), images)  # of another slice
    for name in scores:
        add_each(table, f"paired {name}, {{}}", scores[name], floor=floor[name])
        means = scores[name].mean(), None, floor[name].mean()
        table.add(f"paired {name}, mean of the four", *means)


# --- What a run or a data set says of itself ------------------------------------------


def score_games(table, run_dir):
    """Rows of each discriminator's accuracy over the last tenth of a run's log.

    Left out where the run logged none: names that begin with `accuracy_`.
    """
    path = pathlib.Path(run_dir, "losses.jsonl")
    if not path.exists():
        return
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = lines[-max(round(LAST * len(lines)), 1) :]
    for name in sorted(lines[-1]) if lines else ():
        if name.startswith("accuracy_"):
            accuracy = np.mean([line[name] for line in lines if name in line])
            table.add(f"game: accuracy of {name.removeprefix('accuracy_')}", accuracy)


def score_dataset(table, folder):
    """Stage 3: what the filters did, from the manifest."""
    with pathlib.Path(folder, "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    dice = np.array([float(row["dice"]) for row in rows])
    table.add("stage 3: accepted", np.mean([row["accepted"] == "1" for row in rows]))
    table.add("stage 3: tries a sample", np.mean([int(row["tries"]) for row in rows]))
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95):
        table.add(f"stage 3: kept samples at {threshold}", np.mean(dice >= threshold))
