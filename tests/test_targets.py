"""What convert writes is what nnU-Net and BIDS ask for, and is read as it was."""

import csv
import json
import re
import threading

import nibabel as nib
import numpy as np
import pytest

from brats_gan import files, io, spec
from brats_gan.io import convert, targets
from tests import nifti

SHAPE = (32, 28, 8)
FORMATS = tuple(targets.FORMATS)


def _voxels(folder, a_spec=spec.BRATS):
    """Subject -> role -> (voxels, affine), by the readers of this project."""
    found = {}
    for subject in io.find_subjects(folder, spec=a_spec):
        roles = {m: io.load_volume(*each) for m, each in subject.images.items()}
        path, channel = subject.images[a_spec.modalities[0]]
        grid = io.lps_grid(path, io.read_header(path))
        if subject.label is not None:
            label = io.load_label(subject, None, grid)
            roles["seg"] = label.transpose(1, 2, 0), grid.affine
        found[subject.name] = roles
    return found


def _require_equal(one, other):
    assert {*one} == {*other}
    for name, roles in one.items():
        assert {*roles} == {*other[name]}
        for role, (voxels, affine) in roles.items():
            np.testing.assert_array_equal(voxels, other[name][role][0])
            np.testing.assert_allclose(affine, other[name][role][1], atol=1e-4)


def _require_as_nnunet_asks(folder):
    """The rules of verify_dataset_integrity of nnunetv2 2.8.1."""
    said = json.loads((folder / "dataset.json").read_text())
    assert {"channel_names", "labels", "numTraining", "file_ending"} <= said.keys()
    end = said["file_ending"]
    images = sorted(path.name for path in (folder / "imagesTr").iterdir())
    cases = sorted({re.fullmatch(rf"(.+)_\d{{4}}{end}", x)[1] for x in images})
    assert len(cases) == said["numTraining"]
    channels = range(len(said["channel_names"]))
    assert images == sorted(f"{c}_{i:04d}{end}" for c in cases for i in channels)
    labels = {path.name for path in (folder / "labelsTr").iterdir()}
    assert labels == {f"{case}{end}" for case in cases}
    assert sorted(said["labels"].values()) == [*range(len(said["labels"]))]
    assert said["labels"]["background"] == 0
    for case in cases:
        label = nib.load(folder / "labelsTr" / f"{case}{end}")
        assert {*np.unique(label.dataobj)} <= {*said["labels"].values()}
        for i in channels:
            image = nib.load(folder / "imagesTr" / f"{case}_{i:04d}{end}")
            assert image.shape == label.shape
            np.testing.assert_allclose(image.affine, label.affine)
            assert not np.isnan(image.get_fdata()).any()


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("layout", io.LAYOUTS)
def test_a_round_trip_from_any_layout_keeps_voxels_labels_and_places(
    layout, to, tmp_path
):
    names = {"brats2023": "BraTS-GLI-00001-00", "bids": "Patient"}
    for number in range(2):
        name = f"{names.get(layout, 'Pat_00')}{number}"
        axes = ("LPS", "RAS")[number]
        nifti.write_subject(
            tmp_path / "in", name, SHAPE, number, layout=layout, axes=axes
        )
    before = _voxels(tmp_path / "in")
    assert len(before) == 2
    done, problems = convert.convert(tmp_path / "in", tmp_path / "there", to=to)
    assert (len(done), problems) == (2, [])
    _require_equal(before, _voxels(tmp_path / "there"))
    convert.convert(tmp_path / "there", tmp_path / "back")
    _require_equal(before, _voxels(tmp_path / "back"))


@pytest.mark.parametrize("layout", ["brats2018", "brats2023", "msd"])
def test_nnunet_gets_what_its_own_check_asks_for(layout, tmp_path):
    for number in range(2):
        nifti.write_subject(tmp_path / "in", f"A{number}", SHAPE, number, layout)
    convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet", dataset_id=7)
    _require_as_nnunet_asks(tmp_path / "out/Dataset007_in")
    said = json.loads((tmp_path / "out/Dataset007_in/dataset.json").read_text())
    assert [*said["channel_names"].values()] == [*spec.BRATS.modalities]


def test_labels_of_nnunet_are_those_that_the_source_can_have(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, layout="brats2023")
    convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet")
    said = json.loads((tmp_path / "out/Dataset001_in/dataset.json").read_text())
    names = {"background": 0, "necrosis": 1, "oedema": 2, "enhancing": 3}
    assert said["labels"] == names


