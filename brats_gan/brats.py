"""BraTS: its facts, its folder layouts, and volumes in and out of files.

Everything that depends on how BraTS is distributed is here, and nothing else: which
modalities and labels there are, how each year names and numbers them, and how a subject
on disk becomes two arrays. Decisions of the project are cited as D1, D15
(docs/deviations.md).

Axes: a volume is [H, W, S] in LPS, so rows run anterior to posterior, columns right to
left and slices foot to head, as in the raw BraTS arrays.
"""

import contextlib
import io
import itertools
import os
import random
import re
import stat
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import nibabel as nib
import numpy as np
from absl import logging
from nibabel import orientations

try:
    from isal import igzip, isal_zlib
except ImportError:
    # No wheel for this machine: the same voxels, at half the rate.
    import gzip as igzip
    import zlib as isal_zlib
from brats_gan.files import (
    MAX_NAME,
    DataError,
    is_file_name,
    read_json,
    write_atomically,
    write_json,
)

MODALITIES = ("t1", "t2", "t1ce", "flair")
LABELS = ("background", "necrosis", "oedema", "non-enhancing", "enhancing")
REGIONS = {"whole": (1, 2, 3, 4), "core": (1, 3, 4), "enhancing": (4,)}
SLICES = (55, 105)  # half-open, D15
CROP = 192  # pixels a side, around the brain
FIELD = 240  # pixels a side of a BraTS slice
LAYOUTS = ("brats2015", "brats2018", "brats2023", "msd")

