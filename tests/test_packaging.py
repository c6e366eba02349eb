"""The command brats-gan, and the package as pip installs it, used from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import brats_gan
from brats_gan import commands, runs, shipped
from tests import nifti

ROOT = Path(__file__).parents[1]
# As a console script calls it; `given` are its arguments.
COMMAND = [sys.executable, "-m", "brats_gan.commands"]


def run(command, *given, code=0, cwd=ROOT, path=ROOT):
    """(standard output, standard error) of a process that sees brats_gan in `path`."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(path)}
    done = subprocess.run(
        [*map(str, command), *map(str, given)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout, done.stderr


# --- The command ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [(), ("--help",)])
def test_the_command_lists_all_commands_in_a_sentence_each(given):
    out, _ = run(COMMAND, *given)
    for name in commands.SCRIPTS:
        assert f"\n  {name} " in out
    assert "Stage 1: trains DC_f and MASK" in out
    assert "demo/structural" in out
    assert max(map(len, out.splitlines())) <= 88


def test_the_command_lists_without_tensorflow():
    code = (
        "import sys; from brats_gan import commands; sys.argv = ['brats-gan']; "
        "commands.main(); print([m for m in ('tensorflow', 'scipy', 'matplotlib') "
        "if m in sys.modules])"
    )
    out, _ = run([sys.executable, "-c", code])
    assert out.endswith("[]\n")


def test_an_unknown_command_is_refused_with_the_list(tmp_path):
    out, err = run(COMMAND, "train_structual", code=1, cwd=tmp_path)
    assert not out
    assert err.startswith("error: train_structual is not a command of brats-gan.\n")
    assert all(f"\n  {name} " in err for name in commands.SCRIPTS)


def test_every_script_has_a_command():
    scripts = {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    assert {*commands.SCRIPTS.values()} == scripts


def test_a_command_has_the_help_of_its_script():
    helps = [
        run(command, "--help")[0].replace(str(ROOT) + os.sep, "")
        for command in ([*COMMAND, "prepare"], [sys.executable, "prepare_data.py"])
    ]
    assert helps[0] == helps[1]
    assert "--subjects: How many phantoms." in helps[0]
    assert "--flagfile=NAME: authors/multimodal" in helps[0]


# Begins a run where the script's own work would begin, by the script or the command.
BEGIN = """
import runpy, sys
from absl import flags
from brats_gan import commands, runs

runs.main = lambda main: None
how, name, run_dir, *given = sys.argv[1:]
if how == "command":
    sys.argv = ["brats-gan", name, *given]
    commands.main()
else:
    sys.argv = [commands.SCRIPTS[name], *given]
    runpy.run_path(commands.SCRIPTS[name], run_name="__main__")
runs.parse_flags(sys.argv)
runs.start(run_dir)
"""


@pytest.mark.parametrize("name", [name for name in commands.SCRIPTS if "-" in name])
def test_a_command_leaves_the_flags_txt_of_its_script(name, tmp_path):
    required = ("structural_run", "multimodal_run", "output_dir")
    if name != "build-dataset":
        required = ("data_dir", "run_dir")
    given = [*(f"--{flag}=x" for flag in required), "--seed=7"]
    for how in ("script", "command"):
        run([sys.executable, "-c", BEGIN, how, name, tmp_path / how, *given])
    by_script, by_command = (
        (tmp_path / how / "flags.txt").read_text() for how in ("script", "command")
    )
    assert by_command == by_script
    assert f"# {commands.SCRIPTS[name]}\n" in by_command and "--seed=7\n" in by_command


# --- Flagfiles that come with the package ---------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["demo/structural", "demo/structural.flags", "configs/demo/structural.flags"],
)
def test_a_flagfile_of_the_package_goes_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = str(ROOT / "configs" / "demo" / "structural.flags")
    assert shipped.flagfile(name) == expected
    for argv in ([f"--flagfile={name}"], ["--flagfile", name], [f"-flagfile={name}"]):
        assert expected in shipped.with_flagfiles(argv)[-1]


def test_a_file_of_the_user_goes_before_a_flagfile_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo/structural").mkdir(parents=True)  # a run, say, is no file
    assert shipped.flagfile("demo/structural") != "demo/structural"
    Path("demo/structural.flags").touch()
    assert shipped.flagfile("demo/structural.flags") == "demo/structural.flags"


def test_other_arguments_stay_as_they_are():
    argv = ["brats-gan", "demo/structural", "--flagfile=none/such", "--run_dir"]
    argv += ["demo/structural", "--", "--flagfile=demo/structural"]
    assert shipped.with_flagfiles(argv) == argv


def test_an_unknown_flagfile_is_named(tmp_path):
    given = ["check", "--data_dir=x", "--flagfile=demo/structral"]
    _, err = run([*COMMAND, "prepare"], *given, code=1, cwd=tmp_path)
    assert "demo/structral" in err and "Traceback" not in err


def test_an_installed_package_is_of_no_revision(monkeypatch):
    monkeypatch.setattr(shipped, "CHECKOUT", None)
    assert runs.exports.revision() is None


def repository(folder, setup, version="1"):
    """A repository with a copy of the package; the commit it stands at."""
    (folder / "brats_gan").mkdir(parents=True)
    (folder / "setup.py").write_text(setup)
    (folder / "brats_gan/__init__.py").write_text(f"__version__ = {version!r}\n")
    git = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    head = [*git, "rev-parse", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout


OURS = 'setuptools.setup(name="brats_gan")\n'


def test_the_revision_is_that_of_our_own_repository_whatever_git_is_told(
    tmp_path, monkeypatch
):
    head = repository(tmp_path / "ours", OURS).strip()
    repository(tmp_path / "other", OURS, "2")
    monkeypatch.setattr(shipped, "CHECKOUT", tmp_path / "ours")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))  # as within a hook
    assert runs.exports.revision() == head
    (tmp_path / "ours/setup.py").write_text(OURS + "# changed\n")
    assert runs.exports.revision() == f"{head}-dirty"


def test_a_copy_of_the_package_in_a_repository_of_others_is_of_no_revision(
    tmp_path, monkeypatch
):
    repository(tmp_path / "other", 'setuptools.setup(name="other")\n')
    monkeypatch.setattr(shipped, "CHECKOUT", tmp_path / "other")
    assert runs.exports.revision() is None


def test_a_copy_that_is_not_under_version_control_is_of_no_revision(
    tmp_path, monkeypatch
):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "brats_gan").mkdir()
    (tmp_path / "setup.py").write_text(OURS)
    (tmp_path / "brats_gan/__init__.py").touch()
    monkeypatch.setattr(shipped, "CHECKOUT", tmp_path)
    assert runs.exports.revision() is None


