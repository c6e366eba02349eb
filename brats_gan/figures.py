"""Sheets of slices, as PNG and for TensorBoard. Knows nothing of the method."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO

import cv2
import numpy as np
import PIL.Image
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from brats_gan import files
from brats_gan.lazy import ndimage

LABEL_COLOURS = ("black", "crimson", "gold", "deepskyblue", "limegreen", "orchid")
LABEL_COLOURS += ("darkorange", "aquamarine", "slateblue", "olive", "hotpink")
_LABEL_MAP = colors.ListedColormap(LABEL_COLOURS)


def sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[str],
    path: str | os.PathLike | None = None,
    row_titles: Sequence[str] | None = None,
    label_columns: Collection[str] = (),
    cell_inches: float = 1.3,
) -> np.ndarray:
    """Draws rows of slices under column titles.

    Args:
        rows: lists of [H, W] arrays, images in [0, 1]; None leaves a cell empty.
        titles: one a column.
        path: PNG to write, or None.
        row_titles: one a row, or None.
        label_columns: titles whose arrays are labels, drawn in LABEL_COLOURS; those
            beyond its end begin again with the first lesion's.

    Returns:
        [H, W, 3] uint8.
    """
    figure = Figure(
        (cell_inches * len(titles), cell_inches * len(rows) + 0.3), facecolor="black"
    )
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, line in enumerate(rows):
        for column, title in enumerate(titles):
            axis = axes[row, column]
            axis.axis("off")
            image = line[column]
            if row == 0:
                axis.set_title(title, color="white", fontsize=9)
            if image is None:
                continue
            if title in label_columns:
                shown = _coloured(np.asarray(image))
                axis.imshow(shown, cmap=_LABEL_MAP, vmin=-0.5, vmax=_LABEL_MAP.N - 0.5)
            else:
                axis.imshow(image, cmap="gray", vmin=0.0, vmax=1.0)
        if row_titles:
            axes[row, 0].text(
                -0.05,
                0.5,
                row_titles[row],
                color="white",
                fontsize=7,
                rotation=90,
                ha="right",
                va="center",
                transform=axes[row, 0].transAxes,
            )
    figure.subplots_adjust(
        0.03, 0.01, 0.99, 1.0 - 0.3 / figure.get_figheight(), 0.03, 0.03
    )
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if path is not None:
        _save(figure, path)
    return pixels


def planes(
    volumes: Sequence[tuple[str, np.ndarray, np.ndarray]],
    titles: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draws an axial, a coronal and a sagittal plane of each volume, label outlined.

    Planes go through the middle of the label, or of the volume where there is none,
    and show no more than the box of what is not 0.

    Args:
        volumes: (name, images [M, S, H, W] in [0, 1], label [S, H, W]) of each.
        titles: of the M contrasts.
        path: PNG to write.
    """
    boxes = [
        ndimage.find_objects(images.any(0).astype(int))[0] for _, images, _ in volumes
    ]
    shapes = [[part.stop - part.start for part in box] for box in boxes]
    widest = max(max(shape[1:]) for shape in shapes)
    inch = 2.0 / widest  # a voxel
    titled = 0.35 / inch  # a row of its own, or titles would lie on the plane above
    heights = [n for depth, rows, _ in shapes for n in (titled, rows, depth, depth)]
    figure = Figure((2.0 * len(titles), inch * sum(heights)), facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        *(4 * len(volumes), len(titles)),
        squeeze=False,
        height_ratios=heights,
    )
    figure.subplots_adjust(0.01, 0.005, 0.99, 1.0, 0.03, 0.02)
    for axis in axes.ravel():
        axis.axis("off")
    for number, (name, images, label) in enumerate(volumes):
        images, label = images[(slice(None), *boxes[number])], label[boxes[number]]
        shows = np.argwhere(label if label.any() else images.any(0))
        centre = shows.mean(0).round().astype(int)
        for plane in range(3):
            seen = np.take(label, centre[plane], plane)
            row = axes[4 * number + 1 + plane]
            # Above is up: slices are counted from below.
            turn = slice(None) if plane == 0 else slice(None, None, -1)
            for axis, image in zip(row, images, strict=True):
                image = np.take(image, centre[plane], plane)
                axis.imshow(image[turn], cmap="gray", vmin=0.0, vmax=1.0)
                if seen.any() and min(seen.shape) > 1:
                    axis.contour(seen[turn] > 0, [0.5], colors="gold", linewidths=0.6)
        for axis, title in zip(axes[4 * number], titles, strict=True):
            axis.text(
                *(0.5, 0.3, f"{name} {title}"),
                **{"color": "white", "fontsize": 8, "ha": "center", "va": "center"},
            )
    _save(figure, path)