# Label in the file -> index in LABELS. From 2017 on, label 1 is necrosis together with
# the non-enhancing core. Label 3 went out of use that year, but files written by this
# project have it; 2023 gave the number to the enhancing core.
LABEL_MAPS = {
    "brats2015": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    "brats2018": {0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    "brats2023": {0: 0, 1: 1, 2: 2, 3: 4},
    "msd": {0: 0, 1: 2, 2: 3, 3: 4},  # where dataset.json does not say otherwise
}

# What a file may be called, in lower case, after the last "_" (2018) or "-" (2023).
_SUFFIXES = {
    "t1": ("t1", "t1n"),
    "t2": ("t2", "t2w"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "flair": ("flair", "t2f"),
    "seg": ("seg", "segm"),
}

_SEQUENCES_2015 = {
    "mr_t1": "t1",
    "mr_t2": "t2",
    "mr_t1c": "t1ce",
    "mr_flair": "flair",
    "ot": "seg",
}

_MSD_CHANNELS = {
    "t1": ("t1w", "t1"),
    "t2": ("t2w", "t2"),
    "t1ce": ("t1gd", "t1ce", "t1c"),
    "flair": ("flair", "t2f"),
}

# Words of a label name in dataset.json, looked for in this order: "non-enhancing" also
# contains "enhancing".
_MSD_LABELS = (
    ("background", 0),
    ("necro", 1),
    ("edema", 2),
    ("oedema", 2),
    ("non-enhancing", 3),
    ("enhancing", 4),
)
_MHA_HEADER = 2**16  # bytes in which the header ends

# What no BraTS file comes near: beyond, a file is damaged, or made to fill the memory.
_MAX_BYTES = 2**31  # of a volume as float32; one 4-D MSD file is 143 MB
_MAX_DEPTH = 2**10  # axial slices
_MAX_BEHIND = 2**26  # bytes behind the voxels
_MAX_RATIO = 1040  # of sizes, unpacked to packed: deflate reaches 1032
_MAX_SHIFT_MM = 1.0  # between the modalities of one subject
IMAGE_SLOPE = 1 / 32767  # [0, 1] as int16


class Subject(NamedTuple):
    """One patient on disk.

    `prepared` marks a data set this project wrote: its intensities are in [0, 1], its
    brains centred and its slices cut to the range already, so it is read as it is.
    """

    name: str
    layout: str
    images: dict  # modality -> (Path, channel of a 4-D file or None)
    label: Path | None
    prepared: bool = False


def find_subjects(data_dir, layout=None):
    """Lists the subjects below a folder, sorted by name.

    Args:
        data_dir: folder in one of LAYOUTS (data/README.md shows the trees).
        layout: one of LAYOUTS, or None to recognise it by the names of the files.

    Returns:
        A list of `Subject`, never empty. Raises `DataError` naming every bad subject.
    """
    subjects, problems = survey(data_dir, layout)
    if problems:
        raise DataError(first_of(problems))
    return subjects


def first_of(problems, limit=20):
    """Messages of the first (subject, message) pairs, one a line; each names a file."""
    lines = [message for _, message in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"... and {len(problems) - limit} more")
    return "\n".join(lines)


def survey(data_dir, layout=None):
    """As `find_subjects`, but only a folder that is wrong as a whole raises.

    Returns:
        A sorted list of `Subject`, and a list of (subject name, message).
    """
    data_dir = Path(data_dir)
    if layout is not None and layout not in LAYOUTS:
        raise DataError(
            f"Layout {layout!r} is not known: choose of {', '.join(LAYOUTS)}."
        )
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder. Check the path.")

    found = {}  # (layout, subject folder) -> role -> list of files
    ignored = []
    for path in _walk(data_dir):
        kind, role, folder = _classify(path, layout)
        if kind is None:
            ignored.append(path)
        elif layout in (None, kind):
            roles = found.setdefault((kind, folder), {})
            roles.setdefault(role, []).append(path)
    kinds = sorted({kind for kind, _ in found})
    msd_dir = _msd_folder(data_dir) if layout in (None, "msd") else None
    if msd_dir is not None:
        kinds.append("msd")

    if len(kinds) > 1:
        examples = {kind: folder for kind, folder in found}
        shown = [f"{kind} ({examples.get(kind, msd_dir)})" for kind in kinds]
        raise DataError(
            f"{data_dir}: holds more than one layout: {', '.join(shown)}. Put each in "
            "a folder of its own, or choose one with --layout."
        )
    if not kinds:
        seen = ""
        if ignored:
            seen = f" Of {len(ignored)} files seen, the first is {ignored[0]}."
        raise DataError(
            f"{data_dir}: no subject of layout {layout or ' or '.join(LAYOUTS)} found."
            f"{seen} data/README.md shows the folder trees that are read."
        )
    if kinds == ["msd"]:
        subjects, problems = _msd_subjects(msd_dir)
    else:
        prepared = _is_prepared(data_dir)
        subjects, problems = [], []
        for name, (kind, folder), roles in _named(found):
            wrong = _role_problems(kind, folder, roles)
            problems += [(name, message) for message in wrong]
            if not wrong:
                images = {m: (roles[m][0], None) for m in MODALITIES}
                label = roles.get("seg", [None])[0]
                subjects.append(Subject(name, kind, images, label, prepared))
    subjects, misnamed = _well_named(subjects)
    problems += misnamed
    return sorted(subjects, key=lambda subject: subject.name), sorted(problems)


def _walk(data_dir, depth=4):
    """Files down to HGG/subject/sequence/file, in a fixed order, no hidden ones.

    Links are followed, but for those that lead back up.
    """
    for folder, folders, files in os.walk(data_dir, followlinks=True):
        below = len(Path(folder).relative_to(data_dir).parts)
        here = Path(folder).resolve()
        folders[:] = sorted(
            f
            for f in folders
            if f[0] != "."
            and below < depth - 1
            and Path(folder, f).resolve() not in (here, *here.parents)
        )
        yield from (Path(folder, f) for f in sorted(files) if f[0] != ".")


def _classify(path, layout=None):
    """File -> (layout, modality or "seg", subject folder), or three times None."""
    name = path.name.lower()
    match = re.match(r"(.+?)(\.nii|\.nii\.gz|\.mha)$", name)
    if not match:
        return None, None, None
    stem, extension = match.groups()

    if stem.startswith("vsd."):
        sequence = re.search(r"\.o\.(mr_t1c|mr_t1|mr_t2|mr_flair|ot)(?![a-z0-9])", stem)
        if sequence:
            # As distributed, each sequence has a folder named as its file.
            alone = path.parent.name.lower().startswith("vsd.")
            folder = path.parent.parent if alone else path.parent
            return "brats2015", _SEQUENCES_2015[sequence[1]], folder

    suffix = re.search(r"([_-])([a-z0-9]+)$", stem)
    if suffix and extension != ".mha":
        for role, names in _SUFFIXES.items():
            if suffix[2] in names:
                kind = {"_": "brats2018", "-": "brats2023"}[suffix[1]]
                if layout in ("brats2018", "brats2023"):
                    kind = layout  # forced: files that were renamed are taken too
                return kind, role, path.parent
    return None, None, None


def _named(found):
    """Yields (subject name, key, roles); two folders of one name get their parent's."""
    names = [_folder_name(folder) for _, folder in found]
    for (key, roles), name in zip(found.items(), names, strict=True):
        unique = names.count(name) == 1  # 2015 has subjects of one name in HGG and LGG
        yield name if unique else f"{_folder_name(key[1].parent)}_{name}", key, roles


def _folder_name(folder):
    """Name of a folder, also of one that was given as "." or "..": never those."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _well_named(subjects):
    """The subjects whose name can be that of a file, and no one else's; problems."""
    good, problems = {}, []
    for subject in subjects:
        name, path = subject.name, next(iter(subject.images.values()))[0]
        if name in good:
            other = next(iter(good[name].images.values()))[0]
            message = (
                f"{path}: its subject would have the name {name}, as that of {other}. "
                "Rename one of the folders."
            )
        elif not is_file_name(name):
            message = (
                f"{str(path)!a}: {name!a} cannot be the name of files. Rename it: "
                f"printable, no more than {MAX_NAME} bytes, no / or \\."
            )
        else:
            good[name] = subject
            continue
        problems.append((name if name.isprintable() else ascii(name), message))
    return list(good.values()), problems


def _role_problems(kind, folder, roles):
    """Messages about one subject folder: modalities missing or there twice."""
    problems = []
    for role in (*MODALITIES, "seg"):
        files = roles.get(role, [])
        if len(files) > 1:
            problems.append(
                f"{folder}: {len(files)} files for {role}: "
                f"{', '.join(str(f.relative_to(folder)) for f in files)}. "
                "Keep one, and one folder for each subject."
            )
        elif not files and role != "seg":
            problems.append(
                f"{folder}: no {role} image. Looked for {_looked_for(kind, role)}. "
                "Add the file, or take the subject out of the folder."
            )
    return problems


def _looked_for(kind, role):
    if kind == "brats2015":
        sequence = {role: name for name, role in _SEQUENCES_2015.items()}[role]
        return f"VSD.Brain.XX.O.{sequence.upper()}.*.mha (or .nii, .nii.gz)"
    separator = {"brats2018": "_", "brats2023": "-"}[kind]
    names = [f"*{separator}{suffix}.nii.gz" for suffix in _SUFFIXES[role]]
    return f"{', '.join(names)} (or .nii, in any case)"


def _is_prepared(data_dir):
    path = data_dir / "dataset_description.json"
    return path.is_file() and read_json(path).get("Prepared") is True


def _msd_folder(data_dir):
    """The folder with dataset.json and imagesTr: data_dir itself or right below it."""
    below = sorted(data_dir.glob("*/dataset.json"))
    for path in (data_dir / "dataset.json", *below):
        if path.is_file() and (path.parent / "imagesTr").is_dir():
            return path.parent
    return None


def _msd_subjects(folder):
    description = folder / "dataset.json"
    content = read_json(description)
    named = content.get("modality") or content.get("channel_names")
    if not isinstance(named, dict):
        raise DataError(f'{description}: no "modality". Restore the original file.')
    channels = {}
    for modality, aliases in _MSD_CHANNELS.items():
        matches = [
            _small_number(description, channel)
            for channel, name in named.items()
            if str(name).lower() in aliases
        ]
        if len(matches) != 1:
            raise DataError(
                f"{description}: {len(matches)} channels for {modality} among "
                f"{', '.join(map(str, named.values()))}; looked for one of "
                f"{', '.join(aliases)}. Restore the original file."
            )
        channels[modality] = matches[0]

    files = {}  # subject name -> files of that name
    with reading(folder / "imagesTr"):
        found = sorted((folder / "imagesTr").iterdir())
    for path in found:
        match = re.match(r"([^.].*?)\.nii(\.gz)?$", path.name, re.IGNORECASE)
        if match:
            files.setdefault(match[1], []).append(path)
    if not files:
        raise DataError(
            f"{folder / 'imagesTr'}: no .nii or .nii.gz file. Unpack again."
        )
    subjects, problems = [], []
    for name, paths in files.items():
        if len(paths) > 1:
            shown = ", ".join(path.name for path in paths)
            message = f"{paths[0].parent}: two files for {name}: {shown}. Keep one."
            problems.append((name, message))
            continue
        labels = [folder / "labelsTr" / f"{name}{end}" for end in (".nii.gz", ".nii")]
        label = next((path for path in labels if path.is_file()), None)
        images = {m: (paths[0], channels[m]) for m in MODALITIES}
        subjects.append(Subject(name, "msd", images, label))
    return subjects, problems


def _small_number(path, text):
    """0 to 255 from a JSON file; DataError names the file."""
    whole = isinstance(text, int | str) and re.fullmatch("[0-9]{1,3}", str(text))
    if not whole or int(text) > 255:
        raise DataError(f"{path}: {text!a:.40} where 0 to 255 is due. Restore it.")
    return int(text)


def label_map(subject):
    """Label in the subject's file -> index in LABELS; for MSD from its dataset.json."""
    if subject.layout != "msd" or subject.label is None:
        return LABEL_MAPS[subject.layout]
    description = subject.label.parent.parent / "dataset.json"
    named = read_json(description).get("labels")
    if not isinstance(named, dict):
        return LABEL_MAPS["msd"]
    mapping = {}
    for key, value in named.items():
        # {"1": "edema"} in the Decathlon's own files, {"edema": 1} in nnU-Net's.
        number, name = (key, value) if key.isdecimal() else (value, key)
        words = str(name).lower().replace("non enhancing", "non-enhancing")
        ours = next((index for word, index in _MSD_LABELS if word in words), None)
        if ours is None:
            raise DataError(
                f"{description}: label {number!a:.40}: {name!a:.40} is not one of "
                f"{', '.join(LABELS)}. Name it as one of them."
            )
        mapping[_small_number(description, number)] = ours
    if not mapping:
        raise DataError(f'{description}: no label in "labels". Restore the file.')
    return mapping


def to_ours(stored, mapping, source="labels"):
    """Labels as stored, of any dtype and shape -> indices in LABELS, uint8.

    `source` is the file an error names.
    """
    stored = np.asarray(stored)
    if stored.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = (stored == np.rint(stored)) & np.isfinite(stored)
        if not whole.all():
            raise DataError(
                f"{source}: labels that are not whole numbers, such as "
                f"{stored[~whole].flat[0]:g}. It was resampled with interpolation, or "
                "is not a segmentation: take the original, or resample with nearest."
            )
    known = max(mapping)
    unknown = stored.size and (stored.min() < 0 or stored.max() > known)
    if not unknown:
        table = np.full(known + 1, 255, np.uint8)
        table[list(mapping)] = list(mapping.values())
        ours = table[stored.astype(np.uint8, copy=False)]
        unknown = ours.max(initial=0) == 255
    if unknown:
        values = sorted({int(v) for v in np.unique(stored)} - set(mapping))
        raise DataError(
            f"{source}: unknown label{'s' * (len(values) > 1)} "
            f"{', '.join(map(str, values[:8]))}{', ...' * (len(values) > 8)}; this "
            f"layout has {', '.join(map(str, sorted(mapping)))}. If the files follow "
            "another year's convention, name it with --layout."
        )
    return ours


def from_ours(labels, mapping, source="labels"):
    """The inverse of `to_ours`: indices in LABELS -> the labels of a layout, uint8."""
    inverse = {ours: stored for stored, ours in mapping.items()}
    missing = sorted({int(v) for v in np.unique(labels)} - set(inverse))
    if missing:
        names = ", ".join(LABELS[v] if v < len(LABELS) else str(v) for v in missing)
        raise DataError(f"{source}: this layout has no label for {names}.")
    table = np.zeros(len(LABELS), np.uint8)
    table[list(inverse)] = list(inverse.values())
    return table[labels]


class Header(NamedTuple):
    """What is known of a volume before a voxel is decoded."""

    shape: tuple  # (x, y, z, channels) as stored, x fastest
    dtype: np.dtype  # as stored, byte order included
    slope: float
    inter: float
    offset: int  # of the first voxel, in bytes
    affine: np.ndarray  # [4, 4], stored voxel -> RAS mm
    to_lps: np.ndarray  # how the stored axes become L, P, S, as nibabel's orientations
    oriented: bool  # False: the file does not say, and is taken as LPS


def read_header(path):
    """Header of a .nii, .nii.gz or .mha file.

    DataError where it makes no sense, or the file is shorter than it says.
    """
    with _opened(path) as (header, file):
        _check_length(path, file, header)
        return header


class Grid(NamedTuple):
    """Where the voxels of a file are, once it is in LPS."""

    path: Path
    shape: tuple  # (W, H, S)
    affine: np.ndarray  # [4, 4], (column, row, slice, 1) -> RAS mm


def lps_grid(path, header):
    """Grid of a file from its header."""
    shape = np.empty(3, int)
    shape[header.to_lps[:, 0].astype(int)] = header.shape[:3]
    back = orientations.inv_ornt_aff(header.to_lps, header.shape[:3])
    return Grid(path, tuple(int(n) for n in shape), header.affine @ back)


def load_volume(path, channel=None, slices=None):
    """Reads one 3-D volume in LPS, decoding no further than the last slice asked for.

    Args:
        path: .nii, .nii.gz or .mha file.
        channel: which volume of a 4-D file; None for a 3-D file.
        slices: half-open range of axial slices, None for all.

    Returns:
        Array [H, W, S], of the stored dtype where the header sets no scaling (float64
        becomes float32), and the affine [4, 4] of the *whole* volume in LPS, in
        nibabel's axis order: (column, row, slice, 1) -> RAS mm.
    """
    volumes, grid = load_channels(path, [channel], slices)
    return volumes[0], grid.affine


def load_channels(path, channels, slices=None):
    """As `load_volume` for a list of channels, in one pass over the file.

    Returns:
        A list of arrays [H, W, S], and the `Grid` of the whole file.
    """
    with _opened(path) as (header, file):
        picked = [require_channel(path, header, channel) for channel in channels]
        start, stop = _stored_slices(path, header, slices)
        x, y, z, _ = header.shape
        plane = x * y * header.dtype.itemsize
        stored = {}
        for channel in sorted(set(picked)):  # ascending: a stream only goes forward
            file.seek(header.offset + (channel * z + start) * plane)
            volume = np.empty((stop - start, y, x), header.dtype)
            if file.readinto(volume.reshape(-1).view(np.uint8)) != volume.nbytes:
                raise EOFError("voxels are missing at the end")
            stored[channel] = volume
        if slices is None:
            _read_to_end(path, file, header)  # where gzip compares its checksum
        else:
            _check_length(path, file, header)
    volumes = [_finish(stored[channel], header, slices) for channel in picked]
    return volumes, lps_grid(path, header)


@contextlib.contextmanager
def reading(path):
    """Turns what goes wrong inside a file into one DataError that names it.

    A pipe or a device, which may never end, is refused before it is opened.
    """
    try:
        kind = Path(path).stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise DataError(f"{path}: a pipe or a device. Put a file in its place.")
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Check the path.") from error
    except PermissionError as error:
        raise DataError(f"{path}: permission denied. Make it readable.") from error
    except (OSError, EOFError, zlib.error, isal_zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read: {error}. The file is damaged or incomplete: copy "
            "or download it again."
        ) from error


@contextlib.contextmanager
def _opened(path):
    """Yields the header of a file and a byte stream, decompressed, of its voxels.

    A file is taken as gzip if it is, whatever its name says.
    """
    with reading(path):
        if Path(path).suffix.lower() == ".mha":
            header, voxels = _read_mha(path)
            yield header, io.BytesIO(voxels)
            return
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with igzip.open(path, "rb") if compressed else open(path, "rb") as file:
            header = _nifti_header(path, file)
            most = Path(path).stat().st_size * (_MAX_RATIO if compressed else 1)
            if header.offset + _voxel_bytes(header) > most:  # before it is allocated
                raise EOFError("voxels are missing at the end")
            yield header, file


def _nifti_header(path, file):
    """Parses the NIfTI-1 or NIfTI-2 header at the start of a stream."""
    block = file.read(540)
    kinds = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
    sizes = (int.from_bytes(block[:4], order) for order in ("little", "big"))
    size = next((size for size in sizes if size in kinds), None)
    if size is None or len(block) < size:
        raise DataError(
            f"{path}: not a NIfTI file. Convert it, or download it again; a web page "
            "saved in its place is a frequent cause."
        )
    header = kinds[size](block[:size], check=False)
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2"):
        raise DataError(
            f"{path}: wrong NIfTI magic {bytes(header['magic'])!r}. Save it as a "
            "single-file .nii or .nii.gz."
        )
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError):
        dtype = None
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"{path}: data type code {int(header['datatype'])} is not a plain number. "
            "Save it as int16 or float32."
        )
    rank = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : rank + 1]] if 1 <= rank <= 7 else []
    affine, to_lps, oriented = _nifti_affine(path, header)
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):  # 0 or NaN: the voxels are as stored
        slope, inter = 1.0, 0.0
    if not np.isfinite(inter):
        raise DataError(f"{path}: scl_inter is {inter}. Save it without scaling.")
    offset = float(header["vox_offset"]) or size + 4.0  # 0 is often written
    if not (size <= offset < _MAX_BYTES and offset.is_integer()):
        raise DataError(
            f"{path}: the header places the voxels at byte {offset:g}. Save it as a "
            "single-file .nii or .nii.gz."
        )
    offset = int(offset)
    shape = _checked_shape(path, sizes, dtype)
    return Header(shape, dtype, slope, inter, offset, affine, to_lps, oriented)


