"""What a report is made of, and how that becomes one page that is never too large."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from brats_gan import files, pages
from brats_gan.report.curves import Panel

MOST = 5_000_000  # bytes of a page
_PICTURES = 3_400_000  # bytes of all pictures of a page before they are inlined
_NAMES = 400  # of subjects that a page lists
_ROWS = 400  # of a table that a page shows


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    bad: bool = False  # whether something is wrong


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts under a head; the first cell of a row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False  # whether it is opened by who wants to see it


@dataclasses.dataclass(frozen=True)
class Names:
    """A list that is opened by who wants to see it."""

    caption: str
    names: Sequence[str]
    where: str  # all of them are, where there are too many for a page


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, and what it shows, for those who do not see it."""

    caption: str
    alt: str
    content: bytes  # of a PNG, or of a GIF, which is shown as it is


@dataclasses.dataclass(frozen=True)
class Side:
    """Blocks beside each other, where there is room."""

    blocks: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Curves:
    """Panels of curves, with what the colours are where there are several."""

    panels: Sequence[Panel]
    legend: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: Sequence[Any]


def number(value: Any) -> str:
    """A value of JSON in a cell: numbers with four digits, nothing as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {number(each)}" for name, each in value.items())
    return str(value)


def by_row(
    caption: str, found: Mapping[str, Any], first: str = "", folded: bool = False
) -> Table:
    """A table of {row: {column: value}} or {row: value}."""
    columns = list(
        dict.fromkeys(
            name for row in found.values() if isinstance(row, dict) for name in row
        )
    )
    rows = [
        [str(name), *(number(row.get(column)) for column in columns)]
        if isinstance(row, dict)
        else [str(name), number(row), *("" for _ in columns[1:])]
        for name, row in found.items()
    ]
    return Table(caption, [first, *map(str, columns or ["value"])], rows, folded)


def page(title: str, lead: Sequence[Any], sections: Iterable[Section]) -> bytes:
    """A report as HTML of less than MOST bytes; pictures give way where it must be.

    Args:
        title: of it.
        lead: blocks above the sections.
        sections: those without blocks are left out.

    Raises:
        DataError: it is too large without any picture.
    """
    sections = [each for each in sections if each.blocks]
    for share in (1.0, 0.6, 0.3, 0.1, 0.0):
        content = _rendered(title, lead, sections, share)
        if len(content) < MOST:
            return content
    raise files.DataError(
        f"{title}: its report would be of {len(content)} bytes, and {MOST} are the "
        "most; give fewer folders."
    )


def _rendered(title, lead, sections, share):
    pictures = [b for each in sections for b in _flat(each.blocks) if _is_picture(b)]
    most = int(share * _PICTURES / max(1, len(pictures)))

    def source(block):
        if block.content[:3] == b"GIF":
            return (
                pages.inlined(block.content, "gif")
                if len(block.content) <= most
                else None
            )
        found = pages.fitting(block.content, most)
        return found and pages.inlined(*found)

    anchors = [f"part-{number}" for number in range(len(sections))]
    values = {
        "title": title,
        "lead": lead,
        "sections": list(zip(anchors, sections, strict=True)),
        "source": source,
        "kind": lambda block: type(block).__name__,
        "most_names": _NAMES,
        "most_rows": _ROWS,
    }
    return pages.render(_TEMPLATE, _STYLE, values)


def _is_picture(block):
    return isinstance(block, Picture)


def _flat(blocks):
    for block in blocks:
        yield from _flat(block.blocks) if isinstance(block, Side) else (block,)


# Told apart also where colours are not: by those who see few of them, on both grounds.
_COLOURS = ("#0a7abf", "#d1580c", "#2c9553", "#b0468f", "#8a7500", "#6a67d4")
_COLOURS += ("#c0392b", "#4f8a8b", "#8d6e63", "#7d7d7d", "#b8860b", "#3f51b5")

_STYLE = """
.wide { overflow-x: auto; margin: .3em 0 1em; }
.above { color: var(--faint); font-size: 13px; margin: .8em 0 0; }
th[scope=row] { font-weight: normal; }
summary { cursor: pointer; margin: .5em 0; }
nav a { margin-right: 1em; white-space: nowrap; }
figure { margin: .6em 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 3px; }
figcaption { color: var(--faint); font-size: 13px; }
.side { display: flex; flex-wrap: wrap; gap: 1em; }
.side > div { flex: 1 1 340px; min-width: 0; }
.curves { display: grid; gap: 10px;
  grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); }
