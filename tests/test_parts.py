"""One call of a network on named parts of a batch."""

import numpy as np
import tensorflow as tf

from brats_gan.parts import over_parts


def test_parts_of_other_lengths_come_back_under_their_names():
    parts = {"a": tf.constant([[1.0], [2.0]]), "b": tf.constant([[3.0]])}
    said = over_parts(lambda x: 10 * x, parts)
    assert {name: each.numpy().tolist() for name, each in said.items()} == {
        "a": [[10.0], [20.0]],
        "b": [[30.0]],
    }


def test_the_network_is_called_once_with_an_argument_for_each_tensor_of_a_part():
    calls = []

    def network(x, y):
        calls.append((x.numpy().tolist(), y.numpy().tolist()))
        return x * y

    said = over_parts(
        network,
        {
            "a": (tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0])),
            "b": (tf.constant([5.0]), tf.constant([6.0])),
        },
    )
    assert calls == [([1.0, 2.0, 5.0], [3.0, 4.0, 6.0])]
    assert said["a"].numpy().tolist() == [3.0, 8.0]
    assert said["b"].numpy().tolist() == [30.0]


def test_of_a_network_with_several_outputs_each_part_has_a_list():
    said = over_parts(
        lambda x: (x, tf.reduce_sum(x, 1)),
        {"a": tf.ones([1, 2]), "b": tf.zeros([2, 2])},
    )
    assert [each.shape.as_list() for each in said["a"]] == [[1, 2], [1]]
    assert [each.shape.as_list() for each in said["b"]] == [[2, 2], [2]]


def test_a_batch_of_no_known_length_is_divided_as_well():
    @tf.function(input_signature=[tf.TensorSpec([None, 1]), tf.TensorSpec([None, 1])])
    def call(a, b):
        return over_parts(lambda x: x + 1, {"a": a, "b": b})

    said = call(tf.zeros([2, 1]), tf.ones([3, 1]))
    np.testing.assert_array_equal(said["a"], np.ones([2, 1]))
    np.testing.assert_array_equal(said["b"], 2 * np.ones([3, 1]))
