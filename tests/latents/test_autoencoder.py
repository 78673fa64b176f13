"""Autoencoders bound to parameters: samples of latents, scaling, tiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.latents import Autoencoder, tiled
from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig, LatentScaling
from jaxdiff.networks.autoencoder_tiny import AutoencoderTinyConfig
from tests.helpers.compilations import compilations
from tests.helpers.components import random_params

SCALING = LatentScaling(
    scale=0.4, shift=0.1, mean=(0.5, -1.0, 2.0), deviation=(2.0, 1.0, 0.5)
)
KL = AutoencoderKLConfig(
    widths=(8, 16), blocks=1, groups=4, latent_channels=3, scaling=SCALING
)


@pytest.fixture(scope="module")
def kl():
    network = KL.build()
    return Autoencoder(random_params(network), network)


@pytest.fixture(scope="module")
def tiny():
    """Autoencoder without normalisation, in which tiles see all that they need."""
    network = AutoencoderTinyConfig(
        width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)
    ).build()
    return Autoencoder(random_params(network), network)


def images(*shape, seed=0):
    values = np.random.default_rng(seed).uniform(-1, 1, (*shape, 3))
    return values.astype(np.float32)


def test_a_sample_has_the_moments_and_its_own_noise(kl):
    x = images(3, 8, 8)
    mean, deviation = kl.moments(x)
    np.testing.assert_array_equal(kl.encode(x), mean)
    output, log_variance = kl.network.apply({"params": kl.params}, x, method="encode")
    factor = 0.4 / np.array([2.0, 1.0, 0.5])
    expected = (np.asarray(output) - 0.1 - np.array([0.5, -1.0, 2.0])) * factor
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        deviation, np.exp(np.asarray(log_variance) / 2) * factor, rtol=1e-4, atol=1e-5
    )
    key = rng.key(7)
    sample = kl.encode(x, key)
    noise = (sample - mean) / deviation
    wanted = rng.normal(rng.example_keys(key, jnp.arange(3)), mean.shape[1:])
    np.testing.assert_allclose(noise, wanted, atol=1e-3)
    one = kl.encode(x[2:], key, jnp.array([2]))
    np.testing.assert_allclose(one[0], sample[2], rtol=1e-5, atol=1e-5)


def test_decoding_undoes_the_scaling(kl):
    latents = jnp.asarray(images(2, 4, 4))
    output = kl.scaling.inverse(latents)
    np.testing.assert_allclose(kl.scaling.forward(output), latents, atol=1e-5)
    theirs = kl.network.apply({"params": kl.params}, output, method="decode")
    np.testing.assert_allclose(kl.decode(latents), theirs, rtol=1e-5, atol=1e-4)


def test_other_parameters_compile_nothing_again(kl):
    x = images(1, 8, 8)
    other = Autoencoder(jax.tree.map(lambda a: 2 * a, kl.params), kl.network)
    first = kl.encode(x)
    with compilations() as count:
        second = other.encode(x)
    assert not count()
    assert not np.array_equal(first, second)


def test_tiles_of_local_functions_are_exact(tiny):
    """Inside of the seams a tile's result is that of the whole."""
    x = images(1, 24, 20)
    whole, parts = tiny.encode(x), tiny.encode_tiled(x, tile=16, overlap=8)
    assert parts.shape == whole.shape
    # The first columns are far from every inner border.
    np.testing.assert_allclose(parts[:, :2, :2], whole[:, :2, :2], atol=1e-4)
    assert not np.allclose(parts, whole, atol=1e-4)


def test_tiles_of_pointwise_functions_are_equal_everywhere():
    x = images(2, 37, 50)
    for tile, overlap in ((16, 4), (16, 15), (50, 0), (64, 8), (8, 3)):
        found = tiled(lambda part: 2 * part + 1, x, tile, overlap)
        np.testing.assert_allclose(found, 2 * x + 1, atol=1e-5)
        sides: set[tuple[int, ...]] = set()

        def noted(part, sides=sides):
            sides.add(part.shape)
            return part

        tiled(noted, x, tile, overlap)
        assert len(sides) == 1


def test_tiles_change_the_size_and_begin_at_multiples():
    x = images(1, 40, 24)
    halves = tiled(lambda p: p[:, ::4, ::4], x, 16, 8, multiple=4)
    np.testing.assert_allclose(halves, x[:, ::4, ::4], atol=1e-6)
    doubles = tiled(lambda p: p.repeat(2, 1).repeat(2, 2), x, 16, 5)
    np.testing.assert_allclose(doubles, x.repeat(2, 1).repeat(2, 2), atol=1e-6)


def test_the_seams_of_a_normalising_decoder_are_smooth(kl):
    """Each tile is normalised alone, yet the seams have no edge."""
    latents = images(1, 24, 24, seed=1)
    whole = np.asarray(kl.decode(jnp.asarray(latents)))
    parts = kl.decode_tiled(latents, tile=16, overlap=8)
    steps = np.abs(np.diff(parts - whole, axis=1)).max(axis=(0, 2, 3))
    inner = np.abs(np.diff(parts, axis=1)).max()
    assert steps.max() < inner


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: a.encode(images(1, 9, 8)), r"multiples of 2, got 9 and 8"),
        (lambda a: a.encode(images(1, 8)), r"images must be \[batch, .*, 3\], got"),
        (lambda a: a.decode(images(1, 4, 4)[..., :2]), r"latents must be .*, 3\]"),
        (lambda a: a.encode_tiled(images(1, 8, 8), 7, 2), r"tile must be a multiple"),
        (
            lambda a: a.decode_tiled(images(1, 8, 8), 4, 4),
            r"overlap must lie in",
        ),
    ],
)
def test_wrong_images_and_latents_are_one_line(kl, call, match):
    with pytest.raises(jd.InputError, match=match):
        call(kl)


def test_half_precision_does_not_overflow():
    """The decoder's activations exceed float16's range, 65,504, as in SDXL's."""
    network = KL.build()
    params = random_params(network)
    params["decoder"]["conv_in"]["kernel"] *= 1e6
    latents = jnp.asarray(images(1, 4, 4))
    exact = Autoencoder(params, network).decode(latents)
    half = dataclasses.replace(KL, dtype="float16").build()
    found = Autoencoder(params, half).decode(latents)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())
    assert not np.array_equal(found, exact)
