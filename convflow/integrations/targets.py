"""What `convflow export --to` can write; the table needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, NamedTuple


class ExportTarget(NamedTuple):
    """A kind of file or folder that another program reads.

    Attributes:
        about: what is written, in words for the help.
        writer: `module:function`, called as `writer(pipe, out, name=name, **options)`. It writes
            all or nothing, checks what it wrote, and returns lines that say what there is now.
        options: names of the options of the command that the writer takes.
    """

    about: str
    writer: str
    options: tuple[str, ...] = ()

    def load(self) -> Callable[..., Iterable[str]]:
        """Return the writer."""
        module, _, function = self.writer.partition(":")
        found: Any = getattr(import_module(module), function)
        return found


WRITERS = "convflow.integrations.files"
EXPORT_TARGETS: dict[str, ExportTarget] = {
    "onnx": ExportTarget("an ONNX file of the network", f"{WRITERS}:write_onnx", ("half",)),
    "torch": ExportTarget("a program of torch.export", f"{WRITERS}:write_program", ("half",)),
    "diffusers": ExportTarget(
        "a pipeline of diffusers, which needs no convflow",
        "convflow.integrations.diffusers_folder:write_pipeline",
    ),
    "safetensors": ExportTarget(
        "weights and settings alone", "convflow.integrations.movable:write_bare"
    ),
    "web": ExportTarget(
        "a folder with a web page that makes images",
        "convflow.integrations.web:write_page",
        ("half", "runtime"),
    ),
}
"""What can be written, by name."""
