"""How fast is it? Images a second, memory, compiling, and what the loops around cost.

    python experiments/benchmark.py                 speeds, memory and utilisation
    python experiments/benchmark.py --compile       from the start to the first step
    python experiments/benchmark.py --growth        against batch size and chain length
    python experiments/benchmark.py --peer COMMAND  against another program, in turns

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
import functools
import importlib.util
import itertools
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any
from unittest import mock

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.cli.progress import bar
from jaxdiff.data import from_arrays
from jaxdiff.parallel import Parallel, Pmap, Sharded, cpu_devices
from jaxdiff.runs import provenance
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.initialize import init_state

Options = argparse.Namespace
Row = dict[str, Any]
Tell = Callable[[Row], None]

NETWORKS: dict[str, tuple[tuple[int, int, int], jd.UNetConfig, int, int]] = {
    "small": (
        (32, 32, 1),
        jd.UNetConfig(channels=64, multipliers=(1, 2, 2), attention=(8,), dropout=0.0),
        64,
        512,
    ),
    "cifar": ((32, 32, 3), jd.UNetConfig(dropout=0.0), 16, 256),
}
"""Image shape, network, and images a step: on a CPU, and on other devices."""
PROGRAMS = ("forward", "train_step", "sample")
WHAT = (*PROGRAMS, "layouts", "trainer", "feed")
FED = 50
"""Batches of one timing of the feed, its start included."""
PEAKS = {
    "h100 pcie": 756e12, "h100": 989e12, "h200": 989e12, "a100": 312e12,
    "tpu v4": 275e12, "tpu v5 lite": 197e12, "tpu v5e": 197e12, "tpu v5": 459e12,
    "tpu v6": 918e12,
}  # fmt: skip
"""Dense bfloat16 operations a second of a device, the first whose name has this in it:
NVIDIA's data sheets of A100, H100 and H200; Google Cloud's pages of its TPUs."""
MATMUL = {"cpu": 1024}
"""Rows and columns of the matrices of `of_matmul`; 8192 on other devices."""
NOT_SHOWN = ("on", "gflop_per_image", "temp_mb", "saved_every", "pairs")
"""What of a JSON line is not in the table."""


@dataclass(frozen=True, kw_only=True)
class Noise(jd.data.Digits):
    """Random images in memory, where an experiment has its data."""

    shape: tuple[int, ...] = (32, 32, 1)
    size: int = 1024

    def load(self, split: str = "train") -> jd.data.Dataset:
        """The images, uint8 and without classes; the same for each split."""
        shape = (self.size, *self.shape)
        return from_arrays(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@dataclass(frozen=True, kw_only=True)
class Alternating(Pmap):
    """Pmap whose step, between segments of a training, takes as many bare steps.

    They are steps of the same compiled function, from a copy of the state, all of one
    batch: a single run gives the times of the loop, and of the step by itself.
    """

    segment: int

    @property
    def first(self) -> int:
        """The step before which the first bare segment is, when all is warm."""
        return self.segment + self.segment // 2

    @cached_property
    def times(self) -> dict[str, list[float]]:
        """Seconds a step of each segment: a bare one is on both sides of a loop's."""
        return {"bare": [], "loop": []}

    def step(self, fn: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Compiles `fn`; see `Pmap.step`."""
        compiled, count, start = super().step(fn), 0, 0.0
        bare: Any = None

        def ended(segment: str) -> None:
            nonlocal start
            now = time.perf_counter()
            self.times[segment].append((now - start) / self.segment)
            start = now

        def run(state: Any, batch: Any) -> tuple[Any, Any]:
            nonlocal count, start, bare
            done = count - self.first
            if done >= 0 and done % self.segment == 0:
                jax.block_until_ready(state)
                if done:
                    ended("loop")
                else:
                    bare = jax.block_until_ready(jax.tree.map(jnp.copy, state))
                    start = time.perf_counter()
                for _ in range(self.segment):
                    bare, _ = compiled(bare, batch)
                jax.block_until_ready(bare)
                ended("bare")
            count += 1
            return compiled(state, batch)

        return run


@dataclass(frozen=True, kw_only=True)
class OfNoise(jd.Experiment):
    """An experiment on such images, maybe compared with its bare step."""

    data: Noise = field(default_factory=Noise)
    parallel: Pmap | Sharded | Alternating = field(default_factory=Pmap)


@dataclass(frozen=True)
class Case:
    """A network in a type of numbers, with its data and its training, on devices."""

    network: str
    dtype: str
    trainer: Trainer

    @classmethod
    def of(
        cls,
        options: Options,
        network: str,
        dtype: Any,
        *,
        batch: int | None = None,
        parallel: Parallel | None = None,
        **more: Any,
    ) -> "Case":
        """The case; without a batch, that of the options, or else of the network."""
        shape, config, on_cpu, elsewhere = NETWORKS[network]
        usual = on_cpu if jax.default_backend() == "cpu" else elsewhere
        size = batch or options.batch or usual
        experiment = OfNoise(
            data=Noise(shape=shape), network=replace(config, dtype=dtype),
            parallel=parallel or Pmap(num_devices=options.devices),
            training=Training(batch_size=size, **more),
        )  # fmt: skip
        return cls(network, dtype, Trainer.of(experiment))

    @property
    def layout(self) -> Parallel:
        """How the devices share the batch."""
        return self.trainer.experiment.parallel

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.trainer.experiment.training.batch_size

    @cached_property
    def state(self) -> Any:
        """That of step 0 on the devices, as the layout's step takes it."""
        init = partial(init_state, self.trainer.experiment, self.trainer.info)
        shardings = self.layout.shardings(jax.eval_shape(init))
        return self.layout.localize(jax.jit(init, out_shardings=shardings)())

    @cached_property
    def forward_flops(self) -> float:
        """Operations of one evaluation of the network for the batch."""
        return count(self.trainer, "forward")

    def row(self, what: str, **more: Any) -> Row:
        """The head of a row, and more."""
        head = {"what": what, "network": self.network, "dtype": self.dtype}
        return {**head, "batch": self.batch, **more}


@dataclass
class Program:
    """Something to time.

    Attributes:
        call: starts it once, and gives what to wait for.
        flops: counts the operations of one call, over all devices. That traces it
            once more, so only who shows them asks.
        repeat: calls of one timing.
        memory: of each device, once it was called: all, and temporary arrays.
    """

    call: Callable[[], Any]
    flops: Callable[[], float]
    repeat: int = 1
    memory: Row = field(default_factory=dict)

    def seconds(self) -> float:
        """Of one call, from `repeat` of them."""
        start = time.perf_counter()
        for _ in range(self.repeat):
            result = self.call()
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / self.repeat

    def warm_up(self, repeat: int | None = None) -> None:
        """Compiles it, looks at its memory, and finds how often to repeat it."""
        client = jax.local_devices()[0].client
        before = set(client.live_executables())
        self.seconds()
        new = set(client.live_executables()) - before
        stats = [program.get_compiled_memory_stats() for program in new]
        if stats:
            s = max(stats, key=lambda s: s.temp_size_in_bytes)
            total = s.temp_size_in_bytes + s.argument_size_in_bytes
            total += s.output_size_in_bytes - s.alias_size_in_bytes
            self.memory["memory_mb"] = total / 1e6
            self.memory["temp_mb"] = s.temp_size_in_bytes / 1e6
        self.repeat = repeat or max(1, min(1000, math.ceil(0.2 / self.seconds())))


def count(trainer: Trainer, what: str) -> float:
    """XLA's count of operations of a "forward" or a "train_step", over all devices.

    Nothing is compiled; the program counted is that for a TPU, whatever there is here.
    """
    state = jax.eval_shape(partial(init_state, trainer.experiment, trainer.info))
    batch = trainer.batch(0)
    arguments: tuple[Any, ...] = (state, batch)
    fn: Callable[..., Any] = partial(jd.train_step, **trainer.recipe.options)
    if what == "forward":
        fn, arguments = partial(evaluate, trainer), (state.params, *batch[::2])
    # Only a CPU's client counts the operations of a program that is not compiled.
    with jax.default_device(cpu_device()):
        lowered: Any = jax.jit(fn).trace(*arguments).lower(lowering_platforms=("tpu",))
        return float(lowered.cost_analysis()["flops"])


def cpu_device() -> jax.Device:
    """A CPU of this machine, as JAX knows it.

    Raises:
        InputError: JAX_PLATFORMS keeps JAX from it.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        kept = os.environ.get("JAX_PLATFORMS", "")
        raise jd.InputError(
            f"the benchmark counts operations on the CPU: JAX_PLATFORMS must be unset "
            f"or have cpu in it; got {kept!r}"
        ) from error


def evaluate(trainer: Trainer, params: Any, images: Any, times: Any) -> Any:
    """One evaluation of the network."""
    return trainer.model.network.apply({"params": params}, images, times)


def make(case: Case, what: str, steps: int = 0) -> Program:
    """One of PROGRAMS, not compiled yet; `steps` are the chain's."""
    trainer, layout, batch = case.trainer, case.layout, case.trainer.batch(0)
    if what == "train_step":
        step = layout.step(partial(jd.train_step, **trainer.recipe.options))
        state = jax.tree.map(jnp.copy, case.state)  # the step will overwrite it

        def call() -> Any:
            nonlocal state
            state, _ = step(state, batch)
            return state

        return Program(call, partial(count, trainer, what))
    params = case.state.params
    if what == "forward":
        run = on_each(partial(evaluate, trainer), layout, *batch[::2])
        return Program(partial(run, params), lambda: case.forward_flops)
    ddim = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=steps))

    def draw(params: Any, indices: Any) -> Any:
        shape, key = (len(indices), *trainer.info.image_shape), jax.random.key(0)
        denoiser = jd.bind(trainer.model.network, params)
        return jd.sample(
            denoiser, ddim, trainer.model.schedule, key, shape, indices=indices
        )

    run = on_each(draw, layout, batch.indices)
    return Program(partial(run, params), lambda: steps * case.forward_flops)


