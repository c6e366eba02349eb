"""What was found out about a data folder, and how it is shown: text, or JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from brats_gan import io
from brats_gan.io import patients
from brats_gan.spec import BRATS, Spec


@dataclasses.dataclass
class SubjectReport:
    """What was found out about one subject; None where it was not looked at."""

    name: str
    patient: str  # whose visit it is
    shape: tuple[int, int, int] | None = None  # (W, H, S), in LPS
    spacing: tuple[float, ...] | None = None  # mm, in LPS
    axes: str | None = None  # as stored, such as "LPS"; "?" where no file says
    # Of the whole volume: name of each lesion label -> voxels.
    labels: dict[str, int] | None = None
    lesion_slices: int | None = None  # in range
    blank_slices: int | None = None  # in range, no modality positive
    negative: dict[str, int] | None = None  # modality -> voxels, whole volume
    nonfinite: dict[str, int] | None = None  # modality -> voxels, whole volume


@dataclasses.dataclass
class Report:
    """What `check` found. Problems make a folder unusable, notes do not."""

    data_dir: str
    layout: str | None
    slices: tuple[int, int]
    quick: bool
    spec: Spec = BRATS
    labelling: io.Labelling = io.AS_NAMED
    patient_pattern: str | None = None
    subjects: list[SubjectReport] = dataclasses.field(default_factory=list)
    # Both are of (subject, message).
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    notes: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether nothing is wrong with the folder."""
        return not self.problems

    @property
    def visits(self) -> dict[str, list[str]]:
        """{patient: names of his subjects}."""
        names = [subject.name for subject in self.subjects]
        return patients.by_patient(names, self.patient_pattern)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, and whether the folder is usable."""
        content = dataclasses.asdict(self)
        content["spec"] = self.spec.as_dict()
        for kind in ("problems", "notes"):
            pairs = content[kind]
            content[kind] = [{"subject": s, "message": m} for s, m in pairs]
        return {"usable": self.usable, "patients": len(self.visits), **content}

    def as_text(self) -> str:
        """The table, then what is wrong, then what to know."""
        lines = []
        if self.subjects:
            subjects = count(len(self.subjects), "subject")
            what = "headers and labels" if self.quick else "every voxel"
            first, stop = self.slices
            lines = [
                f"{self.data_dir}: {subjects} of layout {self.layout}, "
                f"with {', '.join(self.spec.modalities)}; {what} read",
                _visits(self.visits),
                f"Slices are counted in range {first}:{stop}, voxels everywhere.",
                "",
                *_table(self.rows()),
                "",
            ]
        for title, pairs in (("Problems", self.problems), ("Notes", self.notes)):
            if pairs:
                lines.append(f"{title}:")
                lines += [f"  {s}: {m}" if s else f"  {m}" for s, m in pairs]
                lines.append("")
        verdict = "usable" if self.usable else "NOT usable"
        found = [count(len(self.problems), "problem"), count(len(self.notes), "note")]
        lines.append(f"{verdict}: {', '.join(found)}")
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """Of the table, {column: value}; whose visits only where someone has two."""
        rows = [_row(subject, self.spec) for subject in self.subjects]
        if len(self.visits) == len(rows):
            for row in rows:
                del row["patient"]
        return rows


def _visits(visits):
    """A sentence on {patient: names of his subjects}."""
    subjects = count(sum(map(len, visits.values())), "subject")
    several = [patient for patient, names in visits.items() if len(names) > 1]
    if not several:
        return (
            f"{subjects}, each a patient of its own by its name; if some are visits of "
            "one, say how their names tell it (--patient_pattern)."
        )
    shown = ", ".join(visits[several[0]][:3])
    have = "has" if len(several) == 1 else "have"
    return (
        f"{subjects} of {count(len(visits), 'patient')} ({len(several)} {have} more "
        f"than one visit, such as {several[0]}: {shown}); a split keeps them together."
    )


# --- The table ------------------------------------------------------------------------


def _row(subject, spec):
    """Column title -> text, of one subject."""
    labels = subject.labels or dict.fromkeys(spec.labels[1:])
    return {
        "subject": subject.name,
        "patient": subject.patient,
        "shape": subject.shape and times(subject.shape),
        "mm": subject.spacing and times(subject.spacing),
        "axes": subject.axes,
        **labels,
        "lesion slices": subject.lesion_slices,
        "blank": subject.blank_slices,
        "negative": _total(subject.negative),
        "not finite": _total(subject.nonfinite),
    }


def _total(counts):
    return None if counts is None else sum(counts.values())


def _table(rows):
    """List of {title: value} -> aligned lines; a value not looked at is a dash."""
    cells = [list(rows[0])]
    cells += [["-" if v is None else str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def times(numbers: Iterable[float]) -> str:
    """Lengths of axes as text, such as "240 x 240 x 155"."""
    return " x ".join(f"{number:g}" for number in numbers)


def count(number: int, noun: str) -> str:
    """A number of things as text, such as "1 slice" and "2 slices"."""
    return f"{number} {noun}{'s' * (number != 1)}"
