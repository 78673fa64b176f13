"""Pipelines of unCLIP draw the images of diffusers, from the same noise.

Every parameter is random. diffusers gets our noise in place of its own.
"""

import dataclasses
import inspect

import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import cli
from jaxdiff.cli import program
from jaxdiff.pretrained import write_run
from jaxdiff.runs.clip_images import ImageProcessor
from jaxdiff.runs.unclip import turned
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.pytorch import torch
from tests.helpers.text_pipelines import alone
from tests.helpers.unclip_pipelines import DEPRECATED, Given, make, noise_of

PROMPTS = ["a cat in a photo", "the frog!!"]
SEEDS = np.array([5, 6])
STEPS = {"prior": 3, "decoder": 4, "enlarge": 4}
CLOSE = 1e-3
"""Largest difference of images in [0, 1]."""


def inject(monkeypatch, name, *stages):
    given = Given(*(noise_of(stage, SEEDS, STEPS[stage]) for stage in stages))
    for module in (f"{DEPRECATED}.{name}", "diffusers.schedulers.scheduling_unclip"):
        monkeypatch.setattr(f"{module}.randn_tensor", given)
    return given


def with_steps(sampling, steps, guidance=None):
    sampler = sampling.sampler
    spacing = dataclasses.replace(sampler.spacing, num_steps=steps)
    sampling = dataclasses.replace(
        sampling, sampler=dataclasses.replace(sampler, spacing=spacing)
    )
    return sampling if guidance is None else dataclasses.replace(
        sampling, guidance=guidance
    )  # fmt: skip


def drawn_from(run, vectors, prompts, guidance):
    """Returns our images in [0, 1] of vectors of images."""
    unclip, zeros = run.unclip, np.zeros(2, int)
    condition, base = unclip.condition(vectors, prompts)
    sampling = with_steps(run.experiment.sampling, STEPS["decoder"], guidance)
    small = run.generate(
        condition, 2, SEEDS, base=base, sampling=sampling, indices=zeros
    )
    last = with_steps(unclip.enlargement.sampling, STEPS["enlarge"])
    large = unclip.enlarge(small, SEEDS, sampling=last, indices=zeros)
    return large / 2 + 0.5


def drawn(run, guidances):
    """Returns our images in [0, 1] of the prompts."""
    sampling = with_steps(run.unclip.prior.sampling, STEPS["prior"], guidances[0])
    vectors = run.unclip.draw(
        PROMPTS, SEEDS, sampling=sampling, indices=np.zeros(2, int)
    )
    return drawn_from(run, vectors, PROMPTS, guidances[1])


def theirs(pipeline, guidances):
    steps = {f"{name}_num_inference_steps": n for name, n in STEPS.items()}
    steps["super_res_num_inference_steps"] = steps.pop("enlarge_num_inference_steps")
    with torch.no_grad():
        return pipeline(
            PROMPTS, prior_guidance_scale=guidances[0],
            decoder_guidance_scale=guidances[1], output_type="np", **steps,
        ).images  # fmt: skip


def check_images(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.1
    assert np.abs(theirs[0] - theirs[1]).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)


@pytest.fixture(scope="module")
def made(clip, tmp_path_factory):
    """Folder of a pipeline of prompts, and the pipeline."""
    folder = tmp_path_factory.mktemp("unclip") / "theirs"
    return folder, make(folder, clip)


@pytest.fixture(scope="module")
def run(made):
    return alone(jd.from_diffusers(made[0]))


def test_a_prompt_is_drawn_as_theirs(monkeypatch, made, run):
    given = inject(monkeypatch, "pipeline_unclip", "prior", "decoder", "enlarge")
    check_images(drawn(run, (4.0, 8.0)), theirs(made[1], (4.0, 8.0)))
    assert not given.left
    assert run.unclip.prior.sampling.guidance == 4
    assert run.experiment.sampling.guidance == 8


