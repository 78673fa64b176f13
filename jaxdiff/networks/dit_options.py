"""Options of the diffusion transformer; see `dit`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self

from annotated_types import Interval

from jaxdiff.checks import Share
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.attention import CHUNK, Program, check_program
from jaxdiff.networks.condition_options import ConditionConfig
from jaxdiff.networks.image_sizes import check_sides
from jaxdiff.networks.own_text import OwnTextConfig
from jaxdiff.networks.time_embedding import Sinusoids
from jaxdiff.networks.transformer import Count

if TYPE_CHECKING:
    from jaxdiff.networks.dit import DiT


class Size(NamedTuple):
    """Size of a published network (Peebles & Xie 2023, table 1).

    Attributes:
        width: number of channels.
        depth: number of blocks.
        heads: number of attention heads.
    """

    width: int
    depth: int
    heads: int


SIZES = {
    "S": Size(384, 12, 6), "B": Size(768, 12, 12), "L": Size(1024, 24, 16),
    "XL": Size(1152, 28, 16),
}  # fmt: skip
Epsilon = Annotated[float, Interval(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class DiTConfig(ConditionConfig, OwnTextConfig):
    """Options of the diffusion transformer; the defaults are DiT-S/2's.

    SiT is the same network with the schedule straight-path and the prediction velocity.

    >>> DiTConfig(size="XL").embedding_channels
    1152
    """

    FLAG: ClassVar[str] = "dit"

    size: Literal["S", "B", "L", "XL"] = "S"
    """Size of the network, as published: 33, 130, 458 or 675 million parameters."""
    width: Count | None = None
    """Number of channels, a multiple of 4; None for the size's."""
    depth: Count | None = None
    """Number of blocks; None for the size's."""
    heads: Count | None = None
    """Number of attention heads, which divides the channels; None for the size's."""
    patch: Count = 2
    """Side of a patch in pixels, or latents; each patch is one token."""
    mlp_ratio: Count = 4
    """Number of channels inside an MLP, in multiples of the network's."""
    activation: Literal["gelu", "gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    """Activation of the MLPs: GELU, or its approximation by tanh."""
    positions: Literal["fixed", "learned"] = "fixed"
    """Embeddings of the patches' positions: fixed sinusoids, or a learned table, which
    is for images of one size."""
    sample_size: tuple[Count, ...] | None = None
    """Height and width of the images, or latents, of training. Images of another size
    get fixed positions that span the same range. None for positions 0, 1, ... in
    patches."""
    embedding: Sinusoids = field(
        default_factory=lambda: Sinusoids(order="cos-sin", shift=0.0)
    )
    """Embedding of the time by 256 sinusoids: shift 0 in DiT, 1 in diffusers."""
    epsilon: Epsilon = 1e-6
    """Number that the normalisation adds to the variance."""
    mlp_epsilon: Epsilon = 1e-6
    """The same in the normalisation before an MLP: 1e-6 in DiT, 1e-5 in diffusers."""
    vector_channels: Count | None = None
    """Number of features of a condition's vector, such as a pooled text, which is added
    to the embedding of the time; None for a network without."""
    text_channels: Count | None = None
    """Number of features of a text's tokens; None for a network without text."""
    text_by: Literal["cross-attention", "in-context"] = "cross-attention"
    """Way to attend to a text: a layer of its own in each block, or tokens that follow
    the patches."""
    text_dropout: Share = 0.1
    """Rate at which training hides the text and the vector; guidance needs it above
    0. Training on captions has `caption_dropout` too, which suffices for a text
    encoder inside the network."""
    qk_norm: bool = False
    """If True, queries and keys are normalised, which keeps long runs in half precision
    stable."""
    dropout: Share = 0.0
    """Dropout rate of the results of attention and of the hidden layers of MLPs."""
    remat: Literal["none", "cheap", "blocks"] = "cheap"
    """Part of the forward pass that the backward pass recomputes: none, all except
    matrix products, or whole blocks. Norms, activations and the softmax take less time
    than their results in memory, on the CPU."""
    scan: bool = True
    """If True, one compiled block runs in a loop, so that the time to compile does not
    depend on the depth; if False, the loop is unrolled. Both have the same
    parameters."""
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
        if self.sizes.width % self.sizes.heads:
            raise InputError(
                f"heads must divide the width {self.sizes.width}, got "
                f"{self.sizes.heads}"
            )
        if self.sizes.width % 4:
            raise InputError(
                f"width must be a multiple of 4, got {self.sizes.width}"
            )  # for the sinusoids of rows and columns
        check_program(self.attention_by, self.dtype)
        if self.sample_size is not None:
            if len(self.sample_size) != 2:
                raise InputError(
                    "sample_size must be height and width, got "
                    f"{shown(self.sample_size)}"
                )
            self.check_image_shape(*self.sample_size)

    @property
    def sizes(self) -> Size:
        """Numbers of channels, blocks and heads."""
        named = SIZES[self.size]
        return Size(
            self.width or named.width, self.depth or named.depth,
            self.heads or named.heads,
        )  # fmt: skip

    @property
    def embedding_channels(self) -> int:
        """Number of channels of the embedding of the time."""
        return self.sizes.width

    @property
    def smallest_size(self) -> int:
        """Smallest size of an image."""
        return self.patch

    def for_sizes(self, sizes: Sequence[tuple[int, int]]) -> Self:
        """Returns the options, unless learned positions are for one size of images.

        Raises:
            InputError: positions are learned, and there are several sizes.
        """
        if self.positions == "learned" and len(sizes) > 1:
            raise InputError(
                "network.positions must be fixed for images of "
                f"{len(sizes)} sizes, got learned. Set it to fixed, or data.buckets to "
                "0."
            )
        return self

    def check_image_shape(self, height: int, width: int) -> None:
        """Checks that patches divide the image's size evenly.

        Raises:
            InputError: a size is not a multiple of the patch.
        """
        check_sides(
            height, width, self.patch, ", the side of a patch", ", or another patch"
        )

    def build(
        self,
        out_channels: int,
        num_classes: int | None = None,
        in_channels: int | None = None,
    ) -> "DiT":
        """Makes the network; see `UNetConfig.build`."""
        from jaxdiff.networks.dit import DiT

        return DiT(self, out_channels, num_classes, in_channels)
