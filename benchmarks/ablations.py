"""Leave one out: what each term and each choice is for, on the scoreboard.

    python -m benchmarks.ablations --data_dir=DIR --output_dir=DIR

Trains stage 2 with everything and then without one thing at a time, and stage 1
likewise, all for equally many steps and with the same seeds, and scores each with
benchmarks/quality.py. Stage-2 runs get the maps of held-out slices, so that they
differ in stage 2 alone. Started again, it goes on with the first run that is not
scored. Prints two tables, means over seeds, with the spread in brackets; of lesions,
the share of what real images reach.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import flags

from benchmarks import judges
from brats_gan import data, io, runs

_DATA = flags.DEFINE_string("data_dir", None, "BraTS folder.", required=True)
_JUDGE_DATA = flags.DEFINE_string(
    "judge_data_dir", None, "Subjects the judges learn from, see quality.py."
)
_OUTPUT = flags.DEFINE_string("output_dir", None, "Runs and records.", required=True)
_SEEDS = flags.DEFINE_integer("seeds", 2, "Runs a row.")
_ONLY = flags.DEFINE_list("only", None, "Names of rows; all if unset.")
_STEPS_1 = flags.DEFINE_integer("structural_steps", 800, "Of every stage-1 run.")
_STEPS_2 = flags.DEFINE_integer("multimodal_steps", 800, "Of every stage-2 run.")
_HELD_OUT = flags.DEFINE_float("held_out", 0.375, "Share of subjects to score on.")

ROOT = pathlib.Path(__file__).parents[1]


def without(*terms):
    return [f"--weight_{term}=0" for term in terms]


# Name of the row -> flags that leave it out.
STRUCTURAL = {
    "all": [],
    "D_f": without("map_adversarial"),
    "KL": without("divergence"),
    "moments": without("normal"),
    "soft maps": ["--nosoft_maps"],
    "feature matching": without("feature"),
    "rebuilt maps judged": ["--nojudge_rebuilt"],
    "spectral norm": ["--nospectral_norm"],
    "CF_f": ["--flow_steps=0"],
    "averages of weights": ["--ema=0"],
}
MULTIMODAL = {
    "all": [],
    "L_f": without("structure"),
    "L_reg": without("registration"),
    "L_code": without("code_translated", "code_generated", "code_pairs"),
    "L_cycle": without("cycle", "cycle_pairs"),
    "L_les": without("lesion"),
    "conditional norm": ["--noconditional_norm"],
    "label modulation": ["--nolabel_modulation"],
    "lesion removal": ["--nolesion_removal"],
    "label removal": ["--nolabel_removal"],
    "placement test": ["--noplacement_test"],
    "self-reconstruction": without("self_reconstruction"),
    "map modulation": ["--nomap_modulation"],
    "style": ["--nostyle"],
    "code tie": without("code_tie"),
    "first phase": ["--first_phase=0"],
    "spectral norm": ["--nospectral_norm"],
    "gain and rate of D": ["--input_gain=1", "--discriminator_rate=1"],
    "averages of weights": ["--ema=0"],
}
# Rows of the scoreboard that are shown -> title of the column.
SHOWN_1 = {
    "stage 1: acceptance": "acceptance",
    "stage 1: density": "density",
    "stage 1: nearest Dice": "nearest Dice",
    "stage 1: pairwise Dice": "pairwise Dice",
    "stage 1: reconstruction Dice": "reconstruction",
}
SHOWN_2 = {
    "whole-lesion Dice, mean of the four": "whole, mean of 4",
    "whole Dice, four channels": "whole",
    "core Dice, four channels": "core",
    "enhancing Dice, four channels": "enhancing",
    "enhancing / brain, t1ce": "rim T1c",
    "necrosis / brain, t1ce": "necrosis T1c",
    "detail in lesions, flair": "detail FLAIR",
    "fidelity to f, Dice": "fidelity",
    "registration": "registration",
    "contrast corr.": "contrast",
}


def run(*command):
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT)


def score(stage, name, extra, seed):
    """Trains and scores one run, unless it was; returns the rows of the scoreboard."""
    output = pathlib.Path(_OUTPUT.value).resolve()
    slug = "".join(c if c.isalnum() else "_" for c in name)
    run_dir = output / f"{stage}-{slug}-{seed}"
    record = run_dir.with_suffix(".json")
    if not record.exists():
        steps = {"structural": _STEPS_1, "multimodal": _STEPS_2}[stage].value
        shared = [f"--data_dir={_DATA.value}", f"--cache_dir={output / 'cache'}"]
        run(
            f"train_{stage}.py",
            *shared,
            f"--flagfile=configs/demo-scratch/{stage}.flags",
            f"--run_dir={run_dir}",
            f"--held_out={_HELD_OUT.value}",
            f"--steps={steps}",
            f"--seed={seed}",
            *extra,
        )
        command = [sys.executable, "-m", "benchmarks.quality", *shared]
        command += [f"--{stage}_run={run_dir}", f"--judges_dir={output / 'judges'}"]
        if _JUDGE_DATA.value:
            command += [f"--judge_data_dir={_JUDGE_DATA.value}"]
        said = subprocess.check_output(command, text=True, cwd=ROOT)
        partial = record.with_suffix(".part")
        partial.write_text(said.strip().splitlines()[-1])
        partial.replace(record)
    return json.loads(record.read_text())["rows"]


def is_share(key):
    """Whether a row of the scoreboard is shown as a share of its ceiling."""
    return key.startswith(("whole", "core", "enhancing", "necrosis", "detail"))


def shown_value(key, row):
    return row["made"] / row["ceiling"] if is_share(key) else row["made"]


def table(stage, rows, shown):
    """Markdown: a line for each thing that was left out, and the real data's."""
    lines = ["| without | " + " | ".join(shown.values()) + " |", "|---" * len(shown)]
    lines[1] += "|---|"
    for name, extra in rows.items():
        if _ONLY.value and name not in _ONLY.value:
            continue
        scored = [score(stage, name, extra, seed) for seed in range(_SEEDS.value)]
        cells = []
        for key in shown:
            rows_of_key = [each[key] for each in scored if key in each]
            values = [
                shown_value(key, row)
                for row in rows_of_key
                if row["made"] is not None and row["ceiling"] != 0
            ]
            spread = f" ({np.ptp(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
        title = "nothing" if name == "all" else name
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    real = [scored[0].get(key, {}).get("ceiling") for key in shown]
    cells = [
        "" if value is None else f"{1.0 if is_share(key) else value:.3f}"
        for key, value in zip(shown, real, strict=True)
    ]
    return "\n".join([*lines, "| *real images* | " + " | ".join(cells) + " |"])


def require_unseen_judges():
    """DataError where judges would learn from whom the runs are to hold out: said
    before hours of training, by the split that the runs will draw."""
    source = data.Source(_DATA.value, held_out=_HELD_OUT.value, check=False)
    _, held_out, split = source.subjects(pathlib.Path(_OUTPUT.value))
    found = io.find_subjects(_JUDGE_DATA.value)
    where = f"--judge_data_dir={_JUDGE_DATA.value}"
    judges.require_unseen(found, where, held_out, split)


def main(argv):
    del argv  # checked by runs.main
    if _JUDGE_DATA.value:
        require_unseen_judges()
    for stage, rows, shown in (
        ("structural", STRUCTURAL, SHOWN_1),
        ("multimodal", MULTIMODAL, SHOWN_2),
    ):
        print(f"\n{table(stage, rows, shown)}", flush=True)


if __name__ == "__main__":
    runs.main(main)
