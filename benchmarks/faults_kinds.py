"""Every kind of fault, drawn from a seed: what it does, and what may come of it."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults_damages import DAMAGES, OFTEN, files_in
from benchmarks.faults_flags import all_flags
from benchmarks.faults_process import END, TRAINED
from benchmarks.faults_stages import STAGES, copy

SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGPIPE")
NOBODY = 65534
# Nothing that is computed depends on these; a changed letter in them cannot be told
# from what a run wrote, and is not looked for.
TO_READ = ("losses.jsonl", "results.jsonl", ".png", ".v2", ".lock", ".pb.txt")
TO_READ += (".html", "README.md", "progress.json")


def _nothing(*_: object) -> None:
    pass


@dataclass
class Case:
    """A fault in a stage.

    Attributes:
        kind: of KINDS.
        stage: a name of STAGES.
        what: is done, for people.
        spoil: does it to a copy of the undisturbed folders.
        fresh: whether what the stage writes is taken away first.
        flags: that the disturbed command gets beside its own, or None for no such.
        prepare: called in the process of the disturbed command, with the place.
        sent: (seconds, signal) for it.
        together: whether the command is started twice at a time.
        stop: how far the command is run afterwards.
        heals: whether it must then succeed.
        mends: whether it is run once more where it was refused, with the fault undone.
        valid: whether the disturbed command may be accepted as it is.
        touched: file, relative to the place, that the fault changes.
    """

    kind: str
    stage: str
    what: str
    spoil: Callable[[Path], object] = _nothing
    fresh: bool = False
    flags: list | None = None
    prepare: Callable[[Path], object] = _nothing
    sent: tuple[float, int] | None = None
    together: bool = False
    stop: str = END
    heals: bool = False
    mends: bool = False
    valid: bool = True
    touched: str = ""
    number: int = field(default=-1)


# --- Files ----------------------------------------------------------------------------


def _of(rng, stages, often):
    """One of the stages that are asked for, as often as it is in a list."""
    return rng.choice([stage for stage in often if stage in stages] or sorted(stages))


def _pick(rng, names):
    """A file of any folder, whichever folder has most of them."""
    folders = sorted({os.path.dirname(name) for name in names})
    folder = rng.choice(folders)
    return rng.choice([name for name in names if os.path.dirname(name) == folder])


def _spoiled(rng, name, without=()):
    often = (*OFTEN, *DAMAGES)
    damage = rng.choice([each for each in often if each not in without])
    seed = rng.random()

    def spoil(place):
        DAMAGES[damage](place / name, random.Random(seed), place)

    return f"{name} is {damage}", spoil


def own_files(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """A file of a finished run or data set is damaged; its command is started again."""
    stage = _of(
        rng,
        stages,
        ("structural",) * 3
        + ("dataset", "segmentation") * 3
        + ("multimodal", "convert"),
    )
    name = _pick(rng, list(files_in(whole, STAGES[stage].writes)))
    what, spoil = _spoiled(rng, name)
    stop = END
    if stage == "multimodal" or TRAINED in STAGES[stage].stops and rng.random() < 0.6:
        stop = TRAINED
    mends = rng.random() < 0.3
    return Case("own file", stage, what, spoil, stop=stop, mends=mends, touched=name)


def input_files(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """A file that a command reads is damaged."""
    stage = _of(
        rng,
        stages,
        ("structural", "multimodal", "convert", "check", "check", "begun")
        + ("dataset", "dataset of weights", "segmentation") * 2,
    )
    reads = list(STAGES[stage].reads)
    if len(reads) > 2 and rng.random() < 0.7:
        reads = reads[2:]  # other runs, rather than data
    names = list(files_in(whole, reads))
    if stage in ("begun", "dataset of weights"):
        names = [name for name in names if "/weights/" in name]
    name = _pick(rng, names)
    # Before anything was made of it, a file in the place of another is just data.
    data = name.startswith("data/") and stage in ("structural", "convert", "check")
    what, spoil = _spoiled(rng, name, without=("swapped",) if data else ())
    stop = STAGES[stage].stops[0]
    mends = rng.random() < 0.3
    return Case(
        *("input file", stage, what, spoil, True),
        stop=stop,
        mends=mends,
        touched=name,
    )


_FOREIGN = (
    "notes.txt",
    ".DS_Store",
    "Thumbs.db",
    "x.json",
    "x_t1.nii.gz",
    "x/x_seg.nii.gz",
    "ckpt-9.index",
    "ckpt-9.data-00000-of-00001",
    "events.out.tfevents.1.x.1.0.v2",
    "x.npz",
    "flags.txt",
    "é\udcff.txt",
    "split.json",
    "manifest.csv",
    ".x.0123456789abcdef.part",
    "weights.json",
    "slices-0/x.npy",
    "x.jsonl",
)


def foreign(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """Something that is not ours lies in a folder."""
    stage = _of(
        rng,
        stages,
        ("structural", "dataset", "segmentation", "convert", "check", "begun")
        + ("structural", "dataset of weights", "multimodal"),
    )
    tops = STAGES[stage].reads + STAGES[stage].writes
    folders = sorted({os.path.dirname(name) or "." for name in files_in(whole, tops)})
    name = f"{rng.choice(folders)}/{rng.choice(_FOREIGN)}"
    content = rng.choice((b"", b"text\n", rng.randbytes(200), b"{}", None))

    def spoil(place):
        path = place / name
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.symlink_to("nowhere")
        else:
            path.write_bytes(content)

    stop = STAGES[stage].stops[0] if rng.random() < 0.7 else STAGES[stage].stops[-1]
    if stage == "multimodal" and stop == END:
        stop = TRAINED
    shown = "a dangling link" if content is None else f"{len(content)} bytes"
    what = f"{name!a} of {shown} is there"
    return Case("foreign file", stage, what, spoil, stop=stop, mends=True, touched=name)


# --- Processes ------------------------------------------------------------------------


def _at_file(number, name, after):
    """Kills the process as it opens or renames for the nth time in the place."""

    def prepare(place):
        passed = iter(range(10**9))
        folder = str(place)

        def watch(event, arguments):
            if event not in ("open", "os.rename", "os.mkdir", "os.remove"):
                return
            path = arguments[0] if arguments else ""
            if isinstance(path, int) or path is None:
                return
            if os.fsdecode(path).startswith(folder) and next(passed) == number:
                os.kill(os.getpid(), getattr(signal, name))

        sys.addaudithook(watch)

    return prepare


# How often each command opens or changes a file, and how long it takes at most.
_EVENTS = {
    "structural": 130,
    "multimodal": 150,
    "dataset": 150,
    "segmentation": 160,
    "convert": 90,
    "phantom": 20,
    "check": 60,
}


def kills(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """A signal at a random moment; then the command again, to the same end."""
    stage = _of(
        rng,
        stages,
        ("structural", "dataset", "segmentation", "convert") * 3
        + ("multimodal", "phantom", "check"),
    )
    name = rng.choice(SIGNALS)
    stop = TRAINED if stage == "multimodal" else END
    common = {"fresh": True, "flags": [], "stop": stop, "heals": True}
    if rng.random() < 0.6:
        number = rng.randrange(_EVENTS[stage])
        what = f"{name} as it is at its file {number}"
        prepare = _at_file(number, name, whole)
        return Case("kill", stage, what, prepare=prepare, **common)
    after = round(rng.random() * 12, 2)
    sent = after, getattr(signal, name)
    return Case("kill", stage, f"{name} after {after} s", sent=sent, **common)


_OF_ALL = ("structural", "dataset", "segmentation", "convert", "check")


def full_disk(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """No file may be longer than a limit; then there is room again."""
    stage = _of(
        rng, stages, ("structural", "dataset", "segmentation", "convert", "phantom")
    )
    limit = int(10 ** rng.uniform(0, 6))

    def prepare(place):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    what = f"no file may have more than {limit} bytes"
    return Case(
        *("full disk", stage, what),
        fresh=True,
        flags=[],
        prepare=prepare,
        heals=True,
    )


def together(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """Two processes with the same command, at the same time."""
    stage = _of(rng, stages, _OF_ALL)
    return Case(
        *("two at a time", stage, "the command is started twice"),
        fresh=True,
        flags=[],
        together=True,
        heals=True,
    )


def rights(rng: random.Random, whole: Path, stages: set[str]) -> Case:
    """A folder may not be written, or not be read, by the user of the command."""
    stage = _of(rng, stages, _OF_ALL)
    tops = STAGES[stage].reads + STAGES[stage].writes
    top = rng.choice([top for top in tops if (whole / top).is_dir()])
    mode = rng.choice((0o555, 0o000, 0o311))
    ours = rng.random() < 0.5
    fresh = rng.random() < 0.5

    def spoil(place):
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        if (place / top).exists():
            if not ours:
                os.chown(place / top, 0, 0)
            (place / top).chmod(mode)

    def prepare(place):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.environ["HOME"] = str(place)

    what = f"{top} has the mode {mode:o} and is of {'the' if ours else 'another'} user"
    return Case(
        *("rights", stage, what, spoil, fresh),
        flags=[],
        prepare=prepare,
        stop=STAGES[stage].stops[0],
        heals=True,
    )


def bad_flags(rng: random.Random, every: list) -> Case:
    """A flag with a value it should not have, in a fresh folder."""
    stage, name, value, valid = every.pop()
    prefix = f"--{name}="
    if isinstance(value, bytes):
        given = prefix.encode() + value
    else:
        given = prefix + value

    def spoil(place):
        (place / "file").write_text("text\n")
        os.mkfifo(place / "pipe")

    return Case(
        *("flag", stage, f"{given!a}", spoil, True, [given]),
        stop=STAGES[stage].stops[0],
        heals=True,
        valid=valid,
    )


# Kind -> (what draws it, its share).
KINDS: dict[str, tuple[Callable[..., Case], int]] = {
    "flag": (bad_flags, 17),
    "own file": (own_files, 8),
    "input file": (input_files, 8),
    "foreign file": (foreign, 4),
    "kill": (kills, 5),
    "full disk": (full_disk, 2),
    "two at a time": (together, 1),
    "rights": (rights, 2),
}


def cases(
    seed: int, count: int, whole: Path, kinds: list[str], stages: set[str]
) -> list[Case]:
    """All cases of a seed, in an order that has every kind from the beginning."""
    drawn = random.Random(seed)
    every = []
    made, owed = [], dict.fromkeys(KINDS, 0.0)
    total = sum(share for _, share in KINDS.values())
    while len(made) < count:
        for kind, (_, share) in KINDS.items():
            owed[kind] += share / total
        kind = max(owed, key=owed.__getitem__)
        owed[kind] -= 1
        rng = random.Random(f"{seed}-{len(made)}")
        if kind == "flag":
            if not every:
                every = [each for each in all_flags() if each[0] in stages]
                drawn.shuffle(every)
            case = bad_flags(rng, every)
        else:
            case = KINDS[kind][0](rng, whole, stages)
        case.number = len(made)
        made.append(case)
    return [case for case in made if case.kind in kinds]


def undo(case: Case, whole: Path, place: Path) -> None:
    """Puts back what a fault has damaged, or takes away what it has added."""
    path = place / case.touched
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()
    stage = STAGES[case.stage]
    if case.what.endswith("swapped"):  # with which other one is not known here
        for top in stage.reads + (() if case.fresh else stage.writes):
            if (place / top).is_dir():
                shutil.rmtree(place / top)
            copy(whole, place, [top])
    elif (whole / case.touched).exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(whole / case.touched, path)
