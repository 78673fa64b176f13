"""Images of a model on all devices, compared with the sampling loop."""

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.runs.generate import generate
from jaxdiff.training.experiment import Sampling
from tests.helpers.own_networks import MLP

SHAPE = (4, 4, 1)


@pytest.mark.parametrize("seed", [0, 7])
def test_images_are_those_of_the_chain_with_the_seeds_key(seed, short):
    model = jd.Model(MLP(), short, jd.predictions.Eps(), SHAPE)
    params = model.init(1)
    images = generate(model, params, Sampling(), None, seed, num=3)
    denoiser = jd.clip_x0(model.denoiser(params))
    wanted = jd.sample(denoiser, jd.DDPM(), short, jax.random.key(seed), (3, *SHAPE))
    np.testing.assert_allclose(images, wanted, atol=2e-5)
