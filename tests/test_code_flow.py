"""CF_f, which carries drawn codes to where codes of maps lie (D52)."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import code_flow, runs, structural, volume_maps, weights
from brats_gan.data import Source
from brats_gan.stages import flows
from brats_gan.stages import structural as stage
from tests import nifti
from tests.chains import TINY

SIDE, CHANNELS, CONTRASTS = 4, 1, 2
DIM = SIDE * SIDE * CHANNELS


def codes_of_two_kinds(count):
    """[N, DIM]: all numbers of a code are about 1, or all about -1."""
    rng = np.random.default_rng(0)
    kind = rng.choice([-1.0, 1.0], count)[:, None]
    return (kind + 0.05 * rng.standard_normal((count, DIM))).astype(np.float32)


def gaussian_of(codes):
    covariance = np.cov(codes, rowvar=False) + 1e-4 * np.eye(DIM)
    factor = np.linalg.cholesky(covariance).astype(np.float32)
    return codes.mean(0).astype(np.float32), factor


def drawn(factor, count=200):
    noise = np.random.default_rng(1).standard_normal((count, DIM)).astype(np.float32)
    return (noise @ factor.T) / code_flow.scale(factor)


def trained(codes, heights, contrasts, count_of_heights):
    """CF_f after 300 steps on codes [N, DIM] of slices [N]."""
    net = code_flow.build(SIDE, CHANNELS, CONTRASTS, width=8)
    optimizer = runs.adam(net.trainable_variables, 3e-3, 300, beta_1=0.9)
    of_maps = code_flow.Codes(codes, np.full_like(codes, 0.01), heights, contrasts)
    step = code_flow.make_train_step(
        net, optimizer, of_maps, count_of_heights, *gaussian_of(codes)
    )
    for k in range(300):
        step(None, tf.constant([0, k]))
    return net


def same_slice(count, height, contrast):
    return code_flow.Origin(tf.fill([count], height), tf.fill([count], contrast))


def test_scale_is_the_sd_of_each_number():
    factor = np.array([[3.0, 0.0], [3.0, 4.0]])  # covariance [[9, 9], [9, 25]]
    np.testing.assert_allclose(code_flow.scale(factor), [3.0, 5.0])


def test_untrained_it_leaves_codes_where_they_were_drawn():
    net = code_flow.build(SIDE, CHANNELS, CONTRASTS, width=8)
    code = tf.constant(drawn(np.eye(DIM, dtype=np.float32), 3))
    origin = code_flow.Origin(tf.constant([0.0, 0.5, 1.0]), tf.constant([0, 1, 1]))
    np.testing.assert_array_equal(code_flow.carry(net, code, origin), code)


def test_trained_it_carries_codes_from_between_two_kinds_to_either():
    tf.keras.utils.set_random_seed(0)
    codes = codes_of_two_kinds(500)
    mean, factor = gaussian_of(codes)
    net = trained(codes, np.zeros(500, int), np.zeros(500, int), 1)
    begun = drawn(factor)
    ended = code_flow.carry(net, tf.constant(begun), same_slice(200, 0.0, 0)).numpy()

    def between(each):
        return float(np.mean(np.abs(each.mean(1)) < 0.5))

    # Of a Gaussian 0.38 lie within half a sd of the mean, where no code is.
    assert between(begun) > 0.3 and between(ended) < 0.15
    assert 0.3 < np.mean(ended.mean(1) > 0) < 0.7  # both kinds, as often


@pytest.mark.parametrize("told", ["height", "contrast"])
def test_trained_it_carries_codes_to_the_kind_of_the_slice_that_it_is_told(told):
    tf.keras.utils.set_random_seed(0)
    codes = codes_of_two_kinds(500)
    kind = (codes.mean(1) > 0).astype(int)
    same = np.zeros_like(kind)
    net = trained(codes, *((kind, same) if told == "height" else (same, kind)), 2)
    begun = tf.constant(drawn(gaussian_of(codes)[1]))
    for which, sign in ((0, -1), (1, 1)):
        of = (float(which), 0) if told == "height" else (0.0, which)
        ended = code_flow.carry(net, begun, same_slice(200, *of)).numpy()
        assert np.mean(sign * ended.mean(1) > 0.5) > 0.9


def test_noise_says_of_which_slice_a_map_is_and_each_is_as_frequent_as_in_training():
    noise = np.random.default_rng(0).standard_normal((4000, 16), np.float32)
    shares = np.float32([0.1, 0.0, 0.6, 0.3])
    height, contrast = map(np.asarray, code_flow.origin_of(noise, shares, 4))
    assert set(np.round(3 * height)) == {0, 2, 3}  # no map was of height 1
    for number, share in enumerate(shares):
        assert np.mean(np.round(3 * height) == number) == pytest.approx(share, abs=0.02)
        assert np.mean(contrast == number) == pytest.approx(0.25, abs=0.02)
    assert (
        abs(np.corrcoef(height, contrast)[0, 1]) < 0.05
    )  # the one says nothing of the other


def test_noise_in_the_directions_that_are_read_gives_the_slice_worked_out_by_hand():
    all_alike, in_turn = np.ones(16) / 4, np.tile([1, -1], 8) / 4
    # Below 1.0 lie 0.84 of N(0, 1), below -1.0 0.16: of heights with shares of a
    # fifth the last and the first, of four contrasts too.
    noise = np.float32([all_alike + in_turn, all_alike - in_turn, -all_alike - in_turn])
    height, contrast = code_flow.origin_of(noise, np.full(5, 0.2, np.float32), 4)
    np.testing.assert_allclose(height, [1, 1, 0])
    np.testing.assert_array_equal(contrast, [3, 0, 0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run, settings, source) of a finished stage 1."""
    root = tmp_path_factory.mktemp("flow")
    for number in range(3):
        nifti.write_subject(root / "data", f"s{number}", (160, 160, 4), number)
    source = Source(str(root / "data"), slices=(0, 4))
    settings = stage.Settings(**TINY, steps=2, code_channels=1, flow_steps=3)
    return stage.train(settings, source, root / "run"), settings, source


