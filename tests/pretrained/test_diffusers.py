"""Models of diffusers with random weights, compared with that library."""

import dataclasses
import json
import logging
import shutil
import types
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxdiff as jd
from jaxdiff.cli import program
from jaxdiff.errors import InputError
from jaxdiff.pretrained import from_diffusers, to_diffusers
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import DataInfo, Sampling
from jaxdiff.training.initialize import build_model
from tests.helpers.long_parameters import long_where
from tests.helpers.pytorch import diffusers, import_torchvision, torch

DDPM: dict[str, Any] = {
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
    "norm_eps": 1e-6, "attention_head_dim": None, "norm_num_groups": 8,
}  # fmt: skip
"""Options of the checkpoints of the DDPM paper, google/ddpm-*."""


def blocks(*attends: int, down: str = "DownBlock2D", up: str = "UpBlock2D") -> Any:
    """Returns the types of blocks; a level with a 1 has attention."""
    return {
        "down_block_types": ["AttnDownBlock2D" if a else down for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else up for a in attends[::-1]],
    }


ADM: dict[str, Any] = {
    **blocks(0, 1, 1, down="ResnetDownsampleBlock2D", up="ResnetUpsampleBlock2D"),
    "block_out_channels": [16, 32, 48], "downsample_type": "resnet",
    "upsample_type": "resnet", "attention_head_dim": 8, "norm_num_groups": 8,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    # google/ddpm-cifar10-32: (128, 256, 256, 256), attention at 16.
    "cifar10": {
        **DDPM, **blocks(0, 1, 0, 0), "block_out_channels": [16, 32, 32, 32],
        "sample_size": 32, "layers_per_block": 1,
    },
    # google/ddpm-cat-256 and -bedroom-256: (128, 128, 256, 256, 512, 512), 16.
    "cat": {
        **DDPM, **blocks(0, 0, 0, 0, 1, 0), "sample_size": 64,
        "block_out_channels": [16, 16, 32, 32, 48, 48],
    },
    # google/ddpm-church-256: the same network with the names of the first versions.
    "church": {
        **DDPM, "sample_size": [64, 32], "layers_per_block": 1,
        "block_out_channels": [16, 16, 32, 32, 64, 64],
        "down_block_types": [
            *["UNetResDownBlock2D"] * 4, "UNetResAttnDownBlock2D", "UNetResDownBlock2D"
        ],
        "up_block_types": [
            "UNetResUpBlock2D", "UNetResAttnUpBlock2D", *["UNetResUpBlock2D"] * 4
        ],
    },
    # google/ddpm-celebahq-256: the same network with dropout.
    "celebahq": {
        **DDPM, **blocks(0, 0, 0, 0, 1, 0), "sample_size": 64, "dropout": 0.1,
        "block_out_channels": [8, 8, 16, 16, 24, 24], "norm_num_groups": 4,
    },
    # Defaults of the class, as in the training examples, such as butterflies.
    "butterflies": {
        **blocks(0, 0, 1, 0), "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1,
        "sample_size": 16, "norm_num_groups": 32,
    },
    "classes": {
        **blocks(0, 1), "block_out_channels": [16, 24], "num_class_embeds": 5,
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "norm_num_groups": 4,
        "norm_eps": 1e-2,
    },
    # openai/diffusers-cd_imagenet64_l2: ADM with classes.
    "adm": {
        **ADM, "sample_size": 16, "num_class_embeds": 4, "attn_norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift", "layers_per_block": 1,
    },
    "adm-without-norm": {
        **ADM, "sample_size": 16, "resnet_time_scale_shift": "scale_shift",
        "layers_per_block": 1,
    },
    # openai/diffusers-cd_bedroom256_l2: residual blocks between levels.
    "bedroom": {
        **ADM, "sample_size": 16, "resnet_time_scale_shift": "default",
        "layers_per_block": 1,
    },
    "learned-variance": {
        **blocks(0, 0), "block_out_channels": [8, 16], "out_channels": 6,
        "sample_size": 8, "norm_num_groups": 4, "add_attention": False,
    },
    "fourier": {
        **blocks(0, 1), "block_out_channels": [16, 16], "sample_size": 8,
        "norm_num_groups": 4, "time_embedding_type": "fourier",
    },
}  # fmt: skip

