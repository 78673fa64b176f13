"""Compilation cache: programs are stored per kind of CPU and reused by later starts."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxdiff as jd
from jaxdiff.cli import program
from jaxdiff.parallel import processor
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage import compilation_cache
from tests.helpers.runs import TINY

SETTINGS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """Setter of JAX's cache folder; all settings are restored after the test."""
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path))
    before = {name: jax.config.values[name] for name in SETTINGS}
    yield lambda folder: jax.config.update(SETTINGS[0], folder)
    for name, value in before.items():
        jax.config.update(name, value)


def folder_now():
    return jax.config.values[SETTINGS[0]]


def test_the_command_line_keeps_programs_in_the_cache(chosen, tmp_path):
    chosen(None)
    with pytest.raises(SystemExit):
        program.main(TINY, "", args=["status", "--workdir", str(tmp_path / "none")])
    assert Path(folder_now()) == tmp_path / "compiled" / compilation_cache.kind_of_cpu()


@pytest.mark.parametrize(
    "call",
    [
        jd.load,
        jd.from_diffusers,
        lambda folder: jd.train(TINY, folder),
    ],
    ids=["load", "from_diffusers", "train"],
)
def test_python_keeps_programs_in_the_cache_too(chosen, tmp_path, call, monkeypatch):
    monkeypatch.setattr(Trainer, "of", refuse)
    chosen(None)
    with pytest.raises(jd.InputError):
        call(tmp_path / "none")
    assert Path(folder_now()) == tmp_path / "compiled" / compilation_cache.kind_of_cpu()


def refuse(*args):
    raise jd.InputError("not to be trained")


def test_a_folder_of_the_user_stays(chosen, tmp_path):
    chosen(str(tmp_path / "mine"))
    compilation_cache.enable()
    assert folder_now() == str(tmp_path / "mine")


COUNT = """
import jax, jax.monitoring
from jaxdiff.storage import compilation_cache
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
compilation_cache.enable()
jax.jit(lambda x: 2 * x + 1)(1.0)
print(*(sum(e.endswith(end) for e in events) for end in ("cache_misses", "cache_hits")))
"""


def test_a_second_start_compiles_nothing(tmp_path):
    environ = {**os.environ, "JAXDIFF_CACHE": str(tmp_path)}
    environ.pop("JAX_COMPILATION_CACHE_DIR", None)

    def start():
        line = [sys.executable, "-c", COUNT]
        result = subprocess.run(
            line, env=environ, capture_output=True, text=True, check=True
        )
        return tuple(map(int, result.stdout.split()))

    misses, hits = start()
    assert misses > 0
    assert hits == 0
    assert start() == (0, misses)


def test_a_folder_that_cannot_be_written_is_no_harm(tmp_path):
    (tmp_path / "file").touch()
    environ = {**os.environ, "JAXDIFF_CACHE": str(tmp_path / "file")}
    environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    line = [sys.executable, "-c", COUNT]
    result = subprocess.run(line, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


X86 = "processor : 0\nmodel name : A\ncpu MHz : {mhz}\nflags\t\t: {flags}\nbugs : b\n"
ARM = "processor : 0\nBogoMIPS : {mhz}\nFeatures\t: {flags}\n"


@pytest.mark.parametrize("text", [X86, ARM])
def test_a_kind_of_cpu_is_its_instructions(text, monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")

    def kind(flags, mhz):
        processor.CPUINFO.write_text(text.format(flags=flags, mhz=mhz))
        return compilation_cache.kind_of_cpu()

    assert kind("fma avx2", 1000) == kind("avx2 fma", 2000)
    assert kind("fma avx2", 1000) != kind("fma avx2 avx512f", 1000)


def test_a_kind_of_cpu_without_a_list(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert compilation_cache.kind_of_cpu() == compilation_cache.kind_of_cpu()
