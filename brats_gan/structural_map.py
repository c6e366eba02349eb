"""Structural feature maps: Algorithms 1, 2 and 3 (Sections 2.2, 2.3, 2.8).

A structural map f is 1 on the edges of the anatomy and 0 elsewhere. What the paper
calls a mask is 1 *outside* the brain; here it is `background`, named for what is 1 in
it.
"""

from __future__ import annotations

import cv2
import numpy as np

from brats_gan import addons
from brats_gan.lazy import ndimage, tf

BETA = 0.07  # pixel threshold of Algorithm 1, on scaled edges (D3)
TEMPERATURE = 0.03  # width of the sigmoid whose slope replaces the threshold's (D4)
SOFTNESS = 0.05  # width of the sigmoid that is the soft map (D30)
GROWTH = 5  # p of Algorithm 2, in pixels at every image size (D6)
MAE_THRESHOLD = 0.05  # of Algorithm 3 (Section 2.8)


def _scale_to_unit(edges):
    """Each image of [B, H, W, 1] to [0, 1] by its own range; a blank one to 0 (D3)."""
    low = tf.reduce_min(edges, [1, 2, 3], keepdims=True)
    high = tf.reduce_max(edges, [1, 2, 3], keepdims=True)
    return tf.math.divide_no_nan(edges - low, high - low)


def _margin(x, beta):
    """By how much the larger of Algorithm 1's two reductions exceeds beta.

    [B, H, W, 1] in [0, 1] -> [B, H, W, 1]; (f1 > beta) + (f2 > beta) > 0 says no more
    than that it is positive.
    """
    # [B, H, W, 1, 2]: along the rows, along the columns
    edges = tf.image.sobel_edges(x)
    f1 = _scale_to_unit(tf.reduce_min(edges, axis=-1))
    f2 = _scale_to_unit(tf.reduce_max(edges, axis=-1))
    f1 = tf.reduce_mean(f1, [1, 2, 3], keepdims=True) - f1
    f2 = f2 - tf.reduce_mean(f2, [1, 2, 3], keepdims=True)
    return tf.maximum(f1, f2) - beta


def structural_map(
    x: tf.Tensor, beta: float = BETA, temperature: float = TEMPERATURE
) -> tf.Tensor:
    """f = Algorithm 1 of x: a pixel is 1 where an edge stands out by more than beta.

    Forward it is the paper's threshold; backward it has the slope of a sigmoid of width
    `temperature` about the threshold (D4), so that L_f can train what made x.

    [B, H, W, 1] in [0, 1] -> [B, H, W, 1] in {0, 1}. A blank image gives a blank map.
    """
    margin = _margin(x, beta)
    soft = tf.sigmoid(margin / temperature)
    hard = tf.cast(margin > 0.0, x.dtype)
    return soft + tf.stop_gradient(hard - soft)


def soft_structural_map(
    x: tf.Tensor, beta: float = BETA, softness: float = SOFTNESS
) -> tf.Tensor:
    """f before its threshold: how far each pixel is from being an edge (D30).

    A sigmoid of width `softness` about the threshold of Algorithm 1, so that above one
    half is where `structural_map` is 1; outside the brain, where there is no edge, 0.

    [B, H, W, 1] in [0, 1] -> [B, H, W, 1] in [0, 1]. A blank image gives a blank map.
    """
    margin = _margin(x, beta)
    # An edge of the outline lies on both sides of it.
    shown = tf.logical_or(x > 0.0, margin > 0.0)
    return tf.where(shown, tf.sigmoid(margin / softness), tf.zeros_like(margin))


def resize_background(background: tf.Tensor | np.ndarray, growth: int) -> tf.Tensor:
    """Grows the brain in [B, H, W, 1] about the image centre, or shrinks it.

    The middle of Algorithm 2, resize to H + p and crop to H, done in one step about the
    exact centre, so that no side grows more than the other (D6). A negative `growth`
    takes back what a positive one added.
    """
    height = tf.cast(tf.shape(background)[1], tf.float32)
    scale = (height + growth) / height if growth >= 0 else height / (height - growth)
    size = tf.shape(background)[1:3]
    transforms = addons.affine_transforms((size[0], size[1]), scale=scale)
    transforms = tf.repeat(transforms, tf.shape(background)[0], axis=0)
    return addons.projective_transform(background, transforms, "nearest", 1.0)


def background(x: tf.Tensor, growth: int = GROWTH) -> tf.Tensor:
    """Algorithm 2: 1 outside the brain of x grown by p = `growth`, 0 inside.

    [B, H, W, 1], outside exactly 0 -> [B, H, W, 1] in {0, 1}. Also takes a label map as
    float with growth 0: 1 outside the lesion.
    """
    outside = 1.0 - tf.cast(x > 0.0, x.dtype)
    return outside if growth == 0 else resize_background(outside, growth)


def contour_background(f: np.ndarray) -> np.ndarray:
    """The traditional mask m' of Algorithm 3: 1 outside every closed contour of f.

    Blur, find the outer contours, fill them (OpenCV). An outline with a gap fills
    nothing but its own line, so m' is then far from what MASK predicts.

    [H, W] in {0, 1} -> [H, W] in {0, 1}, float32.
    """
    drawn = np.ascontiguousarray(f > 0.5).astype(np.uint8) * 255
    blurred = cv2.GaussianBlur(drawn, (3, 3), 0)
    touched = (blurred > 0).astype(np.uint8)
    contours, _ = cv2.findContours(touched, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = cv2.drawContours(drawn, contours, -1, 255, cv2.FILLED)
    return 1.0 - (filled > 0).astype(np.float32)


def without_islands(background: np.ndarray) -> np.ndarray:
    """A background of MASK whose brain has no holes: what brain encloses is brain.

    [H, W] in {0, 1} -> [H, W] in {0, 1}, float32.
    """
    brain = ndimage.binary_fill_holes(np.asarray(background) < 0.5)
    return 1.0 - brain.astype(np.float32)


def fill_islands(background: tf.Tensor) -> tf.Tensor:
    """`without_islands` as operations of a graph, for a SavedModel.

    The background that is linked to the border, found by growing from there, up, down,
    left and right, until nothing is added.

    [B, H, W, 1] in {0, 1} -> [B, H, W, 1] in {0, 1}.
    """

    def grown(reached):
        # One pixel each way; beyond the border all is background.
        rows = tf.pad(reached, [[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=1.0)
        columns = tf.pad(reached, [[0, 0], [0, 0], [1, 1], [0, 0]], constant_values=1.0)
        beside = [rows[:, :-2], rows[:, 2:], columns[:, :, :-2], columns[:, :, 2:]]
        return background * tf.reduce_max(tf.stack([reached, *beside]), 0)

    def step(before, reached):
        del before
        return reached, grown(reached)

    def grows(before, reached):
        return tf.reduce_any(before != reached)

    nothing = tf.zeros_like(background)
    return tf.while_loop(grows, step, [nothing, grown(nothing)])[1]


def filter_error(f: np.ndarray, generated_background: np.ndarray) -> float:
    """MAE(m', m) of Algorithm 3; at or below MAE_THRESHOLD the map is accepted (D7).

    Both [H, W] in {0, 1}. A map without any edge scores 1: it has no outline to judge,
    and an empty m' would agree with an empty m.
    """
    if not np.any(f > 0.5):
        return 1.0
    return float(np.mean(np.abs(contour_background(f) - (generated_background > 0.5))))
