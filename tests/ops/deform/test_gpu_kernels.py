"""The Triton kernels alone: what they compile for, and what makes them compile anew."""

from __future__ import annotations

from itertools import product

import pytest

from convflow.ops import launch
from convflow.ops.deform import gpu
from tests.ops.offline import compile_all, run

pytestmark = pytest.mark.skipif(
    launch.find_triton()[0] is None, reason=f"no Triton to compile with: {launch.find_triton()[1]}"
)
TARGETS = ["sm_80", "sm_90", "gfx942"]
POINTERS = set(
    "values taps weights prior_scale reach out grad grad_taps grad_weights grad_prior boxes "
    "spans windows grad_values values_tangent taps_tangent weights_tangent".split()
)


@pytest.mark.slow
def test_compiles_for_every_target() -> None:
    """Heads in bfloat16 are the hardest form: all other loads are in them, too."""
    options = "--dtypes bfloat16 --channels 72 --taps 9 --borders truncate --forms heads".split()
    rows = compile_all("--targets", *TARGETS, *options)
    names = ["forward", "taps_gradient", "tap_boxes", "values_gradient"]
    assert [(row["target"], row["kernel"]) for row in rows] == list(product(TARGETS, names))
    for row in rows:
        if row["kernel"] != "tap_boxes":
            assert row["wide_loads"] > 0, f"{row['kernel']} reads no 16 bytes at once"
        assert row["spills"] == 0
        if row["kernel"] == "forward":
            assert row["wide_loads"] == 3 * 4, "a corner is read in small pieces"
            assert row["shared_bytes"] == 0, "lanes exchange numbers"


@pytest.mark.slow
def test_compiles_float32_and_few_channels() -> None:
    options = "--targets sm_90 --taps 25 --borders zeros --forms offsets".split()
    assert len(compile_all(*options, "--dtypes", "float32", "--channels", "3")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_compiles_every_dtype_and_channel_count(target: str) -> None:
    options = "--channels 3 64 72 --taps 9 --borders zeros --forms offsets".split()
    options += "--dtypes float32 bfloat16 float16".split()
    rows = compile_all("--targets", target, *options)
    assert len(rows) == 5 * 3 * 3
    assert not [row for row in rows if row["spills"]]


@pytest.mark.slow
def test_half_gradients_on_hopper_have_room_and_few_conflicts() -> None:
    options = "--targets sm_90 --channels 64 72 --taps 9 --borders zeros --forms offsets heads"
    rows = compile_all(*options.split(), "--dtypes", "bfloat16")
    for row in rows:
        assert row["spills"] == 0, row
        if row["kernel"] == "values_gradient":
            assert row["wavefronts"] == 1, "banks of shared memory are asked twice"
            assert row["registers"] <= 168, "only two programs fit on a multiprocessor"
        if row["kernel"] == "taps_gradient":
            assert row["barriers"] <= 8, "threads wait for each other at every tap"
            assert row["registers"] <= 128, "only one program fits on a multiprocessor"


def test_no_size_is_compiled_in() -> None:
    code = (
        "from convflow.ops.deform import gpu_kernels as k, gpu_gradient_kernels as g\n"
        "for kernel in (k.forward, k.tangent, g.taps_gradient, g.tap_boxes, g.values_gradient):\n"
        "    print(*[p.name for p in kernel.params if not p.is_constexpr "
        "and not p.do_not_specialize])"
    )
    for line in run("-c", code).splitlines():
        assert set(line.split()) <= POINTERS, "an argument would be compiled in where it is 1 or 16"


def test_variants_differ_by_kind_only() -> None:
    import torch

    options = gpu.variants(torch.bfloat16, 72, 9, "zeros")
    assert options["forward"]["VECTOR"] == 8
    assert options["taps_gradient"]["BLOCK"] == 32
    assert options["values_gradient"]["SLICE"] == 128
    assert options["forward"]["PIECES"] == 3
    assert options["values_gradient"]["PRECISION"] == "bf16x2"
    assert gpu.variants(torch.float16, 72, 9, "zeros")["values_gradient"]["PRECISION"] == "tf32"
    amd = gpu.variants(torch.float32, 3, 25, "truncate", amd=True)
    assert amd["forward"]["VECTOR"] == 1
    assert amd["values_gradient"]["PRECISION"] == "ieee"
    sizes = {"height", "width", "groups", "num_blocks", "num_tiles", "num_slices"}
    assert not any(sizes & set(kernel) for kernel in options.values())
