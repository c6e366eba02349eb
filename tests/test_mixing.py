"""The 25 rows of Table 2 on a set small enough to count.

Two real training subjects of five slices each, so that x 1 is 10 samples; 30 synthetic
samples; 200 iterations of batch size 1.
"""

import collections

import numpy as np
import pytest

from brats_gan import data, files, io
from brats_gan.experiments import mixing, tables
from tests import nifti

SUBJECTS = np.repeat(np.arange(8), 5)  # two real, six synthetic volumes
REAL, SYNTHETIC = np.arange(10), np.arange(10, 40)
ITERATIONS = 200

# Row: phases of ({source: samples}, steps). x 0.1 and 0.2 are one subject, the least
# there is: 5 samples. Rows 6 to 8 then give real data 5 / 15, 5 / 25 and 5 / 35 of the
# steps, 66.7, 40 and 28.6; row 11's x 0.8 is two subjects (round 1.6).
EXPECTED = {
    1: [({"real": 10}, 200)],
    2: [({"real": 5}, 200)],
    3: [({"synthetic": 10}, 200)],
    4: [({"synthetic": 20}, 200)],
    5: [({"synthetic": 30}, 200)],
    6: [({"synthetic": 10}, 133), ({"real": 5}, 67)],
    7: [({"synthetic": 20}, 160), ({"real": 5}, 40)],
    8: [({"synthetic": 30}, 171), ({"real": 5}, 29)],
    9: [({"real": 5, "synthetic": 8}, 200)],
    10: [({"real": 5, "synthetic": 5}, 200)],
    11: [({"real": 10, "synthetic": 2}, 200)],
    12: [({"real": 10, "synthetic": 2}, 200)],
    13: [({"real": 10, "synthetic": 5}, 200)],
    14: [({"real": 10, "synthetic": 8}, 200)],
    15: [({"real": 10, "synthetic": 10}, 200)],
    16: [({"real": 10, "synthetic": 20}, 200)],
    17: [({"real": 10, "synthetic": 30}, 200)],
    18: [({"real": 10, "enhanced": 2}, 200)],
    19: [({"real": 10, "enhanced": 5}, 200)],
    20: [({"real": 10, "enhanced": 8}, 200)],
    21: [({"real": 10, "enhanced": 10}, 200)],
    22: [({"real": 10, "enhanced": 20}, 200)],
    23: [({"real": 10, "enhanced": 30}, 200)],
    24: [({"real": 10}, 100), ({"synthetic": 10}, 100)],
    25: [({"synthetic": 10}, 100), ({"real": 10}, 100)],
}


def plan(number, seed=0):
    row = tables.TABLE2[number]
    items = mixing.choose(row, SUBJECTS, REAL, SYNTHETIC, seed)
    return mixing.phases(items, row.mode, ITERATIONS)


def source(item):
    position, move = item
    return "enhanced" if move else "real" if position in REAL else "synthetic"


