"""What names, tables and flags mean, at random: labels, channels and patients.

Each is refused by a DataError, or means what it says in plain words.
"""

import faulthandler
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brats_gan import data, files, io
from brats_gan.io import conventions, labels, patients
from brats_gan.spec import BRATS
from tests.fuzzing import JSON, STUCK, damage

# In plain words: name of a label -> index in BRATS.labels.
_MEANING = {
    "background": 0,
    "necrosis": 1,
    "Necrotic and non-enhancing tumor core": 1,
    "edema": 2,
    "peritumoral oedema": 2,
    "non-enhancing tumor": 3,
    "NON ENHANCING": 3,
    "non  enhancing": 3,
    "nonenhancing": 3,
    "enhancing tumor": 4,
    "GD-enhancing": 4,
    "Enhancing tumor core": 4,
}
_ROW = st.tuples(st.integers(0, 5), st.sampled_from(sorted(_MEANING)))


@pytest.fixture(autouse=True)
def hangs_are_shown():
    yield
    faulthandler.cancel_dump_traceback_later()


def _subject(layout, label):
    return io.Subject("A", layout, {}, label)


def _require_as_said(subject, rows):
    """Refused, or every row means what it says; two that differ must be refused."""
    try:
        mapping = io.label_map(subject)
    except files.DataError as error:
        assert str(subject.label.parent.parent) in str(error)
        return
    said = {}
    for value, name in rows:
        said.setdefault(value, set()).add(_MEANING[name])
    assert all(len(each) == 1 for each in said.values()), (rows, mapping)
    expected = {0: 0} | {value: each.pop() for value, each in said.items()}
    assert mapping == expected and mapping[0] == 0


@given(rows=st.lists(_ROW, min_size=1, max_size=5), by_number=st.lists(st.booleans()))
def test_labels_in_a_dataset_json_are_refused_or_as_named(
    tmp_path_factory, rows, by_number
):
    root = tmp_path_factory.mktemp("labels")
    pairs, kept = [], []
    for place, (value, name) in enumerate(rows):
        turned = place < len(by_number) and by_number[place]
        pairs.append((str(value), name) if turned else (name, value))
        kept.append((value, name))
    # Not by json.dumps: a key may be there twice.
    text = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
    (root / "dataset.json").write_text(f'{{"labels": {{{text}}}}}')
    _require_as_said(_subject("nnunet", root / "labelsTr/A.nii.gz"), kept)


# In plain words: name of a region -> index in BRATS.labels of what is in it alone.
_REGION = {
    "whole tumor": 2,
    "tumor core": 1,
    "enhancing tumor": 4,
    "enhancing tumor core": 4,
    "non-enhancing": 3,
}


@given(
    regions=st.dictionaries(
        st.sampled_from(sorted(_REGION)),
        st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True),
        min_size=1,
    )
)
def test_regions_in_a_dataset_json_are_refused_or_the_smallest_of_each_label(
    tmp_path_factory, regions
):
    root = tmp_path_factory.mktemp("regions")
    (root / "dataset.json").write_text(json.dumps({"labels": regions}))
    try:
        mapping = io.label_map(_subject("nnunet", root / "labelsTr/A.nii.gz"))
    except files.DataError as error:
        assert str(root) in str(error)
        return
    for value in {value for members in regions.values() for value in members}:
        holding = [name for name in regions if value in regions[name]]
        fewest = min(len(regions[name]) for name in holding)
        if value == 0:
            assert all(regions[name] == [0] for name in holding) and mapping[0] == 0
            continue
        said = {_REGION[name] for name in holding if len(regions[name]) == fewest}
        assert said == {mapping[value]}, (regions, mapping)


_NAMES = {"T1": "t1", "t1gd": "t1ce", "T1ce": "t1ce", "T2w": "t2", "Flair": "flair"}


