"""Diagnosis of a noise schedule: its key figures, their verdicts, and the remedies.

A forward process can fail in two ways. (A) Too little noise at the end: signal remains
in x_T, but sampling starts from noise alone. (B) Too much noise too early: large steps
destroy detail at once, and the reverse steps are not Gaussian.

All figures are for data of variance 1, with x_t = alpha_t x_0 + sigma_t eps. s is the
level before t, and the data before the first level.

    (1)  SNR_t = alpha_t^2 / sigma_t^2,   noise share N_t = 1 / (1 + SNR_t)
    (2)  contrast left in x_T = sqrt(1 - N_T)      0 wanted (Lin et al. 2024, sec. 3.1)
    (3)  first noise = sigma_0 / alpha_0: finer detail is averaged away, because the
         step onto the data adds no noise. One grey level of 8 bits is 2 / 255. The
         cosine's offset was chosen to start below it (Nichol & Dhariwal 2021, section
         3.2).
    (4)  the true variance of x_s given x_t has two parts: the variance w_t of
         q(x_s | x_t, x_0), which is Gaussian, and the variance due to the unknown x_0,
         which is as Gaussian as the data:
         w_t + (alpha_s beta_ts / sigma_t^2)^2 Cov[x_0 | x_t],
         w_t = beta_ts sigma_s^2 / sigma_t^2            (Ho et al. 2020, eqs. 6 and 7)
    (5)  Cov[x_0 | x_t] is N_t for Gaussian data. No data of variance 1 have more on
         average. The second part of (4) is then the share (N_t - N_s) / N_t of it.
    (6)  step loss L_t = (N_t - N_s) (N_t - N_s) / N_t: the share of the data's variance
         that the forward step t destroys, times the share in (5). A reverse step of
         variance w_t ("fixed small") does not restore this variance.
    (7)  ancestral sampling of data N(0, 1), for which E[x_0 | x_t] = alpha_t x_t / v_t
         with v_t = alpha_t^2 + sigma_t^2, from V_T = prior_scale^2 down:
         V_s = (alpha_ts v_s / v_t)^2 V_t + w_t         (Ho et al. 2020, algorithm 2)
         The last V is the samples' variance over the data's. It equals 1 - sum L_t, up
         to the difference between V_T and v_T. With w_t = beta_ts ("fixed large") it is
         1 - N_0, if alpha_t^2 + sigma_t^2 = 1.

L_t predicts failure. The simpler beta_ts / sigma_t^2 = 1 - SNR_t / SNR_s does not: it
is 1 in the last reverse step of every schedule, and 1/2 or more in the steps before. It
is also near 1 at the noisy end of the cosine. There it does no harm, because little of
the data's variance is at stake.
"""

import textwrap
from typing import NamedTuple

import numpy as np

from jaxdiff.checks import VISIBLE_SIGNAL, check_built, concrete
from jaxdiff.errors import InputError
from jaxdiff.typing import AnySchedule

GREY_LEVEL = 2 / 255
"""One grey level of an 8-bit image scaled to [-1, 1]."""
VISIBLE_GREYS = 3
"""Standard deviation of the first noise, in grey levels, above which it is visible."""
NEARLY_NOISE = 1e-3
"""SNR below which a step has almost no effect."""
NEARLY_CLEAN = (2 / GREY_LEVEL) ** 2
"""SNR above which the noise is below half a grey level: rounding removes it."""
MOST_WASTED = 0.25
"""Largest share of steps at either end that may have almost no effect. DDPM's linear
betas can skip a fifth without harm (Nichol & Dhariwal 2021, section 3.2) and must
pass."""
EARLIEST_LOSS = 0.1
"""Share of the steps before which the SNR should not fall below 1."""
LARGEST_STEP = 0.01
"""Largest share of the data's variance that a reverse step may lose, equation (6)."""
LARGEST_BIAS = 0.05
"""Largest distance of the samples' final variance from 1, equation (7)."""
ROUNDING = 1e-6
"""Largest relative rise of alpha / sigma between levels; the levels are float32."""
WIDTH = 80
"""Largest number of columns of the table."""
ADVICE = {
    "SIGNAL LEFT": "use more steps or larger betas (sampling starts from noise the "
    "network was not trained on)",
    "ok: exactly zero": "eps-prediction cannot be used: predict v or x_0",
    "TOO EARLY": "use smaller betas, above all at the start, or Cosine",
    "WASTED LATE": "these steps do nearly nothing: use smaller betas at the end (or "
    "sigma_max), fewer steps or Cosine",
    "WASTED EARLY": "these steps do nearly nothing: use a larger beta_start (or "
    "sigma_min, t_min) or fewer steps",
    "DETAIL LOST": "detail finer than this is destroyed at once and never learned: use "
    "a smaller beta_start (or sigma_min, t_min) or more steps",
    "STEP TOO LARGE": "this reverse step is not Gaussian: use more steps, or smaller "
    "betas there",
    "BIASED": "the reverse steps are too large: use more steps, or a variance between "
    "the two (LearnedRange)",
}
"""Remedies by verdict."""


