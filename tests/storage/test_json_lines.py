"""Files of JSON lines that survive a kill, and the label agreement of images."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxdiff.data import Digits
from jaxdiff.errors import InputError
from jaxdiff.evaluation.label_agreement import label_agreement
from jaxdiff.storage.json_lines import History, JsonLines
from jaxdiff.storage.json_lines import read as read_lines


def read(path):
    return read_lines(path, "step")


def write(path, from_step, *steps, **values):
    with JsonLines(path, from_step) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 2, **values})


def test_one_object_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 10, 20, rate=1e-4)
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 10, "loss": 5.0, "rate": 1e-4},
        {"step": 20, "loss": 10.0, "rate": 1e-4},
    ]
    assert path.read_text().endswith("\n")
    assert read(path) == read(str(path)) == list(map(json.loads, lines))


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read(tmp_path / "none.jsonl") == []
    assert not list(tmp_path.iterdir())


def test_a_line_is_on_the_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonLines(path, 0) as writer:
        for step in (1, 2):
            writer.write(step, {"loss": 0.1})
            assert [line["step"] for line in read(path)][-1] == step


@pytest.mark.parametrize(
    ("from_step", "kept"),
    [(0, []), (9, []), (10, [10]), (25, [10, 20]), (99, [10, 20, 30])],
)
def test_a_resumed_run_drops_what_it_does_again(tmp_path, from_step, kept):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 10, 20, 30)
    write(path, from_step, 100)
    assert [line["step"] for line in read(path)] == [*kept, 100]
    assert [line["loss"] for line in read(path)] == [s / 2 for s in (*kept, 100)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_last_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 10, 20)
    whole = path.read_text()
    last = whole.splitlines(keepends=True)[-1]
    for length in range(len(last)):
        path.write_text(whole[: len(whole) - len(last) + length])
        assert [line["step"] for line in read(path)] == [10]
    write(path, 10, 20)
    assert path.read_text() == whole


def test_the_lines_of_a_resumed_run_are_not_changed(tmp_path):
    """Every number keeps all its digits."""
    path = tmp_path / "metrics.jsonl"
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": -0.0, "d": 1 / 3}
    with JsonLines(path, 0) as writer:
        writer.write(1, values)
    before = path.read_bytes()
    write(path, 1)
    assert path.read_bytes() == before
    assert read(path) == [{"step": 1, **values}]


HOLD = """
import sys
from jaxdiff.storage.json_lines import History
with History(sys.argv[1]) as history:
    history.write("start")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Other process that locks the folder's history."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "history.jsonl")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refuses(path):
    message = f"another process trains in '{path.parent}'. Wait for it, or choose an"
    with pytest.raises(InputError, match=message):
        History(path)


def test_a_second_process_is_refused(tmp_path, holder):
    path = tmp_path / "history.jsonl"
    before = path.read_bytes()
    refuses(path)
    assert path.read_bytes() == before
    holder.communicate("")  # the process ends by itself
    History(path).close()


def test_a_killed_process_leaves_no_lock(tmp_path, holder):
    path = tmp_path / "history.jsonl"
    refuses(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    for event in ("again", "and again"):
        with History(path) as history:
            history.write(event)
    found = [line["event"] for line in read_lines(path, "event")]
    assert found == ["start", "again", "and again"]


@pytest.mark.usefixtures("holder")
def test_a_removed_history_lets_no_second_process_in(tmp_path):
    path = tmp_path / "history.jsonl"
    path.unlink()
    refuses(path)
    assert not path.exists()


def test_a_file_system_without_locks_needs_none(tmp_path, monkeypatch):
    """Without locks, two processes can write to one history; users must avoid this."""
    path = tmp_path / "history.jsonl"

    def flock(*args):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with History(path) as first, History(path) as second:
        first.write("one")
        second.write("two")
    assert [line["event"] for line in read_lines(path, "event")] == ["one", "two"]


def test_a_history_that_cannot_be_written_frees_the_lock(tmp_path):
    path = tmp_path / "history.jsonl"
    path.mkdir()
    with pytest.raises(InputError, match=r"cannot write '.*history\.jsonl': Is a dir"):
        History(path)
    path.rmdir()
    History(path).close()


@pytest.fixture(scope="module")
def digits():
    return Digits().load("train"), Digits().load("test")


def test_real_digits_are_read_as_their_labels(digits):
    train, test = digits
    share = label_agreement(test.images, test.labels, train.images, train.labels)
    assert 0.98 < share < 1


def test_digits_with_other_labels_are_not(digits):
    train, test = digits
    shuffled = np.random.default_rng(0).permutation(test.labels)
    share = label_agreement(test.images, shuffled, train.images, train.labels)
    assert share < 0.2
    wrong = (test.labels + 1) % 10
    assert label_agreement(test.images, wrong, train.images, train.labels) < 0.02


def test_the_share_is_that_of_the_images(digits):
    train, test = digits
    labels = test.labels[:20].copy()
    right = label_agreement(test.images[:20], labels, train.images, train.labels)
    assert right == 1
    labels[:5] = (labels[:5] + 5) % 10
    share = label_agreement(test.images[:20], labels, train.images, train.labels)
    assert share == 0.75
    assert type(share) is float


def test_noise_is_read_as_its_label_by_chance(digits):
    train, _ = digits
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 1), np.uint8)
    labels = np.arange(200) % 10
    assert label_agreement(images, labels, train.images, train.labels) < 0.25


def test_images_of_another_shape_are_refused(digits):
    train, _ = digits
    images = np.zeros((4, 8, 8, 3), np.uint8)
    message = r"the same shape, got \(8, 8, 3\) and \(8, 8, 1\)"
    with pytest.raises(InputError, match=message):
        label_agreement(images, np.zeros(4, int), train.images, train.labels)
