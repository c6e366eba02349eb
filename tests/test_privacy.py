"""The nearest training slice, worked out by hand, and found where a copy is planted."""

import numpy as np
import pytest
from scipy import ndimage

from brats_gan import data, io, privacy
from tests import nifti

SIZE = 64


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Slices of three subjects to train on, and of two that are held out."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(5):
        nifti.write_subject(folder, f"s{number}", (160, 160, 4), number)
    subjects = io.find_subjects(folder)
    return [data.Slices(part, SIZE, (0, 4)) for part in (subjects[:3], subjects[3:])]


def four(*images):
    """[2, 2] images, one a contrast -> [1, 4, 2, 2]."""
    return np.array(images, np.float32)[None]


def test_the_product_of_descriptions_is_the_mean_correlation_by_hand():
    rise, fall = [[0, 0], [1, 1]], [[5, 5], [2, 2]]  # correlation -1
    across, flat = [[0, 1], [0, 1]], [[3, 3], [3, 3]]  # 0 with rise, 0 with all
    one = privacy.describe(four(rise, rise, rise, rise))
    # Of the four contrasts: 1, -1, 0 and 0; then 1, 1, 1 and -1.
    other = privacy.describe(four(rise, fall, across, flat))
    third = privacy.describe(four(rise, rise, rise, fall))
    assert (one @ other.T).item() == pytest.approx(0, abs=1e-6)
    assert (one @ third.T).item() == pytest.approx(0.5)


def test_brightness_and_contrast_do_not_matter():
    image = np.random.default_rng(0).random((1, 4, 8, 8), np.float32)
    product = privacy.describe(image) @ privacy.describe(0.3 * image + 0.2).T
    assert product.item() == pytest.approx(1)


def test_a_volume_is_like_itself_however_many_slices_show_it():
    rng = np.random.default_rng(0)
    # 25 slices, each twice as thin: the same averages.
    thick = rng.random((4, privacy.DEPTH, 8, 8))
    thin = np.repeat(thick, 2, 1)
    other = thick[:, ::-1]
    one, same, turned = map(privacy.describe_volume, (thick, thin, other))
    assert one @ one == pytest.approx(1.0, abs=1e-5)
    assert one @ same == pytest.approx(1.0, abs=1e-5)
    assert one @ turned < 0.5


def test_a_slice_that_lies_in_two_averages_is_shared_by_hand(monkeypatch):
    monkeypatch.setattr(privacy, "DEPTH", 2)
    volume = np.zeros((1, 3, 1, 1))
    volume[0, :, 0, 0] = 1.0, 4.0, 7.0
    # (1 + 4 / 2) / 1.5 = 2 and (4 / 2 + 7) / 1.5 = 6: half their difference is 2.
    found = privacy.describe_volume(volume)
    np.testing.assert_allclose(found, [-np.sqrt(0.5), np.sqrt(0.5)], rtol=1e-6)


@pytest.mark.parametrize("block", [2, 3, 100])
def test_the_nearest_is_found_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(privacy, "BLOCK", block)
    rng = np.random.default_rng(0)
    vectors, known = rng.standard_normal((2, 7, 5)).astype(np.float32)
    found = privacy.nearest(vectors, known)
    product = vectors @ known.T
    np.testing.assert_array_equal(found.row, product.argmax(1))
    np.testing.assert_allclose(found.correlation, product.max(1), rtol=1e-6)


@pytest.mark.parametrize(
    "disguise",
    [
        lambda x, rng: x,
        lambda x, rng: ndimage.uniform_filter(x, (0, 0, 3, 3)),
        lambda x, rng: x + 0.05 * rng.standard_normal(x.shape).astype(np.float32),
        lambda x, rng: 0.7 * x,
    ],
    ids=["as it is", "blurred", "noisy", "darker"],
)
def test_a_planted_copy_is_found(sides, disguise):
    training, held_out = sides
    known = privacy.describe_slices(training)
    rng = np.random.default_rng(0)
    copy = disguise(training.intensities([6]), rng)
    others = held_out.intensities(range(4))
    made = privacy.nearest(privacy.describe(np.concatenate([others, copy])), known)
    real = privacy.nearest(privacy.describe_slices(held_out), known)
    assert privacy.closest(made, 1) == [4] and made.row[4] == 6
    assert made.correlation[4] > 0.9 and made.correlation[4] > real.correlation.max()
    found = privacy.summary(made, real)
    assert found["generated nearer than any held-out"] == 1
    assert found["generated"]["slices"] == 5 and found["held-out"]["slices"] == 8


def test_held_out_slices_are_not_nearer_than_themselves(sides):
    _, held_out = sides
    known = privacy.describe_slices(held_out)
    found = privacy.nearest(known, known)
    np.testing.assert_array_equal(found.row, range(len(held_out)))
    np.testing.assert_allclose(found.correlation, 1, atol=1e-5)
