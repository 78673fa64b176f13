"""Streams whose reader went away, whose disk is full, or that lack a character."""

import dataclasses
import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.streams import Tolerant, tolerant, tolerant_streams
from tests.helpers import killed
from tests.helpers.fake_run import CONFIG, fake_run

ROOT = Path(__file__).parents[1]


class Broken(io.StringIO):
    """Stream on which each write and flush fails."""

    encoding = "utf-8"

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))

    def flush(self):
        raise OSError(self.number, os.strerror(self.number))


FAULTS = pytest.mark.parametrize(
    "number", [errno.EPIPE, errno.ENOSPC, errno.EIO], ids=errno.errorcode.get
)


@FAULTS
def test_text_that_cannot_be_written_is_lost(number):
    stream = tolerant(Broken(number))
    assert tolerant(stream) is stream
    assert stream.write("abc") == 3
    stream.flush()
    assert stream.fault.errno == number


def test_text_is_written_again_after_a_fault():
    inner = io.StringIO()
    stream = Tolerant(inner)
    stream.write("a")
    inner.write = Broken(errno.ENOSPC).write  # type: ignore[method-assign]
    stream.write("b")
    del inner.write
    print("c", file=stream)
    assert stream.getvalue() == "ac\n"


def test_a_character_that_the_terminal_lacks_is_replaced():
    inner = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    print("1.5 ± 0.1 bits", file=Tolerant(inner))
    assert inner.buffer.getvalue() == b"1.5 ? 0.1 bits\n"


@FAULTS
@pytest.mark.usefixtures("standard_promotion")
def test_training_goes_on_without_its_streams(tmp_path, monkeypatch, number):
    """The library does not replace the streams of the program."""
    broken = Broken(number)
    training = dataclasses.replace(killed.EXPERIMENT.training, num_steps=3)
    experiment = dataclasses.replace(killed.EXPERIMENT, training=training)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", broken)
        patch.setattr(sys, "stdout", broken)
        state = jd.train(experiment, tmp_path, network=killed.NETWORK)
        assert sys.stderr is sys.stdout is broken
    assert int(state.step) == 3
    assert (tmp_path / "checkpoints" / "3").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "trained"
    fake_run(folder, conditional=True)
    return folder


def command(monkeypatch, out, *args):
    monkeypatch.setattr(sys, "stdout", out)
    main(CONFIG, "What it is.", args=list(args))
    assert sys.stdout is out


def test_the_reader_of_a_command_may_end(trained, monkeypatch, capsys):
    command(monkeypatch, Broken(errno.EPIPE), "status", "--workdir", str(trained))
    assert capsys.readouterr().err == ""


def test_output_that_is_lost_is_an_error(trained, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, Broken(errno.ENOSPC), "status", "--workdir", str(trained))
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: cannot write the standard output: No space left on device. Free "
        "space, or name another file.\n"
    )


def test_the_output_of_a_training_may_be_lost(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxdiff.cli.train._train", lambda *_: print("trained"))
    monkeypatch.setattr("jaxdiff.cli.train.page.refresh", print)
    command(monkeypatch, Broken(errno.ENOSPC), "train", "--workdir", str(tmp_path))
    assert capsys.readouterr().err == ""


PRINT = """
import sys
from jaxdiff.streams import tolerant_streams
with tolerant_streams():
    for i in range(20_000):
        print("a line", i)
        print("another", i, file=sys.stderr)
"""


def test_a_program_ends_in_silence_if_its_readers_end():
    """Python itself would print an exception, and exit with code 120."""
    with subprocess.Popen(
        [sys.executable, "-c", PRINT], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"a line 0\n"
        assert process.stderr.readline() == b"another 0\n"
        process.stdout.close()
        process.stderr.close()
        assert process.wait(timeout=60) == 0
        process.stdout = process.stderr = None


def test_the_help_has_no_reader(monkeypatch):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, Broken(errno.EPIPE), "train", "--help")
    assert not stop.value.code


def test_a_closed_terminal_takes_the_signals_message_away(monkeypatch, capfd):
    """SIGHUP comes with a standard error that can no longer be written."""
    from jaxdiff.parallel.preemption import Terminated, stop_between_steps

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    with stop_between_steps() as asked:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Broken(errno.EIO))
            signal.raise_signal(signal.SIGHUP)
            while not asked(1):
                pass
        with pytest.raises(Terminated, match="stopped by SIGHUP; step 1") as stop:
            asked.stop(1)
    signal.signal(signal.SIGHUP, before)
    assert stop.value.code == 129


def test_streams_are_restored():
    before = sys.stdout, sys.stderr
    with tolerant_streams():
        assert isinstance(sys.stdout, Tolerant)
        assert isinstance(sys.stderr, Tolerant)
    assert (sys.stdout, sys.stderr) == before


def test_standard_streams_may_be_closed(trained, tmp_path):
    """Python has None for them, and the next file that is opened gets their number."""
    code = (
        "import os, sys; sys.argv[0] = 'jaxdiff'; from jaxdiff.cli import jaxdiff\n"
        f"jaxdiff(['status', '--workdir', {str(trained)!r}])\n"
        "from jaxdiff import progress_bar\n"
        "with progress_bar.bar(1, 'x', 'step') as shown: shown.update()\n"
        "open('number', 'w').write(str(os.open('number', os.O_RDONLY)))\n"
    )
    line = '"$1" -c "$2" <&- >&- 2>&-'
    words = ["bash", "-c", line, "bash", sys.executable, code]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert int((tmp_path / "number").read_text()) > 2
