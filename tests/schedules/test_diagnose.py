"""Self-check of a schedule: its figures, verdicts, table and plot."""

import doctest
import importlib
import subprocess
import sys
import warnings
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import plots
from jaxdiff.samplers import StepInfo
from jaxdiff.samplers.ancestral import p_step
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.diagnose import ADVICE

# Building a schedule that ends with signal warns.
pytestmark = pytest.mark.filterwarnings("ignore:the last step keeps:UserWarning")
DEFAULTS = [option().build() for option in get_args(ScheduleOptions)]
NAMES = [option.__name__ for option in get_args(ScheduleOptions)]


def of_log_snr(*pieces):
    """Returns the discrete schedule of given log signal-to-noise ratios."""
    alphas_bar = 1 / (1 + np.exp(-np.concatenate(pieces)))
    return jd.Schedule.from_betas(1 - alphas_bar / np.append(1.0, alphas_bar[:-1]))


def line(start, end, num):
    return np.linspace(start, end, num, endpoint=False)


# Terminal SNR and contrast left as in Lin et al. 2024, table 1; from alphas_bar.
@pytest.mark.parametrize(
    ("options", "alphas_bar"),
    [
        (jd.Linear(), 4.035829765e-5),
        (jd.Cosine(), 2.428766903e-9),
        (jd.Quadratic(beta_start=0.00085, beta_end=0.012), 0.004660095),
    ],
)
def test_the_end(options, alphas_bar):
    diagnosis = jd.schedules.diagnose(options.build())
    snr = alphas_bar / (1 - alphas_bar)
    np.testing.assert_allclose(diagnosis.terminal_snr, snr, rtol=1e-5)
    np.testing.assert_allclose(diagnosis.contrast_left, alphas_bar**0.5, rtol=1e-5)


def test_figures_of_the_linear_schedule():
    diagnosis = jd.schedules.diagnose(jd.Linear().build())
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    log_snr = np.log(alphas_bar / (1 - alphas_bar))
    np.testing.assert_allclose(diagnosis.log_snr, log_snr, rtol=1e-5, atol=1e-5)
    for snr, first in ((1, 259), (0.01, 674), (1e-3, 826)):
        assert np.flatnonzero(log_snr < np.log(snr))[0] == first
        assert diagnosis.share_below(snr) == pytest.approx(1 - first / 1000)
    # sigma_0 = 0.01, a grey level 2 / 255; alphas_bar_0 = 1 - sigma_0^2.
    np.testing.assert_allclose(diagnosis.first_noise, 1.275 / 0.9999**0.5, rtol=1e-5)
    assert round(diagnosis.variance_small, 3) == 0.991
    # Fixed large is exact for this data, except in the last step, which adds no noise.
    np.testing.assert_allclose(diagnosis.variance_large, 0.9999, atol=1e-6)


def test_figures_of_continuous_schedules():
    exploding = jd.schedules.diagnose(jd.schedules.VE().build())
    np.testing.assert_allclose(exploding.terminal_snr, 1 / 80**2, rtol=1e-5)
    np.testing.assert_allclose(exploding.contrast_left, 6401**-0.5, rtol=1e-5)
    np.testing.assert_allclose(exploding.first_noise, 0.002 * 127.5, rtol=1e-4)
    straight = jd.schedules.diagnose(jd.schedules.RectifiedFlow(num_steps=101).build())
    assert straight.terminal_snr == straight.contrast_left == 0
    assert straight.log_snr[-1] == -np.inf
    # alpha = sigma = 1/2 at the time (0.5 - t_min) / (1 - t_min), just below 0.5.
    assert straight.share_below(1) == pytest.approx(51 / 101)


@pytest.mark.parametrize(
    "options",
    [
        jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6),
        jd.Linear(num_steps=1, beta_end=0.5, beta_start=0.5),
        jd.schedules.ZeroTerminalSNR(base=jd.Linear(num_steps=20)),
        jd.schedules.VE(num_steps=20, sigma_max=5.0),
        jd.schedules.VP(num_steps=20),
        jd.schedules.RectifiedFlow(num_steps=20),
    ],
    ids=lambda options: type(options).__name__,
)
def test_variances_are_those_of_the_librarys_own_reverse_steps(options):
    schedule = options.build()
    diagnosis = jd.schedules.diagnose(schedule)
    oracle = jd.oracles.Gaussian.of(jnp.zeros(1), 1.0)
    for variance, expected in (
        (jd.samplers.FixedSmall(), diagnosis.variance_small),
        (jd.samplers.FixedLarge(), diagnosis.variance_large),
    ):
        total = schedule.prior_scale**2
        for t in schedule.times[::-1]:
            level = schedule.level(t)
            # The step is linear: its two factors come from x_t = 1 and from noise = 1.
            x_t, noise = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [1.0]])
            info = StepInfo(level, schedule.next_level(t), noise, jnp.array(0))
            x_s = p_step(oracle(x_t, level), x_t, info, variance)
            kept, added = np.asarray(x_s, np.float64)[:, 0] ** 2
            total = kept * total + added
        np.testing.assert_allclose(total, expected, rtol=2e-5)


