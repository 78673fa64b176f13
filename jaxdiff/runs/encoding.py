"""Records that `encode` makes of a dataset: latents, and conditions of captions."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiff.data import Buckets, Data, Dataset, to_float
from jaxdiff.data.dataset import EmptySplit
from jaxdiff.data.latents import (
    SHARD,
    STORED,
    Group,
    LatentsBucket,
    LatentsInfo,
    shard_names,
    type_of,
)
from jaxdiff.errors import InputError, shown
from jaxdiff.latents import Autoencoder
from jaxdiff.networks.image_sizes import check_sides
from jaxdiff.parallel.processes import first_then_others, is_first
from jaxdiff.runs.parts import Parts
from jaxdiff.typing import Condition

SPLITS = ("train", "test")
TEXTS_AT_ONCE = 16
"""Number of captions that are encoded at once."""


@dataclass(frozen=True)
class Work:
    """Files that `encode` makes, and what they are made of.

    Attributes:
        splits: images of each split that has any.
        parts: autoencoder and text encoders.
        info: description of the files.
        captions: every caption once; the first is no caption.
    """

    splits: dict[str, Dataset]
    parts: Parts
    info: LatentsInfo
    captions: tuple[str, ...]

    @classmethod
    def of(cls, data: Data, parts: Parts, batch: int, flip: bool) -> "Work":
        """Loads the images, and describes the files.

        Args:
            data: the images, perhaps with captions.
            parts: autoencoder and text encoders.
            batch: number of images that a device encodes at once.
            flip: if True, the mirrored images are encoded too.

        Raises:
            InputError: the images do not fit the autoencoder.
        """
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        splits = {}
        for split in SPLITS:
            with suppress(EmptySplit):
                splits[split] = first_then_others(partial(data.load, split))
        first = next(iter(splits.values()))
        if first.moments is not None:
            raise InputError("data must be images, got latents. Name the images.")
        autoencoder, shape = parts.autoencoder, first.image_shape
        factor = autoencoder.factor
        for dataset in splits.values():
            for part in dataset.buckets:
                check_sides(*part.image_shape[:2], factor, " for the autoencoder")
        black = np.full((1, *shape), -1, np.float32)
        mean, deviation = jax.eval_shape(autoencoder.moments, black)
        captions: dict[str, None] = {"": None}
        for dataset in splits.values():
            if dataset.captions is None and parts.info.encoders:
                raise InputError(
                    "data must have captions for a model of text, got none. Read those "
                    "of a folder with --data.captions auto."
                )
            for texts in dataset.captions or ():
                captions |= dict.fromkeys(texts)
        in_buckets = isinstance(first.images, Buckets)
        text = None
        if parts.info.encoders:
            prompts = parts.prompts
            found = prompts([""] * TEXTS_AT_ONCE, shape[:2])  # as all chunks
            warn_of_cut(prompts.cut(list(captions)), len(captions) - 1)
            text = {
                name: tuple(part.shape[1:])
                for name, part in found._asdict().items()
                if part is not None and not (in_buckets and name == "numbers")
            }

        def bucket_of(images: Dataset) -> LatentsBucket:
            height, width, _ = images.image_shape
            numbers = None
            if parts.info.encoders:
                numbers = parts.prompts([""], (height, width)).numbers
            return LatentsBucket(
                height=height // factor,
                width=width // factor,
                num=len(images),
                numbers=() if numbers is None else tuple(numbers[0].tolist()),
            )

        info = LatentsInfo(
            image_shape=shape,
            latent_shape=mean.shape[1:],
            deviation=deviation is not None,
            mirrored=flip,
            class_names=first.class_names,
            text=text,
            captions=0 if first.captions is None else len(captions),
            sizes={split: len(one) for split, one in splits.items()},
            buckets={
                split: tuple(map(bucket_of, one.buckets))
                for split, one in splits.items()
            }
            if in_buckets
            else None,
            source={split: one.fingerprint() for split, one in splits.items()},
            parts=parts.without_network,
            batch=batch,
        )
        return cls(splits, parts, info, tuple(captions))

    def conditions(self, texts: Sequence[str]) -> Condition:
        """Returns the conditions of captions; "" is no caption."""
        prompts, size = self.parts.prompts, self._size
        found = prompts(texts, size, quiet=True)
        if not prompts.zeros:  # no caption is an empty one
            return found
        nothing = prompts.negative(found, None, size)
        absent = np.array([not text for text in texts])

        def chosen(text: Any, none: Any) -> np.ndarray:
            where = absent.reshape(-1, *(1,) * (text.ndim - 1))
            return np.where(where, none, text)

        return jax.tree.map(chosen, found, nothing._replace(numbers=found.numbers))

    @property
    def _size(self) -> tuple[int, int]:
        height, width, *_ = self.info.image_shape
        return height, width

    def text_records(self, first: int, end: int) -> Iterator[bytes]:
        """Yields the records of captions first, ..., end - 1."""
        for begin in range(first, end, TEXTS_AT_ONCE):
            texts = list(self.captions[begin : min(begin + TEXTS_AT_ONCE, end)])
            count = len(texts)
            # Chunks of one size make the bytes of a caption independent of the others.
            texts += [""] * (TEXTS_AT_ONCE - count)
            parts = self.conditions(texts)._asdict()
            arrays = [
                _stored(name, parts[name], type_of(name))
                for name in self.info.text or {}
            ]
            for i in range(count):
                yield b"".join(array[i].tobytes() for array in arrays)

    def latent_records(
        self, split: str, first: int, end: int, mirror: bool
    ) -> Iterator[bytes]:
        """Yields the records of images first, ..., end - 1 of a split."""
        images = self.splits[split].images
        rows = self.info.batch * self._devices.size
        for begin in range(first, end, rows):
            # Repeated images fill up the last batch; their latents are left out.
            places = np.minimum(np.arange(begin, begin + rows), end - 1)
            pixels = images[places]
            pixels = to_float(pixels[:, :, ::-1] if mirror else pixels)
            found = jax.device_get(self._moments(pixels))
            joined = np.concatenate([one for one in found if one is not None], -1)
            for record in _stored("latents", joined, STORED)[: end - begin]:
                yield record.tobytes()

    @cached_property
    def _devices(self) -> Mesh:
        return Mesh(np.array(jax.local_devices()), ("devices",))

    @cached_property
    def _moments(self) -> Callable[[np.ndarray], Any]:
        """Function of images that returns their moments; each device takes its rows."""
        whole, rows = PartitionSpec(), PartitionSpec("devices")
        mesh = self._devices
        mapped = jax.jit(
            jax.shard_map(
                Autoencoder.moments, mesh=mesh, in_specs=(whole, rows), out_specs=rows,
                check_vma=False,
            )
        )  # fmt: skip
        autoencoder = jax.device_put(self.parts.autoencoder, NamedSharding(mesh, whole))
        return lambda images: mapped(
            autoencoder, jax.device_put(images, NamedSharding(mesh, rows))
        )

    def examples(self, split: str) -> dict[str, Any]:
        """Returns the classes of a split's images, and numbers of their captions."""
        dataset = self.splits[split]
        labels = None if dataset.labels is None else dataset.labels.tolist()
        found: dict[str, Any] = {"labels": labels}
        if self.info.captions:
            number = {text: i for i, text in enumerate(self.captions)}
            texts = dataset.captions or (("",),) * len(dataset)
            found["captions"] = [[number[text] for text in one] for one in texts]
        return found

    def files(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Yields each file: its name, kind and split, and the range of its records."""

        def shards(
            folder: str, kind: str, split: str, group: Group
        ) -> Iterator[tuple[str, str, str, int, int]]:
            names = shard_names(kind + group.ending, group.num)
            for i, name in enumerate(names):
                begin, end = i * SHARD, min((i + 1) * SHARD, group.num)
                yield folder + name, kind, split, group.first + begin, group.first + end

        for split in self.info.sizes:
            for kind in ("latents", "mirrored")[: 1 + self.info.mirrored]:
                for group in self.info.groups(split):
                    yield from shards(f"{split}/", kind, split, group)
        if self.info.text is not None:
            texts = Group("", 0, self.info.captions, ())
            yield from shards("", "texts", "", texts)


def _stored(name: str, values: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """Returns values in the type of their file."""
    with np.errstate(over="ignore"):
        found = np.asarray(values).astype(dtype)
    if not np.isfinite(found).all():
        raise InputError(
            f"{name} must be finite in {dtype}, got NaN or too large numbers. Look at "
            "the model's weights."
        )
    return found


def warn_of_cut(texts: Sequence[str], count: int) -> None:
    """Warns about captions whose ends the text encoder does not see."""
    if texts and is_first():
        warnings.warn(
            f"cut {len(texts)} of {count} captions, which are too long for the text "
            f"encoder, such as {shown(texts[0])}",
            stacklevel=2,
        )
