"""The stages as functions: called from Python, without a flag, and by the scripts."""

import ast
import concurrent.futures
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brats_gan import data, runs, spec, weights
from brats_gan.stages import (
    dataset,
    ingredients,
    multimodal,
    segmentation,
    structural,
)
from tests import nifti

ROOT = Path(__file__).parents[1]
STAGES = {
    "train_structural": structural,
    "train_multimodal": multimodal,
    "build_dataset": dataset,
    "eval_segmentation": segmentation,
}

# All four stages in one process, as a notebook would have them.
CALLS = """
import sys
from brats_gan import data
from brats_gan.stages import dataset, multimodal, segmentation, structural

root = sys.argv[1]
source = data.Source(root + "/data", slices=(1, 5))
tiny = {"image_size": 32, "width": 2, "batch_size": 2, "precision": "float32"}
first = structural.Settings(**tiny, steps=2, code_channels=1, weights={"mask": 2.5})
print(structural.train(first, source, root + "/structural"))
second = multimodal.Settings(**tiny, steps=2, first_phase=1.0, scheme="single")
print(multimodal.train(second, source, root + "/multimodal"))
third = dataset.Settings(
    root + "/structural", root + "/multimodal", samples=3, max_tries=2, batch_size=4
)
print(dataset.build(third, source, root + "/synthetic").summary["Samples"])
fourth = segmentation.Settings(
    **tiny, iterations=2, synthetic_dir=root + "/synthetic", scheme="four_channel"
)
print(segmentation.score(fourth, source, root + "/segmentation").line["train_on"])
"""
LEFT = {
    "structural": ("maps.png", "export/structure.json", "weights/weights.json"),
    "multimodal": ("generated.png", "export/generator.json", "weights/DC.npz"),
    "synthetic": ("samples.png", "manifest.csv", "dataset_description.json"),
    "segmentation": ("segmentation.png", "export/segmentor.json", "losses.jsonl"),
}


