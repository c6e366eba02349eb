"""The trained stages as stage 3 runs them: of runs' exports, or of weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from brats_gan import (
    data,
    multimodal,
    runs,
    structural,
    synthesis,
    volume_maps,
    volume_synthesis,
    weights,
)
from brats_gan.data import records
from brats_gan.lazy import tf
from brats_gan.spec import of_description

DICE_THRESHOLD = 0.95  # Section 2.8
# What the descriptions of exports must have: key -> type.
_COMMON = {"image_size": int, "slices": list, "training_subjects": list}
NEEDED = {
    "structure": {**_COMMON, "beta": float, "code_dim": int},
    "generator": _COMMON,
    "segmentor": {**_COMMON, "scheme": str},
}


@functools.lru_cache  # the generator and the segmentors are parts of one folder
def _networks(folder):
    stored = weights.read(folder)
    spare = {*structural.DISCRIMINATOR_SIDE, *multimodal.DISCRIMINATOR_SIDE}
    return stored, weights.networks(stored, lambda nets: nets.keys() - spare)


def read_weights(folder: str | Path, *stages: str) -> tuple[weights.Stored, dict]:
    """weights.Stored of a folder, and its networks without discriminators.

    Raises:
        RunError: they are of none of the stages, or see weights.read.
    """
    stored, nets = _networks(folder)
    if stored.description["stage"] not in stages:
        raise runs.RunError(
            f"{folder} holds weights of stage {stored.description['stage']}, where "
            f"{' or '.join(stages)} is asked for; exchange the folders"
        )
    return stored, nets


def load_maps(run: str) -> tuple:
    """Models.structure and its description, of a run's export or of weights."""
    folder = weights.folder_of(run, "structural")
    if folder is None:
        export, described = runs.load_export(run, "structure", NEEDED["structure"])
        plane = [None, *[described["image_size"]] * 2, 1]
        runs.require_endpoint(
            export,
            Path(run, "export/structure"),
            "generate",
            {"code": tf.TensorSpec([None, described["code_dim"]])},
            {"structure": plane, "background": plane},
        )
        return synthesis.maps_by(export), described
    stored, nets = read_weights(folder, "structural")
    if stored.found is None:
        raise runs.RunError(
            f"{folder} does not say how noise becomes a map (no fit.npz): its stage 1 "
            "has not finished; give weights that a finished run wrote"
        )
    return synthesis.maps_of(nets, stored.found), stored.description


def load_stacks(run: str) -> tuple[volume_synthesis.Stack, tuple[int, int, int]]:
    """How noise becomes the maps of a whole brain, and the shape (K, S, D) of it.

    Raises:
        RunError: stage 1 was fitted to single slices alone.
    """
    folder = weights.folder_of(run, "structural")
    if folder is None:
        export, described = runs.load_export(run, "structure", NEEDED["structure"])
        noise = described.get("volume")
        if noise is not None:
            (subject_dim,), (count, code_dim) = noise["subject"], noise["detail"]
            return volume_maps.by_export(export), (subject_dim, count, code_dim)
    else:
        stored, nets = read_weights(folder, "structural")
        found = None if stored.found is None else stored.found.stacks
        if found is not None:
            stack = volume_maps.by_weights(nets, stored.found)
            return stack, (found.subject_dim, *found.mean.shape)
    raise runs.RunError(
        f"{run} does not say how noise becomes the maps of a volume: it was trained by "
        "a version that drew single slices, of one subject, or with --nocode_fit. "
        "Start its command again, which fits them, or train another"
    )


def load_slice_of_stack(run: str) -> tuple[Callable, tuple[int, int, int]] | None:
    """volume_maps.generate_at as a function of (height, subject, detail), and the shape
    (K, S, D) of a stack; None where stage 1 was fitted to single slices alone."""
    folder = weights.folder_of(run, "structural")
    if folder is None:
        export, described = runs.load_export(run, "structure", NEEDED["structure"])
        noise = described.get("volume")
        if noise is None:
            return None
        (subject_dim,), (count, code_dim) = noise["subject"], noise["detail"]

        def exported(height, subject, detail):
            made = export.generate_at(height, subject, detail)
            return made["structure"], made["background"]

        return exported, (subject_dim, count, code_dim)
    stored, nets = read_weights(folder, "structural")
    found = None if stored.found is None else stored.found.stacks
    if found is None:
        return None
    at = tf.function(
        lambda *noise: volume_maps.generate_at(nets, stored.found, *noise),
        autograph=False,
    )
    return at, (found.subject_dim, *found.mean.shape)


def load_images(run: str) -> tuple:
    """Models.images and its description, of a run's export or of weights."""
    folder = weights.folder_of(run, "multimodal")
    if folder is None:
        export, described = runs.load_export(run, "generator", NEEDED["generator"])
        sides = [described["image_size"]] * 2
        inputs = {
            "structure": tf.TensorSpec([None, *sides, 1]),
            "label": tf.TensorSpec([None, *sides], tf.int32),
        }
        if "style" in described:
            try:
                mean = synthesis.styles_of(described).mean
            except (KeyError, TypeError, ValueError) as error:
                raise runs.RunError(
                    f"{Path(run, 'export/generator.json')} says no style that can be "
                    "drawn from; start the command of its run again"
                ) from error
            inputs["style"] = tf.TensorSpec([None, *mean.shape])
        runs.require_endpoint(
            export,
            Path(run, "export/generator"),
            "generate_in_style" if "style" in described else "generate",
            inputs,
            dict.fromkeys(of_description(described).modalities, [None, *sides, 1]),
        )
        return synthesis.images_by(export, described), described
    stored, nets = read_weights(folder, "multimodal")
    return synthesis.images_of(nets, weights.options(stored)), stored.description


