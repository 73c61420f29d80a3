"""Kinetics-700 (Carreira et al. 2019) in latents of videos: folders of clips, 700 classes.

Nobody ran this recipe here. What the paper leaves open is said beside it.
"""

from dataclasses import replace

from convflow.codecs import LatentCodec
from convflow.processes.multiscale import MultiscaleFlow
from convflow.recipes import imagenet
from convflow.training.config import TrainConfig

VAE = "zai-org/CogVideoX-2b/vae"
"""The autoencoder of CogVideoX, not that of the paper, which was fine-tuned for scales."""


def dfm() -> TrainConfig:
    """DFM, DiT-XL/2 on Kinetics-700 at 512, 200K steps (not run); frame-FID 6.85 (paper's).

    The paper reports frame-FID 6.85, frame-FDD 236.5 and FVD 271.7 of 10,000 samples with guidance
    1.5 (Haji-Ali et al. 2025, arXiv 2506.19839, table 3), nothing of which was reproduced here.
    Settings are those of appendix A.2; batches, optimizer and sampler are those at 512 on ImageNet.

    The number of frames and the rate were not found: 17 frames at 8 a second stand here. Nor was
    whether scales differ in frames too: here they differ in height and width. Scales are divided
    by their deviations, as the paper does for videos, and not preconditioned as EDM does.
    """
    recipe = imagenet.dfm_dit_xl_512()
    data = replace(recipe.data, path="", size=(17, 512, 512), fps=8.0)
    return replace(
        recipe,
        model=recipe.model | {"temporal": "full"},
        data=data,
        codec=LatentCodec(VAE),
        process=MultiscaleFlow(factors=(2,), standardize=True),
        images=200_000 * recipe.batch_size,
    )
