"""What starting from the shipped weights is worth on patients: stage 2 on real slices.

    python -m benchmarks.patients --data_dir=DIR --split=split.json --output_dir=DIR \\
        [--steps=100,300,1000] [--arms=pretrained,scratch]

Trains stage 2 on the training subjects of the split, from the shipped weights
(pretrained: full steps only) and from nothing (scratch: as by default), a run for each
number of steps, so that each has the whole course of its learning rate (D39): one whose
--steps are raised goes back to a high rate. Started again, it goes on with the first
run that has not finished. The subjects must be registered. What is scored, of those
that are held out:

made         slices made from the T1 map and label of a slice, against the slice
translated   each contrast of a slice as each other, against the real one; means over
             the three that it is made from

SSIM         Gaussian window of 7 pixels, whole slice, with its background
correlation  of intensities inside the brain
typical      SSIM in the mean style (D33) of the subjects that the weights learnt from;
             the others are in the style of the subject itself

Beside them are the shipped weights as they are, and floors, in the brain of the slice:
the mean slice of the training subjects; the slice at the same height of the first of
them; for translations the input as it is, and the input with its quantiles moved to
those of the contrast that is asked for. Prints two tables and, last, a line of JSON.
"""

import json
import pathlib
import subprocess
import sys
from io import BytesIO

import numpy as np
import tensorflow as tf
from absl import flags, logging

from benchmarks import paired, sides, translated
from brats_gan import (
    data,
    figures,
    files,
    io,
    multimodal,
    runs,
    spec,
    synthesis,
    weights,
)

ROOT = pathlib.Path(__file__).parents[1]
SHIPPED = "pretrained"
ARMS = {
    "pretrained": [f"--init_from={SHIPPED}", "--first_phase=0.0"],
    "scratch": [],
}

_DATA = flags.DEFINE_string("data_dir", None, "Registered subjects.")
_SPLIT = flags.DEFINE_string("split", None, "Names those held out.")
_OUTPUT = flags.DEFINE_string("output_dir", None, "Runs, ARM-STEPS each.")
_STEPS = flags.DEFINE_list("steps", ["100", "300", "1000"], "A run of each arm each.")
_ARMS = flags.DEFINE_list("arms", list(ARMS), f"Out of {', '.join(ARMS)}.")
_TRAIN = flags.DEFINE_bool("train", True, "Train; off, score what has finished.")
_SIZE = flags.DEFINE_integer("image_size", 128, "Pixels a side.")
_SLICES = flags.DEFINE_string(
    "slices", ":".join(map(str, spec.BRATS.slices)), "Axial slices, half-open."
)
_WIDTH = flags.DEFINE_integer("width", 16, "Base width of the networks.")
_LESION = flags.DEFINE_integer("lesion_width", 8, "Of the lesion components.")
_PRECISION = flags.DEFINE_string("precision", "auto", "Of the training.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the training.")
_SAMPLES = flags.DEFINE_integer("samples", 200, "Held-out slices, at most.", 1)
_CACHE = flags.DEFINE_string("cache_dir", None, "Decoded slices.")
_JSON = flags.DEFINE_string("json", None, "File to write the line of JSON to as well.")
_PNG = flags.DEFINE_string(
    "png",
    None,
    "Picture of the held-out slice with the largest lesion, and of what is made of it.",
)
flags.mark_flags_as_required(["data_dir", "split", "output_dir"])
flags.register_validator(
    "arms",
    lambda names: set(names) <= set(ARMS),
    message=f"name arms out of {', '.join(ARMS)}",
)
flags.register_validator(
    "steps",
    lambda each: all(number.isdecimal() and int(number) for number in each),
    message="whole numbers from 1, divided by commas",
)


# --- Training -------------------------------------------------------------------------


def asked(arm, steps, given):
    """Flags of train_multimodal.py for a run of an arm, but its folder and cache.

    Args:
        arm: of ARMS.
        steps: of the run.
        given: {flag: value} that all runs share.
    """
    shared = [f"--{name}={value}" for name, value in given.items()]
    return [*shared, "--batch_size=1", f"--steps={steps}", *ARMS[arm]]


def finished(run_dir, command):
    """Whether a run has left the weights of its last step.

    Args:
        run_dir: folder of the run, which need not exist.
        command: its flags, of `asked`.

    Raises:
        RunError: it was made with others.
    """
    if not (run_dir / "weights" / "weights.json").exists():
        return False
    known = runs.settings(run_dir)
    for flag in command:
        name, _, value = flag.removeprefix("--").partition("=")
        if known.get(name) != value and (name, value) != ("precision", "auto"):
            raise runs.RunError(
                f"{run_dir} was made with --{name}={known.get(name)}, and {flag} is "
                "asked for; give another --output_dir"
            )
    steps = runs.settings(run_dir)["steps"]
    return weights.read(run_dir / "weights").description["steps"] == int(steps)


