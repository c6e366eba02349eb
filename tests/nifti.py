"""Tiny subjects on disk, in every layout, for all tests.

Written with nibabel and SimpleITK, not with `io.write_nifti`, so that a mistake made
both in reading and in writing does not cancel out.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from brats_gan import io, spec

_BRIGHTNESS = {"t1": 600, "t2": 900, "t1ce": 700, "flair": 500}
# How much each label changes a modality, relative to the brain around it.
_CONTRAST = {
    "t1": {1: 0.5, 2: 0.8, 3: 0.7, 4: 0.8},
    "t2": {1: 1.5, 2: 1.3, 3: 1.2, 4: 1.1},
    "t1ce": {1: 0.5, 2: 0.8, 3: 0.8, 4: 1.6},
    "flair": {1: 0.9, 2: 1.6, 3: 1.4, 4: 1.3},
}
_FILES_2023 = {"t1": "t1n", "t2": "t2w", "t1ce": "t1c", "flair": "t2f", "seg": "seg"}
_FILES_2015 = {
    "t1": "MR_T1",
    "t2": "MR_T2",
    "t1ce": "MR_T1c",
    "flair": "MR_Flair",
    "seg": "OT",
}
_FILES_BIDS = {
    "t1": "T1w",
    "t2": "T2w",
    "t1ce": "ce-gadolinium_T1w",
    "flair": "FLAIR",
    "seg": "dseg",
}
_MSD_NAMES = {"t1": "T1w", "t2": "T2w", "t1ce": "t1gd", "flair": "FLAIR"}


def brain(shape=(32, 32, 8), seed=0, labels=(1, 2, 3, 4)):
    """An ellipsoid brain with a layered lesion in its left half, in every slice.

    Background is mostly 0, with a few voxels below, as resampled scans have.

    Args:
        shape: (H, W, S).
        seed: of the texture, the place of the lesion and the overshoot.
        labels: those that are drawn, out of 1 to 4; the others become oedema.

    Returns:
        {modality: [H, W, S] int16} and label [H, W, S] uint8, LPS.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    # Longer front to back, and reaching beyond the first and last slice.
    inside = (grid[0] / 0.8) ** 2 + (grid[1] / 0.65) ** 2 + (grid[2] / 2) ** 2 < 1
    centre = np.array([rng.uniform(-0.2, 0.2), 0.2, 0.0])
    apart = grid - centre[:, None, None, None]
    distance = np.sqrt((apart[0] ** 2 + apart[1] ** 2) / 0.38**2 + (apart[2] / 4) ** 2)
    label = np.select([distance < r for r in (0.35, 0.6, 0.8, 1)], [1, 4, 3, 2], 0)
    label = np.where(np.isin(label, (0, *labels)), label, 2).astype(np.uint8)
    label[~inside] = 0
    images = {}
    for modality in spec.BRATS.modalities:
        texture = 1 + 0.1 * grid[0] + 0.05 * rng.standard_normal(shape)
        change = np.array([1.0, *(_CONTRAST[modality][i] for i in (1, 2, 3, 4))])
        image = _BRIGHTNESS[modality] * texture * change[label]
        overshoot = -np.rint(rng.exponential(9, shape)) * (rng.random(shape) < 0.05)
        images[modality] = np.where(inside, image, overshoot).astype(np.int16)
    return images, label


def affine(shape, axes="LPS", spacing=1.0):
    """[4, 4] voxel -> RAS mm of a (H, W, S) brain stored with its axes as named."""
    height, width, _ = shape
    result = np.diag([spacing, spacing, spacing, 1.0])
    lps = np.diag([-spacing, -spacing, spacing, 1.0])
    lps[1, 3] = (height - 1) * spacing
    if axes == "LPS":
        return lps
    if axes == "RAS":  # the same brain: the last column of LPS is the first here
        result[0, 3] = -(width - 1) * spacing
        return result
    raise ValueError(axes)


