"""The check names every bad subject with file and remedy, and passes good ones."""

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io
from brats_gan.io import checks
from tests import nifti

ROOT = Path(__file__).parent.parent
REAL = Path(
    os.environ.get(
        "BRATS_GAN_REAL_DATA", ROOT.parent / "shared" / "data" / "brats-real"
    )
)
SHAPE = (32, 28, 8)  # H, W, S: no two alike
SLICES = (2, 7)


class Folder:
    """A good folder of two subjects, "A" and "B", and ways to spoil subject "B"."""

    def __init__(self, path, layout="brats2018"):
        self.path = path
        nifti.write_subject(path, "A", SHAPE, 0, layout)
        self.files = nifti.write_subject(path, "B", SHAPE, 1, layout)

    def change(self, role, edit, dtype=None):
        """Rewrites a file with its stored voxels [x, y, z] passed through `edit`."""
        image = nib.load(self.files[role])
        voxels = edit(np.array(image.dataobj))
        voxels = voxels.astype(dtype or voxels.dtype)
        nib.save(nib.Nifti1Image(voxels, image.affine), self.files[role])

    def poke(self, role, index, value, dtype=np.float32):
        """Sets voxels at [x, y, z] to a value."""

        def edit(voxels):
            voxels = voxels.astype(dtype)
            voxels[index] = value
            return voxels

        self.change(role, edit)

    def move(self, role, affine):
        image = nib.load(self.files[role])
        voxels = np.asarray(image.dataobj)
        nib.save(nib.Nifti1Image(voxels, affine(image.affine.copy())), self.files[role])

    def header(self, role, offset, value):
        """Overwrites bytes of the decompressed file."""
        path = self.files[role]
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[offset : offset + len(value)] = value
        path.write_bytes(gzip.compress(bytes(content)))

    def cut(self, role, keep):
        """Keeps the first bytes of a file as it is on disk: a share, or all but n."""
        content = self.files[role].read_bytes()
        end = int(keep * len(content)) if keep > 0 else keep
        self.files[role].write_bytes(content[:end])


def _empty(folder):
    shutil.rmtree(folder.path)
    folder.path.mkdir()


def _only_a_table(folder):
    _empty(folder)
    (folder.path / "survival_info.csv").write_text("id,days\n")


def _as_plain_nifti(folder):
    path = folder.files["t1"]
    plain = path.with_suffix("")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    return plain


def _cut_plain(folder):
    plain = _as_plain_nifti(folder)
    folder.files["t1"].unlink()
    plain.write_bytes(plain.read_bytes()[:-100])


def _second_alias(folder):
    path = folder.files["t1ce"]
    shutil.copy(path, path.with_name("B_t1Gd.nii.gz"))


def _flip_a_bit(folder):
    content = bytearray(folder.files["t2"].read_bytes())
    content[len(content) // 2] ^= 16
    folder.files["t2"].write_bytes(content)


def _forbid(folder):
    folder.files["t2"].chmod(0)
    if os.access(folder.files["t2"], os.R_OK):
        pytest.skip("this user reads files whatever their permissions")


def _dangling_link(folder):
    folder.files["t2"].unlink()
    folder.files["t2"].symlink_to(folder.path / "gone.nii.gz")


def _folder_in_place_of_a_file(folder):
    folder.files["t2"].unlink()
    folder.files["t2"].mkdir()


def _pipe(folder):
    folder.files["t2"].unlink()
    os.mkfifo(folder.files["t2"])


def _behind(size):
    def append(folder):
        path = folder.files["t1"]
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content + bytes(size), 1))

    return append


def _shift(millimetres):
    def shift(affine):
        affine[0, 3] += millimetres
        return affine

    return shift


def _flatten_affine(affine):
    affine[:, 2] = 0
    return affine


def _singular(folder):
    # sform rows at bytes 280-328; the quaternion is set aside by qform_code 0.
    folder.header("t1", 252, np.array([0, 1], "<i2").tobytes())
    folder.header("t1", 280, bytes(48))