def _nifti_affine(path, header):
    """Affine of sform or qform; without either, LPS as BraTS stores its volumes."""
    oriented = bool(header["sform_code"] or header["qform_code"])
    if oriented:
        try:
            with np.errstate(all="ignore"):
                affine = header.get_best_affine()
        except (ValueError, nib.spatialimages.HeaderDataError):
            affine = np.full((4, 4), np.nan)
    else:
        spacing = [float(abs(step)) or 1.0 for step in header["pixdim"][1:4]]
        affine = lps_affine(int(header["dim"][2]), spacing)
    return *_checked_affine(path, affine), oriented


def _checked_affine(path, affine):
    """Affine -> itself, and how its axes become L, P, S."""
    sizes = np.abs(affine[np.isfinite(affine)])
    if sizes.size == 16 and sizes.max() < 1e6:
        if abs(np.linalg.det(affine[:3, :3])) > 1e-6:
            stored = orientations.io_orientation(affine)
            if np.isfinite(stored).all():
                lps = orientations.axcodes2ornt(("L", "P", "S"))
                to_lps = orientations.ornt_transform(stored, lps)
                # Halfway between two axes, what was turned could be turned again.
                turned = affine @ orientations.inv_ornt_aff(to_lps, (1, 1, 1))
                if np.array_equal(orientations.io_orientation(turned), lps):
                    return affine, to_lps
    raise DataError(
        f"{path}: the affine in the header is not invertible, or its axes are nearest "
        "to no one axis of the body. Restore the geometry from the original file."
    )


