"""The command `demo`: a page in the browser to play with a trained model."""

import ipaddress
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from jaxdiff.checks import check_fields
from jaxdiff.demo.page import launch
from jaxdiff.errors import printable
from jaxdiff.runs.enlarge import refuse_image_condition
from jaxdiff.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of the command `demo`."""

    workdir: Path
    """Run folder to play with; it is only read."""
    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1 is reached from this machine only, 0.0.0.0 from
    all its networks."""
    port: Annotated[int, Interval(ge=1, le=65535)] = 7860
    """Port to listen on."""


def demo(options: DemoOptions, run: Run) -> None:
    """Serves a page of the run until Ctrl-C."""
    check_fields(options)
    refuse_image_condition(run.experiment, "demo")
    page = launch(run, printable(options.workdir.name), options.host, options.port)
    print(f"the page is at http://{options.host}:{options.port}; Ctrl-C ends it")
    if not _is_local(options.host):
        print(
            f"warning: everyone who reaches this machine at {options.host} can draw "
            "and upload pictures, without a password.",
            file=sys.stderr,
        )
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped.")
    finally:
        page.close(verbose=False)


def _is_local(host: str) -> bool:
    """Returns True if only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
