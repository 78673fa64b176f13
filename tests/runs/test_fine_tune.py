"""Runs that start from the model of another run."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.errors import InputError
from jaxdiff.runs.folder import read_diffusion
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.read_state import by_name
from tests.helpers.fake_run import CONFIG, fake_run
from tests.helpers.runs import TINY, same_bits

pytestmark = pytest.mark.usefixtures("standard_promotion")


def start(experiment, tmp_path, dataset=None):
    """Returns the state at step 0."""
    trainer = Trainer.of(experiment, dataset)
    state = trainer.initial_state(Checkpoints(tmp_path / "none"), None)
    return jax.device_get(state)


@pytest.mark.parametrize(
    "parallel",
    [
        jd.parallel.Pmap(),
        pytest.param(jd.parallel.Sharded(data=2, fsdp=4), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_it_starts_from_the_average(parallel, finished, tmp_path, recwarn):
    workdir, trained = finished
    experiment = replace(TINY, init=str(workdir), parallel=parallel, seed=1)
    state = start(experiment, tmp_path)
    assert not recwarn.list
    assert not same_bits(trained.ema, trained.params)
    assert same_bits(state.params, trained.ema)
    assert same_bits(state.ema, trained.ema)
    anew = start(replace(experiment, init=None), tmp_path)
    assert same_bits(state.opt_state, anew.opt_state)
    assert state.step == 0


def test_other_classes_and_channels_start_anew_and_are_named(finished, tmp_path):
    workdir, trained = finished
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    mine = jd.data.from_arrays(images, np.arange(40) % 3)
    experiment = replace(TINY, init=str(workdir), seed=1)
    with pytest.warns(UserWarning, match="do not match") as caught:
        state = start(experiment, tmp_path, mine)
    (message,) = [str(warning.message) for warning in caught]
    assert message == (
        f"these parameters of '{workdir}' do not match and are reinitialized: "
        "conv_in/kernel: [3, 3, 1, 4], not [3, 3, 3, 4]; "
        "conv_out/bias: [1], not [3]; conv_out/kernel: [3, 3, 4, 1], not [3, 3, 4, 3]; "
        "label/embedding: [11, 16], not [4, 16]"
    )
    anew = start(replace(experiment, init=None), tmp_path, mine)
    others = ("conv_in/kernel", "conv_out/bias", "conv_out/kernel", "label/embedding")
    before, seeded = by_name(trained.ema), by_name(anew.params)
    for params in (state.params, state.ema):
        for name, leaf in by_name(params).items():
            wanted = seeded[name] if name in others else before[name]
            np.testing.assert_array_equal(leaf, wanted)


def test_a_model_trained_otherwise_is_told(finished, tmp_path):
    workdir, _ = finished
    unet: Any = TINY.network
    network = replace(unet, epsilon=1e-3, dropout=0.0)
    experiment = replace(
        TINY,
        init=str(workdir),
        prediction=jd.predictions.V(),
        network=network,
        conditional=False,
    )
    with pytest.warns(UserWarning, match="match|other options") as caught:
        start(experiment, tmp_path)
    assert [str(warning.message) for warning in caught] == [
        f"these parameters of '{workdir}' do not match and are reinitialized: "
        "label/embedding: [11, 16], not None",
        f"the model of '{workdir}' was trained with other options: "
        "network.epsilon: 1e-06, not 0.001; prediction.type: 'Eps', not 'V'",
    ]


def test_another_network_is_refused(finished, tmp_path):
    workdir, _ = finished
    network = replace(TINY.network, channels=8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"got 0% in .* and 61 more"):
        start(replace(TINY, init=str(workdir), network=network), tmp_path)
    with pytest.raises(InputError, match="there is no run in 'nowhere'"):
        start(replace(TINY, init="nowhere"), tmp_path)


@pytest.mark.long
def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Flags override the options of the base model; resuming needs no base."""
    monkeypatch.chdir(tmp_path)
    fake_run(tmp_path / "base", True)
    mine = replace(
        CONFIG, network=jd.UNetConfig(channels=16, groups=2),
        prediction=jd.predictions.V(),
        upkeep=replace(CONFIG.upkeep, tensorboard=False),
    )  # fmt: skip

    def train(*flags):
        words = ["train", "--init", "base", "--workdir", "fine", *flags]
        main(mine, "What it is.", args=words)

    train("--network.dropout", "0.3")
    experiment, _ = read_diffusion(tmp_path / "fine")
    assert experiment.network == replace(CONFIG.network, dropout=0.3)
    assert (experiment.prediction, experiment.schedule) == (
        jd.predictions.Eps(),
        CONFIG.schedule,
    )
    assert experiment.init == str(tmp_path / "base"), "it is found from elsewhere too"
    run = jd.load("fine")
    # Two steps of Adam away from zero.
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(run.params))
    assert 0 < largest < 1e-3

    (tmp_path / "base").rename(tmp_path / "moved")
    train()
    assert "do not match" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(mine, "", args=["train", "--init", "moved", "--workdir", "fine"])
    paths = f"(init: '{tmp_path / 'base'}', not '{tmp_path / 'moved'}')"
    assert paths in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(mine, "", args=["train", "--init", "base", "--workdir", "new"])
    assert capsys.readouterr().err.endswith(
        "there is no run in 'base'. Train one, or name another folder.\n"
    )
    assert not (tmp_path / "new").exists()
