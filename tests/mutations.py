"""Mutation tests: breaks in a copy of the code show that the tests can fail.

    python -m tests.mutations                    all breaks
    python -m tests.mutations noise-subtracted   some of them
    python -m tests.mutations --no-check         do not run the tests unbroken first

Each break is a slip that a developer could make, in a copy of the repository. The
break's test must fail there by an assertion. A break is missed if the test passes or
does not run. The last output is the table of tests/README.md; the exit code is 1 if any
break was missed.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PATIENCE_S = 600
"""Seconds that the tests of a break may take; after that, the break is missed."""


class Break(NamedTuple):
    """Slip of a developer, and the test that must fail with the slip."""

    name: str
    """Name of the slip, in a few words joined by hyphens."""
    file: str
    """Path of the file with the slip, from the repository's root."""
    old: str
    """Text in the file, which occurs once."""
    new: str
    """Text that replaces the old text."""
    test_file: str
    """File of the test, which must fail with the slip and pass without the slip."""
    test: str
    """Name of the test, or name[case]."""


class Outcome(NamedTuple):
    """Outcome of a run of tests."""

    code: int | None
    """Exit code of pytest; None if the run took too long."""
    failed: str
    """Test that failed first."""
    why: str
    """Reason of the failed test, or the last line of the output."""

    @property
    def caught(self) -> bool:
        """Returns True if a test failed by an assertion."""
        by_assertion = self.why.startswith(("assert", "AssertionError", "Failed: DID"))
        return self.code == 1 and bool(self.failed) and by_assertion