def test_a_run_leaves_what_draws_maps_through_it(run):
    stored = weights.find(run[0], "structural")
    assert stored.found.heights is not None and stored.arrays[structural.FLOW]
    nets = weights.networks(stored, structural.drawing)
    code = np.random.default_rng(0).standard_normal((3, 16), np.float32)
    f, _ = structural.generate(nets, code, stored.found)
    export, _ = runs.load_export(run[0], "structure")
    made = export.generate(tf.constant(code))["structure"]
    assert np.mean(made != f) < 0.01  # last bits about a threshold


def test_it_has_steps_and_losses_of_its_own(run):
    lines = (run[0] / flows.FOLDER / "losses.jsonl").read_text().splitlines()
    assert '"step": 3' in lines[-1] and '"flow"' in lines[-1]


def test_a_run_that_ends_in_it_goes_on_to_the_same_weights(run, tmp_path, monkeypatch):
    whole, settings, source = run
    make, made = code_flow.make_train_step, []

    def broken(*given):
        step = make(*given)

        def until_the_third(batch, seed):
            made.append(seed)
            if len(made) > 2:
                raise runs.RunError("no power")
            return step(batch, seed)

        return until_the_third

    monkeypatch.setattr(code_flow, "make_train_step", broken)
    with pytest.raises(runs.RunError, match="no power"):
        stage.train(settings, source, tmp_path / "run")
    assert "no power" in (tmp_path / "run/report.html").read_text()
    monkeypatch.setattr(code_flow, "make_train_step", make)
    stage.train(settings, source, tmp_path / "run")
    one, other = (
        weights.find(each, "structural").arrays[structural.FLOW]
        for each in (whole, tmp_path / "run")
    )
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-5, atol=1e-6)


def test_a_run_that_has_gone_on_trains_it_anew_on_its_new_codes(run, tmp_path):
    whole, settings, source = run
    again = tmp_path / "run"
    shutil.copytree(whole, again)
    stage.train(dataclasses.replace(settings, steps=3), source, again)
    lines = (again / flows.FOLDER / "losses.jsonl").read_text().splitlines()
    assert len(lines) == 1  # of one training, which had three steps
    one, other = (
        weights.find(each, "structural").arrays[structural.FLOW]
        for each in (whole, again)
    )
    assert any((one[name] != other[name]).any() for name in one)


def test_its_steps_may_be_raised_and_it_goes_on_but_not_be_fewer_than_are_done(
    run, tmp_path
):
    whole, settings, source = run
    again = tmp_path / "run"
    shutil.copytree(whole, again)
    before = (again / flows.FOLDER / "losses.jsonl").read_text().splitlines()
    longer = dataclasses.replace(settings, flow_steps=5)
    stage.train(longer, source, again)
    lines = (again / flows.FOLDER / "losses.jsonl").read_text().splitlines()
    assert lines[: len(before)] == before and '"step": 5' in lines[-1]
    flags = (again / "flags.txt").read_text()
    with pytest.raises(runs.RunError, match="has done 5 steps of CF_f, and 4 are"):
        stage.train(dataclasses.replace(settings, flow_steps=4), source, again)
    forgotten = dataclasses.replace(settings, flow_steps=None)
    with pytest.raises(runs.RunError, match="--flow_steps=5  ->  "):
        stage.train(forgotten, source, again)
    assert (again / "flags.txt").read_text() == flags


