"""Parameters and samples with NaN or infinity are errors, never black pictures."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.errors import NonFiniteSamples
from jaxdiff.pretrained import convert, pipeline_folder, write_run
from jaxdiff.runs.generate import generate
from jaxdiff.runs.sample_grids import SampleGrids
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.experiment import Sampling
from tests.helpers.own_networks import ConvNet
from tests.helpers.runs import TINY

pytestmark = pytest.mark.usefixtures("standard_promotion")


def damaged(params, number):
    """Returns parameters with one number that is not finite, and its array's name."""
    leaves, tree = jax.tree.flatten(jax.device_get(params))
    name = list(by_name(params))[-1]
    leaves[-1] = np.array(leaves[-1])
    leaves[-1].flat[0] = number
    return jax.tree.unflatten(tree, leaves), name


def test_parameters_that_are_not_finite_are_refused(finished, tmp_path, monkeypatch):
    run = jd.load(finished[0])
    params, name = damaged(run.params, np.nan)
    bad = dataclasses.replace(run, params=params)
    infinite = dataclasses.replace(run, params=damaged(run.params, -np.inf)[0])
    with monkeypatch.context() as patch:
        patch.setattr(convert, "check_params", lambda params: None)
        patch.setattr(pipeline_folder, "check_params", lambda params: None)
        write_run(bad, tmp_path / "run")
        jd.to_diffusers(bad, tmp_path / "folder")
    init = dataclasses.replace(TINY, init=str(tmp_path / "run"))
    refusals = [
        lambda: bad.generate(None, 1, 0),
        lambda: infinite.check_request(None, 1, 0),
        lambda: write_run(bad, tmp_path / "written"),
        lambda: jd.to_diffusers(bad, tmp_path / "exported"),
        lambda: jd.load(tmp_path / "run"),
        lambda: jd.to_diffusers(tmp_path / "run", tmp_path / "exported"),
        lambda: jd.from_diffusers(tmp_path / "folder"),
        lambda: jd.train(init, tmp_path / "tuned", progress=False),
    ]
    for refusal in refusals:
        with pytest.raises(jd.InputError, match=r"in 1 of \d+ arrays") as caught:
            refusal()
        assert name in str(caught.value)
    assert not (tmp_path / "exported").exists()
    assert not (tmp_path / "written").exists()


def test_samples_that_are_not_finite_are_refused(short):
    model = jd.Model(ConvNet(num_classes=4), short, jd.predictions.Eps(), (4, 4, 1), 4)
    params = jax.tree.map(np.array, jax.device_get(model.init(0)))
    params["Embed_0"]["embedding"][3] = np.nan
    labels, indices = np.array([0, 3, 1, 3]), np.array([5, 6, 7, 8])
    match = r"samples must be finite, got NaN or infinity in 2 of 4 .* of index 6\. "
    with pytest.raises(jd.InputError, match=match) as caught:
        generate(model, params, Sampling(), labels, 0, indices=indices)
    assert isinstance(caught.value, NonFiniteSamples)
    finite = np.isfinite(caught.value.images).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(finite, [True, False, True, False])


def test_a_sample_grid_that_is_not_finite_is_warned_of():
    upkeep = dataclasses.replace(TINY.upkeep, sample_every=3, sample_steps=3)
    trainer = Trainer.of(dataclasses.replace(TINY, upkeep=upkeep))
    state = trainer.recipe.init()
    state = state._replace(ema=damaged(state.ema, np.nan)[0])
    with pytest.warns(UserWarning, match=r"grid is damaged: .* in 80 of 80 images"):
        png = SampleGrids(trainer).picture(state)
    assert png.startswith(b"\x89PNG")
