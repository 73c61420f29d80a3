"""The table of docs/recipes.md, row by row from the recipes themselves."""

from __future__ import annotations

from convflow.models.backbone import Backbone
from convflow.recipes import create_config, find_target


def row(name: str, model: Backbone) -> str:
    """Return a recipe's row, given its network."""
    config, target = create_config(name), find_target(name)
    sampling = config.sampling
    parameters = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M"
    images = f"{config.images / 1e6:g} M"
    guided = "" if sampling.channels_guided is None else f" on {sampling.channels_guided} channels"
    guidance = "no guidance" if sampling.guidance == 1 else f"guidance {sampling.guidance}{guided}"
    score = "-"
    if target is not None and target.fid is not None:
        more = (("sFID", target.sfid), ("IS", target.inception_score))
        more += (("P", target.precision), ("R", target.recall))
        score = ", ".join(f"{n} {v}" for n, v in (("FID", target.fid), *more) if v is not None)
    process = {"ddpm": "DDPM", "dfm": "DFM"}.get(config.process.kind, "flow")
    solver = sampling.solver
    counts = getattr(solver, "stage_steps", ())
    stages = f" = {' + '.join(map(str, counts))}" if counts else ""
    sampler = f"{solver.kind} {solver.steps}{stages}, {guidance}"
    cells = [f"`{name}`", parameters, f"{images} by {config.batch_size}", process, sampler, score]
    return f"| {' | '.join(cells)} |"
