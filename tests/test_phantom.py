"""The phantom: files, geometry, anatomy, contrast and lesions."""

import importlib.util
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from brats_gan import files, phantom
from brats_gan.spec import BRATS
from tests.test_runs import disk_with

SLAB = (78, 90)  # 12 slices through the ventricles, a fifth of the usual cost


@pytest.fixture(scope="module")
def subjects():
    """Index -> volumes of four narrow subjects."""
    return {i: phantom.simulate_subject(i, slices=SLAB) for i in (1, 2, 3, 4)}


def read_all(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Files


def test_a_pool_writes_the_same_bytes_as_one_process(tmp_path):
    (pool,) = phantom.write_subjects(tmp_path / "pool", 1, slices=SLAB, processes=2)
    (alone,) = phantom.write_subjects(tmp_path / "alone", 1, slices=SLAB, processes=1)
    assert read_all(pool) == read_all(alone)
    assert set(read_all(alone)) == {
        f"phantom-00001_{key}.nii.gz" for key in (*BRATS.modalities, "seg")
    }


def test_subjects_are_made_one_by_one_where_there_are_no_locks(
    tmp_path, monkeypatch, caplog
):
    def without(*arguments):
        raise OSError(38, "Function not implemented")

    made = []
    monkeypatch.setattr(phantom.subjects.futures, "ProcessPoolExecutor", without)
    monkeypatch.setattr(
        phantom.subjects, "write_subject", lambda *job: made.append(job[1]) or tmp_path
    )
    assert phantom.write_subjects(tmp_path, 3) == [tmp_path] * 3
    assert made == [1, 2, 3]
    assert "one by one: there are no locks ([Errno 38]" in caplog.text


def test_a_whole_subject_is_kept_and_a_broken_off_one_is_made_again(tmp_path):
    folder = phantom.write_subject(tmp_path, 3, slices=SLAB)
    before = read_all(folder)
    (folder / "phantom-00003_t1.nii.gz").write_bytes(b"kept as it is")
    phantom.write_subject(tmp_path, 3, slices=SLAB)
    assert read_all(folder)["phantom-00003_t1.nii.gz"] == b"kept as it is"
    (folder / "phantom-00003_t1.nii.gz").unlink()
    phantom.write_subject(tmp_path, 3, slices=SLAB)
    assert read_all(folder) == before


def test_what_a_kill_left_of_a_subject_is_removed_and_what_is_worked_on_is_not(
    tmp_path,
):
    left = tmp_path / ".phantom-00001.0a1b2c3d.part"
    left.mkdir()
    (left / "phantom-00001_t1.nii.gz").write_bytes(b"half")
    with phantom.subjects._part_of(tmp_path / "phantom-00002") as part:
        phantom.subjects._remove_parts(tmp_path)
        assert [*tmp_path.iterdir()] == [part]
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_leaves_no_half_subject(tmp_path, monkeypatch):
    # Noise in place of a brain, of which 65 kB do not become less: it is the writing
    # that is tried.
    noise = np.random.default_rng(0).integers(0, 2**15, (64, 64, 8), np.int16)
    made = {
        **dict.fromkeys(BRATS.modalities, noise),
        "seg": np.zeros_like(noise, np.uint8),
    }
    monkeypatch.setattr(phantom.subjects, "simulate_subject", lambda *_: made)
    with disk_with(20_000):
        with pytest.raises(files.DataError, match="cannot be written.*Make room"):
            phantom.write_subjects(tmp_path, 1, processes=1)
    assert not [*tmp_path.iterdir()]


def test_a_target_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("thesis")
    with pytest.raises(
        files.DataError,
        match="out: cannot be written .*A file is where",
    ):
        phantom.write_subjects(tmp_path / "out", 1)


def test_without_nilearn_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(files.DataError, match="pip install nilearn"):
        phantom.write_subjects(tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_subjects_of_other_seeds_bear_other_names(tmp_path):
    names = {
        phantom.write_subject(tmp_path, 1, seed=seed, slices=SLAB).name
        for seed in (0, 7)
    }
    assert names == {"phantom-00001", "phantom-7-00001"}


def test_geometry_reads_back_as_that_of_brats(tmp_path):
    folder = phantom.write_subject(tmp_path, 1, slices=SLAB)
    for path in folder.iterdir():
        image = nibabel.load(path)
        assert image.shape == (240, 240, 155)
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        for affine, code in (
            image.get_qform(coded=True),
            image.get_sform(coded=True),
        ):
            assert code > 0
            np.testing.assert_array_equal(affine, phantom.AFFINE)
        dtype = np.uint8 if path.name.endswith("_seg.nii.gz") else np.int16
        assert image.get_data_dtype() == dtype


def test_importing_it_does_not_import_tensorflow():
    check = "import sys, brats_gan.phantom; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


# Volumes


def test_other_seeds_and_other_indices_make_other_brains(subjects):
    other_seed = phantom.simulate_subject(1, seed=1, slices=SLAB)
    for other in (other_seed, subjects[2]):
        assert (other["t1"] > 0).sum() != (subjects[1]["t1"] > 0).sum()


def test_background_is_zero_and_one_for_all_modalities(subjects):
    for volumes in subjects.values():
        brain = volumes["t1"] > 0
        assert not brain[..., : SLAB[0]].any() and not brain[..., SLAB[1] :].any()
        # A brain in these slices covers a quarter to a half of 240 x 240.
        assert 0.25 < brain[..., SLAB[0] : SLAB[1]].mean() < 0.5
        assert not (brain[[0, -1]].any() or brain[:, [0, -1]].any())
        for name in BRATS.modalities:
            assert volumes[name].min() == 0
            np.testing.assert_array_equal(volumes[name] > 0, brain)


def test_lesions_lie_inside_the_brain_and_have_known_labels(subjects):
    for volumes in subjects.values():
        lesion = volumes["seg"] > 0
        assert volumes["seg"].max() <= 4
        assert not (lesion & (volumes["t1"] == 0)).any()
    assert any((volumes["seg"] > 0).any() for volumes in subjects.values())


def test_images_show_white_against_grey_inverted_from_t1_to_t2(subjects):
    for volumes in subjects.values():
        healthy = (volumes["t1"] > 0) & (volumes["seg"] == 0)
        t1, t2 = volumes["t1"][healthy], volumes["t2"][healthy]
        assert np.corrcoef(t1, t2)[0, 1] < -0.2


def test_what_is_brightest_on_t2_is_dark_on_t1(subjects):
    for volumes in subjects.values():
        healthy = (volumes["t1"] > 0) & (volumes["seg"] == 0)
        fluid = healthy & (volumes["t2"] > np.percentile(volumes["t2"][healthy], 98))
        t1 = volumes["t1"]
        assert np.median(t1[fluid]) < 0.9 * np.median(t1[healthy])


# Physics


def signals(tesla, sequence):
    return {
        name: phantom.tissue_signal(
            tissue, sequence, tesla, phantom.UPTAKE.get(name, 0.0)
        )
        for name, tissue in phantom.TISSUES[tesla].items()
    }


def test_every_scanner_orders_tissues_as_radiology_knows_them():
    rng = np.random.default_rng(0)
    for _ in range(100):
        tesla, sequences = phantom.sample_visit(rng)
        t1, t2, t1ce, flair = (signals(tesla, sequences[m]) for m in BRATS.modalities)
        assert t1["white"] > t1["grey"] > t1["fluid"]
        assert t2["white"] < t2["grey"] < t2["oedema"] < t2["fluid"]
        assert flair["fluid"] < 0.7 * flair["white"]
        assert flair["oedema"] > 1.2 * flair["white"]
        assert t1["enhancing"] < t1["white"]  # bright on T1c only
        assert t1ce["enhancing"] > 1.1 * t1ce["white"]


def test_spin_echo_by_hand():
    tissue = phantom.Tissue(density=0.8, t1=1000.0, t2=100.0)
    _, sequences = phantom.sample_visit(np.random.default_rng(0))
    sequence = sequences["t2"]._replace(tr=1000.0, te=100.0, ti=0.0)
    # 0.8 (1 - 1/e) / e = 0.8 * 0.63212 * 0.36788
    assert phantom.tissue_signal(tissue, sequence, 3.0) == pytest.approx(0.186035, 1e-4)


def test_inversion_recovery_is_null_at_t1_times_log_two():
    tissue = phantom.Tissue(density=1.0, t1=1000.0, t2=100.0)
    _, sequences = phantom.sample_visit(np.random.default_rng(0))
    # 1 - 2 exp(-ln 2) + exp(-TR / T1) -> 0 for a long TR
    sequence = sequences["flair"]._replace(tr=1e6, ti=1000 * np.log(2))
    assert phantom.tissue_signal(tissue, sequence, 3.0) == pytest.approx(0.0, abs=1e-9)


# Parts


@pytest.fixture(scope="module")
def head():
    """Grid, pose and anatomy of one narrow head without lesions."""
    rng = np.random.default_rng(5)
    grid, pose = phantom.slab((80, 84)), phantom.sample_pose(rng)
    return grid, pose, phantom.build_anatomy(rng, phantom.Warp(rng, grid, pose, []))


def lesion_at(centre, **changes):
    lesion = phantom.Lesion(
        centre=np.asarray(centre, float),
        radius=8.0,
        stretch=np.eye(3),
        push=0.0,
        halo=6.0,
        rim=2.0,
        gap=0.0,
        necrosis=1.0,
        cyst=0.0,
        nodules=9.0,
        border=1.0,
        density=1.0,
    )
    return lesion._replace(**changes)


def test_fractions_sum_to_one_inside_the_brain_whatever_is_laid_over(head):
    grid, _, anatomy = head
    scene = phantom.Scene(anatomy)
    rng = np.random.default_rng(0)
    phantom.add_hyperintensities(rng, scene, anatomy, grid)
    phantom.add_lesion(rng, scene, anatomy, grid, lesion_at([90, 120, 82]))
    phantom.add_vessels(rng, scene, anatomy, grid)
    total = scene.fractions.sum(0)
    np.testing.assert_allclose(total[anatomy.inside > 1], 1, atol=1e-4)
    np.testing.assert_allclose(total[anatomy.inside < -1], 0, atol=1e-4)
    assert scene.fractions.min() >= 0


def test_a_ring_has_oedema_outside_enhancement_and_necrosis_inside(head):
    grid, _, anatomy = head
    scene = phantom.Scene(anatomy)
    centre = [90, 120, 82]
    lesion = lesion_at(centre, radius=12.0)
    phantom.add_lesion(np.random.default_rng(0), scene, anatomy, grid, lesion)
    ray = phantom.ellipsoid_distance(grid, centre, np.eye(3))
    depth = [
        np.median(ray[scene.label == label])
        for label in (phantom.NECROSIS, phantom.ENHANCING, phantom.OEDEMA)
    ]
    assert depth == sorted(depth)


def test_a_lesion_pushes_tissue_away_from_its_centre():
    grid, centre = phantom.slab((80, 84)), np.array([90.0, 120.0, 82.0])
    pose = phantom.sample_pose(np.random.default_rng(5))
    index = tuple(np.subtract([100, 120, 82], grid.start))  # 10 mm beside it
    places = []
    for push in (0.0, 0.3):
        lesions = [lesion_at(centre, push=push)]
        warp = phantom.Warp(np.random.default_rng(1), grid, pose, lesions)
        places.append(np.array([p[index] for p in warp.position]))
    middle = pose.matrix @ centre + pose.offset
    still, moved = (np.linalg.norm(place - middle) for place in places)
    # What is seen 10 mm beside the centre came from nearer to it.
    assert 0.5 < still - moved < 5


def test_lesions_vary_in_number_size_and_composition():
    rng = np.random.default_rng(0)
    grid, pose = phantom.slab(phantom.SLICES), phantom.sample_pose(rng)
    draws = [
        phantom.sample_lesions(rng, grid, phantom.SLICES, pose) for _ in range(100)
    ]
    lesions = [lesion for draw in draws for lesion in draw]
    assert {len(draw) for draw in draws} == {0, 1, 2}
    assert min(lesion.radius for lesion in lesions) < 6
    assert 12 < max(lesion.radius for lesion in lesions) < 20
    for part in ("rim", "necrosis"):
        without = np.mean([getattr(lesion, part) == 0 for lesion in lesions])
        assert 0.2 < without < 0.7


def test_smooth_noise_has_unit_deviation():
    grid = phantom.Box((0, 0, 0), (120, 120, 60))
    noise = phantom.smooth_noise(np.random.default_rng(0), grid, 5)
    # About 24 x 24 x 12 independent values: the deviation is good to a few per cent.
    assert noise.std() == pytest.approx(1, abs=0.08)
    assert abs(noise.mean()) < 0.1


def test_a_cubic_spline_of_a_line_is_that_line():
    line = np.arange(6, dtype=np.float32).reshape(6, 1, 1) * np.ones((1, 6, 6), "f4")
    at = np.array([1.0, 2.25, 3.5])
    found = phantom.spline_upsample(line, [at, at, at])
    np.testing.assert_allclose(found[:, 0, 0], at, atol=1e-6)


def test_a_range_without_brain_is_an_error_and_not_an_endless_search():
    with pytest.raises(ValueError, match="0:4 hold no white matter"):
        for index in range(1, 9):  # some subjects have no lesion to place
            phantom.simulate_subject(index, slices=(0, 4))
