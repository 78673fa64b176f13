"""Base of the objectives."""

from dataclasses import dataclass
from typing import Any

from annotated_types import IsFinite

from jaxdiff.checks import Checked
from jaxdiff.denoisers.network import check_null_class, num_classes_of, taken_by
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.noised import Apply, Noised
from jaxdiff.serialization import option_name
from jaxdiff.typing import AnySchedule, Array, Network, Timesteps


class BaseObjective(Checked):
    """Base of the objectives, frozen dataclasses with the field `times`.

    Training minimises the mean of `losses`, weighted by the density of `times`.
    """

    @property
    def has_teacher(self) -> bool:
        """True if training evaluates the model of `init`."""
        return False

    @property
    def teacher_guidance(self) -> float:
        """Weight of classifier-free guidance of the teacher; 1 for none."""
        return 1.0

    @property
    def learns_guidance(self) -> bool:
        """True if the network learns the result of guidance, and needs none after."""
        return self.teacher_guidance != 1

    def time(self, schedule: AnySchedule, u: Array) -> Timesteps:
        """Returns the times [batch] at fractions u in [0, 1) of the range."""
        return schedule.time(u)

    def losses(
        self, apply: Apply, noised: Noised, prediction: Prediction,
        schedule: AnySchedule,
    ) -> dict[str, Array]:  # fmt: skip
        """Returns the "loss" of each example and its parts, [batch] each.

        Args:
            apply: network.
            noised: examples with noise.
            prediction: meaning of the network's output.
            schedule: noise schedule.
        """
        raise NotImplementedError

    def check(self, prediction: Prediction) -> None:
        """Checks that the objective trains all that the network predicts.

        Raises:
            InputError: the prediction does not fit; here, it has a learned variance.
        """
        if prediction.learn_variance:
            raise InputError(
                "prediction.learn_variance must be off for the objective "
                f"{option_name(type(self))}, which trains no variance. Turn it off, or "
                "choose the objective hybrid or bound."
            )

    def check_schedule(self, schedule: AnySchedule) -> None:
        """Raises `InputError` if the schedule does not fit."""

    def check_network(self, network: Network) -> None:
        """Raises `InputError` if the network does not fit."""


@dataclass(frozen=True, kw_only=True)
class Distillation(BaseObjective):
    """Base of objectives whose student learns the result of a teacher's guidance."""

    guidance: IsFinite[float] = 1.0
    """Weight of classifier-free guidance of the teacher, which the student learns; 1
    for none (Meng et al. 2023, section 3.1)."""

    @property
    def teacher_guidance(self) -> float:
        """Weight of classifier-free guidance of the teacher; 1 for none."""
        return self.guidance

    def check_network(self, network: Network) -> None:
        """Raises `InputError` for guidance of a network that cannot be guided."""
        if self.learns_guidance:
            check_guidable(network, "guidance must be 1", f"{self.guidance:g}")


def check_guidable(network: Network, must: str, got: str) -> None:
    """Checks that guidance has something to guide by: classes or a text.

    Args:
        network: the network.
        must: options of the guidance, with what they must be without guidance.
        got: what they are.

    Raises:
        InputError: the network has no null class, or takes neither.
    """
    if num_classes_of(network) is not None:
        check_null_class(network)
    elif not {"text", "tokens", "vector"} & {*taken_by(network)}:
        raise InputError(
            f"{must} for a network without classes, text or vector, got {got}. Leave "
            "guidance out."
        )


def mean_square(difference: Array) -> Array:
    """Returns the mean square of each example, [batch]."""
    return (difference**2).mean(axis=tuple(range(1, difference.ndim)))


def weighted_error(
    weighting: Any, output: Array, noised: Noised, prediction: Prediction
) -> Array:
    """Returns the weighted squared error of the network's output, [batch].

    Args:
        weighting: weight of each noise level.
        output: output of the network at `noised.x_t`.
        noised: examples with noise, which give the target.
        prediction: meaning of the output.
    """
    predicted, _ = prediction.split(output, noised.x_t)
    target = prediction.target(noised.x_0, noised.eps, noised.level)
    error = mean_square(predicted - target)
    return weighting.output_weight(prediction, noised.level) * error
