"""Stage 2 as a function: a run that trains the generator (Sections 2.4 to 2.7)."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging

from brats_gan import (
    data,
    figures,
    fusion,
    lesion_components,
    multimodal,
    precision,
    report,
    runs,
    signatures,
    structural_map,
    styles,
    synthesis,
    weights,
)
from brats_gan.lazy import tf
from brats_gan.spec import Spec
from brats_gan.stages import beginning, inputs, sheets

SCRIPT = "train_multimodal.py"


@dataclass(frozen=True)
class Settings:
    """What a run of stage 2 chooses; fields are named and explained as flags are."""

    init_from: str | None = None
    steps: int | None = None
    epochs: float = 40.0
    batch_size: int = 1
    image_size: int = 192
    width: int = 64
    lesion_width: int | None = None
    scheme: str = "multiple"
    beta: float = structural_map.BETA
    learning_rate: float = 5e-4
    discriminator_rate: float = multimodal.DISCRIMINATOR_RATE
    precision: str = precision.AUTO
    seed: int = 0
    deterministic: bool | None = None  # None: no, as a flag that is not given
    checkpoint_seconds: float = runs.CHECKPOINT_SECONDS
    steps_per_call: int | str = "auto"
    strategy: str = runs.NONE
    replicas: int | None = None
    final_rate: float = beginning.FINAL_RATE
    ema: float = beginning.EMA
    all_pairs: bool = False
    image_norm: str = "absolute"
    image_class_weights: bool = True
    category: str = "entropy"
    label_loss: str = "weighted"
    conditional_norm: bool = True
    full_size_norm: bool = False
    label_modulation: bool = True
    map_modulation: bool = True
    style: bool = True
    spectral_norm: bool = True
    code_game: bool = False
    output_norm: bool = False
    initialization: str = "he_normal"
    leaky_relu: bool = True
    structure_weight: float = fusion.STRUCTURE_WEIGHT
    label_weight: float = fusion.LABEL_WEIGHT
    input_noise: float = 0.02
    input_gain: float = multimodal.Options().input_gain
    guidance_blur: bool = True
    lesion_removal: bool = True
    label_removal: bool = True
    placement_test: bool = True
    move_labels: bool = True
    all_labels: bool = False
    first_phase: float = multimodal.FIRST_PHASE
    ramp: float = multimodal.RAMP
    weights: dict[str, float] = field(default_factory=dict)  # others: by default

    def __post_init__(self) -> None:
        beginning.settle_types(self)
        beginning.require_size(self.image_size, 32)
        whole = beginning.all_weights(self.weights, multimodal.WEIGHTS)
        object.__setattr__(self, "weights", whole)
        object.__setattr__(self, "deterministic", self.deterministic or None)

    def build(self) -> dict:
        """Arguments of multimodal.build."""
        return {
            "image_size": self.image_size,
            "width": self.width,
            "scheme": self.scheme,
            "conditional_norm": self.conditional_norm,
            "label_modulation": self.label_modulation,
            "category": self.category,
            "lesion_width": self.lesion_width,
            "map_modulation": self.map_modulation,
            "style": self.style,
            "spectral": self.spectral_norm,
            "code_game": self.code_game,
            "full_size_norm": self.full_size_norm,
            "output_norm": self.output_norm,
            "initialization": self.initialization,
            "leaky_relu": self.leaky_relu,
        }

    def options(self, spec: Spec) -> multimodal.Options:
        """Options of the train step, which are settings of the same names."""
        names = multimodal.Options().as_dict()
        chosen = {name: getattr(self, name) for name in names}
        return multimodal.Options(**chosen, spec=spec)


def train(
    settings: Settings,
    source: data.Source,
    run_dir: str | Path,
    record: beginning.Record | None = None,
) -> Path:
    """Trains stage 2, or goes on with it; leaves two exports and sheets.

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
    heaviest = multimodal.heaviest_convolution(
        settings.image_size,
        settings.width,
        settings.batch_size,
        settings.all_pairs,
        source.spec,
    )
    settings, team = beginning.set_up(settings, run_dir, heaviest, record is not None)
    by = beginning.command(record, SCRIPT, settings, source, run_dir=run_dir)
    whole = Path(run_dir)
    run_dir = team.place(whole)
    beginning.require_startable(run_dir, source, by, runs.LENGTH)
    logging.info("stage 2: %s, trained on %s", run_dir, source.data_dir)
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
    steps, first_steps = lengths(settings, run_dir, len(slices))
    beginning.require_alike(team, by, fixed)
    with team.scope():
        nets = multimodal.build(**settings.build(), spec=source.spec)
        begun = weights.begin(
            run_dir,
            "multimodal",
            settings.build(),
            nets,
            settings.init_from,
            [subject.name for subject in held_out],
            spec=source.spec,
            patient_pattern=split.get("patient_pattern"),
            first_steps=first_steps,
            **inputs.of_run(fixed, source, (training, held_out)),
            settings=runs.lasting(by),
        )
    beginning.start(run_dir, split, by, runs.LENGTH)
    inputs.record(run_dir, fixed)
    weights.record(run_dir, begun)
    options = settings.options(source.spec)
    shown = sheets.shown_batch(slices, settings.all_labels)
    live = beginning.live(run_dir, SCRIPT, Settings(), steps)
    with live:
        train_networks(
            *(settings, nets, slices, shown, run_dir, steps, first_steps, begun),
            live,
            team,
        )
    if not team.is_chief:
        team.end()
        return whole

    sheets.draw_generated(nets, shown, options, run_dir / "generated.png")
    sheets.draw_translations(nets, shown, options, run_dir / "translations.png")
    figures.loss_curves(run_dir / "losses.jsonl", run_dir / "losses.png")
    description = {
        **data.preprocessing(settings.image_size, source.slices, source.spec),
        "spec": source.spec.as_dict(),
        "training_subjects": slices.names,
        **inputs.of_export(fixed),
        "initialised_from": begun["initialised_from"],
    }
    fitted = styles.fit(slices.styles)
    if options.style:
        description["style"] = {
            n: each.tolist() for n, each in fitted._asdict().items()
        }
    export(run_dir, nets, settings, options, description, fitted)
    of_weights = {**description, "beta": options.beta, "options": options.as_dict()}
    weights.finish(run_dir, nets, of_weights, steps)
    live.finish()
    runs.release(run_dir)
    team.end()
    return run_dir


