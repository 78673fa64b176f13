"""unCLIP of one's own: prior and decoder of towers, from training to pictures."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli.program import jaxdiff
from jaxdiff.conditioning.image_condition import ImageVector
from jaxdiff.data import ImageFolder, from_arrays, to_float, to_uint8
from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNetConfig, TextTransformerConfig, UNetConfig
from jaxdiff.networks.prior import PriorConfig
from jaxdiff.networks.text_transformer import NoText
from jaxdiff.networks.towers import TowersConfig
from jaxdiff.runs.own_unclip import load_prior
from jaxdiff.runs.towers import load_towers
from jaxdiff.runs.trainer import Trainer
from jaxdiff.samplers import DDIM, Trailing
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.training.towers_experiment import TowersExperiment
from jaxdiff.typing import Condition
from tests.helpers.long_parameters import long_where
from tests.helpers.runs import same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
FEATURES = 8
TEXT = TextTransformerConfig(vocabulary=280, length=8, width=12, layers=1, heads=2)
UPKEEP = Upkeep(log_every=2, checkpoint_every=2, tensorboard=False)
SAMPLING = Sampling(sampler=DDIM(spacing=Trailing(num_steps=2)), guidance=2.0, chunk=8)
SHADES = {"red": (255, 0, 0), "green": (0, 255, 0), "white": (255, 255, 255)}
NETWORK = CrossAttentionUNetConfig(
    widths=(8, 8), blocks=(1, 1), down=("plain", "transformer"),
    up=("plain", "transformer"), heads=(1, 2), layers=(1, 1), groups=4,
    text_only=(False, False), text=NoText(), text_channels=None,
    class_embedding="linear", vector_channels=FEATURES,
)  # fmt: skip


@pytest.fixture(scope="module")
def with_towers(tmp_path_factory):
    """Pictures of a colour with captions, and towers of them."""
    folder = tmp_path_factory.mktemp("unclip")
    (folder / "pictures").mkdir()
    for i in range(24):
        name = list(SHADES)[i % 3]
        pixels = np.zeros((8, 8, 3), np.uint8) + np.array(SHADES[name], np.uint8)
        pixels[0, 0] = i
        path = folder / "pictures" / f"{i:02}.png"
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(f"a {name} square")
    data = ImageFolder(
        path=str(folder / "pictures"),
        size=8,
        captions="files",
        held_out=0.25,
        flip=False,
    )
    trained(folder / "towers", towers(data))
    return folder, data


@pytest.fixture(scope="module")
def with_prior(with_towers):
    """These, and a prior."""
    folder, data = with_towers
    trained(folder / "prior", prior(data, folder / "towers"))
    return folder, data


@pytest.fixture(scope="module")
def made(with_prior):
    """These, and a decoder."""
    folder, data = with_prior
    trained(folder / "decoder", decoder(data, folder / "towers"))
    return folder, data


def towers(data, seed=0):
    return TowersExperiment(
        data=data, towers=TowersConfig(features=FEATURES, channels=2, text=TEXT),
        optimizer=Optimizer(learning_rate=0.03, warmup_steps=2),
        training=Training(num_steps=4, batch_size=16, ema_decay=0.5),
        upkeep=UPKEEP, seed=seed,
    )  # fmt: skip


def prior(data, path, steps=4):
    return PriorExperiment(
        data=data, towers=str(path),
        network=PriorConfig(width=16, heads=2, layers=1),
        training=Training(num_steps=steps, batch_size=16, ema_decay=0.5),
        upkeep=UPKEEP, sampling=SAMPLING,
    )  # fmt: skip


def decoder(data, path, **changes):
    options = {
        "data": data, "condition": ImageVector(towers=str(path)), "network": NETWORK,
        "training": Training(num_steps=4, batch_size=16, ema_decay=0.5),
        "upkeep": UPKEEP, "sampling": SAMPLING, "caption_dropout": 0.3,
    }  # fmt: skip
    return Experiment(**{**options, **changes})


def test_a_decoder_is_given_the_vector_of_each_image_or_none(with_towers):
    folder, data = with_towers
    trainer = Trainer.of(decoder(data, folder / "towers"))
    known, dropped = load_towers(folder / "towers"), 0
    for step in range(4):
        batch = trainer.batch(step)
        vectors = known.images(np.asarray(batch.images)) * np.sqrt(FEATURES)
        given = Condition.of(batch.condition).vector
        absent = ~given.any(axis=1)
        dropped += absent.sum()
        np.testing.assert_allclose(given[~absent], vectors[~absent], atol=1e-5)
    assert 0.1 < dropped / 64 < 0.5


def test_a_prior_is_trained_on_the_vectors_given_the_captions(with_towers):
    folder, data = with_towers
    trainer = Trainer.of(prior(data, folder / "towers"))
    known, dataset = load_towers(folder / "towers"), data.load("train")
    batch = trainer.batch(0)
    places = dataset.examples(0, 0, 16)
    vectors = known.images(dataset.images[places]) * np.sqrt(FEATURES)
    np.testing.assert_allclose(batch.images[:, 0, 0], vectors, atol=1e-5)
    texts = [dataset.captions[place][0] for place in places]
    whole, none = (known.texts(one) * np.sqrt(FEATURES) for one in (texts, [""]))
    given = Condition.of(batch.condition).vector
    is_none = np.abs(given - none).max(axis=1) < 1e-5
    assert is_none.any()
    assert not is_none.all()
    np.testing.assert_allclose(given[~is_none], whole[~is_none], atol=1e-5)
    tokens = known.text_encoder(texts)
    np.testing.assert_allclose(
        Condition.of(batch.condition).text[~is_none],
        np.asarray(tokens.text)[~is_none],
        atol=2e-3,
    )
    assert isinstance(trainer.experiment, PriorExperiment)
    assert trainer.experiment.network.text_features == TEXT.width


@pytest.mark.parametrize(
    "kind", ["prior", pytest.param("decoder", marks=pytest.mark.long)]
)
def test_a_resumed_training_gives_the_same_bits(request, tmp_path, kind):
    wanted = "with_prior" if kind == "prior" else "made"
    folder, data = request.getfixturevalue(wanted)
    make: Any = prior if kind == "prior" else decoder
    experiment = make(data, folder / "towers")
    trained(tmp_path / "run", experiment, until=2)
    again = trained(tmp_path / "run", experiment)
    assert same_bits(again, trained(folder / kind, experiment))
    moved = tmp_path / "moved"
    (folder / "towers").rename(moved)
    try:
        same = trained(tmp_path / "run", make(data, moved))
    finally:
        moved.rename(folder / "towers")
    assert same_bits(again, same)


@pytest.mark.long
def test_vectors_of_prompts_and_pictures_become_images(made):
    folder, _ = made
    run = jd.load(folder / "decoder").with_prior(folder / "prior")
    texts = ["a red square", "a green square", "a white square"]
    seeds = np.arange(3)
    vectors = run.unclip.draw(texts, seeds)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    alone = run.unclip.draw(texts[1:2], seeds[1:2], indices=np.array([1]))
    np.testing.assert_allclose(alone[0], vectors[1], atol=1e-5)
    other = run.unclip.draw(["a white square"], seeds[1:2], indices=np.array([1]))
    assert np.abs(other - alone).max() > 1e-4
    condition, base = run.unclip.condition(vectors)
    assert not np.any(base.vector)
    # Its last layer begins at zero, and would hide the condition.
    keys = np.random.default_rng(0)
    params = jax.tree.map(lambda a: a + 0.1 * keys.normal(size=a.shape), run.params)
    params = jax.tree.map(lambda a: a.astype(np.float32), params)
    run = dataclasses.replace(run, params=params)
    images = run.generate(condition, 3, seeds, base=base)
    assert images.shape == (3, 8, 8, 3)
    unguided = dataclasses.replace(SAMPLING, guidance=1.0)
    plain = run.generate(condition, 3, seeds, base=base, sampling=unguided)
    assert np.abs(plain - images).max() > 1e-4
    picture = np.asarray(Image.open(folder / "pictures/00.png"))
    known = load_towers(folder / "towers").images(picture[None])
    found = run.unclip.encode([to_float(picture)])
    np.testing.assert_allclose(found, known, atol=1e-6)


WORDS = {
    "prompts": ["--prior", "PRIOR", "--prompt", "a red square", "a white square"],
    "guidance": ["--prior", "PRIOR", "--prompt", "a red square", "--num", "2",
                 "--prior-guidance", "1"],
    "blend": ["--prior", "PRIOR", "--blend", "a red square", "PICTURE",
              "--columns", "2"],
    "variations": ["--like", "PICTURE", "--num", "2"],
    "difference": ["--like", "PICTURE", "--from", "a red square", "--to",
                   "a white square", "--columns", "2"],
}  # fmt: skip


@pytest.mark.parametrize("name", long_where(lambda name: name != "prompts", WORDS))
def test_sample_draws_prompts_variations_blends_and_differences(made, tmp_path, name):
    (folder, _), words = made, WORDS[name]
    places = {"PRIOR": folder / "prior", "PICTURE": tmp_path / "large.png"}
    Image.fromarray(np.full((20, 16, 3), 200, np.uint8)).save(places["PICTURE"])
    given = [str(places.get(word, word)) for word in words]
    out = tmp_path / "out"
    jaxdiff(["sample", "--workdir", str(folder / "decoder"), *given, "--out", str(out)])
    with np.load(out / "samples.npz") as found:
        images, prompts = found["images"], found["prompts"]
    assert len(images) == len(prompts) == 2
    run = jd.load(folder / "decoder").with_prior(folder / "prior")
    if "a white square" in words and "--prompt" in words:
        vectors = run.unclip.draw(words[-2:], np.arange(2), indices=np.zeros(2, int))
        condition, base = run.unclip.condition(vectors)
        drawn = run.generate(
            condition, 2, np.arange(2), base=base, indices=np.zeros(2, int)
        )
        np.testing.assert_array_equal(images, to_uint8(drawn))


@pytest.mark.long
def test_evaluate_measures_prompts_and_variations(made, tmp_path, capsys):
    folder, _ = made
    jaxdiff([
        "evaluate", "--workdir", str(folder / "decoder"), "--prior",
        str(folder / "prior"), "--samples", "4", "--towers", str(folder / "towers"),
        "--reader-steps", "0",
    ])  # fmt: skip
    shown = capsys.readouterr().out
    for name in ("seen", "held out", "seen, variations", "held out, variations"):
        assert f"{name}; towers" in shown
    assert (folder / "decoder/prompts.png").exists()


@pytest.mark.long
def test_changed_towers_are_refused(made, tmp_path):
    folder, data = made
    trained(tmp_path / "towers", towers(data, seed=1))
    with pytest.raises(InputError, match=r"info\.base"):
        trained(folder / "decoder", decoder(data, tmp_path / "towers"))
    trained(tmp_path / "prior", prior(data, tmp_path / "towers", steps=2))
    run = jd.load(folder / "decoder").with_prior(tmp_path / "prior")
    with pytest.raises(InputError, match="prior must be trained with the towers"):
        _ = run.unclip
    other = decoder(data, tmp_path / "towers")
    run = dataclasses.replace(jd.load(folder / "decoder"), experiment=other)
    with pytest.raises(InputError, match="must hold the towers that the run was"):
        _ = run.unclip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": UNetConfig(channels=8, multipliers=(1,))},
         "must take a vector and no text for the condition image-vector"),
        ({"network": dataclasses.replace(NETWORK, vector_channels=4)},
         "network.vector_channels must be 8, the features of the towers, got 4"),
        ({"condition": ImageVector()}, "condition.towers must name the run folder"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(with_towers, changes, message):
    folder, data = with_towers
    with pytest.raises(InputError, match=message):
        Trainer.of(decoder(data, folder / "towers", **changes))


def test_flips_captions_and_sizes_that_do_not_fit_are_refused(made):
    folder, data = made
    path = folder / "towers"
    with pytest.raises(InputError, match=r"flip must be False, .* Set --data\.no-flip"):
        Trainer.of(decoder(dataclasses.replace(data, flip=True), path))
    with pytest.raises(InputError, match="must have the towers' shape"):
        Trainer.of(decoder(dataclasses.replace(data, size=16), path))
    silent = from_arrays(np.zeros((16, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="must have captions for a prior, got none"):
        Trainer.of(prior(data, path), silent)
    run = jd.load(folder / "decoder")
    with pytest.raises(InputError, match="prior must name the run of a prior"):
        run.unclip.draw(["a"], 0)
    with pytest.raises(InputError, match="noise_level must not be given"):
        run.unclip.condition(np.ones((1, FEATURES)), noise_level=3)
    with pytest.raises(InputError, match="must be the run of a prior, got one of a d"):
        load_prior(folder / "decoder")
