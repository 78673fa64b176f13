"""Is a noise schedule well chosen? Its figures, and what to do about them.

A forward process can be badly chosen in two ways: (A) too little noise at the end, so
that signal remains in x_T while sampling starts from noise alone; (B) too much noise
too early, in steps so large that detail is destroyed at once and the reverse steps are
not Gaussian. With x_t = alpha_t x_0 + sigma_t eps and s the level before t (the data
before the first), all for data of variance 1:

    (1)  SNR_t = alpha_t^2 / sigma_t^2,   noise share N_t = 1 / (1 + SNR_t)
    (2)  contrast left in x_T = sqrt(1 - N_T)      0 wanted (Lin et al. 2024, sec. 3.1)
    (3)  first noise = sigma_0 / alpha_0: what is finer is averaged away, for the step
         onto the data adds no noise. One grey level of 8 bits is 2 / 255; the cosine's
         offset was chosen to start below it (Nichol & Dhariwal 2021, section 3.2).
    (4)  the true variance of x_s given x_t is that of q(x_s | x_t, x_0), which is
         Gaussian, and that of not knowing x_0, which is as Gaussian as the data:
         w_t + (alpha_s beta_ts / sigma_t^2)^2 Cov[x_0 | x_t],
         w_t = beta_ts sigma_s^2 / sigma_t^2            (Ho et al. 2020, eqs. 6 and 7)
    (5)  Cov[x_0 | x_t] is N_t for Gaussian data, and no data of variance 1 has more on
         average. The second part of (4) is then the share (N_t - N_s) / N_t of it.
    (6)  step loss L_t = (N_t - N_s) (N_t - N_s) / N_t: the share of the data's variance
         that the forward step t destroys, times (5). It is what a reverse step of
         variance w_t ("fixed small") fails to give back.
    (7)  ancestral chain on data N(0, 1), of which E[x_0 | x_t] = alpha_t x_t / v_t with
         v_t = alpha_t^2 + sigma_t^2, from V_T = prior_scale^2 down:
         V_s = (alpha_ts v_s / v_t)^2 V_t + w_t         (Ho et al. 2020, algorithm 2)
         The last V is the samples' variance over the data's. It is 1 - sum L_t, but for
         what V_T differs from v_T; with w_t = beta_ts ("fixed large"), if alpha_t^2 +
         sigma_t^2 = 1, it is 1 - N_0.

L_t foretells failure, as beta_ts / sigma_t^2 = 1 - SNR_t / SNR_s does not: that is 1 in
every chain's last step, 1/2 or more in those before it and near 1 at the cosine's noisy
end, and does no harm there, where little of the data's variance is at stake.
"""

import textwrap
from typing import NamedTuple

import numpy as np

from jaxdiff.checks import VISIBLE_SIGNAL, concrete
from jaxdiff.errors import InputError
from jaxdiff.typing import AnySchedule

GREY_LEVEL = 2 / 255
"""One grey level of an 8-bit image scaled to [-1, 1]."""
VISIBLE_GREYS = 3
"""Deviation of the first noise, in grey levels, above which it is visible."""
NEARLY_NOISE = 1e-3
"""SNR below which a step does nearly nothing."""
NEARLY_CLEAN = (2 / GREY_LEVEL) ** 2
"""SNR above which the noise is under half a grey level: rounding removes it."""
MOST_WASTED = 0.25
"""Share of steps at either end that may do nearly nothing: DDPM's linear betas can skip
a fifth without harm (Nichol & Dhariwal 2021, section 3.2) and shall pass."""
EARLIEST_LOSS = 0.1
"""Share of the steps before which the SNR should not fall below 1."""
LARGEST_STEP = 0.01
"""Share of the data's variance that one reverse step may lose, equation (6)."""
LARGEST_BIAS = 0.05
"""How far from 1 the samples' variance may end, equation (7)."""
ROUNDING = 1e-6
"""By what part alpha / sigma may rise: levels are float32."""
WIDTH = 80
"""Columns of the table, at most."""
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
"""What to do, by verdict."""


class Finding(NamedTuple):
    """One row of the table.

    Attributes:
        name: what was looked at.
        value: what was found.
        verdict: "ok" or "ok: ...", or a fault in capitals; "" where nothing is judged.
            `ADVICE` says what to do.
    """

    name: str
    value: str
    verdict: str = ""


