"""The server of explore.py: who may ask, what is refused, and that it is never lost."""

import base64
import io
import json
import logging
import random
import re
import sys
import tempfile
import threading
import time

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from brats_gan import data, painting, recipes, runs
from brats_gan import io as volumes
from brats_gan.app import guard, opened, start, worker
from brats_gan.app.answers import Answers
from tests.nifti import write_subject

server = pytest.importorskip("brats_gan.app.server", reason="needs the extra app")
testclient = pytest.importorskip("fastapi.testclient", reason="needs httpx")

PORT, TOKEN, SIZE = 8765, "right", 64
ADDRESS = f"http://127.0.0.1:{PORT}"
RIGHT = {guard.TOKEN: TOKEN}


@pytest.fixture(scope="module")
def answers():
    smaller = painting.Settings("pretrained-64", "pretrained-64")
    return start.answers(smaller, data.Source(None))


@pytest.fixture
def client(answers):
    at_work = worker.Worker()
    app = server.build(answers, TOKEN, PORT, at_work)
    with testclient.TestClient(app, base_url=ADDRESS, headers=RIGHT) as opened_:
        yield opened_
    at_work.close()


def body(label=None, **more):
    label = np.zeros((SIZE, SIZE), np.uint8) if label is None else label
    text = base64.b64encode(label.tobytes()).decode()
    asked = {"seed": 1, "height": 25, "directions": [], "style": None, "label": text}
    return asked | more


def unpacked(content):
    """(header, {name: array}) of answers.packed."""
    length = int.from_bytes(content[:4], "little")
    told, at = json.loads(content[4 : 4 + length]), 4 + length
    arrays = {}
    for part in told["parts"]:
        piece = content[at : at + part["bytes"]]
        arrays[part["name"]] = np.frombuffer(piece, part["dtype"]).reshape(
            part["shape"]
        )
        at += part["bytes"]
    assert at == len(content)
    return told, arrays


# --- Answers --------------------------------------------------------------------------


def test_pictures_are_those_of_the_set_that_the_recipe_makes(client, answers):
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[28:34, 36:42] = 2
    told, arrays = unpacked(client.post("/api/draw", json=body(label)).content)
    judged, found = unpacked(client.post("/api/judge", json=body(label)).content)
    made = json.loads(client.post("/api/recipe", json=body(label)).content)
    recipe = recipes.parse(made, SIZE)
    sample = painting.sample(answers.studio, recipe)
    shown = np.rint(sample.images * 65535).astype(np.uint16)
    np.testing.assert_array_equal(arrays["images"], shown)
    np.testing.assert_array_equal(arrays["f"], sample.structure)
    np.testing.assert_array_equal(found["found"], sample.predicted)
    assert told["mae"] == sample.mae and judged["mean"] == sample.dice
    assert judged["passes"] == (sample.dice >= answers.state()["dice_threshold"])


def test_a_lesion_outside_the_brain_is_said_to_be(client):
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[0, :3] = 1
    told, _ = unpacked(client.post("/api/draw", json=body(label)).content)
    assert told["beyond"] == 3 and not told["placed"]


def without_comments(script):
    return re.sub(r"(^|\s)//.*", "", script)


def test_the_page_is_whole_and_names_no_other_place(client):
    page = client.get("/", headers={guard.TOKEN: ""})
    assert page.status_code == 200
    for name in ("explore.js", "label.js", "pictures.js", "talk.js", "volume.js"):
        script = client.get(f"/{name}")
        assert script.status_code == 200 and "//" not in without_comments(script.text)
    assert "//" not in page.text
    for part in page.headers["content-security-policy"].split("; "):
        assert {*part.split()[1:]} <= {"'none'", "'self'", "blob:", "data:"}


def test_a_volume_has_the_slices_that_the_page_shows(client):
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[28:34, 36:42] = 2
    asked = body(label, height=20)
    _, arrays = unpacked(client.post("/api/draw", json=asked).content)
    _, parts = unpacked(client.post("/api/volume", json=asked).content)
    flair, seg = (
        np.asarray(nib.Nifti1Image.from_bytes(parts[name].tobytes()).dataobj)
        for name in ("flair", "label")
    )
    shown = arrays["images"][3].T / 65535
    np.testing.assert_allclose(flair[..., 20], shown, atol=3e-5)
    np.testing.assert_array_equal(seg[..., 20], label.T)
    assert seg[..., 21].any() and not seg[..., 40].any()


def test_weights_in_a_folder_that_is_not_utf8_have_a_page(answers):
    odd = painting.Settings("models/od\udcffd", "models/plain")
    studio = answers.studio._replace(settings=odd)
    state = json.dumps(Answers(studio).state(), ensure_ascii=False)
    assert '["od?d", "plain"]' in state and state.encode()


