"""Painted sets: a brain from noise, a label that somebody paints, four contrasts.

What `explore.py` shows and `build_dataset.py --from_json` makes again. One set is a
sample of Section 2.8 whose label is given, and whose map is drawn as a slice of a
volume is (D49), at a height: the code of the subject and the detail are kept from one
height to the next, so that going up leads through one brain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from brats_gan import (
    data,
    metrics,
    recipes,
    runs,
    structural_map,
    synthesis,
    trained_models,
)
from brats_gan.lazy import ndimage, tf
from brats_gan.recipes import Code, Recipe

DIRECTIONS = 6  # first principal ones of a subject's code, that sliders move
FARTHEST = 4.0  # standard deviations along one of them
SMALL = 0.005  # of the pixels of a slice
PAINTED = "painted"  # in place of the subject that a label is of
_OF_STYLE = 1  # streams of a seed
_OF_PLACING = 2


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is chosen; fields are named and explained as flags of explore.py are."""

    structural_run: str | None = None  # None: the weights that come with the package
    multimodal_run: str | None = None  # likewise
    segmentor_run: str | None = None
    mae_threshold: float = structural_map.MAE_THRESHOLD
    dice_threshold: float | None = None  # None: see trained_models.dice_threshold
    mask_images: bool = True

    def __post_init__(self) -> None:
        for name in ("structural_run", "multimodal_run"):
            object.__setattr__(self, name, getattr(self, name) or "pretrained")


class Studio(NamedTuple):
    """The trained stages, loaded, and what goes with them."""

    settings: Settings  # as they were settled
    models: synthesis.Models
    of_maps: dict  # description of the export `structure`
    scheme: str  # lesion scheme that guided the generator
    seen: list[str]  # names of all subjects that any of the models has seen
    known: list  # of trained_models.records_of
    prints: dict[str, str]  # of trained_models.fingerprints
    # height [B], subject [B, K], detail [B, D] -> f, background; None: single slices
    at: Callable[[Any, Any, Any], tuple[Any, Any]] | None
    noise: tuple[int, int, int]  # K, S, D; K and S are 0 for single slices
    # background [B, H, W, 1] as MASK has it -> that of the brain itself (D6)
    shrunk: Callable[[Any], Any]

    @property
    def size(self) -> int:
        """Pixels a side of a slice."""
        return self.of_maps["image_size"]

    @property
    def directions(self) -> int:
        """How many sliders there are."""
        return min(DIRECTIONS, self.noise[0])


class Map(NamedTuple):
    """A structural map, [H, W] each in {0, 1}."""

    f: np.ndarray
    background: np.ndarray  # 1 outside the brain, as MASK has it
    without_islands: np.ndarray  # the same, holes of the brain filled
    inner: np.ndarray  # bool, the brain in which a label must lie (D6)
    mae: float  # of Algorithm 3


def load(settings: Settings) -> Studio:
    """Loads the trained stages.

    Raises:
        RunError, DataError: see trained_models.load_models.
    """
    of_runs = (
        settings.structural_run,
        settings.multimodal_run,
        settings.segmentor_run or settings.multimodal_run,
    )
    runs.set_up("float32", 0)
    models, of_maps, scheme, seen = trained_models.load_models(*of_runs)
    if settings.dice_threshold is None:
        reached = trained_models.dice_threshold(settings.multimodal_run)
        settings = dataclasses.replace(settings, dice_threshold=reached)
    found = trained_models.load_slice_of_stack(settings.structural_run)
    at, noise = found or (None, (0, 0, models.code_dim))
    return Studio(
        *(settings, models, of_maps, scheme, seen),
        trained_models.records_of(*of_runs),
        trained_models.fingerprints(*of_runs),
        *(at, noise),
        # Traced: operation by operation each call would leave some kB behind.
        tf.function(
            lambda background: structural_map.resize_background(
                background, -structural_map.GROWTH
            ),
            autograph=False,
        ),
    )


def as_asked(studio: Studio, recipe: Recipe) -> Studio:
    """The studio with what a recipe says of the mask and of both filters."""
    names = ("mask_images", *recipes.THRESHOLDS)
    said = {name: getattr(recipe, name) for name in names}
    settings = dataclasses.replace(studio.settings, **said)
    return studio._replace(settings=settings)