def _swap_axes(voxels):
    square = np.zeros((32, 32, 8), voxels.dtype)
    square[2:30] = voxels
    return square.swapaxes(0, 1)


def _square_with_one_swapped(folder):
    folder.files = nifti.write_subject(folder.path, "B", (40, 40, 8), 1)
    folder.change("flair", lambda voxels: voxels.swapaxes(0, 1))


def _same_patient_twice(folder):
    shutil.copytree(folder.path / "B", folder.path / "C")
    for path in (folder.path / "C").iterdir():
        path.rename(path.with_name(path.name.replace("B_", "C_")))


def _label_far_outside(voxels):
    moved = np.zeros_like(voxels)
    moved[:6, :6] = 2
    return moved


def _few_outside(voxels):
    voxels[0, 0, 4] = 2
    return voxels


# name: (what is done to the folder, what the message says, the file it names)
UNUSABLE = {
    "empty folder": (_empty, "no subject of layout", ""),
    "no image among the files": (_only_a_table, "no subject .*/survival_info.csv", ""),
    "missing folder": (lambda f: shutil.rmtree(f.path), "no such folder", ""),
    "missing modality": (
        lambda f: f.files["t1ce"].unlink(),
        r"no t1ce image.*_t1ce\.nii\.gz, \*_t1c\.nii\.gz",
        "B",
    ),
    "zipped and unzipped": (
        _as_plain_nifti,
        "2 files for t1: B_t1.nii, B_t1.nii.gz",
        "B",
    ),
    "two names of one modality": (_second_alias, "2 files for t1ce", "B"),
    "a folder named as a file": (_folder_in_place_of_a_file, "no t2 image", "B"),
    "another layout mixed in": (
        lambda f: nifti.write_subject(f.path, "X", SHAPE, 2, "brats2023"),
        "more than one layout: brats2018.*brats2023.*--layout",
        "",
    ),
    "the Decathlon mixed in": (
        lambda f: nifti.write_subject(f.path, "X", SHAPE, 2, "msd"),
        "more than one layout: brats2018.*msd",
        "",
    ),
    "file of no bytes": (
        lambda f: f.files["t1"].write_bytes(b""),
        "not a NIfTI file",
        "t1",
    ),
    "web page": (
        lambda f: f.files["t1"].write_text("<html>Please log in</html>" * 40),
        "not a NIfTI file.*web page",
        "t1",
    ),
    "truncated gzip": (lambda f: f.cut("t1", 0.5), "damaged or incomplete", "t1"),
    "gzip that lacks its end": (
        lambda f: f.cut("t1", -9),
        "damaged or incomplete",
        "t1",
    ),
    "truncated without gzip": (_cut_plain, "damaged or incomplete", "B_t1.nii"),
    "flipped bit": (_flip_a_bit, "damaged or incomplete", "t2"),
    "wrong magic": (lambda f: f.header("t1", 344, b"oops"), "wrong NIfTI magic", "t1"),
    "header of a gigabyte each way": (
        lambda f: f.header("t1", 42, np.array([30000] * 3, "<i2").tobytes()),
        "asks for .* GB",
        "t1",
    ),
    "header of more than the file can hold": (
        # 2000 MB as float32, which is allowed, of a file of some kB.
        lambda f: f.header("t1", 42, np.array([1000, 1000, 500], "<i2").tobytes()),
        "damaged or incomplete",
        "t1",
    ),
    "gzip bomb": (_behind(70 * 2**20), "more than 64 MB behind its voxels", "t1"),
    "more slices than any scan": (
        lambda f: f.header("t1", 42, np.array([1, 1, 2000], "<i2").tobytes()),
        "2000 axial slices, more than 1024",
        "t1",
    ),
    "voxels far behind the header": (
        lambda f: f.header("t1", 108, np.array([3e9], "<f4").tobytes()),
        r"voxels at byte 3e\+09",
        "t1",
    ),
    "a pipe": (_pipe, "a pipe or a device", "t2"),
    "negative size": (
        lambda f: f.header("t1", 42, np.array([-5], "<i2").tobytes()),
        "sizes .-5",
        "t1",
    ),
    "colours": (
        lambda f: f.header("t1", 70, np.array([128], "<i2").tobytes()),
        "data type code 128",
        "t1",
    ),
    "complex voxels": (
        lambda f: f.change("t1", lambda v: v, np.complex64),
        "data type code 32",
        "t1",
    ),
    "unknown data type": (
        lambda f: f.header("t1", 70, np.array([999], "<i2").tobytes()),
        "data type code 999",
        "t1",
    ),
    "intercept not a number": (
        lambda f: f.header("t1", 112, np.array([2, np.nan], "<f4").tobytes()),
        "scl_inter is nan",
        "t1",
    ),
    "affine not invertible": (_singular, "not invertible", "t1"),
    "2-D": (lambda f: f.change("t2", lambda v: v[:, :, 0]), "2-D, 28 x 32", "t2"),
    "one slice": (lambda f: f.change("t2", lambda v: v[:, :, :1]), "1 axial", "t2"),
    "4-D where 3-D is due": (
        lambda f: f.change("t2", lambda v: np.stack([v, v], -1)),
        "4-D with 2 channels",
        "t2",
    ),
    "fewer slices than the range": (
        lambda f: f.change("flair", lambda v: v[:, :, :6]),
        "6 axial slices, but 2:7 are due",
        "flair",
    ),
    "different shapes": (
        lambda f: f.change("flair", lambda v: v[1:]),
        "27 x 32 x 8 voxels, but .*_t1.nii.gz has 28 x 32 x 8",
        "flair",
    ),
    "axes swapped": (
        lambda f: f.change("flair", lambda v: v.swapaxes(0, 1)),
        "32 x 28 x 8 voxels",
        "flair",
    ),
    "axes swapped in a square": (
        _square_with_one_swapped,
        "outline of flair overlaps with that of the others by 0.8",
        "flair",
    ),
    "affine off by 5 mm": (lambda f: f.move("t2", _shift(5)), "up to 5.0 mm", "t2"),
    "NaN": (lambda f: f.poke("t1", (14, 14, 4), np.nan), "1 voxels .* finite", "t1"),
    "infinity": (
        lambda f: f.poke("t1", (14, 14, 4), np.inf),
        "1 voxels .* finite",
        "t1",
    ),
    "minus infinity": (
        lambda f: f.poke("t1", (14, 14, 4), -np.inf),
        "1 voxels .* finite",
        "t1",
    ),
    "all zero": (lambda f: f.change("t1", lambda v: v * 0), "no positive voxel", "t1"),
    "all negative": (
        lambda f: f.change("t1", lambda v: -1 - np.abs(v)),
        "no positive voxel",
        "t1",
    ),
    "constant": (lambda f: f.change("t1", lambda v: v * 0 + 3), "constant, 3", "t1"),
    "permission denied": (_forbid, "permission denied", "t2"),
    "dangling link": (_dangling_link, "no such file", "t2"),
    "label with 7": (
        lambda f: f.poke("seg", (14, 14, 4), 7, np.uint8),
        "unknown label 7; this layout has 0, 1, 2, 3, 4",
        "seg",
    ),
    "negative label": (
        lambda f: f.poke("seg", (14, 14, 4), -1, np.int16),
        "unknown label -1",
        "seg",
    ),
    "label of floats": (
        lambda f: f.poke("seg", (14, 14, 4), 1.5),
        "not whole numbers, such as 1.5",
        "seg",
    ),
    "label of infinity": (
        lambda f: f.poke("seg", (14, 14, 4), np.inf),
        "not whole numbers, such as inf",
        "seg",
    ),
    "label not a number": (
        lambda f: f.poke("seg", (14, 14, 4), np.nan),
        "not whole numbers, such as nan",
        "seg",
    ),
    "label of another shape": (
        lambda f: f.change("seg", lambda v: v[:, 1:]),
        "28 x 31 x 8 voxels",
        "seg",
    ),
    "label off by 5 mm": (lambda f: f.move("seg", _shift(5)), "up to 5.0 mm", "seg"),
    "truncated label": (lambda f: f.cut("seg", 0.8), "damaged or incomplete", "seg"),
    "label of another brain": (
        lambda f: f.change("seg", _label_far_outside),
        "outside the brain.*another subject",
        "seg",
    ),
    "one image as two modalities": (
        lambda f: shutil.copy(f.files["t1"], f.files["t1ce"]),
        "t1ce is the same image as t1 of B",
        "t1ce",
    ),
    "one patient twice": (
        _same_patient_twice,
        "t1 is the same image as t1 of B",
        "C_t1",
    ),
}

