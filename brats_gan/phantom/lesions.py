"""Lesions with their label, and their look-alikes, which have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from brats_gan.phantom.anatomy import Anatomy, Pose, Scene, load_atlas
from brats_gan.phantom.grid import Box, ramp, smooth_noise
from brats_gan.spec import BRATS

NECROSIS, OEDEMA, NON_ENHANCING, ENHANCING = range(1, BRATS.num_labels)


class Lesion(NamedTuple):
    """One lesion: where, how large, and what it is made of. Lengths in mm."""

    centre: np.ndarray  # voxel
    radius: float  # of the core
    stretch: np.ndarray  # 3 x 3, keeps the volume
    push: float  # mass effect, 0 none
    halo: float  # width of the oedema
    rim: float  # thickness of the enhancing ring, 0 without
    gap: float  # share of the ring that is missing
    necrosis: float  # share of the core's radius that is dead
    cyst: float  # share of fluid in what is dead
    nodules: float  # threshold of enhancing nodules, in deviations
    border: float  # width over which the oedema fades
    density: float  # how far the lesion replaces what was there, 0 to 1


def sample_lesions(
    rng: np.random.Generator, grid: Box, slices: tuple[int, int], pose: Pose
) -> list[Lesion]:
    """Samples zero to two lesions in white matter, within the slices where they fit."""
    count = rng.choice([0, 1, 2], p=[0.06, 0.68, 0.26])
    return [sample_lesion(rng, grid, slices, pose) for _ in range(count)]


def sample_lesion(
    rng: np.random.Generator, grid: Box, slices: tuple[int, int], pose: Pose
) -> Lesion:
    """Samples one of four kinds: ring, solid, low grade, or low grade with nodules."""
    kind = rng.choice(["ring", "solid", "low", "mixed"], p=[0.4, 0.12, 0.28, 0.2])
    high = kind in ("ring", "solid")
    size = rng.uniform(6, 40) if rng.random() < 0.45 else rng.uniform(24, 40)
    share = rng.uniform(0.5, 0.85) if high else rng.uniform(0.5, 0.95)
    radius = max(0.5 * size * share, 2.0)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    axes = np.exp(rng.normal(0, 0.2, 3))
    axes /= np.prod(axes) ** (1 / 3)
    necrosis = {"ring": 1.0, "mixed": rng.uniform(0, 0.6)}.get(kind, 0.0)
    if kind == "low" and rng.random() < 0.3:
        necrosis = rng.uniform(0.3, 0.7)
    return Lesion(
        centre=sample_centre(rng, grid, slices, pose, 0.3 * size),
        radius=radius,
        stretch=turn @ np.diag(axes) @ turn.T,
        push=rng.uniform(0, 0.35),
        halo=max(0.5 * size - radius, 1.0) * rng.uniform(0.8, 1.6),
        rim=rng.uniform(1.5, 6.0) if high else 0.0,
        gap=rng.uniform(0, 0.45),
        necrosis=necrosis,
        cyst=rng.uniform(0, 0.9) * (rng.random() < 0.5),
        nodules={"ring": 1.8, "solid": 0.0, "mixed": 0.8}.get(kind, 9.0),
        border=rng.uniform(0.8, 2.5) if high else rng.uniform(1.5, 5.0),
        density=rng.uniform(0.8, 1.0) if high else rng.uniform(0.5, 1.0),
    )


def sample_centre(
    rng: np.random.Generator,
    grid: Box,
    slices: tuple[int, int],
    pose: Pose,
    room: float,
) -> np.ndarray:
    """Samples a voxel in white matter, at least 5 mm inside the brain, by rejection."""
    atlas = load_atlas()
    room = min(room, 0.4 * (slices[1] - slices[0]))
    low = np.array([*grid.start[:2], slices[0] + room])
    high = np.array([*np.add(grid.start, grid.shape)[:2], slices[1] - room])
    for _ in range(20_000):
        voxel = rng.uniform(low, high)
        at = np.rint(pose.matrix @ voxel + pose.offset - atlas.origin).astype(int)
        if (at < 0).any() or (at >= atlas.white.shape).any():
            continue
        if atlas.inside[tuple(at)] > 5 and rng.random() < atlas.white[tuple(at)] ** 2:
            return voxel
    raise ValueError(f"slices {slices[0]}:{slices[1]} hold no white matter")


def ellipsoid_distance(
    grid: Box, centre: Sequence[float] | np.ndarray, stretch: np.ndarray
) -> np.ndarray:
    """mm from the centre, measured in a stretched space."""
    ray = np.stack(np.broadcast_arrays(*grid.offsets(centre)))
    return np.sqrt((np.tensordot(stretch.astype(np.float32), ray, 1) ** 2).sum(0))


def add_lesion(
    rng: np.random.Generator, scene: Scene, anatomy: Anatomy, grid: Box, lesion: Lesion
) -> None:
    """Lays one lesion over the scene and marks its label.

    `core` and `halo` are mm inside the surface of the core and of the whole lesion. The
    halo follows white matter, which makes its fingers, and stops at cortex and fluid.
    """
    reach = 1.6 * lesion.radius + 1.5 * lesion.halo + 4
    box, sub = grid.around(lesion.centre, reach)
    scale = np.clip(lesion.radius, 4, 14)
    coarse, medium, fine = (smooth_noise(rng, sub, s) for s in (scale, scale / 2, 3))
    white = ndimage.gaussian_filter(anatomy.white[box], 1.5)
    room = ramp(anatomy.inside[box], 0.5, 2.5) * ramp(anatomy.fluid[box], 0.8, 0.3)

    core = lesion.radius - ellipsoid_distance(sub, lesion.centre, lesion.stretch)
    core += 0.16 * lesion.radius * coarse + 0.6 * medium
    spread = lesion.halo * (0.15 + 1.1 * white + 0.45 * coarse) + 0.4 * fine
    halo = core + np.maximum(spread, 0)
    oedema = ramp(halo, -0.5 * lesion.border, 0.5 * lesion.border) * room
    oedema *= lesion.density * np.clip(0.85 + 0.15 * medium + 0.12 * fine, 0.3, 1)
    scene.lay_over("oedema", oedema * (0.35 + 0.65 * white), box)

    inner = ramp(core, -0.5, 0.5) * room
    solid = inner * np.clip(lesion.density * (0.9 + 0.15 * fine), 0.2, 1)
    scene.lay_over("non_enhancing", solid, box)
    rim = lesion.rim * np.clip(1 + 0.4 * medium, 0.2, 2)
    viable = rim if lesion.rim else (1 - lesion.necrosis) * lesion.radius
    dead = inner * ramp(core, viable - 0.3, viable + 0.7) * (lesion.necrosis > 0)
    scene.lay_over("necrosis", dead * np.clip(0.8 + 0.2 * fine, 0.3, 1), box)
    scene.lay_over("fluid", dead * lesion.cyst * np.clip(0.9 + 0.2 * medium, 0, 1), box)

    ring = ramp(core, 0, 0.7) * ramp(core, rim + 0.6, rim - 0.1) * (lesion.rim > 0)
    ring *= coarse + 0.4 * fine < np.quantile(coarse, 1 - lesion.gap)
    nodule = inner * ramp(medium + 0.3 * fine, lesion.nodules, lesion.nodules + 0.3)
    bright = np.maximum(ring, nodule) * room
    scene.lay_over("enhancing", bright * np.clip(0.85 + 0.2 * fine, 0.3, 1), box)

    # A label as it is drawn by hand: smooth, over thin sulci, as far as oedema shows.
    here = (anatomy.inside[box] > 0.5) & (anatomy.ventricle[box] < 0.6)
    seen = (room > 0.5) & (halo > -0.2 * lesion.border)
    seen = ndimage.gaussian_filter(seen.astype(np.float32), 1.2) > 0.45
    label = scene.label[box]
    label[here & seen & (label == 0)] = OEDEMA
    here &= seen & (room > 0.5) & (core > 0)
    label[here] = NON_ENHANCING
    label[here & (dead > 0.5)] = NECROSIS
    label[here & (bright > 0.5)] = ENHANCING


def add_hyperintensities(
    rng: np.random.Generator, scene: Scene, anatomy: Anatomy, grid: Box
) -> None:
    """White matter hyperintensities of age, periventricular and punctate: no label."""
    severity = rng.beta(1.0, 2.0)
    patchy = 0.03 * smooth_noise(rng, grid, 9)
    edge = 0.30 - 0.22 * severity
    caps = anatomy.white * ramp(anatomy.ventricle + patchy, edge, edge + 0.12)
    scene.lay_over("gliosis", caps * np.float32(0.35 + 0.6 * severity))
    spots = np.flatnonzero((anatomy.white > 0.7) & (anatomy.inside > 6))
    for spot in rng.choice(spots, rng.poisson(12 * severity)):
        centre = np.add(np.unravel_index(spot, grid.shape), grid.start)
        radius = min(rng.gamma(3, 0.6) + 0.8, 5.0)
        box, sub = grid.around(centre, 3 * radius)
        stretch = np.diag(np.exp(rng.normal(0, 0.3, 3)))
        distance = ellipsoid_distance(sub, centre, stretch)
        blob = np.exp(-((distance / radius) ** 2)) * rng.uniform(0.4, 1.0)
        scene.lay_over("gliosis", blob * anatomy.white[box], box)


def add_cavity(
    rng: np.random.Generator,
    scene: Scene,
    anatomy: Anatomy,
    grid: Box,
    slices: tuple[int, int],
    pose: Pose,
) -> None:
    """A resection cavity: fluid, a gliotic wall, at times an enhancing seam."""
    radius = rng.uniform(5, 13)
    centre = sample_centre(rng, grid, slices, pose, radius)
    box, sub = grid.around(centre, 1.6 * radius + 6)
    stretch = np.diag(np.exp(rng.normal(0, 0.25, 3)))
    wall = radius - ellipsoid_distance(sub, centre, stretch)
    wall += 0.25 * radius * smooth_noise(rng, sub, radius)
    brain = ramp(anatomy.inside[box], 0, 2)
    rough = np.clip(0.7 + 0.3 * smooth_noise(rng, sub, 4), 0, 1)
    scene.lay_over("gliosis", ramp(wall, -rng.uniform(2, 6), 0) * brain * rough, box)
    if rng.random() < 0.4:
        seam = ramp(wall, -1.5, -0.5) * ramp(wall, 1.0, 0.0)
        scene.lay_over("enhancing", seam * brain * rough * 0.6, box)
    scene.lay_over("fluid", ramp(wall, -0.5, 0.5) * brain, box)


def add_vessels(
    rng: np.random.Generator, scene: Scene, anatomy: Anatomy, grid: Box
) -> None:
    """Cortical veins, dural sinuses, falx and choroid plexus: all enhance."""
    x, y, z = anatomy.position
    fluid, inside = anatomy.fluid, anatomy.inside
    chamber = ramp(anatomy.ventricle, 0.2, 0.3) * ramp(inside, 18, 22)
    # Lines where two random sheets cross, in the fluid of sulci and cisterns.
    tangle = [smooth_noise(rng, grid, s) for s in (7, 7)]
    line = ramp(np.hypot(*tangle), 0.45, 0.2) * ramp(fluid, 0.15, 0.5) * (1 - chamber)
    scene.lay_over("vessel", line * np.float32(rng.uniform(0.5, 1.0)))
    falx = ramp(np.abs(x), 1.2, 0.4) * ramp(fluid, 0.3, 0.6) * (inside < 26)
    scene.lay_over("dura", falx * np.float32(rng.uniform(0.1, 0.6)))
    width = np.float32(rng.uniform(1.5, 3.5))
    sinus = ramp(np.hypot(x, np.maximum(inside - 1, 0)), width + 1, width)
    straight = ramp(np.hypot(x, z - 4 - 0.25 * (y + 40)), 2.6, 1.4)
    straight *= ramp(y, -30, -36) * ramp(y, -72, -66)
    scene.lay_over("vessel", np.maximum(sinus * ((y < -55) | (z > 30)), straight))
    plexus = (np.abs(x) - 22) ** 2 + (y + 38) ** 2 + (z - 9) ** 2
    plexus = ramp(np.sqrt(plexus) + 1.5 * tangle[0], 7, 5) * chamber * fluid
    floor = ramp(fluid, 0.3, 0.5) * ramp(fluid, 0.95, 0.7) * (y < 5) * (z < 22)
    floor = floor * chamber
    plexus = np.maximum(plexus, floor * ramp(tangle[1], 0.3, 0.8))
    scene.lay_over("vessel", plexus * np.float32(rng.uniform(0.3, 0.8)))
