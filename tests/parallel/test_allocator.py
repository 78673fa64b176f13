"""Memory that a process keeps."""

import ctypes
import subprocess
import sys
from platform import libc_ver

import pytest

from jaxdiff.parallel.allocator import keep_memory

PROGRAM = """
import ctypes, resource, sys
from jaxdiff.parallel.allocator import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory({})
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    where = libc.malloc(100 << 20)
    libc.memset(where, 1, 100 << 20)
    libc.free(where)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""
"""Prints the page faults of the second array of 100 MiB."""
glibc = pytest.mark.skipif(libc_ver()[0] != "glibc", reason="needs GNU's C library")


def faults(word):
    """Returns the page faults that the program prints."""
    command = [sys.executable, "-c", PROGRAM, word]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    return int(found.stdout)


@glibc
def test_arrays_get_the_pages_of_earlier_ones():
    assert faults("return") > 1000
    assert faults("keep") < 100


@pytest.mark.parametrize(
    "environ",
    [
        {"MALLOC_ARENA_MAX": "4"},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        {"LD_PRELOAD": "libtcmalloc.so.4"},
    ],
    ids=str,
)
def test_settings_of_the_environment_stay(monkeypatch, environ):
    monkeypatch.setattr(ctypes, "CDLL", None)  # a call would fail
    assert not keep_memory(environ)


def test_other_libraries_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", None)
    monkeypatch.setattr("jaxdiff.parallel.allocator.libc_ver", lambda: ("", ""))
    assert not keep_memory({})
