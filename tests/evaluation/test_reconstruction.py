"""PSNR and SSIM: closed forms, and the sum over windows written out."""

import numpy as np
import pytest

from jaxdiff.errors import InputError
from jaxdiff.evaluation.reconstruction import psnr, ssim

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (2, 16, 13, 3), np.uint8)
OTHERS = RANDOM.integers(0, 256, (2, 16, 13, 3), np.uint8)


def test_psnr_in_closed_form():
    black = np.zeros((1, 4, 4, 1), np.uint8)
    np.testing.assert_allclose(psnr(black, black + 51), 20 * np.log10(5))
    assert psnr(IMAGES, IMAGES).tolist() == [100, 100]


def test_ssim_of_constant_images():
    x, y = (np.full((1, 16, 16, 1), v, np.uint8) for v in (51, 204))
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    np.testing.assert_allclose(ssim(x, y), expected)
    np.testing.assert_allclose(ssim(IMAGES, IMAGES), 1)


def test_ssim_is_the_mean_over_windows():
    places = np.arange(11) - 5
    line = np.exp(-(places**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    shares = []
    for i in range(16 - 10):
        for j in range(13 - 10):
            for c in range(3):
                x, y = (
                    np.asarray(a[0, i : i + 11, j : j + 11, c], float) / 255
                    for a in (IMAGES, OTHERS)
                )
                m_x, m_y = (weights * x).sum(), (weights * y).sum()
                v_x = (weights * (x - m_x) ** 2).sum()
                v_y = (weights * (y - m_y) ** 2).sum()
                both = (weights * (x - m_x) * (y - m_y)).sum()
                shares.append(
                    (2 * m_x * m_y + 1e-4) * (2 * both + 9e-4)
                    / ((m_x**2 + m_y**2 + 1e-4) * (v_x + v_y + 9e-4))
                )  # fmt: skip
    np.testing.assert_allclose(ssim(IMAGES, OTHERS)[0], np.mean(shares), rtol=1e-9)


def test_shapes_must_agree():
    with pytest.raises(InputError, match="must have one shape"):
        psnr(IMAGES, OTHERS[:1])
