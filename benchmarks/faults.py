"""Injects faults into all scripts, and says what became of each.

    python -m benchmarks.faults [--seed=N] [--cases=N] [--kinds=KIND,...] [--only=N]

Signals at random moments, damaged and foreign files, bad values of flags, full disks,
two processes at a time, rights. Then the same command is started again, and what comes
of it is compared with an undisturbed run: it is *the same result*, or *a clear error*
that names a file or a flag. A *traceback*, a *wrong success*, an error that says
neither (*unclear*) and the right command refused afterwards (*stuck*) end this with
exit code 1, and are shown with what reproduces them. While the file of --pause exists,
no case begins.
"""

import argparse
import collections
import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import faults_kinds, faults_process, faults_stages
from benchmarks.faults_process import END, REACHED, Said
from benchmarks.faults_stages import MADE, STAGES
from tests import nifti

OUTCOMES = (
    *("same result", "clear error"),
    *("traceback", "wrong success", "unclear", "stuck"),
)
GOOD = OUTCOMES[:2]
_TRACE = re.compile(
    r"Traceback|^Exception ignored|Fatal Python error|core dumped|Check failed", re.M
)
_NAMED = re.compile(r"(--\w+|/\w+|flag |x{250}|\\udc)")  # or the path that was given
_SENTENCE = re.compile(r"^(error: |FATAL Flags|.*Error: |.* needs --)", re.M)


