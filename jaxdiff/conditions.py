"""Conditions: hide parts of them, and blend two of them.

A condition without a part is what guidance extrapolates from, and what training shows
at a rate, so that the network learns it (Ho & Salimans 2022).
"""

import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, ArrayLike, Condition, Key

ANY_CLASS = -1
"""Label that leaves an image's class open, for `guidance`; users do not need it."""


_AXES = {
    "text": ("batch", "tokens", "features"), "mask": ("batch", "tokens"),
    "vector": ("batch", "features"),
    "image": ("batch", "height", "width", "channels"),
    "numbers": ("batch", "numbers"), "end": ("batch",),
    "tokens": ("batch", "tokens"), "image_level": ("batch",),
}  # fmt: skip


_KINDS = {"mask": (np.bool_, "bool"), "tokens": (np.integer, "integers")}


def check_parts(condition: Condition) -> None:
    """Checks that the parts of a condition have the axes and types of their kind.

    Raises:
        InputError: a part has another shape or type, or the parts are of different
            lengths.
    """
    sizes = {}
    for name, part in condition._asdict().items():
        if part is None:
            continue
        shape = np.shape(part)
        if name in _AXES:
            if len(shape) != len(_AXES[name]):
                raise InputError(
                    f"{name} must be [{', '.join(_AXES[name])}], got shape {shape}"
                )
            kind = part.dtype if hasattr(part, "dtype") else np.asarray(part).dtype
            wanted, word = _KINDS.get(name, (np.floating, "floating-point"))
            if not jnp.issubdtype(kind, wanted):
                raise InputError(f"{name} must be {word}, got {kind}. Convert it.")
        sizes[name] = shape[0] if shape else None
    if condition.text is not None and condition.tokens is not None:
        raise InputError(
            "a condition must have text or tokens, got both. Leave one out."
        )
    if condition.mask is not None:
        words = condition.tokens if condition.text is None else condition.text
        tokens = np.shape(condition.mask), np.shape(words)[:2]
        if words is None or tokens[0] != tokens[1]:
            raise InputError(
                f"mask must have the shape of text, {tokens[1]}, got {tokens[0]}"
            )
    if len({*sizes.values()}) > 1:
        raise InputError(
            "the parts of a condition must be of one length, got "
            f"{', '.join(f'{name} {size}' for name, size in sizes.items())}"
        )


def hidden(condition: Condition) -> Condition:
    """Returns a condition that says nothing; an image and numbers stay.

    Labels become those of any class, a vector 0, and a text one token of zeros, or of
    number 0. An image, such as the one to enlarge, with its level, and numbers, such as
    a size, are no choice among many: they stay.
    """
    labels = condition.labels
    if labels is not None:
        labels = jnp.asarray(labels)
        shares = jnp.issubdtype(labels.dtype, jnp.floating)
        labels = jnp.full_like(labels, 0 if shares else ANY_CLASS)
    return condition._replace(labels=labels)._replace(
        **_without(condition, ("text", "mask", "vector", "tokens"))
    )


def drop_parts(
    condition: Condition,
    keys: Key | None,
    *,
    text: float = 0.0,
    vector: float = 0.0,
    image: float = 0.0,
) -> Condition:
    """Hides parts of a condition in training, each with its own probability.

    A network calls it with its keys. Labels have their own way: the null class.

    Args:
        condition: condition of a batch.
        keys: one key per example, or None to return the condition unchanged.
        text: probability to replace an example's text by one token of zeros.
        vector: probability to replace an example's vector by zeros.
        image: probability to replace an example's image by zeros.
    """
    if keys is None:
        return condition
    rates = {"text": text, "mask": text, "vector": vector, "image": image}
    streams = {"text": 0, "mask": 0, "vector": 1, "image": 2}
    changes = {}
    for name, zero in _without(condition, tuple(rates)).items():
        part = getattr(condition, name)
        if zero is not None and rates[name]:
            drawn = rng.uniform(rng.fold(keys, streams[name])) < rates[name]
            dropped = drawn.reshape(drawn.shape + (1,) * (zero.ndim - 1))
            changes[name] = jnp.where(dropped, zero, part)
    return condition._replace(**changes)


