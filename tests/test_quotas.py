"""Accepted samples and those without a lesion, counted volume by volume."""

import dataclasses
import shutil

import numpy as np
import pytest

from brats_gan import manifest, runs
from brats_gan.stages import dataset
from tests.test_synthesis import slices, stand_ins  # noqa: F401 - a fixture

SAMPLES, FEW = 11, 3  # samples, and of a volume


@pytest.fixture(autouse=True)
def _three_samples_a_volume(monkeypatch):
    monkeypatch.setattr(manifest, "PER_VOLUME", FEW)


def build(slices, folder, **more):  # noqa: F811
    """A data set that half of the maps are left out of."""
    settings = dataset.Settings(
        "", "", samples=SAMPLES, max_tries=1, batch_size=4, dice_threshold=0.95, seed=3
    )
    settings = dataclasses.replace(settings, accepted_only=True, **more)
    models = stand_ins(open_when=lambda code: code < 0)
    return dataset.make_samples(settings, models, slices, folder, "ours")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(slices, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "PER_VOLUME", FEW)
        rows = build(slices, folder)
    assert sum(not row["id"] for row in rows) > 4
    return folder


def test_accepted_samples_made_in_parts_are_those_of_one_process(
    whole,
    slices,  # noqa: F811
    tmp_path,
):
    for part in ("3/3", "1/3", "2/3"):
        rows = build(slices, tmp_path / "parts", shard=part)
        kept = [row for row in rows if row["id"]]
        assert len(kept) == {"1/3": 5, "2/3": 3, "3/3": 3}[part]
    assert not (tmp_path / "parts/manifest.csv").exists()
    build(slices, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(whole)
    assert len(manifest.read(whole)) > SAMPLES


def test_numbers_of_a_volume_do_not_depend_on_what_others_left_out(whole):
    numbers = [int(row["number"]) for row in manifest.read(whole)]
    begins = [n for n in numbers if n % manifest.NUMBERS == 0]
    assert begins == [position * manifest.NUMBERS for position in range(4)]
    assert len({*numbers}) == len(numbers)
    # Of the last volume there may be, the words of a seed are still one.
    assert 99_999 * manifest.NUMBERS < 2**32


@pytest.mark.parametrize("share", [0.07, 0.1, 1 / 3, 0.5, 0.9])
def test_volumes_up_to_any_one_have_the_share_without_a_lesion_and_no_more(
    monkeypatch, share
):
    monkeypatch.setattr(manifest, "PER_VOLUME", 10)
    rng = np.random.default_rng(0)
    made = dataset.synthesis.Sample(
        *(0, None, None, None, None, None, "", 1, 0.0, 1.0, True, 0, 0, 0, 0)
    )

    def drawn():  # more of them without than are to be kept
        while True:
            yield made._replace(label=np.uint8([rng.random() < 0.02]))

    settings = dataset.Settings("", "", accepted_only=True, lesion_free=share)
    healthy = []
    for position in range(30):
        before = position * 10
        group, _ = dataset.fill(
            *(settings, drawn(), "synth-00001", 10, before, "out", lambda: None)
        )
        healthy.append(sum(not sample.label.any() for sample in group))
        # Rounded up, as a single volume always was.
        assert sum(healthy) == np.ceil(round(share * 10 * (position + 1), 6))
    assert max(healthy) - min(healthy) <= 1


def as_before(folder, first):
    """Gives the rows of the volumes behind the first one the numbers of a version that
    counted on."""
    for position, volume_id in enumerate([*manifest.volume_ids(SAMPLES)]):
        rows = manifest.recorded(folder, volume_id)
        for row in rows:
            row["number"] = str(first)
            first += 1
        manifest.write_record(folder, volume_id, rows, made_from="ours")
        yield position, rows


def test_a_set_that_counted_on_is_kept_if_it_is_finished_and_else_refused(
    whole,
    slices,  # noqa: F811
    tmp_path,
):
    folder = shutil.copytree(whole, tmp_path / "out")
    manifest.write(folder, [row for _, rows in as_before(folder, 0) for row in rows])
    before = contents(folder)
    assert len(build(slices, folder)) == len(manifest.read(folder))
    assert contents(folder) == before
    shutil.rmtree(folder / "synth-00003")
    with pytest.raises(runs.RunError, match="counted accepted samples on.*another"):
        build(slices, folder)


def test_a_manifest_whose_numbers_jump_within_a_volume_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "out")
    rows = manifest.read(folder)
    rows[1]["number"] = str(manifest.NUMBERS)
    manifest.write(folder, rows)
    with pytest.raises(manifest.files.DataError, match="it is of sample '40000', not"):
        manifest.read(folder)
