"""Pictures of the page to play with: what the sampler draws, shown while it forms."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.demo import drawing
from jaxdiff.demo.drawing import Settings, Wish, blend_of, draw, wish_for
from jaxdiff.demo.pictures import image_of, mask_of, sheet
from jaxdiff.errors import InputError
from jaxdiff.samplers import live
from tests.helpers.fake_run import fake_run

SETTINGS = Settings(sampler="ddim", steps=4, guidance=1.0, seed=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory, random_params):
    """Model of digits with random parameters."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    fake_run(folder, conditional=True)
    run = jd.load(folder)
    return jd.runs.Run(**{**vars(run), "params": random_params(run.params)})


@pytest.fixture(scope="module")
def random_params():
    chance = np.random.default_rng(0)

    def filled(params):
        return jax.tree.map(
            lambda leaf: 0.2 * chance.normal(size=leaf.shape).astype(np.float32), params
        )

    return filled


def last(pictures):
    *_, found = pictures
    return found


def test_the_last_pictures_are_those_of_the_command_sample(run):
    wish = wish_for(run, 7, 3)
    shown = list(draw(run, SETTINGS, wish))
    assert len(shown) == 5  # the noise, and the state after each step
    labels = np.full(3, 7, np.int32)
    drawn = run.generate(labels, 3, 3, sampling=SETTINGS.sampling(run))
    assert np.abs(shown[-1].astype(int) - jd.data.to_uint8(drawn)).max() <= 1


def test_more_steps_compile_nothing(run):
    step: Any = live._step
    wish = wish_for(run, None, 3)
    last(draw(run, SETTINGS, wish))
    count = step._cache_size()
    more = Settings(sampler="ddim", steps=6, guidance=1.0, seed=9)
    assert len(list(draw(run, more, wish_for(run, 2, 3)))) == 7
    assert step._cache_size() == count


def test_a_blend_begins_and_ends_with_its_classes(run):
    shown = last(draw(run, SETTINGS, blend_of(run, 1, 5, 3)))
    for place, label in ((0, 1), (2, 5)):
        alone = last(draw(run, SETTINGS, wish_for(run, label, 3)))
        assert np.abs(shown[place].astype(int) - alone[0]).max() <= 1
    assert np.abs(shown[0].astype(int) - shown[2]).max() > 1


def test_a_small_strength_keeps_the_picture(run):
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    apart = []
    for strength in (0.25, 1.0):
        wish = Wish(**{**vars(wish_for(run, 1, 1)), "image": image})
        wish = Wish(**{**vars(wish), "strength": strength})
        found = last(draw(run, SETTINGS, wish))[0]
        apart.append(np.abs(found.astype(float) - jd.data.to_uint8(image)).mean())
    assert apart[0] < apart[1]


def test_a_repainted_picture_is_the_same_outside_the_mask(run):
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    wish = Wish(condition=np.array([1], np.int32), num=1, image=image, mask=mask)
    found = last(draw(run, SETTINGS, wish))[0]
    clean = jd.data.to_uint8(image)
    assert (found[~mask] == clean[~mask]).all()
    assert (found[mask] != clean[mask]).any()


def test_the_ends_of_a_blend_of_pictures_are_the_pictures(run):
    """The ODE is followed to the noise and back, so small steps keep the picture."""
    dark, light = (np.full((8, 8, 1), x, np.float32) for x in (-0.5, 0.5))
    calm = jax.tree.map(lambda leaf: leaf * 0, run.params)
    quiet = jd.runs.Run(**{**vars(run), "params": calm})
    settings = Settings(sampler="ddim", steps=8, guidance=1.0, seed=0)
    found = drawing.blend_pictures(quiet, settings, dark, light, 3)
    for place, end in ((0, dark), (2, light)):
        assert np.abs(found[place].astype(int) - jd.data.to_uint8(end)).max() <= 2


def test_noise_by_the_closed_form(run):
    image = np.full((8, 8, 1), 0.5, np.float32)
    clean, words = drawing.noisy(run, image, 0.0, 0)
    assert np.abs(clean.astype(int) - jd.data.to_uint8(image)).mean() < 40
    assert words.startswith("t = 0: ")
    noise, words = drawing.noisy(run, image, 1.0, 0)
    assert words.startswith(f"t = {run.schedule.num_steps - 1}: ")
    assert noise.std() > clean.std()


def test_uploads_and_masks(run, tmp_path):
    with pytest.raises(InputError, match="the picture must be given, got none"):
        image_of(run, None)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot read the image"):
        image_of(run, str(tmp_path / "a.png"))
    background = np.full((40, 80, 4), 255, np.uint8)
    layer = np.zeros((40, 80, 4), np.uint8)
    with pytest.raises(InputError, match="must be painted over"):
        mask_of(run, {"background": background, "layers": [layer]})
    layer[:20, 20:40, 3] = 255  # the upper left quarter of the central square
    image, mask = mask_of(run, {"background": background, "layers": [layer]})
    assert image.shape == (8, 8, 1)
    assert (image == 1).all()
    assert mask[:3, :3].all()
    assert not mask[5:].any()
    assert not mask[:, 5:].any()


def test_a_sheet_shows_each_picture(run):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 8, 8, 1), np.uint8
    )
    found = sheet(images, 3)
    assert found.shape[-1] == 3
    scale = found.shape[0] // 24
    cells = found[6 * scale :: 12 * scale, 6 * scale :: 12 * scale, 0]
    assert cells.tolist() == [[0, 1, 2], [3, 4, 255]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "num_steps must be at least 1"),
        ({"steps": 1000}, "at most the schedule's 8"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"guidance": float("nan")}, "guidance must be finite"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_line(run, changes, words):
    settings = Settings(**{**vars(SETTINGS), **changes})
    with pytest.raises(InputError, match=words):
        last(draw(run, settings, wish_for(run, None, 2)))
