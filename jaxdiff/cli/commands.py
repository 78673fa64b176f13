"""The commands of the program, with their options and daily flags."""

from jaxdiff.cli.cache import CacheOptions, cache
from jaxdiff.cli.command import (
    ANY_MODEL_AND_DATA,
    AUTOENCODER,
    CONFIG,
    DATA,
    DATA_OF_RUN,
    DISTILLATION,
    EXPERIMENT,
    JUDGE,
    MODEL,
    MODEL_AND_DATA,
    PRIOR,
    TOWERS,
    USUAL_MODEL_AND_DATA,
    Command,
)
from jaxdiff.cli.compare import CompareOptions, compare
from jaxdiff.cli.convert import (
    ExportOptions,
    ImportOptions,
    export_model,
    import_model,
)
from jaxdiff.cli.demo import DemoOptions, demo
from jaxdiff.cli.distill import DistillOptions, distill_chain
from jaxdiff.cli.ema import AveragesOptions, averages
from jaxdiff.cli.encode import EncodeOptions, encode_data
from jaxdiff.cli.evaluate import EvaluateOptions, evaluate
from jaxdiff.cli.replay import ReplayOptions, replay
from jaxdiff.cli.report import ReportOptions, report
from jaxdiff.cli.reproduce import ReproduceOptions, reproduce_or_exit
from jaxdiff.cli.sample import SampleOptions, draw
from jaxdiff.cli.statistics import StatisticsOptions, statistics
from jaxdiff.cli.status import StatusOptions, status
from jaxdiff.cli.train import TrainOptions, run, train
from jaxdiff.cli.train_autoencoder import train_autoencoder
from jaxdiff.cli.train_prior import train_prior
from jaxdiff.cli.train_towers import train_towers

TRAINING = (
    "workdir", "data", "data.path", "data.size", "training.num_steps",
    "training.batch_size", "optimizer.learning_rate", "init",
    "seed",
)  # fmt: skip
"""Daily flags of `run` and `train`."""
JUDGING = ("workdir", "samples", "sampler", "steps", "guidance", "features", "seed")
"""Daily flags of commands that measure samples."""
COMMANDS = {command.name: command for command in (
    Command(
        "run", TrainOptions, run,
        "trains, samples and draws pictures",
        needs=(EXPERIMENT, JUDGE), daily=TRAINING,
    ),
    Command(
        "train", TrainOptions, train, "trains only", needs=(EXPERIMENT,),
        daily=TRAINING,
    ),
    Command(
        "distill", DistillOptions, distill_chain,
        "trains students of a run that draw in fewer steps",
        needs=(DISTILLATION,),
        daily=(
            "workdir", "steps", "init", "data", "data.path", "data.size",
            "training.num_steps", "optimizer.learning_rate",
        ),
    ),
    Command(
        "sample", SampleOptions, draw,
        "draws images from a trained run, with any sampler",
        needs=(MODEL,),
        daily=(
            "workdir", "num", "labels", "prompt", "negative", "size", "lora", "sampler",
            "steps", "guidance", "seed", "out", "step",
        ),
    ),
    Command(
        "demo", DemoOptions, demo,
        "serves a page in the browser to play with a run",
        needs=(MODEL,), words=("workdir",),
        daily=("workdir", "host", "port", "step"),
    ),
    Command(
        "compare", CompareOptions, compare,
        "measures samplers by number of network evaluations",
        needs=(MODEL_AND_DATA, JUDGE),
        daily=(
            "workdir", "sampler", "evaluations", "guidance", "num", "seed", "json",
        ),
    ),
    Command(
        "evaluate", EvaluateOptions, evaluate,
        "measures likelihood and samples, or reconstructions",
        needs=(ANY_MODEL_AND_DATA,),
        daily=("num", "ode_steps", *JUDGING, "towers", "json"),
    ),
    Command(
        "ema", AveragesOptions, averages,
        "compares averages of the parameters by sample quality",
        needs=(USUAL_MODEL_AND_DATA,), daily=("lengths", *JUDGING),
    ),
    Command(
        "statistics", StatisticsOptions, statistics,
        "writes the mean and covariance of a dataset's features",
        needs=(DATA,),
        daily=("out", "split", "num", "features", "data", "data.path", "data.size"),
    ),
    Command(
        "encode", EncodeOptions, encode_data,
        "writes latents and conditions of data, to train on",
        needs=(DATA,),
        daily=("model", "out", "batch", "flip", "data", "data.path", "data.size"),
    ),
    Command(
        "train-autoencoder", TrainOptions, train_autoencoder,
        "trains an autoencoder, for models of its latents",
        needs=(AUTOENCODER,),
        daily=(
            "workdir", "data", "data.path", "data.size", "autoencoder",
            "autoencoder.channels", "autoencoder.multipliers",
            "autoencoder.latent_channels", "features", "discriminator",
            "training.num_steps",
        ),
        suffix="-autoencoder",
    ),
    Command(
        "train-towers", TrainOptions, train_towers,
        "trains towers of images and texts, as in CLIP",
        needs=(TOWERS,),
        daily=(
            "workdir", "data", "data.path", "data.size", "data.captions",
            "towers.features", "towers.channels", "training.num_steps",
            "training.batch_size",
        ),
        suffix="-towers",
    ),
    Command(
        "train-prior", TrainOptions, train_prior,
        "trains the prior of unCLIP on the vectors of towers",
        needs=(PRIOR,),
        daily=(
            "workdir", "towers", "data", "data.path", "data.size", "data.captions",
            "network.width", "network.layers", "training.num_steps",
            "training.batch_size",
        ),
        suffix="-prior",
    ),
    Command(
        "report", ReportOptions, report, "writes a page on the run, report.html"
    ),
    Command("status", StatusOptions, status, "prints the contents of a run folder"),
    Command(
        "replay", ReplayOptions, replay, "repeats one step and shows its batch",
        needs=(DATA_OF_RUN,),
    ),
    Command(
        "reproduce", ReproduceOptions, reproduce_or_exit,
        "repeats a run and compares checksums",
        needs=(DATA_OF_RUN,),
    ),
    Command(
        "import", ImportOptions, import_model,
        "converts a model folder of diffusers to a run folder",
        needs=(CONFIG,), words=("path", "workdir"),
    ),
    Command(
        "export", ExportOptions, export_model,
        "converts a run to a model folder of diffusers", words=("workdir", "path"),
    ),
    Command(
        "cache", CacheOptions, cache,
        "prints or removes prepared data and compiled programs",
    ),
)}  # fmt: skip
"""Commands by name."""
