"""InceptionV3 against the network of pytorch-fid, and weights read without PyTorch."""

import os
import pickle
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli.flags import parse_option
from jaxdiff.data import from_arrays
from jaxdiff.evaluation.features import Features, Inception
from jaxdiff.evaluation.frechet import Moments, frechet_distance
from jaxdiff.networks import inception
from jaxdiff.storage.torch_pickle import read_torch
from tests.helpers.pytorch import import_torchvision, torch


@pytest.fixture(scope="module")
def reference():
    """Network of pytorch-fid, all four parts, with random weights; and the weights."""
    import_torchvision()
    from pytorch_fid import inception as fid

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        weights: dict[str, Any] = {}

        def load(url, progress):
            return weights

        # Replaces the weights that the package would download.
        patch.setattr(fid, "load_state_dict_from_url", load)
        original = torch.nn.Module.load_state_dict

        def fill(self, state, *args, **options):
            for name, value in self.state_dict().items():
                weights[name] = drawn(name, value)
            return original(self, weights, *args, **options)

        patch.setattr(torch.nn.Module, "load_state_dict", fill)
        network = fid.InceptionV3(output_blocks=(0, 1, 2, 3))
    return network.eval(), weights


def drawn(name, value):
    """Returns random weights that preserve the size of the activations."""
    if name.endswith("num_batches_tracked"):
        return value
    if name.endswith("running_var"):
        return torch.rand(value.shape) + 0.5
    if name.endswith("bn.weight"):
        return torch.rand(value.shape) + 0.5
    if value.ndim == 4:
        return torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5
    return torch.randn(value.shape) * 0.2


@pytest.fixture(scope="module")
def weights_file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(reference[1], path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def variables(weights_file):
    return inception.inception_variables(read_torch(weights_file))


@pytest.mark.parametrize(
    "shape", [(32, 32), pytest.param((50, 310), marks=pytest.mark.long)]
)
def test_its_features_are_those_of_the_reference(reference, variables, shape):
    """Images smaller and larger than 299 x 299 are resized to this size."""
    images = np.random.default_rng(0).random((2, *shape, 3), np.float32)
    with torch.no_grad():
        parts = reference[0](torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    apply = jax.jit(inception.Inception().apply)
    found: Any = apply(variables, jnp.asarray(images))
    assert [a.shape for a in found] == [(2, size) for size in inception.SIZES]
    for ours, theirs in zip(found, parts, strict=True):
        expected = theirs.mean((2, 3)).numpy()
        assert expected.std() > 0.01
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_every_weight_has_its_place(reference, variables):
    """All 470 arrays of the reference's four parts are parameters of the network."""
    names = {n for n in reference[1] if not n.startswith("fc.")}
    names = {n for n in names if not n.endswith("num_batches_tracked")}
    assert len(names) == len(jax.tree.leaves(variables)) == 470


def test_images_are_read_through_the_file(reference, weights_file):
    """Grey uint8 images give the reference's features, with command-line options."""
    options = parse_option(f"inception:path={weights_file}", Features, "features")
    assert options == Inception(path=str(weights_file))
    grey = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1), np.uint8)
    dataset = from_arrays(grey)
    extractor = options.build(dataset, dataset, jd.parallel.Pmap(num_devices=2))
    features, classes = extractor.read(grey)
    assert classes is None
    assert len(extractor.weights) == 64
    assert extractor.resize == "bilinear to 299x299, not antialiased"
    scaled = torch.from_numpy(grey.transpose(0, 3, 1, 2) / np.float32(255))
    with torch.no_grad():
        expected = reference[0](scaled.repeat(1, 3, 1, 1))[-1][:, :, 0, 0].numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_another_networks_weights_are_refused(weights_file):
    weights = read_torch(weights_file)
    name = "Mixed_6b.branch7x7_2.conv.weight"
    less = {n: a for n, a in weights.items() if n != name}
    with pytest.raises(jd.InputError, match=rf"network, got none for {name}\."):
        inception.inception_variables(less)
    with pytest.raises(jd.InputError, match=r"network, got also more\.weight"):
        inception.inception_variables({**weights, "more.weight": np.zeros(3)})
    turned = {**weights, name: weights[name].transpose(0, 1, 3, 2)}
    with pytest.raises(jd.InputError, match=rf"{name} of shape \(128, 128, 7, 1\)"):
        inception.inception_variables(turned)


