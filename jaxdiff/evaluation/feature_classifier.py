"""A classifier of a dataset, trained from a seed, for measuring sample quality.

It replaces a published feature network if none is available or suits the images. Its
predicted classes measure how many samples show the requested class.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge

from jaxdiff import data, rng
from jaxdiff.checks import Checked, Seed
from jaxdiff.data import Dataset, Images
from jaxdiff.errors import InputError
from jaxdiff.networks.classifier import Classifier
from jaxdiff.parallel import MeanOf, Parallel, Pmap
from jaxdiff.parallel.processes import broadcast, broadcast_int, is_first
from jaxdiff.storage.cache import load_arrays, save_arrays
from jaxdiff.training.augment import shifted
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.typing import Array, Batch, Params

BATCH = 128
"""Images per step, rounded up to a multiple of the number of devices."""
CHUNK = 512
"""Images per chunk when features are computed."""
FEWEST, MOST = 500, 6000
"""Limits of the default number of training steps."""
VERSION = 1
"""Version of the training recipe; part of the cache key."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """Options for training the classifier."""

    num_steps: Annotated[int, Ge(1)] | None = None
    """Training steps of 128 images, each shifted by up to 1/16 of its size. None takes
    4 steps per training image, at least 500 and at most 6,000."""
    seed: Seed = 0
    """Random seed of the training."""

    def for_data(self, dataset: Dataset) -> Self:
        """Returns these options with the number of steps for a dataset.

        Raises:
            InputError: the dataset has no classes.
        """
        if dataset.num_classes is None:
            raise InputError(
                "the dataset must have classes to train a classifier, got none. Use "
                "the features pixels or inception."
            )
        if self.num_steps is not None:
            return self
        return replace(self, num_steps=min(max(FEWEST, 4 * len(dataset)), MOST))

    @property
    def steps(self) -> int:
        """Number of training steps, after `for_data`."""
        assert self.num_steps is not None
        return self.num_steps


class Trained(NamedTuple):
    """A trained classifier.

    Attributes:
        network: the Flax network.
        params: its parameters.
    """

    network: Classifier
    params: Params

    def read(self, images: Images, parallel: Parallel) -> tuple[np.ndarray, np.ndarray]:
        """Returns features and predicted classes of images.

        Args:
            images: uint8 [num, height, width, channels].
            parallel: layout of devices.

        Returns:
            Features float32 [num, features], and predicted classes [num].
        """

        def read(params: Params, images: Array) -> tuple[Array, Array]:
            pixels = jnp.asarray(images, jnp.float32) / 127.5 - 1
            result: Any = self.network.apply({"params": params}, pixels)
            features, logits = result
            return features, jnp.argmax(logits, axis=1)

        return parallel.map_chunks(read, self.params, images, CHUNK)

    def sha256(self) -> str:
        """Returns the SHA-256 hash of all parameters."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
        return digest.hexdigest()


class _State(NamedTuple):
    step: Array
    params: Params
    opt_state: Any


def classifier_of(
    dataset: Dataset,
    recipe: Recipe,
    on_step: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Returns the classifier of a dataset: trained now, or read from the cache.

    The cache lies in `cache_folder()`. All devices of all processes train the
    classifier. Another number of devices rounds differently and gives other parameters.

    Args:
        dataset: training images with labels.
        recipe: training options.
        on_step: called with the number of steps done; with 0 before a training.

    Raises:
        InputError: there are no labels, or the result cannot be cached.
    """
    recipe = recipe.for_data(dataset)
    assert dataset.num_classes is not None
    network = Classifier(dataset.num_classes)
    shapes = jax.eval_shape(partial(_init, network, dataset.image_shape, recipe))
    name = f"classifiers/{_name(dataset, recipe)}"
    params = _kept(name, shapes.params) if is_first() else None
    if not broadcast_int(params is not None):
        params = _train(network, dataset, recipe, on_step)
        if is_first():
            leaves = jax.tree.leaves(params)
            save_arrays(name, {str(i): leaf for i, leaf in enumerate(leaves)})
    elif params is None:
        params = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes.params)
    on_step(recipe.steps)
    return Trained(network, broadcast(params))


def _train(
    network: Classifier,
    dataset: Dataset,
    recipe: Recipe,
    on_step: Callable[[int], None],
) -> Params:
    devices = Pmap()
    on_step(0)
    count = len(devices.devices)
    size = -(-BATCH // count) * count
    init = partial(_init, network, dataset.image_shape, recipe)
    shardings = devices.shardings(jax.eval_shape(init))
    state = devices.localize(jax.jit(init, out_shardings=shardings)())
    step_fn = devices.step(partial(_step, network=network, recipe=recipe))
    rows = devices.rows(size)
    for step in range(recipe.steps):
        batch = data.batch(dataset, recipe.seed, step, size, rows=rows)
        state, _ = step_fn(state, batch)
        if step % 20 == 0:  # wait, so that the reported steps are done
            jax.block_until_ready(state)
            on_step(step + 1)
    return jax.device_get(devices.globalize(state).params)


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    options = Optimizer(
        learning_rate=8e-3, warmup_steps=100, decay="cosine", weight_decay=0.01
    )
    return options.build(recipe.steps)


def _init(network: Classifier, shape: tuple[int, int, int], recipe: Recipe) -> _State:
    params = network.init(rng.key(recipe.seed), jnp.zeros((1, *shape)))["params"]
    return _State(jnp.zeros((), jnp.int32), params, _optimizer(recipe).init(params))


def _step(
    state: _State,
    batch: Batch,
    mean_of: MeanOf,
    *,
    network: Classifier,
    recipe: Recipe,
) -> tuple[_State, dict[str, Array]]:
    """Runs one Adam step on the cross-entropy of randomly shifted images."""
    key = jax.random.fold_in(rng.key(recipe.seed), state.step)

    def gradient_of(shared: Any, batch: Batch) -> Params:
        params, key = shared
        keys = rng.example_keys(key, jnp.asarray(batch.indices))
        images = shifted(jnp.asarray(batch.images), keys)

        def loss(params: Params) -> Array:
            _, logits = network.apply({"params": params}, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, batch.labels
            )
            return losses.mean()

        return jax.grad(loss)(params)

    gradient = mean_of(gradient_of, (state.params, key), batch)
    updates, opt_state = _optimizer(recipe).update(
        gradient, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return _State(state.step + 1, params, opt_state), {}


def _name(dataset: Dataset, recipe: Recipe) -> str:
    """Returns a hash of all inputs that determine the classifier."""
    made_of = (VERSION, dataset.fingerprint(), sorted(asdict(recipe).items()))
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]


def _kept(name: str, shapes: Params) -> Params | None:
    """Returns the cached parameters; None if they are missing or damaged."""
    leaves, tree = jax.tree.flatten(shapes)
    found = load_arrays(name) or {}
    if set(found) != {str(i) for i in range(len(leaves))}:
        return None
    arrays = [found[str(i)] for i in range(len(leaves))]
    fits = [
        a.shape == leaf.shape and a.dtype == leaf.dtype and np.isfinite(a).all()
        for a, leaf in zip(arrays, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, arrays) if all(fits) else None
