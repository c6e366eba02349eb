"""Each figure of the scoreboard by hand, and the planted changes it must notice."""

import collections
import json

import numpy as np
import pytest

from benchmarks import (
    appearance,
    distances,
    judges,
    map_shape,
    paired,
    picture,
    scoring,
    two_sample,
    variety,
)
from brats_gan import data, files, io, structural, weights
from tests import nifti, scripts

quality = scripts.module("benchmarks.quality")
SIDE = 32
Value = collections.namedtuple("Value", "value")  # as of a flag


def drawn(*rows):
    """A map [1, H, W] of lines of text: # is an edge."""
    return np.array([[[c == "#" for c in row] for row in rows]], np.float32)


def ring(radius, thickness=1.5, side=64, waves=0.0):
    """A circle [side, side] about the centre; `waves` pixels of eight-fold wobble."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    at = radius + waves * np.sin(8 * np.arctan2(y, x))
    return (np.abs(np.hypot(y, x) - at) < thickness / 2).astype(np.float32)


def brains(count, seed=0, side=SIDE):
    """Sets that stand for real ones: images [N, 4, H, W] and labels [N, H, W].

    White matter, a grey rim with texture, fluid in the middle and a lesion, each slice
    of its own shape. White : grey : fluid is 1 : .75 : .4 on T1, 1 : 1.5 : 2.5 on T2.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    looks = np.array(
        [[0.0, 0.6, 0.45, 0.24, 0.3], [0.0, 0.3, 0.45, 0.75, 0.6],
         [0.0, 0.6, 0.5, 0.3, 0.9], [0.0, 0.5, 0.6, 0.2, 0.9]]
    )  # fmt: skip
    images, labels = [], []
    for _ in range(count):
        high, wide = rng.uniform(0.75, 0.9), rng.uniform(0.6, 0.75)
        far = np.hypot(y / high, x / wide)
        tissue = np.select([far < 0.3, far < 0.75, far < 1], [3, 1, 2], 0)
        cy, cx = rng.uniform(-0.4, 0.4, 2)
        lesion = (np.hypot(y - cy, x - cx) < 0.25) & (far < 0.75)
        tissue[lesion] = 4
        noise = 1 + 0.1 * rng.standard_normal((4, side, side))
        images.append(np.clip(looks[:, tissue] * noise, 0, 1))
        labels.append(np.where(lesion, 4, 0))
    return np.array(images, np.float32), np.array(labels, np.uint8)


# --- Maps -----------------------------------------------------------------------------


def test_line_depth_by_hand():
    thin = drawn(".....", ".###.", ".....")
    assert map_shape.line_depth(thin) == 1
    # Eight pixels of a 3 x 3 square are 1 off the outside, the one in the middle 2.
    thick = drawn(".....", ".###.", ".###.", ".###.", ".....")
    assert map_shape.line_depth(thick) == pytest.approx(10 / 9)


def test_thickened_lines_are_deeper():
    assert map_shape.line_depth([ring(20, 4)]) > 1.1 * map_shape.line_depth([ring(20)])


def test_pieces_and_loops_by_hand():
    # A loop closed by corners, and a piece of its own.
    maps = drawn("..#...", ".#.#..", "..#...", "......", ".....#")
    assert map_shape.topology(maps) == (2, 1)


def test_a_gap_opens_a_loop():
    f = ring(20)
    assert map_shape.topology([f]) == (1, 1)
    f[:, 32] = 0  # through the circle at both ends
    assert map_shape.topology([f]) == (2, 0)


def test_a_circle_turns_by_one_over_its_radius():
    # The outer outline of the blurred ring lies about 1.5 pixels outside.
    turn = map_shape.outline_curvature(ring(20))
    assert turn == pytest.approx(np.degrees(1 / 21.5), rel=0.1)


def test_a_wavering_outline_turns_more():
    straight, wavering = (
        map_shape.outline_curvature(ring(20, waves=w)) for w in (0, 3)
    )
    assert wavering > 1.5 * straight


def test_a_map_without_edges_has_no_outline():
    assert map_shape.outline_curvature(np.zeros((8, 8))) is None


# --- Judges ---------------------------------------------------------------------------


def subjects_in(folder, **seeds):
    for name, seed in seeds.items():
        nifti.write_subject(folder, name, (160, 160, 4), seed, labels=[2])
    return io.find_subjects(folder)


def reader(tmp_path):
    return lambda some: data.Slices(some, 16, (0, 4), tmp_path / "cache")


