"""Diffusion transformer as diffusers' DiTTransformer2DModel.

Its numerics differ from those of the published training in two places: the sinusoids of
the time have shift 1 instead of 0, and the norm before an MLP has epsilon 1e-5 instead
of 1e-6. Its file repeats the embeddings of time and class in every block.
"""

from typing import Any

import jax

from jaxdiff.components.files import known_entries
from jaxdiff.components.kind import Kind
from jaxdiff.components.places import Copies, Place, Stack
from jaxdiff.components.published_names import published_places
from jaxdiff.components.weights import STEM
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.dit import BLOCKS, DiT
from jaxdiff.networks.dit_options import DiTConfig
from jaxdiff.networks.time_embedding import Sinusoids
from jaxdiff.typing import Params

_SINUSOIDS = Sinusoids(order="cos-sin", shift=1.0)
_DEFAULTS = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4,
    "out_channels": None, "num_layers": 28, "dropout": 0.0, "norm_num_groups": 32,
    "attention_bias": True, "sample_size": 32, "patch_size": 2,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
    "upcast_attention": False, "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False, "norm_eps": 1e-5,
}  # fmt: skip
"""Entries of config.json with diffusers' defaults."""
_OLD_ENTRIES = (
    "cross_attention_dim", "num_vector_embeds", "only_cross_attention",
    "use_linear_projection", "double_self_attention", "attention_type",
    "caption_channels", "interpolation_scale", "use_additional_conditions",
)  # fmt: skip
"""Entries of the older class Transformer2DModel that diffusers does not pass on."""
_ONE_VALUE = {
    "attention_bias": True, "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}  # fmt: skip
_ACTIVATIONS = {"gelu-approximate": "gelu_pytorch_tanh", "gelu": "gelu"}
_EMBEDDERS = "norm1.emb.timestep_embedder", "norm1.emb.class_embedder"


def _read(record: dict[str, Any]) -> dict[str, Any]:
    """Returns our options for a configuration.

    Raises:
        InputError: an entry has an unsupported value; the message names the entry.
    """
    entries = _entries(record)
    counts = (
        "num_attention_heads", "attention_head_dim", "num_layers", "sample_size",
        "patch_size", "in_channels", "num_embeds_ada_norm",
    )  # fmt: skip
    for entry in counts:
        if type(entries[entry]) is not int or not 1 <= entries[entry] <= 2**16:
            raise InputError(
                f"{entry} must be a number from 1 to 65536, got {shown(entries[entry])}"
            )
    outputs = entries["out_channels"]
    if outputs is not None and (type(outputs) is not int or outputs < 1):
        raise InputError(f"out_channels must be a number from 1, got {shown(outputs)}")
    name = entries["activation_fn"]
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise InputError(
            f"activation_fn must be one of {', '.join(_ACTIVATIONS)}, got {shown(name)}"
        )
    size = entries["sample_size"]
    return {
        "width": entries["num_attention_heads"] * entries["attention_head_dim"],
        "depth": entries["num_layers"],
        "heads": entries["num_attention_heads"],
        "patch": entries["patch_size"],
        "activation": _ACTIVATIONS[name],
        "sample_size": (size, size),
        "embedding": _SINUSOIDS,
        "mlp_epsilon": entries["norm_eps"],
        "dropout": entries["dropout"],
    }


def _entries(record: dict[str, Any]) -> dict[str, Any]:
    """Returns every entry.

    Raises:
        InputError: an entry that can have one value only has another.
    """
    old = record.get("_class_name") == "Transformer2DModel"
    given = {k: v for k, v in record.items() if not (old and k in _OLD_ENTRIES)}
    entries = {**_DEFAULTS, **known_entries(given, _DEFAULTS, "config.json")}
    for entry, value in _ONE_VALUE.items():
        if entries[entry] != value:
            raise InputError(
                f"{entry} must be {shown(value)}, got {shown(entries[entry])}"
            )
    return entries


def _write(options: DiTConfig) -> dict[str, Any]:
    """Returns the entries of config.json for our options.

    Raises:
        InputError: diffusers has no such network; the message names the option.
    """
    plain = DiTConfig()
    only: dict[str, Any] = {
        name: getattr(plain, name)
        for name in ("positions", "mlp_ratio", "epsilon", "vector_channels", "qk_norm",
                     "text_channels", "center_input", "condition_channels",
                     "null_class")
    }  # fmt: skip
    for name, value in {**only, "embedding": _SINUSOIDS}.items():
        if getattr(options, name) != value:
            raise InputError(
                f"{name} must be {value} for diffusers, got {getattr(options, name)}"
            )
    size = options.sample_size
    if size is None or size[0] != size[1]:
        raise InputError(
            f"sample_size must be a square for diffusers, got {shown(size)}"
        )
    width, depth, heads = options.sizes
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        **_DEFAULTS, "num_attention_heads": heads, "attention_head_dim": width // heads,
        "num_layers": depth, "dropout": options.dropout, "sample_size": size[0],
        "patch_size": options.patch, "activation_fn": names[options.activation],
        "norm_eps": options.mlp_epsilon,
    }  # fmt: skip


def _describe(network: DiT) -> dict[str, Any]:
    """Returns the entries for the numbers of channels and classes of a network."""
    if network.num_classes is None:
        raise InputError("num_classes must be a number for diffusers, got None")
    return {
        "in_channels": network.in_channels or network.out_channels,
        "out_channels": network.out_channels,
        "num_embeds_ada_norm": network.num_classes,
    }


def _build(options: DiTConfig, record: dict[str, Any]) -> DiT:
    entries = _entries(record)
    outputs = entries["out_channels"] or entries["in_channels"]
    return options.build(
        outputs, entries["num_embeds_ada_norm"], entries["in_channels"]
    )


def _places(network: DiT, params: Params) -> Any:
    depth = network.config.sizes.depth
    rest = {name: part for name, part in params.items() if name != BLOCKS}
    block = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), params[BLOCKS]
    )
    time, label = _EMBEDDERS

    def of(i: int) -> tuple[Any, Any]:
        """Returns the places in block i: of its own parameters, and of all others."""
        prefix = f"{BLOCKS}.{i}"
        names = {
            "time_1": f"{prefix}.{time}.linear_1",
            "time_2": f"{prefix}.{time}.linear_2",
            "label": f"{prefix}.{label}.embedding_table",
        }
        own = published_places({prefix: block})[prefix]
        return own, published_places(rest, names)

    def copies(*places: Place) -> Place | Copies:
        several = tuple(dict.fromkeys(places))
        return several[0] if len(several) == 1 else Copies(several)

    def stack(*places: Place) -> Stack:
        return Stack(places)

    def join(how: Any, trees: Any) -> Any:
        return jax.tree.map(how, *trees, is_leaf=lambda x: isinstance(x, Place))

    own, others = zip(*map(of, range(depth)), strict=True)
    return {**join(copies, others), BLOCKS: join(stack, own)}


DIT = Kind(
    DiTConfig, {}, {}, {}, _read, _write, STEM, r"pos_embed\.pos_embed", build=_build,
    describe=_describe, places=_places,
)  # fmt: skip
"""Diffusion transformer."""
