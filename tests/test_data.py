"""Pipelines: registered where they must be, independent where they must be."""

import multiprocessing
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import data, files, io, synthesis
from tests import nifti

SLICES = (1, 5)
SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        nifti.write_subject(folder, f"s{number}", (160, 160, 6), number)
    return folder


@pytest.fixture(scope="module")
def slices(folder):
    return data.Slices(io.find_subjects(folder), SIZE, SLICES)


def test_slices_are_what_the_reader_reads(folder, slices):
    assert len(slices) == 3 * 4
    subject = io.find_subjects(folder)[1]
    images, labels = io.read_subject(subject, SLICES, SIZE)
    position = next(
        i for i, (s, number) in enumerate(slices.index) if (s, number) == (1, 2)
    )
    (stored,) = slices.images([position])
    read = stored.astype(np.float32) / data.LEVELS
    np.testing.assert_allclose(read, np.moveaxis(images[2], -1, 0), atol=1 / 65535)
    np.testing.assert_array_equal(slices.labels([position])[0], labels[2])
    np.testing.assert_array_equal(slices.images([position], [3])[0], stored[3])


def test_background_is_exactly_zero_in_the_batches(slices):
    batch = next(iter(data.segmentation_batches(slices, 4, seed=0)))
    assert np.all(batch["x"].numpy()[..., 0, :, :] == 0)  # the first row is outside
    assert 0 < batch["x"].numpy().max() <= 1


def test_slices_without_brain_are_left_out(tmp_path):
    files = nifti.write_subject(tmp_path, "s0", (160, 160, 6))
    for path in files.values():
        volume, affine = io.load_volume(path)
        volume = (
            np.moveaxis(np.array(volume), 0, -1) if volume.shape[0] == 6 else volume
        )
        volume = np.array(volume)
        volume[:, :, 2] = 0
        nifti.write_volume(path, volume)
    made = data.Slices(io.find_subjects(tmp_path), SIZE, (0, 6))
    assert 2 not in made.index[:, 1] and len(made) == 5


def test_a_second_reading_takes_the_cache(folder, tmp_path, monkeypatch):
    subjects = io.find_subjects(folder)
    first = data.Slices(subjects, SIZE, SLICES, cache_dir=tmp_path)
    monkeypatch.setattr(io, "read_subject", None)  # would fail if called
    again = data.Slices(subjects, SIZE, SLICES, cache_dir=tmp_path)
    np.testing.assert_array_equal(first.images([5]), again.images([5]))


def test_the_cache_knows_changed_files_and_other_sizes(folder, tmp_path):
    subjects = io.find_subjects(folder)[:1]
    data.Slices(subjects, SIZE, SLICES, cache_dir=tmp_path)
    count = len(list(tmp_path.rglob("*.images.npy")))
    data.Slices(subjects, 64, SLICES, cache_dir=tmp_path)
    data.Slices(subjects, SIZE, (0, 3), cache_dir=tmp_path)
    assert len(list(tmp_path.rglob("*.images.npy"))) == count + 2


def _read_through(folder, cache):
    slices = data.Slices(io.find_subjects(folder), SIZE, SLICES, cache)
    return slices.images(range(len(slices))), slices.labels(range(len(slices)))


def test_two_processes_may_build_one_cache(folder, slices, tmp_path):
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(2, context) as pool:
        jobs = [pool.submit(_read_through, folder, tmp_path) for _ in range(2)]
        for job in jobs:
            images, labels = job.result()
            np.testing.assert_array_equal(images, slices.images(range(len(slices))))
            np.testing.assert_array_equal(labels, slices.labels(range(len(slices))))
    assert len(list(tmp_path.glob("*/*"))) == 3 * 3  # and nothing half written


def test_every_item_comes_once_a_pass_in_another_order():
    stream = data.shuffled(5, 0, 0, 0, 15)
    passes = stream.reshape(3, 5)
    np.testing.assert_array_equal(np.sort(passes, 1), [[0, 1, 2, 3, 4]] * 3)
    assert len({tuple(each) for each in passes}) > 1


def test_a_stream_can_be_entered_anywhere():
    whole = data.shuffled(7, 3, 1, 0, 40)
    np.testing.assert_array_equal(data.shuffled(7, 3, 1, 18, 22), whole[18:])


