"""Draws docs/architecture.png: four stages, their networks, and what goes between.

    python -m benchmarks.architecture [--figure=docs/architecture.png]

Networks go by their names in the code, which are the paper's symbols.
"""

from io import BytesIO
from typing import NamedTuple

from absl import app, flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from brats_gan import files

_FIGURE = flags.DEFINE_string("figure", "docs/architecture.png", "PNG to write.")

# Colours of the fill; what is not listed is a tensor, white.
COLOURS = {
    "makes": "#cfe3f7",  # encoders, decoders and MASK
    "judges": "#f7d4cf",  # discriminators, which only train the others
    "segments": "#d5ecd0",
    "step": "#e6e6e6",  # computed without weights
    "file": "#fff2c4",
}
WIDTH, HEIGHT = 1.30, 0.62  # of a box, in units of a column and a row
COLUMNS = 10


class Box(NamedTuple):
    """A network, a tensor, a step or a file, at a place within its stage."""

    column: float
    row: float  # from the top of the stage
    text: str
    kind: str = "tensor"
    rows: float = 0.0  # how many more rows it spans


class Stage(NamedTuple):
    """One lane of the figure."""

    title: str
    rows: float
    boxes: dict  # name -> Box
    arrows: tuple  # "a > b > c" chains of names
    leaves: str


