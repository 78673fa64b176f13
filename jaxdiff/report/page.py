"""A run on one page: a file that needs no network.

The page shows the contents of a run folder. The folder may come from elsewhere, so all
of it is data. Every text is escaped, only PNGs and GIFs are shown, and links are not
followed. The page's own policy lets the browser run this package's script alone.
"""

import base64
import hashlib
import warnings
from pathlib import Path

from jaxdiff import plots
from jaxdiff.errors import InputError, printable, require
from jaxdiff.report.sections import PARTS, Seen, took
from jaxdiff.report.text import plain, reached
from jaxdiff.runs.folder import HISTORY, METRICS, PAGE, read_config
from jaxdiff.runs.provenance import now
from jaxdiff.storage import json_lines
from jaxdiff.storage.files import write_atomic

HERE = Path(__file__).parent


def write_page(workdir: Path) -> Path:
    """Writes the page of a run, and returns the page's path.

    Raises:
        InputError: If the run does not exist, a package is missing, or the page cannot
            be written.
    """
    jinja = require("jinja2")
    plots.check_installed()
    lines = json_lines.read(workdir / METRICS, "step")
    lines = [line for line in lines if type(line["step"]) is int]
    history = json_lines.read(workdir / HISTORY, "event")
    run = Seen(workdir, *read_config(workdir), lines, history)
    steps = [event.get("step") for event in (*lines, *history)]
    step = max((s for s in steps if type(s) is int), default=0)
    end = run.experiment.training.num_steps
    script = (HERE / "page.js").read_text(encoding="utf-8")
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=jinja.StrictUndefined,
    )  # fmt: skip
    text = environment.get_template("page.html.j2").render(
        name=printable(workdir.resolve().name),
        reached=reached(step, end),
        share=min(1.0, step / end),
        took=took(run),
        parts=[part for part in (make(run) for make in PARTS) if part],
        plain=plain,
        written=now(),
        script=require("markupsafe").Markup(script),  # the only unescaped text
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # A path in the configuration may hold bytes that are not UTF-8.
    write_atomic(workdir / PAGE, text.encode(errors="backslashreplace"))
    return workdir / PAGE


def print_place(workdir: Path) -> None:
    """Writes the page, and prints the page's path."""
    print(printable(f"the run on one page: {write_page(workdir)}"))


def refresh(workdir: Path) -> None:
    """Writes the page after other work; a failure is only a warning."""
    try:
        print_place(workdir)
    except InputError as error:
        warnings.warn(f"skipped {PAGE}: {error}", stacklevel=2)
