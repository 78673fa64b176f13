"""Views of a run while it trains: TensorBoard's events and grids of samples."""

import dataclasses
import json
import re
import sys
import time
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import jaxdiff as jd
from jaxdiff.runs import tensorboard
from jaxdiff.runs.log import events_of
from jaxdiff.runs.sample_grids import SampleGrids
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.event_files import Events
from tests.helpers.runs import OWN, TINY, same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")
SEEN = dataclasses.replace(
    TINY, upkeep=dataclasses.replace(TINY.upkeep, sample_every=3, sample_steps=3)
)
"""TINY with grids of samples."""


class Kill(Exception):
    """Exception that stands in for a kill."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Folder of a run with grids, and its final state."""
    workdir = tmp_path_factory.mktemp("seen")
    return workdir, trained(workdir, SEEN, network=OWN)


def shown(workdir):
    """Returns what TensorBoard's own reader finds: scalars and pictures.

    The scalars are {name: [(step, value)]}.
    """
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    found = EventAccumulator(str(workdir / "tensorboard"), {"scalars": 0, "images": 0})
    found.Reload()
    tags = found.Tags()
    scalars = {
        name: [(e.step, e.value) for e in found.Scalars(name)]
        for name in tags["scalars"]
    }
    pictures = {name: found.Images(name) for name in tags["images"]}
    return scalars, pictures


