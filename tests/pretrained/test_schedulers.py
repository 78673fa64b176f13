"""Sampling loops of diffusers' schedulers, compared with that library.

The "network" is x t / (t + 1), as in the tests of diffusers' schedulers. Each loop
starts from the same numbers and draws the same noise in both libraries.
"""

import dataclasses
import importlib
import sys
import types
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_export import scheduler_of, scheduler_record
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.training.experiment import Sampling
from tests.helpers.pytorch import diffusers, torch

KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
BETA = {"use_beta_sigmas": True}
STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LATENT = {**STABLE, "steps_offset": 1, "timestep_spacing": "leading"}
V = {"prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
ZERO_SNR = {**TRAILING, **V, "rescale_betas_zero_snr": True}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
DYNAMIC = {
    "thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5
}  # fmt: skip

CASES: dict[str, list[dict[str, Any]]] = {
    "PNDM": [
        {**LATENT, "skip_prk_steps": True},
        {**LATENT, **V, "skip_prk_steps": True, "set_alpha_to_one": True},
        {**LATENT},
        {**V, "set_alpha_to_one": True, "beta_start": 0.01},
    ],
    "LCM": [
        {}, {**V, "original_inference_steps": 100, "timestep_scaling": 0.1},
        {"clip_sample": True, "clip_sample_range": 0.7, "timestep_scaling": 0.1},
        {**DYNAMIC, "prediction_type": "sample", "timestep_scaling": 0.1},
    ],
    "EulerDiscrete": [
        {**LATENT}, {**LATENT, **V}, {**STABLE, **LINSPACE}, {**STABLE, **TRAILING},
        {**LATENT, **KARRAS}, {**LATENT, **EXPONENTIAL}, {**LATENT, **BETA},
        {**STABLE, **KARRAS, "sigma_min": 0.05, "sigma_max": 9.0, **SIGMA_MIN},
        {**STABLE, **ZERO_SNR}, {**LATENT, **SIGMA_MIN},
        {**LATENT, "prediction_type": "sample"},
        {
            **LATENT, **V, **KARRAS, "sigma_min": 0.002, "sigma_max": 700.0,
            "timestep_type": "continuous",
        },
        {**LATENT, "trained_betas": np.linspace(0.001, 0.02, 1000).tolist()},
        {"beta_schedule": "squaredcos_cap_v2", **V},
    ],
    "EulerAncestralDiscrete": [
        {**LATENT}, {**STABLE, **LINSPACE}, {**STABLE, **TRAILING, **V},
        {**STABLE, **ZERO_SNR},
    ],
    "HeunDiscrete": [
        {**LATENT}, {**STABLE, **LINSPACE, **V}, {**LATENT, **KARRAS},
        {**LATENT, **BETA, "clip_sample": True, "clip_sample_range": 1.3},
        {**STABLE, **EXPONENTIAL, **TRAILING, "prediction_type": "sample"},
    ],
    "LMSDiscrete": [
        {**LATENT}, {**STABLE, **LINSPACE, **V}, {**LATENT, **KARRAS},
        {**STABLE, **TRAILING, "prediction_type": "sample"}, {**LATENT, **EXPONENTIAL},
        {**LATENT, **BETA},
    ],
    "KDPM2Discrete": [
        {**LATENT}, {**STABLE, **LINSPACE, **V}, {**LATENT, **KARRAS},
        {**STABLE, **TRAILING, **EXPONENTIAL}, {**LATENT, **BETA},
    ],
    "KDPM2AncestralDiscrete": [
        {**LATENT}, {**STABLE, **LINSPACE, **V}, {**LATENT, **KARRAS},
        {**STABLE, **TRAILING, **EXPONENTIAL}, {**LATENT, **BETA},
    ],
    "DPMSolverSDE": [
        {**LATENT}, {**STABLE, **LINSPACE, **V}, {**LATENT, **KARRAS},
        {**STABLE, **TRAILING, **EXPONENTIAL}, {**LATENT, **BETA},
    ],
    "DEISMultistep": [
        {**LATENT}, {**STABLE, "solver_order": 3}, {**STABLE, **TRAILING, **V},
        {**LATENT, **KARRAS}, {"solver_order": 1, **EXPONENTIAL},
        {**BETA, "lower_order_final": False, "algorithm_type": "dpmsolver++"},
        {**LATENT, **DYNAMIC, "solver_type": "midpoint"},
    ],
    "DPMSolverMultistep": [
        {**LATENT, **KARRAS}, EXPONENTIAL, {**BETA, "steps_offset": 1},
        {**LATENT, "use_lu_lambdas": True}, {**LATENT, "solver_order": 3},
        {**LATENT, **KARRAS, "algorithm_type": "sde-dpmsolver++"},
        {**LATENT, **KARRAS, **SIGMA_MIN, "euler_at_final": True},
        {**STABLE, **ZERO_SNR}, {**LATENT, **DYNAMIC, "solver_type": "heun"},
        {**LATENT, **V, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        {"trained_betas": np.linspace(0.001, 0.02, 1000).tolist()},
    ],
    "UniPCMultistep": [
        {**LATENT, **KARRAS}, EXPONENTIAL, BETA, {**STABLE, **ZERO_SNR},
        {**LATENT, **DYNAMIC, "solver_type": "bh1", **SIGMA_MIN},
        {**LATENT, "solver_order": 3, "solver_type": "logrho"},
    ],
    "EDMEuler": [
        {}, {"sigma_schedule": "exponential", "sigma_data": 1.0, "rho": 5.0},
    ],
    "EDMDPMSolverMultistep": [
        {}, {"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"},
        {"sigma_schedule": "exponential", "solver_type": "heun", **DYNAMIC},
    ],
    "FlowMatchEulerDiscrete": [{}, {"shift": 3.0}],
    "FlowMatchHeunDiscrete": [{}, {"shift": 3.0}],
}  # fmt: skip
"""Settings per class. The first of each class is in the short tests."""
SHORT = 5
"""Number of steps of the short tests."""


def network(x: Any, t: Any) -> Any:
    return x * (t / (t + 1))


@dataclasses.dataclass(frozen=True)
class Apply:
    """The network as a Flax module sees it."""

    def apply(
        self, variables: Any, x_t: Any, t: Any, labels: Any = None, keys: Any = None
    ) -> Any:
        return network(x_t, t.astype(x_t.dtype)[:, None, None, None])


class Noise:
    """Noise that diffusers draws, one array per draw."""

    def __init__(self) -> None:
        self.drawn: list[np.ndarray] = []
        self.generator = np.random.default_rng(1)

    def __call__(self, shape: Any, **_: Any) -> Any:
        self.drawn.append(self.generator.standard_normal(shape).astype(np.float32))
        return torch.from_numpy(self.drawn[-1])


@dataclasses.dataclass
class Increments:
    """Noise of a Brownian motion over the first and the whole of each step.

    It replaces the Brownian tree of diffusers' DPM-Solver++ SDE.
    """

    noise: Noise
    shape: tuple[int, ...]
    start: Any = None

    def __call__(self, sigma: Any, sigma_next: Any) -> Any:
        if self.start is None:
            self.start = self.noise(self.shape), sigma_next
            return self.start[0]
        first, half = self.start
        self.start = None
        whole = (sigma - half).sqrt() * first
        whole += (half - sigma_next).sqrt() * self.noise(self.shape)
        return whole / (sigma - sigma_next).sqrt()


def theirs(scheduler: Any, latents: np.ndarray, num_steps: int, noise: Any) -> Any:
    """Returns the result of a sampling loop of diffusers, and its times."""
    scheduler.set_timesteps(num_steps)
    x = torch.from_numpy(latents) * getattr(scheduler, "init_noise_sigma", 1.0)
    if type(scheduler).__name__ == "DPMSolverSDEScheduler":
        scheduler.noise_sampler = Increments(noise, latents.shape)
    for t in scheduler.timesteps:
        scaled = x
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(scaled, t), t, x).prev_sample
    return x.numpy(), np.asarray(scheduler.timesteps, np.float64)


@pytest.fixture
def noise(monkeypatch):
    drawn = Noise()
    for name in (
        "ddpm", "ddim", "lcm", "euler_ancestral_discrete", "euler_discrete",
        "k_dpm_2_ancestral_discrete", "dpmsolver_multistep", "edm_dpmsolver_multistep",
    ):  # fmt: skip
        module = f"diffusers.schedulers.scheduling_{name}"
        monkeypatch.setattr(f"{module}.randn_tensor", drawn)
    return drawn


def ours(record: dict[str, Any], latents: np.ndarray, num_steps: int, drawn: Any):
    """Returns the result of our sampling loop, its grid and its scheduler."""
    scheduler = read_scheduler(record, "a file")
    schedule = scheduler.schedule().build()
    sampling = scheduler.sampling(schedule, num_steps)
    sampler, grid = sampling.sampler, sampling.sampler.grid(schedule)
    prediction = scheduler.prediction(learn_variance=False)
    denoiser: Any = jd.bind(Apply(), {}, None, prediction)
    if sampling.clip:
        limit = sampling.clip_range or 1.0
        if sampling.clip_quantile is not None:
            denoiser = jd.denoisers.thresholding.dynamic_threshold(
                denoiser, sampling.clip_quantile, limit, keep_eps=sampling.keep_eps
            )
        else:
            denoiser = jd.clip_x0(denoiser, -limit, limit, keep_eps=sampling.keep_eps)
    count = grid.alpha.shape[0] - 1
    steps = list(drawn) + [np.zeros_like(latents)] * (count * sampler.draws)
    given = np.stack(steps[: count * sampler.draws])
    if sampler.draws == 2:
        given = given.reshape(count, 2, *latents.shape)
    start = np.float32(sampler.start_scale(schedule, grid)) * latents
    x = jd.sample(
        denoiser, sampler, schedule, jax.random.key(0), latents.shape,
        x_T=jnp.asarray(start), noise=jnp.asarray(given),
    )  # fmt: skip
    if "EulerDiscrete" in record["_class_name"]:  # their x is not scaled down
        x = x / grid.alpha[-1]
    return np.asarray(x), grid, scheduler


def class_of(name: str) -> Any:
    """Returns a scheduler of diffusers; one needs a package that is replaced here."""
    if name == "DPMSolverSDEScheduler":
        sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
        name_of_module = "diffusers.schedulers.scheduling_dpmsolver_sde"
        return importlib.import_module(name_of_module).DPMSolverSDEScheduler
    return getattr(diffusers, name)


def compare(name: str, options: dict[str, Any], num_steps: int, noise: Noise) -> float:
    """Compares the two loops; returns the largest difference, over the largest."""
    record = {"_class_name": f"{name}Scheduler", **options}
    made = class_of(record["_class_name"])(**options)
    latents = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted, times = theirs(made, latents, num_steps, noise)
        got, grid, _ = ours(record, latents, num_steps, noise.drawn)
    assert np.isfinite(wanted).all()
    known = np.asarray(grid.t, np.float64)[:-1]
    apart = np.abs(known[:, None] - times)
    # Times repeat if a step has two evaluations; the others are between two of ours.
    assert apart.min(axis=1).max() < 2e-3
    if len(times) == len(known):
        assert np.abs(known - times).max() < 2e-3
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


LOOSE: dict[str, float] = {
    # diffusers' tables are in float32, where 1 - beta has few digits near beta = 1.
    "rescale_betas_zero_snr": 1e-3, "squaredcos_cap_v2": 3e-3,
    # With more noise at the start, or logarithms of close numbers, its float32 loses
    # digits: in float64 it differs from ours by 3e-7 (DEIS of order 3, 50 steps).
    "DEISMultistep": 2e-4, "Multistep {'use_exponential_sigmas'": 2e-4,
    "Multistep {'use_beta_sigmas'": 1e-3,
    # It multiplies EDM's start by sqrt(sigma_max^2 + 1), we by sigma_max; the network
    # is singular at t = -1.
    "EDM": 1e-3, "continuous": 1e-4,
}  # fmt: skip


def tolerance(name: str, options: dict[str, Any], num_steps: int) -> float:
    text = f"{name} {options}"
    found = [value for key, value in LOOSE.items() if key in text]
    # With two steps, a time is between 0 and 1, where the network is steep.
    few = {"KDPM2AncestralDiscrete": 0.02}.get(name, 1e-4) if num_steps == 2 else 0.0
    return max([2e-5, few, *found])


@pytest.mark.parametrize("name", CASES)
def test_a_loop_gives_what_theirs_gives(name, noise):
    options = CASES[name][0]
    assert compare(name, options, SHORT, noise) < tolerance(name, options, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("num_steps", [2, 4, 20, 50])
@pytest.mark.parametrize(
    ("name", "place"), [(n, i) for n, cases in CASES.items() for i in range(len(cases))]
)
def test_every_setting_gives_what_theirs_gives(name, place, num_steps, noise):
    options = CASES[name][place]
    if name == "PNDM" and num_steps == 2 and not options.get("skip_prk_steps"):
        with pytest.raises(InputError, match="at least 4 if skip_prk_steps is false"):
            ours({"_class_name": "PNDMScheduler", **options}, np.ones(()), 2, [])
        return
    assert compare(name, options, num_steps, noise) < tolerance(
        name, options, num_steps
    )


PUBLISHED: list[Any] = [
    ("PNDM", {}, 198.1318),
    ("PNDM", V, 67.3986),
    *(
        pytest.param("PNDM", {"beta_start": 0.01, "set_alpha_to_one": to_one}, total,
                     marks=pytest.mark.long)
        for to_one, total in ((True, 230.0399), (False, 186.9482))
    ),
]  # fmt: skip
"""Sums of absolute results in the tests of diffusers, of 10 steps. The tests of its
schedulers that scale the network's input step the scaled input, which no pipeline does.
"""


@pytest.mark.parametrize(("name", "options", "total"), PUBLISHED)
def test_the_published_sums(name, options, total):
    """The start is the numbers 0, 1/768, ..., in diffusers' layout of the axes."""
    numbers = np.arange(768, dtype=np.float32).reshape(3, 8, 8, 4) / 768
    images = numbers.transpose(3, 1, 2, 0)
    record = {"_class_name": f"{name}Scheduler", **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the last step keeps")
        found, _, _ = ours(record, images, 10, [])
    assert abs(np.abs(found).sum() - total) < 1e-2
    assert abs(np.abs(found).mean() - total / 768) < 1e-3


def sampled(name: str, options: dict[str, Any], num_steps: int) -> None:
    """Reads a scheduler and makes its grid."""
    scheduler = read_scheduler({"_class_name": f"{name}Scheduler", **options}, "a")
    schedule = scheduler.schedule().build()
    scheduler.sampling(schedule, num_steps).sampler.grid(schedule)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("PNDM", {"prediction_type": "sample"}, "prediction_type"),
    ("EulerDiscrete", {"interpolation_type": "log_linear"}, "interpolation_type"),
    ("EulerDiscrete", {**KARRAS, **BETA}, "only one of use_karras_sigmas"),
    (
        "EulerDiscrete", {**V, "timestep_type": "continuous"},
        "sigma_min and sigma_max must be set with timestep_type continuous",
    ),
    ("EulerDiscrete", {"trained_betas": [0.1, 0.2]}, "must have num_train_timesteps"),
    ("LCM", {"thresholding": True, "sample_max_value": 0.5}, "sample_max_value must"),
    ("LCM", {"original_inference_steps": 2000}, "original_steps must be at most 1000"),
    ("DPMSolverMultistep", {"algorithm_type": "dpmsolver"}, "algorithm_type"),
    ("UniPCMultistep", {**KARRAS, **SIGMA_MIN}, "final_sigmas_type must be zero with"),
    ("UniPCMultistep", {"use_flow_sigmas": True}, "use_flow_sigmas"),
    ("DEISMultistep", {**KARRAS, "solver_order": 3}, "solver_order must be 1 or 2"),
    ("EDMEuler", {"prediction_type": "v_prediction"}, "prediction_type"),
    ("EDMEuler", SIGMA_MIN, "final_sigmas_type"),
    ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "invert_sigmas"),
    ("CMStochasticIterative", {}, "got 'CMStochasticIterativeScheduler'"),
    ("DDPMWuerstchen", {}, "got 'DDPMWuerstchenScheduler'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "line"), REFUSED)
@pytest.mark.filterwarnings("ignore:the last step keeps")
def test_what_is_not_supported_is_refused_by_name(name, options, line):
    with pytest.raises(InputError) as error:
        sampled(name, options, 10)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


WARNED: list[tuple[str, dict[str, Any], int, str]] = [
    ("PNDM", LINSPACE, 7, "kept the steps from each time to the next"),
    ("PNDM", {}, 40, "kept half of the strides of 25"),
    ("EulerDiscrete", TRAILING, 61, "left out the step from time -1"),
    ("DPMSolverMultistep", EXPONENTIAL, 5, "took 999 for the first time"),
    (
        "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        5, "kept the sign of the third-order term",
    ),
    ("DPMSolverSDE", {"noise_sampler_seed": 3}, 5, "in place of noise_sampler_seed 3"),
    ("DDIM", {"snr_shift": 3.0}, 5, "ignored entries of a that change no image"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "num_steps", "line"), WARNED)
@pytest.mark.filterwarnings("ignore:the last step keeps")
def test_what_differs_is_named(name, options, num_steps, line):
    with pytest.warns(UserWarning, match=line):
        sampled(name, options, num_steps)


def test_null_is_false():
    record = {"_class_name": "LCMScheduler", "clip_sample": None, "thresholding": None}
    scheduler: Any = read_scheduler(record, "a file")
    assert (scheduler.clip_sample, scheduler.thresholding) == (False, False)


def written_again(record: dict[str, Any], num_steps: int) -> tuple[Any, Any]:
    """Returns a scheduler, and the one that is exported from its parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = read_scheduler(record, "a file")
        options = scheduler.schedule()
        schedule = options.build()
        prediction = scheduler.prediction(learn_variance=False)
        sampling = scheduler.sampling(schedule, num_steps)
        found, count = scheduler_of(options, schedule, prediction, sampling)
        assert count == num_steps
        assert found.schedule() == options
        assert found.sampling(schedule, count) == sampling
        assert found.prediction(learn_variance=False) == prediction
    return scheduler, found


def free_fields(scheduler: Any, num_steps: int) -> set[str]:
    """Returns the fields that change nothing beside the others."""
    found = set()
    continuous = getattr(scheduler, "continuous", False)
    if continuous or getattr(scheduler, "trained_betas", None):
        found |= {"beta_start", "beta_end", "beta_schedule"}
    rules = "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"
    ruled = any(getattr(scheduler, name, False) for name in rules)
    multistep = hasattr(scheduler, "lower_order_final")
    if continuous or scheduler.__dict__.get("timestep_spacing") != "leading":
        found |= {"steps_offset"}
    if continuous or (ruled and multistep):
        found |= {"timestep_spacing", "steps_offset"}
    if num_steps >= 15 or ruled:
        found |= {"lower_order_final", "euler_at_final"}
    usual = getattr(type(scheduler)(), "solver_type", None)
    others = {"logrho", "midpoint"} - {usual}
    if getattr(scheduler, "solver_type", None) in others:
        found |= {"solver_type"}
    if getattr(scheduler, "algorithm_type", None) == "dpmsolver++":
        found |= {"algorithm_type"}
    return found


def check_written(name: str, options: dict[str, Any], num_steps: int) -> None:
    record = {"_class_name": f"{name}Scheduler", **options}
    first, again = written_again(record, num_steps)
    assert type(first) is type(again)
    changed = {
        field.name
        for field in dataclasses.fields(first)
        if getattr(first, field.name) != getattr(again, field.name)
    }
    assert changed <= free_fields(first, num_steps), options
    assert read_scheduler(scheduler_record(again), "a file") == again


@pytest.mark.parametrize("name", CASES)
def test_a_scheduler_is_written_as_it_was_read(name):
    check_written(name, CASES[name][0], 10)


@pytest.mark.long
@pytest.mark.parametrize("num_steps", [10, 20])
@pytest.mark.parametrize("name", CASES)
def test_every_setting_is_written_as_it_was_read(name, num_steps):
    for options in CASES[name]:
        check_written(name, options, num_steps)


@pytest.mark.parametrize("kind", [jd.spacing.Karras, jd.spacing.UniformLogSNR])
def test_our_rules_for_noise_levels_are_written_as_diffusers(kind):
    sampling = Sampling(sampler=jd.Heun(spacing=kind(num_steps=10)), clip=False)
    options, prediction = jd.schedules.Linear(), jd.predictions.Eps()
    schedule = options.build()
    with pytest.warns(UserWarning, match="start from noise of deviation 1; diffusers"):
        found: Any = scheduler_of(options, schedule, prediction, sampling)[0]
    karras = kind is jd.spacing.Karras
    assert (found.use_karras_sigmas, found.use_exponential_sigmas) == (
        karras, not karras
    )  # fmt: skip


FLOW = jd.schedules.RectifiedFlow
EVEN: Any = {"spacing": jd.spacing.Trailing(num_steps=10)}
NOT_WRITTEN: list[tuple[Any, Any, Any, str]] = [
    (jd.Heun(churn=1.0, **EVEN), jd.Linear(), {}, "churn must be 0.0 for diffusers'"),
    (jd.samplers.DPM2(eta=0.5, **EVEN), jd.Linear(), {}, "eta must be 0.0 for diff"),
    (jd.samplers.DPMSolver2S(), jd.Linear(), {}, "got dpm-solver-2s. Export with anot"),
    (jd.DPMSolver(order=3), jd.Linear(), {}, "third_order must be published for diff"),
    (jd.DPMSolver(noise_scale=1.1), jd.Linear(), {}, "noise_scale must be 1.0 for dif"),
    (
        jd.samplers.LMS(), jd.schedules.ZeroTerminalSNR(), {},
        "schedule must keep signal at its end for diffusers' LMSDiscreteScheduler",
    ),
    (jd.samplers.LMS(), jd.Linear(), {"clip": True}, "clip_range must be off (sampl"),
    (
        jd.samplers.DEIS(), jd.Linear(), {"clip": True, "clip_quantile": 0.9},
        "sampling.clip_range must be set for diffusers with clip_quantile",
    ),
    (
        jd.samplers.DEIS(spacing=jd.spacing.Karras()), jd.Linear(), {},
        "spacing must be available in diffusers' DEISMultistepScheduler, got Karras",
    ),
    (jd.samplers.FlowEuler(), FLOW(t_min=0.02), {}, "schedule must be RectifiedFlow(n"),
    (jd.Heun(), FLOW(), {}, "got straight-path with heun"),
    (jd.samplers.Euler(), jd.schedules.VE(), {}, "schedule must be VE(num_steps=1000"),
]  # fmt: skip
"""Sampler, schedule and options of the sampling that diffusers does not have."""


@pytest.mark.parametrize(("sampler", "options", "limits", "line"), NOT_WRITTEN)
@pytest.mark.filterwarnings("ignore:the last step keeps")
def test_what_diffusers_does_not_have_is_not_written(sampler, options, limits, line):
    prediction: Any = {
        FLOW: jd.predictions.Velocity(), jd.schedules.VE: jd.predictions.EDM()
    }.get(type(options), jd.predictions.V())  # fmt: skip
    sampling = Sampling(sampler=sampler, **{"clip": False, **limits})
    with pytest.raises(InputError) as error:
        scheduler_of(options, options.build(), prediction, sampling)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
