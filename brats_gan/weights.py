"""Weights of trained networks as files that belong to no version of TensorFlow.

A folder of weights holds

    weights.json   what builds the networks, and what they were trained on
    NAME.npz       the variables of one network, float32 or float16
    fit.npz        stage 1: how noise becomes a map (structural.Fit)
    split.json     of the run, if it had one

A checkpoint goes on in the same program; these files can be read by either generation
of Keras, by another image size, and by NumPy alone. A variable is named by the place of
its layer and its role there ("3/kernel"; "0/3/kernel" in a model within a model), since
Keras' own names differ between its generations.
"""

import hashlib
import inspect
import shutil
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import data, files, multimodal, runs, segmentation, structural
from brats_gan.lazy import tf

FORMAT = 1
PRETRAINED = (
    Path(__file__).parent / "pretrained"
)  # what the name `pretrained` stands for
LABELS = "labels.npz"  # in it, see data.LabelPool

INIT_FROM = (
    "Start from weights: of a run, of a folder of weights, or `pretrained`, those that "
    "come with the package. Any image size and data; the optimisers start anew."
)

BUILDERS = {
    "structural": structural.build,
    "multimodal": multimodal.build,
    "segmentation": segmentation.build,
}
# Without these a stage is not what it was: the others learn beside them.
NEEDED = {
    "structural": structural.GENERATOR_SIDE,
    "multimodal": multimodal.GENERATOR_SIDE,
    "segmentation": (),
}
SHOWN = 3  # variables of a network that a message names

_COPY_AGAIN = (
    "copy the folder again, or start the command of its run again, which writes it anew"
)


class Stored(NamedTuple):
    """Weights in memory, and what is known of them."""

    source: str  # what messages call them
    description: dict  # weights.json: stage, build, steps, what it was trained on, ...
    arrays: dict  # {network: {variable: float32 array}}
    found: structural.Fit | None = None  # stage 1, once it is trained
    split: dict | None = None  # of data.load_split

    @property
    def training_subjects(self):
        """Names of all subjects the weights have seen, in this run or before it."""
        own = self.description.get("training_subjects", [])
        return list(dict.fromkeys([*own, *inherited(self.description)]))


def inherited(description):
    """Names of the subjects that the weights which a run began from have seen."""
    return (description.get("initialised_from") or {}).get("training_subjects", [])


# --- Networks and arrays --------------------------------------------------------------


def variables(net):
    """{name: variable} of a network, trained or not, with names for files."""
    found = {}

    def walk(layer, place):
        if isinstance(layer, tf.keras.Model):
            # Layers without weights are not counted: Keras 3 has others than Keras 2.
            inside = [each for each in layer.layers if each.weights]
            for position, each in enumerate(inside):
                walk(each, f"{place}{position}/")
            return
        for variable in layer.weights:
            role = variable.name.partition(":")[0].rpartition("/")[2]
            name, count = f"{place}{role}", 1
            while name in found:
                count += 1
                name = f"{place}{role}_{count}"
            found[name] = variable

    walk(net, "")
    return found


def arrays_of(nets):
    """{network: {variable: float32 array}} of {network: Keras model}."""
    return {
        name: {key: np.float32(each.numpy()) for key, each in variables(net).items()}
        for name, net in nets.items()
    }


def _differences(net, arrays):
    """Lines that name each variable that one side lacks or has in another shape."""
    ours = {key: tuple(each.shape) for key, each in variables(net).items()}
    theirs = {key: value.shape for key, value in arrays.items()}
    return [
        f"variable {key} is {_shape(theirs.get(key))} there and "
        f"{_shape(ours.get(key))} here"
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    ]


def _shape(shape):
    return "missing" if shape is None else list(shape)


