import ast
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest

import jaxdiff as jd
from experiments.benchmark import (
    diffusers_peer,
    networks,
    parts,
    programs,
    rows,
)
from experiments.benchmark.__main__ import main, read
from experiments.benchmark.networks import cpu_device
from experiments.benchmark.parts import PartCase
from experiments.benchmark.peer import against_peer, peer_rows
from experiments.benchmark.rows import Row
from experiments.benchmark.trainer import Alternating, feed, trainer
from jaxdiff.parallel import processor
from jaxdiff.runs.folder import training_part
from jaxdiff.runs.trainer import Trainer
from jaxdiff.typing import Condition
from tests.helpers.pytorch import diffusers, torch

TINY = jd.UNetConfig(channels=16, multipliers=(1,), blocks=1, attention=(), dropout=0.0)
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmark"
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Network that takes no time; the devices of the tests are already set up."""
    monkeypatch.setitem(networks.NETWORKS, "tiny", ((8, 8, 1), TINY, 64, 64))
    monkeypatch.setitem(programs.MATMUL, "cpu", 8)
    monkeypatch.setattr("experiments.benchmark.__main__.set_up", lambda options: None)


def options(*words):
    return read(
        [
            "--networks",
            "tiny",
            "--dtypes",
            "float32",
            "--rounds",
            "1",
            "--devices",
            "1",
            *words,
        ]
    )


def fake_peer(*rows, before="", code=0):
    """Returns the command of a program that prints these rows."""
    lines = "\n".join(json.dumps(row) for row in rows)
    program = f"import sys; print({before + lines!r}); sys.exit({code})"
    return shlex.join([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("name", "size"),
    [("small", 6_469_889), ("cifar", 35_746_307), ("dit-s", 32_558_992),
     ("dit-b", 129_748_240)],
)  # fmt: skip
def test_the_networks_have_their_sizes(name, size):
    shape, config, _, _ = networks.NETWORKS[name]
    network = config.build(shape[-1])
    arrays = (np.zeros((1, *shape), np.float32), np.zeros(1, np.int32))
    params = jax.eval_shape(network.init, jax.random.key(0), *arrays)["params"]
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(
    ("name", "size"), [("unet-sd15", 859_520_964), ("decoder", 49_490_199)]
)
def test_the_parts_have_their_sizes(name, size):
    case = PartCase(name, "float32")
    shapes = jax.eval_shape(case._init, jax.random.key(0), *case.inputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == size


def test_the_peers_networks_have_the_same_sizes():
    found = {}
    for name, network in diffusers_peer.NETWORKS.items():
        with torch.device("meta"):
            made = getattr(diffusers, network.kind)(**network.options)
        part = made.decoder if name == "decoder" else made
        found[name] = sum(parameter.numel() for parameter in part.parameters())
    # The decoder has a 1x1 convolution before it here. Each block of their
    # transformers embeds the time and the class again.
    assert found == {
        "small": 6_469_889, "cifar": 35_746_307, "unet-sd15": 859_520_964,
        "decoder": 49_490_199 - 20, "dit-s": found["dit-s"], "dit-b": found["dit-b"],
    }  # fmt: skip
    assert found["dit-s"] > 32_558_992
    assert found["dit-b"] > 129_748_240


def test_a_part_is_evaluated_on_one_device(monkeypatch, tmp_path):
    small: dict[str, Any] = {"widths": (8, 8), "blocks": 1, "groups": 4}
    monkeypatch.setattr(
        parts, "AutoencoderKLConfig", partial(parts.AutoencoderKLConfig, **small)
    )
    monkeypatch.setitem(parts.SIZES, "decoder", 4)
    out = tmp_path / "lines.jsonl"
    main(
        ["--networks", "decoder", "--dtypes", "float32", "--rounds", "1", "--batch",
         "2", "--out", str(out)]
    )  # fmt: skip
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["what"], row["network"], row["batch"]) == ("forward", "decoder", 2)
    assert row["images_per_s"] == pytest.approx(2 / row["seconds"])
    assert row["memory_mb"] > 0


@pytest.mark.long
def test_the_unet_is_evaluated_with_guidance(monkeypatch):
    small: dict[str, Any] = {
        "widths": (32, 32), "blocks": (1, 1), "heads": (1, 1), "layers": (1, 1),
        "down": ("transformer", "plain"), "up": ("plain", "transformer"),
        "text_only": (False, False),
    }  # fmt: skip
    monkeypatch.setattr(
        parts, "CrossAttentionUNetConfig",
        partial(parts.CrossAttentionUNetConfig, **small),
    )  # fmt: skip
    monkeypatch.setitem(parts.SIZES, "unet-sd15", 4)
    case = PartCase("unet-sd15", "float32")
    latents, *texts = case.inputs
    params = jax.tree.map(lambda leaf: 20 * leaf, case.params)
    given, base = (
        case._module.apply(
            {"params": params}, latents, np.full(1, parts.TIME), Condition(text=text)
        )
        for text in texts
    )  # fmt: skip
    found = case.evaluate(params, *case.inputs)
    expected = base + parts.GUIDANCE * (given - base)
    assert abs(given - base).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_peer_prints_what_is_read(monkeypatch, capsys):
    tiny = diffusers_peer.Network(
        "UNet2DModel", diffusers_peer.unet(1, (32, 32), 1), (1, 8, 8), 4, 4
    )
    monkeypatch.setitem(diffusers_peer.NETWORKS, "tiny", tiny)
    diffusers_peer.main(["--networks", "tiny", "--modes", "eager", "--dtypes",
                         "float32"])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    found = peer_rows(options("--peer", fake_peer(*map(json.loads, lines))))
    key = ("tiny", "eager", "float32")
    assert [*found] == [(*key, "forward", 4), (*key, "train_step", 4)]
    assert all(json.loads(line)["peak_mb"] > 0 for line in lines)


def test_speeds_of_a_tiny_network(tmp_path, capsys):
    out = tmp_path / "lines.jsonl"
    main(
        [
            "--networks", "tiny", "--dtypes", "float32", "--rounds", "1",
            "--devices", "1", "--what", "forward", "train_step",
            "--peak-tflops", "1", "--out", str(out),
        ]
    )  # fmt: skip
    rows = {row["what"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert rows.keys() == {"forward", "train_step"}
    for row in rows.values():
        assert row["images_per_s"] == pytest.approx(64 / row["seconds"])
        assert 0 < row["mfu"] < 1
        assert row["memory_mb"] >= row["temp_mb"] > 0
        assert row["on"]["devices"]["count"] == 8  # one of them works
        assert "jax" in row["on"]["versions"]
    flops = {what: row["gflop_per_image"] for what, row in rows.items()}
    assert flops["train_step"] == pytest.approx(3 * flops["forward"], rel=0.05)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["what", "network", "dtype", "batch"]
    assert len(lines) == 2


def test_markdown_names_the_machine(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "processor\t: 0\nmodel name\t: A Chip 9\nflags\t\t: fpu avx2 amx_bf16 sse\n"
    )
    monkeypatch.setattr(processor, "CPUINFO", info)
    rows.here.cache_clear()
    text = rows.markdown([{"what": "forward", "ratio": 1.23456}, {"what": "sample"}])
    head, empty, *lines = text.splitlines()
    assert re.match(
        r"\d+ cores of A Chip 9 \(avx2, amx_bf16\); \d+ devices; python .*, jax 0\.\d+"
        r".*; 20\d\d-\d\d-\d\d$", head
    )  # fmt: skip
    assert empty == ""
    assert lines == [
        "| what | ratio |", "| --- | --- |", "| forward | 1.235 |", "| sample |  |"
    ]  # fmt: skip
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert rows.name_of_processor() == platform.machine()
    assert rows.instructions() == []
    rows.here.cache_clear()


def test_what_the_trainer_is_given_can_be_recorded():
    case = networks.Case.of(options(), "tiny", "float32")
    found = training_part(case.trainer.experiment, case.trainer.info)
    assert found["info"]["image_shape"] == [8, 8, 1]
    assert found["info"]["fingerprint"] == case.trainer.dataset.fingerprint()


@pytest.mark.long
def test_the_trainer_against_its_step():
    rows: list[Row] = []
    trainer(options("--what", "trainer", "--segment", "1"), rows.append)
    (row,) = rows
    assert 0 < row["ratio"] < 10
    assert 0 < row["ratio_saved"] < 10
    assert row["images_per_s"] == pytest.approx(64 / row["seconds"])


def test_segments_alternate(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    taken = []

    class Inner:
        info = "the trainer's"

        def advance(self, state, batch):
            taken.append(batch)
            return state, None

    job: Any = Alternating(cast(Trainer, Inner()), segment=2, first=3)
    assert job.info == "the trainer's"
    for i in range(8):
        job.advance(np.zeros(1), i)
    # From step 3 on, two bare steps of a batch alternate with two training steps.
    assert taken == [0, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7, 7, 7]
    assert job.times == {"bare": [0.5] * 3, "loop": [0.5] * 2}


def test_ratios_to_a_peer():
    row = {"config": "tiny", "dtype": "float32", "what": "sample", "batch": 16}
    peer = fake_peer(
        {**row, "mode": "eager", "images_per_s": 1e-3},
        {**row, "mode": "compile", "images_per_s": 1e9},
        {**row, "config": "other", "images_per_s": 1.0},
        before="not JSON\n[1]\n",
    )
    rows: list[Row] = []
    against_peer(options("--peer", peer, "--pairs", "2", "--steps", "2"), rows.append)
    slow, fast = rows
    assert (slow["peer_mode"], fast["peer_mode"]) == ("eager", "compile")
    assert slow["batch"] == 16
    assert slow["pairs"] == 2
    assert fast["ratio"] < 1 < slow["ratio"]
    assert slow["ratio"] == pytest.approx(1e12 * fast["ratio"])
    assert slow["low"] <= slow["ratio"] <= slow["high"]


def test_what_a_line_of_the_peer_lacks():
    peer = fake_peer({"images_per_s": 5})
    found = peer_rows(options("--peer", peer, "--what", "sample"))
    assert found == {("tiny", "", "float32", "sample", None): 5.0}


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("", "must be a command"),
        ("'", "No closing quotation"),
        ("no-such-program-here", "cannot run"),
        (fake_peer(code=3), "ended with code 3"),
        (fake_peer({"what": "forward"}), "must print JSON lines with images_per_s"),
        (fake_peer({"images_per_s": 1, "what": "?"}), "got none of the requested rows"),
        (fake_peer({"images_per_s": "1"}), "must be above 0"),
        (fake_peer({"images_per_s": 1, "batch": 0}), "must be at least 1"),
    ],
)
def test_a_bad_peer_is_told_in_one_line(peer, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--peer", peer])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "0"],
        ["--batch", "x"],
        ["--peak-tflops", "nan"],
        ["--networks", "large"],
        ["--growth", "--what", "trainer"],
        ["--growth", "--compile"],
        ["--out", "/no/such/folder/lines"],
        ["--networks", "tiny", "--batch", "3"],
        ["--networks", "tiny", "decoder"],
        ["--networks", "decoder", "--what", "sample"],
    ],
)
def test_wrong_options_end_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("start", [[str(FOLDER)], ["-m", "experiments.benchmark"]])
def test_it_starts_as_a_folder_and_as_a_module(start, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    where = ROOT if start[0] == "-m" else tmp_path
    command = [sys.executable, *start, "--rounds", "0"]
    result = subprocess.run(command, capture_output=True, text=True, env=env, cwd=where)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "benchmark: error: argument --rounds: must be at least 1, got 0"
    )


def test_operations_are_not_counted_without_a_cpu(monkeypatch):
    def none(backend):
        raise RuntimeError("no such backend")

    monkeypatch.setattr(jax, "local_devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(jd.InputError, match=r"contain cpu, got 'cuda'"):
        cpu_device()


@pytest.mark.parametrize(
    "path",
    sorted({*FOLDER.glob("*.py")} - {FOLDER / "diffusers_peer.py"}),
    ids=lambda path: path.stem,
)
def test_it_imports_what_jaxdiff_needs_and_no_more(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    needed = {"experiments", "jaxdiff", "jax", "flax", "optax", "numpy"}
    assert found - sys.stdlib_module_names <= needed


@pytest.mark.long
def test_the_feed_against_the_step():
    rows: list[Row] = []
    cache = os.environ["JAXDIFF_CACHE"]
    feed(options("--what", "feed"), rows.append)
    assert os.environ["JAXDIFF_CACHE"] == cache
    assert [row["source"] for row in rows] == ["memory", "disk"]
    for row in rows:
        assert row["ratio"] > 0
        assert row["ratio_to"] == "train_step"
        assert row["images_per_s"] == pytest.approx(64 / row["seconds"])
