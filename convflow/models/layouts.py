"""How published networks name their tensors, in each layout of names, and what we call them."""

from __future__ import annotations

import re
from collections.abc import Mapping

SIGNS = {
    "flowdcn": "blocks.0.attn.qk_deformables.weight",
    "dico": "encoder_level_1.0.ca.1.weight",
    "dit": "blocks.0.attn.qkv.weight",
    "diffusers": "transformer_blocks.0.attn1.to_q.weight",
}
"""One name by which a layout of names is known: SiT's is DiT's; diffusers has its own for DiT."""

ENTRY = ("x_embedder.proj.weight", "pos_embed.proj.weight")
"""Where images enter, in all these layouts: a network that has lost its sign is found by it."""

PATCH_KEYS = {
    "x_embedder.proj.": "embed_patches.",
    "t_embedder.mlp.0.": "embed_time.hidden.",
    "t_embedder.mlp.2.": "embed_time.out.",
    "y_embedder.embedding_table.": "embed_label.",
    "final_layer.adaLN_modulation.": "project.modulation.",
    "final_layer.linear.": "project.out.",
    ".adaLN_modulation.": ".modulation.",
}
"""Pieces of names that the networks on patches share, and ours."""

FLOWDCN_KEYS = PATCH_KEYS | {
    ".attn.v.": ".mix.value.",
    ".attn.qk_deformables.": ".mix.direction.",
    ".attn.qk_scales.": ".mix.scale.",
    ".attn.qk_weights.": ".mix.weight.",
    ".attn.out.": ".mix.out.",
    ".attn.deformables_scale": ".mix.prior_scale",
    ".mlp.w1.": ".mlp.gate.",
    ".mlp.w2.": ".mlp.out.",
    ".mlp.w3.": ".mlp.up.",
}
FLOWDCN_FIXED = "attn.deformables_prior"

DIT_KEYS = PATCH_KEYS | {
    ".attn.qkv.": ".mix.qkv.",
    ".attn.proj.": ".mix.out.",
    ".mlp.fc1.": ".mlp.0.",
    ".mlp.fc2.": ".mlp.2.",
}
DIT_FIXED = "pos_embed"
COPIED = ".norm1.emb."
"""The embeddings of time and label, which diffusers stores once more in every block."""
DIFFUSERS_KEYS = {
    "pos_embed.proj.": "embed_patches.",
    f"transformer_blocks.0{COPIED}timestep_embedder.linear_1.": "embed_time.hidden.",
    f"transformer_blocks.0{COPIED}timestep_embedder.linear_2.": "embed_time.out.",
    f"transformer_blocks.0{COPIED}class_embedder.embedding_table.": "embed_label.",
    "transformer_blocks.": "blocks.",
    ".norm1.linear.": ".modulation.1.",
    ".attn1.to_q.": ".mix.qkv.",
    ".attn1.to_out.0.": ".mix.out.",
    ".ff.net.0.proj.": ".mlp.0.",
    ".ff.net.2.": ".mlp.2.",
    "proj_out_1.": "project.modulation.1.",
    "proj_out_2.": "project.out.",
}

DICO_KEYS = {
    "x_embedder.proj.": "embed.",
    **{
        f"t_embedder_{level + 1}.mlp.{layer}.": f"embed_condition.time.{level}.{ours}."
        for level in range(3)
        for layer, ours in ((0, "hidden"), (2, "out"))
    },
    "y_embedder.embedding_table_": "embed_condition.label.",
    "encoder_level_1.": "body.stages.0.",
    "encoder_level_2.": "body.stages.1.",
    "latent.": "body.stages.2.",
    "decoder_level_2.": "body.stages.3.",
    "decoder_level_1.": "body.stages.4.",
    ".conv1.": ".mix.expand.",
    ".conv2.": ".mix.depthwise.",
    ".ca.1.": ".mix.attention.score.",
    ".conv3.": ".mix.out.",
    ".conv4.": ".mlp.0.",
    ".conv5.": ".mlp.2.",
    "down1_2.body.0.": "body.down.0.conv.",
    "down2_3.body.0.": "body.down.1.conv.",
    "up3_2.body.0.": "body.up.0.conv.",
    "up2_1.body.0.": "body.up.1.conv.",
    "reduce_chan_level2.": "body.join.0.linear.",
    "reduce_chan_level1.": "body.join.1.linear.",
    "final_layer.out_proj.": "project.out.",
    "final_layer.adaLN_modulation.": "project.modulation.",
    ".adaLN_modulation.": ".modulation.",
}

KEYS = {"flowdcn": FLOWDCN_KEYS, "dico": DICO_KEYS, "dit": DIT_KEYS, "diffusers": DIFFUSERS_KEYS}
"""Pieces of the names of each layout, and ours."""

LAYOUTS = {
    "flowdcn": ("flowdcn",),
    "dico": ("dico",),
    "dit": ("dit", "diffusers"),
    "sit": ("dit", "diffusers"),
}
"""The layouts in which the weights of each family are published."""

FAMILY_OF = {"flowdcn": "flowdcn", "dico": "dico", "dit": "dit", "diffusers": "dit"}
"""The family that a layout speaks of; SiT's weights look like DiT's."""


def our_name(name: str, layout: str) -> str:
    """Return what we call a published tensor of a layout."""
    return _translate(name, KEYS[layout])


def published_name(name: str, layout: str) -> str:
    """Return what a layout calls a tensor of ours; the inverse of `our_name`."""
    return _translate(name, {ours: theirs for theirs, ours in KEYS[layout].items()})


def is_spare(name: str) -> bool:
    """Return whether a published tensor is one that we compute, or a copy of another."""
    copied = COPIED in name and not name.startswith("transformer_blocks.0.")
    return copied or name.endswith((FLOWDCN_FIXED, DIT_FIXED))


def _translate(name: str, keys: Mapping[str, str]) -> str:
    """Return a name with every piece of it that is a key replaced, in one go."""
    pieces = (re.escape(key) if key[0] == "." else rf"\b{re.escape(key)}" for key in keys)
    return re.sub("|".join(pieces), lambda found: keys[found[0]], name)
