"""Digits experiment from start to end, which takes minutes."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests.helpers.compilations import environment_of_users

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_samples_are_read_as_the_class_asked_for(tmp_path):
    # A user runs the script without the settings of the tests.
    env = environment_of_users()
    script = [sys.executable, str(ROOT / "experiments" / "digits.py")]
    workdir = tmp_path / "digits"
    result = subprocess.run(
        [*script, "--workdir", str(workdir)],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = re.search(r"label agreement: ([\d.]+)% of 200 samples", result.stdout)
    assert found
    assert float(found[1]) >= 97
    for name in ("samples.png", "forward.png", "reverse.gif", "loss.png"):
        assert (workdir / name).stat().st_size > 1000