def on_each(fn: Callable[..., Any], layout: Parallel, *rows: Any) -> Callable[..., Any]:
    """`fn(shared, *rows)` on every device, of rows that lie there already."""
    devices = layout.devices
    split = [a.reshape(len(devices), -1, *a.shape[1:]) for a in rows]
    placed = [jax.pmap(lambda a: a, devices=devices)(a) for a in split]
    mapped = jax.pmap(fn, in_axes=(None, *[0] * len(rows)), devices=devices)
    return lambda shared: mapped(shared, *placed)


def matmul(layout: Parallel, dtype: str) -> Program:
    """A square product of matrices on every device."""
    size, devices = MATMUL.get(jax.default_backend(), 8192), len(layout.devices)
    factors = np.random.default_rng(0).normal(size=(devices * size, size))
    run = on_each(lambda _, a: a @ a, layout, factors.astype(jnp.dtype(dtype)))
    return Program(partial(run, ()), lambda: 2.0 * size**3 * devices)


def in_turns(
    programs: dict[Any, Program], rounds: int, repeats: dict[Any, int] | None = None
) -> dict[Any, list[float]]:
    """Seconds of a call of each program, in so many rounds of all of them."""
    times: dict[Any, list[float]] = {name: [] for name in programs}
    with progress(len(programs) * (rounds + 1)) as tick:
        for name, program in programs.items():
            program.warm_up((repeats or {}).get(name))
            tick()
        for name, program in list(programs.items()) * rounds:
            times[name].append(program.seconds())
            tick()
    return times


