"""Published networks besides DDPM's: NCSN++, further inputs, other class values."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.components.unet_2d import UNet2DModel
from jaxdiff.components.unet_2d_names import places
from jaxdiff.errors import InputError
from jaxdiff.networks import NCSNppConfig
from jaxdiff.pretrained import from_diffusers, to_diffusers
from jaxdiff.pretrained.pipeline_folder import network_of
from jaxdiff.runs.trainer import Trainer
from jaxdiff.serialization import from_dict
from jaxdiff.training.experiment import Sampling, Training
from tests.helpers.pytorch import diffusers, torch

SKIP: dict[str, Any] = {
    "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
    "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
    "block_out_channels": [32, 32], "layers_per_block": 1, "sample_size": 8,
    "norm_num_groups": None, "attention_head_dim": None, "norm_eps": 1e-6,
    "time_embedding_type": "fourier", "mid_block_scale_factor": 1.41421356237,
}  # fmt: skip
PLAIN: dict[str, Any] = {
    "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
    "block_out_channels": [8], "layers_per_block": 1, "sample_size": 4,
    "norm_num_groups": 4, "attention_head_dim": None,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    # google/ncsnpp-celebahq-256 and others, at a small size.
    "ncsnpp": SKIP,
    "ncsnpp-options": {
        **SKIP, "block_out_channels": [32, 64],
        "norm_num_groups": 32, "attn_norm_num_groups": 16,
        "resnet_time_scale_shift": "scale_shift", "mid_block_scale_factor": 2.0,
        "attention_head_dim": 8, "time_embedding_type": "positional",
        "num_class_embeds": 3, "center_input_sample": True,
    },
    # Conditioning by concatenation, and a number per image.
    "condition": {
        **PLAIN, "in_channels": 5, "center_input_sample": True,
        "attn_norm_num_groups": 2, "class_embed_type": "timestep",
    },
    "embedded": {**PLAIN, "add_attention": False, "class_embed_type": "identity"},
}  # fmt: skip
LABELS = {
    "ncsnpp-options": np.array([0, 2]),
    "condition": np.array([0.5, 7], np.float32),
    "embedded": np.random.default_rng(1).standard_normal((2, 32), np.float32),
}


def network_from(options: dict[str, Any]) -> Any:
    """Returns a network of diffusers in which all weights are random."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**options).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if "norm" in key or key.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:took the output of .* because it has no sched")
def test_published_networks_give_what_theirs_give_and_go_back(name, tmp_path):
    options, labels = NETWORKS[name], LABELS.get(name)
    numbers: Any = labels
    network = network_from(options)
    network.save_pretrained(tmp_path)
    run = from_diffusers(tmp_path)
    size, channels = options["sample_size"], network.config.in_channels
    shape = (2, size, size, channels)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    times = np.array([3, 871])
    with torch.no_grad():
        wanted = network(
            torch.from_numpy(images.transpose(0, 3, 1, 2)),
            torch.from_numpy(times),
            None if labels is None else torch.from_numpy(labels),
        ).sample.numpy()
    x, image = np.split(images, [run.info.image_shape[-1]], axis=-1)
    given: Any = jd.Condition(image=image if image.shape[-1] else None)
    if options.get("class_embed_type") in ("timestep", "identity"):
        given = given._replace(
            vector=numbers if numbers.ndim == 2 else numbers[:, None]
        )
    else:
        given = given._replace(labels=labels)
    got = jax.jit(run.network.apply)({"params": run.params}, x, times, given)
    error = np.abs(np.asarray(got).transpose(0, 3, 1, 2) - wanted).max()
    assert error < 1e-5 * np.abs(wanted).max()

    record, arrays = network_of(run)
    theirs = network.config
    assert record == {key: theirs[key] for key in record}
    state = network.state_dict()
    assert arrays.keys() == state.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, state[key].numpy())


def test_a_score_network_without_a_scheduler_is_imported_with_one_warning(tmp_path):
    network_from(SKIP).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"for Eps at times of VP, .* no sch") as told:
        run = from_diffusers(tmp_path)
    assert len(told) == 1
    assert run.experiment.schedule == jd.schedules.VP()
    own = jd.schedules.VP(beta_max=10.0)
    with pytest.warns(UserWarning, match="because it has no scheduler"):
        run = from_diffusers(tmp_path, base=jd.Experiment(schedule=own))
    assert run.experiment.schedule == own


