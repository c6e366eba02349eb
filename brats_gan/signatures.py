"""What the inputs of SavedModels must be, as asserts in their graphs.

A SavedModel leaves this project behind: whoever feeds it has its signature, not our
reader. A value that it was not trained for gives slices or labels that look like an
answer, so the graph itself refuses it, in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable

from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec


def _held(x, checks):
    """x, which nothing can read before the checks have passed."""
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(x)


def classes(label: tf.Tensor, spec: Spec = BRATS) -> tf.Tensor:
    """A label map of whole numbers, indices in spec.labels; others fail."""
    names = [f"{index} {name}" for index, name in enumerate(spec.labels)]
    last = len(names) - 1
    message = (
        f"label: its values must be 0 to {last} ({', '.join(names)}). Labels of other "
        "data sets number the classes otherwise: convert them first"
    )
    return _held(
        label,
        [
            tf.debugging.assert_non_negative(label, message),
            tf.debugging.assert_less_equal(label, last, message),
        ],
    )


def intensities(images: tf.Tensor) -> tf.Tensor:
    """Images in [0, 1]; others, and what is not a number, fail."""
    message = (
        "images: intensities must be in [0, 1], background 0; the JSON file beside "
        'this SavedModel says under "scaling" how they are made'
    )
    return _held(
        images,
        [
            tf.debugging.assert_non_negative(images, message),
            tf.debugging.assert_less_equal(images, 1.0, message),
        ],
    )


def binary(x: tf.Tensor, name: str) -> tf.Tensor:
    """A map in {0, 1}; others fail. `name` is that of the input, for the message."""
    message = f"{name}: its values must be 0 or 1"
    outside = tf.math.logical_and(x != 0.0, x != 1.0)
    none = tf.math.logical_not(tf.reduce_any(outside))
    return _held(x, [tf.debugging.assert_equal(none, True, message)])


def within(x: tf.Tensor, count: int, name: str) -> tf.Tensor:
    """Integers 0 to count - 1; others fail. `name` is that of the input."""
    message = f"{name}: its values must be 0 to {count - 1}"
    inside = tf.reduce_all(tf.math.logical_and(x >= 0, x < count))
    return _held(x, [tf.debugging.assert_equal(inside, True, message)])


def finite(x: tf.Tensor, name: str) -> tf.Tensor:
    """Finite numbers of any size; others fail. `name` is that of the input."""
    message = f"{name}: its values must be finite"
    whole = tf.reduce_all(tf.math.is_finite(x))
    return _held(x, [tf.debugging.assert_equal(whole, True, message)])


def traced(function: Callable) -> Callable:
    """A tf.function of batches, traced once for all sizes of them: no last bit of a
    result depends on which size came first."""
    traces = {}

    def call(*tensors):
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        specs = tuple(tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in tensors)
        if specs not in traces:
            traces[specs] = tf.function(function, specs, autograph=False)
        return traces[specs](*tensors)

    return call
