"""Processes of one run: start by the launchers, failures and signals."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import jax
import pytest
import yaml

import jaxdiff as jd
from jaxdiff.errors import InputError
from jaxdiff.parallel import processes
from jaxdiff.storage import json_lines
from tests.helpers.crash import processes_of

ROOT = pathlib.Path(jd.__file__).parent.parent
LAUNCHERS = ["local", "slurm", "gke", "tpu"]
COUNT = (
    "import os, sys; from jaxdiff import hosts; hosts.join(); import jax; "
    "print('is', jax.process_index(), 'of', jax.process_count(), sys.argv[1:])"
)
"""Program that joins the other processes and prints its rank and the world size."""
TRICKY = ["--a=b c", "it's", '"$HOME"', "back\\slash", "*", ""]
"""Arguments that a careless shell script would change."""


def environment(**more):
    """Returns the environment of a new process, which finds this package.

    The process shares the compiled programs of the tests. Other variables of JAX are
    removed.
    """
    kept = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if name in kept or not name.startswith(("JAX_", "NPROC"))
        },
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        **more,
    }


def launch(line, *args, **options):
    return subprocess.run(
        [*line.split(), *args], cwd=options.pop("cwd", ROOT), text=True, timeout=120,
        env=environment(**options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Arguments of the calls of `jax.distributed.initialize`."""
    calls = []

    def initialize(address=None, count=None, process=None, **options):
        calls.append((address, count, process, options["cluster_detection_method"]))
        assert options["heartbeat_timeout_seconds"] <= 60  # time that others may hang

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


def test_alone_nothing_is_joined(asked):
    processes.join({})
    processes.join(dict.fromkeys(processes.GIVEN, ""))
    assert not asked


def test_the_environment_is_followed(asked):
    processes.join(dict(zip(processes.GIVEN, ("node-1:8476", "4", "3"), strict=True)))
    processes.join({"JAXDIFF_CLUSTER": "slurm"})
    processes.join({"JAXDIFF_CLUSTER": "tpu"})
    assert asked == [
        ("node-1:8476", 4, 3, "deactivate"),
        (None, None, None, "slurm"),
        (None, None, None, None),  # JAX detects the kind of TPU
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("node:1", "2", ""), "must come with JAX_PROCESS_ID. Set all three, or none"),
        (("", "2", ""), "must come with JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID"),
        (("node", "2", "1"), "JAX_COORDINATOR_ADDRESS must be host:port, got 'node'"),
        (("node:x", "2", "1"), "must be host:port, got 'node:x'"),
        (("node:1", "two", "1"), "JAX_NUM_PROCESSES must be an integer, got 'two'"),
        (("node:1", "2", "-1"), "JAX_PROCESS_ID must be an integer, got '-1'"),
        (("node:1", "2", "2"), "JAX_PROCESS_ID must be below JAX_NUM_PROCESSES"),
    ],
)
def test_an_environment_that_cannot_be_right(asked, values, message):
    with pytest.raises(InputError, match=re.escape(message)):
        processes.join(dict(zip(processes.GIVEN, values, strict=True)))
    assert not asked


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("slrum", "JAXDIFF_CLUSTER must be one of slurm, tpu, got 'slrum'"),
        (
            "slurm",
            "but JAX finds no such cluster ('SLURM_JOB_ID'). Start through launch/sl",
        ),
    ],
)
def test_a_cluster_that_is_not_there(cluster, message):
    done = launch(
        f"{sys.executable} experiments/digits.py train --workdir /nowhere",
        JAXDIFF_CLUSTER=cluster,
    )
    assert done.returncode == 2
    assert message in done.stdout
    assert "Traceback" not in done.stdout


def test_the_launchers_are_sound():
    paths = [f"launch/{name}" for name in LAUNCHERS]
    found = {p.name for p in (ROOT / "launch").iterdir()}
    assert found == {*LAUNCHERS, "README.md"}
    for path in paths:
        subprocess.run(["bash", "-n", path], cwd=ROOT, check=True)
        assert os.access(ROOT / path, os.X_OK)
    folder = pathlib.Path(sys.executable).parent  # installed with the tests
    done = launch(f"{folder / 'shellcheck'}", *paths)
    assert done.returncode == 0, done.stdout


