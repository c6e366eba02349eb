"""Flags that scripts share: flags.txt has every one of them, whoever defines it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from brats_gan import common_flags, flag_parsers

ROOT = Path(__file__).parents[1]
SCRIPTS = (
    "train_structural",
    "train_multimodal",
    "build_dataset",
    "eval_segmentation",
)

# In a process of its own: scripts define flags of the same names. Its folder of a run
# is made where the script's own work would begin.
BEGIN = """
import json, runpy, sys
from absl import flags
from brats_gan import runs

before = {*flags.FLAGS}
runs.main = lambda main: None
script, run_dir, *given = sys.argv[1:]
sys.argv = [script, *given]
runpy.run_path(script, run_name="__main__")
flags.FLAGS(sys.argv)
runs.start(run_dir)
mine = {*flags.FLAGS} - before
print(json.dumps({name: flags.FLAGS[name].serialize() for name in mine}))
"""


def begin(script, run_dir, *given):
    """{flag: line} of all flags that a script has, and the lines of its flags.txt."""
    command = [sys.executable, "-c", BEGIN, f"{script}.py", run_dir, *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (run_dir / "flags.txt").read_text().splitlines()
    return json.loads(done.stdout), lines


REQUIRED = {
    "build_dataset": ("structural_run", "multimodal_run", "output_dir"),
    **dict.fromkeys(SCRIPTS[:2] + SCRIPTS[3:], ("data_dir", "run_dir")),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_flags_txt_has_every_flag_that_has_a_value(script, tmp_path):
    given = [f"--{name}=x" for name in REQUIRED[script]]
    mine, lines = begin(script, tmp_path / "run", *given)
    # A flag without a value has no line.
    expected = sorted(line for line in mine.values() if line)
    assert len(expected) > 10
    assert sorted(lines[1:]) == expected
    assert lines[0] == f"# {script}.py"


def test_flags_that_are_shared_are_in_flags_txt_as_they_are_given(tmp_path):
    given = ["--data_dir=d", "--run_dir=r", "--deterministic", "--steps_per_call=3"]
    given += ["--patient_pattern=^(P[0-9]+)_"]
    given += ["--nocheck", "--weight_mask=2.5", "--slices=1:5", "--precision=float32"]
    _, lines = begin("train_structural", tmp_path / "run", *given)
    assert {*given} <= {*lines}


@dataclasses.dataclass(frozen=True)
class Chosen:
    steps: int = 1
    kept: str = "default"  # has no flag
    weights: dict = dataclasses.field(default_factory=dict)


def test_fields_are_filled_by_the_flags_of_their_names(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_integer("steps", 3, "", flag_values=values)
    flags.DEFINE_integer("no_field", 4, "", flag_values=values)
    flags.DEFINE_float("weight_mask", 0.5, "", flag_values=values)
    values(["script.py", "--steps=7"])
    monkeypatch.setattr(flags, "FLAGS", values)
    assert common_flags.chosen(Chosen) == Chosen(7, "default", {"mask": 0.5})
    assert common_flags.chosen(Chosen, steps=9).steps == 9


def test_a_pattern_without_one_group_is_refused_as_a_flag():
    parser = flag_parsers.PatternParser()
    assert parser.parse("^(P[0-9]+)_") == "^(P[0-9]+)_"
    for pattern, message in (("(P", "no regular"), ("P", "0 groups"), ("", "0 groups")):
        with pytest.raises(ValueError, match=message):
            parser.parse(pattern)
