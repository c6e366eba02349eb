"""What a row of Table 2 trains on: which samples, and in which order (Section 3.6).

An item is one training sample, two integers: its position in the slices, and 0 for the
slice as it is or the seed, above 0, of the move that makes its enhanced copy (Section
3.3). An enhanced set is thus a data set of definite size, the same in every pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from brats_gan import data, files
from brats_gan.experiments import tables

FIRST = {
    "real first": ("real", "synthetic"),
    "synthetic first": ("synthetic", "real"),
}


class Phase(NamedTuple):
    """Steps that draw from one shuffled set."""

    sources: tuple  # of "real", "synthetic" and "enhanced"
    items: np.ndarray  # [n, 2] int
    steps: int


def needed(row: tables.Row, real_count: int) -> int:
    """Synthetic samples that a row asks for, by the number of real training slices."""
    return round(row.synthetic * real_count)


def patients_of(slices: data.Slices) -> np.ndarray:
    """[N] int, the patient of each slice: the number of the first of his subjects."""
    first = np.array([slices.patients.index(each) for each in slices.patients])
    return first[slices.index[:, 0]]


def choose(
    row: tables.Row,
    patients: np.ndarray,
    real: np.ndarray,
    synthetic: np.ndarray,
    seed: int,
) -> dict:
    """The items of a row, by source.

    Real data is taken by patient, at least one, with all visits; synthetic samples and
    the slices that are enhanced one by one. One order, drawn from `seed`, serves all
    rows: a smaller amount is a part of a larger one, so that rows differ by their
    amounts only.

    Args:
        row: has real, synthetic, enhanced: amounts relative to the real training set.
        patients: [N] int, patient of each slice, see `patients_of`.
        real: positions of the real training slices.
        synthetic: positions of the synthetic samples that may be used.
        seed: of the choice.

    Returns:
        {source: [n, 2] int}, without sources of which nothing is taken.

    Raises:
        DataError: there are fewer synthetic samples than the row asks for.
    """
    real, synthetic = np.asarray(real, int), np.asarray(synthetic, int)
    asked = needed(row, len(real))
    if asked > len(synthetic):
        raise files.DataError(
            f"{row.synthetic:g} times the {len(real)} real training slices are {asked} "
            f"accepted synthetic samples, and there are {len(synthetic)}; make them "
            f"with build_dataset.py --accepted_only --samples={asked}"
        )
    orders = [np.random.default_rng([seed, stream]) for stream in range(3)]
    items = {}
    if row.real:
        drawn = orders[0].permutation(np.unique(patients[real]))
        kept = drawn[: max(1, round(row.real * len(drawn)))]
        items["real"] = _as_items(real[np.isin(patients[real], kept)])
    if row.synthetic:
        items["synthetic"] = _as_items(orders[1].permutation(synthetic)[:asked])
    if row.enhanced:
        count = round(row.enhanced * len(real))
        origins = np.resize(orders[2].permutation(real), count)  # again from the start
        moves = np.random.default_rng([seed, 3]).integers(1, 2**31, count)
        items["enhanced"] = np.stack([origins, moves], 1)
    return items


def _as_items(positions):
    return np.stack([positions, np.zeros_like(positions)], 1)


def phases(items: dict, mode: str, iterations: int) -> list[Phase]:
    """The order of the sources, `iterations` steps in all.

    "real first" and "synthetic first" give each source steps in proportion to its
    number of samples; every other mode shuffles all samples into one set.

    Returns:
        A list of Phase.
    """
    if mode not in FIRST:
        every = np.concatenate(list(items.values()))
        return [Phase(tuple(items), every, iterations)]
    first, second = FIRST[mode]
    total = len(items[first]) + len(items[second])
    steps = round(iterations * len(items[first]) / total)
    return [
        Phase((first,), items[first], steps),
        Phase((second,), items[second], iterations - steps),
    ]


def sampler(
    plan: list[Phase], batch_size: int, seed: int
) -> Callable[[int], np.ndarray]:
    """Returns step -> items [batch_size, 2] of that step.

    Within a phase every sample comes once a pass, each pass in an order of its own.
    """
    starts = np.cumsum([0, *(phase.steps for phase in plan)])

    def sample(step):
        number = int(np.searchsorted(starts[1:-1], step, "right"))
        items = plan[number].items
        first = (step - int(starts[number])) * batch_size
        return items[data.shuffled(len(items), seed, number, first, batch_size)]

    return sample


def described(plan: list[Phase], slices: data.Slices) -> dict:
    """The samples of a plan for its samples.json: {"phases": [...]}.

    Each phase lists source names, steps, and subject -> positions of its slices in the
    range read, from 0; of enhanced copies as [position, seed of the move].
    """
    listed = []
    for phase in plan:
        taken = {}
        for position, move in phase.items.tolist():
            subject, number = slices.index[position].tolist()
            entry = [number, move] if move else number
            taken.setdefault(slices.names[subject], []).append(entry)
        listed.append(
            {
                "sources": phase.sources,
                "steps": phase.steps,
                "samples": len(phase.items),
                "taken": taken,
            }
        )
    return {"phases": listed}
