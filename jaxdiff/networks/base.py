"""Options and inputs that the networks share."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Ge, Gt, Interval, MultipleOf

from jaxdiff import rng
from jaxdiff.checks import Share
from jaxdiff.errors import InputError
from jaxdiff.networks.condition_options import ConditionConfig
from jaxdiff.networks.image_sizes import attention_sizes, check_sides, on_patches
from jaxdiff.networks.layers import Norm, drop_labels
from jaxdiff.networks.modules import Embed
from jaxdiff.networks.products import Dense
from jaxdiff.networks.time_embedding import (
    Fourier,
    Sinusoids,
    TimeEmbedding,
    timestep_embedding,
)
from jaxdiff.typing import Array, Condition, Images, Key, Timesteps

SECOND_TIME = ("end_1/", "end_2/", "end_fourier/")
"""Beginnings of the names of parameters that embed the second time."""
LEVEL_SCALE = 1000.0
"""Factor of the level of a condition's image before its sinusoids."""


@dataclass(frozen=True, kw_only=True)
class CommonConfig(ConditionConfig):
    """Options of every U-Net."""

    epsilon: Annotated[float, Interval(gt=0, lt=1)] = 1e-6
    """Number that the normalisation adds to the variance."""
    scale_shift: bool = False
    """If True, the time scales and shifts the result of a block's second norm, as in
    ADM (Dhariwal & Nichol 2021). Otherwise the time is added before that norm."""
    dropout: Share = 0.1
    """Dropout rate in each residual block."""
    patch: Annotated[int, Ge(1)] = 1
    """Side of a patch in pixels. The network treats patches as pixels with more
    channels (Luhman & Luhman 2022), which costs less by the square of the side, and is
    a little less fine. A network on patches cannot be exported to diffusers."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(CommonConfig):
    """Options of networks with DDPM's levels; the defaults are those for CIFAR-10."""

    channels: Annotated[int, Ge(4), MultipleOf(2)] = 128
    """Number of channels of the first level."""
    multipliers: tuple[Annotated[float, Gt(0)], ...] = (1, 2, 2, 2)
    """Channels of each level, in multiples of `channels`; each further level halves the
    size."""
    blocks: Annotated[int, Ge(1)] = 2
    """Number of residual blocks per level on the way down; one more on the way up."""
    attention: tuple[Annotated[int, Ge(1)], ...] = (16,)
    """Sizes (larger side, in patches) of feature maps with self-attention; the option
    `middle` has its own."""
    heads: Annotated[int, Ge(1)] = 1
    """Number of attention heads; it must divide the channels."""
    head_channels: Annotated[int, Ge(1)] | None = None
    """Number of channels per head, instead of `heads`; None to use `heads`."""
    middle: Literal["attention", "attention-without-norm", "no-attention"] = "attention"
    """Layer between the two blocks of the middle."""
    middle_groups: Annotated[int, Ge(1)] | None = None
    """Number of groups of the norm in that attention, a divisor of its channels; None
    for the number of the blocks' norms."""
    embedding: TimeEmbedding = field(default_factory=Sinusoids)
    """Embedding of the time."""
    class_embedding: Literal["table", "time", "none"] = "table"
    """Embedding of the class: a row per class, for labels; or that of the time with two
    layers of its own, for a condition's vector [batch, 1]; or none, for a vector
    [batch, 4 channels]."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters and output are float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= len(self.multipliers) <= 20:
            raise InputError(
                "multipliers must have 1 to 20 levels, got "
                f"{len(self.multipliers) or self.multipliers}"
            )
        for multiplier, width in zip(self.multipliers, self.widths, strict=True):
            if width < 1 or abs(width - self.channels * multiplier) > 1e-6 * width:
                raise InputError(
                    "multipliers must give whole numbers of channels, got "
                    f"{multiplier:g} times {self.channels}"
                )
            self.head_count(width)
        if self.middle_groups is not None and self.widths[-1] % self.middle_groups:
            raise InputError(
                f"middle_groups must divide the channels {self.widths[-1]} of the last "
                f"level, got {self.middle_groups}"
            )

    @property
    def embedding_channels(self) -> int:
        """Number of channels of the embedding of time and class."""
        return 4 * self.channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of channels of the levels."""
        scaled = (self.channels * multiplier for multiplier in self.multipliers)
        return tuple(round(width) if math.isfinite(width) else 0 for width in scaled)

    def head_count(self, width: int) -> int:
        """Returns the number of attention heads over `width` channels.

        Raises:
            InputError: the heads do not divide the channels.
        """
        if self.head_channels is None:
            name, value = "heads", self.heads
        else:
            name, value = "head_channels", self.head_channels
        if width % value:
            raise InputError(f"{name} must divide the channels {width}, got {value}")
        return value if self.head_channels is None else width // value

    def middle_norm(self, norm: Callable[..., Norm]) -> Callable[..., Norm] | None:
        """Returns the norm of the middle's attention, made from those of its blocks."""
        if self.middle == "attention-without-norm":
            return None
        if self.middle_groups is None:
            return norm
        dtype = jnp.dtype(self.dtype)
        return partial(Norm, self.middle_groups, dtype, 1, self.epsilon)

    def for_sizes(self, sizes: Sequence[tuple[int, int]]) -> Self:
        """Returns the options with attention in the same levels for all sizes."""
        return replace(self, attention=attention_sizes(self, sizes, self.patch))

    def check_image_shape(self, height: int, width: int) -> None:
        """Checks that patches and levels divide the image's size evenly.

        Raises:
            InputError: a size is not a multiple of patch * 2^(levels - 1). The message
                has the nearest multiples.
        """
        levels = len(self.multipliers)
        check_sides(
            height, width, self.patch * 2 ** (levels - 1),
            f" for {levels} levels{on_patches(self.patch)}", ", or fewer multipliers",
        )  # fmt: skip


