"""Whose visit a subject is, by its name; nothing is joined that only looks alike."""

import signal

import pytest

from brats_gan import files, io
from brats_gan.io import patients
from tests import nifti
from tests.test_io_collections import SHAPE, write

# Visits of one patient, as the collections name them.
VISITS = {
    "BraTS-GLI-00008": ["BraTS-GLI-00008-000", "BraTS-GLI-00008-001"],
    "BraTS-MET-00121": ["BraTS-MET-00121-000", "BraTS-MET-00121-002"],
    "BraTS-PED-00002": ["BraTS-PED-00002-000", "BraTS-PED-00002-001"],
    "BraTS-SSA-00002": ["BraTS-SSA-00002-000", "BraTS-SSA-00002-001"],
    "BraTS-MEN-RT-0002": ["BraTS-MEN-RT-0002-1", "BraTS-MEN-RT-0002-2"],
    "brats_tcia_pat153": ["brats_tcia_pat153_0002", "LGG_brats_tcia_pat153_0109"],
    "BraTSReg_001": ["BraTSReg_001_00_0000", "BraTSReg_001_01_0106"],
    "UPENN-GBM-00012": ["UPENN-GBM-00012_11", "UPENN-GBM-00012_21"],
    "UCSF-PDGM-0409": ["UCSF-PDGM-0409", "UCSF-PDGM-0409_FU001d", "UCSF-PDGM-0181"],
    "RHUH-0001": ["RHUH-0001_0", "RHUH-0001_2"],
    "TCGA-02-0006": ["TCGA-02-0006_1996.08.23", "TCGA-02-0006_1997.01.02"],
    "PatientID_0003": [
        "PatientID_0003_Timepoint_1_brain",
        "PatientID_0003_Timepoint_5",
    ],
    "Patient-001": ["Patient-001_week-000-1", "Patient-001_week-044"],
    "100118": ["100118_time1", "100118_time2"],
    "sub-01": ["sub-01_ses-01", "sub-01_ses-followup"],
    "sub-BraTSGLI00008": ["sub-BraTSGLI00008000", "sub-BraTSGLI00008001"],
    "P7": ["P7_baseline", "P7-follow-up2"],
}
# No two of one patient.
APART = [
    *("sub_1", "sub_2", "sub-1", "sub-2", "sub-1-1", "sub-1-2", "sub-a_1", "sub-a_2"),
    *("patient_001", "patient_002", "Patient-001", "phantom-001", "phantom-002"),
    *("phantom_001", "phantom_002", "BRATS_001", "BRATS_002", "case_1_1", "case_1_2"),
    *("synth-00001", "synth-00002", "BraTS2021_00000", "BraTS2021_00001"),
    *("BraTS20_Training_001", "BraTS20_Training_002", "Brats18_train_1"),
    *("Brats18_train_2", "Brats18_2013_2_1", "Brats18_2013_20_1"),
    *("Brats17_TCIA_105_1", "Brats17_TCIA_10_1", "BraTS19_CBICA_AAB_1"),
    *("BraTS19_CBICA_AAC_1", "HGG_brats_2013_pat0001_1", "LGG_brats_2013_pat0001_1"),
    *("BraTS-GoAT-00001", "BraTS-GoAT-00002", "BraTS-GLI-00001-000"),
    *("BraTS-MET-00001-000", "UCSF-PDGM-0004", "UCSF-PDGM-0005", "MR_session_1"),
    *("MR_session_2", "week-000", "week-001", "1", "2", "A", "B", "s0", "s1"),
]


@pytest.mark.parametrize("patient", VISITS)
def test_visits_of_known_collections_are_of_one_patient(patient):
    assert {patients.patient_of(name) for name in VISITS[patient]} == {patient}


def test_names_that_only_look_like_visits_are_of_patients_of_their_own():
    assert len(patients.by_patient(APART)) == len({*APART}) == len(APART)


def test_phantoms_and_samples_are_patients_by_their_whole_names():
    for name in ("phantom-001", "phantom_12", "synth-00001", "BRATS_001"):
        assert patients.patient_of(name) == name