.curves figure { margin: 0; background: var(--box); padding: 6px; border-radius: 3px; }
.curves svg { display: block; width: 100%; height: 90px; }
.curves figcaption { color: var(--ink); font-size: 12px; overflow-wrap: anywhere; }
.ends { display: flex; justify-content: space-between; font-size: 11px;
  color: var(--faint); }
polyline { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.key { margin-left: 10px; }
@media (prefers-color-scheme: dark) { polyline, .key { filter: brightness(1.5); } }
""" + "".join(f".c{n} {{ stroke: {c}; color: {c}; }}\n" for n, c in enumerate(_COLOURS))

_TEMPLATE = """
{% macro show(block) %}
{% set of = kind(block) %}
{% if of == "Text" %}
<p{% if block.bad %} class="problem"{% endif %}>{{ block.text }}</p>
{% elif of == "Table" %}
{% if block.folded %}<details><summary>{{ block.caption }}</summary>
{% else %}<p class="above">{{ block.caption }}</p>{% endif %}
<div class="wide" role="region" tabindex="0" aria-label="{{ block.caption }}"><table>
<thead><tr>{% for name in block.head %}<th scope="col">{{ name }}</th>{% endfor %}
</tr></thead><tbody>
{% for row in block.rows[:most_rows] %}<tr>{% for cell in row %}{% if loop.first %}
<th scope="row">{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% if block.rows[most_rows:] %}<p class="note">{{ block.rows[most_rows:] | length }}
more rows are not shown.</p>{% endif %}
{% if block.folded %}</details>{% endif %}
{% elif of == "Names" %}
<details><summary>{{ block.caption }}</summary>
<p>{{ block.names[:most_names] | join(", ") }}{% if block.names[most_names:] %} and {{
block.names[most_names:] | length }} more, in {{ block.where }}{% endif %}</p></details>
{% elif of == "Picture" %}
{% set src = source(block) %}
{% if src %}<figure><img alt="{{ block.alt }}" src="{{ src }}">
<figcaption>{{ block.caption }}</figcaption></figure>
{% else %}<p class="note">Too large for this page, or not readable: {{
block.caption }}</p>{% endif %}
{% elif of == "Side" %}
<div class="side">{% for each in block.blocks %}<div>{{ show(each) }}</div>{% endfor %}
</div>
{% elif of == "Curves" %}
{% if block.legend %}<p>{% for name in block.legend %}
<span class="key c{{ loop.index0 % 12 }}">&#9632;</span> {{ name }}{% endfor %}</p>
{% endif %}
<div class="curves">{% for panel in block.panels %}
<figure><figcaption>{{ panel.name }}{% if panel.last %} <b>{{ panel.last }}</b>{%
endif %}</figcaption>
<svg viewBox="0 0 {{ panel.width }} {{ panel.height }}" preserveAspectRatio="none"
role="img" aria-label="{{ panel.said }}">{% for points in panel.lines %}{% if points %}
<polyline class="c{{ loop.index0 % 12 }}" points="{{ points }}"/>{% endif %}{% endfor %}
</svg><div class="ends"><span>{{ panel.low }} to {{ panel.high }}</span><span>{{
panel.steps }}</span></div></figure>{% endfor %}</div>
{% endif %}
{% endmacro %}
{% block title %}{{ title }}{% endblock %}
{% block body %}
<header><h1>{{ title }}</h1>
{% for block in lead %}{{ show(block) }}{% endfor %}
<nav aria-label="Sections">{% for anchor, section in sections %}
<a href="#{{ anchor }}">{{ section.title }}</a>{% endfor %}</nav></header>
<main>{% for anchor, section in sections %}
<section id="{{ anchor }}"><h2>{{ section.title }}</h2>
{% for block in section.blocks %}{{ show(block) }}{% endfor %}</section>
{% endfor %}</main>
{% endblock %}
"""
