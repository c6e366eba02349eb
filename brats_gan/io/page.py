"""The report of a check as one page that needs nothing beside it, with pictures.

Of every subject that has a problem or a note: the slice where its lesion is largest,
else the middle one, of every modality, with the outline of its label.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from brats_gan import figures, files, io, pages
from brats_gan.io.findings import Report, count
from brats_gan.lazy import ndimage

MOST = 60  # subjects with pictures, so that a browser still opens the page
_SIDE = 256  # most pixels of a picture's longer side
# What reading a damaged file can end in; whatever it is, the page says so in its place.
_FAILURES = (files.DataError, OSError, ValueError, MemoryError, EOFError)


class _Shown(NamedTuple):
    """What the page has of one subject."""

    name: str
    problems: list[str]
    notes: list[str]
    caption: str  # which slice it is, or why there is none
    pictures: list[tuple[str, str, str]]  # modality, inlined, or what went wrong


def write(report: Report, path: str | os.PathLike, most: int = MOST) -> None:
    """Writes the page, whole or not at all.

    One subject is read at a time, one slice of each file, and kept as a small PNG.

    Args:
        report: of checks.check.
        path: of the page.
        most: subjects that get pictures; the page says how many do not.

    Raises:
        DataError: it cannot be written. Files that cannot be read are no error.
    """
    named = {n for n, _ in (*report.problems, *report.notes) if n}
    values = {
        "report": report,
        "rows": report.rows() if report.subjects else [],
        "folder_problems": [m for n, m in report.problems if not n],
        "folder_notes": [m for n, m in report.notes if not n],
        "problems": count(len(report.problems), "problem"),
        "notes": count(len(report.notes), "note"),
        "subjects": _subjects(report, named, most),
        "hidden": max(0, len(named) - most),
        "most": most,
        "legend": [
            (name, f"rgb{_colour(value)}")
            for value, name in enumerate(report.spec.labels)
            if value
        ],
    }
    files.write_atomically(path, pages.render(_PAGE, _STYLE, values))


def _subjects(report, named, most) -> Iterator[_Shown]:
    """Those with problems first, by name; one at a time, as the page is written."""
    try:
        found = io.explore(
            report.data_dir, report.layout, report.spec, report.labelling
        ).subjects
    except _FAILURES:
        found = []  # the reason is among the problems of the folder
    on_disk = {subject.name: subject for subject in found}
    bad = {name for name, _ in report.problems}
    for name in sorted(named, key=lambda each: (each not in bad, each))[:most]:
        caption, pictures = "its files are not those of a whole subject", []
        if name in on_disk:
            caption, pictures = _pictures(report, on_disk[name])
        own = [
            [m for n, m in all if n == name] for all in (report.problems, report.notes)
        ]
        yield _Shown(name, *own, caption, pictures)


def _pictures(report, subject):
    """(caption, [(modality, inlined PNG, message)]) of one subject."""
    label, caption = None, "no label"
    depth = _depth(subject)
    first, stop = (0, depth) if subject.prepared else report.slices
    stop = min(stop, depth)
    first = min(first, max(0, stop - 1))
    index = (first + stop) // 2
    if subject.label is not None:
        try:
            grid = io.lps_grid(subject.label, io.read_header(subject.label))
            label = io.load_label(subject, None, grid)
            sizes = np.count_nonzero(label[first:stop], axis=(1, 2))
            if sizes.any():
                index = first + int(sizes.argmax())
            label = label[index]
            caption = "where the lesion is largest" if sizes.any() else "no lesion"
        except (*_FAILURES, IndexError) as error:
            label, caption = None, f"the label cannot be shown: {error}"
    pictures = []
    for modality, (path, channel) in subject.images.items():
        try:
            slices = index, index + 1
            volume, _ = io.load_volume(path, channel, slices)
            pictures.append((modality, _picture(volume[..., 0], label), ""))
        except _FAILURES as error:
            pictures.append((modality, "", str(error)))
    return f"slice {index}: {caption}", pictures


def _depth(subject):
    """Axial slices of the first file that says so; 1 where none does."""
    for path, _ in subject.images.values():
        try:
            return io.lps_grid(path, io.read_header(path)).shape[2]
        except _FAILURES:
            continue
    return 1


def _picture(image, label):
    """[H, W] of any values, and its label or None -> an inlined PNG.

    Black is the least value, so that what lies below 0 is seen as well.
    """
    image = np.nan_to_num(image.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(image.min()), float(np.percentile(image, 99.9))
    grey = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    shown = np.repeat(grey[..., None], 3, axis=2)
    if label is not None and label.shape == image.shape:
        for value in np.unique(label[label > 0]):
            mask = label == value
            shown[mask & ~ndimage.binary_erosion(mask)] = np.array(_colour(value)) / 255
    scale = min(1.0, _SIDE / max(image.shape))
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.shape[::-1])
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    return pages.inlined(pages.png(np.rint(shown * 255).astype(np.uint8)), "png")


def _colour(value):
    """Of a label, as in all sheets: (red, green, blue), 0 to 255."""
    from matplotlib import colors  # takes a second, and few ask for a page

    beyond = len(figures.LABEL_COLOURS) - 1
    name = figures.LABEL_COLOURS[1 + (int(value) - 1) % beyond]
    return tuple(round(255 * part) for part in colors.to_rgb(name))


_STYLE = """
figure { display: inline-block; margin: 4px; width: 256px; vertical-align: top; }
figure img { width: 256px; background: black; image-rendering: pixelated; }
figure p { width: 236px; padding: 10px; background: var(--box); }
.box { display: inline-block; width: 1em; height: 1em; margin: 0 4px 0 14px; }
.wide { overflow-x: auto; }
"""

_PAGE = """
{% block title %}Check of {{ report.data_dir }}{% endblock %}
{% block body %}
<h1>Check of {{ report.data_dir }}</h1>
<p><b>{{ "usable" if report.usable else "NOT usable" }}</b>: {{
problems }}, {{ notes }}.
Layout {{ report.layout or "not known" }}; slices {{ report.slices[0] }}:{{
report.slices[1] }}.</p>
<ul>{% for m in folder_problems %}<li class="problem">{{ m }}</li>{% endfor %}
{% for m in folder_notes %}<li class="note">{{ m }}</li>{% endfor %}</ul>
{% if rows %}<div class="wide"><table><tr>
{% for title in rows[0] %}<th>{{ title }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row.values() %}<td>{{
"-" if cell is none else cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
<h2>Subjects with a problem or a note</h2>
<p>Outlines:{% for name, colour in legend %}<span class="box" style="background:{{
colour }}"></span>{{ name }}{% endfor %}</p>
{% if hidden %}<p>{{ hidden }} more have no pictures: {{ most }} are shown, those with
problems first. The text that check prints has them all.</p>{% endif %}
{% for subject in subjects %}<section><h3>{{ subject.name }}</h3>
<ul>{% for m in subject.problems %}<li class="problem">{{ m }}</li>{% endfor %}
{% for m in subject.notes %}<li class="note">{{ m }}</li>{% endfor %}</ul>
<p>{{ subject.caption }}</p>
{% for modality, png, message in subject.pictures %}<figure>
<figcaption>{{ modality }}</figcaption>{% if png %}<img alt="{{ modality }} of {{
subject.name }}" src="{{ png }}">{% else %}<p>{{ message }}</p>{%
endif %}</figure>{% endfor %}</section>
{% else %}<p>None.</p>{% endfor %}
{% endblock %}
"""
