"""The report of a folder while it is made: it never ends what it tells of."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from brats_gan import files, pages
from brats_gan.report import sections, trained
from brats_gan.report.card import CARD, write_card
from brats_gan.report.writing import NAME, write

try:
    import resource
except ImportError:  # Windows
    resource = None

# No room: what is written next would end the run as well, and says how it goes on.
_FULL = (errno.ENOSPC, errno.EDQUOT)
SHARE = 0.01  # of the time of a run that its report may take, the last one left out


class Live:
    """The report of a run that goes on.

    As a context, around the steps: it is written as they begin, and where an error or a
    signal ends them, which it then names.
    """

    def __init__(
        self,
        run_dir: str | Path,
        script: str,
        defaults: Mapping[str, str],
        total: int,
        unit: str = "step",
    ) -> None:
        """Writes nothing yet.

        Args:
            run_dir: of the run.
            script: that makes it.
            defaults: {flag: line} of a command that chooses nothing.
            total: steps of the run.
            unit: what the total counts.
        """
        self._run_dir, self._total, self._unit = Path(run_dir), total, unit
        self._defaults = {script: defaults}
        self._done, self._due = 0, 0.0
        self._ended_by = ""

    def seen(self, done: int, sheet: np.ndarray | None = None) -> None:
        """Writes it after `done` of the total, with the newest sheet [H, W, 3] uint8.

        Raises:
            DataError: there is no room on the disk.
        """
        self._done, begun = done, time.monotonic()

        def written():
            if sheet is not None:
                files.write_atomically(self._run_dir / trained.SHEET, pages.png(sheet))
            self._say(False)
            write([self._run_dir], self._run_dir / NAME, self._defaults)

        _guarded(self._run_dir / NAME, written)
        ended = time.monotonic()
        self._due = ended + (ended - begun) / SHARE

    def __enter__(self) -> Live:
        self.seen(0)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:  # which goes on, whatever becomes of the report
            with contextlib.suppress(files.DataError):
                self._ended_by = sections.said(error, self._run_dir)
                self.seen(self._done)

    def with_sheet(
        self, draw: Callable[[int], np.ndarray]
    ) -> Callable[[int], np.ndarray]:
        """`draw` of `runs.loop`, after which the report is written, too: not where that
        would take more than SHARE of the time since the last."""

        def drawn(step):
            picture = draw(step)
            if time.monotonic() >= self._due:
                self.seen(step, picture)
            return picture

        return drawn

    def finish(self) -> None:
        """Writes the last one; call it once the run has left all that it leaves.

        A table of which other processes are still at some repeats is not finished: of
        repeats, those count that were seen.

        Raises:
            DataError: there is no room on the disk.
        """
        if self._unit == "step":
            self._done = self._total

        def written():
            (self._run_dir / trained.SHEET).unlink(missing_ok=True)
            self._say(self._done >= self._total)
            write([self._run_dir], self._run_dir / NAME, self._defaults)

        _guarded(self._run_dir / NAME, written)

    def _say(self, finished):
        said = {
            "unit": self._unit,
            "total": self._total,
            "done": self._done,
            "finished": finished,
            "ended_by": self._ended_by,
            "peak_memory": _peak_memory(),
        }
        files.write_json(self._run_dir / trained.PROGRESS, said)


def finish(folder: str | Path, script: str, defaults: Mapping[str, str]) -> None:
    """Writes the card of a data set that is finished, and its report.

    Raises:
        DataError: there is no room on the disk.
    """
    path = Path(folder, NAME)
    _guarded(Path(folder, CARD), lambda: write_card(folder))
    _guarded(path, lambda: write([folder], path, {script: defaults}))


def _guarded(path, written):
    try:
        written()
    except Exception as error:  # whatever it is: what is made is worth more
        cause = error.__cause__ if isinstance(error, files.DataError) else error
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise
        logging.warning(
            "%s: could not be written (%s); all else goes on",
            *(path, error or type(error).__name__),
        )


def _peak_memory():
    """Bytes that this process had at most; None where the system does not say."""
    if resource is None:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
