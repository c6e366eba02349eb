"""Stage 3 with stand-ins for the networks, so that every filter can be forced."""

import numpy as np
import pytest
import tensorflow as tf

from brats_gan import (
    data,
    files,
    io,
    manifest,
    spec,
    structural_map,
    styles,
    synthesis,
    synthetic_dataset,
)
from tests import nifti

SIZE = 64


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        nifti.write_subject(folder, f"s{number}", (160, 160, 4), number)
    return data.Slices(io.find_subjects(folder), SIZE, (0, 4))


def disc(radius):
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return (np.hypot(y, x) <= radius).astype(np.float32)


def stand_ins(open_when=lambda code: code < -9, blind_when=lambda f: False):
    """Models whose map is open where `open_when(code[0])`, else a closed ring.

    The images carry the label in their intensity, so the segmentor finds it exactly;
    it finds nothing where `blind_when(code)`, and the code rides in a corner of f.
    """

    def make_maps(code):
        maps = []
        for first in np.asarray(code)[:, 0]:
            ring = disc(26) - disc(24)
            if open_when(first):
                ring[: SIZE // 2, 26:38] = 0
            maps.append(ring)
        f = np.stack(maps)[..., None].astype(np.float32)
        background = np.repeat(1 - disc(27)[None, ..., None], len(f), 0)
        return tf.constant(f), tf.constant(background.astype(np.float32))

    def make_images(f, label, style):
        image = 0.1 + 0.2 * tf.cast(label, tf.float32)[:, None, ..., None]
        return tf.repeat(image, 4, 1)

    def segment(images):
        found = tf.cast(tf.round((images[..., 0] - 0.1) / 0.2), tf.int32)
        found = tf.maximum(found, 0)
        return tf.zeros_like(found) if blind_when(images) else found

    return synthesis.Models(4, make_maps, make_images, segment)


def make(models, slices, numbers=range(6), **options):
    options = {"seed": 3, "max_tries": 6, "batch_size": 4, **options}
    return list(synthesis.samples(models, slices, numbers, **options))


def test_good_samples_are_accepted_at_the_first_try(slices):
    made = make(stand_ins(), slices)
    assert [sample.number for sample in made] == list(range(6))
    for sample in made:
        assert sample.accepted and sample.dice == pytest.approx(1.0)
        assert sample.mae <= structural_map.MAE_THRESHOLD
        assert sample.tries == 1 + sample.rejected_label
        np.testing.assert_array_equal(sample.predicted, np.stack([sample.label] * 4))


def test_open_maps_are_drawn_again(slices):
    made = make(stand_ins(open_when=lambda code: code < 0.5), slices, max_tries=40)
    assert all(sample.accepted for sample in made)
    assert sum(sample.rejected_structure for sample in made) > 0
    for sample in made:
        rejected = sample.rejected_structure + sample.rejected_label
        assert sample.tries == 1 + rejected + sample.rejected_dice


def test_after_the_last_try_the_best_is_kept_and_marked(slices):
    for sample in make(stand_ins(open_when=lambda code: True), slices, range(3)):
        assert not sample.accepted
        assert (sample.tries, sample.rejected_structure) == (6, 6)


def test_sets_in_which_the_label_is_not_found_are_rejected(slices):
    made = make(stand_ins(blind_when=lambda images: True), slices)
    with_lesion = [sample for sample in made if sample.label.any()]
    assert with_lesion
    for sample in with_lesion:
        assert not sample.accepted and sample.rejected_dice > 0
        assert sample.dice < 0.01


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 0.01])
def test_a_set_with_a_slice_that_is_not_finite_or_constant_is_never_kept(slices, value):
    models = stand_ins()
    spoilt = []

    def make_images(f, label, style):
        images = np.array(models.images(f, label, style))
        if len(spoilt) < 2:  # the first attempt of each of the eight samples
            images[:, 2] = value
        spoilt.append(value)
        return tf.constant(images)

    made = make(models._replace(images=make_images), slices, range(8), max_tries=9)
    for sample in made:
        assert np.isfinite(sample.images).all()
        assert (np.ptp(sample.images, axis=(1, 2)) > 0).all()
        turned_away = sample.rejected_structure + sample.rejected_label
        turned_away += sample.rejected_dice + sample.rejected_blank
        assert sample.tries == turned_away + sample.accepted
    assert sum(sample.rejected_blank for sample in made) > 0


def test_a_generator_that_makes_nothing_else_is_an_error_that_says_so(slices):
    models = stand_ins()._replace(
        images=lambda f, label, style: tf.zeros([len(f), 4, SIZE, SIZE, 1])
    )
    with pytest.raises(files.DataError, match="all 3 attempts .*constant"):
        make(models, slices, range(2), max_tries=3)


