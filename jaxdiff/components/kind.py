"""Published classes of networks: their config.json and tensors, as networks of ours."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxdiff.components.published_names import published_places
from jaxdiff.components.weights import TRANSFORMERS
from jaxdiff.errors import InputError
from jaxdiff.networks.base import CommonConfig
from jaxdiff.typing import Params


def check_inputs(options: Any) -> None:
    """Checks that a network takes its input as published networks do.

    Raises:
        InputError: it takes a second time, or the level of an image's noise, or is a
            U-Net on patches.
    """
    if isinstance(options, CommonConfig) and options.patch > 1:
        raise InputError(
            f"network.patch must be 1 for diffusers, got {options.patch}: it has no "
            "U-Net on patches. Use the run in jaxdiff, or train with patch 1."
        )
    for name in ("second_time", "image_level"):
        if getattr(options, name, False):
            raise InputError(
                f"{name} must be off for diffusers, whose networks have no such "
                "input, got on. Use the run in jaxdiff."
            )


class Kind(NamedTuple):
    """Published class as a network of ours.

    Attributes:
        entries: our option for each entry of config.json of the same meaning.
        defaults: values of the entries that a file may lack.
        fixed: entries that can have one value only.
        options: class of our options.
        read: function from config.json, with defaults, to further options.
        write: function from our options to further entries.
        stem: first part of the weight files' names.
        ignored: pattern of the names of tensors that are not needed.
        prefix: first part of the tensors' names that newer files lack.
        build: function from our options and config.json to the network.
        describe: function from the network to the entries that `build` reads.
        places: function from a network and its parameters to their places.
    """

    options: Any
    entries: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    read: Callable[[dict[str, Any]], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    stem: str = TRANSFORMERS
    ignored: str = r"(.*\.)?embeddings\.position_ids"
    prefix: str = ""
    build: Callable[[Any, dict[str, Any]], Any] = lambda options, _: options.build()
    describe: Callable[[Any], dict[str, Any]] = lambda network: {}
    places: Callable[[Any, Params], Any] = lambda _, params: published_places(params)


def plain(value: Any) -> Any:
    """Returns a JSON value as an option: a list as a tuple."""
    return tuple(value) if isinstance(value, list) else value
