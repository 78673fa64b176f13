"""Diffusion transformer with adaLN-zero (Peebles & Xie 2023, section 3).

Patches of the image are tokens. The time, the class and a vector give a vector c, which
shifts, scales and gates every layer of a block:

(1)  x <- x + g_1 * attention((1 + s_1) * norm(x) + b_1)
(2)  x <- x + attention to the text, if there is a text
(3)  x <- x + g_2 * mlp((1 + s_2) * norm(x) + b_2)
     [b_1 | s_1 | g_1 | b_2 | s_2 | g_2] = linear(silu(c)), a linear layer of each block
(4)  output = linear((1 + s) * norm(x) + b),  [b | s] = linear(silu(c))

The linear layers of c begin at 0, so that every block begins as the identity. Norms
have no parameters. All blocks are equal: their parameters are stacked along a first
axis [depth, ...], and `flax.linen.scan` compiles one block. Modules have the names of
diffusers' tensors, except those of time and class.
"""

from functools import lru_cache
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.conditions import drop_parts
from jaxdiff.errors import InputError
from jaxdiff.networks.base import BaseNetwork, check_vector, key_streams
from jaxdiff.networks.dit_options import DiTConfig
from jaxdiff.networks.layers import dropout, from_patches, rematerialised
from jaxdiff.networks.modules import DenseGeneral, LayerNorm
from jaxdiff.networks.own_text import encoded, example_tokens
from jaxdiff.networks.products import Dense
from jaxdiff.networks.transformer import MultiHeadAttention, activation
from jaxdiff.typing import Array, Condition, Images, Key, Labels, Timesteps

FREQUENCIES = 256
"""Number of sinusoids of the time."""
BLOCKS = "transformer_blocks"
"""Name of the stacked blocks."""
_NAMES = ("to_q", "to_k", "to_v", "to_out.0")
_xavier = nn.initializers.xavier_uniform()
_small = nn.initializers.normal(0.02)
_zeros = nn.initializers.zeros


