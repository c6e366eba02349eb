"""Compares phantom subjects with real ones, in numbers (docs/phantom.md).

    python -m benchmarks.phantom_fidelity --real_dir=DIR

Both sides take the path of training data: slices 55:105, scaled by the 99.9 percentile.
Prints a table and, last, the same as one line of JSON. The rows "distance of" are
Wasserstein-1 on the [0, 1] scale of the images: of each phantom to the real subject it
is nearest to, and, under "real", between the real ones, which no phantom need beat.
"""

import itertools
import json
import tempfile

import numpy as np
import tensorflow as tf
from absl import app, flags
from scipy import stats

from brats_gan import figures, io, phantom, spec, structural_map

_REAL = flags.DEFINE_string("real_dir", None, "In any layout.", required=True)
_PHANTOM = flags.DEFINE_string(
    "phantom_dir", None, "Made in a scratch folder if unset."
)
_COUNT = flags.DEFINE_integer("subjects", 12, "Phantom subjects, where they are made.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the phantom.")
_SHEET = flags.DEFINE_string("sheet", None, "PNG of one slice a subject, if set.")

LEVELS = np.linspace(0, 1, 101)  # quantiles that stand for a distribution


def tissue_classes(images, brain):
    """Splits brain voxels into white, grey and fluid by k-means on T1, T2 and FLAIR.

    [S, H, W, 4] in [0, 1], [S, H, W] -> [N] in {0, 1, 2}. It starts from percentiles
    where the tissues are expected, so that the order of the classes is known.
    """
    values = images[brain][:, [0, 1, 3]]
    values = (values - values.mean(0)) / values.std(0)
    centres = np.stack(
        [
            np.percentile(values[:, 0], (75, 40, 10)),
            np.percentile(values[:, 1], (10, 40, 98)),
            np.percentile(values[:, 2], (45, 60, 10)),
        ],
        axis=1,
    )
    for _ in range(15):
        distance = [((values - centre) ** 2).sum(1) for centre in centres]
        nearest = np.argmin(distance, axis=0)
        centres = np.stack([values[nearest == c].mean(0) for c in range(3)])
    return nearest


def describe(images, labels):
    """One subject's numbers by name, and its distributions, as quantiles, by name."""
    brain = (images > 0).all(-1)
    lesion = labels > 0
    healthy = brain & ~lesion
    tissue = tissue_classes(images, healthy)
    numbers, quantiles = {}, {}
    for channel, name in enumerate(spec.BRATS.modalities):
        image = images[..., channel]
        white, grey, fluid = (np.median(image[healthy][tissue == c]) for c in range(3))
        numbers[f"grey / white, {name}"] = grey / white
        numbers[f"fluid / white, {name}"] = fluid / white
        if lesion.any():
            numbers[f"lesion / white, {name}"] = np.median(image[lesion]) / white
        f = structural_map.structural_map(tf.constant(image[..., None])).numpy()[..., 0]
        numbers[f"density of f, {name}"] = f[brain].mean()
        slope = np.hypot(
            image[:, 1:, 1:] - image[:, :-1, 1:], image[:, 1:, 1:] - image[:, 1:, :-1]
        )
        within = brain[:, 1:, 1:] & brain[:, :-1, 1:] & brain[:, 1:, :-1]
        quantiles[f"histogram, {name}"] = np.quantile(image[brain], LEVELS)
        quantiles[f"gradient, {name}"] = np.quantile(slope[within], LEVELS)
    numbers["brain, cm3 in range"] = brain.sum() / 1000
    numbers["lesion, cm3 in range"] = lesion.sum() / 1000
    numbers["lesion slices in range"] = lesion.any((1, 2)).sum()
    return numbers, quantiles


def compare(real, made):
    """Row name -> real mean, phantom mean, lowest and highest phantom."""
    rows = {}
    for name in dict.fromkeys(itertools.chain(*(numbers for numbers, _ in made))):
        ours, theirs = (
            [numbers[name] for numbers, _ in side if name in numbers]
            for side in (made, real)
        )
        rows[name] = (np.mean(theirs), np.mean(ours), min(ours), max(ours))
    for name in real[0][1]:
        references = [quantiles[name] for _, quantiles in real]
        pairs = itertools.combinations(references, 2)
        between = [stats.wasserstein_distance(*pair) for pair in pairs] or [np.nan]
        nearest = [
            min(stats.wasserstein_distance(quantiles[name], r) for r in references)
            for _, quantiles in made
        ]
        rows[f"distance of {name}"] = (
            np.mean(between),
            np.mean(nearest),
            min(nearest),
            max(nearest),
        )
    return {name: [float(value) for value in row] for name, row in rows.items()}


def read_folder(folder):
    """Pairs of images and labels of every subject, in slices 55:105 at full size."""
    subjects = io.find_subjects(folder)
    return [io.read_subject(s, spec.BRATS.slices, spec.BRATS.crop) for s in subjects]


def draw_sheet(path, real, made):
    """Writes the slice with most lesion of every subject, two subjects a row."""
    cells, names = [], []
    for kind, side in (("real", real), ("phantom", made)):
        for number, (images, labels) in enumerate(side, 1):
            area = (labels > 0).sum((1, 2))
            best = int(area.argmax()) if area.any() else len(area) // 2
            shown = np.dstack([images[best], labels[best]])[4:-4, 16:-16]
            cells.append(list(np.moveaxis(shown, -1, 0)))
            names.append(f"{kind} {number}")
    titles = [*spec.BRATS.modalities, "label"]
    if len(cells) % 2:
        cells.append([None] * len(titles))
        names.append("")
    rows = [left + right for left, right in zip(cells[::2], cells[1::2], strict=True)]
    heads = [f"{a}\n{b}" for a, b in zip(names[::2], names[1::2], strict=True)]
    figures.sheet(rows, titles * 2, path, heads, ("label",), cell_inches=1.35)


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    real = read_folder(_REAL.value)
    if _PHANTOM.value:
        made = read_folder(_PHANTOM.value)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            phantom.write_subjects(scratch, _COUNT.value, _SEED.value)
            made = read_folder(scratch)
    if _SHEET.value:
        draw_sheet(_SHEET.value, real, made)
    rows = compare(*([describe(*subject) for subject in side] for side in (real, made)))
    print(f"{len(real)} real and {len(made)} phantom subjects\n")
    print("| | real | phantom | lowest | highest |\n|---|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    print(json.dumps({"real": len(real), "phantom": len(made), "rows": rows}))


if __name__ == "__main__":
    app.run(main)
