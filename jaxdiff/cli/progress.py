"""The progress of a command."""

import contextlib
from collections.abc import Callable, Iterator

from jaxdiff import progress
from jaxdiff.parallel.processes import is_first


@contextlib.contextmanager
def bar(total: int, name: str, unit: str = "image") -> Iterator[Callable[..., None]]:
    """Shows the progress of images or steps in process 0.

    Yields a function of the number done. Its argument `before` adds the number of
    earlier requests.
    """
    with progress.bar(total, name, unit, show=is_first()) as shown:
        yield lambda done, before=0: shown.update(before + done - shown.n)
