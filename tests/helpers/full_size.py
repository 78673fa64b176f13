"""One evaluation of a network at full size, by one library in a process of its own.

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


def class_of(config: dict[str, Any]) -> str:
    """Returns the class in diffusers, a U-Net by default."""
    return str(config.get("_class_name", "UNet2DConditionModel"))


def condition_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns a class; or random text, vector and numbers."""
    rng = np.random.default_rng(1)
    if class_of(config) == "DiTTransformer2DModel":
        return {"labels": np.array([7])}
    parts = {"text": rng.normal(size=(1, TOKENS, config["cross_attention_dim"]))}
    if config.get("addition_embed_type") == "text_time":
        parts["vector"] = rng.normal(size=(1, 1280))
        parts["numbers"] = np.array([[1024, 1024, 0, 0, 1024, 1024]])
    return {name: part.astype(np.float32) for name, part in parts.items()}


def make(folder: Path, config: dict[str, Any]) -> None:
    """Writes random parameters, of a size that keeps activations near 1."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        cls = getattr(diffusers, class_of(config))
        meta = cls(**{k: v for k, v in config.items() if k != "_class_name"})
    module = meta.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            shape = tuple(parameter.shape)
            values = rng.standard_normal(shape, np.float32)
            parameter.copy_(torch.from_numpy(values).mul_(0.02))
        if class_of(config) == "DiTTransformer2DModel":
            # Positions are no parameter, and have no values yet.
            module.pos_embed = type(module.pos_embed)(
                config.get("sample_size", 32), config.get("sample_size", 32), 2, 4,
                module.inner_dim,
            )  # fmt: skip
            for parameter in module.pos_embed.parameters():
                shape = tuple(parameter.shape)
                values = rng.standard_normal(shape, np.float32)
                parameter.copy_(torch.from_numpy(values).mul_(0.02))
            first = module.transformer_blocks[0].norm1.emb.state_dict()
            for block in module.transformer_blocks:
                block.norm1.emb.load_state_dict(first)
    module.save_pretrained(folder / "unet", max_shard_size="20GB")


def theirs(folder: Path, config: dict[str, Any], x: np.ndarray, dtype: str) -> Any:
    """Returns diffusers' output."""
    kind = getattr(torch, dtype)
    network = getattr(diffusers, class_of(config))
    module = network.from_pretrained(folder / "unet", torch_dtype=kind)
    torch.set_num_threads(os.cpu_count())
    print(f"{gigabytes():.2f} GB read", flush=True)
    part = {
        k: torch.from_numpy(v).to(kind if v.dtype == np.float32 else torch.int64)
        for k, v in condition_of(config).items()
    }
    added = None
    if "vector" in part:
        added = {"text_embeds": part["vector"], "time_ids": part["numbers"]}
    given = torch.from_numpy(x.transpose(0, 3, 1, 2)).to(kind)
    arguments = {"encoder_hidden_states": part.get("text"), "added_cond_kwargs": added}
    if "labels" in part:
        arguments = {"class_labels": part["labels"]}
    with torch.no_grad():
        start = time.perf_counter()
        found = module(given, timestep=torch.tensor([501]), **arguments).sample
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
