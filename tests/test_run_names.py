"""Names of run folders that TensorFlow would take as patterns."""

import pytest
from absl import flags

from brats_gan import flag_parsers, runs
from brats_gan.runs import checkpoints, exports

NAMES = ["run [1]", "run*", "what?", "back\\slash"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_whose_name_is_a_pattern_is_refused_before_it_is_made(name, tmp_path):
    with pytest.raises(runs.RunError, match="reads as a pattern; choose another name"):
        runs.start(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: checkpoints.restore({}, folder / "checkpoints", {}),
        checkpoints.newest_checkpoint,
        lambda folder: exports.load_export(folder, "structure"),
    ],
    ids=["restore", "newest", "export"],
)
def test_what_lies_in_such_a_folder_is_not_called_damaged(use, tmp_path):
    with pytest.raises(runs.RunError, match="as a pattern"):
        use(tmp_path / "run [1]")


def test_a_home_folder_is_not_made_below_this_one():
    with pytest.raises(runs.RunError, match="write the home folder in full"):
        runs.start("~/run")


def test_flags_of_folders_know_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    parse = flag_parsers.FolderParser().parse
    assert parse("~/data") == "/home/someone/data"
    assert parse("data/~x") == "data/~x"
    assert isinstance(flag_parsers.FolderParser(), flags.ArgumentParser)


def test_a_folder_without_a_name_is_refused():
    values = flags.FlagValues()
    parser, serializer = flag_parsers.FolderParser(), flags.ArgumentSerializer()
    flags.DEFINE(parser, "split", None, "", flag_values=values, serializer=serializer)
    values(["script"])
    assert values.split is None
    with pytest.raises(flags.IllegalFlagValueError, match="--split=: names nothing"):
        values(["script", "--split="])
