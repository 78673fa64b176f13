"""Short form of `tests.helpers.fuzz`: the same examples each time."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings

from jaxdiff.runs.folder import read_record
from jaxdiff.serialization import to_dict
from tests.helpers.fuzz import IMAGES, PROPERTIES, RECORDS, check_image
from tests.helpers.fuzz_captions import FILES, read


@pytest.mark.parametrize("name", PROPERTIES)
def test_anything_is_read_or_refused_in_one_line(name):
    check, strategies, count = PROPERTIES[name]
    settings(
        max_examples=count, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )(given(**strategies)(check))()  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_every_image_is_read_as_it_is(name, monkeypatch):
    """Otherwise, mutations of the images would test nothing."""
    read = []
    monkeypatch.setattr("tests.helpers.fuzz.or_refused", lambda fn: read.append(fn()))
    check_image(IMAGES[name], 8, 3)
    assert read[0].shape == (8, 8, 3)


@pytest.mark.parametrize("record", RECORDS)
def test_every_record_is_read_as_it_is(record):
    experiment, info = read_record(copy.deepcopy(record))
    assert json.loads(json.dumps(to_dict(experiment))) == record["experiment"]
    assert list(info.image_shape) == record["data"]["image_shape"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_captions_is_read_as_it_is(name):
    for data in FILES[name]:
        if not data.startswith(b"\xff\xfe"):  # UTF-16
            assert any(text for captions in read(name, data) for text in captions)
