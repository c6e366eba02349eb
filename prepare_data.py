"""Step 0: checks a folder of BraTS data, converts it, or makes a phantom of it.

  python prepare_data.py check   --data_dir=DIR [--layout=NAME] [--slices=A:B] [--json]
  python prepare_data.py convert --data_dir=DIR --output_dir=DIR [--layout=NAME]
  python prepare_data.py phantom --output_dir=DIR [--subjects=N] [--seed=N]

check    One table of what is there, then every problem with its file and the remedy.
         Exit code 0 only if the folder is usable as it is.
convert  Any layout to BraTS 2018-21 NIfTI with this project's labels. Goes on where it
         was interrupted.
phantom  BraTS-like subjects made from the MNI152 atlas; no download, no patient.

data/README.md shows the folders that are read and where to get them.
"""

import json
import sys

from absl import app, flags

from brats_gan import files, io, progress, runs, spec

_DATA = flags.DEFINE_string("data_dir", None, "Folder to check or to convert.")
_OUTPUT = flags.DEFINE_string("output_dir", None, "Folder that convert, phantom write.")
_LAYOUT = flags.DEFINE_enum(
    "layout",
    None,
    io.LAYOUTS,
    "Of --data_dir; recognised by its files if not given.",
)
_SLICES = flags.DEFINE_string(
    "slices", ":".join(map(str, spec.SLICES)), "Half-open range of axial slices used."
)
_JSON = flags.DEFINE_bool("json", False, "check prints JSON instead of the table.")
_SUBJECTS = flags.DEFINE_integer("subjects", 4, "How many phantoms.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the phantoms: the same files for the same.")


def check():
    from brats_gan.io import checks

    slices = io.parse_slices(_SLICES.value)
    shown = progress.Line(f"checking {_DATA.value}", "subject")
    report = checks.check(_DATA.value, _LAYOUT.value, slices, progress=shown)
    print(json.dumps(report.as_dict(), indent=2) if _JSON.value else report.as_text())
    return 0 if report.usable else 1


def convert():
    from brats_gan.io import convert

    done, problems = convert.convert(_DATA.value, _OUTPUT.value, _LAYOUT.value)
    for name, message in problems:
        print(f"error: {name}: {message}", file=sys.stderr)
    print(f"{len(done)} of {len(done) + len(problems)} subjects are in {_OUTPUT.value}")
    return 1 if problems else 0


def phantom():
    from brats_gan import phantom

    phantom.write_subjects(_OUTPUT.value, _SUBJECTS.value, seed=_SEED.value)
    print(f"{_SUBJECTS.value} phantom subjects are in {_OUTPUT.value}")
    return 0


# Name -> what it does and the flags it cannot do without.
COMMANDS = {
    "check": (check, (_DATA,)),
    "convert": (convert, (_DATA, _OUTPUT)),
    "phantom": (phantom, (_OUTPUT,)),
}


def main(argv):
    names = ", ".join(COMMANDS)
    if len(argv) != 2 or argv[1] not in COMMANDS:
        given = " ".join(argv[1:]) or "nothing"
        raise app.UsageError(f"one command of {names} is due, {given} was given.")
    # A file name need not be text, and a report must name it all the same.
    sys.stdout.reconfigure(errors="backslashreplace")
    command, required = COMMANDS[argv[1]]
    for flag in required:
        if not flag.value:
            raise app.UsageError(f"{argv[1]} needs --{flag.name}.")
    try:
        return command()
    except files.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    app.run(main, flags_parser=runs.parse_flags)
