"""Configuration of diffusers' UNet2DModel: import and export."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from jaxdiff.errors import InputError
from jaxdiff.networks import Fourier, Sinusoids, UNetConfig
from jaxdiff.networks.layers import group_count
from jaxdiff.training.model import param_shapes
from jaxdiff.typing import Params

_DOWN = {"DownBlock2D": "conv", "ResnetDownsampleBlock2D": "blocks"}
_UP = {"UpBlock2D": "conv", "ResnetUpsampleBlock2D": "blocks"}
_RESAMPLE: dict[str, Literal["conv", "blocks"]] = {"conv": "conv", "resnet": "blocks"}
_MOST_LAYERS, _MOST_CHANNELS = 64, 2**16


class Model(NamedTuple):
    """A U-Net, and the shape and classes of its images.

    Attributes:
        config: options of the U-Net.
        image_shape: height, width, channels.
        outputs: number of output channels.
        num_classes: number of classes without the null class; None if unconditional.
    """

    config: UNetConfig
    image_shape: tuple[int, int, int]
    outputs: int
    num_classes: int | None

    def shapes(self) -> Params:
        """Returns the shapes of the parameters."""
        channels = self.image_shape[-1]
        network = self.config.build(self.outputs, self.num_classes, channels)
        return param_shapes(network, self.image_shape, self.num_classes)


@dataclass(frozen=True, kw_only=True)
class UNet2DModel:
    """Fields of a UNet2DModel's config.json; their types list the supported values.

    A field with a single value is not supported otherwise.
    """

    sample_size: tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional", "fourier"] = "positional"
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (
        "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"
    )  # fmt: skip
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: float = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal[None] = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def model(self, null_class: bool) -> Model:
        """Returns the U-Net of jaxdiff.

        Args:
            null_class: if True, the last class embedding stands for no class.

        Raises:
            InputError: a field has an unsupported value.
        """
        self._check_sizes()
        size = self.sample_size
        if size is None:
            raise InputError(
                "sample_size must be the images' height and width, got null. Set it: "
                "the levels with attention depend on it."
            )
        scale_shift = self.resnet_time_scale_shift == "scale_shift"
        norm_groups = self.attn_norm_num_groups
        middle: Any = "attention"
        if not self.add_attention:
            middle = "no-attention"
        elif norm_groups is None and scale_shift:
            middle = "attention-without-norm"
        elif norm_groups not in (None, self.norm_num_groups):
            raise InputError(
                "attn_norm_num_groups must be norm_num_groups "
                f"({self.norm_num_groups}), got {norm_groups}"
            )
        resample, levels = self._levels()
        embeddings = self.num_class_embeds
        if null_class and (embeddings is None or embeddings < 2):
            raise InputError(
                "num_class_embeds must be at least 2 if the last class embedding is "
                f"the null class, got {embeddings}"
            )
        embedding: Sinusoids | Fourier = Fourier(divide=True)
        if self.time_embedding_type == "positional":
            order = "cos-sin" if self.flip_sin_to_cos else "sin-cos"
            embedding = Sinusoids(order=order, shift=self.freq_shift)  # type: ignore[arg-type]
        channels = self.block_out_channels[0]

        def model(smallest_group: int) -> Model:
            config = UNetConfig(
                channels=channels,
                multipliers=tuple(c / channels for c in self.block_out_channels),
                blocks=self.layers_per_block,
                attention=tuple(max(size) // 2**level for level in levels),
                head_channels=self.attention_head_dim,
                middle=middle,
                groups=self.norm_num_groups,
                smallest_group=smallest_group,
                epsilon=self.norm_eps,
                scale_shift=scale_shift,
                resample=resample,
                padding=("end", "both")[self.downsample_padding],
                embedding=embedding,
                dropout=self.dropout,
                label_dropout=0.1 if null_class else 0.0,
                null_class=null_class or embeddings is None,
            )
            return Model(
                config,
                (size[0], size[-1], self.in_channels),
                self.out_channels,
                None if embeddings is None else embeddings - null_class,
            )

        # jaxdiff makes fewer groups if a group would have a single channel.
        for smallest in (2, 1):
            found = model(smallest)
            counts = norm_groups_of(found)
            if counts == {self.norm_num_groups}:
                return found
        raise InputError(
            "norm_num_groups must divide the channels of every norm, got "
            f"{self.norm_num_groups}"
        )

    def _check_sizes(self) -> None:
        for name, most in (
            ("layers_per_block", _MOST_LAYERS), ("in_channels", _MOST_CHANNELS),
            ("out_channels", _MOST_CHANNELS), ("norm_num_groups", _MOST_CHANNELS),
            ("num_class_embeds", 2**20), ("sample_size", 2**14),
            ("block_out_channels", _MOST_CHANNELS),
        ):  # fmt: skip
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not values or not all(v is None or 1 <= v <= most for v in values):
                raise InputError(f"{name} must lie in 1..{most}, got {value}")
        if self.sample_size is not None and len(self.sample_size) > 2:
            raise InputError(
                f"sample_size must be height and width, got {self.sample_size}"
            )
        if self.mid_block_scale_factor != 1:
            raise InputError(
                f"mid_block_scale_factor must be 1, got {self.mid_block_scale_factor:g}"
            )
        own = 4 * self.block_out_channels[0]
        if self.time_embedding_dim not in (None, own):
            raise InputError(
                f"time_embedding_dim must be null or {own}, four times the first "
                f"channels, got {self.time_embedding_dim}"
            )

    def _levels(self) -> tuple[Literal["conv", "blocks"], list[int]]:
        """Returns the layer that changes the size, and the levels with attention."""
        count = len(self.block_out_channels)
        kinds: set[Literal["conv", "blocks"]] = set()
        attending = []
        for name, plain, attention, own in (
            ("down_block_types", _DOWN, "AttnDownBlock2D", self.downsample_type),
            ("up_block_types", _UP, "AttnUpBlock2D", self.upsample_type),
        ):
            # Older versions have the names UNetResDownBlock2D and so on.
            blocks = [b.removeprefix("UNetRes") for b in getattr(self, name)]
            if len(blocks) != count:
                raise InputError(
                    f"{name} must have one entry per entry of block_out_channels "
                    f"({count}), got {len(blocks)}"
                )
            for block in blocks:
                if block not in (*plain, attention):
                    raise InputError(
                        f"{name} must contain only {', '.join((*plain, attention))}, "
                        f"got {block!r}"
                    )
            kinds |= {
                _RESAMPLE[own] if b == attention else plain[b]  # type: ignore[misc]
                for b in blocks[:-1]
            }
            found = [i for i, block in enumerate(blocks) if block == attention]
            is_down = plain is _DOWN
            attending.append(sorted(i if is_down else count - 1 - i for i in found))
        if attending[0] != attending[1]:
            raise InputError(
                "down_block_types and up_block_types must have attention at the same "
                f"sizes, got levels {attending[0]} and {attending[1]}"
            )
        if len(kinds) > 1:
            raise InputError(
                "down_block_types and up_block_types must change the size all by "
                "convolutions or all by residual blocks, got both"
            )
        return (kinds or {"conv"}).pop(), attending[0]


def norm_groups_of(model: Model) -> set[int]:
    """Returns the different numbers of groups in the network's norms."""
    config = model.config
    return {
        group_count(leaf.shape[0], config.groups, config.smallest_group)
        for path, leaf in jax.tree.leaves_with_path(model.shapes())
        if "group" in [part.key for part in path]
    }


