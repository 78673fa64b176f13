"""Model folders of Hugging Face's diffusers and transformers: import and export."""

from jaxdiff.components.component import Component as Component
from jaxdiff.components.component import read_component as read_component
from jaxdiff.components.component import write_component as write_component
from jaxdiff.components.dit_original import read_dit as read_dit
from jaxdiff.components.taesd import read_taesd as read_taesd
from jaxdiff.pretrained.convert import write_run as write_run
from jaxdiff.pretrained.pipeline_folder import from_diffusers as from_diffusers
from jaxdiff.pretrained.pipeline_folder import to_diffusers as to_diffusers
