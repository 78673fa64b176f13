"""Page of a run: its content in a real browser, and its safety."""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from jaxdiff import plots
from jaxdiff.errors import InputError
from jaxdiff.report import page
from jaxdiff.runs.folder import write_record
from jaxdiff.runs.tensorboard import grid_path
from jaxdiff.training.experiment import DataInfo
from tests.helpers.fake_run import CONFIG

EVIL = "<script>document.title='run'</script>"
LAPTOP, PHONE = 1366, 390
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOOK = """() => ({
  text: document.body.innerText,
  width: document.scrollingElement.scrollWidth,
  inner: innerWidth,
  images: [...document.images].map(i => [i.naturalWidth, i.alt, i.src.slice(0, 14)]),
  outside: [...document.querySelectorAll("body *")]
    .filter(e => !e.closest(".scroll, .strip") && e.getClientRects().length
      && (e.getBoundingClientRect().right > innerWidth + 1
        || e.getBoundingClientRect().left < -1))
    .map(e => e.outerHTML.slice(0, 80)),
  shown: [...document.querySelectorAll(".strip figure")]
    .filter(e => e.getClientRects().length).map(e => e.querySelector("img").alt),
  output: document.querySelector("output")?.value,
})"""
"""Script that measures a page. Elements in a box that scrolls are not `outside`."""


def save_picture(path: Path, num: int = 6) -> None:
    rng = np.random.default_rng(num)
    images = rng.integers(0, 256, (num, 8, 8, 1), np.uint8)
    plots.save_grid(path, images, columns=min(num, 40))