@given(
    listed=st.lists(st.sampled_from((*_NAMES, "ADC", " t1 ")), min_size=3, max_size=6),
    numbers=st.permutations(range(6)),
    key=st.sampled_from(("channel_names", "modality")),
)
def test_channels_in_a_dataset_json_are_refused_or_as_named(
    tmp_path_factory, listed, numbers, key
):
    root = tmp_path_factory.mktemp("channels")
    pairs = [*zip(numbers, listed, strict=False)]
    (root / "dataset.json").write_text(json.dumps({key: {str(n): c for n, c in pairs}}))
    (root / "imagesTr").mkdir()
    for number in range(6):
        (root / f"imagesTr/A_{number:04d}.nii").touch()
    meant = {}
    for number, name in pairs:
        role = _NAMES.get(name.strip(), _NAMES.get(name.strip().upper()))
        meant.setdefault(role, []).append(f"A_{number:04d}.nii")
    right = all(len(meant.get(role, [])) == 1 for role in BRATS.modalities)
    try:
        (subject,) = io.find_subjects(root)
    except files.DataError as error:
        assert str(root) in str(error) and not right
        return
    assert right
    for role, (path, _) in subject.images.items():
        assert [path.name] == meant[role]


_ODD_ROW = st.one_of(
    st.just(""), st.text(max_size=6), st.just('3\t"edema'), st.just("1\tedema\t\t9")
)


@given(
    rows=st.lists(_ROW, min_size=1, max_size=5),
    quoted=st.sampled_from(("", "", '"', "opened")),
    more=st.lists(_ODD_ROW, max_size=1),
    long=st.sampled_from((0, 0, 0, 200_000)),
    mark=st.booleans(),
    spoil=st.one_of(st.none(), st.none(), damage()),
)
def test_a_dseg_tsv_is_refused_or_as_named(
    tmp_path_factory, rows, quoted, more, long, mark, spoil
):
    root = tmp_path_factory.mktemp("table")
    (root / "anat").mkdir()
    before, after = ('"', "") if quoted == "opened" else (quoted, quoted)
    lines = [f"{value}\t{before}{name}{after}" for value, name in rows]
    if quoted == "opened":
        lines[-1] += '"'
    text = "\n".join(["index\tname", *lines, *more, "x" * long]) + "\n"
    content = (b"\xef\xbb\xbf" if mark else b"") + text.encode()
    (root / "dseg.tsv").write_bytes(spoil(content) if spoil else content)
    subject = _subject("bids", root / "anat/sub-1_dseg.nii.gz")
    if spoil or more or long:
        try:
            mapping = io.label_map(subject)
        except files.DataError as error:
            assert str(root / "dseg.tsv") in str(error)
        else:
            assert mapping[0] == 0 and {*mapping.values()} <= {0, 1, 2, 3, 4}
    else:
        _require_as_said(subject, rows)


# --- Flags of labels ------------------------------------------------------------------

_LISTED = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.lists(st.integers(0, 300).map(str), max_size=3).map(",".join),
    st.text("0123456789:, ,-", max_size=12),
)
_PAIRS = st.one_of(
    _LISTED,
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 5)).map("{0[0]}:{0[1]}".format),
        max_size=3,
    ).map(",".join),
)


@given(
    convention=st.one_of(
        st.none(), st.sampled_from(sorted(io.CONVENTIONS)), st.text(max_size=4)
    ),
    merge=_PAIRS,
    drop=_LISTED,
    stored=st.lists(st.integers(0, 6) | st.just(255), min_size=1, max_size=6),
    slope=st.sampled_from((1.0, 1.0, 4 / 255, 0.5, 1e-5, -4 / 255)),
    dtype=st.sampled_from(("uint8", "int16", "float32", "float64")),
)
def test_labels_are_refused_or_read_as_the_flags_say(
    convention, merge, drop, stored, slope, dtype
):
    if slope == 1:
        values = np.array(stored).astype(dtype)
    else:  # what a file with that slope would hold
        values = (np.rint(np.array(stored) / slope) * slope).astype(np.float32)
    try:
        wanted = io.labelling(convention, merge, drop)
        subject = io.Subject("A", "brats2018", {}, None, labelling=wanted)
        mapping = io.label_map(subject)
        ours = io.to_ours(values, mapping, "A", slope, labels.remedies(subject))
    except files.DataError as error:
        assert str(error)
        return
    plain = conventions.values(convention or "brats2018")
    merged = dict(pair.split(":") for pair in (merge or "").split(",") if pair.strip())
    merged = {int(one): int(other) for one, other in merged.items()}
    dropped = {int(each) for each in (drop or "").split(",") if each.strip()}
    for value, read in zip(stored, ours, strict=True):
        value = merged.get(value, value)
        assert read == (0 if value in dropped else plain[value])


