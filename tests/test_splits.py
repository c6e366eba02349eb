"""Splits by subject."""

import pytest

from brats_gan import data, files


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


@pytest.mark.parametrize("names", [[], ["A"]])
def test_fewer_than_two_subjects_cannot_be_split(names):
    with pytest.raises(files.DataError, match="needs two"):
        data.random_split(names, 0)


def test_a_split_is_read_as_it_was_saved(tmp_path):
    split = data.random_split(["A", "B", "C"], seed=5)
    data.save_split(tmp_path / "run" / "split.json", split)
    assert data.load_split(tmp_path / "run" / "split.json") == split
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["split.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"seed": 0, "train": ["A"], "test": ["A", "B"]}', "on both sides: A"),
        ('{"train": ["A"], "test": ["B"]}', 'no "seed"'),
        ('["A"]', "JSON object"),
        ('{"seed": 0', "not readable as JSON"),
    ],
)
def test_a_split_that_cannot_be_right_is_refused(content, message, tmp_path):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(files.DataError, match=message) as caught:
        data.load_split(path)
    assert str(path) in str(caught.value)