def train(run_dir, command, cache_dir):
    """Trains a run, or goes on with it; ends with its exit code where it fails."""
    command = [*command, f"--run_dir={run_dir}"]
    if cache_dir:
        command.append(f"--cache_dir={cache_dir}")
    script = ROOT / "train_multimodal.py"
    done = subprocess.run([sys.executable, str(script), *command])
    if done.returncode:
        sys.exit(done.returncode)  # it has said why


def trained(output, given):
    """{name: folder of weights} of all runs, trained if need be, in the order of the
    tables; the shipped weights first, if an arm begins from them.

    Args:
        output: folder of the runs.
        given: as of `asked`.
    """
    found = {}
    if "pretrained" in _ARMS.value:
        found["pretrained as shipped"] = weights.folder_of(SHIPPED, "multimodal")
    for arm in _ARMS.value:
        for steps in sorted(map(int, _STEPS.value)):
            run_dir = output / f"{arm}-{steps}"
            command = asked(arm, steps, given)
            if not finished(run_dir, command):
                if not _TRAIN.value:
                    logging.warning("%s has not finished: left out", run_dir)
                    continue
                train(run_dir, command, _CACHE.value)
            found[f"{arm} {steps} steps"] = run_dir / "weights"
    return found


# --- Scoring --------------------------------------------------------------------------


def read(split):
    """(training, held out) data.Slices of a split."""
    by_name = sides.named(_DATA.value, split, _SPLIT.value)
    return (
        data.Slices(
            [by_name[name] for name in split[side]],
            _SIZE.value,
            io.parse_slices(_SLICES.value),
            _CACHE.value,
        )
        for side in ("train", "test")
    )


def rows_of(made, ways, real):
    """{"made MEASURE", "translated MEASURE": [M]}, and of SSIM the [M, M] that the
    latter are means of, with what is rebuilt on its diagonal.

    Args:
        made: [N, M, H, W], or None where only translations are scored.
        ways: [N, M, M, H, W].
        real: [N, M, H, W].
    """
    across = translated.scores(ways, real)
    rows = {f"translated {name}": translated.to_each(across[name]) for name in across}
    if made is not None:
        of_made = paired.scores(made, real)
        rows.update({f"made {name}": of_made[name] for name in of_made})
    return {**rows, "SSIM from each": across["SSIM"]}


def score(stored, images, labels, own):
    """What weights make of slices, and rows about it.

    Args:
        stored: weights.Stored of stage 2.
        images, labels: [N, M, H, W] and [N, H, W], held out.
        own: [N, M, K], styles of the subjects.

    Returns:
        {name: array}: of `rows_of`, "made typical" [M], and "shown", of the slice with
        the largest lesion the M contrasts that are made and those of T1, [2 * M, H, W].
    """
    build = {**stored.description["build"], "image_size": images.shape[-1]}
    stored = stored._replace(description={**stored.description, "build": build})
    nets = weights.networks(stored, multimodal.GENERATOR_SIDE)
    options = weights.options(stored)

    @tf.function(autograph=False)
    def generate(f, label, style):
        return multimodal.generate(nets, f, label, style, options)

    made = paired.made_from(generate, images, labels, own, options.beta)
    translate = translated.translator(nets, options)
    ways = translated.made_from(translate, images, labels, own)
    found = rows_of(made, ways, images)
    fitted = synthesis.styles_of(stored.description)
    if fitted is not None:
        typical = np.repeat(fitted.mean[None], len(own), 0)
        unaware = paired.made_from(generate, images, labels, typical, options.beta)
        found["made typical"] = paired.ssim(unaware, images).mean(0)
    row = largest(labels)
    found["shown"] = np.concatenate([made[row], ways[row, paired.SOURCE]])
    return found


def largest(labels):
    """The row of labels [N, H, W] that has the largest lesion."""
    return int(np.argmax(np.count_nonzero(labels, (1, 2))))


def kept(path, of, make):
    """{name: array} that make() returns; read from the file of the last call where it
    says that it is `of` the same."""
    if path.exists():
        with np.load(path) as file:
            if str(file["of"]) == of:
                return {name: file[name] for name in file.files if name != "of"}
    found, content = make(), BytesIO()
    np.savez(content, of=of, **found)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, content.getbuffer())
    return found


