"""Latents made before training, and adapters of a model of text and latents."""

import dataclasses
import importlib
import json
import shutil
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.adapters import merged
from jaxdiff.cli import program
from jaxdiff.data import Latents, batch, from_arrays, to_float
from jaxdiff.data.dataset import EmptySplit
from jaxdiff.errors import InputError
from jaxdiff.networks import DiTConfig, TextTransformerConfig
from jaxdiff.pretrained import from_diffusers, write_run
from jaxdiff.runs import encode as encoding
from jaxdiff.runs import parts as parts_of_runs
from jaxdiff.runs.encode import encode as encode_data
from jaxdiff.runs.fine_tune import with_model_of
from jaxdiff.runs.load import load as load_run
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.adapter import LowRank
from jaxdiff.training.experiment import Experiment, Training, Upkeep
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.runs import same_bits
from tests.helpers.text_pipelines import made_here

pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.filterwarnings("ignore:left out", "ignore:the licence", "ignore:cut 1"),
]
CAPTIONS = (["a cat", "cat"], [""], "a frog", "frog " * 60)


def load(workdir) -> Any:
    return load_run(workdir)


def read_parts(workdir) -> Any:
    return parts_of_runs.read_parts(workdir)


def encode(data: Any, *args, **options) -> Any:
    return encode_data(data, *args, **options)


def latents(folder, split="train", **options) -> Any:
    """Loads the latents in a folder."""
    return Latents(path=str(folder), **options).load(split)


@dataclass(frozen=True)
class Pictures:
    """Data of 14 captioned images, 4 of them held out."""

    size: int = 8
    flip: bool = False

    def load(self, split="train"):
        count = {"train": 10, "test": 4}[split]
        rng = np.random.default_rng(count)
        shape = (count, self.size, self.size, 3)
        images = rng.integers(0, 256, shape).astype(np.uint8)
        return from_arrays(images, captions=[CAPTIONS[i % 4] for i in range(count)])


@dataclass(frozen=True)
class Unsplit(Pictures):
    def load(self, split="train"):
        if split == "test":
            raise EmptySplit("none")
        return super().load(split)


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """Folder of an imported run, run, and of latents by its parts, latents."""
    folder = tmp_path_factory.mktemp("latents")
    made_here(folder / "theirs", clip)
    with pytest.warns(UserWarning, match="left out|the licence"):
        run = from_diffusers(folder / "theirs", num_steps=3)
    write_run(run, folder / "run")
    encode(Pictures(), read_parts(folder / "run"), folder / "latents", flip=True)
    return folder