HELD_OUT = {"train": ["RHUH-0002_0"], "test": ["RHUH-0001_0"]}


@pytest.mark.parametrize("name", ["RHUH-0001_0", "RHUH-0001_2"])
def test_a_judge_does_not_learn_from_a_patient_who_is_held_out(name, tmp_path):
    held_out = subjects_in(tmp_path / "data", **{"RHUH-0001_0": 0})
    found = subjects_in(tmp_path / "more", **{"RHUH-0003_0": 2, name: 1})
    with pytest.raises(
        files.DataError, match=f"judging: has {name.replace('_2', '_0')}"
    ):
        judges.require_unseen(found, "judging", held_out, HELD_OUT)


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_a_judge_does_not_learn_from_who_is_held_out_under_another_name(
    extension, tmp_path
):
    """Known by the files, or, in files of another kind, by what networks see."""
    held_out = subjects_in(tmp_path / "data", **{"RHUH-0001_0": 0})
    nifti.write_subject(
        tmp_path / "more", "b", (160, 160, 4), 0, labels=[2], extension=extension
    )
    found = io.find_subjects(tmp_path / "more")
    in_range = 0, 4
    given = found, "judging", held_out, HELD_OUT
    how = reader(tmp_path)
    message = "RHUH-0001_0, which is held out, is the same subject as b, which judging"
    with pytest.raises(files.DataError, match=message):
        judges.require_unseen(*given, *((how, in_range) if extension == ".nii" else ()))


def test_kept_judges_say_whom_they_learnt_from_and_serve_no_other_files(
    tmp_path, monkeypatch
):
    calls = []

    def train(slices, sights, *how):
        calls.append(slices.names)
        return {sight: judges.build_unet(16, len(sight), 1) for sight in sights}

    monkeypatch.setattr(judges, "train", train)
    found = subjects_in(tmp_path / "more", a=1, b=2)
    record = judges.require_unseen(found, "judging", [], {"test": []})
    for _ in range(2):  # before and after another scan has the name of the second
        slices = data.Slices(found, 16, (0, 4), tmp_path / "cache")
        for _ in range(2):
            judges.trained(slices, [(0,)], 1, 1, 1, tmp_path / "kept", record)
        found = subjects_in(tmp_path / "more", b=3)
    assert calls == [["a", "b"]] * 2
    for path in (tmp_path / "kept").glob("*.json"):
        kept = files.unsealed(json.loads(path.read_text()))
        assert kept["inputs"] == record and len(kept["files"]) == 1


def test_the_scoreboard_refuses_judges_that_would_know_who_is_held_out(
    tmp_path, monkeypatch
):
    held_out = subjects_in(tmp_path / "data", a=0)
    subjects_in(tmp_path / "more", b=0)
    monkeypatch.setattr(quality, "_JUDGE_DATA", Value(str(tmp_path / "more")))
    how = reader(tmp_path)
    with pytest.raises(files.DataError, match="--judge_data_dir=.* trains on"):
        quality.judges_of([], held_out, {"test": ["a"]}, how, (0, 4))


def test_ablations_refuse_such_judges_before_the_first_step(tmp_path, monkeypatch):
    ablations = scripts.module("benchmarks.ablations")
    subjects_in(tmp_path / "data", a=0, b=1)
    subjects_in(tmp_path / "more", c=0, d=1)
    for name, value in (
        ("_DATA", tmp_path / "data"),
        ("_JUDGE_DATA", tmp_path / "more"),
        ("_OUTPUT", tmp_path / "out"),
        ("_HELD_OUT", 0.375),
    ):
        monkeypatch.setattr(ablations, name, Value(value))
    monkeypatch.setattr(ablations, "run", lambda *command: pytest.fail("trains"))
    with pytest.raises(files.DataError, match="--judge_data_dir=.* trains on"):
        ablations.main([])
    assert not (tmp_path / "out").exists()


# --- Classifier -----------------------------------------------------------------------


def test_auc_by_hand():
    # Of eight pairs five are in order and one is tied.
    assert two_sample.auc([1, 2], [0, 2, 3, 4]) == pytest.approx(5.5 / 8)
    assert two_sample.auc([0, 0], [0, 0]) == 0.5


def test_no_subject_is_in_both_halves():
    groups = np.repeat(np.arange(7), 3)
    one, other = two_sample.halves(groups, np.random.default_rng(0))
    assert not set(groups[one]) & set(groups[other])
    assert sorted([*one, *other]) == list(range(21))


def test_one_subject_cannot_be_halved():
    with pytest.raises(ValueError, match="one group"):
        two_sample.halves(np.zeros(5), np.random.default_rng(0))


