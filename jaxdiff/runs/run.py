"""The trained model of a run, in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.adapters import LoRA
from jaxdiff.conditioning import Tokenizer
from jaxdiff.conditioning.prompts import Prompts
from jaxdiff.denoisers.network import NetworkDenoiser
from jaxdiff.errors import InputError
from jaxdiff.networks.image_sizes import check_sides
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.runs import adapt
from jaxdiff.runs.adapt import AnyLoRA, AnyPath
from jaxdiff.runs.enlarge import enlarge
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.own_text import prompts_of
from jaxdiff.runs.own_unclip import OwnUnCLIP, PriorRun, load_prior
from jaxdiff.runs.parts import Parts
from jaxdiff.runs.unclip import UnCLIP
from jaxdiff.runs.vectors import is_decoder
from jaxdiff.training.experiment import DataInfo, Experiment, Sampling
from jaxdiff.training.model import Model
from jaxdiff.typing import AnySchedule, ArrayLike, Condition, Network, Params


@dataclass(frozen=True)
class Run:
    """A trained model, as `load` returns it.

    Attributes:
        experiment: the run's configuration.
        info: shape and classes of the data.
        model: network, schedule and prediction.
        params: a moving average of the network's parameters.
        step: number of training steps.
        parallel: layout of devices for sampling.
        parts: text encoders and autoencoder of a model of latents.
        lora: adapter that the run has trained; `params` have it. None without.
        tokenizer: tokenizer of the text encoder inside the network. None without.
        prior: prior of a decoder of unCLIP; see `with_prior`. None without.
    """

    experiment: Experiment
    info: DataInfo
    model: Model
    params: Params
    step: int
    parallel: Parallel = field(default_factory=Pmap)
    parts: Parts | None = None
    lora: LoRA | None = None
    tokenizer: Tokenizer | None = None
    prior: PriorRun | None = None

    @property
    def network(self) -> Network:
        """Flax network."""
        return self.model.network

    @property
    def schedule(self) -> AnySchedule:
        """Noise schedule."""
        return self.model.schedule

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        height, width, _ = self.model.image_shape
        factor = 1 if self.parts is None else self.parts.factor
        return height * factor, width * factor

    @property
    def takes_prompts(self) -> bool:
        """True if the run has text encoders for prompts."""
        own = self.tokenizer is not None
        return own or (self.parts is not None and bool(self.parts.info.encoders))

    @property
    def prompts(self) -> Prompts:
        """Text encoders of the model; an `InputError` if it takes no text."""
        if self.tokenizer is not None:
            return prompts_of(self.model, self.params, self.tokenizer)
        return self._parts("text").prompts

    @cached_property
    def unclip(self) -> UnCLIP | OwnUnCLIP:
        """Stages around the decoder of unCLIP.

        Raises:
            InputError: the run is another model; or the towers of a decoder of one's
                own have changed, or are not those of the prior.
        """
        if is_decoder(self.experiment):
            return OwnUnCLIP.of(self.experiment, self.info, self.prior)
        if self.parts is None or self.parts.info.unclip is None:
            raise InputError(
                "the run must be a model of unCLIP, got another. Import one, such as "
                "an UnCLIPPipeline."
            )
        return UnCLIP(self.parts, self.image_size, self.parallel)

    @property
    def is_unclip(self) -> bool:
        """True for a decoder of unCLIP, imported or of one's own."""
        imported = self.parts is not None and self.parts.info.unclip is not None
        return imported or is_decoder(self.experiment)

    def with_prior(self, workdir: AnyPath) -> "Run":
        """Returns the decoder with a prior, which draws vectors from prompts.

        Args:
            workdir: run folder of the prior, which train-prior wrote.

        Raises:
            InputError: the folder holds no prior, or the run is no decoder.
        """
        if not is_decoder(self.experiment):
            raise InputError(
                "the run must be a decoder of unCLIP for a prior, got another. Train "
                "one with the recipe unclip."
            )
        return replace(self, prior=load_prior(Path(workdir)))

    def denoiser(self, labels: Any = None) -> NetworkDenoiser:
        """Returns the network bound to its averaged parameters and to a condition."""
        return self.model.denoiser(self.params, labels)

    def resized(self, height: int, width: int) -> "Run":
        """Returns the same model for images of another size.

        Args:
            height: height in pixels.
            width: width in pixels.

        Raises:
            InputError: the network or the autoencoder does not take this size.
        """
        factor = 1 if self.parts is None else self.parts.factor
        check_sides(height, width, factor)
        *_, channels = self.model.image_shape
        shape = (height // factor, width // factor, channels)
        if self.info.network is None:
            self.experiment.network.check_image_shape(*shape[:2])
        model = replace(self.model, image_shape=shape)
        info = self.info._replace(image_shape=shape)
        return replace(self, model=model, info=info)

    def text(self, prompts: str | Sequence[str], *, windows: bool = False) -> Condition:
        """Returns the condition of prompts, one image each; see `Prompts`.

        Raises:
            InputError: the model takes no text, or a prompt is not a valid string.
        """
        return self.prompts(prompts, self.image_size, windows=windows)

    def negative(
        self, condition: Condition, prompts: str | Sequence[str] | None = None
    ) -> Condition:
        """Returns what guidance leads away from: negative prompts, or none.

        Args:
            condition: condition of the prompts.
            prompts: negative prompts, a single one for all images, or None.

        Raises:
            InputError: the model takes no text, or the prompts do not fit.
        """
        return self.prompts.negative(condition, prompts, self.image_size)

    def with_image(
        self, condition: Condition, image: ArrayLike, mask: ArrayLike | None = None
    ) -> Condition:
        """Returns a condition with an image to edit, or to repaint under a mask.

        Args:
            condition: condition of the prompts.
            image: image [height, width, 3] in [-1, 1], for all prompts.
            mask: mask [height, width], 1 where the image is repainted, for a model
                of inpainting; None for a model that follows instructions.

        Raises:
            InputError: the model takes no image, or it takes a mask and there is none,
                or the other way round; or a shape differs from the model's.
        """
        latents = self._parts("latents").image_input(image, mask, self.image_size)
        return condition._replace(image=np.repeat(latents, len(condition.text), 0))

    def with_lora(
        self, adapter: AnyLoRA, scale: float | jax.Array = 1.0, allow_bin: bool = False
    ) -> "Run":
        """Returns the model with an adapter merged; see `adapt.with_lora`."""
        return adapt.with_lora(self, adapter, scale, allow_bin)

    def with_embedding(
        self, file: AnyPath, token: str | None = None, allow_bin: bool = False
    ) -> "Run":
        """Returns the model with new tokens; see `adapt.with_embedding`."""
        return adapt.with_embedding(self, file, token, allow_bin)

    def encode(self, images: ArrayLike) -> np.ndarray:
        """Returns the latents of images [num, height, width, 3] in [-1, 1]."""
        return self._parts("latents").encode(images)

    def latent_mask(self, mask: ArrayLike) -> np.ndarray:
        """Returns the mask of latents, float32 [h, w, 1], for a mask [height, width].

        A latent is repainted if the mask is at least 0.5 at its first pixel, as in
        the diffusers library.
        """
        return self._parts("latents").latent_mask(mask)

    def decode(self, latents: ArrayLike) -> np.ndarray:
        """Returns the images of latents, one after the other.

        Args:
            latents: latents [num, h, w, channels], as `generate` returns them.

        Returns:
            Images, float32 [num, height, width, 3] in [-1, 1].
        """
        return self._parts("latents").decode(latents)

    def enlarge(
        self,
        images: ArrayLike,
        labels: Condition | np.ndarray | None,
        seed: int | np.ndarray,
        *,
        augmentation: float = 0.0,
        sampling: Sampling | None = None,
        indices: np.ndarray | None = None,
        base: Condition | None = None,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Enlarges small images, by a run of super-resolution.

        Args:
            images: small images [num, height, width, channels] in [-1, 1]. Those of
                another size than in training make images of another size.
            labels: classes [num], or a `Condition` with a text; None for none.
            seed: random seed, or one per image, integers [num].
            augmentation: level of the noise that is added to the small images, from 0
                (none) to the largest of the training. 0.1 suits the images of a
                cascade, which have faults.
            sampling: sampler, guidance and clipping; the experiment's by default.
            indices: integers [num]; 0, 1, ... by default. Image i depends only on (its
                seed, indices[i]), its small image and its label.
            base: condition that guidance leads away from; see `generate`.
            on_chunk: called with the number of finished images after each chunk.

        Returns:
            float32 [num, factor * height, factor * width, channels].

        Raises:
            InputError: the run is another model, or an argument does not fit.
        """
        return enlarge(
            self, images, labels, seed, augmentation=augmentation, sampling=sampling,
            indices=indices, base=base, on_chunk=on_chunk,
        )  # fmt: skip

    def _parts(self, name: str) -> Parts:
        """Returns the parts of a model of text and latents."""
        parts = self.parts
        latent = parts is not None and parts.info.autoencoder
        if not latent or (name == "text" and not self.takes_prompts):
            got = "classes" if latent else "pixels"
            raise InputError(
                f"the run must be a model of {name}, got one of {got}. Import one, "
                "such as Stable Diffusion."
            )
        assert parts is not None, "checked"
        return parts

    def check_request(
        self,
        labels: Condition | np.ndarray | None,
        num: int,
        seed: int | np.ndarray,
        sampling: Sampling | None = None,
    ) -> None:
        """Checks the arguments of `generate` together with the run's options.

        Raises:
            InputError: an argument is out of range, or does not fit the run; or the
                run's parameters are not finite.
        """
        check_params(self.params)
        sampling = sampling or self.experiment.sampling
        check_request(self.model, sampling, labels, num, seed)
        experiment = replace(self.experiment, sampling=sampling)
        experiment.check(self.schedule)
        experiment.check_guidance(self.info)

    def generate(
        self,
        labels: Condition | np.ndarray | None,
        num: int,
        seed: int | np.ndarray,
        *,
        sampling: Sampling | None = None,
        indices: np.ndarray | None = None,
        base: Condition | None = None,
        start: np.ndarray | None = None,
        strength: float | None = None,
        mask: np.ndarray | None = None,
        every: int | None = None,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draws images on all devices; see `runs.generate.generate`.

        Args:
            labels: integer classes [num], or weights of the classes, float
                [num, classes]; None for any class. Or a `Condition` of the parts that
                the network takes.
            num: number of images.
            seed: random seed, or one per image, integers [num]. Image i depends only
                on (its seed, indices[i]) and its label.
            sampling: sampler, guidance and clipping; the experiment's by default.
            indices: integers [num]; 0, 1, ... by default.
            base: condition [num] that guidance leads away from, such as a negative
                prompt; by default hidden, or an empty text encoded by the network.
            start: standard Gaussian noise to start from, of the images' shape; or,
                with `strength`, images to change.
            strength: share of the steps that change the images of `start`, in (0, 1].
            mask: where they change, float [num, height, width, 1], 1 to repaint and 0
                to keep, with `strength`. For latents see `latent_mask`.
            every: return trajectories with a state every this many steps, instead of
                images.
            on_chunk: called with the number of finished images after each chunk.

        Returns:
            float32 [num, height, width, channels], in [-1, 1] up to rounding if
            clipped; with `every`, [num, states, height, width, channels].

        Raises:
            InputError: see `check_request` and `runs.generate.generate`.
        """
        sampling = sampling or self.experiment.sampling
        self.check_request(labels, num, seed, sampling)
        given = labels if isinstance(labels, Condition) else Condition()
        if base is None and self.tokenizer is not None and given.text is not None:
            base = self.negative(given)
        return generate(
            self.model, self.params, sampling, labels, seed, num=num,
            parallel=self.parallel, indices=indices, base=base, start=start,
            strength=strength, mask=mask, every=every, on_chunk=on_chunk,
        )  # fmt: skip