STRUCTURAL = Stage(
    "Stage 1, train_structural.py: maps from noise",
    3,
    {
        "x": Box(0, 0, "x\n[B, H, W, 1]"),
        "algorithm": Box(1, 0, "Algorithm 1", "step"),
        "f": Box(2, 0, "f in {0, 1}\n[B, H, W, 1]"),
        "EC_f": Box(3, 0, "EC_f", "makes"),
        "code": Box(4, 0, "code_f\n[B, D]"),
        "DC_f": Box(5, 0, "DC_f", "makes", 2),
        "f_r": Box(6, 0, "f_r\nf rebuilt"),
        "FD_f": Box(4, 1, "FD_f", "judges"),
        "D_f": Box(6, 1, "D_f\nreal: f", "judges"),
        "z": Box(4, 2, "z of N(0, 1)\n[B, D]"),
        "f_g": Box(6, 2, "f_g\nf from noise"),
        "MASK": Box(7, 2, "MASK", "makes"),
        "mask": Box(8, 2, "mask_g\n1 outside"),
    },
    (
        "x > algorithm > f > EC_f > code > DC_f > f_r > D_f",
        "code > FD_f",
        "z > FD_f",
        "z > DC_f > f_g > MASK > mask",
        "f_g > D_f",
    ),
    "export/structure: DC_f, MASK",
)
MULTIMODAL = Stage(
    "Stage 2, train_multimodal.py: registered slices from a map and a label",
    3,
    {
        "x": Box(0, 0, "x_i, any slice\nof modality i"),
        "EC": Box(1, 0, "EC", "makes"),
        "code": Box(2, 0, "code\n[., h, w, C]"),
        "DC": Box(3, 0, "DC\n\ntold i, style,\nlabel and f", "makes", 2),
        "x_t": Box(4, 0, "x_r,i and\nx_t,i to j"),
        "EC2": Box(5, 0, "EC", "makes"),
        "code_t": Box(6, 0, "code_t"),
        "DC2": Box(7, 0, "DC", "makes"),
        "x_cr": Box(8, 0, "x_cr\nx_i again"),
        "FD": Box(2, 1, "FD", "judges"),
        "D": Box(4, 1, "D\nreal: x_i", "judges"),
        "f": Box(-0.02, 2, "fuse(f, label)\n[B, H, W, 5]", "step"),
        "EC_R": Box(1, 2, "EC_R", "makes"),
        "code_g": Box(2, 2, "code_g\n[B, h, w, C]"),
        "x_g": Box(4, 2, "x_g,i, four\nregistered"),
        "SEG": Box(5, 2, "SEG", "segments"),
        "found": Box(6, 2, "label predicted\n[., H, W, 5]"),
        "edges": Box(5, 1, "Algorithm 1", "step"),
        "again": Box(6, 1, "edges of x_g\nagainst f"),
    },
    (
        "x > EC > code > DC > x_t > EC2 > code_t > DC2 > x_cr",
        "code > FD",
        "code_g > FD",
        "f > EC_R > code_g > DC > x_g > SEG > found",
        "x_t > D",
        "x_g > D",
        "x_g > edges > again",
    ),
    "export/generator: EC_R, DC; export/segmentor: SEG",
)
DATASET = Stage(
    "Stage 3, build_dataset.py: a data set, filtered twice",
    2.4,
    {
        "z": Box(0, 0, "z of N(0, 1)"),
        "DC_f": Box(1, 0, "DC_f", "makes"),
        "f_g": Box(2, 0, "f_g"),
        "MASK": Box(3, 0, "MASK", "makes"),
        "mask": Box(4, 0, "mask_g"),
        "filter": Box(5, 0, "Algorithm 3\nkeep or redraw", "step"),
        "labels": Box(0, 1.4, "label of a\ntraining subject", "file"),
        "place": Box(1, 1.4, "move until it\nfits the brain", "step"),
        "fuse": Box(2, 1.4, "fuse(f_g, label)", "step"),
        "EC_R": Box(3, 1.4, "EC_R", "makes"),
        "DC": Box(4, 1.4, "DC", "makes"),
        "x_g": Box(5, 1.4, "x_g,i, one set\nof four slices"),
        "SEG": Box(6, 1.4, "SEG", "segments"),
        "dice": Box(7, 1.4, "Dice with label\nkeep or redraw", "step"),
        "set": Box(8, 1.4, "NIfTI and\nmanifest.csv", "file"),
    },
    (
        "z > DC_f > f_g > MASK > mask > filter",
        "labels > place > fuse > EC_R > DC > x_g > SEG > dice > set",
    ),
    "OUT/: read as any BraTS folder",
)
SEGMENTATION = Stage(
    "Stage 4, eval_segmentation.py: what the data set is worth",
    2,
    {
        "real": Box(0, 0, "real slices", "file"),
        "synthetic": Box(0, 1, "synthetic slices", "file"),
        "mix": Box(1, 0.5, "mix (Table 2)", "step"),
        "x": Box(2, 0.5, "x, label"),
        "SEG": Box(3, 0.5, "SEG", "segments"),
        "found": Box(4, 0.5, "label predicted"),
        "held": Box(4, 1.35, "held-out label", "file"),
        "score": Box(5, 0.5, "Dice, MSE,\nHausdorff", "step"),
        "table": Box(6, 0.5, "results.jsonl", "file"),
    },
    ("real > mix", "synthetic > mix > x > SEG > found > score > table", "held > score"),
    "table1, table2",
)
STAGES = (STRUCTURAL, MULTIMODAL, DATASET, SEGMENTATION)


def networks():
    """Names of all networks that are drawn."""
    kinds = ("makes", "judges", "segments")
    boxes = (box for stage in STAGES for box in stage.boxes.values())
    return {box.text.split("\n")[0] for box in boxes if box.kind in kinds}


def _place(box, top):
    """Left, bottom, width and height of a box, in inches."""
    height = HEIGHT + 0.85 * box.rows
    return 1.55 * box.column, top - 0.85 * box.row - height, WIDTH, height


def _draw_box(axis, box, top):
    left, bottom, width, height = _place(box, top)
    is_network = box.kind in ("makes", "judges", "segments")
    style = "round,pad=0,rounding_size=0.14" if is_network else "square,pad=0"
    axis.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle=style,
            facecolor=COLOURS.get(box.kind, "white"),
            edgecolor="black",
            linewidth=1.1 if is_network else 0.6,
            linestyle="-" if box.kind != "tensor" else (0, (3, 2)),
            zorder=2,
        )
    )
    axis.text(
        left + width / 2,
        bottom + height / 2,
        box.text,
        ha="center",
        va="center",
        fontsize=8.5 if is_network else 7.5,
        fontweight="bold" if is_network else "normal",
        linespacing=1.25,
        zorder=3,
    )