class Diagnosis(NamedTuple):
    """What `diagnose` found: `print` shows a table, `save` draws a plot.

    Attributes:
        times: the chain's times [T], least noisy first.
        log_snr: natural logarithm of the SNR, equation (1), float64 [T].
        step_loss: the share of the data's variance that each reverse step of fixed
            small variance loses, equation (6), float64 [T].
        contrast_left: share of the image's contrast in x_T, 0..1, equation (2).
        first_noise: the first level's noise in 8-bit grey levels, equation (3).
        variance_small: variance of samples over that of Gaussian data of variance 1,
            equation (7), with the fixed small variance.
        variance_large: the same with the fixed large variance.
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
        """The share of the steps, 0..1, at an SNR below this one."""
        return float((self.log_snr < np.log(snr)).mean())

    @property
    def faults(self) -> tuple[str, ...]:
        """The verdicts that ask for a change, keys of `ADVICE`; () is well."""
        verdicts = [row.verdict for rows in self.findings.values() for row in rows]
        return tuple(v for v in verdicts if v and not v.startswith("ok"))

    @property
    def findings(self) -> dict[str, list[Finding]]:
        """The table: rows with their verdicts, by heading."""

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
        """The table, at most 80 columns wide."""
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
        """The log-SNRs that the verdicts go by, by name; `plots.save_diagnosis`."""
        snrs = {
            "noise < 1/2 grey level": NEARLY_CLEAN,
            "SNR 1": 1.0,
            "SNR 0.01": 0.01,
            f"SNR {NEARLY_NOISE:g}": NEARLY_NOISE,
        }
        return {name: float(np.log(snr)) for name, snr in snrs.items()}

    @property
    def limits(self) -> tuple[float, float]:
        """The shares of the variance that one step, and all of them, may lose."""
        return LARGEST_STEP, LARGEST_BIAS


def diagnose(schedule: AnySchedule) -> Diagnosis:
    """Checks a schedule for what makes training or sampling fail.

    It finds the two classic faults of a forward process: too little noise at the end
    (signal is left in x_T, and sampling starts from noise without any), and too much
    noise too early (detail is destroyed at once, and the reverse steps are not
    Gaussian); and steps that do nearly nothing. The module's head has the maths. The
    grey levels suppose 8-bit images in [-1, 1].

    Args:
        schedule: a built schedule, discrete or continuous.

    Returns:
        The figures and verdicts:

        >>> import jaxdiff as jd
        >>> diagnosis = jd.schedules.diagnose(jd.Linear(num_steps=1000).build())
        >>> print(f"{diagnosis.terminal_snr:.4g} {diagnosis.variance_small:.3f}")
        4.036e-05 0.991
        >>> diagnosis.faults
        ()

    Raises:
        InputError: it is not a built schedule, it is traced (inside `jax.jit`), or its
            SNR does not fall from level to level, as a chain needs.
    """
    if not hasattr(schedule, "level"):
        name = getattr(schedule, "__name__", type(schedule).__name__)
        raise InputError(f"diagnose needs a built schedule; got {name}: call its build")
    level = schedule.level(schedule.times)
    tables = [concrete(table) for table in (schedule.times, level.alpha, level.sigma)]
    if any(table is None for table in tables):
        raise InputError("diagnose needs a schedule's numbers: call it outside jit")
    times, alpha, sigma = (np.asarray(table) for table in tables)
    # XLA takes the subnormal numbers for 0, and so does the chain.
    alpha = np.where(np.abs(alpha) < np.finfo(alpha.dtype).tiny, 0.0, alpha)
    alpha, sigma = alpha.astype(np.float64), sigma.astype(np.float64)
    # s, the level before; before the first the data.
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
    """Refuses levels between which no chain can step."""
    for bad, what in (
        (~(np.isfinite(alpha) & np.isfinite(sigma)), "a level is not finite"),
        (~(alpha >= 0) | ~(sigma > 0), "a level has alpha < 0 or sigma <= 0"),
        (~(alpha_s > 0), "the level before has no signal, and the chain divides by it"),
        (alpha * sigma_s > alpha_s * sigma * (1 + ROUNDING), "the SNR rises"),
    ):
        if bad.any():
            at = _at(times[bad.argmax()])
            raise InputError(f"diagnose: {what} at {at}; change the schedule")


def _at(time: np.generic) -> str:
    """A time as text: whole of a discrete schedule, 3 digits of a continuous one."""
    return f"t = {time}" if time.dtype.kind == "i" else f"t = {time:.3g}"
