"""Stage 1 as a function: a run that trains DC_f and MASK (Section 2.3, Figure 2)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from absl import logging

from brats_gan import (
    code_bank,
    data,
    figures,
    networks,
    precision,
    runs,
    signatures,
    structural,
    structural_map,
    volume_maps,
    weights,
)
from brats_gan.lazy import tf
from brats_gan.stages import beginning, flows, inputs

SCRIPT = "train_structural.py"
SHOWN = 8  # rows of a sheet
# How many real maps the Gaussian of codes is fitted to: for a sheet, at the end.
FITTED_SHEET, FITTED = 400, 2000
FLOW_STEPS = 2000  # of CF_f, unless the run is shorter or asks for others


@dataclass(frozen=True)
class Settings:
    """What a run of stage 1 chooses; fields are named and explained as flags are."""

    init_from: str | None = None
    steps: int | None = None
    epochs: float = 150.0
    batch_size: int = 16
    image_size: int = 192
    width: int = 64
    mask_width: int | None = None
    code_channels: int = 4
    code_dim: int | None = None
    beta: float = structural_map.BETA
    map_loss: str = "entropy"
    soft_maps: bool = True
    spectral_norm: bool = True
    code_norm: bool = False
    output_norm: bool = False
    initialization: str = "he_normal"
    leaky_relu: bool = True
    code_fit: bool = True
    flow_steps: int | None = None  # as `steps`, but FLOW_STEPS at most
    judge_rebuilt: bool = True
    code_game: bool = False
    input_noise: float = structural.Options().input_noise
    learning_rate: float = 5e-4
    final_rate: float = beginning.FINAL_RATE
    ema: float = beginning.EMA
    precision: str = precision.AUTO
    seed: int = 0
    deterministic: bool | None = None  # None: no, as a flag that is not given
    checkpoint_seconds: float = runs.CHECKPOINT_SECONDS
    steps_per_call: int | str = "auto"
    strategy: str = runs.NONE
    replicas: int | None = None
    weights: dict[str, float] = field(default_factory=dict)  # others: by default

    def __post_init__(self) -> None:
        beginning.settle_types(self)
        beginning.require_size(self.image_size, 32)
        if self.code_dim is not None:
            beginning.require_code_dim(self.code_dim, self.image_size)
        if self.flow_steps and not self.flow:
            other = "--nocode_fit" if self.code_dim is None else "--code_dim"
            raise runs.RunError(
                f"--flow_steps={self.flow_steps} has no place beside {other}: there is "
                "no Gaussian of a grid of codes to carry on; leave one of them out"
            )
        whole = beginning.all_weights(self.weights, structural.WEIGHTS)
        object.__setattr__(self, "weights", whole)
        object.__setattr__(self, "deterministic", self.deterministic or None)

    @property
    def flow(self) -> bool:
        """Whether there is CF_f (D52)."""
        return self.flow_steps != 0 and self.code_fit and self.code_dim is None

    def build(self) -> dict:
        """Arguments of structural.build."""
        return {
            "image_size": self.image_size,
            "width": self.width,
            "code_channels": self.code_channels,
            "mask_width": self.mask_width,
            "spectral": self.spectral_norm,
            "code_game": self.code_game,
            "code_dim": self.code_dim,
            "code_norm": self.code_norm,
            "output_norm": self.output_norm,
            "initialization": self.initialization,
            "leaky_relu": self.leaky_relu,
            "flow": self.flow,
        }

    def options(self) -> structural.Options:
        """Options of the train step."""
        return structural.Options(
            beta=self.beta,
            map_loss=self.map_loss,
            soft_maps=self.soft_maps,
            input_noise=self.input_noise,
            judge_rebuilt=self.judge_rebuilt,
            code_fit=self.code_fit,
        )


def draw_sheet(
    nets: dict, found: structural.Fit, real: dict, path: Path | None = None
) -> np.ndarray:
    """Figure 8: real maps and their reconstructions, generated maps and their masks."""
    f, background = structural.extract(real)
    rebuilt = structural.reconstruct(nets, f, found)
    z = tf.random.stateless_normal([f.shape[0], len(found.mean)], [8, 8])
    generated, mask = structural.generate(nets, z, found)
    filled = [
        structural_map.contour_background(each) for each in generated.numpy()[..., 0]
    ]
    columns = [real["x"], f, rebuilt, background, generated, mask]
    columns = [np.asarray(column)[..., 0] for column in columns] + [filled]
    titles = ["x", "f", "f_r", "mask", "f_g", "mask_g", "m' (Alg. 3)"]
    return figures.sheet(list(zip(*columns, strict=True)), titles, path)


def train(
    settings: Settings,
    source: data.Source,
    run_dir: str | Path,
    record: beginning.Record | None = None,
) -> Path:
    """Trains stage 1, or goes on with it; leaves export/structure and sheets.

    Args:
        settings: Settings.
        source: data.Source of real subjects.
        run_dir: folder of the run; one that exists is continued.
        record: of a script, see beginning.Record; by default flags.txt has the flags
            of the script that would choose the same.

    Returns:
        The folder of the run.

    Raises:
        RunError, DataError: see runs.start, runs.loop and data.split_subjects.
    """
    heaviest = structural.heaviest_convolution(
        settings.image_size, settings.width, settings.batch_size, settings.mask_width
    )
    settings, team = beginning.set_up(settings, run_dir, heaviest, record is not None)
    by = beginning.command(record, SCRIPT, settings, source, run_dir=run_dir)
    whole = Path(run_dir)
    run_dir = team.place(whole)
    free = flows.free(run_dir, settings.flow_steps)
    beginning.require_startable(run_dir, source, by, free)
    logging.info("stage 1: %s, trained on %s", run_dir, source.data_dir)
    training, held_out, split = source.subjects(run_dir)
    slices = source.read(training, settings.image_size)
    fixed = inputs.fix(
        run_dir,
        source,
        split,
        (training, held_out),
        slices,
        image_size=settings.image_size,
    )
    steps = runs.total_steps(
        run_dir,
        settings.steps,
        settings.epochs,
        len(slices),
        settings.batch_size,
        settings.learning_rate,
        settings.final_rate,
    )

    if settings.flow and flows.began_without(run_dir):
        logging.info("%s: goes on without %s", run_dir, structural.FLOW)
        settings = replace(settings, flow_steps=0)
    flow_steps = settings.flow_steps or min(steps, FLOW_STEPS)
    if settings.flow:
        flows.require_no_fewer(run_dir, flow_steps, steps)
    beginning.require_alike(team, by, fixed)
    with team.scope():
        nets = structural.build(**settings.build(), spec=source.spec)
        begun = weights.begin(
            run_dir,
            "structural",
            settings.build(),
            nets,
            settings.init_from,
            [subject.name for subject in held_out],
            spec=source.spec,
            patient_pattern=split.get("patient_pattern"),
            **inputs.of_run(fixed, source, (training, held_out)),
            settings=runs.lasting(by, {"flow_steps"}),
        )
    beginning.start(run_dir, split, by, free)
    inputs.record(run_dir, fixed)
    weights.record(run_dir, begun)
    code_dim = networks.map_code_dim(
        settings.image_size, settings.code_channels, settings.code_dim
    )
    sides = {
        "generator": structural.GENERATOR_SIDE,
        "discriminator": structural.DISCRIMINATOR_SIDE,
    }
    with team.scope():
        codes = code_bank.Codes(code_dim)
        optimizers = {
            side: runs.adam(
                structural.variables(nets, names),
                settings.learning_rate,
                steps,
                final=settings.final_rate,
                averaged=settings.ema * steps if side == "generator" else 0.0,
            )
            for side, names in sides.items()
        }
    train_step = structural.make_train_step(
        nets, optimizers, codes, settings.weights, settings.options()
    )

    def batches(first):
        return data.structural_batches(
            slices, settings.batch_size, settings.seed, first
        )

    real = next(iter(data.structural_batches(slices, SHOWN, seed=1)))

    def fitted(count):
        """structural.Fit to so many maps, and the share of edges in them."""
        if not settings.code_fit:
            return structural.unfitted(code_dim), None
        known = flows.known_maps(slices, settings.beta, count)
        return structural.fit(nets, known), float(np.mean(known))

    def sheet(step):
        del step
        found, _ = fitted(FITTED_SHEET)
        return draw_sheet(nets, found, real)

    of_loop = {
        "seed": settings.seed,
        "checkpoint_seconds": settings.checkpoint_seconds,
        "steps_per_call": runs.per_call(
            settings.steps_per_call, settings.deterministic
        ),
        "made_by": begun,
    }
    live = beginning.live(run_dir, SCRIPT, Settings(), steps)
    with live:
        runs.loop(
            run_dir,
            train_step,
            batches,
            steps,
            {
                **nets,
                **{f"optimizer_{side}": each for side, each in optimizers.items()},
                "codes": codes,
            },
            subject_names=slices.names,
            sheet=live.with_sheet(sheet),
            team=team,
            **of_loop,
        )
        # The checkpoint has the last weights, to go on from; what follows, averages
        # (D51).
        of_generator = structural.variables(nets, structural.GENERATOR_SIDE)
        optimizers["generator"].finalize_variable_values(of_generator)
        if not team.is_chief:
            team.end()
            return whole

        found, density = fitted(FITTED)
        if settings.flow:
            found = flows.train(
                run_dir,
                nets,
                found,
                slices,
                settings.beta,
                density,
                flow_steps,
                after=steps,
                **of_loop,
            )
        if settings.code_fit and len(slices.names) > 1:
            found = with_stacks(found, nets, slices, settings.beta)
    draw_sheet(nets, found, real, run_dir / "maps.png")
    figures.loss_curves(run_dir / "losses.jsonl", run_dir / "losses.png")
    description = {
        **data.preprocessing(settings.image_size, source.slices, source.spec),
        "spec": source.spec.as_dict(),
        "beta": settings.beta,
        "code_dim": len(found.mean),
        "edge_threshold": found.threshold,
        "training_subjects": slices.names,
        **inputs.of_export(fixed),
        "initialised_from": begun["initialised_from"],
    }
    export(run_dir, nets, found, description)
    weights.finish(run_dir, nets, description, steps, found)
    live.finish()
    runs.release(run_dir)
    team.end()
    return run_dir


def with_stacks(
    found: structural.Fit, nets: dict, slices: data.Slices, beta: float
) -> structural.Fit:
    """The fit, also to the volumes of training subjects, of whom there are two or more
    (D49)."""
    density = float(np.mean(flows.known_maps(slices, beta, FITTED_SHEET)))
    return volume_maps.fit(nets, found, slices, beta, density)


def export(run_dir: Path, nets: dict, found: structural.Fit, description: dict) -> None:
    """Writes export/structure: noise -> f_g and its background; `generate_at`, the same
    at a height; `volume`, of all slices of a brain."""

    def generate(code):
        code = signatures.finite(code, "code")
        f, background = structural.generate(nets, code, found)
        return {"structure": f, "background": background}

    def volume(subject, detail):
        subject = signatures.finite(subject, "subject")
        detail = signatures.finite(detail, "detail")
        f, background = volume_maps.generate(nets, found, subject, detail)
        return {"structure": f, "background": background}

    def generate_at(height, subject, detail):
        height = signatures.within(height, len(found.stacks.mean), "height")
        subject = signatures.finite(subject, "subject")
        detail = signatures.finite(detail, "detail")
        f, background = volume_maps.generate_at(nets, found, height, subject, detail)
        return {"structure": f, "background": background}

    code = tf.TensorSpec([None, len(found.mean)], tf.float32, name="code")
    endpoints = {"generate": (generate, [code])}
    if found.stacks is not None:
        noise = {
            "subject": [None, found.stacks.subject_dim],
            "detail": [None, *found.stacks.mean.shape],
        }
        endpoints["volume"] = (
            volume,
            [tf.TensorSpec(shape, tf.float32, name) for name, shape in noise.items()],
        )
        endpoints["generate_at"] = (
            generate_at,
            [
                tf.TensorSpec([None], tf.int32, "height"),
                tf.TensorSpec(noise["subject"], tf.float32, "subject"),
                tf.TensorSpec([None, len(found.mean)], tf.float32, "detail"),
            ],
        )
        # Whatever needs no graph to say how much noise a volume takes.
        description = {
            **description,
            "volume": {name: shape[1:] for name, shape in noise.items()},
        }
    runs.export(
        run_dir,
        "structure",
        [nets[name] for name in ("DC_f", "MASK", structural.FLOW) if name in nets],
        endpoints,
        description,
    )