def contents(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_latents_are_the_moments_of_the_images(folder):
    run = load(folder / "run")
    for split in ("train", "test"):
        pictures = Pictures().load(split)
        found = latents(folder / "latents", split)
        assert len(found) == len(pictures)
        assert found.image_shape == (4, 4, 4)
        assert found.captions == pictures.captions
        mirror = np.asarray(pictures.images)[:, :, ::-1]
        for rows, images in (
            (found.images, np.asarray(pictures.images)),
            (found.moments.mirrored, mirror),
        ):
            moments = run.parts.autoencoder.moments(jnp.asarray(to_float(images)))
            wanted = np.concatenate(moments, -1)
            np.testing.assert_allclose(rows, wanted, rtol=2e-3, atol=1e-4)


def test_texts_are_the_conditions_of_the_captions(folder):
    run = load(folder / "run")
    found = latents(folder / "latents")
    condition = run.text(["a cat"])
    for i, texts in enumerate(found.captions):
        first, end = found.texts.first[i : i + 2]
        got = found.texts.of(found.texts.numbers[first:end]).text
        for one, text in zip(got, texts, strict=True):
            wanted = run.parts.prompts(text, (8, 8), quiet=True).text[0]
            np.testing.assert_allclose(one, wanted, rtol=2e-3, atol=2e-3)
    nothing = found.texts.of(np.zeros(1, int)).text
    np.testing.assert_allclose(
        nothing, run.negative(condition).text, rtol=2e-3, atol=2e-3
    )


@pytest.fixture(scope="module")
def untold(folder):
    """Folder of latents by the autoencoder alone, which keep their captions."""
    parts = parts_of_runs.parts_of_model(folder / "theirs/vae")
    encode(Pictures(), parts, folder / "untold")
    return folder / "untold"


OWN = DiTConfig(
    width=8, depth=1, heads=1,
    text=TextTransformerConfig(vocabulary=280, length=12, width=8, layers=0, heads=1),
)  # fmt: skip


def of_untold(untold) -> Experiment:
    """Returns an experiment on latents with a text encoder inside the network."""
    return Experiment(
        data=Latents(path=str(untold)),
        network=OWN,
        training=Training(num_steps=2, batch_size=8, ema_decay=0.5),
        upkeep=Upkeep(tensorboard=False, sample_every=2, sample_steps=2),
    )


def test_captions_stay_without_text_encoders(untold):
    found = latents(untold)
    assert found.captions == Pictures().load().captions
    assert found.texts is None
    assert latents(untold, "test").captions == Pictures().load("test").captions
    trainer: Any = Trainer.of(of_untold(untold))
    drawn = trainer.batch(0)
    assert drawn.deviation is not None
    texts = [
        trainer.tokenizer.decode(ids[mask]).strip()
        for ids, mask in zip(drawn.condition.tokens, drawn.condition.mask, strict=True)
    ]
    known = {"a cat", "cat", "", "a frog", ("frog " * 11).strip()}
    assert {*texts} <= known
    assert len({*texts}) > 2
    encoded = Latents(path=str(untold.parent / "latents"))
    with pytest.raises(
        InputError, match=r"network\.text must be none for data with en"
    ):
        Trainer.of(replace(of_untold(untold), data=encoded))


@pytest.mark.long
def test_a_text_encoder_is_trained_on_latents(untold, tmp_path):
    jd.train(of_untold(untold), tmp_path / "run", progress=False)
    run = load(tmp_path / "run")
    assert run.image_size == (8, 8)
    images = run.decode(run.generate(run.text(["a cat", "cat"]), 2, 0))
    assert images.shape == (2, 8, 8, 3)
    assert (tmp_path / "run/grids/step_00000002.png").stat().st_size > 500
    out = tmp_path / "cat.png"
    program.jaxdiff(
        ["sample", "--workdir", str(tmp_path / "run"), "--prompt", "a cat",
         "--sampler", "ddim", "--steps", "2", "--guidance", "3", "--out", str(out)]
    )  # fmt: skip
    assert out.exists()


def test_the_statistics_are_those_of_drawn_latents(folder):
    info = json.loads((folder / "latents/latents.json").read_text())
    dataset = latents(folder / "latents")
    found = np.asarray(dataset.images, np.float64)
    mean, deviation = found[..., :4], found[..., 4:]
    noise = np.random.default_rng(0).standard_normal((4000, *mean.shape[1:]))
    rows = np.arange(4000) % len(mean)
    drawn = (mean[rows] + deviation[rows] * noise).reshape(-1, 4)
    np.testing.assert_allclose(info["mean"], drawn.mean(0), atol=0.02)
    np.testing.assert_allclose(info["std"], drawn.std(0), rtol=0.02)


def test_another_number_of_devices_and_a_stop_leave_the_bytes(
    folder, tmp_path, monkeypatch
):
    parts = read_parts(folder / "run")
    monkeypatch.setattr(encoding, "SHARD", 4)
    monkeypatch.setattr("jaxdiff.runs.encoding.SHARD", 4)
    monkeypatch.setattr("jaxdiff.data.latents.SHARD", 4)

    def stop(work, total):
        def at(done):
            if done == 6:
                raise KeyboardInterrupt

        return at

    with pytest.raises(KeyboardInterrupt):
        encode(Pictures(), parts, tmp_path / "stopped", start=stop)
    there = contents(tmp_path / "stopped")
    assert "train/latents-00000-of-00003.array_record" in there
    assert "train/latents-00001-of-00003.array_record" not in there
    with pytest.raises(InputError, match=r"there are no latents in .* repeat"):
        latents(tmp_path / "stopped")
    with pytest.raises(InputError, match=r"latents of other options .*batch: 8, not 2"):
        encode(Pictures(), parts, tmp_path / "stopped", batch=2)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    encode(Pictures(), parts, tmp_path / "stopped")
    monkeypatch.undo()
    for name in (encoding, "jaxdiff.runs.encoding", "jaxdiff.data.latents"):
        target = f"{name}.SHARD" if isinstance(name, str) else (name, "SHARD")
        monkeypatch.setattr(*(target if isinstance(target, tuple) else (target,)), 4)
    encode(Pictures(), parts, tmp_path / "whole")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    again = encode(Pictures(), parts, tmp_path / "whole")
    assert again.sizes == {"train": 10, "test": 4}


def test_a_batch_has_the_rows_of_its_images(folder):
    dataset = latents(folder / "latents", flip=True)
    rows = [np.asarray(dataset.images), np.asarray(dataset.moments.mirrored)]
    found, mirrored, none = [], 0, 0
    for step in range(40):
        got: Any = batch(dataset, 3, step, 10, flip=True, drop=0.25)
        chosen = jd.data.examples(10, 3, step, 10)
        both = np.concatenate([got.images, got.deviation], -1)
        is_plain = [
            np.array_equal(a, rows[0][i]) for a, i in zip(both, chosen, strict=True)
        ]
        is_mirror = [
            np.array_equal(a, rows[1][i]) for a, i in zip(both, chosen, strict=True)
        ]
        assert np.logical_xor(is_plain, is_mirror).all()
        mirrored += sum(is_mirror)
        nothing = dataset.texts.of(np.zeros(1, int)).text
        has_text = [bool(dataset.captions[i] != ("",)) for i in chosen]
        dropped = (got.condition.text == nothing).all(axis=(1, 2))
        assert dropped[~np.array(has_text)].all()
        none += dropped[has_text].sum()
        found.append(got)
    assert abs(mirrored / 400 - 0.5) < 0.1  # 4 standard errors
    texts = 40 * sum(text != ("",) for text in dataset.captions)
    assert abs(none / texts - 0.25) < 0.1
    again = batch(dataset, 3, 7, 10, flip=True, drop=0.25, rows=np.array([8, 2]))
    part = jax.tree.map(lambda a: a[[8, 2]], found[7])
    assert jax.tree.all(jax.tree.map(np.array_equal, again, part))


def test_mirrored_latents_must_be_there(folder, tmp_path):
    encode(Unsplit(), read_parts(folder / "run"), tmp_path / "plain")
    with pytest.raises(InputError, match=r"data\.flip must be False"):
        latents(tmp_path / "plain", flip=True)
    with pytest.raises(EmptySplit):
        latents(tmp_path / "plain", "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "latents.json").unlink(), "there are no latents"),
        (lambda f: (f / "captions.json").write_text("{}"), "must be the file that"),
        (
            lambda f: (f / "train/latents-00000-of-00001.array_record").unlink(),
            "must be a file of the latents, got none",
        ),
        (
            lambda f: (f / "train/latents-00000-of-00001.array_record").write_bytes(
                bytes(1000)
            ),
            "cannot be read",
        ),
    ],
)
def test_damaged_latents_are_told(folder, tmp_path, change, message):
    shutil.copytree(folder / "latents", tmp_path / "latents")
    change(tmp_path / "latents")
    with pytest.raises(InputError, match=message):
        latents(tmp_path / "latents")


