"""The user's own code behind a name: `package.module:function` or `path/to/file.py:function`."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from convflow.settings.kinds import import_module
from convflow.types import InputError, unknown_name


def folder_of(place: str) -> Path | None:
    """Return the folder of what stands before the colon, None where that is a dotted name."""
    from_file = place.endswith(".py") or "/" in place or "\\" in place
    return Path(place).parent if from_file else None


def import_place(name: str, *, trusted: bool = True) -> ModuleType:
    """Return the module of `place:function`, newly read where the place is a file.

    Args:
        name: a dotted name or a path, a colon, and a function.
        trusted: whether the code may run. That of a name which was read from a file is not
            trusted: it must have run before.

    Raises:
        InputError: there is no such code, it fails, or it is not trusted.
    """
    place, what = name.rpartition(":")[0], f"detector {name!r}"
    folder = folder_of(place)
    known = place if folder is None else _private_name(Path(place))
    if not trusted:
        if known not in sys.modules:
            cure = f"add --import {place}" if folder is None else "give the option again"
            raise InputError(
                f"expected the code of {what} to be run by you, for a file alone runs no code; "
                f"{cure} if you trust it"
            )
        return sys.modules[known]
    with importable(folder), users_code(name, "could not be imported"):
        return import_module(place, what) if folder is None else _import_file(Path(place))


@contextmanager
def importable(folder: Path | None) -> Iterator[None]:
    """Let the user's file import its neighbours, for the length of the block."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve())] if folder else []
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def users_code(name: str, what: str) -> Iterator[None]:
    """Show an error of code that is not ours with the detector's name, in one sentence."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # a script that reads arguments would end the program
        raise InputError(f"detector {name!r} {what}: {shorten(error)}; mend its code") from error


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """Return that there is no `kind` of such a name, with the nearest of those there are."""
    near = difflib.get_close_matches(name, sorted({*known} - {name}), n=1, cutoff=0.4)
    return unknown_name(kind, name, near) if near else f"there is no {kind} {name!r}"


def shorten(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {error}".strip(": \n").splitlines()[0]


def _private_name(path: Path) -> str:
    return f"_convflow_detector_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"


class _Source(SourceFileLoader):
    """Compiles the source that lies there, never an older compilation beside it."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("compile it again")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = nearest("file", path.name, (other.name for other in path.parent.glob("*.py")))
        raise InputError(f"expected a Python file at {path}, found none; {near}")
    private = _private_name(path)
    module = ModuleType(private)
    module.__file__ = str(path)
    sys.modules[private] = module  # dataclasses and pickles look there
    try:
        _Source(private, str(path)).exec_module(module)
    except BaseException:
        del sys.modules[private]
        raise
    return module
