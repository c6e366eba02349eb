"""What a run is made from is fixed before its first step, by content, not by name."""

import json
import shutil

import pytest
import tensorflow as tf

from brats_gan import data, files, runs
from brats_gan.data import records
from brats_gan.stages import inputs
from tests import nifti

SHAPE = (160, 160, 4)
SIZE = 32
NAMES = ["s0", "s1", "s2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Subjects in two layouts, and a run that has begun and ended with them."""
    root = tmp_path_factory.mktemp("inputs")
    for number, name in enumerate(NAMES):
        for layout in ("brats2018", "brats2015"):
            nifti.write_subject(root / layout, name, SHAPE, number, layout, labels=[2])
    run = root / "run"
    fixed = begin(run, root / "brats2018")
    export(run, fixed)
    began = {"stage": "structural", "build": {}, "inputs": inputs.digest(fixed)}
    files.write_json(run / "networks.json", began)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy of it."""
    shutil.copytree(made, tmp_path / "root")
    return tmp_path / "root"


def begin(run, folder, split=None, size=SIZE, **more):
    """What a stage does before its first step; returns inputs.json."""
    cache = str(folder.parent / "cache")
    source = data.Source(
        str(folder), split=split and str(split), slices=(0, 4), cache_dir=cache
    )
    *sides, split = source.subjects(run)
    slices, held_out = (source.read(side, size) for side in sides)
    fixed = inputs.fix(run, source, split, sides, slices, held_out, size, **more)
    data.save_split(run / "split.json", split)
    inputs.record(run, fixed)
    return fixed


def export(run, fixed):
    """What a stage leaves at its end, without its SavedModel."""
    described = {"training_subjects": fixed["split"]["train"]}
    described |= inputs.of_export(fixed)
    (run / "export/structure").mkdir(parents=True, exist_ok=True)
    files.write_json(run / "export/structure.json", described)


def sides(run):
    split = data.load_split(run / "split.json")
    return split["train"], split["test"]


def swap(folder, one, other):
    """Exchanges the files of two subjects, whose names stay."""
    for path in (folder / one).iterdir():
        twin = folder / other / path.name.replace(one, other)
        content = path.read_bytes()
        path.write_bytes(twin.read_bytes())
        twin.write_bytes(content)


def rename(folder, one, other):
    (folder / one).rename(folder / other)
    for path in [*(folder / other).iterdir()]:
        path.rename(path.with_name(path.name.replace(one, other)))


def turn(path):
    """Exchanges the subject held out with one that was trained on, in a split.json."""
    split = json.loads(path.read_text())
    split["test"], split["train"][0] = [split["train"][0]], split["test"][0]
    path.write_text(json.dumps(split))


# --- The same subjects, wherever they are ---------------------------------------------


def test_the_record_has_split_and_content_of_all_subjects(made):
    record = records.read(made / "run")
    assert record["split"] == data.load_split(made / "run/split.json")
    assert sorted(record["subjects"]) == NAMES
    for identity in record["subjects"].values():
        assert sorted(identity["files"]) == ["flair", "seg", "t1", "t1ce", "t2"]
        assert identity["images"] and identity["label"]
    said = json.loads((made / "run/export/structure.json").read_text())
    assert said["inputs"]["subjects"] == record["subjects"]


def test_a_run_goes_on_with_data_that_were_moved_or_are_in_another_layout(root):
    before = (root / "run/inputs.json").read_bytes()
    (root / "brats2018").rename(root / "moved")
    (root / "run").rename(root / "elsewhere")
    begin(root / "elsewhere", root / "moved")
    fixed = begin(root / "elsewhere", root / "brats2015")
    assert (root / "elsewhere/inputs.json").read_bytes() == before
    assert fixed == json.loads(before)  # its fingerprint too


def test_another_run_with_that_split_may_have_another_size_and_layout(root):
    split = root / "run/split.json"
    fixed = begin(root / "new", root / "brats2015", split, size=64)
    assert fixed["split"] == data.load_split(split) and fixed["image_size"] == 64


# --- Other subjects -------------------------------------------------------------------


@pytest.mark.parametrize("size", [SIZE, 64])
def test_files_of_another_subject_under_the_same_name_are_refused(root, size):
    """By the run itself, and by another that keeps to its split at any size."""
    (trained, *_), (held_out,) = sides(root / "run")
    swap(root / "brats2018", trained, held_out)
    run, split = (root / "run", None) if size == SIZE else (root / "new", "run")
    split = split and root / split / "split.json"
    before = (root / "run/inputs.json").read_bytes()
    with pytest.raises(files.DataError) as caught:
        begin(run, root / "brats2018", split, size)
    named = {trained, held_out}
    first = min(named)
    path = root / "brats2018" / first / f"{first}_t1.nii.gz"
    assert f"{path}: t1 of {first} is not what it was for {root / 'run'}" in str(
        caught.value
    )
    assert (root / "run/inputs.json").read_bytes() == before


def test_one_changed_label_is_refused_with_its_file(root):
    (trained, *_), (held_out,) = sides(root / "run")
    path = root / f"brats2018/{trained}/{trained}_seg.nii.gz"
    shutil.copy(root / f"brats2018/{held_out}/{held_out}_seg.nii.gz", path)
    with pytest.raises(files.DataError) as caught:
        begin(root / "run", root / "brats2018")
    assert f"{path}: seg of {trained} is not what it was" in str(caught.value)


@pytest.mark.parametrize("layout", ["brats2018", "brats2015"])
def test_a_subject_trained_on_is_not_held_out_under_another_name(root, layout):
    """As a copy of the files, or as another file of the same scan."""
    (trained, other), (held_out,) = sides(root / "run")
    folder = root / "brats2018"
    if layout == "brats2015":
        shutil.rmtree(folder / trained)
        nifti.write_subject(
            folder, "renamed", SHAPE, NAMES.index(trained), labels=[2], extension=".nii"
        )
    else:
        rename(folder, trained, "renamed")
    split = {"seed": 0, "train": [other, held_out], "test": ["renamed"]}
    data.save_split(root / "mine.json", split)
    against = [(root / "run", records.read(root / "run"))]
    with pytest.raises(files.DataError) as caught:
        begin(root / "new", folder, root / "mine.json", apart_from=against)
    assert f"renamed, which is held out, is the same subject as {trained}" in str(
        caught.value
    )
    assert not (root / "new/inputs.json").exists()


def test_another_file_of_a_scan_that_was_trained_on_is_known_at_any_size(root):
    """Who is held out is read as they were read, if the files do not tell."""
    (trained, other), (held_out,) = sides(root / "run")
    folder = root / "brats2018"
    shutil.rmtree(folder / trained)
    nifti.write_subject(
        folder, "renamed", SHAPE, NAMES.index(trained), labels=[2], extension=".nii"
    )
    split = {"seed": 0, "train": [other, held_out], "test": ["renamed"]}
    data.save_split(root / "mine.json", split)
    against = [(root / "run", records.read(root / "run"))]
    new = root / "new", folder, root / "mine.json"
    with pytest.raises(files.DataError, match=f"renamed, .* same subject as {trained}"):
        begin(*new, size=64, apart_from=against)
    short = {**against[0][1], "slices": [2, 9]}  # which they have not: none of these
    begin(*new, size=64, apart_from=[(root / "run", short)])


def test_a_subject_on_both_sides_under_two_names_is_refused_without_the_check(root):
    (trained, other), (held_out,) = sides(root / "run")
    folder = root / "brats2018"
    nifti.write_subject(  # another file of the same scan: the quick check sees no twin
        folder, "again", SHAPE, NAMES.index(trained), labels=[2], extension=".nii"
    )
    split = {"seed": 0, "train": [trained, other], "test": ["again", held_out]}
    data.save_split(root / "mine.json", split)
    with pytest.raises(files.DataError, match=f"again, .*same subject as {trained}"):
        begin(root / "new", folder, root / "mine.json")


@pytest.mark.parametrize("told", ["by us", "by them", "by none"])
def test_another_visit_of_a_patient_trained_on_is_not_held_out(root, told):
    """In a later run whose split is of its own, with visits that no one has read."""
    (trained, other), (held_out,) = sides(root / "run")
    folder, (one, two) = root / "brats2018", (f"{trained}_v1", f"{trained}_v2")
    rename(folder, trained, one)
    shutil.rmtree(root / "run")
    how = {"patient_pattern": f"^({trained})_v"} if told == "by them" else {}
    data.save_split(
        root / "first.json",
        {"seed": 0, "train": [one, other], "test": [held_out], **how},
    )
    before = begin(root / "run", folder, root / "first.json")
    rename(folder, one, "moved")
    shutil.move(folder / "moved", root / "moved")
    nifti.write_subject(folder, two, SHAPE, 7, labels=[2])
    how = {"patient_pattern": f"^({trained})_v"} if told == "by us" else {}
    data.save_split(
        root / "mine.json",
        {"seed": 0, "train": [other, held_out], "test": [two], **how},
    )
    against = [(root / "run", before)]
    new = root / "new", folder, root / "mine.json"
    if told == "by none":  # these names say nothing
        begin(*new, apart_from=against)
        return
    with pytest.raises(files.DataError) as caught:
        begin(*new, apart_from=against)
    message = f"{two}, which is held out, is a visit of the patient of {one}, which"
    assert str(caught.value).startswith(f"{folder / two}: {message} {root / 'run'}")


# --- A split.json that was edited or is gone ------------------------------------------


def test_a_split_that_was_edited_is_refused_by_its_run_and_by_others(root):
    (trained, *_), (held_out,) = sides(root / "run")
    turn(root / "run/split.json")
    for run, split in ((root / "run", None), (root / "new", root / "run/split.json")):
        with pytest.raises(files.DataError) as caught:
            begin(run, root / "brats2018", split)
        named = ", ".join(sorted([trained, held_out]))
        assert str(caught.value).startswith(f"{root / 'run/split.json'}: {named}")
        assert "structure.json was made with" in str(caught.value)


def test_the_export_is_believed_where_the_record_was_edited_too(root):
    turn(root / "run/split.json")
    record = records.read(root / "run")
    record["split"] = data.load_split(root / "run/split.json")
    files.write_json(root / "run/inputs.json", record)
    with pytest.raises(files.DataError, match="structure.json was made with"):
        begin(root / "new", root / "brats2018", root / "run/split.json")


@pytest.mark.parametrize("key", ["training_subjects", "HeldOutSubjects"])
def test_what_was_made_before_there_were_records_is_believed_too(root, key):
    train, test = sides(root / "run")
    path = root / "old/export/structure.json"
    if key == "HeldOutSubjects":
        path = root / "old/dataset_description.json"
    files.write_json(path, {key: train if key == "training_subjects" else test})
    shutil.copy(root / "run/split.json", root / "old/split.json")
    begin(root / "new", root / "brats2018", root / "old/split.json")
    turn(root / "old/split.json")
    with pytest.raises(files.DataError, match=f"{path.name} was made with"):
        begin(root / "newer", root / "brats2018", root / "old/split.json")


def test_a_split_that_is_gone_is_written_again_as_it_was(root):
    before = data.load_split(root / "run/split.json")
    (root / "run/split.json").unlink()
    begin(root / "run", root / "brats2018")
    assert data.load_split(root / "run/split.json") == before


def test_a_split_that_is_gone_with_all_that_tells_of_it_is_not_drawn_anew(root):
    for name in ("split.json", "inputs.json", "export/structure.json"):
        (root / "run" / name).unlink()
    with pytest.raises(files.DataError, match="split.json: is gone, and .* has begun"):
        begin(root / "run", root / "brats2018")


def test_another_split_than_the_run_began_with_is_refused(root):
    shutil.copy(root / "run/split.json", root / "mine.json")
    begin(root / "run", root / "brats2018", root / "mine.json")
    turn(root / "mine.json")
    with pytest.raises(files.DataError, match="on another side than in .*split.json"):
        begin(root / "run", root / "brats2018", root / "mine.json")


# --- The record itself, and runs from before ------------------------------------------


def test_a_record_that_is_gone_or_was_changed_is_refused(root):
    path = root / "run/inputs.json"
    record = json.loads(path.read_text())
    files.write_json(path, {**record, "exports": {"structure": "0f"}})
    with pytest.raises(runs.RunError, match="inputs.json was changed since"):
        begin(root / "run", root / "brats2018")
    path.unlink()
    with pytest.raises(runs.RunError, match="inputs.json is gone"):
        begin(root / "run", root / "brats2018")


@pytest.mark.parametrize("lost", ["files", "images", "label"])
def test_a_record_that_says_too_little_of_a_subject_is_none(root, lost):
    fixed = records.read(root / "run")
    del fixed["subjects"]["s0"][lost]
    files.write_json(root / "run/inputs.json", fixed)
    with pytest.raises(files.DataError, match="inputs.json: no record of subjects"):
        records.read(root / "run")


def test_a_subject_that_had_a_file_more_is_another_and_that_file_is_named(root):
    fixed = records.read(root / "run")
    theirs = json.loads(json.dumps(fixed))
    theirs["subjects"]["s0"]["images"] = "of more"
    theirs["subjects"]["s0"]["files"]["pd"] = "more"
    with pytest.raises(files.DataError, match="s0: pd of s0 is not what it was for B"):
        records.require_same(fixed, theirs, "B")


def as_before(run):
    """Makes a run one from before there were records."""
    (run / "inputs.json").unlink()
    began = {"stage": "structural", "build": {}}
    files.write_json(run / "networks.json", began)
    path = run / "export/structure.json"
    described = json.loads(path.read_text())
    described.pop("inputs")
    files.write_json(path, described)


def test_a_run_from_before_goes_on_and_has_a_record_from_then_on(root):
    before = records.read(root / "run")
    as_before(root / "run")
    assert begin(root / "run", root / "brats2018") == before
    assert records.read(root / "run") == before


def test_a_run_from_before_is_held_to_the_fingerprint_of_its_export(root):
    as_before(root / "run")
    (trained, *_), (held_out,) = sides(root / "run")
    swap(root / "brats2018", trained, held_out)
    with pytest.raises(files.DataError, match="structure.json: was trained on files"):
        begin(root / "run", root / "brats2018")
    assert not (root / "run/inputs.json").exists()


# --- Runs and data sets that a run uses -----------------------------------------------


def data_set(folder, seed=7):
    nifti.write_subject(folder, "synth-00001", SHAPE, seed)
    return str(folder)


def test_a_synthetic_set_may_move_and_must_be_the_same(root):
    sets = {"synthetic": data_set(root / "a")}
    new = root / "new"
    fixed = begin(new, root / "brats2018", sets=sets)
    (root / "a").rename(root / "b")
    again = begin(new, root / "brats2018", sets={"synthetic": str(root / "b")})
    assert again == fixed
    other = {"synthetic": data_set(root / "c", seed=8)}
    with pytest.raises(runs.RunError, match=f"{root / 'c'}: synth-00001 is not what"):
        begin(new, root / "brats2018", sets=other)
    with pytest.raises(runs.RunError, match="no data set: synth-00001"):
        begin(new, root / "brats2018", sets={"synthetic": None})


def test_a_set_that_a_table_asks_for_later_is_recorded_then(root):
    begin(root / "new", root / "brats2018")
    later = {"synthetic single": data_set(root / "a")}
    begin(root / "new", root / "brats2018", sets=later)
    other = {"synthetic single": data_set(root / "c", seed=8)}
    with pytest.raises(runs.RunError, match="as synthetic single data"):
        begin(root / "new", root / "brats2018", sets=other)


def test_an_export_of_other_weights_is_refused_and_one_that_moved_is_not(root):
    def weights(value, function):
        saved = tf.Module()
        saved.weight = tf.Variable(value)
        setattr(saved, function, tf.function(lambda: saved.weight, input_signature=[]))
        tf.saved_model.save(saved, str(root / "run/export/structure"))

    weights(1.0, "one")
    before = runs.export_fingerprint(root / "run", "structure")
    new = root / "new"
    begin(new, root / "brats2018", exports={"structure": before})
    (root / "run").rename(root / "moved")
    assert runs.export_fingerprint(root / "moved", "structure") == before
    (root / "moved").rename(root / "run")
    weights(1.0, "another")  # the same, written anew as another graph
    assert runs.export_fingerprint(root / "run", "structure") == before
    weights(2.0, "one")
    after = runs.export_fingerprint(root / "run", "structure")
    with pytest.raises(runs.RunError, match="begun with another structure"):
        begin(new, root / "brats2018", exports={"structure": after})


@pytest.mark.parametrize("flag", sorted(runs.folder.COMPARED))
def test_paths_are_free_where_their_content_is_recorded_and_settings_elsewhere(
    flag, root
):
    def start(value):
        runs.start(root / "run", by=runs.Command("a.py", {flag: f"--{flag}={value}"}))
        runs.release(root / "run")

    (root / "run/flags.txt").write_text(f"# a.py\n--{flag}=there\n")
    start("here")
    assert f"--{flag}=here" in (root / "run/flags.txt").read_text()
    as_before(root / "run")
    with pytest.raises(runs.RunError, match=f"--{flag}=here  ->  --{flag}=there"):
        start("there")
