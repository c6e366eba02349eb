"""How fast the page of explore.py answers, and what it does under load.

    python -m benchmarks.explore_load
    python -m benchmarks.explore_load --sizes=64 --rounds=20

For each size a server in a process of its own, with the weights that come with the
package: they are of 64 x 64, and the same filters make slices of any size, which takes
the time of weights that were trained at that size, though not their quality. Maps at
other sizes are those of 64 x 64, enlarged.

Measured over HTTP, as the page asks:
- from the end of a stroke to the bytes of four pictures, each stroke another label;
- until the label that segmentors find and its Dice are there, too;
- --clients that paint at once: answers that were lost or wrong, how often one was told
  that the server is busy, and resident memory over --requests drawn pictures;
- --spoiled requests with bytes changed at random: 5xx, tracebacks, files left.

Prints a table and, last, a line of JSON.
"""

import base64
import hashlib
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from brats_gan import data, multimodal, painting, synthesis, trained_models, weights
from brats_gan.lazy import tf

_SIZES = flags.DEFINE_list("sizes", ["64", "128"], "Pixels a side.")
_ROUNDS = flags.DEFINE_integer("rounds", 40, "Strokes that are timed.", 1)
_CLIENTS = flags.DEFINE_integer("clients", 20, "That paint at once.", 1)
_REQUESTS = flags.DEFINE_integer("requests", 2000, "Pictures they ask for together.")
_SPOILED = flags.DEFINE_integer("spoiled", 300, "Malformed requests.")
_SERVE = flags.DEFINE_integer("serve", 0, "Only serve that size, in this process.")

TOKEN = "benchmark"


def studio_of(size):
    """painting.Studio of `pretrained-64`, at another size as said above."""
    studio = painting.load(painting.Settings("pretrained-64", "pretrained-64"))
    if size == studio.size:
        return studio
    factor = size // studio.size
    folder = weights.folder_of("pretrained-64", "multimodal")
    stored, _ = trained_models.read_weights(folder, "multimodal")
    build = {**stored.description["build"], "image_size": size}
    larger = stored._replace(description={**stored.description, "build": build})
    nets = weights.networks(larger, lambda nets: nets.keys() - {"D", "FD"})

    def at(*noise):
        return [
            tf.repeat(tf.repeat(each, factor, 1), factor, 2)
            for each in studio.at(*noise)
        ]

    models = studio.models._replace(
        images=synthesis.images_of(nets, weights.options(stored)),
        segment=synthesis.labels_of(multimodal.lesion_nets(nets), studio.models.spec),
    )
    of_maps = {**studio.of_maps, "image_size": size}
    return studio._replace(models=models, of_maps=of_maps, at=at)