def python(*arguments, code=0):
    """What a process of Python says; it must end well, or with the code given."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """The folder of the four calls, and what they printed last."""
    root = tmp_path_factory.mktemp("stages")
    for number in range(3):
        nifti.write_subject(root / "data", f"s{number}", (160, 160, 6), number)
    return root, python("-c", CALLS, root)


@pytest.mark.parametrize("name", LEFT)
def test_a_stage_that_is_called_without_flags_leaves_what_its_script_does(called, name):
    root, _ = called
    for path in (*LEFT[name], "flags.txt", "split.json"):
        assert (root / name / path).exists(), path


def test_the_functions_return_what_was_made(called):
    root, said = called
    lines = said.splitlines()
    assert {str(root / "structural"), str(root / "multimodal"), "3", "both"} <= {*lines}


def test_exports_name_the_script_and_the_settings_of_a_call(called):
    root, _ = called
    described = json.loads((root / "structural/export/structure.json").read_text())
    assert described["script"] == "train_structural.py"
    assert described["flags"]["weight_mask"] == "--weight_mask=2.5"
    assert described["flags"]["slices"] == "--slices=1:5"
    line = json.loads((root / "results.jsonl").read_text().splitlines()[0])
    assert line["flags"]["scheme"] == "--scheme=four_channel"


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("name", ["structural", "multimodal"])
def test_generators_are_exported_as_averages_and_go_on_from_their_last_weights(
    called, tmp_path, name, share
):
    root, _ = called
    tiny = {"image_size": 32, "width": 2, "batch_size": 2, "precision": "float32"}
    settings = {
        "structural": structural.Settings(**tiny, steps=4, ema=share, flow_steps=0),
        "multimodal": multimodal.Settings(
            **tiny, steps=4, ema=share, first_phase=0.5, scheme="single"
        ),
    }[name]
    source = data.Source(str(root / "data"), slices=(1, 5))
    run = STAGES[f"train_{name}"].train(settings, source, tmp_path / "run")
    exported = weights.find(run, name).arrays
    shutil.rmtree(run / "weights")
    last = weights.find(run, name).arrays  # of the checkpoint
    averaged = {
        net
        for net in exported
        if any((exported[net][k] != last[net][k]).any() for k in exported[net])
    }
    of_generator = STAGES[f"train_{name}"].__dict__[name].GENERATOR_SIDE
    assert averaged == (set(of_generator) if share else set())


def test_discriminators_learn_at_their_own_rate(called, tmp_path, monkeypatch):
    rates = []

    def adam(variables, peak, *of_schedule, **more):
        rates.append(peak)
        return made(variables, peak, *of_schedule, **more)

    made = runs.adam
    monkeypatch.setattr(runs, "adam", adam)
    settings = multimodal.Settings(
        **{"image_size": 32, "width": 2, "steps": 1, "first_phase": 0.0},
        **{"learning_rate": 1e-3, "discriminator_rate": 4.0, "scheme": "single"},
        precision="float32",
    )
    source = data.Source(called[0] / "data", slices=(1, 5))
    multimodal.train(settings, source, tmp_path / "run")
    # Of the generator, of D, of the segmentors.
    assert rates == pytest.approx([1e-3, 4e-3, 1e-3])


def test_every_stage_fixes_what_it_is_made_from_and_says_so_in_what_it_leaves(called):
    root, _ = called
    for name, path, key in (
        ("structural", "export/structure.json", "inputs"),
        ("multimodal", "export/generator.json", "inputs"),
        ("synthetic", "dataset_description.json", "Inputs"),
        ("segmentation", "export/segmentor.json", "inputs"),
    ):
        fixed = json.loads((root / name / "inputs.json").read_text())
        assert sorted(fixed["subjects"]) == ["s0", "s1", "s2"]
        said = json.loads((root / name / path).read_text())[key]
        assert {k: said[k] for k in ("split", "subjects")} == {
            k: fixed[k] for k in ("split", "subjects")
        }
    exports = json.loads((root / "synthetic/inputs.json").read_text())["exports"]
    assert sorted(exports) == ["generator", "segmentor", "structure"]
    said = json.loads((root / "segmentation/export/segmentor.json").read_text())
    models = json.loads((root / "structural/export/structure.json").read_text())
    assert models["inputs"] in said["synthetic_from"]["inputs"]
    assert said["synthetic_from"]["training_subjects"] == models["training_subjects"]
    assert weights.inherited(weights.read(root / "segmentation/weights").description)
    sets = json.loads((root / "segmentation/inputs.json").read_text())["sets"]
    assert [*sets["synthetic"]] == ["synth-00001"]


def test_a_finished_run_is_not_written_anew_on_other_files_of_the_same_names(
    called, tmp_path
):
    root, _ = called
    shutil.copytree(root / "data", tmp_path / "data")
    fixed = json.loads((root / "structural/inputs.json").read_text())
    trained, held_out = fixed["split"]["train"][0], fixed["split"]["test"][0]
    for role in (*spec.BRATS.modalities, "seg"):
        one = tmp_path / f"data/{trained}/{trained}_{role}.nii.gz"
        shutil.copy(root / f"data/{held_out}/{held_out}_{role}.nii.gz", one)
    before = (root / "structural/export/structure.json").read_bytes()
    flags = f"--flagfile={root / 'structural/flags.txt'}"
    said = python(
        "train_structural.py", flags, f"--data_dir={tmp_path / 'data'}", "--nocheck",
        code=runs.EXIT_BAD_INPUT,
    )  # fmt: skip
    named = tmp_path / f"data/{trained}/{trained}_t1.nii.gz"
    assert f"{named}: t1 of {trained} is not what it was for" in said
    assert (root / "structural/export/structure.json").read_bytes() == before


def test_a_run_that_was_begun_from_python_is_continued_by_the_script(called):
    root, _ = called
    flags = root / "structural/flags.txt"
    before = (root / "structural/losses.jsonl").read_text()
    python("train_structural.py", f"--flagfile={flags}", "--steps=3")
    assert "--steps=3" in flags.read_text().splitlines()
    after = (root / "structural/losses.jsonl").read_text()
    assert after.startswith(before) and len(after) > len(before)


# The command of a script by its flags' defaults, written without TensorFlow.
DEFAULTS = """
import json, runpy, sys
from absl import flags
from brats_gan import runs

