"""Brightness and contrast as a few numbers: measured, fitted, drawn."""

import numpy as np

from brats_gan import styles


def test_a_style_is_the_quantiles_of_healthy_tissue():
    # Tissue 0.1, 0.2, ..., 0.9 in nine voxels; a lesion of 1 and background do not
    # count. Quantiles .05 .25 .5 .75 .95 of nine even numbers: 0.14 0.3 0.5 0.7 0.86.
    volume = np.array([0.0, *np.arange(1, 10) / 10, 1.0])
    label = np.array([0] * 10 + [3])
    quantiles = np.array([0.14, 0.3, 0.5, 0.7, 0.86])
    expected = (quantiles - 0.4) / 0.15
    np.testing.assert_allclose(styles.measure(volume, label), expected, rtol=1e-5)


def test_a_volume_without_tissue_has_a_style_of_zeros():
    assert not styles.measure(np.zeros(5), np.zeros(5, int)).any()


def test_drawn_styles_have_the_mean_and_spread_of_the_subjects_and_go_together():
    rng = np.random.default_rng(0)
    brightness = rng.normal(1.0, 0.5, [200, 1, 1])
    known = np.array([[[-1.0, 0.0]], [[0.0, 1.0]]]).reshape(2, 2) + brightness
    fitted = styles.fit(known)
    drawn = fitted.sample(rng.standard_normal((20000, 4)))
    np.testing.assert_allclose(drawn.mean(0), [[0.0, 1.0], [1.0, 2.0]], atol=0.1)
    assert abs(drawn[:, 0, 0].std() - 0.5) < 0.1
    assert np.corrcoef(drawn[:, 0, 0], drawn[:, 1, 1])[0, 1] > 0.8


def test_one_subject_is_drawn_as_it_is():
    known = np.array([[[0.1, 0.2], [0.3, 0.4]]])
    drawn = styles.fit(known).sample(np.full([1, 4], 5.0))
    np.testing.assert_allclose(drawn, known, atol=0.01)


def test_quantiles_of_a_drawn_style_do_not_cross():
    fitted = styles.Styles(np.zeros([1, 3], np.float32), np.eye(3, dtype=np.float32))
    drawn = fitted.sample(np.array([[1.0, -1.0, 0.5]]))
    np.testing.assert_array_equal(drawn, [[[-1.0, 0.5, 1.0]]])


def test_a_fit_survives_its_way_through_json():
    fitted = styles.fit(np.random.default_rng(0).random([9, 4, 5]))
    again = styles.from_json({n: v.tolist() for n, v in fitted._asdict().items()})
    np.testing.assert_array_equal(again.mean, fitted.mean)
    np.testing.assert_array_equal(again.factor, fitted.factor)
