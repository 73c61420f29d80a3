"""Tensor operators, each with a plain twin that tells the truth."""

from convflow.ops.deform import deform_sample

__all__ = ["deform_sample"]
