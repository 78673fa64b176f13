"""Library calls from several threads: what belongs to the process stays as it is."""

import logging
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.data.image_files import read_image
from jaxdiff.evaluation.features import Pixels
from jaxdiff.parallel import Pmap


def of_the_process():
    """Returns the state of the process that a call must not change."""
    connector = sys.modules["tensorflow_datasets"].features.FeatureConnector
    return (
        sys.stdout, sys.stderr, list(warnings.filters), warnings.showwarning,
        [logging.getLogger(name).level for name in (None, "absl", "urllib3")],
        vars(connector)["cls_from_name"], threading.excepthook,
    )  # fmt: skip


@pytest.fixture
def calls(tmp_path, finished, short):
    """Calls that load data, models and features, or draw samples."""
    workdir, _ = finished
    for i in range(3):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    read_image(tmp_path / "0.png", 4, 3)  # the first call hides Pillow's warnings
    digits = jd.data.Digits().load()
    jd.to_diffusers(workdir, tmp_path / "model")
    oracle = jd.oracles.Gaussian.of(mean=np.zeros((2, 2, 1)), covariance=1.0)

    def folder(size):
        data = jd.data.ImageFolder(path=str(tmp_path), size=size, held_out=0.0)
        return data.load().images.shape == (3, size, size, 3)

    def features():
        read = Pixels().build(digits, None, Pmap()).read
        return read(digits.images[:8])[0].shape == (8, 64)

    return [
        *(lambda size=size: folder(size) for size in (2, 3, 4, 5)),
        lambda: len(jd.data.Digits().load()) == 1500,
        lambda: jd.load(workdir).step == 8,
        lambda: jd.from_diffusers(tmp_path / "model").step == 0,
        lambda: jd.schedules.ZeroTerminalSNR().build().num_steps == 1000,
        lambda: jd.sample(oracle, jd.DDPM(), short, rng.key(0), (2, 2, 2, 1)).size == 8,
        features,
    ]


def test_calls_change_nothing_of_the_process(calls):
    before = of_the_process()
    with ThreadPoolExecutor(6) as pool:
        found = [pool.submit(call) for call in calls]
        while not all(one.done() for one in found):
            assert sys.stdout is before[0]
            assert list(warnings.filters) == before[2]
            time.sleep(0.001)
    assert all(one.result() for one in found)
    assert of_the_process() == before
