"""What is refused before anything is written, and what is then said."""

import contextlib
import json
import os
from pathlib import Path

import pytest
import tensorflow as tf

from brats_gan import data, files, io, runs, synthetic_dataset, trained_models
from brats_gan.data import records
from brats_gan.experiments import tables
from brats_gan.stages import (
    dataset,
    ingredients,
    multimodal,
    segmentation,
    structural,
)
from tests import nifti, test_resume
from tests.test_tables import LINES

TINY = {"image_size": 32, "width": 2, "batch_size": 2, "precision": "float32"}
RANGE = (1, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subjects")
    for number in range(2):
        nifti.write_subject(folder, f"s{number}", (160, 160, 6), number, labels=(2, 4))
    return folder


def stage_1(folder, run_dir, slices=RANGE, **more):
    settings = structural.Settings(**TINY, **{"steps": 1, "flow_steps": 0, **more})
    structural.train(settings, data.Source(folder, slices=slices), run_dir)


def stage_2(folder, run_dir, slices=RANGE, **more):
    settings = multimodal.Settings(**TINY, **{"steps": 1, **more})
    multimodal.train(settings, data.Source(folder, slices=slices), run_dir)


def stage_4(folder, run_dir, slices=RANGE, **more):
    settings = segmentation.Settings(**TINY, **{"iterations": 1, **more})
    segmentation.score(settings, data.Source(folder, slices=slices), run_dir)


STAGES = [stage_1, stage_2, stage_4]


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_range_that_the_data_does_not_have_leaves_no_folder(stage, folder, tmp_path):
    with pytest.raises(files.DataError, match="slices"):
        stage(folder, tmp_path / "run", (80, 90))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("stage", STAGES)
def test_weights_that_are_not_there_leave_no_folder(stage, folder, tmp_path):
    with pytest.raises(runs.RunError, match="neither a run nor a folder of weights"):
        stage(folder, tmp_path / "run", init_from=str(tmp_path / "none"))
    assert not [*tmp_path.iterdir()]


def test_passes_that_are_no_whole_step_leave_no_folder(folder, tmp_path):
    with pytest.raises(runs.RunError, match="are no whole step; give more, or --steps"):
        stage_1(folder, tmp_path / "run", steps=None, epochs=0.01)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("run_dir", "relation"),
    [("data/run", "is inside"), ("data", "is the same as"), (".", "holds")],
)
def test_a_run_is_apart_from_the_data_that_it_reads(stage, run_dir, relation, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(files.DataError, match=f"--run_dir .* {relation} --data_dir"):
        stage(tmp_path / "data", tmp_path / run_dir)
    assert [*tmp_path.rglob("*")] == [tmp_path / "data"]


def test_a_link_into_the_data_is_seen_through(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(files.DataError, match="--output_dir .* is inside --data_dir"):
        files.require_apart(
            {"output_dir": tmp_path / "link/x"}, {"data_dir": tmp_path / "data"}
        )


def test_a_run_within_another_run_is_refused(folder, tmp_path):
    (tmp_path / "flags.txt").write_text("# train_structural.py\n")
    with pytest.raises(runs.RunError, match="is inside the run"):
        stage_1(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"--steps=3\n"])
def test_flags_txt_that_is_empty_or_binary_is_named(content, folder, tmp_path):
    (tmp_path / "flags.txt").write_bytes(content)
    with pytest.raises(runs.RunError, match="flags.txt is damaged"):
        stage_1(folder, tmp_path)
    assert contents(tmp_path) == {tmp_path / "flags.txt": content}


def half_a_line(path):
    path.write_text("".join(json.dumps(each) + "\n" for each in LINES)[:-20])
    return "results.jsonl: line 3 is cut off"


def without_a_score(path):
    path.write_text('{"table": 2, "experiment": 1, "repeat": 1, "dice_index": 1}\n')
    return "line 1 has no mse, dice_whole, iterations, seconds"


def binary(path):
    path.write_bytes(b"\xff\xfe")
    return "results.jsonl: not text"


def a_folder(path):
    path.mkdir()
    return "results.jsonl: cannot be read"


@pytest.mark.parametrize("spoil", [half_a_line, without_a_score, binary, a_folder])
@pytest.mark.parametrize("experiment", [(), ("1",)])
def test_results_that_no_line_can_be_added_to_are_found_before_the_first_step(
    spoil, experiment, folder, tmp_path
):
    path = tmp_path / "results.jsonl"
    said = spoil(path)
    before = contents(tmp_path)
    with pytest.raises(files.DataError, match=said):
        stage_4(folder, tmp_path / "run", experiment=experiment, results=str(path))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("results", ["thesis.txt/results.jsonl", "data/results.jsonl"])
def test_results_that_cannot_be_written_are_found_before_the_first_step(
    results, tmp_path
):
    (tmp_path / "thesis.txt").write_text("precious")
    (tmp_path / "data").mkdir()
    before = contents(tmp_path)
    with pytest.raises(files.DataError, match="cannot be written|is inside --data_dir"):
        where = str(tmp_path / results)
        stage_4(tmp_path / "data", tmp_path / "run", results=where)
    assert contents(tmp_path) == before


def test_results_that_are_whole_are_read_as_they_are(tmp_path):
    path = tmp_path / "results.jsonl"
    for each in LINES:
        tables.record(path, each)
    assert tables.read(path) == LINES


@contextlib.contextmanager
def closed(folder):
    """A folder as another user's is under umask 077; root becomes nobody."""
    user = os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users as POSIX has them")
def test_a_folder_of_another_user_is_named_with_its_permission(tmp_path):
    with closed(tmp_path):
        with pytest.raises(
            files.DataError, match="Permission denied.*You may not write there"
        ) as error:
            files.require_writable(tmp_path / "run")
        assert "room" not in str(error.value)
        with pytest.raises(files.DataError, match="Permission.*may not write there"):
            files.write_atomically(tmp_path / "a.json", b"{}")
        with pytest.raises(runs.RunError, match="cannot be read: Perm.*may not read"):
            runs.load_export(tmp_path, "net")
        with pytest.raises(files.DataError, match="cannot be read.*You may not read"):
            tables.read(tmp_path / "results.jsonl")


def test_a_path_that_is_not_utf_8_is_named(tmp_path):
    with pytest.raises(files.DataError, match=r"udcff.*is not UTF-8"):
        files.require_writable(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))