BREAKS = (
    # The forward process and its schedules.
    Break(
        "noise-subtracted",
        "jaxdiff/schedules/forward.py",
        "alpha * x_0 + sigma * noise",
        "alpha * x_0 - sigma * noise",
        "tests/schedules/test_forward.py",
        "test_steps_compose_to_the_closed_form[9]",
    ),
    Break(
        "posterior-mean-coefficient",
        "jaxdiff/schedules/forward.py",
        "alpha_s * beta_ts / sigma_t**2 * x_0",
        "alpha_ts * beta_ts / sigma_t**2 * x_0",
        "tests/schedules/test_forward.py",
        "test_posterior_is_bayes_rule[500-Linear]",
    ),
    Break(
        "alphas-bar-a-step-late",
        "jaxdiff/schedules/discrete.py",
        "alphas_bar = np.cumprod(1 - betas)",
        "alphas_bar = np.cumprod(np.append(1, 1 - betas[:-1]))",
        "tests/schedules/test_discrete.py",
        "test_linear_constants",
    ),
    Break(
        "cosine-not-squared",
        "jaxdiff/schedules/discrete.py",
        "np.cos((u + self.offset) / (1 + self.offset) * np.pi / 2) ** 2",
        "np.cos((u + self.offset) / (1 + self.offset) * np.pi / 2)",
        "tests/schedules/test_discrete.py",
        "test_cosine_constants",
    ),
    Break(
        "zero-snr-not-rescaled",
        "jaxdiff/schedules/discrete.py",
        "return rescale_zero_terminal_snr(self.base.build())",
        "return self.base.build()",
        "tests/schedules/test_discrete.py",
        "test_zero_terminal_snr_is_lins_algorithm[Linear]",
    ),
    Break(
        "vp-integral-doubled",
        "jaxdiff/schedules/continuous.py",
        "-(t**2) * slope / 4 - t * self.beta_min / 2",
        "-(t**2) * slope / 2 - t * self.beta_min",
        "tests/schedules/test_continuous.py",
        "test_levels_are_the_formula[VP0]",
    ),
    Break(
        "shift-not-inverted",
        "jaxdiff/schedules/continuous.py",
        "t / (self.shift - (self.shift - 1) * t)",
        "t / (1 + (self.shift - 1) * t)",
        "tests/schedules/test_continuous.py",
        "test_fraction_inverts_the_log_snr[RectifiedFlow1]",
    ),
    Break(
        "ve-log-sigma-not-scaled",
        "jaxdiff/schedules/continuous.py",
        "self.time_scale / 4 * jnp.log(sigma)",
        "self.time_scale * jnp.log(sigma)",
        "tests/schedules/test_continuous.py",
        "test_levels_are_the_formula[VE0]",
    ),
    # Denoisers.
    Break(
        "x0-from-eps-sign",
        "jaxdiff/denoisers/predictions.py",
        "return (x_t - sigma * output) / alpha, output",
        "return (x_t + sigma * output) / alpha, output",
        "tests/denoisers/test_predictions.py",
        "test_target_gives_the_image_and_the_noise_back[Eps-Linear]",
    ),
    Break(
        "v-target-sign",
        "jaxdiff/denoisers/predictions.py",
        "return (alpha * eps - sigma * x_0) / jnp.sqrt",
        "return (sigma * x_0 - alpha * eps) / jnp.sqrt",
        "tests/denoisers/test_predictions.py",
        "test_v_is_the_textbooks[Cosine]",
    ),
    Break(
        "flow-target-sign",
        "jaxdiff/denoisers/predictions.py",
        "return eps - x_0",
        "return x_0 - eps",
        "tests/denoisers/test_predictions.py",
        "test_velocity_is_the_straight_paths_derivative",
    ),
    Break(
        "edm-input-not-scaled",
        "jaxdiff/denoisers/predictions.py",
        "return x_t / self._deviation(*level.scales(x_t))",
        "return x_t",
        "tests/denoisers/test_predictions.py",
        "test_what_the_network_sees[EDM-VE]",
    ),
    Break(
        "variance-fraction-not-shifted",
        "jaxdiff/denoisers/predictions.py",
        "return prediction, (raw + 1) / 2",
        "return prediction, raw",
        "tests/denoisers/test_predictions.py",
        "test_learned_variance_is_the_second_half[Eps]",
    ),
    Break(
        "guidance-weight-one-more",
        "jaxdiff/denoisers/guidance.py",
        "weight = jnp.asarray(weight, x_t.dtype)",
        "weight = 1 + jnp.asarray(weight, x_t.dtype)",
        "tests/denoisers/test_guidance.py",
        "test_autoguidance_goes_on_past_the_weak_model",
    ),
    Break(
        "guidance-outside-the-interval",
        "jaxdiff/denoisers/guidance.py",
        "(s <= high), weight, 1.0)",
        "(s <= high), 1.0, weight)",
        "tests/denoisers/test_guidance.py",
        (
            "test_guided_only_in_the_interval[VP(num_steps=1000, beta_min=0.1, "
            "beta_max=20.0, t_min=0.001)]"
        ),
    ),
    Break(
        "classifier-pushes-away",
        "jaxdiff/denoisers/guidance.py",
        "eps=estimate.eps - push",
        "eps=estimate.eps + push",
        "tests/denoisers/test_guidance.py",
        (
            "test_the_exact_classifier_makes_the_conditional_model[VP(num_"
            "steps=1000, beta_min=0.1, beta_max=20.0, t_min=0.001)]"
        ),
    ),
    Break(
        "unconditional-is-class-0",
        "jaxdiff/denoisers/network.py",
        "jnp.where(labels == ANY_CLASS, null or 0, labels)",
        "jnp.where(labels == ANY_CLASS, 0, labels)",
        "tests/denoisers/test_guidance.py",
        "test_without_a_class_the_network_is_told_the_one_after_the_last",
    ),
    Break(
        "clipped-x0-keeps-its-eps",
        "jaxdiff/denoisers/thresholding.py",
        (
            "estimate = _clipped_with_eps(denoiser, low, high, x_t, level)\n"
            "    return estimate._replace(eps=eps_of(estimate.x_0, x_t, level))"
        ),
        "return _clipped_with_eps(denoiser, low, high, x_t, level)",
        "tests/denoisers/test_guidance.py",
        "test_what_is_estimated_adds_up_to_x_t[clip_x0]",
    ),
    Break(
        "oracle-score-sign",
        "jaxdiff/denoisers/oracles.py",
        "return -self._from_basis(r / s)",
        "return self._from_basis(r / s)",
        "tests/denoisers/test_oracles.py",
        "test_estimate_and_score_are_the_densitys_gradient[full-vector-VP]",
    ),
    Break(
        "adjoint-of-blur-for-blur",
        "jaxdiff/denoisers/inverse_problems.py",
        "jnp.roll(x, (i - reach, j - reach)",
        "jnp.roll(x, (reach - i, reach - j)",
        "tests/denoisers/test_inverse_problems.py",
        "test_blur_is_a_convolution[3]",
    ),
    Break(
        "measurement-covariance",
        "jaxdiff/denoisers/inverse_problems.py",
        "return sigma**2 / some_alpha * back",
        "return sigma / some_alpha * back",
        "tests/denoisers/test_inverse_problems.py",
        (
            "test_given_measurement_is_the_posteriors_oracle[mask-0.1-VP(num_"
            "steps=1000, beta_min=0.1, beta_max=20.0, t_min=0.001)]"
        ),
    ),
    # Samplers.
    Break(
        "chain-repeats-its-noise",
        "jaxdiff/samplers/loop.py",
        "rng.step_noise(self.key, self.indices, steps_left, shape)",
        "rng.step_noise(self.key, self.indices, 0, shape)",
        "tests/samplers/test_samplers.py",
        "test_a_samplers_step_is_given_its_levels_noise_and_index",
    ),
    Break(
        "last-step-adds-noise",
        "jaxdiff/samplers/ancestral.py",
        "mean + jnp.where(sigma_s > 0, root(var), 0.0) * noise",
        "mean + root(var) * noise",
        "tests/samplers/test_ancestral.py",
        "test_last_step_adds_no_noise",
    ),
    Break(
        "learned-variance-swapped",
        "jaxdiff/samplers/ancestral.py",
        "fraction * jnp.log(large) + (1 - fraction) * log_small",
        "fraction * log_small + (1 - fraction) * jnp.log(large)",
        "tests/losses/test_objectives.py",
        "test_the_best_variance_is_the_true_one[Linear]",
    ),
    Break(
        "ddim-keeps-all-of-eps",
        "jaxdiff/samplers/ddim.py",
        "kept = jnp.where(fresh < sigma_s, root(sigma_s**2 - fresh**2), 0.0)",
        "kept = sigma_s",
        "tests/samplers/test_identities.py",
        "test_ddim_on_all_steps_is_the_ancestral_chain",
    ),
    Break(
        "ddim-eta-under-the-root",
        "jaxdiff/samplers/ddim.py",
        "jnp.minimum(eta * root(variance), sigma_s)",
        "jnp.minimum(root(eta * variance), sigma_s)",
        "tests/samplers/test_sampler_moments.py",
        "test_every_step_is_the_papers[ddim-half-discrete]",
    ),
    Break(
        "dpm-solver-midpoint",
        "jaxdiff/samplers/dpm_solver.py",
        "-jnp.expm1(-rate) / 2, m_1",
        "-jnp.expm1(-rate), m_1",
        "tests/samplers/test_identities.py",
        "test_dpm_solver_of_order_2_by_its_published_formula[Linear-0.0]",
    ),
    Break(
        "third-order-moment",
        "jaxdiff/samplers/exponential.py",
        "weights.append(m_2 - nodes[1] * m_1)",
        "weights.append(m_2 - m_1)",
        "tests/samplers/test_sampler_moments.py",
        "test_every_step_is_the_papers[dpm-3-discrete]",
    ),
    Break(
        "published-third-order-exact",
        "jaxdiff/samplers/dpm_solver.py",
        "m_2 = m_2 / 2",
        "m_2 = m_2 / 1",
        "tests/samplers/test_sampler_moments.py",
        "test_every_step_is_the_papers[dpm-3-published-discrete]",
    ),
    Break(
        "adams-weight-of-the-second-value",
        "jaxdiff/samplers/adams.py",
        "[3 / 2, -1 / 2, 0, 0]",
        "[1 / 2, 1 / 2, 0, 0]",
        "tests/pretrained/test_schedulers.py",
        "test_a_loop_gives_what_theirs_gives[PNDM]",
    ),
    Break(
        "lms-moments-swapped",
        "jaxdiff/samplers/adams.py",
        "step / 2, step / 3, step / 4",
        "step / 2, step / 4, step / 3",
        "tests/pretrained/test_schedulers.py",
        "test_a_loop_gives_what_theirs_gives[LMSDiscrete]",
    ),
    Break(
        "deis-as-of-x0",
        "jaxdiff/samplers/adams.py",
        "moments_of(-h)",
        "moments_of(h)",
        "tests/pretrained/test_schedulers.py",
        "test_a_loop_gives_what_theirs_gives[DEISMultistep]",
    ),
    Break(
        "sde-halves-share-alike",
        "jaxdiff/samplers/singlestep.py",
        "1 / (1 + root(s_next / s))",
        "0.5 + 0 * root(s_next / s)",
        "tests/samplers/test_sampler_moments.py",
        "test_every_step_is_the_papers[dpm-sde-discrete]",
    ),
    Break(
        "noise-scale-ignored",
        "jaxdiff/samplers/singlestep.py",
        "noise = self.noise_scale * info.noise",
        "noise = info.noise",
        "tests/samplers/test_sampler_moments.py",
        "test_every_step_is_the_papers[dpm2-ancestral-discrete]",
    ),
    Break(
        "unipc-without-corrector",
        "jaxdiff/samplers/unipc.py",
        "        x_t = jnp.where(usual, corrected, x_t)\n",
        "",
        "tests/samplers/test_orders.py",
        "test_order_3_needs_an_accurate_start",
    ),
    Break(
        "heun-full-correction",
        "jaxdiff/samplers/edm.py",
        "return x_s + step / 2 * (second.eps - first.eps)",
        "return x_s + step * (second.eps - first.eps)",
        "tests/samplers/test_identities.py",
        "test_heun_with_churn_by_edms_algorithm_2",
    ),
    Break(
        "initial-values-traced-again",
        "jaxdiff/networks/modules.py",
        "or not isinstance(shape, tuple)",
        "or isinstance(shape, tuple)",
        "tests/networks/test_modules.py",
        "test_initial_values_are_traced_by_init_alone",
    ),
    Break(
        "churn-adds-deviations",
        "jaxdiff/samplers/edm.py",
        "added = root(s_raised**2 - s**2)",
        "added = (s_raised - s)",
        "tests/samplers/test_identities.py",
        "test_heun_with_churn_by_edms_algorithm_2",
    ),
    Break(
        "flow-heun-by-x0-alone",
        "jaxdiff/samplers/flow.py",
        "(second.eps - second.x_0) - (first.eps - first.x_0)",
        "first.x_0 - second.x_0",
        "tests/samplers/test_orders.py",
        (
            "test_error_falls_at_the_order[FlowHeun(spacing=Linspace(num_"
            "steps=20, to_data=True, skip_last=False))-2]"
        ),
    ),
    Break(
        "times-of-karras-rounded-down",
        "jaxdiff/samplers/published_grids.py",
        "                times = times.round()\n",
        "                times = np.floor(times)\n",
        "tests/pretrained/test_schedulers.py",
        "test_a_loop_gives_what_theirs_gives[DPMSolverMultistep]",
    ),
    Break(
        "start-from-noise-swapped",
        "jaxdiff/samplers/published_grids.py",
        "noise if self.noise_start else",
        "noise if not self.noise_start else",
        "tests/pretrained/test_schedulers.py",
        "test_a_loop_gives_what_theirs_gives[EulerDiscrete]",
    ),
    Break(
        "leading-is-trailing",
        "jaxdiff/samplers/time_grids.py",
        "(places * stride + self.offset)",
        "((places + 1) * stride - 1)",
        "tests/samplers/test_spacing.py",
        "test_leading_for_every_number_of_steps",
    ),
    Break(
        "linspace-without-its-end",
        "jaxdiff/samplers/time_grids.py",
        (
            "places = np.arange(count)[::-1]\n"
            "        return _between_the_ends(schedule, places, max(count - 1, 1))"
        ),
        (
            "places = np.arange(count)[::-1]\n"
            "        return _between_the_ends(schedule, places, count)"
        ),
        "tests/samplers/test_spacing.py",
        "test_linspace_for_every_number_of_steps",
    ),
    Break(
        "karras-rho-not-inverted",
        "jaxdiff/samplers/time_grids.py",
        "first ** (1 / self.rho), last ** (1 / self.rho)",
        "first**self.rho, last**self.rho",
        "tests/samplers/test_spacing.py",
        "test_karras_gives_edms_levels",
    ),
    Break(
        "inpainting-mask-inverted",
        "jaxdiff/samplers/inverse_problems.py",
        "return mask * known_s + (1 - mask) * x_s, memory",
        "return (1 - mask) * known_s + mask * x_s, memory",
        "tests/denoisers/test_inverse_problems.py",
        "test_known_pixels_are_kept[True-RePaint]",
    ),
    Break(
        "dps-climbs",
        "jaxdiff/samplers/inverse_problems.py",
        "x_s - self.size * jax.grad(misfit)(x_t)",
        "x_s + self.size * jax.grad(misfit)(x_t)",
        "tests/denoisers/test_inverse_problems.py",
        "test_dps_by_hand[mask]",
    ),
    Break(
        "slerp-shares-swapped",
        "jaxdiff/conditions.py",
        "return share_a * a + share_b * b",
        "return share_b * a + share_a * b",
        "tests/samplers/test_editing.py",
        "test_slerps_ends_are_the_noises",
    ),
    Break(
        "encoded-image-not-scaled",
        "jaxdiff/samplers/inversion.py",
        "x = levels.alpha[0].astype(x_0.dtype) * x_0",
        "x = x_0",
        "tests/samplers/test_orders.py",
        "test_images_are_scaled_to_the_level_that_the_way_begins_at",
    ),
    # Losses.
    Break(
        "time-and-noise-share-a-key",
        "jaxdiff/losses/loss.py",
        "eps = rng.normal(rng.fold(keys, 1),",
        "eps = rng.normal(rng.fold(keys, 0),",
        "tests/losses/test_loss.py",
        "test_what_chance_gives_an_example_is_independent",
    ),
    Break(
        "noise-and-dropout-share-a-key",
        "jaxdiff/losses/loss.py",
        "eps, rng.fold(keys, 2), x_0,",
        "eps, rng.fold(keys, 1), x_0,",
        "tests/losses/test_loss.py",
        "test_what_chance_gives_an_example_is_independent",
    ),
    Break(
        "flow-map-forgets-the-end-of-its-step",
        "jaxdiff/samplers/flow_map.py",
        "return level.sigma * (other.t / other.sigma)",
        "return other.t",
        "tests/losses/test_mean_flow.py",
        "test_the_exact_map_ends_where_the_ode_does_in_any_number_of_steps[1]",
    ),
    Break(
        "mean-flow-along-the-noise-alone",
        "jaxdiff/losses/mean_flow.py",
        "along = v, speed, jnp.zeros_like(end.t)",
        "along = v, jnp.zeros_like(speed), jnp.zeros_like(end.t)",
        "tests/losses/test_mean_flow.py",
        "test_the_exact_average_velocity_has_no_loss_and_no_gradient[derivative]",
    ),
    Break(
        "teacher-takes-one-step",
        "jaxdiff/losses/progressive.py",
        "x_s = euler_step(noised.teacher(x_m, middle), end)",
        "x_s = euler_step(noised.teacher(x_t, level), end)",
        "tests/losses/test_progressive.py",
        "test_the_exact_student_has_no_loss_and_no_gradient[linear]",
    ),
    Break(
        "consistency-target-has-a-gradient",
        "jaxdiff/losses/consistency.py",
        "target = jax.lax.stop_gradient(mapped(x_r, next_level))",
        "target = mapped(x_r, next_level)",
        "tests/losses/test_consistency.py",
        "test_tuning_has_the_loss_and_slope_of_its_integral[0.7-3]",
    ),
    Break(
        "distillation-steps-by-euler",
        "jaxdiff/losses/consistency.py",
        "return jnp.where(sigma_r > 0, better, x_r)",
        "return x_r",
        "tests/losses/test_consistency.py",
        "test_distillation_of_the_exact_path_has_no_loss_and_no_gradient[0.00054]",
    ),
    Break(
        "consistency-without-fresh-noise",
        "jaxdiff/samplers/consistency.py",
        "info.next_level.sigma * noise, memory",
        "info.next_level.sigma * estimate.eps, memory",
        "tests/losses/test_consistency.py",
        "test_the_exact_model_keeps_the_datas_variance_on_any_grid[schedule0-2]",
    ),
    Break(
        "importance-dropped",
        "jaxdiff/losses/time_sampling.py",
        "return drawn, 1 / (self.bins * p[place])",
        "return drawn, jnp.ones_like(drawn)",
        "tests/losses/test_time_sampling.py",
        "test_weighted_means_are_unbiased",
    ),
    Break(
        "min-snr-is-max-snr",
        "jaxdiff/losses/weightings.py",
        "return jnp.minimum(snr, self.gamma)",
        "return jnp.maximum(snr, self.gamma)",
        "tests/losses/test_weightings.py",
        "test_the_papers_formula[MinSNR-Linear]",
    ),
    Break(
        "error-scale-not-squared",
        "jaxdiff/losses/weightings.py",
        "prediction.x0_error_scale(level) ** 2",
        "prediction.x0_error_scale(level)",
        "tests/losses/test_objectives.py",
        "test_a_weight_on_x_0_is_one_loss_for_every_prediction[Linear]",
    ),
    Break(
        "hybrid-bound-moves-the-mean",
        "jaxdiff/losses/objectives.py",
        "x_0=jax.lax.stop_gradient(estimate.x_0)",
        "x_0=estimate.x_0",
        "tests/losses/test_objectives.py",
        "test_hybrid_trains_the_mean_as_simple_and_the_variance_as_bound[Linear]",
    ),
    Break(
        "white-bin-not-open",
        "jaxdiff/losses/variational.py",
        "jnp.where(x > 1 - BIN / 2,",
        "jnp.where(x > 1 + BIN / 2,",
        "tests/losses/test_variational.py",
        "test_masses_of_all_grey_levels_sum_to_one",
    ),
    Break(
        "divergence-by-the-true-variance",
        "jaxdiff/losses/variational.py",
        "(true_mean - mean) ** 2 / var)",
        "(true_mean - mean) ** 2 / true_variance)",
        "tests/losses/test_variational.py",
        "test_terms_are_divergences_and_the_decoder[variance1]",
    ),
    Break(
        "nats-called-bits",
        "jaxdiff/losses/variational.py",
        "axis=tuple(range(1, nats.ndim))) / math.log(2)",
        "axis=tuple(range(1, nats.ndim)))",
        "tests/losses/test_variational.py",
        "test_prior_term[options0]",
    ),
    # Networks.
    Break(
        "sines-and-cosines-swapped",
        "jaxdiff/networks/time_embedding.py",
        "parts[::-1] if flip else parts",
        "parts if flip else parts[::-1]",
        "tests/networks/test_networks.py",
        "test_timestep_embedding_is_ddpms",
    ),
    Break(
        "attention-not-scaled",
        "jaxdiff/networks/layers.py",
        "attend(query, key, value)",
        "attend(query, key, value, scale=1.0)",
        "tests/networks/test_networks.py",
        "test_attention_is_softmax_of_products",
    ),
    Break(
        "dropout-shared-by-examples",
        "jaxdiff/networks/layers.py",
        (
            "jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, "
            "x.shape[1:]))(keys)"
        ),
        "jax.random.bernoulli(keys[0], 1 - rate, x.shape[1:])[None]",
        "tests/networks/test_networks.py",
        "test_rates_of_dropout",
    ),
    Break(
        "dropout-not-made-up-for",
        "jaxdiff/networks/layers.py",
        "jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))",
        "jnp.where(kept, x, jnp.zeros_like(x))",
        "tests/networks/test_networks.py",
        "test_rates_of_dropout",
    ),
    Break(
        "norm-of-channels-not-groups",
        "jaxdiff/networks/group_norm.py",
        "means = parts.mean(-1, keepdims=True)",
        "means = parts",
        "tests/networks/test_group_norm.py",
        "test_values_and_gradients_are_those_of_flax[shape0-3-True]",
    ),
    Break(
        "winograd-sign",
        "jaxdiff/networks/winograd.py",
        "[0.5, -0.5, 0.5]",
        "[0.5, 0.5, -0.5]",
        "tests/networks/test_convolution.py",
        "test_values_and_gradients_are_the_plain_ones[shape0-1]",
    ),
    Break(
        "rows-of-a-kernel-reversed",
        "jaxdiff/networks/products.py",
        "z[:, i : height + i, :, i] for",
        "z[:, 2 - i : height + 2 - i, :, i] for",
        "tests/networks/test_convolution.py",
        "test_values_and_gradients_are_the_plain_ones[shape0-1]",
    ),
    Break(
        "kernel-not-rotated",
        "jaxdiff/networks/convolution.py",
        "return kernel[::-1, ::-1]",
        "return kernel[::-1]",
        "tests/networks/test_convolution.py",
        "test_a_convolution_is_differentiated_in_all_ways",
    ),
    Break(
        "padding-not-looked-at",
        "jaxdiff/networks/convolution.py",
        "known = same and",
        "known =",
        "tests/networks/test_convolution.py",
        "test_other_convolutions_are_those_of_xla[options0]",
    ),
    Break(
        "linear-layer-sign",
        "jaxdiff/networks/products.py",
        "lambda dk, x, dy: linear.bind(dy, dk.T)",
        "lambda dk, x, dy: linear.bind(-dy, dk.T)",
        "tests/networks/test_convolution.py",
        "test_a_linear_layer_is_differentiated_in_all_ways",
    ),
    Break(
        "dropout-shared-by-blocks",
        "jaxdiff/networks/base.py",
        "else rng.fold(keys, stream)",
        "else keys",
        "tests/networks/test_networks.py",
        "test_every_block_drops_by_keys_of_its_own",
    ),
    Break(
        "block-does-not-start-at-zero",
        "jaxdiff/networks/layers.py",
        'h = conv("conv_2", _zeros)(',
        'h = conv("conv_2")(',
        "tests/networks/test_networks.py",
        "test_a_block_starts_as_what_it_is_given",
    ),
    Break(
        "norm-epsilon-ignored",
        "jaxdiff/networks/layers.py",
        "groups, epsilon=self.epsilon, dtype=self.dtype",
        "groups, dtype=self.dtype",
        "tests/pretrained/test_diffusers.py",
        "test_networks_give_what_theirs_give[classes]",
    ),
    Break(
        "downsample-padding-swapped",
        "jaxdiff/networks/layers.py",
        'padding = ((self.padding == "both", 1),) * 2',
        'padding = ((self.padding == "end", 1),) * 2',
        "tests/pretrained/test_diffusers.py",
        "test_networks_give_what_theirs_give[classes]",
    ),
    Break(
        "groups-before-attention-as-elsewhere",
        "jaxdiff/networks/ncsnpp.py",
        '(full if name == "norm_1" else quarter)',
        "quarter",
        "tests/pretrained/test_published_networks.py",
        "test_published_networks_give_what_theirs_give_and_go_back[ncsnpp]",
    ),
    Break(
        "input-not-centred",
        "jaxdiff/networks/base.py",
        "return 2 * x - 1 if",
        "return 2 * x if",
        "tests/pretrained/test_published_networks.py",
        "test_published_networks_give_what_theirs_give_and_go_back[condition]",
    ),
    # Devices and processes.
    Break(
        "sum-for-mean-pmap",
        "jaxdiff/parallel/pmap.py",
        "jax.lax.pmean(fn(shared, batch), AXIS)",
        "jax.lax.psum(fn(shared, batch), AXIS)",
        "tests/parallel/test_parallel.py",
        (
            "test_a_step_averages_over_the_batch_and_donates_its_state[Pmap(num_"
            "devices=2)]"
        ),
    ),
    Break(
        "sum-for-mean-sharded",
        "jaxdiff/parallel/sharded.py",
        "if self.data > 1 else a) / count",
        "if self.data > 1 else a)",
        "tests/parallel/test_parallel.py",
        (
            "test_a_step_averages_over_the_batch_and_donates_its_"
            "state[Sharded(data=4, fsdp=2)]"
        ),
    ),
    Break(
        "a-process-too-many",
        "jaxdiff/parallel/processes.py",
        "if not process < count:",
        "if not process <= count:",
        "tests/parallel/test_processes.py",
        "test_an_environment_that_cannot_be_right",
    ),
    Break(
        "launcher-counts-from-1",
        "launch/local",
        "export JAX_PROCESS_ID=$1\n",
        "export JAX_PROCESS_ID=$(($1 + 1))\n",
        "tests/parallel/test_processes.py",
        "test_local_shares_the_gpus",
    ),
    # Data.
    Break(
        "flip-upside-down",
        "jaxdiff/data/dataset.py",
        "images[:, :, ::-1]",
        "images[:, ::-1]",
        "tests/data/test_dataset.py",
        "test_flips_are_fair_mirror_images",
    ),
    Break(
        "every-epoch-in-one-order",
        "jaxdiff/data/sequence.py",
        "return _order(seed, epoch, size, 0)",
        "return _order(seed, 0, size, 0)",
        "tests/data/test_dataset.py",
        "test_order_depends_on_seed_and_epoch",
    ),
    Break(
        "buckets-drawn-equally-often",
        "jaxdiff/data/sequence.py",
        "buckets = np.repeat(np.arange(len(sizes)), sizes)[shuffled]",
        "buckets = np.sort(np.arange(steps) % len(sizes))[shuffled]",
        "tests/data/test_buckets.py",
        "test_a_batch_has_one_bucket_and_epochs_visit_each_image_once",
    ),
    Break(
        "buckets-in-one-order",
        "jaxdiff/data/sequence.py",
        "_order_of_bucket(seed, epoch, size, first)",
        "_order_of_bucket(seed, epoch, size, 0)",
        "tests/data/test_buckets.py",
        "test_buckets_of_one_size_have_orders_of_their_own",
    ),
    Break(
        "nearest-difference-of-ratios",
        "jaxdiff/data/buckets.py",
        "abs(math.log(size[0] / size[1]) - ratio)",
        "abs(size[0] / size[1] - math.exp(ratio))",
        "tests/data/test_buckets.py",
        "test_an_image_goes_to_the_nearest_ratio",
    ),
    Break(
        "size-of-another-bucket",
        "jaxdiff/data/dataset.py",
        "np.tile(added[bucket], (len(chosen), 1))",
        "np.tile(added[0], (len(chosen), 1))",
        "tests/runs/test_bucketed.py",
        "test_latents_of_buckets_train_likewise",
    ),
    Break(
        "grey-levels-by-128",
        "jaxdiff/data/dataset.py",
        "np.asarray(images, np.float32) / np.float32(127.5)",
        "np.asarray(images, np.float32) / np.float32(128)",
        "tests/data/test_dataset.py",
        "test_floats_and_bytes_are_inverses",
    ),
    Break(
        "classes-in-reverse",
        "jaxdiff/data/image_folder.py",
        "names = sorted({file.parts[0] for file in files})",
        "names = sorted({file.parts[0] for file in files}, reverse=True)",
        "tests/data/test_image_folder.py",
        "test_sub_folders_are_classes",
    ),
    Break(
        "choice-of-the-step-alone",
        "jaxdiff/data/sequence.py",
        "_words(seed, _CAPTION, step * batch_size, batch_size)",
        "_words(seed, _CAPTION, step, batch_size)",
        "tests/data/test_captions.py",
        "test_choice_is_a_function_of_the_position",
    ),
    Break(
        "captions-not-in-the-fingerprint",
        "jaxdiff/data/dataset.py",
        "parts = chain(images, labels, texts)",
        "parts = chain(images, labels)",
        "tests/data/test_captions.py",
        "test_fingerprint_depends_on_every_caption",
    ),
    Break(
        "changed-captions-not-noticed",
        "jaxdiff/data/image_folder.py",
        "state = repr(captions.state(name))",
        "state = repr(name in captions)",
        "tests/data/test_captions.py",
        "test_changed_captions_are_read_again",
    ),
    Break(
        "lines-counted-from-0",
        "jaxdiff/data/caption_files.py",
        "for number, line in enumerate(lines, 1):",
        "for number, line in enumerate(lines):",
        "tests/data/test_captions.py",
        "test_wrong_metadata_are_one_line_with_their_place",
    ),
    Break(
        "pairs-leak-the-held-out-tone",
        "jaxdiff/data/emoji_names.py",
        "return chosen and tone in attributes.tones",
        "return chosen and (tone,) == attributes.tones",
        "tests/data/test_emoji.py",
        "test_held_out_combinations_never_occur_in_training",
    ),
    # On disk.
    Break(
        "written-in-place",
        "jaxdiff/storage/files.py",
        'with open(temporary, "xb") as file:',
        'with open(path, "wb") as file, open(temporary, "xb"):',
        "tests/storage/test_checkpoints.py",
        "test_json_is_old_or_new_never_half",
    ),
    Break(
        "file-not-flushed",
        "jaxdiff/storage/files.py",
        "            os.fsync(file.fileno())\n",
        "",
        "tests/storage/test_checkpoints.py",
        "test_json_is_old_or_new_never_half",
    ),
    Break(
        "torn-line-counts",
        "jaxdiff/storage/json_lines.py",
        'if not line.endswith(b"\\n"):',
        "if not line:",
        "tests/storage/test_json_lines.py",
        "test_a_last_line_cut_short_by_a_kill_is_dropped",
    ),
    Break(
        "lines-after-the-checkpoint-stay",
        "jaxdiff/storage/json_lines.py",
        'if line["step"] <= from_step]',
        "]",
        "tests/storage/test_json_lines.py",
        "test_a_resumed_run_drops_what_it_does_again",
    ),
    Break(
        "best-is-the-worst",
        "jaxdiff/storage/retention.py",
        "kept.add(min(values, key",
        "kept.add(max(values, key",
        "tests/storage/test_disk_faults.py",
        "test_which_ones_stay",
    ),
    Break(
        "named-before-it-is-proven",
        "jaxdiff/storage/checkpoints.py",
        (
            "            write_manifest(writing, record)\n"
            "            target = self._directory / str(step)\n"
            "            if target.exists():  # a damaged one, from which the "
            "run did not go on\n"
            "                self._remove(step)\n"
            "            writing.rename(target)\n"
        ),
        (
            "            target = self._directory / str(step)\n"
            "            if target.exists():  # a damaged one, from which the "
            "run did not go on\n"
            "                self._remove(step)\n"
            "            writing.rename(target)\n"
            "            write_manifest(target, record)\n"
        ),
        "tests/storage/test_disk_faults.py",
        "test_a_save_that_cannot_be_proven_removes_nothing",
    ),
    Break(
        "checkpoint-name-not-flushed",
        "jaxdiff/storage/checkpoints.py",
        "            flush_folder(self._directory)\n",
        "",
        "tests/storage/test_disk_faults.py",
        "test_a_checkpoint_outlives_a_power_cut",
    ),
    # Training.
    Break(
        "average-decay-swapped",
        "jaxdiff/training/state.py",
        "decay * e + (1 - decay) * p",
        "(1 - decay) * e + decay * p",
        "tests/training/test_state.py",
        "test_the_average_is_that_of_all_parameters_so_far",
    ),
    Break(
        "average-not-warmed-up",
        "jaxdiff/training/state.py",
        "return jnp.minimum(decay, (1 + step) / (10 + step))",
        "return jnp.maximum(decay, (1 + step) / (10 + step))",
        "tests/training/test_state.py",
        "test_the_decay_is_warmed_up",
    ),
    Break(
        "step-not-in-the-key",
        "jaxdiff/training/step.py",
        "jax.random.fold_in(rng.key(seed), state.step)",
        "rng.key(seed)",
        "tests/runs/test_train.py",
        "test_a_steps_key_is_the_seeds_folded_with_the_step",
    ),
    Break(
        "accumulation-sums",
        "jaxdiff/training/step.py",
        "AccumulationType.MEAN",
        "AccumulationType.SUM",
        "tests/parallel/test_parallel.py",
        "test_accumulation_averages",
    ),
    Break(
        "post-hoc-norm",
        "jaxdiff/training/ema.py",
        "scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)",
        "scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 2)",
        "tests/training/test_ema.py",
        "test_the_closed_form_is_the_least_squares_fit",
    ),
    Break(
        "gradient-not-clipped",
        "jaxdiff/training/optimizer.py",
        "            optax.clip_by_global_norm(self.clip_norm),\n",
        "",
        "tests/training/test_optimizer.py",
        "test_a_gradient_above_the_norm_counts_as_one_of_the_norm",
    ),
    # Runs.
    Break(
        "initial-seed-ignored",
        "jaxdiff/training/recipe.py",
        "params = self.task.init(self.seed)",
        "params = self.task.init(0)",
        "tests/training/test_fit.py",
        "test_fit_is_train_step_by_step",
    ),
    Break(
        "order-of-another-seed",
        "jaxdiff/runs/trainer.py",
        "self.dataset, self.experiment.seed, step, size",
        "self.dataset, 0, step, size",
        "tests/runs/test_trainer.py",
        "test_a_trainers_batches_are_of_its_seed_and_flipped_as_its_data_say",
    ),
    Break(
        "flip-not-passed-on",
        "jaxdiff/runs/trainer.py",
        "flip=self.experiment.data.flip",
        "flip=False",
        "tests/runs/test_trainer.py",
        "test_a_trainers_batches_are_of_its_seed_and_flipped_as_its_data_say",
    ),
    Break(
        "samples-of-one-seed",
        "jaxdiff/runs/generate.py",
        "jax.vmap(rng.key)(seeds)",
        "jax.vmap(rng.key)(0 * seeds)",
        "tests/runs/test_generate.py",
        "test_images_are_those_of_the_chain_with_the_seeds_key[7]",
    ),
    Break(
        "resume-skips-a-batch",
        "jaxdiff/runs/trainer.py",
        "data.read_ahead(self.batch, step, until)",
        "data.read_ahead(self.batch, step + (step > 0), until + 1)",
        "tests/runs/test_own_network.py",
        "test_a_network_of_ones_own_trains_resumes_loads_and_samples[mlp]",
    ),
    Break(
        "adaptive-weight-of-a-part",
        "jaxdiff/training/autoencoder.py",
        "scale = adaptive_weight(last_layer(own), last_layer(sharper))",
        "scale = adaptive_weight(last_layer(own), last_layer(own))",
        "tests/training/test_autoencoder_task.py",
        "test_gradient_is_that_of_the_whole_batch",
    ),
    Break(
        "discriminator-from-the-beginning",
        "jaxdiff/training/autoencoder.py",
        'critic, takes_part = params["discriminator"], step >= self.start',
        'critic, takes_part = params["discriminator"], step >= 0',
        "tests/training/test_autoencoder_task.py",
        "test_discriminator_rests_before_its_start",
    ),
    Break(
        "latents-not-centred",
        "jaxdiff/runs/autoencoder.py",
        "mean=tuple(mean.tolist()), deviation",
        "mean=tuple((2 * mean).tolist()), deviation",
        "tests/runs/test_autoencoder_run.py",
        "test_latents_have_unit_variance_and_a_checksum",
    ),
    Break(
        "ssim-without-the-covariance",
        "jaxdiff/evaluation/reconstruction.py",
        "s_xy = mean(x * y) - m_x * m_y",
        "s_xy = mean(x * y)",
        "tests/evaluation/test_reconstruction.py",
        "test_ssim_is_the_mean_over_windows",
    ),
    Break(
        "grid-of-the-last-parameters",
        "jaxdiff/runs/trainer.py",
        "return self.task.sampling(state.ema, state.frozen)",
        "return self.task.sampling(state.params, state.frozen)",
        "tests/runs/test_tensorboard.py",
        "test_a_grid_shows_the_average_by_the_same_chain_as_generate",
    ),
    Break(
        "quarters-not-divided",
        "jaxdiff/runs/metrics_buffer.py",
        "= part[q] / share[q]",
        "= part[q]",
        "tests/runs/test_train.py",
        "test_summary_weighs_quarters_by_their_examples",
    ),
    # Evaluation.
    Break(
        "prior-dropped",
        "jaxdiff/evaluation/likelihood.py",
        "return self.prior + self.terms.sum(axis=-1)",
        "return self.terms.sum(axis=-1)",
        "tests/evaluation/test_likelihood.py",
        ("test_no_wrong_term_would_pass[losses.variational.BIN-0.00784313725490196]"),
    ),
    Break(
        "bin-width-dropped",
        "jaxdiff/evaluation/likelihood.py",
        "return -log_density / (size * math.log(2)) - math.log2(BIN)",
        "return -log_density / (size * math.log(2))",
        "tests/evaluation/test_likelihood.py",
        "test_bits_per_dim_of_a_uniform_density_are_eight",
    ),
    Break(
        "exact-trace-sign",
        "jaxdiff/evaluation/likelihood.py",
        "return drift(y), -_divergence(drift, y)",
        "return drift(y), _divergence(drift, y)",
        "tests/evaluation/test_likelihood.py",
        "test_random_signs_are_unbiased",
    ),
    Break(
        "random-trace-sign",
        "jaxdiff/evaluation/likelihood.py",
        "return value, -(along * signs)",
        "return value, (along * signs)",
        "tests/evaluation/test_likelihood.py",
        "test_random_signs_are_unbiased",
    ),
    Break(
        "frechet-root-sign",
        "jaxdiff/evaluation/frechet.py",
        "trace -= 2 * np.sqrt",
        "trace += 2 * np.sqrt",
        "tests/evaluation/test_frechet.py",
        "test_gaussians_in_closed_form",
    ),
    Break(
        "frechet-not-centred",
        "jaxdiff/evaluation/frechet.py",
        "np.cov(rows, rowvar=False)",
        "rows.T @ rows / (len(rows) - 1)",
        "tests/evaluation/test_frechet.py",
        "test_two_gaussians_of_one_dimension",
    ),
    Break(
        "kernel-distance-biased",
        "jaxdiff/evaluation/kid.py",
        "_sums(x, x)[0] - _own(x), _sums(y, y)[0] - _own(y)",
        "_sums(x, x)[0], _sums(y, y)[0]",
        "tests/evaluation/test_feature_metrics.py",
        "test_kernel_distance_and_its_jackknife",
    ),
    Break(
        "precision-is-recall",
        "jaxdiff/evaluation/precision_recall.py",
        (
            "        precision=_share_within(y, x, _radii(x, k)),\n"
            "        recall=_share_within(x, y, _radii(y, k)),\n"
        ),
        (
            "        precision=_share_within(x, y, _radii(y, k)),\n"
            "        recall=_share_within(y, x, _radii(x, k)),\n"
        ),
        "tests/evaluation/test_feature_metrics.py",
        "test_precision_and_recall_tell_two_failings_apart",
    ),
    # Super-resolution.
    Break(
        "wrong-level-given",
        "jaxdiff/conditioning/low_resolution.py",
        "return Condition(image=image, image_level=levels)",
        "return Condition(image=image, image_level=levels / 2)",
        "tests/conditioning/test_low_resolution.py",
        "test_a_network_that_ignores_its_condition_has_a_higher_loss",
    ),
    Break(
        "signal-of-small-images-kept",
        "jaxdiff/conditioning/low_resolution.py",
        "self.enlarged(alpha * small + sigma * noise)",
        "self.enlarged(small + sigma * noise)",
        "tests/conditioning/test_low_resolution.py",
        "test_the_level_is_that_of_the_noise",
    ),
    Break(
        "level-not-embedded",
        "jaxdiff/networks/dit.py",
        "embedding += self.embed_image_level(condition, FREQUENCIES)",
        "embedding += 0 * self.embed_image_level(condition, FREQUENCIES)",
        "tests/conditioning/test_low_resolution.py",
        "test_every_network_takes_the_small_image_and_its_level[dit]",
    ),
    Break(
        "cascade-shares-its-noise",
        "jaxdiff/runs/enlarge.py",
        "return stage_seeds(seed, _FIRST + place)",
        "return stage_seeds(seed, _FIRST)",
        "tests/runs/test_super_resolution.py",
        "test_stages_of_a_cascade_have_their_own_noise",
    ),
    Break(
        "classes-not-passed-on",
        "jaxdiff/cli/enlargement_request.py",
        "    if own is None:\n        labels = None\n",
        "    if own is None or labels is not None:\n        labels = None\n",
        "tests/runs/test_super_resolution.py",
        "test_a_cascade_passes_classes_seeds_and_images_on",
    ),
    # Pictures and pages.
    Break(
        "gif-holds-its-first-frame",
        "jaxdiff/plots/images.py",
        "[milliseconds] * (len(pictures) - 1) + [hold]",
        "[hold] + [milliseconds] * (len(pictures) - 1)",
        "tests/plots/test_plots.py",
        "test_gif_frames_times_and_pixels",
    ),
    Break(
        "page-not-escaped",
        "jaxdiff/report/page.py",
        "autoescape=True",
        "autoescape=False",
        "tests/report/test_page.py",
        "test_what_a_run_says_is_text_and_never_runs",
    ),
    # Models of diffusers.
    Break(
        "kernels-transposed",
        "jaxdiff/components/unet_2d_names.py",
        "order = (3, 2, 0, 1) if leaf.ndim == 4",
        "order = (3, 2, 1, 0) if leaf.ndim == 4",
        "tests/pretrained/test_diffusers.py",
        "test_networks_give_what_theirs_give[classes]",
    ),
    Break(
        "time-before-the-vector",
        "jaxdiff/networks/prior.py",
        "before = [vector[:, None], time[:, None]]",
        "before = [time[:, None], vector[:, None]]",
        "tests/components/test_unclip.py",
        "test_a_prior_gives_what_theirs_gives[karlo]",
    ),
    Break(
        "vectors-not-unscaled",
        "jaxdiff/networks/prior.py",
        'return x * params["clip_std"] + params["clip_mean"]',
        'return x * params["clip_std"] - params["clip_mean"]',
        "tests/pretrained/test_unclip_pipelines.py",
        "test_a_prompt_is_drawn_as_theirs",
    ),
    Break(
        "first-network-to-the-end",
        "jaxdiff/networks/last_step.py",
        "jnp.all(t == 0)",
        "jnp.all(t < 0)",
        "tests/pretrained/test_unclip_pipelines.py",
        "test_a_prompt_is_drawn_as_theirs",
    ),
    Break(
        "variance-of-the-prior-learned",
        "jaxdiff/pretrained/schedulers_unclip.py",
        "variance = LearnedRange() if learned else FixedSmall()",
        "variance = FixedSmall() if learned else FixedSmall()",
        "tests/pretrained/test_unclip_scheduler.py",
        "test_a_loop_gives_what_theirs_gives[decoder]",
    ),
    Break(
        "beta-schedules-swapped",
        "jaxdiff/pretrained/scheduler_fields.py",
        'Linear if self.beta_schedule == "linear" else Quadratic',
        'Quadratic if self.beta_schedule == "linear" else Linear',
        "tests/pretrained/test_schedulers.py",
        "test_a_loop_gives_what_theirs_gives[PNDM]",
    ),
    Break(
        "box-muller-radius",
        "jaxdiff/pretrained/torch_random.py",
        "np.sqrt(-2 * np.log(1 - first))",
        "np.sqrt(-np.log(1 - first))",
        "tests/pretrained/test_torch_random.py",
        "test_the_first_numbers_of_seed_0",
    ),
    # The command line.
    Break(
        "default-seed",
        "jaxdiff/cli/sample.py",
        "    seed: int = 0\n",
        "    seed: int = 1\n",
        "tests/cli/test_old_flags.py",
        "test_old_flags_have_their_old_defaults",
    ),
    Break(
        "mistake-exits-with-1",
        "jaxdiff/cli/program.py",
        "processes.exit_process(2)",
        "processes.exit_process(1)",
        "tests/cli/test_mistakes.py",
        "test_a_wrong_command_line_is_one_line_on_stderr[trian]",
    ),
    # Modules that the others use.
    Break(
        "one-key-for-all-examples",
        "jaxdiff/rng.py",
        "in_axes=(axis, 0))(key, indices)",
        "in_axes=(axis, 0))(key, 0 * indices)",
        "tests/samplers/test_samplers.py",
        "test_an_images_noise_depends_on_its_index_alone",
    ),
    Break(
        "captions-are-not-cut",
        "jaxdiff/plots/captioned.py",
        "if len(lines) <= most:",
        "if lines:",
        "tests/plots/test_captioned.py",
        "test_lines_fit_and_hold_the_text",
    ),
    Break(
        "padding-of-a-text-is-seen",
        "jaxdiff/networks/own_text.py",
        "(condition.tokens, condition.mask)",
        "(condition.tokens, None)",
        "tests/networks/test_own_text.py",
        "test_tokens_and_their_encoded_text_give_one_output[unet]",
    ),
    Break(
        "tokenizer-without-checksum",
        "jaxdiff/runs/own_text.py",
        "if found != info.tokenizer:",
        "if found is None:",
        "tests/runs/test_text_from_nothing.py",
        "test_a_changed_tokenizer_is_refused",
    ),
    Break(
        "captions-of-the-next-image",
        "jaxdiff/data/captions.py",
        "np.cumsum([0, *map(len, captions)])",
        "np.cumsum([1, *map(len, captions)])",
        "tests/runs/test_text_from_nothing.py",
        "test_captions_become_tokens",
    ),
    Break(
        "hidden-image",
        "jaxdiff/conditions.py",
        '_without(condition, ("text", "mask", "vector", "tokens"))',
        '_without(condition, ("text", "mask", "vector", "tokens", "image"))',
        "tests/test_conditions.py",
        "test_a_hidden_condition_says_nothing_but_keeps_its_image",
    ),
    Break(
        "dropped-text-keeps-its-mask",
        "jaxdiff/conditions.py",
        'rates = {"text": text, "mask": text,',
        'rates = {"text": text, "mask": 0.0,',
        "tests/test_conditions.py",
        "test_training_hides_each_part_at_its_own_rate",
    ),
    Break(
        "base-ignored",
        "jaxdiff/denoisers/guidance.py",
        "    if base is None:\n        return hidden(condition)\n    pairs",
        "    if base is None or True:\n        return hidden(condition)\n    pairs",
        "tests/test_conditions.py",
        "test_guidance_extrapolates_from_the_base",
    ),
    Break(
        "latents-shifted-before-their-scale",
        "jaxdiff/networks/autoencoder_kl.py",
        "return (output - self.shift - mean) * (self.scale / deviation)",
        "return output * (self.scale / deviation) - self.shift - mean",
        "tests/latents/test_autoencoder.py",
        "test_a_sample_has_the_moments_and_its_own_noise",
    ),
    Break(
        "seams-not-divided",
        "jaxdiff/latents/tiles.py",
        "return found / total[None, :, :, None]",
        "return found",
        "tests/latents/test_autoencoder.py",
        "test_tiles_of_pointwise_functions_are_equal_everywhere",
    ),
    Break(
        "text-encoder-looks-ahead",
        "jaxdiff/networks/clip.py",
        'states = _blocks(config, "text_model.encoder", x, mask, causal=True)',
        'states = _blocks(config, "text_model.encoder", x, mask, causal=False)',
        "tests/components/test_component.py",
        "test_clip_text[quick_gelu-2-False]",
    ),
    Break(
        "gelu-by-tanh",
        "jaxdiff/networks/transformer.py",
        '"gelu": partial(nn.gelu, approximate=False)',
        '"gelu": partial(nn.gelu, approximate=True)',
        "tests/components/test_component.py",
        "test_bert",
    ),
    Break(
        "gate-and-value-swapped",
        "jaxdiff/networks/transformer_2d.py",
        "hidden, gate = jnp.split(h, 2, axis=-1)",
        "gate, hidden = jnp.split(h, 2, axis=-1)",
        "tests/components/test_unet_condition.py",
        "test_a_unet[sd]",
    ),
    Break(
        "shift-and-scale-swapped",
        "jaxdiff/networks/dit.py",
        "return x * (1 + scale) + shift",
        "return x * (1 + shift) + scale",
        "tests/networks/test_dit.py",
        "test_the_network_is_the_papers",
    ),
    Break(
        "blocks-share-their-keys",
        "jaxdiff/networks/dit.py",
        "keys = None if keys is None else rng.fold(keys, index)",
        "keys = None if keys is None else rng.fold(keys, 0)",
        "tests/networks/test_dit.py",
        "test_blocks_drop_by_keys_of_their_own",
    ),
    Break(
        "copies-not-compared",
        "jaxdiff/components/places.py",
        "if not np.array_equal(tensors[name].read(), known):",
        "if tensors[name].read().shape != known.shape:",
        "tests/components/test_dit_files.py",
        "test_embeddings_that_differ_between_blocks_are_an_error",
    ),
    Break(
        "weights-not-normalised",
        "jaxdiff/training/state.py",
        "            params = constrain(params)\n",
        "            constrain(params)\n",
        "tests/networks/test_edm2.py",
        "test_training_normalises_the_weights_after_each_step",
    ),
    Break(
        "sizes-of-heads-as-numbers",
        "jaxdiff/networks/cross_attention_unet_options.py",
        "return self.widths[level] // self.head_channels[level]",
        "return self.head_channels[level]",
        "tests/components/test_unet_condition.py",
        "test_a_unet[karlo]",
    ),
    Break(
        "guidance-scale-from-1",
        "jaxdiff/networks/cross_attention_unet.py",
        "GUIDANCE_SCALE * (condition.numbers[:, -1] - 1)",
        "GUIDANCE_SCALE * condition.numbers[:, -1]",
        "tests/components/test_unet_condition.py",
        "test_a_unet[sdxl]",
    ),
    Break(
        "text-after-the-feature-map",
        "jaxdiff/networks/transformer_2d.py",
        "mask = jnp.pad(mask, ((0, 0), (0, h.shape[1])), constant_values=True)",
        "mask = jnp.pad(mask, ((0, 0), (h.shape[1], 0)), constant_values=True)",
        "tests/components/test_unet_condition.py",
        "test_a_unet[karlo]",
    ),
    Break(
        "last-chunk-repeated",
        "jaxdiff/networks/attention.py",
        "found.swapaxes(0, 1).reshape(batch, chunks * chunk, *rest)[:, :count]",
        "found.swapaxes(0, 1).reshape(batch, chunks * chunk, *rest)[:, -count:]",
        "tests/networks/test_attention.py",
        "test_chunks_of_queries_change_nothing[4]",
    ),
    Break(
        "numbers-not-blended",
        "jaxdiff/conditions.py",
        "numbers=between(a.numbers, b.numbers)",
        "numbers=a.numbers",
        "tests/test_conditions.py",
        "test_numbers_stay_and_are_blended",
    ),
    Break(
        "padding-of-the-first-file",
        "jaxdiff/conditioning/tokenizers.py",
        'for name in ("tokenizer_config.json", "special_tokens_map.json"):',
        'for name in ("special_tokens_map.json", "tokenizer_config.json"):',
        "tests/conditioning/test_tokenizers.py",
        "test_clip_has_the_tokens_of_transformers[!]",
    ),
    Break(
        "bound-let-through",
        "jaxdiff/checks.py",
        "partial(operator.lt, least)",
        "partial(operator.le, least)",
        "tests/test_checks.py",
        "test_a_field_is_held_against_its_bounds",
    ),
    Break(
        "unknown-fields-pass",
        "jaxdiff/serialization.py",
        "forbid_extra_keys=True",
        "forbid_extra_keys=False",
        "tests/test_serialization.py",
        "test_wrong_data_is_refused_by_the_name_of_its_field",
    ),
    Break(
        "old-name-leads-astray",
        "jaxdiff/names.py",
        '"Ddim": "jaxdiff.DDIM"',
        '"Ddim": "jaxdiff.DDPM"',
        "tests/test_old_names.py",
        "test_moved_name_warns_once_and_names_its_place[Ddim]",
    ),
    Break(
        "compilation-in-the-rate",
        "jaxdiff/progress_bar.py",
        "rate = (self.n - first) / (now - begin)",
        "rate = (self.n - first) / (now - self._start)",
        "tests/test_progress_bar.py",
        "test_a_compilation_is_not_in_the_rate",
    ),
    Break(
        "forecast-of-the-first-steps",
        "jaxdiff/runs/forecast.py",
        "abs(now + left - before) < OFF * left",
        "abs(now + left - before) < 10 * left",
        "tests/test_progress_bar.py",
        "test_the_forecast_follows_the_machine",
    ),
    Break(
        "small-data-for-6000-steps",
        "jaxdiff/evaluation/feature_classifier.py",
        "min(max(FEWEST, 4 * len(dataset)), MOST)",
        "MOST",
        "tests/evaluation/test_feature_classifier.py",
        "test_small_data_take_few_steps[30-500]",
    ),
    Break(
        "message-of-many-lines",
        "jaxdiff/errors.py",
        "super().__init__(printable(message))",
        "super().__init__(message)",
        "tests/test_wrong_calls.py",
        "test_an_input_error_is_one_line_of_limited_length",
    ),
    # Experiments.
    Break(
        "all-reduce-counted-once",
        "experiments/scaling.py",
        "return 2 * (fsdp - 1) / fsdp * size +",
        "return (fsdp - 1) / fsdp * size +",
        "tests/parallel/test_parallel.py",
        "test_what_is_sent",
    ),
    Break(
        "ratio-inverted",
        "experiments/benchmark/rows.py",
        "pairs = [b / a for a, b",
        "pairs = [a / b for a, b",
        "tests/experiments/test_benchmark.py",
        "test_ratios_to_a_peer",
    ),
    Break(
        "cifar10-not-flipped",
        "jaxdiff/recipes/cifar10.py",
        'TFDS(name="cifar10", flip=True)',
        'TFDS(name="cifar10", flip=False)',
        "tests/experiments/test_recipes.py",
        "test_cifar10_is_ddpms",
    ),
    Break(
        "folder-run-without-its-name",
        "jaxdiff/recipes/folder.py",
        'Path("runs") / name',
        'Path("runs") / "folder"',
        "tests/experiments/test_folder_run.py",
        "test_the_folder_comes_first",
    ),
    # Pipelines of text and latents.
    Break(
        "negative-prompt-ignored",
        "jaxdiff/conditioning/prompts.py",
        "texts, size, count > 1, NEGATIVE_SCORE",
        "[''] * len(texts), size, count > 1, NEGATIVE_SCORE",
        "tests/pretrained/test_text_pipelines.py",
        "test_a_pipeline_draws_what_theirs_draws",
    ),
    Break(
        "absent-prompt-is-an-empty-text",
        "jaxdiff/conditioning/prompts.py",
        "if texts is None and self.zeros:",
        "if texts is None and False:",
        "tests/pretrained/test_text_pipelines.py",
        "test_every_pipeline_draws_what_theirs_draws[xl]",
    ),
    Break(
        "sizes-swapped",
        "jaxdiff/conditioning/prompts.py",
        "[*size, 0, 0, *last]",
        "[0, 0, *size, *last]",
        "tests/pretrained/test_text_pipelines.py",
        "test_every_pipeline_draws_what_theirs_draws[xl]",
    ),
    Break(
        "first-encoder-left-out-of-the-index",
        "jaxdiff/pretrained/latent_pipelines.py",
        "if not any(index.get(name, ())):",
        "if name not in index:",
        "tests/pretrained/test_text_pipelines.py",
        "test_the_index_of_an_export_is_theirs[xl]",
    ),
    Break(
        "last-block-not-skipped",
        "jaxdiff/pretrained/text_pipelines.py",
        "skip=int(xl), final_norm=not xl,",
        "skip=0, final_norm=not xl,",
        "tests/pretrained/test_text_pipelines.py",
        "test_every_pipeline_draws_what_theirs_draws[xl]",
    ),
    Break(
        "seeds-all-the-first",
        "jaxdiff/cli/sampling_request.py",
        "(options.seed + np.arange(num)) % 2**32",
        "(options.seed + 0 * np.arange(num)) % 2**32",
        "tests/cli/test_prompts.py",
        "test_prompts_are_drawn_and_their_pictures_can_be_made_again",
    ),
    Break(
        "another-file-is-taken",
        "jaxdiff/runs/parts.py",
        "if checksum(path) != known:",
        "if False:",
        "tests/pretrained/test_text_pipelines.py",
        "test_a_changed_part_is_one_line",
    ),
    Break(
        "alpha-not-divided-by-the-rank",
        "jaxdiff/components/lora_files.py",
        'scale = float(tensors[parts["alpha"]].read().item()) / rank',
        'scale = float(tensors[parts["alpha"]].read().item())',
        "tests/adapters/test_lora_files.py",
        "test_every_form_of_names_is_read[kohya]",
    ),
    Break(
        "text-layers-in-another-order",
        "jaxdiff/components/lora_names.py",
        '"text": ("k_proj", "v_proj", "q_proj", "out_proj")',
        '"text": ("q_proj", "k_proj", "v_proj", "out_proj")',
        "tests/adapters/test_lora_files.py",
        "test_numbered_layers_of_cloneofsimo_have_an_order[old]",
    ),
    Break(
        "second-adapter-replaces-the-first",
        "jaxdiff/adapters/lora.py",
        "(kernel.astype(jnp.float32) + delta)",
        "(0 * kernel.astype(jnp.float32) + delta)",
        "tests/adapters/test_lora.py",
        "test_merged_adds_the_scaled_product_and_unmerged_subtracts_it",
    ),
    Break(
        "new-token-is-the-end",
        "jaxdiff/conditioning/new_tokens.py",
        "config.vocabulary - 1 if config.end_token is None else config.end_token",
        "config.end_token",
        "tests/adapters/test_embeddings.py",
        "test_a_new_token_is_the_word_whose_vector_it_has",
    ),
    # unCLIP of one's own.
    Break(
        "vectors-not-scaled",
        "jaxdiff/conditioning/image_condition.py",
        "return vectors * math.sqrt(vectors.shape[-1])",
        "return vectors * 1.0",
        "tests/runs/test_own_unclip.py",
        "test_a_decoder_is_given_the_vector_of_each_image_or_none",
    ),
    Break(
        "vector-of-the-image-before",
        "jaxdiff/runs/vectors.py",
        "np.arange(1, len(rows))",
        "np.arange(len(rows) - 1)",
        "tests/runs/test_own_unclip.py",
        "test_a_decoder_is_given_the_vector_of_each_image_or_none",
    ),
    Break(
        "prior-of-other-images",
        "jaxdiff/runs/vectors.py",
        "images=vectors[:, None, None]",
        "images=vectors[::-1, None, None]",
        "tests/runs/test_own_unclip.py",
        "test_a_prior_is_trained_on_the_vectors_given_the_captions",
    ),
    Break(
        "drawn-vectors-of-any-length",
        "jaxdiff/runs/own_unclip.py",
        "return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)",
        "return vectors",
        "tests/runs/test_own_unclip.py",
        "test_vectors_of_prompts_and_pictures_become_images",
    ),
    Break(
        "towers-not-compared",
        "jaxdiff/runs/vectors.py",
        "if known is not None and identity(folder, step) != known:",
        "if False:",
        "tests/runs/test_own_unclip.py",
        "test_changed_towers_are_refused",
    ),
    # Two towers of images and texts.
    Break(
        "equal-captions-as-wrong-choices",
        "jaxdiff/losses/contrastive.py",
        "(numbers[:, None] == numbers[None])",
        "jnp.eye(len(numbers), dtype=bool)",
        "tests/losses/test_contrastive.py",
        "test_images_of_one_text_do_not_push_each_other_away",
    ),
    Break(
        "parts-not-summed",
        "jaxdiff/training/towers.py",
        "set(parts * a)",
        "set(a)",
        "tests/training/test_contrast.py",
        "test_gradient_is_that_of_the_whole_batch[eight]",
    ),
    Break(
        "gradient-of-a-devices-own-pairs",
        "jaxdiff/training/towers.py",
        "(own,) = back(tuple(parts * a[places] for a in towards))",
        "(own,) = back(tuple(a[places] for a in towards))",
        "tests/training/test_contrast.py",
        "test_gradient_is_that_of_the_whole_batch[accumulated]",
    ),
    Break(
        "absent-captions-count",
        "jaxdiff/training/towers.py",
        "(tokens != 0).any(axis=1)",
        "(tokens >= 0).any(axis=1)",
        "tests/training/test_contrast.py",
        "test_gradient_is_that_of_the_whole_batch[one]",
    ),
    Break(
        "found-text-not-its-own",
        "jaxdiff/evaluation/text_agreement.py",
        "best = numbers[products.argmax(axis=0)]",
        "best = products.argmax(axis=0)",
        "tests/evaluation/test_text_agreement.py",
        "test_every_image_finds_its_text",
    ),
    Break(
        "chance-with-the-own-text",
        "jaxdiff/evaluation/text_agreement.py",
        "(products.sum(axis=1) - own) / (count - 1)",
        "products.sum(axis=1) / count",
        "tests/evaluation/test_text_agreement.py",
        "test_every_image_finds_its_text",
    ),
    Break(
        "reader-judged-on-what-it-learned",
        "jaxdiff/evaluation/readers.py",
        "training.images[places[left]]",
        "training.images[places[kept[: len(left)]]]",
        "tests/evaluation/test_readers.py",
        "test_a_reader_has_not_seen_the_pictures_of_its_accuracy",
    ),
    Break(
        "what-is-not-asked-is-wrong",
        "jaxdiff/evaluation/readers.py",
        "if wanted in self.values else np.nan",
        "if wanted in self.values else 0.0",
        "tests/evaluation/test_readers.py",
        "test_right_is_read_as_asked",
    ),
    Break(
        "baseline-of-the-reconstructions",
        "jaxdiff/cli/attribute_figures.py",
        "reader.right(real, asked, self.parallel)",
        "reader.right(images, asked, self.parallel)",
        "tests/runs/test_autoencoder_run.py",
        "test_reconstructions_are_read_beside_their_images",
    ),
    Break(
        "teacher-without-guidance",
        "jaxdiff/losses/loss.py",
        "if objective.teacher_guidance != 1:",
        "if objective.teacher_guidance < 1:",
        "tests/losses/test_progressive.py",
        "test_a_student_learns_the_guidance_of_its_teacher",
    ),
    Break(
        "every-student-learns-the-guidance",
        "jaxdiff/runs/distill.py",
        "replace(objective, guidance=1.0)",
        "objective",
        "tests/losses/test_progressive.py",
        "test_the_first_student_of_a_chain_learns_the_guidance",
    ),
    Break(
        "end-without-the-time",
        "jaxdiff/networks/base.py",
        "t - end.astype(jnp.float32)",
        "end.astype(jnp.float32)",
        "tests/losses/test_mean_flow.py",
        "test_a_second_time_changes_nothing_at_first",
    ),
    Break(
        "guidance-of-a-part-without-its-weight",
        "experiments/benchmark/parts.py",
        "jd.classifier_free_guidance(denoiser, GUIDANCE, base=negative)",
        "jd.classifier_free_guidance(denoiser, 1.0, base=negative)",
        "tests/experiments/test_benchmark.py",
        "test_the_unet_is_evaluated_with_guidance",
    ),
)


