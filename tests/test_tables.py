"""Tables worked out by hand from a few lines."""

import csv
import json
from concurrent import futures

import pytest

from brats_gan import files
from brats_gan.experiments import tables


def line(experiment, repeat, mse, dice, table=2, whole=0.5, **more):
    return {
        "table": table,
        "experiment": experiment,
        "repeat": repeat,
        "mse": mse,
        "dice_index": dice,
        "dice_whole": whole,
        "lesion_dice_whole": whole,
        "lesion_hausdorff95_whole": 100.0 * repeat,
        "iterations": 100,
        "seconds": 10.0 * repeat,
        **more,
    }


LINES = [line(7, 1, 0.4, 0.6), line(7, 2, 0.2, 0.8), line(7, 3, 0.3, 0.7)]


def test_best_and_mean_and_sd_by_hand():
    row = tables.rows(2, LINES)[6]
    assert (row["no"], row["paper MSE"], row["paper Dice"]) == (7, 0.028, 0.907)
    assert (row["best MSE"], row["best Dice"]) == (0.2, 0.8)
    # sqrt((0.1^2 + 0 + 0.1^2) / 2) = 0.1 for both.
    for name, mean in (("MSE", 0.3), ("Dice", 0.7)):
        assert row[name] == pytest.approx(mean)
        assert row[f"{name} sd"] == pytest.approx(0.1)
    assert (row["repeats"], row["iterations"], row["seconds"]) == (3, 100, 20)


def test_one_repeat_has_no_sd():
    row = tables.rows(2, LINES[:1])[6]
    assert row["Dice"] == 0.6 and row["Dice sd"] is None


def test_lesion_wise_scores_come_after_the_columns_that_were_there_before():
    row = tables.rows(2, LINES)[6]
    assert [*row][-5:-3] == ["seconds", "lesion-wise Dice"]
    assert (row["lesion-wise Dice"], row["lesion-wise HD95"]) == (0.5, 200.0)


def test_a_line_from_before_there_were_lesion_wise_scores_is_still_shown(tmp_path):
    old = {k: v for k, v in LINES[0].items() if not k.startswith("lesion_")}
    tables.record(tmp_path / "results.jsonl", old)
    row = tables.rows(2, tables.read(tmp_path / "results.jsonl"))[6]
    assert row["Dice"] == 0.6 and row["lesion-wise Dice"] is None


def test_a_row_that_has_not_run_stays_blank(tmp_path):
    tables.write(2, LINES, tmp_path)
    with (tmp_path / "table2.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["no"] for row in rows] == [str(n) for n in range(1, 26)]
    for row in rows:
        assert float(row["paper MSE"]) > 0
        ours = [value for name, value in list(row.items())[7:]]
        assert all(ours) if row["no"] == "7" else not any(ours)
    text = (tmp_path / "table2.md").read_text().splitlines()
    assert len(text) == 2 + 25
    assert "0.300 ± 0.100" in text[8] and "0.700 ± 0.100" in text[8]
    assert text[3].startswith("| 2 | x0.5 | 0 | 0 |  | 0.032 | 0.902 |  |  |")
    assert (tmp_path / "table2.png").read_bytes().startswith(b"\x89PNG")


def test_table_1_keeps_its_lines_apart_from_those_of_table_2(tmp_path):
    lines = [line(1, 1, 0.1, 0.9), line("single", 1, 0.5, 0.4, table=1, whole=None)]
    rows = {row["guidance"]: row for row in tables.rows(1, lines)}
    assert rows["1 SEG"]["Dice"] == 0.4 and rows["1 SEG"]["whole-lesion Dice"] is None
    assert rows["1 EC_l + 4 DC_l"]["Dice"] is None
    tables.write(1, lines, tmp_path)
    assert len((tmp_path / "table1.md").read_text().splitlines()) == 2 + 4


def test_runs_that_share_a_file_of_results_lose_no_line(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = [line(name, repeat, 0.1, 0.9) for name in "abcdefgh" for repeat in (1, 2)]
    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: tables.record(path, each), lines))
    assert sorted(map(str, tables.read(path))) == sorted(map(str, lines))


def test_a_line_recorded_again_takes_the_place_of_the_first(tmp_path):
    path = tmp_path / "results.jsonl"
    for each in (*LINES, line(7, 2, 0.9, 0.1)):
        tables.record(path, each)
    read = tables.read(path)
    assert read == [json.loads(x) for x in path.read_text().splitlines()]
    assert sorted((x["repeat"], x["mse"]) for x in read) == [
        (1, 0.4),
        (2, 0.9),
        (3, 0.3),
    ]


