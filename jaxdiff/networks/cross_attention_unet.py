"""U-Net of latent diffusion, with attention to a text (Rombach et al. 2022).

    x_t -> conv -> [blocks, down] ... -> middle -> ... [up, blocks] -> conv -> output
              |   every feature map of the way down joins the way up   |

Blocks are residual blocks, each followed by a transformer in the levels that attend.
The time, the class, and further vectors and numbers enter the residual blocks. Modules
have the names of diffusers' UNet2DConditionModel, except those inside `ResBlock` and
the layers of the time.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.errors import InputError
from jaxdiff.networks.attention import attend
from jaxdiff.networks.base import BaseNetwork, check_vector, key_streams
from jaxdiff.networks.cross_attention_unet_options import CrossAttentionUNetConfig
from jaxdiff.networks.layers import (
    Downsample,
    Norm,
    ResBlock,
    Upsample,
    conv3x3,
    doubled,
    from_patches,
    halved,
    rematerialised,
    to_patches,
)
from jaxdiff.networks.own_text import encoded, example_tokens
from jaxdiff.networks.products import Dense
from jaxdiff.networks.time_embedding import timestep_embedding
from jaxdiff.networks.transformer import activation, layer_norm
from jaxdiff.networks.transformer_2d import AddedAttention, Transformer2D
from jaxdiff.typing import Array, Condition, Images, Key, Labels, Timesteps

IMAGE_TOKENS = {"image": 32, "text-image": 10}
"""Number of tokens that are made of an image's vector."""
GUIDANCE_SCALE = 1000.0
"""Factor of the guidance scale before its sinusoids."""
NUMBERS = 6
"""Number of sizes in an example of a condition, as in Stable Diffusion XL."""


