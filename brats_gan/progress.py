"""How long something will take, said from the first pieces that were measured.

Without TensorFlow.
"""

from __future__ import annotations

import sys
import time

EVERY = 20.0  # seconds between lines where there is no terminal
SOON = 5.0  # seconds that need no line there


def duration(seconds: float) -> str:
    """A time in words, rounded as one speaks of it: "40 seconds", "7 minutes"."""
    for limit, unit, digits, name in (
        (90, 1, 0, "second"),
        (90 * 60, 60, 0, "minute"),
        (48 * 3600, 3600, 1, "hour"),
        (float("inf"), 86400, 1, "day"),
    ):
        if seconds < limit:
            shown = f"{seconds / unit:.{digits}f}"
            return f"{shown} {name}{'' if shown == '1' else 's'}"


def forecast(count: int, seconds: float, unit: str) -> str:
    """How long the rest takes: "1300 steps at 0.31 s/step: about 7 minutes".

    Args:
        count: of the pieces that are left.
        seconds: of one.
        unit: name of one.
    """
    each = f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"
    plural = "" if count == 1 else "s"
    total = duration(count * seconds)
    return f"{count} {unit}{plural} at {each} s/{unit}: about {total}"


class Pace:
    """Seconds a piece takes, without the first, in which some work is done only once.

    Attributes:
        pieces: how many are measured.
        seconds: of a piece; None until it is known.
    """

    PATIENCE = 10.0  # seconds, after which fewer pieces do

    def __init__(self, pieces: int = 10) -> None:
        self.pieces = pieces
        self.seconds = None
        self._first = None

    def seen(self, done: int, now: float) -> bool:
        """Tells it that `done` pieces were done at `now`; True once, when it knows."""
        if self._first is None:
            self._first = done, now
        elif self.seconds is None and done > self._first[0]:
            count, passed = done - self._first[0], now - self._first[1]
            if count >= self.pieces or passed >= self.PATIENCE:
                self.seconds = passed / count
                return True
        return False


class Line:
    """How many of all are done, and how long the rest takes, on stderr.

    On a terminal one line that is written over; elsewhere a line after the first
    piece and then every EVERY seconds, while more than SOON are left.
    """

    def __init__(self, doing: str, unit: str) -> None:
        self._doing, self._unit = doing, unit
        self._begun, self._shown = time.monotonic(), -EVERY

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        left = (now - self._begun) / done * (total - done)
        line = f"{self._doing}: {done} of {total} {self._unit}s"
        line += f", about {duration(left)} to go"
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\r{line:<79}", end=end, file=sys.stderr, flush=True)
        elif left > SOON and now - self._shown >= EVERY:
            self._shown = now
            print(line, file=sys.stderr, flush=True)
