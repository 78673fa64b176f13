"""Options of the U-Net with cross-attention; see `cross_attention_unet`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Gt

from jaxdiff.checks import Share
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.attention import CHUNK, Program, check_program
from jaxdiff.networks.base import CommonConfig
from jaxdiff.networks.image_sizes import check_sides, on_patches
from jaxdiff.networks.own_text import OwnTextConfig
from jaxdiff.networks.time_embedding import Sinusoids
from jaxdiff.networks.transformer import Activation, Count

if TYPE_CHECKING:
    from jaxdiff.networks.cross_attention_unet import CrossAttentionUNet

LevelKind: TypeAlias = Literal["plain", "transformer", "blocks", "added"]
"""Residual blocks alone, or each followed by a transformer; both with convolutions that
change the size. Or residual blocks alone, or each followed by attention to text and
feature map together ("added"); both with residual blocks that change the size."""
_ATTENDS = ("transformer", "added")
_RESAMPLES = ("blocks", "added")


@dataclass(frozen=True, kw_only=True)
class CrossAttentionUNetConfig(CommonConfig, OwnTextConfig):
    """Options of the U-Net of latent diffusion; the defaults are Stable Diffusion 1's.

    Tuples have one entry per level, the largest size first.

    >>> CrossAttentionUNetConfig().build(out_channels=4).takes
    ('text', 'mask')
    """

    FLAG: ClassVar[str] = "cross-attention-unet"

    widths: tuple[Annotated[int, Ge(2)], ...] = (320, 640, 1280, 1280)
    """Number of channels of each level; each further level halves the size."""
    blocks: tuple[Count, ...] = (2, 2, 2, 2)
    """Number of residual blocks of each level on the way down; one more on the way
    up."""
    down: tuple[LevelKind, ...] = ("transformer", "transformer", "transformer", "plain")
    """Layers of each level on the way down: residual blocks alone (plain), or each
    followed by a transformer; or with residual blocks that change the size: blocks
    alone, or each followed by attention to text and feature map together (added)."""
    up: tuple[LevelKind, ...] = ("transformer", "transformer", "transformer", "plain")
    """Layers of each level on the way up."""
    middle: Literal["transformer", "added", "block", "none"] = "transformer"
    """Layers of the middle: two residual blocks with a transformer or attention in
    between, one residual block, or none."""
    heads: tuple[Count, ...] = (8, 8, 8, 8)
    """Number of attention heads of each level; the middle has the last one."""
    head_channels: tuple[Count, ...] | None = None
    """Number of channels per head, instead of `heads`; None to use `heads`."""
    layers: tuple[Count, ...] = (1, 1, 1, 1)
    """Number of layers of each level's transformers; the middle has the last one."""
    layers_of_each: tuple[Count, ...] | None = None
    """Number of layers of each transformer in the order of evaluation, instead of
    `layers`; None to use `layers`."""
    text_channels: Count | None = 768
    """Number of features of a text's tokens. None for a network without text, whose
    transformers attend to the feature map twice."""
    text_only: tuple[bool, ...] = (False, False, False, False)
    """If True, both attentions of a level attend to the text, none to the feature
    map."""
    middle_text_only: bool = False
    """If True, the added attention of the middle attends to the text only."""
    text_groups: Count | None = None
    """Number of groups of the norm of the text in added attention; None for no
    norm."""
    groups: Count = 32
    """Number of groups of the normalisation; it divides the channels."""
    epsilon: Annotated[float, Gt(0)] = 1e-5
    activation: Activation = "silu"
    """Activation of the residual blocks and of the time's embedding."""
    activate_time: bool = True
    """If False, the time enters residual blocks of the levels "blocks" and "added"
    without their activation."""
    block_divisor: Annotated[float, Gt(0)] = 1.0
    """Number that divides the outputs of residual blocks of the levels "blocks" and
    "added"."""
    middle_divisor: Annotated[float, Gt(0)] = 1.0
    """Number that divides the outputs of the middle's residual blocks."""
    padding: Literal["end", "both"] = "both"
    """Side on which the convolution that halves a size pads."""
    linear_projection: bool = False
    """If True, files store the transformers' first and last layers as matrices,
    otherwise as 1x1 convolutions; both compute the same."""
    dropout: Share = 0.0
    embedding: Sinusoids = field(
        default_factory=lambda: Sinusoids(order="cos-sin", shift=0.0)
    )
    """Embedding of the time."""
    time_channels: Count | None = None
    """Number of channels of the time's embedding; None for 4 times those of the first
    level."""
    time_activation: Activation | None = None
    """Activation of the whole embedding, once before all blocks; None for none."""
    time_post_activation: Activation | None = None
    """Activation after the two layers of the time's embedding; None for none."""
    guidance_channels: Annotated[int, Ge(4)] | None = None
    """Number of channels of the guidance scale's embedding, as of latent consistency
    models (Luo et al. 2023). The scale is the last of a condition's numbers. None for a
    network without."""
    class_embedding: Literal["table", "time", "none", "layers", "linear"] = "table"
    """Embedding of the class: a row per class, for labels; or, for a condition's vector
    in place of labels: the time's with two layers of its own, none, two layers, or one
    linear layer."""
    concat_class: bool = False
    """If True, the embedding of the class follows the embedding of the time, instead of
    being added to it."""
    added: Literal["none", "text", "image", "text-image", "vector-numbers"] = "none"
    """Embedding that is added to the time's: of the text, with attention; of an image's
    vector; of the vectors of text and image, one after the other; or of a vector
    followed by sinusoids of numbers, as the sizes of Stable Diffusion XL."""
    added_heads: Count = 64
    """Number of heads of the attention in the added embedding of the text."""
    vector_channels: Count | None = None
    """Number of features that "layers", "linear" and "vector-numbers" embed."""
    number_channels: Annotated[int, Ge(4)] = 256
    """Number of sinusoids of each number in "vector-numbers"."""
    context: Literal["text", "projected", "image", "text-image"] = "text"
    """Tokens that the network attends to: the text, the text after a linear layer,
    tokens made of an image's vector, or those followed by the projected text."""
    context_channels: Count | None = None
    """Number of features of text or image that are projected."""
    sample_size: tuple[Count, ...] | None = None
    """Height and width of the images, or latents, of training, to sample by default;
    None if unknown."""
    attention_by: Program = "xla"
    """Program of attention: XLA's, cuDNN's (half precision, heads of up to 128
    channels), or XLA's in chunks of queries, which takes less memory."""
    attention_chunk: Count = CHUNK
    """Number of queries per chunk."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the computation; the output is float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_own_text()
        self._check_levels()
        self._check_attention()
        self._check_embeddings()
        check_program(self.attention_by, self.dtype)

    @property
    def channels(self) -> int:
        """Number of channels of the first level, and of the time's sinusoids."""
        return self.widths[0]

    @property
    def embedding_channels(self) -> int:
        """Number of channels of the embedding of the time."""
        return self.time_channels or 4 * self.channels

    @property
    def takes_text(self) -> bool:
        """True if the network needs a text."""
        if self.added == "text" or self.context in ("projected", "text-image"):
            return True
        attends = bool(self.attends) and self.token_channels is not None
        return attends and self.context != "image"

    @property
    def takes_text_vector(self) -> bool:
        """True if a text encoder inside gives the network the vector of the text."""
        by_class = self.class_embedding in ("layers", "linear")
        return self.own_text is not None and by_class

    @property
    def attends(self) -> tuple[int, ...]:
        """Levels with attention, including the last for the middle."""
        return tuple(
            level
            for level in range(len(self.widths))
            if self.down[level] in _ATTENDS
            or self.up[level] in _ATTENDS
            or (self.middle in _ATTENDS and level == len(self.widths) - 1)
        )

    @property
    def image_channels(self) -> int | None:
        """Number of features of an image's vector; None for a network without."""
        if "image" in (self.added, self.context):
            return self.context_channels
        either = "text-image" in (self.added, self.context)
        return self.token_channels if either else None

    def head_count(self, level: int) -> int:
        """Returns the number of attention heads of a level."""
        if self.head_channels is None:
            return self.heads[level]
        return self.widths[level] // self.head_channels[level]

    def layer_counts(self) -> Iterator[int]:
        """Yields the number of layers of each transformer, in order of evaluation."""
        if self.layers_of_each is not None:
            yield from self.layers_of_each
            return
        for kind, count, layers in zip(
            self.down, self.blocks, self.layers, strict=True
        ):
            yield from [layers] * count * (kind == "transformer")
        yield from self.layers[-1:] * (self.middle == "transformer")
        levels = zip(self.up, self.blocks, self.layers, strict=True)
        for kind, count, layers in reversed(list(levels)):
            yield from [layers] * (count + 1) * (kind == "transformer")

    @property
    def smallest_size(self) -> int:
        """Smallest size of an image that all levels can halve."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def check_image_shape(self, height: int, width: int) -> None:
        """Checks that patches and levels divide the image's size.

        Raises:
            InputError: a size is below 1, not a multiple of the patch, or not one of
                patch * 2^(levels - 1) although the layers that change the size need it.
        """
        kinds = {*self.down, *self.up}
        exact = self.padding == "end" or kinds & {*_RESAMPLES}
        multiple = self.patch * (2 ** (len(self.widths) - 1) if exact else 1)
        why = f" for {len(self.widths)} levels{on_patches(self.patch)}"
        check_sides(height, width, multiple, why)

    def build(
        self,
        out_channels: int,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> "CrossAttentionUNet":
        """Makes the network; see `UNetConfig.build`."""
        from jaxdiff.networks.cross_attention_unet import CrossAttentionUNet

        return CrossAttentionUNet(self, out_channels, num_classes, in_channels)

    def _check_levels(self) -> None:
        levels = len(self.widths)
        if not levels:
            raise InputError("widths must have at least one level, got none")
        for name in ("blocks", "down", "up", "heads", "head_channels", "layers",
                     "text_only"):  # fmt: skip
            values = getattr(self, name)
            if values is not None and len(values) != levels:
                raise InputError(
                    f"{name} must have {levels} entries, one per level, got "
                    f"{shown(values)}"
                )
        for width in self.widths:
            if width % self.groups:
                raise InputError(
                    f"groups must divide the channels {width}, got {self.groups}"
                )
        if self.channels % 2 or self.channels < 4:
            raise InputError(
                f"widths must begin with an even number from 4, got {self.channels}"
            )
        if self.sample_size is not None and len(self.sample_size) != 2:
            raise InputError(
                f"sample_size must be height and width, got {shown(self.sample_size)}"
            )

    def _check_attention(self) -> None:
        for level in self.attends:
            width = self.widths[level]
            name, values = "heads", self.heads
            if self.head_channels is not None:
                name, values = "head_channels", self.head_channels
            if width % values[level]:
                raise InputError(
                    f"{name} must divide the channels {width}, got {values[level]}"
                )
        if self.layers_of_each is not None:
            kinds = [*zip(self.down, self.blocks, strict=True)]
            kinds += [(k, n + 1) for k, n in zip(self.up, self.blocks, strict=True)]
            wanted = sum(n for kind, n in kinds if kind == "transformer")
            wanted += self.middle == "transformer"
            if len(self.layers_of_each) != wanted:
                raise InputError(
                    f"layers_of_each must have {wanted} entries, one per transformer, "
                    f"got {len(self.layers_of_each)}"
                )
        uses = {
            "down and up": "added" in (*self.down, *self.up, self.middle),
            "text_only": any(self.text_only),
            "context": self.context != "text",
            "added": self.added in ("text", "text-image"),
        }
        needs = [name for name, use in uses.items() if use]
        if self.token_channels is None and needs:
            raise InputError(
                f"text_channels must be a number for these values of {needs[0]}, got "
                "None. Set it to the number of features of a token."
            )
        if (
            self.text_groups is not None
            and self.token_channels is not None
            and self.token_channels % self.text_groups
        ):
            raise InputError(
                f"text_groups must divide text_channels {self.token_channels}, got "
                f"{self.text_groups}"
            )

    def _check_embeddings(self) -> None:
        if self.own_text is not None and not self.takes_text:
            raise InputError(
                "text must be none for a network that attends to no text, got "
                "transformer. Let a level attend: down, up or middle."
            )
        uses = {
            f"class_embedding {self.class_embedding}": (
                self.class_embedding in ("layers", "linear")
            ),
            "added vector-numbers": self.added == "vector-numbers",
        }
        for name, use in uses.items():
            if use and self.vector_channels is None:
                raise InputError(
                    f"vector_channels must be a number for {name}, got None"
                )
        projects = self.context != "text" or self.added == "image"
        if projects and self.context_channels is None:
            raise InputError(
                "context_channels must be a number for the projection of "
                f"{self.context if self.context != 'text' else 'an image'}, got None"
            )
        vectors = [
            self.class_embedding != "table",
            self.added == "vector-numbers",
            self.image_channels is not None,
        ]
        if sum(vectors) > 1:
            raise InputError(
                f"class_embedding {self.class_embedding}, added {self.added} and "
                f"context {self.context} must use a condition's vector once, got "
                f"{sum(vectors)} uses"
            )
        text = self.context_channels or self.token_channels or 0
        if self.added == "text" and text % self.added_heads:
            raise InputError(
                f"added_heads must divide the features {text} of a token, got "
                f"{self.added_heads}"
            )
