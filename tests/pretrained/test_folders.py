"""Folders as they are published: which scheduler, which weights, which entries."""

import dataclasses
import json
import shutil
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxdiff as jd
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.components.unet_2d import Model
from jaxdiff.components.unet_2d_export import unet_2d_of
from jaxdiff.components.unet_2d_names import places
from jaxdiff.components.weights import find_tensors, write_tensors
from jaxdiff.errors import InputError
from jaxdiff.pretrained import from_diffusers, pipelines, to_diffusers, write_run
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.serialization import to_dict
from tests.helpers.pytorch import diffusers, torch
from tests.pretrained.test_diffusers import changed_json

STEM = "diffusion_pytorch_model"
UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
INDEX = "model_index.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of a DDPM model with weights of 0; no network is compiled for it."""
    folder = tmp_path_factory.mktemp("written") / "model"
    config = jd.UNetConfig(
        channels=8, multipliers=(1, 2), blocks=1, attention=(), groups=4, dropout=0.0
    )
    model = Model(config, (8, 8, 3), 3, None)
    shapes = model.shapes()
    found = places(shapes, 2)
    leaves = jax.tree.leaves(found, is_leaf=lambda x: hasattr(x, "order"))
    arrays = {
        place.name: place.theirs(np.zeros(leaf.shape, np.float32))
        for leaf, place in zip(jax.tree.leaves(shapes), leaves, strict=True)
    }
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    write_tensors(folder / "unet" / f"{STEM}.safetensors", arrays)
    records = {
        UNET: {"_class_name": "UNet2DModel", **to_dict(unet_2d_of(model))},
        SCHEDULER: {"_class_name": "DDPMScheduler", "num_train_timesteps": 200},
        INDEX: {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
    }
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record))
    return folder


@pytest.fixture
def model(written, tmp_path):
    """Copy of the folder, which a test may change."""
    return shutil.copytree(written, tmp_path / "model")


def sampler_of(folder: Any, **options: Any) -> Any:
    return from_diffusers(folder, **options).experiment.sampling.sampler


def times_of(record: Any, name: str, count: int) -> Any:
    """Returns the times of our grid at which the network is evaluated."""
    scheduler = read_scheduler(record, "a file", name)
    schedule: Any = scheduler.schedule().build()
    grid: Any = scheduler.grid(count, schedule)
    levels = dataclasses.replace(grid, to_data=True).levels(schedule)
    return np.asarray(levels.t)[:-1]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "name", ["DDPM", "DDIM", "DPMSolverMultistep", "UniPCMultistep"]
)
@pytest.mark.filterwarnings("ignore:left out the step from time -1")
def test_times_are_diffusers_for_any_number_of_steps(name, spacing):
    cls = getattr(diffusers, f"{name}Scheduler")
    for offset in (0, 1) if spacing == "leading" else (0,):
        theirs = cls(timestep_spacing=spacing, steps_offset=offset)
        record = {"timestep_spacing": spacing, "steps_offset": offset}
        for count in (1, 2, 7, 27, 50, 333, 900):
            theirs.set_timesteps(count)
            wanted = theirs.timesteps.numpy()
            # With trailing, their rounding may add a time -1.
            found = times_of(record, f"{name}Scheduler", count)
            np.testing.assert_array_equal(found, wanted[wanted >= 0])


def test_a_grid_has_only_times_of_its_schedule():
    grid = jd.spacing.DiffusersGrid(num_steps=20, steps_offset=60)
    schedule = jd.Linear().build()
    with pytest.raises(InputError, match="steps_offset must leave the times below 100"):
        grid.levels(schedule)
    with pytest.raises(InputError, match="num_steps must be at most 1000 for the 1000"):
        jd.spacing.DiffusersGrid(num_steps=1001).levels(schedule)
    with pytest.raises(InputError, match="schedule must be discrete"):
        grid.levels(jd.schedules.RectifiedFlow().build())
    with pytest.raises(InputError, match="num_steps must be at least 2 for a loop"):
        jd.spacing.DiffusersGrid(num_steps=1, to_data=False).levels(schedule)