def told_apart(change=lambda x: x, count=120):
    """Mean AUC of brains against other brains that were changed."""
    one, other = brains(count, 1)[0], brains(count, 2)[0]
    sides = (np.moveaxis(x, 1, -1) for x in (one, change(other)))
    return np.mean(two_sample.told_apart(*sides, np.arange(count), np.arange(count)))


def test_the_classifier_cannot_tell_like_from_like():
    assert 0.3 < told_apart() < 0.7


def test_the_classifier_notices_a_blur_of_one_pixel():
    assert told_apart(two_sample.blurred) > 0.9


def test_the_classifier_notices_a_brighter_t2():
    gain = np.array([1, 1.2, 1, 1], np.float32)[:, None, None]
    assert told_apart(lambda x: x * gain) > 0.9


def test_normalised_brains_have_one_mean_and_sd():
    images = brains(3)[0] * np.array([1, 0.5, 1, 1], np.float32)[:, None, None]
    even = two_sample.normalised(images)
    for before, after in zip(images, even, strict=True):
        inside = before.any(0)
        np.testing.assert_allclose(after[:, inside].mean(1), two_sample.LOOK[0], 1e-4)
        np.testing.assert_allclose(after[:, inside].std(1), two_sample.LOOK[1], 1e-4)
        assert not after[:, ~inside].any()


def test_a_normalised_copy_does_not_show_a_gain():
    images, _ = brains(3)
    np.testing.assert_allclose(
        two_sample.normalised(images), two_sample.normalised(images * 0.5), atol=1e-4
    )


# --- Appearance -----------------------------------------------------------------------


