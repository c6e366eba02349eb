"""The cache of decoded slices: what is in it is verified, and it lies where it may."""

import contextlib
import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from brats_gan import data, files, io, runs
from brats_gan.data import cache
from tests import nifti
from tests.test_runs import disk_with

ROOT = Path(__file__).parents[1]
SIZE, SLICES = 32, (1, 5)
PARTS = ("images", "label", "brain", "style")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        nifti.write_subject(folder, f"s{number}", (160, 160, 6), number)
    return folder


def read(folder, place):
    """data.Slices, and all that they hold."""
    slices = data.Slices(io.find_subjects(folder), SIZE, SLICES, place)
    return slices, everything(slices)


def everything(slices):
    every = range(len(slices))
    return slices.images(every), slices.labels(every), slices.styles, slices.index


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def cached(place, part):
    return sorted(Path(place).glob(f"*/*.{part}.npy"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def flip_header(path):
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def reshape(path):
    array = np.load(path)
    cache.write(path, np.concatenate([array, array]), axes=0)


def retype(path):
    cache.write(path, np.load(path).astype(np.float64), axes=0)


def swap(path):
    other = next(p for p in cached(path.parents[1], path.suffixes[0][1:]) if p != path)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "damage", [flip, flip_header, cut, halve, empty, reshape, retype, swap]
)
def test_a_damaged_part_is_made_again_with_a_warning(
    folder, tmp_path, caplog, part, damage
):
    _, before = read(folder, tmp_path)
    path = cached(tmp_path, part)[0]
    whole = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        _, after = read(folder, tmp_path)
    assert_equal(after, before)
    assert path.read_bytes() == whole
    # Where two disagree on the number of slices, either may be the one that is named.
    named = path if damage is not reshape else path.parent / path.stem.split(".")[0]
    assert str(named) in caplog.text and "made again" in caplog.text


@pytest.mark.parametrize("part", ["label", "brain"])
def test_a_missing_part_is_made_again_with_a_warning(folder, tmp_path, caplog, part):
    _, before = read(folder, tmp_path)
    path = cached(tmp_path, part)[0]
    path.unlink()
    with caplog.at_level(logging.WARNING):
        _, after = read(folder, tmp_path)
    assert_equal(after, before)
    assert f"{path}: it is missing" in caplog.text


@pytest.mark.parametrize("damage", [flip, halve, swap, Path.unlink])
@pytest.mark.parametrize("part", ["images", "label"])
def test_what_is_damaged_while_it_is_read_is_made_again(
    folder, tmp_path, caplog, part, damage
):
    slices, before = read(folder, tmp_path)
    damage(cached(tmp_path, part)[0])
    with caplog.at_level(logging.WARNING):
        assert_equal(everything(slices), before)
        assert_equal(everything(slices), before)
    assert caplog.text.count("made again") == 1


def test_damage_that_cannot_be_mended_ends_a_pipeline_in_a_sentence(tmp_path):
    paths = nifti.write_subject(tmp_path / "data", "s0", (160, 160, 6), 0)
    slices, _ = read(tmp_path / "data", tmp_path / "cache")
    flip(cached(tmp_path / "cache", "label")[0])
    other = nifti.brain((160, 160, 6), seed=5)[1]
    nifti.write_volume(paths["seg"], other)
    batches = data.segmentation_batches(slices, 4, seed=0)
    with pytest.raises(Exception, match="files of s0 are no longer") as caught:
        next(iter(batches))
    said = runs.process._raised_in_a_pipeline(caught.value)
    assert said.startswith(str(cached(tmp_path / "cache", "label")[0]))
    assert said.endswith("put them back")


def test_the_default_cache_is_shared_and_decoded_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    _, before = read(folder, None)
    monkeypatch.setattr(io, "read_subject", None)  # would fail if called
    _, after = read(folder, None)
    assert_equal(after, before)
    assert len(cached(tmp_path / "mine", "images")) == 2


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BRATS_GAN_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"BRATS_GAN_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/brats_gan"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/brats_gan"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/brats_gan"),
        ({"HOME": "/c"}, "/c/.cache/brats_gan"),
    ],
)
def test_the_default_place_is_by_the_variable_and_the_users_folder(
    monkeypatch, variables, expected
):
    for name in ("BRATS_GAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.default_place() == Path(expected)


def test_the_size_of_the_cache_is_said_once(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        read(folder, tmp_path)
        read(folder, tmp_path)
    assert caplog.text.count(f"decoded slices are kept in {tmp_path}: 0 kB") == 1
    # 2 subjects of 4 slices of 32 x 32: 4 modalities of 2 bytes, and labels of 1.
    assert "these take about 74 kB" in caplog.text
    assert 73_728 < cache.size(tmp_path) < 78_000


def test_slices_that_other_code_has_decoded_are_not_taken(tmp_path, monkeypatch):
    (tmp_path / "io").mkdir()
    (tmp_path / "io/subjects.py").write_text("1")
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    before = cache.version.__wrapped__()
    assert cache.version.__wrapped__() == before
    (tmp_path / "io/subjects.py").write_text("2")
    assert cache.version.__wrapped__() != before


def test_the_code_that_the_version_is_of_is_there():
    for pattern in cache._READERS:
        assert list(cache._PACKAGE.glob(pattern)), pattern


def prepare_data(*arguments):
    return subprocess.run(
        [sys.executable, "prepare_data.py", "cache", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_cache_is_cleared_of_what_is_ours_and_nothing_else(tmp_path):
    place = tmp_path / "cache"
    for number in range(6):
        path = place / f"slices-0123/{number}.images.npy"
        cache.write(path, np.zeros(1000, np.uint8), axes=1)
    before = {f"{'a1' * 16}.{kind}.npy" for kind in ("images", "label", "images.brain")}
    theirs = {"mine.npy", "notes.txt", "a.images.npy"}
    for name in before | theirs:
        (place / name).write_bytes(b"x" * 1000)
    # 6 of 128 + 1000 + 4 * 1002 bytes; 3 of a version without checksums, 1000 each.
    shown = prepare_data(f"--cache_dir={place}")
    assert shown.returncode == 0 and f"{place}: 9 files, 34 kB" in shown.stdout
    cleared = prepare_data(f"--cache_dir={place}", "--clear")
    assert cleared.returncode == 0 and "9 files" in cleared.stdout
    assert {path.name for path in place.iterdir()} == theirs
    again = prepare_data(f"--cache_dir={tmp_path / 'none'}", "--clear")
    assert again.returncode == 0 and "0 files, 0 kB" in again.stdout
    wrong = prepare_data(f"--cache_dir={place / 'notes.txt'}", "--clear")
    assert wrong.returncode == 1 and "Not a directory" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.skipif(not files.HAS_LOCKS, reason="no locks")
def test_a_cache_that_a_command_is_at_work_with_is_not_cleared(folder, tmp_path):
    slices, before = read(folder, tmp_path)
    with pytest.raises(files.DataError, match="a command is at work with it"):
        cache.clear(tmp_path)
    assert_equal(everything(slices), before)


# --- Places that cannot be written ----------------------------------------------------


@contextlib.contextmanager
def without_rights(folder):
    """Nothing can be made in a folder, whoever runs the tests."""
    user = os.geteuid()
    folder.chmod(0o500)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


def test_a_cache_dir_that_is_a_file_is_said_to_be_one(folder, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(files.DataError, match="A file is where a folder is due"):
            read(folder, place)


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_a_cache_dir_that_may_not_be_written_is_said_to_be_so(tmp_path):
    with without_rights(tmp_path):
        with pytest.raises(files.DataError, match="may not write there") as caught:
            cache.folder_in(tmp_path / "cache", 0)
    assert "room" not in str(caught.value) and "--cache_dir" in str(caught.value)


def test_a_cache_dir_that_is_full_is_said_to_be_so(folder, tmp_path):
    with disk_with(1000):
        with pytest.raises(files.DataError, match="Make room.*--cache_dir or"):
            read(folder, tmp_path)
    assert list(tmp_path.rglob(files.PARTS)) == []
    read(folder, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_a_user_whose_cache_cannot_be_written_has_a_temporary_one(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", "/tmp")  # pytest's is of its user alone
    with without_rights(tmp_path), caplog.at_level(logging.WARNING):
        made = cache.folder_in(None, 0)
    assert made.is_dir() and tmp_path not in made.parents
    assert "decoded anew by each command" in caplog.text
    assert f"{tmp_path}/brats_gan" in caplog.text


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "Make room there"),
        (errno.EDQUOT, "Make room there"),
        (errno.EACCES, "You may not write there"),
        (errno.EROFS, "read-only"),
        (errno.ENOTDIR, "A file is where a folder is due"),
        (errno.EISDIR, "A folder is where a file is due"),
        (errno.EIO, "See what is wrong there"),
    ],
)
def test_the_remedy_is_by_the_cause(number, said):
    text = os.strerror(number)
    for error in (OSError(number, text), f"/a/b; {text}"):
        assert said in files.remedy(error)
        assert ("room" in files.remedy(error)) == (said == "Make room there")


# --- Temporary names ------------------------------------------------------------------

WRITE = """
import os, sys
os.getpid = lambda: 7  # as in two containers
from pathlib import Path
from brats_gan import files
content = sys.argv[1].encode() * 200_000
for _ in range(300):
    files.write_atomically(Path(sys.argv[2]), content)
"""


def test_two_processes_of_one_number_never_write_into_each_others_file(tmp_path):
    path = tmp_path / "a.npy"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, letter, path],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for letter in "ab"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        with contextlib.suppress(FileNotFoundError):
            seen.add(path.read_bytes())
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert seen <= {b"a" * 200_000, b"b" * 200_000} and seen
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_in_the_cache_goes_once_it_is_old(folder, tmp_path):
    made = tmp_path / f"slices-{cache.version()}"
    made.mkdir()
    old, young = (files.temporary_beside(made / f"{n}.npy") for n in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    before = time.time() - 2 * files.PART_AGE
    os.utime(old, (before, before))
    read(folder, tmp_path)
    assert not old.exists() and young.exists()
