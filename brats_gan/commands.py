"""The command `brats-gan`: the scripts by name, from any folder.

`brats-gan train-structural --run_dir=...` is `python train_structural.py --run_dir=...`
to the last flag: the script is run as it stands, as the main module of the process, so
absl sees the flags as its own, and flags.txt and exports name it.
"""

from __future__ import annotations

import ast
import runpy
import sys
import textwrap

import brats_gan
from brats_gan import shipped

SCRIPTS = {
    "prepare": "prepare_data.py",
    "train-structural": "train_structural.py",
    "train-multimodal": "train_multimodal.py",
    "build-dataset": "build_dataset.py",
    "eval-segmentation": "eval_segmentation.py",
    "explore": "explore.py",
}
_HELP = ("-h", "--help", "help")


def usage() -> str:
    """The commands in a sentence each, the first of their scripts."""
    lines = [brats_gan.__doc__.strip(), "", "usage: brats-gan COMMAND [flags]", ""]
    for name, script in SCRIPTS.items():
        text = (shipped.SCRIPTS / script).read_text(encoding="utf-8")
        sentence = ast.get_docstring(ast.parse(text)).splitlines()[0]
        begin = f"  {name:<18} "
        lines.append(
            textwrap.fill(
                begin + sentence,
                88,
                subsequent_indent=" " * len(begin),
                break_on_hyphens=False,
            )
        )
    lines += [
        "",
        "brats-gan COMMAND --help says what each flag means.",
        shipped.flagfiles_help(),
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the script that the first argument names, with the others as its flags."""
    given = sys.argv[1:]
    if not given or given[0] in _HELP:
        print(usage())
        return
    if given[0] == "--version":
        print(f"brats_gan {brats_gan.__version__}")
        return
    if given[0] not in SCRIPTS:
        print(f"error: {given[0]} is not a command of brats-gan.\n", file=sys.stderr)
        print(usage(), file=sys.stderr)
        sys.exit(1)
    script = str(shipped.SCRIPTS / SCRIPTS[given[0]])
    # absl takes the name of the main module, which goes with its flags, from here.
    sys.argv = [script, *given[1:]]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
