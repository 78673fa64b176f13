"""Image files: all formats are read correctly, and unreadable files are errors."""

import io
import os
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import image_files
from jaxdiff.data.image_files import MAX_PIXELS, read_image
from jaxdiff.errors import InputError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (8, 8, 3), np.uint8)
GREY = COLOUR[..., 0]
ALPHA = RANDOM.integers(0, 2, (8, 8), np.uint8) * 255
WHITE_WHERE_CLEAR = np.where(ALPHA[..., None] > 0, COLOUR, 255)


def chunk(name: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG file."""
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b""
) -> bytes:
    """Returns a handmade PNG file; each row of `rows` starts with a zero byte."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def flat(colour: Any, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (8, 8), colour)


@pytest.fixture
def read(tmp_path):
    """Function that reads bytes as an image file."""

    def read(data: bytes, size: int = 8, channels: int = 3) -> np.ndarray:
        path = tmp_path / "image"  # has no extension
        path.write_bytes(data)
        return read_image(path, size, channels)

    return read


LOSSLESS = {
    "png": encoded(Image.fromarray(COLOUR), "PNG"),
    "bmp": encoded(Image.fromarray(COLOUR), "BMP"),
    "webp": encoded(Image.fromarray(COLOUR), "WEBP", lossless=True),
    "palette": encoded(Image.fromarray(COLOUR).quantize(64), "PNG"),
    "gif": encoded(Image.fromarray(COLOUR).quantize(64), "GIF"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_come_out_as_they_went_in(read, name):
    image = read(LOSSLESS[name])
    assert image.dtype == np.uint8
    assert np.array_equal(image, COLOUR)


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"progressive": True}), ("JPEG", {}), ("WEBP", {})]
)
def test_lossy_kinds_are_near(read, form, options):
    image = read(encoded(flat((200, 60, 20)), form, quality=95, **options))
    assert np.abs(image.astype(int) - [200, 60, 20]).max() <= 4


def test_grey_is_luma_and_colour_of_grey_is_thrice_the_grey(read):
    luma = read(LOSSLESS["png"], channels=1)
    assert luma.shape == (8, 8, 1)
    assert np.abs(luma[..., 0] - COLOUR @ [0.299, 0.587, 0.114]).max() <= 0.51
    grey = encoded(Image.fromarray(GREY), "PNG")
    assert np.array_equal(read(grey, channels=1)[..., 0], GREY)
    assert np.array_equal(read(grey), np.repeat(GREY[..., None], 3, 2))