# --- The wheel ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built of a source distribution of a copy of the checkout."""
    root = tmp_path_factory.mktemp("wheel")
    copy = root / "checkout"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("brats_gan", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), ROOT / "README.md"]:
        shutil.copy(path, copy)
    shutil.copy(ROOT / "LICENSE", copy)
    code = f"from setuptools import build_meta as b; b.build_sdist({str(root)!r})"
    run([sys.executable, "-c", code], cwd=copy)
    (source,) = root.glob("brats_gan-*.tar.gz")
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "wheel", "-q", *offline]
    run(pip, f"--wheel-dir={root}", source, cwd=root)
    (built,) = root.glob("brats_gan-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel):
    """The folder that pip installed the wheel in."""
    target = wheel.parent / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    run(pip, f"--target={target}", wheel, cwd=wheel.parent)
    return target


@pytest.mark.once
def test_the_wheel_puts_nothing_but_the_package_in_the_top_level(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"brats_gan"}
    ours = {path for path in ROOT.glob("brats_gan/**/*") if path.is_file()}
    expected = {p.relative_to(ROOT).as_posix() for p in ours if p.suffix != ".pyc"}
    configs = (path.relative_to(ROOT) for path in ROOT.glob("configs/*/*"))
    expected |= {f"brats_gan/{path.as_posix()}" for path in configs}
    expected |= {f"brats_gan/scripts/{name}" for name in commands.SCRIPTS.values()}
    assert {*names} == expected
    assert "brats_gan/py.typed" in expected


@pytest.mark.once
def test_what_the_wheel_ships_is_what_the_checkout_has(installed):
    for name in commands.SCRIPTS.values():
        shipped_one = installed / "brats_gan" / "scripts" / name
        assert shipped_one.read_bytes() == (ROOT / name).read_bytes()
    configs = installed / "brats_gan" / "configs"
    for path in ROOT.glob("configs/*/*"):
        other = configs / path.relative_to(ROOT / "configs")
        assert other.read_bytes() == path.read_bytes()


@pytest.mark.once
def test_the_installed_command_makes_a_phantom_from_another_folder(installed, tmp_path):
    command = [installed / "bin" / "brats-gan"]
    where = {"cwd": tmp_path, "path": installed}
    code = "import brats_gan; print(brats_gan.__file__)"
    out, _ = run([sys.executable, "-c", code], **where)
    assert Path(out.strip()).is_relative_to(installed)
    out, _ = run(command, **where)
    assert "demo/structural" in out
    out, _ = run(command, "prepare", "--help", **where)
    assert "--subjects: How many phantoms." in out
    given = ["--output_dir=made", "--flagfile=demo/phantom", "--subjects=1"]
    run(command, "prepare", "phantom", *given, **where)
    assert len([*tmp_path.glob("made/*/*.nii.gz")]) == 5


@pytest.mark.once
def test_the_installed_command_trains_deterministically(installed, tmp_path):
    """--deterministic starts the process once more, by the command it began with."""
    for number in range(2):
        nifti.write_subject(tmp_path / "data", f"s{number}", (160, 160, 6), number)
    given = "--deterministic --image_size=32 --width=4 --batch_size=2 --steps=2".split()
    given += ["--slices=1:5", "--held_out=0.5", "--data_dir=data", "--run_dir=run"]
    command = [installed / "bin" / "brats-gan", "train-structural"]
    run(command, *given, cwd=tmp_path, path=installed)
    losses = (tmp_path / "run" / "losses.jsonl").read_text().splitlines()
    assert json.loads(losses[-1])["step"] == 2
    lines = (tmp_path / "run" / "flags.txt").read_text().splitlines()
    assert lines[0] == "# train_structural.py" and {*given} <= {*lines}
    described = tmp_path / "run" / "export" / "structure.json"
    described = json.loads(described.read_text())
    assert described["script"] == "train_structural.py"
    assert described["revision"] is None


@pytest.mark.once
def test_the_installed_package_has_weights_and_labels(installed, tmp_path):
    code = (
        "from brats_gan import weights; "
        "print(weights.folder_of('pretrained', 'structural')); "
        "print(weights.folder_of('pretrained', 'multimodal')); "
        "print(weights.labels_of('pretrained'))"
    )
    out, _ = run([sys.executable, "-c", code], cwd=tmp_path, path=installed)
    for path, end in zip(
        out.split(), ("structural", "multimodal", "labels.npz"), strict=True
    ):
        assert Path(path) == installed / "brats_gan" / "pretrained" / end
        assert Path(path).exists()


# --- What goes along with it ----------------------------------------------------------


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {brats_gan.__version__}" in lines


def test_continuous_integration_calls_targets_that_there_are():
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    called = set(re.findall(r"run: make ([\w-]+) PYTHON=", workflow))
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert called == {"setup", "lint", "test", "test-latest"} and called <= made
