"""Spoiled files: each is refused in one sentence, or read as exactly what it holds.

A case writes one spoiled file into a good folder of one subject, checks it, reads it,
converts it and caches its slices. Whatever happens must be a DataError, or right by
nibabel and Python's own gzip. `make fuzz` tries thousands, `make test` a few.
"""

import contextlib
import faulthandler
import gzip
import json
import shutil
import warnings
from io import StringIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel import orientations

from brats_gan import data, files, io
from brats_gan.io import checks, convert
from tests import nifti

SHAPE = (20, 18, 6)  # H, W, S
SLICES = (1, 5)
SIZE = 32
STUCK = 300  # seconds after which a case counts as hanging: it takes a hundredth of one


class Folder:
    """A good folder of one subject, and the outcome of spoiling one of its files."""

    def __init__(self, path, layout="brats2018", extension=None):
        self.path, self.layout = path, layout
        labels = (2, 4)  # that every layout has
        self.files = nifti.write_subject(
            path / "data", "A", SHAPE, 0, layout, extension=extension, labels=labels
        )
        if layout == "msd":
            self.files["dataset.json"] = path / "data/dataset.json"
        self.good = {role: file.read_bytes() for role, file in self.files.items()}

    def try_out(self, role, content):
        """Puts `content` in place of a file, and holds what comes of it to be right."""
        file = self.files[role]
        file.write_bytes(content)
        faulthandler.dump_traceback_later(STUCK, exit=True)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                self._outcome(file)
        finally:
            faulthandler.cancel_dump_traceback_later()
            file.write_bytes(self.good[role])

    def _outcome(self, spoiled):
        report = checks.check(self.path / "data", slices=SLICES)
        report.as_text()
        json.dumps(report.as_dict())
        for _, message in report.problems:
            self._is_clear(message)
        read = self._attempt(self._read)
        cached = self._attempt(self._cache)
        converted = self._attempt(lambda: self._convert(spoiled))
        assert bool(read) == bool(cached)
        if report.usable:
            assert read and converted

    def _attempt(self, step):
        """Whether a step succeeds; the only way not to is a clear DataError."""
        try:
            return step()
        except files.DataError as error:
            self._is_clear(str(error))
            return False
        finally:
            for name in ("cache", "out"):
                shutil.rmtree(self.path / name, ignore_errors=True)

    def _is_clear(self, message):
        assert str(self.path / "data") in message
        assert message.count(". ") >= 1 or "; " in message, message  # and a remedy

    def _read(self):
        (subject,) = io.find_subjects(self.path / "data")
        images, label = io.read_subject(subject, SLICES, SIZE)
        assert images.shape == (SLICES[1] - SLICES[0], SIZE, SIZE, 4)
        assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
        assert images.any((0, 1, 2)).all()
        assert label.shape == images.shape[:3] and label.max() <= 4
        return True

    def _cache(self):
        subjects = io.find_subjects(self.path / "data")
        with contextlib.redirect_stdout(StringIO()):
            data.Slices(subjects, SIZE, SLICES, self.path / "cache")
        return True

    def _convert(self, spoiled):
        done, problems = convert.convert(self.path / "data", self.path / "out")
        for _, message in problems:
            self._is_clear(message)
        if not done:
            return False
        content = spoiled.read_bytes()
        if content[:2] == b"\x1f\x8b":
            gzip.decompress(content)  # an error here is a wrong success
        if spoiled.suffix in (".gz", ".nii") and self.layout == "brats2018":
            for role, path in self.files.items():
                written = self.path / f"out/A/A_{role}.nii.gz"
                if path == spoiled:
                    _require_equal(content, written.read_bytes())
        return True


def _require_equal(content, written):
    """What was written is what nibabel finds in the content, in LPS."""
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    kind = nib.Nifti2Image if len(content) > 540 and 540 in (
        int.from_bytes(content[:4], order) for order in ("little", "big")
    ) else nib.Nifti1Image  # fmt: skip
    try:
        image = kind.from_bytes(_with_offset(content, kind.header_class))
        expected = np.asarray(image.dataobj)
    except Exception:  # nibabel asks more of a header than we do
        return
    expected = expected.reshape(expected.shape[:3])
    if image.header["sform_code"] or image.header["qform_code"]:
        to = orientations.axcodes2ornt("LPS")
        stored = orientations.io_orientation(image.affine)
        turn = orientations.ornt_transform(stored, to)
        expected = orientations.apply_orientation(expected, turn)
    made = nib.Nifti1Image.from_bytes(gzip.decompress(written))
    made = np.asarray(made.dataobj)
    expected, made = expected.astype(np.float32), made.astype(np.float32)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)


def _with_offset(content, kind):
    """Content whose vox_offset, if it is 0, is what NIfTI means by that."""
    header = kind(content[: kind.sizeof_hdr], check=False)
    if header["vox_offset"] == 0:
        header["vox_offset"] = kind.sizeof_hdr + 4
    return bytes(header.binaryblock) + content[kind.sizeof_hdr :]


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


@st.composite
def _damage(draw):
    """bytes -> bytes: cut, flipped, with a piece put in, taken out or added."""
    where, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    flips = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4))
    piece = draw(st.binary(min_size=1, max_size=40))
    kind = draw(st.sampled_from(("cut", "flip", "head", "insert", "remove", "append")))

    def spoil(content):
        at = int(where * (len(content) - 1)) if content else 0
        if kind == "cut":
            return content[:at]
        if kind == "insert":
            return content[:at] + piece + content[at:]
        if kind == "remove":
            return content[:at] + content[at + length :]
        if kind == "append":
            return content + piece
        reach = min(len(content), 352) if kind == "head" else len(content)
        spoiled = bytearray(content)
        for place, bits in flips or [(where, 1)]:
            spoiled[int(place * (reach - 1))] ^= bits
        return bytes(spoiled)

    return spoil


@given(
    form=st.sampled_from(("gz", "plain", "mha", "msd")),
    role=st.sampled_from(("t1", "seg")),
    spoil=_damage(),
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

_WORDS = ("T1w", "T2w", "t1gd", "FLAIR", "edema", "enhancing", "background", "0", "1")
_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from((*_WORDS, "-1", "3", "²", "99999999999", "1" * 5000)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(_WORDS), st.text(max_size=4)), inner),
    ),
    max_leaves=8,
)
_NAMED = st.dictionaries(
    st.sampled_from(("0", "1", "2", "3", "-1", "²", "x", "99999999999", "FLAIR")),
    st.one_of(st.sampled_from(_WORDS), _JSON),
    max_size=6,
)


@given(
    modality=st.one_of(st.none(), _NAMED, _JSON),
    labels=st.one_of(st.none(), _NAMED, _JSON),
    spoil=st.one_of(st.none(), _damage()),
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
        _JSON,
        st.fixed_dictionaries(
            {}, optional={k: _JSON for k in ("seed", "train", "test")}
        ),
    ),
    spoil=st.one_of(st.none(), _damage()),
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
