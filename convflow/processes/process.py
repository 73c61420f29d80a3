"""All processes by name, and the one place that makes them."""

from __future__ import annotations

from typing import Any

from convflow.processes.contract import Process as Process
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.processes.multiscale import MultiscaleFlow
from convflow.settings.kinds import Table
from convflow.settings.read import read

PROCESSES: Table[type[Process]] = Table(
    "process", Process, {cls.kind: cls for cls in (FlowMatching, MeanFlow, DDPM, MultiscaleFlow)}
)
Process.kinds = PROCESSES


def create_process(process: str = "flow", **settings: Any) -> Process:
    """Return a process by name.

    Args:
        process: a name in `PROCESSES`, or `package.module:Name` of your own.
        **settings: fields of the process.

    Raises:
        InputError: an unknown name or setting (the nearest is named), or an unfit value.

    Examples:
        >>> create_process("flow", schedule="cosine", prediction="noise").prediction
        'noise'
    """
    return read({"kind": process, **settings}, Process, trusted=True)