# --- Patients -------------------------------------------------------------------------

_NAME_PIECES = st.sampled_from(
    "BraTS-GLI- 00008 -001 brats_tcia_pat 153 _0109 UPENN-GBM-00012 _21 sub- ses- _ - "
    "a brats-a- TCGA-02-0006 UCSF-PDGM-0138 UCSF-PDGM-0429 visit week _time 1 ٣ ſ K é "
    "baseline follow-up RHUH-0001 BraTS18_ a-a-a-a-a-a-a-a- 0000000000".split()
)
_PATIENT_NAMES = st.one_of(
    st.lists(_NAME_PIECES, min_size=1, max_size=6).map("".join),
    st.tuples(_NAME_PIECES, st.integers(1, 40)).map(lambda drawn: drawn[0] * drawn[1]),
    st.text(min_size=1, max_size=20),
).map(lambda name: name[:255])
_PATTERNS = st.one_of(
    st.none(),
    st.lists(
        st.sampled_from(
            r"( ) (?: [ ] * + ? {2,} ^ $ | \d \w . a 0 _ - (.+) (\d+) \1 (?P<a> (?i) "
            r"(?=".split()
        ),
        min_size=1,
        max_size=8,
    ).map("".join),
    st.text(max_size=6),
    st.sampled_from((r"^(\D+\d+)", "((?:a+)+)0$", "(x{99999999999})", "(" * 300)),
)


@given(
    names=st.lists(_PATIENT_NAMES, min_size=1, max_size=6, unique=True),
    pattern=_PATTERNS,
    order=st.randoms(use_true_random=False),
)
def test_patients_are_told_alike_in_any_order_or_the_pattern_is_refused(
    names, pattern, order
):
    faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
        patients.require_fitting(pattern, names)
        found = patients.by_patient(names, pattern)
    except files.DataError as error:
        assert "--patient_pattern" in str(error)
        return
    turned = [*names]
    order.shuffle(turned)
    again = patients.by_patient(turned, pattern)
    assert {p: sorted(own) for p, own in again.items()} == {
        p: sorted(own) for p, own in found.items()
    }
    assert sorted(sum(found.values(), [])) == sorted(names) and all(found)
    for name in names:
        (pair,) = patients.shared([name], names, pattern)
        assert pair == (name, name)
    half = len(names) // 2
    apart = patients.shared(names[:half], names[half:], pattern)
    there = {patients.patient_of(name, pattern) for name in names[half:]}
    assert {one for one, _ in apart} == {
        name for name in names[:half] if patients.patient_of(name, pattern) in there
    }


@given(
    train=st.lists(_PATIENT_NAMES, max_size=4),
    test=st.lists(_PATIENT_NAMES, max_size=4),
    pattern=st.one_of(_PATTERNS, JSON, st.just(["x](a)["])),
)
def test_a_split_by_any_pattern_is_refused_or_has_patients_on_one_side(
    tmp_path_factory, train, test, pattern
):
    path = tmp_path_factory.mktemp("split") / "split.json"
    split = {"seed": 0, "train": train, "test": test, "patient_pattern": pattern}
    path.write_text(json.dumps(split))
    faulthandler.dump_traceback_later(STUCK, exit=True)
    try:
        found = data.load_split(path)
    except files.DataError as error:
        assert str(path) in str(error)
        return
    sides = [
        {patients.patient_of(name, found["patient_pattern"]) for name in found[side]}
        for side in ("train", "test")
    ]
    assert not sides[0] & sides[1]
