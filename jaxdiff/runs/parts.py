"""Frozen parts of a run besides its network: text encoders and an autoencoder.

    parts/parts.json        what the parts are, and the checksums of their files
    parts/text_encoder/     folders as published, unless parts.json links to another
    parts/tokenizer/        place; unet/ holds the network of an imported run
    ...

Latents, and runs on them, have the parts that made the latents.

A part is read when it is first used, after its files were compared with the checksums.
"""

import dataclasses
import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import serialization
from jaxdiff.components.component import Component, read_component, write_component
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.components.taesd import read_taesd, taesd_files
from jaxdiff.components.weights import has_variant, plain_name, weight_files
from jaxdiff.conditioning import TextEncoder, read_tokenizer
from jaxdiff.conditioning.prompts import Prompts
from jaxdiff.errors import InputError
from jaxdiff.latents import Autoencoder
from jaxdiff.runs.parts_info import (
    AUTOENCODERS,
    PARTS,
    RECORD,
    Encoder,
    PartsInfo,
)
from jaxdiff.runs.unclip_stages import Stages
from jaxdiff.storage.files import read_json, write_json_atomic
from jaxdiff.storage.manifest import checksum
from jaxdiff.typing import ArrayLike


@dataclass(frozen=True)
class Parts:
    """Parts of a run; each is read when it is first used.

    Attributes:
        info: what the parts are.
        folder: folder that holds them.
        adapted: text encoders with adapters, in place of those in the folder.
    """

    info: PartsInfo
    folder: Path
    adapted: Prompts | None = None

    @cached_property
    def prompts(self) -> Prompts:
        """Text encoders with their tokenizers.

        Raises:
            InputError: a file is missing, or is not the one that was imported.
        """
        if self.adapted is not None:
            return self.adapted
        found = tuple(map(self.text_encoder, self.info.encoders))
        return Prompts(found, self.info.pooled, self.info.numbers, self.info.zeros)

    def text_encoder(self, encoder: Encoder) -> TextEncoder:
        """Reads a text encoder with its tokenizer; errors are those of `prompts`."""
        self.check(encoder.tokenizer)
        tokenizer = read_tokenizer(self.folder / encoder.tokenizer)
        component = self.component(encoder.network)
        return TextEncoder(
            component.params, component.network, tokenizer, masked=encoder.masked,
            skip=encoder.skip, final_norm=encoder.final_norm,
        )  # fmt: skip

    @cached_property
    def stages(self) -> Stages:
        """Stages of unCLIP, each read when it is first used."""
        return Stages(self)

    @property
    def factor(self) -> int:
        """Number of pixels per side of a latent's number; 1 for a model of pixels."""
        return self.autoencoder.factor if self.info.autoencoder else 1

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """Autoencoder.

        Raises:
            InputError: a file is missing, or is not the one that was imported.
        """
        name = self.info.autoencoder
        files = taesd_files(self.folder / name)
        if files is None:
            found = self.component(name)
        else:
            self.check(name)
            found = read_taesd(*files, dtype=self.info.dtype)
        return Autoencoder(found.params, found.network)

    def network(self, shardings: Any = None) -> Component:
        """Reads the network of step 0.

        Raises:
            InputError: a file is missing, or is not the one that was imported.
        """
        return self.component(self.info.network, shardings)

    def encode(self, images: ArrayLike) -> np.ndarray:
        """Returns the latents of images, encoded one after the other."""
        found = [self.autoencoder.encode(jnp.asarray(x)[None]) for x in images]
        return np.concatenate(found)

    def decode(self, latents: ArrayLike) -> np.ndarray:
        """Returns the images of latents, decoded one after the other."""
        found = [self.autoencoder.decode(jnp.asarray(x)[None]) for x in latents]
        return np.clip(np.concatenate(found), -1, 1)

    def image_input(
        self, image: ArrayLike, mask: ArrayLike | None, size: tuple[int, int]
    ) -> np.ndarray:
        """Returns the image of a condition [1, h, w, channels]; see `Run.with_image`.

        Args:
            image: image [height, width, 3] in [-1, 1].
            mask: mask [height, width], or None.
            size: height and width of the model.

        Raises:
            InputError: image and mask do not fit the model.
        """
        wants = self.info.inputs
        if wants == "none" or (wants == "mask") != (mask is not None):
            takes = {"none": "neither", "image": "an image alone", "mask": "both"}
            given = "an image" if mask is None else "both"
            raise InputError(
                f"image and mask must fit the model, which takes {takes[wants]}, got "
                f"{given}."
            )
        for name, part in (("image", image), ("mask", mask)):
            if part is not None and np.shape(part)[:2] != size:
                raise InputError(
                    f"{name} must have the model's size {size}, got "
                    f"{np.shape(part)[:2]}. Resize it."
                )
        pixels = np.asarray(image, np.float32)
        if mask is None:
            inverse = self.autoencoder.scaling.inverse
            return np.asarray(inverse(jnp.asarray(self.encode(pixels[None]))))
        painted = np.asarray(mask)[..., None] >= 0.5
        known = np.where(painted, np.float32(0), pixels)
        return np.concatenate(
            [self.latent_mask(mask)[None], self.encode(known[None])], -1
        )

    def latent_mask(self, mask: ArrayLike) -> np.ndarray:
        """Returns the mask of latents; see `Run.latent_mask`."""
        step = self.autoencoder.factor
        painted = np.asarray(mask)[::step, ::step, None] >= 0.5
        return painted.astype(np.float32)

    def component(self, name: str, shardings: Any = None) -> Component:
        """Reads the network of a folder; errors are those of `network`."""
        self.check(name)
        info = self.info
        return read_component(
            self.folder / name, dtype=info.dtype, variant=self.variant_of(name),
            allow_bin=info.allow_bin, shardings=shardings,
        )  # fmt: skip

    def variant_of(self, name: str) -> str | None:
        """Returns the variant of a part's weights; None if it has plain ones only."""
        found = has_variant(self.folder / name, self.info.variant)
        return self.info.variant if found else None

    def digest(self, *names: str) -> str:
        """Returns a hash of the checksums of these folders' files."""
        known = self.info.checksums or checksums_of(self)
        found = sorted(
            digest
            for place, digest in known.items()
            if str(Path(place).parent) in names
        )
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]

    @property
    def without_network(self) -> str:
        """Hash of the checksums of autoencoder and text encoders."""
        own = Parts(dataclasses.replace(self.info, network=""), self.folder)
        return self.digest(*(name for name, _ in own.info.folders()))

    def check(self, name: str) -> None:
        """Raises `InputError` if a file of a part is missing or differs."""
        for place, known in self.info.checksums.items():
            if Path(place).parent != Path(name):
                continue
            path = self.folder / place
            if not path.is_file():
                raise InputError(
                    f"'{path}' must be a file of this model, got none. Restore it, or "
                    "import the model again."
                )
            if checksum(path) != known:
                raise InputError(
                    f"'{path}' must be the file that was imported, got another one "
                    "(SHA-256). Restore it, or import the model again."
                )


