"""Names and layouts of the networks' parameters in diffusers' files.

jaxdiff's names, such as down_1_0_block/conv_1/kernel, are those of the Flax modules.
Levels are counted from the largest image size. The name in diffusers is
down_blocks.1.resnets.0.conv1.weight. The blocks of its way up are counted from the
smallest size.
"""

from typing import Any

import jax

from jaxdiff.components.places import Place
from jaxdiff.components.published_names import RESIDUAL, TIME
from jaxdiff.typing import Params

_TOP = {
    **TIME,
    "time_fourier": "time_proj",
    "conv_in": "conv_in",
    "conv_out": "conv_out",
    "norm_out": "conv_norm_out",
    "middle_0_block": "mid_block.resnets.0",
    "middle_1_block": "mid_block.resnets.1",
    "middle_attention": "mid_block.attentions.0",
}
_BLOCK = {
    "downsample": "downsamplers.0",
    "upsample": "upsamplers.0",
    "halve": "resnet_down",
    "double": "resnet_up",
    "image": "skip_conv",
    "image_norm": "skip_norm",
    "attention": "attentions.0",
}
_BETWEEN = ("downsample", "halve", "image")
"""Parts of the way down that, in diffusers, belong to the level above."""
_INNER = {
    **RESIDUAL,
    "conv": "conv",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}
_LEAF = {"bias": "bias"}  # all other leaves are weights


def places(params: Params, num_levels: int) -> Any:
    """Returns a `Place` for each parameter of a network, in a tree like `params`.

    Args:
        params: the parameters, or their shapes.
        num_levels: number of levels of the network.
    """

    def place(path: Any, leaf: Any) -> Place:
        first, *inner, last = (part.key for part in path)
        name = ".".join(
            [
                _top(first, num_levels),
                *(_INNER[part] for part in inner if part != "group"),
                _LEAF.get(last, "weight"),
            ]
        )
        order = tuple(range(leaf.ndim))
        if last == "kernel":
            order = (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)
        shape = tuple(leaf.shape[axis] for axis in order)
        one_by_one = inner == ["skip"] or first.endswith("_image")
        if one_by_one and last == "kernel" and leaf.ndim == 2:
            shape += (1, 1)
        return Place(name, shape, order)

    return jax.tree.map_with_path(place, params)


def _top(name: str, num_levels: int) -> str:
    """Returns diffusers' name of a module: up_0_2_block is up_blocks.3.resnets.2."""
    if name in _TOP:
        return _TOP[name]
    way, level, rest = name.split("_", 2)
    # Here a layer between two levels is named after the one of smaller size.
    block = int(level) if way == "down" else num_levels - 1 - int(level)
    if way == "down" and rest in _BETWEEN:
        block -= 1
    if rest in _BLOCK:
        return f"{way}_blocks.{block}.{_BLOCK[rest]}"
    index, kind = rest.split("_")
    kinds = {"block": "resnets", "attention": "attentions"}
    return f"{way}_blocks.{block}.{kinds[kind]}.{index}"
