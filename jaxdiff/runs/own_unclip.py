"""unCLIP of one's own: towers, a prior and a decoder that were trained here.

    prompt -> prior -> vector of an image -> decoder -> image
    picture -> image tower ----^

`runs.unclip` has the same functions for imported models. An enlargement is a further
run, of super-resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.image_condition import vector_condition
from jaxdiff.errors import InputError
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.runs.averaged import read_averaged
from jaxdiff.runs.folder import read_kind
from jaxdiff.runs.generate import generate
from jaxdiff.runs.towers import TowersRun
from jaxdiff.runs.unclip import (
    PRIOR,
    Decoding,
    Texts,
    layout_for,
    stage_seeds,
    texts_of_images,
)
from jaxdiff.runs.vectors import read_towers, text_condition
from jaxdiff.training.experiment import DataInfo, Sampling
from jaxdiff.training.model import Model
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.typing import ArrayLike, Condition, Params


@dataclass(frozen=True)
class PriorRun:
    """A trained prior, as `load_prior` returns it.

    Attributes:
        experiment: the run's configuration.
        info: description of the vectors; `base` names the towers.
        model: network, schedule and prediction.
        params: averaged parameters.
        step: number of training steps.
        parallel: layout of devices.
    """

    experiment: PriorExperiment
    info: DataInfo
    model: Model
    params: Params = field(repr=False)
    step: int
    parallel: Parallel = field(default_factory=Pmap)

    @property
    def sampling(self) -> Sampling:
        """Sampler and guidance of the run."""
        return self.experiment.sampling

    def generate(
        self, condition: Condition, seed: Any, sampling: Sampling | None, **options: Any
    ) -> np.ndarray:
        """Draws vectors, float32 [num, features] of length 1.

        Args:
            condition: texts, as `vectors.text_condition` makes them.
            seed: seed of all vectors, or one per vector.
            sampling: sampler and guidance; the run's by default.
            options: further arguments of `runs.generate.generate`.
        """
        sampling = sampling or self.sampling
        found = generate(self.model, self.params, sampling, condition, seed, **options)
        vectors = found.reshape(len(found), -1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def load_prior(
    workdir: Path, step: int | None = None, parallel: Parallel | None = None
) -> PriorRun:
    """Loads the trained prior of a run folder; reads only averaged parameters.

    Args:
        workdir: the folder of the run.
        step: step of the checkpoint; the newest by default.
        parallel: layout of devices; all by default.

    Raises:
        InputError: there is no such run or checkpoint, or it is of another kind; or the
            parameters are not finite.
    """
    experiment, info = read_kind(workdir, PriorExperiment)
    step, params = read_averaged(workdir, experiment, info, step)
    model = experiment.model_of(info)
    return PriorRun(experiment, info, model, params, step, parallel or Pmap())


@dataclass(frozen=True)
class OwnUnCLIP:
    """Stages around a run's decoder; see `runs.unclip.UnCLIP`.

    Attributes:
        towers: image tower and text tower.
        loaded: prior; None for pictures alone.
        parallel: layout of devices.
    """

    towers: TowersRun
    loaded: PriorRun | None = None
    parallel: Parallel = field(default_factory=Pmap)

    enlarges = False
    """True if the model enlarges the decoder's images itself."""

    @classmethod
    def of(cls, experiment: Any, info: DataInfo, prior: PriorRun | None) -> "OwnUnCLIP":
        """Returns the stages of a decoder's run.

        Args:
            experiment: configuration of the decoder.
            info: its data; `base` names the towers.
            prior: prior, or None.

        Raises:
            InputError: the towers have changed, or the prior has others.
        """
        if prior is not None and prior.info.base != info.base:
            raise InputError(
                f"prior must be trained with the towers of the decoder, {info.base}, "
                f"got {prior.info.base}. Train one with the same --towers."
            )
        return cls(read_towers(experiment, info.base), prior)

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width to which pictures are resized for `encode`."""
        return self.towers.info.image_shape[:2]

    @property
    def channels(self) -> int:
        """Number of channels of pictures for `encode`."""
        return self.towers.info.image_shape[2]

    @property
    def prior(self) -> PriorRun:
        """Prior.

        Raises:
            InputError: there is none.
        """
        if self.loaded is None:
            raise InputError(
                "prior must name the run of a prior to draw from a text, got None. "
                "Train one with jaxdiff train-prior and give --prior, or give --like."
            )
        return self.loaded

    def text(self, prompts: Texts, num: int | None = None) -> Condition:
        """Returns tokens, mask and vector of texts; see `UnCLIP.text`."""
        if isinstance(prompts, Condition):
            return prompts
        texts, rows = texts_of_images(prompts, num)
        found = text_condition(self.towers, texts)
        return Condition(*(None if part is None else part[rows] for part in found))

    def text_of_decoder(self, prompt: str) -> Condition:
        """Returns no condition: the decoder takes no text."""
        return Condition()

    def draw(
        self,
        prompts: Texts,
        seed: int | np.ndarray,
        *,
        num: int | None = None,
        negative: str | Sequence[str] = "",
        sampling: Sampling | None = None,
        indices: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draws vectors of images from prompts; see `UnCLIP.draw`.

        Returns:
            Vectors of the towers, float32 [num, features] of length 1.

        Raises:
            InputError: there is no prior, or an argument does not fit.
        """
        prior, text = self.prior, self.text(prompts, num)
        base = self.text(negative, len(text.vector))
        return prior.generate(
            text, stage_seeds(seed, PRIOR), sampling, base=base, indices=indices,
            parallel=layout_for(self.parallel, len(text.vector)),
        )  # fmt: skip

    def encode(self, images: Sequence[ArrayLike]) -> np.ndarray:
        """Returns the vectors of pictures in [-1, 1], of the size `picture_size`."""
        return self.towers.images(np.stack([np.asarray(image) for image in images]))

    def condition(
        self,
        vectors: ArrayLike,
        prompts: Texts = "",
        *,
        negative: str | Sequence[str] | None = None,
        seed: int | np.ndarray = 0,
        noise_level: int = 0,
    ) -> Decoding:
        """Returns the decoder's conditions for vectors of images.

        Args:
            vectors: vectors of the towers [num, features].
            prompts: unused, because the decoder takes no text.
            negative: None, for the same reason.
            seed: unused, because no noise is added.
            noise_level: 0, for the same reason.

        Raises:
            InputError: an option is given that the decoder does not take.
        """
        for name, value in (("negative", negative), ("noise_level", noise_level)):
            if value:
                raise InputError(
                    f"{name} must not be given for a decoder of vectors alone, got "
                    f"{value!r}. Leave it out."
                )
        given = vector_condition(jnp.asarray(vectors, jnp.float32))
        return Decoding(Condition(vector=given), Condition(vector=given * 0))
