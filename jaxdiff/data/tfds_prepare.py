"""Preparation of data with TFDS, without TensorFlow and without log messages."""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jaxdiff.data.tensorflow_stub import without_tensorflow
from jaxdiff.errors import require

_RETRIES = 4
_ALONE = threading.RLock()
"""Lock of the thread that uses TFDS, whose options belong to the whole process."""


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
    # TFDS would print these messages to standard output. To redirect it would take the
    # output of other threads as well.
    for name, text in (
        ("_log_download_bytes", f"preparing {builder.name} in {builder.data_path}"),
        ("_log_download_done", f"prepared {builder.name} in {builder.data_path}"),
    ):
        tell = partial(print, text, file=sys.stderr) if verbose else lambda: None
        setattr(builder, name, tell)
    try:
        with without_tensorflow():
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
    """Hides all log messages of TFDS and its connections, except errors.

    One thread at a time uses TFDS; the others wait.
    """
    logging.getLogger("absl").addFilter(_is_worth_saying)
    connections = logging.getLogger("urllib3")
    with _ALONE:
        level = connections.level
        connections.setLevel(logging.ERROR)
        try:
            yield
        finally:
            connections.setLevel(level)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    ours = "tensorflow_datasets" in record.pathname
    return record.levelno >= logging.ERROR or not ours
