"""Equal requests compile once, and `load` reads the average alone."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.checkpoints import Checkpoints
from tests.helpers.compilations import compilations
from tests.helpers.runs import TINY

pytestmark = pytest.mark.usefixtures("standard_promotion")
GUIDED = dataclasses.replace(
    TINY, network=dataclasses.replace(TINY.network, label_dropout=0.1)
)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """Folder of a run that can be guided."""
    workdir = tmp_path_factory.mktemp("guided")
    with jax.numpy_dtype_promotion("standard"):
        jd.train(GUIDED, workdir, progress=False)
    return workdir


def test_equal_calls_of_generate_compile_once(guided):
    run = jd.load(guided)
    labels, sampling = np.arange(8), GUIDED.sampling

    def drawn(labels=labels, seed=0, run=run, **changes):
        how = dataclasses.replace(sampling, **changes)
        return run.generate(labels, 8, seed, sampling=how)

    first = drawn()
    with compilations() as count:
        np.testing.assert_array_equal(drawn(), first)
        np.testing.assert_array_equal(drawn(), first)
        drawn(seed=1)
        drawn(labels=labels[::-1].copy())
        np.testing.assert_array_equal(drawn(run=jd.load(guided)), first)
    assert count() == 0
    first = drawn(guidance=2.0, sampler=jd.DDIM(eta=0.5, spacing=TEN))
    with compilations() as count:
        other = drawn(guidance=3.0, sampler=jd.DDIM(eta=0.5, spacing=TEN))
        more = drawn(guidance=2.0, sampler=jd.DDIM(eta=0.1, spacing=TEN))
    assert count() == 0
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, more)


TEN = jd.spacing.Trailing(num_steps=10)


def test_a_second_equal_trainer_compiles_nothing(tmp_path):
    for name in ("first", "second"):
        with compilations() as count:
            trainer = Trainer.of(TINY)
            state = trainer.initial_state(Checkpoints(tmp_path / name), None)
            state = TINY.parallel.localize(state)
            for _, batches in trainer.feed(0, 3):
                state, _ = trainer.advance(state, batches)
            jax.block_until_ready(state)
    assert count() == 0


def test_a_second_equal_training_compiles_nothing(guided, tmp_path):
    with compilations() as count:
        jd.train(GUIDED, tmp_path, progress=False)
    assert count() == 0


def test_load_reads_the_average_alone(guided, monkeypatch):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(jd.load(guided).params))
    read = []
    real = Checkpoints.restore

    def restore(self, *args, **options):
        found = real(self, *args, **options)
        read.append(sum(leaf.nbytes for leaf in jax.tree.leaves(found)))
        return found

    monkeypatch.setattr(Checkpoints, "restore", restore)
    jd.load(guided)
    assert read == [pytest.approx(size, rel=0.05)]
