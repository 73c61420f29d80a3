"""Tables of parts by name, open to users: `package.module:Name` stands for a part of theirs."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

from convflow.types import InputError, unknown_name

T = TypeVar("T")


class Part:
    """Something that is chosen by its `kind`: a frozen dataclass whose fields are its settings.

    In JSON it is `{"kind": ..., settings}`. The kind of a user's part is where it is defined,
    `package.module:Name`; a part of this package names itself, or has a field `kind` where one
    class serves several names of a table.
    """

    kinds: ClassVar[Table[Any]]
    """The table of the parts that may stand in its place, for a class such as `Solver`."""

    @property
    def kind(self) -> str:
        """The name by which its table finds it."""
        raise NotImplementedError

    def __init_subclass__(cls, **more: Any) -> None:
        """Name a part that does not name itself."""
        super().__init_subclass__(**more)
        if "kind" not in vars(cls):
            fields: Any = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
            if "kind" in [field.name for field in fields]:
                cls.__annotations__ = {"kind": "str", **vars(cls).get("__annotations__", {})}
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"  # type: ignore[assignment, method-assign]


class Table(dict[str, T]):
    """The parts of one kind by name, such as all solvers.

    Where the parts of this package are classes, so are those of a user; else they are objects.

    Args:
        noun: what one of them is called, for messages.
        kind: the class that each is derived from, or that each is an instance of.
        parts: those of this package by name.

    Examples:
        >>> table = Table("number", int, {"yes": bool})
        >>> table.find("yes")
        <class 'bool'>
    """

    def __init__(self, noun: str, kind: type, parts: Mapping[str, T]) -> None:
        super().__init__(parts)
        self.noun, self.kind = noun, kind
        self.of_classes = any(isinstance(part, type) for part in parts.values())

    def find(self, name: str, *, trusted: bool = True) -> T:
        """Return the part called `name`, of this package or `package.module:Name` of a user.

        Args:
            name: a name in this table, or a module and what it calls the part.
            trusted: whether a module may be imported, which runs its code. A name that was read
                from a file is not trusted: its module must have been imported before.

        Raises:
            InputError: an unknown name (the nearest is named), a module that cannot be imported,
                or something that is no such part.
        """
        if not isinstance(name, str):  # read from a file
            raise InputError(unknown_name(self.noun, name, self))
        if name in self:
            return self[name]
        place, colon, attribute = name.rpartition(":")
        if not colon:
            raise InputError(f"{unknown_name(self.noun, name, self)}; or give package.module:Name")
        found = vars(module := self._module(place, name, trusted)).get(attribute)
        if found is None:
            public = [key for key in vars(module) if not key.startswith("_")]
            raise InputError(
                f"{self.noun} {name!r}: {unknown_name(f'name in {place}', attribute, public)}"
            )
        if not self._holds(found):
            wanted = f"{self.kind.__module__}:{self.kind.__qualname__}"
            is_class, plain = isinstance(found, type), self.kind.__name__
            got = "a class" if is_class else f"an object of type {type(found).__name__}"
            cure = f"derive a class from {plain}" if self.of_classes else f"make it a {plain}"
            raise InputError(
                f"{self.noun} {name!r}: expected {'a subclass' if self.of_classes else 'an object'}"
                f" of {wanted}, got {got}; {cure}"
            )
        return cast(T, found)

    def _holds(self, found: Any) -> bool:
        """Return whether something of a user can stand beside the parts of this package."""
        if not self.of_classes:
            return isinstance(found, self.kind)
        derived = isinstance(found, type) and issubclass(found, self.kind)
        return derived and found is not self.kind

    def _module(self, place: str, name: str, trusted: bool) -> ModuleType:
        if not trusted:
            if place not in sys.modules:
                raise InputError(
                    f"expected the code of the {self.noun} {name!r} to be imported by you, for a "
                    f"file alone runs no code; add --import {place} if you trust it, or import "
                    f"{place} first in Python"
                )
            return sys.modules[place]
        return import_module(place, f"{self.noun} {name!r}")


def import_module(place: str, what: str) -> ModuleType:
    """Return a module of a user, looked for in the working directory too; its code runs.

    Args:
        place: dotted name of the module.
        what: the module is wanted for, for messages.

    Raises:
        InputError: there is no such module, or its code fails.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            near = _nearest_module(error.name)
            cure = f"did you mean {near!r}?" if near else "start in its folder, or install it"
            raise InputError(
                f"{what}: expected a module {place} that Python can import, got none; {cure}"
            ) from error
        raise _failed(place, what, error) from error
    except (Exception, SystemExit) as error:  # a script that reads arguments would end the program
        raise _failed(place, what, error) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _nearest_module(place: str) -> str | None:
    """Return what is most like the last part of a module's name, where its parent lies."""
    parent, _, last = place.rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    known = {found.name for found in pkgutil.iter_modules(folders)} - {last}
    return next(iter(difflib.get_close_matches(last, sorted(known), n=1, cutoff=0.4)), None)


def _failed(place: str, what: str, error: BaseException) -> InputError:
    line: Any = next(iter(str(error).splitlines()), "")
    return InputError(
        f"{what}: expected a module {place} that can be imported, got {type(error).__name__} "
        f"({line}) from its code; mend it"
    )