def middle(values: Sequence[float], name: str) -> Row:
    """The median under this name, and the quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {name: median, "low": low, "high": high}


def ratio(own: Sequence[float], other: Sequence[float], other_is: str) -> Row:
    """How many times as fast as the other, from the seconds of both, pair by pair."""
    pairs = [b / a for a, b in zip(own, other, strict=True)]
    return {**middle(pairs, "ratio"), "ratio_to": other_is}


def peak_of(options: Options, dtype: str) -> float | None:
    """Operations a second that a device can do, where that is known.

    By default a GPU takes float32 as TF32, at half the speed, a TPU as bfloat16.
    """
    if options.peak_tflops:
        return 1e12 * options.peak_tflops
    kind = jax.devices()[0].device_kind.lower()
    peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
    halved = dtype == "float32" and jax.default_backend() == "gpu"
    return peak / 2 if peak and halved else peak


def cases_of(options: Options) -> list[tuple[str, str]]:
    """The networks and types asked for."""
    return list(itertools.product(options.networks, options.dtypes))


def programs_of(options: Options) -> list[str]:
    """The programs asked for."""
    return [what for what in options.what if what in PROGRAMS]


def speeds(options: Options, tell: Tell) -> None:
    """The default form."""
    for network, dtype in cases_of(options) if programs_of(options) else ():
        say(f"{network}, {dtype}: makes {', '.join(programs_of(options))}")
        speeds_of(options, tell, Case.of(options, network, dtype))
    if "layouts" in options.what:
        layouts(options, tell)
    if "trainer" in options.what:
        trainer(options, tell)
    if "feed" in options.what:
        feed(options, tell)


def speeds_of(options: Options, tell: Tell, case: Case) -> None:
    """The rows of one network and type; all programs in turns."""
    names, steps = programs_of(options), options.steps
    programs = {what: make(case, what, steps) for what in names}
    programs["matmul"] = matmul(case.layout, case.dtype)
    repeats = {"forward": steps} if "sample" in names else {}
    flops = {what: program.flops() for what, program in programs.items()}
    times = in_turns(programs, options.rounds, repeats)
    rates = {what: flops[what] / statistics.median(times[what]) for what in programs}
    peak = peak_of(options, case.dtype)
    for what in names:
        seconds = statistics.median(times[what])
        row = case.row(
            what, seconds=seconds, images_per_s=case.batch / seconds,
            gflop_per_image=flops[what] / case.batch / 1e9,
            tflop_per_s=rates[what] / 1e12, of_matmul=rates[what] / rates["matmul"],
            **programs[what].memory,
        )  # fmt: skip
        if peak:
            row["mfu"] = rates[what] / peak / len(case.layout.devices)
        if what == "sample":
            row |= {"steps": steps, "evaluations_per_s": steps * case.batch / seconds}
            if "forward" in names:
                loop = [steps * forward for forward in times["forward"]]
                row |= ratio(times[what], loop, "forwards")
        tell(row)


def layouts(options: Options, tell: Tell) -> None:
    """The train step by Sharded and by Pmap, of the first network and type."""
    say("layouts: makes train_step by pmap and by sharded")
    pmap = Pmap(num_devices=options.devices)
    both: tuple[Parallel, ...] = (pmap, Sharded(fsdp=len(pmap.devices)))
    cases = [Case.of(options, *cases_of(options)[0], parallel=each) for each in both]
    programs = {type(c.layout): make(c, "train_step") for c in cases}
    times = in_turns(programs, options.rounds)
    seconds = statistics.median(times[Sharded])
    row = cases[1].row(
        "layouts", seconds=seconds, images_per_s=cases[1].batch / seconds
    )
    tell(
        {
            **row,
            **programs[Sharded].memory,
            **ratio(times[Sharded], times[Pmap], "pmap"),
        }
    )


def trainer(options: Options, tell: Tell) -> None:
    """The whole loop against its bare step, of the first network and type.

    Every second segment has a checkpoint in its middle: the ratio is of the others, and
    what a checkpoint adds is told beside it.
    """
    if lacks("trainer", "tqdm", "orbax", "cattrs", "grain"):
        return
    segment = options.segment or (4 if jax.default_backend() == "cpu" else 100)
    layout = Alternating(num_devices=options.devices, segment=segment)
    end = layout.first + 2 * options.rounds * segment + 1
    first = cases_of(options)[0]
    case = Case.of(options, *first, parallel=layout, num_steps=end)
    upkeep = Upkeep(log_every=max(1, segment // 2), checkpoint_every=2 * segment)
    with tempfile.TemporaryDirectory() as folder:
        jd.train(replace(case.trainer.experiment, upkeep=upkeep), folder)
    bare, loop = layout.times["bare"], layout.times["loop"]
    around = [(a + b) / 2 for a, b in itertools.pairwise(bare)]
    seconds, every = statistics.median(loop[1::2]), Upkeep().checkpoint_every
    saving = segment * (statistics.median(loop[::2]) - seconds)
    row = case.row(
        "trainer", seconds=seconds, images_per_s=case.batch / seconds, segment=segment,
        **ratio(loop[1::2], around[1::2], "its step"),
    )  # fmt: skip
    saved = row["ratio"] / (1 + saving / (every * seconds))
    tell({**row, "checkpoint_s": saving, "saved_every": every, "ratio_saved": saved})


def lacks(what: str, *packages: str) -> bool:
    """Whether a package is missing; says so."""
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing:
        say(f"{what} is left out: it needs {missing[0]}, of jaxdiff[experiments]")
    return bool(missing)


def feed(options: Options, tell: Tell) -> None:
    """Batches against the step that takes them, of the first network and type."""
    if lacks("feed", "tqdm", "grain", "tensorflow_datasets", "PIL"):
        return
    case = Case.of(options, *cases_of(options)[0])
    experiment, images = (
        case.trainer.experiment,
        np.asarray(case.trainer.dataset.images),
    )
    height, _, channels = case.trainer.info.image_shape
    pictures = importlib.import_module("PIL.Image")
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"JAXDIFF_CACHE": f"{folder}/.cache"}),
    ):
        for i, image in enumerate(images):
            pixels = image[..., 0] if channels == 1 else image
            pictures.fromarray(pixels).save(f"{folder}/{i:05}.png", compress_level=1)
        on_disk = jd.data.ImageFolder(
            path=folder,
            size=height,
            channels=1 if channels == 1 else 3,
            held_out=0.0,
            stream=True,
        ).load()
        jobs = {"memory": case.trainer, "disk": Trainer.of(experiment, on_disk)}
        programs = {
            name: Program(partial(fed, trainer), lambda: 0.0)
            for name, trainer in jobs.items()
        }
        programs["train_step"] = make(case, "train_step")
        times = in_turns(programs, options.rounds, dict.fromkeys(jobs, 1))
    for name in jobs:
        seconds = [time / FED for time in times[name]]
        middle_one = statistics.median(seconds)
        row = case.row(
            "feed", source=name, seconds=middle_one,
            images_per_s=case.batch / middle_one,
        )  # fmt: skip
        tell({**row, **ratio(seconds, times["train_step"], "train_step")})


def fed(trainer: Trainer) -> Any:
    """Takes all batches of some steps, on the devices; the last ones."""
    ((_, batches),) = deque(trainer.feed(0, FED), maxlen=1)
    return batches


def growth(options: Options, tell: Tell) -> None:
    """Time an image against batch size, and a chain's time and memory against steps."""
    devices = len(Pmap(num_devices=options.devices).devices)
    for network, dtype in cases_of(options):
        most = Case.of(options, network, dtype).batch
        doubled = [devices * 2**i for i in range(most.bit_length())]
        sizes = [size for size in doubled if size <= most]
        keys: list[tuple[str, int, int]] = []
        for what in programs_of(options):
            if what == "sample":
                keys += [(what, options.batch or devices, n) for n in options.lengths]
            else:
                keys += [(what, size, 0) for size in sizes]
        cases = {key: Case.of(options, network, dtype, batch=key[1]) for key in keys}
        say(f"{network}, {dtype}: makes {len(keys)} programs")
        programs = {key: make(cases[key], key[0], key[2]) for key in keys}
        times = in_turns(programs, options.rounds)
        for key in keys:
            what, size, steps = key
            row = cases[key].row(what, **middle(times[key], "seconds"))
            row |= {"s_per_image": row["seconds"] / size, **programs[key].memory}
            if steps:
                row |= {"steps": steps, "s_per_step": row["seconds"] / steps}
            tell(row)


