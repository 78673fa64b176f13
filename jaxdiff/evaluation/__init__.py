"""Likelihood, feature networks, and distances between sets of images."""

from jaxdiff.evaluation.features import Classifier as Classifier
from jaxdiff.evaluation.features import Inception as Inception
from jaxdiff.evaluation.features import Pixels as Pixels
from jaxdiff.evaluation.frechet import Moments as Moments
from jaxdiff.evaluation.frechet import frechet_distance as frechet_distance
from jaxdiff.evaluation.kid import kernel_distance as kernel_distance
from jaxdiff.evaluation.label_agreement import label_agreement as label_agreement
from jaxdiff.evaluation.likelihood import bits_per_dim as bits_per_dim
from jaxdiff.evaluation.likelihood import dequantise as dequantise
from jaxdiff.evaluation.likelihood import ode_log_density as ode_log_density
from jaxdiff.evaluation.likelihood import variational_bound as variational_bound
from jaxdiff.evaluation.memorization import nearest as nearest
from jaxdiff.evaluation.precision_recall import precision_recall as precision_recall