# What only the full check can see, since the reader has no reason to look for it.
ONLY_CHECKED = {
    "flipped bit",
    "axes swapped in a square",
    "label of another brain",
    "one image as two modalities",
    "one patient twice",
}

USABLE = {
    "no label": (lambda f: f.files["seg"].unlink(), "no label file"),
    "empty label": (
        lambda f: f.change("seg", lambda v: v * 0),
        "no lesion anywhere",
    ),
    "lesion out of range": (
        lambda f: f.poke("seg", np.s_[:, :, 2:7], 0, np.uint8),
        "no lesion in range",
    ),
    "label leaving the brain": (
        lambda f: f.change("seg", _few_outside),
        r"1 lesion voxels in range \(0%\)",
    ),
    "NaN out of range": (
        lambda f: f.poke("t1", (14, 14, 0), np.nan),
        "t1 has 1 voxels that are not finite",
    ),
    "blank slice": (
        lambda f: [f.poke(role, np.s_[:, :, 3], 0, np.int16) for role in f.files],
        "1 slice in range without brain",
    ),
    "no orientation": (
        # qform_code and sform_code are at bytes 252 and 254.
        lambda f: [f.header(role, 252, bytes(4)) for role in f.files],
        "no orientation in the header",
    ),
    "thick slices": (
        lambda f: [
            f.move(role, lambda a: a @ np.diag([1, 1, 5, 1])) for role in f.files
        ],
        "voxels of 1 x 1 x 5 mm",
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_bad_input_is_a_problem_with_its_file(kind, tmp_path):
    spoil, message, file = UNUSABLE[kind]
    folder = Folder(tmp_path / "data")
    spoil(folder)
    report = checks.check(folder.path, slices=SLICES)
    assert not report.usable
    text = report.as_text()
    assert "NOT usable" in text
    found = [m for s, m in report.problems if s in ("", "B", "C")]
    assert len(found) == len(report.problems)  # and subject A is in order
    (problem,) = [m for m in found if _matches(message, m)][:1] or [found]
    assert _matches(message, problem)
    expected = folder.files.get(file, file)
    assert str(expected) in problem
    json.dumps(report.as_dict())


def _matches(pattern, message):
    return re.search(pattern, message, re.DOTALL) is not None


@pytest.mark.parametrize("kind", sorted(set(UNUSABLE) - ONLY_CHECKED))
def test_reading_bad_input_is_the_same_error(kind, tmp_path):
    spoil, message, _ = UNUSABLE[kind]
    folder = Folder(tmp_path / "data")
    spoil(folder)
    with pytest.raises(files.DataError) as caught:
        for subject in io.find_subjects(folder.path):
            io.read_subject(subject, SLICES)
    assert _matches(message, str(caught.value))


@pytest.mark.parametrize("kind", USABLE)
def test_an_oddity_is_a_note(kind, tmp_path):
    make_odd, message = USABLE[kind]
    folder = Folder(tmp_path / "data")
    make_odd(folder)
    report = checks.check(folder.path, slices=SLICES)
    assert report.usable, report.problems
    assert any(_matches(message, m) for _, m in report.notes)


def test_patients_and_visits_are_shown(tmp_path):
    for number, name in enumerate(("RHUH-0001_0", "RHUH-0001_2", "RHUH-0002_0", "x")):
        nifti.write_subject(tmp_path, name, SHAPE, number)
    report = checks.check(tmp_path, slices=SLICES)
    said = "4 subjects of 3 patients (1 has more than one visit, such as RHUH-0001: "
    assert f"\n{said}RHUH-0001_0, RHUH-0001_2)" in report.as_text()
    rows = [line.split()[:2] for line in report.as_text().splitlines()]
    assert ["subject", "patient"] in rows and ["RHUH-0001_2", "RHUH-0001"] in rows
    shown = report.as_dict()
    assert shown["patients"] == 3
    of_each = [subject["patient"] for subject in shown["subjects"]]
    assert of_each == ["RHUH-0001", "RHUH-0001", "RHUH-0002", "x"]
    each = checks.check(tmp_path, slices=SLICES, patient_pattern="(.+)").as_text()
    assert "\n4 subjects, each a patient of its own" in each
    assert "patient" not in each.splitlines()[4]


def test_subjects_of_one_patient_alone_are_a_note(tmp_path):
    for number, name in enumerate(("RHUH-0001_0", "RHUH-0001_2")):
        nifti.write_subject(tmp_path, name, SHAPE, number)
    ((_, note),) = checks.check(tmp_path, slices=SLICES).notes
    assert note.startswith("2 subjects of one patient: a split into train and test")


@pytest.mark.parametrize("layout", io.LAYOUTS)
def test_a_good_folder_of_every_layout_is_usable(layout, tmp_path):
    for number, name in enumerate("AB"):
        nifti.write_subject(tmp_path, name, SHAPE, number, layout)
    report = checks.check(tmp_path, slices=SLICES)
    assert (report.usable, report.notes, report.layout) == (True, [], layout)


def test_the_report_counts_what_is_in_the_files(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE, labels=(2,))
    images, label = nifti.brain(SHAPE, 0, labels=(2,))
    (found,) = checks.check(tmp_path, slices=(2, 7)).subjects
    assert found.shape == (28, 32, 8)
    assert found.spacing == (1, 1, 1)
    assert found.axes == "LPS"
    oedema = np.count_nonzero(label)
    assert found.labels == {
        "necrosis": 0,
        "oedema": oedema,
        "non-enhancing": 0,
        "enhancing": 0,
    }
    assert found.lesion_slices == 5  # the lesion goes through every slice
    assert found.blank_slices == 0
    assert found.negative == {m: np.count_nonzero(images[m] < 0) for m in images}
    assert set(found.nonfinite.values()) == {0}


def test_the_quick_check_leaves_voxels_of_images_alone(tmp_path):
    folder = Folder(tmp_path / "data")
    _flip_a_bit(folder)
    report = checks.check(folder.path, slices=SLICES, quick=True)
    assert report.usable
    assert report.subjects[1].negative is None
    assert report.subjects[1].lesion_slices == 5


@pytest.mark.parametrize("kind", ["truncated gzip", "label with 7", "different shapes"])
def test_the_quick_check_refuses_with_every_file(kind, tmp_path):
    spoil, message, file = UNUSABLE[kind]
    folder = Folder(tmp_path / "data")
    spoil(folder)
    folder.files["flair"].unlink()  # and B has a second problem, of its own
    nifti.write_subject(folder.path, "C", SHAPE, 2)
    (folder.path / "C" / "C_t2.nii.gz").write_bytes(b"")
    with pytest.raises(files.DataError, match="no flair image") as caught:
        checks.require_usable(folder.path, slices=SLICES)
    assert "C_t2.nii.gz: not a NIfTI file" in str(caught.value)
    assert "--nocheck" in str(caught.value)


def test_a_good_folder_passes_the_quick_check(tmp_path):
    folder = Folder(tmp_path / "data")
    assert checks.require_usable(folder.path, slices=SLICES).usable


def test_every_problem_of_a_subject_is_listed_once(tmp_path):
    folder = Folder(tmp_path, "msd")
    folder.files["t1"].write_bytes(b"")  # the one file of all four modalities
    report = checks.check(tmp_path, slices=SLICES)
    assert [name for name, _ in report.problems] == ["B"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda content: content.replace("FLAIR", "PD"),
            "0 channels for flair among PD",
        ),
        (lambda content: content.replace("edema", "bone"), "'bone' is not one of"),
        (lambda content: content[:-5], "not readable as JSON"),
        (lambda content: content.replace('"modality"', '"x"'), 'no "modality"'),
        (
            lambda content: content.replace('"3": "T2w"', '"4": "T2w"'),
            "channel 4 is due",
        ),
        (
            lambda content: content.replace('"3": "T2w"', '"-1": "T2w"'),
            "'-1' where 0 to 255 is due",
        ),
        (
            # A table of all labels up to this one would take 100 GB.
            lambda content: content.replace('"1": "edema"', '"99999999999": "edema"'),
            "'99999999999' where 0 to 255 is due",
        ),
        (lambda content: "[" * 10**5, "not readable as JSON"),
        (lambda content: content + " " * 2**24, "not readable as JSON"),
    ],
    ids=[
        "unknown channel",
        "unknown label",
        "cut off",
        "no channels",
        "no such channel",
        "channel below 0",
        "label beyond all",
        "nested without end",
        "endless",
    ],
)
def test_a_wrong_dataset_json_is_a_problem(edit, message, tmp_path):
    Folder(tmp_path, "msd")
    path = tmp_path / "dataset.json"
    path.write_text(edit(path.read_text()))
    report = checks.check(tmp_path, slices=SLICES)
    assert not report.usable
    assert _matches(message, report.problems[0][1])


