"""Files and folders that appear complete or not at all, and errors that say what to do."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from convflow.types import InputError

try:
    import fcntl
except ImportError:  # Windows: two programs in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("convflow")

UNFINISHED = ".writing-"
LARGEST_JSON = 2**26
"""Bytes of a JSON file: far more than any that is written."""
DEEPEST_JSON = 100
"""Objects and lists in each other, likewise."""

_UMASK = os.umask(0o077)  # there is no other way to read it
os.umask(_UMASK)


@contextmanager
def writing_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `final` in one move when the block ends well.

    On any error nothing is left behind and everything that existed is untouched.

    Raises:
        InputError: `final` exists, or the disk is full or not writable.
    """
    draft = begin_folder(final)
    with explained(final):
        try:
            yield draft
            end_folder(draft, final)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def draft_of(final: Path) -> Path:
    """Return the name under which a file or folder is written before it gets its own."""
    return final.with_name(f"{UNFINISHED}{final.name}")


def begin_folder(final: Path) -> Path:
    """Return an empty folder to fill, which `end_folder` makes `final`; errors as above."""
    draft = draft_of(final)
    with explained(final):
        if final.exists():
            raise FileExistsError("it exists already")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    return draft


def end_folder(draft: Path, final: Path) -> None:
    """Give a filled folder its name in one move; errors as above."""
    with explained(final):
        for path in [*draft.rglob("*"), draft]:
            _permit(path)
            flush(path)
        draft.rename(final)
        flush(final.parent)


@contextmanager
def writing_file(final: Path) -> Iterator[Path]:
    """Give the name of a file to write; it replaces `final` in one move when the block ends well.

    Raises:
        InputError: the disk is full or not writable; an old `final` is untouched.
    """
    draft = draft_of(final)
    with explained(final):
        try:
            yield draft
            _permit(draft)
            flush(draft)
            draft.replace(final)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one, never half of it; the same bytes on Windows."""
    with writing_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise InputError when it is absent, damaged or beyond all bounds."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        with path.open("rb") as file:
            content = file.read(LARGEST_JSON + 1)
    except FileNotFoundError as error:
        raise InputError(f"expected settings at {path}, found no such file") from error
    except OSError as error:
        raise InputError(f"{path} is damaged or cannot be read ({error}); copy it again") from error
    return parse_json(content, str(path))


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in a file called `name`, or raise InputError."""
    if len(content) > LARGEST_JSON:
        raise InputError(f"{name} is damaged or not JSON (over {LARGEST_JSON:,} bytes); copy it")
    try:
        tree = json.loads(content.decode("utf-8"))
        level, depth = [tree], 0
        while level := [part for item in level for part in _parts(item)]:
            if (depth := depth + 1) > DEEPEST_JSON:
                raise RecursionError
    except RecursionError:
        raise InputError(
            f"{name} is damaged or not JSON (over {DEEPEST_JSON} brackets in each other); "
            "copy it again"
        ) from None
    except ValueError as error:
        raise InputError(f"{name} is damaged or not JSON ({error}); copy it again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{name}: expected a JSON object, got {type(tree).__name__}")
    return tree


def _parts(item: Any) -> Iterable[Any]:
    """Return what lies in an object or list of JSON."""
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or raise InputError when it is absent or damaged."""
    with whole_tensors(path):
        return safetensors.torch.load_file(path)


def read_finite(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or raise InputError when it holds NaN or infinity, or as above."""
    tensors = read_tensors(path)
    _require_finite(path, tensors)
    return tensors


def read_finite_parts(path: Path, part: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Read as `read_finite` does, one tensor after the other, and return a part of each.

    Args:
        path: a safetensors file.
        part: makes of the name and the whole tensor what is kept.
    """
    parts = {}
    with whole_tensors(path), safetensors.safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118, it is no dict
            tensor = file.get_tensor(name)
            _require_finite(path, {name: tensor})
            parts[name] = part(name, tensor)
    return parts


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if name := find_nonfinite(tensors):
        raise InputError(
            f"{path} holds numbers that are not finite, first in {name}; copy it again or use "
            "another"
        )


def check_tensors(path: Path) -> None:
    """Raise InputError as `read_tensors` would; of the file the header and the length are read."""
    with whole_tensors(path), safetensors.safe_open(path, "pt"):
        pass


@contextmanager
def whole_tensors(path: Path) -> Iterator[None]:
    """Turn an error while tensors are read into an InputError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"expected weights at {path}, found no such file") from error
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({error}); copy it again or use another"
        ) from error


