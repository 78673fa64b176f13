"""Training of two towers from captioned images; `losses.contrastive` has the loss.

The loss L depends on the vectors (U, V) of the whole batch, and each part of the batch
computes its own rows. With two means over the parts (Gao et al. 2021, GradCache):

    (1)  (U, V) = sum over parts of their rows
    (2)  dL/dparams = sum over parts of J_part^T (dL/dU, dL/dV)[rows of the part]

J_part is the Jacobian of a part's vectors. The result does not depend on the number of
devices or accumulated parts.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import rng
from jaxdiff.losses.contrastive import contrastive_loss
from jaxdiff.networks.towers import LOG_SCALE, MOST, Towers
from jaxdiff.training.augment import shifted
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Mean, check_pixels
from jaxdiff.typing import Array, Batch, Condition, Key, Params


@dataclass(frozen=True)
class Contrast:
    """Training of two towers, from images and tokens of their captions.

    Attributes:
        network: both towers.
        image_shape: shape of one image (height, width, channels).
        batch_size: number of examples of a batch over all devices.
    """

    network: Towers
    image_shape: tuple[int, int, int]
    batch_size: int

    @property
    def freezes(self) -> bool:
        """False: all parameters are trained."""
        return False

    def init(self, seed: int) -> Params:
        """Returns the initial parameters of both towers."""
        tokens = jnp.zeros((1, self.network.config.text.length), jnp.int32)
        images = jnp.zeros((1, *self.image_shape))
        params: Params = self.network.init(rng.key(seed), images, tokens)["params"]
        return params

    def split(self, params: Params, seed: int) -> tuple[Params, Params]:
        """Returns all parameters, and ()."""
        return params, ()

    def memory(self) -> Any:
        """Returns (): nothing is remembered."""
        return ()

    def optimizer(
        self, options: Optimizer, num_steps: int
    ) -> optax.GradientTransformation:
        """Returns one optimizer of all parameters."""
        return options.build(num_steps)

    def taken(self, batch: Batch) -> Batch:
        """Returns the images and the tokens of their captions."""
        given = Condition.of(batch.condition)
        return batch._replace(condition=Condition(tokens=given.tokens, mask=given.mask))

    def check(self, batch: Batch) -> None:
        """Raises an `InputError` for images of another shape or range."""
        check_pixels(batch.images, self.image_shape)

    def vectors(self, params: Params, key: Key, part: Batch) -> tuple[Array, Array]:
        """Returns the vectors of images, each shifted at random, and of their texts."""
        condition = Condition.of(part.condition)
        keys = rng.example_keys(key, jnp.asarray(part.indices))
        found: tuple[Array, Array] = self.network.apply(
            {"params": params}, shifted(jnp.asarray(part.images), keys),
            jnp.asarray(condition.tokens), jnp.asarray(condition.mask),
        )  # type: ignore[assignment]  # fmt: skip
        return found

    def gradient(
        self, state: TrainState, frozen: Params, key: Key, mean: Mean
    ) -> tuple[Params, dict[str, Array]]:
        """Returns the gradient of the whole batch, equations (1) and (2)."""
        rows = self.batch_size

        def collected(shared: Any, part: Batch) -> Any:
            params, key = shared
            places, parts = jnp.asarray(part.indices), rows / len(part.images)
            tokens = jnp.asarray(Condition.of(part.condition).tokens, jnp.float32)

            def spread(a: Array) -> Array:  # the mean of all parts is then their sum
                return jnp.zeros((rows, *a.shape[1:])).at[places].set(parts * a)

            return jax.tree.map(spread, (*self.vectors(params, key, part), tokens))

        images, texts, tokens = mean(collected, (state.params, key))
        tokens = jnp.rint(tokens)
        numbers = equal_rows(tokens)
        weight = (tokens != 0).any(axis=1).astype(jnp.float32)
        (_, metrics), (*towards, of_scale) = jax.value_and_grad(
            contrastive_loss, argnums=(0, 1, 2), has_aux=True
        )(images, texts, state.params[LOG_SCALE], numbers, weight)

        def gradient_of(shared: Any, part: Batch) -> Params:
            params, key, towards = shared
            places, parts = jnp.asarray(part.indices), rows / len(part.images)
            _, back = jax.vjp(lambda own: self.vectors(own, key, part), params)
            (own,) = back(tuple(parts * a[places] for a in towards))
            return own

        gradient = mean(gradient_of, (state.params, key, tuple(towards)))
        return {**gradient, LOG_SCALE: of_scale}, metrics

    def remembered(self, memory: Any, metrics: dict[str, Array]) -> Any:
        """Returns the memory unchanged."""
        return memory

    def constrained(self, params: Params) -> Params:
        """Returns the parameters with a scale of at most 100, as in CLIP."""
        scale = jnp.minimum(params[LOG_SCALE], jnp.log(MOST))
        return {**params, LOG_SCALE: scale}

    def sampling(self, params: Params, frozen: Params) -> Params:
        """Returns the parameters unchanged."""
        return params


def equal_rows(rows: Array) -> Array:
    """Returns the number of each row [n], which equal rows share.

    Args:
        rows: numbers [n, m].
    """
    found = jnp.unique(rows, axis=0, return_inverse=True, size=len(rows))
    return found[1].reshape(-1)
