"""The page in a real browser, against the program as it is started by hand.

DEMO_SCREENSHOT=PATH makes the image of docs/demo.md, with the scenes that the program has by itself.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import scripts.demo
from streets.scenes import write_streets
from tests.augment.paint.test_folder import object_of
from tests.demo.readers import check_official
from tests.programs import refused

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOT = os.environ.get("DEMO_SCREENSHOT")
WAIT = 30_000  # milliseconds
X, Y = 560, 330  # a foot on the road, pixels of the scene

pytestmark = pytest.mark.slow

pytest.importorskip("gradio", reason="gradio is not installed (requirements-demo.txt)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine (apt-get install chromium)", allow_module_level=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root, port = tmp_path_factory.mktemp("page"), free_port()
    command = [sys.executable, "-m", "scripts.demo", "--port", str(port), "--device", "cpu"]
    if not SCREENSHOT:
        write_streets(root / "streets", 2, 2, (1024, 512), 0)
        command += ["--db_root", str(root / "streets"), "--bank", str(root / "bank.npz")]
    with open(root / "log.txt", "w+") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        until = time.monotonic() + 300
        while f"127.0.0.1:{port}" not in (text := (root / "log.txt").read_text()):
            assert server.poll() is None and time.monotonic() < until, text
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page with its first scene, which asks nobody else for anything."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(WAIT)
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(address)
    page.wait_for_selector("#scene img")
    yield page
    page.close()
    assert not [url for url in requested if not url.startswith((address, "data:", "blob:"))]


def source(page) -> str:
    return page.locator("#scene img").get_attribute("src")


def shown(page) -> np.ndarray:
    """The image that is shown, (h,w,3) int."""
    answer = page.request.get(source(page))
    assert answer.ok, answer.status
    return cv2.imdecode(np.frombuffer(answer.body(), np.uint8), cv2.IMREAD_COLOR).astype(int)


def changes_image(page, act) -> np.ndarray:
    """Do something, wait for another image, and return where it differs: (h,w) bool."""
    before, image = source(page), shown(page)
    act()
    page.wait_for_function("old => document.querySelector('#scene img').src != old", arg=before, polling=20)
    return np.abs(shown(page) - image).max(2) > 40


def click_scene(page, x: float, y: float) -> None:
    page.locator("#scene img").scroll_into_view_if_needed()
    box = page.locator("#scene img").bounding_box()
    scale = box["width"] / 1024
    page.mouse.click(box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale)


def says(page, words: str) -> None:
    try:
        page.wait_for_function(
            "words => document.querySelector('#message').innerText.includes(words)", arg=words
        )
    except playwright.TimeoutError:
        pytest.fail(f"{words!r} was not said, but {page.locator('#message').inner_text()!r}")


@contextmanager
def slow_request(page):
    """The first request for an action takes a second longer than what is asked for meanwhile."""
    held = []

    def hold(route):
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/queue/join*", hold)
    yield
    page.wait_for_timeout(1000)
    held[0].continue_()
    page.wait_for_timeout(1000)
    page.unroute("**/queue/join*")


def drag(page, slider: str, fraction: float) -> None:
    """Take the handle of a slider to a fraction of its length, and leave it in the hand."""
    handle = page.locator(f"#{slider} input[type=range]")
    handle.scroll_into_view_if_needed()
    box, value = handle.bounding_box(), float(handle.input_value())
    low, high = (float(handle.get_attribute(name)) for name in ("min", "max"))
    now = (value - low) / (high - low)
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + now * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + fraction * box["width"], middle, steps=4)


def check_foot(mask: np.ndarray, x: float, y: float) -> None:
    """A mask (H,W) stands at x, y: silhouettes don't fill their boxes, and JPEG blurs by some pixels."""
    rows, columns = np.nonzero(mask)
    assert abs(rows.max() - y) <= 8 and abs((columns.min() + columns.max()) / 2 - x) <= 15


