"""Gradients in a graph are those without one.

TensorFlow rewrites graphs; what it makes of ours must compute the same.
"""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import rig
from brats_gan import lesion_components, losses, multimodal, runs, structural

SIZE, WIDTH = 32, 2


def assert_alike(names, eager, traced):
    """Of variables, to a share of the largest of each."""
    for name, one, other in zip(names, eager, traced, strict=True):
        error = np.abs(one - other).max()
        # What a norm takes away again has a gradient of rounding errors alone.
        assert error <= 1e-3 * np.abs(one).max() + 1e-5, (name, one.shape, error)


@pytest.mark.parametrize("scheme", lesion_components.SCHEMES)
def test_lesion_components_get_their_own_gradients_in_a_graph(scheme):
    tf.keras.utils.set_random_seed(1)
    nets = lesion_components.build(scheme, SIZE, WIDTH)
    variables = [v for net in nets.values() for v in net.trainable_variables]
    batch = rig.segmentation_batch(SIZE, 2)

    def gradients(x, label):
        with tf.GradientTape() as tape:
            logits = lesion_components.logits(nets, x, True)
            label = tf.broadcast_to(label[:, None], tf.shape(logits)[:-1])
            loss = losses.label_weighted(label, logits)
        return tape.gradient(loss, variables)

    given = batch["x"], batch["label"]
    eager = [g.numpy() for g in gradients(*given)]
    traced = [g.numpy() for g in tf.function(gradients)(*given)]
    assert_alike([v.name for v in variables], eager, traced)


def first_moments(step, optimizers, batch):
    """After one step, of every variable: half of its gradient."""
    for each in optimizers.values():
        each.restart()
    step(batch, tf.constant([0, 0]))
    return [m.numpy() for each in optimizers.values() for m in each._momentums]


def still(variables):
    """Optimizers that move nothing, so that a step can be taken again."""
    return {side: runs.adam(each, 0.0, 10) for side, each in variables.items()}


def test_a_step_of_stage_1_has_the_gradients_of_one_without_a_graph():
    nets = structural.build(SIZE, WIDTH, code_channels=1, code_game=True)
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    variables = {side: structural.variables(nets, who) for side, who in sides.items()}
    optimizers = still(variables)
    options = structural.Options(code_fit=False)  # whose bank would remember
    step = structural.make_train_step(
        nets, optimizers, rig.codes_of(nets), None, options
    )
    names = [v.name for each in variables.values() for v in each]
    batch = rig.structural_batch(SIZE, 2)
    directions = {n: net.get_weights() for n, net in nets.items()}
    traced = first_moments(step, optimizers, batch)
    for name, net in nets.items():
        net.set_weights(directions[name])  # those of the spectral norm have turned
    eager = first_moments(step.python_function, optimizers, batch)
    assert_alike(names, eager, traced)


def test_a_step_of_stage_2_has_the_gradients_of_one_without_a_graph():
    nets = multimodal.build(SIZE, WIDTH, "single")
    variables = multimodal.variables(nets)
    optimizers = still(variables)
    step = multimodal.make_train_step(nets, optimizers)
    names = [v.name for each in variables.values() for v in each]
    batch = rig.multimodal_batch(SIZE, 1)
    directions = {n: net.get_weights() for n, net in nets.items()}
    traced = first_moments(step, optimizers, batch)
    for name, net in nets.items():
        net.set_weights(directions[name])
    eager = first_moments(step.python_function, optimizers, batch)
    assert_alike(names, eager, traced)
