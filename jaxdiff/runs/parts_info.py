"""Description of the parts of a run: the contents of parts.json."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from jaxdiff.conditioning.prompts import Numbers

Inputs: TypeAlias = Literal["none", "image", "mask"]
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
"""Published classes of autoencoders."""
PARTS = "parts"
RECORD = "parts.json"


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Places of a text encoder, and how its model uses it; see `TextEncoder`."""

    network: str
    """Folder of the network."""
    tokenizer: str
    """Folder of the tokenizer."""
    masked: bool = False
    """If True, padding is not attended to."""
    skip: int = 0
    """Number of last blocks that the tokens do not pass."""
    final_norm: bool = True
    """If True, the tokens pass the final normalisation."""


@dataclass(frozen=True, kw_only=True)
class PartsInfo:
    """Description of a run's parts: the contents of parts.json."""

    pipeline: str
    """Class of the published pipeline."""
    encoders: tuple[Encoder, ...]
    """Text encoders, in the order in which their tokens are joined."""
    pooled: bool = False
    """See `Prompts`."""
    numbers: Numbers = "none"
    """See `Prompts`."""
    zeros: bool = False
    """See `Prompts`."""
    inputs: Inputs = "none"
    """Image of the network's condition: none; latents of an image to edit, without
    their scaling; or a mask, and the latents of an image whose masked part is grey."""
    autoencoder: str
    """Folder of the autoencoder."""
    network: str = ""
    """Folder of the network, whose parameters are those of step 0; "" for none."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the parameters in memory, and of the computation."""
    variant: str | None = None
    """Variant of the weight files; None for the plain ones."""
    allow_bin: bool = False
    """If True, .bin files are read where there are no safetensors files."""
    licence: str | None = None
    """Licence that the published folder names."""
    link: str | None = None
    """Folder that holds the parts; None for the folder of parts.json."""
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the parts, by its place."""

    def folders(self) -> Iterator[tuple[str, bool]]:
        """Yields the folder of each part, and True if it holds a network."""
        for encoder in self.encoders:
            yield encoder.network, True
            yield encoder.tokenizer, False
        yield self.autoencoder, True
        if self.network:
            yield self.network, True