def _first_of(lines):
    more = len(lines) - SHOWN
    return "; ".join(lines[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _assign(net, arrays):
    for key, variable in variables(net).items():
        variable.assign(arrays[key])


def networks(stored, needed):
    """Networks built as `stored` says, with its weights.

    Args:
        stored: Stored.
        needed: names of the networks, or a function from all networks of the stage to
            those that are needed.

    Returns:
        {name: Keras model} of those that are needed.

    Raises:
        RunError: one of them is not there or has other shapes, or this version builds
            no such networks.
    """
    nets = _build(stored)
    names = needed(nets) if callable(needed) else needed
    for name in names:
        problems = _differences(nets[name], stored.arrays.get(name, {}))
        if problems:
            raise runs.RunError(
                f"{stored.source} does not fit this version of brats_gan: {name}: "
                f"{_first_of(problems)}. Use {_version(stored)}, or train anew"
            )
        _assign(nets[name], stored.arrays[name])
    return {name: nets[name] for name in names}


def options(stored):
    """multimodal.Options of stored weights of stage 2.

    Raises:
        RunError: this version has no such options.
    """
    given = stored.description.get("options", {})
    unknown = sorted(given.keys() - set(multimodal.Options._fields))
    if unknown:
        raise runs.RunError(
            f"{stored.source} was written by another version of brats_gan: it has the "
            f"options {', '.join(unknown)}. Use {_version(stored)}"
        )
    return multimodal.Options(**given)


def _version(stored):
    version = stored.description.get("version")
    return f"version {version}" if version else "the version that wrote it"


def _build(stored):
    build = BUILDERS[stored.description["stage"]]
    arguments = stored.description["build"]
    unknown = sorted(arguments.keys() - inspect.signature(build).parameters.keys())
    if unknown:
        raise runs.RunError(
            f"{stored.source} was written by another version of brats_gan: its "
            f"networks have {', '.join(unknown)}. Use {_version(stored)}"
        )
    return build(**arguments)


# --- Folders --------------------------------------------------------------------------


def write(folder, stored, dtype=np.float32):
    """Writes a folder of weights, whole or not at all.

    Args:
        folder: Path; an older one is replaced once the new one is whole.
        stored: Stored.
        dtype: float32, or float16; a variable that float16 does not hold to a
            thousandth of its largest value stays float32.
    """
    temporary, old = (
        folder.with_name(f".{folder.name}.{end}") for end in ("new", "old")
    )
    for left in (temporary, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    parts = dict(stored.arrays)
    description = {"format": FORMAT, **stored.description}
    if stored.found is not None:
        parts["fit"] = {"mean": stored.found.mean, "factor": stored.found.factor}
        description["edge_threshold"] = float(stored.found.threshold)
    digests = {}
    try:
        for name, arrays in parts.items():
            content = _packed(arrays, dtype)
            digests[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
            files.write_atomically(temporary / f"{name}.npz", content)
        if stored.split is not None:
            data.save_split(temporary / "split.json", stored.split)
        files.write_json(temporary / "weights.json", {**description, "files": digests})
    except files.DataError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _packed(arrays, dtype):
    """The bytes of an .npz file."""
    content = BytesIO()
    if dtype == np.float16:  # what ships is small: half of a factor is zeros
        np.savez_compressed(content, **{k: _halved(v) for k, v in arrays.items()})
    else:
        np.savez(content, **arrays)
    return content.getvalue()


def _halved(value):
    """As float16, unless that overflows or is too coarse."""
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
        error = np.abs(half.astype(np.float32) - value).max(initial=0)
    fits = error <= 1e-3 * np.abs(value).max(initial=0)
    return half if fits else value


def read(folder):
    """Stored of a folder of weights.

    Raises:
        RunError: a file is missing, damaged or of other weights, or a newer version
            wrote it.
        DataError: weights.json or split.json is not readable.
    """
    folder = Path(folder)
    path = folder / "weights.json"
    description = files.read_json(path)
    version = description.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise runs.RunError(
            f"{path} was written by a newer version of brats_gan "
            f"({description.get('version')}); install that"
        )
    digests = description.pop("files", None)
    if (
        version != FORMAT
        or description.get("stage") not in BUILDERS
        or not isinstance(description.get("build"), dict)
        or not isinstance(description.get("steps"), int)
        or not isinstance(digests, dict)
        or any(Path(name).name != name for name in digests)
    ):
        raise runs.RunError(f"{path} does not describe weights; {_COPY_AGAIN}")
    arrays = {name: _read_npz(folder, name, digests[name]) for name in digests}
    found = None
    if "fit" in arrays:
        fit, threshold = arrays.pop("fit"), description.get("edge_threshold")
        if fit.keys() != {"mean", "factor"} or not isinstance(threshold, float):
            raise runs.RunError(f"{path} and fit.npz hold no fit; {_COPY_AGAIN}")
        found = structural.Fit(**fit, threshold=threshold)
    split = folder / "split.json"
    split = data.load_split(split) if split.exists() else None
    return Stored(str(folder), description, arrays, found, split)


def _read_npz(folder, name, digest):
    """{key: float32 array} of folder/NAME.npz."""
    path = folder / f"{name}.npz"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise runs.RunError(
            f"{path} is missing, but weights.json names it; {_COPY_AGAIN}"
        ) from error
    except OSError as error:
        raise runs.RunError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.blake2b(content, digest_size=16).hexdigest() != digest:
        raise runs.RunError(
            f"{path} is damaged or of other weights: weights.json beside it was "
            f"written with other content; {_COPY_AGAIN}"
        )
    try:
        with np.load(BytesIO(content)) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise runs.RunError(f"{path} holds no arrays; {_COPY_AGAIN}") from error
    if any(value.dtype not in (np.float32, np.float16) for value in arrays.values()):
        raise runs.RunError(f"{path} holds something else than weights; {_COPY_AGAIN}")
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def folder_of(source, stage):
    """The folder of weights that `source` stands for; None if it is a run, or nothing.

    Args:
        source: `pretrained`, a folder of weights, or one that has such folders by the
            names of the stages, as brats_gan/pretrained does.
        stage: "structural", "multimodal" or "segmentation", which takes the lesion
            components of "multimodal" where there is no folder of its own.

    Raises:
        RunError: `pretrained`, and this installation came without weights.
    """
    above = PRETRAINED if str(source) == "pretrained" else Path(source)
    stages = [stage, "multimodal"] if stage == "segmentation" else [stage]
    for folder in (above, *(above / each for each in stages)):
        if (folder / "weights.json").exists():
            return folder
    if above is PRETRAINED:
        raise runs.RunError(
            f"{PRETRAINED} has no weights of stage {stage}: this copy of brats_gan "
            "came without; install it from a release, or give a run"
        )
    return None


def labels_of(source):
    """Path of the labels that come with weights, or None."""
    path = (PRETRAINED if str(source) == "pretrained" else Path(source)) / LABELS
    return path if path.exists() else None


def find(source, stage):
    """Stored of what --init_from may name: weights, or a run, finished or not.

    Of a run that went on after its weights were written, the newest whole checkpoint.

    Raises:
        RunError: there is no such thing, or it is damaged; see `read`.
        DataError: see `read`.
    """
    folder = folder_of(source, stage)
    if folder is not None:
        return read(folder)
    source = Path(source)
    if not (source / "flags.txt").exists():
        raise runs.RunError(
            f"{source} is neither a run nor a folder of weights (no flags.txt, no "
            "weights.json); check the path"
        )
    newest = runs.newest_checkpoint(source)
    if (source / "weights" / "weights.json").exists():
        stored = read(source / "weights")
        if newest is None or newest[1] <= stored.description["steps"]:
            return stored
    if newest is None:
        raise runs.RunError(
            f"{source} has neither weights nor a whole checkpoint yet; wait for its "
            "first one, or give another run"
        )
    return _of_checkpoint(source, *newest)


def _of_checkpoint(run_dir, path, step):
    """Stored of a checkpoint, read by the program that could go on from it."""
    description = {**begun(run_dir), "steps": step}
    if "build" not in description:
        raise runs.RunError(
            f"{run_dir / 'networks.json'} is missing: {run_dir} was begun by an older "
            "version of brats_gan, which left no weights that this one can start from; "
            "its exports can be used"
        )
    split = run_dir / "split.json"
    split = data.load_split(split) if split.exists() else None
    if split is not None:
        description["training_subjects"] = split["train"]
    stored = Stored(str(run_dir), description, {}, None, split)
    nets = _build(stored)
    try:
        status = tf.train.Checkpoint(**nets).restore(str(path))
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise runs.RunError(
            f"{path} is not of this version of brats_gan and Keras, and the run has "
            "not finished; finish it where it was begun, which writes weights that any "
            f"can read, or give another run ({str(error).strip().splitlines()[0]})"
        ) from error
    return stored._replace(arrays=arrays_of(nets))


# --- Runs -----------------------------------------------------------------------------


def begun(run_dir):
    """What RUN/networks.json says; {} where no run has begun."""
    path = Path(run_dir, "networks.json")
    return files.read_json(path) if path.exists() else {}


def begin(run_dir, stage, build, nets, source=None, held_out=(), **fixed):
    """Before a run's first step: loads --init_from, and writes RUN/networks.json.

    A run that goes on loads nothing: its checkpoint has the last word.

    Args:
        run_dir: Path.
        stage: name of it.
        build: the arguments its networks were built with.
        nets: the networks, by name.
        source: --init_from, or None.
        held_out: names of the subjects that the run will not see.
        fixed: what else holds for all of the run, for RUN/networks.json.

    Returns:
        What RUN/networks.json says.

    Raises:
        RunError, DataError: see `find` and `initialise`.
    """
    path = run_dir / "networks.json"
    description = {"stage": stage, "build": build, "initialised_from": None, **fixed}
    if runs.has_begun(run_dir):
        if source:
            logging.info("%s: goes on from its checkpoint, not --init_from", run_dir)
        if path.exists():
            return files.read_json(path)
    elif source:
        stored = find(source, stage)
        fitting = initialise(nets, stored, stage, build)
        description["initialised_from"] = {
            "source": str(source),
            "networks": fitting,
            "steps": stored.description.get("steps"),
            "data_fingerprint": stored.description.get("data_fingerprint"),
            "training_subjects": stored.training_subjects,
        }
        seen = sorted({*held_out}.intersection(stored.training_subjects))
        if seen:
            logging.warning(
                "%s was trained on %d subjects with the names of subjects that this "
                "run holds out (%s): if they are the same, no score on them is of "
                "unseen data. A split that keeps to its own avoids that (--split)",
                source,
                len(seen),
                ", ".join(seen[:5]),
            )
    files.write_json(path, description)
    return description


def initialise(nets, stored, stage, build):
    """Gives networks the stored weights that fit; says which begin anew and why.

    Returns:
        Names of the networks that were given weights.

    Raises:
        RunError: a network that the stage cannot do without has other shapes, or none
            fits. No weight is changed then.
    """
    problems = {
        name: _differences(net, stored.arrays[name])
        for name, net in nets.items()
        if name in stored.arrays
    }
    fitting = [name for name, lines in problems.items() if not lines]
    broken = [name for name in NEEDED[stage] if problems.get(name)]
    if broken or not fitting:
        shown = [f"  {n}: {_first_of(problems[n])}" for n in broken or problems]
        if not problems:
            there, here = ", ".join(stored.arrays), ", ".join(nets)
            shown = [f"  it has the networks {there}, and here are {here}"]
        raise runs.RunError(
            f"--init_from: {stored.source} does not fit:\n"
            + "\n".join(shown)
            + f"\n{_remedy(stored, stage, build)}"
        )
    for name in nets:
        if name not in problems:
            logging.info("%s begins anew: %s has none", name, stored.source)
        elif problems[name]:
            reason = _first_of(problems[name])
            logging.info("%s begins anew: of %s, %s", name, stored.source, reason)
    for name in fitting:
        _assign(nets[name], stored.arrays[name])
    steps = stored.description.get("steps")
    logging.info(
        "weights of %s from %s (%s steps)", ", ".join(fitting), stored.source, steps
    )
    return fitting


def _remedy(stored, stage, build):
    """Which flags would have built networks of the stored shapes."""
    theirs = dict(stored.description["build"])
    if stored.description["stage"] != stage:
        lesion_width = theirs.get("lesion_width") or theirs.get("width")
        if stage == "segmentation":
            theirs["width"] = lesion_width
        elif stage == "multimodal":
            theirs = {"lesion_width": lesion_width, "scheme": theirs.get("scheme")}
    wanted = [
        _flag(name, value)
        for name, value in theirs.items()
        if name in build and name != "image_size" and build[name] != value
    ]
    if not wanted:
        return f"It was made by another brats_gan than this: by {_version(stored)}"
    return f"Flags that would fit: {' '.join(wanted)}"


def _flag(name, value):
    if value is None:
        return f"(no --{name})"
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    return f"--{name}={value}"


def finish(run_dir, nets, description, steps, found=None):
    """After a run's last step: writes RUN/weights.

    Args:
        run_dir: Path.
        nets: the networks, by name.
        description: what they were trained on and with, for weights.json.
        steps: of the run.
        found: structural.Fit of stage 1.
    """
    description = {
        **files.read_json(run_dir / "networks.json"),
        "steps": steps,
        **description,
        **runs.made_by(),
    }
    split = data.load_split(run_dir / "split.json")
    stored = Stored(str(run_dir), description, arrays_of(nets), found, split)
    write(run_dir / "weights", stored)
