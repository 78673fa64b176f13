"""Training: reproducible bits, resumption, loading and metrics."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from experiments import cifar10
from jaxdiff.cli import main
from jaxdiff.losses.loss import QUARTERS
from jaxdiff.runs.metrics_buffer import summary
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import DataInfo, Sampling, Training, Upkeep
from jaxdiff.training.initialize import init_state
from tests.helpers.runs import OWN, TINY, same_bits

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_one_seed_gives_the_same_bits(finished, undisturbed, tmp_path):
    workdir, state = finished
    again = jd.train(TINY, tmp_path, progress=False)
    assert same_bits(state, again)
    images = [jd.load(w).generate(np.arange(8), 8, seed=1) for w in (workdir, tmp_path)]
    np.testing.assert_array_equal(images[0], images[1])
    seed_1 = dataclasses.replace(TINY, seed=1)
    other = jd.train(seed_1, tmp_path / "other", network=OWN, progress=False)
    assert not same_bits(undisturbed[1].params, other.params)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, jd.parallel.Terminated),
        (signal.SIGHUP, jd.parallel.Terminated),
        (signal.SIGUSR1, jd.parallel.Terminated),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_stopped_run_goes_on_bit_for_bit(
    undisturbed, tmp_path, monkeypatch, capfd, number, error
):
    """The run stops in step 5, within an interval and between two saves."""
    workdir, state = undisturbed
    steps: list[int] = []

    def stop(*args):
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(number)
        return real(*args)

    real = Trainer.advance
    handler = {signal.SIGINT: signal.default_int_handler}.get(number, signal.SIG_DFL)
    before = signal.signal(number, handler)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stop)
        with pytest.raises(error, match=f"by {number.name}; step 5 is saved") as raised:
            jd.train(TINY, tmp_path, network=OWN, progress=False)
    assert signal.signal(number, before) is handler
    assert getattr(raised.value, "code", 128 + number) == 128 + number
    assert "finishing the step, then saving" in capfd.readouterr().err
    assert len(steps) == 5
    assert jd.load(tmp_path, network=OWN).step == 5
    again = jd.train(TINY, tmp_path, network=OWN, progress=False)
    assert same_bits(state, again)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert lines == (workdir / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in lines.splitlines()] == [2, 4, 6, 8]


def test_another_configuration_is_refused_by_its_fields(finished):
    workdir, _ = finished
    before = sorted(workdir.rglob("*"))
    changed = dataclasses.replace(
        TINY, seed=3, schedule=jd.Cosine(num_steps=20),
        network=dataclasses.replace(TINY.network, channels=8),  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(ValueError, match="another configuration") as error:
        jd.train(changed, workdir, progress=False)
    for part in (
        "seed: 0, not 3",
        "network.channels: 4, not 8",
        "'Linear', not 'Cosine'",
    ):
        assert part in str(error.value)
    assert sorted(workdir.rglob("*")) == before


def test_upkeep_may_change(finished):
    workdir, state = finished
    changed = dataclasses.replace(TINY, upkeep=Upkeep(log_every=4, checkpoint_every=4))
    assert same_bits(jd.train(changed, workdir, progress=False), state)
    assert jd.load(workdir).experiment == changed
    jd.train(TINY, workdir, progress=False)


def test_load_gives_back_the_averaged_model(finished):
    workdir, state = finished
    run = jd.load(workdir)
    assert (run.experiment, run.step) == (TINY, 8)
    fingerprint = TINY.data.load().fingerprint()
    assert run.info == DataInfo((8, 8, 1), 10, tuple("0123456789"), fingerprint)
    assert same_bits(run.params, state.ema)
    assert not same_bits(run.params, state.params)
    labels = np.array([3, 1, 4])
    images = jd.sample(
        jd.clip_x0(run.denoiser(labels)), jd.DDPM(), run.schedule,
        jax.random.key(0), (3, 8, 8, 1),
    )  # fmt: skip
    np.testing.assert_allclose(images, run.generate(labels, 3, seed=0), atol=2e-5)
    assert jd.load(workdir, step=4).step == 4
    with pytest.raises(ValueError, match=r"no checkpoint of step 5.*\[4, 8\]"):
        jd.load(workdir, step=5)


def test_images_do_not_depend_on_the_chunk(finished):
    run = jd.load(finished[0])
    sizes: list[int] = []
    small = run.generate(np.arange(10), 10, seed=2, on_chunk=sizes.append)
    assert sizes == [8, 10]
    experiment = dataclasses.replace(run.experiment, sampling=Sampling(chunk=256))
    whole = dataclasses.replace(run, experiment=experiment)
    large = whole.generate(np.arange(10), 10, seed=2)
    np.testing.assert_allclose(small, large, atol=2e-5)


@pytest.mark.long
def test_unconditional_training(tmp_path):
    experiment = dataclasses.replace(
        TINY, conditional=False, training=Training(num_steps=2, batch_size=8)
    )
    jd.train(experiment, tmp_path, progress=False)
    run = jd.load(tmp_path)
    assert run.info.num_classes is None
    assert run.generate(None, 3, seed=0).shape == (3, 8, 8, 1)
    with pytest.raises(ValueError, match="no classes"):
        run.denoiser(np.array([1]))


def test_training_lowers_the_loss(tmp_path):
    experiment = dataclasses.replace(
        TINY,
        training=Training(num_steps=100, batch_size=16, ema_decay=0.9),
        upkeep=Upkeep(log_every=20, checkpoint_every=100),
    )
    jd.train(experiment, tmp_path, progress=False)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[0] > 0.5
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.long
def test_cifar10_recipe_takes_a_step_on_fake_data():
    """The exact DDPM network and recipe take a step on a batch of two images."""
    config = cifar10.CONFIG
    info = DataInfo((32, 32, 3), None, None)
    state = jax.jit(init_state, static_argnums=(0, 1))(config, info)
    assert sum(p.size for p in jax.tree.leaves(state.params)) == 35_746_307
    optimizer = config.optimizer.build(config.training.num_steps)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    parallel = jd.parallel.Pmap(num_devices=1)

    def step(state, batch, mean_of):
        return jd.train_step(
            state, batch, mean_of,
            network=config.network.build(3), schedule=config.schedule.build(),
            prediction=config.prediction, objective=config.objective,
            optimizer=optimizer,
            ema_decay=config.training.ema_decay, seed=config.seed,
        )  # fmt: skip

    state, metrics = parallel.step(step)(state, jd.Batch(images, None, np.arange(2)))
    assert int(state.step) == 1
    # An untrained network outputs 0, so its loss is the mean square of the noise.
    assert abs(float(metrics["loss"]) - 1) < 4 * (2 / images.size) ** 0.5
    assert jnp.isfinite(metrics["grad_norm"])


def test_summary_weighs_quarters_by_their_examples():
    def line(losses, quarters, norm):
        share = np.bincount(quarters, minlength=QUARTERS) / len(quarters)
        part = np.bincount(quarters, losses, minlength=QUARTERS) / len(quarters)
        loss = np.mean(losses)
        return {
            "loss": loss, "loss_by_quarter": part, "share_by_quarter": share,
            "grad_norm": norm, "finite": np.isfinite(loss),
        }  # fmt: skip

    def of(*steps):
        return summary(jax.tree.map(lambda *a: np.stack(a), *steps), clip_norm=1)

    steps = [line([1.0, 2.0], [0, 0], 0.5), line([3.0, 5.0], [0, 3], 2.0)]
    means = {
        "loss": 2.75, "loss_q1": 2.0, "loss_q4": 5.0, "grad_norm": 1.25,
        "grad_norm_max": 2.0, "clipped": 0.5,
    }  # fmt: skip
    assert of(*steps) == means
    bad = line([np.nan, 1.0], [0, 1], np.inf)
    assert of(*steps, bad) == {**means, "nonfinite": 1}
    assert of(bad) == {"nonfinite": 1}


def test_a_steps_key_is_the_seeds_folded_with_the_step():
    info = DataInfo((8, 8, 1), 10, None)
    state = jax.jit(init_state, static_argnums=(0, 1))(TINY, info)
    network, schedule = TINY.network.build(1, 10), TINY.schedule.build()
    images = jax.random.uniform(jax.random.key(3), (16, 8, 8, 1), minval=-1)
    batch = jd.Batch(images, jnp.arange(16) % 10, jnp.arange(16))

    @jax.jit
    def both(state):
        _, metrics = jd.train_step(
            state, batch, network=network, schedule=schedule,
            prediction=jd.predictions.Eps(), objective=jd.losses.Simple(),
            optimizer=TINY.optimizer.build(8), ema_decay=0.9, seed=5,
        )  # fmt: skip
        key = jax.random.fold_in(jax.random.key(5), state.step)
        loss, _ = jd.loss_fn(state.params, network, schedule, batch, key)
        return metrics["loss"], loss

    first, second = both(state), both(state._replace(step=state.step + 1))
    np.testing.assert_allclose(first[0], first[1], rtol=1e-6)
    np.testing.assert_allclose(second[0], second[1], rtol=1e-6)
    assert abs(float(first[0] - second[0])) > 1e-3


@pytest.mark.usefixtures("standard_promotion")
def test_images_in_memory_train_and_resume(finished, tmp_path):
    """The experiment's own data set, passed as arrays, gives the same run."""
    _, state = finished
    dataset = TINY.data.load("train")
    mine = jd.data.from_arrays(
        np.array(dataset.images), dataset.labels, dataset.class_names
    )
    jd.train(TINY, tmp_path, until=4, dataset=mine, progress=False)
    assert same_bits(jd.train(TINY, tmp_path, dataset=mine, progress=False), state)


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_a_run_on_images_in_memory_needs_them_again(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
    mine = jd.data.from_arrays(images)
    jd.train(TINY, tmp_path, dataset=mine, until=2, progress=False)
    run = jd.load(tmp_path)
    assert run.info == DataInfo((4, 4, 3), None, None, mine.fingerprint())
    assert run.generate(None, 2, 0).shape == (2, 4, 4, 3)
    with pytest.raises(jd.InputError, match="another configuration"):
        jd.train(TINY, tmp_path, progress=False)
    with pytest.raises(SystemExit):
        main(TINY, "What it is.", args=["evaluate", "--workdir", str(tmp_path)])
    printed = capsys.readouterr().err
    assert f"the run's training data, {mine.fingerprint()}, got" in printed
    assert "\n" not in printed.strip()
