"""Commands `sample` and `compare`, with any sampler."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.cli.compare import _steps
from jaxdiff.cli.sample import SampleOptions
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.cli.sampling_request import labels_of
from jaxdiff.errors import InputError
from jaxdiff.evaluation.frechet import frechet_distance
from tests.helpers.runs import TINY


def judge(images, labels, train_images, train_labels):
    """Returns an agreement that a test can compute again; no measure of quality."""
    return float(((images.mean(axis=(1, 2, 3)) > 128) == labels % 2).mean())


def command(workdir, line, **options):
    args = [*line.split(), "--workdir", str(workdir)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["experiment.py"])
        main(TINY, "What it is.", args=args, **options)


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    return shutil.copytree(finished[0], tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="module")
def run(trained):
    return jd.load(trained)


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def close(a, b):
    """Returns True if 8-bit images differ by no more than rounding."""
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


@pytest.mark.long
def test_samplers_side_by_side(trained, run, tmp_path):
    samplers = ("dpm-solver:order=3,eta=0.5", "heun:churn=2")
    command(
        trained,
        f"sample --sampler {' '.join(samplers)} --steps 4 --spacing uniform-log-snr "
        f"--guidance 2 --labels 3 8 --num 6 --seed 5 --columns 4 --out {tmp_path}",
    )
    found = arrays(tmp_path / "samples.npz")
    assert set(found) == {"labels", *(f"images_{name}" for name in samplers)}
    np.testing.assert_array_equal(found["labels"], [3, 8, 3, 8, 3, 8])
    spacing = jd.spacing.UniformLogSNR(num_steps=4)
    rules: list[Any] = [
        jd.DPMSolver(spacing=spacing, order=3, eta=0.5),
        jd.Heun(spacing=spacing, churn=2.0),
    ]
    denoiser = jd.classifier_free_guidance(run.denoiser(found["labels"]), 2.0)
    for name, rule in zip(samplers, rules, strict=True):
        expected = jd.sample(
            jd.clip_x0(denoiser), rule, run.schedule, jax.random.key(5), (6, 8, 8, 1)
        )
        assert close(found[f"images_{name}"], jd.data.to_uint8(expected))
    one = Image.open(tmp_path / "samples.png")
    assert one.height > 2 * 64  # a row per sampler
    assert one.width > 4 * 64 + 100  # and space for its name


def test_one_file_by_its_ending(trained, tmp_path):
    ask = "sample --sampler ddim --steps 5 --num 4"
    command(trained, f"{ask} --out {tmp_path / 'a.png'}")
    assert Image.open(tmp_path / "a.png").format == "PNG"
    command(trained, f"{ask} --out {tmp_path / 'a.npz'} --chunk 8")
    assert set(arrays(tmp_path / "a.npz")) == {"images", "labels"}
    command(trained, f"{ask} --out {tmp_path / 'a.gif'}")
    movie: Any = Image.open(tmp_path / "a.gif")
    assert movie.format == "GIF"
    assert movie.n_frames == 6  # the initial noise and 5 steps
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.npz", "a.png"]


def test_images_do_not_depend_on_the_chunk(trained, tmp_path):
    ask = "sample --sampler euler-ancestral --steps 6 --num 20"
    for chunk in (8, 1000):
        command(trained, f"{ask} --chunk {chunk} --out {tmp_path / f'{chunk}.npz'}")
    few, all_at_once = (
        arrays(tmp_path / f"{chunk}.npz")["images"] for chunk in (8, 1000)
    )
    assert close(few, all_at_once)


def test_a_blend_goes_from_class_to_class(trained, tmp_path):
    ask = "sample --sampler ddim --steps 5"
    command(
        trained, f"{ask} --blend 3 8 --num 15 --columns 5 --out {tmp_path / 'b.npz'}"
    )
    blend = arrays(tmp_path / "b.npz")
    np.testing.assert_allclose(
        blend["labels"][5:10, [3, 8]], np.linspace([1, 0], [0, 1], 5), atol=1e-6
    )
    for label, column in ((3, 0), (8, 4)):
        command(trained, f"{ask} --labels {label} --num 3 --out {tmp_path / 'c.npz'}")
        alone = arrays(tmp_path / "c.npz")["images"]
        assert close(blend["images"][column::5], alone)


def test_classes_have_names(run):
    named = run.info._replace(num_classes=3, class_names=("cat", "7", "tree frog"))
    run = replace(run, info=named)

    def labels(**given):
        return labels_of(run, SampleOptions(workdir=Path(), **given), 4)[0]

    np.testing.assert_array_equal(labels(labels=("tree frog", 1)), [2, 1, 2, 1])
    np.testing.assert_array_equal(labels(labels=("7",)), [1] * 4)
    np.testing.assert_array_equal(
        labels(blend=("cat", "tree frog")), labels(blend=(0, 2))
    )
    for wrong, remedy in {
        "cats": "Perhaps you meant 'cat'",
        "dog": r"Give a number or a name \(cat; 7; tree frog\)",
        "cat,7": "Separate the values with spaces only",
    }.items():
        with pytest.raises(InputError, match=f"got '{wrong}'[.] {remedy}[.]$"):
            labels(labels=(wrong,))


def test_how_samplers_are_chosen(run):
    def chosen(*samplers, steps=None, spacing=None):
        found = samplings_of(run, samplers, steps, spacing)
        return [sampling.sampler for sampling in found.values()]

    assert chosen() == [jd.DDPM()]
    assert chosen(steps=5) == [jd.DDPM(spacing=jd.spacing.Trailing(num_steps=5))]
    assert chosen("heun", steps=5) == [jd.Heun(spacing=jd.spacing.Karras(num_steps=5))]
    assert chosen("heun", spacing="leading:num-steps=3") == [
        jd.Heun(spacing=jd.spacing.Leading(num_steps=3))
    ]
    assert chosen("ancestral:variance=fixed-large", spacing="times:times=[9,4,0]") == [
        jd.DDPM(
            variance=jd.samplers.FixedLarge(),
            spacing=jd.spacing.Times(times=(9.0, 4.0, 0.0)),
        )
    ]
    assert chosen("dpm-solver:lower-order-final=false,variant=heun") == [
        jd.DPMSolver(lower_order_final=False, variant="heun")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--sampler ddm", "unknown sampler 'ddm'. Perhaps you meant 'ddim'"),
        ("--sampler ddim:et=1", "sampler 'ddim' has no option 'et'. Choose one of spa"),
        ("--sampler ddim:eta=-1", "'ddim:eta=-1': eta must be at least 0, got -1"),
        ("--sampler ddim:eta=much", "'ddim:eta=much': expected float, got 'much'"),
        ("--sampler ddim:eta", "is malformed. Write ddim:option=value,option=value"),
        ("--sampler dpm-solver:order=4", "order must lie in 1..3, got 4"),
        ("--sampler dpm-solver:variant=x", "'midpoint'"),
        ("--sampler uni-pc:variant=bh3", "'bh1'"),
        ("--sampler ddim ddim", "samplers must differ, got ddim, ddim"),
        ("--steps 0", "num_steps must be at least 1, got 0"),
        ("--steps 21", "at most the schedule's 20, got 21. Take fewer"),
        ("--spacing karas", "unknown spacing 'karas'. Perhaps you meant 'karras'"),
        ("--spacing karras:rho=0", "rho must be at least 0.1, got 0"),
        ("--spacing times", "times must have 1 or more entries, noisiest first, got"),
        ("--spacing times:times=[4,9]", "times must decrease"),
        ("--spacing times:times=[4.5,1]", "times must be integers"),
        ("--spacing times:times=[20,1]", "t must lie in 0..19, got 20"),
        ("--spacing all-times --steps 4", "'all-times' has its own number of steps"),
        ("--spacing leading:offset=7 --steps 4", "offset must lie in 0..4, got 7"),
        ("--sampler ancestral:variance=learned-range", "learns a variance"),
        ("--blend 3 10", "labels must lie in 0..9, got 10"),
        ("--blend 3 4 --labels 1", "labels and blend must not both be given"),
        ("--chunk 0", "chunk must be at least 1, got 0"),
        (
            "--sampler ddim heun --out new.gif",
            "a .gif must show one sampler, got ddim, h",
        ),
    ],
)
def test_a_wrong_request_is_one_line(run, capsys, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxdiff.cli.command.load", lambda *_, **__: run)  # for speed
    with pytest.raises(SystemExit) as stop:
        command(tmp_path, f"sample {line}")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_guidance_needs_a_model_that_knows_no_class_too(run):
    sampling = replace(run.experiment.sampling, guidance=2.0)
    with pytest.raises(InputError, match="bound to labels"):
        run.generate(None, 4, 0, sampling=sampling)
    network = replace(run.experiment.network, label_dropout=0.0)
    certain = replace(run, experiment=replace(run.experiment, network=network))
    with pytest.raises(InputError, match=r"Set network.label_dropout above 0"):
        certain.check_request(np.arange(4), 4, 0, sampling)


def test_guidance_needs_classes(tmp_path, capsys):
    """The error comes before any training."""
    with pytest.raises(SystemExit) as stop:
        command(tmp_path / "new", "train --no-conditional --sampling.guidance 2")
    assert stop.value.code == 2
    assert "guidance must be 1 for a model without classes" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_run_of_the_time_of_one_sampler_loads(trained, tmp_path, run):
    """An old config.json names no sampler, no spacing and no guidance."""
    record = json.loads((trained / "config.json").read_text())
    del record["experiment"]["sampling"]["sampler"]["type"]
    del record["experiment"]["sampling"]["sampler"]["spacing"]
    del record["experiment"]["sampling"]["guidance"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "checkpoints").symlink_to(trained / "checkpoints")
    assert jd.load(tmp_path).experiment == run.experiment


@pytest.fixture(scope="module")
def compared(trained):
    command(
        trained,
        "compare --sampler ddim heun --evaluations 6 3 --num 20 --columns 5",
        judge=judge,
    )
    return json.loads((trained / "compare.json").read_text())


def test_compare_counts_evaluations(compared):
    found = [(q["sampler"], q["evaluations"]) for q in compared["quality"]]
    assert found == [
        ("held-out images", 0),
        ("all 20 steps", 20),
        *(("ddim", 3), ("heun", 3), ("ddim", 6), ("heun", 5)),
    ]
    assert [_steps(jd.Heun(), n) for n in (1, 2, 3, 4)] == [1, 1, 2, 2]


def test_compare_judges_what_sample_draws(compared, trained, tmp_path):
    command(
        trained,
        f"sample --sampler heun --steps 3 --num 20 --out {tmp_path / 'h.npz'}",
    )
    images = arrays(tmp_path / "h.npz")["images"]
    (heun,) = (
        q
        for q in compared["quality"]
        if (q["sampler"], q["evaluations"]) == ("heun", 5)
    )
    train = np.asarray(jd.data.Digits().load("train").images)
    assert heun["agreement"] == pytest.approx(judge(images, np.arange(20) % 10, 0, 0))
    expected = frechet_distance(images / 255, train / 255)
    assert heun["distance"] == pytest.approx(expected, rel=0.02)


def test_compare_draws_pictures(compared, trained):
    wide = Image.open(trained / "compare.png")
    assert wide.width > 1000  # two panels
    rows: Any = Image.open(trained / "samplers.png")
    assert rows.height > 3 * 64  # all steps and two samplers
    assert rows.width > 5 * 64


def test_compare_without_a_judge(trained, capsys):
    command(trained, "compare --sampler ddim --evaluations 2 --num 10")
    quality = json.loads((trained / "compare.json").read_text())["quality"]
    assert [q["agreement"] for q in quality] == [None] * 3
    assert "ddim" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--num 1", "num must be at least 2, got 1"),
        ("--evaluations 0", "evaluations must be at least 1 each"),
        ("--evaluations", "evaluations must be at least 1 each"),
        ("--columns 0", "columns must be at least 1, got 0"),
        ("--sampler dim", "unknown sampler 'dim'. Perhaps you meant 'ddim'"),
        ("--evaluations 40 --sampler ddim", "at most the schedule's 20, got 40"),
    ],
)
def test_a_wrong_comparison_is_one_line(
    trained, run, capsys, monkeypatch, line, message
):
    monkeypatch.setattr("jaxdiff.cli.command.load", lambda *_, **__: run)
    with pytest.raises(SystemExit) as stop:
        command(trained, f"compare {line}")
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
