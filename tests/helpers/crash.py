"""Crash test: kills a training run at random moments, restarts it, compares results.

Parameters, optimiser state, average and metrics must equal, bit for bit, the results
of a run that was never killed.

    python -m tests.helpers.crash --kills 100
    python -m tests.helpers.crash --kills 100 --processes 2
    python -m tests.helpers.crash --kills 20 --what latents

A third of the kills wait for a save to begin, and strike during the save or right
after. A third strike between or inside steps, after some progress. The others strike
at any time from the start of the program. Of two processes, a kill hits the first, the
second or both. Each start must resume the run without help.

--what names the training: the digits, or a stage of text to image in latents of an
autoencoder of one's own. Of `encode`, the files must be the same bytes.
"""

import argparse
import collections
import hashlib
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
from tests.helpers.captioned_folder import captioned_folder

ROOT = pathlib.Path(__file__).parents[2]
EVERY = 30
"""Steps between two checkpoints. A line of metrics takes 7, so that saves cut lines."""
NETWORK = (
    "--network.channels 8 --network.multipliers 1 --network.attention "
    "--upkeep.no-tensorboard"  # TensorBoard imports PyTorch if installed: seconds
)
PATIENCE_S = 300
"""Seconds that a start may take to make progress."""


JAXDIFF = shlex.join(
    [sys.executable, "-c", "from jaxdiff.cli.program import jaxdiff; jaxdiff()"]
)
PICTURES = (
    "--data folder --data.path {folder}/pictures --data.size 8 --data.captions auto"
)
UPKEEP = "--upkeep.no-tensorboard --upkeep.sample-every None --optimizer.warmup-steps 9"
LATENTS = (
    f"{JAXDIFF} train emoji --data latents --data.path {{folder}}/latents {UPKEEP} "
    "--network.widths 8 8 8 --network.heads 1 1 1 --network.groups 4 "
    "--network.vector-channels 8 --network.dropout 0.1 --network.text.width 8 "
    "--network.text.layers 1 --network.text.heads 1 --network.text.vocabulary 300"
)
STAGES = {
    "digits": f"{sys.executable} experiments/digits.py train {NETWORK} "
    "--network.blocks 1 --network.dropout 0.1",
    "autoencoder": f"{JAXDIFF} train-autoencoder {PICTURES} {UPKEEP} "
    "--autoencoder.channels 4 --autoencoder.multipliers 1 1 --autoencoder.blocks 1 "
    "--autoencoder.groups 2 --autoencoder.latent-channels 2 --discriminator patch "
    "--discriminator.start 50 --discriminator.channels 2 --discriminator.layers 1",
    "encode": f"{JAXDIFF} encode {PICTURES} --model {{folder}}/autoencoder --batch 1",
    "latents": LATENTS,
    "adapter": f"{LATENTS} --init {{folder}}/latents-run --adapter lora",
}
"""Command of each stage, without its steps and its folder."""
BEFORE = {
    "encode": ("autoencoder",),
    "latents": ("autoencoder", "encode"),
    "adapter": ("autoencoder", "encode", "latents"),
}
"""Stages that must be done before, in their order."""
RESULTS = {"encode": "latents", "latents": "latents-run"}
"""Names of the folders of stages that others start from, where they are not theirs."""
IMAGES = 400
"""Number of captioned pictures."""


def prepare(what, folder, env, log):
    """Does the stages before a stage, each with few steps."""
    if what == "digits":
        return
    captioned_folder(folder / "pictures", "files", IMAGES)
    for stage in BEFORE.get(what, ()):
        result = folder / RESULTS.get(stage, stage)
        run_to_the_end(command(stage, result, folder, 60), env, log)


def command(what, workdir, folder, steps, processes=1):
    """Returns the command line of a stage.

    Args:
        what: Name of the stage.
        workdir: Folder of its results.
        folder: Folder of the test.
        steps: Number of steps.
        processes: Number of processes.
    """
    line = STAGES[what].format(folder=folder)
    if what == "encode":
        return shlex.split(f"{line} --out {workdir}")
    line += (
        f" --training.num-steps {steps} --training.batch-size 8 --upkeep.log-every 7 "
        f"--upkeep.checkpoint-every {EVERY} --workdir {workdir}"
    )
    launcher = f"launch/local -n {processes} -o {folder / 'logs'} "
    return shlex.split(launcher * (processes > 1) + line)


