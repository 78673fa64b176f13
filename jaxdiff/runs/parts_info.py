"""Description of the parts of a run: the contents of parts.json."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from jaxdiff.conditioning.prompts import Numbers
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Cosine
from jaxdiff.training.experiment import Sampling

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
class StageInfo:
    """Stage of sampling before or after the run's own network."""

    network: str
    """Folder of the network."""
    last: str = ""
    """Folder of the network of the last step; "" for the same network."""
    schedule: ScheduleOptions = field(default_factory=Cosine)
    """Noise schedule."""
    prediction: Prediction = field(default_factory=Eps)
    """Quantity that the network predicts."""
    sampling: Sampling = field(default_factory=Sampling)
    """Sampler, guidance and clipping."""


@dataclass(frozen=True, kw_only=True)
class NoisingInfo:
    """Noise that is added to an image's vector, whose time the decoder is given."""

    scale: str
    """Folder of the mean and deviation of vectors."""
    schedule: ScheduleOptions = field(default_factory=Cosine)
    """Noise schedule."""


@dataclass(frozen=True, kw_only=True)
class UnCLIPInfo:
    """Parts of unCLIP; "" and None stand for parts that a pipeline does not have."""

    prior: StageInfo | None = None
    """From a text to an image's vector."""
    prior_encoder: Encoder | None = None
    """Text encoder of the prior; None for the run's."""
    projection: str = ""
    """Folder of the network that makes the decoder's condition."""
    enlarge: StageInfo | None = None
    """From a small image to a large one."""
    image_encoder: str = ""
    """Folder of the encoder from an image to its vector."""
    processor: str = ""
    """Folder of the sizes and colours of that encoder's images."""
    noising: NoisingInfo | None = None
    """Noise that is added to vectors."""

    def folders(self) -> Iterator[tuple[str, bool]]:
        """Yields the folder of each part, and True if it holds a network."""
        for stage in (self.prior, self.enlarge):
            if stage is not None:
                yield stage.network, True
                yield from [(stage.last, True)] * bool(stage.last)
        if self.prior_encoder is not None:
            yield self.prior_encoder.network, True
            yield self.prior_encoder.tokenizer, False
        scale = "" if self.noising is None else self.noising.scale
        for name in (self.projection, self.image_encoder, scale):
            if name:
                yield name, True
        if self.processor:
            yield self.processor, False


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
    """Folder of the autoencoder; "" for a model of pixels."""
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
    unclip: UnCLIPInfo | None = None
    """Parts of unCLIP; None for a model without."""
    link: str | None = None
    """Folder that holds the parts; None for the folder of parts.json."""
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the parts, by its place."""

    def folders(self) -> Iterator[tuple[str, bool]]:
        """Yields the folder of each part, and True if it holds a network."""
        for encoder in self.encoders:
            yield encoder.network, True
            yield encoder.tokenizer, False
        for name in (self.autoencoder, self.network):
            if name:
                yield name, True
        if self.unclip is not None:
            yield from self.unclip.folders()
