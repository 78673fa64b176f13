"""InceptionV3, the feature network of Frechet distances (FID).

The architecture is from Szegedy et al. 2016, "Rethinking the Inception Architecture for
Computer Vision", in the variant of the weights of Heusel et al. 2017 (FID). M.
Seitzer's package pytorch-fid publishes these weights for PyTorch; the parameters have
the names of that package. The variant differs from the paper: average pools ignore
places outside the image, and the last block has a maximum instead of the average.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.typing import Array, Images

SIDE = 299
"""Height and width to which images are resized, in pixels."""
SIZES = (64, 192, 768, 2048)
"""Numbers of features of the parts; the last is the one of the literature."""


class Conv(NamedTuple):
    """Convolution with a name."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    step: int = 1
    padding: str = "SAME"


def average(x: Array) -> Array:
    """Returns the mean of 3x3 places, of the ones in the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def largest(x: Array) -> Array:
    """Returns the maximum of 3x3 places."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def halved(x: Array) -> Array:
    """Returns the maximum of 3x3 places, at every second place."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


Pool: TypeAlias = Callable[[Array], Array]
Branch: TypeAlias = tuple[Conv | Pool | tuple[Conv, ...], ...]
"""Sequence of layers; convolutions in a tuple run side by side."""


def block_a(pooled: int) -> tuple[Branch, ...]:
    """Returns the branches of Mixed_5b to Mixed_5d."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (average, Conv("branch_pool", pooled)),
    )


BLOCK_B: tuple[Branch, ...] = (
    (Conv("branch3x3", 384, (3, 3), 2, "VALID"),),
    (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID"),
    ),
    (halved,),
)
"""Branches of Mixed_6a."""


def block_c(inner: int) -> tuple[Branch, ...]:
    """Returns the branches of Mixed_6b to Mixed_6e."""
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", inner),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (average, Conv("branch_pool", 192)),
    )


BLOCK_D: tuple[Branch, ...] = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID")),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID"),
    ),
    (halved,),
)
"""Branches of Mixed_7a."""


def block_e(pool: Pool) -> tuple[Branch, ...]:
    """Returns the branches of Mixed_7b and Mixed_7c."""
    return (
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            (
                Conv("branch3x3_2a", 384, (1, 3)),
                Conv("branch3x3_2b", 384, (3, 1)),
            ),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (
                Conv("branch3x3dbl_3a", 384, (1, 3)),
                Conv("branch3x3dbl_3b", 384, (3, 1)),
            ),
        ),
        (pool, Conv("branch_pool", 192)),
    )


class Block(NamedTuple):
    """Branches with the name of their block."""

    name: str
    branches: tuple[Branch, ...]


PARTS: tuple[tuple[Conv | Pool | Block, ...], ...] = (
    (
        Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
        Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
        Conv("Conv2d_2b_3x3", 64, (3, 3)),
        halved,
    ),
    (Conv("Conv2d_3b_1x1", 80), Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"), halved),
    (
        Block("Mixed_5b", block_a(32)),
        Block("Mixed_5c", block_a(64)),
        Block("Mixed_5d", block_a(64)),
        Block("Mixed_6a", BLOCK_B),
        Block("Mixed_6b", block_c(128)),
        Block("Mixed_6c", block_c(160)),
        Block("Mixed_6d", block_c(160)),
        Block("Mixed_6e", block_c(192)),
    ),
    (
        Block("Mixed_7a", BLOCK_D),
        Block("Mixed_7b", block_e(average)),
        Block("Mixed_7c", block_e(largest)),
    ),
)
"""All layers of the network; features are taken after each part."""


class ConvNorm(nn.Module):
    """Convolution, batch normalisation with the statistics of its training, ReLU."""

    conv: Conv

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the result for x [batch, height, width, channels]."""
        _, features, kernel, step, padding = self.conv
        x = nn.Conv(features, kernel, step, padding, use_bias=False, name="conv")(x)
        norm = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")
        return nn.relu(norm(x))


class Mixed(nn.Module):
    """Branches side by side, with concatenated channels."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the result for x [batch, height, width, channels]."""
        ends = [in_turn(branch, x) for branch in self.branches]
        return jnp.concatenate(ends, axis=-1)


def in_turn(steps: tuple[Any, ...], x: Array) -> Array:
    """Applies one step after the other, inside the calling module."""
    for step in steps:
        if isinstance(step, Conv):
            x = ConvNorm(step, name=step.name)(x)
        elif isinstance(step, Block):
            x = Mixed(step.branches, name=step.name)(x)
        elif isinstance(step, tuple):
            x = jnp.concatenate([in_turn((one,), x) for one in step], axis=-1)
        else:
            x = step(x)
    return x


class Inception(nn.Module):
    """InceptionV3 up to its last pool."""

    @nn.compact
    def __call__(self, images: Images) -> tuple[Array, ...]:
        """Returns the features of each part, as means over all places.

        Args:
            images: float32 images [batch, height, width, 3] in [0, 1], of any size.
                They are resized to 299x299, linearly and without antialiasing.

        Returns:
            float32 [batch, features] for each of `SIZES`.
        """
        shape = (len(images), SIDE, SIDE, 3)
        x = 2 * jax.image.resize(images, shape, "linear", antialias=False) - 1
        found = []
        for part in PARTS:
            x = in_turn(part, x)
            found.append(jnp.mean(x, axis=(1, 2)))
        return tuple(found)


_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Names of a layer's variables in PyTorch."""


def inception_variables(weights: Mapping[str, np.ndarray]) -> Any:
    """Converts the state of pytorch-fid's network to the variables of `Inception`.

    Args:
        weights: arrays by PyTorch's names, such as "Mixed_5b.branch1x1.conv.weight".
            The last layer, "fc", which predicts classes, is ignored.

    Raises:
        InputError: the weights are of another network.
    """
    images = jnp.zeros((1, SIDE, SIDE, 3))
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), images)
    left = {
        name for name in weights
        if not name.startswith("fc.") and not name.endswith(".num_batches_tracked")
    }  # fmt: skip

    def taken(path: Any, leaf: Any) -> np.ndarray:
        _, *layers, last = (part.key for part in path)
        name = ".".join([*layers, _NAMES[last]])
        array = weights.get(name)
        if array is None:
            raise InputError(
                f"weights must be those of pytorch-fid's network, got none for {name}. "
                "Use its published file."
            )
        left.discard(name)
        array = np.asarray(array, np.float32)
        if last == "kernel" and array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        if array.shape != leaf.shape:
            raise InputError(
                f"weights must be those of pytorch-fid's network, got {name} of shape "
                f"{weights[name].shape}. Use its published file."
            )
        return array

    variables = jax.tree.map_with_path(taken, shapes)
    if left:
        raise InputError(
            f"weights must be those of pytorch-fid's network, got also {min(left)}. "
            "Use its published file."
        )
    return variables
