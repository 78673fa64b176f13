"""Pictures: positions of pixels, sizes, frame times, and one-line errors."""

import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from sklearn.datasets import load_digits

from jaxdiff import plots
from jaxdiff.errors import InputError
from jaxdiff.plots import images
from jaxdiff.plots.images import GAP, GAP_COLOUR

RNG = np.random.default_rng(0)
GREY = np.round(load_digits().images[:12, ..., None] * 255 / 16).astype(np.uint8)
RGB = RNG.integers(0, 256, (5, 32, 24, 3), np.uint8)
STEPS = np.arange(1, 101)


def read(path):
    """Returns the pixels of a PNG [h, w, C]."""
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def check_sheet(pixels, images, columns, scale, gap=GAP, tolerance=0):
    """Checks that each image is at its place, enlarged, and that the rest is gap."""
    rest = np.ones(pixels.shape[:2], bool)
    height, width = images.shape[1] * scale, images.shape[2] * scale
    for i, image in enumerate(images):
        y = GAP + i // columns * (height + GAP)
        x = gap + i % columns * (width + gap)
        place = np.s_[y : y + height, x : x + width]
        expected = np.kron(image, np.ones((scale, scale, 1), np.uint8))
        difference = np.abs(pixels[place].astype(int) - expected)
        assert difference.max() <= tolerance
        assert rest[place].all()
        rest[place] = False
    assert (pixels[rest] == GAP_COLOUR).all()


@pytest.mark.parametrize(
    ("images", "columns", "scale", "used", "size"),
    [
        (GREY, None, None, (4, 8), (216, 286)),
        (GREY, 6, 3, (6, 3), (66, 186)),
        (GREY, 99, 1, (12, 1), (20, 174)),
        (RGB, None, None, (3, 2), (146, 168)),  # the last row is incomplete
    ],
)
def test_grid_has_every_pixel_at_its_place(
    tmp_path, images, columns, scale, used, size
):
    plots.save_grid(tmp_path / "grid.png", images, columns=columns, scale=scale)
    pixels = read(tmp_path / "grid.png")
    assert pixels.shape == (*size, images.shape[-1])
    check_sheet(pixels, images, *used)