def environment(cache):
    """Returns the environment of a run: one CPU device, and programs compiled once."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    data = pathlib.Path(cache).parent / "data"
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", cache)
    return own | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAXDIFF_CACHE": str(data),
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
    # A checkpoint leaves out the parameters that training does not change.
    template = init_shapes(experiment, info)._replace(frozen=())
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = jax.device_get(checkpoints.restore(template))
    if int(state.step) != experiment.training.num_steps:
        raise Failed(f"'{workdir}' ended at step {state.step}")
    found = {name: digest(part) for name, part in state._asdict().items()}
    found["metrics.jsonl"] = digest((workdir / "metrics.jsonl").read_text())
    found["checkpoints"] = str(sorted(steps_saved(workdir)))
    return found


def crash(folder, kills, processes, seed, steps_per_kill=80, what="digits"):
    """Runs the test; returns the number of kills by place.

    Raises:
        Failed: If a start does not resume by itself, or if the results differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance, env = random.Random(seed), environment(folder / "xla")
    steps = steps_per_kill * max(kills, 2)
    log = folder / "output.log"
    prepare(what, folder, env, log)

    def arguments(workdir):
        return command(what, workdir, folder, steps, processes)

    whole, killed = folder / "whole", folder / "killed"
    begin = time.monotonic()
    run_to_the_end(arguments(whole), env, log)
    took = time.monotonic() - begin
    print(f"never killed: {steps} steps in {took:.0f} s")
    where: collections.Counter[str] = collections.Counter()
    if what == "encode":
        for _ in tqdm(range(kills), unit="kill"):
            where[kill_encode(arguments(killed), env, log, chance, took)] += 1
    else:
        startup = 15.0
        for _ in tqdm(range(kills), unit="kill"):
            begin = time.monotonic()
            place = kill_once(arguments(killed), env, log, killed, chance, startup)
            where[place] += 1
            if place != "before it trained":
                startup = 0.8 * startup + 0.2 * (time.monotonic() - begin)
    run_to_the_end(arguments(killed), env, log)
    compare(whole, killed, files_of if what == "encode" else final)
    return where


def compare(whole, killed, results):
    """Compares the results of two folders.

    Raises:
        Failed: If they differ, or a start went back behind the one before.
    """
    path = killed / "history.jsonl"
    events = json_lines.read(path, "event") if path.exists() else []
    resumed = [e["step"] for e in events if e["event"] == "start"]
    if sorted(resumed) != resumed:
        raise Failed(f"a start went back behind the one before: {resumed}")
    found, expected = results(killed), results(whole)
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise Failed(f"{name} differs between {whole} and {killed}")


def kill_encode(arguments, env, log, chance, took):
    """Starts `encode` and kills it at a random moment; returns the place of the kill.

    Args:
        arguments: Words of the command.
        env: Environment of the command.
        log: File for the output.
        chance: Generator of random numbers, a `random.Random`.
        took: Seconds that the command takes.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env=env, stdout=output, stderr=output
        )
    try:
        process.wait(chance.uniform(0, took))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "inside or before it"
    if process.returncode != 0:
        raise Failed(f"encode ended with code {process.returncode}: see {log}")
    return "after its end"


def files_of(folder):
    """Returns the hashes of the files of a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def main():
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--what", choices=STAGES, default="digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-per-kill", type=int, default=80)
    parser.add_argument("--folder", type=pathlib.Path, help="a new one by default")
    asked = parser.parse_args()
    folder = asked.folder or pathlib.Path(tempfile.mkdtemp(prefix="crash."))
    jax.config.update("jax_platforms", "cpu")
    begin = time.monotonic()
    try:
        where = crash(
            folder, asked.kills, asked.processes, asked.seed, asked.steps_per_kill,
            asked.what,
        )  # fmt: skip
    except Failed as error:
        sys.exit(f"FAILED: {error}")
    struck = ", ".join(f"{count} {place}" for place, count in where.most_common())
    print(
        f"{asked.what}: {asked.kills} kills of {asked.processes} process(es), seed "
        f"{asked.seed}: "
        f"{struck}; the same bits, after {time.monotonic() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