def _checked_shape(path, sizes, dtype):
    """Sizes in the header -> (x, y, z, channels), before anything is allocated."""
    volume = sizes + [1] * (4 - len(sizes))
    if min(volume, default=0) < 1 or not sizes:
        raise DataError(f"{path}: sizes {sizes} in the header. Download it again.")
    while len(volume) > 4 and volume[-1] == 1:
        volume.pop()
    if len(volume) > 4 or len(sizes) < 3:
        raise DataError(
            f"{path}: {len(sizes)}-D, {' x '.join(map(str, sizes))}. A volume is due: "
            "3-D, or 4-D in the MSD layout."
        )
    size = np.prod(volume, dtype=object) * max(dtype.itemsize, 4)
    if size > _MAX_BYTES:
        raise DataError(
            f"{path}: the header asks for {size / 2**30:.1f} GB ({volume}, {dtype}), "
            f"more than {_MAX_BYTES / 2**30:.0f} GB. The header is damaged, or this is "
            "no BraTS volume."
        )
    return tuple(volume)


def require_channel(path, header, channel):
    """Index of the channel asked for; DataError where the file does not have it."""
    count = header.shape[3]
    if channel is None and count > 1:
        raise DataError(
            f"{path}: 4-D with {count} channels where a 3-D volume is due. Split it, "
            "or use the MSD layout with its dataset.json."
        )
    if channel is not None and channel >= count:
        raise DataError(
            f"{path}: has {count} channel{'s' * (count > 1)}, channel {channel} is due "
            "by dataset.json. Restore the original file."
        )
    return channel or 0


