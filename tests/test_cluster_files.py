"""docs/cluster.md shows the files of configs/cluster, whose commands there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from brats_gan import commands
from tests import scripts

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs/cluster").iterdir())
DOCUMENT = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
# Flags of absl itself.
ABSL = {"flagfile"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_document_shows_every_file_as_it_is(path):
    shown = re.findall(r"^```\w+\n(.*?)^```$", DOCUMENT, re.M | re.S)
    assert path.read_text(encoding="utf-8") in shown
    assert f"](../configs/cluster/{path.name})" in DOCUMENT


def used(text):
    """(command of brats-gan, its flags) in a text."""
    text = re.sub(r'["\',\[\]]+', " ", text.replace("\\\n", " "))
    for name, rest in re.findall(r"brats-gan +([a-z]+-[a-z]+) ([^#\n]*)", text):
        yield name, {*re.findall(r"--([a-z_]+)", rest)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_and_flags_in_the_files_are_there(path):
    for name, given in used(path.read_text(encoding="utf-8")):
        assert name in commands.SCRIPTS, name
        known = scripts.flags_of(commands.SCRIPTS[name]).keys() | ABSL
        assert given <= known, (name, given - known)


def test_commands_are_seen_in_all_of_the_files():
    for path in FILES:
        found = [*used(path.read_text(encoding="utf-8"))]
        assert found and all("flagfile" in given or not given for _, given in found)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    "path", [p for p in FILES if p.suffix == ".sh"], ids=lambda path: path.name
)
def test_shell_scripts_are_free_of_errors_of_syntax(path):
    subprocess.run(["bash", "-n", path], check=True)
