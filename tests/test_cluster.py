"""Volumes and repeats on other processes: the same, whoever dies."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import rig
from brats_gan import cluster, data, files, manifest, runs
from brats_gan.experiments import runner, tables
from brats_gan.runs import claims
from brats_gan.stages import dataset, workers
from tests import chains

ROOT = Path(__file__).parents[1]
FEW = 2  # samples a volume, in this process


# --- The engine, without a cluster ----------------------------------------------------


def job(make, folder, seen=True, **differs):
    token = folder / ".token"
    token.write_text("said")
    about = {**cluster.about(), **differs}
    said = "said" if seen else "another"
    return cluster.Job(make, "task", str(folder), str(token), said, about)


def write_unit(task, unit, folder):
    (folder / unit).mkdir()
    (folder / unit / "record.json").write_text("{}")
    (folder / unit / "a.gz").write_bytes(b"volume")
    return [task, unit]


def fail(task, unit, folder):
    raise {"data": files.DataError, "run": runs.RunError, "bug": KeyError}[unit]("why")


def test_a_worker_that_sees_the_folder_writes_there_and_another_sends(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    made = cluster.run_unit(job(write_unit, here), "v1")
    assert (made.result, made.contents) == (["task", "v1"], {})
    sent = cluster.run_unit(job(write_unit, there, seen=False), "v1")
    assert sent.result == made.result and not (there / "v1").exists()
    cluster._write(there, sent.contents)
    for name in ("v1/record.json", "v1/a.gz"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


def test_what_a_worker_sends_is_not_written_elsewhere(tmp_path):
    with pytest.raises(files.DataError, match="out of"):
        cluster._write(tmp_path / "out", {"../x": b""})


def test_a_record_is_written_after_the_files_it_is_of(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(
        files, "write_atomically", lambda path, content: order.append(path.name)
    )
    cluster._write(tmp_path, {"v/a.json": b"", "v/b.gz": b"", "v/c.gz": b""})
    assert order == ["b.gz", "c.gz", "a.json"]


@pytest.mark.parametrize(
    ("unit", "kind", "said"),
    [
        ("data", files.DataError, "^'?why"),
        ("run", runs.RunError, "^'?why"),
        ("bug", runs.RunError, "bug failed on .*KeyError: 'why'"),
    ],
)
def test_what_a_unit_raises_ends_the_command_with_its_sentence(
    tmp_path, unit, kind, said
):
    made = cluster.run_unit(job(fail, tmp_path), unit)
    with pytest.raises(kind, match=said):
        cluster._require_made(unit, made)


@pytest.mark.parametrize("name", ["brats_gan", "tensorflow"])
def test_a_worker_of_another_version_is_refused_before_it_makes_anything(
    tmp_path, name
):
    made = cluster.run_unit(job(write_unit, tmp_path, **{name: "0.1"}), "v1")
    with pytest.raises(runs.RunError, match=f"has {name} .*, and this command 0.1"):
        cluster._require_made("v1", made)
    assert not (tmp_path / "v1").exists()


def test_one_place_is_asked_for():
    assert cluster.place_of(None, None) is None
    with pytest.raises(runs.RunError, match="leave one of the two out"):
        cluster.place_of(2, "tcp://a:1")


def test_workers_share_the_cores_of_a_machine_and_none_is_left_without():
    four = [0, 2, 3, 5]
    assert [runs.cores_of(k, 2, four) for k in range(2)] == [[0, 2], [3, 5]]
    assert [runs.cores_of(k, 3, four) for k in range(3)] == [[0], [2], [3]]
    assert [runs.cores_of(k, 6, four) for k in range(6)] == [[n] for n in four + [0, 2]]
    assert runs.cores_of(0, 1, four) == four


def test_workers_of_which_one_died_while_it_started_are_started_again():
    tries = []

    def local(**given):
        tries.append(given)
        if len(tries) < cluster.MOST_STARTS:
            raise RuntimeError("Nanny failed to start.")
        return "workers"

    assert cluster._started(local, 2, {}) == "workers"
    tries.clear()

    def never(**given):
        tries.append(given)
        raise RuntimeError("Nanny failed to start.")

    with pytest.raises(runs.RunError, match="3 times a worker died while it started"):
        cluster._started(never, 2, {})
    assert len(tries) == cluster.MOST_STARTS


# --- Claims ---------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """Claims of processes of another machine, whose end is not seen from here."""
    monkeypatch.setattr(claims, "_system", lambda: None)


def test_of_two_processes_one_has_a_piece_and_the_other_once_it_is_let_go(tmp_path):
    with claims.claimed(tmp_path, "a") as mine:
        assert mine.is_held()
        assert claims.take(tmp_path, "a") is None
        assert claims.holder(tmp_path, "a") == mine.path
        with claims.claimed(tmp_path, "a-b") as another:
            assert another is not None
    with claims.claimed(tmp_path, "a") as again:
        assert again.path.name == "a.2"


def silent(path, seconds):
    past = time.time() - seconds
    os.utime(path, (past, past))


def test_a_piece_is_taken_over_when_its_process_was_silent_and_not_before(
    tmp_path, elsewhere
):
    mine = claims.take(tmp_path, "a")
    silent(mine.path, claims.STALE - 20)
    assert claims.take(tmp_path, "a") is None
    silent(mine.path, claims.STALE + 20)
    over = claims.take(tmp_path, "a")
    assert over.path.name == "a.2" and not mine.is_held() and over.is_held()
    mine._over.set()
    over.release()


def test_of_those_who_take_over_a_piece_at_once_one_gets_it(tmp_path, elsewhere):
    first = claims.take(tmp_path, "a")
    first._over.set()
    silent(first.path, claims.STALE + 20)
    # What one saw before the other took it over: the claim it makes is there now.
    path = tmp_path / claims.FOLDER / "a.2"
    assert [claims._make(path), claims._make(path)] == [True, False]


def test_a_piece_of_a_process_that_was_killed_here_is_free_at_once(tmp_path):
    code = (
        "import os, signal, sys; from brats_gan.runs import claims;"
        "claims.take(sys.argv[1], 'a'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    with claims.claimed(tmp_path, "a") as mine:
        assert mine.path.name == "a.2"


def test_a_claim_is_made_where_a_network_file_system_loses_the_answer(
    tmp_path, monkeypatch
):
    real = os.link

    def asked_twice(*paths):
        real(*paths)
        real(*paths)  # FileExistsError: the first one has made it

    monkeypatch.setattr(os, "link", asked_twice)
    with claims.claimed(tmp_path, "a") as mine:
        assert mine is not None and mine.is_held()
        assert not claims._make(mine.path)  # another's is no reason


def test_what_a_stopped_process_of_this_machine_is_at_is_left_to_it(
    tmp_path, monkeypatch, caplog
):
    unit = runner.Unit(7, 1, ((2, 7),))
    mine = claims.take(tmp_path, unit.piece)
    mine._over.set()  # no more signs, and its process is there

    def waited(seconds):
        raise TimeoutError

    monkeypatch.setattr(runner.time, "sleep", waited)

    def share_out():
        runner._share_out(
            *(None, None, tmp_path, [unit], lambda only: None, lambda done: [unit])
        )

    with pytest.raises(TimeoutError):  # it may be done soon
        share_out()
    silent(mine.path, claims.STALE + 20)
    with caplog.at_level(logging.WARNING):
        share_out()
    assert f"is left to process {os.getpid()}" in caplog.text


def test_a_process_that_lost_its_piece_ends_before_it_writes_more(tmp_path):
    code = (
        "import sys, time, pathlib; from brats_gan.runs import claims;"
        "claims.BEAT = 0.1; mine = claims.take(sys.argv[1], 'a');"
        "mine.path.with_name('a.2').touch(); time.sleep(60)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == runs.EXIT_START_AGAIN
    assert "another has taken its work over" in done.stderr


def line(experiment, repeat):
    shown = {"mse": 0.1, "dice_index": 0.9, "dice_whole": 0.5, "seconds": 1.0}
    of = {"table": 2, "experiment": experiment, "repeat": repeat, "iterations": 1}
    return {**of, **shown, "made_from": "ours", "sets": {}, "flags": {}}


def test_lines_that_another_writer_took_away_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "alone_in", lambda folder: contextlib.nullcontext())
    origin = tables.Origin({}, frozenset(), "ours", {}, 1)
    path = tmp_path / "results.jsonl"
    for repeat in (1, 2):
        tables.keep(tmp_path / f"row-07/repeat-{repeat}", line(7, repeat))
    real, cut = files.write_atomically, []

    def as_another_writer(where, content):
        if not cut:  # it has read before the second line was there
            cut.append(where)
            content = content.splitlines(keepends=True)[0]
        real(where, content)

    monkeypatch.setattr(files, "write_atomically", as_another_writer)
    lines = tables.gather(path, tmp_path, origin)
    assert cut == [path]
    assert (
        [x["repeat"] for x in lines]
        == [1, 2]
        == [json.loads(each)["repeat"] for each in path.read_text().splitlines()]
    )
    before = path.stat().st_mtime_ns
    assert len(tables.gather(path, tmp_path, origin)) == 2
    assert path.stat().st_mtime_ns == before


def test_lines_of_other_settings_are_not_put_among_others(tmp_path):
    path, folder = tmp_path / "results.jsonl", tmp_path / "row-01/repeat-1"
    of_old = {**line("single", 1), "table": 1, "sets": {"synthetic single": "old"}}
    tables.keep(folder, of_old)
    # The test set is another now: the row is scored on it, into a file of its own.
    origin = tables.Origin({}, frozenset(), "ours", {"synthetic single": "new"}, 1)
    assert tables.gather(path, tmp_path, origin) == [] and not path.exists()
    tables.keep(folder, {**of_old, "sets": {"synthetic single": "new"}})
    assert [x["sets"] for x in tables.gather(path, tmp_path, origin)] == [origin.sets]


def test_a_file_that_another_run_has_filled_is_left_as_it_is(tmp_path):
    path = tmp_path / "results.jsonl"
    theirs = {**line(7, 1), "made_from": "theirs"}
    tables.record(path, theirs)
    before = path.read_bytes()
    tables.keep(tmp_path / "row-07/repeat-1", line(7, 1))
    origin = tables.Origin({}, frozenset(), "ours", {}, 1)
    with pytest.raises(files.DataError, match="other subjects"):
        tables.gather(path, tmp_path, origin)
    assert path.read_bytes() == before


# --- Real processes -------------------------------------------------------------------


def source(root):
    cached = str(root / "cache")
    return data.Source(str(root / "data"), slices=(0, 8), cache_dir=cached)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stages 1 and 2, a step each."""
    root = tmp_path_factory.mktemp("cluster")
    return chains.train(root, source(root), (64, 64, 8))