def require_slices(path, depth, slices):
    """DataError unless a volume of `depth` axial slices has those asked for."""
    if depth > _MAX_DEPTH:
        raise DataError(
            f"{path}: {depth} axial slices, more than {_MAX_DEPTH}. The header is "
            "damaged, or this is no BraTS volume."
        )
    if slices is not None and not 0 <= slices[0] < slices[1] <= depth:
        raise DataError(
            f"{path}: {depth} axial slices, but {slices[0]}:{slices[1]} are due. "
            "Choose the range with --slices."
        )


def _stored_slices(path, header, slices):
    """Range of the slowest stored axis that holds the axial slices asked for."""
    axis = int(np.flatnonzero(header.to_lps[:, 0] == 2)[0])
    depth = header.shape[axis]
    require_slices(path, depth, slices)
    if slices is None or axis != 2:  # not stored slice by slice: all of it is needed
        return 0, header.shape[2]
    flipped = header.to_lps[2, 1] < 0
    return (depth - slices[1], depth - slices[0]) if flipped else tuple(slices)


def _check_length(path, file, header):
    """Notices a file cut off behind the slices that were decoded.

    A gzip file ends with the length of its content, so this costs four bytes; only if
    they disagree (several members, or cut off) is the rest decoded to see.
    """
    end = header.offset + _voxel_bytes(header)
    if isinstance(file, igzip.GzipFile):
        with open(path, "rb") as raw:
            raw.seek(-4, os.SEEK_END)
            if int.from_bytes(raw.read(4), "little") == end % 2**32:
                return
    file.seek(end - 1)
    if not file.read(1):
        raise EOFError("voxels are missing at the end")
    # What is cut off may also be the end of the stream.
    _read_to_end(path, file, header)