def first_call(options: Options) -> Row:
    """Compiles and calls one program, as a process that has just started does."""
    case, what = Case.of(options, *cases_of(options)[0]), programs_of(options)[0]
    program, compiled = make(case, what, options.steps), [0.0]

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    total, seconds = program.seconds(), sum(compiled)
    runs = program.seconds()
    traces = max(0.0, total - seconds - runs)
    return case.row(
        what, total_s=total, trace_and_lower_s=traces, compile_s=seconds, run_s=runs
    )


def compiling(options: Options, tell: Tell) -> None:
    """The time to a first step, with an empty persistent cache and with a full one."""
    keys = list(itertools.product(cases_of(options), programs_of(options)))
    given = {"--batch": options.batch, "--devices": options.devices}
    with progress(2 * len(keys)) as tick:
        for (network, dtype), what in keys:
            line = [sys.executable, __file__, "--first-call", "--networks", network]
            line += ["--dtypes", dtype, "--what", what, "--steps", str(options.steps)]
            line += [str(x) for pair in given.items() if pair[1] for x in pair]
            with tempfile.TemporaryDirectory() as folder:
                env = {
                    **os.environ, "JAX_COMPILATION_CACHE_DIR": folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                }  # fmt: skip
                for cache in ("empty", "full"):
                    printed = output_of(line, env).splitlines()
                    tell({**json.loads(printed[-1]), "cache": cache})
                    tick()


