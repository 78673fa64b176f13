"""Model folders of Hugging Face's diffusers library: import and export."""

from jaxdiff.pretrained.convert import write_run as write_run
from jaxdiff.pretrained.pipeline_folder import from_diffusers as from_diffusers
from jaxdiff.pretrained.pipeline_folder import to_diffusers as to_diffusers