def serve(size):
    """Serves until it is ended; prints the port."""
    from brats_gan.app import answers, server

    studio = studio_of(size)
    pool = data.LabelPool(weights.labels_of("pretrained-64"), size)
    found = answers.Answers(studio, pool)
    painting.warm_up(studio)
    with socket.create_server((server.HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        server.run(found, TOKEN, listener)


class Server:
    """A server in a process of its own, in an empty folder."""

    def __init__(self, size):
        self.size = size
        self.folder = tempfile.TemporaryDirectory(prefix="explore_load-")
        self.log = Path(self.folder.name, "log")
        command = [sys.executable, "-m", "benchmarks.explore_load", f"--serve={size}"]
        path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder.name,
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.port = int(self.process.stdout.readline())

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def resident_mb(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def processor_seconds(self):
        """Of all its threads, which other processes' load hardly changes."""
        after_name = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")
        spent = [int(each) for each in after_name[2].split()[11:13]]
        return sum(spent) / os.sysconf("SC_CLK_TCK")

    def left(self):
        return [p.name for p in Path(self.folder.name).rglob("*") if p != self.log]

    def ask(self, connection, path, label):
        """(status, content) of one request."""
        text = base64.b64encode(label.tobytes()).decode()
        asked = {"seed": 1, "height": 25, "label": text}
        headers = {"X-Brats-Gan-Token": TOKEN, "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(asked), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)


def label_of(number, size):
    """Another lesion for each number: a disc of two classes."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:size, :size]
    centre = size * rng.uniform(0.35, 0.65, 2)
    away = np.hypot(rows - centre[0], columns - centre[1])
    label = np.zeros((size, size), np.uint8)
    label[away < size * 0.1] = 2
    label[away < size * 0.04] = 4
    label.ravel()[: number % size] = 1  # in the corner: no two are alike
    return label


def strokes(server, rounds):
    """Seconds to four pictures, and to the Dice as well, of each stroke; processor
    seconds that four pictures take."""
    connection, drawn, judged, spent = server.connection(), [], [], 0.0
    for number in range(rounds):
        label = label_of(number, server.size)
        begun, before = time.perf_counter(), server.processor_seconds()
        status, _ = server.ask(connection, "/api/draw", label)
        drawn.append(time.perf_counter() - begun)
        spent += server.processor_seconds() - before
        also, _ = server.ask(connection, "/api/judge", label)
        judged.append(time.perf_counter() - begun)
        assert status == also == 200
    return drawn, judged, spent / rounds


def crowd(server, clients, requests):
    """What became of requests of several clients at once."""
    each = requests // clients
    counts = {"asked": 0, "drawn": 0, "busy": 0, "other": 0}
    digests, lock, memory = {}, threading.Lock(), []

    def paint(client):
        connection = server.connection()
        for number in range(client * each, (client + 1) * each):
            label = label_of(number, server.size)
            while True:
                status, content = server.ask(connection, "/api/draw", label)
                with lock:
                    counts["asked"] += 1
                    if status == 200:
                        counts["drawn"] += 1
                        digests[number] = hashlib.blake2b(content).digest()
                        if counts["drawn"] % max(requests // 20, 1) == 0:
                            memory.append(server.resident_mb())
                    elif status == 503 and b"Busy" in content:
                        counts["busy"] += 1
                    else:
                        counts["other"] += 1
                if status != 503:
                    break
                time.sleep(random.uniform(0.1, 0.5))

    begun = time.perf_counter()
    threads = [threading.Thread(target=paint, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    wrong, connection = 0, server.connection()
    for number in range(0, clients * each, max(requests // 50, 1)):  # drawn alone
        _, content = server.ask(connection, "/api/draw", label_of(number, server.size))
        wrong += hashlib.blake2b(content).digest() != digests[number]
    lost = clients * each - len(digests)
    return {**counts, "lost": lost, "wrong": wrong, "seconds": seconds, "mb": memory}


def spoil(server, count):
    """Requests with bytes changed, cut or repeated; what was answered."""
    rng, statuses = random.Random(0), []
    text = base64.b64encode(label_of(0, server.size).tobytes()).decode()
    body = json.dumps({"seed": 1, "height": 25, "label": text}).encode()
    head = (
        f"POST /api/draw HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"X-Brats-Gan-Token: {TOKEN}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for number in range(count):
        content = bytearray(head + body)
        reach = len(head) + 40 if number % 2 else len(content)
        for _ in range(rng.randrange(1, 9)):
            content[rng.randrange(reach)] = rng.randrange(256)
        if number % 5 == 0:
            del content[rng.randrange(len(content)) :]
        with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            try:
                first = connection.makefile("rb").readline()
            except ConnectionError:
                first = b""
        found = re.match(rb"HTTP/1\.1 (\d+)", first)
        statuses.append(int(found[1]) if found else 0)  # 0: closed without a word
    status, _ = server.ask(server.connection(), "/api/draw", label_of(0, server.size))
    log = server.log.read_text(errors="replace")
    return {
        "statuses": {str(n): statuses.count(n) for n in sorted(set(statuses))},
        "tracebacks": log.count("Traceback"),
        "left": server.left(),
        "answers_after": status == 200,
    }


def main(argv):
    del argv
    if _SERVE.value:
        serve(_SERVE.value)
        return
    found = {}
    for size in map(int, _SIZES.value):
        server = Server(size)
        try:
            drawn, judged, spent = strokes(server, _ROUNDS.value)
            milliseconds = [1000 * np.percentile(drawn, q) for q in (0, 50, 95)]
            print(
                f"{size} x {size}: four pictures {milliseconds[1]:.0f} ms after a "
                f"stroke (fastest {milliseconds[0]:.0f}, of 95 % {milliseconds[2]:.0f}"
                f"; {1000 * spent:.0f} of a processor), with Dice "
                f"{1000 * np.median(judged):.0f}; load of the machine "
                f"{os.getloadavg()[0]:.1f}",
                flush=True,
            )
            found[size] = {"milliseconds": milliseconds, "processor_seconds": spent}
            if size != int(_SIZES.value[0]):
                continue
            many = crowd(server, _CLIENTS.value, _REQUESTS.value)
            memory = many["mb"]
            print(
                f"  {_CLIENTS.value} clients: {many['drawn']} drawn in "
                f"{many['seconds']:.0f} s, {many['busy']} times busy, {many['lost']} "
                f"lost, {many['wrong']} wrong, {many['other']} other errors; resident "
                f"memory {memory[0]:.0f} MB at first, {memory[len(memory) // 2]:.0f} "
                f"in the middle, {memory[-1]:.0f} at the end",
                flush=True,
            )
            bad = spoil(server, _SPOILED.value)
            print(f"  spoiled: {json.dumps(bad)}", flush=True)
            found[size] |= {"crowd": many, "spoiled": bad}
        finally:
            server.end()
    print(json.dumps(found))


if __name__ == "__main__":
    app.run(main)
