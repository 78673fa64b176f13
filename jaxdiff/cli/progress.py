"""The progress bar."""

import contextlib
from collections.abc import Callable, Iterator

from jaxdiff.errors import require
from jaxdiff.parallel.processes import is_first


@contextlib.contextmanager
def bar(total: int, name: str, unit: str = "image") -> Iterator[Callable[..., None]]:
    """Shows a progress bar of images or steps in process 0.

    Yields a function of the number done. Its argument `before` adds the number of
    earlier requests.
    """
    with require("tqdm").tqdm(
        total=total, unit=unit, desc=name, dynamic_ncols=True,
        disable=not is_first(),
    ) as shown:  # fmt: skip
        yield lambda done, before=0: shown.update(before + done - shown.n)
