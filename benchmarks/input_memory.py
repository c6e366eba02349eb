"""Memory of a process that streams 10 and 100 subjects to stage 2.

    python -m benchmarks.input_memory

Decodes every subject of a phantom into a cache folder, then reads batches of stage 2
until each slice has come once. A process of its own for each count says its resident
memory at the end and at its highest, and the seconds of a sample once all is decoded.
Prints a table and, last, a line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

from benchmarks import rig
from brats_gan import data, files, io, phantom, spec

_DATA = flags.DEFINE_string("data_dir", None, "BraTS folder; a phantom if unset.")
_COUNTS = flags.DEFINE_list("counts", ["10", "100"], "Subjects to stream.")
_SIZE = flags.DEFINE_integer("image_size", spec.BRATS.crop, "Pixels a side.")
_BATCH = flags.DEFINE_integer("batch_size", 4, "Slices of each stream a batch.")
_CACHE = flags.DEFINE_string("cache_dir", None, "Decoded slices; default: removed.")
_STREAM = flags.DEFINE_integer("stream", 0, "Only this count, in this process.")


def stream(folder, count):
    """Reads `count` subjects in this process: memory, and seconds of a sample."""
    subjects = io.find_subjects(folder)[:count]
    if len(subjects) < count:
        raise files.DataError(f"{folder}: {len(subjects)} subjects of {count}")
    slices = data.Slices(subjects, _SIZE.value, cache_dir=_CACHE.value)
    steps = len(slices) // _BATCH.value
    begin = time.perf_counter()
    for batch in data.multimodal_batches(slices, _BATCH.value, 0).take(steps):
        batch["x"].numpy()
    return {
        "resident_mb": round(rig.resident_mb(), 1),
        "peak_mb": round(rig.peak_mb(), 1),
        "seconds": (time.perf_counter() - begin) / (steps * _BATCH.value),
    }


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.ERROR)
    if _STREAM.value:
        print(json.dumps(stream(_DATA.value, _STREAM.value)))
        return
    counts = [int(count) for count in _COUNTS.value]
    with tempfile.TemporaryDirectory() as scratch:
        folder = _DATA.value or scratch
        if not _DATA.value:
            phantom.write_subjects(scratch, max(counts))
        used = {}
        for count in counts:
            command = [sys.executable, "-m", "benchmarks.input_memory"]
            command += [f"--data_dir={folder}", f"--stream={count}"]
            command += [f"--cache_dir={_CACHE.value or f'{scratch}/cache/{count}'}"]
            command += [f"--image_size={_SIZE.value}", f"--batch_size={_BATCH.value}"]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            )
            used[count] = json.loads(done.stdout.splitlines()[-1])
    print("| subjects | resident, MB | highest, MB | s a sample |\n|---|---|---|---|")
    for count, figures in used.items():
        memory = f"{figures['resident_mb']} | {figures['peak_mb']}"
        print(f"| {count} | {memory} | {figures['seconds']:.5f} |")
    few, many = used[counts[0]], used[counts[-1]]
    ratio = round(many["peak_mb"] / few["peak_mb"], 3)
    print(json.dumps({"subjects": used, "peak_ratio": ratio}))


if __name__ == "__main__":
    app.run(main)