def test_subjects_without_a_label_are_test_cases_of_nnunet(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    nifti.write_subject(tmp_path / "in", "B", SHAPE, 1, label=False)
    convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet")
    folder = tmp_path / "out/Dataset001_in"
    _require_as_nnunet_asks(folder)
    test = sorted(path.name for path in (folder / "imagesTs").iterdir())
    assert test == [f"B_{i:04d}.nii.gz" for i in range(4)]


def test_a_source_without_any_label_is_refused_for_nnunet(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE, label=False)
    with pytest.raises(files.DataError, match="no subject has a label"):
        convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet")


def test_a_bad_subject_leaves_nothing_that_nnunet_would_refuse(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    nifti.write_subject(tmp_path / "in", "B", SHAPE, 1)["seg"].write_bytes(b"")
    image = nifti.brain(SHAPE)[0]["t1"].astype(np.float32)
    image[0, 0, 0] = np.nan
    nifti.write_volume(nifti.write_subject(tmp_path / "in", "C", SHAPE, 2)["t1"], image)
    done, problems = convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet")
    assert done == ["A"] and [name for name, _ in problems] == ["B", "C"]
    assert "not a NIfTI file" in problems[0][1] and "NaN" in problems[1][1]
    _require_as_nnunet_asks(tmp_path / "out/Dataset001_in")


def test_a_number_that_another_data_set_has_is_refused(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    (tmp_path / "out/Dataset003_Heart").mkdir(parents=True)
    with pytest.raises(files.DataError, match="Dataset003_Heart: has number 3"):
        convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet", dataset_id=3)


@pytest.mark.parametrize("to", ["nnunet", "bids"])
def test_names_that_would_become_one_stay_two_and_are_read_as_they_were(to, tmp_path):
    names = ["Müller 1", "M ller-1", "M_ller-1", "ÄÖ"]
    for number, name in enumerate(names):
        nifti.write_subject(tmp_path / "in", name, SHAPE, number)
    before = _voxels(tmp_path / "in")
    for _ in range(2):  # and the second call finds what the first wrote
        convert.convert(tmp_path / "in", tmp_path / "out", to=to)
        written = sorted((tmp_path / "out").rglob("*.nii.gz"))
        assert len(written) == 5 * len(names)
    for path in written:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", path.name)
    _require_equal(before, _voxels(tmp_path / "out"))


def test_bids_has_its_names_and_its_tables(tmp_path):
    nifti.write_subject(tmp_path / "in", "BraTS-GLI-00012-001", SHAPE, 0, "brats2023")
    nifti.write_subject(tmp_path / "in", "BraTS-GLI-00012-002", SHAPE, 1, "brats2023")
    out = tmp_path / "out"
    convert.convert(tmp_path / "in", out, to="bids")
    start = "sub-BraTSGLI00012"
    found = {str(path.relative_to(out)) for path in out.rglob("*.nii.gz")}
    ends = ("T1w", "T2w", "ce-gadolinium_T1w", "FLAIR", "dseg")
    assert found == {
        f"{start}/ses-{s}/anat/{start}_ses-{s}_{end}.nii.gz"
        for s in ("001", "002")
        for end in ends
    }
    people = (out / "participants.tsv").read_text().splitlines()
    assert people == ["participant_id", start]
    with (out / "dseg.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(int(r["index"]), r["name"]) for r in rows] == [
        *enumerate(spec.BRATS.labels)
    ]
    said = json.loads((out / "dataset_description.json").read_text())
    assert said["BIDSVersion"] and said["Name"] and said["DatasetType"] == "derivative"


@pytest.mark.parametrize("to", FORMATS)
def test_a_data_set_of_this_project_is_still_read_as_it_is(to, tmp_path):
    nifti.write_subject(tmp_path / "in", "synth-00001", SHAPE)
    made = {"GeneratedBy": [{"Name": "brats_gan"}], "Prepared": True}
    (tmp_path / "in/dataset_description.json").write_text(json.dumps(made))
    convert.convert(tmp_path / "in", tmp_path / "out", to=to)
    (subject,) = io.find_subjects(tmp_path / "out")
    assert subject.prepared and subject.name == "synth-00001"


@pytest.mark.parametrize("to", FORMATS)
def test_other_modalities_and_labels_come_back(to, tmp_path):
    other = spec.Spec(("flair", "t1"), ("healthy", "plaque", "core"))
    images, label = nifti.brain(SHAPE)
    for modality in other.modalities:
        path = tmp_path / f"in/A/A_{modality}.nii.gz"
        nifti.write_volume(path, images[modality])
    nifti.write_volume(tmp_path / "in/A/A_seg.nii.gz", np.minimum(label, 2))
    before = _voxels(tmp_path / "in", other)
    convert.convert(tmp_path / "in", tmp_path / "out", spec=other, to=to)
    _require_equal(before, _voxels(tmp_path / "out", other))


@pytest.mark.parametrize(
    ("to", "modalities", "labels", "message"),
    [
        ("bids", ("t1", "dwi"), ("none", "lesion"), "no name for images of dwi"),
        ("bids", ("t1", "T1w"), ("none", "lesion"), "no name for images of t1 "),
        ("nnunet", ("t1", "t2"), ("none", "ignore"), "label ignore"),
        ("nnunet", ("t1", "t2"), ("none", "7"), "label 7"),
        ("nnunet", ("t1", "t2"), ("none", "Background"), "label Background"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(
    to, modalities, labels, message, tmp_path
):
    for modality in (*modalities, "seg"):
        volume = np.ones((4, 4, 3), np.uint8)
        nifti.write_volume(tmp_path / f"in/A/A_{modality}.nii.gz", volume)
    other = spec.Spec(modalities, labels)
    with pytest.raises(files.DataError, match=message):
        convert.convert(tmp_path / "in", tmp_path / "out", spec=other, to=to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", FORMATS)
def test_two_sources_in_one_folder_are_both_read_as_they_were(to, tmp_path):
    for number, name in enumerate(["Müller 1", "M ller-2"]):
        source = tmp_path / str(number) / "in"
        nifti.write_subject(source, name, SHAPE, number)
    sources = [tmp_path / "0/in", tmp_path / "1/in"]
    for source in (*sources, sources[0]):  # and going on with the first is no harm
        convert.convert(source, tmp_path / "out", to=to)
    before = _voxels(sources[0]) | _voxels(sources[1])
    _require_equal(before, _voxels(tmp_path / "out"))


def test_participants_are_those_of_all_sources(tmp_path):
    for number, name in enumerate("AB"):
        nifti.write_subject(tmp_path / name, name, SHAPE, number)
        convert.convert(tmp_path / name, tmp_path / "out", to="bids")
    people = (tmp_path / "out/participants.tsv").read_text().split()
    assert people == ["participant_id", "sub-A", "sub-B"]


def test_a_source_with_other_labels_does_not_renumber_those_that_are_there(tmp_path):
    # 1, 2, 3, 4 of 2018 are 4 labels; those of 2023 are 3, and enhancing is their 3.
    nifti.write_subject(tmp_path / "0/in", "A", SHAPE)
    nifti.write_subject(tmp_path / "1/in", "B", SHAPE, 1, "brats2023")
    convert.convert(tmp_path / "0/in", tmp_path / "out", to="nnunet")
    before = _voxels(tmp_path / "out")
    with pytest.raises(files.DataError, match=r"A_0000.*dataset.json.*\(labels\)"):
        convert.convert(tmp_path / "1/in", tmp_path / "out", to="nnunet")
    _require_equal(before, _voxels(tmp_path / "out"))


@pytest.mark.parametrize("to", ["brats", "bids"])
def test_what_convert_did_not_write_is_not_described_by_it(to, tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    nifti.write_subject(tmp_path / "out", "B", SHAPE, 1)
    with pytest.raises(files.DataError, match="B_.*is no file of in"):
        convert.convert(tmp_path / "in", tmp_path / "out", to=to)
    made = {"GeneratedBy": [{"Name": "brats_gan"}], "Prepared": True}
    labels = dict(enumerate(spec.BRATS.labels))
    path = tmp_path / "out/dataset_description.json"
    path.write_text(json.dumps({**made, "Labels": labels}))
    with pytest.raises(files.DataError, match=r"\(Prepared\)"):
        convert.convert(tmp_path / "in", tmp_path / "out", to=to)


def test_a_subject_that_is_there_by_another_name_is_not_written_twice(tmp_path):
    nifti.write_subject(tmp_path / "in", "A b", SHAPE)
    convert.convert(tmp_path / "in", tmp_path / "out", to="bids")
    nifti.write_subject(tmp_path / "in", "A.b", SHAPE, 1)
    with pytest.raises(files.DataError, match=r"A b is there as sub-Ab, and would"):
        convert.convert(tmp_path / "in", tmp_path / "out", to="bids")


def test_an_interrupted_conversion_says_already_what_its_labels_are(
    tmp_path, monkeypatch
):
    for number, name in enumerate("AB"):
        nifti.write_subject(tmp_path / "in", name, SHAPE, number, "brats2023")
    before = _voxels(tmp_path / "in")

    def killed(done, subjects):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert.convert(tmp_path / "in", tmp_path / "out", to="nnunet", progress=killed)
    _require_equal({"A": before["A"]}, _voxels(tmp_path / "out"))


@pytest.mark.skipif(not files.HAS_LOCKS, reason="this system has no locks")
def test_a_second_conversion_to_a_folder_waits_for_the_first(tmp_path):
    nifti.write_subject(tmp_path / "in", "A", SHAPE)
    second = threading.Thread(
        target=convert.convert, args=(tmp_path / "in", tmp_path / "out"), daemon=True
    )
    with files.alone_in(tmp_path / "out"):
        second.start()
        second.join(0.5)  # if it does not wait, this is when it writes
        assert second.is_alive() and not list((tmp_path / "out").iterdir())
    second.join()
    assert len(io.find_subjects(tmp_path / "out")) == 1
