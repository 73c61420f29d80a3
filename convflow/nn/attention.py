"""Attention among all positions of a map, and from them to a text (Vaswani et al. 2017, eq. 1).

Queries of features, keys and values of a text: Rombach et al. 2022, section 3.3.
"""

from __future__ import annotations

from contextlib import nullcontext

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from convflow.nn.linear import Linear
from convflow.nn.norm import Condition, RMSNorm, WithText
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
        return self.out(gather(q, k, v).transpose(1, 2).reshape(x.shape))


def gather(
    q: Float[Tensor, "B heads N E"],
    k: Float[Tensor, "B heads L E"],
    v: Float[Tensor, "B heads L E"],
    mask: Bool[Tensor, "B 1 1 L"] | None = None,
) -> Float[Tensor, "B heads N E"]:
    """Return what each head's queries gather from the keys that `mask` names; None for all."""
    # The fused products have no forward derivative.
    plain = sdpa_kernel(SDPBackend.MATH) if is_transformed(q, k, v) else nullcontext()
    with plain:
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class CrossAttention(nn.Module):
    """Every position gathers from the tokens of its text; what it gathers is nothing at first.

    A head has 64 channels, and there is one head for each 128 channels of the features: half of
    what full attention would take. Queries and keys are normed.

    Args:
        width: feature channels D.
        tokens: channels E of a token.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        each = min(64, width)
        self.num_heads = max(1, width // 128)
        inner = self.num_heads * each
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.q, self.kv = Linear(width, inner), Linear(tokens, 2 * inner)
        self.out = Linear(inner, width)
        self.norm_q, self.norm_k = RMSNorm(each), RMSNorm(each)
        for layer in (self.q, self.kv):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "B *N D"], c: Condition) -> Float[Tensor, "B *N D"]:
        """Return what is added to the features.

        Raises:
            InputError: conditions without tokens.
        """
        if not isinstance(c, WithText):
            raise InputError("expected a condition with the tokens of a text, got one without")
        q = self.norm_q(self._heads(self.q(self.norm(x)).flatten(1, -2)))
        k, v = map(self._heads, self.kv(c.tokens).chunk(2, -1))
        # A text without tokens would leave nothing to divide by: its padding stands for it.
        seen = c.mask | ~c.mask.any(1, keepdim=True)
        found = gather(q, self.norm_k(k), v, seen[:, None, None])
        return self.out(found.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:-1]))

    def _heads(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B heads N E"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


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
