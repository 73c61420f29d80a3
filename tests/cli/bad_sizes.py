"""The table of bad sizes: none, of nothing, of no pair, absurd, or beyond memory."""

from __future__ import annotations

from tests.cli.bad_input import DETECTOR, EVALUATE, PICTURES, SAMPLE, TRAIN

SHAPES = f"evaluate shapes --save-statistics P/real.npz --num 8 --detector {DETECTOR}"
COMMANDS = {
    "sample": SAMPLE,
    "evaluate a model": EVALUATE,
    "evaluate images": PICTURES,
    "evaluate drawn images": SHAPES,
    "info of a run": "info P/run",
    "info of a size": "info dit-s/8",
}
NO_PAIR = ("32x", "x32", "axb", "8x8x8x8", "8.5x8", "-8x8", "8x-8", "-8", "")

FREE_MEMORY = 2**33
"""Bytes of a machine on which all that fits is small."""

# As in the table of bad input: what is wrong, the words, part of the message.
CASES = [
    *(
        (f"{name} at {text!r}", f"{words} --size={text}", f"such as 48x32, got {text!r}")
        for name, words in COMMANDS.items()
        for text in NO_PAIR
    ),
    *(
        (f"{name} at a negative word", f"{words} --size -8x8", "such as 48x32, got '-8x8'")
        for name, words in COMMANDS.items()
    ),
    ("drawings as videos", f"{SHAPES} --size 8x8x8", "such as 48x32 for the images of shapes, got"),
    (
        "videos as drawings",
        f"{SHAPES.replace('shapes', 'moving')} --size 8x8",
        "such as 16x48x32 for the videos of moving, got 8x8",
    ),
    ("one bad size of two", f"{SAMPLE} --size 8x8,0x8", "at least 1 pixel, got 0x8; the smallest"),
    ("one of no pair of two", f"{SAMPLE} --size 8x8,8x", "such as 48x32, got '8x'"),
    ("sample at no height", f"{SAMPLE} --size 0x8", "the smallest that works is 2x2"),
    ("evaluate at no width", f"{EVALUATE} --size 8x0", "the smallest that works is 2x2"),
    ("images of no height", f"{PICTURES} --size 0x8", "width of 1 to 65536 pixels, got 0x8"),
    ("drawings of no width", f"{SHAPES} --size 8x0", "width of 1 to 65536 pixels, got 8x0"),
    ("info of no height", "info P/run --size 0x8", "got 0x8; the nearest that works is 2x8"),
    *(
        (f"{name} at an absurd size", f"{words} --size 8x70000", "65536")
        for name, words in COMMANDS.items()
    ),
    *(
        (
            f"{name} beyond memory",
            f"{words} --size 40000x30000",
            f"free memory, got batches of {batch} at 40000x30000 that need",
        )
        for name, words, batch in (
            ("sample", SAMPLE, 2),
            ("the second of two sizes", f"{SAMPLE} --size 8x8,40000x30000", 2),
            ("evaluate a model", EVALUATE, 2),
            ("evaluate images", PICTURES, 22),
            ("evaluate drawn images", SHAPES, 8),
        )
    ),
    # training
    *(
        (f"train at {text!r}", f"{TRAIN} --data.size {text}", "expected two numbers such as 64x48")
        for text in ("32x", "x32", "axb", "8.5x8", "8x8,", "x")
    ),
    (
        "train at a negative size",
        f"{TRAIN} --data.size -8x8",
        "expected a whole number of at least 1, got '-8x8'",
    ),
    (
        "train at no width",
        f"{TRAIN} --data.size 8x0",
        "expected a whole number of at least 1, got '8x0'",
    ),
    ("train off the patch", f"{TRAIN} --data.size 8x10", "got 8x10; the nearest that works is 8x8"),
    ("train at an absurd size", f"{TRAIN} --data.size 8x70000", "at most 65536, got 8x70000"),
    (
        "train beyond memory",
        f"{TRAIN} --data.size 40000x30000",
        "at 40000x30000 that need about",
    ),
    *(
        (f"train at sizes {text!r}", f"{TRAIN} --data.sizes {text}", message)
        for text, message in (
            ("8x8,32x", "sizes such as 32x32,64x32"),
            ("8x8,axb", "sizes such as 32x32,64x32"),
            ("8x8,8", "sizes such as 32x32,64x32"),
            ("8x8,0x8", "expected a whole number of at least 1"),
            ("8x8,8x10", "got 8x10; the nearest that works is 8x8"),
            ("8x8,8x70000", "at most 65536, got 8x70000"),
            ("8x8,40000x30000", "at 40000x30000 that need about"),
        )
    ),
]