def _ends(start, end):
    """Where an arrow leaves one box and meets another: sides that face each other."""
    (x, y, w, h), (u, v, s, t) = start, end
    low, high = max(y, v), min(y + h, v + t)
    if high > low:  # beside each other: level, where both are
        level = (low + high) / 2
        return ((x + w, level), (u, level)) if u > x else ((x, level), (u + s, level))
    if abs((x + w / 2) - (u + s / 2)) < 0.3:  # one above the other
        middle = (max(x, u) + min(x + w, u + s)) / 2
        return (
            ((middle, y), (middle, v + t)) if y > v else ((middle, y + h), (middle, v))
        )
    side = (x + w, y + h / 2) if u > x else (x, y + h / 2)
    return side, (u if u > x else u + s, v + t / 2)


_ARROW = {"arrowstyle": "-|>", "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}


def _draw_stage(axis, stage, top):
    for box in stage.boxes.values():
        _draw_box(axis, box, top)
    for chain in stage.arrows:
        names = chain.split(" > ")
        for a, b in zip(names, names[1:], strict=False):
            start, end = _ends(*(_place(stage.boxes[n], top) for n in (a, b)))
            axis.annotate("", end, start, arrowprops=_ARROW, zorder=1)
    if stage is DATASET:  # what passed goes on: between the rows, back to the left
        left, bottom, width, _ = _place(stage.boxes["filter"], top)
        target, low, _, height = _place(stage.boxes["place"], top)
        from_x, to_x, level = left + width / 2, target + WIDTH / 2, bottom - 0.2
        axis.plot([from_x, from_x, to_x], [bottom, level, level], "k", linewidth=0.9)
        axis.annotate(
            "", (to_x, low + height), (to_x, level), arrowprops=_ARROW, zorder=1
        )
        axis.text((from_x + to_x) / 2, level + 0.05, "f_g and mask_g", fontsize=7.5)


def draw():
    """The figure, a matplotlib Figure."""
    heights = [0.85 * stage.rows + 0.75 for stage in STAGES]
    across, high = 1.55 * COLUMNS + 0.3, sum(heights) + 0.5
    figure = Figure((0.8 * across, 0.8 * high))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_xlim(-0.3, across - 0.3)
    axis.set_ylim(-0.5, high - 0.5)
    axis.axis("off")
    top = high - 0.5
    for stage, height in zip(STAGES, heights, strict=True):
        axis.add_patch(
            Rectangle(
                (-0.2, top - height + 0.08),
                across - 0.2,
                height - 0.14,
                facecolor="#fafafa",
                edgecolor="#999999",
                linewidth=0.6,
            )
        )
        axis.text(
            -0.05, top - 0.2, stage.title, fontsize=10, fontweight="bold", va="center"
        )
        axis.text(
            across - 0.55,
            top - 0.2,
            stage.leaves,
            fontsize=8,
            ha="right",
            va="center",
            family="monospace",
        )
        _draw_stage(axis, stage, top - 0.5)
        top -= height
    legend = {
        "makes": "encoder or decoder",
        "judges": "discriminator",
        "segments": "segmentor",
        "tensor": "tensor",
        "step": "computed, no weights",
        "file": "on disk",
    }
    for number, (kind, text) in enumerate(legend.items()):
        left = 2.5 * number
        axis.add_patch(
            Rectangle(
                (left, -0.3),
                0.3,
                0.2,
                facecolor=COLOURS.get(kind, "white"),
                edgecolor="black",
                linewidth=0.6,
                linestyle="-" if kind != "tensor" else (0, (3, 2)),
            )
        )
        axis.text(left + 0.38, -0.2, text, fontsize=8, va="center")
    return figure


def main(argv):
    del argv
    content = BytesIO()
    # Without the version of matplotlib in it: the same bytes as long as it is the same.
    draw().savefig(content, format="png", dpi=100, metadata={"Software": None})
    files.write_atomically(_FIGURE.value, content.getbuffer())
    print(_FIGURE.value)


if __name__ == "__main__":
    app.run(main)
