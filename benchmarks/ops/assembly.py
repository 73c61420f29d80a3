"""What can be counted in the assembly of an NVIDIA kernel: instructions, loops, bank conflicts."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import triton

LANES = np.arange(32, dtype=np.int64)
BANKS, WORD = 32, 4
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_MASK = 0xFFFFFFFF
# From the operands of an instruction on 32-bit numbers to its result.
_RULES: dict[str, Callable[..., np.ndarray]] = {
    "mov": lambda a: a,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "shl": lambda a, b: a << np.minimum(b, 32),
    "shr": lambda a, b: a >> np.minimum(b, 32),
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "bfe": lambda a, b, c: (a >> b) & ((1 << c) - 1),
    "selp": lambda a, b, c: np.where(c, a, b),
    "setp.eq": lambda a, b: a == b,
    "setp.ne": lambda a, b: a != b,
    "setp.lt": lambda a, b: a < b,
    "setp.gt": lambda a, b: a > b,
}
_STORE = re.compile(r"\b(st\.shared|stmatrix)(\S*)\s+\[\s*(%r\d+)\s*(?:\+\s*(\d+))?\s*\]")


class Counts(NamedTuple):
    """What a kernel's assembly shows."""

    registers: int
    spills: int
    """Bytes of stack a thread."""
    instructions: int
    loop: int
    """Of the longest loop without a loop inside, in one turn; 0 without loops."""
    barriers: int


def count(cubin: bytes) -> Counts:
    """Counts of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        lines = _run("nvdisasm", "-c", file.name).splitlines()
    registers, spills = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    labels: dict[str, int] = {}
    operations: list[str] = []
    for line in lines:
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(operations)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.+?) ;", line):
            operations.append(found[1])
    loops = []
    for place, operation in enumerate(operations):
        jump = re.search(r"\bBRA(?:\.\S+)? .*`\((\.L_x_\d+)\)", operation)
        # A kernel ends with a jump to itself.
        if jump and labels[jump[1]] < place:
            loops.append((labels[jump[1]], place))
    inner = [
        (first, last)
        for first, last in loops
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops)
    ]
    real = [operation for operation in operations if operation != "NOP"]
    return Counts(
        registers,
        spills,
        len(real),
        max((last - first + 1 for first, last in inner), default=0),
        sum("BAR.SYNC" in operation for operation in operations),
    )


def shared_stores(ptx: str) -> tuple[int, float]:
    """How many instructions write shared memory, and how many wavefronts they take over the fewest.

    Addresses of the first warp are computed from its lanes' numbers. A store whose address depends
    on anything else counts among the instructions, not among the wavefronts.
    """
    known: dict[str, np.ndarray] = {"%tid.x": LANES, "global_smem": LANES * 0}
    stores, taken, fewest = 0, 0, 0
    for line in ptx.splitlines():
        if store := _STORE.search(line):
            stores += 1
            size = 16 if store[1] == "stmatrix" else WORD * _words(store[2])
            if store[3] in known:
                taken += wavefronts(known[store[3]] + int(store[4] or 0), size)
                fewest += max(1, size // WORD)
            continue
        found = re.match(r"\s*([a-z]+)((?:\.\w+)*)\s+(%[rp]\d+), (.+);", line)
        if not found:
            continue
        name, kind, target, sources = found.groups()
        known.pop(target, None)
        rule = _RULES.get(name) or _RULES.get(name + kind[:3])
        values = [_value(source.strip(), known) for source in sources.split(",")]
        plain = (
            re.search(r"\.(?:[usb]32|pred)$", kind) and ".hi" not in kind and ".wide" not in kind
        )
        if rule and plain and all(value is not None for value in values):
            result = rule(*values)
            known[target] = result if target.startswith("%p") else result & _MASK
    return stores, taken / fewest if fewest else 1.0


def wavefronts(addresses: np.ndarray, size: int) -> int:
    """How many turns the banks of shared memory need for one store of a warp.

    Args:
        addresses: in bytes, one for each of 32 lanes.
        size: bytes that each lane writes: 4, 8 or 16. Together 128 bytes are written in one turn.
    """
    turns = 0
    words = max(1, size // WORD)
    for group in np.split(addresses, words):
        touched = {int(address) // WORD + step for address in group for step in range(words)}
        banks = np.bincount([word % BANKS for word in touched], minlength=BANKS)
        turns += int(banks.max())
    return turns


def _words(kind: str) -> int:
    wide = re.search(r"\.v(\d)", kind)
    return (int(wide[1]) if wide else 1) * (2 if kind.endswith("64") else 1)


def _value(source: str, known: dict[str, np.ndarray]) -> np.ndarray | None:
    if re.fullmatch(r"-?\d+", source):
        return np.full(32, int(source))
    return known.get(source)


def _run(tool: str, *words: str) -> str:
    return subprocess.run(
        [str(TOOLS / tool), *words], capture_output=True, text=True, check=True
    ).stdout
