"""Text encoders and autoencoders hold against transformers and diffusers.

Every parameter is overwritten by random numbers, because layers that start at 0 would
hide errors.
"""

import itertools
import logging
import re

import numpy as np
import pytest
import safetensors.numpy

from jaxdiff.components.component import read_component, write_component
from tests.helpers.pytorch import diffusers, torch, transformers

TINY = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4,
}  # fmt: skip
CLIP = {
    **TINY, "vocab_size": 100, "max_position_embeddings": 20, "projection_dim": 10,
    "pad_token_id": 1, "bos_token_id": 0,
}  # fmt: skip
KL = {
    "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1,
    "norm_num_groups": 4, "latent_channels": 3,
}  # fmt: skip
CLOSE = 2e-6
"""Largest difference, in parts of the largest number."""


def product_of(**choices):
    """Parametrizes the `options` of a test: every combination of their values."""
    combinations = itertools.product(*choices.values())
    options = [dict(zip(choices, values, strict=True)) for values in combinations]
    ids = [", ".join(map(str, each.values())) for each in options]
    return pytest.mark.parametrize("options", options, ids=ids)


def filled(module, seed=0, scale=0.2):
    """Returns a module of PyTorch whose parameters are random numbers."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            values = scale * rng.normal(size=tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    return module.eval()


def check(ours, theirs, close=CLOSE):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=close * abs(theirs).max())


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2))


def read_back(module, folder):
    """Returns a module's component, after a round trip that keeps every bit."""
    module.save_pretrained(folder / "theirs")
    found = read_component(folder / "theirs")
    write_component(found, folder / "ours")
    files = sorted(folder.glob("theirs/*.safetensors"))
    (ours,) = folder.glob("ours/*.safetensors")
    theirs, again = (safetensors.numpy.load_file(f) for f in (files[0], ours))
    for name, tensor in again.items():
        short = re.sub("^(text|vision)_model[.]", "", name)
        known = theirs[name if name in theirs else short]
        np.testing.assert_array_equal(tensor, known)
    return found


def loads_without_a_word(module, folder, capfd, caplog):
    """Checks that their library loads our folder, says nothing and has the bits."""
    with caplog.at_level(logging.WARNING):
        options = {}
        if isinstance(module, diffusers.ModelMixin):
            options["low_cpu_mem_usage"] = False  # True asks for accelerate
        again = type(module).from_pretrained(folder / "ours", **options)
    said = capfd.readouterr()
    assert not caplog.records
    assert "not used" not in said.err
    assert "newly initialized" not in said.err
    for name, tensor in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def compare_clip_text(tmp_path, capfd, caplog, activation, end, projects):
    config = transformers.CLIPTextConfig(
        **CLIP, hidden_act=activation, eos_token_id=end
    )
    name = "CLIPTextModelWithProjection" if projects else "CLIPTextModel"
    module = filled(getattr(transformers, name)(config))
    found = read_back(module, tmp_path)
    assert found.kind == name
    loads_without_a_word(module, tmp_path, capfd, caplog)
    tokens = np.random.default_rng(1).integers(0, 95, (2, 15))
    tokens[0, [7, 11]] = tokens[1, 14] = 95
    tokens[:, 9] = end
    mask = np.arange(15) < np.array([[12], [15]])
    for given in (None, mask):
        theirs = module(
            torch.from_numpy(tokens),
            attention_mask=None if given is None else torch.from_numpy(given).int(),
            output_hidden_states=True,
        )
        ours = found.network.apply({"params": found.params}, tokens, given)
        check(ours.tokens, theirs.last_hidden_state)
        check(ours.vector, theirs.text_embeds if projects else theirs.pooler_output)
    for skip in (1, 2):
        ours = found.network.apply(
            {"params": found.params}, tokens, mask, skip, final_norm=False
        )
        check(ours.tokens, theirs.hidden_states[-1 - skip])


@pytest.mark.parametrize(
    ("activation", "end", "projects"),
    [("quick_gelu", 2, False), ("gelu", 95, True), ("quick_gelu", 95, False)],
)
def test_clip_text(tmp_path, capfd, caplog, activation, end, projects):
    compare_clip_text(tmp_path, capfd, caplog, activation, end, projects)


@pytest.mark.long
@product_of(activation=("quick_gelu", "gelu"), end=(2, 95, 90), projects=(False, True))
def test_clip_text_with_every_option(tmp_path, capfd, caplog, options):
    compare_clip_text(tmp_path, capfd, caplog, **options)


