"""Fashion-MNIST."""

from jaxdiff.cli import main
from jaxdiff.data import FashionMnist
from jaxdiff.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.metrics.agreement import label_agreement
from jaxdiff.networks import UNetConfig
from jaxdiff.objective import Simple
from jaxdiff.optimizer import Optimizer
from jaxdiff.samplers import DpmSolver, Trailing
from jaxdiff.weighting import MinSnr

CONFIG = Experiment(
    data=FashionMnist(),
    network=UNetConfig(
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention=(7,),
        groups=8,
        dropout=0.0,
        patch=2,
        label_dropout=0.1,
    ),
    objective=Simple(weighting=MinSnr()),
    optimizer=Optimizer(learning_rate=2e-3, warmup_steps=300, decay="cosine"),
    training=Training(
        num_steps=10_000, batch_size=64, ema_decay=0.9995, ema_lengths=(0.05, 0.1)
    ),
    upkeep=Upkeep(log_every=100, checkpoint_every=2000, sample_every=2000),
    sampling=Sampling(sampler=DpmSolver(spacing=Trailing(num_steps=20)), guidance=1.3),
)

if __name__ == "__main__":
    main(CONFIG, __doc__, judge=label_agreement)
