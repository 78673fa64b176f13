"""Tokenizer of a run whose network has a text encoder, and the captions as tokens.

The tokenizer is made from the training captions, or it is that of the run of `init`, or
the one in the folder `Experiment.tokenizer`. The run stores it in parts/tokenizer, and
config.json has its checksum.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.conditioning import TextEncoder, Tokenizer, Tokens, read_tokenizer
from jaxdiff.conditioning.own_tokenizer import (
    digest_of_folder,
    make_tokenizer,
    tokenizer_digest,
    write_tokenizer,
)
from jaxdiff.conditioning.prompts import Prompts
from jaxdiff.data import Dataset
from jaxdiff.data.captions import numbered
from jaxdiff.data.dataset import Texts
from jaxdiff.errors import InputError
from jaxdiff.networks.own_text import ENCODER
from jaxdiff.networks.text_transformer import TextTransformerConfig
from jaxdiff.runs.encoding import warn_of_cut
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.parts_info import PARTS
from jaxdiff.storage.files import expanded
from jaxdiff.training.experiment import AnyExperiment, DataInfo
from jaxdiff.training.model import Model
from jaxdiff.typing import Condition, Params

FOLDER = "tokenizer"


def own_text(network: Any) -> TextTransformerConfig | None:
    """Returns the options of the text encoder inside a network; None for none."""
    return getattr(getattr(network, "config", None), "own_text", None)


def with_tokens(
    experiment: AnyExperiment, dataset: Dataset
) -> tuple[Dataset, Tokenizer | None]:
    """Returns the dataset with tokens of its captions, and their tokenizer.

    Without a text encoder inside the network, the dataset stays as it is.

    Raises:
        InputError: the data has no captions, or the tokenizer does not fit.

    Warns:
        UserWarning: captions are too long, and are cut.
    """
    config = experiment.own_text
    if config is None:
        if experiment.tokenizer is not None:
            raise InputError(
                "tokenizer must be None for a network without a text encoder, got "
                f"'{experiment.tokenizer}'. Set network.text to transformer."
            )
        return dataset, None
    if dataset.captions is None:
        raise InputError(
            "data must have captions for a network with a text encoder, got none. Read "
            "those of a folder with --data.captions auto."
        )
    if dataset.texts is not None:
        raise InputError(
            "network.text must be none for data with encoded captions, got "
            "transformer. Set it to none, or encode the images without text encoders."
        )
    tokenizer = _tokenizer(experiment, config, dataset)
    captions, numbers, first = numbered(dataset.captions)
    tokens, long = _tokens(tokenizer, captions)
    warn_of_cut(long, len(captions) - 1)
    texts = Texts(
        lambda numbers: Condition(
            tokens=tokens.ids[numbers], mask=tokens.mask[numbers]
        ),
        numbers,
        first,
    )
    return replace(dataset, texts=texts), tokenizer


def condition_of(tokenizer: Tokenizer, texts: Sequence[str]) -> Condition:
    """Returns texts as tokens; long ones are cut."""
    tokens, _ = _tokens(tokenizer, texts)
    return Condition(tokens=tokens.ids, mask=tokens.mask)


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tokens, list[str]]:
    """Returns the tokens of texts, and the texts that were cut."""
    found = [tokenizer.windows(text) for text in texts]
    long = [text for text, one in zip(texts, found, strict=True) if len(one.ids) > 1]
    ids, mask = (
        np.stack([part[0] for part in one]) for one in zip(*found, strict=True)
    )
    return Tokens(ids, mask), long


def _tokenizer(
    experiment: AnyExperiment, config: TextTransformerConfig, dataset: Dataset
) -> Tokenizer:
    """Returns the tokenizer of a run that begins."""
    started = None
    if experiment.init is not None:
        folder = Path(str(experiment.init))
        started = stored_tokenizer(folder, read_config(folder)[1])
    if experiment.tokenizer is not None:
        found = read_tokenizer(expanded(experiment.tokenizer), config.length)
        if started is not None and tokenizer_digest(found) != tokenizer_digest(started):
            raise InputError(
                f"tokenizer must be that of the model in '{experiment.init}', got "
                f"another one, '{experiment.tokenizer}'. Leave the option out."
            )
    elif started is not None:
        found = started
    else:
        texts = chain.from_iterable(dataset.captions or ())
        return make_tokenizer(texts, config.vocabulary, config.length)
    for name, is_, most in (
        ("vocabulary", found.vocabulary, config.vocabulary),
        ("length", found.length, config.length),
    ):
        if is_ > most:
            raise InputError(
                f"network.text.{name} must be at least {is_} for this tokenizer, got "
                f"{most}"
            )
    return found


def store_tokenizer(workdir: Path, tokenizer: Tokenizer) -> None:
    """Writes the tokenizer to a run folder."""
    write_tokenizer(tokenizer, workdir / PARTS / FOLDER)


def stored_tokenizer(workdir: Path, info: DataInfo) -> Tokenizer | None:
    """Returns the tokenizer of a run folder; None for a run without.

    Raises:
        InputError: its files are missing, or are not those of the run.
    """
    if info.tokenizer is None:
        return None
    folder = workdir / PARTS / FOLDER
    found = digest_of_folder(folder)
    if found != info.tokenizer:
        raise InputError(
            f"'{folder}' must hold the tokenizer that the run was trained with, got "
            f"{'none' if found is None else 'another one (SHA-256)'}. Restore it."
        )
    return read_tokenizer(folder)


def prompts_of(model: Model, params: Params, tokenizer: Tokenizer) -> Prompts:
    """Returns the text encoder inside a network, bound to its tokenizer."""
    config = own_text(model.network)
    assert config is not None, "the run has a tokenizer"
    network: Any = model.network
    encoder = TextEncoder(params[ENCODER], config.build(), tokenizer)
    return Prompts((encoder,), pooled="vector" in network.takes)