@pytest.mark.parametrize("schedule", DEFAULTS, ids=NAMES)
def test_step_losses_add_up_to_what_the_chain_loses(schedule):
    diagnosis = jd.schedules.diagnose(schedule)
    # Only variance exploding starts sampling from another variance than x_T's.
    lost = 1 - diagnosis.variance_small
    np.testing.assert_allclose(diagnosis.step_loss.sum(), lost, atol=1e-6)


def test_a_step_loss_is_what_the_true_reverse_variance_has_more():
    schedule = jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6).build()
    loss = jd.schedules.diagnose(schedule).step_loss
    x_t = jnp.ones((1, 1))
    for t in range(1, 20):
        x_0 = jnp.zeros_like(x_t)
        small = jd.q_posterior(schedule, x_0, x_t, t).variance.item()
        # By Bayes' rule for data of unit variance: exactly beta_t.
        large, before = schedule.betas[t], schedule.alphas_bar[t - 1]
        given_up = (large - small) / large * (before - schedule.alphas_bar[t])
        np.testing.assert_allclose(loss[t], float(given_up), rtol=1e-3)


@pytest.mark.parametrize("schedule", DEFAULTS, ids=NAMES)
def test_default_schedules_are_sane(schedule):
    assert jd.schedules.diagnose(schedule).faults == ()


def test_every_advice_is_tested_below():
    tested = {case[0] for case in FAULTS} | {"ok: exactly zero"}
    assert tested == set(ADVICE)


# Schedules with one fault, each with a similar one just within the limit.
FAULTS = [
    ("SIGNAL LEFT", [line(9, -5.98, 999)], [line(9, -6.01, 999)]),
    (
        "TOO EARLY",
        [line(9, 0, 190), line(0, -8, 1810)],
        [line(9, 0, 210), line(0, -8, 1790)],
    ),
    (
        "WASTED LATE",
        [line(9, -6.9, 740), line(-6.92, -20, 260)],
        [line(9, -6.9, 760), line(-6.92, -20, 240)],
    ),
    (
        "WASTED EARLY",
        [line(20, 11.1, 260), line(11.08, -7, 740)],
        [line(20, 11.1, 240), line(11.08, -7, 760)],
    ),
    ("DETAIL LOST", [line(7.48, -7, 999)], [line(7.51, -7, 999)]),
    (
        "STEP TOO LARGE",
        [line(9, 0.2, 500), line(-0.12, -7, 500)],
        [line(9, 0.2, 500), line(-0.05, -7, 500)],
    ),
    ("BIASED", [line(9, -7, 152)], [line(9, -7, 158)]),
]


@pytest.mark.parametrize(("fault", "bad", "good"), FAULTS, ids=[f[0] for f in FAULTS])
def test_each_fault_is_told_from_what_just_passes(fault, bad, good):
    diagnosis = jd.schedules.diagnose(of_log_snr(*bad))
    assert diagnosis.faults == (fault,)
    table = " ".join(str(diagnosis).split())
    assert fault in table
    assert ADVICE[fault] in table
    passes = jd.schedules.diagnose(of_log_snr(*good))
    assert passes.faults == ()
    assert fault not in str(passes)


def test_known_bad_schedules():
    def faults(**options):
        return set(jd.schedules.diagnose(jd.Linear(**options).build()).faults)

    assert faults(num_steps=50) == {"SIGNAL LEFT"}
    assert "BIASED" in faults(num_steps=100, beta_start=1e-3, beta_end=0.2)
    assert {"DETAIL LOST", "STEP TOO LARGE", "TOO EARLY", "BIASED"} < faults(
        num_steps=20, beta_start=0.5, beta_end=0.5
    )
    # Fixed large is biased upwards: too few steps of variance exploding.
    diagnosis = jd.schedules.diagnose(jd.schedules.VE(num_steps=50).build())
    assert diagnosis.faults == ("STEP TOO LARGE", "BIASED", "BIASED")
    assert diagnosis.variance_large > 1.2