def read_weights(path: Path) -> Any:
    """Read a .safetensors, or whatever `torch.save` wrote, as long as it runs no code.

    Beside tensors and plain values a file may hold an `argparse.Namespace`, the command line that
    training scripts store with their weights; it can do nothing.

    Raises:
        InputError: an absent or damaged file, or one that wants to run code.
    """
    if path.is_dir():
        raise InputError(f"expected a file of weights, got the folder {path}; name a file in it")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        mapped = zipfile.is_zipfile(path)  # torch's older format, a bare pickle, cannot be
        with path.open("rb") as file:
            begin = file.read(12)
        if not mapped and begin[:1] != b"\x80":
            raise InputError(
                f"{path} is damaged or was never weights: it begins with {begin!r}, as no file of "
                "torch.save does; copy it again or use another"
            )
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is in the error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"expected weights at {path}, found no such file") from error
    except Exception as error:  # the reader raises nearly any exception on damaged bytes
        text = " ".join(str(error).split(". ")[0].split()) or type(error).__name__
        raise InputError(
            f"{path} is damaged, or wants to run code when it is opened, and was refused "
            f"({text[:200]}); copy it again or ask its author for a safetensors file"
        ) from error


def find_misfits(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return, sorted, what is missing, unused, of another shape or kind; empty if all fits."""
    problems = [f"missing {name}" for name in expected.keys() - given.keys()]
    problems += [f"unused {name}" for name in given.keys() - expected.keys()]
    problems += [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    problems += [
        f"{name} holds {str(given[name].dtype).removeprefix('torch.')}, expected floating point"
        for name, tensor in expected.items()
        if tensor.is_floating_point() and name in given and not given[name].is_floating_point()
    ]
    return sorted(problems)


def find_nonfinite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor with NaN or infinity in it, None where there is none."""
    for name, tensor in tensors.items():
        # A sum is never finite where a number is not; the slower look is for sums that overflow.
        if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
            return name
    return None


def checksum(path: Path) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def check_sums(folder: Path, state: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise InputError unless files are what they were when a checkpoint was written.

    Args:
        folder: the checkpoint.
        state: what its `state.json` says: `files` holds the `checksum` of each file by name. A
            file without one passes; earlier versions stored none.
        names: of the files to read.
    """
    sums = state.get("files", {})
    for name in names:
        path, stored = folder / name, sums.get(name) if isinstance(sums, dict) else sums
        if stored is None:
            continue
        if not path.is_file():
            raise InputError(f"expected the file {path}, found none; copy it again or use another")
        try:
            found = checksum(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error}); copy it again") from error
        if found != stored:
            raise InputError(
                f"{path} is damaged: its size or SHA-256 is not that of {folder / 'state.json'}; "
                "copy it again or use another"
            )


def check_sums_of(folder: Path, *names: str) -> None:
    """Check files of a model folder as `check_sums` does, where it is part of a checkpoint."""
    state = folder.parent / "state.json"
    if state.is_file():
        check_sums(folder.parent, read_json(state), [f"{folder.name}/{name}" for name in names])


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name, with their shapes and dtypes, in order of names."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        whole.update(flat.view(torch.uint8).numpy().data)
    return whole.hexdigest()


@contextmanager
def claimed(folder: Path, work: str, option: str, first: bool = True) -> Iterator[None]:
    """Make a folder and hold it for this program alone; of several processes only the first does.

    A folder that was made here goes again where an error leaves it empty.

    Args:
        folder: made if it is not there, and its parents.
        work: what is going on there, such as "training", for the message.
        option: that names another folder, for the message.
        first: whether this is the first process.

    Raises:
        InputError: another program holds it, or it cannot be made.
    """
    if not first:
        yield
        return
    made, path = not folder.exists(), folder / ".lock"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another {work} is writing to {folder}; wait for it, or choose another {option}"
            ) from error
        except OSError as error:
            log.warning(
                f"{folder} cannot be locked ({error.strerror}); start no second {work} there"
            )
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if made and list(folder.iterdir()) == [path]:
                    if fcntl is None:
                        lock.close()  # Windows removes no open file
                    path.unlink()
                    folder.rmdir()
            raise


@contextmanager
def explained(final: Path) -> Iterator[None]:
    """Turn an error while `final` is written into an InputError that says what to do."""
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, getattr(errno, "EDQUOT", None), None)
        cure = "free some space or choose another place" if full else "choose another place"
        raise InputError(
            f"could not write {final}: {reason}; what was there is unchanged, {cure}"
        ) from error


def _permit(path: Path) -> None:
    """Let others read a file as any new file; safetensors writes some for this user alone."""
    if path.is_file():
        path.chmod(path.stat().st_mode | 0o666 & ~_UMASK)


def flush(path: Path) -> None:
    """Wait until the disk holds a file or the names in a folder."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
