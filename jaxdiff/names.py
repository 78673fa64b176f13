"""Names that load when first used, and the names of earlier versions."""

import functools
import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy(
    module: str,
    places: Mapping[str, str] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Callable[[str], Any]:
    """A module's `__getattr__`: for names that are not imported when the module is.

    Args:
        module: the module's `__name__`.
        places: from a name to its place, "module:name", or "module" for a module.
        renamed: from an old name to what has taken its place, "module.name". Each warns
            when it is first used.
    """
    places, renamed = places or {}, renamed or {}

    def getattr_(name: str) -> Any:
        if name in places:
            found = pkgutil.resolve_name(places[name])
        elif name in renamed:
            # By attributes: an import could take an old module, or one of a function.
            found = functools.reduce(
                getattr, renamed[name].split(".")[1:], sys.modules["jaxdiff"]
            )
            _warn(f"{module}.{name}", renamed[name])
        else:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        setattr(sys.modules[module], name, found)
        return found

    return getattr_


def _warn(old: str, new: str) -> None:
    """Warns the user of an old name."""
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)


CLASSES = {
    "Ancestral": "DDPM",
    "Ddim": "DDIM",
    "DpmSolver": "DPMSolver",
    "Edm": "EDM",
    "EdmWeighting": "EDMWeighting",
    "FashionMnist": "FashionMNIST",
    "Folder": "ImageFolder",
    "MinSnr": "MinSNR",
    "SnrPlusOne": "SNRPlusOne",
    "StraightPath": "RectifiedFlow",
    "Tfds": "TFDS",
    "UniPc": "UniPC",
    "UniformLogSnr": "UniformLogSNR",
    "VarianceExploding": "VE",
    "VariancePreserving": "VP",
    "ZeroTerminalSnr": "ZeroTerminalSNR",
}
"""Option classes by their old names, as older run folders have them."""

_NEW = CLASSES | {
    "Dps": "DPS",
    "Grids": "SampleGrids",
    "Job": "Trainer",
    "NonFinite": "NonFiniteError",
    "Repaint": "RePaint",
    "classifier_free": "classifier_free_guidance",
    "clip_x_0": "clip_x0",
    "keep": "save_arrays",
    "kept": "load_arrays",
    "train_job": "run_training",
}

