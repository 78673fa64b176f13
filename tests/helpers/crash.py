"""Crash test: kills a training run at random moments, restarts it, compares results.

Parameters, optimiser state, average and metrics must equal, bit for bit, the results
of a run that was never killed.

    python -m tests.helpers.crash --kills 100
    python -m tests.helpers.crash --kills 100 --processes 2

A third of the kills wait for a save to begin, and strike during the save or right
after. A third strike between or inside steps, after some progress. The others strike
at any time from the start of the program. Of two processes, a kill hits the first, the
second or both. Each start must resume the run without help.
"""

import argparse
import collections
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import jax
from tqdm import tqdm

from jaxdiff.runs.folder import read_config
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.read_state import digest
from jaxdiff.training.initialize import init_shapes

ROOT = pathlib.Path(__file__).parents[2]
EVERY = 30
"""Steps between two checkpoints. A line of metrics takes 7, so that saves cut lines."""
NETWORK = (
    "--network.channels 8 --network.multipliers 1 --network.attention "
    "--upkeep.no-tensorboard"  # TensorBoard imports PyTorch if installed: seconds
)
PATIENCE_S = 300
"""Seconds that a start may take to make progress."""


def command(workdir, steps, processes, logs):
    """Returns the command line that trains in a folder."""
    line = (
        f"{sys.executable} experiments/digits.py train {NETWORK} "
        f"--network.blocks 1 --network.dropout 0.1 --training.num-steps {steps} "
        f"--training.batch-size 8 --upkeep.log-every 7 "
        f"--upkeep.checkpoint-every {EVERY} --workdir {workdir}"
    )
    launcher = f"launch/local -n {processes} -o {logs} " if processes > 1 else ""
    return shlex.split(launcher + line)


def environment(cache):
    """Returns the environment of a run: one CPU device, and programs compiled once."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", cache)
    return own | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def processes_of(launcher):
    """Returns the process ids of the launcher's processes, by rank."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
            environ = (path / "environ").read_bytes().split(b"\0")
            name = (path / "comm").read_text()
        except OSError:  # the process has ended
            continue
        ranks = [e for e in environ if e.startswith(b"JAX_PROCESS_ID=")]
        if int(parent) == launcher and ranks and name.startswith("python"):
            found[int(ranks[0].partition(b"=")[2])] = int(path.name)
    return found


class Failed(Exception):
    """Failure of the crash test."""


def run_to_the_end(arguments, env, log):
    """Runs the training until it ends by itself."""
    with log.open("ab") as output:
        code = subprocess.run(
            arguments, cwd=ROOT, env=env, stdout=output, stderr=output
        ).returncode
    if code != 0:
        raise Failed(f"the run ended with code {code}: see {log}")


def steps_saved(workdir):
    """Returns the steps of the checkpoints with their final names."""
    folder = workdir / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return {int(name) for name in names if name.isdigit()}


def saving(workdir):
    """Returns True if a checkpoint is being written or removed."""
    patterns = ("*.writing*", "*.removed")
    return any(any((workdir / "checkpoints").glob(p)) for p in patterns)


def starts(workdir):
    """Returns the number of times that the run started to train."""
    path = workdir / "history.jsonl"
    text = path.read_text() if path.exists() else ""
    return text.count('"event": "start"')


