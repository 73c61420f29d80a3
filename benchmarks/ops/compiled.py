"""What the compilers make of the Triton kernels, without a GPU: registers, spills, shared memory.

Run it as `python benchmarks/ops/compiled.py` from the repository; `--quick` to see it work.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.ops.deform import gpu, gpu_kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = ("forward", "taps_gradient", "values_gradient")
DTYPES = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
NOTE = """\
Every kernel as the launcher would compile it, for offsets and weights ("offsets") and for raw heads
("heads"). "spills": bytes of stack a thread on NVIDIA, vector registers on AMD. "wide_loads" and
"loads": instructions that read global memory, those of 16 bytes among them."""


@dataclass(frozen=True)
class Variant:
    """One kernel with its compile-time constants."""

    target: str
    kernel: str
    dtype: str
    channels: int
    taps: int
    border: str
    form: str


@dataclass(frozen=True)
class Result(Variant):
    """What came out of the compiler."""

    warps: int
    registers: int
    spills: int
    shared_bytes: int
    wide_loads: int
    loads: int


def compile_variant(variant: Variant) -> Result:
    """Compile one variant; whatever the compiler raises comes through."""
    target, merged = TARGETS[variant.target], variant.form == "heads"
    options: dict[str, Any] = dict(
        gpu.variants(
            getattr(torch, variant.dtype),
            variant.channels,
            variant.taps,
            variant.border,
            merged=merged,
            amd=target.backend == "hip",
        )[variant.kernel]
    )
    warps = options.pop("num_warps")
    kernel = getattr(gpu_kernels, variant.kernel)
    types = pointers(DTYPES[variant.dtype], merged)
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in options else types.get(name, "i32")
        if name in types:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, options, attributes)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    return Result(
        **asdict(variant), warps=warps, shared_bytes=compiled.metadata.shared, **usage(compiled.asm)
    )


def pointers(features: str, merged: bool) -> dict[str, str]:
    """Types of the tensors by the names of the kernels' arguments."""
    taps = features if merged else "*fp32"
    types = dict.fromkeys(("values", "grad", "out", "grad_values"), features)
    types |= dict.fromkeys(("prior_scale", "reach", "grad_weights", "grad_prior"), "*fp32")
    return types | {"taps": taps, "weights": taps, "grad_taps": taps, "boxes": "*i32"}


def usage(assembly: dict[str, Any]) -> dict[str, int]:
    """Registers, spills and loads that a compiled kernel's assembly shows."""
    if "amdgcn" in assembly:
        text = assembly["amdgcn"]
        loads = re.findall(r"(?:global|buffer)_load_(?!lds)(\w+)", text)
        wide = sum(load.endswith("dwordx4") for load in loads)
        registers, spills = (
            int(re.search(rf"\.{name}:\s+(\d+)", text)[1])
            for name in ("vgpr_count", "vgpr_spill_count")
        )
    else:
        loads = re.findall(r"ld\.global\S*", assembly["ptx"])
        wide = sum(load.endswith((".v4.b32", ".v4.f32", ".v2.b64")) for load in loads)
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(assembly["cubin"])
            file.flush()
            call = [str(tool), "-res-usage", file.name]
            text = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        registers, spills = map(int, re.search(r"REG:(\d+) STACK:(\d+)", text).groups())
    return {
        "registers": registers,
        "spills": spills,
        "wide_loads": wide,
        "loads": len(loads),
    }


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """All that were asked for; heads are made for nine taps."""
    axes = (options.targets, KERNELS, options.dtypes, options.channels, options.taps)
    for *common, border, form in product(*axes, options.borders, options.forms):
        if form == "offsets" or common[-1] == 9:
            yield Variant(*common, border, form)


def main() -> None:
    """Compile, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--channels", nargs="+", type=int, default=[3, 64, 72])
    add("--taps", nargs="+", type=int, default=[9, 25])
    add("--borders", nargs="+", choices=["zeros", "truncate"], default=["zeros"])
    add("--forms", nargs="+", choices=["offsets", "heads"], default=["offsets", "heads"])
    add("--quick", action="store_true", help="print what was asked for as JSON, write no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    if options.quick:
        for variant in variants(options):
            print(json.dumps(asdict(compile_variant(variant))))
        return
    notes = {"triton": triton.__version__, "revision": harness.machine()["revision"]}
    print(NOTE, "\n")
    rows = [compile_variant(variant) for variant in variants(options)]
    path = harness.RESULTS / "deform_compiled.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*Result.__dataclass_fields__, *notes])
        table.writerows([*asdict(row).values(), *notes.values()] for row in rows)
    for kernel, target in product(KERNELS, options.targets):
        ours = [row for row in rows if (row.kernel, row.target) == (kernel, target)]
        spilled = sum(row.spills > 0 for row in ours)
        most = max(row.registers for row in ours)
        print(f"{kernel:16} {target:8} {len(ours)} variants, at most {most} registers, ", end="")
        print(f"{spilled} with spills")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
