"""Models of Hugging Face's diffusers library: its folders read, and written."""

from jaxdiff.diffusers.folder import from_diffusers as from_diffusers
from jaxdiff.diffusers.folder import to_diffusers as to_diffusers
