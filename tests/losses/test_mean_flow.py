"""MeanFlow against the exact average velocity of Gaussian data.

For data N(0, d) on the straight path, the flow multiplies z_t by k(r) / k(t) on its way
to r, with k(t)^2 = (1 - t)^2 d + t^2.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.losses import LogNormal, MeanFlow, Simple
from jaxdiff.losses.few_steps import check_sampler
from jaxdiff.losses.noised import Noised
from jaxdiff.typing import Condition
from tests.helpers.long_parameters import long_where

D = 0.3
FLOW = jd.schedules.RectifiedFlow().build()
VELOCITY = jd.predictions.Velocity()
KEY = jax.random.key(0)
DATA = jd.oracles.Gaussian.of(jnp.zeros((1, 1, 1)), D)
NEAR_0 = LogNormal(mean=-12.0, deviation=0.1)
"""Times below those of the examples, so that t is the example's own time."""


def k(t):
    return jnp.sqrt((1 - t) ** 2 * D + t**2)


def average_velocity(z, t, r):
    """Returns (z_t - z_r) / (t - r) in a form without a division by 0."""
    factor = (t + r - D * (2 - t - r)) / (k(t) * (k(t) + k(r)))
    return factor[:, None, None, None] * z


class Exact:
    """Network of the exact average velocity, times its parameter."""

    num_classes = None
    takes = ("end",)

    def apply(self, variables: Any, x, t, condition=None, keys=None) -> Any:
        end = t if condition.end is None else condition.end
        return variables["params"] * average_velocity(x, t / 1000, end / 1000)


@pytest.fixture(scope="module")
def marginal():
    """Examples whose x_0 and eps are their means given z: v is the flow's velocity."""
    u = jnp.linspace(0.2, 1.0, 64)
    level = FLOW.level(u)
    alpha, sigma = level.scales(jnp.zeros((64, 1, 1, 1)))
    z = k(level.sigma)[:, None, None, None] * jax.random.normal(KEY, (64, 1, 1, 1))
    best = DATA(z, level)
    np.testing.assert_allclose(alpha * best.x_0 + sigma * best.eps, z, atol=1e-6)
    keys = rng.example_keys(KEY, jnp.arange(64))
    return Noised(best.x_0, best.eps, z, level, level, u=u, keys=keys)


@pytest.mark.parametrize("target", ["derivative", "halves"])
def test_the_exact_average_velocity_has_no_loss_and_no_gradient(marginal, target):
    """It satisfies u = v - (t - r) du/dt, and is the mean of those of two halves."""
    objective: Any = MeanFlow(
        target=target, instant_share=0.25, power=0.0, times=NEAR_0
    )

    @jax.jit
    def loss(gain):
        def apply(x, level, condition):
            return Exact().apply({"params": gain}, x, level.t, condition)

        return objective.losses(apply, marginal, VELOCITY, FLOW)["loss"].mean()

    exact, slope = jax.value_and_grad(loss)(jnp.float32(1))
    assert exact < 1e-10
    assert abs(float(slope)) < 1e-5
    for gain in (0.8, 1.2):
        wrong, slope = jax.value_and_grad(loss)(jnp.float32(gain))
        assert wrong > 1e-3
        assert slope * (gain - 1) > 1e-3


def test_the_identity_by_a_derivative_along_the_path(marginal):
    t = marginal.level.sigma
    r, v = 0.3 * t, marginal.eps - marginal.x_0
    along = v, jnp.ones_like(t), jnp.zeros_like(t)
    u, slope = jax.jvp(average_velocity, (marginal.x_t, t, r), along)
    way = (t - r)[:, None, None, None]
    np.testing.assert_allclose(u, v - way * slope, atol=1e-5)
    z_r = marginal.x_t * (k(r) / k(t))[:, None, None, None]
    np.testing.assert_allclose(marginal.x_t - way * u, z_r, atol=1e-5)


def test_the_mean_slope_is_zero_at_the_exact_velocity():
    """The velocity of an example differs from the flow's, but not on average."""
    num, objective = 40_000, MeanFlow(instant_share=0.0, power=0.0)
    batch = jd.Batch(DATA.draw(jax.random.key(5), num), None, jnp.arange(num))

    @jax.jit
    def loss(gain):
        args = (Exact(), FLOW, batch, KEY, VELOCITY, objective)
        return jd.loss_fn(gain, *args, data_range=None)[0]

    below, there, above = (
        float(jax.grad(loss)(jnp.float32(gain))) for gain in (0.7, 1.0, 1.3)
    )
    assert abs(there) < 0.05 * min(-below, above)
    assert loss(jnp.float32(1.0)) > 0.01


