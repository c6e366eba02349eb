"""One picture of a scoreboard: spectra, histograms, and slices side by side."""

from io import BytesIO

import numpy as np
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import appearance
from brats_gan import figures, files, spec

_LABEL_MAP = colors.ListedColormap(figures.LABEL_COLOURS)
SHOWN = 6  # maps and sets of each side
BINS = np.linspace(0.0, 1.0, 51)
COLOURS = {"real, trained on": "grey", "real, held out": "black", "made": "crimson"}


def _spread(count):
    """SHOWN positions out of `count`, evenly apart."""
    return np.linspace(0, count - 1, min(SHOWN, count)).astype(int)


def _curves(figure, grid, sides):
    """Two rows of panels, a contrast each: power spectrum and histogram."""
    for channel, name in enumerate(spec.BRATS.modalities):
        spectrum, histogram = (figure.add_subplot(grid[r, channel]) for r in (0, 1))
        for title, (images, _) in sides.items():
            style = {"color": COLOURS[title], "linewidth": 1.0, "label": title}
            power = appearance.radial_spectrum(images)[channel]
            spectrum.plot(range(1, len(power) + 1), power, **style)
            inside = images[:, channel][appearance.brain_of(images)]
            share = np.histogram(inside, BINS)[0] / max(len(inside), 1)
            histogram.stairs(share, BINS, **style)
        spectrum.set_title(f"{name}: power in dB by cycles an image", fontsize=7)
        histogram.set_title(f"{name}: intensities in the brain", fontsize=7)
        for axis in (spectrum, histogram):
            axis.tick_params(labelsize=6)
    spectrum.legend(fontsize=6)


def _rows(sets, maps, side):
    """(name, images [SHOWN, H, W], imshow options) of what there is of a side."""
    rows = []
    if maps:
        f = maps[side]
        rows.append(("map", f[_spread(len(f))], {"cmap": "gray"}))
    if sets:
        images, labels = sets[side]
        chosen = _spread(len(images))
        for i, name in enumerate(spec.BRATS.modalities):
            rows.append((name, images[chosen, i], {"cmap": "gray", "vmax": 1}))
        options = {"cmap": _LABEL_MAP, "vmin": -0.5, "vmax": 4.5}
        rows.append(("label", labels[chosen], options))
    return rows


def draw(path, sets=None, maps=None):
    """Writes the PNG: curves, then real slices on the left and made ones on the right.

    Args:
        path: of the file.
        sets: {a key of COLOURS: (images [N, 4, H, W], labels [N, H, W])}; None: left
            out.
        maps: {"real, held out" and "made": [N, H, W]}, or None.
    """
    sides = "real, held out", "made"
    count = len(_rows(sets, maps, "made"))
    tall = 3.8 if sets else 0.0  # inches, of the curves
    figure = Figure((12.4, tall + count + 0.4))
    canvas = FigureCanvasAgg(figure)
    border = {"left": 0.03, "right": 0.99}
    share = tall / figure.get_figheight()
    if sets:
        place = {**border, "bottom": 1.03 - share, "top": 0.97}
        grid = figure.add_gridspec(2, 4, hspace=0.4, wspace=0.14, **place)
        _curves(figure, grid, sets)
    place = {**border, "bottom": 0.01, "top": 0.96 - share}
    grid = figure.add_gridspec(count, 2, hspace=0.02, wspace=0.05, **place)
    for column, side in enumerate(sides):
        for row, (name, images, options) in enumerate(_rows(sets, maps, side)):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(np.concatenate(list(images), 1), **{"vmin": 0, **options})
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_ylabel(name, fontsize=7)
            if row == 0:
                axis.set_title(side, fontsize=8)
    canvas.draw()
    content = BytesIO()
    figure.savefig(content, format="png", dpi=100)
    files.write_atomically(path, content.getbuffer())
