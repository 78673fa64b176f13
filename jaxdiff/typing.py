"""The types that every part of the package speaks.

Shapes are NHWC: `Images` is [batch, height, width, channels]. All the maths also works
on other shapes: one image without a batch axis, or a batch of plain vectors.
"""

from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.Array | np.ndarray
Images: TypeAlias = jax.Array
"""Float images [batch, height, width, channels], data in [-1, 1]."""
Labels: TypeAlias = jax.Array
"""Integer classes [batch]."""
Timesteps: TypeAlias = jax.Array
"""Times [] or [batch]: integers 0 (least noisy) to T - 1 of a discrete schedule, floats
0 to 1 of a continuous one."""
Key: TypeAlias = jax.Array
"""A typed PRNG key, as `jax.random.key` makes it."""
Params: TypeAlias = Any
"""A pytree of float32 arrays, the "params" collection of a Flax module."""


class Batch(NamedTuple):
    """One step's examples, or one device's share of them.

    Attributes:
        images: float32 [batch, height, width, channels] in [-1, 1].
        labels: int32 [batch], or None for a data set without classes.
        indices: int32 [batch], each example's place in the global batch. All randomness
            of an example is folded from it, so a result does not depend on how many
            devices or hosts shared the batch.
    """

    images: ArrayLike
    labels: ArrayLike | None
    indices: ArrayLike


class Level(NamedTuple):
    """How much signal and noise there is at a time: x_t = alpha x_0 + sigma eps.

    Attributes:
        t: the time the network is told, [] or [batch].
        alpha: the signal scale, the same shape; sqrt(alphas_bar_t) for DDPM.
        sigma: the noise scale, the same shape; sqrt(1 - alphas_bar_t) for DDPM.
    """

    t: Array
    alpha: Array
    sigma: Array

    def scales(self, x: Array) -> tuple[Array, Array]:
        """`alpha` and `sigma` with trailing axes of size 1, ready to multiply `x`."""
        shape = self.alpha.shape + (1,) * (x.ndim - self.alpha.ndim)
        return self.alpha.reshape(shape), self.sigma.reshape(shape)


class Estimate(NamedTuple):
    """What a denoiser believes of x_t = alpha x_0 + sigma eps.

    Attributes:
        x_0: the clean image, of x_t's shape.
        eps: the noise, of x_t's shape.
        variance_fraction: where in its range the reverse step's variance lies, 0 (fixed
            small) to 1 (fixed large), of x_t's shape; None where none was learned.
    """

    x_0: Array
    eps: Array
    variance_fraction: Array | None = None


class AnySchedule(Protocol):
    """What the rest of the package asks of a schedule, discrete or continuous.

    A discrete one (`Schedule`) has tables at integer times 0..T-1, a continuous one
    (`ContinuousSchedule`) a formula at times 0..1. In both, time 0 is the least noisy
    level, and the data itself comes after it.
    """

    @property
    def num_steps(self) -> int:
        """T, the number of steps of the chain."""
        ...

    @property
    def times(self) -> Timesteps:
        """The chain's times [T], least noisy first."""
        ...

    @property
    def prior_scale(self) -> float:
        """The standard deviation of the noise that sampling starts from."""
        ...

    @property
    def has_terminal_signal(self) -> bool:
        """Whether the noisiest level has alpha > 0 (True where it is not known)."""
        ...

    def time(self, u: Array) -> Timesteps:
        """The time at the fraction u in [0, 1) of the range: uniform u, uniform t."""
        ...

    def level(self, t: ArrayLike | int | float) -> Level:
        """The level at times t, [] or [batch]."""
        ...

    def next_level(self, t: Timesteps | int | float) -> Level:
        """The level one step nearer the data than t; after the first, the data."""
        ...

    def fraction_of_log_snr(self, log_snr: Array) -> Array:
        """The u at whose `time(u)` the log signal-to-noise ratio is nearest this."""
        ...

    def level_of_log_snr(self, log_snr: Array) -> Level:
        """The level with this log signal-to-noise ratio, cut off to the range."""
        ...


class Denoiser(Protocol):
    """A pure function from a noisy image and its level to what lies beneath.

    A network bound to its parameters is one (`bind`), so is a closed-form oracle;
    guidance and clipping are functions from denoiser to denoiser. One that is also a
    pytree (as all of this package's are) enters `jax.jit` as an argument, so that other
    parameters, labels or guidance weights need no new compilation.
    """

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """The estimate at x_t [batch, ...], whose level is [] or [batch]."""
        ...


class Network(Protocol):
    """What the package asks of a network: the `apply` of a Flax module.

    `apply({"params": params}, x_t, t, labels, keys)` gives an output of x_t's shape.
    `keys` is one PRNG key per example while training (dropout), else None. A network
    is compared and hashed by value: it is a static argument of compiled functions.

    A network that takes labels has an attribute `num_classes`. It may have a method
    `check_null_class()`, which raises `InputError` if the network cannot be evaluated
    without a class, as guidance does.
    """

    def apply(
        self,
        variables: Any,
        x_t: Array,
        t: Array,
        labels: Array | None = None,
        keys: Array | None = None,
    ) -> Any:
        """The network's output for images x_t [batch, ...] at times t [batch]."""
        ...
