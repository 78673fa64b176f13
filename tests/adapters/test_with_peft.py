"""Models with LoRA and new tokens give the outputs of diffusers with peft."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxdiff as jd
from jaxdiff.adapters import LoRA, LoRALayer, merged, unmerged
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.components.component import read_component
from jaxdiff.components.lora_export import write_lora
from jaxdiff.components.lora_files import Adapters, read_lora
from jaxdiff.components.lora_names import names_of, original_blocks, targets_of
from jaxdiff.rng import key, step_noise
from jaxdiff.runs.adapt import networks_of_run
from tests.components.test_component import filled, nchw
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.lora import random_lora
from tests.helpers.pytorch import diffusers, peft, torch
from tests.helpers.text_pipelines import UNET, alone, make

CLOSE = 1e-5
"""Largest difference, as a share of the largest output."""
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:left out", "ignore:.*alpha_pattern"),
]
ALL = {"unet": "", "text_encoder": "fc|_proj/"}
SOME = {"unet": "to_[qv]|conv_1", "text_encoder": "[qv]_proj"}


class Pair:
    """U-Net and text encoder of a small pipeline, theirs and ours, on one input."""

    def __init__(self, folder: Any, clip: Any) -> None:
        self.folder = folder
        self.pipeline = make(folder, clip)
        self.networks = {
            name: read_component(folder / name) for name in ("unet", "text_encoder")
        }
        self.params = {n: c.params for n, c in self.networks.items()}
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
        self.text = rng.normal(size=(2, 5, 24)).astype(np.float32)
        self.t = np.array([3, 700])
        self.ids = rng.integers(0, 500, (2, 7))
        networks = [component.network for component in self.networks.values()]

        @jax.jit
        def ours(params: Any) -> Any:
            condition = jd.Condition(text=jnp.asarray(self.text))
            unet, text = params["unet"], params["text_encoder"]
            image = networks[0].apply({"params": unet}, self.x, self.t, condition)
            encoded = networks[1].apply({"params": text}, jnp.asarray(self.ids))
            return image, encoded.tokens

        self.ours = ours

    def check(self, params: Any, other: Any = None) -> Any:
        """Compares the outputs, and returns theirs; they differ from others."""
        with torch.no_grad():
            unet = self.pipeline.unet(
                nchw(self.x), torch.tensor(self.t), torch.tensor(self.text)
            ).sample
            encoded = self.pipeline.text_encoder(torch.tensor(self.ids))
        found = unet.numpy().transpose(0, 2, 3, 1), encoded.last_hidden_state.numpy()
        for ours, theirs in zip(self.ours(params), found, strict=True):
            limit = CLOSE * np.abs(theirs).max()
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
        if other is not None:
            for one, theirs in zip(other, found, strict=True):
                assert np.abs(one - theirs).max() > 1e-2 * np.abs(theirs).max()
        return found

    def adapter(self, patterns: Any, seed: int, alpha: float | None = None) -> Adapters:
        """Returns random adapters; with alpha, all layers have this one."""
        return Adapters(
            {
                name: one_alpha(random_lora(params, patterns[name], seed), alpha)
                for name, params in self.params.items()
            }
        )


def one_alpha(lora, alpha):
    """Returns an adapter with an alpha for all layers, or as it is for None."""
    return LoRA(
        {
            name: LoRALayer(
                layer.down, layer.up,
                layer.scale if alpha is None else jnp.float32(alpha / layer.rank),
            )
            for name, layer in lora.layers.items()
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory, clip):
    return Pair(tmp_path_factory.mktemp("peft"), clip)


def changed(params, adapters, scales, change=merged):
    for adapter, scale in zip(adapters, scales, strict=True):
        params = params | {
            name: change(params[name], lora, scale)
            for name, lora in adapter.loras.items()
        }
    return params


def test_outputs_are_those_of_diffusers_merged_and_unmerged(pair, tmp_path):
    adapters = [pair.adapter(ALL, 1), pair.adapter(SOME, 2)]
    base = pair.check(pair.params)
    for number, adapter in enumerate(adapters):
        file = tmp_path / f"{number}.safetensors"
        write_lora(adapter, file, pair.networks)
        pair.pipeline.load_lora_weights(str(file), adapter_name=f"a{number}")
    for use, scales in (([0], [1.0]), ([1], [2.0]), ([0, 1], [0.7, -0.4])):
        pair.pipeline.set_adapters([f"a{i}" for i in use], scales)
        params = changed(pair.params, [adapters[i] for i in use], scales)
        both = pair.check(params, base)
    pair.pipeline.fuse_lora(adapter_names=["a0", "a1"])
    np.testing.assert_allclose(pair.check(params, base)[0], both[0], atol=1e-3)
    pair.pipeline.unfuse_lora()
    pair.pipeline.unload_lora_weights()
    back = changed(params, adapters, (0.7, -0.4), unmerged)
    np.testing.assert_allclose(pair.check(back)[0], base[0], rtol=0, atol=1e-5)


def test_a_file_of_kohya_is_that_of_diffusers(pair, tmp_path):
    # Diffusers ignores alphas of attention that differ from the most frequent one.
    adapter = pair.adapter(ALL, 3, alpha=1.5)
    file = tmp_path / "kohya.safetensors"
    write_lora(adapter, file, pair.networks, format="kohya")
    assert all(name.startswith("lora_") for name in load_file(file))
    base = pair.check(pair.params)
    pair.pipeline.load_lora_weights(str(file))
    found = read_lora(file, pair.networks)
    pair.check(changed(pair.params, [found], [1.0]), base)
    pair.pipeline.unload_lora_weights()


def test_an_adapter_of_peft_is_read_with_its_alphas(pair, tmp_path):
    for root in (False, True):
        network = diffusers.UNet2DConditionModel.from_pretrained(pair.folder / "unet")
        config = peft.LoraConfig(
            r=3, lora_alpha=2, target_modules=["to_q", "to_k", "conv1", "proj_in"],
            rank_pattern={"to_k": 2}, alpha_pattern={"mid_block.*to_q": 5},
            use_rslora=root,
        )  # fmt: skip
        theirs = peft.get_peft_model(network, config)
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                filled_with(parameter, 0.2)
        theirs.save_pretrained(tmp_path / str(root))
        found = read_lora(tmp_path / str(root), pair.networks)
        before, pair.pipeline.unet = pair.pipeline.unet, theirs
        pair.check(changed(pair.params, [found], [1.0]))
        pair.pipeline.unet = before


def filled_with(parameter, scale):
    generator = torch.Generator().manual_seed(parameter.numel())
    with torch.no_grad():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def test_names_of_the_original_blocks_are_those_of_diffusers(tmp_path):
    options = UNET | {
        "block_out_channels": (4, 4, 8), "layers_per_block": 2, "norm_num_groups": 2,
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        "transformer_layers_per_block": [1, 1, 2],
    }  # fmt: skip
    unet = filled(diffusers.UNet2DConditionModel(**options), 0, 0.2)
    unet.save_pretrained(tmp_path / "unet")
    component = read_component(tmp_path / "unet")
    lora = one_alpha(random_lora(component.params, "", 0), 1.0)
    write_lora(lora, tmp_path / "a.safetensors", {"unet": component}, format="kohya")
    blocks = original_blocks(component.network)
    renamed, tensors = {}, load_file(tmp_path / "a.safetensors")
    for target in targets_of("unet", component):
        names = [n for n in names_of(target, blocks) if n.startswith("lora_unet_")]
        for end in (".lora_down.weight", ".lora_up.weight", ".alpha"):
            renamed[names[-1] + end] = tensors[names[0] + end]
    assert not any(
        part in name for name in renamed for part in ("resnets", "attentions", "down_")
    )
    save_file(renamed, tmp_path / "b.safetensors")
    found = read_lora(tmp_path / "b.safetensors", {"unet": component}).loras["unet"]
    assert found.layers.keys() == lora.layers.keys()
    loader = diffusers.StableDiffusionXLPipeline
    theirs, alphas = loader.lora_state_dict(
        {name: torch.tensor(x) for name, x in renamed.items()}, unet_config=unet.config
    )
    unet.load_lora_adapter(theirs, network_alphas=alphas, prefix="unet")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 8, 8, 4)).astype(np.float32)
    text = rng.normal(size=(1, 5, 24)).astype(np.float32)
    with torch.no_grad():
        expected = unet(nchw(x), torch.tensor([9]), torch.tensor(text)).sample.numpy()
    params = merged(component.params, found)
    ours = jax.jit(component.network.apply)(
        {"params": params}, x, np.array([9]), jd.Condition(text=jnp.asarray(text))
    )
    limit = CLOSE * np.abs(expected).max()
    np.testing.assert_allclose(nchw(ours), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("version", ["1", "xl"])
def test_pictures_with_adapters_and_tokens_are_those_of_diffusers(
    clip, tmp_path, version
):
    pipeline = make(tmp_path / "theirs", clip, version)
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=3))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 24)).astype(np.float32)
    names = ["text_encoder", "text_encoder_2"][: 1 + (version == "xl")]
    for name in names:
        number = name.removeprefix("text_encoder")
        encoder = getattr(pipeline, name)
        if number:  # the wrong end token 2 means the largest, which would be new
            encoder.config.eos_token_id = 525
        pipeline.load_textual_inversion(
            {"<thing>": torch.tensor(vectors)}, text_encoder=encoder,
            tokenizer=getattr(pipeline, f"tokenizer{number}"),
        )  # fmt: skip
    tokens = {"<thing>": dict.fromkeys(names, vectors)}
    run = run.with_lora(Adapters({}, tokens))
    networks = networks_of_run(run)
    adapter = Adapters({n: random_lora(c.params) for n, c in networks.items()})
    write_lora(adapter, tmp_path / "a.safetensors", networks)
    pipeline.load_lora_weights(str(tmp_path / "a.safetensors"), adapter_name="a")
    pipeline.set_adapters(["a"], [0.6])
    latents = rng.normal(size=(2, 8, 8, 4)).astype(np.float32)
    prompts = ["a <thing> in a photo", "the frog, <thing>!"]
    with torch.no_grad():
        theirs = pipeline(
            prompt=prompts, num_inference_steps=3, guidance_scale=5.0,
            output_type="np", latents=nchw(latents),
        ).images  # fmt: skip
    images = []
    for one in (run, run.with_lora(tmp_path / "a.safetensors", 0.6)):
        condition = one.text(prompts)
        sampling = jd.training.Sampling(
            sampler=one.experiment.sampling.sampler, guidance=5.0, clip=False
        )
        found = one.generate(
            condition, 2, 0, base=one.negative(condition), start=latents,
            sampling=sampling,
        )  # fmt: skip
        images.append(one.decode(found) / 2 + 0.5)
    np.testing.assert_allclose(images[1], theirs, rtol=0, atol=1e-3)
    assert np.abs(images[0] - theirs).max() > 0.03


def test_lora_of_latent_consistency_draws_in_four_steps(pair, tmp_path, monkeypatch):
    file, steps, shape = tmp_path / "lcm.safetensors", 4, (8, 8, 4)
    adapter = pair.adapter({"unet": "to_|ff|conv_", "text_encoder": "^$"}, 3)
    write_lora(Adapters({"unet": adapter.loras["unet"]}), file, pair.networks)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(pair.folder)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    pipeline.scheduler = diffusers.LCMScheduler.from_config(config)
    latents = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    noises = iter(
        nchw(np.asarray(step_noise(key(0), jnp.arange(2), left, shape)))
        for left in range(steps - 1, 0, -1)
    )
    name = "diffusers.schedulers.scheduling_lcm.randn_tensor"
    monkeypatch.setattr(name, lambda *_, **__: next(noises))

    def theirs(count):
        with torch.no_grad():
            return pipeline(
                prompt=["a cat", "a frog"], num_inference_steps=count,
                guidance_scale=1.0, output_type="np", latents=nchw(latents),
            ).images  # fmt: skip

    plain = theirs(1)
    pipeline.load_lora_weights(str(file))
    run = alone(jd.from_diffusers(pair.folder)).with_lora(file)
    for count in (1, steps):
        (sampling,) = samplings_of(run, ("lcm",), count, "lcm-times").values()
        found = run.generate(
            run.text(["a cat", "a frog"]), 2, 0, start=latents,
            sampling=replace(sampling, guidance=1.0),
        )  # fmt: skip
        wanted = theirs(count)
        np.testing.assert_allclose(run.decode(found) / 2 + 0.5, wanted, atol=1e-3)
        assert np.abs(wanted - plain).max() > 0.03
