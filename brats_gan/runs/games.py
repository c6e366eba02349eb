"""Watches the adversarial games of a run: one that is won teaches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging

PREFIX = "accuracy_"  # of the losses that say how often a discriminator is right
WON = 0.95
STEPS = 500  # over which the accuracies are averaged


class Games:
    """How often each discriminator was right of late.

    Where one was right in WON of the patches or more over the last STEPS steps, a
    warning says so, once until the game is open again.
    """

    def __init__(self) -> None:
        self._recent = {}  # name -> accuracies of the last STEPS steps
        self._said = set()

    def see(self, step: int, names: Sequence[str], row: Iterable[float]) -> None:
        """Takes the losses `row` [len(names)] of a step."""
        for name, value in zip(names, row, strict=True):
            if not name.startswith(PREFIX):
                continue
            name = name.removeprefix(PREFIX)
            recent = self._recent.setdefault(name, [])
            recent.append(float(value))
            del recent[:-STEPS]
            if len(recent) < STEPS:
                continue
            mean = np.mean(recent)
            if mean < WON:
                self._said.discard(name)
            elif name not in self._said:
                self._said.add(name)
                logging.warning(
                    "step %d: %s was right %.0f %% of the time over %d steps; it has "
                    "won and teaches nothing any more. Make it harder for %s: more "
                    "noise on what it sees, a smaller weight of its losses, or a "
                    "narrower network",
                    step,
                    name,
                    100 * mean,
                    STEPS,
                    name,
                )
