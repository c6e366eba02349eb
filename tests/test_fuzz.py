"""Spoiled files: each is refused in one sentence, or read as exactly what it holds.

A case writes one spoiled file into a good folder of one subject, checks it, reads it,
converts it and caches its slices. Whatever happens must be a DataError, or right by
nibabel and Python's own gzip. `make fuzz` tries thousands, `make test` a few.
"""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_gan import data, files
from tests.fuzzing import JSON, NAMED, Folder, damage


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same subject in every form a file may have."""
    forms = {
        "gz": ("brats2018", None),
        "plain": ("brats2018", ".nii"),
        "mha": ("brats2015", None),
        "msd": ("msd", None),
    }
    made = {}
    for name, (layout, extension) in forms.items():
        made[name] = Folder(tmp_path_factory.mktemp(name), layout, extension)
    return made


# --- Headers --------------------------------------------------------------------------

_FIELDS = {
    name: nib.Nifti2Header.template_dtype[name]
    for name in nib.Nifti2Header.template_dtype.names
    if name in nib.Nifti1Header.template_dtype.names
}
_ODD = (0, 1, -1, 2, 3, 4, 5, 6, 7, 8, 16, 18, 20, 127, 255, 256, 32767, -32768)
_HUGE = (2**31 - 1, 2**40, 2**62, -(2**62))


def _value(dtype):
    if dtype.kind == "f":
        return st.one_of(
            st.sampled_from((0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e30, 352.0)),
            st.floats(width=32),
        )
    if dtype.kind == "S":
        return st.binary(max_size=dtype.itemsize)
    return st.one_of(st.sampled_from(_ODD + _HUGE), st.integers(-(2**15), 2**15 - 1))


@st.composite
def _changes(draw):
    """A list of (field, index in it, value)."""
    changes = []
    for name in draw(
        st.lists(st.sampled_from(sorted(_FIELDS)), min_size=1, max_size=4)
    ):
        dtype = _FIELDS[name].base
        index = draw(st.integers(0, max(int(np.prod(_FIELDS[name].shape)), 1) - 1))
        changes.append((name, index, draw(_value(dtype))))
    return changes


def _with_header(content, changes, second, swapped, packed):
    """A NIfTI file with some fields of its header set, as NIfTI-1 or -2."""
    image = nib.Nifti1Image.from_bytes(content)
    kind = nib.Nifti2Header if second else nib.Nifti1Header
    header = kind.from_header(image.header)
    header["magic"], header["vox_offset"] = (
        (b"n+2\0\r\n\x1a\n", 544) if second else (b"n+1", 352)
    )
    fields = header.structarr
    for name, index, value in changes:
        flat = fields[name].reshape(-1).copy()
        with np.errstate(all="ignore"):
            if flat.dtype.kind in "iu":
                limits = np.iinfo(flat.dtype)
                value = min(max(value, limits.min), limits.max)
            flat[index] = value
        fields[name] = flat.reshape(fields[name].shape)
    block = bytes(header.binaryblock)
    voxels = np.asarray(image.dataobj)
    if swapped:
        block = bytes(fields.byteswap().tobytes())
        voxels = voxels.byteswap()
    stored = block + bytes(4) + voxels.tobytes(order="F")
    return gzip.compress(stored, 1) if packed else stored


@given(
    role=st.sampled_from(("t1", "flair", "seg")),
    changes=_changes(),
    second=st.booleans(),
    swapped=st.booleans(),
    packed=st.booleans(),
)
def test_any_header_is_refused_or_read_as_nibabel_does(
    folders, role, changes, second, swapped, packed
):
    folder = folders["gz"]
    content = gzip.decompress(folder.good[role])
    folder.try_out(role, _with_header(content, changes, second, swapped, packed))


# --- Contents -------------------------------------------------------------------------

_TYPES = "int8 uint8 int16 uint16 int32 uint32 int64 uint64 float32 float64 complex64"
_NUMBERS = st.one_of(
    st.sampled_from((0.0, 1.0, 2.0, 4.0, 3.5, -1.0, np.nan, np.inf, -np.inf, 1e38)),
    st.floats(),
)


@given(
    role=st.sampled_from(("t1", "flair", "seg")),
    dtype=st.sampled_from(_TYPES.split()),
    shape=st.one_of(
        st.just((18, 20, 6)),
        st.just((18, 20, 6, 1)),
        st.lists(st.integers(0, 24), min_size=1, max_size=5).map(tuple),
    ),
    values=st.lists(_NUMBERS, min_size=1, max_size=4),
    seed=st.integers(0, 99),
    rows=st.lists(st.sampled_from((1.0, -1.0, 0.0, 0.5, 1e-9)), min_size=9, max_size=9),
    keep_affine=st.booleans(),
)
def test_any_content_is_refused_or_converted_as_it_is(
    folders, role, dtype, shape, values, seed, rows, keep_affine
):
    folder = folders["gz"]
    good = nib.Nifti1Image.from_bytes(gzip.decompress(folder.good[role]))
    with np.errstate(all="ignore"):
        values = np.array(values).astype(dtype)
    voxels = np.random.default_rng(seed).choice(values, shape)
    affine = good.affine.copy()
    if not keep_affine:
        affine[:3, :3] = np.reshape(rows, (3, 3))
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(affine, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = bytes(header.binaryblock) + bytes(4) + voxels.tobytes(order="F")
    folder.try_out(role, gzip.compress(content, 1))


# --- Bytes ----------------------------------------------------------------------------


@given(
    form=st.sampled_from(("gz", "plain", "mha", "msd")),
    role=st.sampled_from(("t1", "seg")),
    spoil=damage(),
)
def test_damaged_bytes_are_refused_or_do_no_harm(folders, form, role, spoil):
    folder = folders[form]
    folder.try_out(role, spoil(folder.good[role]))


_MHA_KEYS = (
    "ObjectType NDims BinaryData BinaryDataByteOrderMSB CompressedData "
    "CompressedDataSize TransformMatrix Offset CenterOfRotation ElementSpacing DimSize "
    "ElementType ElementDataFile HeaderSize ElementNumberOfChannels ElementSize"
).split()
_MHA_VALUES = (
    "3", "0", "-1", "2", "4", "99999", "18 20 6", "0 0 0", "-1 -1 -1", "1 1 1", "nan",
    "99999 99999 99999", "1e300 1 1", "4294967296", "9223372036854775807", "True",
    "False", "MET_SHORT", "MET_DOUBLE", "MET_UCHAR", "MET_NONE", "MET_STRING", "LOCAL",
    "LIST", "/etc/passwd", "../A", "", "1 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0",
    "Image", "Tube", "x" * 3000,
)  # fmt: skip


@given(
    role=st.sampled_from(("t1", "seg")),
    changes=st.dictionaries(
        st.sampled_from(_MHA_KEYS), st.sampled_from(_MHA_VALUES), min_size=1, max_size=3
    ),
)
def test_any_header_of_a_mha_is_refused_or_does_no_harm(folders, role, changes):
    folder = folders["mha"]
    head, mark, voxels = folder.good[role].partition(b"ElementDataFile = LOCAL\n")
    lines = dict(line.split(" = ", 1) for line in head.decode().splitlines())
    lines.update(changes)
    last = lines.pop("ElementDataFile", "LOCAL")
    head = "".join(f"{key} = {value}\n" for key, value in lines.items())
    folder.try_out(role, f"{head}ElementDataFile = {last}\n".encode() + voxels)


# --- Descriptions ---------------------------------------------------------------------


@given(
    modality=st.one_of(st.none(), NAMED, JSON),
    labels=st.one_of(st.none(), NAMED, JSON),
    spoil=st.one_of(st.none(), damage()),
)
def test_any_description_of_a_folder_is_refused_or_does_no_harm(
    folders, modality, labels, spoil
):
    folder = folders["msd"]
    content = json.loads(folder.good["dataset.json"])
    if modality is not None:
        content["modality"] = modality
    if labels is not None:
        content["labels"] = labels
    content = json.dumps(content).encode()
    folder.try_out("dataset.json", spoil(content) if spoil else content)


@given(
    split=st.one_of(
        JSON,
        st.fixed_dictionaries(
            {}, optional={k: JSON for k in ("seed", "train", "test")}
        ),
    ),
    spoil=st.one_of(st.none(), damage()),
)
def test_any_split_is_refused_or_names_subjects(folders, split, spoil):
    folder = Path(folders["gz"].path)
    content = json.dumps(split).encode()
    (folder / "split.json").write_bytes(spoil(content) if spoil else content)
    try:
        found = data.load_split(folder / "split.json")
    except files.DataError as error:
        assert "split.json" in str(error)
    else:
        names = [*found["train"], *found["test"]]
        assert all(isinstance(name, str) for name in names)
