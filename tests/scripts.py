"""Scripts as modules, in a process of tests that loads several."""

import importlib

from absl import flags


def module(name):
    """Imports a script, and forgets its flags: two scripts may define the same name.

    What reads a flag cannot be called then; a process of its own is for that.
    """
    before = {*flags.FLAGS}
    imported = importlib.import_module(name)
    for flag in {*flags.FLAGS} - before:
        delattr(flags.FLAGS, flag)
    return imported
