"""CIFAR-10: the DDPM recipe, unconditional, to the letter.

The recipe of Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B:

    network     a U-Net of 35,746,307 parameters, dropout 0.1
    diffusion   T = 1000 linear betas, fixed large variance
    optimizer   Adam at 2e-4 after 5,000 steps of warm-up, gradient clipping at 1
    training    800,000 steps of 128 images, random flips, EMA decay 0.9999

The paper reports an FID of 3.17 after about 11 hours on eight TPU v3 cores. This
project has not run the recipe in full.

TensorFlow Datasets downloads and prepares the images on first use.

    jaxdiff train cifar10
    jaxdiff sample cifar10
    sbatch -N 2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm \
        jaxdiff train cifar10 --workdir /shared/runs/cifar10
"""

from jaxdiff.data import TFDS
from jaxdiff.networks import UNetConfig
from jaxdiff.samplers import DDPM
from jaxdiff.samplers.ancestral import FixedLarge
from jaxdiff.schedules.discrete import Linear
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

CONFIG = Experiment(
    data=TFDS(name="cifar10", flip=True),
    conditional=False,
    schedule=Linear(num_steps=1000, beta_start=1e-4, beta_end=0.02),
    network=UNetConfig(
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention=(16,),
        dropout=0.1,
    ),
    optimizer=Optimizer(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0),
    training=Training(num_steps=800_000, batch_size=128, ema_decay=0.9999),
    upkeep=Upkeep(log_every=100, checkpoint_every=10_000, sample_every=10_000),
    sampling=Sampling(sampler=DDPM(variance=FixedLarge())),
)
