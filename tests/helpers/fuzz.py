"""Fuzzing of files and texts: each is read, or gives an error of one line.

`test_fuzz` tries some examples of each property, always the same. The command

    python -m tests.helpers.fuzz --minutes 10

tries new examples until the time is up, and exits with 1 if an example breaks a
property.
"""

import argparse
import io
import itertools
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from jaxdiff.cli.flags import option_name, parse_option
from jaxdiff.data import Data
from jaxdiff.data.image_files import read_image
from jaxdiff.denoisers.predictions import EDM, Prediction
from jaxdiff.losses.objectives import Bound, Objective, Simple
from jaxdiff.losses.time_sampling import TimesOptions
from jaxdiff.losses.weightings import WeightingOptions
from jaxdiff.parallel import Parallel, Sharded
from jaxdiff.runs.folder import read_record
from jaxdiff.samplers import DDIM, DDPM, SamplerOptions, Spacing
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import ZeroTerminalSNR
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.storage.files import read_json
from jaxdiff.training.experiment import Experiment, Sampling
from jaxdiff.training.initialize import build_model
from tests.helpers.fuzz_captions import CAPTIONS
from tests.helpers.fuzz_models import MODELS
from tests.helpers.fuzz_strategies import (
    JSON,
    NUMBERS,
    mostly,
    mutated,
    or_refused,
    with_changes,
)

