"""Progressive distillation: one step of the student is two of its teacher.

For data N(0, D) a step of DDIM from t to s multiplies x_t by a number c(t, s). The
exact student's step multiplies by c(t, m) c(m, s).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.errors import InputError
from jaxdiff.losses import Consistency, Progressive
from jaxdiff.losses.progressive import one_step
from jaxdiff.runs.distill import chain
from jaxdiff.samplers.ddim import euler_step
from jaxdiff.training.experiment import Sampling

D = 0.3
STEPS = 3
SCHEDULES = {
    "linear": jd.Linear().build(), "exploding": jd.schedules.VE().build(),
    "straight": jd.schedules.RectifiedFlow().build(),
}  # fmt: skip
V = jd.predictions.V()
KEY = jax.random.key(0)
DATA = jd.oracles.Gaussian.of(jnp.zeros((1, 1, 1)), D)


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def test_one_step_ends_where_two_do(schedule):
    x_t, x_s = jax.random.normal(KEY, (2, 5, 2, 1))
    levels = jd.spacing.Trailing(num_steps=5).levels(schedule)
    level, next_level = (
        jd.Level(*(values[place : place + 5] for values in levels)) for place in (0, 1)
    )
    found = one_step(x_t, x_s, level, next_level)
    np.testing.assert_allclose(euler_step(jd.Estimate(*found), next_level), x_s, 1e-5)
    alpha, sigma = level.scales(x_t)
    scale = np.maximum(1, np.asarray(sigma))
    back = alpha * found[0] + sigma * found[1]
    np.testing.assert_allclose(back / scale, x_t / scale, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 25, 500])
def test_a_students_grid_is_every_second_level_of_its_teachers(schedule, count):
    own = jd.spacing.Trailing(num_steps=count).levels(schedule)
    teachers = jd.spacing.Trailing(num_steps=2 * count).levels(schedule)
    np.testing.assert_array_equal(own.t[:-1], teachers.t[:-1:2])
    np.testing.assert_array_equal(own.alpha, teachers.alpha[::2])
    np.testing.assert_array_equal(own.sigma, teachers.sigma[::2])


class Student:
    """Network with parameters (gain, share of the teacher), for a schedule.

    A share of 0 gives `gain` times the output of the exact student, 1 the output of
    the optimal denoiser.
    """

    num_classes: int | None = None

    def __init__(self, schedule):
        self.schedule = schedule

    def best(self, x_t, level, labels) -> jd.Estimate:
        """The optimal estimate, which is the teacher's."""
        return DATA(x_t, level)

    def followed(self, x_t, level, labels) -> jd.Estimate:
        """The estimate whose path the exact student takes."""
        return self.best(x_t, level, labels)

    def apply(self, variables: Any, x, t, labels=None, keys=None) -> Any:
        gain, taught = variables["params"]
        grid = jd.spacing.Trailing(num_steps=2 * STEPS).levels(self.schedule)
        place = jnp.abs(grid.t[None, :-1] - t[:, None]).argmin(axis=1)
        level, middle, end = (
            jd.Level(*(values[jnp.minimum(place + i, 2 * STEPS)] for values in grid))
            for i in range(3)
        )
        x_t = x / V.scaled(jnp.ones_like(x), level)
        best = self.best(x_t, level, labels)
        x_m = euler_step(self.followed(x_t, level, labels), middle)
        x_s = euler_step(self.followed(x_m, middle, labels), end)
        exact = one_step(x_t, x_s, level, end)
        wanted = taught * V.target(best.x_0, best.eps, level)
        return wanted + (1 - taught) * gain * V.target(*exact, level)


class Guided(Student):
    """Network of classes N(mean, D), whose student follows guidance of this weight."""

    num_classes = 2
    weight = 2.5
    means = jnp.array([-1.0, 1.5, 0.2])
    """The last one is the null class's."""

    def best(self, x_t, level, labels):
        """The optimal estimate of each image's class."""
        alpha, sigma = level.scales(x_t)
        mean = self.means[labels][:, None, None, None]
        x_0 = mean + alpha * D / (alpha**2 * D + sigma**2) * (x_t - alpha * mean)
        return jd.Estimate(x_0, (x_t - alpha * x_0) / jnp.maximum(sigma, 1e-6))

    def followed(self, x_t, level, labels):
        """The guided estimate."""
        given, free = (
            self.best(x_t, level, one) for one in (labels, jnp.full_like(labels, 2))
        )
        return jax.tree.map(lambda a, b: b + self.weight * (a - b), given, free)


TAUGHT = jnp.float32(1), jnp.float32(1)


