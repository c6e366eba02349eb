"""Imaging: the four contrasts by the MR signal equations, with their artefacts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from brats_gan.phantom.anatomy import Scene
from brats_gan.phantom.grid import Box, ramp, smooth_noise
from brats_gan.phantom.tissues import NAMES, RELAXIVITY, TISSUES, UPTAKE, Tissue


class Sequence(NamedTuple):
    """Settings of one acquisition; times in ms, lengths in mm."""

    tr: float
    te: float
    ti: float  # 0: spin echo, otherwise inversion recovery
    gadolinium: float  # mM in plasma
    thickness: int  # of a slice
    blur: float  # in plane, deviation
    sharpening: float  # share of the detail below 1.5 mm that the scanner adds
    noise: float  # deviation, in units of the white matter signal
    bias: float  # deviation of the logarithm of the coil's profile
    ghost: float  # amplitude of the copy that motion makes
    inflow: float  # how much of the fluid escapes the inversion


def tissue_signal(
    tissue: Tissue, sequence: Sequence, tesla: float, uptake: float = 0.0
) -> float:
    """Magnitude of one tissue by the spin-echo or inversion-recovery equation."""
    r1, r2 = (r * sequence.gadolinium * uptake / 1000 for r in RELAXIVITY[tesla])
    t1, t2 = 1 / (1 / tissue.t1 + r1), 1 / (1 / tissue.t2 + r2)
    recovered = 1 - np.exp(-sequence.tr / t1)
    if sequence.ti:
        recovered = 1 - 2 * np.exp(-sequence.ti / t1) + np.exp(-sequence.tr / t1)
    return abs(tissue.density * recovered * np.exp(-sequence.te / t2))


def sample_visit(rng: np.random.Generator) -> tuple[float, dict[str, Sequence]]:
    """Samples the field strength in tesla and the sequence of each modality."""
    tesla = float(rng.choice([1.5, 3.0]))

    def sequence(tr, te, ti=0.0, gadolinium=0.0, inflow=0.0):
        return Sequence(
            tr,
            te,
            ti,
            gadolinium,
            thickness=int(rng.choice([1, 2, 3, 4, 5, 6])),
            blur=rng.uniform(0.2, 0.6),
            sharpening=rng.uniform(0, 0.8) if rng.random() < 0.5 else 0.0,
            noise=rng.uniform(0.008, 0.035),
            bias=rng.uniform(0.04, 0.15),
            ghost=rng.uniform(0.02, 0.07) if rng.random() < 0.25 else 0.0,
            inflow=inflow,
        )

    def t1_weighting():
        if rng.random() < 0.5:
            return rng.uniform(450, 750), rng.uniform(8, 18), 0.0
        return 2000.0, rng.uniform(3, 5), rng.uniform(850, 1100)

    before = t1_weighting()
    after = before if rng.random() < 0.5 else t1_weighting()
    flair_tr = rng.uniform(8000, 11000)
    fluid_t1 = TISSUES[tesla]["fluid"].t1
    null = fluid_t1 * np.log(2 / (1 + np.exp(-flair_tr / fluid_t1)))
    return tesla, {
        "t1": sequence(*before),
        "t2": sequence(rng.uniform(3500, 6500), rng.uniform(80, 115)),
        "t1ce": sequence(*after, gadolinium=rng.uniform(0.8, 2.0)),
        "flair": sequence(
            flair_tr,
            rng.uniform(95, 140),
            null * np.clip(rng.normal(0.98, 0.03), 0.93, 1.04),
            inflow=rng.uniform(0, 0.8),
        ),
    }


def acquire(
    rng: np.random.Generator, scene: Scene, sequence: Sequence, tesla: float, grid: Box
) -> np.ndarray:
    """Magnitude image of the scene by one sequence, before skull stripping."""
    signal = {
        name: tissue_signal(tissue, sequence, tesla, UPTAKE.get(name, 0.0))
        for name, tissue in TISSUES[tesla].items()
    }
    if sequence.gadolinium:  # no longer a void: the agent outlives the flow
        signal["vessel"] *= 2.8
    image = sum(np.float32(signal[n]) * scene[n] for n in NAMES)
    grain = [smooth_noise(rng, grid, spacing) for spacing in (2, 5)]
    image *= 1 + np.float32(0.02) * (grain[0] + grain[1])
    # Iron, myelin and age differ from one grey structure to the next.
    region = np.clip(smooth_noise(rng, grid, 18), -2, 2)
    grey = scene["grey"] + scene["deep"] + 0.5 * scene["white"]
    image += np.float32(0.06 * signal["grey"]) * region * grey
    if sequence.inflow:
        where = ramp(smooth_noise(rng, grid, 12), 0.0, 2.0)
        image += np.float32(sequence.inflow * signal["grey"]) * where * scene["fluid"]
    image *= np.exp(np.float32(sequence.bias) * smooth_noise(rng, grid, 70))

    # From here to the end on the slices that the scanner takes.
    taken = ndimage.uniform_filter1d(image, sequence.thickness, axis=2)
    first = int(rng.integers(sequence.thickness))
    image = taken[:, :, first :: sequence.thickness]
    image = ndimage.gaussian_filter(image, (sequence.blur, sequence.blur, 0))
    if sequence.ghost:
        shift, axis = int(rng.integers(20, 90)), int(rng.integers(2))
        image = image + np.float32(sequence.ghost) * np.roll(image, shift, axis)
    noise = np.float32(sequence.noise * signal["white"])
    real, imaginary = (rng.standard_normal(image.shape, np.float32) for _ in range(2))
    image = np.hypot(image + noise * real, noise * imaginary)

    at = (np.arange(grid.shape[2]) - first) / sequence.thickness
    at = np.clip(at, 0, image.shape[2] - 1)
    below = np.minimum(at.astype(int), image.shape[2] - 2)
    share = (at - below).astype(np.float32)
    image = image[:, :, below] * (1 - share) + image[:, :, below + 1] * share
    image = ndimage.gaussian_filter(image, (0.35, 0.35, 0))  # resampling to the atlas
    if sequence.sharpening:
        detail = image - ndimage.gaussian_filter(image, (1.5, 1.5, 0))
        image = np.maximum(image + np.float32(sequence.sharpening) * detail, 0)
    return image