# Images:


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _images() -> dict[str, bytes]:
    """Returns a small valid file of each format."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 4), np.uint8)
    rgba = Image.fromarray(pixels)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(16)
    scan_steps: dict[str, Any] = {
        "save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)],
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return {
        "png": _encoded(rgb, "PNG"),
        "png-16": _encoded(sixteen, "PNG"),
        "png-1": _encoded(grey.convert("1"), "PNG"),
        "png-palette": _encoded(palette, "PNG", transparency=bytes(range(16))),
        "png-rgba": _encoded(rgba, "PNG", exif=exif),
        "png-la": _encoded(rgba.convert("LA"), "PNG"),
        "apng": _encoded(rgb, "PNG", **scan_steps),
        "jpeg": _encoded(rgb, "JPEG", exif=exif),
        "jpeg-cmyk": _encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg-grey": _encoded(grey, "JPEG"),
        "jpeg-progressive": _encoded(rgb, "JPEG", progressive=True),
        "webp": _encoded(rgb, "WEBP"),
        "webp-lossless": _encoded(rgba, "WEBP", lossless=True),
        "webp-animated": _encoded(rgba, "WEBP", **scan_steps),
        "bmp": _encoded(rgb, "BMP"),
        "bmp-palette": _encoded(palette, "BMP"),
        "bmp-1": _encoded(grey.convert("1"), "BMP"),
        "gif": _encoded(palette, "GIF", transparency=3),
        "gif-animated": _encoded(rgb, "GIF", **scan_steps),
    }


IMAGES = _images()


def _checked_sums(data: bytes) -> bytes:
    """Returns the file; the chunks of a PNG get correct checksums."""
    if not data.startswith(b"\x89PNG"):
        return data
    result, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        result[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(result[: len(data)])


_MUTATED = mutated(st.sampled_from(list(IMAGES.values())))
FILES = mostly(
    st.builds(_checked_sums, _MUTATED),
    st.one_of(
        _MUTATED,
        st.builds(  # a valid start, then random bytes
            lambda image, rest: image[:24] + rest,
            st.sampled_from(list(IMAGES.values())),
            st.binary(max_size=200),
        ),
        st.binary(max_size=200),
    ),
)
_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")


def check_image(data: bytes, size: int, channels: int) -> None:
    """Checks that bytes give an image of the requested size, or an InputError."""
    path = Path(_FOLDER.name) / "image"
    path.write_bytes(data)
    image = or_refused(lambda: read_image(path, size, channels))
    if image is not None:
        assert image.shape == (size, size, channels)
        assert image.dtype == np.uint8


# Configurations:


def _experiments() -> list[Experiment]:
    """Returns an experiment with each member of each choice, at its defaults."""
    return [
        *(Experiment(data=member()) for member in get_args(Data)),
        *(Experiment(schedule=member()) for member in get_args(ScheduleOptions)),
        *(Experiment(schedule=ZeroTerminalSNR(), prediction=EDM(data_deviation=s))
          for s in (0.3, 1.0)),
        *(Experiment(prediction=member()) for member in get_args(Prediction)),
        *(Experiment(objective=member()) for member in get_args(Objective)),
        *(Experiment(objective=Simple(weighting=member()))
          for member in get_args(WeightingOptions)),
        *(Experiment(objective=Bound(times=member()))
          for member in get_args(TimesOptions)),
        *(Experiment(parallel=member()) for member in get_args(Parallel)),
        Experiment(parallel=Sharded(data=2, fsdp=3)),
        *(Experiment(sampling=Sampling(sampler=member()))
          for member in get_args(SamplerOptions)),
        *(Experiment(sampling=Sampling(sampler=DDIM(spacing=member())))
          for member in get_args(Spacing)),
        Experiment(sampling=Sampling(sampler=DDPM())),
    ]  # fmt: skip


INFOS = (
    {"image_shape": [8, 8, 1], "num_classes": 2, "class_names": ["a", "b"]},
    {"image_shape": [32, 32, 3], "num_classes": None, "class_names": None},
)
RECORDS = [
    json.loads(json.dumps({"experiment": to_dict(experiment), "data": info}))
    for experiment, info in zip(_experiments(), itertools.cycle(INFOS), strict=False)
]
"""Contents of config.json for many experiments."""


def _parts(record: Any) -> list[Any]:
    """Returns a record, and its parts with most numbers that enter computations."""
    experiment = record["experiment"]
    return [record, experiment["schedule"], experiment["sampling"]]


def check_record(record: Any) -> None:
    """Checks that a configuration gives a usable experiment, or an InputError."""
    found = or_refused(lambda: read_record(record))
    if found is None:
        return
    experiment, info = found
    # The experiment can be written and read again.
    again = json.loads(json.dumps(to_dict(experiment), allow_nan=False))
    assert from_dict(Experiment, again) == experiment
    or_refused(lambda: build_model(experiment, info))
    or_refused(lambda: experiment.check_guidance(info))
    schedule = or_refused(experiment.schedule.build)
    if schedule is not None:
        or_refused(lambda: experiment.check(schedule))


def check_data(data: Any) -> None:
    """Checks that any value as a configuration gives an experiment or InputError."""
    or_refused(lambda: from_dict(Experiment, data))
    check_record(data)
    check_record({"experiment": data, "data": INFOS[0]})
    check_record({"experiment": {}, "data": data})


CONFIGS = [json.dumps(record).encode() for record in RECORDS]
JSON_FILES = mostly(
    mutated(st.sampled_from(CONFIGS)),
    st.one_of(
        st.binary(max_size=100),
        st.sampled_from(
            [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b"1e999999"]
        ),
        st.builds(
            lambda config, place, depth: config[:place] + b"[" * depth,
            st.sampled_from(CONFIGS),
            st.integers(0, 300),
            st.integers(0, 50_000),
        ),
    ),
)


def check_json_file(data: bytes) -> None:
    """Checks that a file gives a dictionary, then an experiment, or an InputError."""
    path = Path(_FOLDER.name) / "config.json"
    path.write_bytes(data)
    record = or_refused(lambda: read_json(path))
    if record is not None:
        assert isinstance(record, dict)
        check_record(record)


# Options as text:

_FITTING = st.one_of(
    st.integers(0, 5).map(str),
    st.floats(0, 10).map(repr),
    st.sampled_from([option_name(m) for m in get_args(Spacing)]),
)
_VALUES = st.one_of(
    st.text(max_size=20),
    NUMBERS.filter(lambda n: abs(n) < 10**400).map(repr),
    st.text("[](){}',.:-_0123456789eEjabxXlL\\ \n#\"", max_size=30),
    st.sampled_from(["None", "true", "'\\d'", "1if 1", "{[]:1}", "0x" + "f" * 5000]),
    st.builds(
        lambda part, count: part * count,
        st.sampled_from("[({-~+ "), st.sampled_from([100, 5000, 9000, 200_000]),
    ),
)  # fmt: skip


@st.composite
def option_texts(draw: st.DrawFn) -> str:
    """Draws texts near "name:field=value,field=value"."""
    member = draw(st.sampled_from(get_args(SamplerOptions)))
    names = sorted(to_dict(member()))
    fields = [
        f"{draw(st.sampled_from(names))}={draw(mostly(_FITTING, _VALUES))}"
        for _ in range(draw(st.integers(0, 3)))
    ]
    return f"{option_name(member)}:{','.join(fields)}"


OPTION_TEXTS = mostly(option_texts(), st.one_of(st.text(max_size=50), _VALUES))


def check_option(text: str) -> None:
    """Checks that a text gives a sampler, or an InputError."""
    sampler = or_refused(lambda: parse_option(text, SamplerOptions, "sampler"))
    assert sampler is None or isinstance(sampler, get_args(SamplerOptions))


PROPERTIES: dict[str, tuple[Callable[..., None], dict[str, Any], int]] = {
    "images": (
        check_image,
        {
            "data": FILES,
            "size": st.integers(1, 24),
            "channels": st.sampled_from([1, 3]),
        },
        1000,
    ),
    "records": (check_record, {"record": with_changes(RECORDS, _parts)}, 150),
    "values": (check_data, {"data": JSON}, 150),
    "files": (check_json_file, {"data": JSON_FILES}, 150),
    "options": (check_option, {"text": OPTION_TEXTS}, 300),
    **CAPTIONS,
    **MODELS,
}
"""Properties with their strategies, and the number of examples in `test_fuzz`."""


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="random by default")
    parser.add_argument("--only", choices=PROPERTIES, help="one property; all if left")
    args = parser.parse_args()
    first = random.randrange(2**32) if args.seed is None else args.seed
    print(f"seed {first}", flush=True)
    end = time.monotonic() + 60 * args.minutes
    tried = dict.fromkeys([args.only] if args.only else PROPERTIES, 0)
    round_ = 0
    while time.monotonic() < end:
        for name in tried:
            tried[name] += _tried(name, first + round_, end)
        round_ += 1
        counts = ", ".join(f"{name} {count}" for name, count in tried.items())
        print(f"{max(end - time.monotonic(), 0):4.0f} s left; {counts}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"nothing found; {peak} MiB of memory at most")


def _tried(name: str, number: int, end: float) -> int:
    """Tries new examples of a property; returns their number, or exits with 1."""
    check, strategies, count = PROPERTIES[name]
    tried = 0

    def counted(**values: Any) -> None:
        nonlocal tried
        if time.monotonic() < end:
            tried += 1
            check(**values)

    test = settings(
        max_examples=count, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )(seed(number)(given(**strategies)(counted)))  # fmt: skip
    try:
        test()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc(file=sys.stdout)  # with the example, in Hypothesis's notes
        print(f"found by {name} with seed {number}")
        sys.exit(1)
    return tried


if __name__ == "__main__":
    main()
