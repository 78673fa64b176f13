"""Samplers: rules for one step down the noise levels, one family a file."""

from typing import TypeAlias

from jaxdiff.samplers.ancestral import Ancestral as Ancestral
from jaxdiff.samplers.base import Sampler as Sampler
from jaxdiff.samplers.base import sample as sample

SamplerOptions: TypeAlias = Ancestral
