"""Import of diffusers' schedulers as schedule, prediction and sampler."""

import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np

from jaxdiff.components.files import known_entries
from jaxdiff.errors import InputError, shown
from jaxdiff.pretrained.scheduler_fields import Common as Common
from jaxdiff.pretrained.schedulers_continuous import (
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from jaxdiff.pretrained.schedulers_multistep import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from jaxdiff.pretrained.schedulers_of_times import (
    DDIMScheduler,
    DDPMScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from jaxdiff.pretrained.schedulers_unclip import UnCLIPScheduler
from jaxdiff.pretrained.schedulers_unscaled import (
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LMSDiscreteScheduler,
)
from jaxdiff.serialization import from_dict

Scheduler: TypeAlias = (
    DDPMScheduler
    | DDIMScheduler
    | PNDMScheduler
    | LCMScheduler
    | UnCLIPScheduler
    | DPMSolverMultistepScheduler
    | UniPCMultistepScheduler
    | DEISMultistepScheduler
    | EulerDiscreteScheduler
    | EulerAncestralDiscreteScheduler
    | HeunDiscreteScheduler
    | LMSDiscreteScheduler
    | KDPM2DiscreteScheduler
    | KDPM2AncestralDiscreteScheduler
    | DPMSolverSDEScheduler
    | EDMEulerScheduler
    | EDMDPMSolverMultistepScheduler
    | FlowMatchEulerDiscreteScheduler
    | FlowMatchHeunDiscreteScheduler
)
CLASSES: tuple[type[Common], ...] = Scheduler.__args__
_LEGACY = {"tensor_format", "timestep_values"}
"""Fields of older versions that change nothing."""


def read_scheduler(
    record: Mapping[str, Any], where: str, name: str | None = None
) -> Common:
    """Returns the scheduler of a scheduler_config.json.

    Args:
        record: contents of the file.
        where: name of the file, for messages.
        name: class that a pipeline names for its scheduler; by default the file's.

    Raises:
        InputError: the class is not supported, or an entry has an unsupported value.

    Warns:
        UserWarning: it names entries that were ignored.
    """
    names = {cls.__name__: cls for cls in CLASSES}
    name = record.get("_class_name") if name is None else name
    if not isinstance(name, str) or name not in names:
        raise InputError(
            f"{where}: the scheduler must be one of {', '.join(names)}, got "
            f"{shown(name)}"
        )
    cls = names[name]
    own = {field.name for field in fields(cls)}
    # A scheduler made from the configuration of another keeps the other's fields.
    others = {field.name for other in CLASSES for field in fields(other)} - own
    data = {k: v for k, v in record.items() if k not in others | _LEGACY}
    epsilon = data.pop("predict_epsilon", None)  # from versions before prediction_type
    data = known_entries(data, own, where)
    if epsilon is False and "prediction_type" not in data:
        warnings.warn(
            f"took prediction_type sample from predict_epsilon false in {where}; "
            "diffusers ignores that entry and draws other images",
            stacklevel=2,
        )
        data["prediction_type"] = "sample"
    for field in fields(cls):
        if isinstance(field.default, bool) and data.get(field.name, 0) is None:
            data[field.name] = False  # null is false, as in Python
    if data.get("lambda_min_clipped") == -np.inf:
        data["lambda_min_clipped"] = None
    return from_dict(cls, data, f"{where} has unsupported entries")
