"""Codes of whole stacks: what is fitted is what was drawn, and neighbours agree."""

import numpy as np
import pytest

from brats_gan import stacks

SLICES, DIM = 6, 3


def drawn(count, rng, direction, rho=0.8, spread=0.5):
    """Stacks of subjects that differ in one direction, and a process along z."""
    subject = rng.standard_normal((count, 1, 1)) * direction
    left = np.empty((count, SLICES, DIM))
    left[:, 0] = rng.standard_normal((count, DIM))
    for s in range(1, SLICES):
        fresh = np.sqrt(1 - rho**2) * rng.standard_normal((count, DIM))
        left[:, s] = rho * left[:, s - 1] + fresh
    mean = np.arange(SLICES)[:, None] * np.ones(DIM)
    return (mean + subject + spread * left).astype(np.float32)


@pytest.fixture(scope="module")
def direction():
    return np.linspace(-3, 3, SLICES * DIM).reshape(SLICES, DIM)


@pytest.fixture(scope="module")
def found(direction):
    codes = drawn(800, np.random.default_rng(0), direction)
    return stacks.fit(codes, np.arange(800), most=1)


def test_the_mean_at_each_height_is_found(found):
    expected = np.arange(SLICES)[:, None] * np.ones(DIM)
    np.testing.assert_allclose(found.mean, expected, atol=0.25)


def test_the_subspace_is_the_direction_in_which_subjects_differ(found, direction):
    (ours,) = found.directions
    cosine = np.sum(ours * direction) / np.linalg.norm(ours) / np.linalg.norm(direction)
    assert abs(cosine) > 0.99
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(direction), rel=0.1)


def test_what_is_left_has_its_sd_and_its_correlation_between_neighbours(found):
    np.testing.assert_allclose(found.spread, 0.5, rtol=0.15)
    assert found.correlation == pytest.approx(0.8, abs=0.1)


def test_drawn_stacks_have_the_covariance_of_those_fitted_to(found, direction):
    rng = np.random.default_rng(1)
    z = rng.standard_normal((4000, 1)).astype(np.float32)
    detail = rng.standard_normal((4000, SLICES, DIM)).astype(np.float32)
    made = stacks.codes_of(found, z, detail).numpy().reshape(4000, -1)
    real = drawn(4000, np.random.default_rng(2), direction).reshape(4000, -1)
    difference = np.cov(made.T) - np.cov(real.T)
    assert np.abs(difference).max() < 0.1 * np.abs(np.cov(real.T)).max()


def test_a_slice_at_a_height_is_a_slice_of_a_stack(found):
    rng = np.random.default_rng(3)
    z = rng.standard_normal((2, 1)).astype(np.float32)
    still = np.zeros((2, SLICES, DIM), np.float32)
    whole = stacks.codes_of(found, z, still).numpy()
    alone = stacks.codes_at(found, [4, 1], z, np.zeros((2, DIM), np.float32)).numpy()
    np.testing.assert_allclose(alone, whole[[0, 1], [4, 1]], rtol=1e-5)


def test_a_slice_alone_varies_as_in_a_stack(found):
    rng = np.random.default_rng(4)
    z = rng.standard_normal((4000, 1)).astype(np.float32)
    detail = rng.standard_normal((4000, SLICES, DIM)).astype(np.float32)
    whole = stacks.codes_of(found, z, detail).numpy()[:, 5]
    alone = stacks.codes_at(found, np.full(4000, 5), z, detail[:, 0]).numpy()
    np.testing.assert_allclose(whole.std(0), alone.std(0), rtol=0.1)


def test_what_subjects_do_not_share_is_not_taken_for_a_subspace():
    # As many directions as stacks: fitted to all, nothing would be left of them.
    rng = np.random.default_rng(5)
    codes = rng.standard_normal((24, SLICES, 50)).astype(np.float32)
    found = stacks.fit(codes, np.arange(24), most=24)
    kept = (found.directions**2).sum(0).mean()
    assert found.spread.mean() > 0.5 > kept
    assert kept + (found.spread**2).mean() == pytest.approx(codes.var(), rel=0.1)


def test_slices_without_brain_count_as_the_mean():
    codes = drawn(50, np.random.default_rng(6), np.ones((SLICES, DIM)))
    whole = stacks.fit(codes, np.arange(50), most=2)
    codes[3, 0] = np.nan
    holed = stacks.fit(codes, np.arange(50), most=2)
    assert all(np.isfinite(each).all() for each in holed[:3])
    np.testing.assert_allclose(holed.mean[1:], whole.mean[1:])


def test_one_subject_is_no_subspace():
    with pytest.raises(ValueError, match="needs two"):
        stacks.fit(np.zeros((4, SLICES, DIM), np.float32), [0, 0, 0, 0])
