"""Painted sets: recipes, the brain they are of, and the lesion that is given."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from brats_gan import (
    data,
    files,
    painting,
    recipes,
    report,
    runs,
    synthesis,
    weights,
)
from brats_gan.recipes import Code, Recipe
from brats_gan.stages import painted

SIZE = 128


@pytest.fixture(scope="module")
def studio():
    return painting.load(painting.Settings())


def recipe_of(studio, seed=3, height=25, **more):
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[28:36, 36:42] = 2
    label[30:33, 38:40] = 4
    code = painting.code_of(studio, seed, height, **more)
    return Recipe(seed, code, label, studio.prints)


# --- Recipes --------------------------------------------------------------------------

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(FLOATS, FLOATS, st.none() | st.integers(0, 200), st.binary(min_size=16))
def test_a_recipe_is_read_as_it_was_written(subject, detail, height, pixels):
    label = np.frombuffer(pixels[:16], np.uint8).reshape(4, 4) % 5
    arrays = [np.array(each, np.float32) for each in (subject, detail, [0.5])]
    code = Code(arrays[0], arrays[1], height, arrays[2])
    written = Recipe(7, code, label, {"structure": "x"}, False).as_json()
    read = recipes.parse(json.loads(written), 4)
    assert read.as_json() == written
    np.testing.assert_array_equal(read.label, label)
    np.testing.assert_array_equal(read.code.subject, arrays[0])


def whole():
    zeros = np.zeros(2, np.float32)
    code = Code(zeros, zeros, 1, zeros)
    label = np.zeros((4, 4), np.uint8)
    return json.loads(Recipe(0, code, label, {"structure": "x"}).as_json())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda c: c.update(format=2), "format"),
        (lambda c: c.pop("code"), "'code' is missing"),
        (lambda c: c["code"].pop("style"), "'style' is missing"),
        (lambda c: c.update(seed=-1), "seed: -1"),
        (lambda c: c.update(seed=True), "seed: True"),
        (lambda c: c.update(mask_images=1), "mask_images"),
        (lambda c: c.pop("thresholds"), "'thresholds' is missing"),
        (lambda c: c["thresholds"].update(dice_threshold=2), "dice_threshold: 2"),
        (lambda c: c.update(models=["x"]), "models"),
        (lambda c: c["code"].update(height=1.5), "height: 1.5"),
        (lambda c: c["code"].update(subject=["x"]), "code.subject"),
        (lambda c: c["code"].update(subject=[[1], [1, 2]]), "code.subject"),
        (lambda c: c["code"].update(detail=[float("nan")]), "code.detail"),
        (lambda c: c["code"].update(detail=[1e39]), "code.detail"),
        (lambda c: c["label"].update(size=5), "5 pixels a side"),
        (lambda c: c["label"].update(runs=[[5, 16]]), "values are 0 to 4"),
        (lambda c: c["label"].update(runs=[[0, 15]]), "fill 4 x 4"),
        (lambda c: c["label"].update(runs=[[0, -1], [0, 17]]), "values are"),
        (lambda c: c["label"].update(runs=[[0]]), "how often"),
        (lambda c: c["label"].update(runs=7), "how often"),
    ],
)
def test_a_recipe_that_was_changed_is_refused_in_a_sentence(spoil, said, tmp_path):
    content = whole()
    recipes.parse(content, 4)
    spoil(content)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    with pytest.raises(files.DataError) as raised:
        recipes.read(path, 4)
    assert said in str(raised.value) and str(path) in str(raised.value)


def test_runs_are_counted_along_the_rows():
    label = np.array([[0, 0, 1], [1, 1, 2], [0, 0, 0]], np.uint8)
    runs_ = [[0, 2], [1, 3], [2, 1], [0, 3]]
    assert recipes.runs_of(label) == runs_
    np.testing.assert_array_equal(recipes.label_of_runs(runs_, 3), label)


# --- Brains ---------------------------------------------------------------------------


def test_directions_take_the_place_of_the_first_numbers_of_the_seed(studio):
    plain = painting.code_of(studio, 5, 20)
    moved = painting.code_of(studio, 5, 20, (None, 2.5))
    differs = np.flatnonzero(plain.subject != moved.subject)
    assert differs.tolist() == [1] and moved.subject[1] == 2.5
    np.testing.assert_array_equal(plain.detail, moved.detail)


def test_going_up_leads_through_one_brain_and_another_seed_is_another(studio):
    def overlap(one, other):
        f = [painting.map_of(studio, code).f for code in (one, other)]
        return 2 * (f[0] * f[1]).sum() / (f[0].sum() + f[1].sum())

    here = painting.code_of(studio, 1, 25)
    above = overlap(here, here._replace(height=26))
    other = overlap(here, painting.code_of(studio, 2, 25))
    assert above > 0.65 > 0.5 > other


def test_the_same_code_is_the_same_set_to_the_byte_whatever_was_drawn_between(studio):
    recipe = recipe_of(studio, style=4)
    first = painting.sample(studio, recipe)
    painting.sample(studio, recipe_of(studio, seed=9, height=3))
    again = painting.sample(studio, recipe)
    for name in ("structure", "background", "images", "predicted"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()


def test_pictures_are_masked_as_those_of_a_data_set_are(studio):
    recipe = recipe_of(studio)
    shown = painting.map_of(studio, recipe.code)
    args = (shown, recipe.label, recipe.code.style)
    bare = dataclasses.replace(recipe, mask_images=False)
    bare = painting.images_of(painting.as_asked(studio, bare), *args)
    masked = synthesis.masked(
        tf.constant(bare[None, ..., None]),
        tf.constant(shown.without_islands[None, ..., None]),
    )
    made = painting.images_of(studio, *args)
    assert made.tobytes() == masked.numpy().tobytes() and (bare != made).any()


def test_a_code_of_other_models_is_refused_by_its_shape(studio):
    code = painting.code_of(studio, 1, 25)
    painting.require_fitting(studio, code)
    for wrong in (
        code._replace(subject=code.subject[1:]),
        code._replace(detail=code.detail[None]),
        code._replace(style=code.style[0]),
        code._replace(height=studio.noise[1]),
        code._replace(height=None),
    ):
        with pytest.raises(ValueError, match="is due"):
            painting.require_fitting(studio, wrong)


def test_single_slices_need_no_height(studio):
    flat = studio._replace(at=None, noise=(0, 0, studio.models.code_dim))
    code = painting.code_of(flat, 1, 25, (1.0,))
    assert code.height is None and code.subject.shape == (0,)
    assert painting.map_of(flat, code).f.any()
    with pytest.raises(ValueError, match="single slices"):
        painting.volume(flat, code, np.zeros((SIZE, SIZE), np.uint8))


def test_a_real_label_is_placed_in_the_brain(studio):
    pool = data.LabelPool(weights.labels_of("pretrained"), SIZE)
    for seed in range(5):
        shown = painting.map_of(studio, painting.code_of(studio, seed, 25))
        label, subject, fitted = painting.place_real(studio, shown, pool, seed)
        assert fitted and subject in pool.names
        assert label.any() and painting.outside(shown, label) == 0
    label[0, 0] = 1
    assert painting.outside(shown, label) == 1


def test_a_lesion_is_rounded_off_above_and_below():
    label = np.zeros((9, 9), np.uint8)
    label[2:7, 2:7] = 3  # the pixel in the middle is 3 from the outline
    volume = painting.rounded(label, 9, 4, 1.0)
    np.testing.assert_array_equal(volume[4], label)
    # 2 away, what is deeper than 3 - sqrt(9 - 4) = 0.76: all; 3 away, deeper than 3.
    sizes = [np.count_nonzero(each) for each in volume]
    assert sizes[3] == sizes[5] == 25 and sizes[2] == sizes[6] == 25
    assert sizes[1] == sizes[7] == 0
    assert {*np.unique(volume)} == {0, 3}
    label[4, 4] = 1  # 1 from its outline: nowhere but in its own slice
    volume = painting.rounded(label, 9, 4, 1.0)
    assert volume[4, 4, 4] == 1 and (volume[[3, 5], 4, 4] == 3).all()


# --- On disk --------------------------------------------------------------------------


def test_a_set_is_written_once_and_another_is_not_written_over_it(studio, tmp_path):
    recipe = recipe_of(studio)
    row = painted.write(studio, recipe, tmp_path / "set")
    before = {p: p.read_bytes() for p in (tmp_path / "set").rglob("*") if p.is_file()}
    assert painted.write(studio, recipe, tmp_path / "set") == row
    assert before == {p: p.read_bytes() for p in before}
    page = (tmp_path / "set/report.html").read_text()
    assert "recipe.json makes it again" in page and "Finished: 1 samples" in page
    assert "Files" in (tmp_path / "set/README.md").read_text()
    report.write([tmp_path / "set"], tmp_path / "again.html", {})
    assert (tmp_path / "again.html").read_text() == page
    other = dataclasses.replace(recipe, seed=4)
    with pytest.raises(runs.RunError, match="not of this recipe"):
        painted.write(studio, other, tmp_path / "set")


def test_a_recipe_has_its_thresholds_whatever_those_of_the_command(studio, tmp_path):
    strict = dataclasses.replace(studio.settings, dice_threshold=1.0, mae_threshold=0.0)
    made = []
    for name, each in (
        ("one", studio),
        ("other", studio._replace(settings=strict)),
    ):
        painted.write(each, recipe_of(studio), tmp_path / name)
        made.append(
            {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.csv")}
            | {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.json")}
        )
    assert made[0] == made[1] and "manifest.csv" in made[0]


def test_a_set_of_other_models_is_refused_before_anything_is_written(studio, tmp_path):
    path = tmp_path / "recipe.json"
    wrong = {**studio.prints, "generator": "0"}
    path.write_bytes(dataclasses.replace(recipe_of(studio), models=wrong).as_json())
    with pytest.raises(files.DataError, match=r"other models \(generator differ"):
        painted.build(painting.Settings(), str(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
