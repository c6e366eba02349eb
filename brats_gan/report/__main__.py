"""Writes the report of a run or a data set, or of several side by side.

python -m brats_gan.report FOLDER... [--output=FILE]
"""

from __future__ import annotations

from pathlib import Path

from absl import app, flags

from brats_gan import common_flags, pages, runs
from brats_gan.report.writing import NAME, write
from brats_gan.stages import defaults

_OUTPUT = common_flags.path(
    "output",
    f"Page to write, .html; if unset, {NAME} in the folder, of several in the one "
    "where the command is started.",
)


def page_of(folders: list[str], output: str | None) -> Path:
    """Where the page is written.

    Raises:
        DataError: see pages.require_path.
    """
    if not output:
        return Path(folders[0], NAME) if len(folders) == 1 else Path(NAME)
    pages.require_path("output", output)
    return Path(output)


def main(argv: list[str]) -> None:
    """Writes the page, and says where it is."""
    folders = argv[1:]
    if not folders:
        raise app.UsageError("the folder of a run or of a data set is due.")
    path = page_of(folders, _OUTPUT.value)
    write(folders, path, defaults.of_scripts())
    print(f"report: {path}")


if __name__ == "__main__":
    flags.FLAGS.set_gnu_getopt()  # flags may come behind folders
    runs.main(main, commands=True)
