"""Types that all parts of the package share.

Shapes are NHWC: `Images` is [batch, height, width, channels]. The maths also work on
other shapes: one image without a batch axis, or a batch of plain vectors.
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
"""Typed PRNG key, made by `jax.random.key`."""
Params: TypeAlias = Any
"""Pytree of float32 arrays: the "params" collection of a Flax module."""


class Condition(NamedTuple):
    """All that a network is given besides x_t and t; every part is optional.

    Attributes:
        labels: classes, integers [batch], or shares of the classes, float [batch,
            classes].
        text: features of a text's tokens, float [batch, tokens, features].
        mask: False for tokens that are padding, bool [batch, tokens].
        vector: features of a whole text or image, float [batch, features].
        image: image, such as one to enlarge, float [batch, height, width, channels].
        numbers: numbers such as sizes or a guidance scale, float [batch, numbers].
        end: time at which a step from t ends, for a flow map, float [batch].
        tokens: tokens of a text, in place of their features, for a network with a text
            encoder of its own, integers [batch, tokens].
        image_level: level of the noise in the image, from 0 (none) to 1, float [batch].
    """

    labels: Any = None
    text: Any = None
    mask: Any = None
    vector: Any = None
    image: Any = None
    numbers: Any = None
    end: Any = None
    tokens: Any = None
    image_level: Any = None

    @classmethod
    def of(cls, given: "Condition | ArrayLike | None") -> "Condition":
        """Returns a condition for one, for labels alone, or for None."""
        return given if isinstance(given, Condition) else cls(labels=given)


class _Examples(NamedTuple):
    images: ArrayLike
    condition: Condition | ArrayLike | None
    indices: ArrayLike
    deviation: ArrayLike | None = None


class Batch(_Examples):
    """Examples of one step, or one device's share of them.

    Attributes:
        images: float32 images [batch, height, width, channels] in [-1, 1]; or means of
            latents.
        condition: a `Condition`, or int32 classes [batch]; None without a condition.
        indices: place of each example in the global batch, int32 [batch]. All
            randomness of an example is folded from its index. A result therefore does
            not depend on the number of devices or hosts that share the batch.
        deviation: standard deviation of latents, float32 of the images' shape. The loss
            then draws the latents. None for images, or for latents without variance.
    """

    __slots__ = ()

    def __new__(
        cls,
        images: ArrayLike,
        condition: Condition | ArrayLike | None = None,
        indices: ArrayLike | None = None,
        deviation: ArrayLike | None = None,
        *,
        labels: ArrayLike | None = None,
    ) -> "Batch":
        """Makes a batch; `labels` is a condition of classes alone."""
        given = condition if labels is None else Condition(labels=labels)
        places: Any = indices
        return super().__new__(cls, images, given, places, deviation)

    @property
    def labels(self) -> ArrayLike | None:
        """Classes [batch], or None."""
        return Condition.of(self.condition).labels


PIXELS = (-1.0, 1.0)
"""Range of images; latents have none."""


class Level(NamedTuple):
    """Scales of signal and noise at a time: x_t = alpha x_0 + sigma eps.

    Attributes:
        t: time, as the network receives it, [] or [batch].
        alpha: signal scale, of t's shape; sqrt(alphas_bar_t) for DDPM.
        sigma: noise scale, of t's shape; sqrt(1 - alphas_bar_t) for DDPM.
    """

    t: Array
    alpha: Array
    sigma: Array

    def scales(self, x: Array) -> tuple[Array, Array]:
        """Returns `alpha` and `sigma` with trailing axes of size 1, to multiply `x`."""
        shape = self.alpha.shape + (1,) * (x.ndim - self.alpha.ndim)
        return self.alpha.reshape(shape), self.sigma.reshape(shape)


class Estimate(NamedTuple):
    """Estimate of a denoiser at x_t = alpha x_0 + sigma eps.

    Attributes:
        x_0: clean image, of x_t's shape.
        eps: noise, of x_t's shape.
        variance_fraction: position of the reverse step's variance in its range, from 0
            (fixed small) to 1 (fixed large), of x_t's shape. None if the variance is
            not learned.
    """

    x_0: Array
    eps: Array
    variance_fraction: Array | None = None


class StepInfo(NamedTuple):
    """Levels, noise and place of one sampling step, as the sampling loop gives them.

    Attributes:
        level: level of x_t, each field [].
        next_level: level to step to, each field [].
        noise: standard Gaussian noise of x_t's shape, fresh in every step.
        index: number of steps after this one, an integer array []: N - 1 in the first
            of N steps, 0 in the last. `rng.step_noise` draws the noise by it.
        more_noise: further noise of x_t's shape, independent of `noise`, for a sampler
            with `draws` 2; otherwise None.
    """

    level: Level
    next_level: Level
    noise: Array
    index: Array  # type: ignore[assignment]  # a tuple has a method of this name
    more_noise: Array | None = None


class AnySchedule(Protocol):
    """Schedule as the rest of the package sees it, discrete or continuous.

    A discrete schedule (`Schedule`) has tables at integer times 0..T-1. A continuous
    one (`ContinuousSchedule`) has a formula at times 0..1. In both, time 0 is the least
    noisy level, and the data come after it.
    """

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        ...

    @property
    def times(self) -> Timesteps:
        """Times of all steps [T], least noisy first."""
        ...

    @property
    def prior_scale(self) -> float:
        """Standard deviation of the noise that sampling starts from."""
        ...

    @property
    def has_terminal_signal(self) -> bool:
        """True if the noisiest level has alpha > 0, or if its alpha is traced."""
        ...

    def time(self, u: Array) -> Timesteps:
        """Returns the time at the fraction u in [0, 1) of the range; linear in u."""
        ...

    def level(self, t: ArrayLike | int | float) -> Level:
        """Returns the level at times t [] or [batch]."""
        ...

    def next_level(self, t: Timesteps | int | float) -> Level:
        """Returns the level one step nearer the data than t; the data after time 0."""
        ...

    def fraction_of_log_snr(self, log_snr: Array) -> Array:
        """Returns the u whose `time(u)` has the log-SNR nearest to `log_snr`."""
        ...

    def level_of_log_snr(self, log_snr: Array) -> Level:
        """Returns the level with this log-SNR, clipped to the schedule's range."""
        ...


