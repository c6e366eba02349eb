"""Collections that are spoiled: refused in a sentence, or read and written as they are.

As in test_fuzz, for the trees, tables and names of other collections. What names say is
held to what they say in plain words here, so that nothing is read as something else.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_gan import files, io
from brats_gan.io import convert, targets
from brats_gan.spec import BRATS
from tests import nifti
from tests.fuzzing import JSON, SEED, SHAPE, SLICES, Folder, damage, require_equal

ROLES = (*BRATS.modalities, "seg")  # t1, t2, t1ce, flair, seg
# Tree -> where the files of ROLES are; labels are 2 and 4 of ours, stored as said.
_ID = "UPENN-GBM-00001_11"
_TCGA = "TCGA-02-0006/TCGA-02-0006_1996.08.23"
TREES = {
    "bare": ("A/{}.nii.gz", "t1 t2 t1c fla seg"),
    "ucsf": (
        "UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_{}.nii.gz",
        "T1 T2 T1c FLAIR tumor_segmentation",
    ),
    "upenn": (
        "images_{}.nii.gz",
        f"structural/{_ID}/{_ID}_T1 structural/{_ID}/{_ID}_T2 "
        f"structural/{_ID}/{_ID}_T1GD structural/{_ID}/{_ID}_FLAIR segm/{_ID}_segm",
    ),
    "tcga": (_TCGA + "_{}.nii.gz", "t1 t2 t1Gd flair GlistrBoost_ManuallyCorrected"),
    "met": (
        "BraTS-MET-00001-000/BraTS-MET-00001-000-{}.nii.gz",
        "t1n t2w t1c t2f seg",
    ),
    "a folder a modality": (
        "{}.nii.gz",
        "t1/A t2/A t1ce/A flair/A labels/A",
    ),
    "a folder as a file": ("A/A_{}.nii/scan.nii", "t1 t2 t1ce flair seg"),
    "deep": ("a/b/c/HGG/d/A/A_{}.nii", "t1 t2 t1ce flair seg"),
    "bids": (
        "sub-01/ses-02/anat/sub-01_ses-02_{}.nii.gz",
        "T1w T2w ce-gd_T1w FLAIR dseg",
    ),
    "nnunet": (
        "Dataset001_A/{}.nii.gz",
        "imagesTr/A_0000 imagesTr/A_0001 imagesTr/A_0002 imagesTr/A_0003 labelsTr/A",
    ),
}
STORED = {"met": {2: 2, 4: 3}, "nnunet": {2: 1, 4: 3}}
NNUNET = {
    "channel_names": {"0": "T1", "1": "T2", "2": "T1ce", "3": "FLAIR"},
    "labels": {"background": 0, "edema": 1, "necrosis": 2, "enhancing": 3},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


class Collection(Folder):
    """A good folder of one subject in one of TREES, converted to any format."""

    def __init__(self, path, tree):
        self.path, self.layout, self.to = path, tree, "brats"
        images, label = nifti.brain(SHAPE, SEED, (2, 4))
        stored = np.zeros(5, np.uint8)
        for ours, value in STORED.get(tree, {2: 2, 4: 4}).items():
            stored[ours] = value
        volumes = {**images, "seg": stored[label]}
        place, names = TREES[tree]
        self.files = {
            role: nifti.write_volume(path / "data" / place.format(name), volumes[role])
            for role, name in zip(ROLES, names.split(), strict=True)
        }
        tables = {}
        if tree == "nnunet":
            tables["Dataset001_A/dataset.json"] = json.dumps(NNUNET)
        if tree == "bids":
            tables["dseg.tsv"] = "index\tname\n0\tbackground\n2\tedema\n4\tenhancing\n"
            tables["participants.tsv"] = "participant_id\nsub-01\n"
            description = {"Name": "A", "BIDSVersion": "1.9.0", "SourceNames": {}}
            tables["dataset_description.json"] = json.dumps(description)
        for name, text in tables.items():
            self.files[name] = path / "data" / name
            self.files[name].write_text(text)
        self._begin()

    def _convert(self, spoiled):
        done, problems = convert.convert(
            self.path / "data", self.path / "out", to=self.to
        )
        for _, message in problems:
            self._is_clear(message)
        (before,) = io.find_subjects(self.path / "data")
        if not done:
            return self.to == "nnunet" and "NaN" in problems[0][1]
        (after,) = io.find_subjects(self.path / "out")
        assert after.name == before.name and after.patient == before.patient
        role = next(role for role, path in self.files.items() if path == spoiled)
        if role in BRATS.modalities:
            written = after.images[role][0].read_bytes()
            require_equal(spoiled.read_bytes(), written)
        require_same(before, after)
        return True


def require_same(before, after):
    """Two subjects hold equal voxels and labels, in equal places.

    Volumes that may count as of one grid are written on one: that of the first.
    """
    grid, first = None, None
    for modality in BRATS.modalities:
        (path, channel), (other, _) = before.images[modality], after.images[modality]
        (one,), grid = io.load_channels(path, [channel])
        (two,), again = io.load_channels(other, [None])
        np.testing.assert_array_equal(one, two)
        first = first or grid
        io.require_same_grid(first, grid)
        np.testing.assert_allclose(first.affine, again.affine, rtol=0, atol=1e-3)
    assert (before.label is None) == (after.label is None)
    if before.label is not None:
        one, two = (io.load_label(each, None, grid) for each in (before, after))
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    return {
        tree: Collection(tmp_path_factory.mktemp(tree.replace(" ", "_")), tree)
        for tree in TREES
    }


@pytest.mark.parametrize("tree", TREES)
def test_every_tree_is_read_as_it_is(collections, tree):
    folder = collections[tree]
    (subject,) = io.find_subjects(folder.path / "data")
    found = {role: path for role, (path, _) in subject.images.items()}
    assert found | {"seg": subject.label} == {
        role: folder.files[role] for role in ROLES
    }


@given(
    tree=st.sampled_from(sorted(TREES)),
    role=st.sampled_from(("t1", "t1ce", "flair", "seg")),
    to=st.sampled_from(sorted(targets.FORMATS)),
    spoil=damage(),
)
def test_a_damaged_file_of_any_collection_is_refused_or_does_no_harm(
    collections, tree, role, to, spoil
):
    folder = collections[tree]
    folder.to = to
    folder.try_out(role, spoil(folder.good[role]))


@given(
    scale=st.sampled_from((1.0, 0.01, 1e-4, -1.0, 7.5)),
    offset=st.floats(-3, 3),
    role=st.sampled_from(("t1", "flair")),
    masked=st.booleans(),
    to=st.sampled_from(sorted(targets.FORMATS)),
)
def test_normalised_intensities_are_refused_or_few_are_negative(
    collections, scale, offset, role, masked, to
):
    folder = collections["bare"]
    folder.to = to
    image = nifti.brain(SHAPE, SEED, (2, 4))[0][role].astype(np.float32)
    changed = scale * (image - image.mean()) / image.std() + offset
    changed = np.where(image > 0, changed, 0) if masked else changed
    stored = nib.Nifti1Image(changed.swapaxes(0, 1), nifti.affine(SHAPE))
    path = folder.files[role]
    content = path.parent / "spoiled.nii.gz"
    nib.save(stored, content)
    folder_bytes = content.read_bytes()
    content.unlink()
    folder.try_out(role, folder_bytes)
    inside = changed[..., slice(*SLICES)]
    if np.count_nonzero(inside < 0) > 0.12 * np.count_nonzero(inside):
        path.write_bytes(folder_bytes)
        try:
            (subject,) = io.find_subjects(folder.path / "data")
            with pytest.raises(files.DataError, match=str(path)):
                io.read_subject(subject, SLICES, 32)
        finally:
            path.write_bytes(folder.good[role])


_TABLES = (
    ("nnunet", "Dataset001_A/dataset.json"),
    ("bids", "dseg.tsv"),
    ("bids", "participants.tsv"),
    ("bids", "dataset_description.json"),
)


@given(
    table=st.sampled_from(_TABLES),
    to=st.sampled_from(sorted(targets.FORMATS)),
    content=JSON,
    key=st.sampled_from(
        ("channel_names", "modality", "labels", "source_names", "prepared")
        + ("SourceNames", "Prepared", "GeneratedBy", "file_ending")
    ),
    spoil=st.one_of(st.none(), damage()),
)
def test_a_spoiled_table_is_refused_or_does_no_harm(
    collections, table, to, content, key, spoil
):
    tree, name = table
    folder = collections[tree]
    folder.to = to
    changed = folder.good[name]
    if name.endswith(".json"):
        changed = json.dumps({**json.loads(changed), key: content}).encode()
    folder.try_out(name, spoil(changed) if spoil else folder.good[name])


# --- Names of files -------------------------------------------------------------------

_PIECES = st.one_of(
    st.sampled_from(
        "t1 T1 t2 t1ce T1GD t1c FLAIR fla seg segm label mask bias brain sub-01 ses-1 "
        "anat dseg T1w ce-gd 0000 0001 A B imagesTr labelsTr BraTS-GLI-00001-000 _ - . "
        "VSD.Brain.XX.O.MR_T1.54 VSD.Brain.XX.O.OT.1 Vsd..o.mr_t1c".split()
    ),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=("Cs",)),
        min_size=1,
        max_size=4,
    ),
)
_STEMS = st.lists(_PIECES, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(("_", "-", "", "_")).map(lambda by: by.join(parts))
)
_ENDS = st.sampled_from((".nii", ".nii.gz", ".NII.GZ", ".mha", "", ".txt"))


@given(
    paths=st.lists(
        st.tuples(st.lists(_STEMS, max_size=3), _STEMS, _ENDS), min_size=1, max_size=8
    ),
    whole=st.booleans(),
    layout=st.sampled_from((None, None, *io.LAYOUTS)),
)
def test_any_names_of_files_are_refused_or_each_is_one_role(
    tmp_path_factory, paths, whole, layout
):
    root = tmp_path_factory.mktemp("names")
    for folders, stem, end in paths:
        folder = Path(root, *folders)
        ends = [end]
        if whole:  # beside it, what a whole subject has
            ends = [f"_{role}.nii.gz" for role in ROLES] + [end]
        for each in ends:
            path = folder / f"{stem}{each}"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError:  # a name that is taken by a folder, or too long
                continue
    (root / "dataset.json").write_text(json.dumps(NNUNET))
    try:
        found = io.explore(root, layout)
    except files.DataError as error:
        assert str(root) in str(error)
        return
    for _, message in found.problems:
        assert str(root) in message or ascii(str(root))[1:-1] in message
    names = [subject.name for subject in found.subjects]
    assert len({*names}) == len(names) and all(map(files.is_file_name, names))
    assert names == sorted(names)
    for subject in found.subjects:
        used = [path for path, _ in subject.images.values()]
        if subject.layout != "msd":
            assert len({*used}) == len(BRATS.modalities)
        assert subject.label not in used
        assert all(path.is_file() for path in used)
        assert subject.patient


_LETTERS = st.characters(exclude_characters="/\\\0", exclude_categories=("C", "Z"))


@given(
    names=st.lists(
        st.one_of(
            st.text(_LETTERS, min_size=1, max_size=8),
            st.lists(
                st.sampled_from("A a sub- _ses- _ - . 0 é BraTS-GLI-00001-".split()),
                min_size=1,
                max_size=4,
            ).map("".join),
        ).filter(lambda name: name.strip(".") and name[0] != "."),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    to=st.sampled_from(sorted(targets.FORMATS)),
    spoil=st.one_of(st.none(), damage()),
)
def test_subjects_of_any_names_are_refused_or_come_back_by_them(
    tmp_path_factory, names, to, spoil
):
    root = tmp_path_factory.mktemp("named")
    volume = np.arange(2 * 3 * 2, dtype=np.int16).reshape(2, 3, 2)
    image = nifti.write_volume(root / "image.nii", volume).read_bytes()
    label = nifti.write_volume(root / "l.nii", (volume % 3).astype(np.uint8))
    label = label.read_bytes()
    for name in names:
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for role in ROLES:
            content = label if role == "seg" else image
            (folder / f"{role}.nii").write_bytes(content)
    first = root / "data" / names[0] / "t2.nii"
    if spoil:
        first.write_bytes(spoil(image))
    try:
        before = io.find_subjects(root / "data")
        done, problems = convert.convert(root / "data", root / "out", to=to)
    except files.DataError:
        return
    assert all(str(first) in message for _, message in problems)
    assert len(done) + len(problems) == len(before)
    before = [subject for subject in before if subject.name in done]
    if not before:
        return
    after = io.find_subjects(root / "out")
    assert [subject.name for subject in after] == [subject.name for subject in before]
    for one, other in zip(before, after, strict=True):
        require_same(one, other)