def whole_runs(folder: Path, stages: set[str]) -> None:
    """Makes the undisturbed runs of stages, as far as a folder has them not yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        for number in range(3):
            nifti.write_subject(
                *(folder / "data", f"s{number}", (160, 160, 6), number), labels=(2, 4)
            )
    (folder / "thin.json").write_text(json.dumps(faults_stages.THIN))
    for stage in MADE:
        made = folder / f".{stage}.made"
        if stage in stages and not made.exists():
            said = run(stage, folder)
            if said.code != 0:  # None: it hung
                raise SystemExit(f"the undisturbed {stage} failed:\n{said.text}")
            _say(f"undisturbed: {stage}, {said.seconds:.0f} s")
            made.touch()


def run(stage, place, stop=END, more=(), prepare=None, sent=None) -> Said:
    """Runs the command of a stage to its end, or to where it is to stop."""
    given = STAGES[stage]
    prepare = prepare or (lambda place: None)
    more = [x.replace("{}", str(place)) if isinstance(x, str) else x for x in more]
    started = faults_process.start(
        given.script, [*given.flags_in(place), *more], stop, lambda: prepare(place)
    )
    return faults_process.wait(started, sent)


def expected(stage: str, stop: str, whole: Path) -> object:
    """What an undisturbed command comes to: a digest, or what it leaves."""
    if stop == END and stage in MADE:
        return faults_stages.state(whole, STAGES[stage].writes)
    kept = whole / f".{stage} {stop}.json"
    if not kept.exists():
        with place_of(stage, whole, fresh=True) as place:
            said = run(stage, place, stop)
            if said.code not in (0, REACHED):
                raise SystemExit(f"the undisturbed {stage} failed:\n{said.text}")
            kept.write_text(json.dumps(_found(stage, stop, place, said)))
    return json.loads(kept.read_text())


def _found(stage, stop, place, said):
    if stop != END:
        return said.digest
    if stage == "check":  # how far it is may be said before and after
        report = said.text[said.text.index("{") :].replace(str(place), "")
        return json.JSONDecoder().raw_decode(report)[0]
    if stage == "cache":
        return said.text.replace(str(place), "")
    return faults_stages.state(place, STAGES[stage].writes)


@contextlib.contextmanager
def place_of(stage: str, whole: Path, fresh: bool) -> Iterator[Path]:
    """A copy of what a stage reads, and unless it is fresh of what it has written."""
    place = Path(tempfile.mkdtemp(prefix="faults-"))
    place.chmod(0o755)
    try:
        given = STAGES[stage]
        names = given.reads if fresh else given.reads + given.writes
        faults_stages.copy(whole, place, names)
        yield place
    finally:
        for path in (place, *place.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(place)


class Judge:
    """What became of a case, by all that was said and left."""

    def __init__(self, case, whole, place):
        self.case, self.whole, self.place = case, whole, place
        self.said = []

    def run(self, **options) -> Said:
        """Runs the command of the case once, and keeps what it says."""
        said = run(self.case.stage, self.place, **options)
        self.said.append(said)
        return said

    def broken(self, said: Said) -> str | None:
        """The bad outcome that a process is by itself, if it is one."""
        if said.code is None or _TRACE.search(said.text):
            return "traceback"
        if said.code < 0:  # of a signal, before the script could act on it
            return None if self.case.kind == "kill" else "traceback"
        if said.code in (0, REACHED):
            return None
        if said.code in (129, 130, 141, 143, 85):
            return None if "stopped by" in said.text else "unclear"
        if said.code == 1 and self.case.stage == "check" and said.text.strip():
            return None
        last = said.text[-3000:]
        found = _SENTENCE.search(last)
        if not found or not _NAMED.search(last[found.start() :]):
            return "unclear"
        return None

    def ended(self, said: Said, stop: str) -> str:
        """The outcome of a command that nothing disturbs any more."""
        bad = self.broken(said)
        if bad:
            return bad
        if said.code not in (0, REACHED):
            return "clear error"
        found = _found(self.case.stage, stop, self.place, said)
        right = expected(self.case.stage, stop, self.whole)
        if found == right:
            return "same result"
        if isinstance(found, dict):
            differ = faults_stages.differences(found, right)
            name = os.path.normpath(self.case.touched)
            if name.endswith(faults_kinds.TO_READ):  # it is as the fault left it
                differ = [x for x in differ if not x.endswith(faults_kinds.TO_READ)]
            elif self.case.kind == "foreign file":
                differ = [each for each in differ if each != name]
            if not differ:
                return "same result"
            self.said.append(Said(0, f"differ: {differ}", 0))
        return "wrong success"


def outcome(case: faults_kinds.Case, whole: Path) -> tuple[str, list[Said]]:
    """Runs a case; what became of it, and what was said."""
    with place_of(case.stage, whole, case.fresh) as place:
        judge = Judge(case, whole, place)
        case.spoil(place)
        if case.together:
            given = STAGES[case.stage]
            pair = [
                faults_process.start(given.script, given.flags_in(place))
                for _ in range(2)
            ]
            judge.said += [faults_process.wait(each) for each in pair]
        elif case.flags is not None:
            stop = case.stop if case.kind in ("flag", "rights") else END
            if case.stage == "multimodal":
                stop = case.stop
            judge.run(stop=stop, more=case.flags, prepare=case.prepare, sent=case.sent)
        for said in judge.said:
            bad = judge.broken(said)
            if bad:
                return bad, judge.said
        if case.kind == "flag":
            return _of_flag(case, judge, place)
        if case.kind == "rights":
            for path in (place, *place.rglob("*")):
                os.chown(path, 0, 0, follow_symlinks=False)
                if path.is_dir():
                    path.chmod(0o755)
        now = judge.ended(judge.run(stop=case.stop), case.stop)
        if now == "clear error" and case.heals:
            return "stuck", judge.said
        if now == "clear error" and case.mends:
            faults_kinds.undo(case, whole, place)
            healed = judge.ended(judge.run(stop=case.stop), case.stop)
            return (now if healed == "same result" else "stuck"), judge.said
        return now, judge.said


def _of_flag(case, judge, place):
    said = judge.said[0]
    if said.code in (0, REACHED):
        return ("same result" if case.valid else "wrong success"), judge.said
    if case.stage == "check" and said.code == 1 and "error" not in said.text.lower():
        return "unclear", judge.said
    left = [name for name in STAGES[case.stage].writes if (place / name).exists()]
    if not left:
        return "clear error", judge.said
    again = judge.ended(judge.run(stop=case.stop), case.stop)
    return ("clear error" if again == "same result" else "stuck"), judge.said


# --- All of them ----------------------------------------------------------------------


def _say(text):
    print(text, flush=True)


def work(options: argparse.Namespace, cases: list, whole: Path, pipe: int) -> None:
    """Runs cases one by one, and writes a line about each."""
    until = time.monotonic() + 60 * options.minutes
    for case in cases:
        while options.pause and Path(options.pause).exists():
            time.sleep(1)
        if time.monotonic() > until:
            break
        began = time.monotonic()
        found, said = outcome(case, whole)
        line = {
            **{"number": case.number, "kind": case.kind, "stage": case.stage},
            **{"what": case.what, "outcome": found},
            "seconds": round(time.monotonic() - began, 1),
            "codes": [each.code for each in said],
            "said": [each.text[-2500:] for each in said],
        }
        with (whole / ".lock").open("a") as alone:  # longer than a pipe takes at once
            fcntl.flock(alone, fcntl.LOCK_EX)
            rest = memoryview((json.dumps(line) + "\n").encode())
            while rest:
                rest = rest[os.write(pipe, rest) :]


def results(options: argparse.Namespace, cases: list, whole: Path) -> Iterator[dict]:
    """A line of every case, as they end."""
    reading, writing = os.pipe()
    workers = []
    for number in range(options.jobs):
        child = os.fork()
        if not child:
            os.close(reading)
            code = 1
            try:
                work(options, cases[number :: options.jobs], whole, writing)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        workers.append(child)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        yield from map(json.loads, lines)
    codes = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in workers]
    if any(codes):
        raise SystemExit(f"a worker of this benchmark failed: {codes}")


def table(counts: dict) -> str:
    """Kind x outcome, in Markdown."""
    lines = [f"| kind | cases | {' | '.join(OUTCOMES)} |", "|---" * 8 + "|"]
    for kind in (*faults_kinds.KINDS, "all"):
        of_kind = [
            sum(n for (k, o), n in counts.items() if o == each and kind in (k, "all"))
            for each in OUTCOMES
        ]
        if sum(of_kind):
            cells = " | ".join(map(str, (sum(of_kind), *of_kind)))
            lines.append(f"| {kind} | {cells} |")
    return "\n".join(lines)


def main() -> int:
    began = time.monotonic()
    options = parsed()
    os.environ.update(TF_ENABLE_ONEDNN_OPTS="0", TF_CPP_MIN_LOG_LEVEL="3")
    os.environ["PYTHONPATH"] = str(faults_process.ROOT)
    faults_process.load()
    with contextlib.ExitStack() as stack:
        whole = options.whole or stack.enter_context(tempfile.TemporaryDirectory())
        whole_runs(Path(whole), faults_stages.needed(options.stages))
        return inject(options, Path(whole), began)


def parsed() -> argparse.Namespace:
    """Not by absl: its flags would be those of the scripts as well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--cases", type=int, default=400, help="how many")
    parser.add_argument(
        "--kinds", default=",".join(faults_kinds.KINDS), help="of faults"
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="that are disturbed")
    parser.add_argument("--only", default="", help="numbers of cases")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--whole", help="folder that keeps the undisturbed runs")
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="after which no case begins"
    )
    parser.add_argument("--pause", help="a file: while it exists, no case begins")
    parser.add_argument("--log", help="file that gets a line of JSON a case")
    options = parser.parse_args()
    options.kinds = options.kinds.split(",")
    options.stages = {*options.stages.split(",")}
    options.only = [int(number) for number in options.only.split(",") if number]
    unknown = {*options.kinds} - {*faults_kinds.KINDS} | options.stages - {*STAGES}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    return options


