"""Low-rank adapters of networks: LoRA (Hu et al. 2022).

An adapter adds a product of two factors to the kernels of some layers,

    (1)  kernel' = kernel + scale * (alpha / rank) * down up,

with `down` [in, rank] and `up` [rank, out]. A convolution has `down` [height, width,
in, rank], the kernel of a convolution to `rank` channels, and `up` [1, 1, rank, out],
the kernel of the 1x1 convolution after it. Kernels of equal blocks that are stacked
along a first axis have stacked factors. The factors are a small share of the kernel's
parameters.

`merged` and `unmerged` are pure functions of the parameters. Several adapters compose
by repeated calls. The scale is an array: other scales need no new compilation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.denoisers.network import NetworkDenoiser, networks_of
from jaxdiff.errors import InputError, first_few
from jaxdiff.storage.read_state import by_name, leaf_name
from jaxdiff.typing import Array, Denoiser, Key, Params

ATTENTION = ("to_q", "to_k", "to_v", r"to_out\.0")
"""Projections of attention, the targets of diffusers' training scripts."""
_KERNEL = "/kernel"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoRALayer:
    """Factors of one layer's kernel; see equation (1).

    Attributes:
        down: first factor, [in, rank], [depth, in, rank] or [height, width, in, rank].
        up: second factor, [rank, out], [depth, rank, out] or [1, 1, rank, out].
        scale: alpha / rank, float32 []. It takes no gradient.
    """

    down: Array
    up: Array
    scale: Array

    @property
    def rank(self) -> int:
        """Number of columns of `down`."""
        return self.down.shape[-1]

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the kernel that the factors fit."""
        return (*self.down.shape[:-1], self.up.shape[-1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LoRA:
    """Low-rank adapter of a network.

    Attributes:
        layers: factors by the name of the kernel, such as
            "mid_block.attentions.0/transformer_blocks.0/attn1/to_q/kernel".
    """

    layers: dict[str, LoRALayer]


def merged(params: Params, lora: LoRA, scale: float | Array = 1.0) -> Params:
    """Returns parameters with an adapter added; equation (1).

    The product is computed in float32, and each kernel returns in its own type. Other
    parameters are the same arrays.

    Args:
        params: parameters of a network.
        lora: adapter of this network.
        scale: factor of the adapter [], any real number.

    Raises:
        InputError: the network has no kernel of a layer's name or shape; or scale is
            not a single number.
    """
    factor = jnp.asarray(scale, jnp.float32)
    if factor.shape != ():
        raise InputError(f"scale must be one number, got the shape {factor.shape}")
    check_fits(params, lora)

    def added(path: Any, leaf: Array) -> Array:
        layer = lora.layers.get(leaf_name(path))
        return leaf if layer is None else _added(leaf, layer, factor)

    return jax.tree.map_with_path(added, params)


def unmerged(params: Params, lora: LoRA, scale: float | Array = 1.0) -> Params:
    """Returns parameters with a merged adapter subtracted.

    It inverts `merged` except for rounding in the parameters' type. Arguments and
    errors are those of `merged`.
    """
    return merged(params, lora, -jnp.asarray(scale, jnp.float32))


@jax.jit
def _added(kernel: Array, layer: LoRALayer, scale: Array) -> Array:
    down, up = (
        jnp.asarray(factor, jnp.float32) for factor in (layer.down, layer.up)
    )  # fmt: skip
    factor = scale * jax.lax.stop_gradient(layer.scale)
    delta = factor * jnp.matmul(down, up, precision=jax.lax.Precision.HIGHEST)
    return (kernel.astype(jnp.float32) + delta).astype(kernel.dtype)


def _first_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes of `up` before its matrix, for a kernel or `down`."""
    return (1, 1) if len(shape) == 4 else shape[:-2]