def test_click_drag_and_download(page, tmp_path, capsys):
    page.get_by_label("Put it there whatever the filters say").check()
    page.get_by_label("flat colour").check()
    says(page, "Painted anew.")
    start = time.perf_counter()
    changed = changes_image(page, lambda: click_scene(page, X, Y))
    with capsys.disabled():
        print(f"\nfrom a click in the browser to the new image: {time.perf_counter() - start:.2f} s")
    says(page, "Put there: person 1")
    check_foot(changed, X, Y)
    assert page.locator("#objects label").all_inner_texts() == ["1: person"]

    changes_image(page, lambda: click_scene(page, X - 200, Y + 10))
    assert page.locator("#objects label").all_inner_texts() == ["1: person", "2: person"]

    changed = changes_image(page, lambda: drag(page, "place2", 0.3))
    assert changed.any() and not changed[:, X - 40 : X + 40].any(), "the second one alone got smaller"
    says(page, "Now: person 2")
    page.mouse.up()

    page.get_by_role("button", name="Undo").click()
    says(page, "Undone.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
        with archive.open(next(n for n in archive.namelist() if n.endswith("_instanceIds.png"))) as file:
            ids = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    persons = np.unique(ids[(ids >= 24000) & (ids < 25000)])
    check_official(tmp_path, "val", len(persons))
    check_foot(ids == persons[-2], X, Y)
    check_foot(ids == persons[-1], X - 200, Y + 10)


def test_rejections_are_told_and_scenes_change(page):
    click_scene(page, 512, 20)
    says(page, "Rejected: the filter “support” asks")
    assert not page.locator("#objects label").count()
    changed = changes_image(page, lambda: page.locator("#thumbnails button img").nth(1).click())
    assert changed.mean() > 0.2
    says(page, "_000001_")
    page.get_by_role("tab", name="Before and after").click()
    page.wait_for_selector("#compared img")
    page.get_by_role("tab", name="Scene").click()
    assert changes_image(page, lambda: drag(page, "heat", 0.9) or page.mouse.up()).any()


def test_an_uploaded_cutout_stands_where_is_clicked(page, tmp_path):
    path = tmp_path / "cone.png"
    Image.fromarray(object_of(120, 240)).save(path)
    page.locator("#own_object").get_by_role("button", name="Your own object").click()
    page.locator("#cutout input[type=file]").set_input_files(path)
    says(page, "Your cut-out: 120x240 pixels")
    with slow_request(page):  # that of the height, which the box may not overtake
        page.locator("#metres input").fill("0.8")
        page.locator("#no_class input").check()
    says(page, "0.8 m high, dynamic")
    changed = changes_image(page, lambda: click_scene(page, X, Y))
    check_foot(changed, X, Y)
    says(page, "Put there: dynamic 1")
    red = shown(page)[changed]
    assert (red[:, 2] > red[:, 1] + 30).mean() > 0.5
    page.locator("#cutout button[aria-label=Clear]").click()
    says(page, "New objects are the model's again")


def test_junk_gets_a_sentence(page, tmp_path):
    page.get_by_text("Your own scene").click()
    (tmp_path / "junk.png").write_bytes(b"no image")
    for name in ("label_map", "instance_map"):
        page.locator(f"#{name} input[type=file]").set_input_files(tmp_path / "junk.png")
        page.locator(f"#{name}").get_by_text("junk").wait_for()
    page.get_by_role("button", name="Use these").click()
    says(page, "Can't be used: junk.png: ")


def test_a_port_in_use_is_one_line_and_status_2(address):
    message = refused(scripts.demo.main, "--port", address.rpartition(":")[2])
    assert message.startswith("error: --port ") and "choose another" in message


@pytest.mark.skipif(not SCREENSHOT, reason="DEMO_SCREENSHOT names no file")
def test_screenshot(page):
    surprise = page.get_by_role("button", name="Surprise me")
    changes_image(page, lambda: click_scene(page, 800, 310))
    page.get_by_label("car", exact=True).check()
    changes_image(page, surprise.click)
    page.get_by_label("person", exact=True).check()
    changes_image(page, surprise.click)
    changes_image(page, lambda: drag(page, "heat", 0.4) or page.mouse.up())
    image = page.screenshot(full_page=True)
    Image.open(io.BytesIO(image)).convert("RGB").save(SCREENSHOT, quality=85)
