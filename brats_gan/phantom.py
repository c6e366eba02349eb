"""Phantom subjects: BraTS-like MRI with lesions, simulated from the MNI152 tissue maps.

A subject is the average anatomy that nilearn ships, warped, folded and given lesions
and look-alikes of lesions, then imaged four times by the MR signal equations with the
settings of one visit. docs/phantom.md lists what is simulated, from which source, and
how near to real scans it comes. TensorFlow is not imported: workers start fast.

Arrays are [X, Y, Z] of a slab of the BRATS grid, 1 mm: x to the left, y to the back, z
up.
"""

import functools
import gzip
import multiprocessing
import os
import pathlib
from concurrent import futures
from typing import NamedTuple

import nibabel
import numpy as np
from scipy import ndimage

from brats_gan import progress
from brats_gan.spec import LABELS, MODALITIES

SHAPE = (240, 240, 155)  # BRATS: voxels of 1 mm
AFFINE = np.array([[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]], float)
SLICES = (50, 110)  # half-open; a margin about the 55:105 that training reads
NECROSIS, OEDEMA, NON_ENHANCING, ENHANCING = range(1, len(LABELS))

BRAIN_BOX = ((32, 206), (30, 230))  # x and y that tissue is evaluated in
MARGIN = 6  # slices evaluated beyond the slab, for blur through plane
CONTROL = 4  # voxels between control points of the warp

# Where the atlas lies on the BRATS grid: the mean of affine registrations of two real
# subjects' T1 to MNI152. Voxel CENTRE shows the point ORIGIN_MM of MNI space.
CENTRE = np.array([118.0, 131.0, 80.0])
ORIGIN_MM = np.array([0.0, -17.0, 12.0])
PITCH_DEG = 8.0  # nose-up turn of SRI24 against MNI152
MM_PER_VOXEL = 1.085  # BRATS brains are smaller than the average of MNI152


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


# ----------------------------------------------------------------------------------
# Grids and smooth random fields


class Grid(NamedTuple):
    """A box of the BRATS grid: first voxel and shape."""

    start: tuple
    shape: tuple

    def axis(self, dim):
        return np.arange(self.start[dim], self.start[dim] + self.shape[dim])

    def offsets(self, centre):
        """Three arrays that broadcast to [X, Y, Z]: voxel minus `centre`, float32."""
        shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
        return [
            (self.axis(d) - centre[d]).astype(np.float32).reshape(shape)
            for d, shape in enumerate(shapes)
        ]

    def around(self, centre, reach):
        """Index of the box within `reach` voxels of `centre`, and its grid."""
        box = []
        for c, s, n in zip(centre, self.start, self.shape, strict=True):
            first = int(np.clip(c - reach - s, 0, n - 1))
            box.append(slice(first, int(np.clip(c + reach + 2 - s, first + 1, n))))
        start = tuple(s + b.start for s, b in zip(self.start, box, strict=True))
        return tuple(box), Grid(start, tuple(b.stop - b.start for b in box))


def slab_grid(slices):
    """The grid of slices [first, last) with the margin that blur needs."""
    first = max(slices[0] - MARGIN, 0)
    last = min(slices[1] + MARGIN, SHAPE[2])
    (x0, x1), (y0, y1) = BRAIN_BOX
    return Grid((x0, y0, first), (x1 - x0, y1 - y0, last - first))


def spline_upsample(control, positions):
    """Cubic B-spline of a small array, evaluated at one list of positions per axis.

    Summed tap by tap instead of by a matrix product, whose last bits depend on the
    number of threads: files have to be equal byte for byte.
    """
    for dim in (2, 1, 0):  # the largest copies last, along the axis cheapest to gather
        at = np.asarray(positions[dim], np.float64)
        base = np.floor(at).astype(int)
        t = (at - base).astype(np.float32)
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        column = [-1 if d == dim else 1 for d in range(3)]
        last = control.shape[dim] - 1
        control = sum(
            control.take(np.clip(base + tap, 0, last), dim) * weight.reshape(column)
            for tap, weight in zip((-1, 0, 1, 2), weights, strict=True)
        )
    return control