FULL = {
    "adm-deep": {**NETWORKS["adm"], "layers_per_block": 3},
    "cifar10-full": {
        **NETWORKS["cifar10"], "block_out_channels": [128, 256, 256, 256],
        "norm_num_groups": 32, "layers_per_block": 2,
    },
    **{
        f"{name}-full": {
            **NETWORKS[name], "sample_size": 256, "layers_per_block": 2,
            "block_out_channels": [128, 128, 256, 256, 512, 512], "norm_num_groups": 32,
        }
        for name in ("cat", "church", "celebahq")
    },
}  # fmt: skip
"""Published networks at their full depth or size."""
ALL = NETWORKS | FULL


def network_of(name: str) -> Any:
    """Returns a network of diffusers in which all weights are random."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**ALL[name]).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if "norm" in key or key.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def base_of(name: str) -> jd.Experiment | None:
    """Returns the base experiment that a folder without a scheduler needs, or None."""
    if name == "fourier":
        return jd.Experiment(schedule=jd.schedules.VP())
    if name == "learned-variance":
        return jd.Experiment(
            prediction=jd.predictions.Eps(learn_variance=True),
            objective=jd.losses.Hybrid(),
        )
    return None


def inputs_of(network: Any) -> Any:
    """Returns images [2, h, w, c], times [2], and labels [2] or None."""
    size = network.config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    shape = (2, height, width, network.config.in_channels)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    classes = network.config.num_class_embeds
    return images, np.array([3, 871]), None if classes is None else np.array([0, 2])


LONG = (
    "cat", "celebahq", "butterflies", "church", "bedroom", "adm-without-norm", *FULL
)  # fmt: skip
"""Networks of the long tests. Few options separate the first from the others."""


@pytest.mark.parametrize("name", long_where(LONG.__contains__, ALL))
@pytest.mark.filterwarnings("ignore:took the output of .* because it has no sched")
def test_networks_give_what_theirs_give(name, tmp_path):
    network = network_of(name)
    network.save_pretrained(tmp_path)
    run = from_diffusers(tmp_path, base=base_of(name))
    images, times, labels = inputs_of(network)
    with torch.no_grad():
        wanted = network(
            torch.from_numpy(images.transpose(0, 3, 1, 2)),
            torch.from_numpy(times),
            None if labels is None else torch.from_numpy(labels),
        ).sample.numpy()
    apply = jax.jit(run.network.apply)
    got = apply(
        {"params": run.params}, images, jnp.asarray(times),
        None if labels is None else jnp.asarray(labels),
    )  # fmt: skip
    error = np.abs(np.asarray(got).transpose(0, 3, 1, 2) - wanted).max()
    assert error < 1e-4 * np.abs(wanted).max()


SCHEDULERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", 1000, {}),
    "ddpm-fixed-large": ("DDPMScheduler", 200, {"variance_type": "fixed_large"}),
    "ddpm-20": ("DDPMScheduler", 20, {"clip_sample": False}),
    "ddpm-trailing": (
        "DDPMScheduler", 20,
        {
            "timestep_spacing": "trailing", "prediction_type": "v_prediction",
            "beta_schedule": "squaredcos_cap_v2",
        },
    ),
    "ddpm-zero-snr": (
        "DDPMScheduler", 10,
        {
            "timestep_spacing": "trailing", "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
    ),
    "ddpm-learned": ("DDPMScheduler", 20, {"variance_type": "learned_range"}),
    "ddpm-clip-range": ("DDPMScheduler", 20, {"clip_sample_range": 0.6}),
    "ddim": ("DDIMScheduler", 50, {}),
    "ddim-offset": (
        "DDIMScheduler", 20,
        {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
    ),
    "ddim-sample": (
        "DDIMScheduler", 10,
        {"prediction_type": "sample", "beta_schedule": "scaled_linear"},
    ),
    "dpm-solver": ("DPMSolverMultistepScheduler", 20, {}),
    "dpm-solver-few": ("DPMSolverMultistepScheduler", 8, {"solver_type": "heun"}),
    "dpm-solver-sde": (
        "DPMSolverMultistepScheduler", 16,
        {"algorithm_type": "sde-dpmsolver++", "timestep_spacing": "leading"},
    ),
    "dpm-solver-sigma-min": (
        "DPMSolverMultistepScheduler", 10,
        {"final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"},
    ),
    "dpm-solver-euler-at-final": (
        "DPMSolverMultistepScheduler", 16,
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
    ),
    "dpm-solver-learned": (
        "DPMSolverMultistepScheduler", 10, {"variance_type": "learned_range"}
    ),
    "dpm-solver-clipped": (
        "DPMSolverMultistepScheduler", 10, {"thresholding": True}
    ),
    "dpm-solver-cosine": (
        "DPMSolverMultistepScheduler", 10,
        {
            "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1,
            "prediction_type": "v_prediction",
        },
    ),
    "uni-pc": ("UniPCMultistepScheduler", 20, {}),
    "uni-pc-leading": (
        "UniPCMultistepScheduler", 9,
        {"timestep_spacing": "leading", "thresholding": True},
    ),
    "uni-pc-3": (
        "UniPCMultistepScheduler", 10,
        {
            "solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min",
        },
    ),
}  # fmt: skip


@pytest.fixture
def noise(monkeypatch):
    """Noise that diffusers draws, one array per draw, in the order of the steps."""
    import_torchvision()  # otherwise diffusers, imported by name, does not find it
    drawn: list[np.ndarray] = []
    generator = np.random.default_rng(1)

    def draw(shape, **_):
        drawn.append(generator.standard_normal(shape).astype(np.float32))
        return torch.from_numpy(drawn[-1])

    for module in (
        "pipelines.ddpm.pipeline_ddpm", "pipelines.ddim.pipeline_ddim",
        "schedulers.scheduling_ddpm", "schedulers.scheduling_ddim",
        "schedulers.scheduling_dpmsolver_multistep",
    ):  # fmt: skip
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", draw)
    return drawn


def images_of(pipeline: Any, **call: Any) -> np.ndarray:
    """Returns a pipeline's images [2, height, width, channels] in [-1, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler
    if isinstance(scheduler, diffusers.UniPCMultistepScheduler):
        # UniPC's step takes no generator, but the pipeline passes one to every
        # scheduler.
        step = scheduler.step
        scheduler.step = lambda *args, generator=None: step(*args)
    images = pipeline(batch_size=2, output_type="np", **call).images
    return np.asarray(2 * images - 1)


