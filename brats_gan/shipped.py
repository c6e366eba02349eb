"""Where this copy of the package has its scripts and flagfiles.

In a checkout they are at its top level, and nowhere else. A wheel has them inside the
package, where setup.py puts them, so that nothing of ours but `brats_gan` is at the top
level of site-packages.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parent
CHECKOUT = None if (_PACKAGE / "scripts").is_dir() else _PACKAGE.parent
SCRIPTS = _PACKAGE / "scripts" if CHECKOUT is None else CHECKOUT
CONFIGS = (_PACKAGE if CHECKOUT is None else CHECKOUT) / "configs"

_FLAGFILE = ("--flagfile", "-flagfile")


def flagfiles() -> list[str]:
    """Names of the flagfiles that come with the package: "demo/structural", ..."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.flags"))
    return sorted(path.with_suffix("").as_posix() for path in paths)


def flagfiles_help() -> str:
    """What --help says about flagfiles."""
    return textwrap.fill(
        "Flagfiles that come with the package, for --flagfile=NAME: "
        + ", ".join(flagfiles()),
        88,
        break_on_hyphens=False,
    )


def flagfile(name: str) -> str:
    """The file that --flagfile=`name` means, as text.

    A file of the user's has precedence. Else "demo/structural",
    "demo/structural.flags" and "configs/demo/structural.flags" name that of the
    package, from any folder. Any other name is returned as it is, for absl to report.
    """
    if Path(name).expanduser().is_file():  # not a folder: a run may be demo/structural
        return name
    asked = name.removeprefix("configs/").removesuffix(".flags")
    return str(CONFIGS / f"{asked}.flags") if asked in flagfiles() else name


def with_flagfiles(argv: Iterable[str]) -> list[str]:
    """`argv` with paths in place of names of flagfiles that come with the package."""
    arguments, result, value_next = list(argv), [], False
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if value_next:
            argument, value_next = flagfile(argument), False
        elif argument == "--":  # no flags from here on
            return result + arguments[number:]
        elif name in _FLAGFILE and equals:
            argument = f"{name}={flagfile(value)}"
        else:
            value_next = argument in _FLAGFILE
        result.append(argument)
    return result