def inject(options: argparse.Namespace, whole: Path, began: float) -> int:
    """Runs all cases that are asked for, and says what became of them."""
    count = max(options.cases, *(n + 1 for n in options.only), 0)
    cases = faults_kinds.cases(
        options.seed, count, whole, options.kinds, options.stages
    )
    if options.only:
        cases = [case for case in cases if case.number in options.only]
    counts, bad = collections.Counter(), 0
    first = time.monotonic()
    for done, line in enumerate(results(options, cases, whole), 1):
        counts[line["kind"], line["outcome"]] += 1
        left = (time.monotonic() - first) / done * (len(cases) - done)
        shown = f"{line['number']}: {line['stage']}: {line['what']}: {line['outcome']}"
        _say(f"{done} of {len(cases)}, {left / 60:.0f} min to go; {shown}")
        if line["outcome"] not in GOOD:  # at once: this may be stopped
            bad += 1
            _say(f"\n{line['outcome']}: --seed={options.seed} --only={line['number']}")
            _say(f"{line['stage']}: {line['what']}; exit codes {line['codes']}")
            _say("\n".join([*line["said"], ""]))
        if options.log:
            with open(options.log, "a") as file:
                file.write(json.dumps(line) + "\n")
    total = sum(counts.values())
    _say(f"\n{total} cases in {time.monotonic() - began:.0f} s\n\n{table(counts)}")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main())
