"""The short version of `make faults`."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults_damages, faults_kinds, faults_stages

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


@pytest.mark.once
def test_a_few_faults_of_every_kind_end_as_they_should(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.faults", "--cases=30", "--jobs=1"),
            *("--stages=convert,check", f"--whole={tmp_path / 'whole'}"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert "30 cases in" in done.stdout
    for kind in faults_kinds.KINDS:
        assert f"\n| {kind} | " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_cases_are_those_of_their_seed(tmp_path):
    for name in ("data/s0/a.nii.gz", "converted/s0/b.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    kinds, stages = [*faults_kinds.KINDS], {"convert", "check"}
    one, same, other = (
        [
            (case.number, case.kind, case.stage, case.what)
            for case in faults_kinds.cases(seed, 100, tmp_path, kinds, stages)
        ]
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert {kind for _, kind, *_ in one} == {*kinds}
    assert {stage for _, _, stage, _ in one} == stages
    flags = faults_kinds.cases(0, 100, tmp_path, ["flag"], stages)
    assert [c.number for c in flags] == [n for n, kind, *_ in one if kind == "flag"]


@pytest.mark.parametrize("damage", faults_damages.DAMAGES)
def test_a_fault_changes_no_more_than_it_says_and_is_undone(tmp_path, damage):
    whole, place = tmp_path / "whole", tmp_path / "place"
    for name in ("data/s0/a.json", "data/s1/b.json"):
        (whole / name).parent.mkdir(parents=True)
        (whole / name).write_text(name)
    (tmp_path / "c.json").write_text("of somebody else")
    place.mkdir()
    faults_stages.copy(whole, place, ["data"])
    before = faults_stages.state(place, ["data"])
    name = "data/s0/a.json"
    faults_damages.DAMAGES[damage](place / name, random.Random(3), place)
    differ = faults_stages.differences(before, faults_stages.state(place, ["data"]))
    assert differ == ([name, "data/s1/b.json"] if damage == "swapped" else [name])
    assert (tmp_path / "c.json").read_text() == "of somebody else"
    case = faults_kinds.Case("x", "check", f"{name} is {damage}", touched=name)
    faults_kinds.undo(case, whole, place)
    assert faults_stages.state(place, ["data"]) == before