def write_volume(path, volume, axes="LPS", placed=None):
    """Writes [H, W, S] LPS as .nii, .nii.gz or .mha, the axes stored as named.

    `placed` is the affine to claim, in place of the one that goes with the axes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    placed = affine(volume.shape[:3], axes) if placed is None else placed
    stored = volume.swapaxes(0, 1)  # [x, y, z]
    if axes == "RAS":
        stored = stored[::-1, ::-1]
    if path.suffix == ".mha":
        import SimpleITK

        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored.T))
        itk = np.diag([-1.0, -1.0, 1.0, 1.0]) @ placed  # LPS world
        spacing = np.linalg.norm(itk[:3, :3], axis=0)
        image.SetDirection((itk[:3, :3] / spacing).ravel().tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(itk[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    else:
        nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), placed), path)
    return path


def write_subject(
    folder,
    name,
    shape=(32, 32, 8),
    seed=0,
    layout="brats2018",
    *,
    axes="LPS",
    extension=None,
    label=True,
    labels=None,
    dtype=None,
    channels=("flair", "t1", "t1ce", "t2"),
):
    """Writes one subject of `brain`; returns role -> file, "seg" among the roles.

    Args:
        folder: the data folder; the subject is put where its layout wants it.
        name: of the subject.
        shape: (H, W, S).
        seed: of the brain.
        layout: one of io.LAYOUTS.
        axes: "LPS" or "RAS", how the voxels are stored.
        extension: ".nii.gz", ".nii" or ".mha"; None for that of the layout.
        label: whether there is a label file.
        labels: of ours that are drawn; None for all that the layout has.
        dtype: of the image files; None for that of the layout.
        channels: order of the modalities in a 4-D MSD file.
    """
    folder = Path(folder)
    mapping = io.LABEL_MAPS[layout]
    drawn = [v for v in mapping.values() if v] if labels is None else labels
    images, ours = brain(shape, seed, drawn)
    stored = np.zeros(5, np.uint8)
    stored[list(mapping.values())] = list(mapping)
    volumes = {m: image.astype(dtype or np.int16) for m, image in images.items()}
    if label:
        volumes["seg"] = stored[ours]
    if layout == "nnunet":
        return _write_nnunet(folder, name, volumes, axes, extension or ".nii.gz")
    if layout == "msd":
        return _write_msd(folder, name, volumes, axes, extension or ".nii.gz", channels)
    files = {}
    for number, (role, volume) in enumerate(volumes.items()):
        if layout == "brats2015":
            stem = f"VSD.Brain.XX.O.{_FILES_2015[role]}.{54000 + number}"
            path = folder / "HGG" / name / stem / f"{stem}{extension or '.mha'}"
        elif layout == "brats2023":
            end = f"{_FILES_2023[role]}{extension or '.nii.gz'}"
            path = folder / name / f"{name}-{end}"
        elif layout == "bids":
            end = f"{_FILES_BIDS[role]}{extension or '.nii.gz'}"
            path = folder / f"sub-{name}" / "anat" / f"sub-{name}_{end}"
        else:
            path = folder / name / f"{name}_{role}{extension or '.nii.gz'}"
        files[role] = write_volume(path, volume, axes)
    return files


def _write_nnunet(folder, name, volumes, axes, extension):
    order = ("t2", "t1ce", "flair", "t1")  # as no other layout has
    files = {}
    for role, volume in volumes.items():
        if role == "seg":
            path = folder / "labelsTr" / f"{name}{extension}"
        else:
            end = f"{order.index(role):04d}{extension}"
            path = folder / "imagesTr" / f"{name}_{end}"
        files[role] = write_volume(path, volume, axes)
    names = {"t1": "T1", "t2": "T2", "t1ce": "T1ce", "flair": "Flair"}
    description = {
        "channel_names": {str(i): names[m] for i, m in enumerate(order)},
        "labels": {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3},
        "numTraining": 1,
        "file_ending": extension,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return files


def _write_msd(folder, name, volumes, axes, extension, channels):
    stacked = np.stack([volumes[m] for m in channels], axis=-1).astype(np.float32)
    path = write_volume(folder / "imagesTr" / f"{name}{extension}", stacked, axes)
    files = dict.fromkeys(spec.BRATS.modalities, path)
    if "seg" in volumes:
        label_path = folder / "labelsTr" / f"{name}{extension}"
        files["seg"] = write_volume(label_path, volumes["seg"], axes)
    description = {
        "name": "BRATS",
        "modality": {str(i): _MSD_NAMES[m] for i, m in enumerate(channels)},
        "labels": {
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return files
