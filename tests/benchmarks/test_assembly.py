"""Bank conflicts and loops are counted as one would by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from benchmarks.ops.assembly import LANES, shared_stores, wavefronts

PTX = """
	mov.u32 %r1, %tid.x;
	mov.b32 %r2, global_smem;
	and.b32 %r3, %r1, 15;
	shl.b32 %r4, %r3, 8;
	add.s32 %r5, %r4, %r2;
	st.shared.b32 [ %r5 + 0 ], %r9;
	shl.b32 %r6, %r1, 4;
	setp.lt.s32 %p1, %r1, 0;
	selp.b32 %r7, %r5, %r6, %p1;
	st.shared.v4.b32 [ %r7 + 512 ], {%r9, %r9, %r9, %r9};
	ld.global.b32 %r8, [%rd1];
	st.shared.b32 [ %r8 ], %r9;
"""


@pytest.mark.parametrize(
    ("addresses", "size", "turns"),
    [
        (LANES * 4, 4, 1),
        (LANES * 0, 4, 1),
        (LANES * 8, 4, 2),
        (LANES * 128, 4, 32),
        (LANES * 8, 8, 2),
        (LANES * 16, 16, 4),
        (LANES * 128, 16, 32),
    ],
)
def test_turns_of_the_banks(addresses, size: int, turns: int) -> None:
    assert wavefronts(addresses, size) == turns


def test_stores_whose_addresses_are_known_count() -> None:
    """16 turns where one would do, then 4 where 4 are needed; the third address was loaded."""
    assert shared_stores(PTX) == (3, 20 / 5)
