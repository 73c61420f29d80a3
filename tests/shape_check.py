"""The type checker behind the shape annotations while the tests run; see conftest.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from beartype import BeartypeConf, beartype

# As in typing itself, an int is good enough where a float is asked for.
_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with its annotations checked at every call, save in a compiled graph.

    While torch.compile traces, a shape is a symbol and beartype's report cannot be traced; the
    same call is checked without the compiler.
    """
    strict = _strict(function)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return (function if torch.compiler.is_compiling() else strict)(*args, **kwargs)

    return checked