class Refused(Exception):
    """Error for breaks that do not fit the code, and for unknown names."""


def chosen(names: Sequence[str]) -> list[Break]:
    """Returns the breaks of these names; all breaks if there are no names.

    Raises:
        Refused: If a name is unknown, or if a break's old text does not occur once.
    """
    known = {one.name: one for one in BREAKS}
    if len(known) < len(BREAKS):
        raise Refused("two breaks have one name")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refused(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    found = [known[name] for name in names or known]
    for one in found:
        count = (ROOT / one.file).read_text().count(one.old)
        if count != 1:
            raise Refused(f"{one.name}: {one.old!r} occurs {count} times in {one.file}")
    return found


def copy_to(folder: pathlib.Path) -> None:
    """Copies the files that git tracks, and new files that git does not ignore."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def run_tests(folder: pathlib.Path, tests: Sequence[str], *options: str) -> Outcome:
    """Runs tests of the copy, up to the first failure."""
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-x",
        "-m",
        "",
    ]
    own = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    env = own | {
        "PYTHONPATH": str(folder),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "COLUMNS": "1000",  # shows each reason in full
    }
    try:
        done = subprocess.run(
            [*line, *options, *tests], cwd=folder, env=env, timeout=PATIENCE_S,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Outcome(None, "", f"the tests took more than {PATIENCE_S} s")
    found = re.search(r"^FAILED (.+?)(?: - (.*))?$", done.stdout, re.MULTILINE)
    if found:
        return Outcome(done.returncode, found[1], found[2] or "no reason")
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return Outcome(done.returncode, "", "".join(last))


def check(folder: pathlib.Path, breaks: Sequence[Break]) -> None:
    """Runs the tests of all breaks once, on the unbroken copy.

    Raises:
        Refused: If a test fails.
    """
    tests = dict.fromkeys(f"{one.test_file}::{one.test}" for one in breaks)
    start = time.monotonic()
    found = run_tests(folder, list(tests))
    if found.code != 0:
        reason = f"{found.failed} {found.why}".strip()
        raise Refused(f"without a break the tests do not pass: {reason}")
    print(f"unbroken: the tests pass, {time.monotonic() - start:.0f} s", flush=True)


def broken(folder: pathlib.Path, one: Break) -> Outcome:
    """Applies a break, and returns the outcome of its test."""
    path = folder / one.file
    whole = path.read_text()
    path.write_text(whole.replace(one.old, one.new))
    try:
        return run_tests(folder, [f"{one.test_file}::{one.test}"], "--tb=no")
    finally:
        path.write_text(whole)


def table(found: dict[str, Outcome], breaks: Sequence[Break]) -> str:
    """Returns the table of the breaks and the failed tests, in Markdown."""
    lines = ["| break | where | test that fails |", "|---|---|---|"]
    for one in breaks:
        test = one.test.partition("[")[0]
        result = f"`{one.test_file}`: {test}" if found[one.name].caught else "MISSED"
        lines.append(f"| {one.name} | `{one.file}` | {result} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="which breaks; all by default")
    parser.add_argument("--no-check", action="store_true", help="see above")
    asked = parser.parse_args()
    begin = time.monotonic()
    found: dict[str, Outcome] = {}
    try:
        breaks = chosen(asked.names)
        with tempfile.TemporaryDirectory(prefix="mutations.") as place:
            folder = pathlib.Path(place)
            copy_to(folder)
            if not asked.no_check:
                check(folder, breaks)
            for one in breaks:
                start = time.monotonic()
                found[one.name] = outcome = broken(folder, one)
                word = "caught" if outcome.caught else "MISSED"
                seconds = time.monotonic() - start
                print(f"{word} {seconds:6.1f} s  {one.name}", flush=True)
                if not outcome.caught:
                    print(f"    pytest ended with code {outcome.code}: {outcome.why}")
    except Refused as error:
        sys.exit(f"FAILED: {error}")
    missed = [name for name, outcome in found.items() if not outcome.caught]
    print(f"\n{table(found, breaks)}\n")
    print(
        f"{len(found) - len(missed)} of {len(found)} breaks caught, after "
        f"{time.monotonic() - begin:.0f} s"
    )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