def test_zero_terminal_snr_is_said_but_is_no_fault():
    for options in (jd.schedules.ZeroTerminalSNR(), jd.schedules.RectifiedFlow()):
        table = str(jd.schedules.diagnose(options.build()))
        assert "ok: exactly zero\n    > eps-prediction cannot be used" in table
    assert "eps-prediction" not in str(jd.schedules.diagnose(jd.Cosine().build()))


LONG = jd.Linear(num_steps=12000)  # t has 5 digits, and the SNR falls to 1e-53


def test_table():
    table = str(jd.schedules.diagnose(jd.Linear(num_steps=50).build())).splitlines()
    assert table[0].split() == [
        "Noise",
        "schedule,",
        "T",
        "=",
        "50",
        "value",
        "verdict",
    ]
    assert (
        "  share of the contrast left in it                     0.776  SIGNAL LEFT"
        in (table)
    )
    assert "  SNR falls below 1                                    never" in table
    assert str(jd.schedules.diagnose(jd.Cosine().build())).count("ok") == 8


@pytest.mark.parametrize(
    "options",
    [option() for option in get_args(ScheduleOptions)]
    + [LONG, jd.Linear(num_steps=20, beta_start=0.5, beta_end=0.5)]
    + [jd.schedules.VE(num_steps=50), jd.schedules.VP(num_steps=20000)],
    ids=repr,
)
def test_table_is_aligned_and_80_columns_wide(options):
    table = str(jd.schedules.diagnose(options.build()))
    assert max(map(len, table.splitlines())) <= 80
    rows = [row for row in table.splitlines() if row.startswith("  ") and row[2] != " "]
    assert len(rows) == 10
    assert {row[60:62].strip() for row in rows} == {""}
    assert all(row[59] != " " for row in rows)


def test_an_advice_for_two_rows_is_given_once():
    table = str(jd.schedules.diagnose(jd.schedules.VE(num_steps=50).build()))
    assert table.count("  BIASED") == 2
    assert table.count("LearnedRange") == 1


@pytest.mark.parametrize(
    "options", [jd.Linear(num_steps=50), jd.schedules.RectifiedFlow()]
)
def test_plot(tmp_path, options):
    diagnosis = jd.schedules.diagnose(options.build())
    with warnings.catch_warnings(action="error"):
        plots.save_diagnosis(tmp_path / "schedule.png", diagnosis)
    with Image.open(tmp_path / "schedule.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 432))


untyped: Any = jd.schedules.diagnose


class Levels:
    """Custom schedule that defines its levels only."""

    prior_scale = 1.0

    def __init__(self, alpha, sigma):
        self.alpha, self.sigma = jnp.asarray(alpha), jnp.asarray(sigma)
        self.num_steps, self.times = len(alpha), jnp.arange(len(alpha))

    def level(self, t):
        return jd.Level(t, self.alpha[t], self.sigma[t])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: untyped(jd.Linear()), r"must be a built schedule, got Linear\. Call"),
        (lambda: untyped(jd.Cosine), r"got Cosine\. Call its method build"),
        (lambda: untyped(None), "got NoneType"),
        (
            lambda: jax.jit(lambda s: jd.schedules.diagnose(s).variance_small)(
                DEFAULTS[0]
            ),
            "Call it outside jit",
        ),
        (
            lambda: untyped(Levels([0.9, 0.95, 0.1], [0.4, 0.3, 0.9])),
            r"must not raise the SNR at t = 1\.",
        ),
        (
            lambda: untyped(Levels([0.9, jnp.nan], [0.4, 0.5])),
            r"must be finite, got nan or inf at t = 1\.",
        ),
        (lambda: untyped(Levels([1.0, 0.5], [0.0, 0.5])), "sigma > 0, got .* t = 0"),
        (lambda: untyped(Levels([-0.9, 0.5], [0.1, 0.5])), r"alpha >= 0 .* t = 0\."),
        (
            lambda: untyped(Levels([0.9, 0.0, 0.0], [0.4, 1.0, 1.0])),
            r"must keep signal until .* at t = 2\. Change",
        ),
    ],
)
def test_a_mistake_is_one_line(call, message):
    with pytest.raises(jd.InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_schedule_of_ones_own_needs_nothing_but_its_levels():
    own = untyped(Levels([0.99, 0.8, 0.01], [0.1, 0.6, 1.0]))
    assert own.contrast_left == pytest.approx(0.01, rel=1e-3)


def test_the_example_in_the_docstring():
    result = doctest.testmod(importlib.import_module("jaxdiff.schedules.diagnose"))
    assert result.attempted == 4
    assert not result.failed


def test_a_table_needs_no_plotting_library():
    code = (
        "import sys, jaxdiff as jd; str(jd.schedules.diagnose(jd.Cosine().build()));"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
