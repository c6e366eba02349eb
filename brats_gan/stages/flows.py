"""The end of stage 1: CF_f is trained on the codes of the training maps (D52)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from brats_gan import code_flow, data, files, progress, runs, structural, weights
from brats_gan.lazy import tf

FOLDER = "flow"  # in the run: checkpoints and losses of CF_f
BEGUN = "begun.json"  # there: at which step of stage 1 its codes were taken
AT_ONCE = 50  # maps
MOST = 30_000  # maps whose codes are kept
EMA = 0.1  # share of the steps over which CF_f is averaged


def began_without(run_dir: Path) -> bool:
    """Whether a run has begun without CF_f, by a version that had none: its checkpoints
    have none either, so it goes on as it began."""
    build = weights.begun(run_dir).get("build", {})
    return runs.has_begun(run_dir) and not build.get("flow")


def free(run_dir: Path, flow_steps: int | None) -> frozenset[str]:
    """Flags that may differ from those that a run began with: how long it is, and how
    long CF_f is trained, where it began with one. It must be said: a flag that was
    forgotten would shorten it."""
    has = weights.begun(run_dir).get("build", {}).get("flow")
    return runs.LENGTH | ({"flow_steps"} if has and flow_steps else set())


def _begun_after(folder):
    """At which step of stage 1 the codes of a CF_f were taken; None: there is none."""
    path = folder / BEGUN
    return files.read_json(path).get("step") if path.exists() else None


def require_no_fewer(run_dir: Path, steps: int, after: int) -> None:
    """RunError where more steps of CF_f are done, after so many of stage 1."""
    folder = run_dir / FOLDER
    if _begun_after(folder) != after:
        return
    _, done = runs.newest_checkpoint(folder) or (None, 0)
    if steps < done:
        raise runs.RunError(
            f"{folder} has done {done} steps of {structural.FLOW}, and {steps} are "
            f"fewer; give --flow_steps={done} or more, or choose another folder"
        )


def known_maps(slices: data.Slices, beta: float, count: int) -> np.ndarray:
    """`count` maps of training slices, [N, H, W, 1], for structural.fit."""
    some = data.structural_batches(slices, AT_ONCE, seed=2).take(count // AT_ONCE)
    return np.concatenate([structural.extract(batch, beta)[0] for batch in some])


def codes(
    nets: dict, slices: data.Slices, beta: float, most: int = MOST
) -> code_flow.Codes:
    """The codes of training maps.

    As many as there are slices and modalities, or `most`; each slice in a random
    modality.
    """
    count = min(len(slices) * slices.spec.num_modalities, most)
    batches = max(count // AT_ONCE, 1)
    logging.info("encoding %d maps for %s", batches * AT_ONCE, structural.FLOW)
    bar = tf.keras.utils.Progbar(batches, unit_name="batch", interval=progress.EVERY)
    found, origins = [], []
    for batch in data.structural_batches(slices, AT_ONCE, seed=3).take(batches):
        f, _ = structural.extract(batch, beta)
        found.append(structural.encode(nets, f))
        origins.append((batch["slice"].numpy(), batch["modality"].numpy()))
        bar.add(1)
    columns = *zip(*found, strict=True), *zip(*origins, strict=True)
    return code_flow.Codes(*map(np.concatenate, columns))


def heights(slices: data.Slices) -> np.ndarray:
    """[S] float32, the share of slices at each height, as structural.Fit has it."""
    counts = np.bincount(slices.index[:, 1])
    return (counts / counts.sum()).astype(np.float32)


def train(
    run_dir: Path,
    nets: dict,
    found: structural.Fit,
    slices: data.Slices,
    beta: float,
    density: float,
    steps: int,
    after: int,
    seed: int,
    **of_loop: Any,
) -> structural.Fit:
    """Trains CF_f, or goes on with it; leaves its average in `nets`.

    One process does it, whatever the replicas of stage 1: a step is of 24 codes.

    Args:
        run_dir: of the run; checkpoints and losses are in its folder FOLDER.
        nets: of structural.build with `flow`.
        found: of structural.fit, the Gaussian that CF_f begins at.
        slices: of the training subjects.
        beta: of Algorithm 1.
        density: share of edges in the training maps, which drawn ones shall have.
        steps: of CF_f; may be raised.
        after: steps of stage 1. What was trained on the codes of another step is
            removed: the run has gone on since.
        seed, of_loop: as of runs.loop.

    Returns:
        The fit with CF_f, and with the threshold of maps that are drawn through it.

    Raises:
        RunError, Stopped: see runs.loop.
    """
    folder = run_dir / FOLDER
    if folder.exists() and _begun_after(folder) != after:
        shutil.rmtree(folder)
    files.write_json(folder / BEGUN, {"step": after})
    # Not of the replicas, if there are any: it is trained outside their scope.
    net = tf.keras.models.clone_model(nets[structural.FLOW])
    net.set_weights(nets[structural.FLOW].get_weights())
    nets[structural.FLOW] = net
    variables = net.trainable_variables
    optimizer = runs.adam(
        variables, code_flow.RATE, steps, beta_1=0.9, averaged=EMA * steps
    )
    found = found._replace(heights=heights(slices))
    of_maps = codes(nets, slices, beta), len(found.heights)
    step = code_flow.make_train_step(net, optimizer, *of_maps, found.mean, found.factor)

    def batches(first):  # the codes are here; `step` draws from all of them
        nobody = tf.zeros([0], tf.int64)
        return tf.data.Dataset.range(first, steps).map(lambda _: {"subject": nobody})

    runs.loop(
        folder,
        step,
        batches,
        steps,
        {structural.FLOW: net, "optimizer": optimizer},
        seed,
        slices.names,
        phase=f" of {structural.FLOW}",
        remedy=f"with --flow_steps=0, in another folder, there is no {structural.FLOW}",
        **of_loop,
    )
    optimizer.finalize_variable_values(variables)
    return found._replace(threshold=structural.threshold(nets, found, density))