def test_the_index_names_the_scheduler(model):
    changed_json(SCHEDULER, _class_name="PNDMScheduler")(model)
    changed_json(INDEX, scheduler=["diffusers", "UniPCMultistepScheduler"])(model)
    assert isinstance(sampler_of(model), jd.samplers.UniPC)
    # Their DDIMPipeline makes a DDIMScheduler of any scheduler.
    changed_json(INDEX, _class_name="DDIMPipeline")(model)
    assert isinstance(sampler_of(model), jd.DDIM)


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (
            "DDIMScheduler",
            {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
        ),
        ("DDPMScheduler", {"timestep_spacing": "trailing"}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        (
            "DPMSolverMultistepScheduler",
            {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"},
        ),
        ("UniPCMultistepScheduler", {"timestep_spacing": "leading"}),
    ],
)
def test_a_published_setting_survives_other_steps_and_the_export(
    scheduler, options, model, tmp_path
):
    record = json.loads((model / SCHEDULER).read_text())
    record = {"num_train_timesteps": 200, **options}
    (model / SCHEDULER).write_text(json.dumps(record))
    changed_json(INDEX, scheduler=["diffusers", scheduler])(model)
    run = from_diffusers(model)
    (sampling,) = samplings_of(run, (), 17, None).values()
    wanted = sampler_of(model, num_steps=17)
    assert sampling.sampler == wanted
    theirs = getattr(diffusers, scheduler)(**record)
    theirs.set_timesteps(17)
    ours = np.asarray(wanted.grid(run.schedule).t)
    np.testing.assert_array_equal(ours[:17], theirs.timesteps.numpy())
    experiment = dataclasses.replace(run.experiment, sampling=sampling)
    exported = dataclasses.replace(run, experiment=experiment)
    call = to_diffusers(exported, tmp_path / "out")
    again = sampler_of(tmp_path / "out", num_steps=call["num_inference_steps"])
    for a, b in zip(again.grid(run.schedule), wanted.grid(run.schedule), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("pipeline", "scheduler", "steps"),
    [
        ("DDPMPipeline", "DDPMScheduler", 200),
        ("DDPMPipeline", "DDIMScheduler", 200),
        ("DDIMPipeline", "DDPMScheduler", 50),
        ("DDPMPipeline", "UniPCMultistepScheduler", 20),
        ("DiffusionPipeline", "DDIMScheduler", 50),
    ],
)
def test_default_steps_are_those_of_a_call(pipeline, scheduler, steps, model):
    changed_json(
        INDEX, _class_name=pipeline, scheduler=["diffusers", scheduler]
    )(model)  # fmt: skip
    assert sampler_of(model).spacing.num_steps == steps


@pytest.mark.parametrize(
    ("scheduler", "options", "words"),
    [
        (
            "DDPMScheduler",
            {"variance_type": "fixed_large", "timestep_spacing": "trailing"},
            "the noise that diffusers adds in the last step with variance_type fixed_l",
        ),
        (
            "DDPMScheduler",
            {"variance_type": "fixed_large", "steps_offset": 1},
            "the noise that diffusers adds in the last step with variance_type fixed_l",
        ),
        ("DDIMScheduler", {"timestep_spacing": "linspace"}, "steps by strides of 15"),
        (
            "DPMSolverMultistepScheduler",
            {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"},
            "kept the sign of the third-order term",
        ),
    ],
)
def test_an_import_says_once_where_diffusers_departs_from_the_method(
    scheduler, options, words, model
):
    (model / SCHEDULER).write_text(json.dumps({"num_train_timesteps": 200, **options}))
    changed_json(INDEX, scheduler=["diffusers", scheduler])(model)
    with pytest.warns(UserWarning, match=words) as told:
        from_diffusers(model, num_steps=13)
    assert len(told) == 1


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
def test_zero_terminal_snr_has_diffusers_least_signal(name):
    record = {
        "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }  # fmt: skip
    scheduler = read_scheduler(record, "a file", f"{name}Scheduler")
    theirs = getattr(diffusers, f"{name}Scheduler")(**record)
    theirs.set_timesteps(5)
    schedule: Any = scheduler.schedule().build()
    levels = scheduler.grid(5, schedule).levels(schedule)
    sigmas = np.asarray(levels.sigma / levels.alpha)
    np.testing.assert_allclose(sigmas, theirs.sigmas.numpy(), rtol=1e-4)


def test_entries_that_diffusers_ignores_are_named_in_a_warning(model, written):
    changed_json(UNET, dial=3, use_ema=True, sample_size=8)(model)
    changed_json(SCHEDULER, timesteps=[1], time_type="x")(model)
    with pytest.warns(UserWarning, match="ignored entries of") as told:
        run = from_diffusers(model)
    messages = [str(warning.message) for warning in told]
    assert [text.partition("does: ")[2] for text in messages] == [
        "dial, use_ema", "time_type, timesteps"
    ]  # fmt: skip
    assert run.experiment == from_diffusers(written).experiment


def test_a_short_schedule_of_a_trained_model_is_no_reason_to_warn(model, tmp_path):
    changed_json(SCHEDULER, num_train_timesteps=20)(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run = from_diffusers(model)
        write_run(run, tmp_path / "run")
        jd.load(tmp_path / "run")
    with pytest.warns(UserWarning, match="Use more steps or larger betas"):
        run.experiment.schedule.build()


def test_a_folder_without_an_index(model, written):
    (model / INDEX).unlink()
    run = from_diffusers(model)
    assert run.experiment == from_diffusers(written).experiment
    (model / SCHEDULER).unlink()
    assert from_diffusers(model).network == run.network


def emptied(name: str) -> Any:
    return lambda folder: shutil.rmtree(folder / name)


def pointer(name: str) -> Any:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (emptied("unet"), "must hold unet/config.json, the unet of its model_index"),
        (emptied("scheduler"), "must hold scheduler/scheduler_config.json, the sched"),
        (pointer(f"unet/{STEM}.safetensors"), "got a Git LFS pointer to it. Run git l"),
        (pointer(UNET), "got a Git LFS pointer to it. Run git lfs pull"),
        (
            changed_json(INDEX, text_encoder=["transformers", "CLIPTextModel"]),
            "the parts must be unet and scheduler, got scheduler, text_encoder, unet",
        ),
    ],
)
def test_what_a_folder_lacks_is_named(spoil, words, model):
    spoil(model)
    with pytest.raises(InputError) as error:
        from_diffusers(model)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_half_precision_is_named_and_the_plain_file_preferred(model):
    folder = model / "unet"
    plain = folder / f"{STEM}.safetensors"
    arrays = load_file(plain)
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_file(half, folder / f"{STEM}.fp16.safetensors")
    plain.unlink()
    with pytest.warns(UserWarning, match=f"read the variant {STEM}.fp16.safetensors"):
        assert find_tensors(folder)["conv_in.bias"].dtype == "F16"
    torch.save(
        {name: torch.from_numpy(array) for name, array in arrays.items()},
        folder / f"{STEM}.bin",
    )
    with pytest.warns(UserWarning, match=f"{STEM}.bin, a pickle, is read with --bin"):
        find_tensors(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_tensors(folder, allow_bin=True)
        assert found["conv_in.bias"].dtype == "F32"
        assert find_tensors(folder, "fp16")["conv_in.bias"].dtype == "F16"


@pytest.mark.parametrize("index", ["index.bf16", "bf16.index"])
def test_shards_of_a_variant_by_either_name_of_the_index(index, model):
    folder = model / "unet"
    plain = folder / f"{STEM}.safetensors"
    shard = f"{STEM}-00001-of-00001.bf16.safetensors"
    places = dict.fromkeys(load_file(plain), shard)
    plain.rename(folder / shard)
    path = folder / f"{STEM}.safetensors.{index}.json"
    path.write_text(json.dumps({"weight_map": places}))
    with pytest.warns(UserWarning, match=f"read the variant {path.name}"):
        assert find_tensors(folder).keys() == places.keys()
    assert find_tensors(folder, "bf16").keys() == places.keys()
    assert jax.tree.leaves(from_diffusers(model, variant="bf16").params)


PIPELINES = (
    "_class_name must be one of DDPMPipeline, DDIMPipeline, DiffusionPipeline, "
    + ", ".join(pipelines.KINDS)
)
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "MochiPipeline": (
        {
            INDEX: {
                "_class_name": "MochiPipeline",
                "text_encoder": ["transformers", "T5EncoderModel"],
                "transformer": ["diffusers", "MochiTransformer3DModel"],
                "vae": ["diffusers", "AutoencoderKLMochi"],
            }
        },
        f"{{}}/model_index.json': {PIPELINES}, got 'MochiPipeline'",
    ),
    "a pipeline with code of its own": (
        {
            INDEX: {
                "_class_name": ["pipeline_x", "XPipeline"],
                "vae": ["diffusers", "AutoencoderKL"],
            }
        },
        f"{{}}/model_index.json': {PIPELINES}, got ['pipeline_x', 'XPipeline']",
    ),
    "ConsistencyModelPipeline": (
        {
            INDEX: {
                "_class_name": "ConsistencyModelPipeline",
                "scheduler": ["diffusers", "CMStochasticIterativeScheduler"],
                "unet": ["diffusers", "UNet2DModel"],
            }
        },
        f"{{}}/model_index.json': {PIPELINES}, got 'ConsistencyModelPipeline'. Import "
        "its network alone from '{}/unet'.",
    ),
    "DDPMPipeline without its parts": (
        {
            INDEX: {
                "_class_name": "DDPMPipeline",
                "scheduler": ["diffusers", "DDPMScheduler"],
                "unet": ["diffusers", "UNet2DModel"],
            }
        },
        "{}' must hold unet/config.json, the unet of its model_index.json, got none. "
        "Download the whole folder.",
    ),
    "FluxTransformer2DModel": (
        {"transformer/config.json": {"_class_name": "FluxTransformer2DModel"}},
        "{}' must hold the model_index.json of a pipeline with transformer, got none. "
        "Download the whole folder.",
    ),
    "VQModel without an index": (
        {UNET: {}, "vqvae/config.json": {"_class_name": "VQModel"}},
        "{}' must hold the model_index.json of a pipeline with vqvae, got none. "
        "Download the whole folder.",
    ),
    "ControlNetModel": (
        {"config.json": {"_class_name": "ControlNetModel"}},
        "{}/config.json': _class_name must be UNet2DModel, got 'ControlNetModel'. "
        "Import the whole pipeline of a network with text.",
    ),
    "UNet2DConditionModel": (
        {UNET: {"_class_name": "UNet2DConditionModel"}},
        "{}/unet/config.json': _class_name must be UNet2DModel, got "
        "'UNet2DConditionModel'. Import the whole pipeline of a network with text.",
    ),
    "DDIMScheduler": (
        {"scheduler_config.json": {"_class_name": "DDIMScheduler"}},
        "{}' must hold a network (unet/config.json or config.json), got only a "
        "scheduler. Name the folder of the whole model.",
    ),
    "DDPMScheduler in its folder": (
        {SCHEDULER: {"_class_name": "DDPMScheduler"}},
        "{}' must hold a network (unet/config.json or config.json), got only a "
        "scheduler. Name the folder of the whole model.",
    ),
    "an empty folder": (
        {},
        "{}' must hold model_index.json, config.json or unet/config.json, got none. "
        "Name a folder that diffusers wrote.",
    ),
}  # fmt: skip
"""Kinds of published folders, as stand-ins, and the lines that refuse them."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_folder_is_refused_in_one_line_that_names_what_is_missing(
    kind, tmp_path
):
    files, line = KINDS[kind]
    for name, record in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(record))
    with pytest.raises(InputError) as error:
        from_diffusers(tmp_path)
    assert str(error.value) == "'" + line.replace("{}", str(tmp_path))


@pytest.mark.parametrize("way", ["index", "no index", "network", "scheduler"])
def test_each_warning_of_an_import_is_given_once(way, model, tmp_path):
    changed_json(UNET, dial=3)(model)
    changed_json(SCHEDULER, dial=4)(model)
    path = {"network": model / "unet", "scheduler": model / "scheduler"}.get(way, model)
    if way != "index":
        (model / INDEX).unlink()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if way == "scheduler":
            with pytest.raises(InputError, match="got only a scheduler"):
                from_diffusers(path)
        else:
            run = from_diffusers(path)
            if way == "index":  # writing is the same for every way
                write_run(run, tmp_path / "run")
    files = {"network": [UNET], "scheduler": []}.get(way, [UNET, SCHEDULER])
    wanted = [f"ignored entries of '{model / file}'" for file in files]
    assert [str(one.message).partition(" that ")[0] for one in told] == wanted