@dataclasses.dataclass(frozen=True)
class Analytic:
    """Stand-in for a network, x t / (t + 1), as in the tests of diffusers' schedulers.

    Sampling with it is fast, because no network is compiled.
    """

    twice: bool
    """If True, the output also has the channels of a learned variance."""
    num_classes: int | None = None

    def __call__(self, x: Any, t: Any) -> list[Any]:
        return [x * (t / (t + 1))] * (2 if self.twice else 1)

    def apply(
        self, variables: Any, x_t: Any, t: Any, labels: Any = None, keys: Any = None
    ) -> Any:
        parts = self(x_t, t.astype(x_t.dtype)[:, None, None, None])
        return jnp.concatenate(parts, axis=-1)

    def replace_in(self, network: Any) -> None:
        """Replaces the forward pass of a network of diffusers with this function."""

        def forward(x: Any, t: Any, **_: Any) -> Any:
            return types.SimpleNamespace(sample=torch.cat(self(x, t), 1))

        network.forward = forward


def same_images(
    run: jd.runs.Run, drawn: list[np.ndarray], analytic: Analytic | None = None
) -> np.ndarray:
    """Returns a run's images from a pipeline's noise, of class 1 if it has classes."""
    sampling = run.experiment.sampling
    x_T, *steps = (array.transpose(0, 2, 3, 1) for array in drawn)
    count = sampling.sampler.grid(run.schedule).alpha.shape[0] - 1
    steps += [np.zeros_like(x_T)] * (count - len(steps))  # none is added at the end
    labels = None if run.info.num_classes is None else jnp.array([1, 1])
    denoiser: Any = run.denoiser(labels)
    if analytic:
        denoiser = jd.bind(analytic, {}, None, run.model.prediction)
    if sampling.clip:
        limit = sampling.clip_range or 1.0
        denoiser = jd.clip_x0(denoiser, -limit, limit, keep_eps=sampling.keep_eps)
    images = jd.sample(
        denoiser, sampling.sampler, run.schedule, jax.random.key(0), x_T.shape,
        x_T=jnp.asarray(x_T), noise=jnp.asarray(np.stack(steps)),
    )  # fmt: skip
    return np.clip(np.asarray(images), -1, 1)


