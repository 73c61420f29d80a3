"""All processes by name, and the one place that makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from convflow.processes.contract import Process as Process
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.settings.kinds import Table
from convflow.types import InputError, unknown_name

PROCESSES: Table[type[Process]] = Table(
    "process", Process, {cls.kind: cls for cls in (FlowMatching, DDPM, MultiscaleFlow)}
)


def create_process(process: str | Mapping[str, Any] = "flow", **settings: Any) -> Process:
    """Return a process by name.

    Args:
        process: a name in `PROCESSES`, `package.module:Name` of your own, or a mapping with this
            name as `kind` beside settings.
        **settings: fields of the process. Those of the others may stand there too, as in a complete
            configuration, as long as they have their defaults.

    Raises:
        InputError: an unknown name, setting or value; the message names the nearest. A setting of
            another process.

    Example:
        >>> create_process("flow", schedule="cosine", prediction="noise").prediction
        'noise'
    """
    if not isinstance(process, str):
        settings = {**process, **settings}
        process = settings.pop("kind", "flow")
    found = PROCESSES.find(str(process))
    accepted = _defaults(found)
    for name in settings.keys() - accepted.keys():
        foreign = {
            kind: _defaults(c)[name] for kind, c in PROCESSES.items() if name in _defaults(c)
        }
        if not foreign:
            raise InputError(f"{process}: {unknown_name('setting', name, accepted)}")
        if settings[name] not in foreign.values():
            raise InputError(
                f"the process {process!r} has no setting {name!r}, got {settings[name]!r}; leave "
                f"it out, or choose the process {' or '.join(map(repr, foreign))}"
            )
    return found(**{n: v for n, v in settings.items() if n in accepted})


def has_scales(kind: str) -> bool:
    """Return whether pictures of a kind of process are several scales, False for an unknown one."""
    try:
        return PROCESSES.find(kind, trusted=False).multiscale
    except InputError:
        return False


def _defaults(process: type[Process]) -> dict[str, Any]:
    """Return the settings of a process and their defaults."""
    return {field.name: field.default for field in dataclasses.fields(process)}  # type: ignore[arg-type]
