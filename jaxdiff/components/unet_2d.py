"""Configuration of diffusers' UNet2DModel, as options of a network."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from jaxdiff.errors import InputError
from jaxdiff.networks import (
    Fourier,
    LevelOptions,
    NCSNpp,
    NCSNppConfig,
    Sinusoids,
    UNet,
    UNetConfig,
)
from jaxdiff.networks.layers import group_count
from jaxdiff.training.model import param_shapes
from jaxdiff.typing import Params

_DOWN = {"DownBlock2D": "conv", "ResnetDownsampleBlock2D": "blocks"}
_UP = {"UpBlock2D": "conv", "ResnetUpsampleBlock2D": "blocks"}
_SKIP = "Skip"  # AttnDownBlock2D is AttnSkipDownBlock2D in NCSN++
_RESAMPLE: dict[str, Literal["conv", "blocks"]] = {"conv": "conv", "resnet": "blocks"}
CLASS_EMBEDDINGS: dict[str | None, str] = {
    None: "table", "timestep": "time", "identity": "none"
}  # fmt: skip
"""Embeddings of the labels by the names of diffusers."""
_MOST_LAYERS, _MOST_CHANNELS = 64, 2**16


class Model(NamedTuple):
    """A network, and the shape and classes of its images.

    Attributes:
        config: options of the network.
        image_shape: height, width, channels.
        outputs: number of output channels.
        num_classes: number of classes without the null class; None if unconditional.
    """

    config: LevelOptions
    image_shape: tuple[int, int, int]
    outputs: int
    num_classes: int | None

    def network(self) -> UNet | NCSNpp:
        """Returns the network without its parameters."""
        channels = self.image_shape[-1]
        return self.config.build(self.outputs, self.num_classes, channels)

    def shapes(self) -> Params:
        """Returns the shapes of the parameters."""
        return param_shapes(self.network(), self.image_shape, self.num_classes)


@dataclass(frozen=True, kw_only=True)
class UNet2DModel:
    """Fields of a UNet2DModel's config.json; their types list the supported values.

    A field with a single value is not supported otherwise.
    """

    sample_size: tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
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
    norm_num_groups: int | None = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal["timestep", "identity"] | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def model(self, null_class: bool, learn_variance: bool) -> Model:
        """Returns the network of jaxdiff.

        Args:
            null_class: if True, the last class embedding stands for no class.
            learn_variance: if True, half of the outputs are a variance.

        Raises:
            InputError: a field has an unsupported value.
        """
        self._check_sizes()
        size = self.sample_size
        if size is None:
            raise InputError(
                "sample_size must be the images' height and width, got null. Name the "
                "size with --size: the levels with attention depend on it."
            )
        further = 0  # if inputs and outputs differ otherwise, the caller raises
        if self.in_channels > self.out_channels:
            further = self.in_channels - self.out_channels // (1 + learn_variance)
        scale_shift = self.resnet_time_scale_shift == "scale_shift"
        groups, middle_groups = self.norm_num_groups, self.attn_norm_num_groups
        middle: Any = "attention"
        if not self.add_attention:
            middle, middle_groups = "no-attention", None
        elif middle_groups is None and scale_shift:
            middle = "attention-without-norm"
        resample, levels = self._levels()
        embeddings = self.num_class_embeds
        if self.class_embed_type is not None:
            embeddings = None  # diffusers ignores the number
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
        shared: dict[str, Any] = {
            "channels": channels,
            "multipliers": tuple(c / channels for c in self.block_out_channels),
            "blocks": self.layers_per_block,
            "attention": tuple(max(size) // 2**level for level in levels),
            "head_channels": self.attention_head_dim,
            "middle": middle,
            "middle_groups": None if middle_groups == groups else middle_groups,
            "epsilon": self.norm_eps,
            "scale_shift": scale_shift,
            "embedding": embedding,
            "class_embedding": CLASS_EMBEDDINGS[self.class_embed_type],
            "center_input": self.center_input_sample,
            "condition_channels": further,
            "dropout": self.dropout,
            "label_dropout": 0.1 if null_class else 0.0,
            "null_class": null_class or embeddings is None,
        }

        def model(config: LevelOptions) -> Model:
            return Model(
                config,
                (size[0], size[-1], self.in_channels - further),
                self.out_channels,
                None if embeddings is None else embeddings - null_class,
            )

        if resample == "skip":
            divisor = self.mid_block_scale_factor
            return model(NCSNppConfig(**shared, groups=groups, middle_divisor=divisor))
        if groups is None:
            raise InputError(
                "norm_num_groups must be a number for blocks other than Skip blocks, "
                "got null"
            )
        if self.mid_block_scale_factor != 1:
            raise InputError(
                "mid_block_scale_factor must be 1 for blocks other than Skip blocks, "
                f"got {self.mid_block_scale_factor:g}"
            )
        shared |= {
            "groups": groups,
            "resample": resample,
            "padding": ("end", "both")[self.downsample_padding],
        }
        # jaxdiff makes fewer groups if a group would have a single channel.
        for smallest in (2, 1):
            found = model(UNetConfig(**shared, smallest_group=smallest))
            if norm_groups_of(found) == {groups}:
                return found
        raise InputError(
            f"norm_num_groups must divide the channels of every norm, got {groups}"
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
        own = 4 * self.block_out_channels[0]
        if self.time_embedding_dim not in (None, own):
            raise InputError(
                f"time_embedding_dim must be null or {own}, four times the first "
                f"channels, got {self.time_embedding_dim}"
            )

    def _levels(self) -> tuple[Any, list[int]]:
        """Returns the layer that changes the size, and the levels with attention.

        The layer is "conv", "blocks", or "skip" for the blocks of NCSN++.
        """
        count = len(self.block_out_channels)
        names = (*self.down_block_types, *self.up_block_types)
        skips = [_SKIP in name for name in names]
        if any(skips) and not all(skips):
            raise InputError(
                "down_block_types and up_block_types must be all Skip blocks or none, "
                f"got {', '.join(names)}"
            )
        kinds: set[Literal["conv", "blocks"]] = set()
        attending = []
        for name, plain, attention, own in (
            ("down_block_types", _DOWN, "AttnDownBlock2D", self.downsample_type),
            ("up_block_types", _UP, "AttnUpBlock2D", self.upsample_type),
        ):
            # Older versions have the names UNetResDownBlock2D and so on.
            blocks = [b.removeprefix("UNetRes") for b in getattr(self, name)]
            if all(skips):
                plain, own = {next(iter(plain)): "conv"}, "conv"
                blocks = [b.replace(_SKIP, "") for b in blocks]
            if len(blocks) != count:
                raise InputError(
                    f"{name} must have one entry per entry of block_out_channels "
                    f"({count}), got {len(blocks)}"
                )
            for block in blocks:
                if block not in (*plain, attention):
                    raise InputError(
                        f"{name} must contain only {', '.join((*plain, attention))}, "
                        f"or those of NCSN++ with Skip, got {block!r}"
                    )
            kinds |= {
                _RESAMPLE[own] if b == attention else plain[b]  # type: ignore[misc]
                for b in blocks[:-1]
            }
            found = [i for i, block in enumerate(blocks) if block == attention]
            is_down = attention == "AttnDownBlock2D"
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
        if all(skips):
            return "skip", attending[0]
        return (kinds or {"conv"}).pop(), attending[0]


def norm_groups_of(model: Model) -> set[int]:
    """Returns the different numbers of groups in the norms of a U-Net's blocks."""
    config = model.config
    assert isinstance(config, UNetConfig), "NCSN++ has a number for each width"

    def counted(path: list[str]) -> bool:
        own = config.middle_groups is not None and path[0] == "middle_attention"
        return "group" in path and not own

    return {
        group_count(leaf.shape[0], config.groups, config.smallest_group)
        for path, leaf in jax.tree.leaves_with_path(model.shapes())
        if counted([part.key for part in path])
    }