def _coloured(label):
    """Index of each label's colour: 0 is nothing, the others go round."""
    return np.where(label > 0, (label - 1.0) % (len(LABEL_COLOURS) - 1) + 1, 0)


def loss_curves(log_path: str | os.PathLike, path: str | os.PathLike) -> None:
    """Draws every loss of a losses.jsonl, a panel each, and writes it to `path`.

    A term that is switched off, and 0 throughout, is left out.
    """
    lines = files.read_lines(log_path)
    if not lines:
        return
    # A phase of a run may have losses of its own.
    known = sorted({name for line in lines for name in line} - {"step", "seconds"})
    names = [name for name in known if any(line.get(name) for line in lines)]
    columns = 5
    height = -(-len(names) // columns)
    figure = Figure((2.6 * columns, 1.7 * height))
    FigureCanvasAgg(figure)
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*points, strict=True), linewidth=0.8)
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
    for axis in axes[len(names) :]:
        axis.axis("off")
    figure.tight_layout()
    _save(figure, path)


def comparison(
    rows: Sequence[Mapping[str, float | None]],
    labels: Sequence[str],
    measures: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draws each measure of a table, a panel each: the paper's, our best, our mean.

    Args:
        rows: dicts with "paper M", "best M", "M" and "M sd" for every measure M; None
            is left out.
        labels: one a row.
        measures: names M.
        path: PNG to write.
    """
    figure = Figure((3.0 + 0.35 * len(rows), 2.6 * len(measures)))
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(measures), 1, squeeze=False, sharex=True).ravel()
    at = np.arange(len(rows))
    for axis, measure in zip(axes, measures, strict=True):
        paper, best, mean, sd = (
            np.array([row[name] for row in rows], float)  # None becomes nan
            for name in (
                f"paper {measure}",
                f"best {measure}",
                measure,
                f"{measure} sd",
            )
        )
        axis.plot(at, paper, "_", color="black", markersize=12, label="paper")
        axis.plot(at - 0.15, best, "^", color="gold", label="ours, best")
        axis.errorbar(
            at + 0.15,
            mean,
            np.nan_to_num(sd),
            fmt="o",
            color="deepskyblue",
            label="ours, mean and sd",
        )
        axis.set_ylabel(measure)
        axis.set_xticks(at, labels, fontsize=7)
        axis.grid(axis="y", linewidth=0.4)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    _save(figure, path)


def _save(figure, path):
    content = BytesIO()
    figure.savefig(content, format="png", facecolor=figure.get_facecolor(), dpi=100)
    files.write_atomically(path, content.getbuffer())


def scroll(
    volumes: Sequence[tuple[np.ndarray, np.ndarray]],
    path: str | os.PathLike,
    seconds: float = 0.12,
    pixels: int = 112,
) -> None:
    """Writes an animation through the slices of volumes, from below.

    A row a volume, a column a contrast; the label is outlined. Slices are those in
    which any volume shows brain.

    Args:
        volumes: (images [M, S, H, W] in [0, 1], label [S, H, W]) of each, of one shape.
        path: GIF to write.
        seconds: that a slice is shown.
        pixels: of the longer side of a slice.
    """
    shows = np.logical_or.reduce([images.any(0) for images, _ in volumes])
    box = ndimage.find_objects(shows.astype(int))[0]
    depth, high, wide = (part.stop - part.start for part in box)
    side = pixels * np.array([wide, high]) // max(high, wide)
    frames = []
    for number in range(depth):
        rows = [
            [
                _outlined(image[box][number], label[box][number], side)
                for image in images
            ]
            for images, label in volumes
        ]
        frames.append(PIL.Image.fromarray(np.vstack([np.hstack(row) for row in rows])))
    encoded = BytesIO()
    frames[0].save(
        *(encoded, "GIF"),
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 * seconds),
        loop=0,
    )
    files.write_atomically(path, encoded.getvalue())


def _outlined(image, label, side):
    """[H, W] in [0, 1] and its label -> [h, w, 3] uint8, the label outlined in gold."""
    grey = (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    grey = cv2.resize(grey, tuple(side.tolist()), interpolation=cv2.INTER_LINEAR)
    lesion = cv2.resize(
        (label > 0).astype(np.uint8),
        tuple(side.tolist()),
        interpolation=cv2.INTER_NEAREST,
    )
    shown = np.repeat(grey[..., None], 3, -1)
    lines, _ = cv2.findContours(lesion, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(shown, lines, -1, (255, 215, 0), 1)
