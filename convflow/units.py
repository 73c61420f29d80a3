"""Durations and amounts of bytes as people say them."""

from __future__ import annotations

STEPS = ((86400, "day", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
"""Seconds in a unit, the unit, and the same of the unit below it."""


def duration(seconds: float) -> str:
    """Return at most two units: "0.4 s", "45 s", "3 min 20 s", "2 h 5 min", "9 days 11 h".

    What is smaller is cut off, as clocks do. Seconds have a decimal below ten.
    """
    for large, word, small, rest in STEPS:
        whole, left = divmod(int(seconds // small), large // small)
        if whole:
            many = "s" if word == "day" and whole > 1 else ""
            return f"{whole:,} {word}{many}" + (f" {left} {rest}" if left else "")
    return f"{seconds:.1f} s" if round(seconds, 1) < 10 else f"{int(seconds)} s"


def bytes_of(count: float) -> str:
    """Return bytes in the decimal units of disks: "12 kB", "3.2 MB", "210 GB", "1.4 TB"."""
    amount, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while round(amount) >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.1f} {units[0]}" if round(amount, 1) < 10 else f"{amount:,.0f} {units[0]}"
