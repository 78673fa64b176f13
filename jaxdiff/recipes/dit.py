"""DiT-XL/2 on ImageNet's 256x256 pictures, in latents: the recipe of the paper.

    jaxdiff encode folder DIR --data.size 256 --model sd-vae-ft-ema --flip --out latents
    jaxdiff train dit
    jaxdiff sample dit --labels 207 --num 8 --guidance 4

The recipe of Peebles & Xie 2023, "Scalable Diffusion Models with Transformers",
section 4:

    latents     32x32x4, of the autoencoder of Stable Diffusion; flips
    network     DiT-XL/2, 674,834,720 parameters, learned variance
    diffusion   T = 1000 linear betas, label dropout 0.1
    optimizer   AdamW at 1e-4, constant, without weight decay
    training    7,000,000 steps of 256 images, EMA decay 0.9999
    sampling    250 steps of DDPM

The paper reports an FID of 9.62, and of 2.27 with guidance 1.5. This project has not
run the recipe in full. `--network.dtype bfloat16` halves the memory of activations.

DIR holds ImageNet's training pictures, in a sub-folder for each class. sd-vae-ft-ema is
the folder of the autoencoder, as diffusers stores it. On several GPUs or hosts:

    jaxdiff train dit --parallel sharded --workdir /shared/runs/dit
    sbatch -N 4 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm \
        jaxdiff train dit --parallel sharded --workdir /shared/runs/dit
"""

from jaxdiff.data import Latents
from jaxdiff.denoisers.predictions import Eps
from jaxdiff.losses.objectives import Hybrid
from jaxdiff.networks import DiTConfig
from jaxdiff.samplers import DDPM, Linspace
from jaxdiff.samplers.ancestral import LearnedRange
from jaxdiff.schedules.discrete import Linear
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

CONFIG = Experiment(
    data=Latents(path="latents", flip=True),
    schedule=Linear(num_steps=1000, beta_start=1e-4, beta_end=0.02),
    prediction=Eps(learn_variance=True),
    objective=Hybrid(),
    network=DiTConfig(size="XL", patch=2, label_dropout=0.1),
    # The authors do not clip gradients.
    optimizer=Optimizer(learning_rate=1e-4, warmup_steps=0, clip_norm=1e6),
    training=Training(num_steps=7_000_000, batch_size=256, ema_decay=0.9999),
    upkeep=Upkeep(log_every=100, checkpoint_every=10_000, sample_every=50_000),
    sampling=Sampling(
        sampler=DDPM(variance=LearnedRange(), spacing=Linspace(num_steps=250)),
        guidance=1.5,
        chunk=32,
    ),
)