def test_images_that_do_not_fit_are_told(folder, tmp_path):
    parts = read_parts(folder / "run")
    with pytest.raises(InputError, match=r"height must be a multiple of 2.*got 9"):
        encode(Pictures(size=9), parts, tmp_path / "odd")
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        encode(Pictures(), parts, tmp_path / "none", batch=0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(InputError, match="must be a new or empty folder"):
        encode(Pictures(), parts, tmp_path / "other")


@pytest.fixture(scope="module")
def experiment(folder):
    """Experiment that trains an adapter of the imported run on the latents."""
    start = Experiment(
        data=Latents(path=str(folder / "latents"), flip=True),
        init=str(folder / "run"),
        adapter=LowRank(rank=2),
        training=Training(num_steps=4, batch_size=2),
        parallel=jd.parallel.Pmap(num_devices=2),
        upkeep=Upkeep(log_every=2, checkpoint_every=2, tensorboard=False),
    )
    return with_model_of(start, folder / "run")


@pytest.fixture(scope="module")
def trained(folder, experiment):
    """Run folder of the adapter after all its steps, and the last state."""
    with jax.numpy_dtype_promotion("standard"):
        state = jd.train(experiment, folder / "lora", progress=False)
    return folder / "lora", jax.device_get(state)


@pytest.mark.long
def test_an_adapter_resumes_bit_for_bit(folder, experiment, trained, tmp_path):
    jd.train(experiment, tmp_path / "again", until=2, progress=False)
    state = jd.train(experiment, tmp_path / "again", progress=False)
    assert same_bits(jax.device_get(state), trained[1])


def test_training_changes_the_adapter_alone(folder, experiment, trained):
    workdir, state = trained
    base = load(folder / "run")
    assert same_bits(state.frozen, jax.device_get(base.params))
    factors = by_name(state.params)
    assert {name.rpartition("/")[2] for name in factors} == {"down", "up"}
    assert all(np.any(leaf != 0) for leaf in factors.values())
    size = sum(path.stat().st_size for path in (workdir / "checkpoints/4").rglob("*"))
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(base.params))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        stored = checkpoints.restore({"ema": state.ema}, 4, partial=True)
    assert same_bits(jax.device_get(stored["ema"]), state.ema)
    assert size < 4 * kept + 200_000, "the frozen parameters are not stored"


