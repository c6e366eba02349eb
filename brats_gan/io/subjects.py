"""Subjects: from volumes to the input of networks, and slices placed back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
from absl import logging

from brats_gan.files import DataError
from brats_gan.io.conventions import AS_NAMED, Labelling
from brats_gan.io.headers import Grid, lps_grid, require_same_grid
from brats_gan.io.labels import label_map, remedies, to_ours
from brats_gan.io.layouts import Subject, images_by_file
from brats_gan.io.volumes import load_channels, read_header
from brats_gan.lazy import ndimage
from brats_gan.spec import BRATS, Spec

_MOST_OF_BRAIN = 0.75  # that a lesion fills
_MOST_NEGATIVE = 0.1  # of the voxels that are not 0


def parse_slices(text: str) -> tuple[int, int]:
    """The flag "55:105" -> (55, 105)."""
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if not match or int(match[1]) >= int(match[2]):
        raise DataError(f"--slices={text}: two rising numbers are due, such as 55:105.")
    return int(match[1]), int(match[2])


def read_subject(
    subject: Subject,
    slices: tuple[int, int] | None = None,
    image_size: int | None = None,
    labels: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads one subject as the input of networks (D1).

    Negative voxels are resampling overshoot and become 0. Each volume is divided by the
    99.9 percentile of its positive voxels and clipped to [0, 1]; background is exactly
    0. The percentile is taken over the slices in range, so that nothing outside the
    range needs decoding, and is the smallest value with 99.9 % of the positive voxels
    at or below it: no interpolation, hence the same for integers and floats. Slices are
    cropped to spec.crop x spec.crop around the brain's bounding box, the union of the
    modalities over the range, with zeros where the crop leaves the field; where the
    background is noise, without_noise comes first. A prepared subject is
    read whole, as it is, around the centre of its field.

    Args:
        subject: a `Subject`, whose Spec says the rest.
        slices: half-open range of axial slices, None for that of the Spec; a prepared
            subject has it behind it.
        image_size: pixels a side after the crop, None for all; images by area, labels
            by nearest.
        labels: whether to read the label too.

    Returns:
        Images [S, image_size, image_size, M] float32 in [0, 1], channels as
        spec.modalities, and labels [S, image_size, image_size] uint8 (None where the
        subject has none, or `labels` is False).
    """
    crop = subject.spec.crop
    image_size = image_size or crop
    slices = None if subject.prepared else slices or subject.spec.slices
    volumes, grid = _load_modalities(subject, slices)
    if not (subject.prepared or subject.spec.zero_background):
        volumes = without_noise(volumes)
    brain = [silhouette(subject.images[m][0], m, x) for m, x in volumes.items()]
    brain = np.logical_or.reduce(brain)
    rows, columns = (_extent(brain.any(axis)) for axis in (1, 0))
    height, width = brain.shape
    if subject.prepared:
        top, left = (height - crop) // 2, (width - crop) // 2
    else:
        top, left = ((span.start + span.stop - crop) // 2 for span in (rows, columns))
        if max(span.stop - span.start for span in (rows, columns)) > crop:
            logging.log_first_n(
                logging.WARNING,
                "%s: a brain larger than %d pixels is cut at the border of its slices.",
                1,
                subject.name,
                crop,
            )

    depth = next(iter(volumes.values())).shape[0]
    images = np.empty((depth, crop, crop, len(volumes)), np.float32)
    for index, volume in enumerate(volumes.values()):
        ceiling = 1.0
        if not subject.prepared:
            ceiling = _percentile(volume[:, rows, columns])
        image = _crop(volume, top, left, crop).astype(np.float32)
        image /= np.float32(ceiling)
        np.clip(image, 0.0, 1.0, out=images[..., index])
    images = _shrink(images, image_size, subject.prepared)

    if not labels or subject.label is None:
        return images, None
    label = load_label(subject, slices, grid)
    label = resize_nearest(_crop(label, top, left, crop), image_size)
    if not subject.prepared:  # where networks draw labels, they are what they are
        require_lesions(subject.label, label > 0, images.any(-1))
    return images, label


def _load_modalities(subject, slices):
    """Modality -> [S, H, W] as stored, each file decoded once, and their one grid."""
    loaded, first = {}, None
    for path, wanted in images_by_file(subject).items():
        arrays, grid = load_channels(path, [channel for _, channel in wanted], slices)
        first = first or grid
        require_same_grid(first, grid)
        for (modality, _), array in zip(wanted, arrays, strict=True):
            loaded[modality] = array.transpose(2, 0, 1)
    return {modality: loaded[modality] for modality in subject.spec.modalities}, first


def without_noise(volumes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Modality -> [S, H, W], with zeros outside the head instead of noise (D35).

    The head is what is brighter than Otsu's threshold in any modality: the largest
    component, with holes filled in every slice. It may be skull-stripped or not.
    """
    head = np.logical_or.reduce([_bright(x) for x in volumes.values()])
    pieces = sitk.RelabelComponent(
        sitk.ConnectedComponent(sitk.GetImageFromArray(head.astype(np.uint8)))
    )
    head = sitk.GetArrayFromImage(pieces) == 1
    head = np.stack([ndimage.binary_fill_holes(each) for each in head])
    return {name: np.where(head, x, 0) for name, x in volumes.items()}


def _bright(volume):
    """Where [S, H, W] is above Otsu's threshold; voxels that are not finite count as
    dark, for `silhouette` to name."""
    finite = np.nan_to_num(np.asarray(volume, np.float32), posinf=0.0, neginf=0.0)
    dark = sitk.OtsuThreshold(sitk.GetImageFromArray(finite), 1, 0)
    return sitk.GetArrayFromImage(dark) == 0


def silhouette(
    path: str | os.PathLike, modality: str, volume: np.ndarray
) -> np.ndarray:
    """[S, H, W] in range -> [H, W] bool, where any slice is positive.

    DataError where the voxels are of no use: not finite, all zero, constant, or
    normalised so that many are negative.
    """
    if volume.dtype.kind == "f" and not np.isfinite(volume).all():
        raise DataError(
            f"{path}: {modality} has {np.count_nonzero(~np.isfinite(volume))} voxels "
            "that are not finite in the slices in range. Export it again."
        )
    highest = volume.max(axis=0)
    if not (highest > 0).any():
        raise DataError(
            f"{path}: {modality} has no positive voxel in the slices in range. "
            "Download or export it again."
        )
    require_unscaled(path, modality, volume)
    if (highest == highest.flat[0]).all() and (volume == highest.flat[0]).all():
        raise DataError(
            f"{path}: {modality} is constant, {highest.flat[0]:g} everywhere. Download "
            "or export it again."
        )
    return highest > 0


def _extent(line):
    """1-D bool -> the slice from its first to its last True."""
    where = np.flatnonzero(line)
    return slice(int(where[0]), int(where[-1]) + 1)


def _percentile(volume, permille=999):
    """Smallest value with `permille` of the positive voxels at or below it."""
    positive = volume[volume > 0]
    rank = (positive.size * permille + 999) // 1000  # 1-based
    if positive.dtype.kind in "iu" and positive.max() < 2**16:
        # Counting beats sorting, and gives the same value.
        return int(np.searchsorted(np.cumsum(np.bincount(positive)), rank))
    return np.partition(positive, rank - 1)[rank - 1]


def _crop(volume, top, left, crop):
    """[S, H, W] -> [S, crop, crop] from (top, left), which may lie outside."""
    _, height, width = volume.shape
    cropped = np.zeros((volume.shape[0], crop, crop), volume.dtype)
    rows = slice(max(top, 0), min(top + crop, height))
    columns = slice(max(left, 0), min(left + crop, width))
    cropped[
        :,
        rows.start - top : rows.stop - top,
        columns.start - left : columns.stop - left,
    ] = volume[:, rows, columns]
    return cropped


def _shrink(images, size, prepared):
    """[S, H, H, M] -> [S, size, size, M] by area; zeros stay exactly zero."""
    crop = images.shape[1]
    if size == crop:
        return images
    factor, rest = divmod(crop, size)
    if prepared and rest == 0:
        # place_back enlarged by repetition: undone without arithmetic, so exactly.
        picked = images[:, ::factor, ::factor]
        if np.array_equal(_repeat(picked, factor), images):
            return np.ascontiguousarray(picked)
    resized = [
        cv2.resize(x, (size, size), interpolation=cv2.INTER_AREA) for x in images
    ]
    return np.clip(np.stack(resized), 0.0, 1.0)


def _repeat(slices, factor):
    return slices.repeat(factor, axis=1).repeat(factor, axis=2)


def resize_nearest(slices: np.ndarray, size: int) -> np.ndarray:
    """[S, H, H] -> [S, size, size], the value at the centre of each new pixel."""
    height = slices.shape[1]
    if size == height:
        return slices
    index = ((np.arange(size) + 0.5) * height / size).astype(int)
    return slices[:, index[:, None], index]


def load_label(
    subject: Subject, slices: tuple[int, int] | None, grid: Grid
) -> np.ndarray:
    """Label of a subject as indices in its spec.labels, [S, H, W] uint8.

    `grid` is that of its images, and the label must share it.
    """
    (stored,), label_grid = load_channels(subject.label, [None], slices)
    require_same_grid(grid, label_grid)
    slope = read_header(subject.label).slope if stored.dtype.kind == "f" else 1.0
    return to_ours(
        stored.transpose(2, 0, 1),
        label_map(subject),
        subject.label,
        slope,
        remedies(subject),
    )


def load_lesion_map(
    path: str | os.PathLike,
    slices: tuple[int, int],
    image_size: int,
    spec: Spec = BRATS,
    labelling: Labelling = AS_NAMED,
    slice_spacing: float = 1.0,
) -> np.ndarray:
    """A label map that somebody drew, as networks see labels: [S, H, W] uint8.

    Args:
        path: in the field of a volume that this project writes, spec.field pixels a
            side and centred, such as its `_seg` file.
        slices: half-open range.
        image_size: pixels a side after the crop, by nearest.
        spec: of its labels.
        labelling: how they are numbered.
        slice_spacing: mm between slices of the volume that it is placed in.

    Raises:
        DataError: it has another shape or other labels, or no lesion in the range.
    """
    subject, grid = _drawn(path, spec, labelling)
    path = subject.label
    sides = tuple(int(side) for side in grid.shape[:2])
    if sides != (spec.field, spec.field):
        raise DataError(
            f"{path}: has slices of {sides[0]} x {sides[1]} voxels, and lesions are "
            f"placed in {spec.field} x {spec.field}, as in the volumes that are made; "
            "resample it to that, by nearest"
        )
    if grid.shape[2] < slices[1]:
        raise DataError(
            f"{path}: has {grid.shape[2]} slices, and the models make slices "
            f"{slices[0]} to {slices[1] - 1}; give all slices of a volume"
        )
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    if np.abs(spacing - (1.0, 1.0, slice_spacing)).max() > 0.05:
        logging.warning(
            "%s: has voxels of %s mm, and those of the volumes are of 1 x 1 x %g mm: "
            "the lesion keeps its voxels, and so changes its size",
            *(path, " x ".join(f"{side:g}" for side in spacing), slice_spacing),
        )
    whole = load_label(subject, None, grid)
    start = (spec.field - spec.crop) // 2
    label = _crop(whole[slice(*slices)], start, start, spec.crop)
    placed = resize_nearest(label, image_size)
    where = f"slices {slices[0]} to {slices[1] - 1}"
    if not placed.any():
        said = f"no lesion in {where}"
        if label.any():
            said = f"a lesion too small for pixels of {spec.crop / image_size:g} mm"
        raise DataError(
            f"{path}: has {said}, in the {spec.crop} x {spec.crop} pixels in the "
            "middle, which are those that the models make"
        )
    lost = np.count_nonzero(whole) - np.count_nonzero(label)
    if lost:
        logging.warning(
            "%s: %d of %d voxels of the lesion are left out: models make %s, and the "
            "%d x %d pixels in the middle",
            *(path, lost, np.count_nonzero(whole), where, spec.crop, spec.crop),
        )
    return placed


def _drawn(path, spec, labelling):
    """A label map without images as a Subject, and its grid."""
    path = Path(path)
    subject = Subject(path.name, "brats2018", {}, path, spec=spec, labelling=labelling)
    return subject, lps_grid(path, read_header(path))


def same_label(
    path: str | os.PathLike,
    subject: Subject,
    spec: Spec = BRATS,
    labelling: Labelling = AS_NAMED,
) -> bool:
    """Whether a label map is that of a subject: the same labels in the same voxels, if
    there are any, however either is named, numbered, stored or compressed.

    Args:
        path, spec, labelling: as of `load_lesion_map`.
        subject: with a label; one that cannot be read is not the same.
    """
    drawn, grid = _drawn(path, spec, labelling)
    try:
        theirs_at = lps_grid(subject.label, read_header(subject.label))
        if theirs_at.shape != grid.shape:
            return False
        theirs = load_label(subject, None, theirs_at)
    except DataError:
        return False
    ours = load_label(drawn, None, grid)
    return bool(ours.any() and np.array_equal(ours, theirs))


def require_lesions(path: Path, labelled: np.ndarray, brain: np.ndarray) -> None:
    """DataError where what is labelled, of any shape, is the brain and no lesion."""
    share = np.count_nonzero(labelled & brain) / max(1, np.count_nonzero(brain))
    if share > _MOST_OF_BRAIN:
        raise DataError(
            f"{path}: labels {share:.0%} of the brain in the slices in range: a mask "
            "of the brain or of its tissues, not of lesions. Put the label of the "
            "lesions in its place."
        )


def require_unscaled(path: Path, modality: str, volume: np.ndarray) -> None:
    """DataError where many voxels of a volume are negative: it was normalised.

    Resampling overshoot is at most 0.9 % of the voxels that are not 0, in 22 subjects
    of BraTS; a z-score makes about half of the brain negative, [-1, 1] all background.
    """
    negative = np.count_nonzero(volume < 0)
    share = negative / max(1, np.count_nonzero(volume))
    if share > _MOST_NEGATIVE:
        raise DataError(
            f"{path}: {modality} is negative in {share:.0%} of its voxels in range "
            "that are not 0: the intensities were normalised (z-score or [-1, 1]), "
            "and what is negative would count as background. Give the original images."
        )


def place_back(
    slices_hw: np.ndarray,
    field: int = BRATS.field,
    crop: int = BRATS.crop,
    label: bool = False,
) -> np.ndarray:
    """[S, size, size] -> [S, field, field]: enlarged to the crop, zeros around it.

    Where `crop` is a multiple of the size, each pixel is repeated, so that
    `read_subject` returns exactly the same values at that size.
    """
    size = slices_hw.shape[1]
    factor, rest = divmod(crop, size)
    if rest == 0:
        enlarged = _repeat(slices_hw, factor)
    elif label:
        enlarged = resize_nearest(slices_hw, crop)
    else:
        scale = cv2.INTER_LINEAR if crop > size else cv2.INTER_AREA
        enlarged = [cv2.resize(x, (crop, crop), interpolation=scale) for x in slices_hw]
        enlarged = np.stack(enlarged)
    before = (field - crop) // 2
    after = field - crop - before
    return np.pad(enlarged, ((0, 0), (before, after), (before, after)))
