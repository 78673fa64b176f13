"""Options of the experiments against their papers."""

import jaxdiff as jd
from experiments import cifar10


def test_cifar10_is_ddpms():
    """Ho et al. 2020, section 4 and appendix B."""
    config = cifar10.CONFIG
    assert config.schedule == jd.Linear(num_steps=1000, beta_start=1e-4, beta_end=0.02)
    assert config.objective == jd.losses.Simple()
    assert config.prediction == jd.predictions.Eps()
    assert config.sampling.sampler == jd.DDPM(variance=jd.samplers.FixedLarge())
    assert config.data == jd.data.TFDS(name="cifar10", flip=True)
    assert not config.conditional
    network, optimizer = config.network, config.optimizer
    assert isinstance(network, jd.UNetConfig)
    assert network.widths == (128, 256, 256, 256)
    assert (network.blocks, network.attention, network.dropout) == (2, (16,), 0.1)
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (2e-4, 5000)
    assert (optimizer.decay, optimizer.weight_decay) == ("constant", 0)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.clip_norm) == (0.9, 0.999, 1)
    training = config.training
    assert (training.batch_size, training.ema_decay) == (128, 0.9999)
    assert training.num_steps == 800_000
