"""Numbers of PyTorch's generator, compared with PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.pretrained.torch_random import TorchGenerator
from tests.helpers.pytorch import torch

SEEDS = (0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1)
SHAPES = [
    (1,), (2, 3), (15,), (16,), (17,), (31,), (32,), (33,), (3, 5, 7), (1, 4, 8, 8),
    (2, 4, 9, 11), (0, 4), (),
]  # fmt: skip


def theirs(generator, shape, dtype="float32"):
    drawn = torch.randn(shape, generator=generator, dtype=getattr(torch, dtype))
    return drawn.double().numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_successive_draws_are_pytorchs(dtype):
    """Draws of all sizes follow each other, with one number kept in between."""
    kind = jnp.dtype(dtype)
    worst = 0.0
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        mine = TorchGenerator(seed)
        for shape in SHAPES:
            wanted = theirs(generator, shape, dtype)
            got = mine.normal(shape, kind)
            assert got.dtype == kind
            assert got.shape == wanted.shape
            error = np.abs(got.astype(np.float64) - wanted)
            if error.size:
                worst = max(worst, error.max())
    limits = {"float32": 2e-6, "float64": 1e-14, "float16": 0, "bfloat16": 0}
    assert worst <= limits[dtype]


def test_the_first_numbers_of_seed_0():
    """PyTorch's documented numbers: torch.manual_seed(0); torch.randn(16)."""
    got = TorchGenerator(0).normal((16,))
    np.testing.assert_allclose(got[:4], [-1.1258, -1.1524, -0.2506, -0.4339], atol=1e-4)


def test_images_have_their_channels_last():
    got = TorchGenerator(3).images(2, 4, 6, 3)
    wanted = torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(got, wanted.numpy().transpose(0, 2, 3, 1), atol=2e-6)


def test_what_does_not_fit_is_refused():
    for seed in (-1, 2**64):
        with pytest.raises(jd.InputError, match="seed must "):
            TorchGenerator(seed)
    with pytest.raises(jd.InputError, match="dtype must be float32, float64"):
        TorchGenerator(0).normal((3,), np.int32)
    with pytest.raises(jd.InputError, match="shape must have sizes of at least 0"):
        TorchGenerator(0).normal((3, -1))
