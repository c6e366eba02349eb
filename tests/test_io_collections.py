"""Subjects found in collections that lay or name their files in other ways."""

import json
import re

import numpy as np
import pytest

from brats_gan import files, io, spec
from brats_gan.io import bids, collections, names
from tests import nifti

SHAPE = (32, 28, 8)  # H, W, S: no two alike
SLICES = (2, 7)


def write(folder, pattern, subject="A", seed=0, layout="brats2018"):
    """Writes a subject, and moves its files to where a pattern or function says.

    `pattern` is of "{s}", the subject, and "{r}", the role, below the folder. Returns
    role -> file.
    """
    written = nifti.write_subject(folder / "made", subject, SHAPE, seed, layout)
    moved = {}
    for role, path in written.items():
        shown = (
            pattern(role) if callable(pattern) else pattern.format(s=subject, r=role)
        )
        moved[role] = folder / shown.format(s=subject)
        moved[role].parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved[role])
    for empty in (folder / "made" / subject, folder / "made"):
        empty.rmdir()
    return moved


def found(data_dir, **named):
    """{subject name: {role: file}} of what is found; a problem fails the test."""
    return {
        subject.name: {
            **{m: path for m, (path, _) in subject.images.items()},
            "seg": subject.label,
        }
        for subject in io.find_subjects(data_dir, **named)
    }


def by_role(**names_of):
    return lambda role: names_of.get(role, "{s}/{s}_" + role + ".nii.gz")


LAID_OUT = {
    "bare": "{s}/{r}.nii.gz",
    "a folder a modality": "{r}/{s}.nii.gz",
    "a folder a modality, named so too": "{r}/{s}_{r}.nii.gz",
    "a folder a modality in that of the subject": "{s}/{r}/scan.nii.gz",
    "one folder for all": "{s}_{r}.nii.gz",
    "a folder named as a file": "{s}/{s}_{r}.nii/{s}_{r}.nii.gz",
    "a folder named as a file, with a name that says nothing": (
        "{s}/{s}_{r}.nii.gz/00000057_final.nii.gz"
    ),
    "labels elsewhere": by_role(seg="labels/{s}_seg.nii.gz"),
    "labels elsewhere, named as the subject": by_role(seg="labelsTr/{s}.nii.gz"),
    "labels elsewhere, in a folder each": by_role(seg="masks/{s}/seg.nii.gz"),
    "UPENN-GBM": lambda role: (
        "images_segm/{s}_segm.nii.gz"
        if role == "seg"
        else "images_structural/{s}/{s}_"
        + {"t1": "T1", "t2": "T2", "t1ce": "T1GD", "flair": "FLAIR"}[role]
        + ".nii.gz"
    ),
    "UCSF-PDGM": by_role(
        t1="{s}/{s}_T1_bias.nii.gz",
        t1ce="{s}/{s}_T1c.nii.gz",
        seg="{s}/{s}_tumor_segmentation.nii.gz",
    ),
    "TCGA": by_role(
        t1ce="{s}/{s}_t1Gd.nii.gz",
        seg="{s}/{s}_GlistrBoost_ManuallyCorrected.nii.gz",
    ),
    "six folders deep": "a/b/c/d/e/{s}/{s}_{r}.nii.gz",
}


@pytest.mark.parametrize("kind", LAID_OUT)
def test_files_are_found_wherever_a_collection_has_them(kind, tmp_path):
    expected = {
        s: write(tmp_path, LAID_OUT[kind], s, number)
        for number, s in enumerate(("P1", "P2"))
    }
    assert found(tmp_path) == expected


@pytest.mark.parametrize("challenge", ["MET", "SSA", "MEN", "GoAT"])
def test_challenges_since_2023_are_numbered_as_2023(challenge, tmp_path):
    name = f"BraTS-{challenge}-00001-000"
    nifti.write_subject(tmp_path, name, SHAPE, layout="brats2023")
    (subject,) = io.find_subjects(tmp_path)
    assert (subject.name, subject.layout) == (name, "brats2023")
    assert io.label_map(subject)[3] == spec.BRATS.labels.index("enhancing")


def test_the_corrected_label_is_preferred_to_the_automatic_one(tmp_path):
    moved = write(tmp_path, by_role(seg="{s}/{s}_GlistrBoost.nii.gz"), "P1")
    assert found(tmp_path)["P1"]["seg"] == moved["seg"]
    better = moved["seg"].with_name("P1_GlistrBoost_ManuallyCorrected.nii.gz")
    better.write_bytes(moved["seg"].read_bytes())
    assert found(tmp_path)["P1"]["seg"] == better


