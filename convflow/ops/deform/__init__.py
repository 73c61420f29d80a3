"""Deformable sampling: weighted bilinear taps at offsets that the network predicts."""

from convflow.ops.deform.op import deform_sample

__all__ = ["deform_sample"]