def check_images(
    network: Any,
    scheduler: Any,
    num_steps: int,
    noise: Any,
    folder: Any,
    analytic: Analytic | None = None,
) -> None:
    """Compares a pipeline's images with our images from the same noise."""
    is_ddim = isinstance(scheduler, diffusers.DDIMScheduler)
    cls = diffusers.DDIMPipeline if is_ddim else diffusers.DDPMPipeline
    pipeline = cls(network, scheduler)
    pipeline.save_pretrained(folder)
    if network.config.num_class_embeds:  # the pipelines pass no labels
        labels = torch.tensor([1, 1])
        network.forward = partial(network.forward, class_labels=labels)
    if analytic:
        analytic.replace_in(network)
    wanted = images_of(pipeline, num_inference_steps=num_steps)
    assert (np.abs(wanted) < 0.99).mean() > 0.2
    run = from_diffusers(folder, num_steps=num_steps)
    np.testing.assert_allclose(same_images(run, noise, analytic), wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "through_network"),
    [*((name, False) for name in SCHEDULERS), ("ddpm-20", True), ("uni-pc", True)],
)
def test_pipelines_draw_what_theirs_draw(name, through_network, noise, tmp_path):
    scheduler, num_steps, options = SCHEDULERS[name]
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        **{**NETWORKS["cifar10"], "sample_size": 8, **blocks(0, 1),
           "block_out_channels": [8, 16], "norm_num_groups": 4,
           "out_channels": 6 if "learned" in name else 3},
    )  # fmt: skip
    # Fewer times, because nothing bounds x_t / alpha with random weights.
    options = {"num_train_timesteps": 1000 if name == "ddpm" else 200, **options}
    made = getattr(diffusers, scheduler)(**options)
    analytic = None if through_network else Analytic("learned" in name)
    check_images(network, made, num_steps, noise, tmp_path, analytic)


@pytest.mark.long
@pytest.mark.parametrize("scheduler", ["DDPM", "DDIM", "DPMSolverMultistep", "UniPC"])
@pytest.mark.parametrize(
    "name", [n for n in NETWORKS if n not in ("fourier", "learned-variance")]
)
def test_every_networks_pipelines(name, scheduler, noise, tmp_path):
    suffix = "MultistepScheduler" if scheduler == "UniPC" else "Scheduler"
    cls = getattr(diffusers, scheduler + suffix)
    check_images(network_of(name), cls(num_train_timesteps=200), 5, noise, tmp_path)


def our_run(sampling: Sampling, classes: int | None = None, **options: Any) -> Run:
    """Returns a run of ours with random parameters."""
    network = jd.UNetConfig(
        channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, dropout=0.0
    )
    experiment = jd.Experiment(
        network=network, schedule=jd.Linear(num_steps=200), sampling=sampling, **options
    )
    info = DataInfo((8, 8, 3), classes, None)
    model = build_model(experiment, info)
    start = model.init(0)
    leaves, tree = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree,
        [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)],  # noqa: B905
    )
    return Run(experiment, info, model, params, 0)


