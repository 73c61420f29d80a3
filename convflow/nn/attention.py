"""Attention among all positions of a map (Vaswani et al. 2017, eq. 1)."""

from __future__ import annotations

from contextlib import nullcontext

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from convflow.nn.linear import Linear
from convflow.nn.norm import RMSNorm
from convflow.nn.positions import rotate
from convflow.ops.inputs import is_transformed
from convflow.types import InputError


class Attention(nn.Module):
    """Every position gathers from all others: `softmax(q k^T / sqrt(D / heads)) v`, per head.

    It runs through torch's `scaled_dot_product_attention`, which never stores the scores
    but in forward-mode derivatives.

    Args:
        width: feature channels D, a multiple of `num_heads`.
        num_heads: heads, each on D / heads channels.
        qk_norm: norm queries and keys per head before their product (Dehghani et al. 2023,
            section 2), with a root mean square norm; scores then stay bounded while training.
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % num_heads:
            raise InputError(
                f"expected a width that num_heads divides, got width {width} "
                f"and num_heads {num_heads}; change one of them"
            )
        self.num_heads = num_heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.norm_q = RMSNorm(width // num_heads) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(width // num_heads) if qk_norm else nn.Identity()
        for layer in (self.qkv, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: Float[Tensor, "B *N D"], rotation: Float[Tensor, "2 *N P"] | None = None
    ) -> Float[Tensor, "B *N D"]:
        """Return the gathered features.

        Args:
            x: features on a map, channels last; of a video all frames are one map.
            rotation: `rotary_positions` of the map for D / heads channels, or None.
        """
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).flatten(1, -4)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D / heads)
        q, k = self.norm_q(q), self.norm_k(k)
        if rotation is not None:
            turn = rotation.flatten(1, -2)
            q, k = rotate(q, turn), rotate(k, turn)
        return self.out(self.gather(q, k, v).transpose(1, 2).reshape(x.shape))

    def gather(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return what each head's queries gather; all are (B, heads, N, D / heads)."""
        # The fused products have no forward derivative.
        plain = sdpa_kernel(SDPBackend.MATH) if is_transformed(q, k, v) else nullcontext()
        with plain:
            return nn.functional.scaled_dot_product_attention(q, k, v)


class TemporalAttention(Attention):
    """Every position gathers from its own place in all frames; nothing at first.

    Beside attention within each frame this is the factorised dot-product attention of Arnab et al.
    2021 (arXiv 2103.15691), section 3.3, here with weights of its own.
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__(width, num_heads, qk_norm)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, x: Float[Tensor, "B F H W D"], rotation: Float[Tensor, "2 F P"] | None = None
    ) -> Float[Tensor, "B F H W D"]:
        """Return the gathered features; `rotation` is that of `rotary_frames`, or None."""
        places = x.permute(0, 2, 3, 1, 4)
        gathered = super().forward(places.flatten(0, 2), rotation)
        return gathered.view(places.shape).permute(0, 3, 1, 2, 4)
