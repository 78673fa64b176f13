"""Models of Hugging Face's diffusers library: its folders read, and written."""

from jaxdiff.diffusers.folder import from_diffusers as from_diffusers
from jaxdiff.diffusers.folder import to_diffusers as to_diffusers
from jaxdiff.diffusers.workdir import ExportOptions as ExportOptions
from jaxdiff.diffusers.workdir import ImportOptions as ImportOptions
from jaxdiff.diffusers.workdir import write_run as write_run
