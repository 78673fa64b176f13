"""Custom network: trained, saved, resumed, loaded, sampled."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxdiff as jd
from tests.helpers.own_networks import MLP, ConvNet
from tests.helpers.runs import TINY, same_bits

pytestmark = pytest.mark.usefixtures("standard_promotion")
UNCONDITIONAL = dataclasses.replace(TINY, conditional=False)
CASES = [
    (MLP(), UNCONDITIONAL),
    pytest.param(ConvNet(num_classes=10), TINY, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("network", "experiment"), CASES, ids=["mlp", "convnet"])
def test_a_network_of_ones_own_trains_resumes_loads_and_samples(
    network, experiment, tmp_path
):
    whole = jd.train(experiment, tmp_path / "whole", network=network, progress=False)
    folder = tmp_path / "parts"
    jd.train(experiment, folder, network=network, until=4, progress=False)
    resumed = jd.train(experiment, folder, network=network, progress=False)
    assert same_bits(whole, resumed)
    run = jd.load(folder, network=network)
    assert same_bits(run.params, whole.ema)
    labels = None if experiment.conditional is False else np.arange(4)
    images = run.generate(labels, 4, 0)
    assert images.shape == (4, 8, 8, 1)
    assert np.isfinite(images).all()


def test_another_network_is_told_apart(tmp_path):
    jd.train(UNCONDITIONAL, tmp_path, network=MLP(), until=1, progress=False)
    with pytest.raises(jd.InputError, match=r"has a network of its own, MLP\(width=16"):
        jd.load(tmp_path)
    for other in (MLP(width=8), None):
        with pytest.raises(
            jd.InputError, match=r"info.network: 'MLP\(width=16\)', not"
        ):
            jd.train(UNCONDITIONAL, tmp_path, network=other, progress=False)
    with pytest.raises(jd.InputError, match=r"info.network: 'MLP\(width=16\)', not"):
        jd.load(tmp_path, network=MLP(width=8))


def test_classes_that_the_network_does_not_take_are_named(tmp_path):
    with pytest.raises(jd.InputError, match="num_classes must be the network's"):
        jd.train(TINY, tmp_path / "run", network=MLP(), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_network_of_ones_own_can_be_drawn_by_any_sampler(tmp_path):
    jd.train(UNCONDITIONAL, tmp_path, network=MLP(), until=1, progress=False)
    run = jd.load(tmp_path, network=MLP())
    sampler = jd.DPMSolver(spacing=jd.spacing.Trailing(num_steps=5))
    images = jd.sample(
        run.denoiser(), sampler, run.schedule, jax.random.key(0), (2, 8, 8, 1)
    )
    assert np.isfinite(images).all()
