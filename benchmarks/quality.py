"""A scoreboard of finished runs: every figure beside its ceiling and its floor.

    python -m benchmarks.quality --data_dir=DIR --structural_run=RUN[,RUN...] \
        --multimodal_run=RUN[,RUN...] [--dataset_dir=DIR[,DIR...]] [--only=PART,...]

Ceilings are what real slices score: of held-out subjects, or, where those trained on
are the reference, of these; "again" is the same of the other real subjects, and says
what chance alone does. Floors are untrained networks, and real slices that were
shuffled or shifted. Generated sets are unfiltered: one code, one label of a training
subject, four slices. Without --structural_run the maps are those of held-out real
slices, which shows stage 2 alone. Lesions are found by independent U-Nets
(benchmarks/judges.py), trained on real subjects with seeds of their own and kept in
--judges_dir; they neither guide nor filter. A judge needs more subjects than the
generator: --judge_data_dir names a larger folder of the same kind of data, which must
have nobody whom a run holds out, by patient or by content.

Of several runs, the same split with other seeds, it shows the mean. Prints a table, the
goals of this project beside what was reached, and, last, everything as one line of
JSON. The parts of --only, and names in the table:

maps            made of noise by stage 1
  acceptance    share of maps that pass Algorithm 3
  density       mean of f over all pixels
  nearest Dice  of a map to the nearest map of a training slice
  pairwise Dice between two maps drawn at random
  line depth    mean distance of an edge pixel to the nearest pixel off the edges
  pieces, loops a map: connected edges, and areas that they enclose
  outline curvature   turn of the outer outline, degrees a pixel of its length
classifier      AUC of small networks that tell made from real, as it is: .5 is not told
                apart, 1 at once. Ceiling: real subjects trained on against held-out
                ones. Also of copies that lack a clue each: every contrast brought to
                one mean and sd in the brain; blurred by a pixel; one contrast alone
lesions         Dice of what the judges find with the label that was asked for
appearance      no judge is asked
  X / brain     intensity of lesion class X over that of the brain without lesion
  X / white     intensity of tissue X over that of white matter, by a rule that needs no
                map of tissues (appearance.py)
  detail        high frequency inside lesions
  spectrum error      largest deviation of the radial power spectrum from that of
                training slices, up to half of the Nyquist frequency
  histogram distance  Wasserstein-1 of intensities in the brain to training slices
  contrast corr.      correlation, over the pairs of contrasts and image quantiles, of
                how one contrast looks where another is dark or bright: 1 if as in real
registration    Dice of the edges of two contrasts within one pixel, and normalised
                mutual information, 1 to 2; means over pairs
variety         MS-SSIM of two samples (7 pixels, all scales that fit), and of each to
                the nearest training slice
distances       Fréchet and kernel, by features of a judge and of other networks
paired          slices made from the T1 maps and labels of held-out slices, against
                these: SSIM (Gaussian window of 7 pixels, whole slice); inside the brain
                correlation and L1. Floor: against another slice
games           accuracy of each discriminator in the last tenth of the run's log
dataset         what the filters of stage 3 did
"""

import itertools
import json
import pathlib
import time

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

from benchmarks import judges, picture, scoring, sides
from brats_gan import data, files, io, runs, spec

PARTS = (
    "maps",
    "classifier",
    "lesions",
    "appearance",
    "registration",
    "variety",
    "distances",
    "paired",
    "games",
    "dataset",
)
OF_SETS = frozenset(PARTS[1:7])  # need generated sets
MAPS_A_SET = 3  # maps that are made for each set: they cost next to nothing

