"""Tensor operators, each with a plain twin that tells the truth."""

from convflow.ops.deform import deform_sample
from convflow.ops.depthwise import depthwise_conv

__all__ = ["deform_sample", "depthwise_conv"]