def _read_to_end(path, file, header):
    """Reads what is left, if there is not far too much of it."""
    limit = header.offset + _voxel_bytes(header) + _MAX_BEHIND
    while file.tell() <= limit:
        if not file.read(1 << 20):
            return
    raise DataError(
        f"{path}: goes on for more than {_MAX_BEHIND >> 20} MB behind its voxels. The "
        "header is damaged, or the file was made to fill the memory: download it again."
    )


def _voxel_bytes(header):
    return int(np.prod(header.shape)) * header.dtype.itemsize


def _finish(volume, header, slices):
    """Stored voxels [z, y, x] -> [H, W, S]: native, scaled, LPS, slices cut."""
    if not volume.dtype.isnative:
        volume = volume.astype(volume.dtype.newbyteorder("="))
    if volume.dtype.kind == "f" and volume.dtype.itemsize != 4:
        volume = volume.astype(np.float32)
    if (header.slope, header.inter) != (1.0, 0.0):
        volume = volume.astype(np.float32)
        volume *= np.float32(header.slope)
        volume += np.float32(header.inter)
    volume = volume.transpose(2, 1, 0)
    volume = orientations.apply_orientation(volume, header.to_lps)
    if slices is not None and volume.shape[2] != slices[1] - slices[0]:
        volume = volume[:, :, slices[0] : slices[1]]
    return volume.transpose(1, 0, 2)


def _read_mha(path):
    """Header and voxels of a MetaImage file, by SimpleITK."""
    import SimpleITK as sitk  # slow to import, and only BRATS2015 needs it

    content = Path(path).read_bytes()
    fields, start = _mha_fields(path, content)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(_NO_MHA.format(path)) from error
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path}: several values a voxel. Save it as one volume.")
    sizes = [int(size) for size in reader.GetSize()]
    one_voxel = sitk.Image([1, 1, 1], reader.GetPixelID())
    dtype = sitk.GetArrayViewFromImage(one_voxel).dtype
    shape = _checked_shape(path, sizes, dtype)
    if len(sizes) > 3:
        raise DataError(f"{path}: {len(sizes)}-D. Save one volume a file.")
    affine = np.eye(4)  # its world is LPS
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine, to_lps = _checked_affine(path, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    header = Header(shape, dtype, 1.0, 0.0, 0, affine, to_lps, True)
    _require_whole_mha(fields, memoryview(content)[start:], _voxel_bytes(header))
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute()).tobytes()
    except RuntimeError as error:
        raise EOFError("its voxels do not decode") from error
    return header, voxels


_NO_MHA = "{}: not a MetaImage file, or its header is damaged. Download it again."


def _mha_fields(path, content):
    """{name: text} of the header of a .mha, and where its voxels begin.

    SimpleITK ends the process at some headers that make no sense, and follows others to
    files elsewhere, so only what BRATS2015 has is let through to it.
    """
    head = content[:_MHA_HEADER]
    end = re.search(rb"^ElementDataFile[ \t]*=.*\n", head, re.M)
    lines = re.findall(rb"(.*)\n", head[: end.end()]) if end else []
    pairs = [re.fullmatch(rb"(\w+)[ \t]*=[ \t]*([ -~]*?)[ \r]*", x) for x in lines]
    if not pairs or not all(pairs):
        raise DataError(_NO_MHA.format(path))
    fields = {pair[1].decode(): pair[2].decode() for pair in pairs}
    if fields["ElementDataFile"] != "LOCAL":
        raise DataError(f"{path}: its voxels are in another file. Save it as one .mha.")
    number = "[0-9]{1,9}"
    spaced = "[-+0-9.eE]+( +[-+0-9.eE]+)"
    forms = {
        "ObjectType": "Image",
        "NDims": "3",
        "DimSize": f"{number}( +{number}){{2}}",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "True|False",
        "CompressedData": "True|False",
        "CompressedDataSize": "[0-9]{1,12}",
        "ElementNumberOfChannels": number,
        "ElementType": "MET_[A-Z_]+",
        "HeaderSize": "0",
        "TransformMatrix": f"{spaced}{{8}}",
        "Offset": f"{spaced}{{2}}",
        "ElementSpacing": f"{spaced}{{2}}",
    }
    if len(fields) < len(pairs):
        raise DataError(f"{path}: a field twice in its header. Save it again.")
    due = ("NDims", "DimSize", "ElementType")
    wrong = [name for name in due if name not in fields]
    wrong += [
        name
        for name, form in forms.items()
        if name in fields and not re.fullmatch(form, fields[name])
    ]
    if wrong:
        raise DataError(
            f"{path}: its header has an unusual {wrong[0]}. Save it as one 3-D binary "
            ".mha."
        )
    return fields, end.end()


