"""Pages that need nothing beside them: one style, values escaped, pictures inlined.

Readable without a script, light or dark as the reader's system is, from 400 pixels of
width on.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from brats_gan import files

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ccc;
  --faint: #5c5c5c; --box: #f3f3f3; --bad: #a00; --link: #0645ad; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #161618;
  --line: #444; --faint: #a0a0a0; --box: #242428; --bad: #ff8a80; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { font: 15px/1.45 sans-serif; margin: 0 auto; padding: 1em; max-width: 1240px;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; } h3 { font-size: 1.05em; }
a { color: var(--link); }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: 2px 10px; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
section { border-top: 2px solid var(--line); margin-top: 1.5em; }
.problem { color: var(--bad); } .note { color: var(--faint); }
"""

_LAYOUT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %}</title>
<style>{% block style %}{% endblock %}</style></head><body>
{% block body %}{% endblock %}
</body></html>
"""


def require_path(flag: str, path: str | os.PathLike) -> None:
    """Finds out before the work whether a page can be written to a path.

    Args:
        flag: that names it.
        path: of the page.

    Raises:
        DataError: it does not end in .html, is a folder, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise files.DataError(f"--{flag}={path}: a name that ends in .html is due.")
    if path.is_dir():
        raise files.DataError(f"--{flag}={path}: is a folder. Name a file in it.")
    files.require_writable(path.parent)


def render(template: str, style: str, values: Mapping[str, Any]) -> bytes:
    """A page in UTF-8.

    Args:
        template: of Jinja2; its blocks are `title` and `body`.
        style: rules of the page beside those of all pages.
        values: of the template. Whatever they hold is text, never markup.
    """
    # Neither is a value, and quotes within them are not to be escaped.
    layout = _LAYOUT.replace("{% block style %}{% endblock %}", _STYLE + style)
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.DictLoader({"layout": layout}),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    whole = '{% extends "layout" %}' + template
    text = environment.from_string(whole).render(**values)
    return text.encode("utf-8", "backslashreplace")


def png(pixels: np.ndarray) -> bytes:
    """[H, W, 3] uint8 in RGB as a PNG."""
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def inlined(content: bytes, kind: str) -> str:
    """The `src` of a picture: its bytes within the page.

    Args:
        content: of a file.
        kind: "png", "jpeg" or "gif".
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def fitting(content: bytes, most: int, side: int = 1600) -> tuple[bytes, str] | None:
    """A picture that takes at most so many bytes: as it is, or smaller and coarser.

    Args:
        content: of a PNG.
        most: bytes.
        side: pixels of its longer side.

    Returns:
        (bytes, kind), or None: it is no picture, or there is no room even for a small
        one.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # of no bytes at all
        pixels = None
    if pixels is None:
        return None
    if len(content) <= most and max(pixels.shape) <= side:
        return content, "png"
    for share, quality in ((1.0, 88), (1.0, 75), (0.7, 75), (0.45, 70), (0.25, 60)):
        scale = min(1.0, share * side / max(pixels.shape))
        size = [max(1, round(scale * each)) for each in pixels.shape[1::-1]]
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        given = [cv2.IMWRITE_JPEG_QUALITY, quality]
        coarse = cv2.imencode(".jpg", small, given)[1].tobytes()
        if len(coarse) <= most:
            return coarse, "jpeg"
    return None
