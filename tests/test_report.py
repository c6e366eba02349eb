"""Reports of runs and data sets: whole pages, of whatever a folder holds."""

import errno
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

import brats_gan
from brats_gan import data, files, manifest, pages, report, runs
from brats_gan.experiments import tables
from brats_gan.report import __main__ as command
from brats_gan.report import blocks, card, curves, live, scores, trained, writing
from brats_gan.report import sections as shared
from brats_gan.stages import dataset, defaults, structural
from tests import chains

ROOT = Path(__file__).parents[1]
VOID = {"meta", "img", "br", "hr", "link", "input", "polyline"}
HOSTILE = "<script>alert(1)</script>&\"'<img src=x>"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stages 1 and 2, a step each, and a data set of two samples."""
    root = tmp_path_factory.mktemp("report")
    source = data.Source(
        str(root / "data"), slices=(0, 8), cache_dir=str(root / "cache")
    )
    chains.train(root, source, (64, 64, 8))
    settings = dataset.Settings(
        *(str(root / "structural"), str(root / "multimodal")),
        **{"samples": 2, "max_tries": 2, "lesion_free": 0.0, "nearest_report": True},
    )
    dataset.build(settings, source, root / "set")
    return root


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the run of stage 1, to be spoiled."""
    return Path(
        shutil.copytree(
            made / "structural",
            tmp_path / "run",
            ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "export"),
        )
    )