@pytest.mark.parametrize(
    ("keep", "what"),
    [(0.05, "not a MetaImage"), (0.6, "damaged or incomplete")],
    ids=["header", "voxels"],
)
def test_a_truncated_mha_is_a_problem(keep, what, tmp_path):
    folder = Folder(tmp_path, "brats2015")
    folder.cut("t2", keep)
    ((name, message),) = checks.check(tmp_path, slices=SLICES).problems
    assert name == "B"
    assert str(folder.files["t2"]) in message
    assert what in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"DimSize = 28 32 8", b"DimSize = 99999 99999 999", "asks for .* GB"),
        (b"DimSize = 28 32 8", b"DimSize = 4294967299 32 8", "an unusual DimSize"),
        (b"NDims = 3", b"NDims = 99999", "an unusual NDims"),
        (b"NDims = 3", b"NDims = 3\nNDims = 4", "a field twice"),
        (b"DataFile = LOCAL", b"DataFile = /etc/passwd", "in another file"),
        (
            b"ElementDataFile = LOCAL",
            b"Comment = ElementDataFile = LOCAL\nElementDataFile = /etc/passwd",
            "in another file",
        ),
    ],
    ids=["terabytes", "overflow", "rank", "twice", "elsewhere", "elsewhere, hidden"],
)
def test_a_header_of_a_mha_that_could_do_harm_is_a_problem(old, new, message, tmp_path):
    path = Folder(tmp_path, "brats2015").files["t2"]
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    ((name, said),) = checks.check(tmp_path, slices=SLICES).problems
    assert name == "B" and str(path) in said and _matches(message, said)


