"""A cost model of training on many devices: communication and efficiency.

N devices train on b images each. An image takes F floating-point operations,
and a device computes S operations per second. A step computes for

    (1)  t_compute = b F / S

With P bytes of float32 parameters and N = data * fsdp, each device sends

    (2)  Pmap      2 (N - 1)/N P
    (3)  Sharded   2 (fsdp - 1)/fsdp P + 2 (data - 1)/data P/fsdp

by rings (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms");
see `jaxdiff.parallel`. Of N devices, G share the fast links of a machine
(`inside`, bytes per second and device). Each has its share of the network
between machines (`outside`). The rings of a machine first add up its
gradients, so a device sends P/G to other machines in either layout.

    (4)  t_send = 2 (G - 1)/G P / inside + 2 (N/G - 1)/(N/G) (P/G) / outside

The efficiency ranges from no overlap of communication and computation (5) to
full overlap with the backward pass, two thirds of the computation (6):

    (5)  t_compute / (t_compute + t_send)
    (6)  t_compute / (t_compute + max(0, t_send - 2/3 t_compute))

F is XLA's count for a step of one image. The model assumes weak scaling, b
images per device for any N. It ignores latency, reading of data and slow
neighbours.

    python experiments/scaling.py            the prediction
    python experiments/scaling.py --measure  against this machine, on the CPU;
                                             7 minutes

The measurement splits one batch over 1 to 8 devices of one process, and over 1
to 4 processes. It compares the time of a step with the time of a step that
only sends. The devices share the cores, so it shows the cost of more devices,
not their gain. If (5) holds, the two times differ by the same computation for
any number of devices. If (2) and (3) hold, sending takes as long as all
devices' bytes take at one rate.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jaxdiff as jd
from jaxdiff.parallel import Parallel, Pmap, Sharded
from jaxdiff.parallel.processes import is_first, join
from jaxdiff.training.experiment import DataInfo
from jaxdiff.training.initialize import build_model, init_state

NETWORKS = {
    "CIFAR-10, 32x32": ((32, 32, 3), jd.UNetConfig(), 128),
    "large, 256x256": (
        (256, 256, 3),
        jd.UNetConfig(
            channels=272, multipliers=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8), heads=4
        ),
        4,
    ),
}
"""Image shape, network, and images per device. The second network has the size of ADM's
for ImageNet at 256x256 (Dhariwal and Nichol 2021, 554 M parameters)."""
DEVICES = (8, 16, 64, 256, 1024)
SMALL: tuple[tuple[int, int, int], jd.UNetConfig, int] = (
    (16, 16, 1),
    jd.UNetConfig(channels=64, multipliers=(1, 2), blocks=1, attention=(8,)),
    32,
)
"""Image shape, network, and images per step of the measurement."""


def sent(size: float, data: int, fsdp: int = 1) -> float:
    """Returns the bytes that each of data * fsdp devices sends per step, (2) and (3).

    Args:
        size: bytes of the parameters, and of the gradients.
        data: number of device groups; each group has a whole state.
        fsdp: number of devices that share a state.
    """
    return 2 * (fsdp - 1) / fsdp * size + 2 * (data - 1) / data * size / fsdp


def seconds_to_send(
    size: float, devices: int, per_machine: int, inside: float, outside: float
) -> float:
    """Returns equation (4): reductions inside each machine, then between machines."""
    together = min(devices, per_machine)
    within = sent(size, 1, together)
    between = sent(size, devices // together, together) - within
    return within / inside + between / outside


def network_of(
    shape: tuple[int, int, int], config: jd.UNetConfig, batch: int
) -> tuple[Callable[..., Any], Callable[[], jd.TrainState], Callable[[Any], jd.Batch]]:
    """Returns the pure step, and functions for the state of step 0 and a batch."""
    experiment, info = jd.Experiment(network=config), DataInfo(shape, None, None)
    images = np.random.default_rng(0).uniform(-1, 1, (batch, *shape))

    def rows_of(rows: np.ndarray) -> jd.Batch:
        return jd.Batch(images[rows].astype(np.float32), None, rows.astype(np.int32))

    step = partial(
        jd.train_step, network=build_model(experiment, info).network,
        schedule=experiment.schedule.build(), prediction=experiment.prediction,
        objective=experiment.objective,
        optimizer=experiment.optimizer.build(experiment.training.num_steps),
        ema_decay=experiment.training.ema_decay, seed=experiment.seed,
    )  # fmt: skip
    return step, partial(init_state, experiment, info), rows_of


def size_of(params: Any) -> int:
    """Returns the number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def predict(options: argparse.Namespace) -> None:
    """Prints the efficiencies of both networks on 8 to 1,024 devices."""
    print(
        f"devices of {options.flops:g} TFLOP/s, {options.per_machine} per machine "
        f"with {options.inside:g} GB/s each\n"
        "efficiency without overlap, and with full overlap, of communication"
    )
    for name, (shape, config, images) in NETWORKS.items():
        step, init, rows_of = network_of(shape, config, 1)
        state = jax.eval_shape(init)
        size = 4 * size_of(state.params)
        # Count for a TPU: the CPU's convolutions are loops, whose bodies count once.
        traced: Any = jax.jit(step).trace(state, rows_of(np.arange(1)))
        lowered = traced.lower(lowering_platforms=("tpu",))
        flops = lowered.cost_analysis()["flops"]
        compute = images * flops / (1e12 * options.flops)
        print(
            f"\n{name}: {size / 4e6:.1f} M parameters; {images} images per device, of "
            f"{flops / 1e9:,.0f} GFLOP each: {1e3 * compute:.0f} ms\n"
            f"  state: {4 * size / 1e9:.2f} GB per device with Pmap, "
            f"{4 * size / 8e9:.2f} with Sharded and fsdp=8; "
            f"sent per step: up to {2 * size / 1e9:.2f} GB"
        )
        print(f"  {'GB/s between machines':<24}" + "".join(f"{n:>13}" for n in DEVICES))
        for outside in options.outside:
            cells = []
            for count in DEVICES:
                send = seconds_to_send(
                    size / 1e9, count, options.per_machine, options.inside, outside
                )
                after = compute / (compute + send)
                behind = compute / (compute + max(0.0, send - 2 / 3 * compute))
                cells.append(f"{after:>7.0%}-{behind:.0%}".rjust(13))
            print(f"  {outside:<24.4g}" + "".join(cells))


