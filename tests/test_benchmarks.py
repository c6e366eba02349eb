"""What the timings rest on: equal arithmetic, operations counted by hand."""

import pytest
import tensorflow as tf

from benchmarks import loops, operations, rig


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
