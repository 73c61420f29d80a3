"""ImageNet (Russakovsky et al. 2015) in latents: 1.28 M images, 1000 classes, as published.

Lengths, optimizers and samplers are those of the papers; where one was not found, a comment says so
and what stands there instead. The networks are ours: they leave out what is not used, and FlowDCN
samples zeros beyond the border. Scores to reach are in `TARGETS`, all of them the papers' own.
"""

from dataclasses import replace

import numpy as np

from convflow.bundle.config import SamplingConfig
from convflow.bundle.released import DDPM_250, FLOWDCN_SDE, SIT_SDE
from convflow.codecs import LatentCodec
from convflow.data.buckets import bucket_sizes
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.recipes import TargetScores
from convflow.samplers.solvers import create_solver
from convflow.training.config import DataConfig, EMAConfig, TrainConfig
from convflow.training.optimizers import AdamW

DFM = MultiscaleFlow(factors=(2,))
"""DFM's: a flow for half the resolution, one for the rest."""

DFM_ODE = SamplingConfig(
    create_solver("euler", steps=40, stage_steps=(30, 10), thresholds=(0.7,)),
    1.0,
    label_policy="random",
)
"""DFM's at 512: 30 + 10 steps, guidance on all channels."""


def _recipe(model: str, steps: int, sampling: SamplingConfig, guidance: float) -> TrainConfig:
    """Return what all have in common: AdamW at 1e-4, batches of 256, EMA 0.9999, no clipping."""
    ddpm = sampling.solver.kind == "ddpm"
    return TrainConfig(
        model={"name": model} if ddpm else {"name": model, "time_scale": 1.0},
        data=DataConfig(path="hf:ILSVRC/imagenet-1k", size=(256, 256), channels=3, flip=True),
        codec=LatentCodec(),
        process=DDPM() if ddpm else FlowMatching(),
        optim=AdamW(lr=1e-4, betas=(0.9, 0.999), clip=None),
        ema=EMAConfig(decay=0.9999, warmup=0.0),
        sampling=replace(sampling, guidance=guidance),
        images=steps * 256,
        batch_size=256,
        label_dropout=0.1,
        precision="float32",
    )


def _at_512(recipe: TrainConfig, steps: int) -> TrainConfig:
    data = replace(recipe.data, size=(512, 512))
    return replace(recipe, data=data, images=steps * recipe.batch_size)


def flowdcn_s() -> TrainConfig:
    """FlowDCN-S/2 at 256, 400K steps; FID 54.6 without guidance (paper, not reproduced here)."""
    return _recipe("flowdcn-s/2", 400_000, FLOWDCN_SDE, 1.0)


def flowdcn_b() -> TrainConfig:
    """FlowDCN-B/2 at 256, 400K steps; FID 28.5 without guidance (paper, not reproduced here)."""
    return _recipe("flowdcn-b/2", 400_000, FLOWDCN_SDE, 1.0)


def flowdcn_b_var() -> TrainConfig:
    """FlowDCN-B, ten ratios, 400K steps; FID 23.6 without guidance (paper, not reproduced here)."""
    recipe = flowdcn_b()
    sizes = bucket_sizes(256 * 256, np.linspace(0.5, 3, 10).tolist(), 16)
    data = replace(recipe.data, sizes=sizes, crop="random", flip=False)
    return replace(recipe, data=data, process=FlowMatching(times="logit-normal"))


def flowdcn_l() -> TrainConfig:
    """FlowDCN-L/2 at 256, 400K steps; FID 13.8 without guidance (paper, not reproduced here)."""
    return _recipe("flowdcn-l/2", 400_000, FLOWDCN_SDE, 1.0)


def flowdcn_xl() -> TrainConfig:
    """FlowDCN-XL/2 at 256, 2M steps; FID 2.00 with guidance 1.375 (paper, not reproduced here)."""
    return _recipe("flowdcn-xl/2", 2_000_000, FLOWDCN_SDE, 1.375)


def dico_s() -> TrainConfig:
    """DiCo-S at 256, 400K steps; FID 49.97 without guidance (paper, not reproduced here)."""
    return _recipe("dico-s", 400_000, DDPM_250, 1.0)


def dico_b() -> TrainConfig:
    """DiCo-B at 256, 400K steps; FID 27.20 without guidance (paper, not reproduced here)."""
    return _recipe("dico-b", 400_000, DDPM_250, 1.0)


def dico_l() -> TrainConfig:
    """DiCo-L at 256, 400K steps; FID 13.66 without guidance (paper, not reproduced here)."""
    return _recipe("dico-l", 400_000, DDPM_250, 1.0)


def dico_xl() -> TrainConfig:
    """DiCo-XL at 256, 3.75M steps; FID 2.05 with guidance 1.4 (paper, not reproduced here)."""
    return _recipe("dico-xl", 3_750_000, DDPM_250, 1.4)