def test_the_published_ncsnpp_has_these_tensors():
    """At full size, by names and shapes: 32x32, channels (128, 256, 256, 256)."""
    options = {
        **SKIP, "sample_size": 32, "block_out_channels": [128, 256, 256, 256],
        "layers_per_block": 4,
        "down_block_types": [
            "SkipDownBlock2D", "AttnSkipDownBlock2D", *["SkipDownBlock2D"] * 2
        ],
        "up_block_types": [
            *["SkipUpBlock2D"] * 2, "AttnSkipUpBlock2D", "SkipUpBlock2D"
        ],
    }  # fmt: skip
    with torch.device("meta"):
        wanted = diffusers.UNet2DModel(**options).state_dict()
    data = {**options, "sample_size": [32, 32]}
    model = from_dict(UNet2DModel, data).model(False, learn_variance=False)
    found = jax.tree.leaves(
        places(model.shapes(), 4), is_leaf=lambda x: hasattr(x, "order")
    )
    assert sum(math.prod(place.shape) for place in found) == 61_894_924
    assert {place.name: place.shape for place in found} == {
        name: tuple(tensor.shape) for name, tensor in wanted.items()
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"condition_channels": 3}, r"^image must be given to this network, got None"),
        ({"class_embedding": "time"}, r"^vector must be given to this network, got"),
    ],
)
def test_training_and_sampling_name_the_input_that_they_lack(options, words):
    config = jd.UNetConfig(
        channels=4, multipliers=(1,), blocks=1, attention=(), groups=2, **options
    )
    experiment = jd.Experiment(
        network=config, training=Training(batch_size=2, num_steps=1),
        parallel=jd.parallel.Pmap(num_devices=1), conditional=False,
    )  # fmt: skip
    images = np.zeros((4, 4, 4, 1), np.uint8)
    with pytest.raises(InputError, match=words):
        Trainer.of(experiment, jd.data.from_arrays(images))
    with pytest.raises(InputError, match=words):
        jd.bind(config.build(out_channels=1), {})


def test_a_further_input_of_a_folder_is_imported_and_named_when_sampling(tmp_path):
    """Super-resolution: 3 channels of x_t, 3 of the small image; any size."""
    network_from({**PLAIN, "in_channels": 6, "sample_size": None}).save_pretrained(
        tmp_path
    )
    with pytest.raises(InputError, match=r"got null\. Name the size with --size"):
        from_diffusers(tmp_path)
    run = from_diffusers(tmp_path, size=4)
    (tmp_path / "of_8").mkdir()
    network_from({**PLAIN, "sample_size": 8}).save_pretrained(tmp_path / "of_8")
    with pytest.raises(InputError, match=r"size must be the sample_size of .*, 8, got"):
        from_diffusers(tmp_path / "of_8", size=4)
    assert run.info.image_shape == (4, 4, 3)
    network: Any = run.network
    assert network.takes == network.needs == ("image",)
    with pytest.raises(InputError, match=r"^image must be given") as error:
        run.check_request(None, num=1, seed=0)
    assert "\n" not in str(error.value)
    sampling = Sampling(sampler=jd.DDIM(spacing=jd.spacing.Trailing(num_steps=2)))
    drawn = [
        run.generate(
            jd.Condition(image=np.full((1, 4, 4, 3), fill, np.float32)), 1, 0,
            sampling=sampling,
        )
        for fill in (-0.5, 0.5)
    ]  # fmt: skip
    assert not np.allclose(drawn[0], drawn[1])
    wrong = jd.Condition(image=np.zeros((1, 2, 4, 3), np.float32))
    with pytest.raises(InputError, match=r"image must have shape \(1, 4, 4, 3\), got"):
        run.generate(wrong, 1, 0, sampling=sampling)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]},
            "must be all Skip blocks or none",
        ),
        ({"block_out_channels": [16, 64]}, "must be multiples of 32 in each level"),
        ({"norm_num_groups": 24}, "groups must divide the channels 32"),
        ({"attn_norm_num_groups": 24}, "middle_groups must divide the channels 32"),
    ],
)
def test_networks_that_diffusers_cannot_build_are_refused(fields, words):
    data = {**SKIP, **fields, "sample_size": [8, 8]}
    with pytest.raises(InputError, match=words):
        from_dict(UNet2DModel, data).model(False, learn_variance=False)


@pytest.mark.parametrize("field", ["norm_num_groups", "mid_block_scale_factor"])
def test_values_of_skip_blocks_are_refused_for_others(field):
    data = {**PLAIN, field: SKIP[field], "sample_size": [4, 4]}
    with pytest.raises(InputError, match=f"{field} must be .* other than Skip blocks"):
        from_dict(UNet2DModel, data).model(False, learn_variance=False)


def test_ncsnpp_begins_at_zero_and_works_on_patches():
    config = NCSNppConfig(channels=32, multipliers=(1, 1), blocks=1, attention=())
    network = dataclasses.replace(config, patch=2).build(out_channels=1)
    x, t = jnp.ones((1, 8, 8, 1)), jnp.zeros(1, jnp.int32)
    out, _ = jax.jit(network.init_with_output)(jax.random.key(0), x, t)
    np.testing.assert_array_equal(out, jnp.zeros_like(x))


def test_a_network_on_patches_is_refused_in_one_line(tmp_path):
    config = jd.UNetConfig(channels=4, multipliers=(1,), blocks=1, patch=2)
    experiment = jd.Experiment(network=config)
    info = jd.training.experiment.DataInfo((4, 4, 1), None, None)
    model = jd.training.initialize.build_model(experiment, info)
    run = jd.runs.Run(experiment, info, model, {}, 0)
    with pytest.raises(InputError, match=r"patch must be 1 for diffusers, got 2: it"):
        to_diffusers(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
