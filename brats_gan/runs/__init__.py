"""Run folders, the training loop, checkpoints and exports. Knows nothing of the method.

A run folder holds flags.txt, inputs.json, split.json, losses.jsonl, tensorboard/,
checkpoints/ and export/. Starting the same command again continues it. One process at a
time: it holds a lock on the folder until it ends, however it ends.
"""

from brats_gan.runs.checkpoints import (
    has_begun,
    identity,
    newest_checkpoint,
    require_of,
    restore,
    save,
)
from brats_gan.runs.exports import (
    export,
    export_description,
    export_fingerprint,
    load_export,
    made_by,
    require_endpoint,
    revision,
)
from brats_gan.runs.folder import (
    COMPARED,
    LENGTH,
    PLACES,
    Command,
    command,
    command_by,
    command_of,
    key_flags,
    lasting,
    read_flags,
    require_startable,
    settings,
    start,
)
from brats_gan.runs.lengths import total_steps
from brats_gan.runs.locks import LOCK, release
from brats_gan.runs.optimizers import adam, update
from brats_gan.runs.process import (
    EXIT_BAD_INPUT,
    EXIT_START_AGAIN,
    RunError,
    Stopped,
    cores_of,
    hold_to_cores,
    main,
    parse_flags,
    set_up,
    share_cores,
    threads_of_share,
)
from brats_gan.runs.strategies import (
    NONE,
    STRATEGIES,
    Team,
    WorkerLost,
    gather,
)
from brats_gan.runs.training import (
    CHECKPOINT_SECONDS,
    loop,
    per_call,
    seconds_logged,
    seconds_of,
)

__all__ = [
    "CHECKPOINT_SECONDS",
    "COMPARED",
    "EXIT_BAD_INPUT",
    "EXIT_START_AGAIN",
    "LENGTH",
    "LOCK",
    "NONE",
    "PLACES",
    "Command",
    "STRATEGIES",
    "RunError",
    "Stopped",
    "Team",
    "WorkerLost",
    "adam",
    "command",
    "command_by",
    "command_of",
    "cores_of",
    "export",
    "export_description",
    "export_fingerprint",
    "gather",
    "has_begun",
    "hold_to_cores",
    "identity",
    "key_flags",
    "lasting",
    "load_export",
    "loop",
    "made_by",
    "main",
    "newest_checkpoint",
    "parse_flags",
    "per_call",
    "read_flags",
    "release",
    "require_endpoint",
    "require_of",
    "require_startable",
    "restore",
    "revision",
    "save",
    "seconds_logged",
    "seconds_of",
    "set_up",
    "settings",
    "share_cores",
    "start",
    "threads_of_share",
    "total_steps",
    "update",
]
