"""Layouts of devices and processes: each must give the results of one device.

The work is in `tests.helpers.layouts`. Float32 limits how far two layouts may differ.
Each number of the gradient is a sum over the examples, and every layout adds them in
its own order. The bound is 8 units in the last place of the largest number,

    (1)  |g' - g|  <=  d = 8 * 2^-23 * max |g|

Adam's step is lr m / (sqrt(v) + epsilon). Here m and sqrt(v) are means of past
gradients, and both are off by at most d. With |m| <= sqrt(v), to first order,

    (2)  |step' - step|  <=  2 lr d / epsilon

and n steps add up to n times this bound. An average of the parameters is off by no
more.
"""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.runs.folder import read_diffusion
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import DataInfo, Training
from jaxdiff.training.initialize import (
    build_model,
    diffusion_of,
    init_shapes,
    recipe_of,
)
from tests.helpers.layouts import (
    BATCH,
    EXPERIMENT,
    HALF,
    STEPS,
    WIDE,
    first_step,
    layout,
    work,
)

pytestmark = pytest.mark.usefixtures("standard_promotion")
ROOT = pathlib.Path(jd.__file__).parent.parent
ONE = "pmap-1"
LONG = pytest.mark.long
ULPS = 8 * 2.0**-23


def work_of_one_device(root, network=None):
    """Runs the work of one device in a folder for all layouts; returns the folder."""
    with jax.numpy_dtype_promotion("standard"):
        place = root / "one" / "train"
        work(ONE, root / "one", place, place, network)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folder of the work with the U-Net."""
    return work_of_one_device(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Folder of the work with a network that is quick to compile."""
    return work_of_one_device(tmp_path_factory.mktemp("wide"), WIDE)


@functools.cache
def one_step(network):
    """Returns the first step of a network on one device."""
    return first_step(layout(ONE), network)


def results(folder):
    with np.load(folder / "results.npz") as file:
        return dict(file)


def start_of(workdir, network=None):
    """Returns the state that a run starts from."""
    experiment, info = read_diffusion(workdir)
    return recipe_of(
        experiment, diffusion_of(experiment, build_model(experiment, info, network))
    ).init()


def final(workdir, network=None):
    """Returns the last state of a run, on one device."""
    shapes = init_shapes(*read_diffusion(workdir), network)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return jax.device_get(checkpoints.restore(shapes, STEPS))


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


def largest(arrays):
    return max(float(np.abs(a).max()) for a in arrays)


def check_first_step(found, expected, least=20):
    """Checks the bits of a first step's draws, and (1) for its loss and gradient.

    Returns the largest absolute value in the expected gradient.
    """
    gradient = [v for k, v in expected.items() if k.startswith("gradient")]
    assert len(gradient) > least
    for name, value in expected.items():
        if name.startswith("draw"):  # noise, times, keys of the dropout
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        elif name.startswith("metric"):
            np.testing.assert_allclose(found[name], value, rtol=ULPS, err_msg=name)
        elif name.startswith("gradient"):
            atol = ULPS * largest(gradient)
            np.testing.assert_allclose(found[name], value, 0, atol, err_msg=name)
    return largest(gradient)


def check(folder, root, network=None):
    """Checks that the work in a folder gives the results of one device."""
    expected, found = results(root / "one"), results(folder)
    assert set(found) == set(expected)
    scale = check_first_step(found, expected, 6 if network else 20)
    # A sampling loop and a solver accumulate rounding errors over their steps.
    np.testing.assert_allclose(found["images"], expected["images"], atol=2e-5)
    np.testing.assert_allclose(found["bits"], expected["bits"], rtol=1e-5)

    options = EXPERIMENT.optimizer
    each = 2 * options.learning_rate * ULPS * scale / options.epsilon
    wanted = final(root / "one" / "train", network)
    for run in ("train", "resumed"):  # (2)
        state = final(folder / run, network)
        assert int(state.step) == STEPS
        for name in ("params", "ema", "tracks"):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, 0, STEPS * each),
                getattr(state, name),
                getattr(wanted, name),
            )
    expected_losses = losses(root / "one" / "train")
    assert losses(folder / "train") == pytest.approx(expected_losses, rel=1e-5)
    resumed = {STEPS: expected_losses[STEPS]}  # the order of the data is the same too
    assert losses(folder / "resumed") == pytest.approx(resumed, rel=1e-5)


@pytest.mark.parametrize("network", [WIDE, pytest.param(None, marks=LONG)])
def test_one_device_goes_on_bit_for_bit(network, request):
    root = request.getfixturevalue("wide" if network else "root")
    whole, resumed = (
        final(root / "one" / name, network) for name in ("train", "resumed")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    start = start_of(root / "one" / "train", network)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params, whole.params)
    assert largest(jax.tree.leaves(moved)) > 0.03  # the training changed the parameters