def contents(folder):
    """Everything but locks, claims, and what names the folder or the time."""
    left_out = {"flags.txt", "dataset_description.json", ".lock"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in left_out
    }


def test_volumes_that_workers_make_and_send_are_those_of_one_process(
    made, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(manifest, "PER_VOLUME", FEW)
    of_runs = str(made / "structural"), str(made / "multimodal")
    given = {"samples": 3 * FEW, "batch_size": 4, "filter": False}
    whole = dataset.Settings(*of_runs, **given)
    dataset.build(whole, source(made), tmp_path / "one")

    def spread(place, make, task, units, folder):
        assert place == cluster.Place(2, None)
        workers._loaded.clear()
        for n, unit in enumerate(reversed(units)):  # in any order
            sees = cluster.run_unit(job(make, folder, n == 0)._replace(task=task), unit)
            cluster._require_made(unit, sees)
            assert bool(sees.contents) == (n > 0)
            cluster._write(folder, sees.contents)
            (folder / ".token").unlink()
            yield unit, sees.result

    monkeypatch.setattr(cluster, "spread", spread)
    with caplog.at_level(logging.INFO):
        two = dataset.Settings(*of_runs, **given, workers=2)
        dataset.build(two, source(made), tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert "--workers" not in (tmp_path / "two/flags.txt").read_text()


def started(script, *flags):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, ROOT / script, "--nocheck", *flags],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended(process):
    said = process.communicate(timeout=500)[0].decode()
    assert process.returncode == 0, said[-3000:]
    return said


@pytest.mark.once
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_data_set_of_workers_that_are_killed_is_that_of_one_process(made, tmp_path):
    def command(name, *more):
        return started(
            "build_dataset.py",
            *(f"--{x}_run={made / x}" for x in ("structural", "multimodal")),
            *(f"--data_dir={made / 'data'}", f"--cache_dir={made / 'cache'}"),
            *("--samples=54", "--nofilter", f"--output_dir={tmp_path / name}", *more),
        )

    ended(command("one"))
    client = command("two", "--workers=2")
    limit = time.monotonic() + 400
    while not list((tmp_path / "two").glob("*/*.gz")):  # a volume is being written
        assert time.monotonic() < limit and client.poll() is None
        time.sleep(0.01)
    for process in rig.workers_of(client)[:1]:
        os.kill(process, signal.SIGKILL)
    client.send_signal(signal.SIGKILL)
    client.communicate()
    said = ended(command("two", "--workers=2"))
    assert "Traceback" not in said and "distributed" not in said
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.once
def test_whole_brains_of_workers_are_those_of_one_process(made, tmp_path):
    def command(name, *more):
        return started(
            "build_dataset.py",
            *(f"--{x}_run={made / x}" for x in ("structural", "multimodal")),
            *(f"--data_dir={made / 'data'}", f"--cache_dir={made / 'cache'}"),
            *("--volumes=3", "--nofilter", f"--output_dir={tmp_path / name}", *more),
        )

    ended(command("one"))
    ended(command("two", "--workers=2"))
    one = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == one
    assert sum(name.endswith(".nii.gz") for name in one) == 3 * 7


@pytest.mark.once
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity")
def test_workers_that_are_started_here_have_a_core_each(tmp_path):
    def cores(task, unit, folder):
        import os
        import time

        time.sleep(0.5)  # so that both get some
        return os.getpid(), sorted(os.sched_getaffinity(0))

    found = cluster.spread(cluster.Place(2), cores, None, range(6), tmp_path)
    of = dict(result for _, result in found)
    mine = sorted(os.sched_getaffinity(0))
    assert [*sorted(of.values())] == [runs.cores_of(k, 2, mine) for k in range(2)]


@pytest.mark.once
def test_a_scheduler_that_is_killed_ends_the_command_which_may_be_started_again(
    tmp_path,
):
    def slow(task, unit, folder):
        import time

        time.sleep(1)

    def dask(name, *more):
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{name}", *more],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )

    said = tmp_path / "scheduler.json"
    local = "--host=127.0.0.1", "--port=0", "--dashboard-address=127.0.0.1:0"
    scheduler = dask("scheduler", *local, f"--scheduler-file={said}")
    limit = time.monotonic() + 60
    while not said.exists() or not said.read_text().endswith("}"):
        assert time.monotonic() < limit
        time.sleep(0.1)
    address = json.loads(said.read_text())["address"]
    worker = dask("worker", address, "--nthreads=1", "--no-nanny", "--no-dashboard")
    try:
        units = cluster.spread(
            cluster.Place(None, address), slow, None, range(60), tmp_path / "out"
        )
        next(units)
        scheduler.kill()
        with pytest.raises(cluster.SchedulerLost, match=f"{address} has ended") as lost:
            list(units)
        assert lost.value.exit_code == runs.EXIT_START_AGAIN
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


@pytest.mark.once
def test_two_processes_fill_a_table_in_one_folder_as_one_does(made, tmp_path):
    def command(name):
        return started(
            "eval_segmentation.py",
            *(f"--data_dir={made / 'data'}", f"--cache_dir={made / 'cache'}"),
            *(f"--run_dir={tmp_path / name}", "--experiment=1,2", "--repeats=1"),
            f"--split={made / 'structural/split.json'}",
            *("--slices=0:8", "--scheme=single", "--iterations=2", "--image_size=32"),
            *("--width=2", "--precision=float32", "--deterministic"),
        )

    def lines(name):
        found = {}
        for each in tables.read(tmp_path / name / "results.jsonl"):
            key = tuple(each[n] for n in tables.KEY)
            assert key not in found
            for each_run in ("seconds", "flags", "revision"):  # when, where, by what
                del each[each_run]
            found[key] = each
        return found

    ended(command("one"))
    for process in [command("two"), command("two")]:
        ended(process)
    assert lines("two") == lines("one") and len(lines("one")) == 2
    assert (tmp_path / "two/table2.csv").exists()
