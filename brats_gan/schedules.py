"""Learning rates as functions of the step."""

import tensorflow as tf


class ConstantThenLinear(tf.keras.optimizers.schedules.LearningRateSchedule):
    """`peak` for a share of the steps, then linear down to a share of the peak."""

    def __init__(self, peak, steps, constant=0.5, final=0.05):
        super().__init__()
        self.peak, self.steps = peak, steps
        self.constant, self.final = constant, final

    def __call__(self, step):
        done = tf.cast(step, tf.float32) / max(self.steps, 1)
        fallen = tf.clip_by_value(
            (done - self.constant) / (1.0 - self.constant), 0.0, 1.0
        )
        return self.peak * (1.0 - (1.0 - self.final) * fallen)

    def get_config(self):
        names = ("peak", "steps", "constant", "final")
        return {name: getattr(self, name) for name in names}
