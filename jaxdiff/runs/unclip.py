"""Stages of unCLIP around a run's decoder (Ramesh et al. 2022).

    prompt -> prior -> vector of an image -> decoder -> small image -> enlargement
    picture -> image encoder ----^

The run's own network is the decoder. An image's vector is CLIP's. It may also be that
of a picture, be between two, or be turned by the difference of two texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.conditioning.text_encoder import encode
from jaxdiff.conditions import slerp
from jaxdiff.errors import InputError
from jaxdiff.networks.prior import unscaled
from jaxdiff.networks.time_embedding import timestep_embedding
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.runs.parts_info import UnCLIPInfo
from jaxdiff.runs.unclip_stages import Stage
from jaxdiff.training.experiment import Sampling
from jaxdiff.typing import Array, ArrayLike, Condition, Params

if TYPE_CHECKING:
    from jaxdiff.runs.parts import Parts

Texts = str | Sequence[str] | Condition
"""Prompts, a single one for all images, or their encoded form."""
PRIOR, _ENLARGE, _NOISE = 1, 2, 3
"""Numbers of the stages."""


def stage_seeds(seeds: Any, stage: int) -> np.ndarray:
    """Returns seeds of a stage, so that all stages of an image have their own noise.

    Args:
        seeds: seed of all images, or one per image.
        stage: number of the stage: 1 for the prior, 2 for the enlargement, 3 for the
            noise of vectors.
    """

    def one(seed: int) -> int:
        return int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])

    found = [one(int(seed)) for seed in np.ravel(seeds)]
    return np.array(found, np.uint32).reshape(np.shape(seeds))


def texts_of_images(
    prompts: str | Sequence[str], num: int | None
) -> tuple[list[str], np.ndarray]:
    """Returns prompts, and the number of each image's prompt [num].

    Args:
        prompts: prompts, or a single one for all images.
        num: number of images; that of the prompts by default.

    Raises:
        InputError: there are neither one nor `num` prompts.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    num = len(texts) if num is None else num
    if len(texts) not in (1, num):
        raise InputError(f"prompts must be 1 or {num}, one per image, got {len(texts)}")
    return texts, np.resize(np.arange(len(texts)), num)


def layout_for(parallel: Parallel, num: int) -> Parallel:
    """Returns the layout for some images; devices without an image would idle.

    Args:
        parallel: layout of devices.
        num: number of images.
    """
    count = len(parallel.devices)
    if isinstance(parallel, Pmap) and num < count == jax.device_count():
        return Pmap(num_devices=num) if jax.process_count() == 1 else parallel
    return parallel


class Decoding(NamedTuple):
    """Conditions of a decoder, for `Run.generate`.

    Attributes:
        condition: condition of each image.
        base: condition that guidance leads away from.
    """

    condition: Condition
    base: Condition


