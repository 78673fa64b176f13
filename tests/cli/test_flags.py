"""Flags of the command line: one for each field of the chosen options."""

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import jaxdiff as jd
from jaxdiff.checks import bounds_of, field_types
from jaxdiff.cli.flag_errors import Outcome, explain
from jaxdiff.cli.flag_table import flags_of, read
from jaxdiff.cli.flags import option_name, parse
from jaxdiff.cli.sample import SampleOptions
from jaxdiff.cli.train import TrainOptions
from jaxdiff.conditioning.image_condition import ImageCondition, NoImage
from jaxdiff.data import TFDS, Arrays, Digits, Emoji, FashionMNIST, ImageFolder, Latents
from jaxdiff.denoisers.predictions import Eps, Prediction
from jaxdiff.errors import InputError
from jaxdiff.losses.objectives import Objective, Simple
from jaxdiff.losses.time_sampling import TimesOptions
from jaxdiff.losses.weightings import WeightingOptions
from jaxdiff.networks import (
    CrossAttentionUNetConfig,
    DiTConfig,
    EDM2Config,
    NCSNppConfig,
    NetworkOptions,
    UNetConfig,
)
from jaxdiff.networks.time_embedding import Sinusoids, TimeEmbedding
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.samplers import DDPM, SamplerOptions, Spacing
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, Variance
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Cosine, Linear, Sigmoid
from jaxdiff.serialization import union_members
from jaxdiff.training.adapter import Adapter, NoAdapter
from jaxdiff.training.experiment import Experiment, Sampling, Training
from tests.test_serialization import CHANGED

CONFIG = Experiment(
    schedule=Cosine(num_steps=77, offset=0.25),
    training=Training(num_steps=3),
    sampling=Sampling(sampler=DDPM(variance=FixedLarge()), clip=False, chunk=5),
)
"""Options of an experiment file, which differ from the defaults."""
MEMBERS = {
    "data": (Digits, FashionMNIST, ImageFolder, Emoji, TFDS, Latents, Arrays),
    "adapter": get_args(Adapter),
    "condition": get_args(ImageCondition),
    "schedule": get_args(ScheduleOptions),
    "prediction": get_args(Prediction),
    "network": get_args(NetworkOptions),
    "network.embedding": get_args(TimeEmbedding),
    "objective": get_args(Objective),
    "parallel": get_args(Parallel),
    "objective.weighting": get_args(WeightingOptions),
    "objective.times": get_args(TimesOptions),
    "sampling.sampler": get_args(SamplerOptions),
    "sampling.sampler.spacing": get_args(Spacing),
    "sampling.sampler.variance": get_args(Variance),
}
NETWORKS = {
    UNetConfig: CHANGED.network,
    NCSNppConfig: NCSNppConfig(channels=64, groups=16, middle_divisor=1.5, patch=2),
    CrossAttentionUNetConfig: CrossAttentionUNetConfig(
        widths=(8, 16),
        blocks=(1, 2),
        down=("plain", "transformer"),
        up=("blocks", "transformer"),
        heads=(2, 4),
        head_channels=(4, 2),
        layers=(1, 2),
        layers_of_each=(1, 2, 3, 4, 5, 6),
        text_only=(True, False),
        text_channels=12,
        text_groups=3,
        groups=4,
        activation="gelu",
        linear_projection=True,
        time_channels=20,
        guidance_channels=8,
        vector_channels=40,
        number_channels=8,
        added="vector-numbers",
        sample_size=(8, 4),
        attention_by="chunked",
        dropout=0.25,
    ),
    DiTConfig: DiTConfig(size="B", width=24, heads=3, scan=False, sample_size=(8, 4)),
    EDM2Config: EDM2Config(size="M", channels=32, head_channels=16, attention=(4,)),
}
"""Networks with other options than the defaults, which bound each other."""
_UNET: Any = CHANGED.network
ALL = dataclasses.replace(
    CHANGED,
    data=Digits(),
    schedule=Linear(),
    prediction=Eps(),
    adapter=NoAdapter(),
    condition=NoImage(),
    network=dataclasses.replace(_UNET, embedding=Sinusoids()),
    objective=Simple(),
    parallel=Pmap(),
    sampling=Sampling(
        guidance=2.5,
        clip=False,
        clip_range=3.0,
        clip_quantile=0.9,
        image_guidance=1.5,
        keep_eps=True,
        chunk=1,
    ),
)
"""Options that differ from the defaults in every field outside the choices."""