def lengths(settings: Settings, run_dir: Path, slices: int) -> tuple[int, int]:
    """Steps of the run, and how many of them are of the first phase (D34)."""
    # The first phase keeps its length when --steps is raised.
    first_steps = weights.begun(run_dir).get("first_steps")
    steps = runs.total_steps(
        run_dir,
        settings.steps,
        settings.epochs,
        slices,
        settings.batch_size,
        settings.learning_rate,
        settings.final_rate,
        first_steps=first_steps or 0,
        first_final=multimodal.FULL_RATE,
    )
    if first_steps is None:
        first_steps = round(settings.first_phase * steps)
    return steps, min(first_steps, steps)


def train_networks(
    settings: Settings,
    nets: dict,
    slices: data.Slices,
    shown: dict,
    run_dir: Path,
    steps: int,
    first_steps: int,
    begun: dict,
    live: report.Live,
    team: runs.Team,
) -> None:
    """Both phases, from the newest checkpoint; `shown` is the batch of the sheets.

    Leaves the generator's averages in its networks (D51); the checkpoint has the last
    weights, to go on from.
    """
    # Discriminators take part after the first phase.
    begins = {"generator": 0, "discriminator": first_steps, "lesion_component": 0}
    peak, variables = settings.learning_rate, multimodal.variables(nets)
    shares = {"discriminator": settings.discriminator_rate}
    with team.scope():
        optimizers = {
            side: runs.adam(
                of_side,
                peak
                * (multimodal.FULL_RATE if begins[side] else 1.0)
                * shares.get(side, 1.0),
                steps - begins[side],
                final=settings.final_rate,
                first_steps=first_steps - begins[side],
                first_final=multimodal.FULL_RATE,
                averaged=settings.ema * steps if side == "generator" else 0.0,
            )
            for side, of_side in variables.items()
        }
    options = settings.options(slices.spec)
    first_step = multimodal.make_first_step(nets, optimizers, settings.weights, options)
    train_step = multimodal.make_train_step(
        nets,
        optimizers,
        settings.weights,
        options,
        round(settings.ramp * (steps - first_steps)),
        first_steps,
    )

    def batches(first):
        return data.multimodal_batches(
            slices, settings.batch_size, settings.seed, first, settings.all_labels
        )

    phase = ""
    if 0 < first_steps < steps:
        left = steps - first_steps
        phase = f" of the first phase; {left} full steps of about twice the time follow"
    per_call = runs.per_call(settings.steps_per_call, settings.deterministic)
    started = time.monotonic()

    def sheet(step):
        return sheets.draw_generated(nets, shown, options)

    for step, until, of_phase in (
        (first_step, first_steps, phase),
        (train_step, steps, ""),
    ):
        if until == 0:
            continue  # --first_phase=0
        runs.loop(
            run_dir,
            step,
            batches,
            until,
            {
                **nets,
                **{f"optimizer_{side}": each for side, each in optimizers.items()},
            },
            settings.seed,
            slices.names,
            sheet=live.with_sheet(sheet),
            checkpoint_seconds=settings.checkpoint_seconds,
            steps_per_call=per_call,
            phase=of_phase,
            started=started,
            made_by=begun,
            team=team,
        )
    optimizers["generator"].finalize_variable_values(variables["generator"])


