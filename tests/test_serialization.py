"""Configurations as plain data: nothing is lost, and unknown fields are errors."""

import copy
import dataclasses
import json
from typing import Any, get_args, get_type_hints

import pytest

from jaxdiff.conditioning.image_condition import ImageCondition
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data import TFDS, Arrays, Digits, Emoji, FashionMNIST, ImageFolder, Latents
from jaxdiff.denoisers.predictions import EDM, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.consistency import Consistency, Pairs
from jaxdiff.losses.objectives import Bound, Hybrid, Objective, Simple
from jaxdiff.losses.time_sampling import LogNormal, TimesOptions
from jaxdiff.losses.weightings import MinSNR, WeightingOptions
from jaxdiff.networks import NetworkOptions, UNetConfig
from jaxdiff.networks.time_embedding import Fourier, TimeEmbedding
from jaxdiff.parallel import Parallel, Sharded
from jaxdiff.samplers import DDIM, DDPM, Euler, Karras, SamplerOptions, Spacing
from jaxdiff.samplers.ancestral import Variance
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Cosine, Linear, Sigmoid
from jaxdiff.serialization import differences, from_dict, to_dict, union_members
from jaxdiff.training.adapter import Adapter, LowRank
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

CHANGED = Experiment(
    data=TFDS(
        name="mnist",
        train_split="a",
        test_split="b",
        image_key="i",
        label_key=None,
        data_dir="d",
        flip=False,
        stream=True,
    ),
    conditional=False,
    caption_dropout=0.5,
    tokenizer="t",
    condition=LowResolution(factor=4, augmentation=0.3),
    prediction=EDM(learn_variance=True, data_deviation=0.3),
    objective=Hybrid(
        weighting=MinSNR(gamma=3.0),
        bound_weight=0.1,
        times=LogNormal(mean=0.5, deviation=2.0),
    ),
    schedule=Sigmoid(num_steps=7, start=-1.5, end=2.5, tau=0.1, max_beta=0.9),
    network=UNetConfig(
        channels=12,
        multipliers=(1, 3),
        blocks=1,
        attention=(),
        patch=2,
        middle_groups=3,
        class_embedding="time",
        center_input=True,
        condition_channels=2,
        image_level=True,
        heads=3,
        head_channels=6,
        middle="no-attention",
        groups=4,
        smallest_group=1,
        epsilon=1e-3,
        scale_shift=True,
        resample="blocks",
        padding="both",
        embedding=Fourier(scale=3.0, divide=True),
        second_time=True,
        dropout=0.3,
        label_dropout=0.0,
        null_class=False,
        dtype="bfloat16",
        remat="cheap",
    ),
    adapter=LowRank(rank=3, alpha=1.5, targets=("to_q",)),
    optimizer=Optimizer(
        learning_rate=1e-3,
        warmup_steps=0,
        decay="cosine",
        beta_1=0.1,
        beta_2=0.2,
        epsilon=1e-3,
        weight_decay=1 / 3,
        clip_norm=5e-324,
    ),
    training=Training(
        num_steps=3,
        batch_size=5,
        ema_decay=0.0,
        ema_lengths=(0.05, 0.1),
        accumulate=5,
        steps_per_dispatch=2,
        nonfinite="skip",
        max_skips=1,
    ),
    parallel=Sharded(data=2, fsdp=3),
    init="i",
    seed=2**32 - 1,
    upkeep=Upkeep(
        log_every=3,
        checkpoint_every=9,
        checkpoint_minutes=1.5,
        keep=1,
        keep_every=18,
        keep_best="loss",
        sample_every=6,
        sample_prompts=("a", "b"),
        sample_steps=5,
        snapshots=9,
        tensorboard=False,
    ),
    sampling=Sampling(
        sampler=Euler(
            spacing=Karras(
                num_steps=7,
                to_data=False,
                skip_last=True,
                rho=3.0,
                sigma_min=0.1,
                sigma_max=9.0,
            ),
            churn=1.0,
            churn_min=0.5,
            churn_max=5.0,
            churn_noise=1.1,
        ),
        guidance=2.5,
        clip=False,
        clip_range=2.5,
        clip_quantile=0.9,
        image_guidance=1.5,
        keep_eps=True,
        chunk=1,
    ),
)
"""Experiment in which no field has its default."""
VARIANTS = [
    *(
        Experiment(data=d)
        for d in (
            Digits(flip=True),
            Emoji(size=8),
            FashionMNIST(path="p"),
            ImageFolder(path="p"),
            TFDS(name="mnist"),
            Arrays(flip=True),
            Latents(path="p"),
        )
    ),
    *(Experiment(schedule=member()) for member in get_args(ScheduleOptions)),
    *(Experiment(prediction=member()) for member in get_args(Prediction)),
    *(Experiment(network=member()) for member in get_args(NetworkOptions)),
    *(Experiment(adapter=member()) for member in get_args(Adapter)),
    *(Experiment(condition=member()) for member in get_args(ImageCondition)),
    *(
        Experiment(network=UNetConfig(embedding=member()))
        for member in get_args(TimeEmbedding)
    ),
    *(Experiment(objective=member()) for member in get_args(Objective)),
    *(Experiment(objective=Consistency(pairs=member())) for member in get_args(Pairs)),
    *(Experiment(parallel=member()) for member in get_args(Parallel)),
    *(
        Experiment(objective=Simple(weighting=member()))
        for member in get_args(WeightingOptions)
    ),
    *(Experiment(objective=Bound(times=member())) for member in get_args(TimesOptions)),
    *(
        Experiment(sampling=Sampling(sampler=DDPM(variance=member())))
        for member in get_args(Variance)
    ),
    *(
        Experiment(sampling=Sampling(sampler=member()))
        for member in get_args(SamplerOptions)
    ),
    *(
        Experiment(sampling=Sampling(sampler=DDIM(spacing=member())))
        for member in get_args(Spacing)
    ),
]


def leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dicts by their dotted paths."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        path = f"{prefix}{name}"
        found |= leaves(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def parts(options: Any) -> list[Any]:
    """Returns the options and all option classes in them."""
    values = [getattr(options, f.name) for f in dataclasses.fields(options)]
    below = [parts(value) for value in values if dataclasses.is_dataclass(value)]
    return [options, *(part for found in below for part in found)]


def through_json(options: Any) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(options), allow_nan=False))


def changed(path: str, value: Any) -> dict[str, Any]:
    """Returns the default experiment with another value at a path, as plain data."""
    data = copy.deepcopy(through_json(Experiment()))
    *parents, name = path.split(".")
    inner = data
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    return data


@pytest.mark.parametrize("experiment", [Experiment(), CHANGED, *VARIANTS])
def test_an_experiment_survives_json(experiment):
    again = from_dict(Experiment, through_json(experiment))
    assert again == experiment
    assert hash(again) == hash(experiment)
    assert list(map(type, parts(again))) == list(map(type, parts(experiment)))
    assert to_dict(again) == to_dict(experiment)


def test_the_round_trips_cover_every_field_and_every_member():
    for part in parts(CHANGED):
        for field in dataclasses.fields(part):
            default = getattr(type(part)(), field.name)
            assert getattr(part, field.name) != default, field.name
    seen = {type(part) for variant in VARIANTS for part in parts(variant)}
    for part in parts(Experiment()):
        for hint in get_type_hints(type(part)).values():
            assert set(union_members(hint)) <= seen


def test_the_type_of_a_member_is_in_the_data():
    for variant in VARIANTS:
        data = to_dict(variant)
        assert data["data"]["type"] == type(variant.data).__name__
        assert data["schedule"]["type"] == type(variant.schedule).__name__
        sampler = variant.sampling.sampler
        found = data["sampling"]["sampler"]
        assert found["type"] == type(sampler).__name__
        assert found["spacing"]["type"] == type(sampler.spacing).__name__
        if isinstance(sampler, DDPM):
            assert found["variance"]["type"] == type(sampler.variance).__name__


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("bogus", 1, ("bogus",)),
        ("training.bogus", 1, ("training", "bogus")),
        ("schedule.bogus", 1, ("schedule", "bogus")),
        (
            "sampling.sampler.variance",
            {"type": "FixedSmall", "bogus": 1},
            ("sampling.sampler.variance", "bogus"),
        ),
        ("seed", "x", ("seed", "int")),
        ("training.num_steps", "abc", ("training.num_steps", "int")),
        ("training.num_steps", None, ("training.num_steps", "int")),
        ("training.num_steps", [1], ("training.num_steps", "int")),
        ("training", 3, ("training",)),
        ("training", [], ("training",)),
        ("schedule", 3, ("schedule",)),
        ("schedule", None, ("schedule",)),
        ("schedule.num_steps", "x", ("schedule.num_steps",)),
        ("network.multipliers", 3, ("network.multipliers",)),
        ("network.multipliers", ["a"], ("network.multipliers",)),
        ("network.dtype", "float16", ("network.dtype", "float16", "bfloat16")),
        ("optimizer.decay", "cosin", ("optimizer.decay", "cosin", "cosine")),
        ("schedule.type", "Cosin", ("schedule",)),
        ("sampling.sampler.variance", {}, ("sampling.sampler.variance",)),
        ("data", {"type": "Mnist"}, ("data",)),
        ("training.num_steps", 0, ("training",)),
        ("upkeep.keep_every", 7, ("upkeep",)),
    ],
)
def test_wrong_data_is_refused_by_the_name_of_its_field(path, value, words):
    with pytest.raises(InputError) as error:
        from_dict(Experiment, changed(path, value))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.num_steps", "12"),
        ("training.num_steps", 1.7),
        ("training.num_steps", True),
        ("optimizer.clip_norm", "1"),
        ("conditional", "false"),
        ("conditional", 2),
        ("data", {"type": "Folder", "channels": True}),
        ("data", {"type": "Folder", "channels": 1.0}),
        ("optimizer.clip_norm", float("inf")),
        ("optimizer.clip_norm", float("nan")),
        ("optimizer.clip_norm", 10**400),
        ("training.num_steps", 2**63),
        ("network.multipliers", "12"),
        ("data", {"type": "Tfds", "name": 3}),
    ],
)
def test_a_value_is_never_made_into_another_type(path, value):
    with pytest.raises(InputError, match=path.replace(".", r"\.")):
        from_dict(Experiment, changed(path, value))


