"""Scripts as modules, in a process of tests that loads several."""

import importlib
import runpy
from pathlib import Path

from absl import flags

ROOT = Path(__file__).parents[1]


def module(name):
    """Imports a script, and forgets its flags: two scripts may define the same name.

    What reads a flag cannot be called then; a process of its own is for that.
    """
    before = {*flags.FLAGS}
    imported = importlib.import_module(name)
    for flag in {*flags.FLAGS} - before:
        delattr(flags.FLAGS, flag)
    return imported


def flags_of(script):
    """{name: flag} of a script, named by its file; forgotten again, likewise."""
    before = {*flags.FLAGS}
    runpy.run_path(str(ROOT / script))
    mine = {name: flags.FLAGS[name] for name in {*flags.FLAGS} - before}
    for name in mine:
        delattr(flags.FLAGS, name)
    return mine
