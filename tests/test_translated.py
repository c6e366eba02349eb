"""Slices of patients: translations and floors by hand, and what is trained and kept."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import translated
from brats_gan import multimodal, runs, spec
from brats_gan import styles as of_subjects
from tests import nifti, scripts

patients = scripts.module("benchmarks.patients")
SIDE = 32
COUNT = spec.BRATS.num_modalities


def discs(count=3):
    """Images [N, M, H, W] of grainy discs, each contrast of its own brightness, and
    labels [N, H, W] with a square of oedema."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1) * 2 - 1
    disc = np.hypot(y, x) < 0.8
    bright = 0.2 + 0.2 * np.arange(COUNT)[:, None, None]
    images = disc * bright * (1 - 0.2 * rng.random((count, COUNT, SIDE, SIDE)))
    labels = np.zeros((count, SIDE, SIDE), np.uint8)
    labels[:, 12:16, 12:16] = 2
    return images.astype(np.float32), labels


def test_the_mean_to_each_contrast_is_without_what_is_rebuilt():
    # Columns without their 9: (3 + 5) / 2, (1 + 6) / 2, (2 + 4) / 2.
    square = [[9, 1, 2], [3, 9, 4], [5, 6, 9]]
    np.testing.assert_array_equal(translated.to_each(square), [4, 3.5, 3])


def test_an_input_taken_for_its_translation_is_right_on_the_diagonal_alone():
    images, _ = discs()
    ways = translated.untranslated(images)
    np.testing.assert_array_equal(ways[:, 2, 1], images[:, 2])
    found = translated.scores(ways, images)
    assert {name: found[name].shape for name in found} == {
        name: (COUNT, COUNT) for name in translated.MEASURES
    }
    # From T1 (row) to T2 (column); a disc of .2 for one of .4, less grain of 0.9.
    assert found["L1"][0, 1] == pytest.approx(0.18, abs=0.005)
    same = np.eye(COUNT, dtype=bool)
    np.testing.assert_allclose(found["SSIM"][same], 1, atol=1e-5)
    np.testing.assert_allclose(found["L1"][same], 0, atol=1e-9)
    assert (found["SSIM"][~same] < 0.99).all() and (found["L1"][~same] > 0.1).all()


def test_quantiles_are_moved_by_hand():
    images = np.zeros((1, 2, 1, 4), np.float32)
    images[0, 0, 0] = [0.0, 0.15, 0.3, 0.75]
    images[0, 1, 0] = [0.0, 0.3, 1.0, 0.1]
    quantiles = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.4, 0.6, 0.8, 1.0]])
    own = (quantiles - of_subjects.CENTRE) / of_subjects.SPREAD
    ways = translated.in_brightness(images, own[None])
    # Below .5 all is doubled; from .5 to 1 it is 1, the highest that was asked for.
    np.testing.assert_allclose(ways[0, 0, 1, 0], [0, 0.3, 0.6, 1.0], atol=1e-6)
    # The other way all is halved; 1 is the highest quantile and the end of the range.
    np.testing.assert_allclose(ways[0, 1, 0, 0, [0, 1, 3]], [0, 0.15, 0.05], atol=1e-6)
    for each in range(2):
        np.testing.assert_allclose(ways[0, each, each], images[0, each], atol=1e-6)


def test_slices_are_found_by_the_nearest_height():
    images = np.arange(3)[:, None, None, None] * np.ones([3, COUNT, 2, 2])
    near = translated.at_heights(images, [10, 12, 20], [11, 0, 17, 40])
    # 11 is as far from 10 as from 12: the first.
    np.testing.assert_array_equal(near[:, 0, 0, 0], [0, 0, 2, 2])


def test_floors_are_drawn_in_the_brain_of_the_slice():
    images, _ = discs()
    made = translated.in_brain_of(np.full([1, COUNT, SIDE, SIDE], 0.5), images)
    assert made.shape == images.shape
    assert not made[..., 0].any() and not made[..., 0, :].any()
    assert (made[:, :, images[0, 0] > 0] == 0.5).all()


