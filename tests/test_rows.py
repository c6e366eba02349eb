"""What a repeat of a table's row is made of, as its checkpoints and line tell it."""

from types import SimpleNamespace

import numpy as np
import pytest

from brats_gan import files, report, runs
from brats_gan.experiments import runner, tables
from brats_gan.report import trained
from brats_gan.spec import BRATS

TRAINING = runner.Training(
    *("multiple", 32, 2, 1, 1e-4, 0.5, 1.0, "weighted", 0.1, "float32", False, 9.0, 4),
    spec=BRATS,
)
# Two slices of each of two subjects, then four of a synthetic volume.
SLICES = SimpleNamespace(
    index=np.array([[n // 2 if n < 4 else 2, n % 2] for n in range(8)]),
    names=["s0", "s1", "synth-00001"],
    patients=["s0", "s1", "synth-00001"],
)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """What a row's checkpoints say that it was made of, by the row and its data."""

    class Segmentors:
        predict = None

        def __init__(self, training, iterations):
            pass

        def train(self, run_dir, slices, plan, seed, begin):
            made.append(begin())
            (run_dir / "checkpoints").mkdir(parents=True)

    scores = {"mse": 0.1, "dice_index": 0.9}
    scores = {"by_slice": {"mean": scores}, "by_subject": None, "dice_whole": None}
    told = {
        "verified_subjects": lambda *args, **named: ["synth-00001"],
        "accepted": lambda folder, slices: np.arange(4, 8),
    }
    for name, value in told.items():
        monkeypatch.setattr(runner.synthetic_dataset, name, value)
    monkeypatch.setattr(runner, "Segmentors", Segmentors)
    monkeypatch.setattr(runner.segmentation, "score", lambda *args: scores)
    monkeypatch.setattr(runner.runs, "seconds_logged", lambda run_dir: 1.0)
    flags = SimpleNamespace(flags={})
    monkeypatch.setattr(runner.runs, "command_of", lambda run_dir: flags)
    made = []

    def of(row, synthetic="a", iterations=8, results="results.jsonl", live=None):
        folder = tmp_path / str(len(made))
        sets = {"synthetic": synthetic}
        origin = tables.Origin({}, frozenset(), "subjects", sets, iterations)

        def settle(slices, held_out, steps):
            tables.require_own(folder.parent / results, {2}, origin)
            return origin

        runner.fill_tables(
            *(TRAINING, [(2, row)], folder, folder.parent / results),
            *(["s0", "s1"], ["s2"], lambda subjects: SLICES, lambda count: iterations),
            *(synthetic, {}, 0, 1, False, settle),
            live=live,
        )
        return made[-1]

    return of


def alone(number):
    return {"results": f"{number}.jsonl"}


def test_the_report_of_a_table_names_the_error_that_ends_it_and_what_was_done(
    begun, tmp_path, monkeypatch
):
    def spoilt(*args):
        raise runs.RunError("the disk is gone")

    monkeypatch.setattr(runner.segmentation, "score", spoilt)
    live = report.Live(tmp_path, "eval_segmentation.py", {}, 1, "repeat")
    with pytest.raises(runs.RunError, match="the disk is gone"):
        begun(1, live=live)
    said = files.read_json(tmp_path / trained.PROGRESS)
    assert "the disk is gone" in said["ended_by"]
    assert (said["done"], said["finished"]) == (0, False)


def test_the_checkpoints_of_a_row_tell_its_synthetic_data_from_any_other(begun):
    one, same, other = (begun(25, x, **alone(n)) for n, x in enumerate("aab"))
    assert one == same != other


def test_the_checkpoints_of_a_row_tell_how_long_it_is_and_what_it_draws(begun):
    one, longer = (begun(25, iterations=n, **alone(n)) for n in (8, 10))
    assert one != longer
    taken = one["phases"][0]["taken"]
    assert sorted(taken["synth-00001"]) == [0, 0, 1, 1]  # each once


def test_a_row_without_synthetic_data_goes_on_whatever_there_is_of_it(begun):
    assert begun(1, "a", **alone(1)) == begun(1, "b", **alone(2))


def test_rows_of_two_synthetic_data_sets_are_not_put_into_one_table(begun, tmp_path):
    begun(25, "a")
    begun(1, "a")  # trains on none
    with pytest.raises(files.DataError, match="line 1: .*other synthetic data"):
        begun(15, "b")
    lines = tables.read(tmp_path / "results.jsonl")
    assert [line["sets"] for line in lines] == [{"synthetic": "a"}, {}]
