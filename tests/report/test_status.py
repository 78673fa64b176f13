"""Contents of a run folder as text: nothing in it reaches the terminal unescaped."""

import dataclasses
import json
import os

from jaxdiff.data import ImageFolder
from jaxdiff.errors import printable
from jaxdiff.report import page
from jaxdiff.report.status import status
from jaxdiff.runs.folder import write_record
from jaxdiff.training.experiment import DataInfo
from tests.helpers.fake_run import CONFIG

EVIL = "\x1b]0;title\x07\x1b[2J\r\n\u202eevil\x9b31m"
LATIN = os.fsdecode(b"latin-\xe9")


def test_printable_text_is_one_line_without_control_characters():
    assert printable("a b ü 图") == "a b ü 图"
    assert printable("\x1b[2J\n\u202e") == "\\x1b[2J\\n\\u202e"
    assert printable(LATIN) == "latin-\\udce9"


def test_escape_sequences_of_a_run_folder_are_shown_as_text(tmp_path):
    workdir = tmp_path / f"run{EVIL}{LATIN}"
    workdir.mkdir()
    experiment = dataclasses.replace(CONFIG, data=ImageFolder(path=EVIL + LATIN))
    write_record(workdir, experiment, DataInfo((8, 8, 1), 2, (EVIL, "two")))
    start = {"event": "start", "step": 0, "time": EVIL, "versions": {"jax": EVIL},
             "devices": {"kind": EVIL}, "code": {"commit": EVIL}}  # fmt: skip
    speed = {"event": "speed", "step": 1, "time": EVIL, "images_per_s": EVIL}
    lines = [json.dumps(event) + "\n" for event in (start, speed)]
    (workdir / "history.jsonl").write_text("".join(lines))
    metrics = {"step": 1, EVIL: 1.5, "loss": EVIL}
    (workdir / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    text = status(workdir)
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count("\\x1b[2J") >= 9
    assert "latin-\\udce9" in text
    assert "latin-\\udce9" in page.write_page(workdir).read_text()
