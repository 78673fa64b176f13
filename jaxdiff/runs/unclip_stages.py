"""Stages of unCLIP besides a run's decoder, read from the run's parts."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.components.files import read_part
from jaxdiff.components.unet_2d_folder import read_model, read_parameters
from jaxdiff.conditioning import TextEncoder
from jaxdiff.errors import InputError
from jaxdiff.networks.last_step import LastStep
from jaxdiff.runs.clip_images import ImageProcessor
from jaxdiff.runs.generate import generate
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts_info import StageInfo
from jaxdiff.training.experiment import Sampling
from jaxdiff.training.model import Model
from jaxdiff.typing import Condition, Params

if TYPE_CHECKING:
    from jaxdiff.runs.parts import Parts


@dataclass(frozen=True)
class Stage:
    """Model of one stage, with its parameters and its sampling."""

    model: Model
    params: Params = field(repr=False)
    sampling: Sampling

    def generate(
        self, condition: Condition, seed: Any, sampling: Sampling | None, **options: Any
    ) -> np.ndarray:
        """Draws from the stage; see `runs.generate.generate`."""
        sampling = sampling or self.sampling
        return generate(self.model, self.params, sampling, condition, seed, **options)


class Stages:
    """Stages of unCLIP, read from a run's parts when they are first used."""

    def __init__(self, parts: "Parts") -> None:
        assert parts.info.unclip is not None, "the caller has checked it"
        self._parts, self._info = parts, parts.info.unclip

    @cached_property
    def encoder(self) -> TextEncoder:
        """Text encoder of the prior and of the projection."""
        own = self._info.prior_encoder
        if own is None:
            return self._parts.prompts.encoders[0]
        return self._parts.text_encoder(own)

    @cached_property
    def prior(self) -> Stage:
        """Prior."""
        info = self._wanted(self._info.prior, "prior", "Use --like, or another model")
        component = self._parts.component(info.network)
        features = component.network.config.features
        model = Model(
            component.network, info.schedule.build(), info.prediction, (features,),
            data_range=None,
        )  # fmt: skip
        check_params(component.params)
        return Stage(model, component.params, info.sampling)

    @cached_property
    def projection(self) -> Any:
        """Network that makes the decoder's condition."""
        return self._parts.component(self._info.projection)

    @cached_property
    def scale(self) -> Any:
        """Network that scales vectors before their noise."""
        noising = self._info.noising
        assert noising is not None, "the caller has checked it"
        return self._parts.component(noising.scale)

    @cached_property
    def image_encoder(self) -> tuple[Any, ImageProcessor]:
        """Encoder of pictures, and the preparation of its pictures."""
        name, processor = self._info.image_encoder, self._info.processor
        if not name:
            raise InputError(
                "the model must have an image encoder for pictures, got none. Import a "
                "pipeline of image variations."
            )
        component = self._parts.component(name)
        self._parts.check(processor)
        file = self._parts.folder / processor / "preprocessor_config.json"
        size = component.network.config.size
        return component, ImageProcessor.of(read_part(file), size, str(file))

    @cached_property
    def enlargement(self) -> Stage:
        """Enlargement."""
        info = self._wanted(self._info.enlarge, "enlargement", "Use its small images")
        networks, params, shape = {}, {}, (0, 0, 0)
        for name, folder in (("first", info.network), ("last", info.last)):
            if folder:
                networks[name], params[name], shape = self._read_unet(folder)
        network: Any = networks["first"]
        given: Any = params["first"]
        if info.last:
            network, given = LastStep(**networks), params
        model = Model(network, info.schedule.build(), info.prediction, shape)
        return Stage(model, given, info.sampling)

    def _read_unet(self, name: str) -> tuple[Any, Params, tuple[int, int, int]]:
        parts, dtype = self._parts, self._parts.info.dtype
        parts.check(name)
        folder = parts.folder / name
        model = read_model(folder, dtype)
        params = read_parameters(
            folder, model, parts.variant_of(name), parts.info.allow_bin, dtype
        )
        check_params(params)
        return model.network(), params, model.image_shape

    @staticmethod
    def _wanted(info: StageInfo | None, name: str, remedy: str) -> StageInfo:
        if info is None:
            raise InputError(f"the model must have a {name}, got none. {remedy}.")
        return info