def time_steps(layouts: dict[Any, Parallel], rounds: int) -> list[tuple[Any, Any]]:
    """Times a step and a step that only sends, in turns; returns median seconds."""
    shape, config, batch = SMALL
    runs = {}
    for name, layout in layouts.items():
        step, init, rows_of = network_of(shape, config, batch)

        def only_send(state: Any, batch: Any, mean_of: Any) -> Any:
            params = mean_of(lambda params, _: params, state.params, batch)
            return state._replace(params=params), {}

        state = jax.jit(init, out_shardings=layout.shardings(jax.eval_shape(init)))()
        rows = rows_of(layout.rows(batch))
        for kind, fn in {"step": step, "send": only_send}.items():
            own = layout.localize(jax.tree.map(jnp.copy, state))
            runs[name, kind] = [layout.step(fn), own, rows]
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(rounds + 2):
        for key, run in runs.items():
            compiled, state, rows = run
            start = time.perf_counter()
            run[1] = jax.block_until_ready(compiled(state, rows))[0]
            times[key].append(time.perf_counter() - start)
    middle = {key: statistics.median(seconds[2:]) for key, seconds in times.items()}
    return [(name, (middle[name, "step"], middle[name, "send"])) for name in layouts]


def measure(options: argparse.Namespace) -> None:
    """Prints the cost of more devices and processes on this machine."""
    here, root = Path(__file__), Path(__file__).parent.parent
    found = {}
    for processes, devices in tqdm(((1, 8), (2, 1), (4, 1)), "measure", unit="launch"):
        line = [
            str(root / "launch" / "local"), "-n", str(processes), "-d", str(devices),
            sys.executable, str(here), "--time", "--rounds", str(options.rounds),
        ]  # fmt: skip
        shown = subprocess.run(line, capture_output=True, text=True, check=False)
        if shown.returncode:
            sys.exit(f"error: {shown.stderr or shown.stdout}")
        for (layout, count), times in json.loads(shown.stdout.splitlines()[-1]):
            found[layout, count, processes] = times
    shape, config, batch = SMALL
    size = 4 * size_of(jax.eval_shape(network_of(shape, config, 1)[1]).params)
    print(f"{size / 4e6:.2f} M parameters, {batch} images per step in all layouts")
    print(
        f"{'layout':<9}devices  processes    step  only sending  difference  "
        "sent by all      rate"
    )
    for (layout, count, processes), (step, send) in found.items():
        data, fsdp = (count, 1) if layout == "Pmap" else (1, count)
        total = count * sent(size, data, fsdp) / 1e6
        print(
            f"{layout:<9}{count:>7}{processes:>11}{step:>6.2f} s{send:>12.3f} s"
            f"{step - send:>10.2f} s{total:>10.1f} MB{total / send:>5.0f} MB/s"
        )


class Help(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    """Help formatter with the docstring unchanged and the default of every flag."""


def above_0(text: str) -> float:
    """Returns a number above 0; argparse prints the error for any other text."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return float(text)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--flops", type=above_0, default=400, help="TFLOP/s that a device reaches")
    add("--per-machine", type=int, default=8, choices=[2**i for i in range(9)],
        help="number of devices that share the fast links of a machine")  # fmt: skip
    add("--inside", type=above_0, default=450, help="GB/s per device inside a machine")
    add("--outside", type=above_0, nargs="+", default=[50, 12.5, 1.5625],
        help="GB/s per device between machines: 400 or 100 Gbit/s of its own, or 100 "
        "shared by 8")  # fmt: skip
    add("--measure", action="store_true", help="measure on the CPU of this machine")
    add("--rounds", type=int, default=10, help="number of timed steps per layout")
    add("--time", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.time:
        join()
        counts = [1, 2, 4, 8] if jax.process_count() == 1 else [jax.device_count()]
        layouts: dict[tuple[str, int], Parallel] = {}
        for count in counts:
            layouts["Pmap", count] = Pmap(num_devices=count)
            layouts["Sharded", count] = Sharded(fsdp=count)
        times = time_steps(layouts, options.rounds)
        if is_first():
            print(json.dumps(times))
    elif options.measure:
        measure(options)
    else:
        predict(options)


if __name__ == "__main__":
    main()