SAMPLINGS = {
    "ddpm": Sampling(),
    "ddpm-large": Sampling(
        sampler=jd.DDPM(
            variance=jd.samplers.FixedLarge(), spacing=jd.spacing.Leading(num_steps=10)
        ),
        clip=False,
    ),
    "ddim": Sampling(sampler=jd.DDIM(spacing=jd.spacing.Trailing(num_steps=10))),
    "ddim-clip-range": Sampling(
        sampler=jd.DDIM(spacing=jd.spacing.Trailing(num_steps=10)), clip_range=0.7
    ),
    "ddim-eta": Sampling(
        sampler=jd.DDIM(spacing=jd.spacing.Leading(num_steps=10), eta=1.0),
        keep_eps=True,
    ),
    "dpm-solver": Sampling(sampler=jd.DPMSolver()),
    "dpm-solver-lowered": Sampling(
        sampler=jd.DPMSolver(spacing=jd.spacing.Linspace(num_steps=20, to_data=False)),
        clip=False,
    ),
    "dpm-solver-not-lowered": Sampling(
        sampler=jd.DPMSolver(
            spacing=jd.spacing.Linspace(num_steps=10, to_data=False),
            lower_order_final=False,
        ),
        clip=False,
    ),
    "uni-pc": Sampling(
        sampler=jd.samplers.UniPC(
            spacing=jd.spacing.Linspace(num_steps=10, skip_last=True)
        ),
        clip=False,
    ),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_there_and_back(name, noise, tmp_path, caplog):
    run = our_run(SAMPLINGS[name])
    call = to_diffusers(run, tmp_path / "model")
    diffusers.utils.logging.enable_propagation()
    cls = diffusers.DDIMPipeline if name.startswith("ddim") else diffusers.DDPMPipeline
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.filterwarnings("error", message="(?!__array__)")
        # Otherwise diffusers warns that another package would load the model faster.
        pipeline = cls.from_pretrained(tmp_path / "model", low_cpu_mem_usage=False)
    assert not caplog.records
    analytic = Analytic(twice=False)
    analytic.replace_in(pipeline.unet)
    wanted = images_of(pipeline, **call)
    assert (np.abs(wanted) < 0.99).mean() > 0.2
    np.testing.assert_allclose(same_images(run, noise, analytic), wanted, atol=1e-3)
    again = from_diffusers(tmp_path / "model", num_steps=call["num_inference_steps"])
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    for part in ("schedule", "prediction", "objective"):
        assert getattr(again.experiment, part) == getattr(run.experiment, part)
    np.testing.assert_array_equal(
        again.experiment.sampling.sampler.grid(run.schedule).t,
        run.experiment.sampling.sampler.grid(run.schedule).t,
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"schedule": jd.Sigmoid()}, marks=pytest.mark.long),
        {
            "schedule": jd.schedules.ZeroTerminalSNR(base=jd.Cosine()),
            "prediction": jd.predictions.V(),
        },
    ],
    ids=["sigmoid", "zero-snr"],
)
def test_a_schedule_and_classes_there_and_back(options, tmp_path):
    run = our_run(Sampling(), classes=3)
    experiment = jd.Experiment(network=run.experiment.network, **options)
    names = ("a", "b", "c")
    info = run.info._replace(class_names=names)
    run = Run(experiment, info, build_model(experiment, info), run.params, 0)
    to_diffusers(run, tmp_path / "model")
    again = from_diffusers(tmp_path / "model")
    assert (again.info, again.experiment.schedule) == (run.info, experiment.schedule)
    assert again.experiment.network.null_class
    images, times = jnp.ones((2, 8, 8, 3)), jnp.array([3, 150])
    np.testing.assert_array_equal(
        *(
            jax.jit(one.network.apply)({"params": one.params}, images, times)
            for one in (run, again)
        )
    )
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    jax.tree.map(np.testing.assert_array_equal, again.schedule, run.schedule)