@pytest.fixture
def table_run(tmp_path):
    """A run of two rows of Table 2, as far as its report goes: it never trained."""
    run_dir = tmp_path / "tables"
    for repeat in (1, 2):
        inner = run_dir / f"row-01/repeat-{repeat}"
        inner.mkdir(parents=True)
        lines = [
            {"step": step, "seconds": step / 10, "segmentation": 1 / step}
            for step in (20, 40)
        ]
        (inner / "losses.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = ["# eval_segmentation.py", "--table=2", "--experiment=1,3", "--repeats=2"]
    (run_dir / "flags.txt").write_text("\n".join([*flags, f"--run_dir={run_dir}", ""]))
    data.save_split(
        run_dir / "split.json", {"seed": 0, "train": ["a", "b"], "test": ["c"]}
    )
    for row, dice in ((1, 0.8125), (3, 0.5)):
        for repeat in (1, 2):
            line = {"table": 2, "experiment": row, "repeat": repeat, "mse": 0.25}
            line |= {"dice_index": dice, "dice_whole": 0.75, "iterations": 40}
            tables.record(run_dir / "results.jsonl", {**line, "seconds": 4.0})
    tables.write(2, tables.read(run_dir / "results.jsonl"), run_dir)
    files.write_json(
        run_dir / trained.PROGRESS,
        {"unit": "repeat", "total": 4, "done": 4, "finished": True},
    )
    return run_dir


class _Page(html.parser.HTMLParser):
    """What a page has, as a browser without scripts would find it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.images = [], [], [], []
        self.links, self.texts, self.outside, self.drawings = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "img":
            self.images.append(attrs)
        if tag == "svg":
            self.drawings.append(attrs)
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            if name in attrs:
                self.outside.append(attrs[name])
        assert not any(name.startswith("on") or name == "style" for name in attrs)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.texts.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def whole(path):
    """The page of a path, which is held to all that every page is held to."""
    content = Path(path).read_bytes()
    assert len(content) < 5_000_000
    text = content.decode()
    assert text.startswith("<!DOCTYPE html>")
    page = _Page(text)
    assert "script" not in page.tags
    assert len({*page.ids}) == len(page.ids)
    assert all(each.get("alt") for each in page.images)
    assert all(each["role"] == "img" and each["aria-label"] for each in page.drawings)
    for target in page.outside:
        assert target.startswith(("data:image/", "#")), target[:80]
        assert target[:1] != "#" or target[1:] in page.ids
    assert not re.search(r"url\(|@import|https?://", text)
    if shutil.which("tidy"):
        said = subprocess.run(
            ["tidy", "-errors", "-quiet", str(path)], capture_output=True, text=True
        )
        assert said.returncode == 0, said.stderr
    return page


def written(folder, tmp_path, *more):
    path = tmp_path / "page.html"
    writing.write([folder, *more], path, defaults.of_scripts())
    return whole(path)


def test_tidy_is_there_or_said_to_be_missing():
    if not shutil.which("tidy"):
        pytest.skip("tidy, which says whether HTML is valid, is not installed")


def test_a_finished_run_says_what_it_is_with_flags_that_differ_first(made):
    page = whole(made / "structural/report.html")
    text = page.text
    assert "Stage 1: structural" in text and "Finished: 1 steps." in text
    chosen, usual = text.split("flags as they are by default")
    assert "code_channels 1 4" in chosen.split("Chosen for this one")[1]
    assert "image_size 32 192" in chosen and "leaky_relu" not in chosen
    assert "leaky_relu yes" in usual
    assert "trained on 2 2" in text and "held out 1 1" in text
    assert "s0" in text
    for heading in ("Games", "Loss curves", "How to cite", "must not be used for"):
        assert heading in text
    assert len(page.images) == 1 and "structural map" in page.images[0]["alt"]
    assert any("accuracy_D_f: from" in each["aria-label"] for each in page.drawings)
    assert "GiB" in text


def test_a_run_of_stage_2_shows_both_of_its_sheets(made):
    page = whole(made / "multimodal/report.html")
    assert "Stage 2: multimodal" in page.text
    assert [each["alt"][:9] for each in page.images] == ["Rows of o", "A row for"]
    assert not (made / "multimodal" / trained.SHEET).exists()


def test_a_data_set_says_what_was_kept_and_how_near_it_is(made):
    page = whole(made / "set/report.html")
    said = json.loads((made / "set/dataset_description.json").read_text())
    assert "Finished: 2 samples." in page.text
    assert f"attempts {said['Attempts']}" in page.text
    score = said["Registration"]["Scores"]["generated"]["edge_dice"]
    assert f"generated {score:.4g}" in page.text
    assert "nearer to a training slice than any held-out one" in page.text
    assert len(page.images) == 2


def test_a_report_of_a_data_set_names_neither_time_nor_its_own_folder(made, tmp_path):
    moved = shutil.copytree(made / "set", tmp_path / "elsewhere")
    writing.write([moved], tmp_path / "again.html", defaults.of_scripts())
    content = (tmp_path / "again.html").read_bytes()
    assert content == (made / "set/report.html").read_bytes()
    assert b"--output_dir" not in content and str(made / "set").encode() not in content


def test_a_run_that_goes_on_says_how_far_it_is(folder, tmp_path):
    shutil.rmtree(folder / "weights")
    (folder / "maps.png").unlink()
    told = live.Live(folder, structural.SCRIPT, {}, 70)
    told.seen(35, np.full([40, 60, 3], 200, np.uint8))
    page = whole(folder / "report.html")
    assert "Not finished: 35 of 70 steps are done" in page.text
    assert "Start the same command again" in page.text
    assert page.images[0]["alt"].startswith("The columns and rows of the sheet")
    # The command finds as much, and so does a version that wrote no progress.json.
    page = written(folder, tmp_path)
    assert "Not finished: 35 of 70 steps" in page.text and len(page.images) == 1
    (folder / trained.PROGRESS).unlink()
    assert "Not finished: 1 of 1 steps" in written(folder, tmp_path).text
    told.finish()
    assert "Finished: 70 steps" in whole(folder / "report.html").text
    assert not (folder / trained.SHEET).exists()


def test_a_table_run_shows_its_rows_beside_the_papers(table_run, tmp_path):
    page = written(table_run, tmp_path)
    assert "Finished: 4 repeats." in page.text
    assert "Table 2" in page.text and "23 rows of the paper's have not run" in page.text
    # Number, real, synthetic, enhanced, the paper's MSE and Dice, ours at best.
    assert "3 0 x1 0 0.205 0.708 0.250 0.500" in page.text
    assert "row 1: Dice 0.812 ± 0.000, paper 0.915" in page.images[0]["alt"]
    assert "row-01/repeat-2" in page.text and len(page.drawings) == 1
    assert "trained for 8 seconds" in page.text


def test_several_runs_begin_with_what_differs(made, folder, table_run, tmp_path):
    flags = folder / "flags.txt"
    flags.write_text(flags.read_text().replace("--seed=0", "--seed=7"))
    page = written(made / "structural", tmp_path, folder)
    begin = page.text.index("What differs")
    assert begin < page.text.index("Loss curves", begin)
    assert "seed 0 7 0" in page.text
    assert "code_channels" not in page.text
    assert len(page.images) == 2
    text = (tmp_path / "page.html").read_text()
    assert 'polyline class="c0"' in text and 'polyline class="c1"' in text
    of_all = written(made / "structural", tmp_path, made / "set", table_run)
    assert "3 side by side" in of_all.text and "a data set" in of_all.text
    with pytest.raises(runs.RunError, match="given twice"):
        written(folder, tmp_path, folder)


def test_names_of_subjects_and_flags_are_text(folder, tmp_path):
    data.save_split(
        folder / "split.json",
        {"seed": 0, "train": [HOSTILE, "]]>-->"], "test": ["</details>"]},
    )
    path = folder / "flags.txt"
    path.write_text(path.read_text() + f"--layout={HOSTILE}\n--init_from={HOSTILE}\n")
    lines = {"step": 1, "seconds": 1.0, HOSTILE: 2.0, f"accuracy_{HOSTILE}": 0.99}
    (folder / "losses.jsonl").write_text(json.dumps(lines) + "\n")
    rows = {HOSTILE: {HOSTILE: HOSTILE}}
    files.write_json(folder / scores.SCOREBOARD, {"rows": rows})
    page = written(folder, tmp_path)
    assert page.text.count("<script>alert(1)</script>") > 5
    page = written(folder, tmp_path, Path(shutil.copytree(folder, tmp_path / "<b>")))
    assert "<b>" in page.text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"step": 1, "seconds"\n\xff\xfe\n', "2 of 2 lines of losses.jsonl cannot"),
        (b'{"step": 1, "seconds": 1, "a": NaN}\n[1]\n', "1 of 2 lines of losses.jsonl"),
        (b'{"step": 1, "seconds": 1, "a": 1%s}\n' % (400 * b"0"), "Nothing is logged"),
        (b'{"step": Infinity, "seconds": 1, "a": 1}\n', "Nothing is logged yet"),
        (b"", "Nothing is logged yet"),
        (None, "losses.jsonl: cannot be read"),
    ],
)
def test_a_broken_log_is_a_sentence(content, sentence, folder, tmp_path):
    path = folder / "losses.jsonl"
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    text = written(folder, tmp_path).text
    assert sentence in text and str(tmp_path) not in text.split("Folders and files")[0]


@pytest.mark.parametrize("name", ["split.json", "inputs.json", scores.SCOREBOARD])
def test_a_damaged_file_of_a_run_is_a_sentence(name, folder, tmp_path):
    (folder / name).write_text("{")
    assert f"{name}: not readable as JSON" in written(folder, tmp_path).text


def test_a_picture_that_is_none_is_said_to_be_missing(folder, tmp_path):
    (folder / "maps.png").write_bytes(b"")
    page = written(folder, tmp_path)
    assert page.images == [] and "Too large for this page, or not readable" in page.text


def test_a_page_stays_small_whatever_its_pictures_are(folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    for path in (folder / "maps.png", folder / "generated.png"):
        cv2.imwrite(str(path), noise)  # of 6 MB each
    assert len(written(folder, tmp_path).images) == 2
    copies = [shutil.copytree(folder, tmp_path / f"copy-{n}") for n in range(6)]
    assert len(written(folder, tmp_path, *map(Path, copies)).images) == 14


def test_what_is_too_large_without_pictures_is_refused():
    many = [blocks.Text(100_000 * "x")] * 60
    with pytest.raises(files.DataError, match="are the most; give fewer folders"):
        blocks.page("Large", [], [blocks.Section("All", many)])


def test_a_curve_of_many_steps_keeps_its_peaks():
    points = [(float(step), 1.0) for step in range(100_000)]
    points[77_777] = 77_777.0, 9.0
    log = curves.Log({"a": points}, 99_999, "")
    (panel,) = curves.panels([log], ["a"])
    assert len(panel.lines[0].split()) <= 1200 and panel.high == "9"
    assert min(float(each.split(",")[1]) for each in panel.lines[0].split()) == 2.0


def test_the_scoreboard_has_its_goals(folder, tmp_path):
    goals = [
        dict(zip(("name", "judged", "reached", "goal", "passes"), each, strict=True))
        for each in (
            ("a", "value", 0.5, ">= 0.4", True),
            ("b", "share", 0.1, "<= 0", False),
        )
    ]
    rows = {"a": {"made": 0.5, "ceiling": None}}
    files.write_json(folder / scores.SCOREBOARD, {"goals": goals, "rows": rows})
    text = written(folder, tmp_path).text
    assert "1 of 2 goals are reached." in text and "b share 0.1 <= 0 no" in text


# --- Writing --------------------------------------------------------------------------


def test_a_report_that_cannot_be_written_ends_nothing(folder, caplog):
    path = folder / "report.html"
    path.unlink()
    path.mkdir()
    with caplog.at_level("WARNING"):
        live.Live(folder, structural.SCRIPT, {}, 3).seen(1)
    assert f"{path}: could not be written" in caplog.text
    path.rmdir()
    (folder / "flags.txt").write_text("")
    live.Live(folder, structural.SCRIPT, {}, 3).finish()
    assert "flags.txt is damaged" in caplog.text


def test_a_report_takes_a_small_share_of_the_time(folder, monkeypatch):
    now = iter([0.0, 2.0, *(199.0, 201.9), *(202.1, 202.1, 204.1)])
    clock = types.SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr(live, "time", clock)
    told = live.Live(folder, structural.SCRIPT, {}, 9)
    told.seen(0)  # takes two seconds
    draw = told.with_sheet(lambda step: np.full([8, 8, 3], step, np.uint8))
    for step, done in ((3, 0), (4, 0), (5, 5)):
        assert draw(step).max() == step
        assert json.loads((folder / trained.PROGRESS).read_text())["done"] == done


def test_what_ended_a_run_is_said_until_it_goes_on(folder):
    with pytest.raises(runs.RunError), live.Live(folder, structural.SCRIPT, {}, 9):
        raise runs.RunError(f"{folder}/losses.jsonl: <step> 3 is not finite")
    said = "losses.jsonl: <step> 3 is not finite"
    text = whole(folder / "report.html").text
    assert f" {said} " in text and "Not finished: 1 of 9 steps" in text
    live.Live(folder, structural.SCRIPT, {}, 9).seen(1)
    assert said not in whole(folder / "report.html").text


def test_a_table_that_others_are_still_at_is_not_finished(table_run):
    told = live.Live(table_run, "eval_segmentation.py", {}, 4, "repeat")
    told.seen(3)
    told.finish()
    assert "Not finished: 3 of 4 repeats" in whole(table_run / "report.html").text
    told.seen(4)
    told.finish()
    assert "Finished: 4 repeats" in whole(table_run / "report.html").text


@pytest.mark.parametrize(
    ("folder_", "text", "left"),
    [
        ("/x/run", "/x/run/a.json: bad, see /x/run.", "a.json: bad, see run."),
        ("a", "data/b: bad. a/c, too", "data/b: bad. c, too"),
        (".", "a.json: bad. See b/c.", "a.json: bad. See b/c."),
        ("/x/run", "/x/run-2/a and /x/runs: '/x/run/b'", "/x/run-2/a and /x/runs: 'b'"),
    ],
)
def test_an_error_loses_its_folder_and_no_other_text(folder_, text, left):
    assert shared.said(ValueError(text), Path(folder_)) == left


def test_a_full_disk_is_said_as_of_all_files(folder, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(files.DataError, match="Make room there"):
        live.Live(folder, structural.SCRIPT, {}, 3).seen(1)


def started(*given, code=0, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-m", "brats_gan.report", *map(str, given)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_command_writes_the_page_of_a_folder_and_of_several(folder, tmp_path):
    (folder / "report.html").unlink()
    assert started(folder) == f"report: {folder / 'report.html'}\n"
    whole(folder / "report.html")
    copy = shutil.copytree(folder, tmp_path / "two")
    assert started(folder, copy, cwd=tmp_path) == "report: report.html\n"
    whole(tmp_path / "report.html")
    page = tmp_path / "pages/x.html"
    page.parent.mkdir()
    assert started(folder, f"--output={page}") == f"report: {page}\n"


def test_a_run_is_known_from_within_its_folder(tmp_path):
    run_dir = tmp_path / "one"
    run_dir.mkdir()
    (run_dir / "flags.txt").write_text("# eval_segmentation.py\n--train_on=real\n")
    line = {"table": None, "experiment": "one", "repeat": 1, "mse": 0.25, "seconds": 1}
    line |= {"dice_index": 0.8125, "dice_whole": 0.75, "iterations": 40}
    tables.record(tmp_path / "results.jsonl", line)
    assert started(".", cwd=run_dir) == "report: report.html\n"
    text = whole(run_dir / "report.html").text
    assert "0.8125" in text and "Stage 4: one" in text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["nowhere"], "error: nowhere is not a folder; name a run or a data set"),
        (["docs"], "error: docs is no run and no data set of this project"),
        (["docs", "--output=x.txt"], "a name that ends in .html is due"),
    ],
)
def test_a_wrong_folder_is_a_sentence(given, sentence):
    said = started(*given, code=1)
    assert sentence in said and "Traceback" not in said


def test_no_folder_is_a_sentence_with_the_usage():
    said = started(code=1)
    assert "the folder of a run or of a data set is due" in said


def test_the_page_of_one_folder_lies_in_it():
    assert command.page_of(["a/b"], None) == Path("a/b/report.html")
    assert command.page_of(["a", "b"], None) == Path("report.html")


# --- The card -------------------------------------------------------------------------


def test_the_card_begins_as_the_hub_reads_it(made):
    text = (made / "set/README.md").read_text()
    assert text.startswith("---\n")
    front = {}
    for line in text.split("---\n")[1].splitlines():
        name, _, value = line.partition(": ")
        front[name] = json.loads(value)
    assert {*front} == {
        *("license", "license_name", "pretty_name"),
        *("task_categories", "tags", "size_categories"),
    }
    assert front["size_categories"] == ["n<1K"]
    assert "image-segmentation" in front["task_categories"]
    said = json.loads((made / "set/dataset_description.json").read_text())
    assert f"of {said['Attempts']} attempts" in text
    assert str(made) not in text
    assert all(each in text for each in shared.NOT_FOR)
    assert "| generated |" in text


def test_the_card_of_a_set_that_is_passed_on_has_no_markup_of_others(made):
    said = json.loads((made / "set/dataset_description.json").read_text())
    said["spec"]["modalities"][0] = "<b>|x\n# y"
    text = card.card(said)
    assert "\\<b\\>\\|x \\# y" in text and "\n# y" not in text


@pytest.mark.parametrize(
    ("count", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (4_999_950, "1M<n<10M")]
)
def test_the_card_says_how_many_there_are_in_the_words_of_the_hub(made, count, size):
    said = json.loads((made / "set/dataset_description.json").read_text())
    assert f'size_categories: ["{size}"]' in card.card({**said, "Samples": count})


def test_a_card_that_cannot_be_written_ends_nothing(made, tmp_path, caplog):
    path = tmp_path / "set"
    shutil.copytree(made / "set", path, ignore=shutil.ignore_patterns("*.html", "*.md"))
    (path / "README.md").mkdir()
    with caplog.at_level("WARNING"):
        report.finish(path, "build_dataset.py", {})
    assert f"{path / 'README.md'}: could not be written" in caplog.text
    whole(path / "report.html")


def test_a_readme_that_somebody_wrote_is_no_card_and_is_left(made, tmp_path, caplog):
    shutil.copy(made / "set/dataset_description.json", tmp_path)
    own = tmp_path / "README.md"
    own.write_text("What I found out.\n")
    with caplog.at_level("WARNING"):
        card.write_card(tmp_path)
    assert own.read_text() == "What I found out.\n"
    assert f"{own}: was written by somebody else" in caplog.text
    own.write_text((made / "set/README.md").read_text() + "more\n")
    card.write_card(tmp_path)
    assert own.read_text() == (made / "set/README.md").read_text()


def test_a_set_with_its_card_and_its_report_is_still_one(made):
    manifest.require_as_made(made / "set", 2)
    assert report.CARD == "README.md" and (made / "set" / report.NAME).exists()


def test_who_is_cited_is_who_the_citation_file_names():
    text = (ROOT / "CITATION.cff").read_text()
    assert shared.PAPER in text and f"version: {brats_gan.__version__}" in text
    paper = text.partition("references:")[2]
    families = re.findall(r"family-names: (\S+)\n\s+given-names: (\S+)", paper)
    assert shared.AUTHORS.replace(" and ", ", ").split(", ") == [
        f"{given} {family}" for family, given in families
    ]


def test_a_picture_as_it_is_or_smaller_never_larger():
    small = pages.png(np.zeros([20, 30, 3], np.uint8))
    assert pages.fitting(small, 10_000) == (small, "png")
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
    content, kind = pages.fitting(pages.png(noise), 200_000)
    assert kind == "jpeg" and len(content) <= 200_000
    assert pages.fitting(pages.png(noise), 100) is None
    assert pages.fitting(b"", 10_000) is None and pages.fitting(b"x", 10_000) is None