def test_the_exact_student_has_no_loss_and_no_gradient(schedule):
    num, objective = 64, Progressive(steps=STEPS)
    batch = jd.Batch(DATA.draw(KEY, num), None, jnp.arange(num))

    @jax.jit
    def loss(gain):
        return jd.loss_fn(
            (gain, jnp.float32(0)), Student(schedule), schedule, batch, KEY, V,
            objective, data_range=None, teacher=TAUGHT,
        )[0]  # fmt: skip

    exact, slope = jax.value_and_grad(loss)(jnp.float32(1))
    assert exact < 1e-8
    assert abs(float(slope)) < 1e-4
    for gain in (0.9, 1.1):
        wrong, slope = jax.value_and_grad(loss)(jnp.float32(gain))
        assert wrong > 1e-4
        assert slope * (gain - 1) > 1e-4


def test_a_student_learns_the_guidance_of_its_teacher(schedule):
    num, network = 64, Guided(schedule)
    labels = jnp.arange(num) % 2
    x_0 = network.means[labels][:, None, None, None] + DATA.draw(KEY, num)
    batch = jd.Batch(x_0, labels, jnp.arange(num))

    @partial(jax.jit, static_argnums=1)
    def loss(gain, weight):
        return jd.loss_fn(
            (gain, jnp.float32(0)), network, schedule, batch, KEY, V,
            Progressive(steps=STEPS, guidance=weight), data_range=None,
            teacher=TAUGHT,
        )[0]  # fmt: skip

    exact, slope = jax.value_and_grad(loss)(jnp.float32(1), network.weight)
    assert exact < 1e-7
    assert abs(float(slope)) < 1e-3
    for weight in (1.0, 2.0, 3.0):
        assert loss(jnp.float32(1), weight) > 1e-4


def test_the_exact_student_draws_as_its_teacher_in_half_the_steps(schedule):
    def drawn(steps, taught):
        params = jnp.float32(1), jnp.float32(taught)
        denoiser = jd.denoisers.bind(Student(schedule), params, prediction=V)
        sampler = jd.DDIM(spacing=jd.spacing.Trailing(num_steps=steps))
        return jd.sample(denoiser, sampler, schedule, KEY, x_T.shape, x_T=x_T)

    x_T = schedule.prior_scale * jax.random.normal(KEY, (6, 1, 1, 1))

    np.testing.assert_allclose(drawn(STEPS, 0), drawn(2 * STEPS, 1), rtol=1e-5)
    assert abs(drawn(STEPS, 0) - drawn(STEPS, 1)).max() > 1e-3


def test_a_chain_of_runs():
    experiment = jd.Experiment(objective=Progressive(), init="first")
    found = list(chain(experiment, "students", (8, 4, 2)))
    assert [str(folder) for _, folder in found] == [
        "students/steps-8", "students/steps-4", "students/steps-2"
    ]  # fmt: skip
    assert [one.init for one, _ in found] == [
        "first", "students/steps-8", "students/steps-4"
    ]  # fmt: skip
    for steps, (one, _) in zip((8, 4, 2), found, strict=True):
        assert one.objective == Progressive(steps=steps)
        sampler: Any = one.sampling.sampler
        assert sampler == jd.DDIM(spacing=jd.spacing.Trailing(num_steps=steps))
        one.check(one.schedule.build())


def test_the_first_student_of_a_chain_learns_the_guidance():
    experiment = jd.Experiment(
        objective=Progressive(guidance=2.0), init="first",
        sampling=Sampling(guidance=3.0),
    )  # fmt: skip
    found = [one for one, _ in chain(experiment, "students", (4, 2, 1))]
    assert [one.objective for one in found] == [
        Progressive(steps=4, guidance=2.0), Progressive(steps=2), Progressive(steps=1)
    ]  # fmt: skip
    assert [one.sampling.guidance for one in found] == [1, 1, 1]
    for one in found:
        one.check(one.schedule.build())
    with pytest.raises(InputError, match=r"sampling\.guidance must be 1 for an ob"):
        experiment.check(experiment.schedule.build())
    unguided = replace(experiment, objective=Progressive())
    for one, _ in chain(unguided, "students", (4, 2)):
        assert one.sampling.guidance == 3


def test_guidance_needs_classes_or_a_text():
    network = jd.UNetConfig().build(1)
    batch = jd.Batch(jnp.zeros((2, 8, 8, 1)), None, jnp.arange(2))
    for objective in (
        Progressive(guidance=2.0), Consistency(guidance=2.0, path="teacher")
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"guidance must be 1 for .*, got 2"):
            jd.loss_fn(
                (), network, jd.Linear().build(), batch, KEY, V, objective, teacher=()
            )


@pytest.mark.parametrize("steps", [(), (8, 4, 1), (0,), (4, 8)])
def test_steps_that_do_not_halve(steps):
    experiment = jd.Experiment(objective=Progressive(), init="first")
    with pytest.raises(InputError, match="steps must halve from one student to the"):
        list(chain(experiment, "students", steps))
    with pytest.raises(InputError, match="objective must be progressive"):
        list(chain(jd.Experiment(), "students", (2, 1)))