@pytest.fixture(scope="module")
def state():
    """Tensors of every dtype and layout."""
    return {
        "float": torch.arange(12.0).reshape(3, 4),
        "half": torch.linspace(0, 1, 5).half(),
        "brain": torch.linspace(0, 1, 5).bfloat16(),
        "double": torch.ones(2, 2, dtype=torch.float64),
        "long": torch.tensor(7),
        "bool": torch.tensor([True, False]),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "part": torch.arange(10.0)[3:7],
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_are_read_as_pytorch_reads_them(state, tmp_path, is_zip):
    path = tmp_path / "x.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    found = read_torch(path)
    assert list(found) == list(state)
    for name, tensor in state.items():
        array = found[name]
        tensor = tensor.detach()
        if name == "brain":
            assert array.dtype == ml_dtypes.bfloat16
            array, tensor = array.astype(np.float32), tensor.float()
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


class Evil:
    """Object whose pickle runs a shell command in the reader's process."""

    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_runs_no_code(tmp_path, monkeypatch, is_zip):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "x.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(jd.InputError, match=r"it would run (posix|nt)\.system"):
        read_torch(tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(jd.InputError, match=r"it would run (posix|nt)\.system"):
        read_torch(tmp_path / "y.pth")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_is_cut_short_is_refused(state, tmp_path, is_zip):
    path = tmp_path / "x.pth"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(jd.InputError, match="holds no PyTorch weights"):
            read_torch(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda: [1, 2], "a list, not a state_dict"),
        (lambda: {"epoch": 3}, "'epoch' is not a tensor"),
        (lambda: {"net": {"a": torch.ones(2)}}, "'net' is not a tensor"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, value, words):
    torch.save(value(), tmp_path / "x.pth")
    with pytest.raises(jd.InputError, match=words):
        read_torch(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (3, 1), 0), ((4,), (0,), -1)],
)
def test_a_tensor_outside_its_numbers_is_refused(tmp_path, shape, strides, offset):
    """The tensor would reach outside the stored numbers."""
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    class Forged(pickle.Pickler):
        def persistent_id(self, obj):
            if obj is torch.FloatStorage:
                return None
            stored = ("storage", torch.FloatStorage, "0", "cpu", 4)
            return stored if obj == "numbers" else None

    class Tensor:
        def __reduce__(self):
            rebuild = torch._utils._rebuild_tensor_v2
            return rebuild, ("numbers", offset, shape, strides, False, {})

    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            if not name.endswith("data.pkl"):
                archive.writestr(name, content)
                continue
            with archive.open(name, "w") as file:
                Forged(file, protocol=2).dump({"a": Tensor()})
    with pytest.raises(jd.InputError, match=r"tensor of shape .* (has|lies)"):
        read_torch(path)


def test_no_file_and_a_picture_are_refused(tmp_path):
    with pytest.raises(jd.InputError, match="there is no file"):
        read_torch(tmp_path / "none.pth")
    Image.new("L", (3, 3)).save(tmp_path / "x.png")
    with pytest.raises(jd.InputError, match="holds no PyTorch weights"):
        read_torch(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore:The `disp` argument")
def test_the_distance_is_that_of_the_reference(reference):
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 40)) @ rng.normal(size=(40, 40))
    b = rng.normal(size=(200, 40)) @ rng.normal(size=(40, 40)) + 1
    p, q = Moments.of(a), Moments.of(b)
    expected = calculate_frechet_distance(p.mean, p.covariance, q.mean, q.covariance)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_tensors_of_one_storage_take_its_memory_once(tmp_path):
    """Otherwise a small file of many tensors would fill the memory."""
    whole = torch.arange(4.0)
    torch.save({"a": whole, "b": whole[1:], "c": whole}, tmp_path / "x.pth")
    found = read_torch(tmp_path / "x.pth")
    assert np.shares_memory(found["a"], found["b"])
    assert np.shares_memory(found["a"], found["c"])
    np.testing.assert_array_equal(found["b"], [1, 2, 3])
