"""Averages of any length, made after a run from what it kept."""

import dataclasses
import shutil
import warnings
from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.ema import gamma_of, post_hoc_error, post_hoc_weights
from jaxdiff.experiment import Training, Upkeep
from jaxdiff.job import Job
from tests.runs import TINY, same_bits

pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.xdist_group("averaged"),
]
STEPS = 32
LENGTHS = (0.08, 0.16)
CONFIG = dataclasses.replace(
    TINY,
    training=Training(num_steps=STEPS, batch_size=16, ema_lengths=LENGTHS),
    upkeep=Upkeep(log_every=8, checkpoint_every=8, keep=4, snapshots=16),
)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run that kept averages, and its parameters after each step, [steps, ...]."""
    workdir = tmp_path_factory.mktemp("averaged")
    states: list[Any] = []

    def advance(job, state, batches):
        state, metrics = real(job, state, batches)
        states.append(jax.device_get(state.params))
        return state, metrics

    real = Job.advance
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "advance", advance)
        jd.train(CONFIG, workdir, progress=False)
    return workdir, jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def by_brute_force(params, length, step):
    """The mean of the parameters after each step, by the profile's integral over it."""
    edges = (np.arange(step + 1) / step) ** (gamma_of(length) + 1)
    weights = np.diff(edges)
    return jax.tree.map(lambda a: np.tensordot(weights, a[:step], 1), params)


def apart(found, expected, params):
    """The largest difference, in deviations of the parameter over the run."""
    parts = jax.tree.map(
        lambda a, b, p: np.max(np.abs(a - b) / (p.std(0) + 1e-6)),
        found, expected, params,
    )  # fmt: skip
    return max(jax.tree.leaves(parts))


@pytest.mark.parametrize("step", [STEPS, 24])
@pytest.mark.parametrize("length", [0.08, 0.1, 0.13, 0.16])
def test_any_length_between_is_the_mean_of_the_steps(averaged, length, step):
    workdir, params = averaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = jd.load(workdir, step, ema=length)
    assert run.step == step
    expected = by_brute_force(params, length, step)
    assert apart(run.params, expected, params) < 0.02
    last = jax.tree.map(lambda a: a[step - 1], params)
    assert apart(last, expected, params) > 0.2


def test_a_length_that_was_kept_is_that(averaged):
    workdir, params = averaged
    for length in LENGTHS:
        run = jd.load(workdir, ema=length)
        expected = by_brute_force(params, length, STEPS)
        assert apart(run.params, expected, params) < 1e-3


def test_a_length_far_from_those_that_were_kept_is_told(averaged):
    with pytest.warns(UserWarning, match=r"length 0.01 is off by \d+% .* 0.08 0.16"):
        jd.load(averaged[0], ema=0.01)


def test_the_error_is_that_of_the_profiles():
    steps, gammas = [50, 50, 100, 100], [16.97, 6.94] * 2
    weights = post_hoc_weights(steps, gammas, 100, 3.0)
    times = (np.arange(200_000) + 0.5) / 200_000 * 100
    curves = [
        (g + 1) * (times / t) ** g / t * (times <= t)
        for t, g in zip([*steps, 100], [*gammas, 3.0], strict=True)
    ]
    missed = np.linalg.norm(weights @ curves[:-1] - curves[-1])
    expected = missed / np.linalg.norm(curves[-1])
    assert 0.05 < expected < 0.5
    found = post_hoc_error(steps, gammas, 100, 3.0, weights)
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_run_that_is_killed_keeps_the_same(averaged, tmp_path):
    """It had taken a snapshot of a step whose checkpoint was lost."""
    jd.train(CONFIG, tmp_path, until=11, progress=False)
    shutil.rmtree(tmp_path / "checkpoints" / "11")
    jd.train(CONFIG, tmp_path, progress=False)
    names = sorted(int(p.name) for p in (tmp_path / "snapshots").iterdir())
    assert names == list(range(2, STEPS + 1, 2))
    assert same_bits(
        jd.load(tmp_path, ema=0.1).params, jd.load(averaged[0], ema=0.1).params
    )


def test_a_damaged_snapshot_is_named(averaged, tmp_path):
    workdir = shutil.copytree(averaged[0], tmp_path / "copy")
    largest = max(
        (p for p in (workdir / "snapshots" / "4").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    largest.write_bytes(b"other" + largest.read_bytes()[5:])
    with pytest.raises(jd.InputError, match=r"snapshots/4' is damaged"):
        jd.load(workdir, ema=0.1)


def test_what_has_no_averages_is_refused(averaged, finished):
    with pytest.raises(jd.InputError, match=r"kept no averages .* --training.ema-len"):
        jd.load(finished[0], ema=0.1)
    with pytest.raises(jd.InputError, match=r"must lie in \(0, 0.288\).* got 0.5"):
        jd.load(averaged[0], ema=0.5)