def test_local_joins_its_processes(tmp_path):
    done = launch(
        f"launch/local -n 2 -d 3 -o {tmp_path} {sys.executable} -c",
        COUNT + "; print(jax.local_device_count(), 'devices')",
        *TRICKY,
    )
    assert done.returncode == 0, done.stdout
    assert f"is 0 of 2 {TRICKY}" in done.stdout
    for i in range(2):
        log = (tmp_path / f"process-{i}.log").read_text()
        assert f"is {i} of 2 {TRICKY}" in log
        assert "3 devices" in log


def test_local_shares_the_gpus(tmp_path):
    """A stand-in for nvidia-smi lists four GPUs, three, or none."""
    listing = tmp_path / "nvidia-smi"
    show = "echo $JAX_PROCESS_ID has $CUDA_VISIBLE_DEVICES"
    path = f"{tmp_path}:{os.environ['PATH']}"
    for gpus, message in (
        (4, "0 has 0,1"),
        (3, "2 processes cannot share 3"),
        (0, "-g finds no GPU"),
    ):
        listing.write_text("#!/bin/sh\n" + "echo GPU\n" * gpus)
        listing.chmod(0o755)
        done = launch(f"launch/local -n 2 -g -o {tmp_path} bash -c", show, PATH=path)
        assert message in done.stdout
        assert done.returncode == (0 if gpus == 4 else 2)
        if gpus == 4:
            assert (tmp_path / "process-1.log").read_text() == "1 has 2,3\n"


def test_local_stops_all_when_one_fails(tmp_path):
    start = time.monotonic()
    done = launch(
        f"launch/local -n 3 -o {tmp_path} bash -c",
        'echo "hello of $JAX_PROCESS_ID"; ((JAX_PROCESS_ID == 1)) && exit 7; sleep 100',
    )
    assert time.monotonic() - start < 40
    assert done.returncode == 7
    assert "process 1 ended with code 7: the others are stopped" in done.stdout
    for i in range(3):
        log = (tmp_path / f"process-{i}.log").read_text()
        assert f"hello of {i}\n" in log
        assert "process 1 ended with code 7" in log
        for other in (0, 2):
            assert f"process {other} ended with code 143 (TERM)" in log


def test_local_passes_ctrl_c_on(tmp_path):
    program = (
        "import time\ntry:\n  print('up', flush=True)\n  time.sleep(100)\n"
        "except KeyboardInterrupt:\n  print('saved')\n  raise SystemExit(130)"
    )
    with subprocess.Popen(
        ["launch/local", "-n", "2", "-o", str(tmp_path), sys.executable, "-c", program],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as launcher:  # fmt: skip
        logs = [tmp_path / f"process-{i}.log" for i in range(2)]
        limit = time.monotonic() + 30
        while not all(log.exists() and "up" in log.read_text() for log in logs):
            assert time.monotonic() < limit
            time.sleep(0.1)
        launcher.send_signal(signal.SIGINT)
        shown, _ = launcher.communicate(timeout=30)
    assert launcher.returncode == 130
    assert "saved" in shown
    assert all("saved" in log.read_text() for log in logs)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("local -n 0 true", "-n must be a number of processes, got '0'"),
        ("local -n 2 -d x true", "-d must be a number of devices, got 'x'"),
        ("local -n 2", "give the command to run"),
        ("local -q", "see the head of launch/local"),
        ("slurm", "give the command to run"),
        ("tpu slice zone", "give the slice, its zone, and the command"),
        ("gke -n 2 -a gpu -i i -v v -j n c", "-a must be KIND:SIZE, got 'gpu'"),
        ("gke -n 2 -a tpu-v5p:2y -i i -v v -j n c", "must be KIND:SIZE, got 'tpu-v5p"),
        ("gke -n 3 -a tpu-v5p:2x2 -i i -v v -j n c", "cannot share 4 chips evenly"),
        ("gke -n x -a g:8 -i i -v v -j n c", "-n must be a number of machines"),
        ("gke -n 2 -a g:8 -i i -v v -j N c", "-j must be lower-case letters"),
        ("gke -n 2 -a g:8 -v v -j n c", "give the image with -i"),
        ("gke -n 2 -a g:8 -i i -v v -j n", "give the command to run"),
    ],
)
def test_a_launcher_used_wrongly(line, message):
    done = launch(f"launch/{line}")
    assert done.returncode == 2
    assert done.stdout.startswith("launch/") or "illegal option" in done.stdout
    assert message in done.stdout