def export(
    run_dir: Path,
    nets: dict,
    settings: Settings,
    options: multimodal.Options,
    description: dict,
    fitted: styles.Styles,
) -> None:
    """Writes export/generator and export/segmentor; `fitted` is styles.Styles.

    `generate` and `generate_in_style` give what the networks make; `generate_masked`
    gives what stage 3 writes of it: 0 outside the brain, and where it is faint.
    """
    size, spec = settings.image_size, options.spec
    fill_islands = structural_map.fill_islands

    @functools.partial(tf.function, autograph=False)  # one trace for all of them
    def made(structure, label, style):
        structure = signatures.binary(structure, "structure")
        label = signatures.classes(label, spec)
        style = signatures.finite(style, "style")
        return multimodal.generate(nets, structure, label, style, options)

    def by_name(images):
        return {name: images[:, i] for i, name in enumerate(spec.modalities)}

    def generate_in_style(structure, label, style):
        return by_name(made(structure, label, style))

    def generate_masked(structure, label, style, background):
        background = signatures.binary(background, "background")
        images = made(structure, label, style)
        return by_name(synthesis.masked(images, fill_islands(background)))

    def generate(structure, label):
        style = tf.repeat(fitted.mean[None], tf.shape(label)[0], 0)
        return generate_in_style(structure, label, style)

    plane = [None, size, size]
    given = [
        tf.TensorSpec([*plane, 1], tf.float32, name="structure"),
        tf.TensorSpec(plane, tf.int32, name="label"),
    ]
    style = tf.TensorSpec([None, *fitted.mean.shape], tf.float32, name="style")
    background = tf.TensorSpec([*plane, 1], tf.float32, name="background")
    runs.export(
        run_dir,
        "generator",
        [nets[name] for name in multimodal.GENERATOR_SIDE],
        {
            "generate": (generate, given),
            "generate_in_style": (generate_in_style, [*given, style]),
            "generate_masked": (generate_masked, [*given, style, background]),
        },
        {**description, "beta": options.beta},
    )
    components = multimodal.lesion_nets(nets)
    runs.export(
        run_dir,
        "segmentor",
        list(components.values()),
        {
            "segment": lesion_components.endpoint(
                components, size, spec, options.label_loss
            )
        },
        {**description, "scheme": settings.scheme},
    )
