"""A data set made in parts by several processes: the same, and who may be there."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brats_gan import data, files, manifest, runs
from brats_gan.runs import locks
from brats_gan.stages import dataset, volumes
from tests import chains

ROOT = Path(__file__).parents[1]
FEW = 3  # samples a volume


def source(root):
    cached = str(root / "cache")
    return data.Source(str(root / "data"), slices=(0, 8), cache_dir=cached)


def settings(root, **more):
    of_runs = str(root / "structural"), str(root / "multimodal")
    given = {"max_tries": 2, "lesion_free": 0.0, "filter": False, **more}
    return dataset.Settings(*of_runs, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stages 1 and 2, a step each."""
    root = tmp_path_factory.mktemp("shards")
    return chains.train(root, source(root), (64, 64, 8))


def contents(folder):
    """Everything but locks, and what only parts need."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(locks.LOCK)
    }


def test_samples_made_in_parts_are_those_of_one_process(made, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "PER_VOLUME", FEW)
    whole = settings(made, samples=3 * FEW - 1, batch_size=4)
    dataset.build(whole, source(made), tmp_path / "one")
    for part in ("2/2", "1/2"):
        of_part = settings(made, samples=3 * FEW - 1, batch_size=4, shard=part)
        built = dataset.build(of_part, source(made), tmp_path / "parts")
        assert built.summary == {}
        assert not (tmp_path / "parts/manifest.csv").exists()
    stamps = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*.gz")
    }
    assert len(stamps) == 3 * 7
    dataset.build(whole, source(made), tmp_path / "parts")
    assert all(path.stat().st_mtime_ns == stamps[path] for path in stamps)
    one, parts = contents(tmp_path / "one"), contents(tmp_path / "parts")
    # flags.txt and the description name the folder.
    differ = {
        name for name in one.keys() | parts.keys() if one.get(name) != parts.get(name)
    }
    assert differ <= {"flags.txt", "dataset_description.json"}
    assert b"--shard=" not in parts["flags.txt"] + parts["dataset_description.json"]


def test_volumes_made_in_parts_are_those_of_one_process(made, tmp_path):
    volumes.build(settings(made, volumes=2), source(made), tmp_path / "one")
    for part in ("2/2", "1/2"):
        of_part = settings(made, volumes=2, shard=part)
        built = volumes.build(of_part, source(made), tmp_path / "parts")
        assert len(built.rows) == 1 and not (tmp_path / "parts/volumes.csv").exists()
    volumes.build(settings(made, volumes=2), source(made), tmp_path / "parts")
    one, parts = contents(tmp_path / "one"), contents(tmp_path / "parts")
    assert b"2 whole volumes of the contrasts t1, t2" in parts["README.md"]
    assert b"<h2>Neighbouring slices</h2>" in parts["report.html"]
    differ = {
        name for name in one.keys() | parts.keys() if one.get(name) != parts.get(name)
    }
    assert differ <= {"flags.txt", "dataset_description.json"}


def test_a_part_that_there_is_not_is_refused(made, tmp_path):
    for part in ("0/2", "3/2", "2", "1/0", "a/b", "-1/2"):
        with pytest.raises(runs.RunError, match="from 1/8 to 8/8"):
            dataset.build(settings(made, shard=part), source(made), tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not files.HAS_LOCKS, reason="this system has no locks")
def test_several_parts_may_be_made_at_once_but_none_twice(tmp_path):
    # Another process, as far as locks go, makes the first part.
    with (
        (tmp_path / ".lock").open("a+") as all_of_it,
        (tmp_path / ".lock-1-of-2").open("a+") as first,
    ):
        files.lock(all_of_it, wait=False, shared=True)
        files.lock(first, wait=False)
        first.write("process 7 on another")
        first.flush()
        with pytest.raises(runs.RunError, match="share 1-of-2 of .*process 7 on"):
            locks.take(tmp_path, "1-of-2")
        assert locks.take(tmp_path, "2-of-2") is False
        runs.release(tmp_path)
        with pytest.raises(runs.RunError, match="in use by another process .*7 on"):
            locks.take(tmp_path)
    assert locks.take(tmp_path) is True
    runs.release(tmp_path)


@pytest.mark.skipif(not files.HAS_LOCKS, reason="this system has no locks")
def test_no_part_is_begun_while_the_data_set_is_finished(tmp_path):
    with (tmp_path / ".lock").open("a+") as file:
        files.lock(file, wait=False)
        with pytest.raises(runs.RunError, match="in use by another process"):
            locks.take(tmp_path, "1-of-2")


def test_the_profile_is_fitted_once_for_all_parts(tmp_path):
    fitted = iter([0.5])
    for _ in range(2):
        found = volumes._settled(tmp_path, {}, "this", lambda: next(fitted))
        assert found == 0.5
    assert volumes._settled(tmp_path, {}, "other", lambda: 0.9) == 0.9
    assert volumes._settled(tmp_path, {"a": {"profile": "0.7"}}, "this", None) == 0.7


def started(made, folder, *more):
    command = [
        *(sys.executable, ROOT / "build_dataset.py", f"--output_dir={folder}"),
        *(f"--{name}_run={made / name}" for name in ("structural", "multimodal")),
        *(f"--data_dir={made / 'data'}", f"--cache_dir={made / 'cache'}"),
        *("--samples=110", "--nofilter", "--nocheck", *more),
    ]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.once
def test_parts_made_at_once_and_killed_come_to_the_same(made, tmp_path):
    whole = started(made, tmp_path / "one")
    said, _ = whole.communicate(timeout=500)
    assert whole.returncode == 0, said.decode()[-2000:]
    both = [started(made, tmp_path / "parts", f"--shard={n}/2") for n in (1, 2)]
    limit = time.monotonic() + 500
    while not list((tmp_path / "parts").glob("*/*.nii.gz")):
        assert time.monotonic() < limit
        time.sleep(0.01)
    both[0].send_signal(signal.SIGKILL)
    both[0].communicate()
    both[0] = started(made, tmp_path / "parts", "--shard=1/2")
    for process in both:
        said, _ = process.communicate(timeout=500)
        assert process.returncode == 0, said.decode()[-2000:]
        assert b"without --shard to finish the set" in said
    last = started(made, tmp_path / "parts")
    said, _ = last.communicate(timeout=500)
    assert last.returncode == 0, said.decode()[-2000:]
    one, parts = contents(tmp_path / "one"), contents(tmp_path / "parts")
    assert one.keys() == parts.keys()
    differ = {name for name in one if one[name] != parts[name]}
    assert differ <= {"flags.txt", "dataset_description.json"}
    shutil.rmtree(tmp_path / "one")
