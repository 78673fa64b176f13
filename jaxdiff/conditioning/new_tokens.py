"""New tokens of a text encoder: textual inversion (Gal et al. 2023).

A token has one vector or several, each a row of the encoder's table of tokens. In a
text, a token of several vectors stands for as many tokens: "<cat>" becomes "<cat>
<cat>_1 <cat>_2", as in diffusers.
"""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.text_encoder import TextEncoder
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.clip import CLIPText

_TABLE = "text_model.embeddings.token_embedding"


def with_token(encoder: TextEncoder, token: str, vectors: np.ndarray) -> TextEncoder:
    """Returns a text encoder with a new token.

    The vector of a text stays at its end token. Diffusers takes it at the largest
    token number, which a new token is, if the published configuration has the wrong
    end token 2.

    Args:
        encoder: text encoder of CLIP.
        token: text of the token, such as "<cat>".
        vectors: vectors of the token, float [vectors, width].

    Raises:
        InputError: the token exists, the vectors do not fit, or the encoder is not one
            of CLIP.
    """
    network = encoder.network
    if not isinstance(network, CLIPText):
        raise InputError(
            f"encoder must be CLIP's for a new token, got {type(network).__name__}"
        )
    config = network.config
    if np.ndim(vectors) != 2 or np.shape(vectors)[1:] != (config.width,):
        raise InputError(
            f"vectors must be [number, {config.width}] for this text encoder, got "
            f"{list(np.shape(vectors))}. Use an embedding of this model."
        )
    if not len(vectors) or not np.isfinite(vectors).all():
        raise InputError(f"vectors of {shown(token)} must be finite and at least one")
    tokenizer, numbers = encoder.tokenizer.with_token(token, len(vectors))
    table = encoder.params[_TABLE]["embedding"]
    size = max(len(table), max(numbers) + 1)
    table = jnp.concatenate(
        [table, jnp.zeros_like(table, shape=(size - len(table), config.width))]
    )
    table = table.at[jnp.asarray(numbers)].set(jnp.asarray(vectors, table.dtype))
    # The largest token of the published vocabulary is the end token.
    end = config.vocabulary - 1 if config.end_token is None else config.end_token
    config = replace(config, vocabulary=size, end_token=end)
    params = {**encoder.params, _TABLE: {"embedding": table}}
    return replace(
        encoder, params=params, network=CLIPText(config), tokenizer=tokenizer
    )
