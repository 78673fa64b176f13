"""Products with their own programs for the CPU, and their derivatives."""

import functools
from collections.abc import Callable

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdiff.typing import Array

Product = Callable[[Array, Array], Array]
Rule = Callable[[Array, Array, Array], Array]


def product(name: str, default: Product, cpu: Product) -> Primitive:
    """Makes a JAX primitive of two arrays, with one result.

    The choice between the two functions is made when a program is compiled for its
    device. One call outside a program, and `jax.vmap`, take the first.

    Args:
        name: name in printed programs.
        default: what it computes.
        cpu: the same up to rounding, for the CPU.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(default))
    primitive.def_abstract_eval(
        lambda *arrays: _result(
            default, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays)
        )
    )
    for platform, function in ((None, default), ("cpu", cpu)):
        lowered = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, lowered, platform=platform)
    batching.primitive_batchers[primitive] = lambda args, axes: (
        jax.vmap(default, axes)(*args),
        0,
    )
    return primitive


def differentiate(primitive: Primitive, left: Rule, right: Rule) -> None:
    """Declares a primitive linear in each array.

    Args:
        primitive: result of `product`.
        left: returns the gradient of a loss by the first array. Its arguments are the
            gradient by the result, and the two arrays.
        right: returns the gradient by the second array.
    """
    ad.defbilinear(primitive, left, right)


@functools.cache
def _result(function: Product, *known: jax.ShapeDtypeStruct) -> jax.core.ShapedArray:
    """Returns shape and type of a result, from those of both arrays."""
    result = jax.eval_shape(function, *known)
    return jax.core.ShapedArray(result.shape, result.dtype)