@pytest.mark.parametrize("number", tables.TABLE2)
def test_a_row_trains_on_what_was_worked_out_by_hand(number):
    assert set(EXPECTED) == set(tables.TABLE2)
    made = plan(number)
    assert sum(phase.steps for phase in made) == ITERATIONS
    sample = mixing.sampler(made, 1, seed=3)
    step = 0
    for phase, (counts, steps) in zip(made, EXPECTED[number], strict=True):
        assert phase.steps == steps and set(phase.sources) == set(counts)
        drawn = [tuple(sample(step + k)[0].tolist()) for k in range(steps)]
        step += steps
        # Passes are whole: nothing comes again before everything has come.
        times = collections.Counter(drawn)
        total = sum(counts.values())
        assert set(times.values()) <= {steps // total, -(-steps // total)}
        assert len(times) == min(total, steps)
        assert collections.Counter(map(source, times)) == counts


def test_real_data_is_taken_by_subject():
    for seed in range(4):
        (phase,) = plan(2, seed)
        assert len(np.unique(SUBJECTS[phase.items[:, 0]])) == 1
        assert len(phase.items) == 5


def test_all_visits_of_a_patient_are_taken_together():
    """A fifth of five patients of two subjects each is one patient, two subjects."""
    subjects = np.repeat(np.arange(10), 3)
    patients = subjects // 2 * 2
    for seed in range(8):
        row = tables.TABLE2[2]._replace(real=0.2)
        items = mixing.choose(row, patients, np.arange(30), [], seed)
        first, second = np.unique(subjects[items["real"][:, 0]])
        assert (first % 2, second) == (0, first + 1) and len(items["real"]) == 6


def test_the_seed_chooses_the_samples():
    chosen = {tuple(plan(2, seed)[0].items[:, 0]) for seed in range(10)}
    assert chosen == {tuple(range(5)), tuple(range(5, 10))}
    one, same, other = (plan(12, seed)[0].items for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_smaller_amount_is_part_of_a_larger_one():
    def items(number):
        return {tuple(item) for item in plan(number)[0].items.tolist()}

    assert items(12) < items(13) < items(14) < items(15) < items(16) < items(17)
    assert {x[0] for x in items(2)} <= {x[0] for x in items(1)}


def test_enhanced_copies_come_of_every_real_slice_before_one_comes_again():
    items = plan(22)[0].items
    copies = items[items[:, 1] > 0]
    assert collections.Counter(copies[:, 0].tolist()) == dict.fromkeys(range(10), 2)
    assert len(set(copies[:, 1].tolist())) == 20  # each moved in a way of its own


def test_too_few_synthetic_samples_is_an_error_that_says_how_many_to_make():
    with pytest.raises(files.DataError, match="30 accepted.*29.*--samples=30"):
        mixing.choose(tables.TABLE2[5], SUBJECTS, REAL, SYNTHETIC[:29], 0)


def test_batches_do_not_straddle_the_change_of_source():
    sample = mixing.sampler(plan(24), 4, seed=0)
    for step, expected in ((99, "real"), (100, "synthetic"), (199, "synthetic")):
        assert {source(item) for item in sample(step).tolist()} == {expected}


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        nifti.write_subject(folder, f"s{number}", (160, 160, 4), number)
    return data.Slices(io.find_subjects(folder), 32, (0, 4))


def test_batches_hold_real_slices_as_they_are_and_enhanced_ones_moved(slices):
    items = np.array([[3, 0], [3, 17], [5, 0]])

    def batch():
        batches = data.segmentation_batches(slices, 3, 0, sample=lambda step: items)
        return {name: value.numpy() for name, value in next(iter(batches)).items()}

    made = batch()
    plain = slices.images([3, 5]).astype(np.float32)[..., None] / data.LEVELS
    np.testing.assert_allclose(made["x"][[0, 2]], plain, rtol=1e-6)
    np.testing.assert_array_equal(made["label"][[0, 2]], slices.labels([3, 5]))
    assert np.abs(made["x"][1] - made["x"][0]).mean() > 0.01
    # The lesion is where it is in the images: oedema is bright in FLAIR (nifti.py).
    flair = made["x"][1, 3, ..., 0]
    oedema, healthy = made["label"][1] == 2, (made["label"][1] == 0) & (flair > 0.1)
    assert flair[oedema].mean() > 1.3 * flair[healthy].mean()
    # The same copy whenever it is drawn.
    np.testing.assert_array_equal(batch()["x"], made["x"])


def test_patients_are_numbered_by_the_first_of_their_subjects(slices, monkeypatch):
    assert slices.patients == ["s0", "s1"]
    numbers = mixing.patients_of(slices)  # where each is its own: that of the subject
    np.testing.assert_array_equal(numbers, slices.index[:, 0])
    monkeypatch.setattr(slices, "patients", ["s", "s"])
    assert mixing.patients_of(slices).tolist() == [0] * 8


def test_what_was_taken_is_described_by_subject_and_slice(slices):
    items = {"real": np.array([[0, 0], [5, 0]]), "enhanced": np.array([[1, 9]])}
    (phase,) = mixing.described(mixing.phases(items, "random", 7), slices)["phases"]
    # Four slices a subject: position 5 is slice 1 of the second.
    assert phase == {
        "sources": ("real", "enhanced"),
        "steps": 7,
        "samples": 3,
        "taken": {"s0": [0, [1, 9]], "s1": [1]},
    }