@pytest.mark.parametrize(
    "name",
    ["pmap-8", "data-4-fsdp-2-accumulate-2", "fsdp-8", "pmap-1-accumulate-4"],
)
@pytest.mark.parametrize(
    "network", [WIDE, pytest.param(None, marks=LONG)], ids=["wide", "u-net"]
)
def test_a_step_is_the_same(name, network):
    found = first_step(layout(name), network)
    check_first_step(found, one_step(network), 6 if network else 20)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("data-4-fsdp-2-accumulate-2-dispatch-5", marks=LONG),
        pytest.param("pmap-2", marks=LONG),
        pytest.param("pmap-8", marks=LONG),
        pytest.param("pmap-1-accumulate-2-dispatch-3", marks=LONG),
        pytest.param("pmap-1-accumulate-4", marks=LONG),
        pytest.param("data-8-fsdp-1", marks=LONG),
        pytest.param("data-4-fsdp-2", marks=LONG),
        pytest.param("fsdp-8", marks=LONG),
    ],
)
def test_devices_agree(root, name):
    """Each layout also resumes the training of one device."""
    (root / name).mkdir()
    work(name, root / name, root / "one" / "train", root / "one" / "train")
    check(root / name, root)


@pytest.mark.parametrize(
    ("processes", "devices", "names"),
    [
        (2, 1, ["--wide", "fsdp-2"]),
        pytest.param(2, 1, ["pmap-2", "fsdp-2"], marks=LONG),
        pytest.param(2, 2, ["pmap-4", "data-2-fsdp-2"], marks=LONG),
        pytest.param(4, 1, ["pmap-4", "fsdp-4", "data-2-fsdp-2"], marks=LONG),
        pytest.param(4, 2, ["pmap-8", "fsdp-8", "data-4-fsdp-2"], marks=LONG),
    ],
)
def test_processes_agree(request, processes, devices, names):
    """Each layout also resumes the training of the layout before it in the list."""
    network = WIDE if names[0] == "--wide" else None
    root = request.getfixturevalue("wide" if network else "root")
    folder = root / f"{processes}-processes-of-{devices}"
    layouts = [name for name in names if name != "--wide"]
    for name in layouts:
        (folder / name).mkdir(parents=True)
    shutil.copytree(root / "one", folder / "one")
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    line = (
        f"launch/local -n {processes} -d {devices} -o {folder / 'logs'} "
        f"{sys.executable} -m tests.helpers.layouts {folder}"
    )
    done = subprocess.run(
        [*line.split(), *names], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=560,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for name in layouts:
        check(folder / name, root, network)
        check_reads(folder / name, processes)


def check_reads(folder, processes):
    """Checks that each process reads its share of every batch, without overlap."""
    reads = [
        json.loads((folder / f"reads-{i}.json").read_text()) for i in range(processes)
    ]
    order = jd.data.order(EXPERIMENT.seed, 0, len(jd.data.Digits().load("train")))
    place = np.argsort(order)
    # `first_step` reads the whole batch and its share. `train` reads the first share
    # before it begins; then several threads prefetch the steps.
    steps = sorted([0, 0, *range(STEPS), 0, *range(HALF, STEPS)])
    shares = [sorted(process[1:], key=lambda s: place[s[0]]) for process in reads]
    for process in shares:
        assert [len(share) for share in process] == [BATCH // processes] * len(steps)
    for step, *parts in zip(steps, *shares, strict=True):
        together = sorted(i for part in parts for i in part)
        assert together == sorted(order[step * BATCH : (step + 1) * BATCH].tolist())
        assert len(set(together)) == BATCH


def test_a_device_holds_its_part_of_the_state():
    network = jd.UNetConfig(channels=32, multipliers=(1, 2), blocks=1, attention=())
    experiment = jd.Experiment(
        network=network,
        training=Training(ema_lengths=(0.1,)),
        parallel=layout("fsdp-8").parallel,
    )
    info = DataInfo((8, 8, 1), 10, None)
    shapes = init_shapes(experiment, info)
    state = jax.tree.map(
        lambda a, sharding: jax.device_put(np.zeros(a.shape, a.dtype), sharding),
        shapes, experiment.parallel.shardings(shapes),
    )  # fmt: skip

    def nothing(state, batch, mean_of):
        return state._replace(step=state.step + len(batch)), {}

    stepped, _ = experiment.parallel.step(nothing)(state, np.zeros(8, np.float32))
    for part in (stepped.params, stepped.opt_state, stepped.ema, stepped.tracks):
        leaves = jax.tree.leaves(part)
        whole = sum(a.nbytes for a in leaves)
        held = {
            device: sum(
                shard.data.nbytes
                for a in leaves
                for shard in a.addressable_shards
                if shard.device == device
            )
            for device in jax.devices()
        }
        assert len(held) == 8
        for size in held.values():
            assert 1 / 8 <= size / whole < 0.15
