"""Grids with texts below the images: wrapped, cut with dots, never boxes."""

import numpy as np
import pytest
from PIL import Image

from jaxdiff import plots
from jaxdiff.errors import InputError
from jaxdiff.plots import images
from jaxdiff.plots.captioned import LINE, SIZE, wrapped
from jaxdiff.plots.images import GAP, font

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
PITCH = 96 + 2 * GAP
"""Distance of two images of 64 pixels with texts of 96 pixels."""
LONG = "woman firefighter, dark skin tone"


def drawn(path, captions, columns=3, tiles=IMAGES):
    plots.save_captioned(path, tiles, captions, columns=columns)
    return np.asarray(Image.open(path))


def rows_with_ink(pixels, left, right):
    """Returns the rows with text in these columns."""
    return np.flatnonzero((pixels[:, left:right] < 128).any(axis=(1, 2)))


@pytest.mark.parametrize("width", [60, 96, 300])
@pytest.mark.parametrize("text", [LONG, "a", "", "Ähnlich" * 20, "one two " * 30])
def test_lines_fit_and_hold_the_text(text, width):
    lines = wrapped(text, width)
    assert 1 <= len(lines) <= 3
    for line in lines:
        assert font(line, SIZE).getlength(line) <= width
    whole = wrapped(text, width, most=1000)
    assert "".join(whole).replace(" ", "") == text.replace(" ", "")
    assert (lines == whole) == (len(whole) <= 3)
    if lines != whole:
        assert lines[-1].endswith("...")
        assert lines[:2] == whole[:2]


def test_a_text_is_below_its_image(tmp_path):
    pixels = drawn(tmp_path / "a.png", ["", LONG, "", "", "red"])
    left = PITCH - 64  # of the first image
    for i, image in enumerate(IMAGES):
        y = GAP if i < 3 else GAP + 64 + GAP + 3 * LINE + GAP + GAP
        x = left + i % 3 * PITCH
        large = image.repeat(4, 0).repeat(4, 1)
        np.testing.assert_array_equal(pixels[y : y + 64, x : x + 64], large)
    below = pixels[GAP + 64 : 2 * GAP + 64 + 3 * LINE]
    assert not rows_with_ink(below, 0, PITCH).size
    assert not rows_with_ink(below, 2 * PITCH + 20, 3 * PITCH).size
    assert len(rows_with_ink(below, PITCH, 2 * PITCH)) >= 2 * LINE  # of three lines


def test_neighbours_share_a_text(tmp_path):
    shared = drawn(tmp_path / "a.png", [LONG] * 3, tiles=IMAGES[:3])
    alone = drawn(tmp_path / "b.png", [LONG, "", LONG], tiles=IMAGES[:3])
    assert len(alone) == len(shared) + 2 * LINE
    middle = rows_with_ink(shared[GAP + 64 :], PITCH + 20, 2 * PITCH)
    assert middle.size, "the text is below the middle image"


def test_missing_glyphs_are_named_and_escaped(tmp_path, monkeypatch):
    usual = images._usual_font()
    monkeypatch.setattr(
        images, "_font_file", lambda text: usual if text.isascii() else None
    )
    texts = ["a 猫", "ok", "", "", ""]
    with pytest.warns(UserWarning, match=r"draws 1 of the texts .*U\+732B\).*Install"):
        found = drawn(tmp_path / "a.png", texts)
    texts[0] = "a \\u732b"
    np.testing.assert_array_equal(found, drawn(tmp_path / "b.png", texts))


def test_each_image_has_a_text(tmp_path):
    with pytest.raises(InputError, match="one text for each of the 5 images, got 1"):
        drawn(tmp_path / "a.png", ["a"])
