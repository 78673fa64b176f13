"""U-Nets of Stable Diffusion at full size, with random parameters."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.components.test_component_files import SD, SDXL


def run(*words):
    """Runs `tests.helpers.full_size`, and returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.full_size", *map(str, words)],
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    print(*words, *done.stdout.splitlines(), sep="; ")
    return done.stdout


def folder_of(config, folder):
    (folder / "config.json").write_text(json.dumps(config))
    run("make", folder)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("config", "size"), [(SD, 64), (SDXL, 16)], ids=["1", "xl"])
def test_one_evaluation_is_theirs(tmp_path, config, size):
    """One after the other, each in a process of its own; -s prints time and memory."""
    folder = folder_of(config, tmp_path)
    for name in ("theirs", "ours"):
        run(name, folder, size)
    ours, theirs = (np.load(folder / f"{name}.npy") for name in ("ours", "theirs"))
    assert np.ptp(theirs) > 0.01
    difference = abs(ours - theirs).max() / abs(theirs).max()
    print(f"largest difference {difference:.2g} of the largest number")
    assert difference < 1e-5


@pytest.mark.long
def test_a_u_net_in_half_precision_is_read_in_little_memory(tmp_path):
    """The file is 3.4 GB in float32, the parameters 1.7 GB."""
    found = run("ours", folder_of(SD, tmp_path), 8, "bfloat16")
    read = re.search(r"([\d.]+) GB read", found)
    assert read is not None
    assert float(read[1]) < 6