OLD_NAMES = {
    "AllTimes": "jaxdiff.spacing.AllTimes",
    "Ancestral": "jaxdiff.DDPM",
    "Bound": "jaxdiff.losses.Bound",
    "ContinuousSchedule": "jaxdiff.schedules.ContinuousSchedule",
    "Dataset": "jaxdiff.data.Dataset",
    "Ddim": "jaxdiff.DDIM",
    "Denoiser": "jaxdiff.typing.Denoiser",
    "Diagnosis": "jaxdiff.schedules.Diagnosis",
    "Digits": "jaxdiff.data.Digits",
    "DpmSolver": "jaxdiff.DPMSolver",
    "Dps": "jaxdiff.samplers.DPS",
    "Edm": "jaxdiff.predictions.EDM",
    "EdmWeighting": "jaxdiff.losses.EDMWeighting",
    "Eps": "jaxdiff.predictions.Eps",
    "Euler": "jaxdiff.samplers.Euler",
    "EulerAncestral": "jaxdiff.samplers.EulerAncestral",
    "FashionMnist": "jaxdiff.data.FashionMNIST",
    "FixedLarge": "jaxdiff.samplers.FixedLarge",
    "FixedSmall": "jaxdiff.samplers.FixedSmall",
    "FlowEuler": "jaxdiff.samplers.FlowEuler",
    "FlowHeun": "jaxdiff.samplers.FlowHeun",
    "Folder": "jaxdiff.data.ImageFolder",
    "Gaussian": "jaxdiff.oracles.Gaussian",
    "GaussianMixture": "jaxdiff.oracles.GaussianMixture",
    "Hybrid": "jaxdiff.losses.Hybrid",
    "Karras": "jaxdiff.spacing.Karras",
    "Leading": "jaxdiff.spacing.Leading",
    "LearnedRange": "jaxdiff.samplers.LearnedRange",
    "Linspace": "jaxdiff.spacing.Linspace",
    "LogNormal": "jaxdiff.losses.LogNormal",
    "LossHistory": "jaxdiff.losses.LossHistory",
    "MarginalNoise": "jaxdiff.samplers.MarginalNoise",
    "MinSnr": "jaxdiff.losses.MinSNR",
    "NonFinite": "jaxdiff.errors.NonFiniteError",
    "P2": "jaxdiff.losses.P2",
    "Pmap": "jaxdiff.parallel.Pmap",
    "Posterior": "jaxdiff.schedules.Posterior",
    "QuadraticTimes": "jaxdiff.spacing.QuadraticTimes",
    "Repaint": "jaxdiff.samplers.RePaint",
    "Replacement": "jaxdiff.samplers.Replacement",
    "Run": "jaxdiff.runs.Run",
    "Sampler": "jaxdiff.samplers.Sampler",
    "Sharded": "jaxdiff.parallel.Sharded",
    "SigmoidWeighting": "jaxdiff.losses.SigmoidWeighting",
    "Simple": "jaxdiff.losses.Simple",
    "SnrPlusOne": "jaxdiff.losses.SNRPlusOne",
    "StraightPath": "jaxdiff.schedules.RectifiedFlow",
    "Terminated": "jaxdiff.parallel.Terminated",
    "Tfds": "jaxdiff.data.TFDS",
    "Times": "jaxdiff.spacing.Times",
    "Trailing": "jaxdiff.spacing.Trailing",
    "UniPc": "jaxdiff.samplers.UniPC",
    "Uniform": "jaxdiff.losses.Uniform",
    "UniformEps": "jaxdiff.losses.UniformEps",
    "UniformLogSnr": "jaxdiff.spacing.UniformLogSNR",
    "UniformTimes": "jaxdiff.losses.UniformTimes",
    "UniformX0": "jaxdiff.losses.UniformX0",
    "V": "jaxdiff.predictions.V",
    "VarianceExploding": "jaxdiff.schedules.VE",
    "VariancePreserving": "jaxdiff.schedules.VP",
    "Velocity": "jaxdiff.predictions.Velocity",
    "X0": "jaxdiff.predictions.X0",
    "ZeroTerminalSnr": "jaxdiff.schedules.ZeroTerminalSNR",
    "autoguidance": "jaxdiff.guidance.autoguidance",
    "bits_per_dim": "jaxdiff.evaluation.bits_per_dim",
    "blend_labels": "jaxdiff.samplers.blend_labels",
    "blur": "jaxdiff.inverse_problems.blur",
    "classifier_free": "jaxdiff.classifier_free_guidance",
    "classifier_guidance": "jaxdiff.guidance.classifier_guidance",
    "clip_x_0": "jaxdiff.clip_x0",
    "decode": "jaxdiff.samplers.decode",
    "dequantise": "jaxdiff.evaluation.dequantise",
    "diagnose": "jaxdiff.schedules.diagnose",
    "downsample": "jaxdiff.inverse_problems.downsample",
    "dynamic_threshold": "jaxdiff.denoisers.dynamic_threshold",
    "encode": "jaxdiff.samplers.encode",
    "gaussian_blur": "jaxdiff.inverse_problems.gaussian_blur",
    "given_measurement": "jaxdiff.inverse_problems.given_measurement",
    "image_to_image": "jaxdiff.samplers.image_to_image",
    "interpolate": "jaxdiff.samplers.interpolate",
    "log_snr": "jaxdiff.schedules.log_snr",
    "masked": "jaxdiff.inverse_problems.masked",
    "mix_classes": "jaxdiff.guidance.mix_classes",
    "ode_log_density": "jaxdiff.evaluation.ode_log_density",
    "p_mean_variance": "jaxdiff.samplers.p_mean_variance",
    "rescale_zero_terminal_snr": "jaxdiff.schedules.rescale_zero_terminal_snr",
    "slerp": "jaxdiff.samplers.slerp",
    "snr": "jaxdiff.schedules.snr",
    "to_float": "jaxdiff.data.to_float",
    "to_uint8": "jaxdiff.data.to_uint8",
    "variational_bound": "jaxdiff.evaluation.variational_bound",
}
"""Names that were in `jaxdiff` itself, and where they are."""

