"""The benchmark: images per second, memory, compile times, costs of the loops.

    python experiments/benchmark                 speeds, memory and utilisation
    python experiments/benchmark --compile       from the start to the first
                                                 step
    python experiments/benchmark --growth        against batch size and
                                                 sampling steps
    python experiments/benchmark --peer COMMAND  against another program, in
                                                 turns

It measures networks without dropout on random images: `small` (6.47 M
parameters, 32x32x1), `cifar` (35.7 M, 32x32x3, the network of DDPM), and the
transformers `dit-s` and `dit-b` (DiT-S/2 and B/2, 16x16x4, without classes).
Of Stable Diffusion 1.5 it measures forward alone: `unet-sd15` (859.5 M, 32x32x4,
with guidance) and `decoder` (49.5 M, 64x64x4), in calls without other networks.
The first form has the rows

    forward     one evaluation of the network; its inputs are on the devices
    train_step  a step of `jaxdiff.train_step` as the trainer runs it: transfer
                of the batch, loss, backward pass, clipping, Adam, moving
                average
    sample      `jaxdiff.sample` with --steps steps of DDIM; evaluations_per_s
                counts the images of every step. Its ratio is to as many
                forwards in a loop
    layouts     train_step with Sharded; its ratio is to Pmap
    trainer     `jaxdiff.train` with its data, logs and checkpoints; its ratio
                is to the same compiled step alone. ratio_saved includes a
                checkpoint every 5,000 steps. This row needs
                jaxdiff[experiments]
    feed        batches on the devices, with the trainer's prefetch from memory
                and from ArrayRecord on disk; its ratio is to train_step

The last three rows use the first requested network and type. Compared programs
take turns. Numbers are medians of times, or of ratios of consecutive timings;
low and high are the quartiles. A ratio above 1 is faster. The batch is spread
over the devices.

    tflop_per_s    XLA's count of operations, per second. The count is of the
                   program for a TPU: a CPU program may have loops, whose
                   bodies count once
    of_matmul      share of the speed of a large matrix product of the same
                   type, which takes turns with the other programs
    mfu            share of the peak that the maker states for the device, if
                   known
    memory_mb      memory per device: arguments, results and temporary arrays
    peak_mb        largest memory of the process, compilation included; --compile
                   has it

Each result is also a JSON line with the machine and the versions, printed or
appended to --out. All rows except `trainer` and `feed` need only jax, flax and
optax.
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
from experiments.benchmark.parts import SIZES
from experiments.benchmark.peer import against_peer
from experiments.benchmark.programs import PROGRAMS, programs_of
from experiments.benchmark.rows import Row, here, markdown, say, table
from experiments.benchmark.speeds import speeds
from jaxdiff.parallel import Pmap, cpu_devices

WHAT = (*PROGRAMS, "layouts", "trainer", "feed")


class Help(
    argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter
):
    """Help formatter with the docstring unchanged and the default of every flag."""


def above_0(text: str) -> float:
    """Returns a number above 0; argparse prints the error for any other text."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return float(text)


def at_least_1(text: str) -> int:
    """Returns an integer of at least 1; argparse prints the error for other text."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def read(arguments: Sequence[str] | None = None) -> Options:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        "benchmark", description=__doc__, formatter_class=Help
    )
    form = parser.add_mutually_exclusive_group()
    add, types = parser.add_argument, ("float32", "bfloat16")
    form.add_argument("--compile", action="store_true", help="time to a first step")
    form.add_argument("--growth", action="store_true", help="growth of time and memory")
    form.add_argument("--peer", metavar="COMMAND",
        help="command that prints JSON lines with images_per_s and optionally config, "
        "dtype, what, batch and mode; the first of --networks, --dtypes and --what are "
        "the defaults")  # fmt: skip
    form.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    add("--networks", nargs="+", choices=[*NETWORKS, *SIZES], default=list(NETWORKS),
        help="names")  # fmt: skip
    add("--dtypes", nargs="+", choices=types, default=types, help="number types")
    add("--what", nargs="+", choices=WHAT, default=WHAT, help="rows")
    add("--batch", type=at_least_1, help="images per step; by default 64 (small), "
        "16 (cifar, dit-s) and 8 (dit-b) on a CPU, 512 (small) and 256 elsewhere, 1 "
        "for a part of Stable Diffusion, or the peer's")  # fmt: skip
    add("--steps", type=at_least_1, default=20, help="sampling steps")
    add("--lengths", type=at_least_1, nargs="+", default=(5, 10, 20, 40),
        help="numbers of sampling steps of --growth")  # fmt: skip
    add("--rounds", type=at_least_1, default=5, help="timings per program")
    add("--pairs", type=at_least_1, default=5, help="number of runs of the peer")
    add("--segment", type=at_least_1, help="steps per segment of the trainer; by "
        "default 4 on a CPU and 100 elsewhere")  # fmt: skip
    add("--devices", type=at_least_1, help="number of devices; by default all: on a "
        "CPU the most that divide the batches, up to one per core")  # fmt: skip
    add("--peak-tflops", type=above_0, help="peak TFLOP/s of a device, for mfu")
    add("--out", metavar="FILE", help="file to append the JSON lines to")
    add("--markdown", action="store_true", help="print the table in Markdown, with "
        "the machine, its instructions, the versions and the date")  # fmt: skip
    options = parser.parse_args(arguments)
    parts = set(options.networks) & set(SIZES)
    if parts and set(options.networks) - set(SIZES):
        parser.error(f"--networks must not have {', '.join(sorted(parts))} beside "
            "networks that are trained: parts run on one device")  # fmt: skip
    if parts and options.what is WHAT:
        options.what = ["forward"]
    if parts and set(options.what) != {"forward"}:
        parser.error("--what must be forward for parts of Stable Diffusion")
    other = options.compile or options.growth or options.peer is not None
    if other and not programs_of(options):
        parser.error(f"--what must have one of {', '.join(PROGRAMS)} in this form")
    return options


def set_up(options: Options) -> None:
    """Makes each core of a CPU a device, before JAX starts; one for all to parts."""
    if set(options.networks) <= set(SIZES):
        cpu_devices.use(1)
        return
    rows = math.gcd(*(options.batch or NETWORKS[name][2] for name in options.networks))
    cpu_devices.use(options.devices or Pmap().usable(cpu_devices.available(), rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
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
        print(markdown(rows) if options.markdown else table(rows))


if __name__ == "__main__":
    main()
