"""Agreement of images with their reconstructions: PSNR and SSIM.

    (1)  PSNR = -10 log10 mean (x - y)^2
    (2)  SSIM = mean of (2 m_x m_y + c_1) (2 s_xy + c_2)
                / ((m_x^2 + m_y^2 + c_1) (s_x^2 + s_y^2 + c_2))

x and y lie in [0, 1]. The means m, deviations s and covariance s_xy are those in a
Gaussian window of 11 pixels (Wang et al. 2004), with c_1 = 0.01^2 and c_2 = 0.03^2.
"""

import numpy as np
from scipy.ndimage import correlate1d

from jaxdiff.errors import InputError

LEAST = 1e-10
"""Smallest mean square of a difference; it limits equation (1) to 100 dB."""
WINDOW, SIGMA = 11, 1.5
"""Size of the window in pixels, and its deviation."""
C1, C2 = 0.01**2, 0.03**2


def psnr(images: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of each image, in dB, equation (1).

    Args:
        images: uint8 [num, height, width, channels].
        found: reconstructions, uint8 of the same shape.

    Returns:
        float64 [num], at most 100.

    Raises:
        InputError: the shapes differ.
    """
    x, y = _unit(images, found)
    square = ((x - y) ** 2).reshape(len(x), -1).mean(axis=1)
    return -10 * np.log10(np.maximum(square, LEAST))


def ssim(images: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns the structural similarity of each image, equation (2).

    The window lies inside of the image; it is smaller in images below 11 pixels.

    Args:
        images: uint8 [num, height, width, channels].
        found: reconstructions, uint8 of the same shape.

    Returns:
        float64 [num], at most 1, the mean over places and channels.

    Raises:
        InputError: the shapes differ.
    """
    x, y = _unit(images, found)
    side = min(WINDOW, *x.shape[1:3])
    half = (side - 1) // 2
    places = np.arange(-half, half + 1)
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights /= weights.sum()

    def mean(a: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            a = correlate1d(a, weights, axis=axis)
        height, width = a.shape[1:3]
        return a[:, half : height - half, half : width - half]

    m_x, m_y = mean(x), mean(y)
    s_x, s_y = mean(x * x) - m_x**2, mean(y * y) - m_y**2
    s_xy = mean(x * y) - m_x * m_y
    above = (2 * m_x * m_y + C1) * (2 * s_xy + C2)
    below = (m_x**2 + m_y**2 + C1) * (s_x + s_y + C2)
    shares: np.ndarray = (above / below).reshape(len(x), -1).mean(axis=1)
    return shares


def _unit(images: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.shape != found.shape:
        raise InputError(
            f"images and reconstructions must have one shape, got {images.shape} and "
            f"{found.shape}"
        )
    return np.asarray(images, np.float64) / 255, np.asarray(found, np.float64) / 255
