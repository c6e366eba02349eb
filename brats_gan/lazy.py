"""Imports that wait until they are needed: --help must not wait for TensorFlow.

TensorFlow takes seconds to import, SciPy and matplotlib as long as all the rest.
Modules therefore say

    from brats_gan.lazy import ndimage, tf

and may use these in functions; what is made while a module is imported (a subclass of a
Keras layer, a decorated function, an annotation that is not a string) would import it
at once. Modules that cannot do without are listed in brats_gan/__init__.py and loaded
late as a whole, by those who import them as ever.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from typing import TYPE_CHECKING


class _Late(types.ModuleType):
    """Stands for a module that is imported when it is first asked for something."""

    def __getattr__(self, name):
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:  # what reads annotations finds the modules themselves
    import tensorflow as tf
    from scipy import ndimage
else:
    tf = _Late("tensorflow")
    ndimage = _Late("scipy.ndimage")


class _Last(importlib.machinery.SourceFileLoader):
    """Puts a module behind those that it imported, as if it had come after them.

    At the end of a process Python clears modules from the last to the first, and what a
    tf.function leaves can be cleared only while there is TensorFlow.
    """

    def exec_module(self, module):
        super().exec_module(module)
        sys.modules[module.__name__] = sys.modules.pop(module.__name__)


def load(package: str, *names: str) -> None:
    """Has submodules of a package load when they are first asked for something.

    Args:
        package: name of a package that is being imported.
        names: of its submodules; `from package import name` then loads nothing yet.
    """
    for name in names:
        spec = importlib.util.find_spec(f"{package}.{name}")
        loader = _Last(spec.name, spec.origin)
        spec.loader = importlib.util.LazyLoader(loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        # As an import does; without, `from package import name` would load it.
        setattr(sys.modules[package], name, module)
