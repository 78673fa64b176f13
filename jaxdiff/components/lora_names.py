"""Names of a network's layers in the files of LoRA.

All names are made from the published names of the kernels, so that no name is parsed:

    unet.mid_block.attentions.0.proj_in               diffusers
    mid_block.attentions.0.proj_in                    diffusers' first form, peft
    lora_unet_mid_block_attentions_0_proj_in          kohya
    lora_unet_middle_block_1_proj_in                  kohya, for Stable Diffusion XL
    unet:136                                          cloneofsimo: number in an order

Old files name the layers of attention as diffusers' attention processors did: "to_out"
for "to_out.0", and "to_q" for a text encoder's "q_proj".
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxdiff.components.component import Component
from jaxdiff.components.kinds import KINDS
from jaxdiff.components.places import Place, flat_places
from jaxdiff.networks.cross_attention_unet import CrossAttentionUNet
from jaxdiff.storage.read_state import by_name

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
KOHYA = {
    UNET: ("lora_unet_",), TEXT: ("lora_te_", "lora_te1_"), TEXT_2: ("lora_te2_",)
}  # fmt: skip
"""First parts of kohya's names of a network."""
_FLAT = "text_model."
"""First part of a text encoder's names, which newer files lack."""
_OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_OLD_RESIDUAL = {
    "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}  # fmt: skip
_OLD_SINGLE = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_NUMBERED = {
    "text": ("k_proj", "v_proj", "q_proj", "out_proj"),
    "old": (
        *(f"attn1.{name}" for name in _ATTENTION), "ff.net.0.proj",
        *(f"attn2.{name}" for name in _ATTENTION),
    ),
    "new": (
        *(f"attn1.{name}" for name in _ATTENTION),
        *(f"attn2.{name}" for name in _ATTENTION), "ff.net.0.proj",
    ),
}  # fmt: skip
"""Order of the layers of a block in cloneofsimo's files: the order in which the modules
of transformers, and of older and newer diffusers, are defined."""

_WAYS = ("down_blocks", "up_blocks", "mid_block")
"""Order in which diffusers defines the blocks: the middle is the last."""


class Target(NamedTuple):
    """Kernel that an adapter may change.

    Attributes:
        network: name of the network, such as "unet".
        module: published name of the layer.
        kernel: name of the kernel among our parameters.
        place: place of the kernel in a published file.
    """

    network: str
    module: str
    kernel: str
    place: Place


def targets_of(name: str, component: Component) -> list[Target]:
    """Returns the kernels of a network.

    Args:
        name: name of the network, such as "unet".
        component: the network.
    """
    places = KINDS[component.kind].places(component.network, component.params)
    pairs = zip(by_name(component.params), flat_places(places), strict=True)
    return [
        Target(name, place.name.removesuffix(".weight"), kernel, place)
        for kernel, place in pairs
        if kernel.endswith("/kernel") and isinstance(place, Place)
    ]


def names_of(
    target: Target, blocks: Mapping[str, str], bare: bool = False
) -> Iterator[str]:
    """Yields the names of a layer in files, without the names of the factors.

    Args:
        target: the layer.
        blocks: first parts of the U-Net's names in the original's, by ours; see
            `original_blocks`.
        bare: if True, yield the names that do not start with the network's name.
    """
    modules = [target.module]
    if target.module.endswith("to_out.0"):
        modules.append(target.module.removesuffix(".0"))
    stem, _, last = target.module.rpartition(".")
    if stem.endswith("self_attn"):
        modules.append(f"{stem}.{_OLD_TEXT[last]}")
    modules += [m.removeprefix(_FLAT) for m in modules if m.startswith(_FLAT)]
    if bare:
        yield from modules
        return
    yield from (f"{target.network}.{module}" for module in modules)
    original = _original(target.module, blocks) if target.network == UNET else None
    for prefix in KOHYA.get(target.network, ()):
        for module in filter(None, (*modules, original)):
            yield prefix + module.replace(".", "_")


def original_blocks(network: Any) -> dict[str, str]:
    """Returns the blocks of a U-Net in the original code's names, by diffusers'.

    The original numbers all blocks of the way down, and of the way up, in one row
    (Rombach et al. 2022). Kohya's files of Stable Diffusion XL have its names.
    """
    if not isinstance(network, CrossAttentionUNet):
        return {}
    config, found = network.config, {}
    last, place = len(config.widths) - 1, 1
    for level, count in enumerate(config.blocks):
        for i in range(count):
            found[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{place}.0"
            found[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{place}.1"
            place += 1
        if level < last:
            name = f"down_blocks.{level}.downsamplers.0.conv"
            found[name] = f"input_blocks.{place}.0.op"
            place += 1
    for i, part in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        found[f"mid_block.{part}"] = f"middle_block.{i}"
    place = 0
    for number, level in enumerate(reversed(range(last + 1))):
        for i in range(config.blocks[level] + 1):
            found[f"up_blocks.{number}.resnets.{i}"] = f"output_blocks.{place}.0"
            found[f"up_blocks.{number}.attentions.{i}"] = f"output_blocks.{place}.1"
            place += 1
        if level:
            after = 1 + (config.up[level] == "transformer")
            name = f"up_blocks.{number}.upsamplers.0.conv"
            found[name] = f"output_blocks.{place - 1}.{after}.conv"
    return found


def _original(module: str, blocks: Mapping[str, str]) -> str | None:
    """Returns the original code's name of a layer of the U-Net, if it is known."""
    if module in _OLD_SINGLE:
        return _OLD_SINGLE[module]
    if module in blocks:
        return blocks[module]
    parts = module.split(".")
    for count in (3, 4):  # a block of the middle, or of another level
        block, rest = ".".join(parts[:count]), ".".join(parts[count:])
        if block in blocks:
            return f"{blocks[block]}.{_OLD_RESIDUAL.get(rest, rest)}"
    return None


def numbered(targets: list[Target], order: str) -> list[Target]:
    """Returns the layers that cloneofsimo's files number, in their order.

    Args:
        targets: layers of one network.
        order: "text" for a text encoder; for a U-Net "old" or "new", the definition of
            its blocks in diffusers.
    """
    ends = _NUMBERED[order]
    block = r"(.*\.self_attn)" if order == "text" else r"(.*\.transformer_blocks\.\d+)"
    found = []
    for target in targets:
        match = re.fullmatch(rf"{block}\.(.*)", target.module)
        if match and match[2] in ends:
            way = _WAYS.index(match[1].partition(".")[0]) if order != "text" else 0
            numbers = [int(number) for number in re.findall(r"\d+", match[1])]
            found.append(((way, *numbers, ends.index(match[2])), target))
    return [target for _, target in sorted(found, key=lambda pair: pair[0])]