def test_slurm_tells_jax_all_it_needs(tmp_path):
    """A stand-in for srun starts two processes on this machine, as Slurm would."""
    srun = tmp_path / "srun"
    srun.write_text(
        "#!/usr/bin/env bash\n"
        "output=\n"
        "while [[ $1 == --* ]]; do\n"
        "  [[ $1 != --output=* ]] || output=${1#*=}\n"
        '  [[ $1 != --kill-on-bad-exit=1 ]] || echo "kills all"\n'
        "  shift\n"
        "done\n"
        "export SLURM_NTASKS=2 SLURM_STEP_NODELIST=127.0.0.1\n"
        "for i in 0 1; do\n"
        '  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" > "${output/\\%t/$i}" 2>&1 &\n'
        "done\n"
        "wait\n"
    )
    srun.chmod(0o755)
    done = launch(
        f"{ROOT}/launch/slurm {sys.executable} -c", COUNT, *TRICKY, cwd=tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_JOB_ID=str(os.getpid()),
    )  # fmt: skip
    assert done.stdout == "kills all\n"
    for i in range(2):
        log = tmp_path / f"jaxdiff-{os.getpid()}" / f"process-{i}.log"
        assert f"is {i} of 2 {TRICKY}" in log.read_text()
    head = (ROOT / "launch" / "slurm").read_text()
    given = re.findall(r"^#SBATCH (--[a-z-]+)=\S+$", head, re.MULTILINE)
    assert given == ["--job-name", "--output", "--open-mode"]


def manifest(line, *args):
    done = launch(f"launch/gke {line}", *args)
    assert done.returncode == 0, done.stdout
    return yaml.safe_load(done.stdout)


def pod(job_set):
    (job,) = job_set["spec"]["replicatedJobs"]
    job = job["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert job["backoffLimit"] == 0  # one failure ends the job; the JobSet restarts it
    return (
        job,
        job["template"]["spec"],
        job["template"]["spec"]["containers"][0],
    )


def test_gke_with_gpus(asked):
    job_set = manifest(
        "-n 4 -a nvidia-h100-80gb:8 -i repo/image:1 -v runs -j my-run python", *TRICKY
    )
    assert job_set["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert job_set["kind"] == "JobSet"
    assert job_set["metadata"]["name"] == "my-run"
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] > 0
    job, spec, container = pod(job_set)
    assert job["parallelism"] == 4
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"
    }
    assert spec["restartPolicy"] == "Never"
    assert container["image"] == "repo/image:1"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
    claims = [v.get("persistentVolumeClaim") for v in spec["volumes"]]
    assert {"claimName": "runs"} in claims
    # Kubernetes turns $$ into a single $.
    command = [argument.replace("$$", "$") for argument in container["command"]]
    assert command == ["python", *TRICKY]

    place = {
        "metadata.annotations['batch.kubernetes.io/job-completion-index']": "3",
    }
    given = {
        e["name"]: e.get("value") or place[e["valueFrom"]["fieldRef"]["fieldPath"]]
        for e in container["env"]
    }
    processes.join(given)
    # JobSet's service names a pod set-job-index-pod.set.
    (job,) = job_set["spec"]["replicatedJobs"]
    assert asked == [(f"my-run-{job['name']}-0-0.my-run:8476", 4, 3, "deactivate")]


def test_gke_with_a_tpu_slice(asked):
    job_set = manifest("-n 4 -a tpu-v5p-slice:2x2x4 -i i -v runs -j n python train.py")
    _, spec, container = pod(job_set)
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    processes.join({e["name"]: e["value"] for e in container["env"]})
    assert asked == [(None, None, None, None)]


