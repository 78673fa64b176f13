"""Super-resolution of images whose truth is known: PSNR, SSIM and agreement.

Each figure stands beside the figure of bicubic enlargement, which has no training. A
sample of p(x | y) has a lower PSNR than the mean of p(x | y), which is blurred: the
squared error of a sample of the exact posterior is twice the error of this mean.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data import Dataset, to_float, to_uint8
from jaxdiff.evaluation.mean import Mean
from jaxdiff.evaluation.reconstruction import psnr, ssim
from jaxdiff.runs.enlarge import condition_of_rows, low_resolution_of
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import Sampling


class Agreement(NamedTuple):
    """Agreement of enlarged images with the truth.

    Attributes:
        psnr: peak signal-to-noise ratio in dB.
        ssim: structural similarity.
        small: PSNR of the enlarged images made small again, against the small images.
    """

    psnr: Mean
    ssim: Mean
    small: Mean


class Enlarged(NamedTuple):
    """Enlargements of known images.

    Attributes:
        images: the truth, uint8 [num, height, width, channels].
        small: small images, uint8.
        found: enlargements by the run, of the shape of images.
        bicubic: bicubic enlargements, of the shape of images.
        agreement: agreement of `found`.
        baseline: agreement of `bicubic`.
    """

    images: np.ndarray
    small: np.ndarray
    found: np.ndarray
    bicubic: np.ndarray
    agreement: Agreement
    baseline: Agreement


def enlarged(
    run: Run,
    dataset: Dataset,
    rows: np.ndarray,
    *,
    seed: int = 0,
    augmentation: float = 0.0,
    sampling: Sampling | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Enlarged:
    """Makes images small, enlarges them by a run, and measures the agreement.

    Args:
        run: trained model of super-resolution.
        dataset: images, with their classes and captions if the run takes them.
        rows: places of the images [num].
        seed: seed of the samples.
        augmentation: level of the noise that is added to the small images.
        sampling: sampler, guidance and clipping; the experiment's by default.
        on_chunk: called with the number of images enlarged.

    Raises:
        InputError: the run is another model, or an argument is out of range.
    """
    low = low_resolution_of(run.experiment)
    images = np.asarray(dataset.images[rows])
    small = to_uint8(low.reduced(jnp.asarray(to_float(images))))
    given = condition_of_rows(dataset, rows, run.info, run.tokenizer)
    found = to_uint8(
        run.enlarge(
            to_float(small), given, seed, augmentation=augmentation, sampling=sampling,
            on_chunk=on_chunk,
        )
    )  # fmt: skip
    bicubic = to_uint8(low.enlarged(jnp.asarray(to_float(small))))
    both = (agreement(low, images, small, one) for one in (found, bicubic))
    return Enlarged(images, small, found, bicubic, *both)


def agreement(
    low: LowResolution, images: np.ndarray, small: np.ndarray, found: np.ndarray
) -> Agreement:
    """Returns the agreement of enlargements with images and small images, uint8."""
    again = to_uint8(low.reduced(jnp.asarray(to_float(found))))
    return Agreement(
        Mean.of(psnr(images, found)), Mean.of(ssim(images, found)),
        Mean.of(psnr(small, again)),
    )  # fmt: skip
