"""What the compilers make of the Triton kernels, without a GPU: registers, spills, shared memory.

Run it as `python benchmarks/ops/compiled.py` from the repository; `--quick` to see it work.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from benchmarks.ops import assembly as assembly_counts
from convflow.ops.deform import gpu as deform
from convflow.ops.deform import gpu_gradient_kernels, gpu_kernels
from convflow.ops.depthwise import gpu as depthwise
from convflow.ops.depthwise import gpu_kernels as depthwise_kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
NOTE = """\
Every kernel as the launcher would compile it: of deformable sampling for offsets and weights
("offsets") and for raw heads ("heads"), and of depthwise convolution ("depthwise").
"spills": bytes of stack a thread on NVIDIA, vector registers on AMD. "wide_loads" and "loads":
instructions that read global memory, those of 16 bytes among them. "instructions": of the whole
kernel. "loop": of its longest loop without a loop inside, in one turn, those of branches in it that
may be skipped too. "barriers": of the whole block. "shared_stores": instructions that write shared
memory; "wavefronts": what one warp needs for all of them that have addresses without run-time
numbers, over the fewest that as many bytes need: 1 without bank conflicts (NVIDIA only)."""


class Form(NamedTuple):
    """Kernels that take their taps in one form: where they are, and what they are made for."""

    homes: tuple[ModuleType, ...]
    kernels: tuple[str, ...]
    taps: tuple[int, ...]
    borders: tuple[str, ...]


KERNELS = ("forward", "taps_gradient", "tap_boxes", "values_gradient", "tangent")
HOMES = (gpu_kernels, gpu_gradient_kernels)
LAUNCH = ("num_warps", "enable_fp_fusion", "maxnreg")
BORDERS = ("zeros", "truncate")
FORMS = {
    "offsets": Form(HOMES, KERNELS, (9, 25), BORDERS),
    "heads": Form(HOMES, KERNELS[:4], (9,), BORDERS),
    "depthwise": Form((depthwise_kernels,), KERNELS[:2], (9, 25, 49, 81), BORDERS[:1]),
}


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
    instructions: int
    loop: int
    barriers: int
    shared_stores: int
    wavefronts: float


def compile_variant(variant: Variant) -> Result:
    """Compile one variant; whatever the compiler raises comes through."""
    target = TARGETS[variant.target]
    options = dict(constants(variant)[variant.kernel])
    launch = {name: options.pop(name) for name in LAUNCH if name in options}
    homes = (vars(home) for home in FORMS[variant.form].homes)
    kernel = next(home[variant.kernel] for home in homes if variant.kernel in home)
    types = pointers(DTYPES[variant.dtype], variant.form == "heads")
    for parameter in kernel.params:
        fixed = parameter.is_constexpr or parameter.do_not_specialize or parameter.name in types
        assert fixed, f"{parameter.name} would be compiled in where it is 1 or 16"
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in options else types.get(name, "i32")
        if name in types:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, options, attributes)
    compiled = triton.compile(source, target=target, options=launch)
    return Result(
        **asdict(variant),
        warps=launch["num_warps"],
        shared_bytes=compiled.metadata.shared,
        **usage(compiled.asm),
    )


def constants(variant: Variant) -> dict[str, dict[str, Any]]:
    """What the launcher compiles in, for each kernel."""
    dtype, amd = getattr(torch, variant.dtype), TARGETS[variant.target].backend == "hip"
    if variant.form == "depthwise":
        found = depthwise.variants(dtype, variant.channels, math.isqrt(variant.taps), amd=amd)
        return found | {"forward": found["forward"] | {"TURNED": False, "BIASED": True}}
    return deform.variants(
        dtype, variant.channels, variant.taps, variant.border, merged=variant.form == "heads",
        amd=amd,
    )  # fmt: skip


def pointers(features: str, merged: bool) -> dict[str, str]:
    """Types of the tensors by the names of the kernels' arguments."""
    taps = features if merged else "*fp32"
    same = ("values", "x", "grad", "out", "grad_values", "values_tangent")
    types = dict.fromkeys(same, features)
    floats = "prior_scale reach grad_weights grad_prior sums weight bias".split()
    floats += ["taps_tangent", "weights_tangent"]
    types |= dict.fromkeys(floats, "*fp32") | dict.fromkeys(("boxes", "spans", "windows"), "*i32")
    return types | {"taps": taps, "weights": taps, "grad_taps": taps}


def usage(assembly: dict[str, Any]) -> dict[str, float]:
    """What a compiled kernel's assembly shows."""
    if "amdgcn" in assembly:
        text = assembly["amdgcn"]
        loads = re.findall(r"(?:global|buffer)_load_(?!lds)(\w+)", text)
        wide = sum(load.endswith("dwordx4") for load in loads)
        registers, spills = (
            int(re.search(rf"\.{name}:\s+(\d+)", text)[1])
            for name in ("vgpr_count", "vgpr_spill_count")
        )
        code = re.findall(r"^\t([a-z]+_\w+)", text, re.MULTILINE)
        counted = {
            "registers": registers,
            "spills": spills,
            "instructions": len(code),
            "loop": 0,
            "barriers": code.count("s_barrier"),
        }
        stores, turns = sum(name.startswith("ds_write") for name in code), 0.0
    else:
        loads = re.findall(r"ld\.global\S*", assembly["ptx"])
        wide = sum(load.endswith((".v4.b32", ".v4.f32", ".v2.b64")) for load in loads)
        counted = assembly_counts.count(assembly["cubin"])._asdict()
        stores, turns = assembly_counts.shared_stores(assembly["ptx"])
    return counted | {
        "wide_loads": wide,
        "loads": len(loads),
        "shared_stores": stores,
        "wavefronts": round(turns, 2),
    }


def variants(options: argparse.Namespace) -> Iterator[Variant]:
    """All that were asked for and that there are."""
    axes = (options.targets, KERNELS, options.dtypes, options.channels, options.taps)
    for target, kernel, *common, taps, border, name in product(
        *axes, options.borders, options.forms
    ):
        form = FORMS[name]
        if kernel in form.kernels and taps in form.taps and border in form.borders:
            yield Variant(target, kernel, *common, taps, border, name)


def main() -> None:
    """Compile, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--channels", nargs="+", type=int, default=[3, 64, 72])
    add("--taps", nargs="+", type=int, default=[9, 25, 49, 81])
    add("--borders", nargs="+", choices=BORDERS, default=["zeros"])
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add("--append", action="store_true", help="keep the table's other revisions and versions")
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
    path = harness.RESULTS / "compiled.csv"
    found = [asdict(row) | notes for row in rows]
    if options.append:
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if any(row[k] != notes[k] for k in notes)]
        found = kept + found
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*Result.__dataclass_fields__, *notes], lineterminator="\n")
        table.writeheader()
        table.writerows(found)
    for form, kernel, target in product(options.forms, KERNELS, options.targets):
        ours = [row for row in rows if (row.form, row.kernel, row.target) == (form, kernel, target)]
        if ours:
            spilled = sum(row.spills > 0 for row in ours)
            most = max(row.registers for row in ours)
            print(f"{form:10}{kernel:16}{target:8}{len(ours)} variants, ", end="")
            print(f"at most {most} registers, {spilled} with spills")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