class Curved:
    """Network that depends on all that it is given."""

    num_classes = 3
    takes = ("labels", "end")

    def apply(self, variables: Any, x, t, condition=None, keys=None) -> Any:
        labels, end = condition.labels, condition.end
        end = t if end is None else end
        kept = jnp.where(rng.uniform(keys) < 0.5, 1.0 + labels.astype("f4"), 0.5)
        scale = kept + 1e-3 * t + jnp.sin(t - end)
        return variables["params"] * scale[:, None, None, None] * jnp.sin(x)


@pytest.mark.parametrize("target", ["derivative", "halves"])
def test_steps_of_length_0_are_the_objective_simple_to_the_last_bit(target):
    num = 16
    images = jax.random.uniform(jax.random.key(3), (num, 2, 2, 1), minval=-1)
    batch = jd.Batch(images, jnp.arange(num) % 3, jnp.arange(num))
    times: Any = LogNormal(mean=-0.4, deviation=1.0)
    options: Any = {"instant_share": 1.0, "power": 0.0, "target": target}

    def found(objective):
        def loss(params):
            return jd.loss_fn(params, Curved(), FLOW, batch, KEY, VELOCITY, objective)[
                0
            ]

        return jax.jit(jax.value_and_grad(loss))(jnp.float32(0.7))

    wanted = found(Simple(times=times))
    np.testing.assert_array_equal(found(MeanFlow(times=times, **options)), wanted)
    options["instant_share"] = 0.0
    assert found(MeanFlow(times=times, **options))[0] != wanted[0]


@pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.0), (2.0, 0.0), (0.4, 0.6)])
def test_guidance_is_in_the_target(omega, kappa):
    """The class c has the velocity c, and any class 7; equation (3)."""

    class Constant(Curved):
        def apply(self, variables: Any, x, t, condition=None, keys=None) -> Any:
            labels = condition.labels
            value = jnp.where(labels == 3, 7.0, labels.astype("f4"))
            return jnp.broadcast_to(value[:, None, None, None], x.shape)

    num = 6
    labels = np.arange(num) % 3
    batch = jd.Batch(jnp.zeros((num, 1, 1, 1)), jnp.asarray(labels), jnp.arange(num))
    objective = MeanFlow(omega=omega, kappa=kappa, power=0.0)
    loss, _ = jd.loss_fn((), Constant(), FLOW, batch, KEY, VELOCITY, objective)
    keys = rng.example_keys(KEY, jnp.arange(num))
    v = np.asarray(rng.normal(rng.fold(keys, 1), (1, 1, 1)))[:, 0, 0, 0]
    target = omega * v + kappa * labels + (1 - omega - kappa) * 7
    np.testing.assert_allclose(loss, ((labels - target) ** 2).mean(), rtol=1e-5)


