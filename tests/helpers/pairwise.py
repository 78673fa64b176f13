"""Cases that cover every pair of values of two options."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any


def pairwise(options: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns cases in which every two values of two options occur together.

    A case begins with a pair that no case has yet. The other options then take, one
    after the other, the value with the most new pairs. Most faults come from one option
    or from two (Kuhn et al. 2004).

    Args:
        options: values of each option.
    """
    names = list(options)
    left = {
        frozenset(((a, i), (b, j)))
        for a, b in itertools.combinations(names, 2)
        for i, j in itertools.product(
            range(len(options[a])), range(len(options[b]))
        )
    }  # fmt: skip
    cases = []

    def gain(chosen: dict[str, int], name: str, value: int) -> int:
        pairs = [frozenset(((name, value), one)) for one in chosen.items()]
        return len(left.intersection(pairs))

    while left:
        chosen = dict(min(left, key=sorted))
        for name in names:
            if name not in chosen:
                values = range(len(options[name]))
                chosen[name] = max(values, key=partial(gain, chosen, name))
        left -= {frozenset(pair) for pair in itertools.combinations(chosen.items(), 2)}
        cases.append({name: options[name][chosen[name]] for name in names})
    return cases