@pytest.mark.parametrize(
    "pipeline",
    [data.structural_batches, data.multimodal_batches, data.segmentation_batches],
)
def test_batches_from_a_later_step_are_those_of_the_whole(slices, pipeline):
    whole = list(pipeline(slices, 2, 5).take(4))[3]
    later = next(iter(pipeline(slices, 2, 5, first=3)))
    for name in whole:
        np.testing.assert_array_equal(whole[name], later[name], err_msg=name)


def test_seeds_change_the_order(slices):
    one, other = (
        next(iter(data.segmentation_batches(slices, 8, seed)))["x"] for seed in (0, 1)
    )
    assert np.any(one.numpy() != other.numpy())


def test_no_example_of_stage_2_sees_a_slice_twice(slices):
    for batch in data.multimodal_batches(slices, 4, seed=0).take(60):
        keys = batch["subject"].numpy() * 100 + batch["slice"].numpy()  # [B, 5]
        for of_example in keys:
            assert len(set(of_example)) == 5


def test_stage_2_streams_are_independent(slices):
    """What one stream shows says nothing of what another shows."""
    counts = np.zeros([len(slices), len(slices)])
    row = {tuple(each): i for i, each in enumerate(slices.index)}
    for batch in data.multimodal_batches(slices, 4, seed=0).take(300):
        where = np.stack([batch["subject"], batch["slice"]], -1)
        for one, other in where[:, :2]:
            counts[row[tuple(one)], row[tuple(other)]] += 1
    # 1200 pairs on 12 x 11 cells: 9 each, standard deviation 3.
    off_diagonal = counts[~np.eye(len(slices), dtype=bool)]
    assert counts.sum() == 1200 and np.trace(counts) == 0
    assert off_diagonal.min() > 0 and off_diagonal.max() < 9 + 7 * 3


def test_stage_2_pairs_other_slices_in_each_pass(slices):
    keys = [
        tuple(np.ravel(batch["subject"] * 100 + batch["slice"]))
        for batch in data.multimodal_batches(slices, 1, seed=0).take(48)
    ]
    assert len(set(keys)) > 45  # the authors' lists give the same 12 again and again


def test_stage_2_images_and_labels_belong_together(slices):
    batch = next(iter(data.multimodal_batches(slices, 3, seed=0)))
    where = {tuple(each): row for row, each in enumerate(slices.index)}
    for b in range(3):
        for i in range(4):
            row = where[int(batch["subject"][b, i]), int(batch["slice"][b, i])]
            image = slices.images([row], [i])[0].astype(np.float32) / data.LEVELS
            np.testing.assert_allclose(batch["x"][b, i, ..., 0], image, rtol=1e-6)
            np.testing.assert_array_equal(batch["label"][b, i], slices.labels([row])[0])
        row = where[int(batch["subject"][b, 4]), int(batch["slice"][b, 4])]
        images = slices.images([row])[0].astype(np.float32) / data.LEVELS
        source = batch["source"][b, ..., 0].numpy()
        assert any(np.allclose(source, image, rtol=1e-6) for image in images)


def test_segmentation_batches_are_registered(slices):
    batch = next(iter(data.segmentation_batches(slices, 4, seed=0)))
    stored = slices.images(range(len(slices)))
    for x in batch["x"].numpy():
        levels = np.round(x[..., 0] * data.LEVELS).astype(np.uint16)
        assert any(np.array_equal(levels, each) for each in stored)


def test_drawn_labels_are_of_the_pool_and_some_are_empty(slices):
    drawn = data.sample_labels(slices, np.random.default_rng(0), 200)
    pool = {label.tobytes() for label in slices.labels(slices.lesions)}
    empty = [not label.any() for label in drawn]
    assert 0.03 < np.mean(empty) < 0.2  # LESION_FREE is 0.1
    assert all(label.tobytes() in pool for label in drawn if label.any())


def test_in_order_gives_every_slice_once(slices):
    parts = list(data.in_order(slices, 5))
    assert [len(x) for x, _, _ in parts] == [5, 5, 2]
    subjects = np.concatenate([each for _, _, each in parts])
    np.testing.assert_array_equal(subjects, slices.index[:, 0])


def test_no_subject_is_on_both_sides_and_the_split_stays(folder, tmp_path):
    train, test = data.split_subjects(folder, tmp_path, seed=0, slices=SLICES)
    names = {s.name for s in train}, {s.name for s in test}
    assert not names[0] & names[1] and len(names[0] | names[1]) == 3
    # Another seed does not move it: the file is what counts.
    train_again, _ = data.split_subjects(folder, tmp_path, seed=1, slices=SLICES)
    assert train_again == train


