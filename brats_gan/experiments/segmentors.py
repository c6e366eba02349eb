"""Runs of stage 4: segmentors of a scheme, trained on a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from brats_gan import data, files, lesion_components, runs, segmentation
from brats_gan.experiments import mixing
from brats_gan.lazy import tf
from brats_gan.spec import BRATS, Spec


class Training(NamedTuple):
    """How segmentors are trained, alike in every run of an experiment."""

    scheme: str  # one of lesion_components.SCHEMES, or "four_channel"
    image_size: int
    width: int
    batch_size: int
    rate: float  # Adam's
    beta_1: float
    final_rate: float  # share of the rate at the last step
    label_loss: str  # a name in losses.LABEL_LOSSES
    dropout: float  # of the input
    precision: str  # a Keras policy
    deterministic: bool
    checkpoint_seconds: float
    steps_per_call: int | str  # see runs.loop
    spec: Spec = BRATS
    output_norm: bool = False  # D11, see blocks.Make
    initialization: str = "he_normal"
    leaky_relu: bool = True


class Segmentors:
    """The networks of a scheme with their step; one trace serves all repeats.

    Attributes:
        nets: networks by name.
        predict: x [b, M, H, W, 1] -> labels [b, N, H, W], as segmentation.score asks.
    """

    def __init__(
        self,
        training: Training,
        iterations: int,
        augment: bool = False,
        team: runs.Team | None = None,
    ) -> None:
        self.training, self.iterations = training, iterations
        self.team = team or runs.Team()
        self.build = {
            "scheme": training.scheme,
            "image_size": training.image_size,
            "width": training.width,
            "output_norm": training.output_norm,
            "initialization": training.initialization,
            "leaky_relu": training.leaky_relu,
        }
        rates = training.rate, iterations, training.beta_1, training.final_rate
        with self.team.scope():
            self.nets = lesion_components.build(**self.build, spec=training.spec)
            variables = [
                v for net in self.nets.values() for v in net.trainable_variables
            ]
            self._adam = runs.adam(variables, *rates)
        self._train_step = segmentation.make_train_step(
            self.nets,
            {"segmentation": self._adam},
            training.label_loss,
            training.dropout,
            augment,
            training.spec,
        )
        self.predict = tf.function(
            lambda x: tf.argmax(
                lesion_components.segment(self.nets, x, spec=training.spec), -1
            ),
            autograph=False,
        )

    def train(
        self,
        run_dir: Path,
        slices: data.Slices,
        plan: list[mixing.Phase],
        seed: int,
        begin: Callable[[], dict],
    ) -> dict:
        """Trains from fresh weights, or the run's checkpoint, on mixing.Phase.

        `begin` is called between and may put others in place of the fresh ones. It
        returns what makes the run and never changes, which is returned.
        """
        training = self.training
        runs.set_up(training.precision, seed, training.deterministic)
        fresh = lesion_components.build(**self.build, spec=training.spec)
        for name, net in self.nets.items():
            net.set_weights(fresh[name].get_weights())
        self._adam.restart()
        drawn = mixing.sampler(plan, training.batch_size, seed)
        run_dir.mkdir(parents=True, exist_ok=True)
        begun = begin()
        files.write_json(run_dir / "samples.json", mixing.described(plan, slices))
        runs.loop(
            run_dir,
            self._train_step,
            lambda first: data.segmentation_batches(
                slices, training.batch_size, seed, first, drawn
            ),
            self.iterations,
            {**self.nets, "optimizer": self._adam},
            seed,
            slices.names,
            checkpoint_seconds=training.checkpoint_seconds,
            steps_per_call=training.steps_per_call,
            made_by=begun,
            team=self.team,
        )
        return begun