def test_the_weight_is_the_inverse_of_the_error(marginal):
    def losses(**options):
        def apply(x, level, condition):
            return Exact().apply({"params": 0.5}, x, level.t, condition)

        objective = MeanFlow(times=NEAR_0, **options)
        return objective.losses(apply, marginal, VELOCITY, FLOW)["loss"]

    plain = losses(power=0.0)
    np.testing.assert_allclose(
        losses(power=0.5, floor=0.2), plain / jnp.sqrt(plain + 0.2), rtol=1e-5
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_exact_map_ends_where_the_ode_does_in_any_number_of_steps(steps):
    denoiser = jd.denoisers.bind(Exact(), jnp.float32(1), prediction=VELOCITY)
    x_T = jax.random.normal(KEY, (8, 1, 1, 1))
    sampler = jd.samplers.FlowMap(spacing=jd.spacing.Trailing(num_steps=steps))
    found = jd.sample(denoiser, sampler, FLOW, KEY, x_T.shape, x_T=x_T)
    np.testing.assert_allclose(found, x_T * D**0.5, atol=1e-5)
    part = jd.samplers.FlowMap(
        spacing=jd.spacing.Times(times=(0.9, 0.4), to_data=False)
    )
    level = FLOW.level(np.array([0.9, 0.4]))
    found = jd.sample(denoiser, part, FLOW, KEY, x_T.shape, x_T=x_T)
    ratio = k(level.sigma[1]) / k(level.sigma[0])
    np.testing.assert_allclose(found, x_T * ratio, atol=1e-5)


def test_a_flow_map_needs_a_second_time_and_the_straight_path():
    args = (jd.samplers.FlowMap(), FLOW, KEY, (2, 1, 1, 1))
    with pytest.raises(InputError, match="denoiser must have a network with a second"):
        jd.sample(DATA, *args)
    denoiser = jd.denoisers.bind(Exact(), jnp.float32(1), prediction=VELOCITY)
    with pytest.raises(InputError, match="schedule must be straight-path for the samp"):
        jd.sample(denoiser, args[0], jd.Linear().build(), *args[2:])


@pytest.mark.parametrize(
    ("schedule", "prediction", "network", "options", "message"),
    [
        (jd.Linear().build(), VELOCITY, Exact(), {}, "schedule must be straight-path"),
        (FLOW, jd.predictions.V(), Exact(), {}, "prediction must be velocity for the"),
        (FLOW, VELOCITY, jd.UNetConfig().build(1), {}, "UNet without. Set --network"),
        (FLOW, VELOCITY, Exact(), {"omega": 2.0}, "omega must be 1 and kappa 0 for"),
    ],
)
def test_combinations_that_do_not_work(schedule, prediction, network, options, message):
    batch = jd.Batch(jnp.zeros((2, 8, 8, 1)), None, jnp.arange(2))
    objective = MeanFlow(**options)
    with pytest.raises(InputError, match=message):
        jd.loss_fn((), network, schedule, batch, KEY, prediction, objective)


def test_the_sampler_needs_a_flow_map():
    with pytest.raises(InputError, match="got the objective Simple"):
        check_sampler(Simple(), jd.samplers.FlowMap())
    check_sampler(MeanFlow(), jd.samplers.FlowMap())
    check_sampler(MeanFlow(), jd.DDIM())


NETWORKS: dict[str, Any] = {
    "unet": jd.UNetConfig(
        channels=4, multipliers=(1,), blocks=1, attention=(8,), groups=2, dropout=0.0,
        second_time=True,
    ),
    "dit": jd.networks.DiTConfig(width=8, depth=1, heads=2, second_time=True),
    "edm2": jd.networks.EDM2Config(
        channels=8, multipliers=(1,), blocks=1, attention=(), head_channels=8,
        second_time=True,
    ),
    "cross-attention-unet": jd.networks.CrossAttentionUNetConfig(
        widths=(8,), blocks=(1,), down=("plain",), up=("plain",), middle="block",
        heads=(1,), layers=(1,), text_only=(False,), text_channels=None, groups=2,
        second_time=True,
    ),
}  # fmt: skip


def random_like(params, seed):
    """Returns random parameters, except for those that embed the second time."""
    leaves, tree = jax.tree.flatten_with_path(params)
    chance = np.random.default_rng(seed)
    found = []
    for path, leaf in leaves:
        new = path[0].key.startswith("end_2") and not leaf.any()
        noise = 0.3 * chance.normal(size=leaf.shape)
        found.append(leaf if new else jnp.asarray(noise, leaf.dtype))
    return jax.tree.unflatten(tree, found)


@pytest.mark.parametrize("name", long_where(lambda name: name != "unet", NETWORKS))
def test_a_second_time_changes_nothing_at_first(name):
    """With the teacher's parameters, the output is the teacher's for any end."""
    config = NETWORKS[name]
    network = config.build(1, 3)
    shape = (8, 8, 1)
    params = jd.Model(network, FLOW, VELOCITY, shape, 3).init()
    params = random_like(params, 0)
    old = {name: leaf for name, leaf in params.items() if not name.startswith("end_")}
    teacher = replace(config, second_time=False).build(1, 3)
    x, t = jax.random.normal(KEY, (2, *shape)), jnp.array([900.0, 300.0])
    labels = jnp.array([1, 2])
    wanted = jax.jit(teacher.apply)({"params": old}, x, t, Condition(labels))
    apply, far = jax.jit(network.apply), jnp.array([100.0, 0.0])
    for end in (None, t, far):
        found = apply({"params": params}, x, t, Condition(labels, end=end))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert abs(wanted).max() > 0.01
    moved = jax.tree.map(lambda a: a + 0.1, params)
    there, here, instant = (
        apply({"params": moved}, x, t, Condition(labels, end=end))
        for end in (far, t, None)
    )
    np.testing.assert_array_equal(here, instant)
    assert abs(there - here).max() > 1e-3