def test_a_side_of_a_split_without_subjects_is_no_blank_slice(folder, tmp_path):
    with pytest.raises(files.DataError, match="no subject is left to read.*--split"):
        data.Slices([], 32, RANGE, cache_dir=tmp_path)
    path = tmp_path / "split.json"
    data.save_split(path, {"seed": 0, "train": [], "test": ["s0"]})
    with pytest.raises(files.DataError, match="split.json: names no subject to train"):
        data.find_split(folder, tmp_path / "run", given=path, slices=RANGE)


# --- Exports --------------------------------------------------------------------------


@pytest.fixture
def trained(folder, tmp_path):
    """Runs of stages 1 and 2: their exports, of stand-ins for the networks."""
    size = test_resume.SIZE
    described = {**data.preprocessing(size, RANGE), "training_subjects": ["s0"]}
    for path, module, more in (
        ("structural/export/structure", test_resume.Maps(), {"code_dim": 4}),
        ("multimodal/export/generator", test_resume.Generator(), {}),
        ("multimodal/export/segmentor", test_resume.Segmentor(), {"scheme": "single"}),
    ):
        tf.saved_model.save(module, str(tmp_path / path))
        files.write_json(tmp_path / f"{path}.json", {**described, "beta": 0.07, **more})
    return tmp_path


def load(root):
    stages = [str(root / name) for name in ("structural", "multimodal", "multimodal")]
    return trained_models.load_models(*stages)


def test_exports_that_are_as_they_say_are_loaded(trained):
    models, described, scheme, seen = load(trained)
    assert (models.code_dim, scheme, seen) == (4, "single", ["s0"])