def dico_h() -> TrainConfig:
    """DiCo-H at 256, 1M steps of 1024; FID 1.90 with guidance (paper, not reproduced here).

    The scale of the guidance was not found.
    """
    recipe = _recipe("dico-h", 1_000_000, DDPM_250, 1.4)  # the scale is DiCo-XL's
    optim = AdamW(2e-4, betas=(0.99, 0.99), warmup_images=5_000 * 1024, clip=None)
    return replace(recipe, optim=optim, batch_size=1024, images=1_000_000 * 1024)


def dico_xl_512() -> TrainConfig:
    """DiCo-XL at 512, 3M steps; FID 2.53 with guidance (paper, not reproduced here).

    The scale of the guidance was not found.
    """
    return _at_512(dico_xl(), 3_000_000)  # the scale is that at 256


def dit_s() -> TrainConfig:
    """DiT-S/2 at 256, 400K steps; FID 68.40 without guidance (paper, not reproduced here)."""
    return _recipe("dit-s/2", 400_000, DDPM_250, 1.0)


def dit_b() -> TrainConfig:
    """DiT-B/2 at 256, 400K steps; FID 43.47 without guidance (paper, not reproduced here)."""
    return _recipe("dit-b/2", 400_000, DDPM_250, 1.0)


def dit_l() -> TrainConfig:
    """DiT-L/2 at 256, 400K steps; FID 23.33 without guidance (paper, not reproduced here)."""
    return _recipe("dit-l/2", 400_000, DDPM_250, 1.0)


def dit_xl() -> TrainConfig:
    """DiT-XL/2 at 256, 7M steps; FID 2.27 with guidance 1.5 (paper, not reproduced here)."""
    return _recipe("dit-xl/2", 7_000_000, DDPM_250, 1.5)


def dit_xl_512() -> TrainConfig:
    """DiT-XL/2 at 512, 3M steps; FID 3.04 with guidance 1.5 (paper, not reproduced here)."""
    return _at_512(dit_xl(), 3_000_000)


def sit_s() -> TrainConfig:
    """SiT-S/2 at 256, 400K steps; FID 57.6 without guidance (paper, not reproduced here)."""
    return _recipe("sit-s/2", 400_000, SIT_SDE, 1.0)


def sit_b() -> TrainConfig:
    """SiT-B/2 at 256, 400K steps; FID 33.0 without guidance (paper, not reproduced here)."""
    return _recipe("sit-b/2", 400_000, SIT_SDE, 1.0)


def sit_l() -> TrainConfig:
    """SiT-L/2 at 256, 400K steps; FID 18.8 without guidance (paper, not reproduced here)."""
    return _recipe("sit-l/2", 400_000, SIT_SDE, 1.0)


def sit_xl() -> TrainConfig:
    """SiT-XL/2 at 256, 7M steps; FID 2.06 with guidance 1.5 (paper, not reproduced here)."""
    return _recipe("sit-xl/2", 7_000_000, SIT_SDE, 1.5)


def sit_xl_512() -> TrainConfig:
    """SiT-XL/2 at 512, 3M steps; FID 2.62 with guidance 1.5 (paper, not reproduced here)."""
    return _at_512(sit_xl(), 3_000_000)  # the length was not found, this is DiT's


def fcdm_s() -> TrainConfig:
    """FCDM-S at 256, 400K steps; no score found; length and sampler of dico_s."""
    return replace(_recipe("fcdm-s", 400_000, DDPM_250, 1.0), precision="bfloat16")


def fcdm_b() -> TrainConfig:
    """FCDM-B at 256, 400K steps; no score found; length and sampler of dico_b."""
    return replace(_recipe("fcdm-b", 400_000, DDPM_250, 1.0), precision="bfloat16")


def fcdm_l() -> TrainConfig:
    """FCDM-L at 256, 400K steps; no score found; length and sampler of dico_l."""
    return replace(_recipe("fcdm-l", 400_000, DDPM_250, 1.0), precision="bfloat16")


def fcdm_xl() -> TrainConfig:
    """FCDM-XL at 256, 1M steps; FID about 2.03 with guidance (paper, not reproduced here).

    The scale of the guidance was not found.
    """
    # 7 times fewer steps than DiT-XL, as is said of it; the sampler is DiCo-XL's.
    return replace(_recipe("fcdm-xl", 1_000_000, DDPM_250, 1.4), precision="bfloat16")


def dfm_dit_xl_512() -> TrainConfig:
    """DFM, DiT-XL/2 at 512, 500K steps; FID 4.28 with guidance 1.5 (paper, not reproduced here).

    Two things of the paper are missing. Its latents are FLUX's, fine-tuned for scales, where these
    are sd-vae-ft-ema's. And it preconditions the input and the output of each scale as EDM does
    (appendix A.1), where nothing is preconditioned here. So its scores are not quite comparable.
    """
    # The network is SiT's, which is DiT's with flow times.
    recipe = _recipe("sit-xl/2", 500_000, DFM_ODE, 1.5)
    optim = AdamW(1e-4, betas=(0.9, 0.99), weight_decay=0.01, warmup_images=10_000 * 256, clip=1.0)
    model = {"name": "sit-xl/2", "stage_embedding": True, "positions": "rotary", "time_scale": 1.0}
    return replace(_at_512(recipe, 500_000), model=model, process=DFM, optim=optim)