def smooth_noise(rng, grid, spacing):
    """Gaussian field on the grid, mean 0, deviation 1, smooth over `spacing` voxels."""
    counts = [int(n / spacing) + 5 for n in grid.shape]
    control = rng.standard_normal(counts, dtype=np.float32)
    # A cubic B-spline of unit white noise has variance 151 / 315 per axis.
    control *= np.float32((315 / 151) ** 1.5)
    return spline_upsample(control, [np.arange(n) / spacing + 1.5 for n in grid.shape])


def ramp(x, low, high):
    """0 at `low`, 1 at `high`, linear between; `low` may be the larger."""
    return np.clip((x - low) / (high - low), 0, 1)


# ----------------------------------------------------------------------------------
# Anatomy


class Atlas(NamedTuple):
    """Maps of MNI152 at 1 mm, float32, and the point of their first voxel in mm."""

    origin: np.ndarray
    white: np.ndarray  # probability
    grey: np.ndarray  # probability
    inside: np.ndarray  # mm from the border of the brain, negative outside
    ridge: np.ndarray  # about 1 on the middle sheet of a sulcus
    ventricle: np.ndarray  # blurred over 4 mm, at most 1
    swell: tuple  # three components, at most 1 long, towards the ventricles


@functools.lru_cache(maxsize=1)
def load_atlas():
    """Reads the maps inside the nilearn wheel and derives sulci and ventricles."""
    from nilearn import datasets  # slow to import, and only needed here

    head = np.s_[16:182, 16:218]  # the brain and 10 mm about it
    images = (
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    )
    white, grey, brain = (i.get_fdata(dtype=np.float32)[head] for i in images)
    origin = images[0].affine[:3, 3] + (head[0].start, head[1].start, 0)
    brain = ndimage.binary_fill_holes(brain > 0)
    inside = ndimage.distance_transform_edt(brain).astype(np.float32)
    inside -= np.minimum(ndimage.distance_transform_edt(~brain), 20).astype(np.float32)
    depth = ndimage.distance_transform_edt(white < 0.45).astype(np.float32)
    ridge = -ndimage.gaussian_laplace(np.minimum(depth, 9), 1.2) / 0.8

    x, y, z = Grid(tuple(origin), white.shape).offsets((0, 0, 0))
    # Only ventricles are fluid so far in; cisterns and the Sylvian fissure are not.
    chamber = (np.abs(x) < 40) & (np.abs(y + 17) < 57) & (np.abs(z - 9) < 23)
    fluid = np.clip(brain - white - grey, 0, 1)
    ventricle = ndimage.gaussian_filter(fluid * (inside > 22) * chamber, 4.0)
    ventricle /= ventricle.max()
    swell = np.stack(np.gradient(ventricle))
    swell /= np.sqrt((swell**2).sum(0)).max()
    return Atlas(origin, white, grey, inside, ridge, ventricle, tuple(swell))


class Pose(NamedTuple):
    """Affine place of one head: MNI mm = matrix @ voxel + offset."""

    matrix: np.ndarray
    offset: np.ndarray


def draw_pose(rng):
    """Size, aspect, turn and side of one head."""
    turn = np.deg2rad(rng.normal((PITCH_DEG, 0, 0), (1.5, 1.5, 2.0)))
    (cx, cy, cz), (sx, sy, sz) = np.cos(turn), np.sin(turn)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    size = MM_PER_VOXEL * np.clip(rng.normal(1, 0.03), 0.95, 1.07)
    aspect = np.clip(rng.normal(1, 0.025, 3), 0.96, 1.05)
    side = np.diag([-rng.choice([-1.0, 1.0]), -1.0, 1.0])  # voxels run left and back
    matrix = side @ about_z @ about_y @ about_x @ np.diag(size * aspect)
    shift = rng.normal(0, (0.5, 1.5, 2.0))
    return Pose(matrix, ORIGIN_MM + shift - matrix @ CENTRE)


