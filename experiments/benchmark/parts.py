"""Networks of Stable Diffusion 1.5 at full size, whose evaluation alone is measured.

`unet-sd15` is the U-Net at 32x32 latents: one evaluation with classifier-free guidance,
for an image of 256x256. `decoder` is the autoencoder's decoder of 64x64 latents, to
512x512. The parameters are random, in the number type of the computation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.benchmark.rows import Measured
from jaxdiff.networks import CrossAttentionUNetConfig
from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.typing import Condition

GUIDANCE = 7.5
"""Weight of classifier-free guidance."""
TIME = 500
"""Time of the evaluation, of 1,000."""
TOKENS, FEATURES = 77, 768
"""Number of tokens of a text, and their features."""
SIZES = {"unet-sd15": 32, "decoder": 64}
"""Height and width of the latents of each part."""


@dataclass(frozen=True)
class PartCase(Measured):
    """Part in a number type, with random latents, on one device."""

    network: str
    dtype: str
    batch: int = 1

    @property
    def layout(self) -> Parallel:
        """Layout of the one device."""
        return Pmap(num_devices=1)

    @cached_property
    def _module(self) -> Any:
        dtype: Any = self.dtype
        if self.network == "decoder":
            return AutoencoderKLConfig(dtype=dtype).build()
        return CrossAttentionUNetConfig(dtype=dtype).build(out_channels=4)

    @cached_property
    def inputs(self) -> tuple[Any, ...]:
        """Arguments after the parameters: latents; for the U-Net two texts."""
        rng, size = np.random.default_rng(0), SIZES[self.network]
        latents = rng.normal(size=(self.batch, size, size, 4)).astype(np.float32)
        if self.network == "decoder":
            return (jnp.asarray(latents),)
        shape = (2, self.batch, TOKENS, FEATURES)
        texts = jnp.asarray(rng.normal(size=shape).astype(np.float32))
        return jnp.asarray(latents), *texts

    @cached_property
    def params(self) -> Any:
        """Random parameters."""
        shapes = jax.eval_shape(self._init, jax.random.key(0), *self.inputs)
        rng, dtype = np.random.default_rng(0), jnp.dtype(self.dtype)

        def drawn(leaf: Any) -> Any:
            values = rng.standard_normal(leaf.shape, np.float32) / 50
            return jnp.asarray(values.astype(dtype))

        return jax.tree.map(drawn, shapes["params"])

    def _init(self, key: Any, latents: Any, *text: Any) -> Any:
        if self.network == "decoder":
            return self._module.init(key, latents, method="decode")
        times = jnp.zeros(len(latents), jnp.int32)
        return self._module.init(key, latents, times, Condition(text=text[0]))

    def evaluate(self, params: Any, latents: Any, *texts: Any) -> Any:
        """Evaluates the part once; the U-Net with guidance."""
        if self.network == "decoder":
            return self._module.apply({"params": params}, latents, method="decode")
        text, negative = (Condition(text=one) for one in texts)
        denoiser = jd.bind(self._module, params, text)
        guided = jd.classifier_free_guidance(denoiser, GUIDANCE, base=negative)
        return guided(latents, jd.Linear().build().level(TIME)).eps

    def forward(self) -> Callable[[], Any]:
        """Returns a function that starts one evaluation."""
        run = jax.jit(self.evaluate)
        params, inputs = self.params, self.inputs
        return lambda: run(params, *inputs)