def test_two_runs_whose_folders_have_one_name_keep_a_line_each(tmp_path):
    path = tmp_path / "results.jsonl"
    for made_from, dice in (("a", 0.5), ("b", 0.6), ("a", 0.7)):
        tables.record(path, line(7, 1, 0.4, dice, made_from=made_from))
    found = [(x["made_from"], x["dice_index"]) for x in tables.read(path)]
    assert found == [("b", 0.6), ("a", 0.7)]


def origin(made_from="ours", iterations=100, sets=(), **flags):
    flags = {"width": "--width=8", "run_dir": "--run_dir=here", **flags}
    free = frozenset({"run_dir"})
    return tables.Origin(flags, free, made_from, dict(sets), iterations)


def own(path, asked=(2,), **of_run):
    tables.require_own(path, asked, origin(**of_run))


def refused(path, words, **of_run):
    with pytest.raises(files.DataError, match=f"line 1: .*{words}.*--results"):
        own(path, **of_run)


def test_a_table_is_not_filled_with_the_lines_of_a_run_of_other_settings(tmp_path):
    path = tmp_path / "results.jsonl"
    said = {"width": "--width=4", "run_dir": "--run_dir=there"}
    tables.record(path, line(7, 1, 0.4, 0.6, flags=said))
    refused(path, "--width=4, .*--width=8")
    own(path, width="--width=4")  # moved, or started again with more rows
    own(path, asked=(1,))


def test_a_flag_that_only_one_of_two_runs_has_sets_their_lines_apart(tmp_path):
    path = tmp_path / "results.jsonl"
    flags = {"width": "--width=8", "deterministic": "--deterministic"}
    tables.record(path, line(7, 1, 0.4, 0.6, flags=flags, sets={}))
    refused(path, "--deterministic, .*no --deterministic")
    own(path, deterministic="--deterministic")
    refused(path, "no --dropout, .*--dropout=0.2", **flags, dropout="--dropout=0.2")
    # Of before lines named their data sets: the flag may have come since.
    tables.record(path, line(7, 1, 0.4, 0.6, flags=flags))
    own(path, dropout="--dropout=0.2")


def test_a_table_is_not_filled_with_the_lines_of_a_run_on_other_subjects(tmp_path):
    path = tmp_path / "results.jsonl"
    tables.record(path, line(7, 1, 0.4, 0.6, made_from="ours"))
    tables.record(path, line(7, 2, 0.4, 0.6))  # of before there were digests
    own(path)
    refused(path, "other subjects", made_from="theirs")


def test_a_table_is_not_filled_with_the_lines_of_a_run_of_other_length(tmp_path):
    path = tmp_path / "results.jsonl"
    tables.record(path, line(7, 1, 0.4, 0.6))
    own(path)
    refused(path, "100 steps, .*200", iterations=200)


def test_a_table_is_not_filled_with_lines_of_another_synthetic_data_set(tmp_path):
    path = tmp_path / "results.jsonl"
    flags = {"width": "--width=8"}
    tables.record(path, line(7, 1, 0.4, 0.6, flags=flags, sets={"synthetic": "a"}))
    own(path, sets={"synthetic": "a", "synthetic single": "c"})
    own(path)  # it trains on none
    refused(path, "other synthetic data", sets={"synthetic": "b"})


@pytest.mark.parametrize(
    "odd",
    [
        *({"table": [2]}, {"experiment": {}}, {"repeat": [1]}, {"mse": "0.1"}),
        *({"flags": ["--width=8"]}, {"sets": "a"}, {"made_from": 3}),
    ],
    ids=str,
)
def test_a_line_that_no_run_has_written_is_named(tmp_path, odd):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**line(7, 1, 0.4, 0.6), **odd}) + "\n")
    (name,) = odd
    with pytest.raises(files.DataError, match=f"line 1 has a {name} that no run"):
        own(path)


def test_a_line_is_not_added_to_those_that_another_run_has_added_since(tmp_path):
    path = tmp_path / "results.jsonl"
    own(path)
    tables.record(path, line(7, 1, 0.4, 0.6, made_from="theirs"))
    before = path.read_bytes()
    with pytest.raises(files.DataError, match="other subjects.*--results"):
        tables.record(path, line(7, 2, 0.4, 0.6, made_from="ours"), origin())
    assert path.read_bytes() == before


def test_the_numbers_of_the_paper_add_up():
    # The totals of the columns of Table 2 as printed.
    totals = [sum(row[i] for row in tables.TABLE2.values()) for i in (0, 1, 2, 4, 5)]
    expected = [17.3, 23.0, 7.5, 1.415, 22.104]
    assert totals == pytest.approx(expected)
