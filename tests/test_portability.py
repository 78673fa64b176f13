"""Portability: without POSIX, every module imports and files are written."""

import os
import pathlib
import subprocess
import sys

import jaxdiff
from jaxdiff.storage.files import write_atomic

ROOT = pathlib.Path(jaxdiff.__file__).parent
MISSING = ("fcntl", "grp", "pwd", "resource", "termios")
"""Python modules that Windows lacks."""
IMPORT_ALL = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({MISSING}))
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv) - 1)
"""


def modules():
    """Yields the modules of the package, except those that need tensorflow_datasets."""
    for path in sorted(ROOT.rglob("*.py")):
        if not path.stem.endswith("_builder"):
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__")


def test_every_module_imports_without_posix():
    names = list(modules())
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names],
        capture_output=True, text=True, cwd=ROOT.parent,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(names) > 100


def test_files_are_written_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    real = os.open

    def open_file(path, *args, **kwargs):
        if pathlib.Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr(os, "open", open_file)
        write_atomic(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
