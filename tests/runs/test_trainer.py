"""An experiment with its data: what is built once."""

import warnings

import numpy as np

import jaxdiff as jd
from jaxdiff.runs.trainer import Trainer


def test_a_trainer_warns_of_its_schedule_once():
    images = np.zeros((4, 8, 8, 1), np.uint8)
    experiment = jd.Experiment(
        schedule=jd.Linear(num_steps=10),
        training=jd.training.Training(batch_size=4),
        parallel=jd.parallel.Pmap(num_devices=1),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer.of(experiment, jd.data.from_arrays(images))
    found = [w for w in caught if "the last step keeps" in str(w.message)]
    assert len(found) == 1