def output_of(line: Sequence[str], env: dict[str, str] | None = None) -> str:
    """What a program prints.

    Raises:
        InputError: it cannot be started, or fails.
    """
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, env=env, check=False
        )
    except (OSError, ValueError) as error:
        raise jd.InputError(f"cannot run {line[0]!r}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise jd.InputError(f"{line[0]!r} ended with code {done.returncode}: {last}")
    return done.stdout


def peer_rows(options: Options) -> dict[tuple[Any, ...], float]:
    """The images a second that another program prints.

    Returns:
        By (network, mode, dtype, what, batch); lines of other networks, types and
        programs than asked for are left out.

    Raises:
        InputError: there are none, or it fails.
    """
    try:
        line = shlex.split(options.peer)
    except ValueError as error:
        raise jd.InputError(f"--peer cannot be read: {error}") from error
    if not line:
        raise jd.InputError("--peer needs a command; got none")
    seen: list[Row] = []
    for text in output_of(line).splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(text)
            if isinstance(row, dict) and "images_per_s" in row:
                seen.append(row)
    found = {}
    for row in seen:
        network = row.get("config", options.networks[0])
        dtype = row.get("dtype", options.dtypes[0])
        what = row.get("what", programs_of(options)[0])
        rate, batch = row["images_per_s"], row.get("batch")
        if not (isinstance(rate, int | float) and 0 < rate < math.inf):
            raise jd.InputError(
                f"the peer's images_per_s must be above 0; got {rate!r}"
            )
        if batch is not None and not (type(batch) is int and batch > 0):
            raise jd.InputError(f"the peer's batch must be at least 1; got {batch!r}")
        if (network, dtype) in cases_of(options) and what in programs_of(options):
            found[network, str(row.get("mode", "")), dtype, what, batch] = float(rate)
    if not found:
        reason = "none is of what is asked for" if seen else "there are none"
        raise jd.InputError(
            f"the peer must print JSON lines with images_per_s; {reason}"
        )
    return found


def against_peer(options: Options, tell: Tell) -> None:
    """The other program, and this one at the same batch, in turns."""
    # The other one needs room on the device, too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    made: dict[Any, tuple[Case, Program]] = {}
    theirs: dict[Any, list[float]] = {}
    ours: dict[Any, list[float]] = {}
    with progress(options.pairs) as tick:
        for _ in range(options.pairs):
            measured: dict[Any, float] = {}
            for row, rate in peer_rows(options).items():
                network, _, dtype, what, batch = row
                key = (network, dtype, what, batch)
                if key not in made:
                    case = Case.of(options, network, dtype, batch=batch)
                    made[key] = case, make(case, what, options.steps)
                    made[key][1].warm_up()
                case, program = made[key]
                if key not in measured:
                    calls = [program.seconds() for _ in range(options.rounds)]
                    measured[key] = statistics.median(calls) / case.batch
                theirs.setdefault(row, []).append(1 / rate)
                ours.setdefault(row, []).append(measured[key])
            tick()
    for row, own in ours.items():
        network, mode, dtype, what, batch = row
        case, _ = made[network, dtype, what, batch]
        speed, other = (1 / statistics.median(x) for x in (own, theirs[row]))
        tell(
            case.row(
                what, peer_mode=mode, images_per_s=speed, peer_images_per_s=other,
                **ratio(own, theirs[row], "the peer"), pairs=len(own),
            )
        )  # fmt: skip


@functools.cache
def here() -> Row:
    """What measured: the machine, its devices, the versions and the code."""
    start = provenance.start()
    kept = ("time", "machine", "devices", "versions", "code")
    return {"cores": os.cpu_count(), **{name: start[name] for name in kept}}


def table(rows: Sequence[Row]) -> str:
    """Rows of text, with the columns that any of them has."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in names if name not in NOT_SHOWN]

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = [columns, *[[cell(row.get(name, "-")) for name in columns] for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def say(text: str) -> None:
    """A line for who waits, apart from the results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Shows how many measurements are done: a bar, or lines where there is no tqdm."""
    done = itertools.count(1)
    if importlib.util.find_spec("tqdm"):
        with bar(total, "benchmark", "measurement") as show:
            yield lambda: show(next(done))
    else:
        yield lambda: say(f"{next(done)} of {total} measurements")


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
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
