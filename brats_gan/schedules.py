"""Learning rates as functions of the step."""

from __future__ import annotations

import tensorflow as tf


class ConstantThenLinear(tf.keras.optimizers.schedules.LearningRateSchedule):
    """`peak` for a share of the steps, then linear down to a share of the peak.

    With `first_steps` such a course comes first and falls to the share `first_final` of
    the peak; the second course begins there and takes the steps that are left.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        constant: float = 0.5,
        final: float = 0.05,
        first_steps: int = 0,
        first_final: float = 1.0,
    ) -> None:
        super().__init__()
        self.peak, self.steps = peak, steps
        self.constant, self.final = constant, final
        self.first_steps, self.first_final = first_steps, first_final

    def _fallen(self, step, steps):
        """0 in the constant share of `steps`, then linear up to 1."""
        done = step / max(steps, 1)
        return tf.clip_by_value(
            (done - self.constant) / (1.0 - self.constant), 0.0, 1.0
        )

    def __call__(self, step: int | tf.Tensor | tf.Variable) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        left = step - self.first_steps, self.steps - self.first_steps
        share = 1.0 - (1.0 - self.final) * self._fallen(*left)
        if self.first_steps:
            first = self._fallen(step, self.first_steps)
            share *= 1.0 - (1.0 - self.first_final) * first
        return self.peak * share

    def get_config(self) -> dict[str, float]:
        names = (
            "peak",
            "steps",
            "constant",
            "final",
            "first_steps",
            "first_final",
        )
        return {name: getattr(self, name) for name in names}
