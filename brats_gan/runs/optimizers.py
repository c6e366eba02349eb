"""Adam of a run, and one update of each side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brats_gan import layers, replicas, schedules
from brats_gan.lazy import tf


def adam(
    variables: list[tf.Variable],
    peak: float,
    steps: int,
    beta_1: float = 0.5,
    final: float = 0.05,
    first_steps: int = 0,
    first_final: float = 1.0,
    averaged: float = 0.0,
) -> layers.Adam:
    """Adam (Section 3.4) with its slots made at once, so that a restore finds them.

    `final` is the share of the peak rate at the last step; 1 keeps it constant.
    `first_steps` and `first_final`: see ConstantThenLinear. `averaged`: over so many of
    the last steps, in the exponential mean, finalize_variable_values sets a variable to
    its average (D51); 1 or less: it leaves them. Where layers compute in float16 it
    scales its loss, see `update`.
    """
    rate = schedules.ConstantThenLinear(
        peak, steps, final=final, first_steps=first_steps, first_final=first_final
    )
    half = tf.keras.mixed_precision.global_policy().compute_dtype == "float16"
    kind = layers.LossScaledAdam if half else layers.Adam
    average = (
        {"use_ema": True, "ema_momentum": 1.0 - 1.0 / averaged} if averaged > 1 else {}
    )
    optimizer = kind(rate, beta_1=beta_1, **average)
    optimizer.build(variables)
    return optimizer


def update(
    optimizers: Mapping[str, tf.keras.optimizers.Optimizer],
    tape: tf.GradientTape,
    totals: Mapping[str, tf.Tensor],
    variables: Mapping[str, Sequence[tf.Variable]],
    named: Mapping[str, tf.Tensor] | None = None,
) -> dict[str, tf.Tensor]:
    """One step of each side on its own total and its own variables.

    Of several replicas each moves by the mean of all gradients, which are reduced
    together with the losses, in one buffer.

    Args:
        optimizers, totals, variables: by side.
        named: other losses, by name, to be reported.
        tape: persistent, has seen the totals. All gradients are taken before any
            variable moves. An optimizer with a loss_scale is given gradients that are
            so many times as large.

    Returns:
        {name: scalar} of `named` and `totals`, means over replicas.
    """
    gradients = {
        side: tape.gradient(
            totals[side],
            variables[side],
            output_gradients=getattr(optimizers[side], "loss_scale", None),
        )
        for side in totals
    }
    said = {**(named or {}), **totals}
    there = [g for values in gradients.values() for g in values if g is not None]
    reduced = iter(replicas.averaged([*there, *said.values()]))
    gradients = {
        side: [None if g is None else next(reduced) for g in values]
        for side, values in gradients.items()
    }
    said = dict(zip(said, reduced, strict=True))
    for side, values in gradients.items():
        optimizers[side].apply_gradients(zip(values, variables[side], strict=True))
    return said
