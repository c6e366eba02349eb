"""The report of a run: of stage 1, 2 or 4, finished or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from brats_gan import progress, runs
from brats_gan.report import curves, scores
from brats_gan.report import sections as shared
from brats_gan.report.blocks import Curves, Section, Table, Text
from brats_gan.runs import games

PROGRESS = "progress.json"  # how far a run is, for its report
SHEET = "sheet.png"  # the newest sheet, while a run goes on

_WHAT = {
    "train_structural.py": (
        "Stage 1",
        "A VAE-GAN that learns structural maps: which lines of a slice are edges, and "
        "which part of it is outside the brain (Section 2.3 of the paper). From noise "
        "it makes maps that no subject has.",
    ),
    "train_multimodal.py": (
        "Stage 2",
        "A generator that turns one structural map and one label of lesions into "
        "registered slices of all contrasts, and segmentors that find the lesions "
        "(Sections 2.4 to 2.6 of the paper).",
    ),
    "eval_segmentation.py": (
        "Stage 4",
        "Segmentors trained on real slices, on synthetic ones or on both, and scored "
        "on subjects that no stage has seen (Sections 2.7 and 3 of the paper).",
    ),
}
# Pictures of a run: file, caption, what is to be seen for those who do not.
_SHEETS = (
    (
        "maps.png",
        "Maps, real ones rebuilt and generated ones with their masks",
        "Rows of slices: x the real slice, f its structural map, f_r the map rebuilt, "
        "mask its background, f_g a generated map, mask_g its mask, m' what Algorithm "
        "3 finds of it",
    ),
    (
        "generated.png",
        "Slices made from maps of real ones and labels placed in them",
        "Rows of one map each: the map f, the label, a slice in every contrast, and "
        "the label that a segmentor finds in the last of them",
    ),
    (
        "translations.png",
        "Real slices, rebuilt, translated to every contrast and back",
        "A row for each contrast: the real slice x, rebuilt as x_r, translated to each "
        "contrast, and translated back",
    ),
    (
        "segmentation.png",
        "Held-out slices with their lesions as labelled and as found",
        "Rows of held-out slices: every contrast, the label, and the label predicted",
    ),
)


class Run(NamedTuple):
    """What the files of a run say of it."""

    folder: Path
    script: str  # that made it
    lines: dict[str, str]  # flags: name -> line of a flagfile
    flags: dict[str, str]  # the same: name -> text
    log: curves.Log
    progress: dict[str, Any]  # PROGRESS, or what stands for it

    @property
    def what(self) -> str:
        """Which stage it is."""
        return _WHAT.get(self.script, (f"A run of {self.script}",))[0]

    @property
    def state(self) -> str:
        """How far it is, a sentence."""
        done, total = self.progress["done"], self.progress["total"]
        unit = self.progress["unit"]
        if not total:
            return f"{done} {unit}s are done."
        if done >= total and self.progress["finished"]:
            return f"Finished: {total} {unit}s."
        return (
            f"Not finished: {done} of {total} {unit}s are done when this is written. "
            f"Start the same command again to go on, or {self.script} "
            "--flagfile=flags.txt with the flags.txt of this folder."
        )


def read(folder: Path) -> Run:
    """Reads a run.

    Raises:
        RunError: its flags.txt is damaged.
    """
    script, lines = runs.read_flags(folder / "flags.txt")
    flags = runs.settings(folder)
    log = curves.read(folder / "losses.jsonl")
    return Run(folder, script, lines, flags, log, _progress(folder, flags, log))


def _progress(folder, flags, log):
    """progress.json; of runs that have none, what the other files say."""
    known = {
        "unit": "step",
        "total": 0,
        "done": log.steps,
        "finished": False,
        "ended_by": "",
        "peak_memory": None,
    }
    said, _ = shared.read_json(folder / PROGRESS)
    if said is not None:
        given = {k: v for k, v in said.items() if isinstance(v, type(known.get(k, v)))}
        known |= {k: v for k, v in given.items() if k in known and k != "peak_memory"}
        if isinstance(said.get("peak_memory"), int):
            known["peak_memory"] = said["peak_memory"]
        if known["unit"] == "step":
            known["done"] = max(known["done"], log.steps)
        return known
    if flags.get("table") or flags.get("experiment"):
        there = len([*folder.glob("row-*/repeat-*/losses.jsonl")])
        return known | {"unit": "repeat", "done": there}
    weights, _ = shared.read_json(folder / "weights/weights.json")
    steps = (weights or {}).get("steps")
    if isinstance(steps, int):
        known |= {"total": steps, "finished": log.steps >= steps}
    elif (flags.get("steps") or flags.get("iterations") or "").isdigit():
        known["total"] = int(flags.get("steps") or flags["iterations"])
    return known


def content(
    run: Run, defaults: Mapping[str, str]
) -> tuple[str, list[Any], list[Section]]:
    """(title, lead, sections) of the report of a run.

    Args:
        run: of `read`.
        defaults: {flag: line} of the script's defaults.
    """
    folder = run.folder
    about = _WHAT.get(run.script, ("", f"A run of {run.script}."))[1]
    lead = [Text(about), Text(run.state)]
    if run.flags.get("init_from"):
        begun = f"Its networks began from the weights of {run.flags['init_from']}."
        lead.append(Text(begun))
    lead += [Text(said, True) for said in warnings(run)]
    sections = [
        Section("Sheets", sheets(run)),
        *(
            scores.of_results(folder, run.flags)
            if run.script == "eval_segmentation.py"
            else []
        ),
        scores.of_scoreboard(folder),
        _losses(run),
        Section("Games", _games(run)),
        shared.of_flags(run.lines, defaults),
        shared.of_subjects(folder),
        Section("Time and memory", cost(run)),
        *shared.of_use(),
    ]
    return f"{run.what}: {folder.resolve().name}", lead, sections


def warnings(run: Run) -> list[str]:
    """What should worry who reads it, a sentence each."""
    ended = run.progress["ended_by"]
    found = [f"It ended early: {ended}"] if ended else []
    found += [run.log.problem] if run.log.problem else []
    for name, mean, count in _accuracies(run.log):
        if mean >= games.WON:
            found.append(
                f"{name} was right {100 * mean:.0f} % of the time in the last {count} "
                "lines of the log: it has won and teaches nothing any more. Make it "
                f"harder for {name}: more noise on what it sees, a smaller weight of "
                "its losses, or a narrower network."
            )
    return found


def sheets(run: Run) -> list[Any]:
    """The pictures that the run has left; of one that goes on, its newest sheet."""
    found = [
        block
        for name, caption, alt in _SHEETS
        for block in shared.picture(run.folder / name, caption, alt)
    ]
    if found and run.progress["finished"]:
        return found
    alt = "The columns and rows of the sheet that the run leaves at its end"
    newest = shared.picture(run.folder / SHEET, "The newest sheet", alt)
    return newest or found


def _losses(run):
    logs, title = {run.folder.name: run.log}, "Loss curves"
    if not run.log.values:
        logs = {
            path.parent.relative_to(run.folder).as_posix(): curves.read(path)
            for path in sorted(run.folder.glob("row-*/repeat-*/losses.jsonl"))[:12]
        }
    names = curves.shown(list(logs.values()))
    if not names:
        return Section(title, [Text("Nothing is logged yet.")])
    legend = list(logs) if len(logs) > 1 else []
    head, rows = curves.last_values(logs, names)
    return Section(
        title,
        [
            Curves(curves.panels(list(logs.values()), names), legend),
            Table("The curves in numbers", head, rows, True),
        ],
    )


def _accuracies(log):
    """(discriminator, mean accuracy, lines) of the last games.STEPS steps."""
    found = []
    for name, points in log.values.items():
        if name.startswith(games.PREFIX):
            recent = [v for step, v in points if step > log.steps - games.STEPS]
            if recent:
                mean = sum(recent) / len(recent)
                found.append((name.removeprefix(games.PREFIX), mean, len(recent)))
    return sorted(found)


def _games(run):
    rows = []
    for name, mean, count in _accuracies(run.log):
        if mean >= games.WON:
            said = "won: it teaches nothing any more"
        elif mean < 0.55:
            said = "cannot tell generated from real"
        else:
            said = "open"
        rows.append([name, f"{mean:.3f}", str(count), said])
    if not rows:
        return []
    head = ["discriminator", "share right", "lines of the log", "the game is"]
    return [
        Table(
            f"How often discriminators were right, last {games.STEPS} steps", head, rows
        )
    ]


def cost(run: Run) -> list[Any]:
    """How long it took, and how much memory."""
    rows = []
    inner = sorted(run.folder.glob("row-*/repeat-*/losses.jsonl"))
    logs = [curves.read(path) for path in inner] or [run.log]
    seconds = sum(log.seconds for log in logs)
    if seconds > 0:
        rows.append(["trained for", progress.duration(seconds)])
        if run.log.steps:
            rows.append(["seconds a step", f"{seconds / run.log.steps:.3g}"])
    if run.progress["peak_memory"]:
        gib = run.progress["peak_memory"] / 2**30
        rows.append(["most memory of the process", f"{gib:.2f} GiB, that of a GPU not"])
    if run.flags.get("precision"):
        rows.append(["precision", run.flags["precision"]])
    said = "Over all processes that took part, by the clock of losses.jsonl"
    return [Table(said, ["", ""], rows)] if rows else []
