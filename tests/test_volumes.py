"""Stage 3 for whole brains: the folder it leaves, resumed, and read by others."""

import base64
import csv
import dataclasses
import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK

from brats_gan import (
    data,
    figures,
    files,
    io,
    painting,
    recipes,
    runs,
    spec,
    synthetic_dataset,
    volume_dataset,
    volume_reports,
)
from brats_gan.app import start
from brats_gan.app.answers import Asked
from brats_gan.data import records
from brats_gan.stages import dataset, painted, volumes
from tests import chains, nifti

SLICES = 12
FIRST, SECOND = "synth-00001", "synth-00002"
CONTENT = ("t1", "t2", "t1ce", "flair", "structure", "background", "seg")


def source(root):
    cached = str(root / "cache")
    return data.Source(str(root / "data"), slices=(2, 2 + SLICES), cache_dir=cached)


def settings(root, **more):
    of_runs = str(root / "structural"), str(root / "multimodal")
    given = {"volumes": 2, "max_tries": 2, "lesion_free": 0.0, "filter": False, **more}
    return dataset.Settings(*of_runs, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stages 1 and 2, a step each, and two volumes of them."""
    root = tmp_path_factory.mktemp("volumes")
    chains.train(root, source(root), (64, 64, 20))
    volumes.build(settings(root), source(root), root / "out")
    return root


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".gz", ".csv", ".json")
    }


def test_a_volume_has_the_size_place_and_order_of_those_of_brats(made):
    for name in CONTENT:
        path = made / "out" / FIRST / f"{FIRST}_{name}.nii.gz"
        image = nib.load(path)
        assert image.shape == (240, 240, 155)
        expected = [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_array_equal(image.affine, expected)
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        # Readers of the two conventions agree on where each voxel is.
        other = SimpleITK.ReadImage(str(path))
        x, y, z = other.TransformIndexToPhysicalPoint((10, 20, 30))
        np.testing.assert_allclose(image.affine @ [10, 20, 30, 1], [-x, -y, z, 1])


def test_slices_are_as_far_apart_as_those_of_the_subjects(tmp_path):
    for name, spacing in (("a", 3.0), ("b", 3.2), ("c", 1.0)):
        paths = nifti.write_subject(tmp_path / "data", name, (64, 64, 6))
        for path in set(paths.values()):
            image = nib.load(path)
            affine = image.affine @ np.diag([1, 1, spacing, 1])
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    slices = data.Slices(
        io.find_subjects(tmp_path / "data"), 32, (1, 5), tmp_path / "cache"
    )
    assert slices.slice_spacing == 3.0  # the median
    assert volumes.lesions_of(slices, spec.BRATS).spacing == (3.0, 6.0, 6.0)
    content = {"t1": np.ones((4, 32, 32), np.float32)}
    synthetic_dataset.write_stacks(tmp_path, "v", content, slice_spacing=3.0)
    written = nib.load(tmp_path / "v" / "v_t1.nii.gz").header
    assert written.get_zooms() == (1.0, 1.0, 3.0)


def test_slices_out_of_range_are_empty_and_those_in_range_are_not(made):
    images, label = volume_dataset.read(made / "out", FIRST)
    assert images.shape == (4, 155, 240, 240) and label.shape == (155, 240, 240)
    inside = np.zeros(155, bool)
    inside[2 : 2 + SLICES] = True
    assert not images[:, ~inside].any() and not label[~inside].any()
    assert images[:, inside].any((0, 2, 3)).all()
    background = nib.load(made / "out" / FIRST / f"{FIRST}_background.nii.gz")
    assert (background.get_fdata()[..., ~inside] == 1).all()


def test_volumes_are_subjects_to_the_reader_of_brats(made):
    subjects = io.find_subjects(made / "out")
    assert [each.name for each in subjects] == [FIRST, SECOND]
    assert not subjects[0].prepared
    images, label = io.read_subject(subjects[0], (2, 2 + SLICES), 32)
    assert images.shape == (SLICES, 32, 32, 4)
    _, whole = volume_dataset.read(made / "out", FIRST)
    # Each pixel of a network was repeated over a square of 6 voxels.
    np.testing.assert_array_equal(label, whole[2 : 2 + SLICES, 27:-24:6, 27:-24:6])


def test_the_table_of_volumes_says_whose_lesions_they_have(made):
    with (made / "out/volumes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    split = json.loads((made / "out/split.json").read_text())
    assert [row["id"] for row in rows] == [FIRST, SECOND]
    for number, row in enumerate(rows):
        assert row["number"] == str(number)
        _, label = volume_dataset.read(made / "out", row["id"])
        # Of 32 x 32 pixels in a crop of 192.
        assert int(row["lesion_voxels"]) == np.count_nonzero(label) / 36
        assert {*volume_dataset.subjects_of(row["label_subjects"])} <= {*split["train"]}
    description = synthetic_dataset.read_description(made / "out")
    assert description["Volumes"] == 2 and description["Prepared"] is False
    assert description["HeldOutSubjects"] == split["test"]


@pytest.mark.parametrize("damage", ["cut", "gone", "record"])
def test_what_was_damaged_is_made_again_to_the_same_bytes(made, damage):
    before = contents(made / "out")
    path = made / "out" / SECOND / f"{SECOND}_t2.nii.gz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "gone":
        shutil.rmtree(path.parent)
    else:
        path.with_name(f"{SECOND}_samples.json").unlink()
    stamp = (made / "out" / FIRST / f"{FIRST}_t2.nii.gz").stat().st_mtime_ns
    volumes.build(settings(made), source(made), made / "out")
    assert contents(made / "out") == before
    assert (made / "out" / FIRST / f"{FIRST}_t2.nii.gz").stat().st_mtime_ns == stamp


def test_a_folder_of_weights_makes_the_volumes_of_its_run(made, tmp_path):
    for stage in ("structural", "multimodal"):
        shutil.copytree(made / stage / "weights", tmp_path / stage)
    given = settings(made, volumes=1)
    of = {
        f"{stage}_run": str(tmp_path / stage) for stage in ("structural", "multimodal")
    }
    given = dataclasses.replace(given, **of)
    volumes.build(given, source(made), tmp_path / "out")
    ours, theirs = (volume_dataset.read(x / "out", FIRST) for x in (tmp_path, made))
    # One graph or several add up in other orders.
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-3)
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("flag", "value"),
    [("accepted_only", True), ("all_labels", True), ("mask_images", False)],
)
def test_what_is_for_samples_alone_is_refused(made, tmp_path, flag, value):
    with pytest.raises(runs.RunError, match=f"--{flag} is for samples"):
        given = settings(made, **{flag: value})
        volumes.build(given, source(made), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", [{"passing": 0.5}, {"lesion_map": "a.nii.gz"}])
def test_what_is_for_volumes_alone_is_refused_without_them(made, tmp_path, setting):
    with pytest.raises(runs.RunError, match="is for whole brains"):
        given = settings(made, volumes=None, **setting)
        dataset.build(given, source(made), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def lesion_map(path, label, spacing=1.0):
    image = nib.Nifti1Image(label, np.diag([-spacing, -spacing, spacing, 1]))
    nib.save(image, path)
    return str(path)


def test_the_lesion_that_is_given_is_that_of_every_volume(made, tmp_path):
    label = np.zeros((240, 240, 20), np.uint8)
    # Columns, rows: of pixels of 6 voxels, from voxel 24 on.
    label[24 + 90 : 24 + 108, 24 + 60 : 24 + 84, 5:9] = 2
    label[24 + 96 : 24 + 102, 24 + 66 : 24 + 72, 6:8] = 4
    path = lesion_map(tmp_path / "own.nii.gz", label)
    given = settings(made, lesion_map=path, seed=7, lesion_free=1.0)
    built = volumes.build(given, source(made), tmp_path / "out")
    for volume_id in (FIRST, SECOND):
        path = tmp_path / "out" / volume_id / f"{volume_id}_seg.nii.gz"
        written = np.asarray(nib.load(path).dataobj)
        np.testing.assert_array_equal(written[..., :20], label)
        assert not written[..., 20:].any()
    assert [row["label_subjects"] for row in built.rows] == ["", ""]
    pixels = np.count_nonzero(label) // 36  # of 6 x 6 voxels
    assert [row["lesion_voxels"] for row in built.rows] == [str(pixels)] * 2
    # A volume that was made is given back as it is.
    again = settings(made, lesion_map=str(path), seed=8, volumes=1)
    volumes.build(again, source(made), tmp_path / "again")
    ours, theirs = (
        volume_dataset.read(tmp_path / x, FIRST)[1] for x in ("out", "again")
    )
    np.testing.assert_array_equal(ours, theirs)


def test_a_lesion_map_that_cannot_be_placed_is_refused_by_name(made, tmp_path):
    label = np.zeros((240, 240, 20), np.uint8)
    outside = label.copy()
    outside[120, 120, 0] = 1  # slices 2 to 13 are in range
    odd, aside, tiny = label.copy(), label.copy(), label.copy()
    odd[120, 120, 5] = 9
    aside[10, 120, 5] = tiny[120, 120, 5] = 1
    for name, content, said in (
        ("small", label[:100], "100 x 240|240 x 100"),
        ("empty", outside, "no lesion in slices 2 to 13"),
        ("odd", odd, "unknown label 9"),
        ("aside", aside, "no lesion in slices 2 to 13, in the 192 x 192 pixels"),
        ("tiny", tiny, "a lesion too small for pixels of 6 mm"),
        ("flat", label[..., :10], "has 10 slices, and the models make slices 2 to 13"),
    ):
        path = lesion_map(tmp_path / f"{name}.nii.gz", content)
        given = settings(made, lesion_map=path)
        with pytest.raises(files.DataError, match=said) as error:
            volumes.build(given, source(made), tmp_path / "out")
        assert path in str(error.value)
    given = settings(made, lesion_map=str(tmp_path / "none.nii.gz"))
    with pytest.raises(files.DataError, match="none.nii.gz"):
        volumes.build(given, source(made), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_lesion_map_loses_is_said(tmp_path, caplog):
    label = np.zeros((240, 240, 20), np.uint8)
    label[108:132, 108:132, 5:9] = 2
    plain = lesion_map(tmp_path / "plain.nii.gz", label)
    placed = io.load_lesion_map(plain, (2, 14), 32)
    assert not caplog.records
    label[108:132, 108:132, 16] = label[0, 0, 5] = 2
    path = lesion_map(tmp_path / "more.nii.gz", label, spacing=0.5)
    np.testing.assert_array_equal(io.load_lesion_map(path, (2, 14), 32), placed)
    spacing, lost = (each.getMessage() for each in caplog.records)
    assert "voxels of 0.5 x 0.5 x 0.5 mm" in spacing
    assert "577 of 2881 voxels of the lesion are left out" in lost


@pytest.mark.parametrize("saved", ["itself", "again.nii", "again.mha", "RAS.nii.gz"])
def test_the_label_of_a_subject_held_out_is_refused(made, tmp_path, saved):
    for number in range(4):
        shape = (240, 240, 20)
        nifti.write_subject(tmp_path / "data", f"s{number}", shape, number)
    split = json.loads((made / "structural/split.json").read_text())
    (name,) = split["test"]
    path = tmp_path / "data" / name / f"{name}_seg.nii.gz"
    if saved != "itself":  # it is that label, whatever it is called and how it is kept
        label = np.asarray(nib.load(path).dataobj).swapaxes(0, 1)
        axes = "RAS" if saved.startswith("RAS") else "LPS"
        path = nifti.write_volume(tmp_path / saved, label.astype(np.int16), axes)
    given = dataclasses.replace(source(made), data_dir=str(tmp_path / "data"))
    own = settings(made, lesion_map=str(path))
    of = {f"{s}_run": str(made / s / "weights") for s in ("structural", "multimodal")}
    with pytest.raises(runs.RunError, match=f"is the label of {name}, who is held out"):
        volumes.build(dataclasses.replace(own, **of), given, tmp_path / "out")


def test_a_set_says_how_alike_neighbouring_slices_are_beside_real_ones(made):
    said = synthetic_dataset.read_description(made / "out")
    names = {"maps", "labels", "frays", *said["spec"]["modalities"]}
    assert {*said["Neighbours"]} == {"generated", "training"}
    for scores in said["Neighbours"].values():
        assert {*scores} == names
    assert {"generated", "real"} <= {*said["Registration"]["Scores"]}
    assert "NearestTraining" not in said


def test_the_nearest_subject_may_be_asked_for_when_a_set_is_finished(made):
    before = contents(made / "out")
    asked = dataclasses.replace(settings(made), nearest_report=True)
    built = volumes.build(asked, source(made), made / "out")
    found = built.summary["NearestTraining"]
    split = json.loads((made / "out/split.json").read_text())
    assert found["generated"]["volumes"] == 2
    assert {each["training_subject"] for each in found["closest"]} <= {*split["train"]}
    assert "held-out" in built.summary["Neighbours"]
    after = contents(made / "out")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"dataset_description.json"}


def test_a_set_goes_on_with_the_profile_that_it_was_begun_with(made, tmp_path):
    shutil.copytree(made / "out", tmp_path / "out")
    rows = volumes.build(settings(made), source(made), tmp_path / "out").rows
    profile = float(rows[0]["profile"])
    shutil.rmtree(tmp_path / "out" / SECOND)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            volumes.volume_synthesis, "profile_of", lambda *args: profile + 5
        )
        again = volumes.build(settings(made), source(made), tmp_path / "out").rows
    assert again == rows


def test_a_set_of_volumes_is_one_that_its_split_has_decided(tmp_path):
    assert not records.is_begun(tmp_path)
    volume_dataset.write(tmp_path, [{"id": FIRST}])
    assert records.is_begun(tmp_path)


def test_a_set_that_is_made_again_in_part_is_not_finished_until_then(
    made, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(made / "out", out)
    (out / SECOND / f"{SECOND}_t1.nii.gz").unlink()

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(volume_dataset, "write_volume", stopped)
    with pytest.raises(KeyboardInterrupt):
        volumes.build(settings(made), source(made), out)
    assert not (out / synthetic_dataset.DESCRIPTION).exists()


def test_the_animation_shows_every_slice_that_has_brain_from_below(tmp_path):
    images, label = np.zeros([2, 6, 8, 8]), np.zeros([6, 8, 8], np.uint8)
    images[:, 1:5, 2:6, 2:6] = np.linspace(0.2, 0.8, 4)[:, None, None]
    label[2, 3, 3] = 1
    figures.scroll([(images, label), (images, label)], tmp_path / "a.gif", pixels=40)
    with PIL.Image.open(tmp_path / "a.gif") as found:
        assert found.size == (80, 80)
        assert found.n_frames == 4
        golden = []
        for frame in range(4):
            found.seek(frame)
            pixels = np.asarray(found.convert("RGB"), int)
            golden.append(bool((pixels[..., 0] - pixels[..., 2] > 100).any()))
    assert golden == [False, True, False, False]


def test_volumes_need_label_maps(made, tmp_path):
    with pytest.raises(runs.RunError, match="--volumes needs --data_dir"):
        volumes.build(settings(made), data.Source(None), tmp_path / "out")


def test_a_stage_1_of_single_slices_is_told_so(made, tmp_path):
    shutil.copytree(made / "structural/weights", tmp_path / "w")
    described = files.unsealed(files.read_json(tmp_path / "w/weights.json"))
    del described["stacks"], described["files"]["stacks"]
    files.write_json(tmp_path / "w/weights.json", described)
    given = dataclasses.replace(settings(made), structural_run=str(tmp_path / "w"))
    with pytest.raises(runs.RunError, match="maps of a volume"):
        volumes.build(given, source(made), tmp_path / "out")


def test_stage_4_does_not_take_volumes_for_samples(made):
    with pytest.raises(runs.RunError, match="a data set of whole volumes"):
        synthetic_dataset.verified_subjects(made / "out", [])


def test_planes_go_through_the_lesion(tmp_path, monkeypatch):
    images, label = np.zeros([1, 4, 6, 8]), np.zeros([4, 6, 8], np.uint8)
    images[:] = 0.1
    label[1, 2, 3] = images[0, 1, 2, 3] = 1
    shown = []
    axes = figures.Figure().subplots().__class__
    monkeypatch.setattr(
        axes, "imshow", lambda self, image, **how: shown.append(image), raising=True
    )
    monkeypatch.setattr(axes, "contour", lambda self, *args, **how: None)
    figures.planes([("a", images, label)], ["t1"], tmp_path / "planes.png")
    axial, coronal, sagittal = shown
    assert (axial.shape, coronal.shape, sagittal.shape) == ((6, 8), (4, 8), (4, 6))
    assert axial[2, 3] == coronal[2, 3] == sagittal[2, 2] == 1  # the lowest slice below


def blanked(root, lowest, highest, gap):
    """data.Slices of two subjects whose brain and lesion do not fill the range; one
    slice of the second shows no brain."""
    for number in range(2):
        written = nifti.write_subject(root / "data", f"s{number}", (64, 64, 20), number)
        for role, path in written.items():
            image = nib.load(path)
            voxels = np.asarray(image.dataobj).copy()
            is_label = role == "seg"
            voxels[..., : lowest + is_label] = voxels[..., highest - is_label :] = 0
            if number and not is_label:
                voxels[..., gap] = 0
            nib.save(nib.Nifti1Image(voxels, image.affine), path)
    return source(root).read(io.find_subjects(root / "data"), 32)


def test_a_lesion_is_as_high_as_it_is_where_slices_show_no_brain(tmp_path):
    slices = blanked(tmp_path, 4, 12, 8)
    found = volumes.lesions_of(slices, slices.spec)
    # Slices 5 to 10 have it, and the range begins at 2: nothing is cut off.
    assert [len(each.label) for each in found.lesions] == [6, 6]
    assert not any(each.cut_below or each.cut_above for each in found.lesions)


def test_slices_without_brain_say_nothing_of_their_neighbours(tmp_path):
    slices = blanked(tmp_path, 4, 12, 11)
    images, label = slices.volume(0)
    maps = images[0] > 0
    said = []
    for kept in (slice(None), slice(2, 10)):  # the range, and what shows brain of it
        volume = maps[kept], images[:, kept], label[kept]
        report = volume_reports.neighbours_report([volume], slices, None, 0.01)
        said.append(report["generated"])
    assert said[0] == said[1]


def test_the_lesion_that_is_given_is_as_high_as_the_volumes_are(tmp_path):
    label = np.zeros((240, 240, 20), np.uint8)
    label[114:126, 114:126, 5:14] = 2
    path = lesion_map(tmp_path / "own.nii.gz", label)
    # No training subject shows brain in the two highest slices of the range.
    slices = SimpleNamespace(image_size=32, spec=spec.BRATS, slice_spacing=1.0)
    given = dataset.Settings("", "", volumes=1, lesion_map=path)
    place = volumes.placement(given, slices, (2, SLICES))
    placed, _, fits = place(np.ones((SLICES - 2, 32, 32), bool), None)
    assert fits and placed.any((1, 2)).tolist() == [False] * 3 + [True] * 7


def test_a_set_is_painted_on_a_brain_of_a_run_as_on_one_of_its_weights(made, tmp_path):
    of_runs = [str(made / name) for name in ("structural", "multimodal")]
    answers = start.answers(painting.Settings(*of_runs), source(made))
    weights = [f"{run}/weights" for run in of_runs]
    by_weights = painting.load(painting.Settings(*weights))
    studio, size = answers.studio, answers.size
    code = painting.code_of(studio, 1, 5, (1.0,), 2)
    one, other = (painting.map_of(each, code) for each in (studio, by_weights))
    np.testing.assert_array_equal(one.f, other.f)

    label = np.zeros((size, size), np.uint8)
    label[12:18, 12:18] = 3
    recipe = recipes.Recipe(1, code, label, studio.prints)
    painted.write(studio, recipe, tmp_path / "out")
    (subject,) = synthetic_dataset.verified_subjects(tmp_path / "out", [])
    _, labels = io.read_subject(subject, image_size=size)
    np.testing.assert_array_equal(labels[0], label)

    asked = Asked(1, 5, (), None, base64.b64encode(bytes(size * size)).decode())
    assert answers.state()["subjects"] == ["s0", "s1", "s2"]
    assert answers.state()["pool"] and answers.place(asked, 3)
    volume = nib.Nifti1Image.from_bytes(answers.subject(1, 2))
    stored = nib.load(made / "data/s1/s1_t1ce.nii.gz")
    np.testing.assert_array_equal(np.asarray(volume.dataobj), stored.get_fdata())
    with pytest.raises(LookupError, match="subject"):
        answers.subject(3, 0)
