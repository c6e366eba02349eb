"""The form of records, and of what descriptions say of subjects beside them.

A digest in a file tells that it was changed; one without, as older versions wrote them,
can hold anything, and what reads it should not have to ask at each place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def is_names(value: Any) -> bool:
    """Whether a value of JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def is_record(value: Any) -> bool:
    """Whether a value of JSON has all that is read of a record, see records."""
    if not isinstance(value, dict):
        return False
    split, subjects, slices = (value.get(x) for x in ("split", "subjects", "slices"))
    if not isinstance(split, dict) or not isinstance(subjects, dict):
        return False
    pattern = split.get("patient_pattern")
    return (
        all(is_names(split.get(side)) for side in ("train", "test"))
        and (pattern is None or isinstance(pattern, str))
        and isinstance(value.get("image_size"), int)
        and isinstance(slices, list)
        and [type(each) for each in slices] == [int, int]
        and all(map(_is_identity, subjects.values()))
    )


def _is_identity(value):
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        return False
    seen = [value.get(name, False) for name in ("images", "label")]  # None: unknown
    return all(isinstance(each, str) for each in value["files"].values()) and all(
        each is None or isinstance(each, str) for each in seen
    )


def _is_before(value):
    """Whether it says of weights, or of synthetic data, what they have seen."""
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and is_names(value.get("training_subjects", []))
        and _are_records(value.get("inputs", []))
    )


def _are_records(value):
    return isinstance(value, list) and all(map(is_record, value))


_SAID: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("training_subjects", "TrainingSubjects", "HeldOutSubjects"), is_names
    ),
    # The record itself, or its fingerprint where it lies beside.
    "inputs": lambda value: value is None or isinstance(value, str) or is_record(value),
    "Inputs": is_record,
    "ModelInputs": is_record,
    "SeenInputs": _are_records,
    "initialised_from": _is_before,
    "synthetic_from": _is_before,
}


def odd(content: Mapping[str, Any]) -> str | None:
    """The entry of a description, of an export, weights or a data set, that says of
    subjects what none of them could have said; None where there is none such."""
    wrong = (k for k, is_so in _SAID.items() if k in content and not is_so(content[k]))
    return next(wrong, None)
