"""The page of a check: what is wrong, and a picture of it."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from brats_gan import files, pages
from brats_gan.io import checks, page
from tests import nifti

ROOT = Path(__file__).parent.parent
SHAPE = (32, 28, 8)
YELLOW = (255, 215, 0)  # gold, of label 2


def _written(folder, tmp_path, **more):
    report = checks.check(folder, slices=(2, 7))
    page.write(report, tmp_path / "page.html", **more)
    return (tmp_path / "page.html").read_text()


def _pictures(text):
    """[H, W, 3] RGB of every picture, in order."""
    for found in re.findall(r'src="data:image/png;base64,([^"]+)"', text):
        png = np.frombuffer(base64.b64decode(found), np.uint8)
        yield cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1]


def test_a_subject_with_a_note_is_shown_where_its_lesion_is_largest(tmp_path):
    images, _ = nifti.brain(SHAPE)
    label = np.zeros(SHAPE, np.uint8)
    label[10, 10, 3] = 2
    label[10:14, 8:13, 5] = 2  # 4 x 5 pixels: a rim of 14 around 2 x 3
    for role, volume in {**images, "seg": label}.items():
        nifti.write_volume(tmp_path / f"in/A/A_{role}.nii.gz", volume)
    assert "slice" not in _written(tmp_path / "in", tmp_path).split("<h2>")[1]
    label[0, 0, 5] = 2  # outside the brain, which is a note
    nifti.write_volume(tmp_path / "in/A/A_seg.nii.gz", label)
    text = _written(tmp_path / "in", tmp_path)
    assert "slice 5: where the lesion is largest" in text
    pictures = list(_pictures(text))
    assert len(pictures) == 4
    for picture in pictures:
        rim = (picture == YELLOW).all(-1)
        assert picture.shape == (32, 28, 3) and rim.sum() == 14 + 1
        assert rim[10, 8:13].all() and not rim[11, 9:12].any()


def test_a_file_that_cannot_be_read_is_a_message_in_its_place(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)["t2"].write_bytes(b"")
    nifti.write_subject(tmp_path / "in", "B", SHAPE, 1)["seg"].write_bytes(b"\x1f\x8b")
    text = _written(tmp_path / "in", tmp_path)
    assert len(list(_pictures(text))) == 3 + 4
    assert re.search(r"<figcaption>t2</figcaption><p>[^<]*A_t2.nii.gz: not a", text)
    assert "the label cannot be shown" in text


def test_no_name_is_markup(tmp_path):
    name = "<script>A&amp;"
    nifti.write_subject(tmp_path / "in", name, SHAPE, label=False)
    text = _written(tmp_path / "in", tmp_path)
    assert "<script>" not in text and "&lt;script&gt;A&amp;amp;" in text


def test_the_page_needs_nothing_beside_it(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, label=False)
    text = _written(tmp_path / "in", tmp_path)
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text


def test_pictures_are_of_so_many_subjects_and_of_those_with_problems_first(tmp_path):
    for number, name in enumerate("ABC"):
        paths = nifti.write_subject(
            tmp_path / "in", name, SHAPE, number, label=name == "C"
        )
        if name == "C":
            paths["t1"].write_bytes(b"")
    text = _written(tmp_path / "in", tmp_path, most=2)
    assert re.findall("<h3>(.)</h3>", text) == ["C", "A"]
    assert "1 more have no pictures: 2 are shown" in text


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_without_subjects_has_a_page_too(empty, tmp_path):
    (tmp_path / "in").mkdir()
    if not empty:
        (tmp_path / "in/dataset_description.json").write_text("{")
        nifti.write_subject(tmp_path / "in", "A", SHAPE)
    text = _written(tmp_path / "in", tmp_path)
    assert "NOT usable" in text and 'class="problem"' in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("page.txt", "ends in .html"), ("x.html", "is a folder"), ("f/p.html", "written")],
)
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    name, message, tmp_path
):
    (tmp_path / "x.html").mkdir()
    (tmp_path / "f").write_text("a file")
    with pytest.raises(files.DataError, match=message):
        pages.require_path("report", tmp_path / name)


def test_check_writes_the_page_beside_what_it_prints(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)["t2"].write_bytes(b"")
    command = [sys.executable, "prepare_data.py", "check", "--slices=2:7"]
    command += [f"--data_dir={tmp_path / 'in'}", f"--report={tmp_path / 'r.html'}"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (1, "")
    assert "NOT usable: 1 problem" in run.stdout
    assert len(list(_pictures((tmp_path / "r.html").read_text()))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"in", "r.html"}