@pytest.mark.long
def test_clip_text_at_full_size(tmp_path):
    """CLIP ViT-L/14's text encoder, of Stable Diffusion 1."""
    config = transformers.CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, eos_token_id=2,
    )  # fmt: skip
    module = filled(transformers.CLIPTextModel(config), scale=0.02)
    module.save_pretrained(tmp_path)
    found = read_component(tmp_path)
    tokens = np.random.default_rng(1).integers(0, 49_407, (2, 77))
    tokens[:, -1] = 49_407
    with torch.no_grad():
        theirs = module(torch.from_numpy(tokens))
    ours = found.network.apply({"params": found.params}, tokens)
    check(ours.tokens, theirs.last_hidden_state, 1e-5)
    check(ours.vector, theirs.pooler_output, 1e-5)


@pytest.mark.long
def test_autoencoder_kl_at_full_size(tmp_path):
    """Stable Diffusion's autoencoder, on images of 64 pixels."""
    module = filled(
        diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        scale=0.02,
    )  # fmt: skip
    module.save_pretrained(tmp_path)
    found = read_component(tmp_path)
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, size=(1, 64, 64, 3)).astype(np.float32)
    output = rng.normal(size=(1, 8, 8, 4)).astype(np.float32)
    variables = {"params": found.params}
    with torch.no_grad():
        moments = module.encode(nchw(images)).latent_dist
        decoded = module.decode(nchw(output)).sample
    mean, log_variance = found.network.apply(variables, images, method="encode")
    check(mean.transpose(0, 3, 1, 2), moments.mean, 1e-5)
    check(log_variance.transpose(0, 3, 1, 2), moments.logvar, 1e-5)
    ours = found.network.apply(variables, output, method="decode")
    check(ours.transpose(0, 3, 1, 2), decoded, 1e-5)


def compare_clip_vision(tmp_path, capfd, caplog, projects, **options):
    config = transformers.CLIPVisionConfig(
        **{**TINY, "patch_size": 4, **options}, image_size=16, projection_dim=10
    )
    name = "CLIPVisionModelWithProjection" if projects else "CLIPVisionModel"
    module = filled(getattr(transformers, name)(config))
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    shape = (2, 16, 16, config.num_channels)
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    theirs = module(nchw(images), output_hidden_states=True)
    ours = found.network.apply({"params": found.params}, images)
    check(ours.tokens, theirs.last_hidden_state)
    check(ours.vector, theirs.image_embeds if projects else theirs.pooler_output)
    ours = found.network.apply({"params": found.params}, images, skip=1)
    check(ours.tokens, theirs.hidden_states[-2])


@pytest.mark.parametrize("projects", [False, True])
def test_clip_vision(tmp_path, capfd, caplog, projects):
    compare_clip_vision(tmp_path, capfd, caplog, projects)


@pytest.mark.long
@product_of(
    projects=(False, True), hidden_act=("quick_gelu", "gelu"),
    layer_norm_eps=(1e-5, 1e-3), patch_size=(4, 8), num_channels=(1, 3),
)  # fmt: skip
def test_clip_vision_with_every_option(tmp_path, capfd, caplog, options):
    compare_clip_vision(tmp_path, capfd, caplog, **options)


def compare_t5(tmp_path, capfd, caplog, kind, **options):
    config = transformers.T5Config(
        vocab_size=50, d_model=24, d_kv=5, d_ff=30, num_layers=2, num_heads=3,
        feed_forward_proj=kind, **options,
    )  # fmt: skip
    module = filled(transformers.T5EncoderModel(config))
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    for length in (1, 9, 300):  # buckets of single distances, shared ones, the last
        tokens = np.random.default_rng(1).integers(0, 50, (2, length))
        mask = np.arange(length) < np.array([[max(1, length - 5)], [length]])
        theirs = module(
            torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask).int()
        )
        ours = found.network.apply({"params": found.params}, tokens, mask)
        check(ours, theirs.last_hidden_state)


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_t5(tmp_path, capfd, caplog, kind):
    compare_t5(tmp_path, capfd, caplog, kind)


@pytest.mark.long
@product_of(
    kind=("relu", "gated-gelu", "gated-silu", "gelu"),
    relative_attention_num_buckets=(8, 32), relative_attention_max_distance=(16, 128),
    layer_norm_epsilon=(1e-6, 1e-3),
)  # fmt: skip
def test_t5_with_every_option(tmp_path, capfd, caplog, options):
    compare_t5(tmp_path, capfd, caplog, **options)