def test_the_loaded_run_has_the_adapter(folder, experiment, trained):
    workdir, state = trained
    run, base = load(workdir), load(folder / "run")
    assert same_bits(run.lora, experiment.adapter.lora(state.ema))
    assert same_bits(run.params, merged(base.params, run.lora))


def test_the_base_must_be_the_same(trained, monkeypatch):
    module = importlib.import_module("jaxdiff.runs.load")
    monkeypatch.setattr(module, "identity", lambda *_: "0 another")
    with pytest.raises(InputError, match="must be the one whose adapter this is"):
        load(trained[0])


def test_latents_of_other_parts_are_refused(folder, experiment, tmp_path):
    parts = read_parts(folder / "run")
    other = replace(parts.info, checksums={**parts.info.checksums, "vae/x": "0"})
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run/parts/parts.json"
    record = json.loads(path.read_text()) | {"checksums": other.checksums}
    path.write_text(json.dumps(record))
    changed = dataclasses.replace(experiment, init=str(tmp_path / "run"))
    with pytest.raises(InputError, match="got latents by others"):
        Trainer.of(changed)
    images = Pictures().load()
    with pytest.raises(InputError, match="data must be latents for the model"):
        Trainer.of(experiment, images)
    with pytest.raises(InputError, match="adapter must be none without init"):
        Trainer.of(dataclasses.replace(experiment, init=None))


def test_all_parameters_start_from_the_imported_ones(folder, experiment, tmp_path):
    whole = dataclasses.replace(experiment, adapter=Experiment().adapter)
    trainer = Trainer.of(whole)
    state = trainer.initial_state(Checkpoints(tmp_path / "none"), None)
    assert same_bits(jax.device_get(state.params), load(folder / "run").params)
    assert state.frozen == ()
