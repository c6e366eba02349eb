"""Subjects: simulated one by one, and written as NIfTI."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pathlib
from concurrent import futures

import nibabel
import numpy as np

from brats_gan import files, progress
from brats_gan.phantom.anatomy import (
    Scene,
    Warp,
    add_coverings,
    build_anatomy,
    sample_pose,
    strip_skull,
)
from brats_gan.phantom.grid import AFFINE, SHAPE, SLICES, Box, slab
from brats_gan.phantom.imaging import acquire, sample_visit
from brats_gan.phantom.lesions import (
    add_cavity,
    add_hyperintensities,
    add_lesion,
    add_vessels,
    sample_lesions,
)
from brats_gan.spec import MODALITIES


def simulate_subject(
    index: int, seed: int = 0, slices: tuple[int, int] = SLICES
) -> dict[str, np.ndarray]:
    """One subject: modality -> int16 and "seg" -> uint8, [240, 240, 155] each.

    Background is exactly 0 and brain at least 1. Outside `slices` everything is 0.
    """
    streams = np.random.SeedSequence([seed, index]).spawn(5)
    generators = map(np.random.default_rng, streams)
    of_pose, of_lesion, of_head, of_mimic, of_visit = generators
    grid = slab(slices)
    pose = sample_pose(of_pose)
    lesions = sample_lesions(of_lesion, grid, slices, pose)
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

    tesla, sequences = sample_visit(of_visit)
    volumes = {"seg": place(scene.label * brain, grid, slices)}
    for name in MODALITIES:
        image = acquire(of_visit, scene, sequences[name], tesla, grid)
        gain = of_visit.uniform(300, 1500) / np.percentile(image[brain], 99)
        image = np.clip(np.rint(image * np.float32(gain)), 1, 32767).astype(np.int16)
        volumes[name] = place(image * brain, grid, slices)
    return volumes


def place(image: np.ndarray, grid: Box, slices: tuple[int, int]) -> np.ndarray:
    """Puts the slab, without its margin, into an empty BRATS volume."""
    volume = np.zeros(SHAPE, image.dtype, order="F")
    x, y, z = (slice(s, s + n) for s, n in zip(grid.start, grid.shape, strict=True))
    first = slices[0] - z.start
    volume[x, y, slices[0] : slices[1]] = image[:, :, first : first + np.ptp(slices)]
    return volume


def write_volume(path: str | os.PathLike, volume: np.ndarray) -> None:
    """Writes one NIfTI whole or not at all, with the same bytes for the same voxels."""
    image = nibabel.Nifti1Image(volume, AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=1)
    image.header.set_xyzt_units("mm")
    # With mtime 0, gzip.compress leaves both name and time out of its header.
    packed = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
    files.write_atomically(path, packed)


def write_subject(
    output_dir: str | os.PathLike,
    index: int,
    seed: int = 0,
    slices: tuple[int, int] = SLICES,
) -> pathlib.Path:
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


def write_subjects(
    output_dir: str | os.PathLike,
    count: int,
    seed: int = 0,
    slices: tuple[int, int] = SLICES,
    processes: int = 2,
) -> list[pathlib.Path]:
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