_DATA = flags.DEFINE_string("data_dir", None, "The real subjects, train and held-out.")
_STRUCTURAL = flags.DEFINE_list("structural_run", [], "Of train_structural.py.")
_MULTIMODAL = flags.DEFINE_list("multimodal_run", [], "Of train_multimodal.py.")
_DATASET = flags.DEFINE_list("dataset_dir", [], "Of build_dataset.py.")
_ONLY = flags.DEFINE_list("only", list(PARTS), "Parts to score, see above.")
_SAMPLES = flags.DEFINE_integer(
    "samples", 200, f"Generated sets; {MAPS_A_SET} times as many maps.", 4
)
_SEED = flags.DEFINE_integer("seed", 1000, "Of codes and labels.")
_CACHE = flags.DEFINE_string("cache_dir", None, "Decoded slices.")
_JSON = flags.DEFINE_string(
    "json",
    None,
    "File to write the line of JSON to as well; RUN/quality.json is shown by RUN's "
    "report (python -m brats_gan.report RUN).",
)
_PNG = flags.DEFINE_string(
    "png",
    None,
    "Picture of spectra, histograms, maps and slices of the first run; default: beside "
    "--json, none without.",
)
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
flags.register_validator(
    "only",
    lambda parts: set(parts) <= set(PARTS),
    message=f"name parts out of {', '.join(PARTS)}",
)


def _each(title, *goal):
    return {title.format(name): goal for name in spec.BRATS.modalities}


# Row -> what of it is judged, and between what: its value, its share of the ceiling, or
# how far above the ceiling it is.
GOALS = {
    "classifier AUC, maps": ("value", -np.inf, 0.65),
    "stage 1: acceptance": ("value", 0.8, 1.0),
    "stage 1: density": ("share", 0.85, 1.15),
    "stage 1: nearest Dice": ("share", 0.95, np.inf),
    "stage 1: pairwise Dice": ("above", -np.inf, 0.05),
    "stage 1: MASK error": ("value", 0.0, 0.05),
    "stage 1: line depth": ("share", 0.95, 1.05),
    "classifier AUC, slices": ("value", -np.inf, 0.85),
    "paired SSIM, mean of the four": ("value", 0.85, 1.0),
    **_each("paired SSIM, {}", "value", 0.8, 1.0),
    "grey / white, t1": ("share", 0.9, 1.1),
    "grey / white, t2": ("share", 0.9, 1.1),
    "whole Dice, four channels": ("share", 0.9, np.inf),
    "whole-lesion Dice, mean of the four": ("share", 0.9, np.inf),
    **_each("whole-lesion Dice, {} alone", "share", 0.95, np.inf),
    "core Dice, four channels": ("share", 0.85, np.inf),
    "enhancing Dice, four channels": ("share", 0.85, np.inf),
    "enhancing / brain, t1ce": ("share", 0.9, 1.1),
    "necrosis / brain, t1ce": ("share", 0.9, 1.1),
    **_each("detail in lesions, {}", "share", 0.8, 1.2),
    **_each("spectrum error in dB, {}", "value", 0.0, 2.0),
    "registration": ("above", -0.03, 0.03),
    "contrast corr.": ("value", 0.9, 1.0),
    **_each("MS-SSIM among samples, {}", "above", -0.03, 0.03),
    # One of 20 may come nearer than the nearest of as many real ones by chance.
    "nearest training slice, above every real": ("value", 0.0, 0.05),
    "Fréchet distance": ("share", -np.inf, 1.5),
    "kernel distance": ("share", -np.inf, 1.5),
    "kernel distance, random network": ("share", -np.inf, 1.5),
    **{
        f"game: accuracy of {name}": ("value", 0.55, 0.9)
        for name in ("D_f", "FD_f", "D", "FD")
    },
}


