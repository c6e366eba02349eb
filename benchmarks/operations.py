"""What a traced step asks of the machine: convolutions, and the bytes of the rest."""

import collections
import math
import re
from typing import NamedTuple

import tensorflow as tf

CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")
# Move no data, or none worth counting.
FREE = {"Const", "Placeholder", "Reshape", "Identity", "NoOp", "ReadVariableOp"}


class Convolution(NamedTuple):
    """A convolution or a gradient of one, by static shapes."""

    kind: str  # of CONVOLUTIONS
    x: tuple  # [N, H, W, C]
    filters: tuple  # [h, w, C, F]
    y: tuple  # [N, H / stride, W / stride, F], less at the edges if VALID
    stride: int
    padding: str  # "SAME" or "VALID"

    @property
    def flops(self):
        height, width, channels, _ = self.filters
        return 2 * math.prod(self.y) * height * width * channels


def live_operations(concrete):
    """Operations that an output or an assignment of a traced function depends on."""
    graph = concrete.graph
    waiting = [t.op for t in graph.outputs] + list(graph.control_outputs)
    found = set(waiting)
    while waiting:
        op = waiting.pop()
        for before in [t.op for t in op.inputs] + list(op.control_inputs):
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


def shape_held_by(tensor):
    """The shape that is the value of a tensor of sizes."""
    if tensor.op.type in ("Shape", "ShapeN"):
        return tuple(tensor.op.inputs[tensor.value_index].shape)
    return tuple(int(n) for n in tf.get_static_value(tensor))


def convolution(op):
    """The Convolution of an operation of one of the three kinds."""
    first, second, *rest = op.inputs
    if op.type == "Conv2D":
        x, filters, y = first.shape, second.shape, op.outputs[0].shape
    elif op.type == "Conv2DBackpropInput":
        x, filters, y = shape_held_by(first), second.shape, rest[0].shape
    else:
        x, filters, y = first.shape, shape_held_by(second), rest[0].shape
    stride, padding = op.get_attr("strides")[1], op.get_attr("padding").decode()
    return Convolution(op.type, tuple(x), tuple(filters), tuple(y), stride, padding)


def network_of(op):
    """The network an operation belongs to, from its name."""
    parts = [part for part in op.name.split("/") if part != "gradient_tape"]
    return re.sub(r"_\d+$", "", parts[0])


def moved_bytes(op):
    """Bytes of an operation's inputs and outputs, where their shapes are known."""
    if op.type in FREE or op.type in CONVOLUTIONS:
        return 0
    tensors = [*op.inputs, *op.outputs]
    return sum(
        t.shape.num_elements() * t.dtype.size
        for t in tensors
        if t.shape.is_fully_defined() and t.dtype.size
    )


def count(concrete):
    """({Convolution: times}, {Convolution: networks}, other bytes) of a step."""
    times, networks, others = collections.Counter(), {}, 0
    for op in live_operations(concrete):
        if op.type in CONVOLUTIONS:
            each = convolution(op)
            times[each] += 1
            networks.setdefault(each, set()).add(network_of(op))
        else:
            others += moved_bytes(op)
    return times, networks, others
