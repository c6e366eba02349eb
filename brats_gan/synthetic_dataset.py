"""A synthetic data set on disk: its volumes, and what it says of itself.

Written volume by volume, so that it can be gone on with; read by stage 4, which
verifies that its models have not seen what is scored, and that it is as it was made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import brats_gan
from brats_gan import files, io, manifest, runs
from brats_gan.data import record_forms, records
from brats_gan.io import patients
from brats_gan.spec import BRATS, Spec, differences, of_description

if TYPE_CHECKING:
    from brats_gan import data, synthesis

DESCRIPTION = "dataset_description.json"  # there once the data set is finished


def volumes(
    output_dir: Path, image_size: int, spec: Spec = BRATS
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (id, images [S, M, H, W] in [0, 1]) of what `write_volume` wrote."""
    for subject in io.find_subjects(output_dir, "brats2018", spec):
        images, _ = io.read_subject(
            subject._replace(prepared=True), image_size=image_size, labels=False
        )
        yield subject.name, np.moveaxis(images, -1, 1)


def write_description(folder: str | Path, summary: dict) -> None:
    """Writes dataset_description.json, which says that the data set is finished."""
    files.write_json(Path(folder, DESCRIPTION), files.sealed(summary))


def read_description(folder: str | Path) -> dict:
    """dataset_description.json, as `write_description` wrote it.

    Raises:
        RunError, DataError: it was changed, or is not readable.
    """
    path = Path(folder, DESCRIPTION)
    summary = files.unsealed(files.read_json(path))
    odd = None if summary is None else record_forms.odd(summary)
    if summary is None or odd:
        what = f"says {odd} as it was never written" if odd else "was changed since"
        raise runs.RunError(
            f"{path} {what}; start its build_dataset.py command again, which writes it "
            "anew"
        )
    return summary


def write_volume(
    output_dir: Path,
    volume_id: str,
    group: list[synthesis.Sample],
    spec: Spec = BRATS,
) -> None:
    """Writes samples as the slices of a volume, BraTS 2018-21 layout.

    Each file is whole or absent; the volume is whole once it has its record.
    """
    content = {
        modality: [sample.images[index] for sample in group]
        for index, modality in enumerate(spec.modalities)
    }
    for name in ("structure", "background", "label"):
        content[name] = [getattr(sample, name) for sample in group]
    write_stacks(output_dir, volume_id, content, spec)


def write_stacks(
    output_dir: Path,
    volume_id: str,
    content: Mapping[str, Sequence[np.ndarray]],
    spec: Spec = BRATS,
    below: int = 0,
    depth: int = 0,
    slice_spacing: float = 1.0,
) -> None:
    """Writes what a volume holds in the field of a BraTS volume, each file whole or
    absent.

    Args:
        output_dir: of the data set.
        volume_id: of the volume.
        content: slices [S, h, w] of each modality in [0, 1], of "structure" and
            "background" in {0, 1}, and of "label".
        spec: of the data.
        below: empty slices before these.
        depth: slices that the volume shall have at least; empty ones fill it up.
        slice_spacing: mm between slices, for the headers.
    """
    folder = files.folder_within(output_dir, volume_id)
    folder.mkdir(parents=True, exist_ok=True)
    affine = io.lps_affine(spec.field, (1.0, 1.0, slice_spacing))
    for name, slices_hw in content.items():
        is_image = name in spec.modalities
        # 1 outside the brain: so is all that the field adds around the slices.
        outside = int(name == "background")
        placed = io.place_back(
            np.stack(slices_hw) - outside, spec.field, spec.crop, label=not is_image
        )
        above = max(depth - below - len(placed), 0)
        field = np.pad(placed, ((below, above), (0, 0), (0, 0))) + outside
        volume = np.moveaxis(field, 0, -1)  # [H, W, S]
        path = folder / f"{volume_id}_{'seg' if name == 'label' else name}.nii.gz"
        if is_image:
            io.write_nifti(path, volume, np.int16, io.IMAGE_SLOPE, affine)
        else:
            io.write_nifti(path, volume, np.uint8, affine=affine)


def description(
    of_maps: dict,
    scheme: str,
    rows: list[dict],
    split: dict,
    seen: list[str],
    real_data: bool,
    filtered: bool,
    flags: dict[str, str],
) -> dict:
    """dataset_description.json, after the BIDS derivatives.

    Attempts and rejections are counted over all samples, those left out included.

    Args:
        of_maps: description of the export `structure`.
        scheme: lesion scheme that guided the generator.
        rows: of the manifest.
        split: of data.load_split.
        seen: names of the subjects that any of the models has seen.
        real_data: whether labels are of real subjects.
        filtered: whether both filters were at work.
        flags: {name: line of a flagfile} of the command that makes it.
    """
    kept = [row for row in rows if row["id"]]
    accepted = sum(int(row["accepted"]) for row in kept)
    attempts = sum(int(row["tries"]) for row in rows)
    rejected = {
        # A manifest that was begun before blank slices were counted has none.
        name: sum(int(row.get(f"rejected_{name}") or 0) for row in rows)
        for name in ("structure", "label", "dice", "blank")
    }
    return {
        "Name": "Synthetic registered multi-modal brain MRI with lesions",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "brats_gan",
                "Version": brats_gan.__version__,
                "Revision": runs.revision(),
            }
        ],
        "Prepared": True,
        "Labels": dict(enumerate(of_description(of_maps).labels)),
        "spec": of_description(of_maps).as_dict(),
        "ImageSize": of_maps["image_size"],
        "Flags": flags,
        "TrainingSubjects": list(dict.fromkeys([*split["train"], *seen])),
        "HeldOutSubjects": split["test"],
        "LesionScheme": scheme,
        "RealData": real_data,
        "Filtered": filtered,
        "Samples": len(kept),
        "Accepted": accepted,
        "Fallbacks": len(kept) - accepted,
        "LeftOut": len(rows) - len(kept),
        "Attempts": attempts,
        "Rejected": rejected,
    }


