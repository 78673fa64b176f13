"""How far does training scale? What a step sends, and the efficiency that follows.

A step of N devices, each with b images of F floating-point operations, on devices that
do S of them a second, computes for

    (1)  t_compute = b F / S

and sends (P bytes of float32 parameters; N = data * fsdp; `jaxdiff.parallel` says what)

    (2)  Pmap      2 (N - 1)/N P
    (3)  Sharded   2 (fsdp - 1)/fsdp P + 2 (data - 1)/data P/fsdp

by rings (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"). Of N
devices, G share the fast links of a machine (`inside`, bytes a second and device), and
each has its part of the network between machines (`outside`). The rings of a machine
first add up what it has: a device sends P/G to other machines, whichever the layout.

    (4)  t_send = 2 (G - 1)/G P / inside + 2 (N/G - 1)/(N/G) (P/G) / outside

If all sending waits for the computing to end, and if it hides behind the backward pass,
which is two thirds of it, the efficiencies are

    (5)  t_compute / (t_compute + t_send)
    (6)  t_compute / (t_compute + max(0, t_send - 2/3 t_compute))

and the truth is between. F is XLA's count of a step. Latency, reading data and slow
neighbours are left out; weak scaling, b images a device whatever N.

    python experiments/scaling.py            the prediction
    python experiments/scaling.py --measure  against this machine, on the CPU; 7 minutes

The measurement compares, for one batch on 1 to 8 devices of one process and on 1 to 4
processes, the time of a step with that of a step that only sends. Cores are shared, so
that it shows what more devices cost, not what they gain. Where (5) holds, the two times
differ by the same computing, however many devices share it; and where (2) and (3) do,
sending takes as long as all devices' bytes take at one rate.
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
"""Image shape, network, and images a device; the second is of the size of ADM's for
ImageNet at 256x256 (Dhariwal and Nichol 2021, 554 M parameters)."""
DEVICES = (8, 16, 64, 256, 1024)
SMALL: tuple[tuple[int, int, int], jd.UNetConfig, int] = (
    (16, 16, 1),
    jd.UNetConfig(channels=64, multipliers=(1, 2), blocks=1, attention=(8,)),
    32,
)
"""What is measured: image shape, network, and images a step."""


def sent(size: float, data: int, fsdp: int = 1) -> float:
    """Bytes that each of data * fsdp devices sends a step, by (2) and (3).

    Args:
        size: bytes of parameters, and of gradients.
        data: groups of devices with a whole state each.
        fsdp: devices that share one.
    """
    return 2 * (fsdp - 1) / fsdp * size + 2 * (data - 1) / data * size / fsdp


def seconds_to_send(
    size: float, devices: int, per_machine: int, inside: float, outside: float
) -> float:
    """Equation (4): in a machine one group shares, between machines groups agree."""
    together = min(devices, per_machine)
    within = sent(size, 1, together)
    between = sent(size, devices // together, together) - within
    return within / inside + between / outside


def network_of(
    shape: tuple[int, int, int], config: jd.UNetConfig, batch: int
) -> tuple[Callable[..., Any], Callable[[], jd.TrainState], Callable[[Any], jd.Batch]]:
    """The pure step, the state of step 0, and any rows of a batch."""
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
    """How many numbers there are."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def predict(options: argparse.Namespace) -> None:
    """Prints the efficiencies of both networks on 8 to 1,024 devices."""
    print(
        f"devices that do {options.flops:g} TFLOP/s, {options.per_machine} a machine "
        f"with {options.inside:g} GB/s each\n"
        "efficiency where sending waits for computing, and where it hides behind it"
    )
    for name, (shape, config, images) in NETWORKS.items():
        step, init, rows_of = network_of(shape, config, 1)
        state = jax.eval_shape(init)
        size = 4 * size_of(state.params)
        # As for a TPU: the CPU's convolutions are loops, whose bodies count once.
        traced: Any = jax.jit(step).trace(state, rows_of(np.arange(1)))
        lowered = traced.lower(lowering_platforms=("tpu",))
        flops = lowered.cost_analysis()["flops"]
        compute = images * flops / (1e12 * options.flops)
        print(
            f"\n{name}: {size / 4e6:.1f} M parameters; {images} images a device, of "
            f"{flops / 1e9:,.0f} GFLOP each: {1e3 * compute:.0f} ms\n"
            f"  state: {4 * size / 1e9:.2f} GB a device by Pmap, "
            f"{4 * size / 8e9:.2f} by Sharded with fsdp=8; "
            f"sent a step: up to {2 * size / 1e9:.2f} GB"
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
    """Median seconds of a step, and of one that only sends, taken in turns."""
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
    """Prints what more devices and processes cost on this machine."""
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
    print(
        f"{size / 4e6:.2f} M parameters, {batch} images a step, whichever the devices"
    )
    print(
        f"{'layout':<9}devices  processes  a step  only sending  difference  "
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
    """The docstring as it is, and the default of every flag."""


def above_0(text: str) -> float:
    """A number above 0, or what argparse makes one clear line of."""
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0; got {text}")
    return float(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--flops", type=above_0, default=400, help="a device's TFLOP/s, as reached")
    add("--per-machine", type=int, default=8, choices=[2**i for i in range(9)],
        help="devices that share the fast links")  # fmt: skip
    add("--inside", type=above_0, default=450, help="GB/s a device has there")
    add("--outside", type=above_0, nargs="+", default=[50, 12.5, 1.5625],
        help="GB/s a device has to other machines: 400 or 100 Gbit/s of its own, or "
        "100 shared by 8")  # fmt: skip
    add("--measure", action="store_true", help="measure on this machine's CPU instead")
    add("--rounds", type=int, default=10, help="steps timed of each layout")
    add("--time", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {options.rounds}")
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