def compare_bert(tmp_path, capfd, caplog, **options):
    config = transformers.BertConfig(
        **TINY, vocab_size=50, max_position_embeddings=40, **options
    )
    module = filled(transformers.BertModel(config))
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    tokens = np.random.default_rng(1).integers(0, 50, (2, 30))
    mask = np.arange(30) < np.array([[20], [30]])
    theirs = module(
        torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask).int()
    ).last_hidden_state
    ours = found.network.apply({"params": found.params}, tokens, mask)
    check(ours.tokens, theirs)
    weight = torch.from_numpy(mask)[..., None].float()
    check(ours.vector, (theirs * weight).sum(1) / weight.sum(1))


def test_bert(tmp_path, capfd, caplog):
    compare_bert(tmp_path, capfd, caplog)


@pytest.mark.long
@product_of(
    hidden_act=("gelu", "relu", "gelu_new", "silu"), type_vocab_size=(1, 2),
    layer_norm_eps=(1e-12, 1e-3),
)  # fmt: skip
def test_bert_with_every_option(tmp_path, capfd, caplog, options):
    compare_bert(tmp_path, capfd, caplog, **options)


def compare_autoencoder_kl(tmp_path, capfd, caplog, levels=2, **options):
    kl = {
        **KL, "block_out_channels": (8, 16, 12)[:levels],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }  # fmt: skip
    module = filled(
        diffusers.AutoencoderKL(
            **{**kl, **options}, scaling_factor=0.4, shift_factor=0.1
        )
    )
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 12, 16, 3)).astype(np.float32)
    variables = {"params": found.params}
    theirs = module.encode(nchw(images)).latent_dist
    mean, log_variance = found.network.apply(variables, images, method="encode")
    check(mean.transpose(0, 3, 1, 2), theirs.mean)
    check(log_variance.transpose(0, 3, 1, 2), theirs.logvar)
    output = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    ours = found.network.apply(variables, output, method="decode")
    check(ours.transpose(0, 3, 1, 2), module.decode(nchw(output)).sample)
    scaling = found.network.config.scaling
    np.testing.assert_allclose(scaling.forward(output), (output - 0.1) * 0.4, atol=1e-6)


@pytest.mark.parametrize(
    ("quant", "attends"), [(True, True), (False, True), (True, False)]
)
def test_autoencoder_kl(tmp_path, capfd, caplog, quant, attends):
    options = {
        "use_quant_conv": quant, "use_post_quant_conv": quant,
        "mid_block_add_attention": attends,
    }  # fmt: skip
    compare_autoencoder_kl(tmp_path, capfd, caplog, **options)


@pytest.mark.long
@product_of(
    use_quant_conv=(True, False), use_post_quant_conv=(True, False),
    mid_block_add_attention=(True, False), layers_per_block=(1, 2),
    levels=(1, 2, 3), norm_num_groups=(2, 4),
)  # fmt: skip
def test_autoencoder_kl_with_every_option(tmp_path, capfd, caplog, options):
    compare_autoencoder_kl(tmp_path, capfd, caplog, **options)


def compare_autoencoder_tiny(tmp_path, capfd, caplog, width=8, blocks=((1, 2), (2, 1))):
    encoder, decoder = blocks
    module = filled(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(width,) * len(encoder),
            decoder_block_out_channels=(width,) * len(decoder),
            num_encoder_blocks=encoder, num_decoder_blocks=decoder,
        )
    )  # fmt: skip
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 12, 16, 3)).astype(np.float32)
    variables = {"params": found.params}
    ours, none = found.network.apply(variables, images, method="encode")
    assert none is None
    check(ours.transpose(0, 3, 1, 2), module.encode(nchw(images)).latents)
    output = 4 * rng.normal(size=(2, 5, 7, 4)).astype(np.float32)
    ours = found.network.apply(variables, output, method="decode")
    check(ours.transpose(0, 3, 1, 2), module.decode(nchw(output)).sample)


def test_autoencoder_tiny(tmp_path, capfd, caplog):
    compare_autoencoder_tiny(tmp_path, capfd, caplog)


@pytest.mark.long
@product_of(
    width=(4, 8),
    blocks=(((1, 1), (2, 1)), ((1, 2, 3), (3, 1, 1)), ((3, 1), (1, 3)), ((2,), (1,))),
)
def test_autoencoder_tiny_with_every_option(tmp_path, capfd, caplog, options):
    compare_autoencoder_tiny(tmp_path, capfd, caplog, **options)
