"""The trained towers of a run folder: images and texts as vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning import TextEncoder, Tokenizer
from jaxdiff.data import to_float
from jaxdiff.errors import InputError
from jaxdiff.networks.own_text import ENCODER
from jaxdiff.networks.towers import Towers
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.runs.averaged import read_averaged
from jaxdiff.runs.folder import read_kind
from jaxdiff.runs.own_text import condition_of, stored_tokenizer
from jaxdiff.training.experiment import DataInfo
from jaxdiff.training.towers_experiment import TowersExperiment
from jaxdiff.typing import Array, Images, Params

CHUNK = 256
"""Images or texts per chunk over all devices."""


@dataclass(frozen=True)
class TowersRun:
    """Trained towers, as `load_towers` returns them.

    Attributes:
        experiment: the run's configuration.
        info: shape of the data.
        network: both towers.
        params: averaged parameters.
        tokenizer: tokenizer of the text tower.
        step: number of training steps.
        parallel: layout of devices.
    """

    experiment: TowersExperiment
    info: DataInfo
    network: Towers
    params: Params
    tokenizer: Tokenizer
    step: int
    parallel: Parallel = field(default_factory=Pmap)

    def images(
        self, images: np.ndarray, on_chunk: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """Returns the vectors of images, float32 [num, features] of length 1.

        Args:
            images: uint8 [num, height, width, channels], or float in [-1, 1], of the
                size that the towers were trained on.
            on_chunk: called with the number of finished images after each chunk.

        Raises:
            InputError: the images have another shape.
        """
        images = np.asarray(images)
        if images.shape[1:] != self.info.image_shape:
            raise InputError(
                f"images must have the towers' shape {self.info.image_shape}, got "
                f"{images.shape[1:]}. Resize them, or train towers on this size."
            )
        pixels = to_float(images) if images.dtype == np.uint8 else images
        fn = partial(_images, self.network)
        return self.parallel.map_chunks(
            fn, self.params, np.asarray(pixels, np.float32), CHUNK, on_chunk
        )

    def texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """Returns the vectors of texts, float32 [num, features] of length 1.

        Long texts are cut.

        Args:
            texts: texts, or a single one.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        found = condition_of(self.tokenizer, texts)
        tokens = (found.tokens, found.mask)
        fn = partial(_texts, self.network)
        return self.parallel.map_chunks(fn, self.params, tokens, CHUNK)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """Text tower before its projection: a condition of texts."""
        network = self.network.config.text.build()
        return TextEncoder(self.params[ENCODER], network, self.tokenizer)


def _images(network: Towers, params: Params, images: Images) -> Array:
    found: Array = network.apply({"params": params}, images, method="images")  # type: ignore[assignment]
    return found


def _texts(network: Towers, params: Params, tokens: tuple[Array, Array]) -> Array:
    given = map(jnp.asarray, tokens)
    found: Array = network.apply({"params": params}, *given, method="texts")  # type: ignore[assignment]
    return found


def load_towers(
    workdir: Path, step: int | None = None, parallel: Parallel | None = None
) -> TowersRun:
    """Loads the trained towers of a run folder; reads only averaged parameters.

    Args:
        workdir: the folder of the run.
        step: step of the checkpoint; the newest by default.
        parallel: layout of devices; all by default.

    Raises:
        InputError: there is no such run or checkpoint, or it is of another kind; its
            tokenizer is not the run's; or the parameters are not finite.
    """
    experiment, info = read_kind(workdir, TowersExperiment)
    step, params = read_averaged(workdir, experiment, info, step)
    tokenizer = stored_tokenizer(workdir, info)
    assert tokenizer is not None, "towers have a tokenizer"
    network = experiment.task_of(info).network
    return TowersRun(
        experiment, info, network, params, tokenizer, step, parallel or Pmap()
    )
