"""The command `cache`: the contents and the size of the cache folder."""

from dataclasses import dataclass

from jaxdiff.errors import printable
from jaxdiff.storage import cache as storage
from jaxdiff.storage.files import size


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Options of the command `cache`."""

    remove: tuple[str, ...] = ()
    """Entries to remove, by name; "all" removes every entry. They are made again when
    they are needed."""


def cache(options: CacheOptions) -> None:
    """Prints the entries of the cache, or removes some of them."""
    entries = {entry.name: entry for entry in storage.entries()}
    names = list(entries) if options.remove == ("all",) else options.remove
    for name in dict.fromkeys(names):
        storage.remove(name)
        print(printable(f"removed {name} ({size(entries[name].bytes)})"))
    if options.remove:
        return
    total = size(sum(entry.bytes for entry in entries.values()))
    print(printable(f"{storage.cache_folder()}: {total}"))
    for entry in entries.values():
        print(printable(f"  {entry.name:<24} {size(entry.bytes):>10}  {entry.about}"))
