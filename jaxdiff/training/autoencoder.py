"""Training of an autoencoder; `losses.autoencoding` has the equations."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff import rng
from jaxdiff.losses.autoencoding import (
    Norm,
    adaptive_weight,
    hinge_loss,
    kl_of_latents,
    pixel_loss,
)
from jaxdiff.networks.feature_maps import feature_distance
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.state import TrainState
from jaxdiff.training.task import Mean, check_pixels
from jaxdiff.typing import Array, Batch, Images, Key, Params


@dataclass(frozen=True)
class Autoencoding:
    """Training of an autoencoder, with a patch discriminator or without.

    The trained parameters are a dict of `autoencoder` and, if there is one,
    `discriminator`. Those that stay unchanged are a dict of `features`, or ().

    Attributes:
        network: `AutoencoderKL` or `AutoencoderTiny`.
        image_shape: Shape of one image (height, width, channels).
        norm: Distance of pixels.
        kl_weight: Weight of the divergence of the latents.
        features: Network of the distance of features; None for none.
        feature_weight: Weight of this distance.
        discriminator: Patch discriminator, or None.
        start: Number of steps before the discriminator takes part.
        weight: Weight of the adversarial loss.
        learning_rate: Learning rate of the discriminator; None for the autoencoder's.
    """

    network: Any
    image_shape: tuple[int, ...]
    norm: Norm = "l1"
    kl_weight: float = 0.0
    features: Any = None
    feature_weight: float = 0.0
    discriminator: Any = None
    start: int = 0
    weight: float = 0.0
    learning_rate: float | None = None

    @property
    def freezes(self) -> bool:
        """True with a network of features, which stays unchanged."""
        return self.features is not None

    def init(self, seed: int) -> Params:
        """Returns the initial parameters of all networks."""
        images = jnp.zeros((1, *self.image_shape))
        keys = jax.random.split(rng.key(seed), 3)
        params = {"autoencoder": self.network.init(keys[0], images)["params"]}
        if self.discriminator is not None:
            found = self.discriminator.init(keys[1], images)
            params["discriminator"] = found["params"]
        if self.features is not None:
            shape = (1, *self.image_shape[:2], 3)
            shown = jnp.zeros(shape) if self._sees_colour else images
            params["features"] = self.features.init(keys[2], shown)
        return params

    @property
    def _sees_colour(self) -> bool:
        return type(self.features).__name__ == "Inception"

    def split(self, params: Params, seed: int) -> tuple[Params, Params]:
        """Returns the parameters to train, and those of the features or ()."""
        if self.features is None:
            return params, ()
        trained = {name: one for name, one in params.items() if name != "features"}
        return trained, {"features": params["features"]}

    def memory(self) -> Any:
        """Returns (): nothing is remembered."""
        return ()

    def optimizer(
        self, options: Optimizer, num_steps: int
    ) -> optax.GradientTransformation:
        """Returns an optimizer of each network, in one."""
        if self.discriminator is None:
            return options.build(num_steps)
        rate = self.learning_rate or options.learning_rate
        own = {
            "autoencoder": options,
            "discriminator": replace(options, learning_rate=rate),
        }
        return optax.partition(
            {name: one.build(num_steps) for name, one in own.items()},
            lambda params: {
                name: jax.tree.map(lambda _, name=name: name, one)
                for name, one in params.items()
            },
        )

    def taken(self, batch: Batch) -> Batch:
        """Returns the images of a batch, without their conditions."""
        return batch._replace(condition=None)

    def check(self, batch: Batch) -> None:
        """Raises an `InputError` for images of another shape or range."""
        check_pixels(batch.images, self.image_shape)

    def reconstructed(
        self, params: Params, images: Images, keys: Key | None = None
    ) -> tuple[Images, Array]:
        """Returns reconstructions, and the divergence of the latents [batch].

        Args:
            params: Parameters of the autoencoder.
            images: Images [batch, height, width, channels] in [-1, 1].
            keys: Keys of the latents' noise [batch]; None decodes their means.
        """
        variables = {"params": params}
        mean, log_variance = self.network.apply(variables, images, method="encode")
        kl, latents = jnp.zeros(len(images)), mean
        if log_variance is not None:
            kl = kl_of_latents(mean, log_variance)
            if keys is not None:
                noise = rng.normal(keys, mean.shape[1:])
                latents = mean + jnp.exp(log_variance / 2) * noise
        return self.network.apply(variables, latents, method="decode"), kl

    def loss(
        self, params: Params, frozen: Params, images: Images, keys: Key
    ) -> tuple[Array, Images, dict[str, Array]]:
        """Returns equation (1), the reconstructions, and its metrics."""
        found, kl = self.reconstructed(params, images, keys)
        metrics = {"pixels": pixel_loss(images, found, self.norm).mean()}
        loss = metrics["pixels"]
        if self.kl_weight:
            metrics["kl"] = kl.mean()
            loss = loss + self.kl_weight * metrics["kl"] / images[0].size
        if self.features is not None:
            variables = frozen["features"]
            apart = feature_distance(self.features, variables, images, found).mean()
            metrics["features"] = apart
            loss = loss + self.feature_weight * apart
        return loss, found, {"loss": loss, **metrics}

    def gradient(
        self, state: TrainState, frozen: Params, key: Key, mean: Mean
    ) -> tuple[Params, dict[str, Array]]:
        """Returns the gradients of both networks, equations (3) and (5)."""

        def gradient_of(shared: Any, part: Batch) -> Any:
            params, frozen, key, step = shared
            images = jnp.asarray(part.images)
            keys = rng.example_keys(key, jnp.asarray(part.indices))

            def outputs(own: Params) -> Any:
                loss, found, metrics = self.loss(own, frozen, images, keys)
                return (loss, found), metrics

            (_, found), back, metrics = jax.vjp(
                outputs, params["autoencoder"], has_aux=True
            )
            (own,) = back((jnp.ones(()), jnp.zeros_like(found)))
            if self.discriminator is None:
                return {"autoencoder": own}, (), metrics

            def judged(critic: Params) -> Any:
                towards, better, told = self._judged(critic, images, found)
                (sharper,) = back((jnp.zeros(()), towards))
                return sharper, better, told

            def not_yet(critic: Params) -> Any:
                shapes = jax.eval_shape(judged, critic)
                return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

            critic, takes_part = params["discriminator"], step >= self.start
            sharper, better, told = jax.lax.cond(takes_part, judged, not_yet, critic)
            own = {"autoencoder": own, "discriminator": better}
            return own, sharper, {**metrics, **told}

        shared = (state.params, frozen, key, state.step)
        gradient, sharper, metrics = mean(gradient_of, shared)
        if self.discriminator is None:
            return gradient, metrics
        # The means are linear, and the scale is that of the whole batch.
        own = gradient["autoencoder"]
        scale = adaptive_weight(last_layer(own), last_layer(sharper))
        metrics["adaptive_weight"] = jnp.where(state.step >= self.start, scale, 0.0)
        factor = self.weight * metrics["adaptive_weight"]
        joined = jax.tree.map(lambda a, b: a + factor * b, own, sharper)
        return {**gradient, "autoencoder": joined}, metrics

    def _judged(
        self, critic: Params, images: Images, found: Images
    ) -> tuple[Images, Params, dict[str, Array]]:
        """Returns gradients at the reconstructions and the discriminator; metrics."""

        def apply(critic: Params, images: Images) -> Array:
            outputs: Array = self.discriminator.apply({"params": critic}, images)
            return outputs

        def fooled(found: Images) -> Array:
            return -apply(critic, found).mean()

        def told(critic: Params) -> Array:
            return hinge_loss(apply(critic, images), apply(critic, found))

        adversarial, towards = jax.value_and_grad(fooled)(found)
        loss, better = jax.value_and_grad(told)(critic)
        return towards, better, {"adversarial": adversarial, "discriminator": loss}

    def remembered(self, memory: Any, metrics: dict[str, Array]) -> Any:
        """Returns the memory unchanged."""
        return memory

    def constrained(self, params: Params) -> Params:
        """Returns the parameters unchanged."""
        return params

    def sampling(self, params: Params, frozen: Params) -> Params:
        """Returns the parameters of the autoencoder."""
        return params["autoencoder"]


def last_layer(params: Params) -> Array:
    """Returns the kernel of the decoder's last layer."""
    decoder = params["decoder"]
    numbered = [name for name in decoder if name.startswith("layers.")]
    last = max(numbered, key=lambda n: int(n.split(".")[1]), default="conv_out")
    kernel: Array = decoder[last]["kernel"]
    return kernel