def test_one_wrong_bit_among_the_compressed_voxels_of_a_mha_is_a_problem(tmp_path):
    path = Folder(tmp_path, "brats2015").files["t2"]
    content = bytearray(path.read_bytes())
    assert b"CompressedData = True" in content
    content[-40] ^= 4  # SimpleITK reads such a file without complaint
    path.write_bytes(content)
    ((name, message),) = checks.check(tmp_path, slices=SLICES).problems
    assert name == "B" and str(path) in message


def test_label_3_without_4_asks_about_the_year(tmp_path):
    for number, name in enumerate("AB"):
        nifti.write_subject(tmp_path, name, SHAPE, number, labels=(1, 2, 3))
    (note,) = checks.check(tmp_path, slices=SLICES).notes
    assert _matches("3 but never 4.*--layout=brats2023", note[1])


def test_a_single_subject_is_said_to_be_too_few_for_a_split(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE)
    report = checks.check(tmp_path, slices=SLICES)
    assert report.usable
    assert "needs two" in report.notes[0][1]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real subjects are not at {REAL}")
def test_the_real_subjects_are_reported_as_they_are():
    report = checks.check(REAL)
    assert (report.usable, report.layout) == (True, "brats2018")
    first, second = report.subjects
    assert (first.name, second.name) == ("TCGA-DU-7294", "TCGA-FG-6692")
    # Counted with nibabel and NumPy on the files.
    assert (first.lesion_slices, second.lesion_slices) == (12, 44)
    assert first.labels["enhancing"] == 0
    assert second.labels["enhancing"] == 6840
    assert first.negative == {"t1": 2250, "t2": 136, "t1ce": 1242, "flair": 1561}
    assert (first.shape, first.axes) == ((240, 240, 155), "LPS")
    assert (first.blank_slices, second.blank_slices) == (0, 0)


