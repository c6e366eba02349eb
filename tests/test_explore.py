"""explore.py in a real browser: paint, look, undo, download, reload."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from brats_gan import io as volumes
from tests import nifti

ROOT = Path(__file__).parents[1]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
pytest.importorskip("uvicorn", reason="needs the extra app")
pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium"),
]
SIZE = 64  # of the smaller weights that come with the package
SMALLER = ("--structural_run=pretrained-64", "--multimodal_run=pretrained-64")
MODALITIES = 4
SETTLED = "html[data-settled=yes]"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a server of the script answers; it shows a data folder of one subject."""
    folder = tmp_path_factory.mktemp("explore")
    nifti.write_subject(folder / "data", "s0", (40, 40, 12), 0)
    command = [sys.executable, str(ROOT / "explore.py"), "--nobrowser", "--port=0"]
    command += [*SMALLER, f"--data_dir={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            line = server.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, (folder / "log").read_text()[-3000:]
            yield found[0]
        finally:
            server.terminate()
            server.wait(30)
    said = (folder / "log").read_text()
    assert "Traceback" not in said and server.returncode == 143, said[-3000:]


@pytest.fixture(scope="module")
def browser():
    arguments = ["--disable-gpu", "--enable-unsafe-swiftshader"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


class Page:
    """A page that is open, and what its console said."""

    def __init__(self, browser, address, **context):
        self.context = browser.new_context(accept_downloads=True, **context)
        self.page = self.context.new_page()
        self.said = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address)
        self.settle()

    def settle(self):
        self.page.wait_for_selector(SETTLED, timeout=120_000)

    @property
    def label(self):
        return np.array(self.page.evaluate("explore.label")).reshape(SIZE, SIZE)

    @property
    def images(self):
        made = np.array(self.page.evaluate("explore.images"), np.uint16)
        return made.reshape(MODALITIES, SIZE, SIZE)

    def shown(self, name):
        """The pixels of a picture, as its canvas has them."""
        canvas = self.page.locator(f'#frames canvas[data-name="{name}"]')
        return canvas.evaluate("canvas => canvas.toDataURL()")

    def at(self, row, column):
        box = self.page.locator("#board").bounding_box()
        scale = box["width"] / SIZE
        return box["x"] + (column + 0.5) * scale, box["y"] + (row + 0.5) * scale

    def stroke(self, *points):
        """Paints from point to point, (row, column) each, with the mouse."""
        self.page.locator("#board").scroll_into_view_if_needed()
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()
        self.settle()

    def choose(self, value):
        self.page.locator(f'label:has(input[name="class"][value="{value}"])').click()


@pytest.fixture
def page(browser, address):
    opened = Page(browser, address, viewport={"width": 1280, "height": 1000})
    yield opened
    opened.context.close()
    assert opened.said == []


def painted(page):
    """Paints a lesion of two classes in the right half of the picture."""
    page.choose(2)
    page.stroke((26, 38), (30, 42), (34, 38))
    page.choose(4)
    page.stroke((30, 39), (31, 40))


def test_flair_changes_in_the_lesion_that_is_painted_and_not_on_the_other_side(page):
    before = page.images.astype(float)[3]
    painted(page)
    label, change = page.label, np.abs(page.images.astype(float)[3] - before)
    assert {*np.unique(label)} == {0, 2, 4}
    assert not label[:, : SIZE // 2].any()
    # All of a slice goes through the networks' norms, so the rest moves a little too.
    other_side = label[:, ::-1] > 0
    assert change[label > 0].mean() > 0.05 * 65535
    assert change[label > 0].mean() > 10 * change[other_side].mean()


def test_undo_brings_back_the_first_pictures_to_the_byte_and_redo_the_others(page):
    first, first_shown = page.images, page.shown("FLAIR")
    painted(page)
    label, second = page.label, page.images
    assert (second != first).any() and page.shown("FLAIR") != first_shown
    page.page.keyboard.press("Control+z")
    page.settle()
    page.page.click("#undo")
    page.settle()
    assert not page.label.any()
    np.testing.assert_array_equal(page.images, first)
    assert page.shown("FLAIR") == first_shown
    for _ in range(2):
        page.page.click("#redo")
        page.settle()
    np.testing.assert_array_equal(page.label, label)
    np.testing.assert_array_equal(page.images, second)


def downloaded(page, what):
    with page.page.expect_download() as waiting:
        page.page.click(f'[data-get="{what}"]')
    return Path(waiting.value.path()).read_bytes()


def test_what_is_downloaded_is_read_as_a_subject_and_made_again_to_the_byte(
    page, tmp_path
):
    painted(page)
    content, recipe = downloaded(page, "set"), downloaded(page, "recipe")
    assert downloaded(page, "sheet").startswith(b"\x89PNG")
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path)
    made = tmp_path / "painted"
    assert (made / "recipe.json").read_bytes() == recipe
    (subject,) = volumes.find_subjects(made)
    images, labels = volumes.read_subject(subject, image_size=SIZE, slices=None)
    np.testing.assert_array_equal(labels[0], page.label)
    shown = np.moveaxis(page.images / 65535, 0, -1)
    np.testing.assert_allclose(images[0], shown, atol=3e-5)
    stored, affine = volumes.load_volume(subject.label)
    assert stored.shape == (240, 240, 1)
    np.testing.assert_array_equal(affine, volumes.lps_affine(240))

    command = [sys.executable, "build_dataset.py", *SMALLER]
    command.append(f"--from_json={made / 'recipe.json'}")
    command += [f"--output_dir={tmp_path / 'again'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(tmp_path / "again") == contents(made)


def contents(folder):
    """{path: bytes}; a description without the revision of a checkout that is edited
    while the tests run."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    described = json.loads(found.pop("dataset_description.json"))
    del described["GeneratedBy"], described["digest"]
    return {**found, "described": described}


def test_a_reload_keeps_the_work(page):
    page.page.fill("#seed", "7")
    page.page.locator("#seed").press("Enter")
    page.settle()
    painted(page)
    label, images = page.label, page.images
    page.page.reload()
    page.settle()
    assert page.page.input_value("#seed") == "7"
    np.testing.assert_array_equal(page.label, label)
    np.testing.assert_array_equal(page.images, images)


def test_keys_paint_pixel_by_pixel(page):
    board = page.page.locator("#board")
    board.focus()
    for key in "[[3":
        page.page.keyboard.press(key)
    page.page.keyboard.down(" ")  # in the middle
    for _ in range(4):
        page.page.keyboard.press("ArrowRight")
    page.page.keyboard.up(" ")
    page.settle()
    expected = np.zeros((SIZE, SIZE), int)
    expected[SIZE // 2, SIZE // 2 : SIZE // 2 + 5] = 3
    np.testing.assert_array_equal(page.label, expected)


def test_a_finger_paints_and_the_page_fits_a_telephone(browser, address):
    phone = {"width": 400, "height": 800}
    opened = Page(browser, address, viewport=phone, has_touch=True, color_scheme="dark")
    opened.page.locator("#board").scroll_into_view_if_needed()
    opened.page.touchscreen.tap(*opened.at(30, 40))
    opened.settle()
    assert opened.label[30, 40] == 2
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 400
    opened.context.close()
    assert opened.said == []


def test_an_outline_that_is_filled_has_one_class_inside_and_no_other(page):
    page.choose(1)
    page.page.keyboard.press("[")
    page.page.keyboard.press("[")
    page.stroke((26, 36), (26, 44), (34, 44), (34, 36), (26, 36))
    page.choose(2)
    page.page.keyboard.press("f")
    page.stroke((30, 40))
    expected = np.zeros((SIZE, SIZE), int)
    expected[26:35, 36:45] = 1
    expected[27:34, 37:44] = 2
    np.testing.assert_array_equal(page.label, expected)


def test_volumes_are_shown_of_the_brain_and_of_a_subject_of_the_data_folder(page):
    painted(page)
    for whose in ("generated", "0"):
        page.page.select_option("#whose", whose)
        page.page.click("#show-volume")
        shown = '#volume-stage[data-shown="yes"]'
        page.page.wait_for_selector(shown, timeout=120_000)
    page.said[:] = [line for line in page.said if "WebGL" not in line]


def test_every_control_has_a_name(page):
    nameless = page.page.evaluate(
        """[...document.querySelectorAll("button, input, select, canvas")].filter(
            (each) => !(each.labels?.length || each.textContent.trim()
                        || each.getAttribute("aria-label"))
        ).map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_the_page_says_where_its_address_is_printed_if_the_token_is_missing(
    browser, address
):
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(address.partition("#")[0])
    opened.wait_for_selector('#status[data-kind="bad"]')
    assert "explore.py" in opened.text_content("#status")
    context.close()


def test_what_was_stored_by_somebody_else_does_not_break_the_page(browser, address):
    opened = Page(browser, address)
    opened.choose(1)
    opened.page.fill("#seed", "5")
    opened.page.locator("#seed").press("Enter")
    opened.settle()
    whole = json.loads(opened.page.evaluate("localStorage['brats_gan.work']"))
    wrong = [{"label": "!"}, {"choices": {}}, {"now": None}, {"size": 8}]
    wrong += [{"choices": {**whole["choices"], "seed": "x"}}]
    wrong += [{"choices": {**whole["choices"], "directions": [9e9] * 6}}]
    for stored in ("", "{", *(json.dumps(whole | each) for each in wrong)):
        opened.page.evaluate(f"localStorage['brats_gan.work'] = {json.dumps(stored)}")
        opened.page.reload()
        opened.settle()
        assert not opened.label.any()
        assert opened.page.input_value("#seed") == "0"
    opened.context.close()
    assert opened.said == []
