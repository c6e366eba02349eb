"""All four stages on data that is not BraTS', made by the phantom, to the end."""

import csv
import dataclasses
import json

import cv2
import nibabel
import numpy as np
import pytest

from brats_gan import data, files, io, phantom, runs, shipped, spec, weights
from brats_gan.stages import dataset, multimodal, segmentation, structural
from tests.test_scripts import run

SLICES = (78, 82)
SPECS = {
    # As data of multiple sclerosis: one kind of lesion, no contrast agent.
    "sclerosis": spec.Spec(
        ("t1", "t2", "flair"), ("background", "lesion"), slices=SLICES
    ),
    "two": spec.Spec(
        ("flair", "t1ce"),
        ("background", "oedema", "core"),
        {"solid": (2,)},
        slices=SLICES,
    ),
}
TINY = {"image_size": 32, "width": 2, "batch_size": 1, "precision": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three phantoms of each specification, drawn once."""
    root = tmp_path_factory.mktemp("phantoms")
    for index in range(1, 4):
        volumes = phantom.simulate_subject(index, slices=SLICES)
        for name, of in SPECS.items():
            phantom.write_volumes(root / name, f"s{index}", volumes, of)
    return root


@pytest.fixture(scope="module", params=SPECS)
def made(request, folders, tmp_path_factory):
    """The folder of the four stages called on one specification, and its Source."""
    root = tmp_path_factory.mktemp(request.param)
    source = data.Source(str(folders / request.param), spec=SPECS[request.param])
    first = structural.Settings(**TINY, steps=2, code_channels=1, flow_steps=0)
    structural.train(first, source, root / "structural")
    second = multimodal.Settings(**TINY, steps=3, first_phase=0.4)
    multimodal.train(second, source, root / "multimodal")
    third = dataset.Settings(
        str(root / "structural"),
        str(root / "multimodal"),
        samples=4,
        max_tries=2,
        batch_size=4,
        mae_threshold=1.0,
        dice_threshold=0.0,
        lesion_free=0.0,
        nearest_report=True,
    )
    dataset.build(third, source, root / "synthetic")
    fourth = segmentation.Settings(
        **TINY,
        iterations=2,
        repeats=1,
        experiment=("1",) if request.param == "two" else (),  # a table, or one run
        synthetic_dir=str(root / "synthetic"),
        scheme="multiple" if request.param == "two" else "shared_encoder",
    )
    segmentation.score(fourth, source, root / "runs/segmentation")
    return root, source


def test_a_phantom_has_the_modalities_and_classes_that_are_asked_for(folders):
    whole = io.find_subjects(folders / "sclerosis", spec=SPECS["sclerosis"])
    apart = io.find_subjects(folders / "two", spec=SPECS["two"])
    assert [*whole[0].images] == ["t1", "t2", "flair"]
    assert not list((folders / "two").rglob("*_t1.nii.gz"))
    for one, other in zip(whole, apart, strict=True):
        binary = io.read_subject(one)[1]
        classes = io.read_subject(other)[1]
        assert ((binary == 1) == (classes > 0)).all()
    assert {*np.unique(classes)} <= {0, 1, 2}


def test_a_phantom_knows_its_modalities_and_labels():
    with pytest.raises(files.DataError, match="no adc; it has t1, t2, t1ce, flair"):
        phantom.classes_of(spec.Spec(("t1", "adc"), ("background", "lesion")))
    with pytest.raises(files.DataError, match="no label plaque; it has lesion, whole"):
        phantom.classes_of(spec.Spec(("t1", "t2"), ("background", "plaque")))


def test_the_generator_makes_the_modalities_of_the_data(made):
    root, source = made
    export, described = runs.load_export(root / "multimodal", "generator")
    names = source.spec.modalities
    assert described["modalities"] == [*names]
    assert spec.of_description(described) == source.spec
    f = np.zeros([1, 32, 32, 1], np.float32)
    images = export.generate(f, np.zeros([1, 32, 32], np.int32))
    assert {*images} == {*names}
    with np.load(root / "multimodal/weights/EC_R.npz") as arrays:
        assert arrays["0/kernel"].shape[2] == source.spec.num_labels


def test_the_data_set_has_the_modalities_and_labels_of_its_models(made):
    root, source = made
    description = json.loads((root / "synthetic/dataset_description.json").read_text())
    assert spec.of_description(description) == source.spec
    assert [*description["Labels"].values()] == [*source.spec.labels]
    (subject,) = io.find_subjects(root / "synthetic", spec=source.spec)
    images, label = io.read_subject(subject, image_size=32)
    assert images.shape == (4, 32, 32, source.spec.num_modalities)
    assert 0 < label.max() < source.spec.num_labels


def test_scores_are_of_the_regions_and_labels_of_the_data(made):
    root, source = made
    (path,) = root.rglob("results.jsonl")
    (line,) = (json.loads(text) for text in path.read_text().splitlines())
    assert {*line["by_subject"]} == {*source.spec.modalities, "mean"}
    scored = {n.removeprefix("dice_") for n in line["by_slice"]["mean"]}
    for part in (*source.spec.regions, *source.spec.labels[1:]):
        assert part in scored
    assert "dice_enhancing" not in line
    for region in source.spec.regions:
        assert 0 <= line[f"lesion_dice_{region}"] <= 1
        assert 0 <= line["by_subject"]["mean"][f"lesion_hausdorff95_{region}"] <= 374


def test_a_table_is_filled_by_the_data_whatever_its_specification(made):
    root, source = made
    if source.spec != SPECS["two"]:
        pytest.skip("of this specification there is one run")
    with (root / "runs/segmentation/table2.csv").open() as file:
        row = next(csv.DictReader(file))
    assert row["repeats"] == "1"
    assert float(row["whole-lesion Dice"]) >= 0


def test_every_sheet_has_a_column_for_each_modality(made):
    root, source = made
    sheets = {"multimodal/generated": 3, "synthetic/samples": 4}
    if source.spec == SPECS["sclerosis"]:
        sheets["runs/segmentation/segmentation"] = 2
    for name, others in sheets.items():
        _, width, _ = cv2.imread(str(root / f"{name}.png")).shape
        assert round(width / 130) == source.spec.num_modalities + others, name


def test_a_run_goes_on_with_its_own_specification_alone(made):
    root, source = made
    names = ("background", *(f"class {i}" for i in range(1, source.spec.num_labels)))
    other = dataclasses.replace(source.spec, labels=names)
    settings = structural.Settings(**TINY, steps=2, code_channels=1, flow_steps=0)
    with pytest.raises(runs.RunError, match="--spec="):
        structural.train(
            settings, dataclasses.replace(source, spec=other), root / "structural"
        )


def test_weights_of_other_modalities_or_labels_are_refused(made, tmp_path):
    root, source = made
    swapped = tuple(reversed(source.spec.modalities))  # of equal shapes
    swapped = dataclasses.replace(source.spec, modalities=swapped)
    stored = weights.find(root / "multimodal", "multimodal")
    nets = weights.networks(stored, list(stored.arrays))
    for begun_from, of in ((root / "multimodal", swapped), ("pretrained", source.spec)):
        with pytest.raises(runs.RunError, match="of another specification .modalities"):
            weights.begin(tmp_path, "multimodal", {}, nets, begun_from, spec=of)


def test_weights_of_stage_1_know_no_modality_and_fit_any_data(made, tmp_path):
    _, source = made
    stored = weights.read(weights.PRETRAINED / "structural")
    nets = {"DC_f": weights.networks(stored, ["DC_f"])["DC_f"]}
    begun = weights.begin(
        tmp_path, "structural", {}, nets, "pretrained", spec=source.spec
    )
    assert begun["initialised_from"]["networks"] == ["DC_f"]
    assert spec.of_description(begun) == source.spec


def test_stages_of_two_specifications_do_not_go_together(made):
    root, source = made
    settings = dataset.Settings(str(root / "structural"), "pretrained", samples=1)
    with pytest.raises(runs.RunError, match="does not go together"):
        dataset.build(settings, source, root / "mixed")


def test_a_data_set_of_another_specification_is_no_training_data(made):
    root, source = made
    swapped = tuple(reversed(source.spec.modalities))
    other = dataclasses.replace(source.spec, modalities=swapped)
    settings = segmentation.Settings(
        **TINY, iterations=1, synthetic_dir=str(root / "synthetic")
    )
    with pytest.raises(runs.RunError, match="another specification than the real data"):
        segmentation.score(
            settings, dataclasses.replace(source, spec=other), root / "refused"
        )


def test_scripts_take_the_specification_from_a_file_and_keep_it_in_flags_txt(
    folders, tmp_path
):
    path = tmp_path / "sclerosis.json"
    path.write_text(str(SPECS["sclerosis"]))
    said = run(
        "prepare_data.py",
        *("check", f"--data_dir={folders / 'sclerosis'}", f"--spec={path}"),
    )
    assert "with t1, t2, flair" in said and "78:82" in said
    flags = (
        *(f"--data_dir={folders / 'sclerosis'}", f"--run_dir={tmp_path / 'run'}"),
        *("--image_size=32", "--width=2", "--code_channels=1", "--steps=1"),
    )
    run("train_structural.py", *flags, f"--spec={path}")
    path.unlink()  # the run has its own
    run("train_structural.py", f"--flagfile={tmp_path / 'run/flags.txt'}", "--steps=2")
    assert "--slices=78:82" in (tmp_path / "run/flags.txt").read_text().splitlines()
    said = run("prepare_data.py", "check", "--data_dir=.", f"--spec={path}", code=1)
    assert "sclerosis.json: No such file" in said


def test_a_file_of_another_specification_says_what_it_has_not(folders, tmp_path):
    said = run("prepare_data.py", "check", f"--data_dir={folders / 'two'}", code=1)
    assert "no t1 image" in said


def test_noise_around_the_head_is_taken_away_where_the_specification_says_so(tmp_path):
    noisy = spec.Spec(
        ("t1", "t2"), ("background", "lesion"), crop=48, field=64, slices=(0, 3),
        zero_background=False,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    head = (rows - 30) ** 2 + (columns - 34) ** 2 < 15**2
    for name in noisy.modalities:
        volume = rng.uniform(1, 20, (64, 64, 3))
        volume[head] += 300
        volume[28:31, 33:36] = 0  # a hole is of the head
        path = tmp_path / "s" / f"s_{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, -1, 1, 1])), path)
    (subject,) = io.find_subjects(tmp_path, spec=noisy)
    images, _ = io.read_subject(subject)
    shown = images[..., 0] > 0
    assert images.shape == (3, 48, 48, 2)
    assert np.count_nonzero(shown[0]) == np.count_nonzero(head) - 9
    kept, _ = io.read_subject(
        subject._replace(spec=dataclasses.replace(noisy, zero_background=True))
    )
    assert (kept[0, :4] > 0).all()


def test_the_specifications_that_ship_are_ones():
    paths = sorted((shipped.CONFIGS / "spec").glob("*.json"))
    assert [path.stem for path in paths] == ["sclerosis"]
    for path in paths:
        assert spec.parse(path).num_modalities == 3
