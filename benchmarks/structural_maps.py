"""Draws Algorithms 1 and 2 on slices of every modality, and prints how f fares.

    python -m benchmarks.structural_maps --data_dir=DIR --output=OUT.png

For each modality: the share of slices whose outline Algorithm 3 finds closed, against
the mask of Algorithm 2, and the density of f inside the brain; over a range of beta.
"""

import numpy as np
import tensorflow as tf
from absl import app, flags

from brats_gan import figures, io, spec, structural_map

_DATA = flags.DEFINE_string("data_dir", None, "BraTS folder.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "PNG to write.", required=True)
_SIZE = flags.DEFINE_integer("image_size", 192, "Pixels a side.")
_BETAS = flags.DEFINE_list("betas", ["0.05", "0.07", "0.1", "0.12"], "Tried in turn.")


def main(argv):
    del argv
    subjects = io.find_subjects(_DATA.value)
    images = [io.read_subject(s, image_size=_SIZE.value)[0] for s in subjects]

    rows = []
    for volume in images:
        middle = volume[len(volume) // 2]
        for channel in range(4):
            x = tf.constant(middle[None, ..., channel : channel + 1])
            f = np.asarray(structural_map.structural_map(x))[0, ..., 0]
            outside = np.asarray(structural_map.background(x))[0, ..., 0]
            contour = structural_map.contour_background(f)
            rows.append([middle[..., channel], f, outside, contour])
    titles = ["x", "f (Alg. 1)", "mask (Alg. 2)", "m' (Alg. 3)"]
    names = [f"{s.name} {m}" for s in subjects for m in spec.BRATS.modalities]
    figures.sheet(rows, titles, _OUTPUT.value, row_titles=names)

    print("beta   modality  closed  MAE median  density in the brain")
    for beta in map(float, _BETAS.value):
        for channel, name in enumerate(spec.BRATS.modalities):
            x = tf.constant(np.concatenate(images)[..., channel : channel + 1])
            f = np.asarray(structural_map.structural_map(x, beta))[..., 0]
            outside = np.asarray(structural_map.background(x))[..., 0]
            errors = [
                structural_map.filter_error(*each)
                for each in zip(f, outside, strict=True)
            ]
            closed = np.mean(np.array(errors) <= structural_map.MAE_THRESHOLD)
            density = f[np.asarray(x)[..., 0] > 0].mean()
            print(
                f"{beta:.2f}   {name:8}  {closed:6.2f}  {np.median(errors):10.3f}"
                f"  {density:8.3f}"
            )


if __name__ == "__main__":
    app.run(main)
