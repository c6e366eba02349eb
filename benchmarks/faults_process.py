"""Scripts as forks of a process that has imported everything, and what they leave."""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import os
import re
import runpy
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from brats_gan import (
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
from brats_gan.experiments import tables
from brats_gan.runs import process
from brats_gan.stages import dataset as stage3
from brats_gan.stages import multimodal as stage2
from brats_gan.stages import segmentation as stage4
from brats_gan.stages import structural as stage1

ROOT = Path(__file__).parents[1]
BEGIN, TRAINED, END = "begin", "trained", "end"
REACHED = 77  # exit code of a script that came to where it is to stop
LIMIT = 900  # seconds after which a script counts as hanging
STEPS = 3
_MUCH = 2**20  # characters of what a script says


class Said(NamedTuple):
    """How a script ended."""

    code: int | None  # minus a signal; None: it hung
    text: str
    seconds: float

    @property
    def digest(self) -> str:
        """Of what a script that was stopped had in its hands."""
        return "".join(re.findall(r"^digest: (\w+)$", self.text, re.M)[-1:])


def load() -> None:
    """Imports what takes long, and begins nothing: a fork would have half of it."""
    import tensorflow as tf

    vars(tf)
    for late in (
        *(addons, code_bank, figures, layers, networks, schedules, synthesis),
        *(manifest, multimodal, segmentation, structural, synthetic_dataset, tables),
        *(stage1, stage2, stage3, stage4),
    ):
        vars(late)
    manifest.PER_VOLUME = 2  # so that a data set has several


def start(
    script: str,
    flags: Iterable[str | bytes],
    stop: str = END,
    prepare: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Starts a script in a fork; its process id, and the pipe of what it says."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 70
    try:
        os.setsid()
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        code = _run(script, flags, stop, prepare)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _run(script, flags, stop, prepare):
    atexit._clear()  # of the parent
    for number in process.STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = (
        open(n, "w", buffering=1, errors="backslashreplace", closefd=False)
        for n in (1, 2)
    )
    logging.get_absl_handler().python_handler.stream = sys.stderr
    sys.argv = [str(ROOT / script), *map(os.fsdecode, flags)]
    _stop_at(stop)
    code = 0
    try:
        prepare()
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def _stop_at(stop):
    real_loop = runs.loop

    def loop(run_dir, train_step, batches, steps, objects, *others, **options):
        options |= {"log_every": 1}
        parts = [] if stop == END else [next(iter(batches(0)))]
        if stop == BEGIN:
            _reached([*parts, _values(objects)])
        real_loop(run_dir, train_step, batches, steps, objects, *others, **options)
        if stop == TRAINED and steps == STEPS:
            _reached([*parts, _values(objects)])

    def make_samples(settings, models, slices, output_dir, origin):
        import tensorflow as tf

        code = tf.constant(np.linspace(-1, 1, models.code_dim, dtype="f4")[None])
        f, background = models.structure(code)
        label = tf.zeros(f.shape[:3], tf.int32)
        style = None if models.styles is None else models.styles.mean[None]
        images = models.images(f, label, style)
        _reached([f, background, images, models.segment(images), slices.names])

    runs.loop = loop
    if stop != END:
        stage3.make_samples = make_samples


def _values(objects):
    return {name: [np.asarray(v) for v in o.variables] for name, o in objects.items()}


def _reached(parts):
    import tensorflow as tf

    digest = hashlib.blake2b(digest_size=16)
    for part in tf.nest.flatten(parts):
        digest.update(np.asarray(part).tobytes())
    print(f"\ndigest: {digest.hexdigest()}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(REACHED)


def wait(started: tuple[int, int], sent: tuple[float, int] | None = None) -> Said:
    """Waits for a script to end; `sent` is a signal, and after how many seconds."""
    child, reading = started
    began, said, status = time.monotonic(), b"", None
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_NONBLOCK)
    hung = False
    while status is None:
        select.select([reading], [], [], 0.05)
        said += _read(reading)
        passed = time.monotonic() - began
        if sent is not None and passed >= sent[0]:
            os.kill(child, sent[1])
            sent = None
        if passed > LIMIT and not hung:
            hung = True
            os.killpg(child, signal.SIGKILL)
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    said += _read(reading)
    os.close(reading)
    until = time.monotonic() + 60
    while _lives(child) and time.monotonic() < until:
        time.sleep(0.05)  # workers see that their parent has ended
    if _lives(child):
        os.killpg(child, signal.SIGKILL)
        said += b"\nTraceback: it left processes behind"
    text = said.decode(errors="backslashreplace")
    code = None if hung else os.waitstatus_to_exitcode(status)
    return Said(code, text[-_MUCH:], time.monotonic() - began)


def _read(descriptor):
    said = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except BlockingIOError:
            return said
        if not piece:
            return said
        said += piece


def _lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