def dfm_sit_xl_512() -> TrainConfig:
    """DFM, SiT-XL/2 at 512, 400K steps; FID 18.74 without guidance (paper, not reproduced here)."""
    solver = create_solver("euler", steps=50, stage_steps=(40, 10), thresholds=(0.9,))
    recipe = _recipe("sit-xl/2", 400_000, SamplingConfig(solver, label_policy="random"), 1.0)
    process, optim = replace(DFM, earlier_location=2.0), AdamW(lr=1e-4, clip=1.0)
    recipe = replace(recipe, process=process, optim=optim, precision="bfloat16")
    return _at_512(recipe, 400_000)


_FLOWDCN = "Wang et al. 2024 (FlowDCN, arXiv 2410.22655), released results"
_DICO = "Ai et al. 2025 (DiCo, arXiv 2505.11196), tables 1, 2 and 8"
_DIT = "Peebles and Xie 2023 (DiT), tables"
_SIT = "Ma et al. 2024 (SiT), tables"
_FCDM = "FCDM (CVPR 2026), as later quoted"
_DFM = (
    "Haji-Ali et al. 2025 (DFM, arXiv 2506.19839), table 3, in FLUX's latents and with scales "
    "preconditioned as EDM does, which this recipe lacks"
)
_ELIT = "the README of DFM's authors' code (snap-research/elit), whose recall and precision differ"

# fmt: off
TARGETS: dict[str, TargetScores] = {  # FID, sFID, IS, precision, recall, guided, samples, citation
    "flowdcn_s":   TargetScores(54.6,  8.8,   26.4,   None, None, False, 50_000, _FLOWDCN),
    "flowdcn_b":   TargetScores(28.5,  6.09,  51.0,   None, None, False, 50_000, _FLOWDCN),
    "flowdcn_b_var": TargetScores(23.6, 7.72, 62.8,  None, None, False, 50_000, _FLOWDCN),
    "flowdcn_l":   TargetScores(13.8,  4.69,  None,   None, None, False, 50_000, _FLOWDCN),
    "flowdcn_xl":  TargetScores(2.00,  4.37,  263.1,  0.82, 0.58, True,  50_000, _FLOWDCN),
    "dico_s":      TargetScores(49.97, 11.41, 31.38,  0.48, 0.58, False, 50_000, _DICO),
    "dico_b":      TargetScores(27.20, 7.43,  56.52,  0.60, 0.61, False, 50_000, _DICO),
    "dico_l":      TargetScores(13.66, 5.50,  91.37,  0.69, 0.61, False, 50_000, _DICO),
    "dico_xl":     TargetScores(2.05,  None,  282.17, 0.83, 0.59, True,  50_000, _DICO),
    "dico_h":      TargetScores(1.90,  None,  284.31, 0.83, 0.61, True,  50_000, _DICO),
    "dico_xl_512": TargetScores(2.53,  None,  275.74, 0.83, 0.56, True,  50_000, _DICO),
    "dit_s":       TargetScores(68.40, None,  None,   None, None, False, 50_000, _DIT),
    "dit_b":       TargetScores(43.47, None,  None,   None, None, False, 50_000, _DIT),
    "dit_l":       TargetScores(23.33, None,  None,   None, None, False, 50_000, _DIT),
    "dit_xl":      TargetScores(2.27,  4.60,  278.24, 0.83, 0.57, True,  50_000, _DIT),
    "dit_xl_512":  TargetScores(3.04,  5.02,  240.82, 0.84, 0.54, True,  50_000, _DIT),
    "sit_s":       TargetScores(57.6,  None,  None,   None, None, False, 50_000, _SIT),
    "sit_b":       TargetScores(33.0,  None,  None,   None, None, False, 50_000, _SIT),
    "sit_l":       TargetScores(18.8,  None,  None,   None, None, False, 50_000, _SIT),
    "sit_xl":      TargetScores(2.06,  4.49,  277.50, 0.83, 0.59, True,  50_000, _SIT),
    "sit_xl_512":  TargetScores(2.62,  4.18,  252.21, 0.84, 0.57, True,  50_000, _SIT),
    "fcdm_s":      TargetScores(None,  None,  None,   None, None, False, None,   _FCDM),
    "fcdm_b":      TargetScores(None,  None,  None,   None, None, False, None,   _FCDM),
    "fcdm_l":      TargetScores(None,  None,  None,   None, None, False, None,   _FCDM),
    "dfm_dit_xl_512": TargetScores(4.28, None, 196.8, None, None, True, 50_000, _DFM),
    "dfm_sit_xl_512": TargetScores(18.74, None, 80.16, None, None, False, 50_000, _ELIT),
    "fcdm_xl":     TargetScores(2.03,  None,  None,   None, None, True,  None,   _FCDM),
}
"""The papers' scores by recipe; None = not found. DiT's at 400K steps are with sd-vae-ft-mse."""
# fmt: on
