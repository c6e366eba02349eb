"""Real and generated slices, mixed, for somebody to tell apart by looking.

    python -m benchmarks.blind --data_dir=REAL --synthetic_dir=SET --image_size=128 \\
        --output_dir=DIR

writes DIR/slices/01.png, 02.png ..., each the contrasts of a slice, and DIR/key.csv,
which says what each is and is not to be shown. Real slices are of as many subjects as
there are, so that nobody knows a head again, and show a lesion, as the generated ones
do. Who has looked writes lines of "number,real" or "number,generated"; then

    python -m benchmarks.blind --output_dir=DIR --answers=FILE

says how many were told apart, and how likely as many are by guessing.
"""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
from absl import app, flags
from scipy import stats

from brats_gan import data, files, io, runs

_OUTPUT = flags.DEFINE_string("output_dir", None, "Pictures and key.", required=True)
_DATA = flags.DEFINE_string("data_dir", None, "Real subjects.")
_SPLIT = flags.DEFINE_string("split", None, "Real slices of its held-out ones alone.")
_SYNTHETIC = flags.DEFINE_string("synthetic_dir", None, "Of build_dataset.py.")
_SIZE = flags.DEFINE_integer("image_size", 128, "That the generator has.", 32)
_COUNT = flags.DEFINE_integer("count", 20, "Slices of each kind.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice and the order.")
_ANSWERS = flags.DEFINE_string("answers", None, "Of who has looked.")

KINDS = ("real", "generated")
SIDE = 384  # of a contrast, in pixels of the picture
LEAST = 20  # pixels of the lesion in a slice that is shown


def chosen(index, lesion_pixels, count, rng):
    """Positions of `count` slices with a lesion, of as many subjects as there are.

    Args:
        index: [N], the subject of each slice.
        lesion_pixels: [N].
        count: how many.
        rng: numpy Generator.

    Raises:
        DataError: there are fewer.
    """
    shown = rng.permutation(np.flatnonzero(np.asarray(lesion_pixels) >= LEAST))
    if len(shown) < count:
        raise files.DataError(
            f"{len(shown)} slices have a lesion of {LEAST} pixels or more, and --count "
            f"asks for {count}; give more subjects, or a smaller --count"
        )
    # How many slices of the same subject come before: the first of each come first.
    seen, turn = {}, []
    for subject in np.asarray(index)[shown]:
        turn.append(seen.get(subject, 0))
        seen[subject] = turn[-1] + 1
    return shown[np.argsort(turn, kind="stable")][:count]


def read(folder, names=None):
    """data.Slices of subjects of a folder, and the pixels of each slice's lesion [N].

    Args:
        folder: str.
        names: of the subjects, if not all.
    """
    subjects = io.find_subjects(folder)
    if names is not None:
        subjects = [each for each in subjects if each.name in names]
    slices = data.Slices(subjects, _SIZE.value)  # samples are read whole, by any range
    labels = slices.labels(np.arange(len(slices)))
    return slices, np.count_nonzero(labels, (1, 2))


def picture(images):
    """[M, H, W] in [0, 1] -> uint8 [SIDE, M * SIDE], the contrasts in a row."""
    levels = np.clip(255 * np.asarray(images), 0, 255).astype(np.uint8)
    enlarged = (
        cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in levels
    )
    return np.concatenate(list(enlarged), 1)


def mixed(rng, count):
    """[(kind, which of its kind)] of 2 * count pictures, in random order."""
    every = [(kind, number) for kind in KINDS for number in range(count)]
    return [every[position] for position in rng.permutation(len(every))]


def told_apart(key, answers):
    """(right, asked, probability of as many or more right by guessing).

    Args:
        key: {number: kind}.
        answers: {number: kind}.

    Raises:
        DataError: there is none, or one is of no picture, or says no kind.
    """
    if not answers:
        raise files.DataError("there is no answer in the file")
    for number, said in answers.items():
        if number not in key or said not in KINDS:
            raise files.DataError(
                f"an answer says {number},{said}: pictures are numbered 1 to "
                f"{len(key)}, and are {' or '.join(KINDS)}"
            )
    right = sum(key[number] == said for number, said in answers.items())
    by_chance = stats.binom.sf(right - 1, len(answers), 0.5)
    return right, len(answers), float(by_chance)


def pairs(path):
    """{number: kind} of the lines of a CSV file.

    Raises:
        DataError: it cannot be read so.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        found = [(int(row[0]), row[1].strip().lower()) for row in rows]
    except OSError as error:
        raise files.DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise files.DataError(
            f"{path}: lines are asked for as in 7,{KINDS[0]} ({error})"
        ) from error
    if len(dict(found)) < len(found):
        raise files.DataError(f"{path}: a picture has two lines; leave one out")
    return dict(found)


def main(argv):
    del argv  # checked by runs.main
    output = Path(_OUTPUT.value)
    key = output / "key.csv"
    if _ANSWERS.value:
        right, asked, by_chance = told_apart(pairs(key), pairs(_ANSWERS.value))
        print(f"{right} of {asked} told apart; by guessing p = {by_chance:.2g}")
        print(json.dumps({"right": right, "asked": asked, "by_chance": by_chance}))
        return
    if not (_DATA.value and _SYNTHETIC.value):
        raise app.UsageError("give --data_dir and --synthetic_dir, or --answers")
    if key.exists() or (output / "slices").exists():
        raise files.DataError(
            f"{output} has pictures already, and answers may be of these; give another "
            "--output_dir"
        )
    rng = np.random.default_rng(_SEED.value)
    names = (
        None if _SPLIT.value is None else data.given_split(Path(_SPLIT.value))["test"]
    )
    shown = {}
    for kind, folder, which in (
        ("real", _DATA.value, names),
        ("generated", _SYNTHETIC.value, None),
    ):
        slices, pixels = read(folder, which)
        rows = chosen(slices.index[:, 0], pixels, _COUNT.value, rng)
        shown[kind] = slices.intensities(rows)
    lines = []
    for number, (kind, which) in enumerate(mixed(rng, _COUNT.value), 1):
        _, content = cv2.imencode(".png", picture(shown[kind][which]))
        path = output / "slices" / f"{number:02d}.png"
        files.write_atomically(path, content.tobytes())
        lines.append(f"{number},{kind}\n")
    files.write_atomically(key, "".join(lines).encode())
    print(f"{len(lines)} pictures in {output / 'slices'}; {key} says which is which")


if __name__ == "__main__":
    runs.main(main)
