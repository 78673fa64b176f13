"""Trainer: its batches, and its schedule, which is built once."""

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


def test_a_trainers_batches_are_of_its_seed_and_flipped_as_its_data_say():
    rng = np.random.default_rng(0)
    dataset = jd.data.from_arrays(rng.integers(0, 256, (40, 8, 8, 1), np.uint8))
    for seed, flip in ((3, True), (0, False)):
        experiment = jd.Experiment(
            seed=seed,
            data=jd.data.Digits(flip=flip),
            training=jd.training.Training(batch_size=8),
            parallel=jd.parallel.Pmap(num_devices=1),
        )
        got = Trainer.of(experiment, dataset).batch(2)
        wanted = jd.data.batch(dataset, seed, 2, 8, flip=flip)
        np.testing.assert_array_equal(got.images, wanted.images)
