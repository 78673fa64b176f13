"""Fuzzing of the files that hold captions: text, JSON lines and CSV."""

import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from jaxdiff.data.caption_files import read_captions, read_metadata
from tests.helpers.fuzz_strategies import JSON, TEXTS, mostly, mutated, or_refused

_ROWS = (
    {"file_name": "a.png", "text": "a cat"},
    {"file_name": "ü/日本.png", "text": ["", "e\u0301", "👩🏿‍🚒"], "width": 8},
    {"file_name": "c.png", "text": None},
)
FILES = {
    "metadata.jsonl": [
        "\n".join(json.dumps(row) for row in _ROWS).encode(),
        "\r\n".join(json.dumps(row, ensure_ascii=False) for row in _ROWS).encode(),
    ],
    "metadata.csv": [
        b"file_name,text\na.png,a cat\nb.png,x\n",
        '\ufeffwidth,text,file_name\r\n8,"日本, ""x""\r\ny",ü/b.png\r\n'.encode(),
    ],
    "a.txt": [
        b"a cat\n\na dog\r\nx\ry",
        "\ufeff日本\u2028 e\u0301\n".encode(),
        "text".encode("utf-16"),
    ],
}
"""Valid files of each form."""


def _dumped(value: Any) -> bytes:
    """Returns a value as JSON; Python cannot write all that are nested deeply."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 5000


_LINES = st.one_of(
    JSON.map(_dumped),
    st.builds(
        lambda name, text: _dumped({"file_name": name, "text": text}),
        st.one_of(TEXTS, JSON),
        st.one_of(TEXTS, st.lists(TEXTS, max_size=3), JSON),
    ),
    TEXTS.map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from([b"[" * 100_000, b'"', b'a,"b', b"1" * 5000, b"x," * 5000]),
)
CHANGED: st.SearchStrategy[tuple[str, bytes]] = st.sampled_from(list(FILES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        mostly(
            mutated(st.sampled_from(FILES[name])),
            st.builds(
                lambda start, lines: start + b"\n".join(lines),
                st.sampled_from([b"", b"file_name,text\n", *FILES[name]]),
                st.lists(_LINES, max_size=3),
            ),
        ),
    )
)
_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")


def read(name: str, data: bytes) -> list[tuple[str, ...]]:
    """Returns the captions in a file of this name."""
    path = Path(_FOLDER.name) / name
    path.write_bytes(data)
    if name == "a.txt":
        return [read_captions(path)]
    return [captions for _, _, captions in read_metadata(path)]


def check_captions(file: tuple[str, bytes]) -> None:
    """Checks that a file gives clean captions, or an InputError."""
    for captions in or_refused(lambda: read(*file)) or []:
        assert captions
        for text in captions:
            assert text.encode().decode() == text
            assert unicodedata.normalize("NFC", text).strip() == text


CAPTIONS: dict[str, Any] = {"captions": (check_captions, {"file": CHANGED}, 100)}
"""Property of the files, as in `fuzz.PROPERTIES`."""
