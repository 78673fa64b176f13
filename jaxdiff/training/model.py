"""Model: the parts of a diffusion model that training and sampling share."""

import math
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.checks import check_built, check_object, check_untraced
from jaxdiff.denoisers.guidance import (
    classifier_free_guidance,
    instruction_guidance,
)
from jaxdiff.denoisers.network import NetworkDenoiser, bind, num_classes_of
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.denoisers.thresholding import clip_x0, dynamic_threshold
from jaxdiff.errors import InputError, first_line
from jaxdiff.typing import (
    PIXELS,
    AnySchedule,
    Array,
    Condition,
    Denoiser,
    Key,
    Network,
    Params,
)


@dataclass(frozen=True, eq=False)
class Model:
    """Network without its parameters, and the parts that interpret its output.

    Models are equal if all their parts have equal values. A model is therefore a static
    argument of compiled functions, and equal models share compiled programs.

    Attributes:
        network: Flax module whose call takes (x_t, t, condition, keys); see
            `typing.Network`.
        schedule: Built noise schedule, discrete or continuous.
        prediction: Meaning of the network's output.
        image_shape: Shape of one image (height, width, channels).
        num_classes: Number of classes; None for an unconditional model.
        data_range: Smallest and largest number of an image; None for latents.
    """

    network: Network
    schedule: AnySchedule
    prediction: Prediction
    image_shape: tuple[int, ...]
    num_classes: int | None = None
    data_range: tuple[float, float] | None = PIXELS

    def __post_init__(self) -> None:
        check_object("network", self.network, "init", "apply")
        check_object("prediction", self.prediction)
        check_built(self.schedule)
        own = num_classes_of(self.network)
        if own != self.num_classes:
            raise InputError(
                f"num_classes must be the network's number, {own}, got "
                f"{self.num_classes}. Give {type(self.network).__name__} a field "
                "num_classes of the same value."
            )
        object.__setattr__(self, "image_shape", tuple(self.image_shape))

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        """Values of all parts, hashable."""
        check_untraced(
            "the model's schedule", self.schedule,
            "Compile or differentiate train_step instead",
        )  # fmt: skip
        leaves, tree = jax.tree.flatten(self.schedule)
        tables = tuple((a.shape, a.dtype, a.tobytes()) for a in map(np.asarray, leaves))
        parts = (
            self.network, self.prediction, self.image_shape, self.num_classes,
            self.data_range,
        )  # fmt: skip
        return *parts, tree, tables

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def init(self, seed: int = 0) -> Params:
        """Returns the network's initial parameters.

        Raises:
            InputError: If the network's call does not match `typing.Network`.
        """
        key = rng.key(seed)
        return init_params(self.network, self.image_shape, self.num_classes, key)

    def param_shapes(self) -> Params:
        """Returns the shapes and types of the parameters; equal models trace once."""
        network: Any = self.network
        return param_shapes(network, self.image_shape, self.num_classes)

    def denoiser(self, params: Params, condition: Any = None) -> NetworkDenoiser:
        """Returns the network bound to parameters, and to a condition or labels."""
        return bind(self.network, params, condition, self.prediction)

    def sampling_denoiser(
        self,
        params: Params,
        condition: Any = None,
        *,
        guidance: float | Array | None = None,
        image_guidance: float | Array | None = None,
        base: Condition | None = None,
        clip: bool = True,
        clip_range: float | Array | None = None,
        clip_quantile: float | Array | None = None,
        keep_eps: bool = False,
    ) -> Denoiser:
        """Returns the denoiser that a sampling loop evaluates.

        Args:
            params: Parameters of the network.
            condition: Condition, or classes [batch], or shares of classes; None for any
                class.
            guidance: Guidance scale of classifier-free guidance; None for none.
            image_guidance: Guidance scale of the condition's image, with `guidance`;
                see `instruction_guidance`.
            base: Condition of the unconditional half; hidden by default.
            clip: If True, clips the estimate of x_0 to the range of the data, if it has
                one.
            clip_range: Largest magnitude of a clipped estimate, instead of that range.
            clip_quantile: Quantile of an image's magnitudes to clip at, and to scale to
                1: dynamic thresholding. clip_range is then the largest such limit,
                and None is no limit.
            keep_eps: If True, eps stays as the network predicted it when x_0 is
                clipped.
        """
        denoiser: Denoiser = self.denoiser(params, condition)
        if guidance is not None and image_guidance is not None:
            denoiser = instruction_guidance(
                denoiser, guidance, image_guidance, base=base
            )
        elif guidance is not None:
            denoiser = classifier_free_guidance(denoiser, guidance, base=base)
        if clip and clip_quantile is not None:
            most = float("inf") if clip_range is None else clip_range
            return dynamic_threshold(denoiser, clip_quantile, most, keep_eps=keep_eps)
        limits: Any = self.data_range
        if clip_range is not None:
            limits = -clip_range, clip_range
        if not clip or limits is None:
            return denoiser
        return clip_x0(denoiser, *limits, keep_eps=keep_eps)


@partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def init_params(
    network: Network, image_shape: tuple[int, ...], num_classes: int | None, key: Key
) -> Params:
    """Returns a network's initial parameters, compiled as one program.

    Raises:
        InputError: If the network's call does not match `typing.Network`.
    """
    images, times = jnp.zeros((1, *image_shape)), jnp.zeros(1, jnp.int32)
    module: Any = network
    condition: Any = None
    if hasattr(module, "example_condition"):
        condition = module.example_condition(image_shape)
    elif num_classes is not None:
        condition = jnp.zeros(1, jnp.int32)
    try:
        variables = module.init(key, images, times, condition, None)
    except TypeError as error:
        name = "condition" if hasattr(module, "takes") else "labels"
        raise InputError(
            f"the network {type(network).__name__} must be called with (x_t, t, "
            f"{name}, keys): {first_line(error)}. Define __call__(self, x_t, t, "
            f"{name}=None, keys=None)."
        ) from error
    others = sorted(variables.keys() - {"params"})
    if others:
        raise InputError(
            f"the network {type(network).__name__} must have no variables besides "
            f"its params, got {', '.join(others)}. Use GroupNorm or LayerNorm "
            "instead of BatchNorm."
        )
    return variables.get("params", {})


@lru_cache(maxsize=64)
def param_shapes(
    network: Network, image_shape: tuple[int, ...], num_classes: int | None
) -> Params:
    """Returns the shapes and types of a network's parameters."""
    init = partial(init_params, network, image_shape, num_classes)
    return jax.eval_shape(init, rng.key(0))


def describe_network(network: Network) -> str:
    """Returns a network's class and fields in one line, the same in every process."""
    name = type(network).__qualname__
    if not is_dataclass(network):
        return name
    values = {
        field.name: getattr(network, field.name)
        for field in fields(network)
        if field.name not in ("parent", "name") and field.repr
    }
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def num_parameters(params: Any) -> int:
    """Returns the number of parameters of a pytree of arrays or shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
