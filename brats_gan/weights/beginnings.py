"""How a run begins from weights, and leaves its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from brats_gan import data, io, multimodal, runs, structural
from brats_gan.data import records
from brats_gan.io import patients
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec, differences, of_description
from brats_gan.weights.folders import folder_of, read, write
from brats_gan.weights.networks_file import begun
from brats_gan.weights.stored import (
    Stored,
    arrays_of,
    assign,
    build,
    first_of,
    mismatches,
    seen,
    version,
)

INIT_FROM = (
    "Start from weights: of a run, of a folder of weights, or `pretrained` (128 x 128) "
    "or `pretrained-64`, those that come with the package. Any image size and data; "
    "the optimisers start anew."
)

# Networks that a stage cannot do without; the others can learn anew beside them.
NEEDED = {
    "structural": structural.GENERATOR_SIDE,
    "multimodal": multimodal.GENERATOR_SIDE,
    "segmentation": (),
}


def find(source: str | Path, stage: str) -> Stored:
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
    description = begun(run_dir)
    if "build" not in description:
        raise runs.RunError(
            f"{run_dir / 'networks.json'} is missing: {run_dir} was begun by an older "
            "version of brats_gan, which left no weights that this one can start from; "
            "its exports can be used"
        )
    runs.require_of(
        *(path, {"seed": _seed(run_dir), **description}),
        "give other weights",
    )
    description = {**description, "steps": step}
    split = run_dir / "split.json"
    split = data.load_split(split, apart=False) if split.exists() else None
    if split is not None:
        description["training_subjects"] = split["train"]
    description["inputs"] = _recorded(run_dir, description.get("inputs"))
    stored = Stored(str(run_dir), description, {}, None, split)
    nets = build(stored)
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


def _seed(run_dir):
    """--seed of a run, by its flags.txt."""
    said = runs.settings(run_dir).get("seed", "")
    if not said.isdecimal():
        raise runs.RunError(
            f"{run_dir / 'flags.txt'} is damaged: it has no --seed. Put it back from a "
            "copy, or give other weights"
        )
    return int(said)


def _recorded(run_dir, fingerprint):
    """The record of a run that has not finished; None of one from before records."""
    record = records.read(run_dir)
    known = None if record is None else records.fingerprint(record)
    if fingerprint not in (None, known):
        raise runs.RunError(
            f"{run_dir / records.NAME} is not what {run_dir} began with, so it is not "
            "known what its weights have seen; put it back from a copy, or give other "
            "weights"
        )
    return record


def begin(
    run_dir: Path,
    stage: str,
    build: dict[str, Any],
    nets: Mapping[str, tf.keras.Model],
    source: str | Path | None = None,
    held_out: Iterable[str] = (),
    spec: Spec = BRATS,
    patient_pattern: str | None = None,
    made_from: dict | None = None,
    subjects: Iterable[io.Subject] = (),
    again: Callable[[list[io.Subject], dict], dict] | None = None,
    **fixed: object,
) -> dict[str, Any]:
    """Before a run's first step: loads --init_from. Writes nothing, see `record`.

    A run that goes on loads nothing: its checkpoint has the last word.

    Args:
        run_dir: Path.
        stage: name of it.
        build: the arguments its networks were built with.
        nets: the networks, by name.
        source: --init_from, or None.
        held_out: names of the subjects that the run will not see.
        spec: of the data.
        patient_pattern: see io.patients.patient_of.
        made_from: record of the run, see data.records; None: names alone are compared.
        subjects, again: of the run, see records.require_unseen.
        fixed: what else holds for all of the run, for RUN/networks.json.

    Returns:
        What RUN/networks.json says, or is to say.

    Raises:
        RunError, DataError: see `find` and `initialise`; or the weights have
            seen what is held out, see data.records.require_unseen.
    """
    path = run_dir / "networks.json"
    description = {
        "stage": stage,
        "build": build,
        "spec": spec.as_dict(),
        "initialised_from": None,
        **fixed,
    }
    if made_from is not None:
        description["inputs"] = records.fingerprint(made_from)
    if runs.has_begun(run_dir):
        if source:
            logging.info("%s: goes on from its checkpoint, not --init_from", run_dir)
        if path.exists():
            return begun(run_dir)
    elif source:
        stored = find(source, stage)
        _require_same(stored, stage, spec)
        if made_from is not None:
            _require_unseen(stored, source, made_from, subjects, again)
        fitting = initialise(nets, stored, stage, build)
        description["initialised_from"] = {
            "source": str(source),
            "networks": fitting,
            "steps": stored.description.get("steps"),
            "data_fingerprint": stored.description.get("data_fingerprint"),
            "training_subjects": stored.training_subjects,
            "inputs": seen(stored.description),
        }
        own, theirs = {"patient_pattern": patient_pattern}, stored.split or {}
        known = patients.shared(
            sorted(held_out),
            stored.training_subjects,
            *records.patterns({"split": own}, {"split": theirs}),
        )
        if known:
            logging.warning(
                "%s was trained on %d subjects with the names of subjects that this "
                "run holds out, or of their patients (%s): if they are the same, no "
                "score on them is of unseen data. A split that keeps to its own avoids "
                "that (--split)",
                source,
                len(known),
                patients.described(known),
            )
    return description


def _require_same(stored, stage, spec):
    """RunError where the weights mean other modalities or labels by their channels."""
    mixed = differences(of_description(stored.description), spec)
    if mixed and stage != "structural":  # a map shows neither
        raise runs.RunError(
            f"--init_from: {stored.source} is of another specification ({mixed}); give "
            "--spec as its run had it, or leave --init_from out"
        )


def require_fitting(
    nets: Mapping[str, tf.keras.Model],
    source: str | Path,
    stage: str,
    build: Mapping[str, Any],
    made_from: dict | None = None,
    subjects: Iterable[io.Subject] = (),
    again: Callable[[list[io.Subject], dict], dict] | None = None,
) -> None:
    """RunError, DataError where `begin` would refuse --init_from=`source`."""
    stored = find(source, stage)
    _fitting(nets, stored, stage, build)
    if made_from is not None:
        _require_unseen(stored, source, made_from, subjects, again)


def _require_unseen(stored, source, made_from, subjects, again):
    """DataError where weights, or those that they began from, have seen a subject that
    is held out: known by content, whatever its name, or by another visit of the
    patient. Weights from before there were records have none to compare."""
    subjects = list(subjects)
    for record in seen(stored.description):
        records.require_unseen(
            made_from, record, f"--init_from={source}", subjects, again, same_names=True
        )


def initialise(
    nets: Mapping[str, tf.keras.Model],
    stored: Stored,
    stage: str,
    build: Mapping[str, Any],
) -> list[str]:
    """Gives networks the stored weights that fit; says which begin anew and why.

    Returns:
        Names of the networks that were given weights.

    Raises:
        RunError: a network that the stage cannot do without has other shapes, or none
            fits. No weight is changed then.
    """
    fitting, problems = _fitting(nets, stored, stage, build)
    for name in nets:
        if name not in problems:
            logging.info("%s begins anew: %s has none", name, stored.source)
        elif problems[name]:
            reason = first_of(problems[name])
            logging.info("%s begins anew: of %s, %s", name, stored.source, reason)
    for name in fitting:
        assign(nets[name], stored.arrays[name])
    steps = stored.description.get("steps")
    logging.info(
        "weights of %s from %s (%s steps)", ", ".join(fitting), stored.source, steps
    )
    return fitting


def _fitting(nets, stored, stage, build):
    """(names of the networks that fit, {name: how it differs}); RunError: too few."""
    problems = {
        name: mismatches(net, stored.arrays[name])
        for name, net in nets.items()
        if name in stored.arrays
    }
    fitting = [name for name, lines in problems.items() if not lines]
    broken = [name for name in NEEDED[stage] if problems.get(name)]
    if broken or not fitting:
        shown = [f"  {n}: {first_of(problems[n])}" for n in broken or problems]
        if not problems:
            there, here = ", ".join(stored.arrays), ", ".join(nets)
            shown = [f"  it has the networks {there}, and here are {here}"]
        raise runs.RunError(
            f"--init_from: {stored.source} does not fit:\n"
            + "\n".join(shown)
            + f"\n{_remedy(stored, stage, build)}"
        )
    return fitting, problems


def _remedy(stored, stage, build):
    """Which flags would have built networks of the stored shapes."""
    theirs = dict(stored.description["build"])
    if stored.description["stage"] != stage:
        lesion_width = theirs.get("lesion_width") or theirs.get("width")
        if stage == "segmentation":
            theirs["width"] = lesion_width
        elif stage == "multimodal":
            theirs = {"lesion_width": lesion_width, "scheme": theirs.get("scheme")}
    asked_apart = ("image_size", "flow")  # any fits; CF_f begins anew
    wanted = [
        _flag(name, value)
        for name, value in theirs.items()
        if name in build and name not in asked_apart and build[name] != value
    ]
    if not wanted:
        return f"It was made by another brats_gan than this: by {version(stored)}"
    return f"Flags that would fit: {' '.join(wanted)}"


def _flag(name, value):
    name = "spectral_norm" if name == "spectral" else name
    if value is None:
        return f"(no --{name})"
    if isinstance(value, bool):
        return f"--{'' if value else 'no'}{name}"
    return f"--{name}={value}"


def finish(
    run_dir: Path,
    nets: Mapping[str, tf.keras.Model],
    description: Mapping[str, Any],
    steps: int,
    found: structural.Fit | None = None,
) -> None:
    """After a run's last step: writes RUN/weights.

    Args:
        run_dir: Path.
        nets: the networks, by name.
        description: what they were trained on and with, for weights.json.
        steps: of the run.
        found: structural.Fit of stage 1.
    """
    description = {
        **begun(run_dir),
        "steps": steps,
        **description,
        **runs.made_by(run_dir),
    }
    split = data.load_split(run_dir / "split.json")
    stored = Stored(str(run_dir), description, arrays_of(nets), found, split)
    write(run_dir / "weights", stored)
