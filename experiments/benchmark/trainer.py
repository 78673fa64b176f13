"""The trainer against its bare step, and its data against the step."""

import contextlib
import importlib.util
import itertools
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.benchmark.networks import Case, Options, cases_of
from experiments.benchmark.programs import Program, in_turns, make
from experiments.benchmark.rows import Tell, ratio, say
from jaxdiff.errors import require
from jaxdiff.runs.train import run_training
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Upkeep

FED = 50
"""Number of batches per timing of the feed, including its start."""


class Alternating:
    """Trainer that alternates segments of its loop with segments of bare steps.

    Bare steps call the same compiled function on a copy of the state, all with one
    batch. So a single run measures both the loop and the step alone.

    Attributes:
        trainer: the wrapped trainer; its other attributes are available here too.
        segment: number of steps per segment.
        first: step before which the first bare segment runs, after the warm-up.
        times: seconds per step of each segment, in lists "bare" and "loop"; each loop
            segment lies between two bare ones.
    """

    def __init__(self, trainer: Trainer, segment: int, first: int) -> None:
        self.trainer, self.segment, self.first = trainer, segment, first
        self.times: dict[str, list[float]] = {"bare": [], "loop": []}
        self._count, self._start = 0, 0.0
        self._bare: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)

    def advance(self, state: Any, batches: Any) -> tuple[Any, Any]:
        """Runs a step of the loop, after a bare segment if one is due."""
        done = self._count - self.first
        if done >= 0 and done % self.segment == 0:
            jax.block_until_ready(state)
            if done:
                self._ended("loop")
            else:
                self._bare = jax.block_until_ready(jax.tree.map(jnp.copy, state))
                self._start = time.perf_counter()
            for _ in range(self.segment):
                self._bare, _ = self.trainer.advance(self._bare, batches)
            jax.block_until_ready(self._bare)
            self._ended("bare")
        self._count += 1
        return self.trainer.advance(state, batches)

    def _ended(self, segment: str) -> None:
        now = time.perf_counter()
        self.times[segment].append((now - self._start) / self.segment)
        self._start = now


def trainer(options: Options, tell: Tell) -> None:
    """Measures the whole loop against its bare step, of the first network and type.

    Every second segment has a checkpoint in its middle. The ratio is computed from the
    other segments; the row also has the time that a checkpoint adds.
    """
    if lacks("trainer", "tqdm", "orbax", "cattrs", "grain"):
        return
    segment = options.segment or (4 if jax.default_backend() == "cpu" else 100)
    first = segment + segment // 2
    end = first + 2 * options.rounds * segment + 1
    case = Case.of(options, *cases_of(options)[0], num_steps=end)
    upkeep = Upkeep(log_every=max(1, segment // 2), checkpoint_every=2 * segment)
    experiment = replace(case.trainer.experiment, upkeep=upkeep)
    job: Any = Alternating(Trainer.of(experiment, case.trainer.dataset), segment, first)
    with tempfile.TemporaryDirectory() as folder:
        run_training(job, folder)
    bare, loop = job.times["bare"], job.times["loop"]
    around = [(a + b) / 2 for a, b in itertools.pairwise(bare)]
    seconds, every = statistics.median(loop[1::2]), Upkeep().checkpoint_every
    saving = segment * (statistics.median(loop[::2]) - seconds)
    row = case.row(
        "trainer", seconds=seconds, images_per_s=case.batch / seconds, segment=segment,
        **ratio(loop[1::2], around[1::2], "its step"),
    )  # fmt: skip
    saved = row["ratio"] / (1 + saving / (every * seconds))
    tell({**row, "checkpoint_s": saving, "saved_every": every, "ratio_saved": saved})


def feed(options: Options, tell: Tell) -> None:
    """Measures the feed of batches against the step, of the first network and type."""
    if lacks("feed", "tqdm", "grain", "tensorflow_datasets", "PIL"):
        return
    case = Case.of(options, *cases_of(options)[0])
    images = np.asarray(case.trainer.dataset.images)
    height, _, channels = case.trainer.info.image_shape
    pictures = require("PIL.Image")
    with tempfile.TemporaryDirectory() as folder, cache_in(f"{folder}/.cache"):
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
        streaming = Trainer.of(case.trainer.experiment, on_disk)
        jobs = {"memory": case.trainer, "disk": streaming}
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


@contextlib.contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Makes this folder the cache of prepared data inside the context."""
    name = "JAXDIFF_CACHE"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def fed(trainer: Trainer) -> Any:
    """Reads all batches of FED steps onto the devices; returns the last ones."""
    ((_, batches),) = deque(trainer.feed(0, FED), maxlen=1)
    return batches


def lacks(what: str, *packages: str) -> bool:
    """Returns True if a package is missing, and prints its name."""
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing:
        say(f"{what} is skipped: it needs {missing[0]}, of jaxdiff[experiments]")
    return bool(missing)