def lines_of(workdir):
    """Returns the lines of metrics in the format of `shown`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name, value in line.items():
            if name != "step":
                point = line["step"], float(np.float32(value))
                found.setdefault(name, []).append(point)
    return found


def grids_of(workdir):
    return {p.name: p.read_bytes() for p in sorted((workdir / "grids").iterdir())}


def test_tensorboard_shows_each_line_of_metrics_and_the_speed(seen):
    workdir, _ = seen
    scalars, _ = shown(workdir)
    speeds = scalars.pop("images_per_s")
    assert scalars == lines_of(workdir)
    assert [step for step, _ in scalars["loss"]] == [2, 4, 6, 8]
    recorded = [(e["step"], e["images_per_s"]) for e in events_of(workdir, "speed")]
    np.testing.assert_allclose(speeds, recorded, rtol=1e-6)


def test_tensorboard_shows_the_grids(seen):
    workdir, _ = seen
    _, pictures = shown(workdir)
    files = grids_of(workdir)
    assert list(files) == [f"step_0000000{step}.png" for step in (3, 6, 8)]
    assert [(e.step, e.encoded_image_string) for e in pictures["grids"]] == list(
        zip((3, 6, 8), files.values(), strict=True)
    )
    for event in pictures["grids"]:
        with Image.open(BytesIO(event.encoded_image_string)) as picture:
            assert picture.size == (event.width, event.height)


def test_what_is_seen_changes_no_bit(seen, tmp_path):
    workdir, state = seen
    assert same_bits(state, jd.train(TINY, tmp_path, network=OWN, progress=False))
    lines = [(folder / "metrics.jsonl").read_bytes() for folder in (workdir, tmp_path)]
    assert lines[0] == lines[1]


def test_a_grid_shows_the_average_by_the_same_chain_as_generate(seen):
    """A grid has one row of 8 images per class, by DPM-Solver, always of seed 0."""
    run = jd.load(seen[0], network=OWN)
    how = dataclasses.replace(
        run.experiment.sampling,
        sampler=jd.DPMSolver(spacing=jd.spacing.Trailing(num_steps=3)),
    )
    images = run.generate(np.arange(80) % 10, 80, 0, sampling=how)
    rows = jd.data.to_uint8(images).reshape(8, 10, 8, 8).swapaxes(0, 1)
    with Image.open(BytesIO(grids_of(seen[0])["step_00000008.png"])) as picture:
        pixels = np.asarray(picture.convert("L")).astype(int)
    left = pixels.shape[1] - (8 * 70 + 6)
    assert left > 0  # the names of the classes
    cells = [
        pixels[6 + 70 * y :, left + 6 + 70 * x :][:64:8, :64:8]
        for y in range(10)
        for x in range(8)
    ]
    # Another program computes the images, so a value may round to the next grey.
    assert np.abs(np.array(cells) - rows.reshape(80, 8, 8)).max() <= 1
    grids = list(grids_of(seen[0]).values())
    assert grids[0] != grids[1]


@pytest.mark.parametrize("place", ["line", "grid"])
def test_a_killed_run_goes_on_without_doubled_points(
    seen, tmp_path, monkeypatch, place
):
    """The kill comes at step 6 or later, after the checkpoint of step 4."""
    real: Any = {"line": Events.write, "grid": Events.picture}[place]

    def kill(self: Any, step: int, *args: Any) -> None:
        real(self, step, *args)
        if step >= 6:
            raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(Events, real.__name__, kill)
        with pytest.raises(Kill):
            jd.train(SEEN, tmp_path, network=OWN, progress=False)
    (path,) = (tmp_path / "tensorboard").iterdir()
    with path.open("ab") as file:
        file.write(b"\0\1\2")  # remains of an interrupted write
    before = shown(tmp_path)[0]
    assert before["loss"][-1][0] >= 6
    assert jd.load(tmp_path, network=OWN).step == 4
    jd.train(SEEN, tmp_path, network=OWN, progress=False)
    scalars, pictures = shown(tmp_path)
    speeds = scalars.pop("images_per_s")
    assert [step for step, _ in speeds] == [2, 4, 6, 8]
    assert scalars == lines_of(seen[0])
    assert grids_of(tmp_path) == grids_of(seen[0])
    assert [event.step for event in pictures["grids"]] == [3, 6, 8]


def test_a_finished_run_can_be_shown_later(seen, tmp_path):
    """TensorBoard's events are rebuilt from the run's other files, with their times."""
    experiment = dataclasses.replace(
        TINY, upkeep=dataclasses.replace(TINY.upkeep, tensorboard=False)
    )
    jd.train(experiment, tmp_path, network=OWN, progress=False)
    assert not (tmp_path / "tensorboard").exists()
    assert not (tmp_path / "grids").exists()
    path = tmp_path / "history.jsonl"
    text = re.sub(r'("speed".*"time": ")\d{4}', r"\g<1>2001", path.read_text())
    path.write_text(text)
    (tmp_path / "tensorboard").mkdir()
    other = tmp_path / "tensorboard" / "events.out.tfevents.1.someone"
    other.write_bytes(b"")
    jd.train(TINY, tmp_path, network=OWN, progress=False)
    assert other.exists()
    other.unlink()
    assert shown(tmp_path)[0].pop("loss") == lines_of(seen[0])["loss"]
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    for event in reader.Scalars("loss"):
        assert time.gmtime(event.wall_time).tm_year == 2001


def test_without_its_package_training_goes_on_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.warns(UserWarning, match=r"TensorBoard .*no-tensorboard.*: .*Run: pip"):
        jd.train(TINY, tmp_path, network=OWN, until=2, progress=False)
    assert not (tmp_path / "tensorboard").exists()


def test_grids_without_their_package_are_refused_before_anything(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(jd.InputError, match="matplotlib cannot be imported"):
        jd.train(SEEN, tmp_path / "new", progress=False)
    assert not (tmp_path / "new" / "config.json").exists()


def test_a_full_disk_is_told_in_one_line(disk):
    folder, remount = disk
    with Events(folder / "tensorboard") as events:
        events.write(1, {"loss": 1.0})
        with pytest.raises(jd.InputError) as error:
            events.picture(2, "grids", b"\x89PNG" + bytes(2_000_000))
    assert re.search(
        r"No space left on device\. Free space on .* left\), then start",
        str(error.value),
    )
    remount("ro")
    with pytest.raises(
        jd.InputError, match=r"Read-only file system\. Make it writable"
    ):
        Events(folder / "tensorboard")


def test_sampling_does_not_count_as_training(seen, tmp_path, monkeypatch):
    """The throughput excludes the time of the grids, here 1000 s each."""
    real, clock = time.perf_counter, [0.0]

    def slow(self, state):
        clock[0] += 1000.0
        return grid

    grid = grids_of(seen[0])["step_00000003.png"]
    monkeypatch.setattr(SampleGrids, "picture", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: real() + clock[0])
    jd.train(SEEN, tmp_path, network=OWN, progress=False)
    assert clock[0] == 3000
    speeds = [event["images_per_s"] for event in events_of(tmp_path, "speed")]
    assert len(speeds) == 4
    assert min(speeds) > 8 * 16 / 100


def test_a_dispatch_of_steps_ends_where_a_grid_is_due():
    training = dataclasses.replace(SEEN.training, steps_per_dispatch=8)
    upkeep = dataclasses.replace(SEEN.upkeep, log_every=8, checkpoint_every=8)
    trainer = Trainer.of(dataclasses.replace(SEEN, training=training, upkeep=upkeep))
    assert [step for step, _ in trainer.feed(0, 8)] == [3, 6, 8]


def test_a_run_without_classes_and_few_steps(tmp_path):
    """A grid without classes shows 80 images in rows of 8."""
    experiment = dataclasses.replace(
        SEEN, conditional=False, schedule=jd.Linear(num_steps=8, beta_end=0.9)
    )
    trainer = Trainer.of(experiment)
    grids = SampleGrids(trainer)
    due = [step for step in range(1, 9) if grids.due(step)]
    assert due == [3, 6, 8]
    state = trainer.initial_state(Checkpoints(tmp_path), None)
    with Image.open(BytesIO(grids.picture(state))) as picture:
        assert picture.size == (8 * 70 + 6, 10 * 70 + 6)


@pytest.mark.parametrize(
    ("steps", "most", "until", "expected"),
    [
        ([], 3, None, []),
        ([1, 2, 3], 3, None, [1, 2, 3]),
        ([1, 2, 3, 4], 3, None, [2, 4]),
        (range(100), 3, None, [31, 65, 99]),
        ([5, 10, 15], 9, 10, [5, 10]),
    ],
)
def test_which_grids_are_shown(tmp_path, steps, most, until, expected):
    (tmp_path / "grids").mkdir()
    for step in steps:
        tensorboard.grid_path(tmp_path, step).touch()
    (tmp_path / "grids" / "step_x.png").touch()
    found = tensorboard.grids(tmp_path, most, until)
    assert [step for step, _ in found] == expected
    assert all(path.exists() for _, path in found)
