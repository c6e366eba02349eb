"""docs/tutorial.ipynb: its code, cell by cell, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"

# Without Jupyter. An error names its cell; pictures are counted instead of shown.
RUN = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

pictures = 0
def show():
    global pictures
    pictures += len(plt.get_fignums())
    plt.close("all")
plt.show = show

notebook, report = sys.argv[1:]
with open(notebook, encoding="utf-8") as file:
    cells = json.load(file)["cells"]
found = {"__name__": "__main__"}
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), found)
with open(report, "w") as file:
    sets, labels = found["sets"], found["labels"]
    json.dump({
        "pictures": pictures,
        "scores": found["scores"],
        "accepted": sum(sample.accepted for sample in found["samples"]),
        "t1ce": [float(sets[:, 2][labels == value].mean()) for value in (1, 4)],
    }, file)
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What is left in the tutorial's names once every cell has run."""
    folder = tmp_path_factory.mktemp("tutorial")
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, NOTEBOOK, folder / "report.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text())


def test_every_cell_runs_and_the_sheets_are_shown(executed):
    assert executed["pictures"] == 5


def test_the_sets_are_registered_as_the_tutorial_says(executed):
    scores = executed["scores"]
    for name in ("edge_dice", "mutual_information"):
        assert scores["generated"][name] > scores["real shifted by 1"][name]


def test_the_rim_takes_up_contrast_agent_and_necrosis_does_not(executed):
    necrosis, enhancing = executed["t1ce"]
    assert enhancing > necrosis


def test_some_sets_pass_both_filters(executed):
    assert executed["accepted"] > 0


def test_the_notebook_says_nothing_of_the_machine_it_ran_on():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert notebook["metadata"].keys() == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    outputs = [cell.get("outputs", []) for cell in notebook["cells"]]
    said = json.dumps(outputs)
    assert not any(word in said for word in ("/home/", "/tmp/", "/work/", "/Users/"))