class BaseNetwork(nn.Module):
    """Inputs of a network: their checks, and the embedding of time and class.

    Attributes:
        config: options of the network.
        out_channels: number of channels of the output.
        num_classes: number of classes, or None for an unconditional network. Class
            `num_classes` is the null class, which stands for "any".
        in_channels: number of channels of the images; None for `out_channels`.
        label_deviation: standard deviation of the initial embeddings of the classes.
    """

    config: Any
    out_channels: int
    num_classes: int | None = None
    in_channels: int | None = None
    label_deviation: ClassVar[float] = 1.0

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts of a condition without which it cannot be evaluated."""
        vector = ("vector",) * (self.config.class_embedding != "table")
        return vector + self.config.image_parts

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the parts of a condition that the network takes."""
        end = ("end",) * self.config.second_time
        labels = ("labels",) * (self.num_classes is not None)
        return labels + self.needs + self.text_parts + end

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Names of the parts of a text that it takes, and can be evaluated without."""
        return ()

    def example_condition(self, image_shape: tuple[int, ...]) -> Condition:
        """Returns a condition of one example, for images of this shape."""
        config, lengths = (
            self.config,
            {"time": 1, "none": self.config.embedding_channels},
        )
        features = lengths.get(config.class_embedding, 0)
        return Condition(
            labels=None if self.num_classes is None else jnp.zeros(1, jnp.int32),
            vector=jnp.ones((1, features)) if features else None,
            **config.example_image(image_shape),
        )

    def check_null_class(self) -> None:
        """Raises `InputError` if the network cannot be evaluated without labels."""
        if self.num_classes is not None:
            self.config.check_null_class()

    def checked(self, x: Images, t: Timesteps, condition: Condition) -> Images:
        """Checks a call, and returns the network's input in the type to compute.

        Raises:
            InputError: the shape of an argument does not match.
        """
        channels = self.in_channels or self.out_channels
        if x.ndim != 4 or x.shape[-1] != channels:
            raise InputError(
                f"images must be [batch, height, width, {channels}], "
                f"got shape {x.shape}"
            )
        self.config.check_image_shape(*x.shape[1:3])
        if t.shape != x.shape[:1]:
            raise InputError(f"t must have shape {x.shape[:1]}, got {t.shape}")
        labels = condition.labels
        if labels is not None and labels.shape[:1] != x.shape[:1]:
            raise InputError(
                f"labels must be {x.shape[0]}, one per image, got {labels.shape[0]}"
            )
        for name in self.needs:
            if getattr(condition, name) is None:
                raise InputError(f"{name} must be given to this network, got None")
        dtype = jnp.dtype(self.config.dtype)
        x = x.astype(dtype)
        if self.config.condition_channels:
            wanted = (*x.shape[:3], self.config.condition_channels)
            if condition.image.shape != wanted:
                raise InputError(
                    f"image must have shape {wanted}, got {condition.image.shape}"
                )
            x = jnp.concatenate([x, condition.image.astype(dtype)], axis=-1)
        return 2 * x - 1 if self.config.center_input else x

    def divided(self, x: Images, t: Timesteps) -> Images:
        """Returns the output, divided by the time if the embedding asks for it."""
        embedding = self.config.embedding
        divide = isinstance(embedding, Fourier) and embedding.divide
        return x / t.astype(jnp.float32)[:, None, None, None] if divide else x

    def embed(self, t: Timesteps, condition: Condition, keys: Key | None) -> Array:
        """Returns the embedding of time and class, [batch, embedding channels]."""
        config, vector = self.config, condition.vector
        embed_time = config.embedding.layer(config.channels)
        embedding = self.mlp(embed_time(t), "time")
        if config.second_time:
            embedding += self.embed_end(t, condition.end, config.channels)
        if config.image_level:
            embedding += self.embed_image_level(condition, config.channels)
        if config.class_embedding == "table":
            if self.num_classes is None:
                return embedding
            return embedding + self.embed_labels(condition.labels, t, keys)
        return embedding + self.embed_vector(vector, embed_time)

    def dense(self, name: str, zero: bool = False) -> Dense:
        """Makes a linear layer to the channels of the embedding; `zero` at first."""
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        dtype: Any = jnp.dtype(self.config.dtype)
        features = self.config.embedding_channels
        init = nn.initializers.zeros if zero else init
        return Dense(features, dtype=dtype, kernel_init=init, name=name)

    def mlp(
        self, x: Array, name: str, activation: Callable[[Array], Array] = nn.swish
    ) -> Array:
        """Returns the result of two linear layers, [batch, embedding channels]."""
        return self.dense(f"{name}_2")(activation(self.dense(f"{name}_1")(x)))

    def embed_end(self, t: Timesteps, end: Array | None, features: int) -> Array:
        """Returns the embedding of the way from t to the end of a step.

        Args:
            t: times [batch].
            end: times [batch] at which the step ends; None for t, an instant.
            features: number of sinusoids.
        """
        return self._embed_number(way_between(t, end), "end", features)

    def embed_image_level(self, condition: Condition, features: int) -> Array:
        """Returns the embedding of the level of the noise in the condition's image.

        Args:
            condition: condition of the batch.
            features: number of sinusoids.
        """
        levels = LEVEL_SCALE * condition.image_level.astype(jnp.float32)
        return self._embed_number(levels, "image_level", features)

    def _embed_number(self, number: Array, name: str, features: int) -> Array:
        """Returns the embedding of numbers [batch], which starts at zero."""
        hidden = timestep_embedding(number, features)
        hidden = nn.swish(self.dense(f"{name}_1")(hidden))
        return self.dense(f"{name}_2", zero=True)(hidden)

    def embed_vector(
        self,
        vector: Array,
        embed_time: Callable[[Array], Array],
        activation: Callable[[Array], Array] = nn.swish,
    ) -> Array:
        """Returns the embedding of a condition's vector in place of labels.

        Raises:
            InputError: the vector has another length.
        """
        if self.config.class_embedding == "time":
            check_vector(vector, 1)
            return self.mlp(embed_time(vector[:, 0]), "class", activation)
        check_vector(vector, self.config.embedding_channels)
        return vector.astype(jnp.dtype(self.config.dtype))

    def embed_labels(
        self, labels: Array | None, t: Timesteps, keys: Key | None
    ) -> Array:
        """Returns the embedding of labels, or of shares of the classes."""
        config, null = self.config, self.num_classes
        assert null is not None, "there are classes"
        dtype: Any = jnp.dtype(config.dtype)
        if labels is None:
            if not self.is_initializing():
                config.check_null_class()
            labels = jnp.full(t.shape, null if config.null_class else 0)
        init = nn.initializers.normal(self.label_deviation)
        embed = Embed(
            null + config.null_class, config.embedding_channels, dtype=dtype,
            embedding_init=init, name="label",
        )  # fmt: skip
        if jnp.issubdtype(labels.dtype, jnp.floating):
            shares = labels
            if config.null_class:
                rest = 1 - labels.sum(axis=1, keepdims=True)
                shares = jnp.concatenate([labels, rest], axis=1)
            return shares.astype(dtype) @ embed.embedding.astype(dtype)
        return embed(drop_labels(labels, config.label_dropout, null, keys))


def way_between(t: Timesteps, end: Array | None) -> Array:
    """Returns the way from times t to the end of a step, float32 [batch].

    Args:
        t: times [batch].
        end: times [batch] at which the step ends; None for t, an instant.
    """
    t = t.astype(jnp.float32)
    return jnp.zeros_like(t) if end is None else t - end.astype(jnp.float32)


def check_vector(vector: Array, features: int) -> None:
    """Raises `InputError` if a condition's vector has another length."""
    if vector.shape[1:] != (features,):
        raise InputError(f"vector must be [batch, {features}], got {vector.shape}")


def key_streams(keys: Key | None) -> Callable[[], Key | None]:
    """Returns a function whose calls give keys [batch] of independent streams.

    Every block has a stream of its own; the first stream is for the labels.
    """
    streams = itertools.count()

    def next_keys() -> Key | None:
        stream = next(streams)
        return None if keys is None else rng.fold(keys, stream)

    return next_keys
