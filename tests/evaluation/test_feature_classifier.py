"""Feature classifier: its accuracy, its seed and its cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import Digits, from_arrays
from jaxdiff.errors import InputError
from jaxdiff.evaluation import feature_classifier
from jaxdiff.evaluation.feature_classifier import Recipe, classifier_of, shifted
from jaxdiff.evaluation.features import Classifier
from jaxdiff.parallel import Pmap
from jaxdiff.storage.cache import cache_folder

RECIPE = Recipe(num_steps=150)

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def digits():
    return Digits().load("train"), Digits().load("test")


@pytest.fixture(scope="module")
def trained(digits):
    with jax.numpy_dtype_promotion("standard"):
        return classifier_of(digits[0], RECIPE)


def test_it_reads_images_that_it_did_not_see(digits, trained):
    features, classes = trained.read(digits[1].images, Pmap())
    assert features.shape == (297, 32)
    assert features.dtype == np.float32
    assert np.mean(classes == digits[1].labels) > 0.9
    wrong = np.mean(classes == (digits[1].labels + 1) % 10)
    assert wrong < 0.1


def test_it_is_kept_and_a_seed_decides_it(digits, trained, monkeypatch):
    def never(*_):
        raise AssertionError("trained again")

    steps: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(feature_classifier, "_train", never)
        kept = classifier_of(digits[0], RECIPE, steps.append)
        assert kept.sha256() == trained.sha256()
        assert steps == [150]  # no 0, because it is not trained
        with pytest.raises(AssertionError, match="trained again"):
            classifier_of(digits[0], Recipe(num_steps=150, seed=1))
        with pytest.raises(AssertionError, match="trained again"):
            classifier_of(digits[1], RECIPE)
    short = Recipe(num_steps=3)
    first = classifier_of(digits[0], short)
    (path,) = [
        p
        for p in (cache_folder() / "classifiers").iterdir()
        if p.stem == feature_classifier._name(digits[0], short)
    ]
    path.write_bytes(path.read_bytes()[:-100])  # a damaged file is replaced
    steps.clear()
    assert classifier_of(digits[0], short, steps.append).sha256() == first.sha256()
    assert steps == [0, 1, 3]
    assert first.sha256() != trained.sha256()


def test_images_are_moved_by_a_sixteenth_at_most():
    image = np.arange(1024.0, dtype=np.float32).reshape(32, 32)
    images = jnp.asarray(np.broadcast_to(image[..., None], (200, 32, 32, 1)))
    result = np.asarray(shifted(images, jax.random.split(jax.random.key(0), 200)))
    middle = result[:, 16, 16, 0] - image[16, 16]
    offsets = {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    assert {divmod(int(m) + 66, 32) for m in middle} == {
        (y + 2, x + 2) for y, x in offsets
    }


@pytest.mark.parametrize(
    ("images", "steps"), [(30, 500), (126, 504), (1500, 6000), (60_000, 6000)]
)
def test_small_data_take_few_steps(images, steps):
    """Photographs of a few dozen would be seen 10,000 times, for most of an hour."""
    labels = np.arange(images) % 2
    data = from_arrays(np.zeros((images, 2, 2, 1), np.uint8), labels)
    assert Recipe().for_data(data).num_steps == steps
    assert Classifier().num_calls(data) == steps
    assert Recipe(num_steps=7).for_data(data).num_steps == 7


def test_mistakes():
    plain = from_arrays(np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(InputError, match=r"must have classes .*, got none"):
        classifier_of(plain, RECIPE)
    with pytest.raises(InputError, match="num_steps must be at least 1, got 0"):
        Recipe(num_steps=0)
    with pytest.raises(InputError, match="seed"):
        Recipe(seed=-1)
