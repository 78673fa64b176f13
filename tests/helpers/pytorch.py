"""PyTorch for the tests that compare with it."""

import torch


def import_torchvision() -> None:
    """Imports torchvision, also beside a build of PyTorch that it was not made for.

    It then lacks its compiled part, and fails for two operators of it, which no network
    here has.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou) -> Tensor")
        import torchvision

        torchvision.library = library  # it ends with what holds it