@pytest.mark.long
def test_a_scheduler_that_scales_x_t_is_not_exported_for_pixels(tmp_path):
    run = our_run(Sampling(sampler=jd.Heun(spacing=jd.spacing.Trailing()), clip=False))
    with pytest.raises(InputError, match="does not scale x_t, for diffusers' pipel"):
        to_diffusers(run, tmp_path / "model")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of an exported model, complete."""
    folder = tmp_path_factory.mktemp("written") / "model"
    to_diffusers(our_run(Sampling()), folder)
    return folder


def changed_tensors(change: Any) -> Any:
    def apply(folder: Any) -> None:
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        arrays = load_file(path)
        change(arrays)
        save_file(arrays, path)

    return apply


def changed_json(name: str, **fields: Any) -> Any:
    def apply(folder: Any) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return apply


def truncated(folder: Any) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WRONG: dict[str, tuple[Any, str]] = {
    "truncated": (truncated, "must be a complete safetensors file"),
    "no weights": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(),
        "must hold weights, got no diffusion_pytorch_model.safetensors",
    ),
    "renamed": (
        changed_tensors(lambda a: a.update(conv_x=a.pop("conv_in.weight"))),
        "1 missing: conv_in.weight; 1 unknown: conv_x",
    ),
    "missing": (changed_tensors(lambda a: a.pop("conv_out.bias")), "1 missing: conv_o"),
    "extra": (
        changed_tensors(lambda a: a.update(more=np.zeros(3, np.float32))),
        "1 unknown: more",
    ),
    "shape": (
        changed_tensors(lambda a: a.update({"conv_out.bias": np.zeros(4, np.float32)})),
        "1 of another shape: conv_out.bias is [4], not [3]",
    ),
    "type": (
        changed_tensors(lambda a: a.update({"conv_out.bias": np.zeros(3, np.int32)})),
        "1 of another type: conv_out.bias is I32, not F32 or F16 or BF16",
    ),
    "unknown block": (
        changed_json(UNET, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"]),
        "or those of NCSN++ with Skip, got 'CrossAttnDownBlock2D'",
    ),
    "an option": (changed_json(UNET, act_fn="mish"), "got 'mish'"),
    "a number": (changed_json(UNET, layers_per_block=10**9), "layers_per_block must"),
    "classes": (changed_json(UNET, class_embed_type="projection"), "got 'projection'"),
    "no size": (changed_json(UNET, sample_size=None), "and width, got null"),
    "scheduler": (
        changed_json("model_index.json", scheduler=["diffusers", "SCMScheduler"]),
        "got 'SCMScheduler'",
    ),
    "clip range": (
        changed_json(SCHEDULER, clip_sample_range=-2.0),
        "clip_range must be above 0, got -2",
    ),
    "parts": (
        changed_json("model_index.json", vqvae=["diffusers", "VQModel"]),
        "the parts must be unet and scheduler, got scheduler, unet, vqvae",
    ),
    "pipeline": (changed_json("model_index.json", _class_name="X"), "got 'X'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told_in_one_line(name, written, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(written, folder)
    spoil, reason = WRONG[name]
    spoil(folder)
    with pytest.raises(InputError) as error:
        from_diffusers(folder)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


PUBLISHED = {
    "config.json": "act_fn attention_head_dim block_out_channels center_input_sample "
    "down_block_types downsample_padding flip_sin_to_cos freq_shift in_channels "
    "layers_per_block mid_block_scale_factor norm_eps norm_num_groups out_channels "
    "sample_size time_embedding_type up_block_types",
    "scheduler_config.json": "beta_end beta_schedule beta_start clip_sample "
    "num_train_timesteps trained_betas variance_type",
}
"""Fields of the first configurations."""


def test_files_in_other_forms(written, tmp_path):
    """Files in half precision, in parts, in one folder, with old names, as a pickle."""
    wanted = from_diffusers(written).params
    stem = "diffusion_pytorch_model"

    def copy(name: str) -> Any:
        shutil.copytree(written, tmp_path / name)
        return tmp_path / name

    folder = copy("fp16")
    path = folder / "unet" / f"{stem}.safetensors"
    arrays = load_file(path)
    half = {name: a.astype(np.float16) for name, a in arrays.items()}
    save_file(half, folder / "unet" / f"{stem}.fp16.safetensors")
    same = from_diffusers(folder)  # the plain file, if both exist
    jax.tree.map(np.testing.assert_array_equal, same.params, wanted)
    for run in (from_diffusers(folder, variant="fp16"), path.unlink()):
        near = (run or from_diffusers(folder)).params
        for a, b in zip(jax.tree.leaves(near), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_array_equal(a, np.float16(b).astype(np.float32))
    with pytest.raises(InputError, match="must hold weights of the variant bf16"):
        from_diffusers(folder, variant="bf16")

    folder = copy("parts")
    (folder / "unet" / f"{stem}.safetensors").unlink()
    names = sorted(arrays)
    index: dict[str, str] = {}
    for i, part in enumerate((names[:20], names[20:])):
        file = f"{stem}-0000{i + 1}-of-00002.safetensors"
        save_file({name: arrays[name] for name in part}, folder / "unet" / file)
        index |= dict.fromkeys(part, file)
    place = folder / "unet" / f"{stem}.safetensors.index.json"
    place.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    same = from_diffusers(folder)
    jax.tree.map(np.testing.assert_array_equal, same.params, wanted)
    for name, reason in (
        ("../../x.safetensors", "must name safetensors files in its folder"),
        (
            f"{stem}-00001-of-00002.safetensors",
            "must hold the tensors that its index names",
        ),
    ):
        wrong = index | {names[-1]: name}
        place.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(InputError, match=reason):
            from_diffusers(folder)

    # Format of google/ddpm-cat-256 and the others, published by version 0.0.4.
    folder = copy("flat")
    for section in ("unet", "scheduler"):
        for inner in (folder / section).iterdir():
            inner.rename(folder / inner.name)
        (folder / section).rmdir()
    for config, fields in PUBLISHED.items():
        record = json.loads((folder / config).read_text())
        record = {key: record[key] for key in ("_class_name", *fields.split())}
        record |= {"_diffusers_version": "0.0.4", "_name_or_path": "ddpm-cat-256"}
        (folder / config).write_text(json.dumps(record))
    same = from_diffusers(folder)
    jax.tree.map(np.testing.assert_array_equal, same.params, wanted)
    assert same.experiment == from_diffusers(written).experiment
    # diffusers reads the folder, too.
    torch_model = diffusers.DDPMPipeline.from_pretrained(folder)
    assert torch_model.unet.config.sample_size == 8

    folder = copy("old")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, array in arrays.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = array
    assert renamed.keys() != arrays.keys()
    save_file(renamed, folder / "unet" / f"{stem}.safetensors")
    same = from_diffusers(folder)
    jax.tree.map(np.testing.assert_array_equal, same.params, wanted)

    folder = copy("pickle")
    (folder / "unet" / f"{stem}.safetensors").unlink()
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save(state, folder / "unet" / f"{stem}.bin")
    with pytest.raises(InputError, match="a pickle, with --bin"):
        from_diffusers(folder)
    same = from_diffusers(folder, allow_bin=True)
    jax.tree.map(np.testing.assert_array_equal, same.params, wanted)


def test_from_the_shell(written, tmp_path, capsys):
    workdir, out = tmp_path / "run", tmp_path / "out"
    shell = ["jaxdiff", "import", str(written), str(workdir), "--steps", "10"]
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            shell,
            ["jaxdiff", "sample", "--workdir", str(workdir), "--num", "2"],
            ["jaxdiff", "export", str(workdir), str(out), "--sampler", "ddim"],
        ):
            patch.setattr("sys.argv", words)
            program.jaxdiff()
        for words, reason in (
            (shell, f"'{workdir}' must be a new or empty folder"),
            (["jaxdiff", "import"], "path must be a model folder"),
            (["jaxdiff", "export", str(workdir)], "path must be a new folder"),
            (["jaxdiff", "export", str(workdir), str(out)], "new or empty folder"),
            (["jaxdiff", "import", str(tmp_path / "x"), "y"], "there is no folder"),
            (
                ["jaxdiff", "evaluate", "--workdir", str(workdir)],
                "must have the run's image shape (8, 8, 3), got",
            ),
        ):
            patch.setattr("sys.argv", words)
            with pytest.raises(SystemExit) as stop:
                program.jaxdiff()
            assert stop.value.code == 2
            assert reason in capsys.readouterr().err
    assert (workdir / "samples.png").exists()
    run, again = jd.load(workdir), from_diffusers(out)
    assert run.experiment.sampling.sampler.grid(run.schedule).t.shape == (11,)
    assert isinstance(again.experiment.sampling.sampler, jd.DDIM)
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    # Failed commands leave nothing behind.
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}