class CrossAttentionUNet(BaseNetwork):
    """Flax module of the U-Net; `CrossAttentionUNetConfig.build` makes it.

    Its attributes are those of `UNet`.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the parts of a condition without which it cannot be evaluated."""
        config: CrossAttentionUNetConfig = self.config
        numbers = config.added == "vector-numbers"
        vector = numbers or config.class_embedding != "table"
        vector = vector or config.image_channels is not None
        parts = {
            "text": config.takes_text and config.own_text is None,
            "vector": vector and not config.takes_text_vector,
            **dict.fromkeys(config.image_parts, True),
            "numbers": numbers or config.guidance_channels is not None,
        }
        return tuple(name for name, needed in parts.items() if needed)

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Names of the parts of a text that it takes, and can be evaluated without."""
        config: CrossAttentionUNetConfig = self.config
        return config.text_parts(config.takes_text_vector)

    def example_condition(self, image_shape: tuple[int, ...]) -> Condition:
        """Returns a condition of one example, for images of this shape."""
        config: CrossAttentionUNetConfig = self.config
        needs, numbers, features = self.needs, 0, 1
        projected = config.context in ("projected", "text-image")
        text = config.context_channels if projected else config.token_channels
        if config.image_channels is not None:
            both = config.added == "text-image"
            features = config.image_channels * (1 + both)
        elif config.added == "vector-numbers":
            assert config.vector_channels is not None, "checked"
            fits = NUMBERS * config.number_channels < config.vector_channels
            numbers = NUMBERS if fits else 1
            features = config.vector_channels - numbers * config.number_channels
        elif config.class_embedding == "none":
            features = config.embedding_channels
        elif config.class_embedding in ("layers", "linear"):
            features = config.vector_channels or 0
        numbers += config.guidance_channels is not None
        own = config.own_text
        example = Condition() if own is None else example_tokens(own)
        return example._replace(
            labels=None if self.num_classes is None else jnp.zeros(1, jnp.int32),
            text=jnp.zeros((1, 1, text or 0)) if "text" in needs else None,
            vector=jnp.ones((1, features)) if "vector" in needs else None,
            numbers=jnp.ones((1, numbers)) if "numbers" in needs else None,
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

        The parts of the condition that the network takes are in `takes`: tokens of a
        text with a mask; a vector, such as the pooled text; an image that follows the
        channels of x; numbers, such as sizes, whose last is the guidance scale if
        `guidance_channels` is given. With a text encoder inside, `tokens` are numbers,
        and `text` is encoded.
        """
        config: CrossAttentionUNetConfig = self.config
        condition = Condition.of(condition)
        dtype: Any = jnp.dtype(config.dtype)
        x = to_patches(self.checked(x, t, condition), config.patch)
        condition = encoded(config.own_text, condition, config.takes_text_vector)
        next_keys = key_streams(keys)
        embedding = self.embed(t, condition, next_keys())
        text, mask = self._context(condition, dtype)
        layers = config.layer_counts()

        block_class, transformer_class, added_class = rematerialised(
            config.remat, ResBlock, Transformer2D, AddedAttention
        )
        groups = partial(Norm, config.groups, dtype, 1)
        norm = partial(groups, epsilon=config.epsilon)
        swish = activation(config.activation)

        def block(
            x: Images, features: int, kind: str, name: str, resample: Any = None,
            divisor: float | None = None,
        ) -> Images:  # fmt: skip
            special = kind in ("blocks", "added")
            activate = config.activate_time or not special
            if divisor is None:
                divisor = config.block_divisor if special else 1.0
            layer = block_class(
                features, config.dropout, norm, dtype, config.scale_shift, resample,
                divisor=divisor, activation=swish, activate_time=activate, name=name,
            )  # fmt: skip
            return layer(x, embedding, next_keys())

        def look(
            x: Images, level: int, kind: str, name: str, text_only: bool
        ) -> Images:
            heads = config.head_count(level)
            program = {"by": config.attention_by, "chunk": config.attention_chunk}
            if kind == "transformer":
                layer = transformer_class(
                    heads, next(layers), partial(groups, epsilon=1e-6), dtype,
                    text_only, **program, name=name,
                )  # fmt: skip
            elif kind == "added":
                layer = added_class(
                    heads, config.groups, dtype, text_only, config.text_groups,
                    **program, name=name,
                )  # fmt: skip
            else:
                return x
            return layer(x, text, mask)

        def blocks(x: Images, level: int, kind: str, name: str, i: int) -> Images:
            x = block(x, config.widths[level], kind, f"{name}.resnets.{i}")
            only = config.text_only[level]
            return look(x, level, kind, f"{name}.attentions.{i}", only)

        x = conv3x3(config.channels, dtype, "conv_in")(x)
        skips, last = [x], len(config.widths) - 1
        for level, kind in enumerate(config.down):
            name = f"down_blocks.{level}"
            for i in range(config.blocks[level]):
                x = blocks(x, level, kind, name, i)
                skips.append(x)
            if level < last:
                name = f"{name}.downsamplers.0"
                if kind in ("blocks", "added"):
                    x = block(x, x.shape[-1], kind, name, halved)
                else:
                    x = Downsample(dtype, config.padding, name=name)(x)
                skips.append(x)

        if config.middle != "none":
            middle = partial(
                block, features=x.shape[-1], kind=config.middle,
                divisor=config.middle_divisor,
            )  # fmt: skip
            x = self._middle(x, middle, look)

        for number, (level, kind) in enumerate(reversed([*enumerate(config.up)])):
            name = f"up_blocks.{number}"
            for i in range(config.blocks[level] + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = blocks(x, level, kind, name, i)
            if level > 0:
                name = f"{name}.upsamplers.0"
                if kind in ("blocks", "added"):
                    x = block(x, x.shape[-1], kind, name, doubled)
                else:
                    x = Upsample(dtype, name=name)(x, skips[-1].shape[1:3])

        x = swish(norm(name="conv_norm_out")(x))
        outputs = self.out_channels * config.patch**2
        x = conv3x3(outputs, dtype, "conv_out", nn.initializers.zeros)(x)
        return from_patches(x.astype(jnp.float32), config.patch)

    def _middle(self, x: Images, block: Any, look: Any) -> Images:
        """Returns the result of the layers between the way down and the way up."""
        config: CrossAttentionUNetConfig = self.config
        x = block(x, name="mid_block.resnets.0")
        if config.middle == "block":
            return x
        # A middle of transformers has no option for this.
        only = config.middle_text_only and config.middle == "added"
        level = len(config.widths) - 1
        x = look(x, level, config.middle, "mid_block.attentions.0", only)
        return block(x, name="mid_block.resnets.1")

    def embed(self, t: Timesteps, condition: Condition, keys: Key | None) -> Array:
        """Returns the embedding of the time and of all that is added to it."""
        config: CrossAttentionUNetConfig = self.config
        dtype: Any = jnp.dtype(config.dtype)
        swish = activation(config.activation)
        embed_time = config.embedding.layer(config.channels)
        x = embed_time(t).astype(dtype)
        if config.guidance_channels is not None:
            scales = GUIDANCE_SCALE * (condition.numbers[:, -1] - 1)
            guidance = timestep_embedding(scales, config.guidance_channels)
            name = "time_embedding.cond_proj"
            x += Dense(config.channels, False, dtype=dtype, name=name)(guidance)
        embedding = self.mlp(x, "time", swish)
        if config.time_post_activation is not None:
            embedding = activation(config.time_post_activation)(embedding)
        if config.second_time:
            embedding += self.embed_end(t, condition.end, config.channels)
        if config.image_level:
            embedding += self.embed_image_level(condition, config.channels)

        extra = None
        if self.num_classes is not None:
            extra = self.embed_labels(condition.labels, t, keys)
        elif config.class_embedding in ("layers", "linear"):
            check_vector(condition.vector, config.vector_channels or 0)
            if config.class_embedding == "layers":
                extra = self.mlp(condition.vector, "class")
            else:
                extra = self.dense("class_embedding")(condition.vector)
        elif config.class_embedding != "table":
            extra = self.embed_vector(condition.vector, embed_time, swish)
        if extra is not None:
            if config.concat_class:
                embedding = jnp.concatenate([embedding, extra], axis=-1)
            else:
                embedding += extra
        if config.added != "none":
            embedding += self._added(condition)
        if config.time_activation is not None:
            embedding = activation(config.time_activation)(embedding)
        return embedding

    def _added(self, condition: Condition) -> Array:
        """Returns the embedding of text, vector and numbers."""
        config: CrossAttentionUNetConfig = self.config
        dtype: Any = jnp.dtype(config.dtype)
        vector, name = condition.vector, "add_embedding"
        if config.added == "text":
            tokens = layer_norm(dtype, 1e-5, f"{name}.norm1")(condition.text)
            pooled = PooledTokens(config.added_heads, dtype, name=f"{name}.pool")
            x = self.dense(f"{name}.proj")(pooled(tokens))
            return layer_norm(dtype, 1e-5, f"{name}.norm2")(x)
        if config.added == "vector-numbers":
            numbers = condition.numbers
            if config.guidance_channels is not None:
                numbers = numbers[:, :-1]
            embed = config.embedding.layer(config.number_channels)
            features = embed(numbers.ravel()).reshape(len(numbers), -1)
            if vector.shape[-1] + features.shape[-1] != config.vector_channels:
                raise InputError(
                    f"vector and {config.number_channels} times the numbers must be "
                    f"{config.vector_channels} features, got {vector.shape[-1]} and "
                    f"{config.number_channels} times {numbers.shape[-1]}"
                )
            return self.mlp(jnp.concatenate([vector, features], axis=-1), name)
        if config.added == "image":
            check_vector(vector, config.context_channels or 0)
            x = self.dense(f"{name}.image_proj")(vector)
            return layer_norm(dtype, 1e-5, f"{name}.image_norm")(x)
        check_vector(vector, 2 * (config.token_channels or 0))
        text, image = jnp.split(vector, 2, axis=-1)
        x = layer_norm(dtype, 1e-5, f"{name}.text_norm")(
            self.dense(f"{name}.text_proj")(text)
        )
        return x + self.dense(f"{name}.image_proj")(image)

    def _context(
        self, condition: Condition, dtype: Any
    ) -> tuple[Array | None, Array | None]:
        """Returns the tokens that the network attends to, and their mask."""
        config: CrossAttentionUNetConfig = self.config
        text, mask = condition.text, condition.mask
        image = config.context == "image"
        if config.token_channels is None or not (self.config.takes_text or image):
            return None, None
        name, features = "encoder_hid_proj", config.token_channels
        projected = config.context in ("projected", "text-image")
        if not image:
            wanted = config.context_channels if projected else features
            if text.ndim != 3 or text.shape[-1] != wanted:
                raise InputError(
                    f"text must be [batch, tokens, {wanted}], got {text.shape}"
                )
        if config.context == "text":
            return text.astype(dtype), mask
        if projected:
            end = ".text_proj" if config.context == "text-image" else ""
            text = Dense(features, dtype=dtype, name=f"{name}{end}")(text)
        if config.context == "projected":
            return text, mask
        count = IMAGE_TOKENS[config.context]
        layer = Dense(count * features, dtype=dtype, name=f"{name}.image_embeds")
        vector = condition.vector[:, -(config.image_channels or 0) :]
        tokens = layer(vector).reshape(len(vector), count, features)
        if image:
            return layer_norm(dtype, 1e-5, f"{name}.norm")(tokens), None
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (count, 0)), constant_values=True)
        return jnp.concatenate([tokens, text], axis=1), mask


class PooledTokens(nn.Module):
    """Vector of a text: the mean of its tokens, plus a place, attends to all of them.

    Attributes:
        heads: number of heads; it divides the features.
        dtype: type of the computation.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Returns the vector [batch, features] of tokens [batch, tokens, features]."""
        features = tokens.shape[-1]
        place = self.param(
            "positional_embedding",
            nn.initializers.normal(features**-0.5),
            (1, features),
        )
        first = tokens.mean(axis=1, keepdims=True) + place.astype(tokens.dtype)[None]
        every = jnp.concatenate([first, tokens], axis=1)

        def project(name: str, of: Array) -> Array:
            layer = Dense(features, dtype=self.dtype, name=name)
            return layer(of).reshape(*of.shape[:2], self.heads, -1)

        query, key, value = (
            project(name, of)
            for name, of in (("q_proj", first), ("k_proj", every), ("v_proj", every))
        )
        return attend(query, key, value).reshape(len(tokens), features)
