"""RUN/networks.json: what networks a run trains, and from which weights it began."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brats_gan import files, runs
from brats_gan.data import record_forms
from brats_gan.weights.stored import BUILDERS


def begun(run_dir: str | Path) -> dict[str, Any]:
    """What RUN/networks.json says; {} where no run has begun.

    Raises:
        RunError, DataError: it is damaged.
    """
    path = Path(run_dir, "networks.json")
    if not path.exists():
        if not _began_with_networks(run_dir):
            return {}
        what = "is gone, which says what"
    else:
        description = files.unsealed(files.read_json(path))
        if description is not None and _is_whole(description):
            return description
        what = "was changed since"
    raise runs.RunError(
        f"{path} {what} {run_dir} began{' with' * (not path.exists())}; put it back "
        "from a copy, or begin anew in another folder"
    )


def _began_with_networks(run_dir):
    """Whether a run that has begun wrote a networks.json, as older versions did not.

    Its checkpoints say whose they are then; or it began from weights.
    """
    newest = runs.newest_checkpoint(run_dir)
    if newest is None:
        return False
    return runs.identity(newest[0]) is not None or "init_from" in runs.settings(run_dir)


def _is_whole(description):
    """Whether networks.json has what is read of it, in the form it is written in."""
    return (
        description.get("stage") in [*BUILDERS]
        and isinstance(description.get("build"), dict)
        and isinstance(description.get("first_steps", 0), int)
        and record_forms.odd(description) is None
    )


def record(run_dir: Path, description: Mapping[str, Any]) -> None:
    """Writes RUN/networks.json: what `begin` returned."""
    files.write_json(run_dir / "networks.json", files.sealed(description))
