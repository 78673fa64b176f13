"""Attention softmax(q k^T scale + bias) v of several heads, by choice of program.

(1)  a_ij = softmax_j(scale q_i . k_j + bias_ij),  o_i = sum_j a_ij v_j
                                        (Vaswani et al. 2017, equation 1)

The softmax is float32 in every program. In chunks of queries, equation (1) needs the
products of one chunk with all keys at a time, instead of all of them (Rabe & Staats
2021); the backward pass computes the products of a chunk again.
"""

from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.errors import InputError
from jaxdiff.typing import Array

Program: TypeAlias = Literal["xla", "cudnn", "chunked"]
"""XLA's program, cuDNN's (half precision on NVIDIA's GPUs), or XLA's in chunks."""
CHUNK = 1024
"""Number of queries per chunk."""
CUDNN_CHANNELS = 128
"""Largest number of channels of a head in cuDNN's program; a multiple of 8."""


def check_program(by: Program, dtype: str) -> None:
    """Raises `InputError` if a program does not compute in a type."""
    if by == "cudnn" and dtype == "float32":
        raise InputError(
            "attention_by must be xla or chunked with dtype float32, got 'cudnn'. "
            "Set dtype to bfloat16."
        )


@partial(jax.jit, static_argnames=("by", "chunk", "scale", "causal"))
def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    by: Program = "xla",
    chunk: int = CHUNK,
    bias: Array | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> Array:
    """Returns the attention of queries to keys, equation (1).

    Args:
        query: [batch, queries, heads, channels].
        key: [batch, keys, heads, channels].
        value: of the keys' shape.
        mask: True for keys that may be attended to, bool [batch, keys].
        by: program. cuDNN's is used for heads whose channels it supports, others are
            XLA's. Chunks are used without a bias and the causal mask only.
        chunk: number of queries per chunk.
        bias: numbers added to the products, [1, heads, queries, keys].
        scale: factor of the products; None for 1 / sqrt(channels).
        causal: if True, a query attends to keys up to its own place.

    Returns:
        The results [batch, queries, heads, channels], in the type of the queries.
    """
    allowed = None if mask is None else mask[:, None, None, :]

    def plain(query: Array, key: Array, value: Array, **options: Any) -> Array:
        return jax.nn.dot_product_attention(
            query, key, value, bias, allowed, scale=scale, is_causal=causal, **options
        )

    def wide(*args: Array) -> Array:
        return plain(*(a.astype(jnp.float32) for a in args)).astype(jnp.float16)

    def whole(query: Array) -> Array:
        if query.dtype != jnp.float16:
            return plain(query, key, value)
        # XLA has no such products on the CPU.
        return jax.lax.platform_dependent(query, key, value, cpu=wide, default=plain)

    count, channels = query.shape[1], query.shape[-1]
    if by == "cudnn" and channels <= CUDNN_CHANNELS and channels % 8 == 0:
        return plain(query, key, value, implementation="cudnn")
    if by != "chunked" or count <= chunk or causal or bias is not None:
        return whole(query)
    chunks = -(-count // chunk)
    padding = ((0, 0), (0, chunks * chunk - count), (0, 0), (0, 0))
    batch, _, *rest = query.shape
    parts = jnp.pad(query, padding).reshape(batch, chunks, chunk, *rest)
    found = jax.lax.map(jax.checkpoint(whole), parts.swapaxes(0, 1))
    return found.swapaxes(0, 1).reshape(batch, chunks * chunk, *rest)[:, :count]
