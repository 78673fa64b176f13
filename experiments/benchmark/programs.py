"""Programs to time: a forward pass, a train step, a sampling loop, a product."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.benchmark.networks import AnyCase, Options, count, evaluate
from experiments.benchmark.parts import SIZES, PartCase
from experiments.benchmark.rows import Row, progress
from jaxdiff.parallel import Parallel

PROGRAMS = ("forward", "train_step", "sample")
MATMUL = {"cpu": 1024}
"""Number of rows and columns of the matrices of `of_matmul`; 8192 on other devices."""


@dataclass
class Program:
    """Program to time.

    Attributes:
        call: function that starts one call and returns the arrays to wait for.
        flops: function that returns the operations of one call, over all devices. It
            traces the program again, so call it only for a result that shows them.
        repeat: number of calls per timing.
        memory: memory per device after the first call, total and temporary.
    """

    call: Callable[[], Any]
    flops: Callable[[], float]
    repeat: int = 1
    memory: Row = field(default_factory=dict)

    def seconds(self) -> float:
        """Times `repeat` calls and returns the seconds per call."""
        start = time.perf_counter()
        for _ in range(self.repeat):
            result = self.call()
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / self.repeat

    def warm_up(self, repeat: int | None = None) -> None:
        """Compiles the program, reads its memory, and sets its number of repeats."""
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


def make(case: AnyCase, what: str, steps: int = 0) -> Program:
    """Returns one of PROGRAMS, not compiled yet; `steps` are sampling steps."""
    if isinstance(case, PartCase):
        return Program(case.forward(), partial(count, case, what))
    trainer, layout, batch = case.trainer, case.layout, case.trainer.batch(0)
    if what == "train_step":
        step = layout.step(trainer.recipe.step)
        state = jax.tree.map(jnp.copy, case.state)  # the step will overwrite it

        def call() -> Any:
            nonlocal state
            state, _ = step(state, batch)
            return state

        return Program(call, partial(count, case, what))
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
    """Places the rows on the devices; returns a function that maps `fn` over them."""
    devices = layout.devices
    split = [a.reshape(len(devices), -1, *a.shape[1:]) for a in rows]
    placed = [jax.pmap(lambda a: a, devices=devices)(a) for a in split]
    mapped = jax.pmap(fn, in_axes=(None, *[0] * len(rows)), devices=devices)
    return lambda shared: mapped(shared, *placed)


def matmul(layout: Parallel, dtype: str) -> Program:
    """Returns a product of square matrices on every device."""
    size, devices = MATMUL.get(jax.default_backend(), 8192), len(layout.devices)
    factors = np.random.default_rng(0).normal(size=(devices * size, size))
    run = on_each(lambda _, a: a @ a, layout, factors.astype(jnp.dtype(dtype)))
    return Program(partial(run, ()), lambda: 2.0 * size**3 * devices)


def in_turns(
    programs: dict[Any, Program], rounds: int, repeats: dict[Any, int] | None = None
) -> dict[Any, list[float]]:
    """Times all programs in rounds; returns the seconds per call of each."""
    times: dict[Any, list[float]] = {name: [] for name in programs}
    with progress(len(programs) * (rounds + 1)) as tick:
        for name, program in programs.items():
            program.warm_up((repeats or {}).get(name))
            tick()
        for name, program in list(programs.items()) * rounds:
            times[name].append(program.seconds())
            tick()
    return times


def programs_of(options: Options, network: str = "") -> list[str]:
    """Returns the requested programs; of a network, those that it has."""
    known = ("forward",) if network in SIZES else PROGRAMS
    return [what for what in options.what if what in known]