def test_a_sample_does_not_depend_on_the_others_nor_on_the_batch(slices):
    models = stand_ins(open_when=lambda code: code < 0)
    whole = make(models, slices)
    alone = make(models, slices, [4], batch_size=2)[0]
    for one, other in zip(whole[4], alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_four_slices_of_a_sample_share_one_drawn_style(slices):
    """A style of one number a modality, all four the same in every draw."""
    seen = []

    def make_images(f, label, style):
        seen.append(np.array(style))
        return models.images(f, label, style)

    models = stand_ins()
    alike = styles.Styles(np.zeros([4, 1], np.float32), np.eye(4)[:, :1] * 0 + 1.0)
    alike = alike._replace(factor=np.pad(alike.factor, [[0, 0], [0, 3]]))
    make(models._replace(images=make_images, styles=alike), slices, range(4))
    drawn = np.concatenate(seen)
    np.testing.assert_allclose(drawn, np.repeat(drawn[:, :1], 4, 1))
    assert len(np.unique(drawn[:, 0])) > 1


def test_another_seed_makes_other_samples(slices):
    one, other = (make(stand_ins(), slices, range(4), seed=seed) for seed in (0, 1))
    assert any(np.any(a.label != b.label) for a, b in zip(one, other, strict=True))


def test_lesions_lie_inside_the_brain_and_background_is_zero(slices):
    brain = structural_map.resize_background(
        tf.constant(1 - disc(27), tf.float32)[None, ..., None], -structural_map.GROWTH
    )
    outside = np.asarray(brain)[0, ..., 0] > 0.5
    for sample in make(stand_ins(), slices, range(10)):
        assert not sample.label[outside].any()
        assert not sample.images[:, outside].any()
        assert sample.images[:, ~outside].all()


def test_some_samples_are_healthy(slices):
    made = make(stand_ins(), slices, range(60))
    share = np.mean([not sample.label.any() for sample in made])
    assert 0.01 < share < 0.25  # data.LESION_FREE is 0.1
    assert {sample.label_subject for sample in made} == {"", "s0", "s1"}


def test_rejections_do_not_make_the_data_set_healthier(slices):
    easy, hard = (
        make(stand_ins(blind_when=lambda images, blind=blind: blind), slices, range(30))
        for blind in (False, True)
    )
    assert sum(sample.rejected_dice for sample in hard) > 100
    healthy = [[not sample.label.any() for sample in made] for made in (easy, hard)]
    assert healthy[0] == healthy[1] and any(healthy[0])


def test_what_is_written_is_read_back_exactly(slices, tmp_path):
    made = make(stand_ins(), slices, range(5))
    synthetic_dataset.write_volume(tmp_path, "synth-00001", made)
    (tmp_path / "dataset_description.json").write_text('{"Prepared": true}')
    (subject,) = io.find_subjects(tmp_path)
    images, labels = io.read_subject(subject, image_size=SIZE)
    assert images.shape == (5, SIZE, SIZE, 4)
    for sample, image, label in zip(made, images, labels, strict=True):
        np.testing.assert_array_equal(label, sample.label)
        np.testing.assert_allclose(image, np.moveaxis(sample.images, 0, -1), atol=2e-5)


def test_no_volume_is_written_through_a_link_or_by_a_name_that_leads_out(
    slices, tmp_path
):
    group = make(stand_ins(), slices, range(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/synth-00001").symlink_to(tmp_path / "elsewhere")
    for name in ("synth-00001", "../elsewhere"):
        with pytest.raises(files.DataError, match="leads out of"):
            synthetic_dataset.write_volume(tmp_path / "out", name, group)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_maps_and_backgrounds_are_written_to_the_full_field(slices, tmp_path):
    made = make(stand_ins(), slices, range(2))
    synthetic_dataset.write_volume(tmp_path, "synth-00001", made)
    folder = tmp_path / "synth-00001"
    background, affine = io.load_volume(folder / "synth-00001_background.nii.gz")
    assert sorted(background.shape) == [2, spec.BRATS.field, spec.BRATS.field]
    assert np.asarray(background).reshape(2, -1)[0, 0] == 1  # the corner is outside
    np.testing.assert_allclose(np.abs(np.diag(affine)), 1.0)


def test_a_manifest_row_has_every_column(slices):
    sample = make(stand_ins(), slices, range(1))[0]
    row = manifest.row_of(sample, "synth-00001", 0, seed=3)
    assert tuple(row) == manifest.COLUMNS
    assert (row["id"], row["slice"], row["seed"]) == ("synth-00001", 0, 3)
    assert row["lesion_pixels"] == np.count_nonzero(sample.label)
