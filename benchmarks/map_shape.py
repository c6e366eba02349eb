"""The shape of structural maps: how they overlap, how thick, how whole, how smooth.

Maps are [N, H, W] in {0, 1}, 1 on an edge, as NumPy arrays.
"""

import cv2
import numpy as np
from scipy import ndimage

OUTLINE_SIGMA = 2.0  # pixels along the outline that it is smoothed by


def dice_of_maps(one, other):
    """Dice of every map of [N, P] with every map of [M, P], all in {0, 1}: [N, M]."""
    overlap = one.astype(np.float32) @ other.astype(np.float32).T
    return 2 * overlap / np.maximum(one.sum(1)[:, None] + other.sum(1)[None], 1)


def dice_of_pairs(one, other):
    """Dice of the maps [..., H, W] of one with those of the other, pair by pair."""
    total = (one + other).sum((-2, -1))
    return 2 * (one * other).sum((-2, -1)) / np.maximum(total, 1)


def pairwise(maps):
    """Mean Dice of two different maps of [N, P]."""
    dice = dice_of_maps(maps, maps)
    return (dice.sum() - np.trace(dice)) / (len(maps) * (len(maps) - 1))


def line_depth(maps):
    """Mean distance, in pixels, of an edge pixel to the nearest pixel off the edges.

    1 for lines of one or two pixels; over all edge pixels of all maps. What lies beyond
    the border of a map counts for neither. nan where there is no edge.
    """
    depths = [ndimage.distance_transform_edt(f > 0.5)[f > 0.5] for f in maps]
    depths = np.concatenate(depths)
    return float(depths.mean()) if len(depths) else np.nan


def topology(maps):
    """Mean number a map of connected pieces and of loops, two floats.

    Edge pixels are connected by corners too, what they enclose by sides only, as the
    topology of the plane wants: pieces - loops is then the Euler characteristic.
    """
    pieces, loops = [], []
    for f in maps:
        edges = np.pad(f > 0.5, 1)  # so that the outside is one piece
        pieces.append(ndimage.label(edges, np.ones((3, 3)))[1])
        loops.append(ndimage.label(~edges)[1] - 1)
    return float(np.mean(pieces)), float(np.mean(loops))


def outline_curvature(f):
    """Mean turn of the outer outline of a map [H, W], degrees a pixel of its length.

    1 / r radians for a circle of radius r; more where the outline wavers. The outline
    is that of Algorithm 3, about the largest contour of the blurred map, smoothed along
    its length by OUTLINE_SIGMA. None where no contour is longer than 8 pixels.
    """
    drawn = np.ascontiguousarray(f > 0.5).astype(np.uint8) * 255
    touched = (cv2.GaussianBlur(drawn, (3, 3), 0) > 0).astype(np.uint8)
    contours, _ = cv2.findContours(touched, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    points = max(contours, key=cv2.contourArea)[:, 0].astype(float)
    if len(points) <= 8:
        return None
    points = ndimage.gaussian_filter1d(points, OUTLINE_SIGMA, axis=0, mode="wrap")
    steps = np.diff(points, axis=0, append=points[:1])
    angle = np.arctan2(steps[:, 1], steps[:, 0])
    turn = np.diff(angle, append=angle[:1])
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    length = np.linalg.norm(steps, axis=1).sum()
    return float(np.degrees(np.abs(turn).sum() / length))


def shape_rows(maps):
    """{name: mean over maps} of line depth, pieces, loops and outline curvature."""
    pieces, loops = topology(maps)
    turns = [turn for turn in map(outline_curvature, maps) if turn is not None]
    return {
        "line depth": line_depth(maps),
        "pieces": pieces,
        "loops": loops,
        "outline curvature": float(np.mean(turns)) if turns else np.nan,
    }