class Finding(NamedTuple):
    """One row of the table.

    Attributes:
        name: quantity that was computed.
        value: its value, as text.
        verdict: "ok" or "ok: ...", a fault in capitals, or "" for a row without a
            verdict. `ADVICE` has the remedy.
    """

    name: str
    value: str
    verdict: str = ""


class Diagnosis(NamedTuple):
    """Result of `diagnose`: `print` shows a table, `plots.save_diagnosis` a chart.

    Attributes:
        times: times of all steps [T], least noisy first.
        log_snr: natural logarithm of the SNR, equation (1), float64 [T].
        step_loss: share of the data's variance that each reverse step of fixed small
            variance loses, equation (6), float64 [T].
        contrast_left: share of the image's contrast in x_T, equation (2), in 0..1.
        first_noise: noise of the first level in 8-bit grey levels, equation (3).
        variance_small: variance of samples over the variance of Gaussian data of
            variance 1, equation (7), with the fixed small variance.
        variance_large: the same ratio with the fixed large variance.
    """

    times: np.ndarray
    log_snr: np.ndarray
    step_loss: np.ndarray
    contrast_left: float
    first_noise: float
    variance_small: float
    variance_large: float

    @property
    def terminal_snr(self) -> float:
        """SNR of the noisiest level, equation (1)."""
        return float(np.exp(self.log_snr[-1]))

    def share_below(self, snr: float) -> float:
        """Returns the share of the steps with an SNR below the given one, in 0..1."""
        return float((self.log_snr < np.log(snr)).mean())

    @property
    def faults(self) -> tuple[str, ...]:
        """Verdicts that need a change, keys of `ADVICE`; () if there are none."""
        verdicts = [row.verdict for rows in self.findings.values() for row in rows]
        return tuple(v for v in verdicts if v and not v.startswith("ok"))

    @property
    def findings(self) -> dict[str, list[Finding]]:
        """Rows of the table with their verdicts, by heading."""

        def falls_below(snr: float) -> str:
            before = 1 - self.share_below(snr)
            below = self.times[self.log_snr < np.log(snr)]
            return f"{_at(below[0])}, {before:.1%}" if below.size else "never"

        def check(name: str, value: str, fault: str, bad: bool) -> Finding:
            return Finding(name, value, fault if bad else "ok")

        def variance(kind: str, value: float) -> Finding:
            name = f"variance of samples / data, {kind}"
            return check(name, f"{value:.4f}", "BIASED", abs(value - 1) > LARGEST_BIAS)

        contrast = self.contrast_left
        end = "ok: ends in noise" if contrast else "ok: exactly zero"
        halved = falls_below(1.0)
        early = 1 - self.share_below(1.0) < EARLIEST_LOSS
        noisy = self.share_below(NEARLY_NOISE)
        clean = 1 - self.share_below(NEARLY_CLEAN)
        first, lost = self.first_noise, self.step_loss.max()
        where = _at(self.times[self.step_loss.argmax()])
        return {
            "A. Too little noise at the end?": [
                Finding("SNR of the last level", f"{self.terminal_snr:.3g}"),
                Finding(
                    "share of the contrast left in it",
                    f"{contrast:.3g}",
                    "SIGNAL LEFT" if contrast > VISIBLE_SIGNAL else end,
                ),
            ],
            "Where is the signal lost? (time, share of the steps before it)": [
                check("SNR falls below 1", halved, "TOO EARLY", early)
                if halved != "never"
                else Finding("SNR falls below 1", halved),
                Finding("SNR falls below 0.01", falls_below(0.01)),
                check(
                    f"steps at an SNR below {NEARLY_NOISE:g}",
                    f"{noisy:.1%}",
                    "WASTED LATE",
                    noisy > MOST_WASTED,
                ),
                check(
                    "steps whose noise is below 1/2 grey level",
                    f"{clean:.1%}",
                    "WASTED EARLY",
                    clean > MOST_WASTED,
                ),
            ],
            "B. Too much noise too early?": [
                check(
                    "noise of the first level, in grey levels",
                    f"{first:.3g}",
                    "DETAIL LOST",
                    first > VISIBLE_GREYS,
                ),
                check(
                    f"most variance lost by a step, {where}",
                    f"{lost:.2g}",
                    "STEP TOO LARGE",
                    lost > LARGEST_STEP,
                ),
                variance("FixedSmall", self.variance_small),
                variance("FixedLarge", self.variance_large),
            ],
        }

    def __str__(self) -> str:
        """Returns the table, at most 80 columns wide."""
        head = f"Noise schedule, T = {len(self.times)}"
        lines = [f"{head:<43} {'value':>16}  verdict", "-" * WIDTH]
        for heading, rows in self.findings.items():
            lines.append(heading)
            for name, value, verdict in rows:
                lines.append(f"  {name:<41} {value:>16}  {verdict}".rstrip())
                advice = textwrap.wrap(ADVICE.get(verdict, ""), WIDTH - 6)
                if advice and f"    > {advice[0]}" not in lines:
                    lines += [f"    > {advice[0]}", *(f"      {a}" for a in advice[1:])]
        return "\n".join(lines)

    @property
    def marks(self) -> dict[str, float]:
        """Log-SNRs at which verdicts change, for `plots.save_diagnosis`, by name."""
        snrs = {
            "noise < 1/2 grey level": NEARLY_CLEAN,
            "SNR 1": 1.0,
            "SNR 0.01": 0.01,
            f"SNR {NEARLY_NOISE:g}": NEARLY_NOISE,
        }
        return {name: float(np.log(snr)) for name, snr in snrs.items()}

    @property
    def limits(self) -> tuple[float, float]:
        """Largest shares of the variance that one step, and all steps, may lose."""
        return LARGEST_STEP, LARGEST_BIAS


