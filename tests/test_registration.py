"""Registration of four contrasts: worked out by hand, and lost by every shift."""

import numpy as np
import pytest

from brats_gan import data, io, registration
from tests import nifti


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Registered slices [N, 4, 64, 64] of a tiny subject."""
    folder = tmp_path_factory.mktemp("data")
    nifti.write_subject(folder, "A", (160, 160, 4))
    slices = data.Slices(io.find_subjects(folder), 64, (0, 4))
    return slices.intensities(range(len(slices)))


def test_agreement_is_the_mean_of_the_six_pairs_by_hand():
    maps = np.zeros((1, 4, 9, 9))
    maps[0, :3, :, 4] = 1
    maps[0, 3, :, 7] = 1  # three columns away from the others
    assert registration.agreement(maps) == pytest.approx(3 / 6)


def test_contrast_i_is_shifted_by_i_times_the_pixels():
    sets = np.zeros((1, 4, 1, 16))
    sets[..., 2] = 1
    moved = registration.shifted(sets, 3)
    np.testing.assert_array_equal(np.argmax(moved[0, :, 0], -1), [2, 5, 8, 11])


def test_pixels_without_brain_do_not_count_as_information():
    rng = np.random.default_rng(0)
    small = rng.random((1, 4, 8, 8)) + 0.1
    padded = np.pad(small, ((0, 0), (0, 0), (4, 4), (4, 4)))
    information = registration.information(padded)
    assert information == pytest.approx(registration.information(small))


def test_both_figures_fall_with_every_shift(real):
    found = registration.compare(real, real, beta=0.07)
    assert found["generated"] == found["real"]
    names = ["real", *(f"real shifted by {pixels}" for pixels in registration.SHIFTS)]
    assert list(found) == ["generated", *names]
    for figure in ("edge_dice", "mutual_information"):
        values = [found[name][figure] for name in names]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]
