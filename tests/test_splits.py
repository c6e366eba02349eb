"""Splits by patient."""

import random

import pytest

from brats_gan import data, files
from brats_gan.io import patients


def test_one_subject_in_ten_is_held_out():
    names = [f"S{i:02}" for i in range(30)]
    split = data.random_split(names, seed=0)
    assert len(split["test"]) == 3
    assert sorted(split["train"] + split["test"]) == names


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    names = [f"S{i:02}" for i in range(20)]
    split = data.random_split(names, seed=3)
    assert data.random_split(reversed(names), seed=3) == split
    others = [data.random_split(names, seed=seed)["test"] for seed in range(20)]
    assert len({tuple(other) for other in others}) > 10


@pytest.mark.parametrize(("count", "held_out", "test"), [(2, 0.1, 1), (3, 0.9, 2)])
def test_each_side_of_a_split_has_a_subject(count, held_out, test):
    names = [str(i) for i in range(count)]
    split = data.random_split(names, 0, held_out)
    assert (len(split["train"]), len(split["test"])) == (count - test, test)


@pytest.mark.parametrize("names", [[], ["A"], ["RHUH-0001_0", "RHUH-0001_1"]])
def test_fewer_than_two_patients_cannot_be_split(names):
    with pytest.raises(files.DataError, match="needs two or more patients") as caught:
        data.random_split(names, 0)
    assert ("of one patient (RHUH-0001_0, RHUH-0001_1)" in str(caught.value)) == (
        len(names) > 1
    )


@pytest.mark.parametrize("name", ["S{:02}", "BraTS-GLI-{:05}-000", "BRATS_{:03}"])
def test_where_every_subject_is_a_patient_of_its_own_names_are_shuffled(name):
    """As splits have been drawn since the first version."""
    names = [name.format(i) for i in range(20)]
    for seed in range(5):
        order = names.copy()
        random.Random(seed).shuffle(order)
        split = data.random_split(names, seed, 0.2)
        expected = {"train": sorted(order[4:]), "test": sorted(order[:4])}
        assert split == {"seed": seed, **expected}


def visits(patients):
    """Two of each but the first, which has one."""
    names = [f"BraTS-GLI-{i:05}-{visit}" for i in range(patients) for visit in (100, 1)]
    return names[1:]


def test_all_visits_of_a_patient_are_on_one_side_and_patients_are_counted():
    for seed in range(20):
        split = data.random_split(visits(5), seed, 0.4)
        sides = [{name[:15] for name in split[side]} for side in ("train", "test")]
        assert [len(side) for side in sides] == [3, 2]
        assert not sides[0] & sides[1]
        assert sorted(split["train"] + split["test"]) == sorted(visits(5))
        assert {*split} == {"seed", "train", "test"}


def test_a_split_has_the_pattern_it_was_drawn_with():
    names = [f"{patient}.{visit}" for patient in "abc" for visit in "12"]
    split = data.random_split(names, 0, 0.3, patient_pattern=r"(.)\.")
    assert split["patient_pattern"] == r"(.)\."
    (one, other) = split["test"]
    assert one[0] == other[0]


def test_a_split_is_read_as_it_was_saved(tmp_path):
    split = data.random_split(["A", "B", "C"], seed=5)
    data.save_split(tmp_path / "run" / "split.json", split)
    assert data.load_split(tmp_path / "run" / "split.json") == split
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"seed": 0, "train": ["A"], "test": ["A", "B"]}', "on both sides: A"),
        ('{"seed": 0, "train": ["A", "B", "A"], "test": ["C"]}', "A is there twice"),
        ('{"seed": 0, "train": ["A"], "test": ["C", "C"]}', "C is there twice"),
        ('{"train": ["A"], "test": ["B"]}', 'no "seed"'),
        ('["A"]', "JSON object"),
        (
            '{"seed": 0, "train": ["x", "RHUH-0001_0"], "test": ["y", "RHUH-0001_1"]}',
            "on both sides: 1 held out, such as RHUH-0001_1, .* by RHUH-0001_0",
        ),
        (
            '{"seed": 0, "train": ["a.1"], "test": ["a.2"], "patient_pattern": "(a)"}',
            "on both sides: 1 held out, such as a.2, .* by a.1",
        ),
        (
            '{"seed": 0, "train": ["a"], "test": ["b"], "patient_pattern": 3}',
            "is no text",
        ),
        (
            # Whose text would be a pattern with one group.
            """{"seed": 0, "train": [], "test": [], "patient_pattern": ["x](a)["]}""",
            "is no text",
        ),
        ('{"seed": 0', "not readable as JSON"),
    ],
)
def test_a_split_that_cannot_be_right_is_refused(content, message, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(files.DataError, match=message) as caught:
        data.load_split(path)
    assert str(path) in str(caught.value)


def test_a_patient_on_both_sides_is_told_by_a_pattern_or_told_apart_by_one(tmp_path):
    path = tmp_path / "split.json"
    data.save_split(path, {"seed": 0, "train": ["a.1"], "test": ["a.2"]})
    assert data.load_split(path)["test"] == ["a.2"]
    with pytest.raises(files.DataError, match="on both sides.*--patient_pattern"):
        data.load_split(path, r"(.)\.")
    data.save_split(path, {"seed": 0, "train": ["P1_visit1"], "test": ["P1_visit2"]})
    with pytest.raises(files.DataError, match="on both sides"):
        data.load_split(path)
    assert data.load_split(path, patients.ONE_EACH)["test"] == ["P1_visit2"]