def _without(condition: Condition, names: tuple[str, ...]) -> dict[str, Array | None]:
    """Returns parts that say nothing, in the shapes of the condition's."""
    found: dict[str, Array | None] = {}
    for name in names:
        part = getattr(condition, name)
        found[name] = None if part is None else jnp.zeros_like(part)
    if found.get("mask") is not None:
        # Attention needs a token.
        found["mask"] = jnp.zeros_like(condition.mask).at[:, 0].set(True)
    return found


def blend_conditions(
    a: Condition, b: Condition, fraction: ArrayLike | float
) -> Condition:
    """Returns conditions between two: a text, vector or image between two others.

    Texts, images and numbers are blended linearly. Vectors, such as CLIP's, are turned
    into each other on a sphere (Ramesh et al. 2022, section 3.2). See
    `samplers.blend_labels` for classes.

    Args:
        a: first conditions.
        b: second conditions, with the same parts.
        fraction: position between a (0) and b (1), [] or [batch].

    Raises:
        InputError: the parts, their shapes or types differ, or there are labels.
    """
    for name, one, two in zip(Condition._fields, a, b, strict=True):
        shapes = [None if part is None else jnp.shape(part) for part in (one, two)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{name} of both conditions must have one shape, got "
                f"{' and '.join(map(str, shapes))}"
            )
    check_parts(a)
    check_parts(b)
    if a.tokens is not None:
        raise InputError(
            "tokens must be None in a blend of conditions. Encode both texts first, as "
            "run.text does."
        )
    if a.labels is not None:
        raise InputError(
            "labels must be None in a blend of conditions. Blend classes with "
            "blend_labels."
        )

    def between(one: Array | None, two: Array | None) -> Array | None:
        if one is None or two is None:
            return None
        share = jnp.asarray(fraction, jnp.result_type(one))
        share = share.reshape(share.shape + (1,) * (one.ndim - share.ndim))
        return (1 - share) * one + share * two

    mask = None if a.mask is None or b.mask is None else a.mask | b.mask
    vector = a.vector
    if a.vector is not None and b.vector is not None:
        lengths = between(*(jnp.linalg.norm(v, axis=-1) for v in (a.vector, b.vector)))
        turned = slerp(a.vector, b.vector, fraction)
        assert lengths is not None, "there are vectors"
        norm = jnp.linalg.norm(turned, axis=-1)
        vector = turned * (lengths / jnp.where(norm > 0, norm, 1.0))[:, None]
    return Condition(
        text=between(a.text, b.text),
        mask=mask,
        vector=vector,
        image=between(a.image, b.image),
        numbers=between(a.numbers, b.numbers),
        image_level=between(a.image_level, b.image_level),
    )


def slerp(a: Array, b: Array, fraction: ArrayLike | float) -> Array:
    """Interpolates on a sphere, from a (fraction 0) to b (fraction 1) (Shoemake 1985).

    Each pair turns in its own plane, by its own angle. Two parallel vectors are
    interpolated linearly.

    Args:
        a: first vectors, float [batch, ...].
        b: second vectors, of a's shape.
        fraction: position between a (0) and b (1), [] or [batch].
    """
    axes = tuple(range(1, a.ndim))
    fraction = jnp.asarray(fraction, a.dtype)
    fraction = fraction.reshape(fraction.shape + (1,) * (a.ndim - fraction.ndim))

    def length(x: Array) -> Array:
        return jnp.sqrt((x**2).sum(axis=axes, keepdims=True))

    cosine = (a * b).sum(axis=axes, keepdims=True) / (length(a) * length(b))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    apart = jnp.sin(angle) > 1e-4
    sine = jnp.where(apart, jnp.sin(angle), 1.0)
    share_a = jnp.where(apart, jnp.sin((1 - fraction) * angle) / sine, 1 - fraction)
    share_b = jnp.where(apart, jnp.sin(fraction * angle) / sine, fraction)
    return share_a * a + share_b * b
