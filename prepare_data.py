"""Step 0: checks a folder of BraTS data, converts it, or makes a phantom of it.

And shows or empties the cache, where all stages keep the slices that they decode.

  python prepare_data.py check   --data_dir=DIR [--layout=NAME] [--slices=A:B]
                                         [--patient_pattern=REGEX] [--json]
                                         [--report=FILE.html]
  python prepare_data.py convert --data_dir=DIR --output_dir=DIR [--to=FORMAT]
  python prepare_data.py phantom --output_dir=DIR [--subjects=N] [--seed=N]
  python prepare_data.py cache   [--cache_dir=DIR] [--clear]

check    One table of what is there, then every problem with its file and the remedy.
         Exit code 0 only if the folder is usable as it is. --report writes it as a page
         too, with a slice of every subject that has a problem or a note.
convert  Any layout to BraTS 2018-21 NIfTI with this project's labels, or to nnU-Net's
         raw data or BIDS. Goes on where it was interrupted.
phantom  BraTS-like subjects made from the MNI152 atlas; no download, no patient.
cache    Where decoded slices are kept, and how much of them. --clear removes them; what
         is needed is decoded again. Not while a command is at work with them.

Each takes --spec=FILE for data that has other modalities or labels than BraTS.
data/README.md shows the folders that are read and where to get them.
"""

import json
import sys

from absl import app, flags

from brats_gan import common_flags, files, io, progress, runs
from brats_gan.spec import BRATS, Spec

FORMATS = ("brats", "nnunet", "bids")  # of io.targets

_DATA = common_flags.data_dir("Folder to check or to convert.")
_OUTPUT = common_flags.path("output_dir", "Folder that convert and phantom write.")
_LAYOUT = flags.DEFINE_enum(
    "layout",
    None,
    io.LAYOUTS,
    "Layout of --data_dir. Detected from file names if unset.",
)
common_flags.patient_pattern()
common_flags.labels()
_SPEC = common_flags.spec()
_SLICES = common_flags.slices()
_JSON = flags.DEFINE_bool("json", False, "check prints JSON instead of the table.")
_REPORT = common_flags.path(
    "report", "Page that check writes beside what it prints, FILE.html."
)
_SUBJECTS = common_flags.count("subjects", 4, "How many phantoms.", 99_999)
_CACHE = flags.DEFINE_string(
    "cache_dir",
    None,
    "Of cache; default: $BRATS_GAN_CACHE, else brats_gan in the user's folder for "
    "caches.",
)
_TO = flags.DEFINE_enum(
    "to", "brats", FORMATS, "What convert writes; data/README.md shows the trees."
)
_NUMBER = common_flags.count(
    "dataset_id", 1, "Of convert --to=nnunet: the number in DatasetNNN_NAME.", 999
)
_CLEAR = flags.DEFINE_bool("clear", False, "cache empties it.")
_SEED = common_flags.seed("Seeds the phantoms; equal seeds give equal files.")


def check(
    data_dir: str,
    layout: str | None,
    slices: tuple[int, int],
    spec: Spec,
    labelling: io.Labelling,
    patient_pattern: str | None,
    as_json: bool,
    page_path: str | None,
) -> int:
    from brats_gan.io import checks

    if page_path:
        from brats_gan import pages
        from brats_gan.io import page

        pages.require_path("report", page_path)
    shown = progress.Line(f"checking {data_dir}", "subject")
    report = checks.check(
        data_dir,
        layout,
        slices,
        progress=shown,
        spec=spec,
        labelling=labelling,
        patient_pattern=patient_pattern,
    )
    print(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    if page_path:
        page.write(report, page_path)
    return 0 if report.usable else 1


def convert(
    data_dir: str,
    output_dir: str,
    layout: str | None,
    spec: Spec,
    labelling: io.Labelling,
    to: str,
    dataset_id: int,
) -> int:
    from brats_gan.io import convert

    done, problems = convert.convert(
        *(data_dir, output_dir, layout, spec, labelling, to, dataset_id),
        progress=progress.Line(f"converting {data_dir}", "subject"),
    )
    for name, message in problems:
        print(f"error: {name}: {message}", file=sys.stderr)
    print(f"{len(done)} of {len(done) + len(problems)} subjects are in {output_dir}")
    return 1 if problems else 0


def phantom(output_dir: str, subjects: int, seed: int, spec: Spec) -> int:
    from brats_gan import phantom

    slices = phantom.SLICES if spec.slices == BRATS.slices else spec.slices
    phantom.write_subjects(output_dir, subjects, seed, slices, spec=spec)
    print(f"{subjects} phantom subjects are in {output_dir}")
    return 0


def cache(place: str | None, clear: bool) -> int:
    from brats_gan.data import cache

    place = place or cache.default_place()
    if place is None:
        raise files.DataError(
            f"this user has no home, so there is no cache; name one by --cache_dir or "
            f"the variable {cache.VARIABLE}"
        )
    held, count = cache.as_text(cache.size(place)), len(cache.contents(place))
    if clear:
        cache.clear(place)
        print(f"{place}: {count} files, {held}, were removed")
    else:
        print(f"{place}: {count} files, {held}")
    return 0


# Name -> the flags that it cannot do without.
COMMANDS = {
    "check": (_DATA,),
    "convert": (_DATA, _OUTPUT),
    "phantom": (_OUTPUT,),
    "cache": (),
}


def main(argv):
    names = ", ".join(COMMANDS)
    if len(argv) != 2 or argv[1] not in COMMANDS:
        given = " ".join(argv[1:]) or "nothing"
        raise app.UsageError(f"one command of {names} is due, {given} was given.")
    # A file name need not be text, and a report must name it all the same.
    sys.stdout.reconfigure(errors="backslashreplace")
    command = argv[1]
    for flag in COMMANDS[command]:
        if not flag.value:
            raise app.UsageError(f"{command} needs --{flag.name}.")
    spec = _SPEC.value or BRATS
    source = common_flags.source()
    read = (_LAYOUT.value, spec, source.labelling)
    if command == "check":
        layout, *how = read
        how += source.patient_pattern, _JSON.value, _REPORT.value
        return check(_DATA.value, layout, source.slices, *how)
    if command == "cache":
        return cache(_CACHE.value, _CLEAR.value)
    files.require_writable(_OUTPUT.value)
    if command == "convert":
        files.require_apart({"output_dir": _OUTPUT.value}, {"data_dir": _DATA.value})
        return convert(_DATA.value, _OUTPUT.value, *read, _TO.value, _NUMBER.value)
    return phantom(_OUTPUT.value, _SUBJECTS.value, _SEED.value, spec)


if __name__ == "__main__":
    runs.main(main, commands=True)
