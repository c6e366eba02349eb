"""One call of a network on several parts of a batch.

A network without normalisation over the batch treats each part as in a call of its own,
and one call of many images takes less time than many calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from brats_gan.lazy import tf


def over_parts(
    network: Callable[..., tf.Tensor | Sequence[tf.Tensor]],
    parts: Mapping[str, tf.Tensor | tuple[tf.Tensor, ...]],
) -> dict[str, tf.Tensor | list[tf.Tensor]]:
    """Runs a network once over named parts of a batch, and gives the parts back.

    Args:
        network: a tensor [N, ...], or as many as a part has, -> a tensor [N, ...] or a
            list of them.
        parts: {name: tensor [n, ...], or a tuple of them: one an argument}.

    Returns:
        {name: the network's output for the part}, a tensor or a list as it gives them.
    """
    given = [part if isinstance(part, tuple) else (part,) for part in parts.values()]
    sizes = [_rows(first) for first, *_ in given]
    said = network(*(tf.concat(each, 0) for each in zip(*given, strict=True)))
    if isinstance(said, list | tuple):
        of_parts = zip(*(tf.split(each, sizes) for each in said), strict=True)
        return dict(zip(parts, map(list, of_parts), strict=True))
    return dict(zip(parts, tf.split(said, sizes), strict=True))


def _rows(x):
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