def test_row_labels_are_left_of_the_middles_of_their_rows(tmp_path):
    plots.save_grid(tmp_path / "grid.png", GREY, row_labels=["one", "", "three"])
    pixels = read(tmp_path / "grid.png")
    left = pixels.shape[1] - (4 * 70 + GAP)
    check_sheet(pixels[:, left:], GREY, columns=4, scale=8)
    ink = pixels[:, :left, 0] < 128
    assert not ink[:, :GAP].any()  # nothing is clipped
    for row, inked in enumerate((True, False, True)):
        lines = np.flatnonzero(ink[GAP + 70 * row : 70 * (row + 1)].any(axis=1))
        assert inked == bool(lines.size)
        if inked:
            assert abs(lines.mean() - 32) < 4


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_grey_images_side_by_side(tmp_path, channels):
    shape = (3, 8, 8, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    beside = np.concatenate(np.split(images, channels, axis=-1), axis=2)
    plots.save_grid(tmp_path / "grid.png", images, columns=2, scale=3)
    check_sheet(read(tmp_path / "grid.png"), beside, columns=2, scale=3)
    plots.save_gif(tmp_path / "a.gif", images[None], columns=3, scale=1)
    with cast(Any, GifImageFile(tmp_path / "a.gif")) as gif:
        pixels = np.asarray(gif.convert("L"))[..., None]
    check_sheet(pixels, beside, columns=3, scale=1, tolerance=8)


def test_labels_without_a_glyph_are_escaped_or_drawn_in_another_font(
    tmp_path, monkeypatch
):
    """An empty box stands for any character, so it names no class."""
    manager = pytest.importorskip("matplotlib.font_manager").fontManager
    ours = [
        one for one in manager.ttflist if one.name in ("DejaVu Sans", "STIXGeneral")
    ]
    monkeypatch.setattr(manager, "ttflist", ours)
    images._font_file.cache_clear()
    (rare, *_) = images._glyphs(
        next(one.fname for one in ours if "STIX" in one.fname)
    ) - images._glyphs(images._usual_font())
    assert images.drawable(chr(rare)) == chr(rare)
    assert "STIX" in images.font(chr(rare)).path
    assert "DejaVu" in images.font("cat").path
    for path, names in (
        ("names.png", ["猫 Ω", "\U0001f408\u200d", ""]),
        ("escaped.png", ["\\u732b Ω", "\\U0001f408\\u200d", ""]),
    ):
        plots.save_grid(tmp_path / path, GREY, row_labels=names)
    same = {(tmp_path / path).read_bytes() for path in ("names.png", "escaped.png")}
    assert len(same) == 1
    images._font_file.cache_clear()


def test_labels_that_cannot_be_printed_are_escaped(tmp_path):
    names = ["two\nlines", "caf\udce9", "\x1b[31m"]
    plots.save_grid(tmp_path / "names.png", GREY, row_labels=names)
    escaped = [r"two\nlines", r"caf\udce9", r"\x1b[31m"]
    plots.save_grid(tmp_path / "escaped.png", GREY, row_labels=escaped)
    assert (read(tmp_path / "names.png") == read(tmp_path / "escaped.png")).all()


def test_strip_with_captions(tmp_path):
    plots.save_strip(tmp_path / "plain.png", GREY[:3])
    check_sheet(read(tmp_path / "plain.png"), GREY[:3], columns=3, scale=8)
    captions = ["t = 0", "t = 99", "a caption wider than its image"]
    plots.save_strip(str(tmp_path / "strip.png"), GREY[:3], captions)
    pixels = read(tmp_path / "strip.png")
    gap = (pixels.shape[1] - 3 * 64) // 4
    assert gap > 100
    check_sheet(pixels[: 64 + 2 * GAP], GREY[:3], columns=3, scale=8, gap=gap)
    ink = pixels[64 + 2 * GAP :, :, 0] < 128
    assert not ink[-1].any()
    for i in range(3):
        middle = gap + 32 + i * (64 + gap)
        half = (64 + gap) // 2
        across = np.flatnonzero(ink[:, middle - half : middle + half].any(axis=0))
        assert abs(across.mean() - half) < 8


def test_captions_that_fit_leave_the_gaps_alone(tmp_path):
    plots.save_strip(tmp_path / "strip.png", GREY[:2], [0, 1])
    assert read(tmp_path / "strip.png").shape[1] == 2 * 64 + 3 * GAP


@pytest.mark.parametrize(("images", "scale"), [(GREY[:5], 8), (RGB, 2)])
def test_gif_frames_times_and_pixels(tmp_path, images, scale):
    if images is RGB:  # few colours, which all fit into the palette
        images = images // 128 * 127
    frames = np.stack([np.roll(images, i, axis=0) for i in range(4)])
    plots.save_gif(tmp_path / "a.gif", frames, columns=2, milliseconds=50, hold=900)
    with cast(Any, GifImageFile(tmp_path / "a.gif")) as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 4)
        assert gif.info["loop"] == 0
        times = []
        for i, frame in enumerate(frames):
            gif.seek(i)
            times.append(gif.info["duration"])
            pixels = np.asarray(gif.convert("RGB"))
            check_sheet(
                pixels,
                np.broadcast_to(frame, (*frame.shape[:3], 3)),
                2,
                scale,
                tolerance=8 if frame.shape[-1] == 1 else 0,
            )
    assert times == [50, 50, 50, 900]


def test_gif_of_many_colours_and_of_one_frame(tmp_path):
    plots.save_gif(tmp_path / "a.gif", RGB[None], hold=500, scale=1)
    with cast(Any, GifImageFile(tmp_path / "a.gif")) as gif:
        assert gif.n_frames == 1
        pixels = np.asarray(gif.convert("RGB"))
    check_sheet(pixels, RGB, columns=3, scale=1, tolerance=110)


def test_curves_are_small_pngs_that_show_their_lines(tmp_path):
    loss = 1 / STEPS
    holes = np.where(STEPS % 3 == 0, np.nan, loss * 2)
    plots.save_curve(tmp_path / "loss.png", STEPS, {"loss": loss, "t < 250": holes})
    linear = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    ends = np.linspace(1, 0, 50)  # an infinite log-SNR at both ends
    plots.save_schedules(tmp_path / "s.png", {"linear": linear, "ends": ends})
    for name, size, colours in (
        ("loss.png", (432, 900), ((51, 51, 51), (0, 114, 178))),
        ("s.png", (432, 1200), ((0, 114, 178), (230, 159, 0))),
    ):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert pixels.shape == (*size, 3)
        assert (pixels[0, 0] == 255).all()
        assert (tmp_path / name).stat().st_size < 100 * 1024
        for colour in colours:
            assert (np.abs(pixels - colour).max(axis=-1) < 12).sum() > 100


def diagnosis(log_snr, step_loss, marks=None, limits=(1, 1)):
    """Returns the fields of a diagnosis that the plot uses."""
    return SimpleNamespace(
        log_snr=log_snr, step_loss=step_loss, marks=marks or {}, limits=limits
    )