def seen_by(folder: str | Path) -> dict:
    """Whom a data set was made from, by its labels and by all that its models have
    seen: {"training_subjects": names, "inputs": records}, as weights say of those that
    they began from.

    Raises:
        RunError, DataError: see `read_description`.
    """
    said = read_description(folder)
    found = [said.get("Inputs"), said.get("ModelInputs"), *said.get("SeenInputs", [])]
    found = [each for each in found if each and each.get("subjects")]
    return {
        "training_subjects": said.get("TrainingSubjects", []),
        "inputs": [each for n, each in enumerate(found) if each not in found[:n]],
    }


def verified_subjects(
    folder: str | Path,
    held_out: list[io.Subject],
    filtered: bool | None = None,
    scheme: str | None = None,
    spec: Spec = BRATS,
) -> list[io.Subject]:
    """The subjects of a synthetic data set that has not seen `held_out`.

    Args:
        folder: output of build_dataset.py.
        held_out: io.Subject that are scored.
        filtered: whether Section 2.8's filters must have been at work; None: either.
        scheme: lesion scheme that must have guided its generator; None: any.
        spec: of the real data.

    Raises:
        RunError: its models were trained on a subject that is to be scored, or it is
            not the data set that is asked for.
    """
    described = os.path.join(folder, DESCRIPTION)
    if not os.path.exists(described):
        raise runs.RunError(
            f"{folder} is not a finished synthetic data set: it has no "
            "dataset_description.json; start its build_dataset.py command again"
        )
    description = read_description(folder)
    if "Volumes" in description:
        raise runs.RunError(
            f"{folder} is a data set of whole volumes, and stage 4 trains on samples; "
            "make them by build_dataset.py without --volumes"
        )
    trained_on = description.get("TrainingSubjects")
    if not isinstance(trained_on, list):
        raise runs.RunError(
            f'{described} has no list of "TrainingSubjects", so what its models have '
            "seen is not known; make the data set by build_dataset.py"
        )
    made_from = (description.get(key) for key in ("Inputs", "ModelInputs"))
    given = {subject.patient_pattern for subject in held_out} - {None}
    leaked = patients.shared(
        [subject.name for subject in held_out],
        trained_on,
        *{*records.patterns(*made_from), *given},
    )
    if leaked:
        raise runs.RunError(
            f"{folder} was made by models trained on subjects, or patients, which this "
            f"run holds out: {patients.described(leaked)}; give "
            f"--split={folder}/split.json"
        )
    _require_unseen(folder, held_out, given)
    if filtered is not None and filtered != description.get("Filtered", True):
        raise runs.RunError(
            f"{folder} was made {'without' if filtered else 'with'} the filters, which "
            f"Table {2 if filtered else 1} does not ask for; make it by "
            f"build_dataset.py {'without' if filtered else 'with'} --nofilter"
        )
    mixed = differences(of_description(description), spec)
    if mixed:
        raise runs.RunError(
            f"{folder} is of another specification than the real data ({mixed}); give "
            "--spec as its models had it, or another data set"
        )
    made_by = description.get("LesionScheme")
    if scheme and made_by != scheme:
        raise runs.RunError(
            f"--synthetic_dirs={scheme}:{folder}: its generator was guided by "
            f"{made_by}; train it by train_multimodal.py --scheme={scheme}"
        )
    try:
        manifest.require_as_made(
            *(Path(folder), description.get("Samples"), spec),
            description.get("MadeFrom"),
        )
    except files.DataError as error:
        raise runs.RunError(str(error)) from error
    return io.find_subjects(folder, spec=spec)


def _require_unseen(folder, held_out, patterns):
    """RunError where a subject that is held out was seen under another name."""
    models = seen_by(folder)["inputs"]
    if not models:
        return
    ours = {
        "split": {"test": [subject.name for subject in held_out]},
        "subjects": records.of_files(held_out),
    }
    for pattern in patterns:  # one, as all are of one run
        ours["split"]["patient_pattern"] = pattern
    for record in models:
        try:
            records.require_unseen(ours, record, f"the data set {folder}", held_out)
        except files.DataError as error:
            raise runs.RunError(str(error)) from error


def made_without_data(folder: str | Path) -> bool:
    """Whether a data set needed no real one, so that its split is not of ours."""
    path = Path(folder, DESCRIPTION)
    return path.exists() and read_description(folder).get("RealData") is False


def accepted(folder: str | Path, slices: data.Slices) -> list[int]:
    """Positions of the samples of a data set that passed both filters (Section 2.8)."""
    passed = {
        (row["id"], int(row["slice"]))
        for row in manifest.read(folder)
        if row["id"] and int(row["accepted"])
    }
    return [
        position
        for position, (subject, number) in enumerate(slices.index)
        if (slices.names[subject], int(number)) in passed
    ]