def test_each_contrast_is_given_and_its_translations_are_where_they_belong():
    images, labels = discs(5)
    own = np.arange(5)[:, None, None] * np.ones([5, COUNT, 5])

    def translate(x, label, style):  # tenths of the target, hundredths of the style
        np.testing.assert_array_equal(label[0], labels[0])
        level = 0.1 * np.arange(COUNT)[None, :] + style.numpy()[..., 0] / 100
        return tf.constant(0.3 + level[..., None, None, None] + 0 * x.numpy()[:, None])

    ways = translated.made_from(translate, images, labels, own, batch_size=4)
    assert ways.shape == (5, COUNT, COUNT, SIDE, SIDE)
    middle = ways[:, :, :, SIDE // 2, SIDE // 2]
    wanted = 0.3 + 0.1 * np.arange(COUNT) + np.arange(5)[:, None, None] / 100
    np.testing.assert_allclose(middle, np.broadcast_to(wanted, middle.shape), atol=1e-5)


def test_a_translation_is_by_the_passes_of_the_training_step(eagerly):
    """Of one slice at a time, as sheets draw it, in the style of the target."""
    nets = multimodal.build(SIDE, 2)
    options = multimodal.Options()
    images, labels = discs(2)
    x, label = tf.constant(images[:, 1, ..., None]), tf.constant(labels, tf.int32)
    rng = np.random.default_rng(1)
    style = tf.constant(rng.standard_normal([2, COUNT, 5]), tf.float32)
    made = translated.translator(nets, options)(x, label, style)
    f = multimodal.extract(x, label, options)
    for row, target in np.ndindex(2, COUNT):
        one = slice(row, row + 1)
        alone = multimodal.decode(
            nets,
            nets["EC"](x[one], training=False),
            tf.constant([target]),
            label[one],
            f[one],
            style[one, target],
            options,
            training=False,
        )
        np.testing.assert_allclose(made[row, target], alone[0], atol=1e-5)


# --- Runs -----------------------------------------------------------------------------


GIVEN = {"data_dir": "/data", "precision": "auto", "width": 2}


def test_arms_differ_in_how_they_begin_and_in_nothing_else():
    apart = {*patients.asked("pretrained", 10, GIVEN)} ^ {
        *patients.asked("scratch", 10, GIVEN)
    }
    assert apart == {"--init_from=pretrained", "--first_phase=0.0"}


def test_a_run_has_finished_with_the_weights_of_its_last_step(tmp_path, monkeypatch):
    command = patients.asked("scratch", 10, GIVEN)
    assert not patients.finished(tmp_path / "none", command)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "weights.json").write_text("{}")
    lines = [each.replace("auto", "float32") for each in command]
    (tmp_path / "flags.txt").write_text("\n".join(["# of a test", *lines]) + "\n")
    stored = type("Stored", (), {"description": {"steps": 10}})
    monkeypatch.setattr(patients.weights, "read", lambda folder: stored)
    assert patients.finished(tmp_path, command)
    stored.description = {"steps": 5}  # of before --steps was raised
    assert not patients.finished(tmp_path, command)
    with pytest.raises(runs.RunError, match="made with --width=2, and --width=4 is"):
        patients.finished(
            tmp_path, patients.asked("scratch", 10, {**GIVEN, "width": 4})
        )
    with pytest.raises(runs.RunError, match="made with --init_from=None"):
        patients.finished(tmp_path, patients.asked("pretrained", 10, GIVEN))


def test_scores_are_kept_for_the_same_weights_and_slices_alone(tmp_path):
    path = tmp_path / "scores" / "a.npz"
    one = patients.kept(path, "x", lambda: {"made SSIM": np.ones(4)})
    again = patients.kept(path, "x", lambda: pytest.fail("is made again"))
    assert again.keys() == one.keys() == {"made SSIM"}
    np.testing.assert_array_equal(again["made SSIM"], np.ones(4))
    other = patients.kept(path, "y", lambda: {"made SSIM": np.zeros(4)})
    assert not other["made SSIM"].any()
    assert [each.name for each in path.parent.iterdir()] == ["a.npz"]


@pytest.mark.once
def test_runs_are_trained_and_scored_and_not_again_when_they_are_there(tmp_path):
    for number in range(2):
        nifti.write_subject(tmp_path / "data", f"s{number}", seed=number)
    split = {"seed": 0, "train": ["s0"], "test": ["s1"]}
    (tmp_path / "given.json").write_text(json.dumps(split))
    command = [
        *(sys.executable, "-m", "benchmarks.patients", "--arms=scratch", "--steps=1"),
        *(f"--data_dir={tmp_path / 'data'}", f"--split={tmp_path / 'given.json'}"),
        *("--image_size=32", "--width=2", "--lesion_width=2", "--slices=2:6"),
        *(f"--output_dir={tmp_path / 'out'}", f"--png={tmp_path / 'shown.png'}"),
    ]
    said = [
        subprocess.check_output([*command, *more], text=True, cwd=scripts.ROOT)
        for more in ([], ["--notrain"])
    ]
    first, again = (json.loads(each.splitlines()[-1]) for each in said)
    assert first == again
    assert first["rows"].keys() >= {"scratch 1 steps", "the input"}
    assert "pretrained as shipped" not in first["rows"]
    rows = first["rows"]["scratch 1 steps"]
    assert np.shape(rows["SSIM from each"]) == (COUNT, COUNT)
    assert all(0 < value < 1 for value in rows["made SSIM"])
    # Who takes an input for itself is right.
    np.testing.assert_allclose(
        np.diag(first["rows"]["the input"]["SSIM from each"]), 1, atol=1e-4
    )
    assert (tmp_path / "shown.png").exists()
    assert (tmp_path / "out" / "scratch-1" / "weights").is_dir()