def _require_whole_mha(fields, voxels, voxel_bytes):
    """Error unless the voxels of a .mha are all there, and their checksum is right.

    SimpleITK looks at neither: where the compressed voxels are damaged it returns
    others, without a word.
    """
    if fields.get("CompressedData") == "True":
        packed = int(fields.get("CompressedDataSize", len(voxels)))
        inflate = isal_zlib.decompressobj()
        # One byte more than due, so that the checksum at the end is reached.
        whole = inflate.decompress(voxels[:packed], voxel_bytes + 1)
        if packed > len(voxels) or not inflate.eof or len(whole) != voxel_bytes:
            raise EOFError("voxels are missing at the end")
    elif len(voxels) < voxel_bytes:
        raise EOFError("voxels are missing at the end")


def parse_slices(text):
    """The flag "55:105" -> (55, 105)."""
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if not match or int(match[1]) >= int(match[2]):
        raise DataError(f"--slices={text}: two rising numbers are due, such as 55:105.")
    return int(match[1]), int(match[2])


def read_subject(subject, slices=SLICES, image_size=CROP, labels=True):
    """Reads one subject as the networks see it (D1).

    Negative voxels are resampling overshoot and become 0. Each volume is divided by the
    99.9 percentile of its positive voxels and clipped to [0, 1]; background is exactly
    0. The percentile is taken over the slices in range, so that nothing outside the
    range needs decoding, and is the smallest value with 99.9 % of the positive voxels
    at or below it: no interpolation, hence the same for integers and floats. Slices are
    cropped to CROP x CROP around the brain's bounding box, the union of the modalities
    over the range, with zeros where the crop leaves the field. A prepared subject is
    read whole, as it is, around the centre of its field.

    Args:
        subject: a `Subject`.
        slices: half-open range of axial slices; a prepared subject has it behind it.
        image_size: pixels a side after the crop; images by area, labels by nearest.
        labels: whether to read the label too.

    Returns:
        Images [S, image_size, image_size, 4] float32 in [0, 1], channels as MODALITIES,
        and labels [S, image_size, image_size] uint8, indices in LABELS (None where the
        subject has none, or `labels` is False).
    """
    if subject.prepared:
        slices = None
    volumes, grid = _load_modalities(subject, slices)
    brain = [silhouette(subject.images[m][0], m, x) for m, x in volumes.items()]
    brain = np.logical_or.reduce(brain)
    rows, columns = (_extent(brain.any(axis)) for axis in (1, 0))
    height, width = brain.shape
    if subject.prepared:
        top, left = (height - CROP) // 2, (width - CROP) // 2
    else:
        top, left = ((span.start + span.stop - CROP) // 2 for span in (rows, columns))
        if max(span.stop - span.start for span in (rows, columns)) > CROP:
            logging.log_first_n(
                logging.WARNING,
                "%s: a brain larger than %d pixels is cut at the border of its slices.",
                1,
                subject.name,
                CROP,
            )

    depth = volumes[MODALITIES[0]].shape[0]
    images = np.empty((depth, CROP, CROP, len(MODALITIES)), np.float32)
    for index, volume in enumerate(volumes.values()):
        ceiling = 1.0
        if not subject.prepared:
            ceiling = _percentile(volume[:, rows, columns])
        image = _crop(volume, top, left).astype(np.float32)
        image /= np.float32(ceiling)
        np.clip(image, 0.0, 1.0, out=images[..., index])
    images = _shrink(images, image_size, subject.prepared)

    if not labels or subject.label is None:
        return images, None
    label = load_label(subject, slices, grid)
    return images, resize_nearest(_crop(label, top, left), image_size)


def images_by_file(subject):
    """File -> list of (modality, channel) it holds, so that each is decoded once."""
    files = {}
    for modality, (path, channel) in subject.images.items():
        files.setdefault(path, []).append((modality, channel))
    return files


def _load_modalities(subject, slices):
    """Modality -> [S, H, W] as stored, each file decoded once, and their one grid."""
    loaded, first = {}, None
    for path, wanted in images_by_file(subject).items():
        arrays, grid = load_channels(path, [channel for _, channel in wanted], slices)
        first = first or grid
        require_same_grid(first, grid)
        for (modality, _), array in zip(wanted, arrays, strict=True):
            loaded[modality] = array.transpose(2, 0, 1)
    return {modality: loaded[modality] for modality in MODALITIES}, first


def require_same_grid(one, other):
    """DataError naming `other` unless two volumes lie on one grid."""
    if one.shape != other.shape:
        sizes = [" x ".join(map(str, grid.shape)) for grid in (one, other)]
        raise DataError(
            f"{other.path}: {sizes[1]} voxels, but {one.path} has {sizes[0]}. Resample "
            "both to one grid (a label with nearest)."
        )
    shift = _largest_shift(one.shape, one.affine, other.affine)
    if shift > _MAX_SHIFT_MM:
        raise DataError(
            f"{other.path}: its affine places it up to {shift:.1f} mm away from "
            f"{one.path}. Register them, or restore the affine."
        )


def _largest_shift(shape, affine, other):
    """Most mm between where two affines put a corner of (W, H, S) voxels."""
    if np.array_equal(affine, other):
        return 0.0
    corners = itertools.product(*((0, size - 1) for size in shape), (1,))
    moved = np.array(list(corners)) @ (affine - other).T
    return float(np.linalg.norm(moved[:, :3], axis=1).max())


def silhouette(path, modality, volume):
    """[S, H, W] in range -> [H, W] bool, where any slice is positive.

    DataError where the voxels are of no use: not finite, all zero, constant.
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


def _crop(volume, top, left):
    """[S, H, W] -> [S, CROP, CROP] from (top, left), which may lie outside."""
    _, height, width = volume.shape
    cropped = np.zeros((volume.shape[0], CROP, CROP), volume.dtype)
    rows = slice(max(top, 0), min(top + CROP, height))
    columns = slice(max(left, 0), min(left + CROP, width))
    cropped[
        :,
        rows.start - top : rows.stop - top,
        columns.start - left : columns.stop - left,
    ] = volume[:, rows, columns]
    return cropped


def _shrink(images, size, prepared):
    """[S, CROP, CROP, 4] -> [S, size, size, 4] by area; zeros stay exactly zero."""
    if size == CROP:
        return images
    factor, rest = divmod(CROP, size)
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


def resize_nearest(slices, size):
    """[S, H, H] -> [S, size, size], the value at the centre of each new pixel."""
    height = slices.shape[1]
    if size == height:
        return slices
    index = ((np.arange(size) + 0.5) * height / size).astype(int)
    return slices[:, index[:, None], index]


def load_label(subject, slices, grid):
    """Label of a subject as indices in LABELS, [S, H, W] uint8.

    `grid` is that of its images, which the label has to share.
    """
    (stored,), label_grid = load_channels(subject.label, [None], slices)
    require_same_grid(grid, label_grid)
    return to_ours(stored.transpose(2, 0, 1), label_map(subject), subject.label)


def lps_affine(height, spacing=(1.0, 1.0, 1.0)):
    """Affine of a BraTS volume: LPS, the last row at y = 0."""
    dx, dy, dz = spacing
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[1, 3] = (height - 1) * dy
    return affine


def place_back(slices_hw, field=FIELD, crop=CROP, label=False):
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


def write_nifti(path, volume_hws, dtype, slope=None, affine=None):
    """Writes [H, W, S] in LPS as .nii or .nii.gz, whole or not at all.

    The same volume gives the same bytes. Images in [0, 1] are stored as int16 with
    slope 1/32767 (`slope=brats.IMAGE_SLOPE`), and read back within 1/65534.

    Args:
        path: file name; its ending decides on compression.
        volume_hws: array [H, W, S].
        dtype: what to store.
        slope: voxels are stored as volume / slope, rounded; None stores them as is.
        affine: [4, 4] in nibabel's axis order, (column, row, slice, 1) -> RAS mm; by
            default 1 mm and the origin of BraTS.
    """
    volume = np.asarray(volume_hws)
    dtype = np.dtype(dtype)
    if slope is not None:
        volume = volume / slope
    if dtype.kind in "iu" and volume.dtype.kind == "f":
        limits = np.iinfo(dtype)
        volume = np.clip(np.rint(volume), limits.min, limits.max)
    affine = lps_affine(volume.shape[0]) if affine is None else affine
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((volume.shape[1], volume.shape[0], volume.shape[2]))
    header.set_slope_inter(1.0 if slope is None else slope, 0.0)
    header.set_xyzt_units("mm")
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    voxels = np.ascontiguousarray(volume.transpose(2, 0, 1), dtype)  # x fastest
    content = header.binaryblock + bytes(4) + voxels.tobytes()
    if Path(path).suffix.lower() == ".gz":
        content = igzip.compress(content, 1, mtime=0)
    write_atomically(path, content)


def split_subjects(names, seed, held_out=0.1):
    """Splits by subject: {"seed", "train", "test"}, the same whatever the order given.

    At least one subject is held out, and at least one is left to train on.
    """
    names = sorted(names)
    if len(names) < 2:
        raise DataError(
            f"{len(names)} subject{'s' * (len(names) != 1)} found, but a split needs "
            "two or more. Add subjects to the data folder."
        )
    if len(set(names)) < len(names):
        raise DataError("Two subjects have the same name. Rename one of them.")
    count = min(max(1, round(held_out * len(names))), len(names) - 1)
    shuffled = names.copy()
    random.Random(seed).shuffle(shuffled)
    train, test = sorted(shuffled[count:]), sorted(shuffled[:count])
    return {"seed": seed, "train": train, "test": test}


def save_split(path, split):
    """Writes a split as JSON."""
    write_json(path, split)


def load_split(path):
    """Reads what `save_split` wrote; DataError if a subject is on both sides."""
    split = read_json(path)
    sides = [split.get(side) for side in ("train", "test")]
    lists = all(isinstance(side, list) for side in sides)
    if "seed" not in split or not lists or not _are_texts(sides[0] + sides[1]):
        raise DataError(
            f'{path}: no "seed", "train" and "test". Delete it to split anew.'
        )
    both = sorted(set(sides[0]) & set(sides[1]))
    if both:
        raise DataError(
            f"{path}: on both sides: {', '.join(both)}. Delete the file to split anew."
        )
    return split


def _are_texts(values):
    return all(isinstance(value, str) for value in values)
