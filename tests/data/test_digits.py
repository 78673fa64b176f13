"""Digits data set, which needs no network access."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from jaxdiff.data import Digits, order
from jaxdiff.errors import InputError


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Training and test split, prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Digits().load("train"), Digits().load("test")


def test_digits_are_those_of_sklearn(digits):
    raw = load_digits()
    places = order(0, 0, 1797)
    for data, part in zip(digits, (places[:1500], places[1500:]), strict=True):
        assert len(data) == len(part)
        assert np.array_equal(
            np.rint(data.images[..., 0] * (16 / 255)), raw.images[part]
        )
        assert np.array_equal(data.labels, raw.target[part])
        assert data.image_shape == (8, 8, 1)
        assert data.class_names == tuple("0123456789")


def test_a_classifier_separates_the_digits(digits):
    (x, y), (test_x, test_y) = (
        (np.rint(data.images.reshape(len(data), 64) * (16 / 255)), data.labels)
        for data in digits
    )
    assert SVC(gamma=0.001).fit(x, y).score(test_x, test_y) > 0.985


def test_digits_need_no_tensorflow_and_may_be_prepared_twice_at_once(tmp_path):
    code = """
import sys, jaxdiff.data
heavy = {"tensorflow_datasets", "sklearn", "tqdm", "PIL", "array_record"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert len(jaxdiff.data.Digits().load("test")) == 297
assert "tensorflow" not in sys.modules
"""
    env = {**os.environ, "JAXDIFF_CACHE": str(tmp_path / "new")}
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    runs = [
        subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert (run.returncode, out, err) == (0, "", "")


def test_another_process_prepares_the_digits_first(tmp_path, monkeypatch):
    from jaxdiff.data.digits_builder import JaxdiffDigits

    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path))
    real = JaxdiffDigits._split_generators

    def overtaken(self, dl_manager):
        monkeypatch.setattr(JaxdiffDigits, "_split_generators", real)
        JaxdiffDigits(data_dir=tmp_path).download_and_prepare(
            file_format="array_record"
        )
        return real(self, dl_manager)

    monkeypatch.setattr(JaxdiffDigits, "_split_generators", overtaken)
    assert len(Digits().load()) == 1500
    assert [path.name for path in (tmp_path / "jaxdiff_digits").iterdir()] == ["1.0.0"]


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    from jaxdiff.storage.cache import cache_folder

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXDIFF_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "jaxdiff"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/jaxdiff")
    monkeypatch.setenv("JAXDIFF_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


def test_digits_refuse_a_split_and_a_folder(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"split must .* got 'validation'"):
        Digits().load("validation")
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        InputError, match=r"cannot use the cache folder .*JAXDIFF_CACHE"
    ):
        Digits().load()


@pytest.mark.parametrize(
    "module", ["tensorflow_datasets", "array_record", "sklearn.datasets", "tqdm"]
)
def test_a_missing_package_is_named(module, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{module}.*'jaxdiff\[experiments\]'"):
        Digits().load()
