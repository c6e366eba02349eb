"""Weights as files: round trips, other sizes, what does not fit, what is damaged.

    python -m tests.test_weights

writes tests/portable.json anew, the numbers that both generations of Keras must give.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import logging

from brats_gan import (
    data,
    files,
    lesion_components,
    multimodal,
    runs,
    structural,
    weights,
)
from tests import scripts

ship = scripts.module("benchmarks.ship")
NUMBERS = Path(__file__).with_name("portable.json")
LARGEST = 25e6  # bytes of brats_gan/pretrained
BUILD = {"image_size": 32, "width": 2, "code_channels": 1, "mask_width": None}
BUILD_2 = {
    "image_size": 32,
    "width": 2,
    "scheme": "multiple",
    "label_modulation": True,
    "lesion_width": 1,
}


def stored(nets, build, stage="structural", **more):
    description = {"stage": stage, "build": build, "steps": 7, **more}
    return weights.Stored("here", description, weights.arrays_of(nets))


@pytest.fixture(scope="module")
def maps():
    """Stored of stage 1 with a fit and a split."""
    tf.keras.utils.set_random_seed(1)
    nets = structural.build(**BUILD)
    factor = np.tril(np.random.default_rng(0).random([16, 16], np.float32))
    found = structural.Fit(np.arange(16, dtype=np.float32), factor, 0.3)
    split = {"seed": 0, "train": ["a"], "test": ["b"]}
    more = {"training_subjects": ["a"], "data_fingerprint": "0f"}
    kept = stored(nets, BUILD, **more)._replace(found=found, split=split)
    return kept


@pytest.fixture(scope="module")
def slices():
    """Stored of stage 2."""
    tf.keras.utils.set_random_seed(2)
    return stored(multimodal.build(**BUILD_2), BUILD_2, "multimodal")


@pytest.fixture
def lines(monkeypatch):
    """What is logged."""
    said = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            logging, level, lambda text, *values: said.append(text % values)
        )
    return said


def same(one, other):
    assert one.keys() == other.keys()
    for name, arrays in one.items():
        assert arrays.keys() == other[name].keys()
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, other[name][key], f"{name} {key}")


def test_a_variable_is_named_by_its_place_and_role_trained_or_not():
    x = tf.keras.Input((3,))
    y = tf.keras.layers.BatchNormalization()(tf.keras.layers.Dense(2)(x))
    inner = tf.keras.Model(x, tf.keras.layers.ReLU()(y))
    z = tf.keras.Input((3,))
    net = tf.keras.Model(z, tf.keras.layers.Dense(1, use_bias=False)(inner(z)))
    assert {k: tuple(v.shape) for k, v in weights.variables(net).items()} == {
        "0/0/kernel": (3, 2),
        "0/0/bias": (2,),
        **{f"0/1/{role}": (2,) for role in ("gamma", "beta")},
        **{f"0/1/moving_{role}": (2,) for role in ("mean", "variance")},
        "1/kernel": (2, 1),
    }


@pytest.mark.parametrize("fixture", ["maps", "slices"])
def test_no_variable_of_a_network_is_left_out(fixture, request):
    kept = request.getfixturevalue(fixture)
    nets = weights.networks(kept, lambda nets: list(nets))
    for name, net in nets.items():
        assert len(kept.arrays[name]) == len(net.weights)


def test_float32_comes_back_to_the_bit_with_all_that_is_known(maps, tmp_path):
    weights.write(tmp_path / "w", maps)
    again = weights.read(tmp_path / "w")
    same(again.arrays, maps.arrays)
    np.testing.assert_array_equal(again.found.mean, maps.found.mean)
    np.testing.assert_array_equal(again.found.factor, maps.found.factor)
    assert again.found.threshold == 0.3 and again.split == maps.split
    assert again.description.items() >= maps.description.items()
    same(weights.arrays_of(weights.networks(again, ["DC_f"])), {
        "DC_f": maps.arrays["DC_f"]
    })  # fmt: skip


def test_float16_is_as_near_as_it_can_be_and_keeps_what_it_does_not_hold(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "plain": rng.standard_normal(1000).astype(np.float32),
        "large": np.float32([70000, 1]),  # float16 ends at 65504
        "small": np.float32([1.2345e-7, 0]),  # and has 6e-8 as its smallest step
    }
    kept = stored({}, BUILD)._replace(arrays={"net": arrays})
    weights.write(tmp_path / "w", kept, np.float16)
    with np.load(tmp_path / "w/net.npz") as file:
        kinds = {key: file[key].dtype for key in file.files}
    assert kinds == {"plain": np.float16, "large": np.float32, "small": np.float32}
    again = weights.read(tmp_path / "w").arrays["net"]
    # Half a unit in the last of 11 binary places.
    np.testing.assert_allclose(again["plain"], arrays["plain"], rtol=2**-11, atol=1e-7)
    for key in ("large", "small"):
        np.testing.assert_array_equal(again[key], arrays[key])


def test_weights_go_on_at_another_image_size(maps):
    build = {**BUILD, "image_size": 64}
    nets = structural.build(**build)
    fitting = weights.initialise(nets, maps, "structural", build)
    assert set(fitting) == set(nets)
    same(weights.arrays_of(nets), maps.arrays)


def test_weights_of_another_width_are_refused_with_both_shapes_and_the_flags(slices):
    build = {**BUILD_2, "width": 4, "lesion_width": None}
    nets = multimodal.build(**build)
    before = weights.arrays_of(nets)
    with pytest.raises(runs.RunError) as error:
        weights.initialise(nets, slices, "multimodal", build)
    said = str(error.value)
    assert "here does not fit" in said and "--width=2 --lesion_width=1" in said
    for name in multimodal.GENERATOR_SIDE:
        assert f"  {name}: variable 0/" in said
    # The first convolution of EC: 3 x 3, one channel to `width`.
    assert "EC: variable 0/kernel is [3, 3, 1, 2] there and [3, 3, 1, 4] here" in said
    same(weights.arrays_of(nets), before)


def test_a_network_with_other_layers_is_refused_with_the_switch(slices):
    build = {**BUILD_2, "label_modulation": False}
    with pytest.raises(runs.RunError, match="DC: variable .*and .* more") as error:
        weights.initialise(multimodal.build(**build), slices, "multimodal", build)
    assert str(error.value).endswith("Flags that would fit: --label_modulation")


def test_a_discriminator_of_another_make_begins_anew_and_says_so(slices, lines):
    build = {**BUILD_2, "category": "regression", "scheme": "single"}
    nets = multimodal.build(**build)
    before = weights.arrays_of(nets)
    fitting = weights.initialise(nets, slices, "multimodal", build)
    assert fitting == ["EC_R", "EC", "DC"]
    after = weights.arrays_of(nets)
    same({n: after[n] for n in fitting}, {n: slices.arrays[n] for n in fitting})
    same({n: after[n] for n in ("D", "SEG")}, {n: before[n] for n in ("D", "SEG")})
    assert any(line.startswith("D begins anew") and "[4]" in line for line in lines)
    assert "SEG begins anew: here has none" in lines


def test_segmentors_begin_with_the_lesion_components_of_stage_2(slices):
    build = {"scheme": "multiple", "image_size": 48, "width": 1}
    nets = lesion_components.build(**build)
    assert len(weights.initialise(nets, slices, "segmentation", build)) == 4
    same(weights.arrays_of(nets), {name: slices.arrays[name] for name in nets})
    build["width"] = 2
    with pytest.raises(runs.RunError, match="would fit: --width=1$"):
        nets = lesion_components.build(**build)
        weights.initialise(nets, slices, "segmentation", build)
    build["scheme"] = "four_channel"
    with pytest.raises(runs.RunError, match="here are SEG\n.*--scheme=multiple"):
        nets = lesion_components.build(**build)
        weights.initialise(nets, slices, "segmentation", build)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("DC_f.npz", half, "is damaged or of other weights"),
        ("DC_f.npz", changed_bit, "is damaged or of other weights"),
        ("DC_f.npz", lambda p: p.write_text("weights"), "is damaged or of other"),
        ("DC_f.npz", lambda p: p.rename(p.with_name("x")), "is missing"),
        ("fit.npz", half, "is damaged or of other weights"),
        ("weights.json", half, "not readable as JSON"),
        ("weights.json", lambda p: p.write_text("{}"), "does not describe weights"),
        ("weights.json", lambda p: p.write_text('{"format": 2}'), "newer version"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_file(maps, tmp_path, name, change, said):
    weights.write(tmp_path / "w", maps)
    change(tmp_path / "w" / name)
    with pytest.raises((runs.RunError, files.DataError), match=said) as error:
        weights.read(tmp_path / "w")
    assert str(tmp_path / "w" / name) in str(error.value)


def test_a_file_of_text_that_is_listed_is_refused(maps, tmp_path):
    weights.write(tmp_path / "w", maps)
    path = tmp_path / "w/weights.json"
    (tmp_path / "w/DC_f.npz").write_text("weights")
    description = json.loads(path.read_text())
    # blake2b of 16 bytes of b"weights", by coreutils: b2sum -l 128
    description["files"]["DC_f"] = "873ac3c6df553eaa62331fd4ff9b521a"
    path.write_text(json.dumps(files.sealed(description)))
    with pytest.raises(runs.RunError, match="DC_f.npz holds no arrays"):
        weights.read(tmp_path / "w")


def test_networks_and_options_of_another_version_are_named(maps, slices):
    other = {**maps.description, "build": {**BUILD, "spin": 1}, "version": "9.9"}
    with pytest.raises(runs.RunError, match="have spin. Use version 9.9"):
        weights.networks(maps._replace(description=other), ["DC_f"])
    lacking = maps._replace(arrays={"EC_f": maps.arrays["EC_f"]})
    with pytest.raises(runs.RunError, match="DC_f: variable 0/kernel is missing there"):
        weights.networks(lacking, ["DC_f"])
    options = {**slices.description, "options": {"sway": 1}}
    with pytest.raises(runs.RunError, match="options sway"):
        weights.options(slices._replace(description=options))


def test_weights_replace_older_ones_and_leave_nothing_beside(maps, tmp_path):
    (tmp_path / ".w.new").mkdir()  # of a process that was killed
    for steps in (1, 2):
        description = {**maps.description, "steps": steps}
        weights.write(tmp_path / "w", maps._replace(description=description))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert weights.read(tmp_path / "w").description["steps"] == 2


def begun(run_dir, build=BUILD, source=None, **more):
    """Networks of a run of stage 1 after weights.begin."""
    run_dir.mkdir(exist_ok=True)
    (run_dir / "flags.txt").write_text("# train_structural.py\n--seed=3\n")
    nets = structural.build(**build)
    description = weights.begin(run_dir, "structural", build, nets, source, **more)
    weights.record(run_dir, description)
    return nets


def save_checkpoint(run_dir, nets, step, seed=3):
    objects = {"step": tf.Variable(step, dtype=tf.int64), **nets}
    run = {"seed": seed, **weights.begun(run_dir)}
    runs.save(runs.restore(objects, run_dir / "checkpoints", run), step)


def test_an_unfinished_run_gives_the_weights_of_its_newest_whole_checkpoint(tmp_path):
    nets = begun(tmp_path / "run")
    with pytest.raises(runs.RunError, match="nor a whole checkpoint yet"):
        weights.find(tmp_path / "run", "structural")
    save_checkpoint(tmp_path / "run", nets, 3)
    kept = weights.arrays_of(nets)
    for net in nets.values():
        net.set_weights([0 * w for w in net.get_weights()])
    save_checkpoint(tmp_path / "run", nets, 4)
    half(tmp_path / "run/checkpoints/ckpt-4.data-00000-of-00001")
    found = weights.find(tmp_path / "run", "structural")
    same(found.arrays, kept)
    assert found.description["steps"] == 3 and found.found is None


def test_the_checkpoint_of_another_run_gives_no_weights(tmp_path):
    for name, seed in (("run", 3), ("other", 4)):
        save_checkpoint(tmp_path / name, begun(tmp_path / name), 3, seed)
    weights.find(tmp_path / "run", "structural")
    shutil.rmtree(tmp_path / "run/checkpoints")
    shutil.copytree(tmp_path / "other/checkpoints", tmp_path / "run/checkpoints")
    with pytest.raises(runs.RunError, match="ckpt-3 is of another run.*other weights"):
        weights.find(tmp_path / "run", "structural")


def save_older_checkpoint(run_dir, nets, step):
    """As versions wrote it that did not say whose it is."""
    checkpoint = tf.train.Checkpoint(**nets)
    checkpoint.write(str(run_dir / "checkpoints" / f"ckpt-{step}"))


def test_a_run_that_lost_its_networks_is_told_so_and_not_something_else(tmp_path):
    nets = begun(tmp_path / "run")
    save_checkpoint(tmp_path / "run", nets, 3)
    (tmp_path / "run/networks.json").unlink()
    for look in (weights.begun, lambda run: weights.find(run, "structural")):
        with pytest.raises(runs.RunError, match="networks.json is gone.*put it back"):
            look(tmp_path / "run")


def test_a_run_of_before_networks_were_written_has_none_to_lose(tmp_path):
    run = tmp_path / "run"
    nets = begun(run)
    save_older_checkpoint(run, nets, 3)
    (run / "networks.json").unlink()
    assert weights.begun(run) == {}
    # Those that could begin from weights wrote them.
    with (run / "flags.txt").open("a") as file:
        file.write("--init_from=w\n")
    with pytest.raises(runs.RunError, match="networks.json is gone"):
        weights.begun(run)


ODD = [
    {"stage": None},
    {"stage": ["structural"]},
    {"build": []},
    {"training_subjects": "a"},
    {"initialised_from": "pretrained"},
    {"initialised_from": {"inputs": None}},
    {"initialised_from": {"inputs": ["x"]}},
    {"synthetic_from": {"training_subjects": None}},
    {"inputs": {"subjects": {}}},
    {"inputs": {"split": {"train": ["a"], "test": []}, "subjects": {"a": {}}}},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_no_version_has_written_of_weights_is_refused(maps, tmp_path, odd):
    weights.write(tmp_path / "w", maps)
    run = tmp_path / "run"
    save_checkpoint(run, begun(run), 3)
    for path in (tmp_path / "w/weights.json", run / "networks.json"):
        content = {**files.unsealed(files.read_json(path)), **odd}  # without a digest
        files.write_json(path, content)
        with pytest.raises(runs.RunError, match=path.name):
            weights.find(path.parent, "structural")


def test_of_a_run_that_went_on_the_checkpoint_is_newer_than_its_weights(maps, tmp_path):
    nets = begun(tmp_path / "run")
    weights.write(tmp_path / "run/weights", maps)  # of step 7
    save_checkpoint(tmp_path / "run", nets, 7)
    same(weights.find(tmp_path / "run", "structural").arrays, maps.arrays)
    save_checkpoint(tmp_path / "run", nets, 8)
    found = weights.find(tmp_path / "run", "structural")
    same(found.arrays, weights.arrays_of(nets))


def test_a_run_that_goes_on_does_not_load_again(maps, tmp_path, lines):
    weights.write(tmp_path / "w", maps)
    nets = begun(tmp_path / "run", source=tmp_path / "w")
    same(weights.arrays_of(nets), maps.arrays)
    kept = json.loads((tmp_path / "run/networks.json").read_text())
    assert kept["initialised_from"]["steps"] == 7
    assert kept["initialised_from"]["training_subjects"] == ["a"]
    save_checkpoint(tmp_path / "run", nets, 1)
    (tmp_path / "w").rename(tmp_path / "moved")
    again = begun(tmp_path / "run", source=tmp_path / "w")
    kernel = again["DC_f"].get_weights()[0]
    assert (kernel != maps.arrays["DC_f"]["0/kernel"]).all()
    assert json.loads((tmp_path / "run/networks.json").read_text()) == kept
    assert "goes on from its checkpoint, not --init_from" in lines[-1]


def test_it_is_said_if_weights_have_seen_what_a_run_holds_out(maps, tmp_path, lines):
    weights.write(tmp_path / "w", maps)
    begun(tmp_path / "run", source=tmp_path / "w", held_out=["a", "c"])
    said = "1 subjects with the names of subjects that this run holds out, or of their "
    assert f"{said}patients (a)" in "\n".join(lines)


def test_it_is_said_if_weights_have_seen_another_visit(maps, tmp_path, lines):
    weights.write(tmp_path / "w", maps)  # of a
    more = {"held_out": ["ab", "c"], "patient_pattern": "^(a)"}
    begun(tmp_path / "run", source=tmp_path / "w", **more)
    assert "patients (ab (of the patient of a))" in "\n".join(lines)


def record_of(train, test, image_size=32):
    """A record of subjects by name -> what is in their files."""
    subjects = {
        name: {"files": {"t1": f"file of {each}"}, "images": None, "label": None}
        for name, each in {**train, **test}.items()
    }
    split = {"seed": 0, "train": [*train], "test": [*test]}
    return {
        "image_size": image_size,
        "slices": [0, 4],
        "split": split,
        "subjects": subjects,
    }


def with_record(kept, record):
    """Stored of a run that has it."""
    more = {"training_subjects": record["split"]["train"], "inputs": record}
    return kept._replace(description={**kept.description, **more})


@pytest.mark.parametrize("name", ["a", "renamed"])
def test_weights_that_have_seen_what_a_run_holds_out_are_refused(maps, tmp_path, name):
    weights.write(tmp_path / "w", with_record(maps, record_of({"a": "A"}, {"b": "B"})))
    made_from = record_of({"b": "B"}, {name: "A"})
    message = rf"{name}: {name}, which is held out, is the same subject as a, which "
    with pytest.raises(files.DataError, match=f"{message}--init_from={tmp_path / 'w'}"):
        begun(tmp_path / "run", source=tmp_path / "w", made_from=made_from)
    # What they held out themselves they have not seen.
    made_from = record_of({"a": "A"}, {name + "x": "B"})
    begun(tmp_path / "run", source=tmp_path / "w", made_from=made_from)


def test_weights_that_have_seen_another_visit_of_who_is_held_out_are_refused(
    maps, tmp_path
):
    record = record_of({"RHUH-0001_0": "A"}, {"b": "B"})
    weights.write(tmp_path / "w", with_record(maps, record))
    made_from = record_of({"b": "B"}, {"RHUH-0001_1": "C"})
    with pytest.raises(files.DataError, match="RHUH-0001_1, .* a visit of the patient"):
        begun(tmp_path / "run", source=tmp_path / "w", made_from=made_from)


def test_what_weights_of_weights_of_weights_have_seen_is_known_to_the_last(
    maps, tmp_path
):
    """Of runs that finished, and of one that has not: its weights are a checkpoint."""
    weights.write(tmp_path / "0", with_record(maps, record_of({"a": "A"}, {"b": "B"})))
    for number in (1, 2):
        record = record_of({f"own{number}": f"own {number}"}, {"b": "B"})
        run = tmp_path / f"run{number}"
        nets = begun(run, source=tmp_path / str(number - 1), made_from=record)
        data.save_split(run / "split.json", record["split"])
        files.write_json(run / "inputs.json", record)
        weights.finish(run, nets, {"inputs": record}, 5)
        (run / "weights").rename(tmp_path / str(number))
    save_checkpoint(tmp_path / "run2", nets, 1)
    for source in (tmp_path / "2", tmp_path / "run2"):
        known = weights.seen(weights.find(source, "structural").description)
        assert [each["split"]["train"] for each in known] == [["own2"], ["own1"], ["a"]]
    made_from = record_of({"b": "B"}, {"z": "A"})
    with pytest.raises(files.DataError, match="z, .* is the same subject as a"):
        begun(tmp_path / "last", source=tmp_path / "2", made_from=made_from)


def test_a_run_whose_record_was_changed_gives_no_weights(maps, tmp_path):
    record = record_of({"a": "A"}, {"b": "B"})
    nets = begun(tmp_path / "run", made_from=record)
    save_checkpoint(tmp_path / "run", nets, 1)
    files.write_json(tmp_path / "run/inputs.json", record_of({"a": "C"}, {"b": "B"}))
    with pytest.raises(runs.RunError, match="inputs.json is not what .* began with"):
        weights.find(tmp_path / "run", "structural")


def test_what_the_makers_of_synthetic_data_have_seen_counts_as_seen():
    record = record_of({"a": "A"}, {})
    before = {"training_subjects": ["a"], "inputs": [record]}
    description = {"synthetic_from": before, "initialised_from": None}
    assert weights.inherited(description) == ["a"]
    assert weights.seen(description) == [record]


def test_a_place_without_weights_is_refused(tmp_path, monkeypatch):
    with pytest.raises(runs.RunError, match="neither a run nor a folder of weights"):
        weights.find(tmp_path, "structural")
    monkeypatch.setattr(weights.folders, "PRETRAINED", tmp_path)
    with pytest.raises(runs.RunError, match=f"{tmp_path} has no weights of stage mul"):
        weights.find("pretrained", "multimodal")


def test_pretrained_is_the_folder_of_the_stage_in_the_package(
    maps, slices, tmp_path, monkeypatch
):
    monkeypatch.setattr(weights.folders, "PRETRAINED", tmp_path)
    weights.write(tmp_path / "structural", maps, np.float16)
    weights.write(tmp_path / "multimodal", slices, np.float16)
    for stage, name in (
        ("structural", "DC_f"),
        ("multimodal", "DC"),
        ("segmentation", "SEG_t1"),
    ):
        for source in ("pretrained", tmp_path):
            assert name in weights.find(source, stage).arrays


def test_pretrained_64_is_another_folder_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.folders, "PRETRAINED_64", tmp_path)
    with pytest.raises(runs.RunError, match=f"{tmp_path} has no weights of stage mul"):
        weights.folder_of("pretrained-64", "multimodal")
    monkeypatch.undo()
    small, large = (
        weights.read(weights.folder_of(name, "structural")).description["image_size"]
        for name in ("pretrained-64", "pretrained")
    )
    assert (small, large) == (64, 128)


# --- Both generations of Keras --------------------------------------------------------


def filled(nets, name):
    """Gives every variable numbers that follow from its name; returns the network."""
    for key, variable in weights.variables(nets[name]).items():
        rng = np.random.default_rng(zlib.crc32(f"{name} {key}".encode()))
        value = rng.standard_normal(tuple(variable.shape)).astype(np.float32)
        # He's scale, so that what is read still shows behind many layers.
        scale = np.sqrt(2 / np.prod(value.shape[:-1])) if value.ndim > 1 else 0.5
        variable.assign(value * scale)
    return nets[name]


def portable():
    """{network: mean and first numbers of each output} of networks filled by name."""
    tf.keras.mixed_precision.set_global_policy("float32")
    # Wide enough that no layer is dead, behind which an exchange would not show.
    nets = structural.build(32, 4, code_game=True)
    nets |= multimodal.build(32, 4, code_game=True)
    nets |= lesion_components.build("shared_encoder", 32, 2)
    found = {}
    for name in nets:
        net = filled(nets, name)
        rng = np.random.default_rng(0)
        inputs = [rng.random([2, *x.shape[1:]], np.float32) for x in net.inputs]
        made = net(inputs if len(inputs) > 1 else inputs[0], training=False)
        made = made if isinstance(made, (list, tuple)) else [made]
        found[name] = [
            [float(np.mean(each)), *np.ravel(each)[:3].astype(float)] for each in made
        ]
    return found


def test_variables_bear_the_same_names_on_either_generation_of_keras():
    expected = json.loads(NUMBERS.read_text())
    made = portable()
    assert made.keys() == expected.keys()
    for name, outputs in made.items():
        np.testing.assert_allclose(
            outputs, expected[name], rtol=1e-3, atol=1e-3, err_msg=name
        )


shipped = pytest.mark.skipif(
    not (weights.PRETRAINED / "structural").exists(), reason="no weights are shipped"
)


def test_what_ships_is_small():
    sizes = [p.stat().st_size for p in weights.PRETRAINED.rglob("*") if p.is_file()]
    assert sizes and sum(sizes) <= LARGEST


@shipped
def test_the_shipped_weights_give_the_numbers_they_were_shipped_with():
    expected = json.loads((weights.PRETRAINED / "expected.json").read_text())
    made = ship.expected(weights.PRETRAINED)
    assert made.keys() == expected.keys()
    for name, numbers in made.items():
        for key in ("mean", "values"):
            np.testing.assert_allclose(
                numbers[key], expected[name][key], atol=1e-3, err_msg=name
            )


@shipped
def test_the_shipped_weights_name_no_place_on_a_machine():
    for path in weights.PRETRAINED.parent.glob("pretrained*/*/weights.json"):
        assert "_dir=" not in path.read_text() and "/" not in path.read_text()


# --- Labels ---------------------------------------------------------------------------


def test_labels_of_a_pool_are_those_with_a_lesion_at_the_size_that_is_asked(tmp_path):
    label = np.zeros([3, 8, 8], np.uint8)
    label[0, 2:4, 4:6] = 4  # the pixel (1, 2) of 4 x 4
    label[1, 0, 0] = 2  # smaller than a pixel, and off its centre
    label[2, 6:, :2] = 1
    np.savez(
        tmp_path / "labels.npz",
        label=label,
        subject=["b", "b", "a"],
        slice=np.int16([60, 61, 70]),
    )
    pool = data.LabelPool(tmp_path / "labels.npz", 4)
    assert pool.names == ["a", "b"] and pool.image_size == 4
    assert pool.lesions.tolist() == [0, 1] and pool.index.tolist() == [[1, 60], [0, 70]]
    labels = pool.labels([1, 0, 1])
    assert labels.shape == (3, 4, 4) and labels.dtype == np.uint8
    assert np.argwhere(labels[1]).tolist() == [[1, 2]] and labels[1, 1, 2] == 4
    assert np.argwhere(labels[0]).tolist() == [[3, 0]]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("labels"),
        lambda path: path.write_bytes(b"PK\x03\x04half of a zip"),
        lambda path: np.savez(path, label=np.ones([1, 8, 8], np.uint8)),
        lambda path: np.savez(
            path, label=np.full([1, 8, 8], 5, np.uint8), subject=["a"], slice=[1]
        ),
        lambda path: path.unlink(missing_ok=True),
    ],
)
def test_a_damaged_pool_of_labels_is_named(tmp_path, write):
    path = tmp_path / "labels.npz"
    write(path)
    with pytest.raises(files.DataError, match="labels.npz.*give --data_dir"):
        data.LabelPool(path, 8)


if __name__ == "__main__":
    NUMBERS.write_text(json.dumps(portable(), indent=1) + "\n")