def test_the_label_of_a_subject_is_numbered_as_the_page_names_it(answers, tmp_path):
    write_subject(tmp_path, "BraTS-GLI-00001-000", layout="brats2023")
    (subject,) = volumes.find_subjects(tmp_path)
    stored, _ = volumes.load_volume(subject.label)
    shown = Answers(answers.studio, None, [subject]).subject(0, 4)
    seg = np.asarray(nib.Nifti1Image.from_bytes(shown).dataobj)
    enhancing = answers.studio.models.spec.labels.index("enhancing")
    assert (stored == 3).any() and enhancing == 4
    np.testing.assert_array_equal(seg == enhancing, (stored == 3).swapaxes(0, 1))
    assert not (seg == 3).any()


def test_a_label_that_cannot_be_numbered_is_a_sentence_without_a_path(
    answers, tmp_path
):
    paths = write_subject(tmp_path, "s0")
    shape = volumes.load_volume(paths["seg"])[0].shape
    volumes.write_nifti(paths["seg"], np.full(shape, 9), np.uint8)
    (subject,) = volumes.find_subjects(tmp_path)
    with pytest.raises(ValueError, match="the terminal says why") as caught:
        Answers(answers.studio, None, [subject]).subject(0, 4)
    assert str(tmp_path) not in str(caught.value)


# --- Who may ask ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": f"127.0.0.1:{PORT + 1}"}, 403),
        ({"host": f"127.0.0.1:{PORT}.evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"https://127.0.0.1:{PORT}"}, 403),
        ({guard.TOKEN: "wrong"}, 401),
        ({guard.TOKEN: ""}, 401),
        ({"host": f"localhost:{PORT}"}, 200),
        ({"origin": ADDRESS}, 200),
    ],
)
def test_another_host_another_page_and_no_token_are_refused(headers, status, client):
    answer = client.get("/api/state", headers={**RIGHT, **headers})
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status != 200:
        assert answer.json()["error"].endswith(".")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    limit = 4096 + 2 * SIZE**2
    whole = client.post("/api/draw", content=b" " * (limit + 1))
    assert whole.status_code == 413

    def pieces():  # of a length that is not said
        for _ in range(100):
            yield b" " * limit

    assert client.post("/api/draw", content=pieces()).status_code == 413
    assert client.post("/api/state", content=b"x").status_code == 413


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": base64.b64encode(bytes(SIZE)).decode()}, "64 pixels"),
        ({"label": base64.b64encode(bytes([5]) * SIZE**2).decode()}, "0 to 4"),
        ({"label": "?"}, "base64"),
        ({"label": 3}, "label"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"seed": 10**20}, "seed"),
        ({"height": 50}, "0 to 49"),
        ({"height": None}, "0 to 49"),
        ({"directions": [0.0] * 7}, "directions"),
        ({"directions": [5.0]}, "directions"),
        ({"style": True}, "style"),
        ({"path": "/etc/passwd"}, "path"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_a_sentence(change, said, client):
    answer = client.post("/api/draw", json=body() | change)
    assert answer.status_code == 422
    assert said in answer.json()["error"] and answer.json()["error"].endswith(".")


# --- Labels that are opened -----------------------------------------------------------


def png(label, mode="L"):
    content = io.BytesIO()
    PIL.Image.fromarray(label).convert(mode).save(content, "PNG")
    return content.getvalue()


def nifti(volume):
    return volumes.nifti_bytes(volume, volume.dtype)


def some_label(side, depth=None):
    label = np.zeros((side, side) if depth is None else (side, side, depth), np.uint8)
    label[side // 2 : side // 2 + side // 8, side // 3 : side // 2] = 2
    return label


def test_a_picture_of_the_right_size_is_taken_as_it_is():
    label = some_label(SIZE)
    np.testing.assert_array_equal(opened.label_of(png(label), SIZE).label, label)


def test_a_label_that_is_written_back_in_its_field_is_opened_as_it_was():
    label = some_label(SIZE)
    field = volumes.place_back(label[None], label=True)
    volume = np.moveaxis(field, 0, -1)
    found = opened.label_of(nifti(volume), SIZE)
    np.testing.assert_array_equal(found.label, label)


def test_of_a_volume_the_slice_with_most_lesion_is_opened():
    volume = np.zeros((SIZE, SIZE, 5), np.uint8)
    volume[20:24, 20:24, 1] = 1
    volume[20:30, 20:30, 3] = 4
    found = opened.label_of(nifti(volume), SIZE)
    np.testing.assert_array_equal(found.label, volume[..., 3])
    assert "slice 3" in found.said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither"),
        (b"GIF89a", "neither"),
        (b"\x89PNG\r\n\x1a\n rest", "damaged"),
        (b"\x1f\x8b rest", "cannot be read"),
        (png(some_label(SIZE), "RGB"), "colours"),
        (png(np.full((SIZE, SIZE), 9, np.uint8)), "value 9"),
        (nifti(some_label(SIZE, 3))[:-50], "cannot be read"),
        (nifti(some_label(SIZE, 3).astype(np.float32) / 3), "not whole"),
    ],
)
def test_what_is_no_label_is_refused_in_a_sentence(content, said):
    with pytest.raises(ValueError, match=said) as raised:
        opened.label_of(content, SIZE)
    assert tempfile.gettempdir() not in str(raised.value)


