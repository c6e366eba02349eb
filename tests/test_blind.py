"""Real and generated slices mixed for somebody to tell apart: benchmarks/blind.py."""

import numpy as np
import pytest

from brats_gan import files
from tests import scripts

blind = scripts.module("benchmarks.blind")


def test_slices_that_are_shown_have_a_lesion_and_heads_come_again_last():
    subject = [0, 0, 0, 0, 1, 1, 2]
    pixels = [30, 30, 30, 5, 30, 30, 19]  # the last subject has no lesion to see
    for seed in range(5):
        rows = blind.chosen(subject, pixels, 4, np.random.default_rng(seed))
        assert set(np.take(subject, rows[:2])) == {0, 1}
        assert set(np.take(subject, rows[2:4])) == {0, 1}
        assert len(set(rows)) == 4 and not {3, 6} & set(rows)


def test_too_few_slices_with_a_lesion_are_refused():
    with pytest.raises(files.DataError, match="2 slices have a lesion .* asks for 3"):
        blind.chosen([0, 1, 2], [20, 0, 20], 3, np.random.default_rng(0))


def test_pictures_are_mixed_and_each_is_there_once():
    order = blind.mixed(np.random.default_rng(0), 20)
    assert len(set(order)) == 40 and order[:20] != [("real", n) for n in range(20)]
    assert sum(kind == "real" for kind, _ in order) == 20


def test_contrasts_are_side_by_side_in_grey():
    images = np.stack([np.full((8, 8), level) for level in (0.0, 0.5, 1.0, 2.0)])
    made = blind.picture(images)
    assert made.shape == (blind.SIDE, 4 * blind.SIDE) and made.dtype == np.uint8
    assert made[0, :: blind.SIDE].tolist() == [0, 127, 255, 255]


def test_how_many_were_told_apart_and_how_likely_that_is_by_guessing():
    key = {1: "real", 2: "generated", 3: "generated", 4: "real"}
    assert blind.told_apart(key, key) == (4, 4, pytest.approx(1 / 16))
    half = {1: "real", 2: "real"}
    # Of two guesses one or two are right in three of four cases.
    assert blind.told_apart(key, half) == (1, 2, pytest.approx(3 / 4))


@pytest.mark.parametrize("answer", [{9: "real"}, {1: "fake"}])
def test_an_answer_of_no_picture_or_of_no_kind_is_refused(answer):
    with pytest.raises(files.DataError, match="pictures are numbered 1 to 1"):
        blind.told_apart({1: "real"}, answer)


def test_answers_of_a_spreadsheet_are_read(tmp_path):
    (tmp_path / "said.csv").write_bytes(
        "\ufeff1,Real \r\n2,generated,sure\r\n".encode()
    )
    assert blind.pairs(tmp_path / "said.csv") == {1: "real", 2: "generated"}


def test_no_answer_and_two_of_one_picture_are_refused(tmp_path):
    with pytest.raises(files.DataError, match="no answer"):
        blind.told_apart({1: "real"}, {})
    (tmp_path / "said.csv").write_text("1,real\n1,generated\n")
    with pytest.raises(files.DataError, match="has two lines"):
        blind.pairs(tmp_path / "said.csv")


def test_answers_that_are_no_lines_of_number_and_kind_are_refused(tmp_path):
    (tmp_path / "said.csv").write_text("one,real\n")
    with pytest.raises(files.DataError, match="said.csv: lines are asked for as in"):
        blind.pairs(tmp_path / "said.csv")
