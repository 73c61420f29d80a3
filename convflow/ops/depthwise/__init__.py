"""Depthwise convolution on features with channels last."""

from convflow.ops.depthwise.op import depthwise_conv

__all__ = ["depthwise_conv"]
