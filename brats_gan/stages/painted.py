"""A data set of one painted set, from its recipe: what explore.py downloads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from brats_gan import (
    data,
    files,
    manifest,
    painting,
    recipes,
    report,
    runs,
    synthesis,
    synthetic_dataset,
    weights,
)
from brats_gan.recipes import Recipe
from brats_gan.stages import dataset, ingredients

(VOLUME,) = manifest.volume_ids(1)


def require_same_models(studio: painting.Studio, recipe: Recipe) -> None:
    """ValueError for a recipe of other models, or of a code that is not of these."""
    differs = [
        name for name in studio.prints if recipe.models.get(name) != studio.prints[name]
    ]
    if differs:
        raise ValueError(
            f"it was made by other models ({', '.join(differs)} differ); give the "
            "--structural_run, --multimodal_run and --segmentor_run that made it"
        )
    painting.require_fitting(studio, recipe.code)


def write(studio: painting.Studio, recipe: Recipe, folder: str | Path) -> dict:
    """Writes the set of a recipe as a data set; the same recipe gives the same bytes.

    Args:
        studio: painting.Studio of the models that the recipe names.
        recipe: Recipe.
        folder: that is empty, or has what this wrote of the same recipe.

    Returns:
        The row of its manifest.

    Raises:
        RunError: the folder has something else.
        DataError: the set is blank.
    """
    folder, content = Path(folder), recipe.as_json()
    _require_free(folder, content)
    sample = _sample(studio, recipe)
    files.write_atomically(folder / recipes.NAME, content)
    split = _split(studio)
    data.save_split(folder / "split.json", split)
    spec = studio.models.spec
    row = manifest.row_of(sample, VOLUME, 0, recipe.seed)
    origin = hashlib.blake2b(content, digest_size=16).hexdigest()
    synthetic_dataset.write_volume(folder, VOLUME, [sample], spec)
    dataset.draw([sample], folder / dataset.SHEET, spec)
    manifest.write_record(folder, VOLUME, [row], spec, origin)
    manifest.write(folder, [row])
    summary = synthetic_dataset.description(
        *(studio.of_maps, studio.scheme, [row], split, studio.seen),
        real_data=False,
        filtered=True,
        flags={},
    )
    summary["MadeFrom"], summary["Recipe"] = origin, recipes.NAME
    of_models = [record for _, record in studio.known]
    if of_models:
        summary["SeenInputs"] = [
            each for n, each in enumerate(of_models) if each not in of_models[:n]
        ]
    synthetic_dataset.write_description(folder, summary)
    report.finish(folder, ingredients.SCRIPT, {})
    return row


def sheet(studio: painting.Studio, recipe: Recipe, path: Path) -> None:
    """Draws the set of a recipe as samples.png of a data set has it."""
    dataset.draw([_sample(studio, recipe)], path, studio.models.spec)


def _sample(studio, recipe) -> synthesis.Sample:
    sample = painting.sample(painting.as_asked(studio, recipe), recipe)
    if sample is None:
        raise files.DataError(
            "the set has a slice that is constant or not finite: the generator has "
            "learnt nothing or has diverged; look at its losses.jsonl, and train it "
            "longer or anew"
        )
    return sample


def _require_free(folder, content):
    """RunError where a folder has something else than what `write` wrote."""
    there = folder / recipes.NAME
    if there.exists() and there.read_bytes() == content:
        return
    if folder.exists() and any(folder.iterdir()):
        raise runs.RunError(
            f"{folder} is not empty, and not of this recipe; name another --output_dir"
        )


def _split(studio):
    """That of the run of stage 1, or one that holds nobody out."""
    run = studio.settings.structural_run
    path = Path(weights.folder_of(run, "structural") or run, "split.json")
    if path.exists():
        return data.given_split(path)
    return {"seed": None, "train": studio.seen, "test": []}


def build(settings: painting.Settings, path: str, output_dir: str | Path) -> dict:
    """Makes the set of a recipe again.

    Args:
        settings: painting.Settings; its mask_images and thresholds give way to those
            of the recipe.
        path: of recipe.json.
        output_dir: folder of the data set.

    Returns:
        The row of its manifest.

    Raises:
        RunError, DataError: the recipe is damaged or of other models, or see `write`.
    """
    studio = painting.load(settings)
    recipe = recipes.read(path, studio.size, studio.models.spec)
    try:
        require_same_models(studio, recipe)
    except ValueError as error:
        raise files.DataError(f"{path}: {error}.") from error
    files.require_writable(output_dir)
    return write(studio, recipe, output_dir)
