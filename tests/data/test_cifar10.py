"""CIFAR-10 through TFDS's own builder, from an archive served on this machine."""

import functools
import http.server
import io
import sys
import tarfile
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.image_classification import cifar

from jaxdiff.data import TFDS, tfds_prepare
from jaxdiff.errors import InputError


def serve_cifar(monkeypatch, url: str) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    info = cifar.Cifar10._cifar_info.fget
    moved = property(lambda self: info(self)._replace(url=url))
    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", moved)


def test_cifar10_without_tensorflow(tmp_path, monkeypatch):
    """A small archive of CIFAR-10's layout is downloaded, prepared and read."""
    raw = np.random.default_rng(0).integers(0, 256, (6, 4, 3073), np.uint8)
    raw[..., 0] %= 10
    files = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    contents = dict(zip(files, (part.tobytes() for part in raw), strict=True))
    names = [f"class{i}" for i in range(10)]
    contents["batches.meta.txt"] = "\n".join([*names, ""]).encode()
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/cifar.tar.gz"
        serve_cifar(monkeypatch, address)
        train = TFDS(data_dir=str(tmp_path / "data")).load("train")
        server.shutdown()
    test = TFDS(data_dir=str(tmp_path / "data")).load("test")

    assert train.class_names == test.class_names == tuple(names)
    for data, part in ((train, raw[:5]), (test, raw[5:])):
        rows = part.reshape(-1, 3073)
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        expected = {(int(r[0]), i.tobytes()) for r, i in zip(rows, images, strict=True)}
        assert data.labels is not None
        labels = data.labels.tolist()
        found = zip(labels, (i.tobytes() for i in np.asarray(data.images)), strict=True)
        assert set(found) == expected  # TFDS shuffles the examples
        assert len(data) == len(rows)
    assert "tensorflow" not in sys.modules
    with pytest.raises(ImportError):  # the stand-in is removed
        _ = tfds.core.lazy_imports_utils.tensorflow.io


def test_cifar10_without_a_network(tmp_path, monkeypatch):
    serve_cifar(monkeypatch, "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setattr(tfds_prepare, "_RETRIES", 0)
    with pytest.raises(
        InputError, match=r"cannot prepare .*'cifar10'.*tfds build"
    ) as e:
        TFDS(data_dir=str(tmp_path)).load()
    assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("cifar10/*"))
