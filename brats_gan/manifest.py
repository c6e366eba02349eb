"""What a synthetic data set holds: manifest.csv, and a record of each volume.

The record of a volume has its rows of the manifest and digests of its files, so that
manifest and files are verified against each other: by stage 3, which makes again what
is not as it was made, and by stage 4, which refuses it.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from brats_gan import files
from brats_gan.spec import BRATS, Spec

if TYPE_CHECKING:
    from brats_gan import synthesis

MANIFEST = "manifest.csv"  # one row a sample, those left out included
PER_VOLUME = 50  # samples, as many as a real subject has slices
# Numbers of samples that a volume may draw where some are left out, from its position
# times this on; those of 99999 volumes stay below 2**32, as a seed's word has to.
NUMBERS = 40_000
RECORD = "samples.json"  # of a volume; its name begins with that of the volume
_AGAIN = "start its build_dataset.py command again, which makes it anew"

COLUMNS = (
    "id",
    "slice",
    "number",
    "seed",
    "label_subject",
    "lesion_pixels",
    "tries",
    "mae",
    "dice",
    "accepted",
    "rejected_structure",
    "rejected_label",
    "rejected_dice",
    "rejected_blank",
)
# Numbers, and whole numbers; "slice" is one too, where the sample was kept.
_SHARES = ("mae", "dice")
_COUNTS = tuple(
    name for name in COLUMNS if name not in ("id", "slice", "label_subject", *_SHARES)
)
# Those that a manifest may lack which was begun before they were there.
_LATER = frozenset({"rejected_blank"})


def row_of(
    sample: synthesis.Sample, volume_id: str, position: int | str, seed: int
) -> dict:
    """One line of manifest.csv, by COLUMNS."""
    values = (
        volume_id,
        position,
        sample.number,
        seed,
        sample.label_subject,
        int(np.count_nonzero(sample.label)),
        sample.tries,
        f"{sample.mae:.5f}",
        f"{sample.dice:.5f}",
        int(sample.accepted),
        sample.rejected_structure,
        sample.rejected_label,
        sample.rejected_dice,
        sample.rejected_blank,
    )
    return dict(zip(COLUMNS, values, strict=True))


def read(folder: str | Path) -> list[dict]:
    """The rows of manifest.csv, as written: {column: text}.

    Raises:
        DataError: it is not there, cut off, or not a manifest.
    """
    path = Path(folder, MANIFEST)
    rows, line = [], 1
    try:
        text = path.read_bytes().decode()
        reader = csv.DictReader(StringIO(text, newline=""), strict=True)
        if set(COLUMNS) - _LATER - set(reader.fieldnames or ()):
            raise ValueError("its header is missing")
        for row in reader:
            line = reader.line_num
            row = dict.fromkeys(_LATER, "0") | row
            _require_whole(row, _following(rows))
            rows.append({name: row[name] for name in COLUMNS})
        if not text.endswith("\n"):
            raise ValueError("it ends within this line")
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise files.DataError(
            f"{path}, line {line}: it was cut off or changed ({reason}); {_AGAIN}"
        ) from error
    return rows


def _following(rows):
    """The numbers that the next row may have: the next one, or behind a volume the
    first of the volume after, where that does not depend on what was left out."""
    if not rows:
        return ("0",)
    last = rows[-1]
    numbers = [str(int(last["number"]) + 1)]
    volume = last["id"].rpartition("-")[2]
    if volume.isdecimal() and last["slice"] == str(PER_VOLUME - 1):
        numbers.append(str(int(volume) * NUMBERS))
    return numbers


def _require_whole(row, numbers):
    """ValueError for a row that is not of a sample of one of `numbers`."""
    if None in row or None in row.values():
        raise ValueError("it has not as many fields as the header")
    if row["number"] not in numbers:
        raise ValueError(f"it is of sample {row['number']!r}, not {numbers[0]}")
    for name in (*_COUNTS, *_SHARES, *(["slice"] if row["id"] else [])):
        try:
            (float if name in _SHARES else int)(row[name])
        except ValueError as error:
            raise ValueError(f"its {name} is {row[name]!r}") from error


def write(folder: str | Path, rows: list[dict]) -> None:
    """Writes manifest.csv anew, whole or not at all.

    After the volumes, whose records have the same rows.
    """
    files.write_atomically(Path(folder, MANIFEST), _as_csv(rows).encode())


def _as_csv(rows):
    table = StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def write_record(
    output_dir: str | Path,
    volume_id: str,
    rows: list[dict],
    spec: Spec = BRATS,
    made_from: str | None = None,
) -> None:
    """Writes what a volume must be: its rows of the manifest, digests of its files.

    Args:
        output_dir: of the data set.
        volume_id: of a volume that is written.
        rows: of its samples, and of those that were left out before each of them.
        spec: of the data set.
        made_from: digest of what decides its samples, which other data sets differ in.
    """
    folder = Path(output_dir, volume_id)
    names = _file_names(volume_id, spec)
    content = {
        "columns": list(rows[0]),
        "rows": [[str(value) for value in row.values()] for row in rows],
        "files": {name: _digest_of(folder / name) for name in names},
        "made_from": made_from,
    }
    files.write_json(
        folder / f"{volume_id}_{RECORD}", {**content, "digest": _digest(content)}
    )


def _file_names(volume_id, spec):
    content = (*spec.modalities, "structure", "background", "seg")
    return [f"{volume_id}_{name}.nii.gz" for name in content]


def _digest_of(path):
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise files.DataError(f"{path}: {error.strerror}") from error


def _digest(content):
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def recorded(
    output_dir: str | Path, volume_id: str, made_from: str | None = None
) -> list[dict] | None:
    """The rows of a volume that is as its record says; None if it has no record.

    Raises:
        DataError: it is not, its record is damaged, or says that the volume was made
            from other than `made_from`; names the file.
    """
    folder = Path(output_dir, volume_id)
    path = folder / f"{volume_id}_{RECORD}"
    if not path.exists():
        return None
    try:
        content = files.read_json(path)
    except files.DataError as error:
        raise files.DataError(f"{path}: it is damaged") from error
    if content.pop("digest", None) != _digest(content):
        raise files.DataError(f"{path}: it has changed since it was made")
    theirs = content.get("made_from")
    if None not in (made_from, theirs) and theirs != made_from:
        raise files.DataError(
            f"{path}: it is of another data set, made by other models, of other labels "
            "or with other flags"
        )
    for name, digest in content["files"].items():
        if _digest_of(folder / name) != digest:
            raise files.DataError(f"{folder / name}: it has changed since it was made")
    return [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]


def volume_ids(samples: int) -> dict[str, int]:
    """{id: samples in it} of the volumes of a data set."""
    return {
        f"synth-{first // PER_VOLUME + 1:05d}": min(PER_VOLUME, samples - first)
        for first in range(0, samples, PER_VOLUME)
    }


def whole_volumes(
    output_dir: Path, samples: int, spec: Spec = BRATS, made_from: str | None = None
) -> dict[str, list[dict]]:
    """{id: rows} of the volumes that are there as they were made.

    The others are to be made again. What was damaged since is named in a warning; of
    what a killed process left unfinished nothing is said.

    Args:
        output_dir: of a data set of `samples`, begun or not.
        spec: of the data set.
        made_from: as of `write_record`; volumes made from something else are not whole.

    Raises:
        DataError: there are volumes that are not of this data set.
    """
    require_no_others(output_dir, volume_ids(samples), spec)
    named: dict[str, list[dict]] = {}
    if Path(output_dir, MANIFEST).exists():
        try:
            named = _by_volume(read(output_dir))
        except files.DataError as error:
            logging.warning("%s", str(error).replace(_AGAIN, "it is written anew"))
    whole = {}
    for volume_id, count in volume_ids(samples).items():
        try:
            rows = recorded(output_dir, volume_id, made_from)
            if rows is not None and named.get(volume_id, rows) != rows:
                logging.warning(
                    "%s: it says of %s what its record does not; it is written anew",
                    *(Path(output_dir, MANIFEST), volume_id),
                )
            if rows is None and volume_id in named:
                # Of a version that wrote none, or lost: whose the files are is unknown.
                raise files.DataError(
                    f"{Path(output_dir, volume_id, f'{volume_id}_{RECORD}')}: is gone"
                )
            if rows is not None:
                _require_rows(output_dir, volume_id, rows, count)
        except files.DataError as error:
            logging.warning("%s; %s is made again", str(error).rstrip("."), volume_id)
            continue
        if rows is not None:
            whole[volume_id] = rows
    return whole


def _by_volume(rows):
    """{volume id: its rows}; those that were left out belong to the sample after."""
    by_volume, left_out = {}, []
    for row in rows:
        left_out.append(row)
        if row["id"]:
            by_volume.setdefault(row["id"], []).extend(left_out)
            left_out = []
    return by_volume


def _require_rows(output_dir, volume_id, rows, count):
    """DataError for rows that are not of `count` samples of a volume, in order."""
    kept = [(row["id"], row["slice"]) for row in rows if row["id"]]
    if kept != [(volume_id, str(position)) for position in range(count)]:
        raise files.DataError(
            f"{Path(output_dir, MANIFEST)}: it has {len(kept)} samples of {volume_id} "
            f"where {count} are due"
        )


def bring_in_line(output_dir: Path, rows: list[dict]) -> None:
    """Writes manifest.csv anew if it has not these rows, those of the records."""
    path = Path(output_dir, MANIFEST)
    if not path.exists() or path.read_bytes() != _as_csv(rows).encode():
        write(output_dir, rows)


def require_no_others(folder: str | Path, ids: Iterable[str], spec: Spec) -> None:
    """DataError where there are volumes beside those of `ids`, which would be read."""
    ours = {
        f"{volume_id}/{name}"
        for volume_id in ids
        for name in _file_names(volume_id, spec)
    }
    for path in sorted(Path(folder).rglob("*")):
        is_volume = path.name.endswith((".nii", ".nii.gz", ".mha"))
        if (
            is_volume
            and path.name[0] != "."
            and path.relative_to(folder).as_posix() not in ours
        ):
            raise files.DataError(
                f"{path}: it is not of this data set, as far as its "
                "manifest and its length say; move it out of the folder"
            )


def require_as_made(
    folder: Path, samples: int | None, spec: Spec = BRATS, made_from: str | None = None
) -> None:
    """Verifies that manifest, records and volumes of a finished data set agree.

    Args:
        folder: of the data set.
        samples: that its description says it has; None where it says nothing.
        spec: of the data set.
        made_from: as its description has it, see `write_record`; None likewise.

    Raises:
        DataError: they do not; names the file and the remedy.
    """
    try:
        named = _by_volume(read(folder))
        for volume_id in named:
            for name in _file_names(volume_id, spec):
                if not (folder / volume_id / name).exists():
                    raise files.DataError(f"{folder / volume_id / name}: it is missing")
        kept = sum(bool(row["id"]) for rows in named.values() for row in rows)
        if samples not in (None, kept):
            raise files.DataError(
                f"{folder / MANIFEST}: it has {kept} samples, and {samples} were made"
            )
        for volume_id, rows in named.items():
            known = recorded(folder, volume_id, made_from)
            if known is None and made_from is not None:
                record = folder / volume_id / f"{volume_id}_{RECORD}"
                raise files.DataError(f"{record}: it is missing")
            if known is not None and known != rows:
                raise files.DataError(
                    f"{folder / MANIFEST}: it says of {volume_id} what its record does "
                    "not say"
                )
    except files.DataError as error:
        said = str(error).removesuffix(f"; {_AGAIN}")
        raise files.DataError(f"{said}; {_AGAIN}") from error
    require_no_others(folder, named, spec)