def kill_once(arguments, env, log, workdir, chance, startup):
    """Starts the run, kills it at a random moment, and returns the place of the kill.

    Args:
        arguments: Words of the command.
        env: Environment of the command.
        log: File for the output.
        workdir: Run folder.
        chance: Generator of random numbers, a `random.Random`.
        startup: Seconds that a start takes.
    """
    how = chance.choice(["save", "steps", "any time"])
    newest, begun = max(steps_saved(workdir), default=0), starts(workdir)
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=env, stdout=output, stderr=output
        )
    start = time.monotonic()

    def wait_for(condition):
        while not condition():
            if process.poll() is not None:
                raise Failed(
                    f"the run ended by itself, with code {process.returncode}: see "
                    f"{log}; if it is finished, give it more --steps-per-kill"
                )
            if time.monotonic() - start > PATIENCE_S:
                raise Failed(f"no progress in {PATIENCE_S} s: see {log}")
            time.sleep(0.002)

    if how == "any time":
        limit = start + chance.uniform(0, 1.2 * startup)
        wait_for(lambda: time.monotonic() > limit)
    else:
        wait_for(lambda: max(steps_saved(workdir), default=0) > newest)
        if how == "save":
            wait_for(lambda: saving(workdir))
            time.sleep(chance.uniform(0, 0.1))
        else:
            time.sleep(chance.uniform(0, 0.3))
    victims = [process.pid]
    if arguments[0].startswith("launch"):
        wait_for(lambda: len(processes_of(process.pid)) == 2)
        ranks = processes_of(process.pid)
        victims = [ranks[r] for r in chance.choice([[0], [1], [0, 1]]) if r in ranks]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    code = process.wait()
    if code == 0:
        raise Failed(f"the run was finished before it was killed: see {log}")
    if starts(workdir) == begun:
        return "before it trained"
    return "inside a save" if saving(workdir) else "inside or between steps"


def final(workdir):
    """Returns the hashes of a finished run's results."""
    experiment, info = read_config(workdir)
    template = init_shapes(experiment, info)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = jax.device_get(checkpoints.restore(template))
    if int(state.step) != experiment.training.num_steps:
        raise Failed(f"'{workdir}' ended at step {state.step}")
    found = {name: digest(part) for name, part in state._asdict().items()}
    found["metrics.jsonl"] = digest((workdir / "metrics.jsonl").read_text())
    found["checkpoints"] = str(sorted(steps_saved(workdir)))
    return found


def crash(folder, kills, processes, seed, steps_per_kill=80):
    """Runs the test; returns the number of kills by place.

    Raises:
        Failed: If a start does not resume by itself, or if the results differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance, env = random.Random(seed), environment(folder / "xla")
    steps = steps_per_kill * max(kills, 2)
    log = folder / "output.log"

    def arguments(workdir):
        return command(workdir, steps, processes, folder / "logs")

    whole, killed = folder / "whole", folder / "killed"
    begin = time.monotonic()
    run_to_the_end(arguments(whole), env, log)
    print(f"never killed: {steps} steps in {time.monotonic() - begin:.0f} s")
    startup = 15.0
    where: collections.Counter[str] = collections.Counter()
    for _ in tqdm(range(kills), unit="kill"):
        begin = time.monotonic()
        place = kill_once(arguments(killed), env, log, killed, chance, startup)
        where[place] += 1
        if place != "before it trained":
            startup = 0.8 * startup + 0.2 * (time.monotonic() - begin)
    run_to_the_end(arguments(killed), env, log)
    events = json_lines.read(killed / "history.jsonl", "event")
    resumed = [e["step"] for e in events if e["event"] == "start"]
    if sorted(resumed) != resumed:
        raise Failed(f"a start went back behind the one before: {resumed}")
    for name, value in final(whole).items():
        if final(killed)[name] != value:
            raise Failed(f"{name} differs between {whole} and {killed}")
    return where


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-per-kill", type=int, default=80)
    parser.add_argument("--folder", type=pathlib.Path, help="a new one by default")
    asked = parser.parse_args()
    folder = asked.folder or pathlib.Path(tempfile.mkdtemp(prefix="crash."))
    jax.config.update("jax_platforms", "cpu")
    begin = time.monotonic()
    try:
        where = crash(
            folder, asked.kills, asked.processes, asked.seed, asked.steps_per_kill
        )
    except Failed as error:
        sys.exit(f"FAILED: {error}")
    struck = ", ".join(f"{count} {place}" for place, count in where.most_common())
    print(
        f"{asked.kills} kills of {asked.processes} process(es), seed {asked.seed}: "
        f"{struck}; the same bits, after {time.monotonic() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
