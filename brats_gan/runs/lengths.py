"""How many steps a run has, which may be raised when it goes on."""

from __future__ import annotations

from pathlib import Path

from absl import logging

from brats_gan import schedules
from brats_gan.runs.checkpoints import all_checkpoints
from brats_gan.runs.folder import settings
from brats_gan.runs.process import RunError


def total_steps(
    run_dir: Path,
    steps: int | None,
    epochs: float,
    slices: int,
    batch_size: int,
    rate: float,
    final: float = 0.05,
    first_steps: int = 0,
    first_final: float = 1.0,
    name: str = "steps",
) -> int:
    """Steps of a run, which may be others than when it was begun.

    Args:
        run_dir: folder of the run, which need not exist. `start`, with LENGTH free,
            then writes what is asked for.
        steps: as many are asked for, or None.
        epochs: passes over the slices, which give the steps otherwise.
        slices: how many there are to train on.
        batch_size: slices a step.
        rate, final: peak and final share of the learning rate, see `adam`.
        first_steps, first_final: of a first phase, see `adam`; 0 is none.
        name: of the flag of the steps; that of the passes is "epochs".

    Raises:
        RunError: more steps are done already, or the passes are no whole step.
    """

    def total(given, passes):
        return int(given or 0) or round(float(passes) * slices / batch_size)

    now = total(steps, epochs)
    if not now:
        raise RunError(
            f"--epochs={epochs:g} of {slices} slices, {batch_size} a step, are no "
            f"whole step; give more, or --{name}"
        )
    before = now
    if (run_dir / "flags.txt").exists():
        began_with = settings(run_dir)
        before = total(began_with.get(name), began_with.get("epochs", 0))
    newest = all_checkpoints(run_dir / "checkpoints")[:1]
    done = int(newest[0].name[len("ckpt-") :]) if newest else 0
    if now < done:
        raise RunError(
            f"{run_dir} has done {done} of {before} steps, and {now} are fewer; give "
            f"--{name}={done} or more, or choose another folder"
        )
    if now != before and done:
        first = {"first_steps": first_steps, "first_final": first_final}
        courses = {
            of: schedules.ConstantThenLinear(rate, of, final=final, **first)
            for of in (before, now)
        }
        rates = [float(courses[of](min(done, of))) for of in (before, now)]
        logging.info(
            "%s: %d steps in all, no longer %d; %d are done. The learning rate and all "
            "else that is a share of the steps go on as in a run of %d: the rate from "
            "%.3g (it was to be %.3g here) to %.3g at the end",
            *(run_dir, now, before, done, now, rates[1], rates[0]),
            float(courses[now](now)),
        )
    return now
