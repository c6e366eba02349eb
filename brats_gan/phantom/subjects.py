"""Subjects: simulated one by one, and written as NIfTI."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import multiprocessing
import os
import pathlib
import secrets
import shutil
import signal
import threading
from collections.abc import Mapping
from concurrent import futures
from multiprocessing import connection

import nibabel
import numpy as np
from absl import logging

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
from brats_gan.spec import BRATS, WHOLE, Spec


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
    for name in BRATS.modalities:
        image = acquire(of_visit, scene, sequences[name], tesla, grid)
        gain = of_visit.uniform(300, 1500) / np.percentile(image[brain], 99)
        image = np.clip(np.rint(image * np.float32(gain)), 1, 32767).astype(np.int16)
        volumes[name] = place(image * brain, grid, slices)
    return volumes


def classes_of(spec: Spec) -> np.ndarray:
    """Label of BraTS -> that of a Spec, [5] uint8, by the names of its labels.

    A label may be named as one of BraTS, as a region of it ("core"), or "lesion", which
    is all of it; where two would have a class, the later one does.

    Raises:
        DataError: a modality or a label that no phantom has.
    """
    unknown = {*spec.modalities} - {*BRATS.modalities}
    if unknown:
        raise files.DataError(
            f"a phantom has no {', '.join(sorted(unknown))}; it has "
            f"{', '.join(BRATS.modalities)}"
        )
    named = {name: (value,) for value, name in enumerate(BRATS.labels) if value}
    named = {"lesion": BRATS.regions[WHOLE], **BRATS.regions, **named}
    table = np.zeros(BRATS.num_labels, np.uint8)
    for value, name in enumerate(spec.labels[1:], 1):
        if name not in named:
            raise files.DataError(
                f"a phantom has no label {name}; it has {', '.join(named)}"
            )
        table[list(named[name])] = value
    return table


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


def write_volumes(
    output_dir: str | os.PathLike,
    name: str,
    volumes: Mapping[str, np.ndarray],
    spec: Spec = BRATS,
) -> None:
    """Writes what simulate_subject made as the subject `name`, as `spec` has it."""
    folder = pathlib.Path(output_dir, name)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {key: volumes[key] for key in spec.modalities}
    for key, volume in {**kept, "seg": classes_of(spec)[volumes["seg"]]}.items():
        write_volume(folder / f"{name}_{key}.nii.gz", volume)


def write_subject(
    output_dir: str | os.PathLike,
    index: int,
    seed: int = 0,
    slices: tuple[int, int] = SLICES,
    spec: Spec = BRATS,
) -> pathlib.Path:
    """Writes one subject in the BraTS 2018-21 layout; one already whole is kept.

    Of the modalities and the classes of the lesion those that `spec` names, see
    classes_of. Returns its folder. The same arguments give the same bytes. A seed
    other than 0 is part of the name: two subjects must not bear the same one, or a
    split could not tell whether a model has seen it.
    """
    name = f"phantom-{seed}-{index:05d}" if seed else f"phantom-{index:05d}"
    folder = pathlib.Path(output_dir) / name
    names = [f"{name}_{key}.nii.gz" for key in (*spec.modalities, "seg")]
    if not all((folder / each).exists() for each in names):
        volumes = simulate_subject(index, seed, slices)
        with _part_of(folder) as part:
            write_volumes(part, name, volumes, spec)
            if folder.exists():  # broken off by an older version, or by hand
                for each in names:
                    (part / name / each).replace(folder / each)
            else:
                (part / name).replace(folder)
    return folder


@contextlib.contextmanager
def _part_of(folder):
    """A hidden folder beside `folder`, for what is to become it whole or not at all.

    It is locked while it is worked in, so that what a kill left can be told from it.
    """
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        with _locked(part):
            yield part
    except OSError as error:
        raise files.DataError(
            f"{folder}: cannot be written ({error.strerror}). {files.remedy(error)}, "
            "then start the same command again."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder):
    """Whether this process alone has a folder; without locks nobody knows: False."""
    if not files.HAS_LOCKS:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            files.lock(descriptor, wait=False)
            alone = True
        except OSError:
            alone = False
        yield alone
    finally:
        os.close(descriptor)


def _remove_parts(output_dir):
    """Removes the halves of subjects that processes left which were killed."""
    for part in pathlib.Path(output_dir).glob(".phantom-*.part"):
        with contextlib.suppress(OSError), _locked(part) as alone:
            if alone:
                shutil.rmtree(part, ignore_errors=True)


def _die_with_parent():
    """Ends a worker as its parent does, however that ends: it waits for work for ever.

    Signals for the whole group, as of a terminal, are for the parent to act on.
    """
    sentinel = multiprocessing.parent_process().sentinel

    def watch():
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _pool(processes):
    """A pool of workers that do not outlive this process; None where none can be."""
    if processes == 1:
        return None
    # Not fork, which would copy the locks of TensorFlow's threads.
    context = multiprocessing.get_context("spawn")
    try:
        return futures.ProcessPoolExecutor(processes, context, _die_with_parent)
    except (OSError, ImportError) as error:  # no /dev/shm, as in some containers
        logging.warning("subjects are made one by one: there are no locks (%s)", error)
        return None


@contextlib.contextmanager
def _at_work(pool):
    """The workers of a pool, which take no signals of a terminal."""
    others = {*multiprocessing.active_children()}
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in {*multiprocessing.active_children()} - others:
            worker.kill()
        raise
    finally:
        pool.shutdown()


@contextlib.contextmanager
def _signals_blocked():
    """What is started within is deaf to signals, which its parent acts on.

    The parent gets them afterwards, and so leaves no worker half started. That this
    thread takes none is not enough: the kernel then gives them to another, such as one
    of OpenBLAS, and Python runs the handler here all the same.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    numbers, received = {getattr(signal, name) for name in names}, []
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {
            number: signal.signal(number, lambda number, _: received.append(number))
            for number in numbers
            if callable(signal.getsignal(number))
        }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in received:
        signal.raise_signal(number)


def write_subjects(
    output_dir: str | os.PathLike,
    count: int,
    seed: int = 0,
    slices: tuple[int, int] = SLICES,
    processes: int = 2,
    spec: Spec = BRATS,
) -> list[pathlib.Path]:
    """Writes subjects 1 to `count` with a progress line; returns their folders.

    A subject is there whole or not at all, also after a kill.

    Raises:
        DataError: the folder cannot be written to, nilearn is missing, or a worker was
            killed.
    """
    files.require_writable(output_dir)
    if importlib.util.find_spec("nilearn") is None:
        raise files.DataError(
            "phantoms are made of the MNI152 atlas that nilearn brings, which is not "
            "installed. Install it: pip install nilearn"
        )
    _remove_parts(output_dir)
    shown, folders = progress.Line(f"phantoms in {output_dir}", "subject"), []

    def report(folder):
        folders.append(folder)
        shown(len(folders), count)

    classes_of(spec)  # raises before the first subject
    jobs = [(output_dir, index, seed, slices, spec) for index in range(1, count + 1)]
    pool = _pool(processes)
    if pool is None:
        for job in jobs:
            report(write_subject(*job))
        return folders
    try:
        with _at_work(pool):
            with _signals_blocked():
                made = [pool.submit(write_subject, *job) for job in jobs]
            for future in made:
                report(future.result())
    except futures.process.BrokenProcessPool as error:
        raise files.DataError(
            f"{output_dir}: a process that made subjects was killed, by hand or for "
            "want of memory. Start the same command again, which goes on."
        ) from error
    return folders