NAMES = (
    "structural/export/structure",
    "multimodal/export/generator",
    "multimodal/export/segmentor",
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((NAMES[0], key) for key in ("image_size", "slices", "beta", "code_dim")),
        *((name, "training_subjects") for name in NAMES),
        (NAMES[1], "image_size"),
        (NAMES[2], "scheme"),
    ],
)
def test_a_description_without_a_key_is_named(trained, name, key):
    path = trained / f"{name}.json"
    described = files.read_json(path)
    del described[key]
    files.write_json(path, described)
    with pytest.raises(runs.RunError, match=f"{path.name} does not say {key}"):
        load(trained)


@pytest.mark.parametrize("content", ["[1]", "{", "null"])
def test_a_description_that_is_no_object_is_named(trained, content):
    (trained / f"{NAMES[0]}.json").write_text(content)
    with pytest.raises(runs.RunError, match="structure.json is damaged"):
        load(trained)


def test_a_style_that_cannot_be_drawn_from_is_named(trained):
    path = trained / f"{NAMES[1]}.json"
    files.write_json(path, {**files.read_json(path), "style": {"mean": [1]}})
    with pytest.raises(runs.RunError, match="generator.json says no style"):
        load(trained)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_of_another_size_is_named(trained, name):
    path = trained / f"{name}.json"
    files.write_json(path, {**files.read_json(path), "image_size": 96})
    with pytest.raises(runs.RunError, match=f"{Path(name).name} is not the export"):
        load(trained)


def test_an_export_in_the_place_of_another_is_named(trained):
    (trained / NAMES[1]).rename(trained / "away")
    (trained / NAMES[2]).rename(trained / NAMES[1])
    with pytest.raises(runs.RunError, match="generator is not the export .*generate"):
        load(trained)


@pytest.mark.parametrize("left", [0, 10, 0.5])
@pytest.mark.parametrize(
    "part", ["saved_model.pb", "variables/variables.index", "variables/variables.data"]
)
@pytest.mark.parametrize(
    ("digests", "message"),
    [(True, "{}.* is not what was written"), (False, "net is damaged")],
)
def test_an_export_that_is_cut_off_is_named(tmp_path, part, left, digests, message):
    net = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(300)])
    spec = tf.TensorSpec([None, 2], tf.float32, name="x")
    runs.export(tmp_path, "net", [net], {"a": (lambda x: {"y": net(x)}, [spec])}, {})
    (path,) = (tmp_path / "export/net").glob(f"{part}*")
    size = path.stat().st_size
    os.truncate(path, int(left * size) if left < 1 else left)
    described = tmp_path / "export/net.json"
    if not digests:  # of a version that wrote none
        whole = json.loads(described.read_text())
        kept = {k: v for k, v in whole.items() if k not in ("files", "digest")}
        described.write_text(json.dumps(kept))
    with pytest.raises(runs.RunError, match=message.format(part)):
        runs.load_export(tmp_path, "net")