class Warp:
    """Where every voxel lies in MNI space, with control points CONTROL voxels apart.

    Affine, elastic bend, ventricles swollen or shrunk, tissue pushed aside by lesions.
    """

    def __init__(self, rng, grid, pose, lesions):
        self.grid = grid
        self.origin = load_atlas().origin
        self.starts = [s - 2 * CONTROL for s in grid.start]
        coarse = Grid((0, 0, 0), tuple(n // CONTROL + 6 for n in grid.shape))
        axes = (s + CONTROL * coarse.axis(d) for d, s in enumerate(self.starts))
        voxel = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float64)
        straight = np.tensordot(pose.matrix, voxel, 1)
        straight += pose.offset.reshape(3, 1, 1, 1)
        bend = np.zeros_like(straight)
        for spacing, amplitude in ((40, 2.5), (20, 1.5), (9, 0.8)):  # mm
            for component in bend:
                noise = smooth_noise(rng, coarse, spacing / CONTROL)
                component += amplitude * np.clip(noise, -1.8, 1.8)  # no outliers

        self.control = straight + bend
        swelling = np.clip(rng.gamma(1.6, 1.3) - 1.0, -1.0, 5.0)  # mm
        for component, pull in zip(bend, load_atlas().swell, strict=True):
            component += swelling * self.sample_coarsely(pull)
        skull = ramp(self.sample_coarsely(load_atlas().inside), 2, 15)  # does not give
        for lesion in lesions:
            ray = voxel - lesion.centre.reshape(3, 1, 1, 1)
            near = np.exp(-(ray**2).sum(0) / (1.5 * lesion.radius) ** 2)
            bend -= np.tensordot(pose.matrix, ray * (lesion.push * near * skull), 1)
        self.control = straight + bend

        self.position = []  # x, y, z of MNI space in mm, [X, Y, Z] each
        offsets = grid.offsets((0, 0, 0))
        for dim in range(3):
            x, y, z = (np.float32(pose.matrix[dim, d]) * offsets[d] for d in range(3))
            place = self.refine(bend[dim]) + (x + y + z + np.float32(pose.offset[dim]))
            self.position.append(place)

    def sample(self, volume, outside=0.0):
        """An atlas map at every voxel."""
        at = [p - o for p, o in zip(self.position, self.origin, strict=True)]
        return ndimage.map_coordinates(
            volume, at, np.float32, order=1, cval=outside, prefilter=False
        )

    def sample_coarsely(self, volume):
        """An atlas map at every control point: cheaper, for smooth ones."""
        at = self.control - self.origin.reshape(3, 1, 1, 1)
        return ndimage.map_coordinates(volume, at, np.float32, order=1)

    def refine(self, control):
        """Values at control points, interpolated to every voxel."""
        where = [(self.grid.axis(d) - s) / CONTROL for d, s in enumerate(self.starts)]
        return spline_upsample(control.astype(np.float32), where)


class Anatomy(NamedTuple):
    """One head on the grid, before disease. Fractions sum to 1 inside the brain."""

    white: np.ndarray
    grey: np.ndarray
    deep: np.ndarray
    fluid: np.ndarray
    inside: np.ndarray  # mm from the border of the brain
    ventricle: np.ndarray  # blurred, at most 1
    position: list  # x, y, z in MNI mm


def fold_distance(rng, warp, inside):
    """mm to the nearest of this head's own sulci, which the average has not.

    Sheets that stand on the surface of the brain: zeros of a random field that depends
    on the direction from the centre of the brain alone, down to a random depth.
    """
    ray = warp.control - np.array([0, -18, 5]).reshape(3, 1, 1, 1)
    ray *= 70 / np.maximum(np.sqrt((ray**2).sum(0)), 20)
    spacing = 8.0  # mm, of folds at the surface
    lattice = rng.standard_normal((22, 22, 22))
    field = ndimage.map_coordinates(
        lattice, ray / spacing + 10.5, order=3, prefilter=False
    )
    slope = np.sqrt(sum(g**2 for g in np.gradient(field, CONTROL)))
    sheet = np.abs(warp.refine(field)) / np.maximum(warp.refine(slope), 0.015)
    floor = np.clip(9 + 7 * smooth_noise(rng, warp.grid, 28), -5, 24)
    return np.hypot(sheet, np.maximum(inside - floor, 0))


def build_anatomy(rng, warp):
    """Warps the atlas to one head and gives its averaged cortex folds."""
    atlas, grid = load_atlas(), warp.grid
    white, grey, ridge = map(warp.sample, (atlas.white, atlas.grey, atlas.ridge))
    inside = warp.sample(atlas.inside, -20.0)
    ventricle = warp.refine(warp.sample_coarsely(atlas.ventricle))
    x, y, z = warp.position
    basal = ((np.abs(x) - 17) / 20) ** 2 + ((y + 3) / 34) ** 2 + ((z - 5) / 22) ** 2
    basal = ramp(basal, 1.15, 0.85)  # 1 among the deep nuclei
    # The tentorium slopes up from the transverse sinus to the midbrain.
    cerebellum = (y < -36) & (z < -12 + 0.2 * (y + 95))
    cerebrum = (1 - basal) * ~cerebellum

    # The average of many heads is smooth; one head is not. A random threshold gives
    # averaged sulci back an individual width, and closes some of them.
    atrophy = np.clip(rng.normal(0, 0.4), -0.6, 0.9)
    width = 0.22 * smooth_noise(rng, grid, 14) + 0.12 * smooth_noise(rng, grid, 6)
    fluid = ramp(1 - white - grey, 0.12, 0.5 - 0.15 * atrophy)
    sulcus = ramp(ridge + width + 0.2 * atrophy, 0.55, 1.1)
    fluid = np.maximum(fluid, sulcus * cerebrum * ramp(white, 0.35, 0.15))
    edge = 0.10 * smooth_noise(rng, grid, 7) + 0.06 * smooth_noise(rng, grid, 3)
    share = ramp(white - grey + edge, -0.22, 0.22)
    thalamus = ramp(white - 0.75 * grey, -0.6, 0.6)  # truly in between
    share += basal * (thalamus - share)

    fold = fold_distance(rng, warp, inside)
    lateral = cerebrum * ramp(np.abs(x), 6, 12) * ramp(ventricle, 0.04, 0.02)
    share *= 1 - lateral * ramp(fold, 3.4, 2.4)
    gap = np.clip(0.35 + 0.4 * atrophy + 2.0 * width, -0.3, 1.5)
    fluid = np.maximum(fluid, lateral * ramp(fold, gap + 0.6, gap - 0.2))

    brain = ramp(inside, -0.5, 0.5)
    solid = brain * (1 - fluid)
    deep = solid * (1 - share) * basal
    return Anatomy(
        solid * share,
        solid * (1 - share) - deep,
        deep,
        brain * fluid,
        inside,
        ventricle,
        warp.position,
    )


class Scene:
    """Tissue fractions [tissue, X, Y, Z], sum 1 in the brain, and the label."""

    def __init__(self, anatomy):
        shape = anatomy.white.shape
        self.fractions = np.zeros((len(NAMES), *shape), np.float32)
        for name in ("white", "grey", "deep", "fluid"):
            self[name][:] = getattr(anatomy, name)
        self.label = np.zeros(shape, np.uint8)

    def __getitem__(self, name):
        return self.fractions[NAMES.index(name)]

    def lay_over(self, name, alpha, box=np.s_[:, :, :]):
        """Replaces the share `alpha` of whatever is in the box by one tissue."""
        part = self.fractions[(slice(None), *box)]
        total = part.sum(0)
        part *= 1 - alpha
        part[NAMES.index(name)] += alpha * total


# ----------------------------------------------------------------------------------
# Lesions


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


def draw_lesions(rng, grid, slices, pose):
    """Zero to two lesions in white matter, within the slices where they fit."""
    count = rng.choice([0, 1, 2], p=[0.06, 0.68, 0.26])
    return [draw_lesion(rng, grid, slices, pose) for _ in range(count)]


def draw_lesion(rng, grid, slices, pose):
    """One of four kinds: ring, solid, low grade, or low grade with nodules."""
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
        centre=draw_centre(rng, grid, slices, pose, 0.3 * size),
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


def draw_centre(rng, grid, slices, pose, room):
    """A voxel in white matter at least 5 mm inside the brain, by rejection."""
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


def ellipsoid_distance(grid, centre, stretch):
    """mm from the centre, measured in a stretched space."""
    ray = np.stack(np.broadcast_arrays(*grid.offsets(centre)))
    return np.sqrt((np.tensordot(stretch.astype(np.float32), ray, 1) ** 2).sum(0))


def add_lesion(rng, scene, anatomy, grid, lesion):
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


# ----------------------------------------------------------------------------------
# Look-alikes: what is bright, or enhances, and is no lesion


def add_hyperintensities(rng, scene, anatomy, grid):
    """White matter disease of age: caps on the ventricles, and points, unlabelled."""
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


def add_cavity(rng, scene, anatomy, grid, slices, pose):
    """A hole of an earlier operation: fluid, a gliotic wall, at times a bright seam."""
    radius = rng.uniform(5, 13)
    centre = draw_centre(rng, grid, slices, pose, radius)
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


def add_vessels(rng, scene, anatomy, grid):
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


def add_coverings(scene, anatomy):
    """Fluid and dura outside the brain, for skull stripping to leave bits of."""
    shell = anatomy.inside < 0.5
    empty = np.clip(1 - scene.fractions.sum(0), 0, 1) * shell
    outside = -anatomy.inside
    scene["fluid"][:] += empty * ramp(outside, 2.0, 1.2)
    scene["dura"][:] += empty * ramp(outside, 1.2, 2.0) * ramp(outside, 5.0, 4.0)


def strip_skull(rng, anatomy, grid):
    """The brain as a tool would cut it: too tight in places, too wide in others."""
    rough = rng.uniform(0.2, 0.9)  # mm
    border = -0.3 + rough * smooth_noise(rng, grid, 16)
    patch = ramp(smooth_noise(rng, grid, 24), 1.2, 2.0) * (rng.random() < 0.6)
    border = border - 3.0 * patch
    if rng.random() < 0.5:  # some tools follow the sulci, others wrap them
        border = border + rng.uniform(2, 5) * ramp(anatomy.fluid, 0.4, 0.8)
    brain = ndimage.gaussian_filter((anatomy.inside > border).astype(np.float32), 1.0)
    return brain > 0.5


# ----------------------------------------------------------------------------------
# Imaging


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


def tissue_signal(tissue, sequence, tesla, uptake=0.0):
    """Magnitude of one tissue by the spin-echo or inversion-recovery equation."""
    r1, r2 = (r * sequence.gadolinium * uptake / 1000 for r in RELAXIVITY[tesla])
    t1, t2 = 1 / (1 / tissue.t1 + r1), 1 / (1 / tissue.t2 + r2)
    recovered = 1 - np.exp(-sequence.tr / t1)
    if sequence.ti:
        recovered = 1 - 2 * np.exp(-sequence.ti / t1) + np.exp(-sequence.tr / t1)
    return abs(tissue.density * recovered * np.exp(-sequence.te / t2))


def draw_visit(rng):
    """Field strength in tesla and the sequence of each modality on one scanner."""
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


def acquire(rng, scene, sequence, tesla, grid):
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


# ----------------------------------------------------------------------------------
# Subjects and files


def simulate_subject(index, seed=0, slices=SLICES):
    """One subject: modality -> int16 and "seg" -> uint8, [240, 240, 155] each.

    Background is exactly 0 and brain at least 1. Outside `slices` everything is 0.
    """
    streams = np.random.SeedSequence([seed, index]).spawn(5)
    generators = map(np.random.default_rng, streams)
    of_pose, of_lesion, of_head, of_mimic, of_visit = generators
    grid = slab_grid(slices)
    pose = draw_pose(of_pose)
    lesions = draw_lesions(of_lesion, grid, slices, pose)
    anatomy = build_anatomy(of_head, Warp(of_head, grid, pose, lesions))

    scene = Scene(anatomy)
    add_hyperintensities(of_mimic, scene, anatomy, grid)
    if of_mimic.random() < 0.12:
        add_cavity(of_mimic, scene, anatomy, grid, slices, pose)
    for lesion in lesions:
        add_lesion(of_lesion, scene, anatomy, grid, lesion)
    add_vessels(of_mimic, scene, anatomy, grid)
    add_coverings(scene, anatomy)
    brain = strip_skull(of_mimic, anatomy, grid)

    tesla, sequences = draw_visit(of_visit)
    volumes = {"seg": place(scene.label * brain, grid, slices)}
    for name in MODALITIES:
        image = acquire(of_visit, scene, sequences[name], tesla, grid)
        gain = of_visit.uniform(300, 1500) / np.percentile(image[brain], 99)
        image = np.clip(np.rint(image * np.float32(gain)), 1, 32767).astype(np.int16)
        volumes[name] = place(image * brain, grid, slices)
    return volumes


def place(image, grid, slices):
    """Puts the slab, without its margin, into an empty BRATS volume."""
    volume = np.zeros(SHAPE, image.dtype, order="F")
    x, y, z = (slice(s, s + n) for s, n in zip(grid.start, grid.shape, strict=True))
    first = slices[0] - z.start
    volume[x, y, slices[0] : slices[1]] = image[:, :, first : first + np.ptp(slices)]
    return volume


def write_volume(path, volume):
    """Writes one NIfTI whole or not at all, with the same bytes for the same voxels."""
    image = nibabel.Nifti1Image(volume, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    image.header.set_xyzt_units("mm")
    # With mtime 0, gzip.compress leaves both name and time out of its header.
    packed = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(packed)
    partial.replace(path)


def write_subject(output_dir, index, seed=0, slices=SLICES):
    """Writes one subject in the BraTS 2018-21 layout; one already whole is kept.

    Returns its folder. The same seed, index and slices give the same bytes. A seed
    other than 0 is part of the name: two subjects must not bear the same one, or a
    split could not tell whether a model has seen it.
    """
    name = f"phantom-{seed}-{index:05d}" if seed else f"phantom-{index:05d}"
    folder = pathlib.Path(output_dir) / name
    paths = {key: folder / f"{name}_{key}.nii.gz" for key in (*MODALITIES, "seg")}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        volumes = simulate_subject(index, seed, slices)
        for key, path in paths.items():
            write_volume(path, volumes[key])
    return folder


def write_subjects(output_dir, count, seed=0, slices=SLICES, processes=2):
    """Writes subjects 1 to `count` with a progress line; returns their folders."""
    shown, folders = progress.Line(f"phantoms in {output_dir}", "subject"), []

    def report(folder):
        folders.append(folder)
        shown(len(folders), count)

    jobs = [(output_dir, index, seed, slices) for index in range(1, count + 1)]
    if processes == 1:
        for job in jobs:
            report(write_subject(*job))
        return folders
    # Not fork, which would copy the locks of TensorFlow's threads.
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(processes, context) as pool:
        for future in [pool.submit(write_subject, *job) for job in jobs]:
            report(future.result())
    return folders
