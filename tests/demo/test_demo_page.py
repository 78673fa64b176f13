"""The page to play with, in a real browser: drawn, clicked, looked at."""

import dataclasses
import socket
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

import jaxdiff as jd
from jaxdiff.cli import program
from jaxdiff.cli.demo import _is_local
from jaxdiff.demo.page import launch
from jaxdiff.errors import InputError
from tests.helpers.fake_run import fake_run
from tests.report.test_page import LAPTOP, PHONE, SWITCHES, browser_path

NEW = """([width, before]) => [...document.images].some(
  i => i.offsetParent && i.naturalWidth >= width && !before.includes(i.src))"""
"""Script that finds whether a visible picture is new and complete."""
OUTSIDE = "() => document.scrollingElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of a page of a tiny model of digits."""
    folder = tmp_path_factory.mktemp("page") / "run"
    fake_run(folder, conditional=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = launch(jd.load(folder), "<b>digits</b>", "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}", port
    page.close(verbose=False)


@pytest.fixture(scope="module")
def chromium():
    with (
        sync_playwright() as driver,
        driver.chromium.launch(
            executable_path=browser_path(), args=SWITCHES
        ) as program,
    ):
        yield program


@dataclasses.dataclass
class Visitor:
    """A tab of the browser, with what it asked for elsewhere."""

    tab: Any
    elsewhere: list[str]

    def tab_of(self, name):
        self.tab.get_by_role("tab", name=name).click()

    def new_picture(self, click, width=8):
        """Clicks, and waits for a picture that was not there."""
        before = self.tab.evaluate("() => [...document.images].map(i => i.src)")
        click()
        self.tab.wait_for_function(NEW, arg=[width, before], timeout=60_000)

    def button(self, name):
        return self.tab.get_by_role("button", name=name, exact=True).locator(
            "visible=true"
        )

    def upload(self, path, place=0):
        inputs = self.tab.locator("input[type=file]")
        shown = [
            one for one in inputs.all()
            if one.evaluate("e => !!e.closest('.tabitem')?.offsetParent")
        ]  # fmt: skip
        shown[place].set_input_files(path)


@pytest.fixture
def visitor(chromium, served, request):
    width = getattr(request, "param", LAPTOP)
    tab: Any = chromium.new_context(viewport={"width": width, "height": 900}).new_page()
    elsewhere = []
    tab.on("request", lambda asked: elsewhere.append(asked.url))
    tab.goto(served[0])
    tab.wait_for_selector("text=Draws pictures of 10 classes", timeout=60_000)
    found = Visitor(tab, elsewhere)
    found.tab.get_by_label("number input for Steps").fill("3")
    yield found
    local = (served[0], "data:", "blob:")
    assert [url for url in elsewhere if not url.startswith(local)] == []
    tab.context.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("upload") / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.mark.parametrize("visitor", [LAPTOP, PHONE], indirect=True)
def test_a_picture_arrives_at_any_width(visitor):
    visitor.new_picture(visitor.button("Draw").click, width=256)
    assert visitor.tab.evaluate(OUTSIDE) <= 1
    assert "<b>digits</b>" in visitor.tab.title()


def test_a_wrong_upload_is_a_message(visitor, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    visitor.tab_of("Add noise")
    visitor.upload(tmp_path / "bad.png")
    visitor.tab.wait_for_selector(".toast-body.error", timeout=30_000)


@pytest.mark.long
def test_classes_blend_and_a_missing_class_is_a_message(visitor):
    visitor.tab_of("Blend")
    visitor.button("Blend").click()
    visitor.tab.wait_for_selector("text=From must be chosen", timeout=30_000)
    for label, name in (("From", "1"), ("To", "7")):
        box = visitor.tab.get_by_label(label, exact=True).locator("visible=true")
        box.click()
        options = visitor.tab.get_by_role("option", name=name, exact=True)
        options.locator("visible=true").last.click()
    visitor.new_picture(visitor.button("Blend").click, width=256)


@pytest.mark.long
def test_pictures_blend(visitor, photo):
    visitor.tab_of("Blend")
    visitor.upload(photo, 0)
    visitor.tab.wait_for_timeout(1000)
    visitor.upload(photo, 1)
    visitor.tab.wait_for_timeout(1000)
    visitor.new_picture(visitor.button("Blend the pictures").click, width=256)


@pytest.mark.long
def test_a_picture_is_changed(visitor, photo):
    visitor.tab_of("Change")
    visitor.upload(photo)
    visitor.tab.wait_for_timeout(1000)
    visitor.new_picture(visitor.button("Change").click, width=256)


@pytest.mark.long
def test_noise_is_added_at_the_time_of_the_slider(visitor, photo):
    visitor.tab_of("Add noise")
    visitor.new_picture(lambda: visitor.upload(photo), width=256)
    visitor.tab.wait_for_selector("text=of the noise", timeout=30_000)
    before = visitor.tab.inner_text("text=of the noise")
    slider = visitor.tab.get_by_label("number input for Time")
    slider.fill("1")
    slider.press("Enter")
    visitor.tab.wait_for_selector("text=t = 7:", timeout=30_000)
    assert "t = 7:" not in before


@pytest.mark.long
def test_a_painted_part_is_drawn_again(visitor, photo):
    visitor.tab_of("Repaint")
    visitor.button("Repaint").click()
    visitor.tab.wait_for_selector("text=the picture must be given", timeout=30_000)
    visitor.upload(photo)
    visitor.tab.wait_for_timeout(2000)
    visitor.tab.get_by_role("button", name="Brush", exact=False).first.click()
    box = visitor.tab.locator("canvas").locator("visible=true").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    visitor.tab.mouse.move(x - 20, y)
    visitor.tab.mouse.down()
    visitor.tab.mouse.move(x + 20, y + 10, steps=5)
    visitor.tab.mouse.up()
    visitor.tab.wait_for_timeout(1000)
    visitor.new_picture(visitor.button("Repaint").click, width=256)


def test_a_port_that_is_taken_is_one_line(served, tmp_path, capsys):
    fake_run(tmp_path / "run", conditional=False)
    with pytest.raises(InputError, match=rf"port must be free .*, got {served[1]}"):
        launch(jd.load(tmp_path / "run"), "run", "127.0.0.1", served[1])
    with pytest.raises(SystemExit) as stop:
        program.jaxdiff(["demo", str(tmp_path / "run"), "--port", "0"])
    assert stop.value.code == 2
    assert "port must lie in 1..65535, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_addresses_that_others_reach(host, local):
    assert _is_local(host) == local