class DiT(BaseNetwork):
    """Flax module of the transformer; `DiTConfig.build` makes it.

    Its attributes are those of `UNet`.
    """

    label_deviation: ClassVar[float] = 0.02

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts of a condition without which it cannot be evaluated."""
        config: DiTConfig = self.config
        given = config.own_text is None
        parts = {
            "text": config.takes_text and given,
            "vector": config.vector_channels is not None and given,
        }
        needed = tuple(name for name, needed in parts.items() if needed)
        return needed + config.image_parts

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Names of the parts of a text that it takes, and can be evaluated without."""
        config: DiTConfig = self.config
        return config.text_parts(config.vector_channels is not None)

    def example_condition(self, image_shape: tuple[int, ...]) -> Condition:
        """Returns a condition of one example, for images of this shape."""
        config: DiTConfig = self.config
        sizes = {
            "text": (1, 1, config.token_channels),
            "vector": (1, config.vector_channels),
        }
        own = config.own_text
        example = Condition() if own is None else example_tokens(own)
        return example._replace(
            labels=None if self.num_classes is None else jnp.zeros(1, jnp.int32),
            **{name: jnp.zeros(sizes[name]) for name in self.needs if name in sizes},
            **config.example_image(image_shape),
        )

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Timesteps,
        condition: Condition | Labels | None = None,
        keys: Key | None = None,
    ) -> Images:
        """Returns the network's output; arguments and errors are those of `UNet`.

        The parts of the condition that the network takes are in `takes`: classes,
        tokens of a text with a mask, a vector, and an image that follows the channels
        of x. With a text encoder inside, `tokens` are numbers, and `text` is encoded.
        """
        config: DiTConfig = self.config
        dtype: Any = jnp.dtype(config.dtype)
        condition = Condition.of(condition)
        x = self.checked(x, t, condition)
        next_keys = key_streams(keys)
        label_keys, part_keys, block_keys = (next_keys() for _ in range(3))
        vector = config.vector_channels is not None
        condition = encoded(config.own_text, condition, vector)
        rate = config.text_dropout if config.own_text is None else 0.0
        condition = drop_parts(condition, part_keys, text=rate, vector=rate)
        embedding = nn.silu(self.embed(t, condition, label_keys))

        x = self._tokens(x)
        _, rows, columns, width = x.shape
        x = x.reshape(len(x), -1, width)
        text, mask = self._text(condition)
        if text is not None and config.text_by == "in-context":
            patches = x.shape[1]
            x = jnp.concatenate([x, text], axis=1)
            if mask is not None:
                mask = jnp.pad(mask, ((0, 0), (patches, 0)), constant_values=True)
            text = None

        (block,) = rematerialised(config.remat, Block, in_loop=config.scan)
        depth = config.sizes.depth
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=depth,
            unroll=1 if config.scan else depth,
        )(config, name=BLOCKS)
        x, _ = blocks(x, jnp.arange(depth), embedding, text, mask, block_keys)

        x = x[:, : rows * columns]
        moved = Dense(2 * width, dtype=dtype, kernel_init=_zeros, name="proj_out_1")
        shift, scale = jnp.split(moved(embedding)[:, None], 2, axis=-1)
        x = modulated(_norm(config, config.epsilon)(x), shift, scale)
        outputs = config.patch**2 * self.out_channels
        x = Dense(outputs, dtype=dtype, kernel_init=_zeros, name="proj_out_2")(x)
        x = x.astype(jnp.float32).reshape(len(x), rows, columns, outputs)
        return from_patches(x, config.patch)

    def dense(self, name: str, zero: bool = False) -> Dense:
        """Makes a linear layer to the channels of the embedding; `zero` at first."""
        dtype: Any = jnp.dtype(self.config.dtype)
        features = self.config.embedding_channels
        init = _zeros if zero else _small
        return Dense(features, dtype=dtype, kernel_init=init, name=name)

    def embed(self, t: Timesteps, condition: Condition, keys: Key | None) -> Array:
        """Returns the embedding of time, class and vector, [batch, width]."""
        config: DiTConfig = self.config
        features = config.embedding.layer(FREQUENCIES)(t)
        embedding = self.mlp(features, "time")
        if config.second_time:
            embedding += self.embed_end(t, condition.end, FREQUENCIES)
        if config.image_level:
            embedding += self.embed_image_level(condition, FREQUENCIES)
        if self.num_classes is not None:
            embedding += self.embed_labels(condition.labels, t, keys)
        if config.vector_channels is not None:
            check_vector(condition.vector, config.vector_channels)
            embedding += self.mlp(condition.vector, "vector")
        return embedding

    def _tokens(self, x: Images) -> Images:
        """Returns the tokens of the patches [batch, rows, columns, width]."""
        config: DiTConfig = self.config
        dtype: Any = jnp.dtype(config.dtype)
        side, width = config.patch, config.sizes.width
        batch, height, columns, channels = x.shape
        rows, columns = height // side, columns // side
        x = x.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
        project = DenseGeneral(
            width, axis=(-3, -2, -1), dtype=dtype, kernel_init=_xavier,
            name="pos_embed.proj",
        )  # fmt: skip
        return project(x) + self._positions(rows, columns).astype(dtype)[None]

    def _positions(self, rows: int, columns: int) -> Array:
        """Returns the embeddings of the positions [rows, columns, width].

        Raises:
            InputError: the table is for images of another size.
        """
        config: DiTConfig = self.config
        shape = (rows, columns, config.sizes.width)
        if config.positions == "fixed":
            base = config.sample_size and tuple(
                size // config.patch for size in config.sample_size
            )
            return jnp.asarray(fixed_positions(*shape, base or (rows, columns)))
        if self.has_variable("params", "positions"):
            known: Any = self.get_variable("params", "positions")
            if known.shape != shape:
                height, width = (size * config.patch for size in known.shape[:2])
                raise InputError(
                    f"images must have the size {height}x{width} of the learned "
                    f"positions, got {rows * config.patch}x{columns * config.patch}. "
                    "Set network.positions to fixed for other sizes."
                )
        return self.param("positions", _small, shape)

    def _text(self, condition: Condition) -> tuple[Array | None, Array | None]:
        """Returns the tokens of the text and their mask.

        Raises:
            InputError: the text has another shape.
        """
        config: DiTConfig = self.config
        features = config.token_channels
        if features is None:
            return None, None
        text, dtype = condition.text, jnp.dtype(config.dtype)
        if text.ndim != 3 or text.shape[-1] != features:
            raise InputError(
                f"text must be [batch, tokens, {features}], got {text.shape}"
            )
        project = Dense(
            config.sizes.width, dtype=dtype, kernel_init=_xavier, name="text_proj"
        )
        return project(text), condition.mask