# --- The same file twice --------------------------------------------------------------


def _copied(path, other):
    shutil.copy(path, other)


def _linked(path, other):
    other.symlink_to(path)


def _linked_hard(path, other):
    os.link(path, other)


@pytest.mark.parametrize("again", [_copied, _linked, _linked_hard])
def test_a_subject_under_two_names_is_refused_with_both_before_the_first_step(
    again, tmp_path
):
    folder = Folder(tmp_path)
    (tmp_path / "C").mkdir()
    for role, path in folder.files.items():
        again(path.resolve(), tmp_path / "C" / f"C_{role}.nii.gz")
    with pytest.raises(files.DataError) as caught:
        checks.require_usable(tmp_path, None, SLICES)
    path = tmp_path / "C/C_t1.nii.gz"
    assert f"{path}: t1 of C is the same file as t1 of B" in str(caught.value)
    assert str(folder.files["t1"]) in str(caught.value)
    assert "So are 3 more of its files" in str(caught.value)


def test_one_image_of_another_subject_is_refused_by_the_quick_check(tmp_path):
    folder = Folder(tmp_path)
    shutil.copy(tmp_path / "A/A_t2.nii.gz", folder.files["t2"])
    report = checks.check(tmp_path, None, SLICES, quick=True)
    ((name, message),) = report.problems
    assert name == "B" and "t2 of B is the same file as t2 of A" in message


