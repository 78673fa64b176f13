"""How fast is it? Images a second, memory, compiling, and what the loops around cost.

    python experiments/benchmark                 speeds, memory and utilisation
    python experiments/benchmark --compile       from the start to the first step
    python experiments/benchmark --growth        against batch size and chain length
    python experiments/benchmark --peer COMMAND  against another program, in turns

Two networks without dropout, on random images: `small` (6.47 M parameters, 32x32x1) and
`cifar` (35.7 M, 32x32x3, DDPM's). The rows of the first form are

    forward     one evaluation of the network, its inputs on the devices
    train_step  a step of `jaxdiff.train_step` as the trainer takes it: the batch to
                the devices, loss, backward, clipping, Adam, moving average
    sample      `jaxdiff.sample` with DDIM of --steps steps; evaluations_per_s counts
                the images of every step. Its ratio is to as many forwards in a loop
    layouts     train_step by Sharded; its ratio is to Pmap
    trainer     `jaxdiff.train` with its data, logs and checkpoints; its ratio is to the
                same compiled step by itself, ratio_saved with a checkpoint every 5,000
                steps. It needs jaxdiff[experiments]
    feed        batches to the devices as the trainer has them read ahead, from memory
                and from array_record on the disk; its ratio is to train_step

the last three of the first network and type asked for. What is compared takes turns.
All numbers are medians, of times or of the ratios of neighbours; low and high are their
quartiles. A ratio above 1 is faster. The batch is spread over the devices.

    tflop_per_s    XLA's count of operations over the seconds. It is that of the program
                   for a TPU: loops, as the CPU's may have, have bodies counted once
    of_matmul      the share of what a large product of matrices of the same type does,
                   measured here in turns with the rest
    mfu            the share of what the devices' maker says they can do, where known
    memory_mb      of each device: the program's arguments, results and temporary arrays

Each result is also a JSON line with the machine and the versions, to --out or to here.
All but `trainer` and `feed` run where only jax, flax and optax are installed.
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a folder
    sys.path[0] = str(Path(__file__).parents[2])

import jaxdiff as jd
from experiments.benchmark.compile_time import compiling, first_call
from experiments.benchmark.growth import growth
from experiments.benchmark.networks import NETWORKS, Options
from experiments.benchmark.peer import against_peer
from experiments.benchmark.programs import PROGRAMS, programs_of
from experiments.benchmark.rows import Row, here, say, table
from experiments.benchmark.speeds import speeds
from jaxdiff.parallel import Pmap, cpu_devices

WHAT = (*PROGRAMS, "layouts", "trainer", "feed")


class Help(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    """The docstring as it is, and the default of every flag."""


def above_0(text: str) -> float:
    """A number above 0, or what argparse makes one clear line of."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0; got {text}")
    return float(text)


def at_least_1(text: str) -> int:
    """An integer of at least 1, or what argparse makes one clear line of."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {text}")
    return int(text)


def read(arguments: Sequence[str] | None = None) -> Options:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        "benchmark", description=__doc__, formatter_class=Help
    )
    form = parser.add_mutually_exclusive_group()
    add, types = parser.add_argument, ("float32", "bfloat16")
    form.add_argument("--compile", action="store_true", help="the time to a first step")
    form.add_argument("--growth", action="store_true", help="how costs grow")
    form.add_argument("--peer", metavar="COMMAND",
        help="prints JSON lines with images_per_s and, if it likes, config, dtype, "
        "what, batch and mode; the first of --networks, --dtypes and --what stand for "
        "what a line lacks")  # fmt: skip
    form.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which")
    add("--dtypes", nargs="+", choices=types, default=types, help="types of numbers")
    add("--what", nargs="+", choices=WHAT, default=WHAT, help="which rows")
    add("--batch", type=at_least_1, help="images; if not given, 64 (small) and 16 "
        "(cifar) on a CPU, 512 and 256 elsewhere, or as the peer says")  # fmt: skip
    add("--steps", type=at_least_1, default=20, help="steps of the chain")
    add("--lengths", type=at_least_1, nargs="+", default=(5, 10, 20, 40),
        help="steps of the chains of --growth")  # fmt: skip
    add("--rounds", type=at_least_1, default=5, help="timings of each")
    add("--pairs", type=at_least_1, default=5, help="runs of the peer")
    add("--segment", type=at_least_1, help="steps of each segment of the trainer; if "
        "not given, 4 on a CPU and 100 elsewhere")  # fmt: skip
    add("--devices", type=at_least_1, help="how many; if not given, all: on a CPU the "
        "most that divide the batches, up to one a core")  # fmt: skip
    add("--peak-tflops", type=above_0, help="what a device can do, for mfu")
    add("--out", metavar="FILE", help="append the JSON lines to it")
    options = parser.parse_args(arguments)
    other = options.compile or options.growth or options.peer is not None
    if other and not programs_of(options):
        parser.error(f"--what must have one of {', '.join(PROGRAMS)} here")
    return options


def set_up(options: Options) -> None:
    """Makes every core of a CPU a device; JAX must not have started."""
    rows = math.gcd(*(options.batch or NETWORKS[name][2] for name in options.networks))
    cpu_devices.use(options.devices or Pmap().usable(cpu_devices.available(), rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options, rows = read(arguments), []
    form = speeds
    for chosen, other in ((options.compile, compiling), (options.growth, growth)):
        form = other if chosen else form
    try:
        with contextlib.ExitStack() as stack:
            out = sys.stdout
            if options.out:
                out = stack.enter_context(open(options.out, "a"))

            def tell(row: Row) -> None:
                rows.append(row)
                line = json.dumps({**row, "on": row.get("on") or here()})
                print(line, file=out, flush=True)

            set_up(options)
            if options.first_call:
                tell(first_call(options))
                return
            (form if options.peer is None else against_peer)(options, tell)
    except (jd.InputError, OSError) as error:
        say(f"error: {error}")
        sys.exit(2)
    if rows:
        print(table(rows))


if __name__ == "__main__":
    main()
