"""PyTorch and diffusers, for the tests that compare with these packages.

Both packages take seconds to import. The first use imports them, not the collection of
tests.
"""

import functools
import importlib
from typing import Any


class _Later:
    """Module that is imported at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pytest looks for these during collection
            raise AttributeError(name)
        import_torchvision()
        return getattr(importlib.import_module(self._name), name)


@functools.cache
def import_torchvision() -> None:
    """Imports torchvision, also with a PyTorch build that does not match.

    An unmatched torchvision lacks its compiled part, and fails for two operators. No
    network here has these operators.
    """
    import torch

    torch.set_num_threads(1)
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou) -> Tensor")
        import torchvision

        torchvision.library = library  # keeps the definitions alive


torch: Any = _Later("torch")
diffusers: Any = _Later("diffusers")
transformers: Any = _Later("transformers")
peft: Any = _Later("peft")
