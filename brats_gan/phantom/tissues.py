"""Tissues and their MR constants: proton density, T1, T2, contrast agent."""

from typing import NamedTuple


class Tissue(NamedTuple):
    """Proton density (water = 1), T1 and T2 in ms."""

    density: float
    t1: float
    t2: float


# Tesla -> tissue -> constants. Sources, and which are chosen, are in docs/phantom.md.
TISSUES = {
    1.5: {
        "white": Tissue(0.71, 650, 76),
        "grey": Tissue(0.83, 1120, 87),
        "deep": Tissue(0.80, 930, 79),
        "fluid": Tissue(1.00, 4000, 1100),
        "oedema": Tissue(0.88, 1200, 165),
        "necrosis": Tissue(0.95, 2200, 320),
        "non_enhancing": Tissue(0.89, 1450, 180),
        "enhancing": Tissue(0.85, 1150, 115),
        "vessel": Tissue(0.30, 1440, 120),
        "dura": Tissue(0.65, 420, 60),
        "gliosis": Tissue(0.82, 1050, 125),
    },
    3.0: {
        "white": Tissue(0.71, 900, 72),
        "grey": Tissue(0.83, 1550, 87),
        "deep": Tissue(0.80, 1270, 76),
        "fluid": Tissue(1.00, 4200, 1100),
        "oedema": Tissue(0.88, 1500, 155),
        "necrosis": Tissue(0.95, 2600, 300),
        "non_enhancing": Tissue(0.89, 1750, 170),
        "enhancing": Tissue(0.85, 1500, 105),
        "vessel": Tissue(0.30, 1650, 110),
        "dura": Tissue(0.65, 480, 55),
        "gliosis": Tissue(0.82, 1400, 115),
    },
}
NAMES = tuple(TISSUES[1.5])
RELAXIVITY = {1.5: (4.1, 4.6), 3.0: (3.7, 5.2)}  # gadopentetate; per second and mM

# Contrast agent that reaches a tissue, as a share of its concentration in plasma.
UPTAKE = {
    "white": 0.006,
    "grey": 0.015,
    "non_enhancing": 0.03,
    "necrosis": 0.03,
    "enhancing": 0.3,
    "dura": 0.12,
    "vessel": 1.0,
}