def test_one_image_in_place_of_another_modality_is_refused_too(tmp_path):
    folder = Folder(tmp_path)
    shutil.copy(folder.files["t1"], folder.files["t2"])
    ((name, message),) = checks.check(tmp_path, None, SLICES, quick=True).problems
    assert name == "B" and "t2 of B is the same file as t1 of B" in message


def test_equal_labels_and_files_of_one_size_are_no_twins(tmp_path):
    for name, seed in (("A", 0), ("B", 1)):  # plain files: all of one size
        nifti.write_subject(tmp_path, name, SHAPE, seed, extension=".nii")
    shutil.copy(tmp_path / "A/A_seg.nii", tmp_path / "B/B_seg.nii")
    assert checks.check(tmp_path, None, SLICES, quick=True).usable


def test_files_that_differ_in_one_byte_at_the_end_are_no_twins(tmp_path):
    folder = Folder(tmp_path)
    plain = _as_plain_nifti(folder)
    folder.files["t1"].unlink()
    content = bytearray(plain.read_bytes())
    content[-1] ^= 1
    shutil.copytree(tmp_path / "B", tmp_path / "C")
    for path in [*(tmp_path / "C").iterdir()]:
        path.rename(path.with_name(path.name.replace("B_", "C_")))
    (tmp_path / "C/C_t1.nii").write_bytes(content)
    found = checks.check(tmp_path, None, SLICES, quick=True).problems
    assert len(found) == 1 and "So are 2 more of its files" in found[0][1]
