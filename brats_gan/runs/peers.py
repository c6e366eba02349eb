"""A watch over the other processes of a run that several machines share.

TensorFlow hears of a lost worker in the collective it waits in. Where a process is
tracing its first step, or reads its data, it waits in none, and would go on for minutes
alone.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable

EVERY = 5.0  # seconds between two looks
GRACE = 35.0  # seconds that one may be out of reach; TensorFlow's own end comes sooner


def reached(address: tuple[str, int], timeout: float = EVERY) -> tuple | None:
    """Who listens at (host, port), as numbers; None where nobody does."""
    try:
        with socket.create_connection(address, timeout) as connection:
            host, port, *scope = connection.getpeername()
    except OSError:
        return None
    # An IPv6 address of one link says nothing without its scope.
    return address if any(scope) else (host, port)


def _parted(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Watch:
    """Calls `lost(address)` once, from a thread, when a peer is out of reach too long.

    Args:
        addresses: "host:port" of each peer, all of them there at the start.
        lost: is called at most once.
        every, grace: seconds between two looks, and that a peer may be out of reach.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        lost: Callable[[str], None],
        every: float = EVERY,
        grace: float = GRACE,
    ) -> None:
        self._lost, self._every, self._grace = lost, every, grace
        self._seen = dict.fromkeys(addresses, time.monotonic())
        # Names are looked up until a peer was reached: it stays where it was, and is
        # not gone where names cannot be looked up for a while.
        self._at = {address: _parted(address) for address in self._seen}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        looked = time.monotonic()
        while not self._ended.wait(self._every):
            now = time.monotonic()
            # A process that was stopped itself has not seen its peers being away.
            slept = max(now - looked - 4 * self._every, 0.0)
            looked = now
            for address in self._seen:
                self._seen[address] += slept
                found = reached(self._at[address], self._every)
                if found:
                    self._at[address] = found
                    self._seen[address] = time.monotonic()
                elif time.monotonic() - self._seen[address] > self._grace:
                    if not self._ended.is_set():
                        self._lost(address)
                    return

    def end(self) -> None:
        """Nobody is watched any longer, and `lost` is not called."""
        self._ended.set()