@pytest.mark.parametrize("name", ["seed", "training", "schedule"])
def test_a_missing_field_takes_its_default(name):
    data = through_json(Experiment())
    del data[name]
    assert from_dict(Experiment, data) == Experiment()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.num_steps", 0, "num_steps must be at least 1, got 0"),
        ("seed", -1, "seed must lie in"),
        ("upkeep.keep_every", 7, r"multiple of checkpoint_every \(5000\), got 7"),
        ("schedule.type", "Cosin", "(?=.*'Cosin').*Cosine"),
        ("data", {"type": "Mnist"}, "(?=.*'Mnist').*TFDS"),
        ("sampling.sampler.variance", {}, "(?=.*type).*FixedSmall"),
    ],
)
def test_the_reason_for_refusing_a_value_is_told(path, value, words):
    with pytest.raises(InputError, match=words):
        from_dict(Experiment, changed(path, value))


@pytest.mark.parametrize("data", ["abc", [1], None, 3])
def test_data_that_is_no_object_is_refused(data):
    with pytest.raises(InputError, match="Experiment"):
        from_dict(Experiment, data)


def test_whole_numbers_are_floats_too():
    """Other programs write 1.0 as 1 in JSON."""
    again = from_dict(Experiment, changed("optimizer.clip_norm", 1))
    assert again == Experiment()
    assert type(again.optimizer.clip_norm) is float


def test_differences_are_dotted_paths_with_both_values():
    old = {"a": 1, "b": {"c": [1, 2], "d": {"e": "x"}}, "same": {"f": None}}
    new = {"a": 2, "b": {"c": [1], "d": {"e": "y"}, "g": 0}, "same": {"f": None}}
    assert differences(old, new) == [
        "a: 1, not 2",
        "b.c: [1, 2], not [1]",
        "b.d.e: 'x', not 'y'",
        "b.g: None, not 0",
    ]
    assert differences({"a": {"b": 1}}, {"a": 3}) == ["a: {'b': 1}, not 3"]


def test_every_changed_field_is_a_difference():
    old, new = through_json(Experiment()), through_json(CHANGED)
    assert differences(old, old) == []
    paths = [line.split(":")[0] for line in differences(old, new)]
    expected = leaves(old).keys() | leaves(new).keys()
    # An option class that the other sampler lacks is one difference.
    name = "sampling.sampler.variance"
    expected = {name if path.startswith(name) else path for path in expected}
    # An absent field equals None, and one data set's `flip` is another's default.
    same = {"data.label_key", "data.flip", "parallel.num_devices", "network.type"}
    assert set(paths) == expected - same
    assert len(set(paths)) == len(paths)
    assert "training.num_steps: 800000, not 3" in differences(old, new)
    assert "schedule.type: 'Linear', not 'Sigmoid'" in differences(old, new)
    turned = [line.split(":")[0] for line in differences(new, old)]
    assert sorted(turned) == sorted(paths)


@pytest.mark.parametrize("experiment", [Experiment(), CHANGED, *VARIANTS])
def test_options_are_frozen_and_hashed_by_value(experiment):
    for part in parts(experiment):
        same = type(part)(**{k: getattr(part, k) for k in vars(part)})
        assert same == part
        assert hash(same) == hash(part)
        for field in dataclasses.fields(part):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, field.name, getattr(part, field.name))
    others = [e for e in (Experiment(), CHANGED) if e != experiment]
    assert len({experiment, *others}) == 1 + len(others)


def test_union_members_are_those_of_a_union_of_options():
    assert union_members(Linear | Cosine) == (Linear, Cosine)
    assert union_members(str | None) == ()
    assert union_members(tuple[int, ...]) == ()
    assert union_members(int) == ()