def load_segment(run: str) -> tuple:
    """Models.segment and its description, of a run's export or of weights."""
    folder = weights.folder_of(run, "segmentation")
    if folder is None:
        export, described = runs.load_export(run, "segmentor", NEEDED["segmentor"])
        sides = [described["image_size"]] * 2
        count = of_description(described).num_modalities
        runs.require_endpoint(
            export,
            Path(run, "export/segmentor"),
            "segment",
            {"images": tf.TensorSpec([None, *sides, count])},
            {"label": [None, None, *sides]},
        )
        return synthesis.labels_by(export), described
    stored, nets = read_weights(folder, "segmentation", "multimodal")
    components = multimodal.lesion_nets(nets)
    spec = of_description(stored.description)
    return synthesis.labels_of(components, spec), stored.description


def fingerprints(structural_run: str, multimodal_run: str, segmentor_run: str) -> dict:
    """{name: fingerprint} of what stage 3 uses of its runs, wherever they lie."""

    def of(run, stage, name):
        folder = weights.folder_of(run, stage)
        if folder is None:
            return runs.export_fingerprint(run, name)
        return weights.fingerprint(folder)

    return {
        "structure": of(structural_run, "structural", "structure"),
        "generator": of(multimodal_run, "multimodal", "generator"),
        "segmentor": of(segmentor_run, "segmentation", "segmentor"),
    }


def records_of(
    structural_run: str, multimodal_run: str, segmentor_run: str
) -> list[tuple[str, dict]]:
    """(run, record) of all that the models were trained on, see weights.seen."""

    def described(run, stage, name):
        folder = weights.folder_of(run, stage)
        if folder is None:
            return runs.export_description(run, name)
        return _networks(folder)[0].description

    of_runs = (
        (structural_run, "structural", "structure"),
        (multimodal_run, "multimodal", "generator"),
        (segmentor_run, "segmentation", "segmentor"),
    )
    return [
        (each[0], record)
        for each in of_runs
        for record in weights.seen(described(*each))
    ]


def guide(run: str) -> str:
    """The lesion scheme that guided a generator."""
    folder = weights.folder_of(run, "multimodal")
    if folder is None:
        needed = NEEDED["segmentor"]
        return runs.export_description(run, "segmentor", needed)["scheme"]
    return read_weights(folder, "multimodal")[0].description["build"]["scheme"]


def dice_threshold(run: str) -> float:
    """What the weights in `run` say that their samples reach, or the paper's."""
    folder = weights.folder_of(run, "multimodal")
    if folder is None:
        return DICE_THRESHOLD
    described = read_weights(folder, "multimodal")[0].description
    return float(described.get("dice_threshold", DICE_THRESHOLD))


def load_models(
    structural_run: str, multimodal_run: str, segmentor_run: str
) -> tuple[synthesis.Models, dict, str, list]:
    """The trained stages as synthesis.Models, and their description.

    Returns:
        synthesis.Models, the description of `structure`, the lesion scheme that guided
        the generator, and the names of all subjects that any of the models has seen.

    Raises:
        RunError: a run is not finished, or the runs do not go together.
    """
    _networks.cache_clear()  # a run may have gone on since, in this very process
    maps, of_maps = load_maps(structural_run)
    images, of_generator = load_images(multimodal_run)
    segment, of_segmentor = load_segment(segmentor_run)
    # Of each export, as a file has it; and what those that say it must have in common.
    spec = of_description(of_maps)
    ours = data.preprocessing(
        of_maps.get("image_size"), of_maps.get("slices", ()), spec
    )
    ours = json.loads(json.dumps(ours))
    common = {key: of_maps[key] for key in ("beta", "training_subjects")}
    for run, other in (
        (structural_run, of_maps),
        (multimodal_run, of_generator),
        (segmentor_run, of_segmentor),
    ):
        differs = [
            f"  {key}: {other.get(key, '(not said)')}  instead of  {value}"
            for key, value in {**ours, **common}.items()
            if (key in ours or key in other) and other.get(key) != value
        ]
        if differs:
            raise runs.RunError(
                f"what {run} exported does not go together with that of "
                f"{structural_run} and with this version:\n"
                + "\n".join(differs)
                + "\nTrain both with the same --image_size, --slices, --beta, data and "
                "split."
            )

    for described in (of_generator, of_segmentor):
        if "inputs" in described and "inputs" in of_maps:
            records.require_same(described["inputs"], of_maps["inputs"], structural_run)

    models = synthesis.Models(
        of_maps["code_dim"],
        maps,
        images,
        segment,
        synthesis.styles_of(of_generator),
        spec,
    )
    seen = list(of_maps["training_subjects"])
    for described in (of_maps, of_generator, of_segmentor):
        seen += weights.inherited(described)
    return models, of_maps, guide(multimodal_run), list(dict.fromkeys(seen))
