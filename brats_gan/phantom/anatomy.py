"""Heads without disease: the atlas, warped, folded, with all that covers the brain."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage

from brats_gan.phantom.grid import Box, ramp, smooth_noise, spline_upsample
from brats_gan.phantom.tissues import NAMES

CONTROL = 4  # voxels between control points of the warp

# Where the atlas lies on the BRATS grid: the mean of affine registrations of two real
# subjects' T1 to MNI152. Voxel CENTRE shows the point ORIGIN_MM of MNI space.
CENTRE = np.array([118.0, 131.0, 80.0])
ORIGIN_MM = np.array([0.0, -17.0, 12.0])
PITCH_DEG = 8.0  # nose-up turn of SRI24 against MNI152
MM_PER_VOXEL = 1.085  # BRATS brains are smaller than the average of MNI152


class Atlas(NamedTuple):
    """Maps of MNI152 at 1 mm, float32, and the point of their first voxel in mm."""

    origin: np.ndarray
    white: np.ndarray  # probability
    grey: np.ndarray  # probability
    inside: np.ndarray  # mm from the border of the brain, negative outside
    ridge: np.ndarray  # about 1 on the middle sheet of a sulcus
    ventricle: np.ndarray  # blurred over 4 mm, at most 1
    swell: tuple[
        np.ndarray, ...
    ]  # three components, at most 1 long, towards the ventricles


@functools.lru_cache(maxsize=1)
def load_atlas() -> Atlas:
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

    x, y, z = Box(tuple(origin), white.shape).offsets((0, 0, 0))
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


def sample_pose(rng: np.random.Generator) -> Pose:
    """Samples size, aspect, rotation and side of one head."""
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


class Mass(Protocol):
    """What pushes tissue aside: as much of a Lesion as a Warp has to know of it."""

    @property
    def centre(self) -> np.ndarray: ...

    @property
    def radius(self) -> float: ...

    @property
    def push(self) -> float: ...


class Warp:
    """Where every voxel lies in MNI space, with control points CONTROL voxels apart.

    Affine, elastic bend, ventricles swollen or shrunk, tissue pushed aside by lesions.
    """

    def __init__(
        self, rng: np.random.Generator, grid: Box, pose: Pose, lesions: Iterable[Mass]
    ) -> None:
        self.grid = grid
        self.origin = load_atlas().origin
        self.starts = [s - 2 * CONTROL for s in grid.start]
        coarse = Box((0, 0, 0), tuple(n // CONTROL + 6 for n in grid.shape))
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

    def sample(self, volume: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """An atlas map at every voxel."""
        at = [p - o for p, o in zip(self.position, self.origin, strict=True)]
        return ndimage.map_coordinates(
            volume, at, np.float32, order=1, cval=outside, prefilter=False
        )

    def sample_coarsely(self, volume: np.ndarray) -> np.ndarray:
        """An atlas map at every control point: cheaper, for smooth ones."""
        at = self.control - self.origin.reshape(3, 1, 1, 1)
        return ndimage.map_coordinates(volume, at, np.float32, order=1)

    def refine(self, control: np.ndarray) -> np.ndarray:
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
    position: list[np.ndarray]  # x, y, z in MNI mm


def fold_distance(
    rng: np.random.Generator, warp: Warp, inside: np.ndarray
) -> np.ndarray:
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


def build_anatomy(rng: np.random.Generator, warp: Warp) -> Anatomy:
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

    def __init__(self, anatomy: Anatomy) -> None:
        shape = anatomy.white.shape
        self.fractions = np.zeros((len(NAMES), *shape), np.float32)
        for name in ("white", "grey", "deep", "fluid"):
            self[name][:] = getattr(anatomy, name)
        self.label = np.zeros(shape, np.uint8)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.fractions[NAMES.index(name)]

    def lay_over(
        self,
        name: str,
        alpha: np.ndarray,
        box: tuple[slice, slice, slice] = np.s_[:, :, :],
    ) -> None:
        """Replaces the share `alpha` of whatever is in the box by one tissue."""
        part = self.fractions[(slice(None), *box)]
        total = part.sum(0)
        part *= 1 - alpha
        part[NAMES.index(name)] += alpha * total


def add_coverings(scene: Scene, anatomy: Anatomy) -> None:
    """Fluid and dura outside the brain, for skull stripping to leave bits of."""
    shell = anatomy.inside < 0.5
    empty = np.clip(1 - scene.fractions.sum(0), 0, 1) * shell
    outside = -anatomy.inside
    scene["fluid"][:] += empty * ramp(outside, 2.0, 1.2)
    scene["dura"][:] += empty * ramp(outside, 1.2, 2.0) * ramp(outside, 5.0, 4.0)


def strip_skull(rng: np.random.Generator, anatomy: Anatomy, grid: Box) -> np.ndarray:
    """The mask of a skull-stripping tool: too tight in places, too wide in others."""
    rough = rng.uniform(0.2, 0.9)  # mm
    border = -0.3 + rough * smooth_noise(rng, grid, 16)
    patch = ramp(smooth_noise(rng, grid, 24), 1.2, 2.0) * (rng.random() < 0.6)
    border = border - 3.0 * patch
    if rng.random() < 0.5:  # some tools follow the sulci, others wrap them
        border = border + rng.uniform(2, 5) * ramp(anatomy.fluid, 0.4, 0.8)
    brain = ndimage.gaussian_filter((anatomy.inside > border).astype(np.float32), 1.0)
    return brain > 0.5