def floors(training, images, heights, own):
    """{name: rows} of what needs no network.

    Args:
        training: data.Slices.
        images: [N, M, H, W], held out.
        heights: [N], of these.
        own: [N, M, K], their styles.
    """
    known = training.intensities(np.arange(len(training)))
    first = training.index[:, 0] == 0
    near = translated.at_heights(known[first], training.index[first, 1], heights)
    found = {}
    for name, made in (
        ("mean slice of the training subjects", known.mean(0)[None]),
        ("training slice at this height", near),
    ):
        made = translated.in_brain_of(made, images)
        # It is the same, whichever contrast it is made from.
        ways = np.repeat(made[:, None], images.shape[1], 1)
        found[name] = rows_of(made, ways, images)
    for name, ways in (
        ("the input", translated.untranslated(images)),
        ("the input, its quantiles moved", translated.in_brightness(images, own)),
    ):
        found[name] = rows_of(None, ways, images)
    return found


# --- What is shown --------------------------------------------------------------------


def table(found, kind):
    """Markdown of {name: rows}: a line for each that has rows of a kind."""
    names = spec.BRATS.modalities
    head = ["", "SSIM", *names, "typical", "correlation", *names]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, rows in found.items():
        if f"{kind} SSIM" not in rows:
            continue
        cells = []
        for measure in ("SSIM", "typical", "correlation"):
            values = rows.get(f"{kind} {measure}")
            cells.append("" if values is None else f"{np.mean(values):.3f}")
            if measure != "typical":
                cells += [f"{value:.3f}" for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def listed(array):
    """An array, which JSON does not know, as lists of rounded numbers."""
    return np.round(np.asarray(array, float), 4).tolist()


def draw(path, image, label, shown):
    """The picture: real contrasts [M, H, W] with f and label [H, W], and below a row
    for each of `shown`, {name: [2 * M, H, W]} as of `score`."""
    x = tf.constant(image[None, paired.SOURCE, ..., None])
    f = multimodal.extract(x, label[None], multimodal.Options()).numpy()[0, ..., 0]
    names = spec.BRATS.modalities
    titles = ["f", "label", *names, *(f"t1 to {name}" for name in names[1:])]
    rows = [[f, label, *image, *[None] * (len(names) - 1)]]
    for made in shown.values():
        rows.append([None, None, *np.delete(made, len(names) + paired.SOURCE, 0)])
    figures.sheet(rows, titles, path, ["real", *shown], label_columns=("label",))


def main(argv):
    del argv  # checked by runs.main
    split = data.given_split(pathlib.Path(_SPLIT.value))
    output = pathlib.Path(_OUTPUT.value).resolve()
    given = {
        "data_dir": pathlib.Path(_DATA.value).resolve(),
        "split": pathlib.Path(_SPLIT.value).resolve(),
        "slices": _SLICES.value,
        "image_size": _SIZE.value,
        "width": _WIDTH.value,
        "lesion_width": _LESION.value,
        "precision": _PRECISION.value,
        "seed": _SEED.value,
    }
    scored = trained(output, given)
    # What is computed here is small: float32, whatever the runs had.
    tf.keras.mixed_precision.set_global_policy("float32")
    training, held_out = read(split)
    rows = np.random.default_rng(0).permutation(len(held_out))[: _SAMPLES.value]
    images, labels = held_out.intensities(rows), held_out.labels(rows)
    subject, heights = held_out.index[rows].T
    own = held_out.styles[subject]
    found, shown = {}, {}
    for name, folder in scored.items():
        of = f"{weights.fingerprint(folder)} {held_out.fingerprint} {len(rows)}"
        path = output / "scores" / f"{name.replace(' ', '-')}.npz"

        def make(folder=folder):
            return score(weights.read(folder), images, labels, own)

        found[name] = kept(path, of, make)
        shown[name] = found[name].pop("shown")
        logging.info("%s is scored", name)
    found.update(floors(training, images, heights, own))
    if _PNG.value:
        row = largest(labels)
        draw(_PNG.value, images[row], labels[row], shown)
    for kind in ("made", "translated"):
        print(f"\n{kind}\n\n{table(found, kind)}")
    result = {"train": split["train"], "test": split["test"], "slices": len(rows)}
    line = json.dumps({**result, "rows": found}, default=listed)
    if _JSON.value:
        files.write_atomically(pathlib.Path(_JSON.value), f"{line}\n".encode())
    print(f"\n{line}")


if __name__ == "__main__":
    runs.main(main)
