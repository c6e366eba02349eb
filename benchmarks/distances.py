"""Distances between sets of images by their features: Fréchet and kernel."""

import numpy as np
import tensorflow as tf
from scipy import linalg

RANDOM_WIDTHS = (16, 32, 64, 128)  # of the four convolutions of random weights


def frechet(one, other):
    """Fréchet distance of Gaussians fitted to two [N, D] of features."""
    means = [x.mean(0) for x in (one, other)]
    # Shrunk a little: there are few images for so many features.
    covs = [np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (one, other)]
    root = linalg.sqrtm(covs[0] @ covs[1]).real
    return np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0] + covs[1] - 2 * root)


def kernel_distance(one, other):
    """Unbiased squared MMD with the cubic kernel of the kernel Inception distance."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    own = sum(
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
        for k in (kernel(one, one), kernel(other, other))
    )
    return own - 2 * kernel(one, other).mean()


def inception(weights):
    """InceptionV3 without its top, in float32 whatever the policy is."""
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float32")
    net = tf.keras.applications.InceptionV3(
        include_top=False, weights=str(weights), pooling="avg"
    )
    tf.keras.mixed_precision.set_global_policy(policy)
    return net


def inception_features(net, images):
    """[N, 4, H, W] -> [4N, 2048]: each contrast as a grey picture of 299 x 299."""
    grey = images.reshape(-1, *images.shape[2:], 1)
    features = []
    for part in np.array_split(grey, max(len(grey) // 16, 1)):
        large = tf.image.resize(part, (299, 299))
        colour = tf.image.grayscale_to_rgb(2.0 * large - 1.0)
        features.append(net(colour, training=False).numpy())
    return np.concatenate(features).astype(np.float64)


def random_features(images, seed=0, batch_size=50):
    """Features of [N, C, H, W] by a network of fixed random weights: [N, 240].

    Four convolutions of 4 x 4 at stride 2, each followed by a LeakyReLU, and the mean
    over pixels of each of the four: no training, no file, and not the judge's opinion.
    """
    rng = np.random.default_rng(seed)
    channels = images.shape[1]
    kernels = []
    for width in RANDOM_WIDTHS:
        shape = (4, 4, channels, width)
        spread = np.sqrt(2.0 / np.prod(shape[:3]))
        kernels.append((spread * rng.standard_normal(shape)).astype(np.float32))
        channels = width
    features = []
    for start in range(0, len(images), batch_size):
        x = tf.constant(
            np.moveaxis(images[start : start + batch_size], 1, -1), tf.float32
        )
        means = []
        for kernel in kernels:
            x = tf.nn.leaky_relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
            means.append(tf.reduce_mean(x, [1, 2]))
        features.append(tf.concat(means, -1).numpy())
    return np.concatenate(features).astype(np.float64)


def standardised(features, known):
    """Features in units of the mean and sd that `known` has, each [N, D]."""
    return (features - known.mean(0)) / np.maximum(known.std(0), 1e-6)


def rows(made, real, known, kinds=("Fréchet", "kernel")):
    """{kind: (made to known, real to known)} of [N, D] of features.

    As many of `real` as of `made` are compared, because both distances depend on how
    many there are; give them in random order.
    """
    count = min(len(made), len(real))
    measures = {"Fréchet": frechet, "kernel": kernel_distance}
    return {
        kind: tuple(measures[kind](x[:count], known) for x in (made, real))
        for kind in kinds
    }
