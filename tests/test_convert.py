"""Conversion keeps brain, labels and geometry; the script says what it did."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io, spec
from brats_gan.io import convert
from tests import nifti

ROOT = Path(__file__).parent.parent
SHAPE = (32, 28, 8)
SLICES = (2, 7)


@pytest.mark.parametrize("axes", ["LPS", "RAS"])
@pytest.mark.parametrize("layout", io.LAYOUTS)
def test_a_converted_subject_gives_equal_tensors(layout, axes, tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, layout=layout, axes=axes)
    done, problems = convert.convert(tmp_path / "in", tmp_path / "out")
    assert (done, problems) == (["sub-A" if layout == "bids" else "A"], [])
    (before,), (after,) = (io.find_subjects(tmp_path / d) for d in ("in", "out"))
    assert after.layout == "brats2018"
    for one, other in zip(
        io.read_subject(before, SLICES),
        io.read_subject(after, SLICES),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_files_have_the_names_of_brats_2018(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, layout="brats2015")
    convert.convert(tmp_path / "in", tmp_path / "out")
    roles = (*spec.BRATS.modalities, "seg")
    names = sorted(path.name for path in (tmp_path / "out" / "A").iterdir())
    assert names == sorted(f"A_{role}.nii.gz" for role in roles)


def test_every_voxel_stays_where_it_was_in_the_world(tmp_path):
    volume = np.zeros(SHAPE, np.int16)
    volume[3:30, 4:20] = 5
    volume[10, 6, 2] = 100
    # Oblique by 0.1 rad about the head-foot axis, 2 mm slices, far from the origin.
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0]])
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:2, :3] = turn
    affine[:3, 3] = (50, -20, 7)
    for modality in spec.BRATS.modalities:
        path = tmp_path / "in" / "A" / f"A_{modality}.nii"
        nifti.write_volume(path, volume, axes="RAS", placed=affine)
    convert.convert(tmp_path / "in", tmp_path / "out")
    before = nib.load(tmp_path / "in" / "A" / "A_t1.nii")
    after = nib.load(tmp_path / "out" / "A" / "A_t1.nii.gz")
    places = []
    for image in (before, after):
        index = np.argwhere(image.get_fdata() == 100)[0]
        places.append(image.affine @ (*index, 1))
    np.testing.assert_allclose(places[0], places[1], atol=1e-4)
    assert nib.aff2axcodes(after.affine) == ("L", "P", "S")
    for found, code in (
        after.header.get_sform(coded=True),
        after.header.get_qform(coded=True),
    ):
        assert code == 1
        np.testing.assert_allclose(found, after.affine, atol=1e-4)


def test_labels_become_ours(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, layout="brats2023")
    convert.convert(tmp_path / "in", tmp_path / "out")
    stored = nib.load(tmp_path / "out" / "A" / "A_seg.nii.gz")
    assert np.unique(np.asanyarray(stored.dataobj)).tolist() == [0, 1, 2, 4]
    assert stored.get_data_dtype() == np.uint8


def test_values_and_their_type_are_kept(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, dtype=np.float32)
    convert.convert(tmp_path / "in", tmp_path / "out")
    stored = nib.load(tmp_path / "out" / "A" / "A_t2.nii.gz")
    expected = nifti.brain(SHAPE)[0]["t2"].swapaxes(0, 1)
    np.testing.assert_array_equal(stored.get_fdata(), expected)
    assert stored.get_data_dtype() == np.float32


def test_a_second_call_writes_only_what_is_missing(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    convert.convert(tmp_path / "in", tmp_path / "out")
    kept, lost = (tmp_path / "out" / "A" / f"A_{m}.nii.gz" for m in ("t1", "seg"))
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    convert.convert(tmp_path / "in", tmp_path / "out")
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("role", ["t1", "seg"])
@pytest.mark.parametrize("damage", ["cut", "of another", "turned"])
def test_a_second_call_makes_again_what_was_damaged(tmp_path, role, damage, caplog):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    nifti.write_subject(tmp_path / "in", "B", SHAPE, 1)
    convert.convert(tmp_path / "in", tmp_path / "out")
    path = tmp_path / f"out/A/A_{role}.nii.gz"
    before = path.read_bytes()
    if damage == "cut":
        path.write_bytes(before[: len(before) // 2])
    elif damage == "of another":
        path.write_bytes((tmp_path / f"out/B/B_{role}.nii.gz").read_bytes())
    else:
        half = len(before) // 2
        changed = bytes([before[half] ^ 1])
        path.write_bytes(before[:half] + changed + before[half + 1 :])
    done, problems = convert.convert(tmp_path / "in", tmp_path / "out")
    assert (done, problems) == (["A", "B"], [])
    assert path.read_bytes() == before
    assert f"{path}: it has changed since it was made; made again" in caplog.text


def test_a_bad_subject_does_not_stop_the_others(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)["t2"].write_bytes(b"")
    nifti.write_subject(tmp_path / "in", "B", SHAPE, 1)
    done, ((name, message),) = convert.convert(tmp_path / "in", tmp_path / "out")
    assert (done, name) == (["B"], "A")
    assert "A_t2.nii.gz: not a NIfTI file" in message


def test_a_disk_that_does_not_keep_voxels_is_noticed(tmp_path, monkeypatch):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    write_nifti = io.write_nifti

    def forgetful(path, volume, *args, **kwargs):
        write_nifti(path, np.where(volume == volume.max(), 0, volume), *args, **kwargs)

    monkeypatch.setattr(io, "write_nifti", forgetful)
    done, ((_, message),) = convert.convert(tmp_path / "in", tmp_path / "out")
    assert done == []
    assert "does not read back as written" in message
    assert list((tmp_path / "out" / "A").iterdir()) == []


def test_nothing_is_written_through_a_link_in_the_output(tmp_path):
    nifti.write_subject(tmp_path / "in", "A")
    nifti.write_subject(tmp_path / "in", "B", seed=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/A").symlink_to(tmp_path / "elsewhere")
    done, ((name, message),) = convert.convert(tmp_path / "in", tmp_path / "out")
    assert done == ["B"] and name == "A" and "leads out of" in message
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_from_the_data_into_the_output_is_refused(tmp_path):
    nifti.write_subject(tmp_path / "out", "A")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/A").symlink_to(tmp_path / "out/A")
    with pytest.raises(files.DataError, match="is a link into"):
        convert.convert(tmp_path / "in", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path):
    nifti.write_subject(tmp_path / "in", "A")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/A").write_text("a file where a folder is due")
    done, ((name, message),) = convert.convert(tmp_path / "in", tmp_path / "out")
    assert not done and name == "A" and "out/A" in message


@pytest.mark.parametrize("output", ["file", "file/out"])
def test_an_output_that_can_be_no_folder_is_refused(output, tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    (tmp_path / "file").write_text("a file where a folder is due")
    with pytest.raises(files.DataError, match="file.*cannot be written"):
        convert.convert(tmp_path / "in", tmp_path / output)


@pytest.mark.parametrize("output", ["in", "in/out"])
def test_the_folder_that_is_read_is_not_written_to(output, tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    with pytest.raises(files.DataError, match="inside the folder that is read"):
        convert.convert(tmp_path / "in", tmp_path / output)


# --- prepare_data.py ------------------------------------------------------------------


def _run(*args):
    command = [sys.executable, "prepare_data.py", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_check_prints_a_table_and_succeeds_on_a_good_folder(tmp_path):
    for number, name in enumerate("AB"):
        nifti.write_subject(tmp_path, name, SHAPE, number)
    run = _run("check", f"--data_dir={tmp_path}", "--slices=2:7")
    assert (run.returncode, run.stderr) == (0, "")
    assert "2 subjects of layout brats2018, with t1, t2, t1ce, flair" in run.stdout
    assert "A        28 x 32 x 8  1 x 1 x 1  LPS" in run.stdout
    assert run.stdout.endswith("usable: 0 problems, 0 notes\n")


def test_check_prints_json_and_fails_on_a_bad_folder(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE)["t2"].write_bytes(b"")
    run = _run("check", f"--data_dir={tmp_path}", "--slices=2:7", "--json")
    assert (run.returncode, run.stderr) == (1, "")
    report = json.loads(run.stdout)
    assert report["usable"] is False
    assert report["problems"][0]["subject"] == "A"
    assert "A_t2.nii.gz" in report["problems"][0]["message"]


@pytest.mark.parametrize("flags", [(), ("--to=nnunet", "--dataset_id=12")])
def test_convert_says_how_many_it_converted(flags, tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, layout="brats2015")
    folders = f"--data_dir={tmp_path / 'in'}", f"--output_dir={tmp_path / 'out'}"
    run = _run("convert", *folders, *flags)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"1 of 1 subjects are in {tmp_path / 'out'}\n"
    (subject,) = io.find_subjects(tmp_path / "out")
    assert subject.layout == ("nnunet" if flags else "brats2018")
    assert (tmp_path / "out/Dataset012_in").exists() == bool(flags)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "one command of check, convert, phantom, cache is due, nothing was given"),
        (["frobnicate"], "frobnicate was given"),
        (["check"], "check needs --data_dir"),
        (["convert", "--data_dir=x"], "convert needs --output_dir"),
        (["check", "--data_dir=/nowhere"], "/nowhere: no such folder"),
        (["check", "--data_dir=.", "--slices=9"], "error: --slices=9"),
        (["convert", "--data_dir=tests", "--output_dir=x"], "error: tests: no subject"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_fails_with_one_clear_message(args, message):
    run = _run(*args)
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_help_names_the_commands_and_their_flags():
    text = _run("--help").stdout
    for word in (
        "check",
        "convert",
        "phantom",
        "--data_dir",
        "--layout",
        "--[no]json",
        "--to",
    ):
        assert word in text