@pytest.mark.long
@pytest.mark.parametrize("guidances", [(1.0, 1.0), (1.0, 3.0), (6.0, 1.0)])
def test_every_guidance_is_theirs(monkeypatch, made, run, guidances):
    inject(monkeypatch, "pipeline_unclip", "prior", "decoder", "enlarge")
    check_images(drawn(run, guidances), theirs(made[1], guidances))


def test_a_run_folder_has_all_stages(made, run, tmp_path):
    write_run(run, tmp_path / "run")
    again = alone(jd.load(tmp_path / "run"))
    assert again.parts is not None
    assert run.parts is not None
    assert again.parts.info.unclip == run.parts.info.unclip
    one, two = (r.unclip.draw("a cat", 3, sampling=with_steps(
        r.unclip.prior.sampling, 3
    )) for r in (run, again))  # fmt: skip
    np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two picture files, of other sizes than the image encoder's."""
    folder = tmp_path_factory.mktemp("pictures")
    colours, shapes = [(240, 30, 20), (30, 100, 240)], [(20, 16), (12, 30)]
    for i, (colour, shape) in enumerate(zip(colours, shapes, strict=True)):
        noise = np.random.default_rng(i).integers(-60, 60, (4, 4, 3))
        pixels = np.clip(np.array(colour)[None, None] + noise, 0, 255)
        image = Image.fromarray(pixels.astype(np.uint8))
        image = image.resize(shape, Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.png")
    return [folder / "0.png", folder / "1.png"]


@pytest.fixture(scope="module")
def varied(clip, tmp_path_factory):
    """Folder of a pipeline of image variations, and the pipeline."""
    folder = tmp_path_factory.mktemp("variations") / "theirs"
    return folder, make(folder, clip, variation=True)


@pytest.fixture(scope="module")
def varied_run(varied):
    return alone(jd.from_diffusers(varied[0]))


def pixels_of(path):
    return jd.data.image_files.read_image(path, None, 3) / np.float32(127.5) - 1


def test_variations_are_drawn_as_theirs(monkeypatch, varied, varied_run, pictures):
    pipeline = varied[1]
    images = [Image.open(path) for path in pictures]
    prepared = pipeline.feature_extractor(images=images, return_tensors="pt")
    ours = [ImageProcessor(12)(pixels_of(path)) for path in pictures]
    for mine, known in zip(ours, prepared.pixel_values, strict=True):
        # Their filter rounds to whole numbers, one of 255 apart from ours.
        np.testing.assert_allclose(mine, known.permute(1, 2, 0), atol=0.021)
    vectors = varied_run.unclip.encode([pixels_of(path) for path in pictures])
    with torch.no_grad():
        known = pipeline.image_encoder(torch.from_numpy(
            np.stack(ours).transpose(0, 3, 1, 2)
        )).image_embeds.numpy()  # fmt: skip
    np.testing.assert_allclose(vectors, known, atol=1e-5 * np.abs(known).max())
    inject(monkeypatch, "pipeline_unclip_image_variation", "decoder", "enlarge")
    with torch.no_grad():
        found = pipeline(
            image_embeddings=torch.from_numpy(np.array(vectors)),
            decoder_guidance_scale=8.0,
            decoder_num_inference_steps=STEPS["decoder"], output_type="np",
            super_res_num_inference_steps=STEPS["enlarge"],
        ).images  # fmt: skip
    check_images(drawn_from(varied_run, vectors, "", 8.0), found)


def command(monkeypatch, capsys, run, words):
    monkeypatch.setattr(cli.command, "load", lambda *_, **__: run)
    line = ["sample", "--workdir", "run", *words]
    monkeypatch.setattr("sys.argv", ["jaxdiff", *line])
    program.jaxdiff(line)
    return capsys.readouterr().out


FEW = ["--steps", "4", "--enlarge-steps", "4"]


def test_a_command_draws_the_whole_cascade(monkeypatch, capsys, run, tmp_path):
    words = ["--prior-steps", "3", "--prior-guidance", "4", "--seed", "5", *FEW]
    command(monkeypatch, capsys, run, [
        "--prompt", *PROMPTS, *words, "--out", str(tmp_path / "a.npz")
    ])  # fmt: skip
    with np.load(tmp_path / "a.npz") as file:
        images = file["images"].astype(int)
        assert file["prompts"].tolist() == PROMPTS
    expected = jd.data.to_uint8(2 * drawn(run, (4.0, 8.0)) - 1).astype(int)
    assert np.abs(images - expected).max() <= 1


@pytest.mark.long
def test_pictures_are_varied_blended_and_changed(
    monkeypatch, capsys, varied_run, pictures, tmp_path
):
    first, second = map(str, pictures)

    def images(*words):
        command(monkeypatch, capsys, varied_run, [
            *words, "--seed", "5", *FEW, "--out", str(tmp_path / "a.npz")
        ])  # fmt: skip
        with np.load(tmp_path / "a.npz") as file:
            return file["images"].astype(int)

    one, other = images("--like", first)[0], images("--like", second)[0]
    pair = images("--like", first, "--num", "2")
    assert np.abs(pair[0] - one).max() <= 1
    assert np.abs(pair[1] - one).max() > 20  # another seed
    row = images("--blend", first, second, "--columns", "3")
    assert np.abs(row[0] - one).max() <= 1
    assert np.abs(row[2] - other).max() <= 1
    assert min(np.abs(row[1] - end).max() for end in (one, other)) > 2
    row = images("--like", first, "--from", "a cat", "--to", "a frog", "--num", "2")
    assert np.abs(row[0] - one).max() <= 1
    assert np.abs(row[1] - one).max() > 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--from", "a", "--like", "0.png"], "from and to must be given together with"),
        (["--like", "0.png", "--prompt", "a"], "like must not be given together with"),
        (
            ["--prompt", "a", "--size", "8", "8"],
            "size must be None for a model that en",
        ),
        (["--prompt", "a", "--image", "0.png"], "image must not be given for a model "),
        (
            ["--prompt", "a", "--noise-level", "3"],
            "noise_level must be 0 for a model wh",
        ),
        (
            ["--like", "0.png"],
            "the model must have an image encoder for pictures, got ",
        ),
        (["--prompt", "a", "--prior-steps", "1"], "prior_steps must be at least 2"),
    ],
)
def test_a_wrong_command_is_one_line(monkeypatch, capsys, run, pictures, words, line):
    monkeypatch.chdir(pictures[0].parent)
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, capsys, run, [*words, *FEW])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_a_vector_is_turned_to_a_difference():
    vectors = np.array([[3.0, 0.0], [0.0, 2.0]])
    first, second = np.array([[1.0, 1.0]] * 2), np.array([[1.0, 4.0], [1.0, 1.0]])
    found = turned(vectors, first, second, 1 / 3)
    np.testing.assert_allclose(found, [[3 * np.cos(np.pi / 6), 1.5], [0, 2]], atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["made", pytest.param("varied", marks=pytest.mark.long)]
)
def test_theirs_load_an_export_with_the_same_bits(request, kind, tmp_path):
    pipeline = request.getfixturevalue(kind)[1]
    run = request.getfixturevalue({"made": "run", "varied": "varied_run"}[kind])
    write_run(run, tmp_path / "run", link=True)
    call = jd.to_diffusers(tmp_path / "run", tmp_path / "ours")
    known = {
        "prior_num_inference_steps": 25, "decoder_num_inference_steps": 25,
        "super_res_num_inference_steps": 7, "prior_guidance_scale": 4.0,
        "decoder_guidance_scale": 8.0,
    }  # fmt: skip
    own = kind == "made"
    assert call == {k: v for k, v in known.items() if own or "prior" not in k}
    again = type(pipeline).from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    assert again.components.keys() == pipeline.components.keys()
    for name, part in pipeline.components.items():
        other = again.components[name]
        if hasattr(part, "state_dict"):
            for key, tensor in part.state_dict().items():
                assert torch.equal(other.state_dict()[key], tensor), (name, key)
        elif name.endswith("scheduler"):
            for key in inspect.signature(type(part)).parameters:
                assert other.config[key] == part.config[key], (name, key)
    assert again.tokenizer("a cat").input_ids == pipeline.tokenizer("a cat").input_ids