@pytest.mark.parametrize("num_steps", [1, 40, 1000])
def test_a_diagnosis_is_three_panels_with_their_limits(tmp_path, num_steps):
    log_snr, loss = np.linspace(9, -9, num_steps), np.full(num_steps, 1e-3)
    if num_steps > 1:
        log_snr[-1] = -np.inf  # zero terminal SNR
    path, marks = tmp_path / "d.png", {"SNR 1": 0.0}
    with warnings.catch_warnings(action="error"):
        plots.save_diagnosis(path, diagnosis(log_snr, loss, marks, (0.01, 0.05)))
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape == (432, 1200, 3)
    assert path.stat().st_size < 100 * 1024
    falls = []
    for panel in np.split(pixels[:, :1080], 3, axis=1):
        curve, limit = (
            np.abs(panel - colour).max(axis=-1) < 80
            for colour in ((0, 114, 178), (213, 94, 0))
        )
        assert (limit.sum(axis=1) > 100).sum() in (1, 2)  # one dashed line
        inked = np.flatnonzero(curve.any(axis=0))
        if num_steps > 1:
            assert inked.size > 250  # nearly as wide as the panel
            left, right = curve[:, inked[10]], curve[:, inked[-10]]
            falls.append(np.flatnonzero(right).mean() - np.flatnonzero(left).mean())
    if num_steps > 1:
        snr, step, total = falls  # in pixels, downwards
        assert snr > 150
        assert abs(step) < 2
        assert total < -100


def test_a_loss_that_is_nowhere_finite_is_no_error(tmp_path):
    plots.save_curve(tmp_path / "loss.png", STEPS, {"loss": STEPS * np.nan})
    assert read(tmp_path / "loss.png").size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: plots.save_grid(p, GREY / 255),
            r"images must be uint8 .* got float64",
        ),
        (
            lambda p: plots.save_grid(p, GREY[0]),
            r"uint8 \[N, H.* got uint8 \(8, 8, 1\)",
        ),
        (
            lambda p: plots.save_grid(p, GREY[:0]),
            r"none empty, got uint8 \(0, 8, 8, 1\)",
        ),
        (lambda p: plots.save_gif(p, GREY), r"frames must be uint8 \[F, N, H, W, C\]"),
        (lambda p: plots.save_grid(p, GREY, columns=0), "columns must be .* 1, got 0"),
        (lambda p: plots.save_grid(p, GREY, scale=-1), "scale must be .* 1, got -1"),
        (
            lambda p: plots.save_grid(p, GREY, columns=4, row_labels="ab"),
            "row_labels must have one text for each of the 3 rows, got 2",
        ),
        (
            lambda p: plots.save_grid(p, GREY, row_labels=[]),
            "row_labels must have .* got 0",
        ),
        (
            lambda p: plots.save_strip(p, GREY, ["a"]),
            "for each of the 12 images, got 1",
        ),
        (lambda p: plots.save_gif(p, GREY[None], hold=1), "at least 20, got 80 and 1"),
        (lambda p: plots.save_curve(p, STEPS, {}), "nothing to draw. Give"),
        (
            lambda p: plots.save_curve(p, STEPS, {"loss": STEPS[1:]}),
            r"series 'loss' must have one value per x, got \(99,\) and x \(100,\)",
        ),
        (
            lambda p: plots.save_diagnosis(p, diagnosis(STEPS, STEPS[1:])),
            r"log_snr and step_loss must .* \[T\], got shapes \(100,\) and \(99,\)",
        ),
        (
            lambda p: plots.save_diagnosis(p, diagnosis(STEPS[:0], STEPS[:0])),
            r"must both be \[T\], got shapes \(0,\)",
        ),
        (lambda p: plots.save_schedules(p, {}), "nothing to draw. Give"),
        (
            lambda p: plots.save_schedules(p, {"x": np.array([0.5, 1.5])}),
            r"schedule 'x' must be \[T\] .* got shape \(2,\), 0.5 to 1.5",
        ),
        (lambda p: plots.save_schedules(p, {"x": np.array([np.nan])}), "nan"),
        (lambda p: plots.save_schedules(p, {"x": np.zeros((2, 2))}), r"\(2, 2\)"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(tmp_path / "x")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_pyplot_is_never_imported_and_the_rest_only_when_drawing(tmp_path):
    code = f"""
import sys
from types import SimpleNamespace
import numpy as np
from jaxdiff import plots
assert not {{"matplotlib", "PIL"}} & set(sys.modules)
plots.save_grid({str(tmp_path / "a.png")!r}, np.zeros((2, 8, 8, 1), np.uint8))
plots.save_curve({str(tmp_path / "b.png")!r}, [1, 2], {{"loss": [2.0, 1.0]}})
plots.save_schedules({str(tmp_path / "c.png")!r}, {{"x": [0.9, 0.1]}})
found = SimpleNamespace(log_snr=[1], step_loss=[1], marks={{}}, limits=(1, 1))
plots.save_diagnosis({str(tmp_path / "d.png")!r}, found)
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(tmp_path.iterdir())) == 4
