"""How sets of four contrasts look: spectrum, histogram, contrast of tissues, lesions.

Sets are images [N, 4, H, W] in [0, 1], 0 outside the brain, and labels [N, H, W]. None
of these needs a judge or a map of tissues.
"""

import numpy as np
from scipy import ndimage

from brats_gan import spec

QUANTILES = 8  # of a contrast, by which the others are described
LEVELS = np.linspace(0.0, 1.0, 1001)  # quantiles that stand for a histogram
# Contrast -> the contrast whose intensities tell its tissues apart, never its own: what
# is split by its own brightness has contrast, also where it is noise.
TISSUES_BY = {"t1": "t2", "t2": "t1", "t1ce": "t2", "flair": "t1"}
# Tissues from the darkest to the brightest.
ORDER = {"t1": ("fluid", "grey", "white"), "t2": ("white", "grey", "fluid")}
TISSUE_PIXELS = 12  # of a slice; fewer tell nothing of a tissue


def brain_of(images):
    """[N, 4, H, W] -> [N, H, W] bool: where any contrast shows something."""
    return (images > 0).any(1)


# --- Spectrum -------------------------------------------------------------------------


def radial_spectrum(images):
    """Power by spatial frequency: [N, 4, H, W] -> [4, H // 4] in dB.

    Mean over slices and over the ring of radius r = 1, 2, ... H // 4 cycles an image,
    the last half of the Nyquist frequency.
    """
    side = images.shape[-1]
    power = sum(np.abs(np.fft.fft2(each)) ** 2 for each in images) / len(images)
    frequency = np.fft.fftfreq(side) * side
    ring = np.rint(np.hypot(frequency[:, None], frequency[None])).astype(int)
    means = [power[:, ring == r].mean(1) for r in range(1, side // 4 + 1)]
    return 10.0 * np.log10(np.maximum(np.stack(means, 1), 1e-12))


def spectrum_error(images, known):
    """Largest difference of two `radial_spectrum`, dB a contrast: [4]."""
    return np.abs(radial_spectrum(images) - radial_spectrum(known)).max(1)


# --- Histogram ------------------------------------------------------------------------


def histogram_distance(images, known):
    """Wasserstein-1 between the intensities inside the brains of two sets, [4].

    The area between the quantile functions, in units of the images' [0, 1].
    """
    quantiles = []
    for each in (images, known):
        inside = np.moveaxis(each, 1, 0)[:, brain_of(each)]
        quantiles.append(np.quantile(inside, LEVELS, axis=1))
    return np.abs(quantiles[0] - quantiles[1]).mean(0)


# --- Contrast of tissues --------------------------------------------------------------


def three_classes(values):
    """k-means of intensities [N] in three classes, from the darkest: [N] in {0, 1, 2}.

    It starts from percentiles, so that it gives the same each time.
    """
    centres = np.percentile(values, (5, 40, 80)).astype(float)
    for _ in range(20):
        nearest = np.digitize(values, (centres[1:] + centres[:-1]) / 2)
        for c in range(3):
            if (nearest == c).any():
                centres[c] = values[nearest == c].mean()
    return nearest


def tissue_ratios(images, labels):
    """{(tissue, contrast): intensity of grey or fluid over that of white}.

    The tissues of a slice are the three classes of its T1, for T2 and FLAIR, or of its
    T2, for T1 and T1c, in the brain without lesion (TISSUES_BY). So two contrasts have
    to agree on what is where, and no map of tissues is needed: the rule is one for real
    and generated slices. Medians of a tissue, and over the slices that have enough of
    all three, for one slice whose tissues were mistaken must not outweigh the others; a
    contrast without such a slice is left out.
    """
    ratios = {}
    for image, label in zip(images, labels, strict=True):
        inside = (image > 0).all(0) & (label == 0)
        if inside.sum() < 3 * TISSUE_PIXELS:
            continue
        classes = {
            by: three_classes(image[spec.BRATS.modalities.index(by)][inside])
            for by in ORDER
        }
        for channel, name in enumerate(spec.BRATS.modalities):
            by = TISSUES_BY[name]
            values = {
                tissue: image[channel][inside][classes[by] == position]
                for position, tissue in enumerate(ORDER[by])
            }
            if min(map(len, values.values())) < TISSUE_PIXELS:
                continue
            white = np.median(values["white"])
            for tissue in ("grey", "fluid"):
                ratio = np.median(values[tissue]) / max(white, 1e-3)
                ratios.setdefault((tissue, name), []).append(ratio)
    return {key: float(np.median(values)) for key, values in ratios.items()}


# --- Lesions and contrasts ------------------------------------------------------------


def contrast_profile(images):
    """How each contrast looks where another is dark or bright.

    For each ordered pair of contrasts, the mean of the one within each of QUANTILES
    quantiles of the other, over the brain of all of [N, 4, H, W]; and every contrast's
    mean, so that it is about looks and not about brightness, is taken away.
    """
    voxels = np.moveaxis(images, 1, 0)[:, brain_of(images)]  # [4, voxels]
    voxels = voxels - voxels.mean(1, keepdims=True)
    profile = []
    for by in range(len(voxels)):
        order = np.argsort(voxels[by], kind="stable")
        for part in np.array_split(order, QUANTILES):
            profile += [voxels[i][part].mean() for i in range(len(voxels)) if i != by]
    return np.array(profile)


def detail(images, labels):
    """Mean size of what a 3 x 3 mean takes away, inside lesions: [4] a contrast."""
    smooth = ndimage.uniform_filter(images, (0, 0, 3, 3))
    inside = ndimage.binary_erosion(labels > 0, np.ones((1, 3, 3)))
    return np.abs(images - smooth).transpose(1, 0, 2, 3)[:, inside].mean(1)


def class_ratio(images, labels, index, channel):
    """Mean over slices of class intensity over that of the brain without lesion."""
    ratios = []
    for image, label in zip(images[:, channel], labels, strict=True):
        inside = label == index
        if inside.sum() >= 4:
            ratios.append(
                image[inside].mean() / image[(image > 0) & (label == 0)].mean()
            )
    return np.mean(ratios) if len(ratios) >= 3 else None
