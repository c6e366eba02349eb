"""Files of a run that were changed, and files that are not ours."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    figures,
    files,
    runs,
    spec,
    structural,
    synthetic_dataset,
    weights,
)
from brats_gan.experiments import tables
from brats_gan.stages import inputs
from tests.test_runs import checkpoints, logged, tiny, train

BUILD = {"image_size": 32, "width": 2}


def change(path, old, new):
    content = path.read_bytes()
    assert content.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


def test_a_seal_holds_for_all_that_json_can_say_and_for_what_never_had_one():
    value = {"b": {10: (1, 2.5), 9: None}, "a": "é"}
    whole = json.loads(json.dumps(files.sealed(value)))
    assert files.unsealed(whole) == {"b": {"10": [1, 2.5], "9": None}, "a": "é"}
    assert files.sealed(whole) == whole
    assert files.unsealed({**whole, "a": "e"}) is None
    assert files.unsealed({**whole, "c": 1}) is None
    assert files.unsealed({"a": 1}) == {"a": 1}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run with the export `net`."""
    run, net = tmp_path_factory.mktemp("run"), tiny()
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    answer = {"answer": (lambda x: {"y": net(x)}, [spec])}
    runs.export(run, "net", [net], answer, {"beta": 0.25})
    runs.load_export(run, "net")
    return run


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("net.json", b"0.25", b"0.75", "net.json was changed since it was written"),
        ("net/saved_model.pb", b"answer", b"answes", "saved_model.pb is not what was"),
        ("net/fingerprint.pb", b"\x08", b"\x10", "fingerprint.pb is not what was"),
    ],
)
def test_an_export_that_was_changed_is_refused_with_the_file(
    exported, tmp_path, name, old, new, said
):
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    change(run / "export" / name, old, new)
    with pytest.raises(runs.RunError, match=said) as error:
        runs.load_export(run, "net")
    assert "start the command of its run again" in str(error.value)


def test_an_export_in_the_place_of_another_is_refused(exported, tmp_path):
    run, net = tmp_path / "run", tiny()
    shutil.copytree(exported, run)
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    answer = {"answer": (lambda x: {"y": net(x)}, [spec])}
    runs.export(run, "other", [net], answer, {"beta": 0.25})
    shutil.rmtree(run / "export/net")
    (run / "export/other").rename(run / "export/net")
    with pytest.raises(runs.RunError, match="is not what was written there"):
        runs.load_export(run, "net")


def test_a_fingerprint_is_that_of_exports_without_digests(exported, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    path = run / "export/net.json"
    described = json.loads(path.read_text())
    files.write_json(
        path, {k: v for k, v in described.items() if k not in ("files", "digest")}
    )
    before = runs.export_fingerprint(exported, "net")
    assert runs.export_fingerprint(run, "net") == before
    runs.load_export(run, "net")


def test_weights_whose_description_was_changed_are_refused(tmp_path):
    nets = structural.build(**BUILD)
    description = {"stage": "structural", "build": BUILD, "steps": 70}
    arrays = weights.arrays_of(nets)
    weights.write(tmp_path / "w", weights.Stored("x", description, arrays))
    assert weights.read(tmp_path / "w").description["steps"] == 70
    change(tmp_path / "w/weights.json", b'"steps": 70', b'"steps": 90')
    with pytest.raises(runs.RunError, match="weights.json was changed since it was"):
        weights.read(tmp_path / "w")


def test_what_a_run_began_with_cannot_be_changed_in_silence(tmp_path):
    began = {"stage": "multimodal", "build": {}, "first_steps": 100, "inputs": "0f"}
    weights.record(tmp_path, began)
    assert weights.begun(tmp_path) == began
    change(tmp_path / "networks.json", b"100", b"900")
    with pytest.raises(runs.RunError, match="networks.json was changed since"):
        weights.begun(tmp_path)


RUBBISH = (
    b"\xff\xfe\x00",
    b"5\n",
    b'{"seconds": 1}\n',
    b'{"step": "2", "seconds": 1, "generator": 2}\n',
    b'{"step": 2, "seconds": 1, "generator": [2]}\n',
    b"[" * 100_000,
    b'{"step": 6, "gen',
)


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_lines_of_losses_that_are_none_are_passed_over(tmp_path, rubbish):
    train(tmp_path, 5)
    path = tmp_path / "losses.jsonl"
    seconds = runs.seconds_logged(tmp_path)
    before = logged(tmp_path)
    path.write_bytes(path.read_bytes() + rubbish)
    assert runs.seconds_logged(tmp_path) == seconds
    figures.loss_curves(path, tmp_path / "losses.png")
    train(tmp_path, 8)
    after = logged(tmp_path)
    assert after[:5] == before and [step for step, _ in after] == [*range(1, 9)]


def test_a_run_goes_on_without_its_losses(tmp_path):
    train(tmp_path, 5)
    (tmp_path / "losses.jsonl").unlink()
    assert runs.seconds_logged(tmp_path) == 0
    figures.loss_curves(tmp_path / "losses.jsonl", tmp_path / "losses.png")
    train(tmp_path, 8)
    assert [step for step, _ in logged(tmp_path)] == [6, 7, 8]


@pytest.mark.parametrize("name", ["ckpt-best", "ckpt-", "ckpt-007", "ckpt-٣"])
def test_checkpoints_of_other_names_are_not_ours(tmp_path, name):
    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "run", 5)
    (tmp_path / f"run/checkpoints/{name}.index").write_bytes(b"x")
    np.testing.assert_array_equal(train(tmp_path / "run", 8), whole)
    assert "ckpt-8" in checkpoints(tmp_path / "run")


def test_files_among_the_events_that_hold_none_do_no_harm(tmp_path):
    train(tmp_path, 5)
    events = tmp_path / "tensorboard"
    (events / "a.tfevents.0").mkdir()
    (events / "b.tfevents.0").symlink_to("nowhere")
    with tf.io.TFRecordWriter(str(events / "c.tfevents.0")) as writer:
        writer.write(b"\xff\xff no event")
    train(tmp_path, 8)
    assert [step for step, _ in logged(tmp_path)] == [*range(1, 9)]


def test_a_description_of_a_data_set_that_was_changed_is_refused(tmp_path):
    summary = {"TrainingSubjects": ["s0", "s1"], "RealData": True, "Labels": {0: "a"}}
    synthetic_dataset.write_description(tmp_path, summary)
    assert not synthetic_dataset.made_without_data(tmp_path)
    change(tmp_path / "dataset_description.json", b'"s1"', b'"s2"')
    for read in (
        synthetic_dataset.read_description,
        synthetic_dataset.made_without_data,
        lambda folder: synthetic_dataset.verified_subjects(folder, []),
        lambda folder: inputs.of_data_sets([folder], "Inputs"),
    ):
        with pytest.raises(runs.RunError, match="description.json was changed since"):
            read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in a file system")
@pytest.mark.parametrize(
    "read", [files.read_json, files.read_lines, spec.parse, tables.read]
)
def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((files.DataError, ValueError), match="a pipe or a device"):
        read(tmp_path / "pipe")


def test_an_error_in_training_is_said_below_the_bar(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise runs.RunError("no room")

    monkeypatch.setattr(runs.training, "save", full)
    with pytest.raises(runs.RunError, match="no room"):
        train(tmp_path, 3, checkpoint_seconds=0)
    assert capsys.readouterr().out.endswith("\n")
