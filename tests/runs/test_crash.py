"""The crash test's short form; `python -m tests.helpers.crash` is the long one."""

import pytest

from tests.helpers import crash


def test_a_run_that_is_killed_computes_the_same_bits(tmp_path):
    where = crash.crash(tmp_path, kills=1, processes=1, seed=0)
    assert sum(where.values()) == 1


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_so_does_one_that_is_killed_often(tmp_path, processes):
    where = crash.crash(tmp_path, kills=6, processes=processes, seed=0)
    assert sum(where.values()) == 6


def test_a_difference_would_be_found(tmp_path, monkeypatch):
    """With a run that is not killed, and one whose metrics have another line."""
    monkeypatch.setattr(crash, "run_to_the_end", lambda *args: None)
    monkeypatch.setattr(crash, "final", lambda folder: {"params": folder.name})
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    with pytest.raises(crash.Failed, match="params differs between"):
        crash.crash(tmp_path, kills=0, processes=1, seed=0)