def test_tpu_runs_the_command_on_every_machine(tmp_path, asked):
    """A stand-in for gcloud writes its arguments to a file."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text("#!/usr/bin/env bash\nprintf '%s\\0' \"$@\" > asked\n")
    gcloud.chmod(0o755)
    done = launch(
        f"{ROOT}/launch/tpu my-slice us-central2-b {sys.executable} -c",
        "import os, sys; print(os.environ['JAXDIFF_CLUSTER'], sys.argv[1:])", *TRICKY,
        cwd=tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    *words, command = (tmp_path / "asked").read_text().split("\0")[:-1]
    assert words == [
        *["compute", "tpus", "tpu-vm", "ssh", "my-slice", "--zone=us-central2-b"],
        "--worker=all",
        "--batch-size=all",
        "--output-directory=tpu-logs",
    ]
    (tmp_path / "jaxdiff").mkdir()
    there = subprocess.run(
        ["sh", "-c", command.removeprefix("--command=")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert there.stdout == f"tpu {TRICKY}\n"


TRAIN = (
    "experiments/digits.py train --network.channels 8 --network.multipliers 1 "
    "--network.blocks 1 --network.attention --training.num-steps 60 "
    "--training.batch-size 16 --upkeep.log-every 5 --upkeep.checkpoint-every 20 "
    "--upkeep.no-tensorboard --upkeep.sample-every None --workdir"
)


def kill_one(line, count, killed, logs, first):
    """Starts processes and kills one after the first checkpoint.

    The others must end as well, each with a reason in its log.
    """
    with subprocess.Popen(
        shlex.split(f"launch/local -n {count} -o {logs} {line}"), cwd=ROOT, text=True,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as launcher:  # fmt: skip
        limit = time.monotonic() + 240
        while not first.exists():
            assert launcher.poll() is None, [log.read_text() for log in logs.iterdir()]
            assert time.monotonic() < limit
            time.sleep(0.1)
        ranks = processes_of(launcher.pid)
        assert sorted(ranks) == list(range(count))
        os.kill(ranks[killed], signal.SIGKILL)
        start = time.monotonic()
        shown, _ = launcher.communicate(timeout=60)
        assert time.monotonic() - start < 60
    assert launcher.returncode == 128 + signal.SIGKILL
    assert f"process {killed} ended with code 137 (KILL)" in shown
    assert shown.count("the others are stopped") == 1
    for rank in set(range(count)) - {killed}:
        (code,) = re.findall(rf"process {rank} ended with code (\d+)", shown)
        assert int(code) != 0
        log = (logs / f"process-{rank}.log").read_text()
        # The message is this package's, or JAX's if JAX was faster.
        assert (
            f"process {rank} stops: its work with the other {count - 1} failed" in log
            or "This most likely indicates that another task died" in log
        )
        assert f"process {killed} ended with code 137" in log


def steps_of(workdir):
    return [line["step"] for line in json_lines.read(workdir / "metrics.jsonl", "step")]


@pytest.mark.parametrize(
    ("count", "victim", "layout"),
    [
        (2, 1, "pmap"),
        pytest.param(4, 2, "pmap", marks=pytest.mark.long),
        pytest.param(4, 0, "sharded", marks=pytest.mark.long),
    ],
)
def test_a_killed_process_ends_the_others(tmp_path, count, victim, layout):
    """The run then resumes from its newest checkpoint, with half as many processes."""
    logs, workdir = tmp_path / "logs", tmp_path / "run"
    line = f"{sys.executable} {TRAIN} {workdir} --parallel {layout}"
    kill_one(line, count, victim, logs, workdir / "checkpoints" / "20")
    assert steps_of(workdir)[-1] < 60
    again = launch(f"launch/local -n {count // 2} -o {logs} {line}")
    assert again.returncode == 0, again.stdout
    assert steps_of(workdir) == list(range(5, 65, 5))


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1],
    ids=lambda n: n.name,
)
def test_one_process_that_is_asked_to_stop_stops_all(tmp_path, rank, number):
    """Both stop after the same saved step, although pre-emption may signal only one."""
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    line = f"{sys.executable} {TRAIN} {workdir}".replace("steps 60", "steps 60000")
    with subprocess.Popen(
        shlex.split(f"launch/local -n 2 -o {logs} {line}"), cwd=ROOT, text=True,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as launcher:  # fmt: skip
        limit = time.monotonic() + 240
        while not (workdir / "checkpoints" / "20").exists():
            assert time.monotonic() < limit
            time.sleep(0.1)
        os.kill(processes_of(launcher.pid)[rank], number)
        shown, _ = launcher.communicate(timeout=60)
    assert f"process {rank} ended with code {128 + number}" in shown
    assert f"process {1 - rank} ended with code 143 (TERM)" in shown
    saved = re.findall(
        r"stopped by SIG\w+; step (\d+) is saved",
        "".join((logs / f"process-{i}.log").read_text() for i in range(2)),
    )
    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert saved == [str(newest)] * 2