class Block(nn.Module):
    """Block of the transformer, equations (1) to (3).

    Attributes:
        config: options of the network.
    """

    config: DiTConfig

    @nn.compact
    def __call__(
        self,
        x: Array,
        index: Array,
        embedding: Array,
        text: Array | None,
        mask: Array | None,
        keys: Key | None,
    ) -> tuple[Array, None]:
        """Returns the tokens after the block, and None, for `flax.linen.scan`.

        Args:
            x: tokens [batch, tokens, width].
            index: number of the block, for keys of its own.
            embedding: silu(c) [batch, width].
            text: tokens to attend to [batch, keys, width]; None for none.
            mask: False for padding of the text, or of x without a text, bool; or None.
            keys: one key per example in training, otherwise None.
        """
        config = self.config
        width, _, heads = config.sizes
        dtype: Any = jnp.dtype(config.dtype)
        keys = None if keys is None else rng.fold(keys, index)

        def dropped(x: Array, stream: int) -> Array:
            own = None if keys is None else rng.fold(keys, stream)
            return dropout(x, config.dropout, own)

        def attention(name: str, out_init: Any) -> MultiHeadAttention:
            return MultiHeadAttention(
                heads, width, width, dtype, _NAMES, by=config.attention_by,
                chunk=config.attention_chunk, qk_norm=config.qk_norm,
                kernel_init=_xavier, out_init=out_init, name=name,
            )  # fmt: skip

        def dense(features: int, name: str, init: Any = _xavier) -> Dense:
            return Dense(features, dtype=dtype, kernel_init=init, name=name)

        moved = dense(6 * width, "norm1.linear", _zeros)(embedding)[:, None]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(moved, 6, -1)

        h = modulated(_norm(config, config.epsilon)(x), shift_1, scale_1)
        h = attention("attn1", _xavier)(h, mask=None if text is not None else mask)
        x = x + gate_1 * dropped(h, 0)
        if text is not None:
            h = attention("attn2", _zeros)(_norm(config, config.epsilon)(x), text, mask)
            x = x + dropped(h, 1)
        h = modulated(_norm(config, config.mlp_epsilon)(x), shift_2, scale_2)
        h = dense(config.mlp_ratio * width, "ff.net.0.proj")(h)
        h = dropped(activation(config.activation)(h), 2)
        return x + gate_2 * dense(width, "ff.net.2")(h), None


def modulated(x: Array, shift: Array, scale: Array) -> Array:
    """Returns (1 + scale) * x + shift."""
    return x * (1 + scale) + shift


def _norm(config: DiTConfig, epsilon: float) -> LayerNorm:
    """Makes a normalisation without parameters."""
    return LayerNorm(
        epsilon, jnp.dtype(config.dtype), use_bias=False, use_scale=False,
        use_fast_variance=False,
    )  # fmt: skip


@lru_cache(maxsize=8)
def fixed_positions(
    rows: int, columns: int, width: int, base: tuple[int, int]
) -> np.ndarray:
    """Returns sinusoids of the patches' positions, float32 [rows, columns, width].

    The first half of the channels embeds the column, the second the row, each as
    [sin(f_i p) | cos(f_i p)] with f_i = 10000^(-4 i / width).

    Args:
        rows: number of rows of patches.
        columns: number of columns of patches.
        width: number of channels, a multiple of 4.
        base: numbers of rows and columns whose positions are 0, 1, ...; those of other
            numbers span the same range.
    """
    frequencies = 1e4 ** (-np.arange(width // 4) / (width / 4))

    def embed(count: int, wanted: int) -> np.ndarray:
        places = np.arange(count, dtype=np.float32) / np.float32(count / wanted)
        angles = np.outer(places.astype(np.float64), frequencies)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    across = np.broadcast_to(embed(columns, base[1]), (rows, columns, width // 2))
    down = np.broadcast_to(embed(rows, base[0])[:, None], across.shape)
    return np.concatenate([across, down], axis=-1).astype(np.float32)