def write_lines(path: Path, lines: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_full(workdir: Path) -> None:
    """Makes a run folder with all files that the page shows, some of them hostile."""
    workdir.mkdir()
    upkeep = dataclasses.replace(CONFIG.upkeep, sample_every=10)
    training = dataclasses.replace(CONFIG.training, num_steps=40)
    experiment = dataclasses.replace(CONFIG, upkeep=upkeep, training=training)
    info = DataInfo((8, 8, 1), 3, (EVIL, "two", "x" * 300), "0123456789abcdef")
    write_record(workdir, experiment, info)
    steps = range(10, 41, 10)
    quarters = {f"loss_q{q}": q / 7 for q in (1, 2, 3, 4)}
    values = {"grad_norm": 2.5, "grad_norm_max": 5.0, "learning_rate": 1e-4}
    lines = [{"step": s, "loss": 0.54321 / s, **values, **quarters} for s in steps]
    write_lines(workdir / "metrics.jsonl", lines)
    start = {
        "event": "start", "step": 0, "time": "2026-01-02T03:04:05Z",
        "command": ["digits.py", "train", EVIL], "versions": {"jax": "9.8.7"},
        "devices": {"kind": "Abacus", "count": 2}, "machine": {"system": "Linux-0.1"},
    }  # fmt: skip
    speeds = [
        {"event": "speed", "step": s, "time": f"2026-01-02T03:{4 + s}:05Z",
         "images_per_s": 100.0 + s}
        for s in steps
    ]  # fmt: skip
    end = {"event": "end", "step": 40}
    write_lines(workdir / "history.jsonl", [start, *speeds, end])
    figures = [
        {"name": "Frechet distance", "value": 12.3456, "standard_error": 0.0789,
         "unit": None, "note": EVIL},
        {"name": "bound", "value": 3.2109, "standard_error": None, "unit": "bits"},
    ]  # fmt: skip
    evaluation = {
        "figures": figures,
        "settings": {"images": 297, "features": {"name": "classifier"}},
        "loss_by_timestep": {"t": [0, 1, 2, 3], "loss": [0.9, 0.5, 0.2, 0.1]},
    }
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    row = {"sampler": "ddim", "evaluations": 10, "agreement": 0.9871, "distance": 1.5}
    (workdir / "compare.json").write_text(json.dumps({"quality": [row]}))
    for name in ("samples.png", "bound.png", "ema.png", "own picture.png"):
        save_picture(workdir / name)
    save_picture(workdir / "samplers.png", num=40)
    plots.save_gif(workdir / "reverse.gif", np.zeros((2, 3, 8, 8, 1), np.uint8))
    (workdir / "grids").mkdir()
    for step in steps:
        save_picture(grid_path(workdir, step), num=step)


def make_empty(workdir: Path) -> None:
    """Makes the folder of a run that has just begun."""
    workdir.mkdir()
    write_record(workdir, CONFIG, DataInfo((8, 8, 1), None, None))


def browser_path() -> str:
    """Returns the path of a browser on this machine."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.fail(
            "no browser to look at the page with: install Debian's package chromium "
            "(apt-get install chromium), or Google Chrome"
        )
    return browser


def look(path: Path, widths: dict[int, str]) -> dict[int, Any]:
    """Measures a page in a browser at widths in pixels, each with a colour scheme."""
    browser = browser_path()
    found = {}
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=browser, args=SWITCHES) as program,
    ):
        for width, scheme in widths.items():
            size = {"width": width, "height": 844}
            options: Any = {"viewport": size, "color_scheme": scheme}
            tab: Any = program.new_context(**options).new_page()
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, to=said: to.append(message.text))
            tab.on("pageerror", lambda error, to=said: to.append(str(error)))
            tab.on("request", lambda request, to=asked: to.append(request.url))
            tab.goto(path.as_uri())
            first = tab.evaluate(LOOK)
            slider = tab.query_selector("input[type=range]")
            if slider is not None:
                slider.focus()
                tab.keyboard.press("ArrowLeft")
            moved = tab.evaluate(LOOK)
            asked = [url for url in asked if not url.startswith("data:")]
            found[width] = SimpleNamespace(
                **first,
                said=said,
                asked=asked,
                title=tab.title(),
                first=(first["shown"], first["output"]),
                moved=(moved["shown"], moved["output"]),
            )
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Folder of a complete run, and its page as a browser shows it."""
    workdir = tmp_path_factory.mktemp("page") / "my <run> & yours"
    make_full(workdir)
    path = page.write_page(workdir)
    return workdir, look(path, {LAPTOP: "light", PHONE: "dark"})


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("page") / "empty"
    make_empty(workdir)
    return look(page.write_page(workdir), {PHONE: "light"})[PHONE]


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_the_page_fits_and_its_pictures_are_there(full, width):
    workdir, seen = full
    found = seen[width]
    assert found.width <= found.inner == width
    assert found.outside == []
    # 5 curves, 6 pictures and 4 grids.
    assert len(found.images) == 15
    for natural, alt, source in found.images:
        assert natural > 0, alt
        assert alt
        assert re.match("data:image/(png|gif)", source)
    assert found.said == []
    assert found.asked == [(workdir / "report.html").as_uri()]


def test_the_figures_are_on_the_page(full):
    for found in full[1].values():
        for text in (
            "my <run> & yours", "step 40 of 40 (100%), finished", "40 min 0 s",
            "0.0135802", "12.3456 ± 0.0789", "3.2109", "297", "classifier", "ddim",
            "0.9871", "9.8.7", "Abacus", "Linux-0.1", "digits.py train", "Linear",
            "learning_rate", "beta_end", "0.9", "own picture.png", "Loss by time",
        ):  # fmt: skip
            assert text in found.text, text


def test_what_a_run_says_is_text_and_never_runs(full):
    for found in full[1].values():
        assert found.text.count(EVIL) == 3  # a class, the command and a note
        assert found.title == "my <run> & yours: step 40 of 40 (100%), finished"


def test_a_slider_shows_one_grid_at_a_time(full):
    for found in full[1].values():
        assert found.first == (["Samples at step 40"], "Step 40")
        assert found.moved == (["Samples at step 30"], "Step 30")


def test_a_run_that_has_just_begun_tells_what_to_do(empty):
    assert empty.width <= empty.inner == PHONE
    assert (empty.outside, empty.images, empty.said) == ([], [], [])
    for text in (
        "step 0 of 2 (0%)", "the command train", "the commands run and sample",
        "--upkeep.sample-every", "the command evaluate", "the command compare",
    ):  # fmt: skip
        assert text in empty.text, text


class Reader(HTMLParser):
    """Parser that collects what a page would load or run."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        values = dict(attrs)
        self._inside = tag
        self.loaded += [v for k, v in attrs if k in ("src", "srcset", "data")]
        self.loaded += [values["href"]] if "href" in values else []
        assert not [k for k in values if k.startswith("on")]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]

    def handle_data(self, data: str) -> None:
        if self._inside == "script" and data.strip():
            self.scripts.append(data)


def test_the_page_is_one_file(full):
    text = (full[0] / "report.html").read_text()
    found = Reader(text)
    assert [
        x for x in found.loaded if not x.startswith(("data:image/", "#part-"))
    ] == []
    own = Path(page.__file__).with_name("page.js").read_text()
    assert found.scripts == [own]
    assert "default-src 'none'" in found.policy
    assert "url(" not in text
    assert "@import" not in text


def test_links_and_other_files_are_not_shown(tmp_path):
    workdir, secret = tmp_path / "run", tmp_path / "secret.png"
    make_empty(workdir)
    save_picture(secret)
    (workdir / "samples.png").symlink_to(secret)
    (workdir / "bound.png").write_text("<svg onload=alert(1)>")
    (workdir / "ema.png").write_bytes(b"\x89PNG")
    (workdir / "compare.png").mkdir()
    (workdir / "evaluation.json").symlink_to(workdir / "config.json")
    assert "data:image" not in page.write_page(workdir).read_text()


@pytest.mark.filterwarnings("ignore:.*(unreadable|must hold a JSON object)")
@pytest.mark.parametrize(
    "evaluation",
    [
        {},
        {"figures": 3, "bits_per_dim": [1], "settings": "x", "loss_by_timestep": 1},
        {"figures": [1, None, {}, {"name": {"a": 1}, "value": "much"}]},
        {"figures": [{"value": 10**400, "standard_error": -1e300, "unit": ["x"]}]},
        {"loss_by_timestep": {"t": [1, 2], "loss": [1]}},
        {"loss_by_timestep": {"t": ["a", 1e300], "loss": [None, True]}},
        {"bits_per_dim": {"a": 1, "b": {"value": None}}},
        [],
    ],
)
def test_whatever_a_file_holds_there_is_a_page(tmp_path, evaluation):
    workdir = tmp_path / "run"
    make_empty(workdir)
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    (workdir / "compare.json").write_text('{"quality": [1, {"sampler": []}]}')
    lines = [{"step": "x"}, {"step": 1, "loss": "low"}, {"step": 2, "loss": 10**400}]
    write_lines(workdir / "metrics.jsonl", lines)
    events = [
        {"event": "start", "time": 3, "versions": 1, "command": 2, "devices": [3]},
        {"event": "speed", "step": [1], "time": "soon", "images_per_s": "many"},
        {"event": ["end"], "time": "9999-12-31T23:59:59Z", "step": 10**50},
    ]
    write_lines(workdir / "history.jsonl", events)
    assert "Configuration" in page.write_page(workdir).read_text()


def test_the_bits_of_older_runs_are_figures_too(tmp_path):
    workdir = tmp_path / "run"
    make_empty(workdir)
    bits = {"variational bound": {"value": 4.4567, "standard_error": 0.0123}}
    record = {"split": "test", "images": 297, "bits_per_dim": bits}
    (workdir / "evaluation.json").write_text(json.dumps(record))
    text = page.write_page(workdir).read_text()
    for part in ("4.4567 ± 0.0123", "bits per dimension", "<dd>297</dd>"):
        assert part in text


def test_a_page_that_cannot_be_written_loses_no_work(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    make_empty(workdir)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=r"jinja2 cannot be imported .*\. Run: pip"):
        page.write_page(workdir)
    with pytest.warns(UserWarning, match=r"skipped report\.html: jinja2 cannot be"):
        page.refresh(workdir)