def check_fits(params: Params, lora: LoRA) -> None:
    """Checks that the adapter fits the parameters, or their shapes.

    Raises:
        InputError: there is no kernel of a layer's name or shape; the message lists
            the first ones.
    """
    leaves = by_name(params)
    wrong = []
    for name, layer in lora.layers.items():
        down, up = jnp.shape(layer.down), jnp.shape(layer.up)
        pairs = len(down) in (2, 3, 4) and len(up) == len(down) and down[-1] == up[-2]
        if name not in leaves:
            wrong.append(f"{name}, which the network lacks")
        elif not pairs or up[:-2] != _first_axes(down):
            wrong.append(f"{name} of the factors {list(down)} and {list(up)}")
        elif layer.kernel_shape != leaves[name].shape:
            wrong.append(
                f"{name} for {list(layer.kernel_shape)}, not {list(leaves[name].shape)}"
            )
    if wrong:
        raise InputError(
            f"lora must fit the network, got {first_few(wrong)}. Use an adapter of "
            "this network."
        )


def init_lora(
    params: Params,
    rank: int,
    alpha: float | None = None,
    *,
    key: Key,
    targets: Sequence[str] = ATTENTION,
) -> LoRA:
    """Makes an adapter for training, which changes nothing yet.

    `up` is zero, and `down` is Gaussian with the standard deviation 1 / rank, as the
    option init_lora_weights="gaussian" of peft, which diffusers' training scripts use.

    Args:
        params: parameters of the network, or their shapes.
        rank: number of columns of `down`, at least 1.
        alpha: numerator of the layers' scale; the rank by default, as in diffusers'
            training scripts.
        key: key of the draws.
        targets: patterns of the modules' names. Each is a regular expression for the
            end of a name, from a "/" or "." on.

    Raises:
        InputError: rank is below 1, or no layer matches.
    """
    if rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    ending = re.compile(rf"(?:.*[./])?(?:{'|'.join(targets)})")
    found = {
        name: leaf.shape
        for name, leaf in by_name(params).items()
        if name.endswith(_KERNEL)
        and leaf.ndim in (2, 3, 4)
        and ending.fullmatch(name.removesuffix(_KERNEL))
    }
    if not found:
        raise InputError(
            f"targets must match modules of the network, got {', '.join(targets)}"
        )
    scale = jnp.float32((rank if alpha is None else alpha) / rank)
    layers = {}
    for one, (name, shape) in zip(
        jax.random.split(key, len(found)), found.items(), strict=True
    ):
        down = jax.random.normal(one, (*shape[:-1], rank), jnp.float32) / rank
        up = jnp.zeros((*_first_axes(shape), rank, shape[-1]), jnp.float32)
        layers[name] = LoRALayer(down, up, scale)
    return LoRA(layers)


def with_lora(
    denoiser: Denoiser, adapter: LoRA, scale: float | Array = 1.0
) -> Denoiser:
    """Returns the denoiser with an adapter merged into its networks.

    The result has the structure of `denoiser`, so that guidance and other functions of
    denoisers apply before and after, and adapters compose by repeated calls. The
    adapter is merged at the call, once and not per step. As an argument of a compiled
    sampling loop, another scale, or another adapter, needs no new compilation. Inside a
    compiled function, the scale may be one of its arguments. Memory grows by the
    adapted kernels; all other parameters are shared.

    Args:
        denoiser: denoiser with networks, such as `bind` makes.
        adapter: adapter of every network in the denoiser.
        scale: factor of the adapter [], any real number.

    Raises:
        InputError: the denoiser has no network, or the adapter does not fit one.
    """
    networks = networks_of(denoiser)
    if not networks:
        raise InputError(
            "denoiser must have a network for an adapter, got one without. Bind one, "
            "as run.denoiser() does."
        )
    # Networks that share their parameters share the merged ones.
    found = {id(one.params): one.params for one in networks}
    new = {place: merged(params, adapter, scale) for place, params in found.items()}

    def adapted(part: Any) -> Any:
        bound = isinstance(part, NetworkDenoiser)
        return replace(part, params=new[id(part.params)]) if bound else part

    return jax.tree.map(
        adapted, denoiser, is_leaf=lambda part: isinstance(part, NetworkDenoiser)
    )
