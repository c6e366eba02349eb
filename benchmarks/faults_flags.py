"""Values that flags should not have, for every flag of every script."""

from __future__ import annotations

from collections.abc import Iterator

from absl import flags

from benchmarks.faults_stages import STAGES
from brats_gan import flag_parsers
from tests import scripts

_NUMBERS = ("nan", "inf", "-inf", "-1", "1e400", "9" * 40, "", "text", "1x0", "½")
_TEXTS = ("text", "", "nan", "-1", "a,b", "1,,2", ":", "../..", b"\xff\xfe", "x" * 300)
_PATHS = ("", "{}/no/such", "{}/file", "{}", "{}/pipe", "x" * 300, b"\xff\xfe")
# Values that a command may take.
_CAN_BE_ANY = {
    *("run_dir", "output_dir", "cache_dir", "results"),  # made if need be
    *("json", "clear"),
}
_CAN_BE_EMPTY = {
    *("split", "layout", "init_from", "segmentor_run", "synthetic_dir"),
    *(
        "synthetic_dirs",
        "merge_labels",
        "drop_labels",
        "table",
        "experiment",
        "cache_dir",
        "results",
        "flagfile",
    ),
}


def _values(name, flag):
    """(value, whether it may be accepted)."""
    number = (flags.FloatParser, flags.IntegerParser, flag_parsers.StepsPerCall)
    if flag.boolean:
        yield from ((value, False) for value in ("", "text", "2", "nan"))
    elif isinstance(flag.parser, number):
        yield from ((value, False) for value in _NUMBERS)
        yield "0", True
    elif name.endswith(("_dir", "_run", "_dirs")) or name in (
        *("split", "init_from", "results", "spec"),
    ):
        for value in _PATHS:
            empty = value == "" and name in _CAN_BE_EMPTY
            yield value, empty or name in _CAN_BE_ANY
        yield "{}/structural", True
        yield "{}/synthetic", True
    else:
        for value in _TEXTS:
            yield value, value == "" and name in _CAN_BE_EMPTY


def all_flags() -> Iterator[tuple[str, str, object, bool]]:
    """(stage, flag, value, whether it may be accepted) of all scripts."""
    named = sorted({stage.script for stage in STAGES.values()})
    of_scripts = {name: scripts.flags_of(name) for name in named}
    for stage in ("structural", "multimodal", "dataset", "segmentation"):
        for name, flag in sorted(of_scripts[STAGES[stage].script].items()):
            for value, valid in _values(name, flag):
                yield stage, name, value, valid
    of_prepare = {
        "check": ("data_dir", "layout", "patient_pattern", "spec", "slices", "json"),
        "convert": ("data_dir", "output_dir", "layout", "spec"),
        "phantom": ("output_dir", "subjects", "seed", "spec"),
        "cache": ("cache_dir", "clear"),
    }
    mine = of_scripts["prepare_data.py"]
    for stage, names in of_prepare.items():
        for name in names:
            for value, valid in _values(name, mine[name]):
                if stage != "phantom" or not valid:
                    yield stage, name, value, valid
