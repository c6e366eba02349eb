"""Volumes out of stand-ins of the networks: filters, placement, reproducibility."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import files, synthesis, volume_lesions, volume_synthesis
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
            models, stack_of(models), SHAPE, lesions, numbers, **options
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
