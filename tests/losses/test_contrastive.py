"""Contrastive loss against its equations in float64, and against CLIP's loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.losses.contrastive import contrastive_loss

pytestmark = pytest.mark.usefixtures("standard_promotion")
CHANCE = np.random.default_rng(0)


def unit(shape):
    x = CHANCE.normal(size=shape)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_softmax(s):
    s = s - s.max(axis=1, keepdims=True)
    return s - np.log(np.exp(s).sum(axis=1, keepdims=True))


def by_hand(u, v, log_scale, numbers, weight):
    """Equation (3), over the examples that count."""
    seen = weight > 0
    u, v, numbers = u[seen], v[seen], numbers[seen]
    scores = np.exp(log_scale) * u @ v.T
    right = numbers[:, None] == numbers[None]
    targets = right / right.sum(axis=1, keepdims=True)
    both = log_softmax(scores) + log_softmax(scores.T)
    found = right[np.arange(len(u)), scores.argmax(axis=1)]
    return -(targets * both).sum(axis=1).mean() / 2, found.mean()


U, V = unit((8, 5)), unit((8, 5))


@pytest.mark.parametrize(
    ("numbers", "weight"),
    [
        (np.arange(8), np.ones(8)),
        (np.array([0, 1, 1, 3, 0, 0, 6, 7]), np.ones(8)),
        (np.array([0, 1, 1, 0, 4, 4, 6, 7]), np.array([0, 1, 1, 0, 1, 1, 1, 1])),
    ],
    ids=["different", "repeated", "absent"],
)
def test_loss_is_the_equation(numbers, weight):
    given = [jnp.asarray(a, jnp.float32) for a in (U, V)]
    weighed = jnp.asarray(weight, jnp.float32)
    loss, metrics = contrastive_loss(
        given[0], given[1], jnp.float32(1.5), jnp.asarray(numbers), weighed
    )
    expected, share = by_hand(U, V, 1.5, numbers, weight)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["text_found"], share, rtol=1e-5)
    np.testing.assert_allclose(metrics["scale"], np.exp(1.5), rtol=1e-5)


def test_images_of_one_text_do_not_push_each_other_away():
    """Two images of one text with the same vectors have the least loss, log 2."""
    u = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    loss, metrics = contrastive_loss(
        u, u, jnp.float32(3.0), jnp.array([5, 5]), jnp.ones(2)
    )
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert float(metrics["text_found"]) == float(metrics["image_found"]) == 1


def test_a_batch_without_texts_has_no_loss():
    given = [jnp.asarray(a, jnp.float32) for a in (U, V)]
    loss, _ = contrastive_loss(
        given[0], given[1], jnp.float32(1.5), jnp.zeros(8, int), jnp.zeros(8)
    )
    assert float(loss) == 0