def test_a_data_set_of_runs_that_are_not_there_leaves_no_folder(folder, tmp_path):
    settings = dataset.Settings(str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(runs.RunError, match="has not finished training"):
        dataset.build(settings, data.Source(folder), tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_a_data_set_within_the_data_is_refused(folder, trained):
    root = trained
    settings = dataset.Settings(str(root / "structural"), str(root / "multimodal"))
    before = contents(folder)
    with pytest.raises(files.DataError, match="--output_dir .* is inside --data_dir"):
        dataset.build(settings, data.Source(folder), folder / "out")
    assert contents(folder) == before


def test_a_held_out_subject_of_the_report_is_read_before_the_first_sample(
    folder, trained
):
    (trained / "other").mkdir()
    for number in range(2):
        where = trained / "other"
        nifti.write_subject(where, f"s{number}", (160, 160, 6), number, labels=(2, 4))
    (trained / "other/s1/s1_seg.nii.gz").unlink()
    given = trained / "split.json"
    data.save_split(given, {"seed": 0, "train": ["s0"], "test": ["s1"]})
    root = trained
    settings = dataset.Settings(
        str(root / "structural"), str(root / "multimodal"), nearest_report=True
    )
    source = data.Source(root / "other", split=str(given), check=False)
    with pytest.raises(files.DataError, match="s1 has no label file"):
        dataset.build(settings, source, root / "out")
    assert not (root / "out").exists()


def test_another_visit_of_whom_the_models_have_seen_is_not_held_out_by_stage_3(
    tmp_path,
):
    for number, name in enumerate(("RHUH-0001_1", "RHUH-0002_0")):
        nifti.write_subject(tmp_path / "data", name, (160, 160, 6), number)
    given = tmp_path / "mine.json"
    data.save_split(
        given, {"seed": 0, "train": ["RHUH-0002_0"], "test": ["RHUH-0001_1"]}
    )
    settings = dataset.Settings(str(tmp_path / "a"), str(tmp_path / "b"))
    source = data.Source(str(tmp_path / "data"), split=str(given))
    of_maps = data.preprocessing(32, RANGE)
    seen = ["RHUH-0001_0", "RHUH-0002_0"]
    message = r"holds out RHUH-0001_1 \(of the patient of RHUH-0001_0\), which the mod"
    with pytest.raises(runs.RunError, match=message):
        ingredients.find_labels(settings, source, tmp_path / "out", of_maps, seen)


def record_of(said):
    """A record that says this, and else nothing."""
    return {"image_size": 32, "slices": [0, 2], "subjects": {}, **said}


@pytest.mark.parametrize(
    ("held_out", "pattern", "of_set"),
    [
        ("RHUH-0001_1", None, None),
        ("a.2", r"(.)\.", None),
        ("a.2", None, r"(.)\."),
    ],
)
def test_another_visit_of_whom_a_data_set_has_seen_is_not_scored_on(
    held_out, pattern, of_set, tmp_path
):
    split = {"train": ["RHUH-0001_0", "a.1"], "test": []}
    inputs = record_of({"split": {**split, "patient_pattern": of_set}})
    synthetic_dataset.write_description(
        tmp_path, {"TrainingSubjects": split["train"], "Inputs": inputs}
    )
    subject = io.Subject(held_out, "brats2018", {}, None, patient_pattern=pattern)
    with pytest.raises(
        runs.RunError, match=rf"{held_out} \(of the patient of .*--split"
    ):
        synthetic_dataset.verified_subjects(tmp_path, [subject])


@pytest.mark.parametrize("key", ["Inputs", "ModelInputs", "SeenInputs"])
def test_who_a_data_set_has_seen_under_another_name_is_not_scored_on(key, tmp_path):
    paths = nifti.write_subject(tmp_path / "data", "renamed", (8, 8, 2))
    (subject,) = io.find_subjects(tmp_path / "data")
    digests = {"t1": records.digest(paths["t1"])}
    seen = {"files": digests, "images": None, "label": None}
    split = {"train": ["a"], "test": []}
    record = record_of({"split": split, "subjects": {"a": seen}})
    described = {"TrainingSubjects": ["a"]}
    described[key] = [record] if key == "SeenInputs" else record
    synthetic_dataset.write_description(tmp_path / "set", described)
    message = "renamed, which is held out, is the same subject as a, which the data set"
    with pytest.raises(runs.RunError, match=message):
        synthetic_dataset.verified_subjects(tmp_path / "set", [subject])


def test_all_that_the_models_began_from_is_known_to_stage_3(tmp_path):
    records_of = {}
    for number, name in enumerate(("structure", "generator", "segmentor")):
        export = tmp_path / f"{name}/export/{name}"
        export.mkdir(parents=True)
        own, before = (
            record_of({"split": {"train": [f"{of}{number}"], "test": []}})
            for of in "ab"
        )
        described = {"inputs": own, "initialised_from": {"inputs": [before]}}
        files.write_json(export.with_suffix(".json"), files.sealed(described))
        records_of[str(tmp_path / name)] = [own, before]
    found = trained_models.records_of(*records_of)
    assert found == [(run, each) for run in records_of for each in records_of[run]]
