"""Conditions of texts, vectors and images: sampling, guidance, blends, training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.conditions import (
    ANY_CLASS,
    blend_conditions,
    check_parts,
    drop_parts,
    hidden,
)
from jaxdiff.runs.generate import generate
from jaxdiff.training.experiment import Sampling
from tests.helpers.compilations import compilations
from tests.helpers.own_networks import ConvNet, TextNet

pytestmark = pytest.mark.usefixtures("standard_promotion")
SCHEDULE = jd.Linear(num_steps=6, beta_start=0.1, beta_end=0.6).build()
NUM = 4
LEVEL = SCHEDULE.level(jnp.array(3))


def condition(seed, num=NUM):
    draw = np.random.default_rng(seed).normal
    return jd.Condition(
        text=draw(size=(num, 3, 5)).astype(np.float32),
        mask=np.arange(3) < np.arange(1, num + 1)[:, None],
        vector=draw(size=(num, 6)).astype(np.float32),
        image=draw(size=(num, 4, 4, 1)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def model():
    return jd.Model(TextNet(), SCHEDULE, jd.predictions.Eps(), (4, 4, 1))


@pytest.fixture(scope="module")
def params(model):
    return model.init(0)


@pytest.fixture(scope="module")
def x_t():
    return jnp.asarray(np.random.default_rng(5).normal(size=(NUM, 4, 4, 1)), float)


@pytest.mark.parametrize("part", ["text", "mask", "vector", "image"])
def test_every_part_reaches_the_network(model, params, x_t, part):
    one, two = condition(0), condition(1)
    if part == "mask":
        two = two._replace(mask=~one.mask | (np.arange(3) == 0))
    changed = one._replace(**{part: getattr(two, part)})
    before, after = (model.denoiser(params, c)(x_t, LEVEL).eps for c in (one, changed))
    assert not np.allclose(before, after)


def test_another_condition_compiles_nothing_again(model, params):
    sampling = Sampling(guidance=2.0, chunk=NUM)
    first = generate(model, params, sampling, condition(0), 0, base=condition(1))
    with compilations() as count:
        second = generate(model, params, sampling, condition(2), 0, base=condition(1))
        third = generate(model, params, sampling, condition(0), 0, base=condition(3))
    assert not count()
    assert not np.allclose(first, second)
    assert not np.allclose(first, third)
    alone = generate(
        model, params, sampling, jax.tree.map(lambda a: a[2:3], condition(0)), 0,
        base=jax.tree.map(lambda a: a[2:3], condition(1)), indices=np.array([2]),
    )  # fmt: skip
    np.testing.assert_allclose(alone[0], first[2], atol=1e-4)


def test_guidance_extrapolates_from_the_base(model, params, x_t):
    """Eps = eps(base) + w (eps(condition) - eps(base)); by default it is hidden."""
    given, base = condition(0), condition(1)
    denoiser = model.denoiser(params, given)
    for other, wanted in ((base, base), (None, hidden(given))):
        guided = jd.classifier_free_guidance(denoiser, 3.0, base=other)(x_t, LEVEL).eps
        one, two = (model.denoiser(params, c)(x_t, LEVEL).eps for c in (wanted, given))
        np.testing.assert_allclose(guided, one + 3 * (two - one), atol=1e-5)


def test_parts_that_a_base_lacks_are_the_conditions_own(model, params, x_t):
    given = condition(0)
    base = jd.Condition(text=condition(1).text)
    guided = jd.classifier_free_guidance(model.denoiser(params, given), 3.0, base=base)
    whole = given._replace(text=base.text)
    wanted = jd.classifier_free_guidance(model.denoiser(params, given), 3.0, base=whole)
    np.testing.assert_array_equal(guided(x_t, LEVEL).eps, wanted(x_t, LEVEL).eps)


def test_a_hidden_condition_says_nothing_but_keeps_its_image():
    one, two = hidden(condition(0)), hidden(condition(1))
    for name in ("text", "mask", "vector"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.mask.sum(axis=1).tolist() == [1] * NUM
    assert not np.array_equal(one.image, two.image)
    labels = hidden(jd.Condition(labels=np.array([3, 4])))
    assert labels.labels.tolist() == [ANY_CLASS, ANY_CLASS]


def test_blends_go_from_one_condition_to_the_other():
    a, b = condition(0), condition(1)._replace(mask=condition(0).mask)
    for fraction, wanted in ((0.0, a), (1.0, b)):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
            blend_conditions(a, b, fraction), wanted,
        )  # fmt: skip
    half = blend_conditions(a, b, np.full(NUM, 0.5, np.float32))
    np.testing.assert_allclose(half.text, (a.text + b.text) / 2, atol=1e-6)
    lengths = [np.linalg.norm(c.vector, axis=1) for c in (a, b, half)]
    np.testing.assert_allclose(lengths[2], (lengths[0] + lengths[1]) / 2, rtol=1e-4)
    with pytest.raises(jd.InputError, match=r"^text of both conditions must have one"):
        blend_conditions(a, b._replace(text=b.text[:, :2]), 0.5)
    with pytest.raises(jd.InputError, match=r"^labels must be None"):
        blend_conditions(*(jd.Condition(labels=np.zeros(2, int)),) * 2, 0.5)


def test_numbers_stay_and_are_blended():
    a, b = (jd.Condition(numbers=np.full((2, 3), x, np.float32)) for x in (1, 5))
    assert hidden(a).numbers is a.numbers
    blend = blend_conditions(a, b, np.array([0.25, 0.5], np.float32))
    np.testing.assert_allclose(blend.numbers, [[2] * 3, [3] * 3])
    with pytest.raises(jd.InputError, match=r"^numbers must be \[batch, numbers\]"):
        check_parts(jd.Condition(numbers=np.zeros(2)))


def test_training_hides_each_part_at_its_own_rate():
    many = condition(0, 4000)
    keys = rng.example_keys(rng.key(0), jnp.arange(4000))
    found = drop_parts(many, keys, text=0.3, vector=0.1)
    without = hidden(many)
    for name, rate in (("text", 0.3), ("vector", 0.1), ("image", 0.0)):
        same, none = (
            (np.asarray(getattr(found, name)) == getattr(c, name))
            .reshape(4000, -1).all(axis=1)
            for c in (many, without)
        )  # fmt: skip
        assert (same | none).all()
        assert abs((~same).mean() - rate) < 0.03
    dropped = ~(np.asarray(found.text) == many.text).all(axis=(1, 2))
    masks = np.where(dropped[:, None], without.mask, many.mask)
    np.testing.assert_array_equal(found.mask, masks)
    # An example's draw depends on its key alone.
    part = jax.tree.map(lambda a: a[7:9], many)
    alone = drop_parts(part, keys[7:9], text=0.3, vector=0.1)
    np.testing.assert_array_equal(alone.text, found.text[7:9])
    assert drop_parts(many, None, text=0.3) is many


def test_a_network_of_texts_trains_and_depends_on_its_prompt():
    """Images are bright or dark, as the text says."""
    num = 64
    signs = np.where(np.arange(num) % 2, 1.0, -1.0)
    images = np.broadcast_to(0.8 * signs[:, None, None, None], (num, 4, 4, 1))
    images = images.astype(np.float32)
    text = np.broadcast_to(signs[:, None, None], (num, 3, 5)).astype(np.float32)
    given = jd.Condition(text=text, vector=np.zeros((num, 6), np.float32))
    network = TextNet(width=16, dropout=0.1)
    model = jd.Model(network, SCHEDULE, jd.predictions.X0(), (4, 4, 1))
    given = given._replace(
        mask=np.ones((num, 3), bool), image=np.zeros((num, 4, 4, 1), np.float32)
    )
    batch = jd.Batch(images, given, np.arange(num, dtype=np.int32))
    state = jd.training.fit(
        model, [batch] * 60, 60, progress=False,
        optimizer=jd.training.Optimizer(learning_rate=2e-2, warmup_steps=1),
    )  # fmt: skip
    sampling = Sampling(clip=True, chunk=8)
    some = jax.tree.map(lambda a: a[:8], given)
    drawn = generate(model, state.params, sampling, some, 0)
    assert (np.sign(drawn.mean(axis=(1, 2, 3))) == signs[:8]).all()
    flipped = some._replace(text=-some.text)
    drawn = generate(model, state.params, sampling, flipped, 0)
    assert (np.sign(drawn.mean(axis=(1, 2, 3))) == -signs[:8]).all()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (jd.Condition(labels=np.zeros(NUM, int)), r"^labels must be None, because the"),
        (condition(0)._replace(text=np.zeros((NUM, 5))), r"^text must be \[bat"),
        (
            condition(0)._replace(mask=np.ones((NUM, 2), bool)),
            r"^mask must have the sh",
        ),
        (condition(0)._replace(text=None), r"^mask must have the shape of"),
        (
            condition(0)._replace(vector=np.zeros((2, 6))),
            r"one length, got text 4, mas",
        ),
    ],
)
def test_wrong_conditions_name_the_part(model, params, given, match):
    for call in (
        lambda: model.denoiser(params, given),
        lambda: generate(model, params, Sampling(), given, 0, num=NUM),
        lambda: jd.loss_fn(
            params, model.network, SCHEDULE,
            jd.Batch(jnp.zeros((NUM, 4, 4, 1)), given, np.arange(NUM)), rng.key(0),
        ),
    ):  # fmt: skip
        with pytest.raises(jd.InputError, match=match):
            call()


def test_networks_of_labels_refuse_other_parts():
    for network in (
        ConvNet(num_classes=2),
        jd.UNetConfig(channels=4, multipliers=(1,), blocks=1).build(1, 2),
    ):
        given = jd.Condition(labels=np.zeros(2, int), vector=np.zeros((2, 3)))
        with pytest.raises(jd.InputError, match=r"^vector must be None, because the"):
            jd.bind(network, {}, given)
    with pytest.raises(jd.InputError, match=r"^vector of base must have the shape"):
        jd.classifier_free_guidance(
            jd.bind(network, {}, np.zeros(2, int)), 2.0,
            base=jd.Condition(vector=np.zeros((2, 3))),
        )  # fmt: skip


def test_labels_are_a_condition_wherever_they_were_taken():
    labels = np.array([1, 0])
    images = jnp.zeros((2, 4, 4, 1))
    batches = [
        jd.Batch(images, labels, np.arange(2)),
        jd.Batch(images=images, labels=labels, indices=np.arange(2)),
        jd.Batch(images, jd.Condition(labels=labels), np.arange(2)),
    ]
    network = ConvNet(num_classes=2)
    params = jd.Model(network, SCHEDULE, jd.predictions.Eps(), (4, 4, 1), 2).init(0)
    losses = [
        jd.loss_fn(params, network, SCHEDULE, batch, rng.key(0))[0] for batch in batches
    ]
    assert losses[0] == losses[1] == losses[2]
    for batch in batches:
        np.testing.assert_array_equal(batch.labels, labels)
        again = jax.tree.unflatten(*reversed(jax.tree.flatten(batch)))
        assert isinstance(again, jd.Batch)
    found = [
        jd.bind(network, params, labels), jd.bind(network, params, labels=labels),
        jd.bind(network, params, jd.Condition(labels=labels)),
    ]  # fmt: skip
    results = [denoiser(images, LEVEL).eps for denoiser in found]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert dataclasses.replace(found[0], condition=jd.Condition())
