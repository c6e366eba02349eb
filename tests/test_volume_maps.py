"""Stage 1 of whole volumes: fitted to tiny NIfTI, kept with weights, exported."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    data,
    io,
    neighbours,
    runs,
    stacks,
    structural,
    volume_maps,
    weights,
)
from brats_gan.stages import structural as stage
from tests import nifti

SIZE, SLICES, BETA = 32, 4, 0.1


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        shape = (160, 160, SLICES)
        nifti.write_subject(folder, f"s{number}", shape, number, labels=(2,))
    subjects = io.find_subjects(folder)
    return data.Slices(subjects, SIZE, (0, SLICES), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def nets():
    tf.keras.utils.set_random_seed(1)
    return structural.build(SIZE, 2, code_channels=1)


@pytest.fixture(scope="module")
def found(nets, slices):
    return volume_maps.fit(nets, structural.unfitted(16), slices, BETA, 0.2).stacks


def whole(found):
    """structural.Fit of codes that are drawn as they are, with these stacks."""
    return structural.unfitted(16)._replace(stacks=found)


def noise(found, count=2):
    rng = np.random.default_rng(0)
    subject = rng.standard_normal((count, found.subject_dim), np.float32)
    return subject, rng.standard_normal((count, *found.mean.shape), np.float32)


def test_a_stack_is_the_codes_of_the_slices_of_a_subject_in_one_contrast(nets, slices):
    codes, subjects, _ = volume_maps.encode(nets, slices, BETA)
    assert (
        codes.shape == (3 * 4, SLICES, 16) and subjects == [0] * 4 + [1] * 4 + [2] * 4
    )
    row = int(np.flatnonzero((slices.index == (1, 2)).all(1))[0])
    x = tf.constant(slices.intensities([row], [3])[..., None])
    f, _ = structural.extract({"x": x, "label": slices.labels([row])}, BETA)
    ours = nets["EC_f"](f, training=False)[0][0]
    np.testing.assert_allclose(codes[4 + 3, 2], ours, atol=1e-4)


def test_drawn_volumes_are_as_dense_as_is_asked_for(nets, found):
    f, background = volume_maps.generate(nets, whole(found), *noise(found, 4))
    assert f.shape == background.shape == (4, SLICES, SIZE, SIZE, 1)
    assert set(np.unique(f)) == {0, 1}
    assert 0.1 < float(tf.reduce_mean(f)) < 0.4


def test_overlap_is_the_dice_of_neighbours():
    maps = np.zeros([3, 2, 2])
    maps[0, 0], maps[1, 0, 0], maps[2, 1, 1] = 1, 1, 1
    # Two pixels and one of them: 2 / 3; one and another: 0.
    assert neighbours.map_overlap(maps) == pytest.approx(1 / 3)


def test_smoothing_is_that_by_which_drawn_maps_overlap_as_real_ones(
    nets, slices, found
):
    _, _, real = volume_maps.encode(nets, slices, BETA)

    def drawn(sd):
        f, _ = volume_maps.generate(
            nets, whole(found._replace(smoothing=sd)), *noise(found, 4)
        )
        return neighbours.map_overlap(f.numpy()[..., 0])

    assert drawn(0.0) < drawn(1.0)
    assert found.smoothing in volume_maps.SMOOTHINGS
    # Of networks that know nothing: nearer than the ends of what is tried.
    ends = abs(drawn(0.0) - real), abs(drawn(2.0) - real)
    assert abs(drawn(found.smoothing) - real) <= min(ends) + 0.05


def test_all_slices_of_a_volume_are_decoded_as_one_alone(nets, found):
    found = found._replace(smoothing=0.0)
    subject, detail = noise(found)
    f, _ = volume_maps.generate(nets, whole(found), subject, detail)
    code = stacks.codes_of(found, subject, detail)[1, 2][None]
    edge = tf.sigmoid(nets["DC_f"](code, training=False))[0]
    np.testing.assert_array_equal(f[1, 2], tf.cast(edge > found.threshold, tf.float32))


def kept(nets, found):
    of_slices = whole(found)
    build = {"image_size": SIZE, "width": 2, "code_channels": 1}
    description = {"stage": "structural", "build": build, "steps": 1}
    arrays = weights.arrays_of(nets)
    return weights.Stored("here", description, arrays, of_slices)


def test_stacks_come_back_with_weights(nets, found, tmp_path):
    weights.write(tmp_path / "w", kept(nets, found))
    again = weights.read(tmp_path / "w").found.stacks
    for one, other in zip(again, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_stacks_without_their_numbers_are_refused(nets, found, tmp_path, monkeypatch):
    weights.write(tmp_path / "w", kept(nets, found))
    numbers = (*weights.folders._STACKS, "another")  # of a later version
    monkeypatch.setattr(weights.folders, "_STACKS", numbers)
    with pytest.raises(runs.RunError, match="hold no stacks"):
        weights.read(tmp_path / "w")


def test_the_export_draws_the_volumes_of_the_networks(nets, found, tmp_path):
    stage.export(tmp_path, nets, whole(found), {})
    export, description = runs.load_export(tmp_path, "structure")
    count = found.subject_dim
    assert description["volume"] == {"subject": [count], "detail": [SLICES, 16]}
    subject, detail = noise(found)
    made = export.volume(tf.constant(subject), tf.constant(detail))
    f, background = volume_maps.generate(nets, whole(found), subject, detail)
    assert np.mean(made["structure"] != f) < 0.01  # last bits about a threshold
    assert made["background"].shape == background.shape


def test_a_slice_at_a_height_is_that_of_the_volume_without_smoothing(nets, found):
    found = found._replace(smoothing=0.0)
    subject, detail = noise(found)
    f, background = volume_maps.generate(nets, whole(found), subject, 0 * detail)
    alone = volume_maps.generate_at(
        nets, whole(found), [2, 0], subject, 0 * detail[:, 0]
    )
    np.testing.assert_array_equal(alone[0], f.numpy()[[0, 1], [2, 0]])
    np.testing.assert_array_equal(alone[1], background.numpy()[[0, 1], [2, 0]])


def test_the_export_draws_slices_at_heights_that_there_are(nets, found, tmp_path):
    stage.export(tmp_path, nets, whole(found), {})
    export, _ = runs.load_export(tmp_path, "structure")
    subject, detail = noise(found)
    given = tf.constant(subject), tf.constant(detail[:, 0])
    made = export.generate_at(tf.constant([3, 1]), *given)
    f, _ = volume_maps.generate_at(nets, whole(found), [3, 1], subject, detail[:, 0])
    assert np.mean(made["structure"] != f) < 0.01  # last bits about a threshold
    for height in (-1, SLICES):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be 0 to 3"):
            export.generate_at(tf.constant([0, height]), *given)
