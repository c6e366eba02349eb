"""How hard the phantom is to learn from, and how far it stands for real scans.

    python -m benchmarks.phantom_difficulty --real_dir=DIR

Trains a small four-channel U-Net on 1, 4 and 16 phantom subjects for equally many steps
and scores it on 8 others, and on real subjects, of which it never sees one. More data
should help: where one subject is enough, no synthetic data could. Whole-lesion Dice,
over all slices of a subject as one volume; subjects without a lesion are left out.

Prints a line a training run and, last, everything as one line of JSON.
"""

import json
import pathlib
import tempfile

import numpy as np
from absl import app, flags, logging

from benchmarks import judges
from brats_gan import data, files, io, metrics, phantom

_REAL = flags.DEFINE_string("real_dir", None, "In any layout; no real scores if unset.")
_PHANTOM = flags.DEFINE_string(
    "phantom_dir", None, "Made in a scratch folder if unset."
)
_COUNTS = flags.DEFINE_list("counts", ["1", "4", "16"], "Subjects trained on.")
_TEST = flags.DEFINE_integer("test_subjects", 8, "The first ones, to score on.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs a count; each on other subjects.")
_STEPS = flags.DEFINE_integer("steps", 800, "Of every run.")
_WIDTH = flags.DEFINE_integer("width", 12, "Base width of the U-Net.")
_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels a side.")


def whole_dice(net, slices):
    """Subject name -> whole-lesion Dice of its volume; only where there is a lesion."""
    found, truth = {}, {}
    for x, label, subjects in data.in_order(slices, 25):
        answers = judges.find(net, np.moveaxis(x[..., 0], 1, -1))
        for subject, one, answer in zip(subjects, label, answers, strict=True):
            truth.setdefault(slices.names[subject], []).append(one > 0)
            found.setdefault(slices.names[subject], []).append(answer > 0)
    return {
        name: metrics.dice(np.stack(truth[name]), np.stack(found[name]))
        for name in truth
        if np.any(truth[name])
    }


def selection(subjects, with_lesion, count, seed):
    """`count` subjects to train on: a seed's own, with lesions where it has a choice.

    A run on one subject without a lesion could learn nothing.
    """
    if count >= len(subjects):
        return subjects
    chosen = [s for s in subjects if s.name in with_lesion]
    chosen = chosen[seed * count % len(chosen) :] + chosen
    return chosen[:count]


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    counts = [int(count) for count in _COUNTS.value]
    with tempfile.TemporaryDirectory() as scratch:
        folder = _PHANTOM.value or scratch
        if not _PHANTOM.value:
            phantom.write_subjects(folder, _TEST.value + max(counts))
        cache = pathlib.Path(scratch, "cache")
        subjects = io.find_subjects(folder)
        test, pool = subjects[: _TEST.value], subjects[_TEST.value :]
        if len(pool) < max(counts):
            raise files.DataError(
                f"{folder}: {len(subjects)} subjects, but {_TEST.value + max(counts)} "
                "are needed; make more or lower --counts"
            )
        held_out = {"phantom": data.Slices(test, _SIZE.value, cache_dir=cache)}
        if _REAL.value:
            real = io.find_subjects(_REAL.value)
            held_out["real"] = data.Slices(real, _SIZE.value, cache_dir=cache)
        everything = data.Slices(pool, _SIZE.value, cache_dir=cache)
        rows = everything.index[everything.lesions, 0]
        with_lesion = {everything.names[row] for row in set(rows)}

        means = {}
        for count in counts:
            for seed in range(_SEEDS.value):
                chosen = selection(pool, with_lesion, count, seed)
                slices = data.Slices(chosen, _SIZE.value, cache_dir=cache)
                sight = (0, 1, 2, 3)
                net = judges.train(slices, [sight], seed, _STEPS.value, _WIDTH.value)[
                    sight
                ]
                for side, scored in held_out.items():
                    scores = whole_dice(net, scored)
                    shown = "  ".join(f"{value:.2f}" for value in scores.values())
                    mean = float(np.mean(list(scores.values())))
                    means.setdefault((side, count), []).append(mean)
                    print(
                        f"{count:3} subjects, seed {seed}, on {side}: {mean:.3f} "
                        f"({shown})",
                        flush=True,
                    )
    rows = [
        {
            "scored_on": side,
            "subjects": count,
            "dice_whole": round(float(np.mean(values)), 4),
            "by_seed": [round(value, 4) for value in values],
        }
        for (side, count), values in means.items()
    ]
    print("\n| scored on | trained on | whole-lesion Dice | by seed |")
    print("|---|---|---|---|")
    for row in rows:
        by_seed = ", ".join(f"{value:.3f}" for value in row["by_seed"])
        print(
            f"| {row['scored_on']} | {row['subjects']} phantoms | "
            f"{row['dice_whole']:.3f} | {by_seed} |"
        )
    print(json.dumps({"steps": _STEPS.value, "width": _WIDTH.value, "rows": rows}))


if __name__ == "__main__":
    app.run(main)
