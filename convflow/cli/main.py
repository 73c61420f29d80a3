"""`convflow VERB ...`: finds the verb and turns errors into one line and an exit code.

Exit codes: 0 done; 1 the run failed; 2 the input cannot be used; 130 interrupted.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from convflow import __version__
from convflow.cli.output import open_terminal, plain, say
from convflow.settings.kinds import import_module
from convflow.shipped import resolve
from convflow.types import Disagreement, Diverged, InputError, check_name, unknown_name

VERBS = {
    "train": "train a model from a recipe, or continue a run",
    "plan": "estimate memory, time and disk of a training",
    "encode": "turn images into a store of latents, to train from without an autoencoder",
    "sample": "generate images with a trained model",
    "evaluate": "score samples or images against real ones, or compare result cards",
    "nearest": "show samples beside the nearest training images, and whether they are copies",
    "export": "write a model as folders, or for ONNX, torch.export, browsers or diffusers",
    "push": "upload a model to the Hugging Face Hub, with a page that describes it",
    "import": "make a model folder of published weights",
    "compare": "draw the curves of runs side by side, and print which settings differ",
    "info": "describe a model, a run, a recipe or a published size",
    "doctor": "check this machine: versions, devices, operator, a short self-test",
    "bench": "measure speed on this machine, or search for a solver with few steps",
    "demo": "draw images with the models of the package, or train on handwritten digits",
}

USAGE = "\n".join(
    [
        "usage: convflow COMMAND [options]",
        "",
        "Train, sample and score image generators at any resolution.",
        "",
        *(f"  {verb:8} {text}" for verb, text in VERBS.items()),
        "",
        "convflow COMMAND --help describes a command; convflow --version prints the version.",
    ]
)


CHATTY = (
    "httpx", "datasets", "huggingface_hub", "numba", "onnx_ir", "onnxscript", "torch.onnx",
    "torch.onnx._internal.exporter._registration",
)  # fmt: skip
"""Loggers of other libraries, of which only errors are shown."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers that GNU's `mallopt` gives its settings."""


def wide(prog: str) -> argparse.HelpFormatter:
    """Return the formatter of a long help: 100 columns, the description as it is written."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which names the nearest option.

    All have `--import`, which `main` has obeyed before.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.add_argument(
            "--import",
            action="append",
            metavar="MODULE",
            help="module of yours to import first, which runs its code: stored names such as "
            "MODULE:Name are then found; may be repeated",
        )

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing usage and leaving."""
        raise InputError(f"{message}; see {self.prog} --help")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the parsed options, or raise InputError that names the nearest known option."""
        options, rest = self.parse_known_args(self._joined(arguments))
        if rest:
            known = [name for action in self._actions for name in action.option_strings]
            word = rest[0].partition("=")[0]
            self.error(
                unknown_name("option", word, known)
                if word.startswith("-")
                else f"expected no further word, got {rest[0]!r}"
            )
        return options

    def _joined(self, arguments: Sequence[str]) -> list[str]:
        """Return `--size -8x8` as `--size=-8x8`: argparse would take the value for an option."""
        takes = {name for a in self._actions if a.nargs is None for name in a.option_strings}
        words = list(arguments)
        for i in reversed(range(1, len(words))):
            if words[i - 1] in takes and re.match(r"-[\d.]", words[i]):
                words[i - 1 : i + 1] = [f"{words[i - 1]}={words[i]}"]
        return words


def prepare(verb: str) -> None:
    """Set what torch reads from the environment when it comes in, where the user has not."""
    # Its threads wait politely when other programs use the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Its profiler, which measures memory, tells every beginning and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    # Freed memory stays with the process, in pieces of at most 32 MiB and up to 1 GiB in all: the
    # system need not clear it anew.
    with suppress(OSError, AttributeError, TypeError):  # a C library that is not GNU's
        for setting, number in ((M_TRIM_THRESHOLD, 2**30), (M_MMAP_THRESHOLD, 2**25)):
            ctypes.CDLL(None).mallopt(setting, number)
    if verb in ("sample", "evaluate", "nearest"):
        # Memory in huge pages: large images take less time; training gains nothing.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words[0] if words else "--help"
    prepare(verb)
    open_terminal()
    if verb in ("-h", "--help", "help"):
        say(*USAGE.split("\n"))
        return 0
    if verb in ("-V", "--version"):
        say(f"convflow {__version__}")
        return 0
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        check_name("verb", verb, VERBS)
        given = [_resolved(word) for word in _imported(words[1:])]
        return importlib.import_module(f"convflow.cli.{verb}").main(given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except InputError as error:
        return _complain(str(error), 2)
    except (Diverged, Disagreement) as error:
        return _complain(str(error), 1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        cure = "check that the place exists, can be written to and has space"
        return _complain(f"{what or type(error).__name__}; {cure}", 2)
    except (MemoryError, RuntimeError) as error:
        if _is_lack_of_memory(error):
            cure = "try a smaller --batch-size or --micro-batch, a smaller size or a smaller model"
            return _complain(f"out of memory; {cure}", 1)
        raise


def _imported(words: Sequence[str]) -> list[str]:
    """Import the modules that words such as `--import MODULE` name, and return the others."""
    left, rest = list[str](), list(words)
    while rest:
        word, equals, module = rest.pop(0).partition("=")
        if word != "--import":
            left.append(word + equals + module)
            continue
        if not equals and not rest:
            raise InputError("--import: expected a module after it, got none; give one")
        import_module(module if equals else rest.pop(0), "--import")
    return left


def _resolved(word: str) -> str:
    """Return a word, or `--option=word`, with a folder in place of `shipped:NAME`."""
    option, equals, value = word.partition("=")
    return option + equals + resolve(value) if equals else resolve(word)


def _complain(message: str, code: int) -> int:
    print(f"error: {plain(' '.join(message.split()))}", file=sys.stderr)
    return code


def _is_lack_of_memory(error: Exception) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


if __name__ == "__main__":
    sys.exit(main())