def test_the_spectrum_of_a_wave_is_at_its_frequency():
    wave = np.cos(2 * np.pi * 3 * np.arange(SIDE) / SIDE)
    images = np.broadcast_to(wave, (2, 4, SIDE, SIDE))
    spectrum = appearance.radial_spectrum(images)
    assert spectrum.shape == (4, SIDE // 4)
    assert (spectrum.argmax(1) == 2).all()  # r = 1 comes first


def test_twice_the_amplitude_is_six_decibels():
    images, _ = brains(4)
    error = appearance.spectrum_error(2 * images, images)
    np.testing.assert_allclose(error, 20 * np.log10(2), rtol=1e-4)


def test_a_blur_of_one_pixel_lowers_the_spectrum():
    images, _ = brains(4)
    error = appearance.spectrum_error(two_sample.blurred(images), images)
    # A Gaussian of sd 1 leaves exp(-w^2) of the power at w = 2 pi / 4: -10.7 dB.
    np.testing.assert_allclose(error, 10.7, atol=0.7)


def test_histogram_distance_of_a_shift_is_the_shift():
    images, _ = brains(4)
    images *= 0.8
    brighter = np.where(images > 0, images + 0.1, 0)
    np.testing.assert_allclose(
        appearance.histogram_distance(brighter, images), 0.1, atol=1e-3
    )


def test_three_classes_are_told_by_their_intensities():
    values = np.array([0.1, 0.5, 0.12, 0.9, 0.48, 0.88])
    assert appearance.three_classes(values).tolist() == [0, 1, 0, 2, 1, 2]


def test_tissues_have_the_contrast_that_they_were_given():
    ratios = appearance.tissue_ratios(*brains(10, side=64))
    # See `brains`.
    assert ratios["grey", "t1"] == pytest.approx(0.75, abs=0.04)
    assert ratios["grey", "t2"] == pytest.approx(1.5, abs=0.08)
    assert ratios["fluid", "t1"] == pytest.approx(0.4, abs=0.04)


def test_a_flatter_contrast_of_tissues_is_noticed():
    images, labels = brains(10, side=64)
    flat = images.copy()
    inside = images[:, 1] > 0
    flat[:, 1][inside] = 0.5 * images[:, 1][inside] + 0.2
    before, after = (appearance.tissue_ratios(x, labels) for x in (images, flat))
    # (0.5 * 0.45 + 0.2) / (0.5 * 0.3 + 0.2) instead of 0.45 / 0.3.
    assert after["grey", "t2"] == pytest.approx(0.425 / 0.35, abs=0.05)
    assert after["grey", "flair"] == before["grey", "flair"]


def test_noise_has_no_contrast_of_tissues():
    images, labels = brains(10, side=64)
    noise = np.random.default_rng(0).uniform(0.2, 0.8, images.shape)
    ratios = appearance.tissue_ratios(np.where(images > 0, noise, 0), labels)
    assert ratios["grey", "t1"] == pytest.approx(1, abs=0.05)
    assert ratios["fluid", "t2"] == pytest.approx(1, abs=0.05)


# --- Variety --------------------------------------------------------------------------


def test_the_window_fits_at_every_scale():
    for side, count in ((32, 3), (64, 4), (128, 5), (192, 5)):
        weights = variety.scale_weights(side)
        assert len(weights) == count
        assert sum(weights) == pytest.approx(1)
        assert side // 2 ** (count - 1) >= variety.FILTER


def test_ms_ssim_of_a_slice_with_itself_is_one():
    images, _ = brains(2)
    np.testing.assert_allclose(variety.ms_ssim(images, images), 1, atol=1e-5)


def test_pairs_are_never_of_one_subject():
    groups = np.repeat(np.arange(3), 4)
    pairs = variety.random_pairs(groups, 20, 0)
    assert len(pairs) == 20
    assert (groups[pairs[:, 0]] != groups[pairs[:, 1]]).all()


def test_a_repeated_sample_raises_ms_ssim():
    images, _ = brains(12)
    repeated = images.copy()
    repeated[:6] = images[0]
    groups = np.arange(12)
    before, after = (variety.similarity(x, groups) for x in (images, repeated))
    assert (after > before + 0.05).all()


def test_a_copy_of_a_training_slice_is_nearest_to_it():
    from brats_gan import privacy

    known, _ = brains(8, 1)
    real, _ = brains(8, 2)
    made = real.copy()
    made[:2] = known[3:5]
    described = privacy.describe(known)
    rows = variety.nearest_rows(made, real, described, known.__getitem__)
    assert rows["above every real"] == (0.25, 0)
    assert rows["MS-SSIM"][0] > rows["MS-SSIM"][1]


# --- Distances ------------------------------------------------------------------------


def test_random_features_are_the_same_each_time():
    images, _ = brains(3)
    one, other = (distances.random_features(images) for _ in range(2))
    assert one.shape == (3, sum(distances.RANDOM_WIDTHS))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("change", ["blur", "brighter T2"])
def test_the_kernel_distance_notices(change):
    known, made, real = (brains(60, seed)[0] for seed in range(3))
    if change == "blur":
        made = two_sample.blurred(made)
    else:
        made = made * np.array([1, 1.2, 1, 1], np.float32)[:, None, None]
    features = [distances.random_features(x) for x in (made, real, known)]
    features = [distances.standardised(x, features[-1]) for x in features]
    changed, chance = distances.rows(*features)["kernel"]
    assert changed > 1.5 * max(chance, 0) + 0.01


# --- Paired ---------------------------------------------------------------------------


def test_paired_scores_by_hand():
    real = np.zeros((1, 4, 16, 16), np.float32)
    real[..., 4:12, 4:8], real[..., 4:12, 8:12] = 0.2, 0.6
    scores = paired.scores(np.where(real > 0, real + 0.1, 0), real)
    np.testing.assert_allclose(scores["L1"], 0.1, atol=1e-6)
    np.testing.assert_allclose(scores["correlation"], 1, atol=1e-5)
    opposite = np.where(real > 0, 0.8 - real, 0)
    np.testing.assert_allclose(
        paired.scores(opposite, real)["correlation"], -1, atol=1e-5
    )
    np.testing.assert_allclose(paired.scores(real, real)["SSIM"], 1, atol=1e-5)


def test_a_blur_and_another_slice_cost_paired_ssim():
    real, _ = brains(6)
    blurred = paired.scores(two_sample.blurred(real), real)["SSIM"]
    other = paired.scores(np.roll(real, 1, 0), real)["SSIM"]
    assert (other < blurred).all() and (blurred < 0.99).all()


def test_the_generator_is_given_the_map_without_the_lesion():
    import tensorflow as tf

    images, labels = brains(5)
    styles = np.arange(20, dtype=np.float32).reshape(5, 4, 1)
    seen = []

    def generate(f, label, style):
        seen.append((f.numpy()[..., 0], label.numpy(), style.numpy()))
        return tf.ones([len(f), 4, SIDE, SIDE, 1])

    made = paired.made_from(generate, images, labels, styles, 0.07, batch_size=4)
    assert made.shape == images.shape
    f, label, style = (np.concatenate(each) for each in zip(*seen, strict=True))
    assert len(f) == 8  # two batches of one shape
    np.testing.assert_array_equal(label[:5], labels)
    np.testing.assert_array_equal(style[:5], styles)
    assert f[:5][labels == 0].any() and not f[:5][labels > 0].any()
    # Nothing is left outside the brain of T1.
    assert not made[:, :, 0].any()
    assert made[:, 0][labels > 0].all()


# --- Games, goals, picture ------------------------------------------------------------


def test_accuracies_are_of_the_end_of_the_log(tmp_path):
    lines = [
        f'{{"step": {s}, "accuracy_D_f": {0.5 if s < 18 else 0.7}}}' for s in range(20)
    ]
    (tmp_path / "losses.jsonl").write_text("\n".join(lines) + "\n")
    table = quality.Table()
    scoring.score_games(table, tmp_path)
    assert table.rows["game: accuracy of D_f"]["made"] == 0.7
    assert "| game: accuracy of D_f | value | 0.700 |" in table.goals()
    assert table.goals().endswith("yes |")


def test_a_run_without_accuracies_has_no_games(tmp_path):
    (tmp_path / "losses.jsonl").write_text('{"step": 20, "generator": 1.0}\n')
    table = quality.Table()
    scoring.score_games(table, tmp_path)
    assert not table.rows


@pytest.mark.parametrize(
    "name, made, ceiling, reached",
    [
        ("classifier AUC, maps", 0.64, 0.5, True),
        ("classifier AUC, maps", 0.66, 0.5, False),
        ("stage 1: line depth", 1.24, 1.19, True),
        ("stage 1: line depth", 1.51, 1.19, False),
        ("MS-SSIM among samples, t2", 0.52, 0.5, True),
        ("MS-SSIM among samples, t2", 0.46, 0.5, False),
        ("kernel distance", 0.14, 0.1, True),
        ("kernel distance", 0.16, 0.1, False),
        ("kernel distance", 0.16, -0.1, False),  # no share of a chance below 0
        ("core Dice, four channels", 0.0, 0.0, False),  # of a judge that knows nothing
    ],
)
def test_a_goal_is_reached_or_not(name, made, ceiling, reached):
    table = quality.Table()
    table.add(name, made, ceiling)
    assert table.goals().endswith("| yes |" if reached else "| **no** |")


def test_the_mean_of_runs_leaves_out_what_is_lacking():
    one, other = quality.Table(), quality.Table()
    one.add("a", 1.0, 2.0)
    other.add("a", 3.0, again=5.0)
    expected = {"made": 2.0, "ceiling": 2.0, "floor": None, "again": 5.0}
    assert quality.mean_of([one, other]).rows["a"] == expected


def test_the_picture_is_of_what_there_is(tmp_path):
    import cv2

    sets = {name: brains(7, seed) for seed, name in enumerate(picture.COLOURS)}
    maps = {
        name: np.stack([ring(10, side=SIDE)] * 7) for name in ("real, held out", "made")
    }
    sizes = []
    for name, parts in {"all": (sets, maps), "maps": (None, maps)}.items():
        picture.draw(tmp_path / f"{name}.png", *parts)
        sizes.append(cv2.imread(str(tmp_path / f"{name}.png")).shape[0])
    assert sizes[0] > 3 * sizes[1]


def test_maps_of_a_dense_code_with_the_papers_layers_are_scored(tmp_path):
    """As those of configs/faithful: networks are built as their run says."""
    build = {"image_size": 32, "width": 2, "code_dim": 16, "code_norm": True}
    build |= {"spectral": False, "output_norm": True, "code_game": True}
    nets = structural.build(**build)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/flags.txt").write_text("# train_structural.py\n")
    found = structural.unfitted(16)
    description = {"stage": "structural", "build": build, "steps": 1}
    kept = weights.Stored("here", description, weights.arrays_of(nets), found)
    weights.write(tmp_path / "run/weights", kept)
    rng = np.random.default_rng(0)
    f = (rng.random([8, 32, 32]) < 0.2).astype(np.float32)
    maps = scoring.Maps(f, np.zeros_like(f), np.arange(8))
    table = quality.Table()
    export = None, {"code_dim": 16, "edge_threshold": 0.5}
    scoring.score_maps(table, tmp_path / "run", export, maps, maps, maps)
    assert table.rows["stage 1: density"]["made"] == pytest.approx(f.mean(), abs=1e-4)
    assert table.rows["stage 1: nearest Dice"]["made"] == pytest.approx(1.0)
    error = np.abs(nets["MASK"](f[..., None]).numpy()).mean()
    assert table.rows["stage 1: MASK error"]["made"] == pytest.approx(error, abs=1e-3)
