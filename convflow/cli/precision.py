"""What the commands say of bfloat16 where nothing was chosen."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger("convflow")


LONG_SECONDS = 20.0
"""A command that took less has little to gain."""


def advise(device: torch.device, given: str | None, seconds: float) -> None:
    """Log once how much faster bfloat16 multiplies on a CPU that has it, if nothing was given.

    Args:
        device: where the network runs.
        given: the option `--precision`, or None.
        seconds: that the command took.
    """
    from convflow.bench.floor import least_seconds
    from convflow.bench.utilisation import product
    from convflow.distributed import has_fast_bfloat16

    if given is not None or device.type != "cpu" or seconds < LONG_SECONDS:
        return
    if not has_fast_bfloat16(device):
        return
    full, half = (least_seconds(product(device, d)) for d in (torch.float32, torch.bfloat16))
    log.info(
        "float32 gives the same images on every machine; bfloat16 multiplies %.1f times as fast "
        "here and changes the images slightly: --precision auto",
        full / half,
    )
