"""The benchmark's networks in PyTorch, as diffusers has them: a program for --peer.

    python experiments/benchmark --networks dit-s --what forward train_step
        --peer "python experiments/benchmark/diffusers_peer.py --networks dit-s"

It needs torch and diffusers. Each line of its output is a JSON object with the images
per second of one network, number type, mode and program. A train step is a forward
pass, a backward pass and Adam. bfloat16 is torch.autocast's, and for parts of Stable
Diffusion the type of the parameters too. peak_mb is the largest memory of the process
so far, or of the GPU.
"""

import argparse
import contextlib
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

# PyTorch ignores channels_last for tensors without a height and a width.
LAYOUT: Any = {"memory_format": torch.channels_last}
KL = {"down_block_types": ("DownEncoderBlock2D",) * 4, "latent_channels": 4,
      "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2,
      "block_out_channels": (128, 256, 512, 512)}  # fmt: skip
SD15 = {"sample_size": 64, "cross_attention_dim": 768}


class Network(NamedTuple):
    """Network to time.

    Attributes:
        kind: class of diffusers.
        options: its arguments.
        shape: channels, height and width of one input.
        on_cpu: number of images per step on a CPU.
        elsewhere: number of images per step on a GPU.
        trains: if False, only its evaluation is timed.
    """

    kind: str
    options: dict[str, Any]
    shape: tuple[int, int, int]
    on_cpu: int
    elsewhere: int
    trains: bool = True


def unet(channels: int, widths: Sequence[int], attends: int) -> dict[str, Any]:
    """Returns options of a U-Net that attends at one level."""
    places = range(len(widths))
    down = ["AttnDownBlock2D" if i == attends else "DownBlock2D" for i in places]
    up = ["AttnUpBlock2D" if i == attends else "UpBlock2D" for i in places][::-1]
    return {"sample_size": 32, "in_channels": channels, "out_channels": channels,
            "block_out_channels": tuple(widths), "layers_per_block": 2,
            "down_block_types": tuple(down), "up_block_types": tuple(up),
            "attention_head_dim": None}  # fmt: skip


def dit(heads: int) -> dict[str, Any]:
    """Returns options of a transformer of 12 layers with patches of 2x2."""
    return {"num_attention_heads": heads, "attention_head_dim": 64, "in_channels": 4,
            "num_layers": 12, "sample_size": 16, "patch_size": 2, "out_channels": 4,
            "num_embeds_ada_norm": 1}  # fmt: skip


NETWORKS = {
    "small": Network("UNet2DModel", unet(1, (64, 128, 128), 2), (1, 32, 32), 64, 512),
    "cifar": Network(
        "UNet2DModel", unet(3, (128, 256, 256, 256), 1), (3, 32, 32), 16, 256
    ),
    "dit-s": Network("DiTTransformer2DModel", dit(6), (4, 16, 16), 16, 256),
    "dit-b": Network("DiTTransformer2DModel", dit(12), (4, 16, 16), 8, 256),
    "unet-sd15": Network("UNet2DConditionModel", SD15, (4, 32, 32), 1, 1, False),
    "decoder": Network("AutoencoderKL", KL, (4, 64, 64), 1, 1, False),
}


def evaluation(network: Network, module: Any, batch: int, like: Any) -> Any:
    """Returns the arrays of one evaluation, and a function that gives its result.

    Args:
        network: the network.
        module: the module, perhaps compiled.
        batch: number of images.
        like: options of new arrays: their device and type.
    """
    x = torch.randn(batch, *network.shape, **like).to(**LAYOUT)
    where = {"device": like["device"]}
    if network.kind == "AutoencoderKL":
        return x, lambda: module(x)
    if network.kind == "UNet2DConditionModel":
        text = torch.randn(2 * batch, 77, 768, **like)
        times = torch.full((2 * batch,), 500, **where)

        def guided() -> Any:
            given, base = module(torch.cat([x, x]), times, text).sample.chunk(2)
            return base + 7.5 * (given - base)

        return x, guided
    times = torch.randint(0, 1000, (batch,), **where)
    if network.kind == "DiTTransformer2DModel":
        labels = torch.zeros(batch, dtype=torch.long, **where)
        return x, lambda: module(x, times, class_labels=labels).sample
    return x, lambda: module(x, times).sample


def programs_of(
    network: Network, mode: str, dtype: str, batch: int, device: str
) -> dict[str, Callable[[], None]]:
    """Returns the programs of a network: forward, and train_step if it is trained."""
    import diffusers

    torch.manual_seed(0)
    half = dtype == "bfloat16"
    kept = torch.bfloat16 if half and not network.trains else torch.float32
    made = getattr(diffusers, network.kind)(**network.options)
    made = made.to(device, kept, **LAYOUT)
    own = made.decoder if network.kind == "AutoencoderKL" else made
    module = torch.compile(own) if mode == "compile" else own
    x, call = evaluation(network, module, batch, {"device": device, "dtype": kept})

    def cast() -> Any:
        if half and network.trains:
            return torch.autocast(device, torch.bfloat16)
        return contextlib.nullcontext()

    def forward() -> None:
        with torch.no_grad(), cast():
            call()

    if not network.trains:
        return {"forward": forward}
    noise = torch.randn_like(x)
    adam = torch.optim.Adam(made.parameters(), 1e-4, fused=device == "cuda")

    def train_step() -> None:
        adam.zero_grad(set_to_none=True)
        with cast():
            found = call()
        ((found.float() - noise) ** 2).mean().backward()
        adam.step()

    return {"forward": forward, "train_step": train_step}


def seconds_of(program: Callable[[], None], device: str, runs: int) -> float:
    """Returns the median seconds of a call, after two calls that are not timed."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    calls, times = 10 if device == "cuda" else 1, []
    for done in range(runs + 2):
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            program()
        wait()
        if done > 1:
            times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def peak_mb(device: str) -> float:
    """Returns the largest memory so far, of the GPU or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes, types, whats = ("compile", "eager"), ("float32", "bfloat16"), (
        "forward", "train_step"
    )  # fmt: skip
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=["small"])
    add("--modes", nargs="+", choices=modes, default=modes[:1])
    add("--dtypes", nargs="+", choices=types, default=types)
    add("--what", nargs="+", choices=whats, default=whats)
    add("--batch", type=int, help="images per step; the benchmark's own by default")
    add("--runs", type=int, default=1, help="timings per program")
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    for name in options.networks:
        network = NETWORKS[name]
        usual = network.on_cpu if device == "cpu" else network.elsewhere
        batch = options.batch or usual
        for mode in options.modes:
            for dtype in options.dtypes:
                found = programs_of(network, mode, dtype, batch, device)
                for what, program in found.items():
                    if what not in options.what:
                        continue
                    seconds = seconds_of(program, device, options.runs)
                    row = {
                        "config": name, "mode": mode, "dtype": dtype, "what": what,
                        "batch": batch, "images_per_s": batch / seconds,
                        "peak_mb": peak_mb(device), "torch": torch.__version__,
                        "device": device,
                    }  # fmt: skip
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