def test_codes_are_those_of_the_maps_of_their_heights_and_contrasts(run):
    whole, settings, source = run
    stored = weights.find(whole, "structural")
    nets = weights.networks(stored, structural.drawing)
    training, _, _ = source.subjects(whole)
    slices = source.read(training, settings.image_size)
    made = flows.codes(nets, slices, settings.beta, most=50)
    rows = {tuple(each): row for row, each in enumerate(slices.index.tolist())}
    subjects = range(len(slices.names))
    for mean, height, contrast in list(zip(*made[::2], made.contrasts, strict=False))[
        :9
    ]:
        shown = [rows[s, height] for s in subjects if (s, height) in rows]
        x = slices.intensities(shown)[:, contrast, ..., None]
        label = slices.labels(shown)
        batch = {"x": tf.constant(x), "label": tf.constant(label)}
        f, _ = structural.extract(batch, settings.beta)
        near = np.abs(structural.encode(nets, f)[0] - mean).max(1)
        assert near.min() < 1e-3  # of one of the subjects


def test_of_one_volume_all_slices_are_of_one_contrast_and_of_their_heights(
    run, monkeypatch
):
    stored = weights.find(run[0], "structural")
    nets, found = weights.networks(stored, structural.drawing), stored.found
    told = []

    def seen(net, code, origin):
        told.append(tuple(map(np.asarray, origin)))
        return code

    monkeypatch.setattr(code_flow, "carry", seen)
    count, dim = found.stacks.mean.shape
    rng = np.random.default_rng(0)
    subject = rng.standard_normal((2, found.stacks.subject_dim), np.float32)
    subject[:, -1] = [-2.0, 2.0]  # the contrast: of four the first, and the last
    detail = rng.standard_normal((2, count, dim), np.float32)
    volume_maps.generate(nets, found, subject, detail)
    height, contrast = told.pop()
    np.testing.assert_allclose(height, np.tile(np.arange(count) / (count - 1), 2))
    np.testing.assert_array_equal(contrast, np.repeat([0, 3], count))
    volume_maps.generate_at(nets, found, [count - 1, 0], subject, detail[:, 0])
    height, contrast = told.pop()
    assert height.tolist() == [1, 0] and contrast.tolist() == [0, 3]


def test_a_run_with_it_does_not_go_on_without_it(run):
    whole, settings, source = run
    without = dataclasses.replace(settings, flow_steps=0)
    with pytest.raises(runs.RunError, match="--flow_steps=3  ->  --flow_steps=0"):
        stage.train(without, source, whole)


@pytest.mark.parametrize("given", [{"code_fit": False}, {"code_dim": 256}])
def test_steps_of_what_there_is_none_of_are_refused(given):
    tiny = {**TINY, "image_size": 64}
    with pytest.raises(runs.RunError, match="--flow_steps=3 has no place beside"):
        stage.Settings(**tiny, flow_steps=3, **given)


def test_a_run_that_began_without_it_goes_on_without_it(run, tmp_path):
    _, settings, source = run
    without = dataclasses.replace(settings, flow_steps=0)
    stage.train(without, source, tmp_path / "run")
    flags = tmp_path / "run/flags.txt"  # as of a version that had no such flag
    flags.write_text(flags.read_text().replace("--flow_steps=0\n", ""))
    unset = dataclasses.replace(settings, flow_steps=None, steps=3)
    stage.train(unset, source, tmp_path / "run")
    stored = weights.find(tmp_path / "run", "structural")
    assert stored.description["steps"] == 3
    assert stored.found.heights is None and structural.FLOW not in stored.arrays


def test_a_loss_that_is_not_finite_names_no_subject_and_no_rate(
    run, tmp_path, monkeypatch
):
    _, settings, source = run

    def broken(*_):
        return tf.function(lambda batch, seed: {"flow": tf.constant(np.nan)})

    monkeypatch.setattr(code_flow, "make_train_step", broken)
    with pytest.raises(runs.RunError, match="flow is not finite") as found:
        stage.train(settings, source, tmp_path / "run")
    assert "--flow_steps=0" in str(found.value)
    assert "Subjects" not in str(found.value) and "rate" not in str(found.value)


@pytest.mark.parametrize("given", [{"flow_steps": 0}, {"code_fit": False}])
def test_without_it_codes_stay_where_they_were_drawn(given):
    settings = stage.Settings(**TINY, code_channels=1, **given)
    assert not settings.flow
    assert structural.FLOW not in structural.build(**settings.build())


def test_weights_that_say_it_is_there_and_lack_it_are_refused(run, tmp_path):
    stored = weights.find(run[0], "structural")
    del stored.arrays[structural.FLOW]
    weights.write(tmp_path / "w", stored)
    with pytest.raises(runs.RunError, match="CF_f carries codes, and there is none"):
        weights.read(tmp_path / "w")