def test_transparency_lies_on_white(read):
    rgba = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    for form in ("PNG", "WEBP"):
        image = read(encoded(rgba, form, **({"lossless": True} if form > "Q" else {})))
        assert np.array_equal(image, WHITE_WHERE_CLEAR)
    grey = read(encoded(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"))
    assert np.array_equal(grey[..., 0], np.where(ALPHA > 0, GREY, 255))
    half = read(encoded(flat((0, 0, 0, 128), "RGBA"), "PNG"))
    assert (half == 127).all()


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_clear_colour_of_a_palette_is_white(read, form):
    image = Image.fromarray(COLOUR).quantize(64)
    places = np.asarray(image)
    clear = int(places[0, 0])
    expected = np.where((places == clear)[..., None], 255, COLOUR)
    assert np.array_equal(read(encoded(image, form, transparency=clear)), expected)


def test_the_alphas_of_a_palette_are_mixed_with_white(read):
    image = Image.fromarray(COLOUR).quantize(64)
    alphas = bytes(RANDOM.integers(0, 256, 64, np.uint8))
    share = np.frombuffer(alphas, np.uint8)[np.asarray(image)][..., None] / 255
    expected = COLOUR * share + 255 * (1 - share)
    found = read(encoded(image, "PNG", transparency=alphas))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_and_its_clear_value(read, depth):
    most = 2**depth - 1
    rows = bytes([0, most << (8 - depth)])  # 2 pixels: the maximum and 0
    data = png(2, 1, depth, 0, rows)
    assert read(data, 1).tolist() == [[[255] * 3]]  # the first of the two pixels
    clear = chunk(b"tRNS", struct.pack(">H", 0))
    data = png(2, 1, depth, 0, bytes([0, 0b01 << (8 - 2 * depth)]), clear)
    assert read(data, 1).tolist() == [[[255] * 3]]
    dark = chunk(b"tRNS", struct.pack(">H", 1))
    assert read(png(1, 1, depth, 0, bytes([0, 1 << (8 - depth)]), dark), 1).min() == 255
    assert read(png(1, 1, depth, 0, bytes([0, 0]), dark), 1).max() == 0


def test_grey_of_16_bits_is_scaled_not_clipped(read):
    values = np.arange(0, 65536, 16).astype(np.uint16).reshape(64, 64)
    data = encoded(Image.fromarray(values), "PNG")
    found = read(data, 64, 1)[..., 0]
    assert np.array_equal(found, np.rint(values / 257).astype(np.uint8))
    again = encoded(Image.fromarray(GREY.astype(np.uint16) * 257), "PNG")
    assert np.array_equal(read(again, 8, 1)[..., 0], GREY)


def test_colour_of_16_bits(read):
    rows = b"".join(
        b"\0" + np.ascontiguousarray(row.astype(">u2") * 257).tobytes()
        for row in COLOUR
    )
    assert np.array_equal(read(png(8, 8, 16, 2, rows)), COLOUR)
    clear = chunk(b"tRNS", (COLOUR[0, 0].astype(">u2") * 257).tobytes())
    found = read(png(8, 8, 16, 2, rows, clear))
    assert (found[0, 0] == 255).all()
    assert np.array_equal(found[1:], COLOUR[1:])
    alpha = np.dstack([COLOUR, ALPHA])
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in alpha)
    assert np.array_equal(read(png(8, 8, 16, 6, rows)), WHITE_WHERE_CLEAR)
    grey = png(1, 1, 16, 0, b"\0\x12\x34", chunk(b"tRNS", b"\x12\x34"))
    assert read(grey, 1).min() == 255


def test_two_colours(read):
    bits = RANDOM.integers(0, 2, (8, 8)).astype(bool)
    for form in ("PNG", "BMP", "GIF"):
        found = read(encoded(Image.fromarray(bits), form), 8, 1)[..., 0]
        assert np.array_equal(found, bits * 255)


def test_ink_of_a_jpeg_is_turned_into_light(read):
    """Pillow writes the inks of a CMYK JPEG inverted, as Adobe's programs do."""
    for ink, light in {
        (0, 255, 255, 0): (255, 0, 0),
        (255, 255, 0, 0): (0, 0, 255),
        (0, 0, 0, 255): (0, 0, 0),
        (0, 0, 0, 0): (255, 255, 255),
    }.items():
        data = encoded(flat(ink, "CMYK"), "JPEG", quality=95)
        assert b"Adobe" in data
        assert np.abs(read(data).astype(int) - light).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_exif_is_undone(read, orientation):
    """The eight orientations of EXIF 2.3, 4.6.4, give the same pixels."""
    seen = RANDOM.integers(0, 256, (5, 8, 3), np.uint8)
    turned = seen.transpose(1, 0, 2)
    stored = {
        1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1],
        5: turned, 6: turned[::-1], 7: turned[::-1, ::-1], 8: turned[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(read(data, 5), seen[:, 1:6])


def test_a_damaged_exif_leaves_the_image_as_it_lies(read):
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0XX", b"Exif\0\0MM\0*"):
        assert np.array_equal(
            read(encoded(Image.fromarray(COLOUR), "PNG", exif=exif)), COLOUR
        )


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(read, form):
    frames = [flat(colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(
        frames[0], form, save_all=True, append_images=frames[1:], duration=9, **options
    )
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    assert (read(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (4, 4)])
def test_the_central_square_is_cut_out(read, shape):
    pixels = RANDOM.integers(0, 256, (*shape, 3), np.uint8)
    top, left = (side // 2 - 2 for side in shape)
    expected = pixels[top : top + 4, left : left + 4]
    assert np.array_equal(read(encoded(Image.fromarray(pixels), "PNG"), 4), expected)


def test_making_smaller_averages(read):
    """A fine chessboard becomes grey; without averaging, pixels stay black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    found = read(encoded(Image.fromarray(board.astype(np.uint8)), "PNG"), 8, 1)
    assert np.abs(found.astype(int) - 127).max() <= 8


def test_a_small_image_grows(read):
    data = encoded(Image.new("RGB", (1, 1), "red"), "PNG")
    assert (read(data, 5) == [255, 0, 0]).all()


def test_a_line_of_an_image_takes_no_memory(read):
    """The whole image, at a shorter side of 4096, would be 800 million pixels wide."""
    image = read(encoded(Image.new("L", (200_000, 1), 7), "PNG"), 4096, 1)
    assert (image == 7).all()


# Unreadable files:

TRUNCATED = {
    "JPEG": {}, "PNG": {}, "BMP": {}, "GIF": {}, "WEBP": {"lossless": True}
}  # fmt: skip


@pytest.mark.parametrize("form", TRUNCATED)
def test_a_truncated_file_is_refused(read, form):
    pixels = RANDOM.integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(pixels), form, **TRUNCATED[form])
    assert read(data).shape == (8, 8, 3)
    for length in range(1, 10):
        with pytest.raises(InputError, match="cannot read the image"):
            read(data[: len(data) * length // 10])


def huge(width: int, height: int) -> bytes:
    """Returns a PNG file of width x height pixels with empty image data."""
    return png(width, height, 8, 2, b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"hello", "it is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not an image"),
        (encoded(flat("red"), "TIFF"), "it is not an image"),
        (LOSSLESS["png"][:-30], "truncated"),
        (huge(MAX_PIXELS + 1, 1), rf"{MAX_PIXELS + 1} x 1 pixels.* {MAX_PIXELS:,} "),
        (huge(100_000, 100_000), "it is too large: far more pixels"),
        (huge(2**31 - 1, 2**31 - 1), "it is too large: far more pixels"),
        (huge(0, 5), "image"),
    ],
)
def test_what_is_no_whole_image_is_refused(read, data, message):
    with pytest.raises(InputError, match=message) as error:
        read(data)
    assert "image'" in str(error.value)  # the file's name
    assert "\n" not in str(error.value)


def test_too_many_pixels_are_refused_before_they_are_decoded(read, monkeypatch):
    monkeypatch.setattr(
        "PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decodes")
    )
    with pytest.raises(InputError, match="too large"):
        read(huge(MAX_PIXELS + 1, 1))


def test_pillow_knows_no_higher_limit():
    """Pillow warns above the same number of pixels."""
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in {
        tmp_path: "it is not a regular file",
        tmp_path / "pipe.png": "it is not a regular file",
        tmp_path / "none.png": "No such file",
        Path("a\0b"): "null",
        tmp_path / ("x" * 300): "too long",
        tmp_path / "line\nbreak\x1b[31m": "No such file",
    }.items():
        with pytest.raises(InputError, match=reason) as error:
            read_image(path, 8, 3)
        assert str(error.value).isprintable()


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(LOSSLESS["png"])

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")  # also for root

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"a\.png': Permission denied"):
        read_image(tmp_path / "a.png", 8, 3)


def test_want_of_memory_is_told(read, monkeypatch):
    def fail(*args: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.Image.Image.resize", fail)
    with pytest.raises(InputError, match="does not fit into memory"):
        read(LOSSLESS["png"], 4)


@pytest.mark.parametrize(
    ("size", "channels", "message"),
    [(0, 3, r"1\.\.4096, got 0"), (4097, 3, "got 4097"), (8, 2, "got 2")],
)
def test_a_wrong_size_is_refused(read, size, channels, message):
    with pytest.raises(InputError, match=message):
        read(LOSSLESS["png"], size, channels)


def test_no_warning_and_no_open_file_is_left(read, recwarn):
    warnings.simplefilter("always")
    rows = b"\0\7" * 2
    read(png(1, 2, 8, 0, rows, chunk(b"acTL", bytes(8))), 1)  # an empty animation
    read(encoded(flat("red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    for data in (huge(MAX_PIXELS + 1, 1), b"", LOSSLESS["png"][:-30]):
        with pytest.raises(InputError):
            read(data)
    assert [str(w.message) for w in recwarn] == []


def test_threads_read_at_once(read, tmp_path):
    (tmp_path / "a").write_bytes(LOSSLESS["png"])
    found: list[np.ndarray] = []

    def work() -> None:
        found.extend(read_image(tmp_path / "a", 8, 3) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(np.array_equal(image, COLOUR) for image in found)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif"}])
def test_the_size_of_a_webp_is_read_from_its_header(options):
    for width, height in ((1, 1), (7, 300), (1025, 2)):
        data = encoded(Image.new("RGB", (width, height)), "WEBP", **options)
        assert image_files._webp_size(data[:30]) == (width, height)
    assert image_files._webp_size(encoded(flat(0), "PNG")[:30]) is None
    assert image_files._webp_size(data[:29]) is None


def test_a_huge_webp_is_rejected_before_it_is_opened(read, monkeypatch):
    """Pillow allocates the canvas of a WebP file when it opens the file."""
    side = (2**14 - 1).to_bytes(3, "little")
    data = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + side + side
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(InputError, match="too large: 16384 x 16384 pixels"):
        read(data)


@pytest.mark.parametrize("form", ["WEBP", "PNG"])
def test_threads_decode_a_bounded_number_of_pixels_together(
    tmp_path, monkeypatch, form
):
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.new("RGB", (10, 10)), form))
    monkeypatch.setattr(image_files, "MAX_PIXELS", 250)
    monkeypatch.setattr(image_files, "_budget", image_files._Budget())
    decode, now, most = image_files._decoded, [0], [0]

    def decoded(*args):
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.02)
        try:
            return decode(*args)
        finally:
            now[0] -= 1

    monkeypatch.setattr(image_files, "_decoded", decoded)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read_image(path, 4, 3), range(16)))
    assert len(found) == 16
    assert most == [2]
    path.write_bytes(b"RIFF")  # pixels are free again after an error
    for _ in range(3):
        with pytest.raises(InputError):
            read_image(path, 4, 3)
    assert image_files._budget._left == 250