class Table:
    """Rows of name, made, ceiling, floor, ceiling again; None where there is none."""

    def __init__(self):
        self.rows = {}

    def add(self, name, made, ceiling=None, floor=None, again=None):
        values = {"made": made, "ceiling": ceiling, "floor": floor, "again": again}
        self.rows[name] = {
            # nan: there was nothing to take the mean of.
            key: None if value is None or np.isnan(value) else round(float(value), 4)
            for key, value in values.items()
        }

    def __str__(self):
        def cell(value):
            return "" if value is None else f"{value:.3f}"

        lines = [
            "| | made | ceiling | of it | floor | again |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in self.rows.items():
            made, ceiling = row["made"], row["ceiling"]
            share = made / ceiling if made is not None and ceiling else None
            values = made, ceiling, share, row["floor"], row["again"]
            lines.append(f"| {name} | {' | '.join(map(cell, values))} |")
        return "\n".join(lines)

    def goals(self):
        """The table of GOALS, those that have a row, and whether each was reached."""
        lines = ["| | judged | reached | goal | |", "|---|---|---|---|---|"]
        for each in self.judged():
            verdict = "yes" if each["passes"] else "**no**"
            value = np.nan if each["reached"] is None else each["reached"]
            shown = f"{value:.3f} | {each['goal']} | {verdict}"
            lines.append(f"| {each['name']} | {each['judged']} | {shown} |")
        return "\n".join(lines)

    def judged(self):
        """The same for JSON, a dictionary a row; "reached" may be None."""
        found = []
        for name, (what, low, high) in GOALS.items():
            row = self.rows.get(name)
            if row is None or row["made"] is None:
                continue
            made, ceiling = row["made"], row["ceiling"]
            if what == "share":
                # No share of nothing: a judge that finds no lesion at all has no say.
                value = made / ceiling if ceiling and ceiling > 0 else np.nan
            else:
                value = made - ceiling if what == "above" else made
            bounds = [f">= {low}"] * (low > -np.inf) + [f"<= {high}"] * (high < np.inf)
            found.append(
                {
                    "name": name,
                    "judged": what,
                    "reached": float(value) if np.isfinite(value) else None,
                    "goal": ", ".join(bounds),
                    "passes": bool(low <= value <= high),
                }
            )
        return found


def mean_of(tables):
    """The table of means; a row or value that a table lacks is left out of the mean."""
    mean = Table()
    for name in dict.fromkeys(name for table in tables for name in table.rows):
        rows = [table.rows[name] for table in tables if name in table.rows]
        columns = ([row[key] for row in rows] for key in rows[0])
        known = ([v for v in each if v is not None] for each in columns)
        mean.add(name, *(np.mean(each) if each else None for each in known))
    return mean


def judges_of(subjects, held_out, split, read, in_range):
    """{sight: U-Net} by the flags.

    Args:
        subjects: io.Subject that judges learn from, if the flags name no others.
        held_out: io.Subject that the runs hold out.
        split: {"test": their names, "patient_pattern": or None}.
        read: subjects -> data.Slices.
        in_range: the slices that it reads, half-open.

    Raises:
        DataError: one of those held out would be learnt from.
    """
    where = f"--judge_data_dir={_JUDGE_DATA.value}"
    if not _JUDGE_DATA.value:
        where = _DATA.value
    else:
        subjects = io.find_subjects(_JUDGE_DATA.value)
    made_from = judges.require_unseen(subjects, where, held_out, split, read, in_range)
    return judges.trained(
        read(subjects),
        scoring.SIGHTS,
        _JUDGE_SEED.value,
        _JUDGE_STEPS.value,
        _JUDGE_WIDTH.value,
        _JUDGES.value,
        made_from,
    )


def score_run(parts, run_dirs, training, held_out, beta, nets):
    """Scores one run of each stage.

    Args:
        parts: set of PARTS.
        run_dirs: structural run, multimodal run and data set; None where there is none.
        training, held_out: data.Slices.
        beta: of Algorithm 1.
        nets: judges by scoring.SIGHTS; None where no part needs them.

    Returns:
        Table, and what picture.draw takes.
    """
    structural_run, multimodal_run, dataset_dir = run_dirs
    table, shown = Table(), {}
    stage_1 = None
    seed = _SEED.value
    if structural_run:
        stage_1 = runs.load_export(structural_run, "structure")
    if structural_run and parts & {"maps", "classifier"}:
        count = MAPS_A_SET * _SAMPLES.value
        made = scoring.generated_maps(stage_1, count, seed)
        real = scoring.real_maps(held_out, count, beta, seed)
        known = scoring.real_maps(training, scoring.KNOWN_MAPS, beta, seed + 1)
        if "maps" in parts:
            scoring.score_maps(table, structural_run, stage_1, made, real, known)
        if "classifier" in parts:
            scoring.classify_maps(table, made, real, known)
        shown["maps"] = {"real, held out": real.f, "made": made.f}
    if multimodal_run and parts & OF_SETS:
        models = scoring.models_of(stage_1, multimodal_run, held_out, beta)
        made, f = scoring.generated_sets(models, training, _SAMPLES.value, seed)
        real, known = scoring.real_sets(held_out), scoring.real_sets(training)
        if "classifier" in parts:
            scoring.classify_sets(table, made, real, known)
        if "lesions" in parts:
            scoring.score_lesions(table, made, real, nets)
        if "appearance" in parts:
            scoring.score_appearance(table, made, real, known)
        if "registration" in parts:
            scoring.score_registration(table, made, f, real, beta)
        if "variety" in parts:
            scoring.score_variety(table, made, real, known, training)
        if "distances" in parts:
            four = nets[scoring.ALL]
            scoring.score_distances(table, made, real, known, four, _INCEPTION.value)
        sides = {"real, trained on": known, "real, held out": real, "made": made}
        shown["sets"] = {name: (s.images, s.labels) for name, s in sides.items()}
    if multimodal_run and "paired" in parts:
        scoring.score_paired(
            table, multimodal_run, held_out, _SAMPLES.value, beta, seed
        )
    if "games" in parts:
        for run_dir in filter(None, (structural_run, multimodal_run)):
            scoring.score_games(table, run_dir)
    if dataset_dir and "dataset" in parts:
        scoring.score_dataset(table, dataset_dir)
    return table, shown


def main(argv):
    del argv  # checked by runs.main
    logging.set_verbosity(logging.ERROR)
    begin = time.monotonic()
    if not (_STRUCTURAL.value or _MULTIMODAL.value):
        raise app.UsageError("--structural_run or --multimodal_run is needed.")
    run_dir = (_MULTIMODAL.value or _STRUCTURAL.value)[0]
    settings = runs.settings(run_dir)
    # What is computed here is small: float32, whatever the runs had.
    tf.keras.mixed_precision.set_global_policy("float32")
    size, beta = int(settings["image_size"]), float(settings["beta"])
    in_range = io.parse_slices(settings["slices"])
    of_runs = [
        data.load_split(pathlib.Path(each, "split.json"))
        for each in (*_MULTIMODAL.value, *_STRUCTURAL.value)
    ]
    split = of_runs[0]
    by_name = sides.named(_DATA.value, split, f"{run_dir}/split.json")

    def read(subjects):
        return data.Slices(subjects, size, in_range, _CACHE.value)

    training, held_out = (
        read([by_name[name] for name in split[side]]) for side in ("train", "test")
    )
    parts = set(_ONLY.value)
    judged = _MULTIMODAL.value and parts & {"lesions", "distances"}
    nets = None
    if judged:
        all_held_out = {name for each in of_runs for name in each["test"]}
        apart = [by_name[name] for name in sorted(all_held_out & by_name.keys())]
        learnt = [by_name[name] for name in split["train"]]
        unseen = {**split, "test": sorted(all_held_out)}
        nets = judges_of(learnt, apart, unseen, read, in_range)

    tables, shown = [], None
    for run_dirs in itertools.zip_longest(
        _STRUCTURAL.value, _MULTIMODAL.value, _DATASET.value
    ):
        table, pictures = score_run(parts, run_dirs, training, held_out, beta, nets)
        tables.append(table)
        shown = shown or pictures
    table = mean_of(tables)
    png = _PNG.value or (_JSON.value and pathlib.Path(_JSON.value).with_suffix(".png"))
    if png and shown:
        picture.draw(pathlib.Path(png), **shown)
    print(f"\n{table}\n\n{table.goals()}\n")
    result = {
        "structural_run": _STRUCTURAL.value,
        "multimodal_run": _MULTIMODAL.value,
        "seconds": round(time.monotonic() - begin),
        "rows": table.rows,
        "goals": table.judged(),
    }
    if len(tables) > 1:
        result["by_run"] = [each.rows for each in tables]
    line = json.dumps(result)
    if _JSON.value:
        files.write_atomically(pathlib.Path(_JSON.value), f"{line}\n".encode())
    print(line)


if __name__ == "__main__":
    runs.main(main)
