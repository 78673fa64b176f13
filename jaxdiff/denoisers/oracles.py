"""Oracles: data whose optimal denoiser has a closed form at every level.

For Gaussian data x_0 ~ N(m, B diag(d) B^T) with an orthogonal B, the noisy image x_t =
alpha x_0 + sigma eps is Gaussian too. In the basis B all covariances are diagonal. With
residual r = B^T (x_t - alpha m) and variance s = alpha^2 d + sigma^2,

    (1)  log p(x_t) = -sum(r^2 / s + log(2 pi s)) / 2
    (2)  score      = -B (r / s)                               gradient of (1)
    (3)  E[eps|x_t] = B (sigma r / s) = -sigma score
    (4)  E[x_0|x_t] = m + B (alpha d r / s)                    Tweedie's formula
    (5)  Cov[x_0|x_t] = B diag(d sigma^2 / s) B^T

For a mixture, the results of the components are weighted by their posterior
probabilities, and (5) gains the spread of the components' means. All targets of
networks are linear in x_0 and eps. The exact v (or any other target) therefore follows
from the exact two: `V().target(estimate.x_0, estimate.eps, level)`.

An oracle is a `Denoiser`: it can replace a network anywhere, and gives the exact
answer. It is a pytree in the dtype of its arrays (float64 under `jax_enable_x64`).
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxdiff.checks import check_range, concrete
from jaxdiff.conditions import ANY_CLASS
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, ArrayLike, Estimate, Key, Labels, Level


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian:
    """Gaussian data; `Gaussian.of` makes an instance.

    Attributes:
        mean: mean m, of the shape of one data point.
        variances: variances d along the basis, [D].
        basis: orthogonal basis B [D, D], or None if the covariance is diagonal.
    """

    mean: Array
    variances: Array
    basis: Array | None = None

    @classmethod
    def of(cls, mean: ArrayLike, covariance: ArrayLike | float) -> "Gaussian":
        """Makes data N(mean, covariance).

        Args:
            mean: mean, of the shape of one data point, D numbers in all.
            covariance: variance of each number, of mean's shape or one for all; or the
                full covariance [D, D], symmetric.

        Raises:
            InputError: a shape does not match, or the covariance is not symmetric or
                not positive.
        """
        mean = jnp.asarray(mean)
        if not jnp.issubdtype(mean.dtype, jnp.floating):
            mean = mean.astype(float)
        given = jnp.asarray(covariance, mean.dtype)
        if given.shape in ((), mean.shape):
            variances, basis = jnp.broadcast_to(given, mean.shape).reshape(-1), None
        elif given.shape == (mean.size, mean.size):
            values = concrete(given)
            if values is not None and (
                abs(values - values.T).max() > 1e-5 * abs(values).max()
            ):
                raise InputError("covariance must be symmetric, got another matrix")
            variances, basis = jnp.linalg.eigh(given)
        else:
            raise InputError(
                f"covariance must have shape (), {mean.shape} or "
                f"{(mean.size, mean.size)}, got {given.shape}"
            )
        least = concrete(variances)
        if least is not None and not least.min() > 0:
            raise InputError(
                f"covariance must be positive, got a variance of {least.min():g}"
            )
        return cls(mean, variances, basis)

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """Returns the optimal estimate at x_t [batch, ...], equations (3) and (4)."""
        alpha, sigma, r, s = self._residual(x_t, level)
        x_0 = self._from_basis(alpha * self.variances[None] * r / s)
        eps = self._from_basis(sigma * r / s)
        return Estimate(
            x_0.reshape(x_t.shape) + self.mean[None], eps.reshape(x_t.shape)
        )

    def score(self, x_t: Array, level: Level) -> Array:
        """Returns the gradient of `log_density`, equation (2), of x_t's shape."""
        _, _, r, s = self._residual(x_t, level)
        return -self._from_basis(r / s).reshape(x_t.shape)

    def log_density(self, x: Array, level: Level | None = None) -> Array:
        """Returns the log-density in nats [batch]; of clean data if level is None."""
        _, _, r, s = self._residual(x, level)
        return -(r**2 / s + jnp.log(2 * jnp.pi * s)).sum(axis=-1) / 2

    def posterior_covariance(self, x_t: Array, level: Level) -> Array:
        """Returns Cov[x_0 | x_t] [batch, D, D], equation (5)."""
        _, sigma, r, s = self._residual(x_t, level)
        variances = jnp.broadcast_to(self.variances[None] * sigma**2 / s, r.shape)
        basis = (
            jnp.eye(r.shape[-1], dtype=r.dtype) if self.basis is None else self.basis
        )
        return (basis[None] * variances[:, None, :]) @ basis.T

    def draw(self, key: Key, num: int) -> Array:
        """Draws data [num, ...]."""
        noise = jax.random.normal(key, (num, self.variances.size), self.mean.dtype)
        x_0 = self._from_basis(jnp.sqrt(self.variances)[None] * noise)
        return x_0.reshape(num, *self.mean.shape) + self.mean[None]

    def _residual(
        self, x_t: Array, level: Level | None
    ) -> tuple[Array, Array, Array, Array]:
        """Returns the scales, shaped to multiply [batch, D], and r and s."""
        if x_t.shape[1:] != self.mean.shape:
            raise InputError(
                f"x must have shape [batch, *{self.mean.shape}], got {x_t.shape}"
            )
        x = x_t.reshape(len(x_t), -1)
        if level is None:
            alpha, sigma = jnp.ones((1, 1), x.dtype), jnp.zeros((1, 1), x.dtype)
        else:
            alpha, sigma = level.scales(x)
        r = x - alpha * self.mean.reshape(1, -1)
        r = r if self.basis is None else r @ self.basis
        alpha, sigma = jnp.atleast_2d(alpha), jnp.atleast_2d(sigma)
        return alpha, sigma, r, alpha**2 * self.variances[None] + sigma**2

    def _from_basis(self, x: Array) -> Array:
        return x if self.basis is None else x @ self.basis.T


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GaussianMixture:
    """Mixture of Gaussians, each of a class; `GaussianMixture.of` makes an instance.

    Attributes:
        components: stacked Gaussians; each array has a leading axis [K].
        log_weights: logarithms of the components' shares [K].
        classes: class of each component, int32 [K].
        labels: integers [batch] if the denoiser is bound to classes, else None.
    """

    components: Gaussian
    log_weights: Array
    classes: Array
    labels: Labels | None = None

    @classmethod
    def of(
        cls,
        weights: ArrayLike,
        components: list[Gaussian],
        classes: ArrayLike | None = None,
    ) -> "GaussianMixture":
        """Makes the mixture of K Gaussians, all diagonal or all full.

        Args:
            weights: share of each component [K], above 0; normalised to sum to 1.
            components: Gaussians.
            classes: class of each component, integers [K] from 0; 0, 1, ..., K-1 by
                default.

        Raises:
            InputError: the lengths differ, the components are not of one kind, a weight
                is not positive, or a class below the largest has no component.
        """
        kinds = {(c.mean.shape, c.basis is None) for c in components}
        if len(kinds) != 1:
            raise InputError(
                "components must have one shape and be all diagonal or all full, got "
                f"{len(kinds)} kinds"
            )
        weights = jnp.asarray(weights, components[0].mean.dtype)
        classes = (
            jnp.arange(len(components)) if classes is None else jnp.asarray(classes)
        )
        if not weights.shape == classes.shape == (len(components),):
            raise InputError(
                f"weights and classes must have shape ({len(components)},), got "
                f"shapes {weights.shape} and {classes.shape}"
            )
        values = concrete(weights)
        if values is not None and not values.min() > 0:
            raise InputError(f"weights must be above 0, got {values.min():g}")
        values = concrete(classes)
        if values is not None and {*values.tolist()} != {*range(int(values.max()) + 1)}:
            raise InputError(
                f"classes must be 0, 1, ..., each with a component, got {values}"
            )
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *components)
        return cls(stacked, jnp.log(weights / weights.sum()), classes)

    def bind(self, labels: ArrayLike | None) -> "GaussianMixture":
        """Returns the class-conditional oracle, in which example i has class labels[i].

        Raises:
            InputError: labels are not integers or not classes of the mixture.
        """
        if labels is None:
            return replace(self, labels=None)
        given, labels = labels, jnp.asarray(labels)
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise InputError(f"labels must be integers, got {labels.dtype}")
        num_classes = concrete(self.classes)
        if num_classes is not None:
            check_range("labels", given, int(num_classes.max()) + 1)
        return replace(self, labels=labels.astype(self.classes.dtype))

    def __call__(self, x_t: Array, level: Level, /) -> Estimate:
        """Returns the optimal estimate at x_t [batch, ...]."""
        estimates = jax.vmap(lambda c: c(x_t, level))(self.components)
        p = self.responsibilities(x_t, level)
        return Estimate(_mix(p, estimates.x_0), _mix(p, estimates.eps))

    def score(self, x_t: Array, level: Level) -> Array:
        """Returns the gradient of `log_density`, of x_t's shape."""
        scores = jax.vmap(lambda c: c.score(x_t, level))(self.components)
        return _mix(self.responsibilities(x_t, level), scores)

    def log_density(self, x: Array, level: Level | None = None) -> Array:
        """Returns the log-density in nats [batch]; of clean data if level is None.

        With bound labels it is log p(x | label).
        """
        return jax.nn.logsumexp(self._log_joint(x, level), axis=0)

    def posterior_covariance(self, x_t: Array, level: Level) -> Array:
        """Returns Cov[x_0 | x_t] [batch, D, D], within and between the components."""
        within = jax.vmap(lambda c: c.posterior_covariance(x_t, level))(self.components)
        means = jax.vmap(lambda c: c(x_t, level).x_0)(self.components)
        means = means.reshape(*means.shape[:2], -1)
        p = self.responsibilities(x_t, level)
        apart = means - _mix(p, means)[None]
        between = apart[..., :, None] * apart[..., None, :]
        return _mix(p, within + between)

    def responsibilities(self, x_t: Array, level: Level | None = None) -> Array:
        """Returns the posterior probability of each component, [K, batch]."""
        return jax.nn.softmax(self._log_joint(x_t, level), axis=0)

    def draw(self, key: Key, num: int) -> Array:
        """Draws data [num, ...]; with bound labels, one example per label."""
        which, inner = jax.random.split(key)
        logits = jnp.broadcast_to(self._log_prior(num).T, (num, self.classes.size))
        chosen = jax.random.categorical(which, logits)
        every = jax.vmap(lambda c: c.draw(inner, num))(self.components)
        return every[chosen, jnp.arange(num)]

    def _log_joint(self, x: Array, level: Level | None) -> Array:
        densities = jax.vmap(lambda c: c.log_density(x, level))(self.components)
        return densities + self._log_prior(len(x))

    def _log_prior(self, num: int) -> Array:
        """Returns the components' log-probabilities [K, 1]; [K, batch] given labels."""
        if self.labels is None:
            return self.log_weights[:, None]
        if self.labels.shape != (num,):
            raise InputError(
                f"labels must have shape ({num},), got {self.labels.shape}"
            )
        ours = self.classes[:, None] == self.labels[None]
        ours |= self.labels[None] == ANY_CLASS
        return jax.nn.log_softmax(
            jnp.where(ours, self.log_weights[:, None], -jnp.inf), axis=0
        )


def _mix(p: Array, values: Array) -> Array:
    """Returns the mean of values [K, batch, ...] under probabilities [K, batch]."""
    return (p.reshape(p.shape + (1,) * (values.ndim - 2)) * values).sum(axis=0)