def run(*args: str, config: Experiment = CONFIG) -> Experiment:
    return parse([config], list(args), prog="program", description="What it is.")[0]


def refused(capsys: Any, *args: str) -> str:
    """Returns the one-line message of the InputError; nothing is printed."""
    with pytest.raises(InputError) as error:
        run(*args)
    assert capsys.readouterr() == ("", "")
    assert "\n" not in str(error.value)
    return str(error.value)


def plain(text: str) -> str:
    """Returns the text of tyro's boxes on one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│─╭╮╰╯]", " ", text).split())


def at(options: Any, path: str) -> Any:
    for name in path.split("."):
        options = getattr(options, name)
    return options


def walk(options: Any, prefix: str = "") -> list[tuple[str, type, str]]:
    """Returns path, owner and name of every field that holds no other options."""
    found = []
    for field in dataclasses.fields(options):
        value, path = getattr(options, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found += walk(value, f"{path}.")
        else:
            found.append((path, type(options), field.name))
    return found


def choices(options: Any, prefix: str = "") -> list[tuple[str, tuple[type, ...]]]:
    """Returns path and members of every field that is a choice."""
    found = []
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, path = getattr(options, field.name), f"{prefix}{field.name}"
        if union_members(hints[field.name]):
            found.append((path, union_members(hints[field.name])))
        if dataclasses.is_dataclass(value):
            found += choices(value, f"{path}.")
    return found


def arguments(path: str, value: Any) -> list[str]:
    """Returns the words that set a field to a value on the command line."""
    flag = f"--{path}".replace("_", "-")
    if isinstance(value, bool):
        head, _, name = f"--{path}".rpartition(".")
        no = f"{head}.no-{name}" if head else f"--no-{name.removeprefix('--')}"
        return [flag if value else no]
    values = value if isinstance(value, tuple) else (value,)
    return [flag, *map(str, values)]


def documentation(cls: type) -> dict[str, str]:
    """Returns the docstring of each field of a class, inherited ones included."""
    parents = [documentation(base) for base in cls.__bases__ if base is not object]
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    inherited = {name: text for parent in parents for name, text in parent.items()}
    return inherited | {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def other(value: Any, hint: Any, place: int) -> Any:
    """Returns another value of the type; instead of None, `place + 1` or "x"."""
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if value is None:
        numbers = [kind for kind in (float, int) if kind in get_args(hint)]
        return numbers[0](place + 1) if numbers else "x"
    if isinstance(value, tuple):
        names = get_args(get_args(hint)[0])  # of a Literal
        texts = ("a", "b") if str in get_args(hint) else (0.5, 0.25)
        return names[-2:] or texts
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2
    if isinstance(value, int):
        return value + 1
    return f"{value}x"


def test_the_members_are_those_of_the_experiment():
    assert dict(choices(Experiment())) == MEMBERS


@pytest.mark.parametrize(
    ("path", "member"), [(p, m) for p, members in MEMBERS.items() for m in members]
)
def test_a_member_is_chosen_by_name_with_flags_of_its_own(path, member):
    name = option_name(member)
    before = type(at(CONFIG, path))
    chosen = at(run(f"--{path}", name), path)
    assert chosen == (at(CONFIG, path) if member is before else member())
    hints = get_type_hints(member)
    fields = [
        (place, f.name, getattr(chosen, f.name))
        for place, f in enumerate(dataclasses.fields(member))
        if not dataclasses.is_dataclass(getattr(chosen, f.name))
    ]
    if path == "network":
        found = {name: getattr(NETWORKS[member], name) for _, name, _ in fields}
        values = {k: v for k, v in found.items() if v != getattr(chosen, k)}
    else:
        values = {name: other(value, hints[name], i) for i, name, value in fields}
    assert values or not fields
    flags = [a for k, v in values.items() for a in arguments(f"{path}.{k}", v)]
    for args in ([f"--{path}", name, *flags], [*flags, f"--{path}={name}"]):
        result = run(*args)
        assert at(result, path) == dataclasses.replace(chosen, **values)
        assert result.training == CONFIG.training


def test_no_flags_change_nothing():
    assert run() == CONFIG


def test_a_flag_of_the_same_choice_keeps_the_others():
    expected = Cosine(num_steps=77, offset=0.5)
    assert run("--schedule.offset", "0.5").schedule == expected
    assert run("--schedule", "cosine", "--schedule.offset", "0.5").schedule == expected
    assert run("--schedule", "linear").schedule == Linear()
    assert run("--schedule", "linear") == dataclasses.replace(CONFIG, schedule=Linear())


def test_a_choice_within_a_choice_keeps_what_is_around_it():
    result = run("--sampling.sampler.variance", "fixed-small", "--sampling.chunk", "9")
    sampler = DDPM(variance=FixedSmall())
    sampling = Sampling(sampler=sampler, clip=False, chunk=9)
    assert result == dataclasses.replace(CONFIG, sampling=sampling)


def test_several_choices_at_once():
    result = run(
        *("--schedule", "sigmoid", "--data", "tfds", "--data.label-key", "None"),
        *("--sampling.sampler.variance", "fixed-small", "--schedule.tau", "0.5"),
    )
    assert result.schedule == Sigmoid(tau=0.5)
    assert result.data == TFDS(label_key=None)
    assert result.sampling.sampler == DDPM(variance=FixedSmall())


def test_every_field_is_a_flag():
    start = Experiment()
    inside = tuple(f"{name}." for name in MEMBERS.keys() - {"network"})
    fields = [p for p, _, _ in walk(ALL) if not p.startswith(inside)]
    assert all(at(ALL, path) != at(start, path) for path in fields)
    flags = [a for path in fields for a in arguments(path, at(ALL, path))]
    assert run(*flags, config=start) == ALL


def test_values_are_checked_as_they_are_read():
    flags = flags_of([ALL])
    for path, _, _ in walk(ALL):
        name, *words = arguments(path, at(ALL, path))
        flag = flags[name.replace("_", "-")]
        value = read(words, flag.hint)
        assert flag.path == path
        assert (not value if flag.negated else value) == at(ALL, path)


def test_several_options_are_read_at_once_into_their_own_classes():
    options = [TrainOptions(workdir=Path("runs")), CONFIG]
    args = ["--workdir", "a/b", "--training.num-steps", "8"]
    where, experiment = parse(options, args, prog="p", description="")
    assert where == TrainOptions(workdir=Path("a/b"))
    assert experiment.training == Training(num_steps=8)
    args = ["--labels", "3", "4", "--num", "2", "--out", "x"]
    (sample,) = parse([SampleOptions(workdir=Path("w"))], args, "p", "")
    assert sample == SampleOptions(
        workdir=Path("w"), labels=(3, 4), num=2, out=Path("x")
    )


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--training.num-step", "--training.num-steps"),
        ("--trainin.batch-size", "--training.batch-size"),
        ("--schedule.ofset", "--schedule.offset"),
        ("--optimizer.lerning-rate", "--optimizer.learning-rate"),
        ("--sampling.sampler.varience", "--sampling.sampler.variance"),
        ("--sed", "--seed"),
    ],
)
def test_a_wrong_flag_suggests_the_right_one(capsys, wrong, right):
    message = refused(capsys, wrong, "3")
    expected = f"unrecognized option {wrong}. Perhaps you meant {right}"
    assert message == f"{expected}. See program --help"


CHOICES = ", ".join(map(option_name, MEMBERS["schedule"]))
SEE = ". See program --help"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--schedule cosin",
            f"--schedule takes one of {CHOICES}, got 'cosin'. Perhaps you meant cosine",
        ),
        ("--schedule", f"--schedule takes one of {CHOICES}, got no value"),
        ("--schedule --seed 1", f"--schedule takes one of {CHOICES}, got no value"),
        ("--seed 1.5", "--seed takes an INT, got '1.5'"),
        ("--seed=1.5", "--seed takes an INT, got '1.5'"),
        (
            "--optimizer.learning-rate fast",
            "--optimizer.learning-rate takes a FLOAT, got 'fast'",
        ),
        ("--optimizer.learning_rate", "--optimizer.learning_rate takes a FLOAT, got n"),
        (
            "--optimizer.decay cosin",
            "--optimizer.decay takes one of constant, cosine, got 'cosin'. Perhaps you",
        ),
        (
            "--network.multipliers 1 x",
            "--network.multipliers takes FLOAT FLOAT ..., got '1 x'",
        ),
        (
            "--network.multipliers 1,2",
            "--network.multipliers takes FLOAT FLOAT ..., got '1,2'. Separate",
        ),
        (
            "--parallel.num-devices two",
            "--parallel.num-devices takes an INT, got",
        ),
        # Several mistakes give one message, which never names a correct flag:
        ("--seed 1 --training.num-steps x --seed 2", "--seed must appear once, got"),
        (
            "--upkeep.keep 1 --schedule.offset x --schedule cosine --seed 2",
            "--schedule.offset takes a FLOAT, got 'x'",
        ),
        (
            "--schedule.start a --schedule sigmoid --schedule.end b",
            "--schedule.start takes a FLOAT, got 'a'",
        ),
        # Flags of a member that was not chosen:
        (
            "--schedule.beta-end 0.1",
            "unrecognized option --schedule.beta-end with --schedule cosine. Choose "
            "linear or quadratic",
        ),
        (
            "--schedule linear --schedule.offset 1",
            "unrecognized option --schedule.offset with --schedule linear. Choose "
            "cosine",
        ),
        (
            "--sampling.sampler ddim --sampling.sampler.no-clip",
            "unrecognized option --sampling.sampler.no-clip. Perhaps you meant --samp",
        ),
        ("-seed 3", "unrecognized option -seed. Perhaps you meant --seed"),
        ("--hlep", "unrecognized option --hlep. Perhaps you meant --help"),
        (
            "--sampling.no-clp",
            "unrecognized option --sampling.no-clp. Perhaps",
        ),
        ("--qqq=3", "unrecognized option --qqq"),
        (
            "extra",
            "unrecognized argument 'extra'. Name the option before its value, as in "
            "--data extra",
        ),
        (
            "--seed 1 extra",
            "unrecognized argument 'extra' after --seed, which",
        ),
        (
            "--sampling.clip True",
            "unrecognized argument 'True' after --sampling.clip, which takes no value",
        ),
        *(
            (f"{flag}=True", f"unrecognized argument 'True' after {flag}, which takes")
            for flag in ("--sampling.clip", "--sampling.no-clip", "--no-conditional")
        ),
        ("--sampling.clip True --seed x", "--sampling.clip takes no value, got 'True'"),
        # Several mistakes give a message about the first invalid value:
        ("--qqq 3 --seed x --upkeep.keep y", "--seed takes an INT, got 'x'"),
        ("--seed -x", "--seed takes an INT, got no value"),
        # Traces of a shell or a word processor:
        ("—seed 1", "'—seed' must begin with a hyphen, got '—'. Type --seed"),
        (
            "--seed \u22121",
            "'\u22121' must begin with a hyphen, got '\u2212'. Type -1",
        ),
        ("--data.cache=", "--data.cache: a value must not be empty. Give one, or leav"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(capsys, line, message):
    assert refused(capsys, *line.split()).startswith(message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--seed 1 --training.num-steps 0 --training.batch-size 8",
            "--training.num-steps: num_steps must be at least 1, got 0",
        ),
        (
            "--schedule sigmoid --training.ema-decay=2",
            "--training.ema-decay: ema_decay must lie in [0, 1), got 2",
        ),
        (
            "--upkeep.checkpoint-every 3 --seed 4 --upkeep.keep-every 7",
            "--upkeep.checkpoint-every and --upkeep.keep-every: keep_every must be a "
            "multiple of checkpoint_every (3), got 7",
        ),
        ("--seed -1", "--seed: seed must lie in 0..2^32 - 1, got -1"),
        ("--training.num-steps 0 --training.accumulate 0", ": num_steps must be at"),
    ],
)
def test_a_value_that_its_class_refuses_is_told_with_its_flag(capsys, line, message):
    text = refused(capsys, *line.split())
    assert message in text
    assert "--help" not in text  # the message holds the range itself


def test_the_answer_does_not_hang_on_the_terminal(capsys, monkeypatch):
    answers = set()
    for columns, term in (("20", "dumb"), ("200", "xterm-256color")):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("FORCE_COLOR", "1" if columns == "200" else "")
        answers.add(refused(capsys, "--schedule", "cosin"))
    assert len(answers) == 1


def test_what_tyro_refuses_besides_is_one_line_too():
    box = "\x1b[31m╭─ Title ──╮\x1b[0m\n│ It is    │\n│ so.      │\n╰──────────╯\n"
    outcome = Outcome([CONFIG], [], box)
    assert explain(outcome, ["--seed", "1"]) == "Title It is so."


def test_no_name_of_the_inside_is_shown(capsys):
    assert "part" not in refused(capsys, "--training.num-steps", "0")


@pytest.mark.parametrize(
    "args",
    [[], ["--data", "tfds", "--schedule", "linear"], ["--schedule", "sigmoid"]],
)
def test_help_lists_every_field_with_its_text(capsys, args):
    experiment = run(*args)
    with pytest.raises(SystemExit) as stop:
        run(*args, "--help")
    assert stop.value.code == 0
    text = plain(capsys.readouterr().out)
    assert "usage: program" in text
    assert "What it is." in text
    for path, owner, name in walk(experiment):
        flag = f"--{path}".replace("_", "-")
        about = documentation(owner)[name]
        value = r"(, --\S+| [A-Z{\[][^(]*?)?"
        entry = rf"{re.escape(flag)}{value} {re.escape(about)} \(default:"
        if bounds := bounds_of(field_types(owner)[name]):
            entry += rf" [^;(]*; {re.escape(bounds)}\)"
        assert re.search(entry, text), flag
    for path, members in choices(experiment):
        names = ",".join(map(option_name, members))
        first = (type(at(experiment, path)).__doc__ or "").split("\n")[0]
        entry = f"--{path} {{{names}}} {first}"  # the line may break at any name
        assert entry.replace(" ", "") in text.replace(" ", "")


def test_help_fits_80_columns_with_the_daily_groups_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "word " * 40 + "end.\n\n    python program.py   as it is"
    with pytest.raises(SystemExit):
        parse([CONFIG], ["--help"], "program", long)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) == 80
    assert "\n    python program.py   as it is\n" in text
    groups = re.findall(r"^╭─ ([\w.]+)(?: options)? ─+╮$", text, re.M)
    first = ["options", "data", "training", "sampling", "network"]
    assert groups[: len(first)] == first
    assert groups.index("upkeep") < groups.index("schedule")
    assert "--training.ema-lengths [FLOAT" in text
    assert "(default: )" not in text


def test_option_names():
    names = {
        FixedSmall: "fixed-small", Linear: "linear", UNetConfig: "unet",
        jd.DDIM: "ddim", jd.samplers.UniPC: "uni-pc", jd.DPMSolver: "dpm-solver",
        jd.losses.MinSNR: "min-snr", jd.losses.SNRPlusOne: "snr-plus-one",
        jd.losses.EDMWeighting: "edm-weighting", jd.losses.P2: "p2",
        jd.predictions.X0: "x0", jd.predictions.EDM: "edm", jd.data.TFDS: "tfds",
        jd.data.FashionMNIST: "fashion-mnist", jd.data.ImageFolder: "folder",
        jd.data.Emoji: "emoji",
        jd.spacing.UniformLogSNR: "uniform-log-snr", jd.DDPM: "ancestral",
        jd.schedules.ZeroTerminalSNR: "zero-terminal-snr",
        jd.schedules.VP: "variance-preserving", jd.schedules.VE: "variance-exploding",
        jd.schedules.RectifiedFlow: "straight-path",
    }  # fmt: skip
    assert {cls: option_name(cls) for cls in names} == names
