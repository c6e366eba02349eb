"""Spoiled files, and what may come of them: for all tests that draw their cases."""

import contextlib
import faulthandler
import gzip
import json
import shutil
import warnings
from io import StringIO

import nibabel as nib
import numpy as np
from hypothesis import strategies as st
from nibabel import orientations

from brats_gan import data, files, io
from brats_gan.io import checks, convert
from tests import nifti

SHAPE = (20, 18, 6)  # H, W, S
SLICES = (1, 5)
SIZE = 32
SEED = 5  # few voxels are negative in every modality: the folder is usable
STUCK = 300  # seconds after which a case counts as hanging: it takes a hundredth of one


class Folder:
    """A good folder of one subject, and the outcome of spoiling one of its files."""

    def __init__(self, path, layout="brats2018", extension=None):
        self.path, self.layout = path, layout
        labels = (2, 4)  # that every layout has
        self.files = nifti.write_subject(
            path / "data", "A", SHAPE, SEED, layout, extension=extension, labels=labels
        )
        if layout == "msd":
            self.files["dataset.json"] = path / "data/dataset.json"
        self._begin()

    def _begin(self):
        """Keeps what the files are before any is spoiled, which has to be good."""
        self.good = {role: file.read_bytes() for role, file in self.files.items()}
        report = checks.check(self.path / "data", slices=SLICES)
        assert report.usable, report.as_text()

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
                    require_equal(content, written.read_bytes())
        return True


def require_equal(content, written):
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


# --- What files are spoiled with ------------------------------------------------------


@st.composite
def damage(draw):
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


WORDS = ("T1w", "T2w", "t1gd", "FLAIR", "edema", "enhancing", "background", "0", "1")
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from((*WORDS, "-1", "3", "²", "99999999999", "1" * 5000)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=4)), inner),
    ),
    max_leaves=8,
)
NAMED = st.dictionaries(
    st.sampled_from(("0", "1", "2", "3", "-1", "²", "x", "99999999999", "FLAIR")),
    st.one_of(st.sampled_from(WORDS), JSON),
    max_size=6,
)