@pytest.mark.parametrize("other", ["brain_segmentation", "brain_seg", "wm_seg"])
def test_a_segmentation_of_anatomy_is_no_label(other, tmp_path):
    write(tmp_path, by_role(seg="{s}/{s}_" + other + ".nii.gz"), "P1")
    result = io.explore(tmp_path)
    assert result.subjects[0].label is None
    (note,) = [message for _, message in result.notes]
    assert re.search(f"no label file among P1_{other}.nii.gz; .* ends in _seg", note)


def test_the_corrected_and_the_raw_image_are_not_two_of_one(tmp_path):
    moved = write(tmp_path, "{s}/{s}_{r}.nii.gz", "P1")
    bias = moved["t1"].with_name("P1_T1_bias.nii.gz")
    bias.write_bytes(moved["t1"].read_bytes())
    assert found(tmp_path)["P1"]["t1"] == moved["t1"]


def test_a_lone_image_beside_whole_subjects_is_none(tmp_path):
    moved = write(tmp_path, "{s}/{s}_{r}.nii.gz", "P1")
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas/t1.nii.gz").write_bytes(moved["t1"].read_bytes())
    assert list(found(tmp_path)) == ["P1"]


def test_names_of_another_specification_are_those_of_its_modalities(tmp_path):
    other = spec.Spec(("t2", "adc"), ("background", "infarct"))
    for role in ("t2w", "ADC", "seg"):
        path = tmp_path / role / "P1.nii.gz"
        nifti.write_volume(path, nifti.brain(SHAPE)[0]["t1"])
    ((_, roles),) = found(tmp_path, spec=other).items()
    assert {role: path.parent.name for role, path in roles.items()} == {
        "t2": "t2w",
        "adc": "ADC",
        "seg": "seg",
    }


def test_names_that_are_not_known_are_one_problem_that_shows_them(tmp_path):
    for subject in ("P1", "P2", "P3"):
        write(tmp_path, by_role(t1ce="{s}/{s}_contrast.nii.gz"), subject)
    subjects, ((name, message),) = io.survey(tmp_path)
    assert (subjects, name) == ([], "")
    assert "no t1ce image, as in all of 3 subjects" in message
    assert "P1_contrast.nii.gz" in message and "*_t1ce.nii.gz" in message