class Denoiser(Protocol):
    """Pure function from a noisy image and its level to an estimate of x_0 and eps.

    A network bound to its parameters is a denoiser (`bind`), and so is a closed-form
    oracle. Guidance and clipping are functions from denoiser to denoiser. All denoisers
    of this package are pytrees. A pytree enters `jax.jit` as an argument: other
    parameters, labels or guidance weights need no new compilation.
    """

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """Returns the estimate at x_t [batch, ...] and a level [] or [batch]."""
        ...


class Network(Protocol):
    """Network as the package calls it: the `apply` method of a Flax module.

    `apply({"params": params}, x_t, t, condition, keys)` returns an output of x_t's
    shape, with twice the channels if the variance is learned. `keys` holds one PRNG key
    per example in training (for dropout), and is None otherwise. A network is compared
    and hashed by value, because it is a static argument of compiled functions.

    A network that takes a condition has an attribute `takes`, the names of the parts of
    a `Condition` that it takes. Without it, the network gets labels in the condition's
    place. A network that takes labels has an attribute `num_classes`. A network that
    takes other parts has a method `example_condition(image_shape)`, which returns a
    condition of one example. It may have an attribute `needs`, the parts without which
    it cannot be evaluated.

    A network may have a method `check_null_class()`. That method raises `InputError` if
    the network cannot be evaluated without a class, which guidance does.
    """

    def apply(
        self,
        variables: Any,
        x_t: Array,
        t: Array,
        condition: Any = None,
        keys: Array | None = None,
    ) -> Any:
        """Returns the output for images x_t [batch, ...] at times t [batch]."""
        ...
