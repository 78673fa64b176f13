"""One evaluation of a U-Net at full size, by one library in a process of its own.

    python -m tests.helpers.full_size (make | theirs | ours) FOLDER [SIZE] [TYPE]

`make` writes a folder of random parameters for the configuration in FOLDER/config.json.
The others write the output to FOLDER/NAME.npy, and print the seconds of an evaluation
after compilation, and the largest memory of the process in GB after the folder is read
and at the end.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.pytorch import diffusers, torch

TOKENS = 77


def gigabytes() -> float:
    """Returns the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def condition_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns random text, vector and numbers."""
    rng = np.random.default_rng(1)
    parts = {"text": rng.normal(size=(1, TOKENS, config["cross_attention_dim"]))}
    if config.get("addition_embed_type") == "text_time":
        parts["vector"] = rng.normal(size=(1, 1280))
        parts["numbers"] = np.array([[1024, 1024, 0, 0, 1024, 1024]])
    return {name: part.astype(np.float32) for name, part in parts.items()}


def make(folder: Path, config: dict[str, Any]) -> None:
    """Writes random parameters, of a size that keeps activations near 1."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        meta = diffusers.UNet2DConditionModel(**config)
    module = meta.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            shape = tuple(parameter.shape)
            values = rng.standard_normal(shape, np.float32)
            parameter.copy_(torch.from_numpy(values).mul_(0.02))
    module.save_pretrained(folder / "unet", max_shard_size="20GB")


def theirs(folder: Path, config: dict[str, Any], x: np.ndarray, dtype: str) -> Any:
    """Returns diffusers' output."""
    kind = getattr(torch, dtype)
    network = diffusers.UNet2DConditionModel
    module = network.from_pretrained(folder / "unet", torch_dtype=kind)
    torch.set_num_threads(os.cpu_count())
    print(f"{gigabytes():.2f} GB read", flush=True)
    part = {k: torch.from_numpy(v).to(kind) for k, v in condition_of(config).items()}
    added = None
    if "vector" in part:
        added = {"text_embeds": part["vector"], "time_ids": part["numbers"]}
    given = torch.from_numpy(x.transpose(0, 3, 1, 2)).to(kind)
    with torch.no_grad():
        start = time.perf_counter()
        found = module(given, 501, part["text"], added_cond_kwargs=added).sample
        print(f"{time.perf_counter() - start:.1f} s", flush=True)
    return found.float().numpy().transpose(0, 2, 3, 1)


def ours(folder: Path, config: dict[str, Any], x: np.ndarray, dtype: str) -> Any:
    """Returns our output."""
    import jax

    from jaxdiff.components.component import read_component
    from jaxdiff.typing import Condition

    found = read_component(folder / "unet", dtype=dtype)
    jax.block_until_ready(found.params)
    print(f"{gigabytes():.2f} GB read", flush=True)
    condition = Condition(**condition_of(config))
    arguments = {"params": found.params}, x, np.array([501]), condition
    start = time.perf_counter()
    program = jax.jit(found.network.apply).lower(*arguments).compile()
    print(f"{time.perf_counter() - start:.1f} s to compile", flush=True)
    start = time.perf_counter()
    output = np.asarray(program(*arguments))
    print(f"{time.perf_counter() - start:.1f} s", flush=True)
    return output


def main(name: str, where: str, size: str = "64", dtype: str = "float32") -> None:
    """Runs one of the functions."""
    folder = Path(where)
    config = json.loads((folder / "config.json").read_text())
    if name == "make":
        make(folder, config)
        return
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, int(size), int(size), 4)).astype(np.float32)
    np.save(folder / f"{name}.npy", {"theirs": theirs, "ours": ours}[name](
        folder, config, x, dtype
    ))  # fmt: skip
    print(f"{gigabytes():.2f} GB at the end")


if __name__ == "__main__":
    main(*sys.argv[1:])
