"""One thread that computes, and a queue before it that is not endless."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any

WAITING = 12  # jobs that may wait; one more is told to come again


class Busy(Exception):
    """There are as many jobs as may wait."""


class Worker:
    """Does one job after the other, in a thread of its own.

    Args:
        waiting: jobs that may wait beside the one that is done.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._jobs: queue.Queue = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any]) -> concurrent.futures.Future:
        """Has a job done; what it returns or raises is in the future.

        Raises:
            Busy: too many are waiting.
        """
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            self._jobs.put_nowait((future, job))
        except queue.Full:
            raise Busy from None
        return future

    def close(self) -> None:
        """Ends the thread after what waits now."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self):
        while (item := self._jobs.get()) is not None:
            future, job = item
            # Who asked may have left while it waited.
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except Exception as error:  # whose it is: of who asked
                    future.set_exception(error)
            del item, future, job  # not kept while it waits for the next