runs.main = lambda main: None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
flags.FLAGS(sys.argv)
print(json.dumps(runs.command()))
"""


@pytest.mark.parametrize("script", STAGES)
def test_settings_have_the_defaults_of_the_flags_and_their_names(script):
    stage = STAGES[script]
    if script == "build_dataset":
        required = {"structural_run": "x", "multimodal_run": "y"}
        places = {"output_dir": "z"}
        without = ("split_seed", "held_out", "slices")
        source = data.Source(None)
    else:
        required, places, without = {}, {"run_dir": "z"}, ()
        source = data.Source("x")
    given = {**required, **places}
    if source.data_dir:
        given["data_dir"] = source.data_dir
    given = [f"--{name}={value}" for name, value in given.items()]
    by_flags = json.loads(python("-c", DEFAULTS, f"{script}.py", *given))
    settings = stage.Settings(**required)
    command = runs.command_by(stage.SCRIPT, settings, source, without=without, **places)
    assert by_flags == [command.script, command.flags]


@pytest.mark.parametrize(
    ("table", "experiment", "asked"),
    [
        ("2", "1,6,25", [(2, 1), (2, 6), (2, 25)]),
        ("", "25,6", [(2, 6), (2, 25)]),
        ("2", "", [(2, row) for row in range(1, 26)]),
        ("2", "all", [(2, row) for row in range(1, 26)]),
        ("1,2", "6", [(2, 6), (1, "real")]),
    ],
)
def test_rows_that_are_named_are_those_of_their_table_that_run(
    table, experiment, asked
):
    table, experiment = (
        tuple(filter(None, each.split(","))) for each in (table, experiment)
    )
    settings = segmentation.Settings(table=table, experiment=experiment)
    assert segmentation.wanted(settings) == asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train_on": "synthetic"}, "--train_on=synthetic needs --synthetic_dir"),
        ({"table": ("1",), "synthetic_dirs": ("single:",)}, "single names no folder"),
    ],
)
def test_synthetic_data_that_is_not_named_is_asked_for(given, said, tmp_path):
    settings = segmentation.Settings(precision="float32", image_size=32, **given)
    source = data.Source(tmp_path)
    with pytest.raises(runs.RunError, match=said):
        segmentation.score(settings, source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_cannot_be_changed():
    for settings in (structural.Settings(), data.Source("x")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.slices = settings.width = 3


@pytest.mark.parametrize("stage", [structural, multimodal, segmentation])
def test_a_run_that_is_not_to_be_deterministic_is_as_one_without_the_flag(stage):
    assert stage.Settings(deterministic=False) == stage.Settings()
    assert stage.Settings(deterministic=True).deterministic is True


def test_settings_from_python_have_the_digests_of_those_that_flags_give():
    given = {"mae_threshold": 1, "dice_threshold": np.float32(0.5), "lesion_free": 0}
    python = dataset.Settings(Path("a"), "b", samples=np.int64(9), **given)
    flags = {"mae_threshold": 1.0, "dice_threshold": 0.5, "lesion_free": 0.0}
    script = dataset.Settings("a", "b", samples=9, **flags)
    assert repr(python) == repr(script)
    assert ingredients.digest_of(python, {}) == ingredients.digest_of(script, {})

    one, other = (
        segmentation.Settings(dropout=zero, final_rate=unit, width=width)
        for zero, unit, width in ((0, 1, np.int32(8)), (0.0, 1.0, 8))
    )
    digests = {
        runs.checkpoints.digest_of({"training": x.training(spec.BRATS)})
        for x in (one, other)
    }
    assert len(digests) == 1


def test_switches_and_whole_numbers_from_python_are_those_that_flags_give():
    python = segmentation.Settings(leaky_relu=0, enhanced=1, iterations=9.0)
    script = segmentation.Settings(leaky_relu=False, enhanced=True, iterations=9)
    assert repr(python) == repr(script)
    with pytest.raises(runs.RunError, match="width=2.5: is not a whole number"):
        segmentation.Settings(width=2.5)


def test_a_source_from_python_is_written_as_that_which_flags_give():
    numbers = {"split_seed": np.int64(3), "held_out": np.float32(0.5), "check": 0}
    python = data.Source("a", slices=tuple(np.arange(1, 3)), **numbers)
    script = data.Source("a", slices=(1, 2), split_seed=3, held_out=0.5, check=False)
    assert repr(python) == repr(script)
    flags = [runs.command_by("a.py", each).flags for each in (python, script)]
    assert flags[0] == flags[1]
    json.dumps([python.slices, python.split_seed])


def test_a_weight_of_no_loss_is_an_error_that_names_the_losses():
    with pytest.raises(runs.RunError, match="maks: no such loss.*mask"):
        structural.Settings(weights={"maks": 1.0})


def test_weights_that_are_not_given_are_the_defaults():
    weights = structural.Settings(weights={"mask": 3}).weights
    assert weights == {**structural.Settings().weights, "mask": 3.0}


def test_a_command_has_lines_as_flags_have_them():
    @dataclasses.dataclass(frozen=True)
    class Chosen:
        rate: float = 1
        slices: tuple = (1, 5)
        table: tuple = ("1", "2")
        dirs: tuple = ("a,b", "c")
        check: bool = False
        split: str | None = None

    made = runs.command_by("s.py", Chosen(), without=("rate",), run_dir=Path("r"))
    assert made == (
        "s.py",
        {
            "run_dir": "--run_dir=r",
            "slices": "--slices=1:5",
            "table": "--table=1,2",
            "dirs": '--dirs="a,b",c',
            "check": "--nocheck",
        },
    )


def test_a_deterministic_run_asks_for_a_process_that_can_be_one(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    with pytest.raises(runs.RunError, match="TF_ENABLE_ONEDNN_OPTS=0"):
        runs.set_up("float32", 0, True, begin_again=False)


def test_a_loop_in_a_thread_leaves_signals_to_the_main_one():
    before = signal.getsignal(signal.SIGTERM)

    def hold():
        with runs.process.signals_held() as received:
            return received, signal.getsignal(signal.SIGTERM)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(hold).result() == ([], before)


def readers(path):
    """Names of the functions, "" outside of them, that read `.value` of a flag.

    A flag is what a name in capitals after an underscore stands for, or whatever is
    called flag.
    """
    found = set()

    def visit(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = function or node.name
        if isinstance(node, ast.Attribute) and node.attr == "value":
            found.add(function)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), "")
    return found


@pytest.mark.parametrize("script", [*STAGES, "prepare_data"])
def test_flags_are_read_in_main_and_nowhere_else(script):
    assert readers(ROOT / f"{script}.py") == {"main"}


def test_a_flag_that_is_read_elsewhere_is_seen(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("def draw():\n    return _SIZE.value\nNUMBER = _SIZE.value\n")
    assert readers(path) == {"draw", ""}
