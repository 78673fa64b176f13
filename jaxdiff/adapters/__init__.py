"""Adapters: functions from parameters to parameters."""

from jaxdiff.adapters.lora import LoRA as LoRA
from jaxdiff.adapters.lora import LoRALayer as LoRALayer
from jaxdiff.adapters.lora import init_lora as init_lora
from jaxdiff.adapters.lora import merged as merged
from jaxdiff.adapters.lora import unmerged as unmerged
from jaxdiff.adapters.lora import with_lora as with_lora
