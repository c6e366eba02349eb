"""A comparison of `leaks.py` as a line, and subjects read again from the data."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from absl import logging

from benchmarks.leaks_folders import Folder, load, place_of, source_of, subjects_of
from brats_gan import data, files
from brats_gan.data import records

OK, LEAK, UNPROVEN = "OK", "LEAK", "not provable"
SHOWN = 3  # names that a line has


class Line(NamedTuple):
    """One comparison."""

    verdict: str
    folder: Path
    what: str
    detail: str

    def __str__(self):
        return f"{self.verdict:12}  {self.folder}  {self.what}: {self.detail}"


def shortened(names):
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def followed(folders: list[Folder]) -> list[Folder]:
    """The folders, and those that they began from or were made by, if at hand."""
    known = {folder.path.resolve() for folder in folders}
    todo, found = list(folders), list(folders)
    while todo:
        folder = todo.pop(0)
        for what, place in folder.before:
            path = place_of(folder, what, place)
            if path is not None and path.resolve() not in known:
                known.add(path.resolve())
                found.append(load(path, given=False))
                todo.append(found[-1])
    return found


class Reader:
    """Subjects of folders, read again from where the data is."""

    def __init__(self, data_dirs, scratch):
        self._data_dirs, self.scratch = data_dirs, scratch
        self._found, self._sources, self._identities = {}, {}, {}

    def subjects(self, folder):
        """{name: io.Subject} of all whom the folder names, as far as they are found."""
        key = folder.path
        if key not in self._found:
            self._found[key] = {}
            for place in (None, *self._data_dirs):
                source = source_of(folder, place)
                if source is None:
                    continue
                if repr(source) not in self._sources:
                    try:
                        there = subjects_of(source)
                    except files.DataError as error:  # then it is not at hand
                        logging.warning("%s", error)
                        there = {}
                    self._sources[repr(source)] = there
                there = self._sources[repr(source)]
                named = {each.name for each in folder.claims} & there.keys()
                for name in named - self._found[key].keys():
                    self._found[key][name] = there[name]
        return self._found[key]

    def slices(self, subjects, way):
        """data.Slices of subjects, decoded to the scratch folder."""
        size, in_range = way
        return data.Slices(list(subjects), size, in_range, self.scratch)

    def identities(self, subjects, way):
        """{name: identity} of io.Subject, of what can be read at (size, slices)."""
        found = {}
        todo = []
        for subject in subjects:
            known = self._identities.get((_key(subject), way))
            if known is None:
                todo.append(subject)
            else:
                found[subject.name] = known
        if todo:
            read = records.of_files(todo)
            if all(way):
                with_label = [each for each in todo if each.label is not None]
                read |= self._seen(with_label, way)
            for subject in todo:
                self._identities[_key(subject), way] = read[subject.name]
            found |= read
        return found

    def _seen(self, subjects, way):
        if not subjects:
            return {}
        try:
            return records.of_slices(self.slices(subjects, way), subjects)
        except files.DataError:  # one of them has no such slices: each by itself
            if len(subjects) == 1:
                return {}
            half = len(subjects) // 2
            parts = subjects[:half], subjects[half:]
            return {n: x for part in parts for n, x in self._seen(part, way).items()}


def _key(subject):
    return tuple(sorted((role, str(p)) for role, p in records.paths(subject).items()))


def way_of(folder):
    record = folder.record or {}
    return record.get("image_size"), tuple(record.get("slices") or ())
