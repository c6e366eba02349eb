"""Files as streams: what may be opened, what goes wrong, and gzip."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

# igzip is for the modules above.
try:
    from isal import igzip, isal_zlib  # noqa: F401
except ImportError:
    # No wheel for this machine: the same voxels, at half the rate.
    import gzip as igzip  # noqa: F401
    import zlib as isal_zlib

from brats_gan.files import DataError


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns what goes wrong inside a file into one DataError that names it.

    A pipe or a device, which may never end, is refused before it is opened.
    """
    try:
        kind = Path(path).stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise DataError(f"{path}: a pipe or a device. Put a file in its place.")
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Check the path.") from error
    except PermissionError as error:
        raise DataError(f"{path}: permission denied. Make it readable.") from error
    except (OSError, EOFError, zlib.error, isal_zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read: {error}. The file is damaged or incomplete: copy "
            "or download it again."
        ) from error
