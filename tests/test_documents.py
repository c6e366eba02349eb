"""What the documents say of the code, held to the code."""

import importlib
import re
from pathlib import Path

import pytest

from benchmarks import architecture
from brats_gan import multimodal, structural
from tests import test_layout

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def table(path, heading):
    """Cells of the rows of the first table after a heading, without its head."""
    text = path.read_text(encoding="utf-8").partition(f"{heading}\n")[2]
    lines = [line for line in text.split("\n\n## ")[0].splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text):
    return re.findall(r"`([^`]+)`", text)


def has(name):
    """Whether a dotted name is found below brats_gan."""
    parts = name.split(".")
    found = importlib.import_module(f"brats_gan.{parts[0]}")
    for part in parts[1:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_the_rows_of_modules_are_those_that_imports_are_held_to():
    shown = [
        name for row in table(ARCHITECTURE, "## Modules, in rows") for name in row[:1]
    ]
    names = [name for cell in shown for name in quoted(cell)]
    assert sorted(names) == sorted(test_layout.MODULES)
    rows = [test_layout.ROW[name] for name in names]
    # Several rows of imports are one here, from the top to the bottom.
    assert rows == sorted(rows)


def test_the_table_of_changes_names_files_and_names_that_there_are():
    for to, change, then in table(ARCHITECTURE, "## Where to change what"):
        paths = [ROOT / each for each in quoted(change + then) if "/" in each]
        paths = [path for path in paths if path.suffix in (".py", ".json", ".md")]
        assert paths, to
        assert all(path.exists() for path in paths), (to, paths)
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        for name in quoted(change + then):
            if re.fullmatch(r"[A-Za-z_]\w*", name) and name != "rejected_NAME":
                assert re.search(rf"\b{name}\b", text), (to, name)


def test_the_glossary_names_what_there_is():
    rows = table(ROOT / "docs" / "glossary.md", "# Glossary")
    assert len(rows) > 30
    for word, _, where in rows:
        for name in quoted(where):
            assert has(name), (word, name)
    words = [word.lower() for word, _, _ in rows]
    assert words == sorted(words)


def test_the_figure_has_the_networks_of_the_stages_by_their_names():
    names = {
        *structural.GENERATOR_SIDE,
        *structural.DISCRIMINATOR_SIDE,
        *multimodal.GENERATOR_SIDE,
        *multimodal.DISCRIMINATOR_SIDE,
        "SEG",  # of the lesion scheme `single`
    }
    assert architecture.networks() == names


def test_every_arrow_of_the_figure_joins_two_boxes():
    for stage in architecture.STAGES:
        for chain in stage.arrows:
            assert {*chain.split(" > ")} <= stage.boxes.keys()


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
    ids=lambda path: path.name,
)
def test_links_lead_to_files_and_headings_that_there_are(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name) if name else path
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.M)
            kept = (re.sub(r"[^\w\- ]", "", each.lower()) for each in headings)
            assert anchor in [each.replace(" ", "-") for each in kept], target
