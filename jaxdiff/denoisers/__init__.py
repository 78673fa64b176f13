"""Denoisers: estimates by networks, and functions from denoiser to denoiser."""

from jaxdiff.denoisers.guidance import autoguidance as autoguidance
from jaxdiff.denoisers.guidance import (
    classifier_free_guidance as classifier_free_guidance,
)
from jaxdiff.denoisers.guidance import classifier_guidance as classifier_guidance
from jaxdiff.denoisers.guidance import mix_classes as mix_classes
from jaxdiff.denoisers.inverse_problems import blur as blur
from jaxdiff.denoisers.inverse_problems import downsample as downsample
from jaxdiff.denoisers.inverse_problems import gaussian_blur as gaussian_blur
from jaxdiff.denoisers.inverse_problems import given_measurement as given_measurement
from jaxdiff.denoisers.inverse_problems import masked as masked
from jaxdiff.denoisers.network import NetworkDenoiser as NetworkDenoiser
from jaxdiff.denoisers.network import bind as bind
from jaxdiff.denoisers.oracles import Gaussian as Gaussian
from jaxdiff.denoisers.oracles import GaussianMixture as GaussianMixture
from jaxdiff.denoisers.predictions import EDM as EDM
from jaxdiff.denoisers.predictions import X0 as X0
from jaxdiff.denoisers.predictions import Eps as Eps
from jaxdiff.denoisers.predictions import Prediction as Prediction
from jaxdiff.denoisers.predictions import V as V
from jaxdiff.denoisers.predictions import Velocity as Velocity
from jaxdiff.denoisers.thresholding import clip_x0 as clip_x0
from jaxdiff.denoisers.thresholding import dynamic_threshold as dynamic_threshold

classifier_free, clip_x_0 = classifier_free_guidance, clip_x0
"""Short names of the two functions."""