def test_a_pattern_finds_the_patient_and_leaves_other_names_to_what_is_known():
    pattern = r"^(P\d+)_"
    names = ["P1_a", "P1_b", "P2_a", "x", "RHUH-0001_0", "RHUH-0001_1"]
    assert patients.by_patient(names, pattern) == {
        "P1": ["P1_a", "P1_b"],
        "P2": ["P2_a"],
        "x": ["x"],
        "RHUH-0001": ["RHUH-0001_0", "RHUH-0001_1"],
    }
    each = patients.by_patient(names, patients.ONE_EACH)
    assert [*each] == names


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(P", "is no regular expression"),
        ("P.*", "has 0 groups, and one is due"),
        ("(P)(.*)", "has 2 groups"),
        ("(Q.*)", "fits none of 2 subjects, such as P1"),
        ("(Q)?", "fits none of 2 subjects"),
    ],
)
def test_a_pattern_that_can_find_no_patient_is_refused(pattern, message, tmp_path):
    for name in ("P1", "P2"):
        nifti.write_subject(tmp_path, name, SHAPE)
    with pytest.raises(files.DataError) as caught:
        io.find_subjects(tmp_path, patient_pattern=pattern)
    assert f"--patient_pattern={pattern}: {message}" in str(caught.value)


def test_who_is_shared_is_told_by_name_and_by_any_pattern():
    ones, others = ["a_1", "RHUH-0001_0", "same", "alone"], ["RHUH-0001_1", "same"]
    found = [("RHUH-0001_0", "RHUH-0001_1"), ("same", "same")]
    assert patients.shared(ones, others) == found
    assert patients.shared(ones, [*others, "a_2"]) == found
    told = patients.shared(ones, [*others, "a_2"], r"^(b)_", r"^(a)_")
    assert told == [("a_1", "a_2"), *found]
    shown = "RHUH-0001_0 (of the patient of RHUH-0001_1), same"
    assert patients.described(found) == shown


LAID_OUT = {
    "PatientID_0003/Timepoint_{v}/PatientID_0003_Timepoint_{v}_{r}.nii.gz": (
        "PatientID_0003_Timepoint_{v}"
    ),
    "RHUH-0001/{v}/{r}.nii.gz": "RHUH-0001_{v}",
    "Patient-001/week-04{v}/{r}.nii.gz": "Patient-001_week-04{v}",
    "P1/visit{v}/{r}.nii.gz": "P1_visit{v}",
    "100118/100118_time{v}_{r}.nii.gz": "100118_time{v}",
    "P1/sub_{v}/{r}.nii.gz": "sub_{v}",  # no visit: the name stays as it is
}


@pytest.mark.parametrize("pattern", LAID_OUT)
def test_folders_named_by_the_visit_alone_are_of_the_patient_above(pattern, tmp_path):
    """Though no other patient has a visit of that name."""
    for visit in "12":
        write(tmp_path, lambda role, v=visit: pattern.format(v=v, r=role))
    found = io.find_subjects(tmp_path)
    expected = LAID_OUT[pattern]
    assert [s.name for s in found] == [expected.format(v=visit) for visit in "12"]
    assert len({s.patient for s in found}) == (2 if "sub_" in pattern else 1)


def test_the_name_of_the_folder_that_is_read_is_no_part_of_a_name(tmp_path):
    for visit in "12":
        write(tmp_path / "P1", f"visit{visit}/{{r}}.nii.gz")
    assert [s.name for s in io.find_subjects(tmp_path / "P1")] == ["visit1", "visit2"]


@pytest.mark.parametrize("pattern", ["((?:a+)+)b", "((?:a|a)*)b", "(a*a*a*a*a*a*)b"])
def test_a_pattern_that_takes_for_ever_is_refused(pattern, monkeypatch):
    monkeypatch.setattr(patients, "_MOST_SECONDS", 0.2)
    before = signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(files.DataError, match=r"takes for ever on 'aaaa.*\. Repeat"):
        patients.patient_of("a" * 200, pattern)
    assert patients.patient_of("aab", pattern) == "aa"
    assert signal.getsignal(signal.SIGVTALRM) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        "BraTS-GLI-00008-001",
        "brats_tcia_pat153_0109",
        "Brats18_TCIA01_147_1",
        "BraTSReg_001_01_0106",
        "UPENN-GBM-00012_21",
        "UCSF-PDGM-0409_FU001d",
        "UCSF-PDGM-0181",
        "TCGA-02-0006_1996.08.23",
        "sub-BraTSGLI00008001",
    ],
)
def test_an_identifier_in_other_case_is_of_the_same_patient(name):
    of = patients.patient_of(name)
    assert patients.patient_of(name.upper()) == patients.patient_of(name.lower()) == of
    assert patients.shared([name.lower()], [name]) == [(name.lower(), name)]


def test_a_number_that_any_collection_may_have_keeps_its_case():
    assert patients.patient_of("p1_time2") == "p1" != patients.patient_of("P1_time2")
