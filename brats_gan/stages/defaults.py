"""What scripts choose where they are told nothing, for reports on their folders."""

from __future__ import annotations

from brats_gan.stages import (
    beginning,
    ingredients,
    multimodal,
    segmentation,
    structural,
)


def of_scripts() -> dict[str, dict[str, str]]:
    """{script: {flag: line of a flagfile}} of all that leave a folder."""
    settings = {
        structural.SCRIPT: structural.Settings(),
        multimodal.SCRIPT: multimodal.Settings(),
        ingredients.SCRIPT: ingredients.Settings("", ""),
        segmentation.SCRIPT: segmentation.Settings(),
    }
    return {name: beginning.defaults(name, each) for name, each in settings.items()}
