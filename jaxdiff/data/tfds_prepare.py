"""Preparation of data with TFDS, without TensorFlow and without log messages."""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from jaxdiff.data.tensorflow_stub import without_tensorflow
from jaxdiff.errors import require

_RETRIES = 4


def prepared(make_builder: Callable[[], Any], *, verbose: bool = True) -> Any:
    """Returns a TFDS builder whose data is on disk, and prepares the data if necessary.

    Args:
        make_builder: Function that returns the builder. It is called again after the
            preparation, so that the result describes the files on disk.
        verbose: If True, TFDS prints messages, and shows its progress in a terminal.
    """
    builder = make_builder()
    if builder.data_path.exists():
        return builder
    tfds = require("tensorflow_datasets")
    require("array_record")
    downloader = require("tensorflow_datasets.core.download.downloader")
    downloader.MAX_RETRIES = _RETRIES  # TFDS's 10 retries take minutes offline
    tfds.display_progress_bar(verbose and sys.stderr.isatty())
    out = sys.stderr if verbose else io.StringIO()
    try:
        with without_tensorflow(), contextlib.redirect_stdout(out):
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
    except Exception:
        # TFDS renames a finished folder into place. The rename fails if another process
        # was faster, but then the data exists.
        if not builder.data_path.exists():
            raise
    return make_builder()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides all log messages of TFDS and its connections, except errors."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