def diagnose(schedule: AnySchedule) -> Diagnosis:
    """Checks a schedule for properties that make training or sampling fail.

    It finds the two classic faults of a forward process. Too little noise at the end:
    signal is left in x_T, but sampling starts from pure noise. Too much noise too
    early: detail is destroyed at once, and the reverse steps are not Gaussian. It also
    finds steps with almost no effect. The module's docstring has the maths. Grey levels
    assume 8-bit images in [-1, 1].

    Args:
        schedule: built schedule, discrete or continuous.

    Returns:
        The figures and verdicts:

        >>> import jaxdiff as jd
        >>> diagnosis = jd.schedules.diagnose(jd.Linear(num_steps=1000).build())
        >>> print(f"{diagnosis.terminal_snr:.4g} {diagnosis.variance_small:.3f}")
        4.036e-05 0.991
        >>> diagnosis.faults
        ()

    Raises:
        InputError: the schedule is not built, or is traced (inside `jax.jit`), or
            allows no reverse steps: a level is not finite or has no signal, or the SNR
            rises.
    """
    check_built(schedule, "times")
    level = schedule.level(schedule.times)
    tables = [concrete(table) for table in (schedule.times, level.alpha, level.sigma)]
    if any(table is None for table in tables):
        raise InputError("schedule must be concrete, got tracers. Call it outside jit.")
    times, alpha, sigma = (np.asarray(table) for table in tables)
    # XLA flushes subnormal numbers to 0, also in the sampling loop.
    alpha = np.where(np.abs(alpha) < np.finfo(alpha.dtype).tiny, 0.0, alpha)
    alpha, sigma = alpha.astype(np.float64), sigma.astype(np.float64)
    # s is the level before t; before the first level come the data.
    alpha_s, sigma_s = np.append(1.0, alpha[:-1]), np.append(0.0, sigma[:-1])
    _check(times, alpha, sigma, alpha_s, sigma_s)
    with np.errstate(divide="ignore"):
        log_snr = 2 * (np.log(alpha) - np.log(sigma))
        first_noise = sigma[0] / alpha[0] / GREY_LEVEL
    variance, variance_s = alpha**2 + sigma**2, alpha_s**2 + sigma_s**2
    noise, noise_s = sigma**2 / variance, sigma_s**2 / variance_s
    # Equation (7), for both variances at once.
    alpha_ts = alpha / alpha_s
    beta_ts = sigma**2 - (alpha_ts * sigma_s) ** 2
    added = beta_ts * np.stack([(sigma_s / sigma) ** 2, sigma_s > 0])
    kept = (alpha_ts * variance_s / variance) ** 2
    ends = np.full(2, float(schedule.prior_scale) ** 2)
    for t in reversed(range(len(times))):
        ends = kept[t] * ends + added[:, t]
    return Diagnosis(
        times=times,
        log_snr=log_snr,
        step_loss=(noise - noise_s) ** 2 / noise,
        contrast_left=float(alpha[-1] / np.sqrt(variance[-1])),
        first_noise=float(first_noise),
        variance_small=float(ends[0]),
        variance_large=float(ends[1]),
    )


def _check(
    times: np.ndarray,
    alpha: np.ndarray,
    sigma: np.ndarray,
    alpha_s: np.ndarray,
    sigma_s: np.ndarray,
) -> None:
    for bad, what in (
        (~(np.isfinite(alpha) & np.isfinite(sigma)), "be finite, got nan or inf"),
        (~(alpha >= 0) | ~(sigma > 0), "have alpha >= 0 and sigma > 0, got less"),
        (
            ~(alpha_s > 0),
            "keep signal until the last level, because steps divide by it, got none "
            "just before the level",
        ),
        (alpha * sigma_s > alpha_s * sigma * (1 + ROUNDING), "not raise the SNR"),
    ):
        if bad.any():
            at = _at(times[bad.argmax()])
            raise InputError(f"schedule must {what} at {at}. Change the schedule.")


def _at(time: np.generic) -> str:
    """Returns a time as text: an integer, or 3 digits for a continuous schedule."""
    return f"t = {time}" if time.dtype.kind == "i" else f"t = {time:.3g}"
