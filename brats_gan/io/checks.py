"""Checks a data folder before the first step: every bad subject, its file, the remedy.

Imports no TensorFlow, so that looking at a folder takes a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable

import nibabel as nib
import numpy as np

from brats_gan import files, io
from brats_gan.io import content, patients
from brats_gan.io.findings import Report, SubjectReport, count, times
from brats_gan.io.twins import twins
from brats_gan.spec import BRATS, Spec

_MAX_OUTSIDE = 0.1  # part of a lesion that may lie where no modality shows brain


def check(
    data_dir: str | os.PathLike,
    layout: str | None = None,
    slices: tuple[int, int] | None = None,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
    spec: Spec = BRATS,
    labelling: io.Labelling = io.AS_NAMED,
    patient_pattern: str | None = None,
) -> Report:
    """Looks at every subject of a folder, and raises nothing about the data.

    Args:
        data_dir: the folder.
        layout: one of io.LAYOUTS, None to recognise it.
        slices: half-open range of axial slices that is to be used; None: of the spec.
        quick: headers, labels and files that are there twice only, a few milliseconds
            a subject; otherwise every voxel of every file is decoded.
        progress: called with (subjects done, subjects) now and then.
        spec: what the data is to hold.
        labelling: how the labels are to be read.
        patient_pattern: see patients.patient_of.

    Returns:
        A `Report`.
    """
    slices = tuple(slices or spec.slices)
    how = spec, labelling, patient_pattern
    report = Report(str(data_dir), layout, slices, quick, *how)
    try:
        subjects, problems, notes = io.explore(data_dir, layout, *how)
    except files.DataError as error:
        report.problems.append(("", str(error)))
        return report
    report.problems += problems
    report.notes += notes
    if subjects:
        report.layout = subjects[0].layout
    seen = {}  # digest of an image -> (subject, modality) it was first met as
    for done, subject in enumerate(subjects, 1):
        report.subjects.append(_Check(report, subject, seen).run())
        if progress:
            progress(done, len(subjects))
    if quick:  # otherwise voxels are compared, which shows the same and more
        report.problems += twins(subjects)
    _note_the_whole(report)
    return report


def require_usable(
    data_dir: str | os.PathLike,
    layout: str | None = None,
    slices: tuple[int, int] | None = None,
    spec: Spec = BRATS,
    labelling: io.Labelling = io.AS_NAMED,
) -> Report:
    """The quick check as training scripts run it: DataError with every problem."""
    report = check(data_dir, layout, slices, quick=True, spec=spec, labelling=labelling)
    if not report.usable:
        raise files.DataError(
            f"{io.first_of(report.problems)}\n"
            f"{data_dir}: not usable; `python prepare_data.py check` says more, and "
            "--nocheck trains all the same."
        )
    return report


class _Check:
    """The checks of one subject, each adding to the report and going on."""

    def __init__(self, report, subject, seen):
        self.report, self.subject, self.seen = report, subject, seen
        # A prepared subject has its slices cut already.
        self.slices = None if subject.prepared else report.slices
        self.found = SubjectReport(subject.name, subject.patient)
        self.failed = False

    def run(self):
        """Looks at everything that can still be looked at; returns what was found."""
        grid = self.headers()
        label = self.label(grid) if grid else None
        if not (self.failed or self.report.quick):
            self.voxels(label)
        return self.found

    @contextlib.contextmanager
    def noting(self):
        """A DataError inside becomes a problem of the subject, listed once."""
        try:
            yield
        except files.DataError as error:
            self.problem(error)

    def problem(self, message):
        self.failed = True
        entry = (self.subject.name, str(message))
        if entry not in self.report.problems:
            self.report.problems.append(entry)

    def note(self, message):
        self.report.notes.append((self.subject.name, message))

    def headers(self):
        """Reads and compares the headers of the images; returns the first `Grid`."""
        first, apart = None, []
        for modality, (path, channel) in self.subject.images.items():
            with self.noting():
                header = io.read_header(path)
                io.require_channel(path, header, channel)
                grid = io.lps_grid(path, header)
                io.require_slices(path, grid.shape[2], self.slices)
                if first is None:
                    first, named = grid, modality
                    self.describe(header, grid)
                if grid.shape != first.shape:
                    apart.append((modality, grid))
                else:
                    io.require_same_grid(first, grid)
        if len(apart) > 1:  # raw scans: one problem of the subject
            self.problem(content.unregistered([(named, first), *apart]))
        elif apart:
            with self.noting():
                io.require_same_grid(first, apart[0][1])
        return first

    def describe(self, header, grid):
        spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
        self.found.shape = grid.shape
        self.found.spacing = tuple(round(float(step), 3) for step in spacing)
        self.found.axes = "".join(nib.aff2axcodes(header.affine))
        if not header.oriented:
            self.found.axes = "?"
            self.note(
                f"{grid.path}: no orientation in the header; taken as LPS, as BraTS "
                "stores it. Look at a slice, or set the affine."
            )
        if np.abs(spacing - 1).max() > 0.01:
            self.note(
                f"{grid.path}: voxels of {times(self.found.spacing)} mm, and the crop "
                f"is {self.report.spec.crop} pixels whatever their size. Resample to "
                "1 mm."
            )

    def label(self, grid):
        """Reads and counts the label; returns [S, H, W] or None."""
        if self.subject.label is None:
            self.note("no label file: all stages of training need one. Add it.")
            return None
        label = None
        with self.noting():
            label = io.load_label(self.subject, None, grid)
            names = self.report.spec.labels
            counts = [_voxels(label == i) for i in range(len(names))]
            named = zip(names[1:], counts[1:], strict=True)
            self.found.labels = dict(named)
            lesion = label[self.span()].any((1, 2))
            self.found.lesion_slices = _voxels(lesion)
            if not lesion.any():
                where = "in range" if any(counts[1:]) else "anywhere"
                self.note(f"{self.subject.label}: no lesion {where}.")
        return label

    def span(self):
        return slice(None) if self.slices is None else slice(*self.slices)

    def voxels(self, label):
        """Decodes every voxel of the images."""
        self.found.negative, self.found.nonfinite = {}, {}
        shown, places, brain = {}, {}, False
        for path, wanted in io.images_by_file(self.subject).items():
            with self.noting():
                channels = [channel for _, channel in wanted]
                volumes, _ = io.load_channels(path, channels)
                for (modality, _), volume in zip(wanted, volumes, strict=True):
                    volume = volume.transpose(2, 0, 1)
                    self.count(path, modality, volume)
                    in_range = volume[self.span()]
                    brain |= in_range > 0
                    with self.noting():
                        outline = io.silhouette(path, modality, in_range)
                        shown[modality] = content.kept(in_range, outline)
                        places[modality] = path
        if self.failed:
            return
        blank = _voxels(~brain.any((1, 2)))
        self.found.blank_slices = blank
        if blank:
            self.note(f"{count(blank, 'slice')} in range without brain; left out.")
        self.compare(shown, places)
        if label is not None:
            self.compare_label(label[self.span()] > 0, brain)

    def count(self, path, modality, volume):
        """Voxels below zero and not finite, and whether the image was met before."""
        self.found.negative[modality] = _voxels(volume < 0)
        nonfinite = 0
        if volume.dtype.kind == "f":
            nonfinite = _voxels(~np.isfinite(volume))
        self.found.nonfinite[modality] = nonfinite
        if nonfinite:
            self.note(f"{path}: {modality} has {nonfinite} voxels that are not finite.")
        digest = hashlib.blake2b(np.ascontiguousarray(volume)).digest()
        this = (self.subject.name, modality)
        first = self.seen.setdefault(digest, this)
        if first != this:
            self.problem(
                f"{path}: {modality} is the same image as {first[1]} of {first[0]}. "
                "Put the right file in its place, or remove the copy."
            )

    def compare(self, shown, places):
        """Finds modalities that do not fit: {modality: content.Voxels}, their files."""
        for modality, message in content.copies(shown):
            self.problem(f"{places[modality]}: {message}")
        if self.subject.spec.zero_background and not self.subject.prepared:
            message = content.not_stripped(shown)
            if message is not None:
                self.note(message)
        for modality, message, is_problem in content.outlines(shown):
            say = self.problem if is_problem else self.note
            say(f"{places[modality]}: {message}")
        for modality, message in content.slices_missing(shown):
            self.note(f"{places[modality]}: {message}")

    def compare_label(self, lesion, brain):
        """Finds a label that belongs to another brain, or is of no lesion."""
        if not self.subject.prepared:
            with self.noting():
                io.require_lesions(self.subject.label, lesion, brain)
        outside = _voxels(lesion & ~brain)
        if not outside:
            return
        share = outside / _voxels(lesion)
        message = (
            f"{self.subject.label}: {outside} lesion voxels in range ({share:.0%}) lie "
            "outside the brain."
        )
        if share > _MAX_OUTSIDE:
            self.problem(
                f"{message} Look for the label of another subject or flipped axes."
            )
        else:
            self.note(message)


def _note_the_whole(report):
    """What only shows over all subjects."""
    found = report.subjects
    if len(found) == 1:
        report.notes.append(("", "one subject: a split into train and test needs two."))
    elif len(report.visits) == 1:
        message = (
            f"{len(found)} subjects of one patient: a split into train and test needs "
            "two. If they are not one, tell them apart by --patient_pattern="
            f"'{patients.ONE_EACH}'."
        )
        report.notes.append(("", message))
    labelled = [subject for subject in found if subject.labels is not None]
    if labelled and not any(subject.lesion_slices for subject in labelled):
        report.notes.append(("", "no subject has a lesion in range."))
    if report.spec.labels == BRATS.labels and not report.labelling.convention:
        there = {
            value
            for value, name in enumerate(BRATS.labels)
            if value and any(subject.labels[name] for subject in labelled)
        }
        report.notes += [("", said) for said in io.ambiguities(report.layout, there)]


def _voxels(mask):
    return int(np.count_nonzero(mask))  # a plain int, which JSON knows
