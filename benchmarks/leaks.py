"""Whether a patient who was held out has entered any stage: from files alone.

    python -m benchmarks.leaks [--data_dir=DIR,...] FOLDER...

FOLDER is what belongs to one experiment: runs of stages 1, 2 and 4, data sets, folders
of weights, and what --judges_dir of the scoreboard keeps. What these name in turn (the
weights that a run began from, the models of a data set) is followed where it is at
hand. Held out is whoever any of the folders holds out. Nothing that a run says of its
subjects is taken on trust where the data is at hand: every volume is read again, into a
scratch folder, and compared. --data_dir names further places of the data, such as that
of the judges. One line a comparison:

OK             it was compared, and agrees
LEAK           a held-out patient's voxels, labels or statistics entered
not provable   what is missing for that is named

and the exit code is 1 where there is a LEAK, 2 where something is not provable or
cannot be examined. It compares, for each folder:

seals          whether files are as they were written
sides          all files of the folder, on which side they have whom
split          split.json with what its seed draws, or with the split that was given
held out       who was seen (own subjects, labels' sources, first weights, models, all
               before them), with all held out: by name, by patient, by digest of files,
               and by what networks see, read again from the data folders
content        the record of each subject with the data folder
fingerprint    the training set of stages 1 and 2, by content, with the exports'
style, codes   fitted anew to the training subjects (D33, D25)
weights        exports with the arrays in weights/
before         whether first weights, models and data sets are at hand, to be looked at
results        lines of tables, with the subjects that the run has recorded
made by        a data set's models by content, and its first samples, made anew
cache          decoded slices that the cache serves, with the files

What files alone cannot prove: that a run was trained by this program and on no more
than it says. Whoever writes every file anew, with weights that were trained elsewhere,
leaves nothing to compare; to rule that out, repeat the run from its flags.txt with
--deterministic, and compare the weights. Digests know a scan again in files of another
kind, not after it was resampled, shifted or had noise added. Names tell patients as
far as collections or --patient_pattern do. And who looked at the held-out subjects to
choose settings leaves no trace in files.
"""

import pathlib
import sys
import tempfile

from absl import flags

from benchmarks import leaks_checks, leaks_folders, leaks_reader
from brats_gan import files, runs

_DATA = flags.DEFINE_list("data_dir", [], "Further places of the data.")
_SCRATCH = flags.DEFINE_string(
    "scratch_dir",
    None,
    "Where there is room for decoded slices, as much as a cache takes; they are gone "
    "at the end. Default: that of temporary files.",
)
CODES = {leaks_reader.LEAK: 1, leaks_reader.UNPROVEN: 2}


def examine(paths, data_dirs=(), scratch=None, say=print):
    """All lines of leaks_checks, in order.

    Args:
        paths: of folders, see above.
        data_dirs: further places of the data.
        scratch: where a temporary folder for decoded slices is made; None: anywhere.
        say: called with each line as it is known.

    Raises:
        RunError, DataError: a folder is none that can be examined.
    """
    folders = leaks_reader.followed([leaks_folders.load(path) for path in paths])
    found = []
    # Of this process alone: what a cache has is among what is not taken on trust.
    with tempfile.TemporaryDirectory(prefix="brats_gan-leaks-", dir=scratch) as folder:
        for line in leaks_checks.lines(folders, data_dirs, folder):
            found.append(line)
            say(line)
    return found


def main(argv):
    try:
        if not argv[1:]:
            raise runs.RunError("name the folders of runs and data sets to examine")
        if _SCRATCH.value:
            files.require_writable(_SCRATCH.value)
            pathlib.Path(_SCRATCH.value).mkdir(parents=True, exist_ok=True)
        found = examine(argv[1:], _DATA.value, _SCRATCH.value)
    except (files.DataError, runs.RunError, OSError) as error:  # 1 is for leaks
        print(f"error: {error}", file=sys.stderr)
        return CODES[leaks_reader.UNPROVEN]
    counts = {
        verdict: sum(each.verdict == verdict for each in found)
        for verdict in (leaks_reader.OK, *CODES)
    }
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return next((code for verdict, code in CODES.items() if counts[verdict]), 0)


if __name__ == "__main__":
    runs.main(main, commands=True)