@dataclass(frozen=True)
class UnCLIP:
    """Stages of unCLIP; each is read when it is first used.

    Attributes:
        parts: parts of the run.
        size: height and width of the decoder's images, in pixels.
        parallel: layout of devices.
    """

    parts: "Parts"
    size: tuple[int, int]
    parallel: Parallel = field(default_factory=Pmap)

    @property
    def info(self) -> UnCLIPInfo:
        """Names of the parts."""
        assert self.parts.info.unclip is not None, "checked"
        return self.parts.info.unclip

    @property
    def enlarges(self) -> bool:
        """True if the model enlarges the decoder's images itself."""
        return self.info.enlarge is not None

    @property
    def picture_size(self) -> None:
        """None: `encode` takes pictures of any size."""

    @property
    def channels(self) -> int:
        """Number of channels of pictures for `encode`."""
        return 3

    @property
    def prior(self) -> Stage:
        """Prior.

        Raises:
            InputError: the model has none, or its files are damaged.
        """
        return self.parts.stages.prior

    @property
    def enlargement(self) -> Stage:
        """Enlargement of the decoder's images.

        Raises:
            InputError: the model has none, or its files are damaged.
        """
        return self.parts.stages.enlargement

    def text(self, prompts: Texts, num: int | None = None) -> Condition:
        """Returns tokens, mask and vector of texts.

        Args:
            prompts: prompts, or a single one for all images; an encoded form is
                returned as it is.
            num: number of images; that of the prompts by default.

        Raises:
            InputError: a prompt is not a valid string, or their number is another.

        Warns:
            UserWarning: it names words that are cut off.
        """
        if isinstance(prompts, Condition):
            return prompts
        texts, rows = texts_of_images(prompts, num)
        encoder = self.parts.stages.encoder
        tokens = encoder.tokenizer(texts)
        # The text encoder attends to padding, the prior and the decoder do not.
        found = encode(encoder.network, encoder.params, tokens, masked=False)
        found = found._replace(mask=jnp.asarray(tokens.mask))
        return Condition(*(None if part is None else part[rows] for part in found))

    def text_of_decoder(self, prompt: str) -> Condition:
        """Returns the condition of a prompt that the decoder takes."""
        if self.info.projection:
            return self.text(prompt)
        return self.parts.prompts([prompt], self.size)

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
        """Draws vectors of images from prompts: the prior.

        Args:
            prompts: prompts; a single one for all images.
            seed: seed of all images, or one per image.
            num: number of images; that of the prompts by default.
            negative: prompts that guidance leads away from.
            sampling: sampler, guidance and clipping; the prior's own by default.
            indices: places of the images; 0, 1, ... by default.

        Returns:
            Vectors of CLIP, float32 [num, features].

        Raises:
            InputError: the model has no prior, or an argument does not fit.
        """
        stage = self.prior
        text = self.text(prompts, num)
        base = self.text(negative, len(text.vector))
        drawn = stage.generate(
            text, stage_seeds(seed, PRIOR), sampling, base=base, indices=indices,
            parallel=layout_for(self.parallel, len(text.vector)),
        )  # fmt: skip
        return np.asarray(unscaled(stage.params, jnp.asarray(drawn)))

    def encode(self, images: ArrayLike | Sequence[ArrayLike]) -> np.ndarray:
        """Returns the vectors of pictures.

        Args:
            images: pictures in [-1, 1], each [height, width, 3] of any size.

        Returns:
            Vectors of CLIP, float32 [num, features].

        Raises:
            InputError: the model has no image encoder.
        """
        component, processor = self.parts.stages.image_encoder
        pixels = jnp.stack([processor(image) for image in images])
        return np.asarray(
            _encode(component.network, component.params, pixels), np.float32
        )

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
            vectors: vectors of CLIP [num, features].
            prompts: prompts; a single one for all images.
            negative: prompts that guidance leads away from; none by default.
            seed: seed of the noise of vectors, or one per image.
            noise_level: time of the noise that is added to vectors, of a model that is
                given this level.

        Raises:
            InputError: the arguments do not fit each other or the model.
        """
        vectors = jnp.asarray(vectors, jnp.float32)
        num = len(vectors)
        if self.info.projection:
            if noise_level:
                raise InputError(
                    "noise_level must be 0 for a model whose decoder is not given it, "
                    f"got {noise_level}. Leave it out."
                )
            component = self.parts.stages.projection
            project = partial(_project, component.network, component.params)
            text, base = self.text(prompts, num), self.text(negative or "", num)
            return Decoding(project(text, vectors), project(base, None))
        return self._of_noisy(vectors, prompts, negative, seed, noise_level)

    def _of_noisy(
        self, vectors: Array, prompts: Texts, negative: Any, seed: Any, level: int
    ) -> Decoding:
        """Returns the conditions of a decoder that is given the vectors' noise."""
        num, features = vectors.shape
        noising = self.info.noising
        assert noising is not None, "a decoder without a projection has it"
        schedule: Any = noising.schedule.build()
        component = self.parts.stages.scale
        apply = partial(component.network.apply, {"params": component.params})
        seeds = np.broadcast_to(stage_seeds(seed, _NOISE), (num,))
        keys = jax.vmap(rng.key)(jnp.asarray(seeds))
        noise = rng.step_noise(keys, jnp.zeros(num, jnp.int32), 0, (features,))
        alpha, sigma = schedule.level(level)[1:]
        noisy = apply(alpha * apply(vectors) + sigma * noise, inverse=True)
        times = timestep_embedding(jnp.full(num, level), features, shift=0.0, flip=True)
        vector = jnp.concatenate([noisy, times], axis=1)
        texts: Any = prompts
        if not isinstance(prompts, Condition):
            given = [prompts] if isinstance(prompts, str) else list(prompts)
            texts = self.parts.prompts(list(np.resize(given, num)), self.size)
        base = self.parts.prompts.negative(texts, negative, self.size)
        return Decoding(
            texts._replace(vector=vector),
            base._replace(vector=jnp.zeros_like(vector)),
        )

    def enlarge(
        self,
        images: ArrayLike,
        seed: int | np.ndarray,
        *,
        sampling: Sampling | None = None,
        indices: np.ndarray | None = None,
    ) -> np.ndarray:
        """Enlarges images of the decoder.

        Args:
            images: images [num, height, width, 3] in [-1, 1].
            seed: seed of all images, or one per image.
            sampling: sampler and clipping; the enlargement's own by default.
            indices: places of the images; 0, 1, ... by default.

        Returns:
            Images, float32 [num, height, width, 3] in [-1, 1].

        Raises:
            InputError: the model has no enlargement.
        """
        stage = self.enlargement
        small = jnp.clip(jnp.asarray(images), -1, 1)
        shape = (len(small), *stage.model.image_shape[:2], small.shape[-1])
        condition = Condition(image=jax.image.resize(small, shape, "cubic"))
        drawn = stage.generate(
            condition, stage_seeds(seed, _ENLARGE), sampling, indices=indices,
            parallel=layout_for(self.parallel, len(small)),
        )  # fmt: skip
        return np.clip(drawn, -1, 1)


def turned(
    vectors: ArrayLike, first: ArrayLike, second: ArrayLike, share: ArrayLike | float
) -> np.ndarray:
    """Turns vectors by the difference of two texts (Ramesh et al. 2022, section 3.3).

    Args:
        vectors: vectors of images [num, features].
        first: vectors of the texts that describe the images, [num, features].
        second: vectors of the texts to go to, [num, features].
        share: share of the angle between a vector and the difference, [] or [num]; the
            paper takes up to 0.25 to 0.5.

    Returns:
        Vectors of the given vectors' lengths.
    """
    vectors = jnp.asarray(vectors)
    difference = jnp.asarray(second) - jnp.asarray(first)
    length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    norm = jnp.linalg.norm(difference, axis=1, keepdims=True)
    direction = difference * length / jnp.where(norm > 0, norm, 1.0)
    turned = jnp.where(norm > 0, slerp(vectors, direction, share), vectors)
    return np.asarray(turned)


@partial(jax.jit, static_argnums=0)
def _project(
    network: Any, params: Params, text: Condition, vectors: Array | None
) -> Condition:
    found: Condition = network.apply({"params": params}, text, vectors)
    return found


@partial(jax.jit, static_argnums=0)
def _encode(network: Any, params: Params, pixels: Array) -> Array:
    vectors: Array = network.apply({"params": params}, pixels).vector
    return vectors