_MODULES = {
    "averages": "cli.ema",
    "blend": "samplers.editing",
    "board": "runs.tensorboard",
    "checkpoint": "storage.checkpoints",
    "classifier": "evaluation.feature_classifier",
    "compare": "cli.compare",
    "compiled": "storage.compilation_cache",
    "config": "serialization",
    "continuous": "schedules.continuous",
    "cores": "parallel.cpu_devices",
    "denoiser": "denoisers.network",
    "diagnose": "schedules.diagnose",
    "diffusers": "pretrained cli.convert",
    "draw": "cli.sample cli.sampling_options",
    "ema": "training.ema",
    "evaluate": "cli.evaluate",
    "experiment": "training.experiment",
    "features": "evaluation.features",
    "fidelity": "evaluation.fidelity",
    "files": "storage.files storage.cache",
    "fine_tune": "runs.fine_tune",
    "flags": "cli.flags",
    "forward": "schedules.forward",
    "grids": "runs.sample_grids",
    "guidance": "denoisers.guidance denoisers.thresholding",
    "held_out": "evaluation.dataset_likelihood",
    "hosts": "parallel.processes",
    "interrupt": "parallel.preemption",
    "inverse": "denoisers.inverse_problems samplers.inverse_problems",
    "job": "runs.trainer",
    "judging": "cli.quality_options",
    "kept": "storage.cache",
    "keys": "rng",
    "likelihood": "evaluation.likelihood",
    "log": "runs.log runs.metrics_buffer runs.folder",
    "loss": "losses.loss",
    "metrics": "evaluation",
    "metrics.agreement": "evaluation.label_agreement",
    "metrics.distances": "evaluation.pairwise",
    "metrics.events": "storage.event_files",
    "metrics.frechet": "evaluation.frechet",
    "metrics.kernel": "evaluation.kid",
    "metrics.manifold": "evaluation.precision_recall",
    "metrics.mean": "evaluation.mean",
    "metrics.nearest": "evaluation.memorization",
    "metrics.writer": "storage.json_lines",
    "networks.embedding": "networks.time_embedding",
    "objective": "losses.objectives",
    "optimizer": "training.optimizer",
    "oracle": "denoisers.oracles",
    "page": "report.page",
    "prediction": "denoisers.predictions",
    "progress": "cli.progress",
    "provenance": "runs.provenance",
    "record": "runs.folder",
    "replay": "cli.replay",
    "reproduce": "cli.reproduce",
    "reverse": "samplers.ancestral",
    "run": "runs.load runs.run runs.data_of_run runs.folder training.initialize",
    "samplers.ode": "samplers.inversion",
    "samplers.uni_pc": "samplers.unipc",
    "schedule": "schedules.discrete schedules",
    "sealed": "storage.manifest",
    "snapshots": "runs.post_hoc_ema runs.folder",
    "statistics": "cli.statistics evaluation.reference_statistics",
    "status": "report.status report.text",
    "step": "training.step",
    "times": "losses.time_sampling",
    "torch_file": "storage.torch_pickle",
    "train": "runs.train",
    "train_state": "training.state",
    "variational": "losses.variational",
    "weighting": "losses.weightings",
    "wrong_flags": "cli.flag_errors",
}
"""The old modules, and where their names are now."""

_OPTIONS_SECOND = ("averages", "compare", "draw", "evaluate", "statistics")
"""Functions of commands, whose first two arguments were the other way round."""


def _options_second(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command with its options as the second argument."""

    @functools.wraps(function)
    def old(run: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        return function(options, run, *args, **kwargs)

    return old


class _OldModule(types.ModuleType):
    """An old module; `jaxdiff.train` and `jaxdiff.diagnose` are functions as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of earlier versions, whose names warn and lead to the new."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The specification of an old module; None for any other."""
        package, _, name = fullname.partition(".")
        if package != "jaxdiff" or name not in _MODULES:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, self, is_package=name == "metrics"
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """An empty old module."""
        return _OldModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Fills an old module with a way to the new ones.

        Where a namespace of today has the same name, it stays what it is, and only
        leads the old names to the new ones as well.
        """
        old = module.__name__
        _, _, name = old.partition(".")
        places = [f"jaxdiff.{place}" for place in _MODULES[name].split()]
        today = vars(sys.modules["jaxdiff"]).get(name)
        if isinstance(today, types.ModuleType):
            sys.modules[old] = module = today

        def getattr_(name: str) -> Any:
            new = _NEW.get(name, name)
            for place in places:
                there = importlib.import_module(place)
                own = new in vars(there) if there is module else hasattr(there, new)
                if own and not name.startswith("__"):
                    _warn(f"{old}.{name}", f"{place}.{new}")
                    found = getattr(there, new)
                    if new in _OPTIONS_SECOND:
                        found = _options_second(found)
                    setattr(module, name, found)
                    return found
            raise AttributeError(f"module {old!r} has no attribute {name!r}")

        module.__doc__ = module.__doc__ or f"The names that were in `{old}`."
        module.__getattr__ = getattr_  # type: ignore[method-assign]
