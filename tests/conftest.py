"""Settings of every test: 8 host devices, and no silent broadcasting or promotion."""

import math
import os
import pathlib
import pickle
import signal
import subprocess

# More threads than devices: a device that waits in an all-reduce holds a thread.
# Without a free thread, the devices wait for each other forever.
os.environ.setdefault("NPROC", "16")
# Compilation takes most of the tests' time, and the results do not depend on the
# speed of the programs. The flags save two thirds of the compilation time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.storage.cache import cache_folder
from jaxdiff.storage.compilation_cache import kind_of_cpu
from jaxdiff.training.model import param_shapes
from tests.helpers.runs import OWN, trained

pytest_plugins = ["tests.helpers.budget"]
COMPILED = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(cache_folder() / "tests" / kind_of_cpu())
)
"""Folder of compiled programs, shared by workers, child processes and later runs."""
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore SIGINT, and child processes would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    "runs/test_crash.py",
    "parallel/test_layouts.py",
    "pretrained/test_diffusers.py",
    "cli/test_evaluate.py",
    "parallel/test_processes.py",
    "runs/test_old_run.py",
    "networks/test_networks.py",
    "losses/test_objectives.py",
    "cli/test_sample_and_compare.py",
    "evaluation/test_likelihood.py",
    "cli/test_mistakes.py",
)
"""Files with the longest tests, which start first so that no worker waits."""


def pytest_collection_modifyitems(items):
    """Sorts the longest files first; the others stay in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    folder = pathlib.Path(__file__).parent
    items.sort(
        key=lambda item: places.get(
            item.path.relative_to(folder).as_posix(), len(places)
        )
    )


@pytest.fixture
def standard_promotion():
    """Promotion of dtypes for tests with Optax, which multiplies integers by floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Folder of this test run, shared by its workers."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def _cache(shared):
    """Cache of prepared data, shared by all workers of the test run."""
    os.environ["JAXDIFF_CACHE"] = str(shared / "cache")


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    """Cleanup of compiled programs, before a process runs out of memory maps.

    Compiled programs take memory maps, and Linux gives a process 65,530. Without a
    free map, a segmentation fault kills the process.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny():
    """Network of tiny size, class-conditional, with random (not zero) outputs."""
    config = jd.UNetConfig(channels=4, multipliers=(1, 2), blocks=1, attention=())
    network = config.build(out_channels=1, num_classes=10)
    shapes = param_shapes(network, (8, 8, 1), 10)
    chance = np.random.default_rng(1)

    def random(path, leaf):
        """Returns random values as after some training: no path starts at zero."""
        name, noise = path[-1].key, chance.normal(size=leaf.shape).astype(np.float32)
        if name == "scale":
            return 1 + 0.1 * noise
        fan_in = max(math.prod(leaf.shape[:-1]), 1)
        return noise * (0.1 if name == "bias" else fan_in**-0.5)

    params = jax.tree.map_with_path(random, shapes)
    return network, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="session")
def short():
    """Schedule of 20 steps that ends in noise."""
    return jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6).build()


@pytest.fixture(scope="session")
def finished(shared):
    """Folder of a finished run, and its final state. Copy the folder to change it."""
    workdir, pickled = shared / "finished", shared / "finished.pickle"
    with filelock.FileLock(shared / "finished.lock"):
        if not pickled.exists():
            pickled.write_bytes(pickle.dumps(trained(workdir)))
    return workdir, pickle.loads(pickled.read_bytes())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Folder of a run of `OWN` without a stop, and its final state."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, trained(workdir, network=OWN)


@pytest.fixture
def disk(tmp_path):
    """File system of 1 MiB, and a function that remounts it with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no right to mount a file system: {made.stderr.strip()}")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    yield folder, remount
    subprocess.run(["umount", folder], check=True)
