"""Post-hoc EMA: averages of any length, made after a run from its snapshots."""

import contextlib
import dataclasses
import io
import json
import shutil
import sys
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.evaluation.features import Pixels
from jaxdiff.evaluation.fidelity import Comparison
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.ema import gamma_of, post_hoc_error, post_hoc_weights
from jaxdiff.training.experiment import Training, Upkeep
from tests.helpers.runs import OWN, TINY, same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
STEPS = 32
LENGTHS = (0.08, 0.16)


def averaging(steps, snapshots):
    """Returns an experiment that saves `snapshots` snapshots of its averages."""
    return dataclasses.replace(
        TINY,
        training=Training(num_steps=steps, batch_size=16, ema_lengths=LENGTHS),
        upkeep=Upkeep(log_every=8, checkpoint_every=8, keep=4, snapshots=snapshots),
    )


CONFIG, FOR_COMMANDS = averaging(STEPS, 16), averaging(8, 2)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """Folder of a run with snapshots; its parameters after each step [steps, ...]."""
    workdir = tmp_path_factory.mktemp("averaged")
    states: list[Any] = []

    def advance(trainer, state, batches):
        state, metrics = real(trainer, state, batches)
        states.append(jax.device_get(state.params))
        return state, metrics

    real = Trainer.advance
    with jax.numpy_dtype_promotion("standard"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", advance)
        jd.train(CONFIG, workdir, network=OWN, progress=False)
    return workdir, jax.tree.map(lambda *leaves: np.stack(leaves), *states)


@pytest.fixture(scope="module")
def of_u_net(tmp_path_factory):
    """Folder of a U-Net's run with snapshots, for the commands."""
    workdir = tmp_path_factory.mktemp("of-u-net")
    trained(workdir, FOR_COMMANDS)
    return workdir


def by_brute_force(params, length, step):
    """Returns the mean of the parameters, weighted by the profile's integrals."""
    edges = (np.arange(step + 1) / step) ** (gamma_of(length) + 1)
    weights = np.diff(edges)
    return jax.tree.map(lambda a: np.tensordot(weights, a[:step], 1), params)


def apart(found, expected, params):
    """Returns the largest difference, in deviations of each parameter over the run.

    The parameters of the null class, which is never drawn here, do not vary.
    """

    def of_leaf(a, b, p):
        scale = np.where(np.ptp(p, axis=0) > 0, p.std(0), 0.01 * np.abs(b))
        return np.max(np.abs(a - b) / (scale + 1e-6))

    parts = jax.tree.map(of_leaf, found, expected, params)
    return max(jax.tree.leaves(parts))


@pytest.mark.parametrize(("length", "step"), [(0.1, STEPS), (0.13, STEPS), (0.1, 24)])
def test_any_length_between_is_the_mean_of_the_steps(averaged, length, step):
    workdir, params = averaged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = jd.load(workdir, step, ema=length, network=OWN)
    assert run.step == step
    expected = by_brute_force(params, length, step)
    assert apart(run.params, expected, params) < 0.02
    last = jax.tree.map(lambda a: a[step - 1], params)
    assert apart(last, expected, params) > 0.2


def test_a_length_that_was_kept_is_that(averaged):
    workdir, params = averaged
    for length in LENGTHS:
        run = jd.load(workdir, ema=length, network=OWN)
        expected = by_brute_force(params, length, STEPS)
        assert apart(run.params, expected, params) < 1e-3


def test_a_length_far_from_those_that_were_kept_is_told(averaged):
    with pytest.warns(
        UserWarning, match=r"length 0.01 with an error of \d+% .* 0.08 0.16"
    ):
        jd.load(averaged[0], ema=0.01, network=OWN)


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


@pytest.mark.long
def test_a_run_that_is_killed_keeps_the_same(averaged, tmp_path):
    """The killed run has a snapshot that is newer than its newest checkpoint."""

    def train(**options):
        killed = tmp_path / "killed"
        jd.train(CONFIG, killed, network=OWN, progress=False, **options)
        return killed

    shutil.rmtree(train(until=11) / "checkpoints" / "11")
    killed = train()
    names = sorted(int(p.name) for p in (killed / "snapshots").iterdir())
    assert names == list(range(2, STEPS + 1, 2))
    runs = (averaged[0], killed)
    assert same_bits(*(jd.load(one, ema=0.1, network=OWN).params for one in runs))


def test_a_damaged_snapshot_is_named(averaged, tmp_path):
    workdir = shutil.copytree(averaged[0], tmp_path / "copy")
    largest = max(
        (p for p in (workdir / "snapshots" / "4").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    largest.write_bytes(b"other" + largest.read_bytes()[5:])
    with pytest.raises(jd.InputError, match=r"snapshots/4' is damaged"):
        jd.load(workdir, ema=0.1, network=OWN)


def test_what_has_no_averages_is_refused(averaged, finished):
    with pytest.raises(
        jd.InputError, match=r"stored no averages .* --training.ema-len"
    ):
        jd.load(finished[0], ema=0.1)
    with pytest.raises(jd.InputError, match=r"must lie in \(0, 0.288\).* got 0.5"):
        jd.load(averaged[0], ema=0.5, network=OWN)


@pytest.fixture(scope="module")
def compared(of_u_net):
    """Content of ema.json and output of the command `ema`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiment.py"])
        line = "ema --samples 16 --seed 2 --sampler ddim --steps 3 --features pixels"
        main(FOR_COMMANDS, "What.", args=[*line.split(), "--workdir", str(of_u_net)])
    return json.loads((of_u_net / "ema.json").read_text()), out.getvalue()


@pytest.mark.long
def test_averages_are_compared(of_u_net, compared):
    """The parts of the library give the same figures."""
    record, printed = compared
    lengths = [0.08, 0.0898, 0.101, 0.113, 0.127, 0.143, 0.16]
    floor, constant, *others = record["averages"]
    assert [one["length"] for one in others] == lengths
    training, held_out = jd.data.Digits().load("train"), jd.data.Digits().load("test")
    extractor = Pixels().build(training, held_out, jd.parallel.Pmap())
    sampling = dataclasses.replace(
        FOR_COMMANDS.sampling, sampler=jd.DDIM(spacing=jd.spacing.Trailing(num_steps=3))
    )
    for length, found in ((None, constant), (0.101, others[2])):
        run = jd.load(of_u_net, ema=length)
        against = Comparison.of(run, training, held_out, extractor, 16)
        features, _ = extractor.read(against.drawn(run, 2, sampling))
        distances = against.distances(features)
        assert found["frechet"] == pytest.approx(distances.frechet, rel=1e-3)
        assert found["kernel"] == pytest.approx(distances.kernel.value, rel=1e-3)
    near = against.distances(against.floor)
    assert floor["frechet"] == pytest.approx(near.frechet, rel=1e-6)
    assert floor["frechet"] < constant["frechet"]
    assert len({one["frechet"] for one in others}) == 7
    for part in ("constant decay 0.9999", "training images (baseline)", "\n0.101 "):
        assert part in printed
    assert "16 samples of each by ddim, guidance 1, against 16 held-out" in printed
    with Image.open(of_u_net / "ema.png") as picture:
        assert picture.width > 700
    assert "ema.png are in" in printed
    page = (of_u_net / "report.html").read_text()
    assert "Averages of the parameters" in page


@pytest.mark.long
def test_commands_take_an_average(of_u_net, tmp_path):
    line = ["sample", "--ema", "0.1", "--num", "4", "--seed", "5", "--out", "x.npz"]
    line[line.index("x.npz")] = str(tmp_path / "x.npz")
    main(FOR_COMMANDS, "What.", args=[*line, "--workdir", str(of_u_net)])
    run = jd.load(of_u_net, ema=0.1)
    with np.load(tmp_path / "x.npz") as drawn:
        expected = jd.data.to_uint8(run.generate(drawn["labels"], 4, 5))
        np.testing.assert_array_equal(drawn["images"], expected)
