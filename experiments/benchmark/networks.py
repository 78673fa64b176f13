"""Networks to measure, in a number type, ready to train on random images."""

import argparse
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import jax
import numpy as np

import jaxdiff as jd
from experiments.benchmark.parts import SIZES, PartCase
from experiments.benchmark.rows import Measured
from jaxdiff.data import from_arrays
from jaxdiff.networks import DiTConfig
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Training
from jaxdiff.training.recipe import compiled_init, state_shapes

Options = argparse.Namespace
Network: TypeAlias = jd.UNetConfig | DiTConfig
NETWORKS: dict[str, tuple[tuple[int, int, int], Network, int, int]] = {
    "small": (
        (32, 32, 1),
        jd.UNetConfig(channels=64, multipliers=(1, 2, 2), attention=(8,), dropout=0.0),
        64,
        512,
    ),
    "cifar": ((32, 32, 3), jd.UNetConfig(dropout=0.0), 16, 256),
    "dit-s": ((16, 16, 4), DiTConfig(size="S", patch=2), 16, 256),
    "dit-b": ((16, 16, 4), DiTConfig(size="B", patch=2), 8, 256),
}
"""Image shape, network, and images per step on a CPU and on other devices."""
NUM_IMAGES = 1024
"""Number of random images to train on."""


def random_images(shape: tuple[int, int, int]) -> jd.data.Dataset:
    """Returns a dataset of random images of this shape, in memory and unlabelled."""
    rng = np.random.default_rng(0)
    return from_arrays(rng.integers(0, 256, (NUM_IMAGES, *shape), np.uint8))


@dataclass(frozen=True)
class Case(Measured):
    """Network in a number type, with its data and its training, on devices."""

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
        """Builds the case; `batch` defaults to --batch, then to the network's own."""
        shape, config, on_cpu, elsewhere = NETWORKS[network]
        usual = on_cpu if jax.default_backend() == "cpu" else elsewhere
        size = batch or options.batch or usual
        experiment = jd.Experiment(
            network=replace(config, dtype=dtype),
            parallel=parallel or Pmap(num_devices=options.devices),
            training=Training(batch_size=size, **more),
        )
        return cls(network, dtype, Trainer.of(experiment, random_images(shape)))

    @property
    def layout(self) -> Parallel:
        """Layout of the devices that share the batch."""
        return self.trainer.experiment.parallel

    @property
    def batch(self) -> int:
        """Number of images per step."""
        return self.trainer.experiment.training.batch_size

    @cached_property
    def state(self) -> Any:
        """Train state of step 0 on the devices, in the form of the layout's step."""
        init = compiled_init(self.trainer.recipe, self.layout)
        return self.layout.localize(init({}))

    @cached_property
    def forward_flops(self) -> float:
        """Number of operations of one network evaluation for the batch."""
        return count(self, "forward")


AnyCase: TypeAlias = Case | PartCase
"""Network that is trained, or a part whose evaluation alone is measured."""


def case_of(
    options: Options, network: str, dtype: str, *, batch: int | None = None
) -> AnyCase:
    """Returns a case; `batch` defaults to --batch, then to the network's own."""
    if network in SIZES:
        return PartCase(network, dtype, batch or options.batch or 1)
    return Case.of(options, network, dtype, batch=batch)


def cases_of(options: Options) -> list[tuple[str, str]]:
    """Returns the requested pairs of network and number type."""
    return list(itertools.product(options.networks, options.dtypes))


def evaluate(trainer: Trainer, params: Any, images: Any, times: Any) -> Any:
    """Evaluates the network once."""
    return trainer.model.network.apply({"params": params}, images, times)


def count(case: AnyCase, what: str) -> float:
    """Returns XLA's count of operations of "forward" or "train_step", for all devices.

    Nothing is compiled. XLA counts the program for a TPU on any machine.
    """
    fn: Callable[..., Any]
    arguments: tuple[Any, ...]
    if isinstance(case, PartCase):
        fn, arguments = case.evaluate, (case.params, *case.inputs)
    else:
        trainer = case.trainer
        state, batch = state_shapes(trainer.recipe), trainer.batch(0)
        fn, arguments = trainer.recipe.step, (state, batch)
        if what == "forward":
            fn, arguments = partial(evaluate, trainer), (state.params, *batch[::2])
    # Only the client of a CPU counts operations without compiling.
    with jax.default_device(cpu_device()):
        lowered: Any = jax.jit(fn).trace(*arguments).lower(lowering_platforms=("tpu",))
        return float(lowered.cost_analysis()["flops"])


def cpu_device() -> jax.Device:
    """Returns the CPU device of JAX.

    Raises:
        InputError: JAX_PLATFORMS excludes the CPU.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        kept = os.environ.get("JAX_PLATFORMS", "")
        raise jd.InputError(
            f"JAX_PLATFORMS must be unset or contain cpu, got {kept!r}. The benchmark "
            "counts operations on the CPU."
        ) from error
