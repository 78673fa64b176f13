"""Ctrl-C during imports: one line, code 130, and never lost."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdiff import interrupts
from jaxdiff.errors import require

ROOT = Path(__file__).parents[1]
PRESS = """
import os, signal, sys

class Swallows:
    def __del__(self):  # Python loses exceptions of this method
        os.kill(os.getpid(), signal.SIGINT)
        [None for _ in range(100)]

class Press:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            Swallows()

sys.meta_path.insert(0, Press())
from jaxdiff.cli{} import main
print("goes on")
"""
"""Program that presses Ctrl-C when it imports the module named as its argument."""


@pytest.mark.parametrize("module", ["", ".program"])
def test_ctrl_c_ends_the_imports_of_a_command_line_with_one_line(module):
    done = subprocess.run(
        [sys.executable, "-c", PRESS.format(module), "jax"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped during the imports\n"


def test_other_programs_keep_their_handling_of_ctrl_c():
    assert not interrupts._starts_a_command_line()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_late_import_is_raised_after_it(tmp_path, monkeypatch):
    """The module is whole, although a callback would have lost the exception."""
    (tmp_path / "pressed.py").write_text(
        "import os, signal\n"
        "class Swallows:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        [None for _ in range(100)]\n"
        "Swallows()\n"
        "whole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("pressed")
    assert sys.modules["pressed"].whole
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.delitem(sys.modules, "pressed")
