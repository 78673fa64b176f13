"""The range belongs to the data: latents have none, and are not clipped."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.runs.folder import read_config, write_record
from jaxdiff.runs.generate import generate
from jaxdiff.training.experiment import DataInfo, Sampling
from jaxdiff.typing import PIXELS
from tests.helpers.own_networks import MLP
from tests.helpers.runs import TINY

pytestmark = pytest.mark.usefixtures("standard_promotion")
SCHEDULE = jd.Linear(num_steps=4, beta_start=0.1, beta_end=0.6).build()


def batch(scale):
    images = scale * np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1)
    return jd.Batch(images, None, np.arange(2, dtype=np.int32))


def model(data_range=PIXELS):
    return jd.Model(
        MLP(), SCHEDULE, jd.predictions.X0(), (4, 4, 1), data_range=data_range
    )


def test_latents_of_any_size_are_trained_on():
    params = model().init(0)

    def loss(scale, **options):
        args = params, MLP(), SCHEDULE, batch(scale), rng.key(0)
        return jd.loss_fn(*args, **options)[0]

    with pytest.raises(jd.InputError, match=r"images must lie in \[-1, 1\], got -4 to"):
        loss(4.0)
    assert np.isfinite(loss(4.0, data_range=None))
    assert np.isfinite(loss(4.0, data_range=(-5.0, 5.0)))
    assert loss(0.5) == loss(0.5, data_range=None)
    state = jd.training.fit(model(None), [batch(4.0)] * 2, 2, progress=False)
    assert int(state.step) == 2
    with pytest.raises(jd.InputError, match=r"images must lie in \[-1, 1\]"):
        jd.training.fit(model(), [batch(4.0)] * 2, 2, progress=False)


def test_latents_are_clipped_only_to_a_range_that_is_given():
    params = model().init(0)
    params["Dense_2"]["kernel"] = 40 * jnp.ones_like(params["Dense_2"]["kernel"])

    def largest(data_range, **options):
        sampling = Sampling(chunk=4, **options)
        drawn = generate(model(data_range), params, sampling, None, 0, num=4)
        return np.abs(drawn).max()

    assert largest(PIXELS) <= 1 + 1e-5
    assert largest(None) > 10
    assert largest(PIXELS, clip=False) == largest(None)
    for data_range in (PIXELS, None):
        assert 4.9 < largest(data_range, clip_range=5.0) <= 5 + 1e-4
    # Dynamic thresholding scales what it clips to [-1, 1].
    assert largest(None, clip_range=5.0, clip_quantile=0.5) <= 1 + 1e-5
    with pytest.raises(jd.InputError, match="clip_range must be above 0, got 0"):
        Sampling(clip_range=0.0)


def test_a_run_folder_keeps_the_range_and_older_ones_have_pixels(tmp_path):
    info = DataInfo((8, 8, 1), None, None)
    experiment = dataclasses.replace(TINY, conditional=False)
    for name, data_range in (("pixels", PIXELS), ("latents", None), ("x", (0.0, 2.0))):
        folder = tmp_path / name
        folder.mkdir()
        write_record(folder, experiment, info._replace(data_range=data_range))
        assert read_config(folder)[1].data_range == data_range
        known = json.loads((folder / "config.json").read_text())["data"]
        assert ("data_range" in known) == (name != "pixels")
    known["data_range"] = [2, 1]
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": known}))
    with pytest.raises(jd.InputError, match=r"data_range \[2, 1\]"):
        read_config(tmp_path / "x")