# --- The worker -----------------------------------------------------------------------


def test_jobs_beyond_those_that_may_wait_are_told_so_and_the_others_are_done():
    go, at_work = threading.Event(), worker.Worker(waiting=3)
    first = at_work.submit(go.wait)
    while not first.running():
        time.sleep(0.001)
    waiting = [at_work.submit(lambda n=n: n) for n in range(3)]
    with pytest.raises(worker.Busy):
        at_work.submit(lambda: None)
    go.set()
    assert [each.result(10) for each in waiting] == [0, 1, 2]
    assert at_work.submit(lambda: "later").result(10) == "later"
    at_work.close()


def test_an_error_is_of_who_asked_and_the_next_job_is_done():
    at_work = worker.Worker()
    with pytest.raises(ZeroDivisionError):
        at_work.submit(lambda: 1 / 0).result(10)
    assert at_work.submit(lambda: 2).result(10) == 2
    at_work.close()


def test_a_full_queue_is_a_clear_busy_to_the_client(client, monkeypatch):
    def full(job):
        raise worker.Busy

    monkeypatch.setattr(worker.Worker, "submit", lambda self, job: full(job))
    answer = client.post("/api/draw", json=body())
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"].startswith("Busy")


# --- Malformed requests ---------------------------------------------------------------


def spoiled_json(rng):
    """JSON of a request with something wrong, as bytes; sometimes nothing is."""
    odd = [None, True, -1, 1.5, 10**30, "x", "\ud800", [], {}, [[]], {"a": 1}, "1" * 99]
    given = body(seed=rng.randrange(5))
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice([*given, "place", "path", "..", "__class__"])
        given[name] = rng.choice(odd)
    text = json.dumps(given).encode("utf-8", "surrogatepass")
    kind = rng.randrange(8)
    if kind == 0:
        text = text[: rng.randrange(len(text))]
    elif kind == 1:
        text = b"[" * rng.randrange(1, 4000)
    elif kind == 2:
        text = text.replace(b": ", b": NaN, ", 1)
    elif kind == 3:
        text = text.replace(b'"seed": ', b'"seed": 1' + b"0" * 4000, 1)
    elif kind == 4:
        text = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
    elif kind == 5:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    return text


def spoiled_file(rng):
    whole = rng.choice([png(some_label(SIZE)), nifti(some_label(SIZE, 3))])
    content = bytearray(whole)
    for _ in range(rng.randrange(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content[: rng.randrange(1, len(content) + 1)])


def test_300_malformed_requests_are_answered_in_a_sentence_and_leave_nothing(
    client, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rng, statuses = random.Random(1), []
    names = ("draw", "judge", "place", "recipe", "set", "sheet", "volume", "open")
    paths = ["/api/subjects/0/0", "/api/subjects/-1/x", "/api/../../etc/passwd"]
    paths += ["/%00", "/..%2f..%2fetc/passwd", "/api/subjects/%2e%2e/0", "//", "/api"]
    paths += ["/api/subjects/" + "9" * 5000 + "/0", "/vendor/../explore.js"]
    with caplog.at_level(logging.ERROR):
        for number in range(300):
            kind = number % 5
            if kind == 0:
                asked = ("GET", rng.choice(paths), b"")
            elif kind == 1:
                asked = ("POST", "/api/open", spoiled_file(rng))
            elif kind == 2:
                method = rng.choice(["PUT", "DELETE", "OPTIONS", "PATCH", "GET"])
                asked = (method, f"/api/{rng.choice(names)}", b"")
            else:
                asked = ("POST", f"/api/{rng.choice(names[:-1])}", spoiled_json(rng))
            answer = client.request(asked[0], asked[1], content=asked[2])
            statuses.append(answer.status_code)
            assert answer.status_code < 500, asked
            if answer.status_code >= 400:
                said = answer.json()["error"]
                assert 0 < len(said) < 400 and "Traceback" not in said, asked
                assert str(tmp_path) not in said
    assert sum(status >= 400 for status in statuses) > 200
    assert not [*tmp_path.rglob("*")]
    assert "Traceback" not in caplog.text


# --- The extra ------------------------------------------------------------------------


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "brats_gan.app.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(runs.RunError, match=r"uvicorn .*brats_gan\[app\]"):
        start.server()
