"""Runs a script again and again, and sends each process a signal at a chosen point.

    python killed.py POINT,POINT,... SCRIPT FLAGS

POINT is one of

    step:N:SIGNAL      as step N of the training loop begins
    save:N:SIGNAL      the same, with half of the newest checkpoint lost
    file:N:SIGNAL:DIR  as the Nth file in DIR is opened for writing or renamed
    end                no signal

Each process is a fork of this one, which has imported what takes long to import.
Prints "ended: " and the exit codes, minus the signal for those that were killed. Every
step is logged, a volume has two samples, and the clock of the loop counts what it does,
so that no outcome depends on how fast the machine is.
"""

import itertools
import os
import runpy
import signal
import sys
import types

import tensorflow as tf

from brats_gan import (  # noqa: F401 - imported before the first fork
    addons,
    code_bank,
    figures,
    layers,
    manifest,
    multimodal,
    networks,
    runs,
    schedules,
    segmentation,
    structural,
    synthesis,
    synthetic_dataset,
)
from brats_gan.experiments import tables  # noqa: F401

UNITS = 5  # of that clock, two a step: a checkpoint every third step


def stop_at_step(kind, number, name):
    real_loop = runs.loop

    def loop(run_dir, train_step, *arguments, **options):
        def watched(batch, seed):
            if int(seed[1]) == number:
                if kind == "save":
                    cut_newest(run_dir / "checkpoints")
                os.kill(os.getpid(), signal.Signals[name])
            return train_step(batch, seed)

        options |= {"log_every": 1, "checkpoint_seconds": UNITS}
        return real_loop(run_dir, watched, *arguments, **options)

    runs.training.time = types.SimpleNamespace(monotonic=itertools.count().__next__)
    runs.loop = loop


def cut_newest(folder):
    """Leaves half of the newest checkpoint, if it is not the only one."""
    if len(list(folder.glob("ckpt-*.index"))) > 1:
        path = f"{tf.train.latest_checkpoint(folder)}.data-00000-of-00001"
        os.truncate(path, os.stat(path).st_size // 2)


def stop_at_file(number, name, folder):
    passed = itertools.count()

    def watch(event, arguments):
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR) and not isinstance(path, int)
        else:
            path, writes = arguments[0] if arguments else "", event == "os.rename"
        if writes and os.fsdecode(path).startswith(folder) and next(passed) == number:
            os.kill(os.getpid(), signal.Signals[name])

    sys.addaudithook(watch)


def run(point, script, flags):
    kind, *where = point.split(":")
    if kind == "file":
        stop_at_file(int(where[0]), *where[1:])
    else:
        number, name = where or (-1, "SIGKILL")
        stop_at_step(kind, int(number), name)
    manifest.PER_VOLUME = 2
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


for late in (addons, code_bank, figures, layers, networks, schedules, synthesis):
    vars(late)  # brats_gan/lazy.py would have each process load them
points, script, *flags = sys.argv[1:]
codes = []
for point in points.split(","):
    child = os.fork()
    if not child:
        run(point, script, flags)
        sys.exit()
    _, status = os.waitpid(child, 0)
    codes.append(os.waitstatus_to_exitcode(status))
print("ended:", *codes)