def test_nothing_that_is_known_is_one_message_of_what_is_there_and_due(tmp_path):
    write(tmp_path, "{s}/scan-{r}-final.nii.gz", "P1")
    with pytest.raises(files.DataError) as caught:
        io.find_subjects(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and "Of 5 files seen" in message
    assert "scan-flair-final.nii.gz" in message and "ID_t1ce.nii.gz" in message


def test_labels_of_no_subject_are_one_problem(tmp_path):
    write(tmp_path, by_role(seg="labels/other_seg.nii.gz"), "P1")
    _, ((_, message),) = io.survey(tmp_path)
    assert "1 label file without images" in message and "other_seg" in message


def test_folders_beyond_the_depth_that_is_read_are_named(tmp_path):
    below = "/".join("abcdefg"[: collections.DEPTH])
    write(tmp_path, below + "/{s}/{s}_{r}.nii.gz", "P1")
    with pytest.raises(files.DataError, match=f"more than 6 deep.*{below}/P1"):
        io.find_subjects(tmp_path)
    write(tmp_path, "{s}/{s}_{r}.nii.gz", "P2")
    ((_, note),) = io.explore(tmp_path).notes
    assert "more than 6 deep are not looked into" in note


def test_folders_of_subjects_without_images_are_counted(tmp_path):
    write(tmp_path, "{s}/{s}_{r}.nii.gz", "P1")
    for name in ("P2", "P3/below", "tables"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tables/ages.csv").write_text("id,age\n")
    (tmp_path / "P3/below/P3_t1.nii.gz.part").write_text("half")
    ((_, note),) = io.explore(tmp_path).notes
    assert note.startswith("2 folders beside the subjects hold no image, such as P2")


@pytest.mark.parametrize("session", ["", "ses-02"])
def test_bids_is_read_by_entities_and_suffix(session, tmp_path):
    middle = f"_{session}" if session else ""
    ends = {
        "t1": "acq-mprage_T1w",
        "t1ce": "ce-gd_T1w",
        "t2": "T2w",
        "flair": "run-1_FLAIR",
        "seg": "dseg",
    }
    moved = write(
        tmp_path,
        lambda role: f"sub-{{s}}/{session}/anat/sub-{{s}}{middle}_{ends[role]}.nii.gz",
        "P1",
    )
    assert found(tmp_path) == {f"sub-P1{middle}": moved}
    assert io.find_subjects(tmp_path)[0].layout == "bids"


def test_a_label_of_bids_may_be_among_the_derivatives(tmp_path):
    moved = write(
        tmp_path,
        lambda role: (
            "derivatives/manual/sub-{s}/anat/sub-{s}_dseg.nii.gz"
            if role == "seg"
            else "sub-{s}/anat/sub-{s}_" + nifti._FILES_BIDS[role] + ".nii.gz"
        ),
        "P1",
    )
    assert found(tmp_path)["sub-P1"]["seg"] == moved["seg"]


def test_the_table_of_bids_says_what_labels_are(tmp_path):
    nifti.write_subject(tmp_path, "P1", SHAPE, layout="bids")
    (tmp_path / "dseg.tsv").write_text(
        "index\tname\n1\tenhancing tumor\n2\tnecrosis\n4\tperitumoral edema\n"
    )
    (subject,) = io.find_subjects(tmp_path)
    assert io.label_map(subject) == {0: 0, 1: 4, 2: 1, 4: 2}


def test_what_3_is_in_bids_without_a_table_is_asked(tmp_path):
    path = nifti.write_subject(tmp_path, "P1", SHAPE, layout="bids")["seg"]
    nifti.write_volume(path, np.where(nifti.brain(SHAPE)[1] > 0, 3, 0).astype("u1"))
    (subject,) = io.find_subjects(tmp_path)
    with pytest.raises(files.DataError, match="unknown label 3; .*--labels=brats2023"):
        io.read_subject(subject, SLICES)


def test_files_of_brats_that_begin_with_sub_are_no_bids(tmp_path):
    write(tmp_path, "{s}/{s}_{r}.nii.gz", "sub-01")
    assert io.find_subjects(tmp_path)[0].layout == "brats2018"


def test_channels_of_nnunet_are_found_by_number_and_name(tmp_path):
    files_of = nifti.write_subject(tmp_path, "CASE_7", SHAPE, layout="nnunet")
    assert found(tmp_path) == {"CASE_7": files_of}
    assert files_of["t1ce"].name == "CASE_7_0001.nii.gz"  # third in our order


def test_regions_of_nnunet_are_resolved_to_labels(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE, layout="nnunet")
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["labels"] = {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "tumor core": [2, 3],
        "enhancing tumor": [3],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (subject,) = io.find_subjects(tmp_path)
    assert io.label_map(subject) == {0: 0, 1: 2, 2: 1, 3: 4}


def test_a_channel_that_is_missing_is_one_problem_of_its_subject(tmp_path):
    for name in ("A", "B"):
        files_of = nifti.write_subject(tmp_path, name, SHAPE, layout="nnunet")
    files_of["flair"].unlink()
    subjects, ((name, message),) = io.survey(tmp_path)
    assert ([s.name for s in subjects], name) == (["A"], "B")
    assert "0 files B_0002 for flair" in message


def test_channels_without_dataset_json_are_one_message(tmp_path):
    nifti.write_subject(tmp_path, "A", SHAPE, layout="nnunet")
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(files.DataError, match='nnU-Net.*"channel_names"'):
        io.find_subjects(tmp_path)


def test_the_decathlon_may_number_its_subjects_by_four_digits(tmp_path):
    nifti.write_subject(tmp_path, "BRATS_0001", SHAPE, layout="msd")
    (subject,) = io.find_subjects(tmp_path)
    assert (subject.name, subject.layout) == ("BRATS_0001", "msd")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("BraTS20_001_t1ce", ("BraTS20_001", "_", "t1ce", names.NAMED)),
        ("BraTS-GLI-00001-100-t2f", ("BraTS-GLI-00001-100", "-", "flair", 0)),
        ("P0_t2_flair", ("P0", "_", "flair", names.NAMED)),
        ("FLA", ("", "", "flair", names.BARE)),
        ("P0_T1c_bias", ("P0", "_", "t1ce", names.SECOND)),
        ("P0_structure", None),
        ("_t1", None),
    ],
)
def test_a_name_says_what_a_file_is(stem, expected):
    named = names.role_of(stem, spec.BRATS)
    assert (named and tuple(named)) == expected


@pytest.mark.parametrize(
    ("stem", "role"),
    [
        ("sub-1_T1w", "t1"),
        ("sub-1_ses-2_ce-gadolinium_T1w", "t1ce"),
        ("sub-1_label-lesion_mask", "seg"),
        ("sub-1_desc-brain_mask", None),
        ("sub-1_atlas-AAL_dseg", None),
        ("sub-1_bold", None),
    ],
)
def test_a_name_of_bids_says_what_a_file_is(stem, role):
    named = bids.role_of(stem, spec.BRATS)
    assert (named and named.role) == role