def unet_2d_of(model: Model) -> UNet2DModel:
    """Converts a U-Net to the configuration of diffusers.

    Raises:
        InputError: an option has a value that diffusers does not support.
    """
    config = model.config
    if config.patch > 1:
        raise InputError(f"network.patch must be 1 for diffusers, got {config.patch}")
    widths = config.widths
    if widths[0] != config.channels:
        raise InputError(
            "network.multipliers must begin with 1 for diffusers, got "
            f"{config.multipliers[0]:g}"
        )
    counts = norm_groups_of(model)
    if len(counts) > 1:
        raise InputError(
            "all norms must have the same number of groups for diffusers, got "
            f"{', '.join(map(str, sorted(counts)))}. Train with another network.groups."
        )
    (groups,) = counts
    height, width, channels = model.image_shape
    sizes = [max(height, width) // 2**level for level in range(len(widths))]
    attends = [size in config.attention for size in sizes]
    attending = [w for w, attend in zip(widths, attends, strict=True) if attend]
    if config.middle != "no-attention":
        attending.append(widths[-1])
    heads = {w // config.head_count(w) for w in attending}
    head_channels = None
    if any(config.head_count(w) > 1 for w in attending):
        if len(heads) > 1:
            raise InputError(
                "all heads must have the same number of channels for diffusers, got "
                f"{', '.join(map(str, sorted(heads)))}. Set network.head_channels."
            )
        (head_channels,) = heads
    blocks = config.resample == "blocks"
    if config.middle == "attention-without-norm" and not config.scale_shift:
        raise InputError(
            "network.scale_shift must be true for diffusers with network.middle "
            "attention-without-norm, got false"
        )
    embedding = config.embedding
    shared: dict[str, Any] = {}
    if isinstance(embedding, Fourier):
        if not embedding.divide:
            raise InputError(
                "network.embedding.divide must be true for diffusers, got false"
            )
        shared["time_embedding_type"] = "fourier"
    else:
        shared["flip_sin_to_cos"] = embedding.order == "cos-sin"
        shared["freq_shift"] = int(embedding.shift)
        if embedding.shift not in (0, 1):
            raise InputError(
                "network.embedding.shift must be 0 or 1 for diffusers, got "
                f"{embedding.shift:g}"
            )
    down = "ResnetDownsampleBlock2D" if blocks else "DownBlock2D"
    up = "ResnetUpsampleBlock2D" if blocks else "UpBlock2D"
    kind: Any = "resnet" if blocks else "conv"
    with_norm = config.middle == "attention" and config.scale_shift
    classes = model.num_classes
    return UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=model.outputs,
        down_block_types=tuple("AttnDownBlock2D" if a else down for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else up for a in attends[::-1]),
        block_out_channels=widths,
        layers_per_block=config.blocks,
        downsample_padding=int(config.padding == "both"),  # type: ignore[arg-type]
        downsample_type=kind,
        upsample_type=kind,
        dropout=config.dropout,
        attention_head_dim=head_channels,
        norm_num_groups=groups,
        attn_norm_num_groups=groups if with_norm else None,
        norm_eps=config.epsilon,
        resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
        add_attention=config.middle != "no-attention",
        num_class_embeds=None if classes is None else classes + config.null_class,
        **shared,
    )
