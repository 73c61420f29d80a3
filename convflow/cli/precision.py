"""What the commands say of bfloat16 where nothing was chosen."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger("convflow")


def advise(device: torch.device, given: str | None) -> None:
    """Log once how much faster bfloat16 multiplies on a CPU that has it, if nothing was given.

    Args:
        device: where the network runs.
        given: the option `--precision`, or None.
    """
    from convflow.bench.floor import least_seconds
    from convflow.bench.utilisation import product
    from convflow.distributed import has_fast_bfloat16

    if given is not None or device.type != "cpu" or not has_fast_bfloat16(device):
        return
    full, half = (least_seconds(product(device, d)) for d in (torch.float32, torch.bfloat16))
    log.info(
        "float32 gives the same images on every machine; bfloat16 multiplies %.1f times as fast "
        "here and changes the images slightly: --precision auto",
        full / half,
    )
