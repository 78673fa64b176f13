"""Prepare data with TFDS, without TensorFlow and without its noise."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from jaxdiff.data.tensorflow_stub import without_tensorflow
from jaxdiff.errors import require

_RETRIES = 4


def prepared(make_builder: Callable[[], Any], *, tell: bool = True) -> Any:
    """A TFDS builder whose data is on disk: prepared now if it was not.

    Args:
        make_builder: makes the builder. It is called again after preparing, so that
            what is returned describes the files and not the way they were made.
        tell: let TFDS tell what it does, and show its progress on a terminal.
    """
    builder = make_builder()
    if builder.data_path.exists():
        return builder
    tfds = require("tensorflow_datasets")
    require("array_record")
    downloader = require("tensorflow_datasets.core.download.downloader")
    downloader.MAX_RETRIES = _RETRIES  # TFDS's own ten take minutes to fail offline
    tfds.display_progress_bar(tell and sys.stderr.isatty())
    out = sys.stderr if tell else io.StringIO()
    try:
        with without_tensorflow(), contextlib.redirect_stdout(out):
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
    except Exception:
        # TFDS renames a finished folder into place. That fails if another process was
        # faster, but then the data is there.
        if not builder.data_path.exists():
            raise
    return make_builder()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show only errors of TFDS and of the connections it makes."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
