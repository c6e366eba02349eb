"""Rows of a batch dealt to replicas, so that N of them compute what one would.

A step is written for one replica. Under a tf.distribute strategy each replica takes its
rows of the batch (`own_rows`), draws the numbers that one replica would draw for these
rows (`normal`, `uniform`), adds up what is over the whole batch (`summed`), and learns
from the mean of all gradients (`averaged`). Every loss that is a mean over examples is
then the mean over replicas, as all have equally many rows. Without a strategy, or
outside of strategy.run, all of it does nothing.

Variables are mirrored: each replica moves its own copy (`assign`), by the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brats_gan.lazy import tf


def _context():
    """The replica's context, if there are others beside it; else None."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context


def several() -> bool:
    """Whether this is one of several replicas at work on a batch."""
    return _context() is not None


def own_rows(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """This replica's rows of a batch: {name: [B, ...]} -> {name: [B / N, ...]}.

    Replica r has the rows r * B / N and on, so that together they are in order.
    """
    context = _context()
    if context is None:
        return dict(batch)
    count, which = context.num_replicas_in_sync, context.replica_id_in_sync_group

    def of(x):
        rows = x.shape[0] // count
        own = tf.slice(
            x, [which * rows, *[0] * (x.shape.rank - 1)], [rows, *x.shape[1:]]
        )
        own.set_shape([rows, *x.shape[1:]])
        return own

    return {name: of(x) for name, x in batch.items()}


def _drawn(
    draw: Callable[[Any], tf.Tensor],
    shape: tf.Tensor | Sequence[int | tf.Tensor],
    blocks: Sequence[int | tf.Tensor] | None,
    axis: int,
) -> tf.Tensor:
    context = _context()
    if context is None:
        return draw(shape)
    count, which = context.num_replicas_in_sync, context.replica_id_in_sync_group
    sizes = [shape[axis]] if blocks is None else blocks
    parts = tf.unstack(shape) if tf.is_tensor(shape) else list(shape)
    parts[axis] = count * tf.add_n([tf.convert_to_tensor(size) for size in sizes])
    starts = tf.cumsum([0, *sizes])
    own = [
        count * starts[k] + which * size + tf.range(size)
        for k, size in enumerate(sizes)
    ]
    return tf.gather(draw(tf.stack(parts)), tf.concat(own, 0), axis=axis)


def normal(
    shape: tf.Tensor | Sequence[int | tf.Tensor],
    seed: tf.Tensor | Sequence[int],
    blocks: Sequence[int | tf.Tensor] | None = None,
) -> tf.Tensor:
    """tf.random.stateless_normal for this replica's rows of what one would draw.

    Args:
        shape: of this replica's numbers; the first axis has the rows.
        seed: [2] int32, the same in all replicas.
        blocks: how many rows follow each other in parts that are each dealt to the
            replicas, as where a network sees real and made images in one call; by
            default all are one part.
    """

    def draw(of_all):
        return tf.random.stateless_normal(of_all, seed)

    return _drawn(draw, shape, blocks, 0)


def uniform(
    shape: tf.Tensor | Sequence[int | tf.Tensor],
    seed: tf.Tensor | Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    dtype: tf.DType | None = None,
    axis: int = 0,
) -> tf.Tensor:
    """tf.random.stateless_uniform for this replica's rows of what one would draw.

    Args:
        shape: of this replica's numbers.
        seed: [2] int32, the same in all replicas.
        low, high, dtype: as there; float32 if unset.
        axis: which has the rows.
    """
    dtype = dtype or tf.float32

    def draw(of_all):
        return tf.random.stateless_uniform(of_all, seed, low, high, dtype)

    return _drawn(draw, shape, None, axis)


def summed(x: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over replicas, through which gradients go."""
    context = _context()
    return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def gathered(x: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas in order: [B / N, ...] -> [B, ...]."""
    context = _context()
    return x if context is None else context.all_gather(x, axis=0)


def averaged(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The means of tensors over replicas, all in one buffer that is reduced once."""
    context = _context()
    if context is None or not tensors:
        return list(tensors)
    flat = [tf.reshape(tf.cast(x, tf.float32), [-1]) for x in tensors]
    whole = context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.concat(flat, 0))
    parts = tf.split(whole, [part.shape[0] for part in flat])
    return [
        tf.cast(tf.reshape(part, x.shape), x.dtype)
        for part, x in zip(parts, tensors, strict=True)
    ]


def own_copy(variable: Any) -> tf.Variable:
    """The tf.Variable of a variable of Keras 2 or 3, mirrored or not."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def assign(variable: Any, value: tf.Tensor) -> None:
    """Assigns a value; in one of several replicas to this replica's copy alone.

    A strategy would ask how values of replicas are put together: these are all alike.
    """
    if several():
        value = tf.cast(value, variable.dtype)
        tf.raw_ops.AssignVariableOp(resource=own_copy(variable).handle, value=value)
    else:
        variable.assign(value)
