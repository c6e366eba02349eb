"""Volumes out of stand-ins of the networks: filters, placement, reproducibility."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    files,
    neighbours,
    signatures,
    synthesis,
    volume_lesions,
    volume_synthesis,
)
from tests.test_synthesis import SIZE, stand_ins
from tests.test_volume_lesions import ball

SLICES = 12
SHAPE = (1, SLICES, 4)
SPACING = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def lesions():
    label = ball((SLICES, SIZE, SIZE), (6, 32, 32), 3.5, SPACING)
    return volume_lesions.pool([label, label], ["a", "b"], SPACING)


def stack_of(models):
    """Slices whose first number is that of the subject, or its own detail."""

    def stack(subject, detail):
        return models.structure(np.asarray(detail)[0] + np.asarray(subject)[0, 0])

    return stack


def make(lesions, models=None, numbers=range(3), **options):
    models = models or stand_ins()
    options = {"seed": 1, "batch_size": 5, "lesion_free": 0.0, **options}
    return list(
        volume_synthesis.volumes(
            models,
            stack_of(models),
            SHAPE,
            functools.partial(volume_lesions.place, lesions),
            numbers,
            **options,
        )
    )


def limits(**given):
    return volume_synthesis.Limits(max_tries=4)._replace(**given)


def test_a_good_volume_is_accepted_with_its_lesion_inside_the_brain(lesions):
    for volume in make(lesions):
        assert volume.accepted and volume.dice == pytest.approx(1.0)
        assert volume.images.shape == (4, SLICES, SIZE, SIZE)
        assert volume.label.any() and set(volume.label_subjects) <= {"a", "b"}
        assert not volume.label[volume.background > 0.5].any()
        np.testing.assert_array_equal(
            volume.predicted, np.stack([volume.label] * len(volume.predicted))
        )


def test_outlines_are_smooth_from_slice_to_slice_and_keep_their_steps():
    def stack(subject, detail):
        background = np.ones((SLICES, SIZE, SIZE), np.float32)
        background[:, 20:40, 20:40] = 0
        background[6:, 20:40, 40:44] = 0  # from here on wider
        background[3, 40:43, 25:30] = 0  # a tooth of one slice
        background[8, 20:23, 25:30] = 1  # a notch of one
        each = tf.constant(background[..., None])
        return 1 - each, each

    rng = np.random.default_rng(0)
    _, background, _ = volume_synthesis._brain(stack, (1, SLICES, 4), rng)
    expected = np.ones((SLICES, SIZE, SIZE))
    expected[:, 20:40, 20:40] = 0
    expected[6:, 20:40, 40:44] = 0
    np.testing.assert_array_equal(background, expected)


@pytest.mark.parametrize(
    ("spacing", "height", "is_left"),
    # The middle of a tooth has of the sum of the weights, with sd 1.5 mm / spacing:
    # sd 1.5 slices: 1 / 3.76 = 0.27 of one, (1 + 2 * 0.80) / 3.76 = 0.69 of three;
    # sd 0.5 slices: 1 / (1 + 2 * 0.135) = 0.79 of one; it is left above one half.
    [(1.0, 1, False), (1.0, 3, True), (3.0, 1, True)],
)
def test_outlines_are_smoothed_over_mm_not_over_slices(spacing, height, is_left):
    def stack(subject, detail):
        background = np.ones((SLICES, SIZE, SIZE), np.float32)
        background[:, 20:40, 20:40] = 0
        background[5 : 5 + height, 40:43, 25:30] = 0
        each = tf.constant(background[..., None])
        return 1 - each, each

    rng = np.random.default_rng(0)
    _, background, _ = volume_synthesis._brain(stack, (1, SLICES, 4), rng, spacing)
    assert (background[5 + height // 2, 41, 27] < 0.5) == is_left
    assert background[0, 41, 27] > 0.5 > background[0, 30, 30]


def test_the_ends_of_a_stack_keep_their_outlines():
    expected = np.ones((SLICES, SIZE, SIZE), np.float32)
    for above in range(1, SLICES):  # the lowest slice has no brain
        expected[above, 20:40, 20 : 36 + min(above, SLICES - 2)] = 0
    expected[-1, 20:40, 30:] = 1  # and the highest less than the one below it

    def stack(subject, detail):
        each = tf.constant(expected[..., None])
        return 1 - each, each

    rng = np.random.default_rng(0)
    _, background, _ = volume_synthesis._brain(stack, (1, SLICES, 4), rng)
    np.testing.assert_array_equal(background[[0, -1]], expected[[0, -1]])


@pytest.mark.parametrize("shown", [(3, 4), (0, 2, 4, 6, 8, 10)])
def test_a_brain_of_few_slices_keeps_the_outlines_of_its_own(shown):
    def stack(subject, detail):
        background = np.ones((SLICES, SIZE, SIZE), np.float32)
        background[list(shown), 20:40, 20:40] = 0
        each = tf.constant(background[..., None])
        return 1 - each, each

    rng = np.random.default_rng(0)
    _, background, _ = volume_synthesis._brain(stack, (1, SLICES, 4), rng)
    kept = (background < 0.5).any((1, 2))
    assert kept.any() and not kept[[s for s in range(SLICES) if s not in shown]].any()
    assert (background[kept] < 0.5).sum() == 400 * kept.sum()


def test_a_volume_depends_on_seed_and_number_and_nothing_else(lesions):
    two, zero = make(lesions, numbers=[2, 0])
    for ours, alone in zip(make(lesions, numbers=[0, 2]), (zero, two), strict=True):
        for one, other in zip(ours, alone, strict=True):
            np.testing.assert_array_equal(one, other)
    other_seed = make(lesions, numbers=[0], seed=2)[0]
    assert not np.array_equal(other_seed.label, zero.label)


def test_no_lesion_where_none_is_asked_for(lesions):
    for volume in make(lesions, lesion_free=1.0):
        assert not volume.label.any() and volume.label_subjects == ()
        assert volume.accepted


def test_a_share_of_the_slices_may_fail_algorithm_3(lesions):
    # A slice is open where its number is below -1: about one in six.
    models = stand_ins(open_when=lambda code: code < -1.0)
    some = make(lesions, models, limits=limits(passing=0.3))
    assert all(v.accepted for v in some) and any(v.passing < 1 for v in some)
    none = make(lesions, models, limits=limits(passing=1.01))
    assert all(v.rejected["structure"] == v.tries == 4 for v in none)
    assert not any(v.accepted for v in none)


def test_what_the_segmentors_do_not_find_is_drawn_again(lesions):
    models = stand_ins(blind_when=lambda images: True)
    (volume,) = make(lesions, models, numbers=[0], limits=limits())
    assert not volume.accepted and volume.rejected["dice"] == volume.tries == 4


def test_a_generator_that_has_learnt_nothing_is_said_so(lesions):
    models = stand_ins()
    flat = models._replace(
        images=lambda f, label, style: tf.zeros([len(f), 4, SIZE, SIZE, 1])
    )
    with pytest.raises(files.DataError, match="volume 0: all 4 attempts"):
        make(lesions, flat, numbers=[0], limits=limits())


def test_one_style_is_drawn_for_all_slices(lesions):
    models, seen = stand_ins(), []

    def images(f, label, style):
        seen.append(np.asarray(style))
        return models.images(f, label, style)

    fitted = synthesis.styles.Styles(np.zeros([4, 5]), np.eye(20))
    make(lesions, models._replace(images=images, styles=fitted), numbers=[0])
    assert len(np.unique(np.concatenate(seen), axis=0)) == 1


def test_what_is_left_early_is_never_what_would_have_been_kept(lesions, monkeypatch):
    # Segmentors see nothing where a slice's own number says so.
    models = stand_ins(blind_when=lambda images: float(images[0, 0, 40, 40, 0]) > 0.3)
    some = {"limits": limits(dice_threshold=0.97), "profile": 1.2}
    left = make(lesions, models, numbers=range(4), **some)
    attempt = volume_synthesis._attempt
    monkeypatch.setattr(
        volume_synthesis, "_attempt", lambda *given: attempt(*given[:-1], None)
    )
    whole = make(lesions, models, numbers=range(4), **some)
    assert sum(volume.rejected["dice"] for volume in whole) >= 2
    for ours, theirs in zip(left, whole, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_attempts_that_cannot_win_make_no_slices(lesions):
    models, made = stand_ins(open_when=lambda code: True), []

    def images(f, label, style):
        made.append(len(f))
        return models.images(f, label, style)

    (volume,) = make(lesions, models._replace(images=images), [0], limits=limits())
    assert volume.rejected["structure"] == 4 and not volume.accepted
    assert sum(made) == SLICES  # of one attempt


def test_networks_see_every_slice_of_an_attempt_once(lesions):
    models, made, judged = stand_ins(), [], []

    def images(f, label, style):
        made.append(len(f))
        return models.images(f, label, style)

    def segment(images):
        judged.append(len(images))
        return models.segment(images)

    counting = models._replace(images=images, segment=segment)
    some = {"profile": 0.7, "limits": limits(dice_threshold=0.5)}
    (volume,) = make(lesions, counting, [0], **some)
    assert volume.tries == 1 and volume.label.any()
    assert sum(made) == sum(judged) == SLICES and max(made + judged) <= 5


def test_batches_of_all_sizes_have_one_trace():
    traces = []
    labels = signatures.traced(lambda x: traces.append(x.shape) or x + 1)
    for count in (5, 4, 3, 2, 5):
        assert len(labels(tf.zeros([count, 2]))) == count
    assert len(traces) == 1


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_volume_is_the_same_whatever_the_batch(lesions, batch_size):
    (ours,) = make(lesions, numbers=[1], profile=0.7, batch_size=batch_size)
    (theirs,) = make(lesions, numbers=[1], profile=0.7)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_voxel_found_where_there_is_no_lesion_costs_its_slice_alone():
    label = np.zeros((10, 4, 4), np.uint8)
    predicted = np.zeros((2, 10, 4, 4), np.uint8)
    predicted[1, 3, 0, 0] = 2
    assert volume_synthesis._dice(label, predicted) == pytest.approx(0.95)


def test_slices_are_means_over_their_neighbours(lesions):
    # Whatever the segmentors find in them: both are of the first attempt.
    some = {"numbers": [0], "limits": limits(dice_threshold=-np.inf)}
    (sharp,) = make(lesions, **some)
    (thick,) = make(lesions, **some, profile=0.7)
    np.testing.assert_array_equal(sharp.structure, thick.structure)
    brain = sharp.background < 0.5
    expected = neighbours.thickened(sharp.images, brain, 0.7, sharp.label)
    np.testing.assert_allclose(thick.images, expected, atol=1e-6)
    assert not np.allclose(thick.images, sharp.images)


def test_the_profile_is_that_of_the_same_brains_whatever_is_asked_for_later():
    models, brains = stand_ins(), []

    def stack(subject, detail):
        brains.append(np.asarray(detail).sum())
        return stack_of(models)(subject, detail)

    found = [
        volume_synthesis.profile_of(models, stack, SHAPE, [1.0] * 4, 5)
        for _ in range(2)
    ]
    assert found[0] == found[1] and brains[:4] == brains[4:]