def warm_up(studio: Studio) -> None:
    """Draws once, so that functions are traced before anybody waits for them."""
    code = code_of(studio, 0, studio.noise[1] // 2, (), 0)
    shown = map_of(studio, code)
    label = np.zeros(shown.f.shape, np.uint8)
    images = images_of(studio, shown, label, code.style)
    if images is not None:
        found_in(studio, images)
    lesion = label.copy()
    lesion[len(lesion) // 2, len(lesion) // 2] = 1
    place(studio, shown, lesion[None], 0)


def code_of(
    studio: Studio,
    seed: int,
    height: int | None,
    directions: tuple[float | None, ...] = (),
    style: int | None = None,
) -> Code:
    """The code of a set, by what somebody chose.

    Args:
        studio: Studio.
        seed: of the code.
        height: 0..S-1; plays no part where maps are single slices.
        directions: in place of the first numbers of the subject's code, in standard
            deviations; None leaves what the seed gives.
        style: seed of the style (D33); None is the mean style.
    """
    rng = np.random.default_rng(seed)
    subject_dim, count, code_dim = studio.noise
    subject = rng.standard_normal(subject_dim, np.float32)
    detail = rng.standard_normal(code_dim, np.float32)
    for place_, value in enumerate(directions[:subject_dim]):
        if value is not None:
            subject[place_] = value
    fitted = studio.models.styles
    if fitted is None or style is not None:
        of_style = np.random.default_rng([style or 0, _OF_STYLE])
        drawn = synthesis.draw_style(fitted, of_style)
    else:
        drawn = fitted.mean.astype(np.float32)
    return Code(subject, detail, height if count else None, drawn)


def require_fitting(studio: Studio, code: Code) -> None:
    """ValueError for a code that is not one of these models."""
    subject_dim, count, code_dim = studio.noise
    fitted = studio.models.styles
    due = {
        "subject": (subject_dim,),
        "detail": (code_dim,),
        "style": (0,) if fitted is None else fitted.mean.shape,
    }
    for name, shape in due.items():
        given = getattr(code, name).shape
        if given != shape:
            raise ValueError(f"code.{name}: has the shape {given}, {shape} is due")
    if (code.height is None) != (count == 0) or (code.height or 0) >= max(count, 1):
        due = f"0 to {count - 1}" if count else "none"
        raise ValueError(f"height: is {code.height}, and {due} is due")


def maps_of(
    studio: Studio, subject: np.ndarray, detail: np.ndarray, heights: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """f and background [B, H, W] of one brain at some heights."""
    made = [
        studio.at(
            tf.constant([height]), tf.constant(subject[None]), tf.constant(detail[None])
        )
        for height in heights  # one by one: the same bytes whatever is asked with it
    ]
    return tuple(
        np.concatenate([each[part].numpy()[..., 0] for each in made])
        for part in range(2)
    )


def map_of(studio: Studio, code: Code) -> Map:
    """The map that a code is."""
    if studio.at is None:
        made = studio.models.structure(tf.constant(code.detail[None]))
        f, background = (each.numpy()[..., 0] for each in made)
    else:
        f, background = maps_of(studio, code.subject, code.detail, [code.height])
    f, background = f[0], background[0]
    whole = structural_map.without_islands(background)
    inner = studio.shrunk(tf.constant(whole[None, ..., None]))
    return Map(
        *(f, background, whole, inner.numpy()[0, ..., 0] < 0.5),
        structural_map.filter_error(f, background),
    )


def outside(shown: Map, label: np.ndarray) -> int:
    """Pixels of a lesion that lie outside the brain; it is placed well if none does."""
    return int(np.count_nonzero((label > 0) & ~shown.inner))


def images_of(
    studio: Studio, shown: Map, label: np.ndarray, style: np.ndarray
) -> np.ndarray | None:
    """The contrasts [M, H, W] in [0, 1]; None where one is constant or not finite."""
    made = studio.models.images(
        tf.constant(shown.f[None, ..., None]),
        tf.constant(label[None], tf.int32),
        tf.constant(style[None]),
    )
    images = made.numpy()[0, ..., 0].astype(np.float32)
    if not np.isfinite(images).all():
        return None
    if studio.settings.mask_images:  # as synthesis.masked, whose brain is known here
        images = np.where(shown.inner & (images >= synthesis.FAINT), images, 0)
    return images if (np.ptp(images, axis=(1, 2)) > 0).all() else None


def found_in(studio: Studio, images: np.ndarray) -> np.ndarray:
    """Labels [N, H, W] uint8 that the segmentors find in contrasts [M, H, W]."""
    found = studio.models.segment(tf.constant(images[None, ..., None]))
    return found.numpy()[0].astype(np.uint8)


def dice_of(label: np.ndarray, found: np.ndarray) -> list[float]:
    """Index Dice of what each segmentor found (Section 2.8)."""
    return [float(metrics.index_dice(label, each)) for each in found]


def place(
    studio: Studio, shown: Map, candidates: np.ndarray, seed: int
) -> tuple[np.ndarray, int, bool]:
    """Moves labels at random until one fits, as `synthesis.samples` does.

    Args:
        candidates: [K, H, W] uint8, of which the first that fits is taken.
        seed: of the moves.

    Returns:
        label [H, W] uint8, which of the candidates it is, and whether it fits.
    """
    rng = np.random.default_rng([seed, _OF_PLACING])
    label, tries, fitted = synthesis.fitting(
        tf.constant(candidates[None]),
        tf.constant(shown.without_islands[None, ..., None]),
        tf.constant(rng.integers(2**31, size=2, dtype=np.int32)),
    )
    return label[0].numpy(), int(tries[0]) - 1, bool(fitted[0])


def place_real(
    studio: Studio, shown: Map, pool: data.Slices | data.LabelPool, seed: int
) -> tuple[np.ndarray, str, bool]:
    """`place` for labels of a pool: the label, whose it was, and whether it fits.

    Lesions of a few pixels, of which one would see nothing, come last.
    """
    rng = np.random.default_rng(seed)
    rows = rng.choice(pool.lesions, 4 * synthesis.LABEL_CANDIDATES)
    small = np.count_nonzero(pool.labels(rows), axis=(1, 2)) < SMALL * studio.size**2
    rows = rows[np.argsort(small, kind="stable")][: synthesis.LABEL_CANDIDATES]
    label, chosen, fitted = place(studio, shown, pool.labels(rows), seed)
    return label, pool.names[pool.index[rows[chosen], 0]], fitted


def sample(studio: Studio, recipe: Recipe) -> synthesis.Sample | None:
    """The set of a recipe, filtered as in Section 2.8; None where it is blank."""
    shown = map_of(studio, recipe.code)
    images = images_of(studio, shown, recipe.label, recipe.code.style)
    if images is None:
        return None
    found = found_in(studio, images)
    dice = float(np.mean(dice_of(recipe.label, found)))
    failed = {
        "structure": shown.mae > studio.settings.mae_threshold,
        "label": outside(shown, recipe.label) > 0,
        "blank": False,
        "dice": dice < studio.settings.dice_threshold,
    }
    first = next((name for name, fails in failed.items() if fails), None)
    masked = studio.settings.mask_images
    return synthesis.Sample(
        number=0,
        structure=shown.f,
        background=shown.without_islands if masked else shown.background,
        label=recipe.label,
        images=images,
        predicted=found,
        label_subject=PAINTED if recipe.label.any() else "",
        tries=1,
        mae=shown.mae,
        dice=dice,
        accepted=first is None,
        **{f"rejected_{name}": int(name == first) for name in synthesis.REASONS},
    )


def rounded(label: np.ndarray, count: int, height: int, step: float) -> np.ndarray:
    """A label in one slice as a lesion in three dimensions, [S, H, W] uint8.

    Above and below, the outline of each class, its holes filled, draws in as that of a
    ball does whose radius is the deepest pixel's distance to the outline; a class
    within another ends before it.

    Args:
        label: [H, W].
        count: S.
        height: of the slice that it is in.
        step: pixels from one slice to the next.
    """
    volume = np.zeros((count, *label.shape), np.uint8)
    filled = {
        value: ndimage.binary_fill_holes(label == value)
        for value in np.unique(label[label > 0])
    }
    for value, region in sorted(filled.items(), key=lambda item: -item[1].sum()):
        depth = ndimage.distance_transform_edt(region)
        radius = float(depth.max())
        for number in range(count):
            away = abs(number - height) * step
            if away < radius:
                drawn_in = radius - np.sqrt(radius**2 - away**2)
                volume[number][depth > drawn_in] = value
    volume[height] = label
    return volume


def volume(
    studio: Studio, code: Code, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The whole brain of a code with the lesion of one of its slices.

    Returns:
        Contrasts [M, S, H, W] in [0, 1] and the label [S, H, W], of a voxel of
        spec.crop / size by spec.crop / size by 1 mm.

    Raises:
        ValueError: maps are single slices.
    """
    if studio.at is None:
        raise ValueError("these models draw single slices; a volume needs a stack")
    count = studio.noise[1]
    step = studio.size / studio.models.spec.crop  # slices are 1 mm apart
    labels = rounded(label, count, code.height, step)
    contrasts = np.zeros(
        (studio.models.spec.num_modalities, count, *label.shape), np.float32
    )
    for height in range(count):
        shown = map_of(studio, code._replace(height=height))
        if height != code.height:
            labels[height] *= shown.inner
        made = images_of(studio, shown, labels[height], code.style)
        if made is not None:
            contrasts[:, height] = made
    return contrasts, labels
