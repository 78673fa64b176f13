"""PyTorch and diffusers for the tests that compare with them.

They take seconds to import, and so are imported where they are first used, not while
tests are collected.
"""

import functools
import importlib
from typing import Any


class _Later:
    """A module, imported at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # which pytest looks for while it collects
            raise AttributeError(name)
        import_torchvision()
        return getattr(importlib.import_module(self._name), name)


@functools.cache
def import_torchvision() -> None:
    """Imports torchvision, also beside a build of PyTorch that it was not made for.

    It then lacks its compiled part, and fails for two operators of it, which no network
    here has.
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

        torchvision.library = library  # it ends with what holds it


torch: Any = _Later("torch")
diffusers: Any = _Later("diffusers")
