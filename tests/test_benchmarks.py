"""What the timings rest on: equal arithmetic, operations counted by hand."""

import math

import pytest
import tensorflow as tf

from benchmarks import judges, loops, operations, rig
from brats_gan import precision


def test_the_loops_compute_the_losses_of_the_batched_step():
    assert loops.require_equal(rig.multimodal_batch(32)) < 1e-3


def test_pytorch_computes_the_losses_of_the_step_with_as_many_weights():
    pytest.importorskip("torch")
    from benchmarks import torch_step

    assert torch_step.require_equal(rig.multimodal_batch(32, 2)) < 1e-3


def counted(x, filters, stride, wanted=(0, 1)):
    """{Convolution: times} of a convolution and those gradients that are wanted."""

    @tf.function
    def step(x, filters):
        with tf.GradientTape() as tape:
            tape.watch([x, filters])
            y = tf.nn.conv2d(x, filters, stride, "SAME")
            loss = tf.reduce_sum(y * y)
        gradients = tape.gradient(loss, [x, filters])
        return [gradients[index] for index in wanted]

    concrete = step.get_concrete_function(tf.TensorSpec(x), tf.TensorSpec(filters))
    return operations.count(concrete)[0]


def test_operations_of_a_convolution_and_its_gradients_by_hand():
    times = counted([3, 8, 8, 2], [5, 5, 2, 7], 2)
    assert sorted(each.kind for each in times) == sorted(operations.CONVOLUTIONS)
    for each, number in times.items():
        # 3 images of 4 x 4 outputs in 7 channels, each of 5 x 5 x 2 products and sums.
        assert (each.flops, number) == (2 * 3 * 16 * 7 * 50, 1)
        assert (each.stride, each.padding) == (2, "SAME")


def test_operations_that_nothing_depends_on_are_not_counted():
    kinds = {each.kind for each in counted([1, 4, 4, 1], [3, 3, 1, 1], 1, wanted=(1,))}
    assert kinds == {"Conv2D", "Conv2DBackpropFilter"}


def test_every_contender_is_called_once_a_round():
    order = []
    calls = {name: lambda n=name: order.append(n) for name in "ab"}
    seconds = rig.interleaved(calls, rounds=2, warm=1)
    assert order == ["a", "b"] * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_the_u_nets_that_judge_compute_in_the_precision_that_is_chosen(monkeypatch):
    judges.precision_of.cache_clear()
    monkeypatch.setenv(precision.VARIABLE, "mixed_float16")
    net = judges.build_unet(16, 1, 2)
    judges.precision_of.cache_clear()
    assert net.get_layer(judges.CODE).compute_dtype == "float16"
    assert net.output.dtype == tf.float32


def test_the_u_nets_that_judge_are_measured_on_their_heaviest_convolution(monkeypatch):
    timed = []

    def choose(*convolution):
        timed.append(convolution)
        return precision.Choice("float32", {}, *convolution)

    judges.precision_of.cache_clear()
    monkeypatch.delenv(precision.VARIABLE)
    monkeypatch.setattr(precision, "choose", choose)
    net = judges.build_unet(16, 1, 2)
    judges.build_unet(16, 1, 2)
    judges.precision_of.cache_clear()
    # 12 channels to 4 on 8 x 8 pixels; 6 to 2 on 16 x 16 and 24 to 8 on 4 x 4 take as
    # many products: 9 * 48 * 64.
    assert timed == [((judges.BATCH, 8, 8, 12), (3, 3, 12, 4))]
    products = [
        math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:3])
        for layer in net.layers
        if isinstance(layer, tf.keras.layers.Conv2D)
    ]
    assert max(products) == 9 * 48 * 64
    assert products.count(max(products)) == 3
