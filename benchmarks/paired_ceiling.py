"""How near a slice can come to a phantom's slice when its noise is not known.

    python -m benchmarks.paired_ceiling --seed=1000 --numbers=12,25 --image_size=128

What stage 2 is told of a slice is its map, its label, and the brightness of its
contrasts. Nobody can tell from these what noise and grain there were, how thick the
slices of each contrast, or where grey matter is a little brighter than elsewhere. Here
the same subjects are imaged again without some of it, and compared with themselves as
benchmarks.paired compares what stage 2 made: an upper bound of "paired SSIM", since
every border and every mean is right. Prints a table and, last, one line of JSON.
"""

import json
import tempfile
from unittest import mock

import numpy as np
from absl import app, flags

from benchmarks import paired
from brats_gan import data, io, phantom, runs, spec
from brats_gan.phantom import imaging, subjects

_SEED = flags.DEFINE_integer("seed", 1000, "Of the phantom.")
_NUMBERS = flags.DEFINE_list("numbers", ["1", "2", "3", "4"], "Of its subjects.")
_SIZE = flags.DEFINE_integer("image_size", 128, "Of the slices, in pixels.")

FAINT = {"noise": 0.0, "ghost": 0.0}
PLAIN = {**FAINT, "sharpening": 0.0, "blur": 0.4, "thickness": 1, "inflow": 0.0}
# Control spacings, in mm, of what changes brightness within a tissue.
GRAIN, REGIONS = (2, 5), (18,)
WITHOUT = {
    "noise": (FAINT, ()),
    "noise and grain": (FAINT, GRAIN),
    "noise, grain and regions": (FAINT, GRAIN + REGIONS),
    "all of it, slices of 1 mm": (PLAIN, GRAIN + REGIONS),
}


def imaged_without(number, seed, sequence_settings, spacings):
    """Volumes of one phantom, as simulate_subject, without some of what varies.

    Args:
        number, seed: of the subject.
        sequence_settings: fields of imaging.Sequence that all contrasts are given.
        spacings: smooth noise of these, within a tissue, is left out.
    """

    def visit(rng):
        tesla, sequences = imaging.sample_visit(rng)
        return tesla, {
            name: sequence._replace(**sequence_settings)
            for name, sequence in sequences.items()
        }

    def noise(rng, grid, spacing):
        drawn = phantom.smooth_noise(rng, grid, spacing)  # so that what follows is same
        return np.zeros_like(drawn) if spacing in spacings else drawn

    with (
        mock.patch.object(subjects, "sample_visit", visit),
        mock.patch.object(imaging, "smooth_noise", noise),
    ):
        return phantom.simulate_subject(number, seed)


def slices_of(made, size):
    """Slices [N, 4, H, W] of phantoms, by their names, as a run reads them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, volumes in made.items():
            phantom.write_volumes(folder, name, volumes)
        read = data.Slices(io.find_subjects(folder), size)
        return read.intensities(np.arange(len(read)))


def main(argv):
    del argv  # checked by runs.main
    seed, size = _SEED.value, _SIZE.value
    try:
        numbers = [int(each) for each in _NUMBERS.value]
    except ValueError as error:
        raise app.UsageError("--numbers: whole numbers divided by commas.") from error

    def of(how):
        return slices_of({f"phantom-{n:05d}": how(n) for n in numbers}, size)

    real = of(lambda n: phantom.simulate_subject(n, seed))
    names = spec.BRATS.modalities
    print(f"\n| without | SSIM, mean | {' | '.join(names)} |")
    print(f"|---|---|{'---|' * len(names)}")
    rows = {}
    for name, (settings, spacings) in WITHOUT.items():
        made = of(lambda n: imaged_without(n, seed, settings, spacings))  # noqa: B023
        ssim = paired.scores(made, real)["SSIM"]
        rows[name] = dict(zip(names, np.round(ssim, 4).tolist(), strict=True))
        shown = " | ".join(f"{value:.3f}" for value in ssim)
        print(f"| {name} | {ssim.mean():.3f} | {shown} |", flush=True)
    print(json.dumps({"seed": seed, "numbers": numbers, "size": size, "SSIM": rows}))


if __name__ == "__main__":
    runs.main(main)