def read_parts(workdir: Path) -> Parts | None:
    """Returns the parts of a run folder; None for a run without.

    Raises:
        InputError: parts.json is damaged.
    """
    path = workdir / PARTS / RECORD
    if not path.exists():
        return None
    record = read_json(path)
    info = serialization.from_dict(PartsInfo, record, f"'{path}' cannot be read")
    return Parts(info, Path(info.link or path.parent))


def parts_of_model(path: Path) -> Parts:
    """Returns the parts of a run folder, or an autoencoder's published folder.

    Raises:
        InputError: the folder holds neither, or a run without latents.
    """
    found = read_parts(path)
    if found is not None:
        return found
    alone = Parts(PartsInfo(pipeline="", encoders=(), autoencoder="."), path)
    if taesd_files(path) is not None:
        return alone
    record = read_part(path / NETWORK)
    if record.get("_class_name") in AUTOENCODERS:
        return alone
    got = "a run of pixels" if "experiment" in record else "another folder"
    raise InputError(
        f"model must be the run folder of a model of latents, or the folder of an "
        f"autoencoder, got {got}, '{path}'"
    )


def write_parts(parts: Parts, folder: Path, link: bool) -> None:
    """Writes the parts of a run to a new folder.

    Args:
        parts: the parts, as they were published.
        folder: folder to make.
        link: if True, parts.json refers to the published files by path and checksum;
            if False, they are copied. Weights in .bin files become safetensors.
    """
    folder.mkdir()
    info = parts.info
    if link:
        place = str(parts.folder.resolve())
        info = dataclasses.replace(info, link=place, checksums=checksums_of(parts))
    else:
        for name, has_weights in info.folders():
            copy_part(parts, name, folder / name, has_weights)
        info = dataclasses.replace(info, link=None, variant=None, allow_bin=False)
        info = dataclasses.replace(info, checksums=checksums_of(Parts(info, folder)))
    write_json_atomic(folder / RECORD, serialization.to_dict(info))


def write_link(parts: Parts, folder: Path) -> None:
    """Writes the link to a model's parts without its network, unless it is there.

    Raises:
        InputError: the folder links to other files, or cannot be written.
    """
    there = read_parts(folder.parent)
    if there is None:
        own = Parts(dataclasses.replace(parts.info, network=""), parts.folder)
        write_parts(own, folder, link=True)
    elif there.without_network != parts.without_network:
        raise InputError(
            f"'{folder}' must link to the parts in '{parts.folder}', got others "
            "(SHA-256). Use the same model, or another folder."
        )


def _weights(parts: Parts, name: str) -> list[Path]:
    files = taesd_files(parts.folder / name)
    if files is not None:
        return list(files)
    return weight_files(
        parts.folder / name, parts.variant_of(name), parts.info.allow_bin
    )


def checksums_of(parts: Parts) -> dict[str, str]:
    """Returns the checksums of the files that reading the parts takes."""
    found = {}
    for name, has_weights in parts.info.folders():
        files = [*sorted((parts.folder / name).glob("*.json"))]
        files += sorted((parts.folder / name).glob("*.txt")) * (not has_weights)
        files = [file for file in files if ".index." not in file.name]
        files += _weights(parts, name) if has_weights else []
        found.update({f"{name}/{file.name}": checksum(file) for file in files})
    return found


def copy_part(parts: Parts, name: str, folder: Path, has_weights: bool) -> None:
    """Copies the files of one part; its weights get the names without a variant.

    Args:
        parts: the parts.
        name: folder of the part.
        folder: folder to make.
        has_weights: if True, the part is a network; if False, a tokenizer.
    """
    source = parts.folder / name
    if not has_weights or taesd_files(source) is not None:
        folder.mkdir()
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        return
    weights = _weights(parts, name)
    if weights[0].suffix == ".bin":
        component = read_component(source, dtype="float32", allow_bin=True)
        write_component(component, folder)
        return
    folder.mkdir()
    shutil.copyfile(source / NETWORK, folder / NETWORK)
    first, *shards = weights
    shutil.copyfile(first, folder / plain_name(first))
    for file in shards:
        shutil.copyfile(file, folder / file.name)
