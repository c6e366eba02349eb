"""Patients: whose visit a subject is, by its name.

Collections give follow-up scans names of their own. A split, and every amount of data,
is of patients: two visits of one show the same brain, and often the same lesion.
"""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator

from brats_gan.files import DataError

# The group is the patient, what is behind it the visit. Sources: names in the releases
# of BraTS 2014, 2015 (pat153_0002, pat153_0109), 2017 to 2019 (where all end in _1) and
# 2023 to 2025 (BraTS-MEN-RT-0002-1), BraTS-Reg, UPENN-GBM (_11 before, _21 after
# treatment), UCSF-PDGM (_FU001d), RHUH-GBM and TCGA. These identifiers are unique, so
# what is before them (HGG_, preprocessed_) is not part of the patient.
_BEFORE = r"(?:^|.*?[^a-z0-9])"
_AFTER = r"(?![a-z0-9])"
_IDENTIFIERS = (
    rf"(brats-(?:[a-z]+-)+\d{{4,5}})(?:-\d{{1,3}})?{_AFTER}",
    rf"(brats_tcia_pat\d+)(?:_\d+)?{_AFTER}",
    rf"(brats1[789]_[a-z]+\d*_[a-z0-9]+|brats1[789]_2013_\d+)_\d+{_AFTER}",
    rf"(bratsreg_\d+)_\d\d_\d{{4}}{_AFTER}",
    rf"(upenn-gbm-\d{{5}})(?:_\d\d)?{_AFTER}",
    rf"(ucsf-pdgm-\d{{3,4}})(?:_fu\d+d?)?{_AFTER}",
    rf"(rhuh-\d{{4}})(?:_\d)?{_AFTER}",
    rf"(tcga-[a-z0-9]{{2}}-[a-z0-9]{{4}}){_AFTER}",
    # BIDS has no dashes within a name: BraTS-GLI-00008-001 becomes this.
    rf"(sub-brats(?:gli|met|men|peds?|ssa)\d{{5}})\d{{3}}{_AFTER}",
)
# Numbers that other collections have as well: what is before them belongs to the
# patient. MU-Glioma-Post, LUMIERE, UCSF-ALPTDG (100118_time1), BIDS, and whatever says
# that it is a visit. There, a patient has a number of his own.
_NUMBERS = (
    r"((?:.*_)?brats_2013_pat\d+)_\d+$",
    r"((?:.*_)?sub-[^_]+)(?=$|_[a-z]+-)",
    r"(\D*\d.*?)[_-](?:ses|session|visit|timepoint|time|week)[_-]?\d+(?:-\d+)?"
    rf"{_AFTER}",
    r"(\D*\d.*?)[_-](?:baseline|follow-?up|(?:pre|post)-?op)[_-]?\d*(?![a-z0-9])",
)
_UNIQUE = [re.compile(_BEFORE + known, re.IGNORECASE) for known in _IDENTIFIERS]
_KNOWN = _UNIQUE + [re.compile(known, re.IGNORECASE) for known in _NUMBERS]

# How identifiers begin, where that is not in capitals as their rest.
_SPELLINGS = {
    "brats-": "BraTS-",
    "bratsreg_": "BraTSReg_",
    **{f"brats1{year}_": f"Brats1{year}_" for year in (7, 8, 9)},
    "sub-brats": "sub-BraTS",
}

# Follow-ups that UCSF-PDGM had as patients of their own before its third release.
_SAME = {
    f"ucsf-pdgm-{other}": f"UCSF-PDGM-{first}"
    for other, first in (
        ("0138", "0429"),
        ("0175", "0396"),
        ("0181", "0409"),
        ("0278", "0431"),
        ("0289", "0391"),
        ("0315", "0433"),
    )
}

_MOST_SECONDS = 5  # of computing that a --patient_pattern may take for one name

ONE_EACH = "(.+)"  # a pattern by which every subject is a patient of its own


def is_known(name: str) -> bool:
    """Whether a name is of a collection whose names tell the patient."""
    return any(known.match(name) for known in _KNOWN)