def test_a_pattern_is_kept_in_the_split_of_a_run_and_its_subjects(folder, tmp_path):
    """Which a later stage that is given the split needs not be told again."""
    how = {"patient_pattern": "^(s)[01]", "slices": SLICES, "held_out": 0.5}
    train, test = data.split_subjects(folder, tmp_path / "one", **how)
    split = data.load_split(tmp_path / "one/split.json")
    assert split["patient_pattern"] == "^(s)[01]"
    names = [[s.name for s in side] for side in (train, test)]
    assert sorted(names) == [["s0", "s1"], ["s2"]]
    given = tmp_path / "one/split.json"
    again = data.split_subjects(folder, tmp_path / "two", given=given, slices=SLICES)
    assert again == (train, test)
    assert data.load_split(tmp_path / "two/split.json") == split


def test_a_pattern_that_is_told_beside_a_split_is_kept_with_it(folder, tmp_path):
    given, pattern = tmp_path / "given.json", "^(s)[01]"
    data.save_split(given, {"seed": 0, "train": ["s0", "s1"], "test": ["s2"]})
    how = {"given": given, "slices": SLICES, "patient_pattern": pattern}
    train, _, split = data.find_split(folder, tmp_path / "run", **how)
    assert split["patient_pattern"] == pattern
    assert [subject.patient for subject in train] == ["s", "s"]


def test_a_split_with_a_patient_on_both_sides_is_refused_by_pattern(folder, tmp_path):
    given = tmp_path / "given.json"
    data.save_split(given, {"seed": 0, "train": ["s0", "s2"], "test": ["s1"]})
    how = {"given": given, "slices": SLICES, "patient_pattern": "^(s)[01]"}
    with pytest.raises(files.DataError, match="given.json.*such as s1, .* by s0"):
        data.split_subjects(folder, tmp_path / "run", **how)


def test_a_given_split_is_kept_to(folder, tmp_path):
    given = tmp_path / "given.json"
    data.save_split(given, {"seed": 0, "train": ["s2", "s0"], "test": ["s1"]})
    train, test = data.split_subjects(
        folder, tmp_path / "run", given=given, slices=SLICES
    )
    assert ([s.name for s in train], [s.name for s in test]) == (["s2", "s0"], ["s1"])


def test_a_split_of_another_folder_is_refused(folder, tmp_path):
    given = tmp_path / "given.json"
    data.save_split(given, {"seed": 0, "train": ["other"], "test": ["s1"]})
    with pytest.raises(files.DataError, match="given.json.*other"):
        data.split_subjects(folder, tmp_path / "run", given=given, slices=SLICES)


def test_a_subject_without_label_is_named_where_labels_are_needed(tmp_path):
    nifti.write_subject(tmp_path, "blank", (160, 160, 6), label=False)
    subjects = io.find_subjects(tmp_path)
    with pytest.raises(files.DataError, match="blank has no label"):
        data.Slices(subjects, SIZE, SLICES)


def test_batches_have_static_shapes(slices):
    for value in data.multimodal_batches(slices, 2, 0).element_spec.values():
        assert value.shape.is_fully_defined()
    assert data.structural_batches(slices, 2, 0).element_spec["x"].dtype == tf.float32


def test_what_a_step_draws_is_not_what_orders_slices():
    # NumPy pads seeds with zeros: [s, n] is [s, n, 0], a stream's first pass.
    order = np.random.default_rng([3, 1, 0]).random(4)
    assert not np.isin(data.batches._of_step(3, 1).random(4), order).any()


def test_whether_a_sample_has_a_lesion_is_not_drawn_as_its_code_is(monkeypatch):
    class Slices:
        lesions = range(5)

    seeds = []
    monkeypatch.setattr(
        synthesis.np.random,
        "default_rng",
        lambda seed: seeds.append(seed) or np.random.Generator(np.random.PCG64(seed)),
    )
    synthesis._is_healthy(Slices, 7, 3, 0.5)
    own = np.random.Generator(np.random.PCG64(seeds[0])).random(4)
    for attempt in range(50):
        code = np.random.Generator(np.random.PCG64([3, 7, attempt])).random(4)
        assert not np.isin(own, code).any()