def patient_of(name: str, pattern: str | None = None) -> str:
    """The patient of a subject.

    Args:
        name: of the subject.
        pattern: a regular expression that is searched for in the name, and whose one
            group is the patient. None, or where it does not fit: by the names of known
            collections. A name that fits nothing is a patient of its own.

    Raises:
        DataError: see `compiled`; or the pattern takes for ever on this name.
    """
    if pattern:
        found = _searched(pattern, name)
        if found and found[1]:
            return found[1]
    for known in _KNOWN:
        found = known.match(name)
        if found:
            return _spelled(found[1]) if known in _UNIQUE else found[1]
    return name


def _spelled(identifier):
    """As its collection spells it: copies of a release are found in other case."""
    lower = identifier.lower()
    if lower in _SAME:
        return _SAME[lower]
    for start, spelling in _SPELLINGS.items():
        if lower.startswith(start):
            return spelling + identifier[len(start) :].upper()
    return lower if lower.startswith("brats_tcia") else identifier.upper()


@functools.lru_cache
def compiled(pattern: str) -> re.Pattern:
    """A --patient_pattern; DataError where it is none, or has not exactly one group."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what later Pythons may read otherwise
            found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise DataError(
            f"--patient_pattern={pattern}: is no regular expression ({error}). Such as "
            r"'^(P\d+)_' is due, whose one group is the patient."
        ) from error
    if found.groups != 1:
        raise DataError(
            f"--patient_pattern={pattern}: has {found.groups} groups, and one is due, "
            r"which is the patient, such as '^(P\d+)_'; (?:...) counts as none."
        )
    return found


class _TooLong(Exception):
    """A search is at its limit."""


def _searched(pattern, name):
    """What a --patient_pattern finds in a name; DataError where it does not end.

    A pattern such as (a+)+b tries 2 ^ n ways through n letters.
    """
    found = compiled(pattern)
    try:
        with _limited(_MOST_SECONDS):
            return found.search(name)
    except _TooLong as error:
        raise DataError(
            f"--patient_pattern={pattern}: takes for ever on {name!a:.80}. Repeat "
            r"nothing that is itself repeated: (\d+) in place of ((?:\d+)+)."
        ) from error


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """_TooLong where what is within computes for longer.

    The timer counts computing, not waiting. Python's search looks for signals as it
    goes. They come to the main thread alone, and Windows has no such timer: there,
    there is no limit.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number, frame):
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def require_fitting(pattern: str | None, names: Iterable[str]) -> None:
    """DataError where a --patient_pattern finds no patient in any of the names."""
    names = list(names)
    if not pattern or not names:
        return
    finds = (_searched(pattern, name) for name in names)
    if not any(found and found[1] for found in finds):
        raise DataError(
            f"--patient_pattern={pattern}: fits none of {len(names)} subjects, such as "
            f"{names[0]}. Its group is to find the patient in these names."
        )


def by_patient(
    names: Iterable[str], pattern: str | None = None
) -> dict[str, list[str]]:
    """{patient: names of its subjects}, in the order in which they are given."""
    found = {}
    for name in names:
        found.setdefault(patient_of(name, pattern), []).append(name)
    return found


def shared(
    ones: Iterable[str], others: Iterable[str], *patterns: str | None
) -> list[tuple[str, str]]:
    """[(one, other)] of the names in `ones` whose patient `others` have, too.

    Args:
        ones, others: names of subjects; a name that is in both is itself its other.
        patterns: of either, by any of which two may be of one patient; see
            `patient_of`.
    """
    ones, others = list(ones), list(others)
    found = {name: name for name in ones if name in {*others}}
    for pattern in dict.fromkeys(patterns or (None,)):
        first = {patient_of(name, pattern): name for name in reversed(others)}
        for name in ones:
            other = first.get(patient_of(name, pattern))
            if other is not None:
                found.setdefault(name, other)
    return [(name, found[name]) for name in ones if name in found]


def described(pairs: Iterable[tuple[str, str]], most: int = 5) -> str:
    """Pairs of `shared` for messages: "a, b (of the patient of c)"."""
    shown = [
        one if one == other else f"{one} (of the patient of {other})"
        for one, other in pairs
    ]
    return ", ".join(shown[:most]) + ", ..." * (len(shown) > most)
